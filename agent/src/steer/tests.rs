//! The language: by example, against a plain oracle, and against tcpdump itself where it is installed.

use std::io::Write as _;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use umemd_common::decision::Action;
use umemd_common::{Decision, judge};

use super::*;

fn entries(expression: &str) -> Vec<umemd_common::Rule> {
    let rules = compile(&[expression]).unwrap_or_else(|error| panic!("{error}"));
    rules[0].terms().iter().map(|term| term.rule).collect()
}

fn refused(expression: &str) -> RuleError {
    match compile(&[expression]).expect_err(expression) {
        SetError::Rule(error) => error,
        other => panic!("{expression}: {other}"),
    }
}

fn shown(expression: &str) -> String {
    refused(expression).to_string()
}

#[test]
fn a_rule_takes_no_more_entries_than_it_has_to() {
    for (expression, count) in [
        ("all", 1),
        ("ip", 1),
        ("udp dst port 7", 1),
        ("udp port 7", 2),
        // Without a transport, too: only TCP, UDP and SCTP have ports in a key.
        ("port 7", 2),
        ("src and dst port 7", 1),
        ("src or dst port 7", 2),
        ("udp", 2),
        ("ip and udp", 1),
        ("icmp6", 2),
        ("ip6 proto 44", 1),
        ("proto 17", 3),
        ("udp and port 7", 2),
        ("ip6 proto 17 and port 7", 2),
        ("udp port 7 or 8", 4),
        ("all or udp", 1),
        ("udp or all", 1),
        ("port 7 or udp port 7", 2),
        ("udp port 7 or port 7", 2),
        ("port 7 and port 8", 2),
        ("(udp or tcp) and (dst port 7 or dst port 8)", 4),
        ("tcp and arp or ip6", 1),
        // Of IPv4, ARP and RARP at once: only those have such addresses in a key.
        ("host 10.0.0.1", 2),
        ("src net 10.0.0.0/8", 1),
        ("net 0.0.0.0/0", 3),
        ("host fd00::1", 2),
        ("src net fd00::/33", 1),
        ("dst portrange 8000-8015", 1),
        ("dst portrange 7-9", 2),
        ("portrange 7-9", 4),
        ("portrange 0-65535", 2),
        ("vlan", 1),
        ("vlan 5 and udp dst port 7", 1),
        ("vlan 5 and vlan 7 and host 10.0.0.1", 2),
        ("ether host 02:00:00:00:00:01", 2),
        ("ether proto 0x8100 and vlan", 1),
    ] {
        assert_eq!(entries(expression).len(), count, "{expression}");
    }
}

#[test]
fn equal_meanings_compile_to_the_same() {
    for (one, other) in [
        ("ip", "ether proto 0x800"),
        ("ip6", r"ether proto \ip6"),
        ("arp", r"ether proto 2054"),
        ("rarp", r"ether proto \rarp"),
        ("icmp", r"ip proto \icmp"),
        ("icmp6", "ip6 proto 58"),
        ("ip and udp", r"ip proto \udp"),
        ("udp port 7", "udp and port 7"),
        ("udp port 7", "udp src or dst port 07"),
        ("udp port 7 or 8", "udp port 7 or udp port 0x8"),
        ("tcp port 010", "tcp port 8"),
        ("ip proto 17 or 6", "ip proto 17||ip proto 6"),
        ("ip6&&(udp||tcp)", "ip6 and ( udp or tcp )"),
        // From the left: not `udp or (tcp and port 7)`, which would take all of UDP.
        ("udp or tcp and port 7", "(udp or tcp) and port 7"),
        ("src 10.0.0.1", "src host 10.0.0.1"),
        ("host 10.0.0.1 or 10.0.0.2", "host 10.0.0.1 or host 10.0.0.2"),
        ("net 10", "net 10.0.0.0/8"),
        ("host 10.0.0.1", "net 10.0.0.1/32"),
        ("host fd00::1", "ip6 net fd00:0::1/128"),
        ("ip6 net ::/0", "ip6"),
        ("ip net 0.0.0.0/0", "ip"),
        ("portrange 9-7", "portrange 7-9"),
        ("portrange 7", "port 7"),
        ("ether src or dst host 2:0:0:0:0:1", "ether host 02-00-00-00-00-01"),
        ("vlan 0x5", "vlan 5"),
    ] {
        assert_eq!(entries(one), entries(other), "{one} and {other}");
    }
}

#[test]
fn errors_put_a_caret_under_the_word_and_say_the_next_step() {
    assert_eq!(
        shown("udp dst prot 7"),
        "bad rule: expected `port` or `portrange`, not `prot`\n\
         \x20 udp dst prot 7\n\
         \x20         ^^^^\n\
         \x20 of src and dst, rules have `host`, `net`, `port` and `portrange`"
    );
    assert_eq!(
        shown("udp dst port"),
        "bad rule: expected a port number at the end\n\
         \x20 udp dst port \n\
         \x20              ^\n\
         \x20 a port is a number from 0 to 65535"
    );
    assert_eq!(
        shown("udp portrange 1-65534"),
        "bad rule: this range takes 30 prefixes, and 8 are allowed\n\
         \x20 udp portrange 1-65534\n\
         \x20               ^^^^^^^\n\
         \x20 begin and end it at round binary numbers: 0-65535 holds it"
    );
    // Columns are counted in characters, and a tab takes one.
    assert!(shown("udp\tör arp").contains("\n  udp ör arp\n      ^^\n"), "{}", shown("udp\tör arp"));
}

#[test]
fn what_is_wrong_is_said_at_its_place() {
    for (expression, at, says) in [
        ("", "", "expected a word at the end"),
        ("  ", "", "expected a word at the end"),
        ("udp and", "", "expected a word at the end"),
        ("udp arp", "arp", "expected `and`, `or` or the end"),
        ("port 65536", "65536", "too large for a port number"),
        ("port 99999999999999999999999", "99999999999999999999999", "too large"),
        ("port http", "http", "expected a port number"),
        ("port 09", "09", "expected a port number"),
        ("port -7", "-7", "expected a port number"),
        ("port 0x", "0x", "expected a port number"),
        ("ip proto 256", "256", "too large for a protocol"),
        ("ip proto tcp", "tcp", "expected a protocol"),
        (r"ip proto \icmp6", r"\icmp6", "expected a protocol"),
        ("ether proto 46", "46", "a length, not an EtherType"),
        ("ether host 1", "1", "expected a MAC address"),
        ("ether 02:00:00:00:00:01", "02:00:00:00:00:01", "expected `proto`, `src`, `dst` or `host`"),
        ("ip port 7", "port", "expected `and`"),
        ("ip src port 7", "port", "expected `host` or `net`"),
        ("ip udp port 7", "udp", "expected `and`"),
        ("tcp host 10.0.0.1", "host", "expected `and`, `or` or the end"),
        ("tcp src host 10.0.0.1", "host", "expected `port` or `portrange`"),
        ("src tcp port 7", "tcp", "expected `host`, `net`, `port` or `portrange`"),
        ("icmp port 7", "port", "expected `and`, `or` or the end"),
        ("arp or 7", "7", "expected a word that rules know"),
        ("udp port 7 or (8)", "8", "expected a word that rules know"),
        ("7", "7", "expected a word that rules know"),
        ("10.0.0.1", "10.0.0.1", "expected a word that rules know"),
        ("UDP", "UDP", "expected a word that rules know"),
        ("host 10.0.0.256", "10.0.0.256", "expected an address"),
        ("host 10.0.0.0/8", "10.0.0.0/8", "expected an address"),
        ("host example.org", "example.org", "expected an address"),
        ("net 10.0.0.1/8", "10.0.0.1/8", "10.0.0.0/8 has not"),
        ("net fd00::1/8", "fd00::1/8", "fd00::/8 has not"),
        ("net 10.0.0.0/33", "10.0.0.0/33", "/32 at most"),
        ("ip host fd00::1", "fd00::1", "expected an IPv4 address"),
        ("ip6 host 10.0.0.1", "10.0.0.1", "expected an IPv6 address"),
        ("portrange 7-", "7-", "expected a range of ports"),
        ("vlan 4096", "4096", "too large for a VLAN id"),
        ("vlan 5 or 6", "6", "expected a word that rules know"),
        ("vlan and vlan and vlan", "vlan", "two VLAN tags, not three"),
        (
            "(vlan or udp) and ip6 or arp or (tcp or vlan and udp) and ip",
            "and",
            "before and behind a VLAN tag",
        ),
        ("not arp", "not", "cannot say what a frame is not"),
        ("!arp", "!", "cannot say what a frame is not"),
        ("igmp", "igmp", "tcpdump knows `igmp`"),
        ("(udp", "(", "not closed"),
        ("(udp tcp)", "tcp", "expected `and`, `or` or `)`"),
        ("udp)", ")", "expected `and`, `or` or the end"),
        ("()", ")", "closes nothing"),
        ("udp and arp", "udp and arp", "no frame can match"),
        ("ip and icmp6", "ip and icmp6", "no frame can match"),
        ("udp and vlan", "udp and vlan", "no frame can match"),
        ("ip and host fd00::1", "ip and host fd00::1", "no frame can match"),
        ("ether proto 0x8100 and udp", "ether proto 0x8100 and udp", "no frame can match"),
    ] {
        let error = refused(expression);
        let word = &error.expression[error.span()];
        assert_eq!(word, at, "{error}");
        assert!(error.problem.contains(says), "{error}");
        assert!(!error.next.is_empty());
    }
}

#[test]
fn neither_depth_nor_width_is_without_end() {
    let deep = format!("{}udp{}", "(".repeat(100_000), ")".repeat(100_000));
    assert!(shown(&deep).contains("parentheses in one another"));
    let ports = |from: u16| {
        (from..from + 300).map(|port| format!("dst port {port}")).collect::<Vec<_>>().join(" or ")
    };
    assert_eq!(entries(&ports(1)).len(), 300);
    let sources = ports(1).replace("dst", "src");
    assert!(shown(&format!("({}) and ({sources})", ports(1))).contains("alternatives"));
}

#[test]
fn a_set_is_refused_for_what_is_wrong_with_all_of_it() {
    let set = |specs: Vec<RuleSpec>| RuleSet::compile(specs, DefaultAction::Pass);
    let same = || RuleSpec::steer("a", "arp");
    assert_eq!(set(vec![same(), same()]), Err(SetError::Twice("a".to_owned())));
    for name in ["", "a b", "ä", &"x".repeat(65)] {
        assert_eq!(set(vec![RuleSpec::steer(name, "arp")]), Err(SetError::Name(name.to_owned())));
    }
    assert_eq!(queue_bits("a", &[0, 3]), Ok(0b1001));
    assert!(matches!(queue_bits("a", &[64]), Err(SetError::Queue { queue: 64, .. })));

    // Prefixes of 33 lengths are 33 shapes.
    let nets: Vec<RuleSpec> = (0..33)
        .map(|len| RuleSpec::steer(&format!("net{len}"), &format!("ip src net 0.0.0.0/{len}")))
        .collect();
    let error = set(nets.clone()).unwrap_err();
    let expected = TablesError::Shapes { shapes: 33, rule: "net32".to_owned() };
    assert_eq!(error, SetError::Tables(expected));
    assert!(set(nets[..32].to_vec()).is_ok());
    assert_eq!(set(vec![same(); 10_001]), Err(SetError::TooMany(10_001)));
}

/// A frame to be built, of values few enough to be met by rules of the same few.
#[derive(Clone, Debug)]
struct Frame {
    macs: [u8; 2],
    tags: Vec<(u16, u16)>,
    ether: Ether,
    proto: u8,
    ends: [u8; 2],
    src: u16,
    dst: u16,
    cut: Option<usize>,
}

#[derive(Clone, Debug)]
enum Ether {
    V4 { words: u8, fragment: u16 },
    V6,
    V6Fragment { offset: u16 },
    V6HopByHop,
    Arp(u16),
    Other(u16),
}

const PROTOS: [u8; 7] = [0, 1, 6, 17, 44, 58, 132];
const PORTS: [u16; 6] = [0, 7, 8, 9, 15, 0x1107];
const ETHERS: [u16; 5] = [0x0800, 0x0806, 0x8035, 0x86dd, 0x8100];
const TAG_TYPES: [u16; 3] = [0x8100, 0x88a8, 0x9100];
const V4: [[u8; 4]; 4] = [[10, 0, 0, 1], [10, 0, 0, 2], [10, 1, 0, 1], [11, 0, 0, 1]];

fn v6(end: u8) -> [u8; 16] {
    let mut address = [0; 16];
    address[0] = 0xfd;
    // Each of them differs in another word.
    address[[15, 11, 5, 1][usize::from(end)]] = 7;
    address
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let select = prop::sample::select::<u16>;
    let ether = prop_oneof![
        4 => (prop::sample::select(vec![0_u8, 4, 5, 5, 5, 5, 6, 15]), select(vec![0, 0, 0x4000, 0x2000, 0x2001, 1, 0x1fff]))
            .prop_map(|(words, fragment)| Ether::V4 { words, fragment }),
        3 => Just(Ether::V6),
        1 => (0_u16..2).prop_map(|offset| Ether::V6Fragment { offset }),
        1 => Just(Ether::V6HopByHop),
        1 => select(vec![0x0806, 0x8035]).prop_map(Ether::Arp),
        1 => select(ETHERS.to_vec()).prop_map(Ether::Other),
    ];
    let tag = (select(TAG_TYPES.to_vec()), select(vec![5, 0x2005, 7, 0]));
    let tags = prop_oneof![
        4 => Just(Vec::new()),
        2 => prop::collection::vec(tag.clone(), 1),
        1 => prop::collection::vec(tag, 2..=3),
    ];
    let ends = [0_u8..4, 0_u8..4];
    (
        [0_u8..3, 0_u8..3],
        tags,
        ether,
        prop::sample::select(PROTOS.to_vec()),
        ends,
        (select(PORTS.to_vec()), select(PORTS.to_vec())),
        prop::option::weighted(0.5, 0_usize..90),
    )
        .prop_map(|(macs, tags, ether, proto, ends, (src, dst), cut)| Frame {
            macs,
            tags,
            ether,
            proto,
            ends,
            src,
            dst,
            cut,
        })
}

fn frame(Frame { macs, tags, ether, proto, ends, src, dst, cut }: &Frame) -> Vec<u8> {
    let mut payload = [src.to_be_bytes(), dst.to_be_bytes()].concat();
    payload.extend([0; 16]);
    let [from, to] = ends.map(|end| V4[usize::from(end)]);
    let v4 = |words: u8, fragment: u16| {
        let mut packet = vec![0x40 | words, 0, 0, 60, 0, 0];
        packet.extend(fragment.to_be_bytes());
        packet.extend([64, *proto, 0, 0]);
        packet.extend(from);
        packet.extend(to);
        packet.resize(usize::from(words.max(5)) * 4, 1);
        packet.extend(&payload);
        packet
    };
    let v6 = |next: u8, extension: &[u8]| {
        let mut packet = vec![0x60, 0, 0, 0, 0, 40, next, 64];
        packet.extend(v6(ends[0]));
        packet.extend(v6(ends[1]));
        packet.extend(extension);
        packet.extend(&payload);
        packet
    };
    let (ether_proto, packet) = match ether {
        Ether::V4 { words, fragment } => (0x0800_u16, v4(*words, *fragment)),
        Ether::V6 => (0x86dd, v6(*proto, &[])),
        Ether::V6Fragment { offset } => (0x86dd, v6(44, &[*proto, 0, 0, (*offset << 3) as u8, 0, 0, 0, 1])),
        Ether::V6HopByHop => (0x86dd, v6(0, &[*proto, 0, 1, 4, 0, 0, 0, 0])),
        Ether::Arp(ether_proto) => {
            let head = [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1];
            (*ether_proto, [&head[..], &from, &[0; 6], &to].concat())
        }
        Ether::Other(ether_proto) => (*ether_proto, payload.clone()),
    };
    let mut bytes = vec![2, 0, 0, 0, 0, macs[0], 2, 0, 0, 0, 0, macs[1]];
    for (tag_type, tci) in tags {
        bytes.extend(tag_type.to_be_bytes());
        bytes.extend(tci.to_be_bytes());
    }
    bytes.extend(ether_proto.to_be_bytes());
    bytes.extend(packet);
    bytes.truncate(cut.unwrap_or(usize::MAX));
    bytes
}

/// An expression, to be written as words and to be asked directly.
#[derive(Clone, Debug)]
enum Expr {
    Word(&'static str),
    IpProto(u8),
    Ip6Proto(u8),
    EtherProto(u16),
    Vlan(Option<u16>),
    Port { transport: Option<&'static str>, direction: &'static str, from: u16, to: u16 },
    Net4 { network: &'static str, direction: &'static str, address: [u8; 4], len: u32 },
    Net6 { direction: &'static str, address: [u8; 16], len: u32 },
    Mac { direction: &'static str, last: u8 },
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
}

const DIRECTIONS: [&str; 5] = ["", "src ", "dst ", "src or dst ", "dst and src "];

fn primitive() -> impl Strategy<Value = Expr> {
    let words = vec!["ip", "ip6", "arp", "rarp", "tcp", "udp", "sctp", "icmp", "icmp6"];
    let transports = vec![None, Some("tcp"), Some("udp"), Some("sctp")];
    let direction = || prop::sample::select(DIRECTIONS.to_vec());
    let select = prop::sample::select::<u8>;
    let ports = (prop::sample::select(PORTS.to_vec()), prop::sample::select(vec![0_u16, 0, 0, 1, 2, 8]));
    prop_oneof![
        3 => prop::sample::select(words).prop_map(Expr::Word),
        1 => select(PROTOS.to_vec()).prop_map(Expr::IpProto),
        1 => select(PROTOS.to_vec()).prop_map(Expr::Ip6Proto),
        1 => prop::sample::select(ETHERS.to_vec()).prop_map(Expr::EtherProto),
        1 => prop::option::of(prop::sample::select(vec![5_u16, 7])).prop_map(Expr::Vlan),
        3 => (prop::sample::select(transports), direction(), ports)
            .prop_map(|(transport, direction, (from, more))| Expr::Port { transport, direction, from, to: from + more }),
        3 => (prop::sample::select(vec!["", "", "ip ", "arp ", "rarp "]), direction(), 0_usize..4, prop::sample::select(vec![32_u32, 32, 24, 16, 8, 0]))
            .prop_map(|(network, direction, end, len)| {
                let mask = u32::MAX.checked_shl(32 - len).unwrap_or(0);
                let address = (u32::from_be_bytes(V4[end]) & mask).to_be_bytes();
                Expr::Net4 { network, direction, address, len }
            }),
        2 => (direction(), 0_u8..4, prop::sample::select(vec![128_u32, 128, 96, 64, 48, 33, 8, 0]))
            .prop_map(|(direction, end, len)| {
                let mask = u128::MAX.checked_shl(128 - len).unwrap_or(0);
                let address = (u128::from_be_bytes(v6(end)) & mask).to_be_bytes();
                Expr::Net6 { direction, address, len }
            }),
        1 => (direction(), 0_u8..3).prop_map(|(direction, last)| Expr::Mac { direction, last }),
    ]
}

fn expression() -> impl Strategy<Value = Expr> {
    primitive().prop_recursive(4, 12, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| Expr::And(a.into(), b.into())),
            (inner.clone(), inner).prop_map(|(a, b)| Expr::Or(a.into(), b.into())),
        ]
    })
}

impl Expr {
    fn words(&self) -> String {
        match self {
            Self::Word(word) => (*word).to_owned(),
            Self::IpProto(number) => format!("ip proto {number}"),
            Self::Ip6Proto(number) => format!("ip6 proto {number:#x}"),
            Self::EtherProto(number) => format!("ether proto {number:#06x}"),
            Self::Vlan(None) => "vlan".to_owned(),
            Self::Vlan(Some(id)) => format!("vlan {id}"),
            Self::Port { transport, direction, from, to } => {
                let transport = transport.map(|name| format!("{name} ")).unwrap_or_default();
                if from == to {
                    format!("{transport}{direction}port {from}")
                } else {
                    format!("{transport}{direction}portrange {from}-{to}")
                }
            }
            Self::Net4 { network, direction, address: [a, b, c, d], len } => match len {
                32 => format!("{network}{direction}host {a}.{b}.{c}.{d}"),
                _ => format!("{network}{direction}net {a}.{b}.{c}.{d}/{len}"),
            },
            Self::Net6 { direction, address, len } => {
                let address = std::net::Ipv6Addr::from(*address);
                match len {
                    128 => format!("{direction}host {address}"),
                    _ => format!("ip6 {direction}net {address}/{len}"),
                }
            }
            Self::Mac { direction, last } => {
                let host = if direction.is_empty() { "host " } else { "" };
                format!("ether {direction}{host}02:00:00:00:00:{last:02x}")
            }
            Self::And(a, b) => format!("({}) and ({})", a.words(), b.words()),
            Self::Or(a, b) => format!("({}) or ({})", a.words(), b.words()),
        }
    }

    /// Byte by byte, as `tcpdump -d` prints it; `vlans` is how often `vlan` has been said so far.
    fn matches(&self, frame: &[u8], vlans: &mut usize) -> bool {
        let shift = 4 * *vlans;
        let byte = |at: usize| frame.get(at).copied();
        let half = |at: usize| Some(u16::from_be_bytes([byte(at)?, byte(at + 1)?]));
        let bytes = |at: usize, len: usize| frame.get(at..at + len);
        let ether = half(12 + shift);
        let v4 = |proto: u8| ether == Some(0x0800) && byte(23 + shift) == Some(proto);
        let v6 = |proto: u8| ether == Some(0x86dd) && byte(20 + shift) == Some(proto);
        let v6_or_fragment = |proto: u8| v6(proto) || (v6(44) && byte(54 + shift) == Some(proto));
        let number = |name: &str| match name {
            "tcp" => 6,
            "udp" => 17,
            _ => 132,
        };
        let directed = |direction: &str, src: bool, dst: bool| match direction {
            "src " => src,
            "dst " => dst,
            "dst and src " => src && dst,
            _ => src || dst,
        };
        match self {
            Self::Word("ip") => ether == Some(0x0800),
            Self::Word("ip6") => ether == Some(0x86dd),
            Self::Word("arp") => ether == Some(0x0806),
            Self::Word("rarp") => ether == Some(0x8035),
            Self::Word("icmp") => v4(1),
            Self::Word("icmp6") => v6_or_fragment(58),
            Self::Word(transport) => v4(number(transport)) || v6_or_fragment(number(transport)),
            Self::IpProto(proto) => v4(*proto),
            Self::Ip6Proto(proto) => v6_or_fragment(*proto),
            Self::EtherProto(proto) => ether == Some(*proto),
            Self::Vlan(id) => {
                *vlans += 1;
                ether.is_some_and(|ether| TAG_TYPES.contains(&ether))
                    && id.is_none_or(|id| half(14 + shift).is_some_and(|tci| tci & 0xfff == id))
            }
            Self::Port { transport, direction, from, to } => {
                let transports = transport.map_or(vec![6, 17, 132], |name| vec![number(name)]);
                let at = if transports.iter().any(|proto| v6(*proto)) {
                    54 + shift
                } else if transports.iter().any(|proto| v4(*proto))
                    && half(20 + shift).is_some_and(|f| f & 0x1fff == 0)
                {
                    14 + shift + usize::from(frame[14 + shift] & 15) * 4
                } else {
                    return false;
                };
                let hit = |at| half(at).is_some_and(|port| (*from..=*to).contains(&port));
                directed(direction, hit(at), hit(at + 2))
            }
            Self::Net4 { network, direction, address, len } => {
                let mask = u32::MAX.checked_shl(32 - len).unwrap_or(0);
                let (src, dst) = match (ether, *network) {
                    (Some(0x0800), "" | "ip ") => (26, 30),
                    (Some(0x0806), "" | "arp ") | (Some(0x8035), "" | "rarp ") => (28, 38),
                    _ => return false,
                };
                let hit = |at: usize| {
                    let word = bytes(at + shift, 4).map(|word| u32::from_be_bytes(word.try_into().unwrap()));
                    word.is_some_and(|word| word & mask == u32::from_be_bytes(*address))
                };
                *len == 0 || directed(direction, hit(src), hit(dst))
            }
            Self::Net6 { direction, address, len } => {
                let mask = u128::MAX.checked_shl(128 - len).unwrap_or(0);
                let hit = |at: usize| {
                    // Four bytes at a time, and no more of them than the prefix has.
                    let used = (*len as usize).div_ceil(32) * 4;
                    let word = bytes(at + shift, used).map(|word| {
                        let mut whole = [0; 16];
                        whole[..used].copy_from_slice(word);
                        u128::from_be_bytes(whole)
                    });
                    word.is_some_and(|word| word & mask == u128::from_be_bytes(*address))
                };
                ether == Some(0x86dd) && (*len == 0 || directed(direction, hit(22), hit(38)))
            }
            Self::Mac { direction, last } => {
                let hit = |at| bytes(at, 6) == Some(&[2, 0, 0, 0, 0, *last]);
                directed(direction, hit(6), hit(0))
            }
            // Both sides, since what the second says may lie behind a tag of the first.
            Self::And(a, b) => a.matches(frame, vlans) & b.matches(frame, vlans),
            Self::Or(a, b) => a.matches(frame, vlans) | b.matches(frame, vlans),
        }
    }
}

/// The rules that this one makes; `None` if no frame can match, or it looks at two depths at once, or three tags.
fn compiled(words: &str) -> Option<RuleSet> {
    match compile(&[words]) {
        Ok(rules) => Some(rules),
        Err(SetError::Rule(error)) => {
            let known = ["no frame can match", "before and behind a VLAN tag", "not three"];
            assert!(known.iter().any(|known| error.problem.contains(known)), "{error}");
            None
        }
        // An expression of many networks alone may have too many.
        Err(SetError::Tables(TablesError::Shapes { .. })) => None,
        Err(error) => panic!("{words}: {error}"),
    }
}

fn image(rules: &RuleSet) -> Image {
    let counters: Vec<u16> = (0..rules.len() as u16).collect();
    Image::build(rules, &counters, 1).unwrap()
}

/// The rule that the tables find.
fn hit(image: &Image, frame: &[u8]) -> Option<u32> {
    judge(image, frame, 0).rule()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_rule_matches_what_the_oracle_does(
        expr in expression(), frames in prop::collection::vec(any_frame(), 1..40)
    ) {
        let words = expr.words();
        if let Some(rules) = compiled(&words) {
            let image = image(&rules);
            for built in &frames {
                let whole = frame(&Frame { cut: None, ..built.clone() });
                let expected = expr.matches(&whole, &mut 0);
                prop_assert_eq!(hit(&image, &whole).is_some(), expected, "`{}` on {:?}", words, built);
                // A frame of no known kind may be cut all the same, and then the order matters.
                if !matches!(built.ether, Ether::Other(_)) {
                    prop_assert_eq!(rules[0].matches(whole.as_slice()), expected, "`{}` on {:?}", words, built);
                }
            }
        }
    }

    #[test]
    fn the_first_rule_with_a_matching_entry_is_found_whatever_the_frame(
        exprs in prop::collection::vec(expression(), 1..8), frames in prop::collection::vec(any_frame(), 1..40)
    ) {
        let texts: Vec<String> = exprs.iter().map(Expr::words).filter(|words| compiled(words).is_some()).collect();
        if let Ok(rules) = compile(&texts) {
            let image = image(&rules);
            for built in &frames {
                let bytes = frame(built);
                let depths = terms::parse_all(bytes.as_slice());
                let first = rules.iter().position(|rule| {
                    rule.terms().iter().any(|term| term.rule.matches(&depths[term.tags].key))
                });
                prop_assert_eq!(hit(&image, &bytes), first.map(|rule| rule as u32), "{:?} on {:?}", texts, built);
            }
        }
    }

    #[test]
    fn any_text_is_a_rule_or_an_error_that_can_be_shown(text in r"([a-z]{1,5}|[0-9()&|!\\ .:/\-\u{e9}\t]){0,12}") {
        if let Err(SetError::Rule(error)) = compile(&[&text]) {
            prop_assert!(error.to_string().lines().count() == 4);
        }
    }

    #[test]
    fn any_words_of_the_language_are_a_rule_or_an_error_that_can_be_shown(
        words in prop::collection::vec(prop::sample::select(vec![
            "all", "ip", "ip6", "arp", "tcp", "udp", "icmp6", "src", "dst", "port", "proto", "ether", "7", "0x800",
            r"\tcp", "and", "or", "&&", "(", ")", "not", "vlan", "host", "net", "portrange", "10.0.0.1", "10.0.0.0/8",
            "fd00::/8", "fd00::1", "7-9", "02:00:00:00:00:01",
        ]), 0..10)
    ) {
        if let Err(SetError::Rule(error)) = compile(&[words.join(" ")]) {
            prop_assert!(error.to_string().lines().count() == 4);
        }
    }
}

#[test]
fn ten_thousand_rules_are_told_apart() {
    let specs: Vec<RuleSpec> = (0..10_000)
        .map(|port| RuleSpec {
            action: [Action::Redirect, Action::Pass, Action::Drop][port % 3],
            ..RuleSpec::steer(&format!("r{port}"), &format!("udp dst port {port}"))
        })
        .collect();
    let rules = RuleSet::compile(specs, DefaultAction::Drop).unwrap();
    let image = image(&rules);
    assert_eq!(image.shapes().len(), 1);
    let udp = |dst: u16| {
        frame(&Frame {
            macs: [0, 0],
            tags: Vec::new(),
            ether: Ether::V4 { words: 5, fragment: 0 },
            proto: 17,
            ends: [0, 1],
            src: 1,
            dst,
            cut: None,
        })
    };
    for port in 0..10_000 {
        let verdict = judge(&image, udp(port).as_slice(), 0);
        let expected = [Decision::Steered, Decision::Passed, Decision::Dropped][usize::from(port) % 3];
        assert_eq!((verdict.decision, verdict.rule()), (expected, Some(port.into())));
    }
    assert_eq!(judge(&image, udp(10_000).as_slice(), 0).decision, Decision::UnmatchedDropped);
}

#[test]
fn a_rule_may_steer_on_some_queues_only() {
    let spec = RuleSpec { queues: Some(queue_bits("a", &[0, 3]).unwrap()), ..RuleSpec::steer("a", "all") };
    let rules = RuleSet::compile(vec![spec], DefaultAction::Pass).unwrap();
    let image = image(&rules);
    for (queue, expected) in [
        (0, Decision::Steered),
        (1, Decision::OtherQueue),
        (3, Decision::Steered),
        (64, Decision::OtherQueue),
    ] {
        assert_eq!(judge(&image, [0_u8; 14].as_slice(), queue).decision, expected, "{queue}");
    }
}

/// The frames as a capture file, of version 2.4 (pcap-savefile(5)).
fn capture(frames: &[Vec<u8>]) -> Vec<u8> {
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let mut file = words(&[0xa1b2_c3d4, 0x0004_0002, 0, 0, 65535, 1]);
    for (number, frame) in frames.iter().enumerate() {
        let len = frame.len() as u32;
        file.extend(words(&[number as u32, 0, len, len]));
        file.extend(frame);
    }
    file
}

/// The numbers of the frames that tcpdump matches; `None` if it refuses the expression.
fn tcpdump(expression: &str, file: &[u8]) -> std::io::Result<Option<Vec<usize>>> {
    let mut child = Command::new("tcpdump")
        .args(["-r", "-", "-w", "-", expression])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut stdin = child.stdin.take().expect("piped");
    let file = file.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&file));
    let output = child.wait_with_output()?;
    let _ = writer.join().expect("the writer does not panic"); // a refused expression is not read to its end
    if !output.status.success() {
        return Ok(None);
    }
    let word = |at: usize| u32::from_le_bytes(output.stdout[at..at + 4].try_into().unwrap()) as usize;
    let (mut at, mut matched) = (24, Vec::new());
    while at < output.stdout.len() {
        // The time stamp is the number that `capture` gave it.
        matched.push(word(at));
        at += 16 + word(at + 8);
    }
    Ok(Some(matched))
}

#[test]
fn rules_mean_what_they_mean_to_tcpdump() {
    if tcpdump("ip", &capture(&[])).is_err() {
        eprintln!("skipped: tcpdump is not installed");
        return;
    }
    let mut runner = TestRunner::deterministic();
    let mut frames = || -> Vec<Vec<u8>> {
        let built = prop::collection::vec(any_frame(), 800).new_tree(&mut runner).unwrap().current();
        built.iter().map(frame).collect()
    };
    let corpora = [frames(), frames(), frames(), frames()];
    let (mut matched_any, mut compared, mut unforeseen) = (0, 0, 0);
    for round in 0..300 {
        let expr = expression().new_tree(&mut runner).unwrap().current();
        let frames = &corpora[round % corpora.len()];
        let words = expr.words();
        let Some(rules) = compiled(&words) else { continue };
        let ours: Vec<usize> =
            (0..frames.len()).filter(|number| rules[0].matches(frames[*number].as_slice())).collect();
        // It refuses what rejects all packets.
        let theirs = tcpdump(&words, &capture(frames)).unwrap().unwrap_or_default();
        let differ: Vec<usize> =
            (0..frames.len()).filter(|number| ours.contains(number) != theirs.contains(number)).collect();
        // Where the frame ends inside of its headers, what tcpdump's optimizer leaves out is not always foreseen.
        let cut = |number: &usize| {
            terms::parse_all(frames[*number].as_slice()).iter().any(|parsed| parsed.missing != 0)
        };
        if let Some(number) = differ.iter().find(|number| !cut(number)) {
            panic!("{words}: {} of ours, {} of theirs: {:02x?}", ours.len(), theirs.len(), frames[*number]);
        }
        if !differ.is_empty() {
            eprintln!("{words}: differs on {} frames that are cut", differ.len());
        }
        unforeseen += usize::from(!differ.is_empty());
        matched_any += usize::from(!ours.is_empty());
        compared += 1;
    }
    assert!(
        compared > 150 && matched_any > 100,
        "{matched_any} of {compared} matched anything: this says little"
    );
    assert!(unforeseen <= 2, "{unforeseen} of {compared} rules differ from tcpdump on frames that are cut");
}

#[test]
fn what_tcpdump_refuses_is_refused() {
    if tcpdump("ip", &capture(&[])).is_err() {
        eprintln!("skipped: tcpdump is not installed");
        return;
    }
    for expression in [
        "ip port 7",
        "ip udp port 7",
        "icmp port 7",
        "arp or 7",
        "udp 7",
        "udp port",
        "PORT 7",
        "()",
        "udp and arp",
        "port 70000",
        "port 09",
        "ip proto tcp",
        r"ip6 proto \icmp6",
        "dst src port 7",
        "ip and 7",
        "udp port 7 or arp or 8",
        "tcp host 10.0.0.1",
        "ip host fd00::1",
        "ip6 host 10.0.0.1",
        "net 10.0.0.1/8",
        "net 10/8",
        "host 10.0.0.1/8",
        "10.0.0.1",
        "ip 10.0.0.1",
        "vlan 4096",
        "vlan 5 or 6",
        "ether host 10.0.0.1",
        "02:00:00:00:00:01",
        "ether 02:00:00:00:00:01",
        "net 10.0.0.0/33",
        "portrange 7 - 9",
        "port 7-9",
    ] {
        assert_eq!(tcpdump(expression, &capture(&[])).unwrap(), None, "{expression}");
        assert!(compile(&[expression]).is_err(), "{expression}");
    }
}
