//! What is known of a frame: eight words, so that a rule can be a mask and a value.
//!
//! | word | bytes |
//! | --- | --- |
//! | 0 | [`field`] bits (4), EtherType (2), protocol (1), protocol behind an IPv6 fragment header (1) |
//! | 1 | destination port (2), source port (2), VLAN id of the first and the second tag (2 each) |
//! | 2 | IPv4 source and destination, also of ARP; or the first half of an IPv6 source |
//! | 3 to 5 | the rest of the IPv6 source; the IPv6 destination |
//! | 6, 7 | MAC destination and source (6 each), type field of the first and the second tag (2 each) |
//!
//! What most rules ask for lies in the first three words, so that their entries are short
//! ([`NARROW`](crate::search::NARROW)). Addresses lie as they do in the frame, numbers in host byte order.

/// Words of a [`Key`].
pub const WORDS: usize = 8;

/// VLAN tags that can be looked behind.
pub const MAX_TAGS: usize = 2;

/// What a rule may ask about a frame; as a mask, which of it.
///
/// # Invariants
///
/// What has no bit in [`Key::fields`] is 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Key {
    /// See the [module](self).
    pub words: [u64; WORDS],
}

/// The bits of [`Key::fields`]: what a frame has. A tag's fields come first as it lies in front of the others.
pub mod field {
    /// The MAC destination.
    pub const MAC_DST: u32 = 1 << 0;
    /// The MAC source.
    pub const MAC_SRC: u32 = 1 << 1;
    /// The type field that the first VLAN tag would have, tag or not: bit + 1 for the second one.
    pub const TAG_TYPE: u32 = 1 << 2;
    /// There is a first VLAN tag: its type field says so. Bit + 1 for the second one.
    pub const TAG: u32 = 1 << 4;
    /// The id that the first VLAN tag would have: bit + 1 for the second one.
    pub const TAG_ID: u32 = 1 << 6;
    /// The EtherType.
    pub const ETHER_PROTO: u32 = 1 << 8;
    /// IPv4's protocol, or the next header that IPv6's fixed header names: so this is IPv4 or IPv6.
    pub const IP_PROTO: u32 = 1 << 9;
    /// The next header that an IPv6 fragment header right behind the fixed one names.
    pub const FRAGMENT_PROTO: u32 = 1 << 10;
    /// The source port: so this is TCP, UDP or SCTP.
    pub const SRC_PORT: u32 = 1 << 11;
    /// The destination port: so this is TCP, UDP or SCTP.
    pub const DST_PORT: u32 = 1 << 12;
    /// The IPv4 source, or the sender of ARP or RARP.
    pub const SRC4: u32 = 1 << 13;
    /// The IPv4 destination, or the target of ARP or RARP.
    pub const DST4: u32 = 1 << 14;
    /// The first four bytes of the IPv6 source; three bits more for the other twelve.
    pub const SRC6: u32 = 1 << 16;
    /// The first four bytes of the IPv6 destination; three bits more for the other twelve.
    pub const DST6: u32 = 1 << 20;
    /// The frame ended where one of the fields above should have been. No rule asks for this.
    pub const TRUNCATED: u32 = 1 << 30;
    /// The IP version is not the EtherType's, or IPv4's header is shorter than itself. No rule asks for this.
    pub const MALFORMED: u32 = 1 << 31;
    /// All of an IPv6 address, as a factor of [`SRC6`] and [`DST6`].
    pub const WHOLE6: u32 = 0b1111;
}

/// One end of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// Where it comes from.
    Src,
    /// Where it goes to.
    Dst,
}

impl Key {
    /// Which of the others the frame has: bits of [`field`].
    #[inline(always)]
    #[must_use]
    pub const fn fields(&self) -> u32 {
        self.words[0] as u32
    }

    /// The EtherType.
    #[inline(always)]
    #[must_use]
    pub const fn ether_proto(&self) -> u16 {
        (self.words[0] >> 32) as u16
    }

    /// IPv4's protocol, or the next header that IPv6's fixed header names.
    #[inline(always)]
    #[must_use]
    pub const fn ip_proto(&self) -> u8 {
        (self.words[0] >> 48) as u8
    }

    /// The next header that an IPv6 fragment header names.
    #[inline(always)]
    #[must_use]
    pub const fn fragment_proto(&self) -> u8 {
        (self.words[0] >> 56) as u8
    }

    /// A port of TCP, UDP or SCTP.
    #[inline(always)]
    #[must_use]
    pub const fn port(&self, end: End) -> u16 {
        (self.words[1] >> Self::port_shift(end)) as u16
    }

    /// The id in a VLAN tag, the outermost is 0.
    #[inline(always)]
    #[must_use]
    pub const fn tag_id(&self, tag: usize) -> u16 {
        (self.words[1] >> (32 + 16 * tag)) as u16
    }

    /// The type field of a VLAN tag, the outermost is 0.
    #[inline(always)]
    #[must_use]
    pub const fn tag_type(&self, tag: usize) -> u16 {
        (self.words[7] >> (32 + 16 * tag)) as u16
    }

    /// An IPv4 address.
    #[must_use]
    pub const fn ipv4(&self, end: End) -> [u8; 4] {
        ((self.words[2] >> Self::ipv4_shift(end)) as u32).to_le_bytes()
    }

    /// An IPv6 address.
    #[must_use]
    pub const fn ipv6(&self, end: End) -> [u8; 16] {
        let first = Self::ipv6_word(end);
        let halves = self.words[first] as u128 | (self.words[first + 1] as u128) << 64;
        halves.to_le_bytes()
    }

    /// A MAC address.
    #[must_use]
    pub const fn mac(&self, end: End) -> [u8; 6] {
        let [a, b] = [self.words[6].to_le_bytes(), self.words[7].to_le_bytes()];
        match end {
            End::Dst => [a[0], a[1], a[2], a[3], a[4], a[5]],
            End::Src => [a[6], a[7], b[0], b[1], b[2], b[3]],
        }
    }

    /// With these bits of [`field`] as well.
    #[inline(always)]
    #[must_use]
    pub const fn with_fields(mut self, fields: u32) -> Self {
        self.words[0] |= fields as u64;
        self
    }

    /// With this EtherType, over none.
    #[inline(always)]
    #[must_use]
    pub const fn with_ether_proto(mut self, ether_proto: u16) -> Self {
        self.words[0] |= (ether_proto as u64) << 32;
        self
    }

    /// With this protocol, over none.
    #[inline(always)]
    #[must_use]
    pub const fn with_ip_proto(mut self, ip_proto: u8) -> Self {
        self.words[0] |= (ip_proto as u64) << 48;
        self
    }

    /// With this protocol behind a fragment header, over none.
    #[inline(always)]
    #[must_use]
    pub const fn with_fragment_proto(mut self, fragment_proto: u8) -> Self {
        self.words[0] |= (fragment_proto as u64) << 56;
        self
    }

    /// With this port, over none.
    #[inline(always)]
    #[must_use]
    pub const fn with_port(mut self, end: End, port: u16) -> Self {
        self.words[1] |= (port as u64) << Self::port_shift(end);
        self
    }

    /// With this id in a VLAN tag, over none.
    #[inline(always)]
    #[must_use]
    pub const fn with_tag_id(mut self, tag: usize, id: u16) -> Self {
        self.words[1] |= (id as u64) << (32 + 16 * tag);
        self
    }

    /// With this type field of a VLAN tag, over none.
    #[inline(always)]
    #[must_use]
    pub const fn with_tag_type(mut self, tag: usize, tag_type: u16) -> Self {
        self.words[7] |= (tag_type as u64) << (32 + 16 * tag);
        self
    }

    /// With this IPv4 address, over none.
    #[inline(always)]
    #[must_use]
    pub const fn with_ipv4(mut self, end: End, address: [u8; 4]) -> Self {
        self.words[2] |= (u32::from_le_bytes(address) as u64) << Self::ipv4_shift(end);
        self
    }

    /// With this IPv6 address, over none.
    #[inline(always)]
    #[must_use]
    pub const fn with_ipv6(mut self, end: End, address: [u8; 16]) -> Self {
        let halves = u128::from_le_bytes(address);
        let first = Self::ipv6_word(end);
        self.words[first] |= halves as u64;
        self.words[first + 1] |= (halves >> 64) as u64;
        self
    }

    /// With this MAC destination and source, over none.
    #[inline(always)]
    #[must_use]
    pub const fn with_macs(mut self, [a, b, c, d, e, f, g, h, i, j, k, l]: [u8; 12]) -> Self {
        self.words[6] |= u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        self.words[7] |= u32::from_le_bytes([i, j, k, l]) as u64;
        self
    }

    #[inline(always)]
    const fn port_shift(end: End) -> u32 {
        match end {
            End::Dst => 0,
            End::Src => 16,
        }
    }

    const fn ipv4_shift(end: End) -> u32 {
        match end {
            End::Src => 0,
            End::Dst => 32,
        }
    }

    const fn ipv6_word(end: End) -> usize {
        match end {
            End::Src => 2,
            End::Dst => 4,
        }
    }

    /// Word by word.
    #[must_use]
    pub fn zip(&self, other: &Self, f: impl Fn(u64, u64) -> u64) -> Self {
        let mut words = [0; WORDS];
        for (to, (a, b)) in words.iter_mut().zip(self.words.into_iter().zip(other.words)) {
            *to = f(a, b);
        }
        Self { words }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_comes_out_and_touches_nothing_else() {
        let key = Key::default()
            .with_fields(field::MAC_DST | (field::DST6 * field::WHOLE6))
            .with_ether_proto(0x86dd)
            .with_ip_proto(17)
            .with_fragment_proto(6)
            .with_port(End::Src, 0x1234)
            .with_port(End::Dst, 53)
            .with_tag_id(0, 5)
            .with_tag_id(1, 4095)
            .with_tag_type(0, 0x88a8)
            .with_tag_type(1, 0x8100)
            .with_ipv6(End::Src, [1; 16])
            .with_ipv6(End::Dst, *b"0123456789abcdef")
            .with_macs(*b"destinsource");
        assert_eq!(key.fields(), 0x00f0_0001);
        assert_eq!((key.ether_proto(), key.ip_proto(), key.fragment_proto()), (0x86dd, 17, 6));
        assert_eq!((key.port(End::Src), key.port(End::Dst)), (0x1234, 53));
        assert_eq!((key.tag_id(0), key.tag_id(1)), (5, 4095));
        assert_eq!((key.tag_type(0), key.tag_type(1)), (0x88a8, 0x8100));
        assert_eq!((key.ipv6(End::Src), &key.ipv6(End::Dst)), ([1; 16], b"0123456789abcdef"));
        assert_eq!((&key.mac(End::Dst), &key.mac(End::Src)), (b"destin", b"source"));
        let key = Key::default().with_ipv4(End::Src, [10, 0, 0, 1]).with_ipv4(End::Dst, [10, 0, 0, 2]);
        assert_eq!((key.ipv4(End::Src), key.ipv4(End::Dst)), ([10, 0, 0, 1], [10, 0, 0, 2]));
        // In the order of the frame, so that the program reads both at once.
        assert_eq!(key.words[2].to_le_bytes(), [10, 0, 0, 1, 10, 0, 0, 2]);
    }
}
