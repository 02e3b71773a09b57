//! Internet checksums, as the NICs make them on the way out and check them on the way in.

/// IPv4's and IPv6's Ethernet types.
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Where things are in a frame that a NIC makes or checks checksums of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Where the IP header begins.
    pub l3: usize,
    /// How long it is.
    pub l3_len: usize,
    /// Whether that is IPv6.
    pub v6: bool,
    /// Whether UDP follows; else TCP.
    pub udp: bool,
}

/// What a NIC says of a frame that came in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Check {
    /// An IPv4 header.
    pub ipv4: bool,
    /// An IPv6 header.
    pub ipv6: bool,
    /// TCP, by the IP header.
    pub tcp: bool,
    /// UDP, by the IP header.
    pub udp: bool,
    /// An IPv4 header whose checksum is wrong.
    pub bad_header: bool,
    /// TCP or UDP, whole, and its checksum is right; a UDP without one counts.
    pub l4_ok: bool,
}

impl Layout {
    fn l4(&self) -> usize {
        self.l3 + self.l3_len
    }

    fn checksum_field(&self) -> usize {
        self.l4() + if self.udp { 6 } else { 16 }
    }

    /// Pseudo header and payload, up to where the IP header says that the packet ends.
    fn sum(&self, frame: &[u8]) -> Option<u16> {
        let protocol = u32::from(if self.udp { UDP } else { TCP });
        let end = if self.v6 {
            self.l3 + 40 + usize::from(word(frame, self.l3 + 4)?)
        } else {
            self.l3 + usize::from(word(frame, self.l3 + 2)?)
        };
        let payload = frame.get(self.l4()..end)?;
        let addresses = if self.v6 { self.l3 + 8..self.l3 + 40 } else { self.l3 + 12..self.l3 + 20 };
        let pseudo = add(protocol + u32::try_from(payload.len()).ok()?, frame.get(addresses)?);
        Some(fold(add(pseudo, payload)))
    }
}

/// Fills in the checksum of an IPv4 header; false if there is none.
pub fn fill_header(frame: &mut [u8], layout: Layout) -> bool {
    let Some(header) = frame.get_mut(layout.l3..layout.l4()).filter(|header| header.len() >= 20) else {
        return false;
    };
    header[10..12].fill(0);
    let sum = !fold(add(0, header));
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    true
}

/// Fills in the checksum of TCP or UDP, pseudo header included; false if the frame is not as `layout` says.
pub fn fill_l4(frame: &mut [u8], layout: Layout) -> bool {
    let field = layout.checksum_field();
    let Some(bytes) = frame.get_mut(field..field + 2) else { return false };
    bytes.fill(0);
    let Some(sum) = layout.sum(frame) else { return false };
    // A UDP checksum of zero means that there is none; its other form means zero.
    let sum = if layout.udp && sum == 0xffff { 0xffff } else { !sum };
    frame[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    true
}

/// Looks at a frame as a NIC without VLAN or tunnel knowledge does.
pub fn check(frame: &[u8]) -> Check {
    try_check(frame).unwrap_or_default()
}

fn try_check(frame: &[u8]) -> Option<Check> {
    let l3 = 14;
    let mut check = Check::default();
    let (protocol, l3_len, whole) = match frame.get(12..14)? {
        kind if *kind == IPV4 => {
            let first = *frame.get(l3)?;
            let l3_len = usize::from(first & 0xf) * 4;
            if first >> 4 != 4 || l3_len < 20 {
                return None;
            }
            check.ipv4 = true;
            check.bad_header = fold(add(0, frame.get(l3..l3 + l3_len)?)) != 0xffff;
            // More fragments, or an offset: not all of the payload is here.
            (*frame.get(l3 + 9)?, l3_len, word(frame, l3 + 6)? & 0x3fff == 0)
        }
        kind if *kind == IPV6 => {
            check.ipv6 = true;
            (*frame.get(l3 + 6)?, 40, true)
        }
        _ => return None,
    };
    check.tcp = protocol == TCP;
    check.udp = protocol == UDP;
    let layout = Layout { l3, l3_len, v6: check.ipv6, udp: check.udp };
    if whole && (check.tcp || check.udp) {
        let none = check.udp && check.ipv4 && word(frame, layout.checksum_field()) == Some(0);
        check.l4_ok = none || layout.sum(frame) == Some(0xffff);
    }
    Some(check)
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// Adds 16-bit words; an odd last byte is a word's upper half.
fn add(sum: u32, bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<2>();
    let words: u32 = words.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum();
    sum + words + rest.first().map_or(0, |byte| u32::from(*byte) << 8)
}

fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A datagram of 36 bytes, UDP header included, without checksums.
    const QUERY: [u8; 70] = {
        let mut frame = [0x5a; 70];
        let headers = [
            2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 56, 0x1c, 0x46, 0x40, 0, 64, 17, 0, 0, 192,
            168, 0, 1, 192, 168, 0, 199, 4, 210, 0, 53, 0, 36, 0, 0,
        ];
        let mut at = 0;
        while at < headers.len() {
            frame[at] = headers[at];
            at += 1;
        }
        frame
    };
    const LAYOUT: Layout = Layout { l3: 14, l3_len: 20, v6: false, udp: true };

    #[test]
    fn the_header_of_rfc_1071s_kind_is_summed() {
        // 45 00 00 73 00 00 40 00 40 11 b8 61 c0 a8 00 01 c0 a8 00 c7: the example everyone uses.
        let mut frame = vec![0; 14];
        frame.extend([
            0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7,
        ]);
        assert!(fill_header(&mut frame, LAYOUT));
        assert_eq!(frame[24..26], [0xb8, 0x61]);
    }

    #[test]
    fn what_was_filled_in_checks_out_and_what_was_broken_does_not() {
        for (udp, protocol) in [(true, UDP), (false, TCP)] {
            let mut frame = QUERY;
            let layout = Layout { udp, ..LAYOUT };
            frame[23] = protocol;
            assert!(fill_header(&mut frame, layout) && fill_l4(&mut frame, layout));
            let good = Check { ipv4: true, udp, tcp: !udp, l4_ok: true, ..Check::default() };
            assert_eq!(check(&frame), good);
            frame[69] ^= 1;
            assert_eq!(check(&frame), Check { l4_ok: false, ..good });
            // The time to live is in the header's sum alone.
            frame[22] ^= 1;
            assert_eq!(check(&frame), Check { l4_ok: false, bad_header: true, ..good });
        }
    }

    #[test]
    fn padding_does_not_count() {
        let mut frame = QUERY.to_vec();
        assert!(fill_header(&mut frame, LAYOUT) && fill_l4(&mut frame, LAYOUT));
        frame.extend([0xff; 9]);
        assert!(check(&frame).l4_ok);
    }

    #[test]
    fn a_fragment_has_no_checksum_to_check() {
        let mut frame = QUERY;
        assert!(fill_l4(&mut frame, LAYOUT));
        frame[20] = 0x20;
        assert!(fill_header(&mut frame, LAYOUT));
        assert!(!check(&frame).l4_ok);
    }

    #[test]
    fn ipv6_is_summed_with_its_own_pseudo_header() {
        let mut frame = vec![0; 12];
        frame.extend(IPV6);
        frame.extend([0x60, 0, 0, 0, 0, 12, UDP, 64]);
        frame.extend([0xfe; 32]);
        frame.extend([0, 7, 0, 7, 0, 12, 0, 0, 1, 2, 3, 4]);
        assert!(fill_l4(&mut frame, Layout { l3: 14, l3_len: 40, v6: true, udp: true }));
        let good = check(&frame);
        assert!(good.ipv6 && good.udp && good.l4_ok, "{good:?}");
        frame[14 + 39] ^= 1;
        assert!(!check(&frame).l4_ok, "addresses count");
    }

    #[test]
    fn frames_that_are_cut_anywhere_are_no_surprise() {
        for len in 0..QUERY.len() {
            let mut frame = QUERY[..len].to_vec();
            let _ = check(&frame);
            let _ = fill_header(&mut frame, LAYOUT);
            let _ = fill_l4(&mut frame, LAYOUT);
        }
    }
}
