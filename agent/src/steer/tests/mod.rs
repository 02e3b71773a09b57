//! The language by example; in the module against a plain oracle. Against tcpdump itself it is tested end to end.

mod against_oracle;

use std::time::{Duration, Instant};

use oracle::Frame;
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

/// Whether it ends where it announces more, in front of tags or behind them.
fn is_cut(frame: &[u8]) -> bool {
    terms::parse_all(frame).iter().any(|parsed| parsed.missing != 0)
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
fn rules_without_a_name_keep_the_one_that_was_dealt_to_them() {
    let dealt = |name: &str, expression: &str| RuleSpec { dealt: true, ..RuleSpec::steer(name, expression) };
    let set = |specs: Vec<RuleSpec>| RuleSet::compile(specs, DefaultAction::Pass).unwrap();
    let names = |after: Vec<RuleSpec>, before: &RuleSet| -> Vec<String> {
        set(after).named_as_in(before).iter().map(|rule| rule.spec.name.clone()).collect()
    };
    let before = set(vec![dealt("rule1", "udp port 53"), dealt("rule2", "udp port 7")]);
    // The first one goes, and the other stays what it was.
    assert_eq!(names(vec![dealt("rule1", "udp port 7")], &before), ["rule2"]);
    // One comes before them; one takes another's number, which counts anew.
    let three = vec![dealt("rule1", "arp"), dealt("rule2", "udp port 53"), dealt("rule3", "udp port 7")];
    assert_eq!(names(three, &before), ["rule3", "rule1", "rule2"]);
    assert_eq!(names(vec![dealt("rule1", "arp")], &before), ["rule1"]);
    // Of the same words: each its own, and a third one a new one.
    let same = set(vec![dealt("rule1", "arp"), dealt("rule2", "arp")]);
    let more = vec![dealt("rule3", "arp"), dealt("rule1", "arp"), dealt("rule2", "arp")];
    assert_eq!(names(more, &same), ["rule3", "rule1", "rule2"]);
    // A name that somebody gave is his.
    let given = vec![RuleSpec::steer("rule2", "arp"), dealt("rule1", "udp port 7")];
    assert_eq!(names(given, &before), ["rule2", "rule1"]);
    assert_eq!(names(vec![RuleSpec::steer("web", "udp port 7")], &before), ["web"]);
}

#[test]
fn a_rule_goes_on_counting_as_what_it_was() {
    let dealt = |name: &str, expression: &str| RuleSpec { dealt: true, ..RuleSpec::steer(name, expression) };
    let set = |specs: Vec<RuleSpec>| RuleSet::compile(specs, DefaultAction::Pass).unwrap();
    let serials = |set: &RuleSet| set.iter().map(Rule::serial).collect::<Vec<_>>();
    let before = set(vec![
        dealt("rule1", "ip"),
        dealt("rule2", "arp"),
        dealt("rule3", "arp"),
        RuleSpec::steer("web", "udp"),
    ]);
    let [ip, arp, second, web] = serials(&before)[..] else { panic!("four") };
    let after = |specs: Vec<RuleSpec>| serials(&set(specs).named_as_in(&before));
    // One comes at the front, of the same words as two others.
    let more = after(vec![
        dealt("rule4", "arp"),
        dealt("rule1", "ip"),
        dealt("rule2", "arp"),
        dealt("rule3", "arp"),
    ]);
    assert_eq!(more[1..], [ip, arp, second]);
    assert!(!serials(&before).contains(&more[0]));
    // The first of two alike goes by `rule del`.
    assert_eq!(after(vec![dealt("rule1", "ip"), dealt("rule3", "arp")]), [ip, second]);
    // In a file that is read again names are but places: both stay in their order.
    assert_eq!(after(vec![dealt("rule1", "arp"), dealt("rule2", "arp")]), [arp, second]);
    // A name is given to another one; a rule gets a name; one with a name says something else.
    let given =
        after(vec![RuleSpec::steer("rule1", "sctp"), dealt("rule2", "ip"), RuleSpec::steer("web", "tcp")]);
    assert_eq!(given[1..], [ip, web]);
    assert!(!serials(&before).contains(&given[0]));
    assert_ne!(after(vec![RuleSpec::steer("rule2", "arp")]), [arp]);
    // Whoever comes after a rule went is another one, also if nothing was in force between: an interface is away.
    let gone = set(Vec::new()).named_as_in(&before);
    let again = set(vec![dealt("rule1", "ip"), RuleSpec::steer("web", "udp")]).named_as_in(&gone);
    assert!(serials(&again).iter().all(|serial| !serials(&before).contains(serial)));

    let many =
        (0..10_000).map(|port| dealt(&dealt_name(port + 1), &format!("port {port}"))).collect::<Vec<_>>();
    let (all, half) = (set(many.clone()), set(many[5000..].to_vec()));
    let names: HashSet<String> = all.named_as_in(&half).iter().map(|rule| rule.spec.name.clone()).collect();
    assert_eq!(names.len(), 10_000);
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
        ("udp port (7 or 8)", "udp port 7 or 8"),
        ("udp port 7 or (8 or 9) or 10", "udp port 7 or 8 or 9 or 10"),
        ("udp port 7 or ((8))", "udp port 7 or 8"),
        ("udp port ((7) or 8) and ip", "udp port 7 or 8 and ip"),
        ("src (10.0.0.1 or 10.0.0.2)", "src host 10.0.0.1 or src host 10.0.0.2"),
        ("src host 10.0.0.1 and (dst port 7 or 8)", "src host 10.0.0.1 and (dst port 7 or dst port 8)"),
        ("ip proto (17 or 6)", "ip proto 17 or 6"),
        (r"ip proto \tcp or \udp", "ip proto 6 or ip proto 17"),
        ("udp port (((7)) or (8))", "udp port 7 or 8"),
        ("port 7 or (tcp) or 8", "port 7 or tcp or port 8"),
        ("port 7 or ((tcp) or 8) or 9", "port 7 or tcp or port 8 or port 9"),
        ("port 7 or ((udp port 8 or 9) or 10)", "port 7 or udp port 8 or 9 or port 10"),
        ("net 10 or ((src 10.0.0.1) or 8)", "net 10 or src 10.0.0.1 or net 8"),
        ("udp port 7 or (port 8) or 9", "udp port 7 or port 8 or udp port 9"),
        ("host 10.0.0.1 or (port 7) or 10.0.0.2", "host 10.0.0.1 or port 7 or host 10.0.0.2"),
        ("vlan (5) and vlan ((7))", "vlan 5 and vlan 7"),
        ("ether host aabbccddeeff or 02000000000a", "ether host aa:bb:cc:dd:ee:ff or 02:00:00:00:00:0a"),
        (
            "ether src 02-00-00-00-00-01 or aa-bb-cc-dd-ee-ff",
            "ether src 02:00:00:00:00:01 or ether src aa:bb:cc:dd:ee:ff",
        ),
        ("net (10 or 11)", "net 10 or 11"),
        ("portrange (7-8 or 10-11)", "portrange 7-8 or 10-11"),
        ("tcp port 010", "tcp port 8"),
        ("ip proto 17 or 6", "ip proto 17||ip proto 6"),
        ("ip6&&(udp||tcp)", "ip6 and ( udp or tcp )"),
        // From the left: not `udp or (tcp and port 7)`, which would take all of UDP.
        ("udp or tcp and port 7", "(udp or tcp) and port 7"),
        ("src 10.0.0.1", "src host 10.0.0.1"),
        ("host 10.0.0.1 or 10.0.0.2", "host 10.0.0.1 or host 10.0.0.2"),
        ("net 10", "net 10.0.0.0/8"),
        ("net 0", "net 0.0.0.0/32"),
        ("ip src net 010", "ip src net 8.0.0.0/8"),
        ("net 10.0.0.0/010 or 0xa0b", "net 10.0.0.0/8 or net 10.11"),
        ("host 10.0.0.1", "net 10.0.0.1/32"),
        ("host fd00::1", "ip6 net fd00:0::1/128"),
        ("ip6 net ::/0", "ip6"),
        ("ip net 0.0.0.0/0", "ip"),
        ("portrange 9-7", "portrange 7-9"),
        ("portrange 7", "port 7"),
        ("portrange 010", "port 8"),
        ("portrange 007-010", "portrange 7-10"),
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
    // Nothing that a terminal takes for a command.
    assert!(!shown("port 7\u{1b}[2J").contains('\u{1b}') && !shown("vlan 4\u{8}9").contains('\u{8}'));
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
        ("udp or ether proto 0x809b", "0x809b", "AppleTalk in 802.3 frames"),
        ("ether proto 33011", "33011", "AppleTalk in 802.3 frames"),
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
        ("udp port (7 or udp)", "udp", "expected a port number"),
        ("udp port ((7 or 8) and 9)", "or", "only a lone number"),
        ("udp port ((7 or 8))", "or", "only a lone number"),
        ("host ((10.0.0.1) or 10.0.0.2)", "10.0.0.1", "only a lone number"),
        ("port 7 or ((8", "(", "not closed"),
        ("port (7 or", "", "expected a port number"),
        ("udp\u{a0}port 7", "udp\u{a0}port", "expected a word that rules know"),
        ("(udp port 7) or 8", "8", "expected a word that rules know"),
        ("tcp or (port 8) or 9", "9", "expected a word that rules know"),
        ("port 7 or (tcp or 8)", "8", "expected a word that rules know"),
        ("(port 7 or 8) or 9", "9", "expected a word that rules know"),
        ("vlan (5 or 6)", "or", "expected `)`"),
        ("vlan (port 7)", "(", "expected `and`"),
        ("7", "7", "expected a word that rules know"),
        ("10.0.0.1", "10.0.0.1", "expected a word that rules know"),
        ("UDP", "UDP", "expected a word that rules know"),
        ("host 10.0.0.256", "10.0.0.256", "expected an address"),
        ("host 10.0.0.0/8", "10.0.0.0/8", "expected an address"),
        ("host example.org", "example.org", "expected an address"),
        ("net 10.0.0.1/8", "10.0.0.1/8", "10.0.0.0/8 has not"),
        ("net fd00::1/8", "fd00::1/8", "fd00::/8 has not"),
        ("net 10.0.0.0/33", "10.0.0.0/33", "/32 at most"),
        ("net 10.0.0.0/08", "10.0.0.0/08", "expected the length of a prefix"),
        ("net 08", "08", "expected a network"),
        ("net 4294967296", "4294967296", "too large for a network"),
        ("ip host fd00::1", "fd00::1", "expected an IPv4 address"),
        ("ip6 host 10.0.0.1", "10.0.0.1", "expected an IPv6 address"),
        ("portrange 7-", "7-", "expected a range of ports"),
        ("portrange 0x7-9", "0x7-9", "expected a range of ports"),
        ("portrange 7-+9", "7-+9", "expected a range of ports"),
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
    let ports = |end: &str, count: u16| {
        (0..count).map(|port| format!("{end} port {port}")).collect::<Vec<_>>().join(" or ")
    };
    assert_eq!(entries(&ports("dst", 512)).len(), 512);
    assert!(shown(&ports("dst", 513)).contains("512 conditions"));
    // Words that stand for the ones before them are conditions as well, in parentheses and without.
    for again in [" or 7", " or (7)", " or ((7))", " or (7 or 7)"] {
        assert!(shown(&format!("port 7{}", again.repeat(200_000))).contains("512 conditions"), "{again}");
    }
    assert!(shown(&format!("({}) and ({})", ports("dst", 50), ports("src", 50))).contains("alternatives"));
    // Deep, for tcpdump's part as well.
    let long: Vec<String> =
        (0..100).map(|port| format!("src and dst portrange {port}-{}", port + 1)).collect();
    let long = long.join(" or ");
    let rules = compile(&[long]).unwrap();
    let matcher = rules[0].matcher();
    for cut in 0..50 {
        let bytes = Frame { cut: Some(cut), ..Frame::udp(7, 8) }.bytes();
        assert_eq!(matcher.matches(&bytes), cut >= 38, "{cut}");
    }
}

/// As many alternatives as there may be: the time that tcpdump itself takes grows with their third power.
#[test]
fn the_widest_rule_is_soon_ready_for_cut_frames() {
    let ports: Vec<String> = (1..=256).map(|port| format!("port {port}")).collect();
    let rules = compile(&[ports.join(" or ")]).unwrap();
    let started = Instant::now();
    let matcher = rules[0].matcher();
    for (port, cut, expected) in [(200, 38, true), (200, 37, false), (257, 38, false)] {
        let bytes = Frame { cut: Some(cut), ..Frame::udp(7000, port) }.bytes();
        assert_eq!(matcher.matches(&bytes), expected, "{port} cut at {cut}");
    }
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

/// It is for cut frames alone.
#[test]
fn tcpdumps_tests_are_not_compiled_before_a_frame_needs_them() {
    let rules = compile(&["udp port 7 or arp"]).unwrap();
    let matcher = rules[0].matcher();
    assert!(matcher.matches(&Frame::udp(7, 8).bytes()));
    assert!(matcher.filter.get().is_none());
    assert!(!matcher.matches(&Frame { cut: Some(30), ..Frame::udp(7, 8) }.bytes()));
    assert!(matcher.filter.get().is_some());
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

#[test]
fn ten_thousand_rules_of_any_word_fit() {
    let rules: [fn(u32) -> String; 6] = [
        |n| format!("tcp dst port {n}"),
        |n| format!("src host 10.0.{}.{}", n / 256, n % 256),
        |n| format!("host 10.0.{}.{}", n / 256, n % 256),
        |n| format!("host fd00::{n:x}"),
        |n| format!("ether src 02:00:00:00:{:02x}:{:02x}", n / 256, n % 256),
        |n| format!("ether host {:02x}:{:02x}:00:00:00:02", n / 256 * 2, n % 256),
    ];
    for rule in rules {
        let texts: Vec<String> = (0..10_000).map(rule).collect();
        assert!(compile(&texts).is_ok(), "{}: {:?}", texts[0], compile(&texts).unwrap_err().to_string());
    }
}

/// If a rule looks there; and what is no tag is not taken for one.
#[test]
fn what_is_wrong_behind_a_tag_is_noted() {
    let image = image(&compile(&["vlan 5 and udp dst port 1", "vlan and vlan and udp dst port 1"]).unwrap());
    let macs = [2; 12];
    let (cut, lies) = ([8, 0, 0x45, 0], [&[8, 0, 0x41][..], &[0; 40]].concat());
    let tag = [0x81, 0, 0, 9];
    for (tags, behind, decision) in [
        (0, &cut[..], Decision::Truncated),
        (1, &cut, Decision::Truncated),
        (2, &cut, Decision::Truncated),
        (0, &lies, Decision::Malformed),
        (1, &lies, Decision::Malformed),
        (2, &lies, Decision::Malformed),
        // At a tag's distance behind the beginning there is what looks like the end of an IPv4 header, and is none.
        (0, &[&[0x88, 0xcc, 0, 0, 8, 0, 0x41][..], &[0; 40]].concat(), Decision::Unmatched),
    ] {
        let frame = [&macs[..], &tag.repeat(tags), behind].concat();
        assert_eq!(judge(&image, frame.as_slice(), 0).decision, decision, "{tags} tags, {behind:02x?}");
    }
}

#[test]
fn who_looks_for_tags_is_known() {
    for (expression, looks) in [
        ("udp port 7", false),
        ("ether proto 0x88cc or all", false),
        ("udp or vlan", true),
        ("arp or ether proto 0x8100", true),
        ("ether proto 0x88a8 and ether host 2:0:0:0:0:1", true),
        // No NIC takes this one away.
        ("ether proto 0x9100", false),
    ] {
        assert_eq!(compile(&[expression]).unwrap().look_for_tags(), looks, "{expression}");
    }
}

#[test]
fn a_rule_that_steers_on_no_queue_is_refused() {
    let nowhere = RuleSpec { queues: Some(0), ..RuleSpec::steer("a", "arp") };
    let error = RuleSet::compile(vec![nowhere], DefaultAction::Pass).unwrap_err();
    assert_eq!(error, SetError::NoQueues("a".to_owned()));
}

#[test]
fn rules_that_steer_on_none_of_the_queues_are_known() {
    let on = |name: &str, queues: Option<&[u32]>| {
        let queues = queues.map(|queues| queue_bits(name, queues).unwrap());
        RuleSpec { queues, ..RuleSpec::steer(name, "arp") }
    };
    let specs = vec![on("all", None), on("some", Some(&[1, 5])), on("other", Some(&[5, 63]))];
    let rules = RuleSet::compile(specs, DefaultAction::Pass).unwrap();
    for (queues, idle) in [
        (&[0, 1][..], &["other"][..]),
        (&[63], &["some"]),
        // No rule can name this one.
        (&[64], &["some", "other"]),
        (&[5], &[]),
    ] {
        assert_eq!(rules.idle_on(queues).collect::<Vec<_>>(), idle, "{queues:?}");
    }
}

#[test]
fn only_who_steers_is_limited_to_queues() {
    for (action, is_taken) in [(Action::Redirect, true), (Action::Pass, false), (Action::Drop, false)] {
        let limited = RuleSpec { action, queues: Some(1), ..RuleSpec::steer("a", "arp") };
        match RuleSet::compile(vec![limited], DefaultAction::Pass) {
            Ok(_) => assert!(is_taken),
            Err(error) => assert!(!is_taken && matches!(error, SetError::NoSteer(name) if name == "a")),
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
    for port in 0..10_000 {
        let verdict = judge(&image, Frame::udp(1, port).bytes().as_slice(), 0);
        let expected = [Decision::Steered, Decision::Passed, Decision::Dropped][usize::from(port) % 3];
        assert_eq!((verdict.decision, verdict.rule()), (expected, Some(port.into())));
    }
    assert_eq!(
        judge(&image, Frame::udp(1, 10_000).bytes().as_slice(), 0).decision,
        Decision::UnmatchedDropped
    );
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
