//! Reads a frame's headers into a [`Key`], with the eyes of tcpdump.
//!
//! Whatever pcap-filter(7) leaves unsaid is taken from the code that `tcpdump -d` prints for a primitive:
//! - A header is only looked for directly behind the Ethernet header: a VLAN tag hides what follows.
//! - IPv4's header length is believed as it stands, even where it is too small to be true.
//! - A fragment of IPv4 that is not the first has no ports. IPv6 extension headers hide the ports, and a
//!   fragment header shows the protocol behind it ([`Key::fragment_proto`]), but not its ports.
//! - Only the end of the frame ends it: the length fields of IP are not looked at.

/// Bytes that can only be read as far as they go.
///
/// The program implements it over the kernel's packet pointers, the host over a slice.
pub trait View {
    /// The `N` bytes from `offset` on, or `None` if the frame ends before they do.
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// The `N` bytes that lie `words` times four bytes behind `offset`; `words` is at most 15.
    ///
    /// Apart from [`load`](View::load), since the program may add only constants to a packet pointer.
    #[inline(always)]
    fn load_behind<const N: usize>(&self, offset: usize, words: u8) -> Option<[u8; N]> {
        self.load(offset + usize::from(words) * 4)
    }
}

impl View for [u8] {
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..)?.first_chunk().copied()
    }
}

/// EtherType of IPv4.
pub const ETH_P_IP: u16 = 0x0800;
/// EtherType of ARP.
pub const ETH_P_ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const ETH_P_IPV6: u16 = 0x86dd;

/// IP protocol of ICMP.
pub const IPPROTO_ICMP: u8 = 1;
/// IP protocol of TCP.
pub const IPPROTO_TCP: u8 = 6;
/// IP protocol of UDP.
pub const IPPROTO_UDP: u8 = 17;
/// IPv6's fragment header.
pub const IPPROTO_FRAGMENT: u8 = 44;
/// IP protocol of ICMPv6.
pub const IPPROTO_ICMPV6: u8 = 58;
/// IP protocol of SCTP.
pub const IPPROTO_SCTP: u8 = 132;

/// What a rule may ask about a frame, in host byte order.
///
/// The layout is that of the rule map: fixed, and without a hole.
///
/// # Invariants
///
/// A field whose bit is not in `fields` is 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Key {
    /// Which of the others the frame has, and what is wrong with it: bits of [`field`].
    pub fields: u32,
    /// The EtherType.
    pub ether_proto: u16,
    /// Source port of TCP, UDP or SCTP.
    pub src_port: u16,
    /// Destination port of TCP, UDP or SCTP.
    pub dst_port: u16,
    /// IPv4's protocol, or the next header that IPv6's fixed header names.
    pub ip_proto: u8,
    /// The next header that an IPv6 fragment header right behind the fixed one names.
    pub fragment_proto: u8,
}

/// The bits of [`Key::fields`].
pub mod field {
    /// [`Key::ether_proto`](super::Key::ether_proto) is there.
    pub const ETHER_PROTO: u32 = 1 << 0;
    /// [`Key::ip_proto`](super::Key::ip_proto) is there, so this is IPv4 or IPv6.
    pub const IP_PROTO: u32 = 1 << 1;
    /// [`Key::fragment_proto`](super::Key::fragment_proto) is there.
    pub const FRAGMENT_PROTO: u32 = 1 << 2;
    /// [`Key::src_port`](super::Key::src_port) is there, so this is TCP, UDP or SCTP.
    pub const SRC_PORT: u32 = 1 << 3;
    /// [`Key::dst_port`](super::Key::dst_port) is there, so this is TCP, UDP or SCTP.
    pub const DST_PORT: u32 = 1 << 4;
    /// The frame ended where one of the fields above should have been.
    pub const TRUNCATED: u32 = 1 << 30;
    /// The IP version is not the EtherType's, or IPv4's header is shorter than itself.
    pub const MALFORMED: u32 = 1 << 31;
}

const ETHER_TYPE_AT: usize = 12;
const IP_AT: usize = 14;
const IPV6_PAYLOAD_AT: usize = IP_AT + 40;

/// Reads the headers of the frame that begins with its Ethernet header.
///
/// There is no error: what a frame does not have is not in [`Key::fields`], and a rule that asks for it does
/// not match, as a filter of tcpdump fails at a load beyond the packet.
#[inline(always)]
#[must_use]
pub fn parse<V: View + ?Sized>(frame: &V) -> Key {
    let mut key = Key::default();
    if headers(frame, &mut key).is_none() {
        key.fields |= field::TRUNCATED;
    }
    key
}

/// Fills in `key` until the headers are read, or the frame ends: `None`.
#[inline(always)]
fn headers<V: View + ?Sized>(frame: &V, key: &mut Key) -> Option<()> {
    key.ether_proto = u16::from_be_bytes(frame.load(ETHER_TYPE_AT)?);
    key.fields |= field::ETHER_PROTO;
    match key.ether_proto {
        ETH_P_IP => ipv4(frame, key),
        ETH_P_IPV6 => ipv6(frame, key),
        _ => Some(()),
    }
}

#[inline(always)]
fn ipv4<V: View + ?Sized>(frame: &V, key: &mut Key) -> Option<()> {
    let [version_ihl, _, _, _, _, _, fragment_high, fragment_low, _, protocol] = frame.load::<10>(IP_AT)?;
    key.ip_proto = protocol;
    key.fields |= field::IP_PROTO;
    let header_words = version_ihl & 0x0f;
    if version_ihl >> 4 != 4 || header_words < 5 {
        key.fields |= field::MALFORMED;
    }
    let fragment_offset = u16::from_be_bytes([fragment_high, fragment_low]) & 0x1fff;
    if fragment_offset == 0 && has_ports(protocol) {
        ports(frame, IP_AT, header_words, key)
    } else {
        Some(())
    }
}

#[inline(always)]
fn ipv6<V: View + ?Sized>(frame: &V, key: &mut Key) -> Option<()> {
    let [version, _, _, _, _, _, next_header] = frame.load::<7>(IP_AT)?;
    key.ip_proto = next_header;
    key.fields |= field::IP_PROTO;
    if version >> 4 != 6 {
        key.fields |= field::MALFORMED;
    }
    if next_header == IPPROTO_FRAGMENT {
        let [behind] = frame.load::<1>(IPV6_PAYLOAD_AT)?;
        key.fragment_proto = behind;
        key.fields |= field::FRAGMENT_PROTO;
    } else if has_ports(next_header) {
        ports(frame, IPV6_PAYLOAD_AT, 0, key)?;
    }
    Some(())
}

/// Reads both ports, or the first alone where the frame ends between them: `src port` matches it then.
#[inline(always)]
fn ports<V: View + ?Sized>(frame: &V, offset: usize, words: u8, key: &mut Key) -> Option<()> {
    let Some([a, b, c, d]) = frame.load_behind(offset, words) else {
        key.src_port = u16::from_be_bytes(frame.load_behind(offset, words)?);
        key.fields |= field::SRC_PORT;
        return None;
    };
    key.src_port = u16::from_be_bytes([a, b]);
    key.dst_port = u16::from_be_bytes([c, d]);
    key.fields |= field::SRC_PORT | field::DST_PORT;
    Some(())
}

/// Whether `port` of pcap-filter(7) applies to this protocol.
#[inline(always)]
#[must_use]
pub const fn has_ports(ip_proto: u8) -> bool {
    matches!(ip_proto, IPPROTO_TCP | IPPROTO_UDP | IPPROTO_SCTP)
}
