//! Addresses, networks and ranges, as they are written in a rule.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::lex::pcap_number;

/// The address of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Address {
    V4([u8; 4]),
    V6([u8; 16]),
}

impl Address {
    /// What to write.
    pub(super) const NEXT: &str =
        "an address is written as 10.0.0.1 or fd00::1; names are not looked up, and a prefix is a `net`";

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if let Some(v4) = dotted(text).filter(|octets| octets.len() == 4) {
            return Ok(Self::V4([v4[0], v4[1], v4[2], v4[3]]));
        }
        match text.parse::<Ipv6Addr>() {
            Ok(v6) => Ok(Self::V6(v6.octets())),
            Err(_) => Err(format!("expected an address, not `{text}`")),
        }
    }

    /// The prefix that holds this address only.
    pub(super) fn prefix(self) -> Prefix {
        match self {
            Self::V4(address) => Prefix::V4 { address, mask: [u8::MAX; 4] },
            Self::V6(address) => Prefix::V6 { address, mask: [u8::MAX; 16] },
        }
    }
}

/// The beginning that the addresses of a network share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prefix {
    V4 { address: [u8; 4], mask: [u8; 4] },
    V6 { address: [u8; 16], mask: [u8; 16] },
}

impl Prefix {
    /// What to write.
    pub(super) const NEXT: &str = "a network is written as 10.0.0.0/8, 10.1 or fd00::/8";

    /// `10.0.0.0/8`, `192.168.1`, `10`, `fd00::/8`; bits behind the prefix have to be 0, as for tcpdump.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if let Some(number) = pcap_number(text) {
            return Self::of_number(number).ok_or_else(|| format!("`{text}` is too large for a network"));
        }
        let (address, len) = match text.split_once('/') {
            Some((address, len)) => (address, Some(len)),
            None => (text, None),
        };
        let len_up_to = |max: u32| -> Result<Option<u32>, String> {
            let Some(len) = len else { return Ok(None) };
            match pcap_number(len) {
                Some(number) if number <= u64::from(max) => Ok(Some(number as u32)),
                Some(_) => Err(format!("the prefix `/{len}` is longer than an address: /{max} at most")),
                None => Err(format!("expected the length of a prefix, not `/{len}`")),
            }
        };
        if let Some(octets) = dotted(address).filter(|octets| octets.len() >= 2) {
            let mut bytes = [0; 4];
            bytes[..octets.len()].copy_from_slice(&octets);
            let len = len_up_to(32)?.unwrap_or(8 * octets.len() as u32);
            let mask = u32::MAX.checked_shl(32 - len).unwrap_or(0);
            let network = u32::from_be_bytes(bytes);
            if network & !mask != 0 {
                let network = Ipv4Addr::from(network & mask);
                return Err(format!("`{text}` has bits behind its prefix; {network}/{len} has not"));
            }
            return Ok(Self::V4 { address: bytes, mask: mask.to_be_bytes() });
        }
        let v6: Ipv6Addr = address.parse().map_err(|_| format!("expected a network, not `{text}`"))?;
        let len = len_up_to(128)?.unwrap_or(128);
        let mask = u128::MAX.checked_shl(128 - len).unwrap_or(0);
        let network = u128::from(v6);
        if network & !mask != 0 {
            let network = Ipv6Addr::from(network & mask);
            return Err(format!("`{text}` has bits behind its prefix; {network}/{len} has not"));
        }
        Ok(Self::V6 { address: v6.octets(), mask: mask.to_be_bytes() })
    }

    /// A number alone: its first octet that is not 0 is the first of the address, and its last one ends the prefix.
    /// So 10 is 10.0.0.0/8, and 0, which has no such octet, 0.0.0.0/32 (`gencode.c: gen_ncode`).
    fn of_number(number: u64) -> Option<Self> {
        let number = u32::try_from(number).ok()?;
        let shift = if number == 0 { 0 } else { number.leading_zeros() / 8 * 8 };
        let [address, mask] = [number << shift, u32::MAX << shift].map(u32::to_be_bytes);
        Some(Self::V4 { address, mask })
    }
}

/// One to four octets with dots between them, as pcap reads them: each a decimal number up to 255, whatever zeros
/// stand before it.
fn dotted(text: &str) -> Option<Vec<u8>> {
    let octet = |text: &str| {
        let plain = (1..=3).contains(&text.len()) && text.bytes().all(|digit| digit.is_ascii_digit());
        plain.then(|| text.parse().ok()).flatten()
    };
    let octets: Vec<u8> = text.split('.').map(octet).collect::<Option<_>>()?;
    (octets.len() <= 4).then_some(octets)
}

/// Six hexadecimal numbers with colons, dashes or dots between them, three of four digits with dots, or one of twelve.
pub(super) fn mac(text: &str) -> Option<[u8; 6]> {
    let hex = |text: &str, most: usize| {
        let plain = (1..=most).contains(&text.len()) && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        plain.then(|| u16::from_str_radix(text, 16).ok()).flatten()
    };
    let dots = text.matches('.').count();
    if dots == 2 {
        let halves: Vec<u16> =
            text.split('.').map(|half| hex(half, 4).filter(|_| half.len() == 4)).collect::<Option<_>>()?;
        let [a, b, c] = <[u16; 3]>::try_from(halves).ok()?.map(u16::to_be_bytes);
        return Some([a[0], a[1], b[0], b[1], c[0], c[1]]);
    }
    if text.len() == 12 && text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return u64::from_str_radix(text, 16).ok()?.to_be_bytes()[2..].try_into().ok();
    }
    let separator = ['-', '.'].into_iter().find(|sign| text.contains(*sign)).unwrap_or(':');
    let bytes: Vec<u8> =
        text.split(separator).map(|byte| hex(byte, 2).map(|byte| byte as u8)).collect::<Option<_>>()?;
    bytes.try_into().ok()
}

/// The prefixes that cover the ports from `from` to `to`, each as mask and value; the fewest there are.
pub(super) fn port_prefixes(from: u16, to: u16) -> Vec<(u16, u16)> {
    let mut prefixes = Vec::new();
    let mut next = u32::from(from);
    while next <= u32::from(to) {
        // As large as the beginning is round and the rest allows.
        let mut size = if next == 0 { 1 << 16 } else { 1 << next.trailing_zeros() };
        while next + size - 1 > u32::from(to) {
            size /= 2;
        }
        prefixes.push((!(size - 1) as u16, next as u16));
        next += size;
    }
    prefixes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_as_tcpdump_reads_them() {
        for (text, address, mask) in [
            ("10", [10, 0, 0, 0], [255, 0, 0, 0]),
            ("10.1", [10, 1, 0, 0], [255, 255, 0, 0]),
            ("192.168.1", [192, 168, 1, 0], [255, 255, 255, 0]),
            ("10.1.2.3", [10, 1, 2, 3], [255; 4]),
            ("10.0.0.0/8", [10, 0, 0, 0], [255, 0, 0, 0]),
            ("10.2.0/23", [10, 2, 0, 0], [255, 255, 254, 0]),
            ("0.0.0.0/0", [0; 4], [0; 4]),
            // A number alone, and a length, may be octal or hexadecimal; octets are decimal.
            ("0", [0; 4], [255; 4]),
            ("00", [0; 4], [255; 4]),
            ("0.0", [0; 4], [255, 255, 0, 0]),
            ("010", [8, 0, 0, 0], [255, 0, 0, 0]),
            ("0x0a", [10, 0, 0, 0], [255, 0, 0, 0]),
            ("256", [1, 0, 0, 0], [255, 255, 0, 0]),
            ("65536", [1, 0, 0, 0], [255, 255, 255, 0]),
            ("0x0a000001", [10, 0, 0, 1], [255; 4]),
            ("4294967295", [255; 4], [255; 4]),
            ("010.08", [10, 8, 0, 0], [255, 255, 0, 0]),
            ("10.0.0.0/010", [10, 0, 0, 0], [255, 0, 0, 0]),
            ("10.0.0.0/0x8", [10, 0, 0, 0], [255, 0, 0, 0]),
            ("10.0.0.0/032", [10, 0, 0, 0], [255, 255, 255, 192]),
        ] {
            assert_eq!(Prefix::parse(text), Ok(Prefix::V4 { address, mask }), "{text}");
        }
        let Ok(Prefix::V6 { address, mask }) = Prefix::parse("fd00::/9") else { panic!() };
        assert_eq!((address[0], mask[0], mask[1], mask[2]), (0xfd, 0xff, 0x80, 0));
        assert_eq!(Prefix::parse("fd00::/011"), Prefix::parse("fd00::/9"));
        for text in [
            "10.0.0.1/8",
            "10.0.0.0/33",
            "fd00::1/8",
            "::/129",
            "256.1",
            "4294967296",
            "08",
            "0x",
            "1.0x2",
            "1.2.3.4.5",
            "x",
            "10/8",
            "0/0",
            "10.0.0.0/",
            "10.0.0.0/08",
            "10.0.0.0/+8",
            "fd00::/08",
        ] {
            assert!(Prefix::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn mac_addresses_have_five_forms() {
        for text in [
            "02:00:00:00:0a:01",
            "2:0:0:0:a:1",
            "02-00-00-00-0A-01",
            "2.0.0.0.a.1",
            "0200.0000.0a01",
            "020000000a01",
        ] {
            assert_eq!(mac(text), Some([2, 0, 0, 0, 10, 1]), "{text}");
        }
        for text in [
            "",
            "2:0:0:0:a",
            "2:0:0:0:a:1:1",
            "2:0:0:0:a:100",
            "0200.0000.a01",
            "02000000a01",
            "2.0.0.0.a",
            "g:0:0:0:0:0",
            "1",
        ] {
            assert_eq!(mac(text), None, "{text}");
        }
    }

    #[test]
    fn prefixes_cover_their_range_and_nothing_else() {
        for (from, to) in [(0, 0), (0, 65535), (7, 9), (1, 65534), (1024, 2047), (65535, 65535), (80, 443)] {
            let prefixes = port_prefixes(from, to);
            for port in 0..=u16::MAX {
                let hits = prefixes.iter().filter(|(mask, value)| port & mask == *value).count();
                assert_eq!(hits, usize::from((from..=to).contains(&port)), "{port} of {from}-{to}");
            }
        }
        assert_eq!(port_prefixes(0, 65535), [(0, 0)]);
        assert_eq!(port_prefixes(8000, 8015), [(0xfff0, 8000)]);
    }
}
