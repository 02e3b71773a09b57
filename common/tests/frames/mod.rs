//! A table of frames, one for every kind of header and every decision, and what the rule
//! `udp dst port 7` makes of each.
//!
//! The host's tests and those of the program in the kernel read the same table: they cannot disagree.

use umemd_common::key::{End, field};
use umemd_common::packet::{
    ETH_P_ARP, ETH_P_IP, ETH_P_IPV6, IPPROTO_FRAGMENT, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_SCTP,
    IPPROTO_TCP, IPPROTO_UDP,
};
use umemd_common::{Decision, Key, Rule};

const VLAN: u16 = 0x8100;

/// One frame and what has to become of it.
pub(crate) struct Case {
    /// What it is.
    pub(crate) name: &'static str,
    /// The bytes, from the Ethernet header on.
    pub(crate) frame: Vec<u8>,
    /// What [`umemd_common::parse`] has to see of it behind no tag, but for its addresses.
    pub(crate) seen: Seen,
    /// What [`rule`] alone decides, before a socket is looked for.
    pub(crate) decision: Decision,
}

/// What is seen of a frame, but for its addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) fields: u32,
    pub(crate) ether_proto: u16,
    pub(crate) ip_proto: u8,
    pub(crate) fragment_proto: u8,
    pub(crate) src_port: u16,
    pub(crate) dst_port: u16,
}

impl From<Key> for Seen {
    fn from(key: Key) -> Self {
        Self {
            fields: key.fields(),
            ether_proto: key.ether_proto(),
            ip_proto: key.ip_proto(),
            fragment_proto: key.fragment_proto(),
            src_port: key.port(End::Src),
            dst_port: key.port(End::Dst),
        }
    }
}

/// `udp dst port 7`
pub(crate) fn rule() -> Rule {
    let key = Key::default().with_fields(field::IP_PROTO | field::DST_PORT);
    Rule {
        mask: key.with_ip_proto(0xff).with_port(End::Dst, 0xffff),
        value: key.with_ip_proto(IPPROTO_UDP).with_port(End::Dst, 7),
    }
}

/// An Ethernet frame.
pub(crate) fn ethernet(ether_proto: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(ether_proto.to_be_bytes());
    frame.extend(payload);
    frame
}

/// An IPv4 packet whose header is `words` long, with `fragment` as its flags and offset.
pub(crate) fn ipv4(words: u8, fragment: u16, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x40 | words, 0, 0, 0, 0, 0];
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    packet.resize(usize::from(words.max(5)) * 4, 1);
    packet.extend(payload);
    packet
}

/// An IPv6 packet.
pub(crate) fn ipv6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, next_header, 64];
    packet.extend([0xfd; 32]);
    packet.extend(payload);
    packet
}

/// The ports, and twelve bytes more: enough for the header of UDP, TCP or SCTP.
pub(crate) fn ports(src: u16, dst: u16) -> Vec<u8> {
    let mut bytes = Vec::from(src.to_be_bytes());
    bytes.extend(dst.to_be_bytes());
    bytes.extend([0; 12]);
    bytes
}

/// This frame, of at least both addresses, as Marvell's switch gives it to the CPU: with a tag of `tag` bytes, which is in
/// the place of an 802.1Q tag (net/dsa/tag_dsa.c).
pub(crate) fn from_switch(frame: &[u8], tag: usize) -> Vec<u8> {
    let (macs, rest) = frame.split_at(12);
    // FORWARD, from device 0, port 1.
    let (header, rest) = match rest {
        // What is neither priority nor id (CFI) has a place of its own.
        [0x81, 0, high, low, rest @ ..] => ([0xe0, 1 << 3 | high >> 4 & 1, high & !0x10, *low], rest),
        _ => ([0xc0, 1 << 3, 0, 0], rest),
    };
    [macs, &[0xda, 0xda, 0, 0][..tag - header.len()], &header, rest].concat()
}

/// The table.
pub(crate) fn table() -> Vec<Case> {
    use Decision::{Malformed, Steered, Truncated, Unmatched};

    let to_7 = ports(4000, 7);
    let to_8 = ports(4000, 8);
    let macs = field::MAC_DST | field::MAC_SRC;
    let ether = |ether_proto| Seen { fields: macs | field::ETHER_PROTO, ether_proto, ..Seen::default() };
    let v4 = field::SRC4 | field::DST4;
    let v6 = (field::SRC6 | field::DST6) * field::WHOLE6;
    let ip = |ether_proto, ip_proto| {
        let addresses = if ether_proto == ETH_P_IP { v4 } else { v6 };
        let fields = ether(ether_proto).fields | field::IP_PROTO | addresses;
        Seen { fields, ether_proto, ip_proto, ..Seen::default() }
    };
    let with_ports = |seen: Seen, src_port, dst_port| Seen {
        fields: seen.fields | field::SRC_PORT | field::DST_PORT,
        src_port,
        dst_port,
        ..seen
    };
    let plus = |seen: Seen, bit| Seen { fields: seen.fields | bit, ..seen };
    let behind_fragment = |fragment_proto| {
        let seen = plus(ip(ETH_P_IPV6, IPPROTO_FRAGMENT), field::FRAGMENT_PROTO);
        Seen { fragment_proto, ..seen }
    };
    let udp4 = |dst| with_ports(ip(ETH_P_IP, IPPROTO_UDP), 4000, dst);
    let udp6 = |dst| with_ports(ip(ETH_P_IPV6, IPPROTO_UDP), 4000, dst);
    let case = |name, frame, seen, decision| Case { name, frame, seen, decision };

    let hop_by_hop = {
        let mut header = vec![IPPROTO_UDP, 0, 1, 4, 0, 0, 0, 0];
        header.extend(&to_7);
        header
    };
    let fragment6 = |protocol: u8, offset: u16| {
        let mut header = vec![protocol, 0];
        header.extend((offset << 3 | 1).to_be_bytes());
        header.extend([0, 0, 0, 1]);
        header.extend(&to_7);
        header
    };
    let tagged = {
        let mut tag = vec![0, 5];
        tag.extend(ETH_P_IP.to_be_bytes());
        tag.extend(ipv4(5, 0, IPPROTO_UDP, &to_7));
        tag
    };
    let mut version_5 = ipv4(5, 0, IPPROTO_UDP, &to_8);
    version_5[0] = 0x55;
    let mut version_4_in_6 = ipv6(IPPROTO_UDP, &to_8);
    version_4_in_6[0] = 0x45;

    vec![
        case("udp4", ethernet(ETH_P_IP, &ipv4(5, 0, IPPROTO_UDP, &to_7)), udp4(7), Steered),
        case("udp4 to another port", ethernet(ETH_P_IP, &ipv4(5, 0, IPPROTO_UDP, &to_8)), udp4(8), Unmatched),
        case("udp4 with options", ethernet(ETH_P_IP, &ipv4(7, 0, IPPROTO_UDP, &to_7)), udp4(7), Steered),
        case(
            "udp4 with all the options there can be",
            ethernet(ETH_P_IP, &ipv4(15, 0, IPPROTO_UDP, &to_7)),
            udp4(7),
            Steered,
        ),
        case(
            "udp4, do not fragment",
            ethernet(ETH_P_IP, &ipv4(5, 0x4000, IPPROTO_UDP, &to_7)),
            udp4(7),
            Steered,
        ),
        case(
            "udp4, first fragment",
            ethernet(ETH_P_IP, &ipv4(5, 0x2000, IPPROTO_UDP, &to_7)),
            udp4(7),
            Steered,
        ),
        case(
            "udp4, second fragment",
            ethernet(ETH_P_IP, &ipv4(5, 0x2001, IPPROTO_UDP, &to_7)),
            ip(ETH_P_IP, IPPROTO_UDP),
            Unmatched,
        ),
        case(
            "udp4, last fragment",
            ethernet(ETH_P_IP, &ipv4(5, 0x1000, IPPROTO_UDP, &to_7)),
            ip(ETH_P_IP, IPPROTO_UDP),
            Unmatched,
        ),
        case(
            "tcp4",
            ethernet(ETH_P_IP, &ipv4(5, 0, IPPROTO_TCP, &to_7)),
            with_ports(ip(ETH_P_IP, IPPROTO_TCP), 4000, 7),
            Unmatched,
        ),
        case(
            "sctp4",
            ethernet(ETH_P_IP, &ipv4(5, 0, IPPROTO_SCTP, &to_7)),
            with_ports(ip(ETH_P_IP, IPPROTO_SCTP), 4000, 7),
            Unmatched,
        ),
        case(
            "icmp4",
            ethernet(ETH_P_IP, &ipv4(5, 0, IPPROTO_ICMP, &[8, 0, 0, 0, 0, 0, 0, 7])),
            ip(ETH_P_IP, IPPROTO_ICMP),
            Unmatched,
        ),
        case("udp6", ethernet(ETH_P_IPV6, &ipv6(IPPROTO_UDP, &to_7)), udp6(7), Steered),
        case("udp6 to another port", ethernet(ETH_P_IPV6, &ipv6(IPPROTO_UDP, &to_8)), udp6(8), Unmatched),
        case(
            "udp6 behind hop-by-hop options",
            ethernet(ETH_P_IPV6, &ipv6(0, &hop_by_hop)),
            ip(ETH_P_IPV6, 0),
            Unmatched,
        ),
        case(
            "udp6, first fragment",
            ethernet(ETH_P_IPV6, &ipv6(IPPROTO_FRAGMENT, &fragment6(IPPROTO_UDP, 0))),
            behind_fragment(IPPROTO_UDP),
            Unmatched,
        ),
        case(
            "tcp6, second fragment",
            ethernet(ETH_P_IPV6, &ipv6(IPPROTO_FRAGMENT, &fragment6(IPPROTO_TCP, 1))),
            behind_fragment(IPPROTO_TCP),
            Unmatched,
        ),
        case(
            "icmp6",
            ethernet(ETH_P_IPV6, &ipv6(IPPROTO_ICMPV6, &[135, 0, 0, 0])),
            ip(ETH_P_IPV6, IPPROTO_ICMPV6),
            Unmatched,
        ),
        case("arp", ethernet(ETH_P_ARP, &[0; 28]), plus(ether(ETH_P_ARP), v4), Unmatched),
        case("udp4 behind a VLAN tag", ethernet(VLAN, &tagged), ether(VLAN), Unmatched),
        case("length instead of EtherType", ethernet(46, &[0; 46]), ether(46), Unmatched),
        case(
            "ends behind the Ethernet header, arp",
            ethernet(ETH_P_ARP, &[]),
            plus(ether(ETH_P_ARP), field::TRUNCATED),
            Truncated,
        ),
        case(
            "ends before the target of arp",
            ethernet(ETH_P_ARP, &[0; 20]),
            plus(ether(ETH_P_ARP), field::SRC4 | field::TRUNCATED),
            Truncated,
        ),
        case(
            "ends behind the Ethernet header, IPv4",
            ethernet(ETH_P_IP, &[]),
            plus(ether(ETH_P_IP), field::TRUNCATED),
            Truncated,
        ),
        case(
            "ends before IPv4's protocol",
            ethernet(ETH_P_IP, &ipv4(5, 0, IPPROTO_UDP, &to_7)[..9]),
            plus(ether(ETH_P_IP), field::TRUNCATED),
            Truncated,
        ),
        case(
            "ends before the options do",
            ethernet(ETH_P_IP, &ipv4(15, 0, IPPROTO_UDP, &[])[..40]),
            plus(ip(ETH_P_IP, IPPROTO_UDP), field::TRUNCATED),
            Truncated,
        ),
        case(
            "ends before the ports",
            ethernet(ETH_P_IP, &ipv4(5, 0, IPPROTO_UDP, &[])),
            plus(ip(ETH_P_IP, IPPROTO_UDP), field::TRUNCATED),
            Truncated,
        ),
        case(
            "ends between the ports",
            ethernet(ETH_P_IP, &ipv4(5, 0, IPPROTO_UDP, &to_7[..3])),
            Seen { src_port: 4000, ..plus(ip(ETH_P_IP, IPPROTO_UDP), field::SRC_PORT | field::TRUNCATED) },
            Truncated,
        ),
        case(
            "ends behind the ports",
            ethernet(ETH_P_IP, &ipv4(5, 0, IPPROTO_UDP, &to_7[..4])),
            udp4(7),
            Steered,
        ),
        case(
            "ends before IPv6's next header",
            ethernet(ETH_P_IPV6, &ipv6(IPPROTO_UDP, &to_7)[..6]),
            plus(ether(ETH_P_IPV6), field::TRUNCATED),
            Truncated,
        ),
        case(
            "ends before the ports of IPv6",
            ethernet(ETH_P_IPV6, &ipv6(IPPROTO_UDP, &[])),
            plus(ip(ETH_P_IPV6, IPPROTO_UDP), field::TRUNCATED),
            Truncated,
        ),
        case(
            "ends before the fragment header",
            ethernet(ETH_P_IPV6, &ipv6(IPPROTO_FRAGMENT, &[])),
            plus(ip(ETH_P_IPV6, IPPROTO_FRAGMENT), field::TRUNCATED),
            Truncated,
        ),
        case(
            // tcpdump looks for the ports where a header of four words would end: at the addresses.
            "header shorter than a header",
            ethernet(ETH_P_IP, &ipv4(4, 0, IPPROTO_UDP, &to_7)),
            plus(with_ports(ip(ETH_P_IP, IPPROTO_UDP), 0x0a00, 2), field::MALFORMED),
            Malformed,
        ),
        case(
            "header without length",
            ethernet(ETH_P_IP, &ipv4(0, 0, IPPROTO_UDP, &to_7)),
            plus(with_ports(ip(ETH_P_IP, IPPROTO_UDP), 0x4000, 0), field::MALFORMED),
            Malformed,
        ),
        case(
            "version 5 in an IPv4 frame",
            ethernet(ETH_P_IP, &version_5),
            plus(udp4(8), field::MALFORMED),
            Malformed,
        ),
        case(
            "version 4 in an IPv6 frame",
            ethernet(ETH_P_IPV6, &version_4_in_6),
            plus(udp6(8), field::MALFORMED),
            Malformed,
        ),
    ]
}
