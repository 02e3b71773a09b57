//! The Internet checksum (RFC 1071).

/// A one's complement sum that is still being added to.
///
/// The sum is kept in the machine's byte order: RFC 1071 section 2 (B) shows that folding gives the
/// same bytes either way, so whole words can be added as they lie in memory.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sum(u64);

impl Sum {
    /// Adds bytes that begin at an even distance from the start of what is summed.
    #[inline]
    pub(super) fn bytes(mut self, bytes: &[u8]) -> Sum {
        let (words, rest) = bytes.as_chunks::<4>();
        for word in words {
            self.0 += u64::from(u32::from_ne_bytes(*word));
        }
        if !rest.is_empty() {
            // An odd or short end counts as if it was followed by zeros.
            let mut last = [0; 4];
            last[..rest.len()].copy_from_slice(rest);
            self.0 += u64::from(u32::from_ne_bytes(last));
        }
        self
    }

    /// Adds one 16 bit number that is not in memory.
    #[inline]
    pub(super) fn number(mut self, number: u16) -> Sum {
        self.0 += u64::from(u16::from_ne_bytes(number.to_be_bytes()));
        self
    }

    /// The checksum as it goes into a header.
    #[inline]
    pub(super) fn finish(self) -> [u8; 2] {
        let mut sum = self.0;
        // A frame has fewer than 2^16 words of 32 bits, so the sum fits in 48 bits, and each fold
        // halves what is above the low 16: 48 -> 33 -> 18 -> 17 -> 16.
        sum = (sum & 0xffff_ffff) + (sum >> 32);
        sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        (!(sum as u16)).to_ne_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071_section_3() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::default().bytes(&bytes).finish(), (!0xddf2_u16).to_be_bytes());
    }

    #[test]
    fn every_short_length_equals_the_sum_of_16_bit_words() {
        let bytes: Vec<u8> = (0..200_u32).map(|i| (i * 89 + 200) as u8).collect();
        for len in 0..bytes.len() {
            let mut sum = 17_u32;
            for pair in bytes[..len].chunks(2) {
                sum += (u32::from(pair[0]) << 8) | u32::from(*pair.get(1).unwrap_or(&0));
            }
            while sum > 0xffff {
                sum = (sum & 0xffff) + (sum >> 16);
            }
            let ours = Sum::default().bytes(&bytes[..len]).number(17).finish();
            assert_eq!(ours, (!(sum as u16)).to_be_bytes(), "{len} bytes");
        }
    }

    #[test]
    fn carries_of_carries_are_folded() {
        let ones = vec![0xff; 65_536];
        assert_eq!(Sum::default().bytes(&ones).finish(), [0, 0]);
        assert_eq!(Sum::default().bytes(&ones).number(1).finish(), (!1_u16).to_be_bytes());
    }
}
