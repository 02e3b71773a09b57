//! The Internet checksum (RFC 1071).

/// A one's complement sum that is still being added to.
///
/// It is kept in the machine's byte order, and whole words are added as they lie in memory: RFC 1071
/// sections 2 (B) and (C) show that folding them in the end gives the same bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sum(u64);

impl Sum {
    /// Adds eight bytes as they lie in memory.
    #[inline]
    pub(super) fn word(self, word: u64) -> Sum {
        let (sum, carry) = self.0.overflowing_add(word);
        // End-around carry. It cannot carry again: a sum that overflowed is at most 2^64 - 2.
        Sum(sum + u64::from(carry))
    }

    /// Adds bytes that begin at an even distance from the start of what is summed.
    #[inline]
    pub(super) fn bytes(mut self, bytes: &[u8]) -> Sum {
        let (words, mut rest) = bytes.as_chunks::<8>();
        for word in words {
            self = self.word(u64::from_ne_bytes(*word));
        }
        // Fewer than eight are left: at most one word of each size.
        if let Some((word, behind)) = rest.split_first_chunk() {
            self = self.word(u64::from(u32::from_ne_bytes(*word)));
            rest = behind;
        }
        if let Some((word, behind)) = rest.split_first_chunk() {
            self = self.word(u64::from(u16::from_ne_bytes(*word)));
            rest = behind;
        }
        if let [last] = *rest {
            // An odd byte counts as if it was followed by a zero.
            self = self.word(u64::from(u16::from_ne_bytes([last, 0])));
        }
        self
    }

    /// The sum of a few numbers that are not in memory.
    #[inline]
    pub(super) fn of<const N: usize>(numbers: [u16; N]) -> Sum {
        Sum(numbers.into_iter().map(|number| u64::from(number.to_be())).sum())
    }

    /// Adds another sum.
    pub(super) fn plus(self, other: Sum) -> Sum {
        self.word(other.0)
    }

    /// Whether it is the one that these two bytes hold, uncomplemented; both zeros are the same.
    #[inline]
    pub(super) fn is(self, bytes: [u8; 2]) -> bool {
        // All ones minus a number is its negative.
        self.word(u64::from(!u16::from_ne_bytes(bytes))).is_zero()
    }

    /// Takes away a checksum as it lies in memory, from few numbers.
    #[inline]
    pub(super) fn minus(self, checksum: u16) -> Sum {
        Sum(self.0 + 0xffff - u64::from(checksum))
    }

    /// Whether it is zero, which has two forms.
    #[inline]
    pub(super) fn is_zero(self) -> bool {
        // 2^16 is 1 modulo 65,535: no folding is needed.
        self.0.is_multiple_of(0xffff)
    }

    /// Adds bytes that begin at any distance, even or odd.
    pub(super) fn appended(self, bytes: &[u8], odd: bool) -> Sum {
        let [first, second] = Sum::default().bytes(bytes).finish();
        // RFC 1071 section 2 (B): the sum of swapped bytes is the swapped sum.
        let folded = if odd { [!second, !first] } else { [!first, !second] };
        self.word(u64::from(u16::from_ne_bytes(folded)))
    }

    /// Adds one 16 bit number that is not in memory.
    #[inline]
    pub(super) fn number(self, number: u16) -> Sum {
        self.word(u64::from(number.to_be()))
    }

    /// The checksum as it goes into a UDP header. RFC 768: one that comes out as zero is sent as its other
    /// zero.
    #[inline]
    pub(super) fn finish_udp(self) -> [u8; 2] {
        match self.finish() {
            [0, 0] => [0xff, 0xff],
            checksum => checksum,
        }
    }

    /// The checksum as it goes into a header.
    #[inline]
    pub(super) fn finish(self) -> [u8; 2] {
        // Twice the upper half is added to the lower one, with an end-around carry.
        let (sum, carry) = (self.0 as u32).overflowing_add((self.0 >> 32) as u32);
        let sum = sum + u32::from(carry);
        let (sum, carry) = (sum as u16).overflowing_add((sum >> 16) as u16);
        (!(sum + u16::from(carry))).to_ne_bytes()
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
    fn a_sum_of_parts_is_the_sum_of_the_whole() {
        let bytes: Vec<u8> = (0..50_u32).map(|i| (i * 201 + 131) as u8).collect();
        let whole = Sum::default().bytes(&bytes).finish();
        for cut in 0..bytes.len() {
            for again in cut..bytes.len() {
                let [head, middle, tail] = [&bytes[..cut], &bytes[cut..again], &bytes[again..]];
                let sum = Sum::default().bytes(head).appended(middle, cut % 2 == 1);
                assert_eq!(sum.appended(tail, again % 2 == 1).finish(), whole, "{cut} {again}");
            }
        }
    }

    #[test]
    fn carries_of_carries_are_folded() {
        let ones = vec![0xff; 65_536];
        assert_eq!(Sum::default().bytes(&ones).finish(), [0, 0]);
        assert_eq!(Sum(u64::MAX).number(1).finish(), (!1_u16).to_be_bytes());
        assert_eq!(Sum(u64::MAX - 1).number(0xffff).finish(), Sum(u64::MAX - 1).finish());
        assert_eq!(Sum::default().bytes(&ones).number(1).finish(), (!1_u16).to_be_bytes());
    }
}
