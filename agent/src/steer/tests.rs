//! The language: by example, against a plain oracle, and against tcpdump itself where it is installed.

use std::io::Write as _;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use umemd_common::maps::MAX_RULES;
use umemd_common::{Decision, decide, parse};

use super::*;

fn entries(expression: &str) -> Vec<Rule> {
    compile(&[expression]).unwrap_or_else(|error| panic!("{error}")).to_vec()
}

fn shown(expression: &str) -> String {
    compile(&[expression]).expect_err(expression).to_string()
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
    ] {
        assert_eq!(entries(one), entries(other), "{one} and {other}");
    }
}

#[test]
fn errors_put_a_caret_under_the_word_and_say_the_next_step() {
    assert_eq!(
        shown("udp dst prot 7"),
        "bad rule: expected `port`, not `prot`\n\
         \x20 udp dst prot 7\n\
         \x20         ^^^^\n\
         \x20 of src and dst, rules have `src port N` and `dst port N`"
    );
    assert_eq!(
        shown("udp dst port"),
        "bad rule: expected a port number at the end\n\
         \x20 udp dst port \n\
         \x20              ^\n\
         \x20 a port is a number from 0 to 65535"
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
        ("ether host 1", "host", "expected `proto`"),
        ("ip port 7", "port", "expected `and`"),
        ("ip udp port 7", "udp", "expected `and`"),
        ("src tcp port 7", "tcp", "expected `port`"),
        ("icmp port 7", "port", "expected `and`, `or` or the end"),
        ("arp or 7", "7", "expected a word that rules know"),
        ("udp port 7 or (8)", "8", "expected a word that rules know"),
        ("7", "7", "expected a word that rules know"),
        ("UDP", "UDP", "expected a word that rules know"),
        ("vlan 5", "vlan", "tcpdump knows `vlan`"),
        ("not arp", "not", "cannot say what a frame is not"),
        ("!arp", "!", "cannot say what a frame is not"),
        ("(udp", "(", "not closed"),
        ("(udp tcp)", "tcp", "expected `and`, `or` or `)`"),
        ("udp)", ")", "expected `and`, `or` or the end"),
        ("()", ")", "closes nothing"),
        ("udp and arp", "udp and arp", "no frame can match"),
        ("ip and icmp6", "ip and icmp6", "no frame can match"),
        ("ether proto 0x8100 and udp", "ether proto 0x8100 and udp", "no frame can match"),
    ] {
        let error = compile(&[expression]).expect_err(expression);
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
fn the_first_rule_that_matches_is_known_by_its_text() {
    let rules = compile(&["udp port 7", "port 7", "arp"]).unwrap();
    let tcp =
        frame(&Frame { ether: Ether::V4 { options: 0, fragment: 0 }, proto: 6, src: 1, dst: 7, cut: None });
    assert_eq!(rules.first_match(&parse(tcp.as_slice())), Some("port 7"));
    assert_eq!(rules.first_match(&Key::default()), None);
    assert!(rules.len() <= MAX_RULES as usize);
}

/// A frame to be built, of values few enough to be met by rules of the same few.
#[derive(Clone, Debug)]
struct Frame {
    ether: Ether,
    proto: u8,
    src: u16,
    dst: u16,
    cut: Option<usize>,
}

#[derive(Clone, Debug)]
enum Ether {
    V4 { options: u8, fragment: u16 },
    V6,
    V6Fragment { offset: u16 },
    V6HopByHop,
    Vlan,
    Other(u16),
}

const PROTOS: [u8; 7] = [0, 1, 6, 17, 44, 58, 132];
const PORTS: [u16; 4] = [0, 7, 8, 0x1107];
const ETHERS: [u16; 4] = [0x0800, 0x0806, 0x86dd, 0x8100];

fn any_frame() -> impl Strategy<Value = Frame> {
    let ether = prop_oneof![
        3 => (0_u8..=10, prop::sample::select(vec![0, 0x4000, 0x2000, 0x2001, 1, 0x1fff]))
            .prop_map(|(options, fragment)| Ether::V4 { options, fragment }),
        3 => Just(Ether::V6),
        1 => (0_u16..2).prop_map(|offset| Ether::V6Fragment { offset }),
        1 => Just(Ether::V6HopByHop),
        1 => Just(Ether::Vlan),
        1 => prop::sample::select(ETHERS.to_vec()).prop_map(Ether::Other),
    ];
    let port = || prop::sample::select(PORTS.to_vec());
    (ether, prop::sample::select(PROTOS.to_vec()), port(), port(), prop::option::weighted(0.3, 12_usize..80))
        .prop_map(|(ether, proto, src, dst, cut)| Frame { ether, proto, src, dst, cut })
}

fn frame(Frame { ether, proto, src, dst, cut }: &Frame) -> Vec<u8> {
    let mut payload = [src.to_be_bytes(), dst.to_be_bytes()].concat();
    payload.extend([0; 16]);
    let v4 = |options: u8, fragment: u16| {
        let mut packet = vec![0x45 + options, 0, 0, 60, 0, 0];
        packet.extend(fragment.to_be_bytes());
        packet.extend([64, *proto, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        packet.resize(20 + usize::from(options) * 4, 1);
        packet.extend(&payload);
        packet
    };
    let v6 = |next: u8, extension: &[u8]| {
        let mut packet = vec![0x60, 0, 0, 0, 0, 40, next, 64];
        packet.extend([0xfd; 32]);
        packet.extend(extension);
        packet.extend(&payload);
        packet
    };
    let (ether_proto, packet) = match ether {
        Ether::V4 { options, fragment } => (0x0800_u16, v4(*options, *fragment)),
        Ether::V6 => (0x86dd, v6(*proto, &[])),
        Ether::V6Fragment { offset } => (0x86dd, v6(44, &[*proto, 0, 0, (*offset << 3) as u8, 0, 0, 0, 1])),
        Ether::V6HopByHop => (0x86dd, v6(0, &[*proto, 0, 1, 4, 0, 0, 0, 0])),
        Ether::Vlan => (0x8100, [vec![0, 5, 8, 0], v4(0, 0)].concat()),
        Ether::Other(ether_proto) => (*ether_proto, payload.clone()),
    };
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
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
    Port { transport: Option<&'static str>, direction: &'static str, number: u16 },
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
}

fn primitive() -> impl Strategy<Value = Expr> {
    let words = vec!["ip", "ip6", "arp", "tcp", "udp", "sctp", "icmp", "icmp6"];
    let transports = vec![None, Some("tcp"), Some("udp"), Some("sctp")];
    let directions = vec!["", "src ", "dst ", "src or dst ", "dst and src "];
    let select = prop::sample::select::<u8>;
    prop_oneof![
        3 => prop::sample::select(words).prop_map(Expr::Word),
        1 => select(PROTOS.to_vec()).prop_map(Expr::IpProto),
        1 => select(PROTOS.to_vec()).prop_map(Expr::Ip6Proto),
        1 => prop::sample::select(ETHERS.to_vec()).prop_map(Expr::EtherProto),
        4 => (
            prop::sample::select(transports),
            prop::sample::select(directions),
            prop::sample::select(PORTS.to_vec())
        )
            .prop_map(|(transport, direction, number)| Expr::Port { transport, direction, number }),
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
            Self::Port { transport, direction, number } => {
                format!(
                    "{}{direction}port {number}",
                    transport.map(|name| format!("{name} ")).unwrap_or_default()
                )
            }
            Self::And(a, b) => format!("({}) and ({})", a.words(), b.words()),
            Self::Or(a, b) => format!("({}) or ({})", a.words(), b.words()),
        }
    }

    /// Byte by byte, as `tcpdump -d` prints it.
    fn matches(&self, frame: &[u8]) -> bool {
        let byte = |at: usize| frame.get(at).copied();
        let half = |at: usize| Some(u16::from_be_bytes([byte(at)?, byte(at + 1)?]));
        let ether = half(12);
        let v4 = |proto: u8| ether == Some(0x0800) && byte(23) == Some(proto);
        let v6 = |proto: u8| ether == Some(0x86dd) && byte(20) == Some(proto);
        let v6_or_fragment = |proto: u8| v6(proto) || (v6(44) && byte(54) == Some(proto));
        let number = |name: &str| match name {
            "tcp" => 6,
            "udp" => 17,
            _ => 132,
        };
        match self {
            Self::Word("ip") => ether == Some(0x0800),
            Self::Word("ip6") => ether == Some(0x86dd),
            Self::Word("arp") => ether == Some(0x0806),
            Self::Word("icmp") => v4(1),
            Self::Word("icmp6") => v6_or_fragment(58),
            Self::Word(transport) => v4(number(transport)) || v6_or_fragment(number(transport)),
            Self::IpProto(proto) => v4(*proto),
            Self::Ip6Proto(proto) => v6_or_fragment(*proto),
            Self::EtherProto(proto) => ether == Some(*proto),
            Self::Port { transport, direction, number: port } => {
                let transports = transport.map_or(vec![6, 17, 132], |name| vec![number(name)]);
                let at = if transports.iter().any(|proto| v6(*proto)) {
                    54
                } else if transports.iter().any(|proto| v4(*proto))
                    && half(20).is_some_and(|f| f & 0x1fff == 0)
                {
                    14 + usize::from(frame[14] & 15) * 4
                } else {
                    return false;
                };
                let (src, dst) = (half(at) == Some(*port), half(at + 2) == Some(*port));
                match *direction {
                    "src " => src,
                    "dst " => dst,
                    "dst and src " => src && dst,
                    _ => src || dst,
                }
            }
            Self::And(a, b) => a.matches(frame) && b.matches(frame),
            Self::Or(a, b) => a.matches(frame) || b.matches(frame),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_rule_matches_what_the_oracle_does(
        expr in expression(), frames in prop::collection::vec(any_frame(), 1..40)
    ) {
        let words = expr.words();
        let rules = match compile(&[&words]) {
            Ok(rules) => rules.to_vec(),
            Err(error) => {
                prop_assert!(error.problem.contains("no frame can match"), "{error}");
                Vec::new()
            }
        };
        for built in &frames {
            let bytes = frame(built);
            let steered = decide(&parse(bytes.as_slice()), &rules) == Decision::Steered;
            prop_assert_eq!(steered, expr.matches(&bytes), "`{}` on {:?}", words, built);
        }
    }

    #[test]
    fn any_text_is_a_rule_or_an_error_that_can_be_shown(text in r"([a-z]{1,5}|[0-9()&|!\\ \u{e9}\t]){0,12}") {
        if let Err(error) = compile(&[&text]) {
            prop_assert!(error.to_string().lines().count() == 4);
        }
    }

    #[test]
    fn any_words_of_the_language_are_a_rule_or_an_error_that_can_be_shown(
        words in prop::collection::vec(prop::sample::select(vec![
            "all", "ip", "ip6", "arp", "tcp", "udp", "icmp6", "src", "dst", "port", "proto", "ether", "7", "0x800",
            r"\tcp", "and", "or", "&&", "(", ")", "not", "vlan",
        ]), 0..10)
    ) {
        if let Err(error) = compile(&[words.join(" ")]) {
            prop_assert!(error.to_string().lines().count() == 4);
        }
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
    let mut frames = |cuts: bool| -> Vec<Vec<u8>> {
        let built = prop::collection::vec(any_frame(), 400).new_tree(&mut runner).unwrap().current();
        built.into_iter().map(|built| frame(&Frame { cut: built.cut.filter(|_| cuts), ..built })).collect()
    };
    let (whole, cut) = (frames(false), frames(true));
    let mut matched_any = 0;
    for round in 0..150 {
        // A cut frame ends tcpdump's search, which shows where there are alternatives.
        let (expr, frames) = if round % 2 == 0 {
            (expression().new_tree(&mut runner).unwrap().current(), &whole)
        } else {
            (primitive().new_tree(&mut runner).unwrap().current(), &cut)
        };
        let words = expr.words();
        let rules = compile(&[&words]).map(|rules| rules.to_vec()).unwrap_or_default();
        let ours: Vec<usize> = (0..frames.len())
            .filter(|number| decide(&parse(frames[*number].as_slice()), &rules) == Decision::Steered)
            .collect();
        // It refuses what rejects all packets.
        let theirs = tcpdump(&words, &capture(frames)).unwrap().unwrap_or_default();
        assert_eq!(ours, theirs, "{words}");
        matched_any += usize::from(!ours.is_empty());
    }
    assert!(matched_any > 50, "only {matched_any} rules matched anything: this test says little");
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
    ] {
        assert_eq!(tcpdump(expression, &capture(&[])).unwrap(), None, "{expression}");
        assert!(compile(&[expression]).is_err(), "{expression}");
    }
}
