//! The XDP program in this kernel, frame by frame (`BPF_PROG_TEST_RUN`).
//!
//! The table is the one that the host's parser is tested with, so both see and decide the same.

#[expect(dead_code, reason = "what the host sees of a frame is tested in common")]
#[path = "../../common/tests/frames/mod.rs"]
mod frames;

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use aya::util::KernelVersion;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt::set_xdp_rx_ring_size};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use umemd::ebpf::{LoadError, LoadOptions, Program, RedirectErrors};
use umemd::steer::{self, DefaultAction, Image, RuleSet, RuleSpec};
use umemd_common::decision::Action;
use umemd_common::maps::{Count, MAX_QUEUES};
use umemd_common::packet::Untagged;
use umemd_common::{Decision, judge};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;

/// The rule of the table.
fn rule() -> RuleSet {
    steer::compile(&["udp dst port 7"]).unwrap()
}

fn load() -> Program {
    Program::load(LoadOptions::default()).unwrap()
}

/// Both variants: for packets in one buffer, and for those in several.
fn variants() -> [Program; 2] {
    [false, true].map(|frags| Program::load(LoadOptions { frags, ..LoadOptions::default() }).unwrap())
}

/// The tables on the host.
fn image(rules: &RuleSet) -> Image {
    let counters: Vec<u16> = (0..rules.len() as u16).collect();
    Image::build(rules, &counters, 0).unwrap()
}

/// A socket that an XSKMAP takes: with an RX ring, and not bound to anything.
fn af_xdp_socket() -> OwnedFd {
    let socket = socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None).unwrap();
    set_xdp_rx_ring_size(&socket, 64).unwrap();
    socket
}

/// Runs one frame; returns the action and the one decision that was counted.
fn run(program: &mut Program, frame: &[u8]) -> (u32, Decision) {
    let before = program.decisions().unwrap();
    let action = program.test_run(frame).unwrap();
    let after = program.decisions().unwrap();
    let grown: Vec<Decision> =
        Decision::ALL.into_iter().filter(|d| after[*d as usize] != before[*d as usize]).collect();
    assert_eq!(grown.len(), 1, "one frame has one decision, not {grown:?}");
    assert_eq!(after.iter().sum::<u64>(), before.iter().sum::<u64>() + 1);
    (action, grown[0])
}

/// The kernel refuses to run a program over less than an Ethernet header (`ETH_HLEN`).
const SHORTEST: usize = 14;

#[test]
#[ignore = "requires root: loads a program into the kernel"]
fn every_frame_of_the_table_goes_where_it_says() {
    let socket = af_xdp_socket();
    for mut program in variants() {
        program.set_rules(&rule()).unwrap();
        for with_socket in [false, true] {
            if with_socket {
                program.set_socket(0, socket.as_fd()).unwrap();
            }
            for frames::Case { name, frame, decision, .. } in frames::table() {
                let expected = match (decision, with_socket) {
                    (Decision::Steered, false) => (XDP_PASS, Decision::NoSocket),
                    (Decision::Steered, true) => (XDP_REDIRECT, Decision::Steered),
                    (other, _) => (XDP_PASS, other),
                };
                assert_eq!(run(&mut program, &frame), expected, "{name}, socket: {with_socket}, {program:?}");
            }
        }
    }
}

#[test]
#[ignore = "requires root: loads a program into the kernel"]
fn a_packet_in_several_buffers_is_judged_by_its_first_and_counted_by_all() {
    let [_, mut program] = variants();
    program.set_rules(&rule()).unwrap();
    let socket = af_xdp_socket();
    program.set_socket(0, socket.as_fd()).unwrap();
    let mut bytes = 0;
    for frames::Case { name, mut frame, decision, .. } in frames::table() {
        // A cut frame is not cut any more.
        if matches!(decision, Decision::Truncated) {
            continue;
        }
        frame.resize(9014, 0);
        let expected = match decision {
            Decision::Steered => (XDP_REDIRECT, Decision::Steered),
            other => (XDP_PASS, other),
        };
        assert_eq!(run(&mut program, &frame), expected, "{name}");
        bytes += if decision == Decision::Steered { 9014 } else { 0 };
    }
    let counts = program.rule_counts().unwrap();
    assert!(bytes > 0);
    assert_eq!(counts[0].count.bytes, bytes, "{counts:?}");
}

#[test]
#[ignore = "requires root: loads a program into the kernel"]
fn the_default_and_the_actions_are_obeyed() {
    let mut program = load();
    let socket = af_xdp_socket();
    program.set_socket(0, socket.as_fd()).unwrap();
    let with = |action, queues, default| {
        let spec = RuleSpec { action, queues, ..RuleSpec::steer("a", "udp dst port 7") };
        RuleSet::compile(vec![spec], default).unwrap()
    };
    for (rules, matched) in [
        (with(Action::Pass, None, DefaultAction::Drop), (XDP_PASS, Decision::Passed)),
        (with(Action::Drop, None, DefaultAction::Drop), (XDP_DROP, Decision::Dropped)),
        (with(Action::Redirect, Some(1), DefaultAction::Drop), (XDP_REDIRECT, Decision::Steered)),
        (with(Action::Redirect, Some(2), DefaultAction::Drop), (XDP_PASS, Decision::OtherQueue)),
    ] {
        program.set_rules(&rules).unwrap();
        for frames::Case { name, frame, decision, .. } in frames::table() {
            let expected = match decision {
                Decision::Steered => matched,
                Decision::Unmatched => (XDP_DROP, Decision::UnmatchedDropped),
                Decision::Truncated => (XDP_DROP, Decision::TruncatedDropped),
                Decision::Malformed => (XDP_DROP, Decision::MalformedDropped),
                other => panic!("{other:?}"),
            };
            assert_eq!(run(&mut program, &frame), expected, "{name}");
        }
    }
}

/// Rules of every kind, narrow and wide, in front of tags and behind them.
fn many_kinds() -> RuleSet {
    let texts = [
        "udp dst port 7",
        "vlan 5 and udp",
        "vlan 7 and vlan 5 and host 10.0.0.1",
        "tcp src portrange 4000-4007",
        "ip6 and src net fd80::/9 and udp",
        "ether src 02:00:00:00:00:02 and icmp6",
        "arp host 0.0.0.0",
        "ip6 proto 44",
        "icmp",
    ];
    steer::compile(&texts).unwrap()
}

/// Each frame as it is, and behind one tag, and behind two of either kind.
fn with_tags(frame: &[u8]) -> Vec<Vec<u8>> {
    let two = [0x81, 0, 0, 7, 0x81, 0, 0x20, 5];
    [&[][..], &[0x81, 0, 0x20, 5], &two, &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 5]]
        .map(|tags| [&frame[..12], tags, &frame[12..]].concat())
        .to_vec()
}

#[test]
#[ignore = "requires root: loads a program into the kernel"]
fn every_frame_cut_anywhere_is_judged_as_on_the_host() {
    let rules = many_kinds();
    for program in variants() {
        check_cuts(program, &rules);
    }
}

fn check_cuts(mut program: Program, rules: &RuleSet) {
    program.set_rules(rules).unwrap();
    let image = image(rules);
    let socket = af_xdp_socket();
    program.set_socket(0, socket.as_fd()).unwrap();
    let mut hits = vec![0; rules.len()];
    for frames::Case { name, frame, .. } in frames::table() {
        for frame in with_tags(&frame) {
            for len in SHORTEST..=frame.len() {
                let cut = &frame[..len];
                let expected = judge(&image, cut, 0);
                assert_eq!(run(&mut program, cut).1, expected.decision, "{name}, cut at {len}");
                if let Some(rule) = expected.rule() {
                    hits[rule as usize] += 1;
                }
            }
        }
    }
    assert!(hits.iter().all(|hits| *hits > 0), "a rule that no frame hits says nothing: {hits:?}");
    let counted: Vec<u64> = program.rule_counts().unwrap().iter().map(|rule| rule.count.packets).collect();
    assert_eq!(counted, hits);
}

#[test]
#[ignore = "requires root: loads a program into the kernel"]
fn a_switchs_tag_is_stripped_as_on_the_host() {
    for tag in [4, 8] {
        let mut program = Program::load(LoadOptions { switch_tag: tag, ..LoadOptions::default() }).unwrap();
        let rules = many_kinds();
        program.set_rules(&rules).unwrap();
        let image = image(&rules);
        let socket = af_xdp_socket();
        program.set_socket(0, socket.as_fd()).unwrap();
        let mut hits = vec![0; rules.len()];
        for frames::Case { name, frame, .. } in frames::table() {
            for plain in with_tags(&frame) {
                let frame = frames::from_switch(&plain, tag.into());
                for len in [200, 60, 50, 40, 30, 22, 20, 16, SHORTEST] {
                    let len = len.min(frame.len()).max(SHORTEST);
                    let cut = &frame[..len];
                    let expected = judge(&image, &Untagged { frame: cut, tag: tag.into() }, 0);
                    assert_eq!(
                        run(&mut program, cut).1,
                        expected.decision,
                        "{name}, {tag} bytes of tag, cut at {len}"
                    );
                    if let Some(rule) = expected.rule() {
                        hits[rule as usize] += 1;
                    }
                    if len == frame.len() {
                        assert_eq!(
                            judge(&image, plain.as_slice(), 0),
                            expected,
                            "{name}, as it came to the switch"
                        );
                    }
                }
            }
        }
        assert!(hits.iter().all(|hits| *hits > 0), "a rule that no frame hits says nothing: {hits:?}");
        let counted: Vec<u64> =
            program.rule_counts().unwrap().iter().map(|rule| rule.count.packets).collect();
        assert_eq!(counted, hits);
    }
}

#[test]
#[ignore = "requires root: loads a program into the kernel"]
fn without_a_rule_everything_is_the_stacks() {
    let mut program = load();
    let socket = af_xdp_socket();
    program.set_socket(0, socket.as_fd()).unwrap();
    let none = RuleSet::default();
    for set in [false, true] {
        if set {
            program.set_rules(&none).unwrap();
        }
        for frames::Case { name, frame, .. } in frames::table() {
            let (action, decision) = run(&mut program, &frame);
            assert_eq!(action, XDP_PASS, "{name}");
            assert_eq!(decision, judge(&image(&none), frame.as_slice(), 0).decision, "{name}");
        }
    }
}

/// An IPv4 frame for this UDP port.
fn udp(port: u16) -> Vec<u8> {
    frames::ethernet(0x0800, &frames::ipv4(5, 0, 17, &frames::ports(4000, port)))
}

#[test]
#[ignore = "requires root: loads a program into the kernel"]
fn each_of_ten_thousand_rules_is_found_and_can_be_taken_back() {
    let mut program = load();
    let socket = af_xdp_socket();
    program.set_socket(0, socket.as_fd()).unwrap();
    let texts: Vec<String> = (0..10_000).map(|port| format!("udp dst port {port}")).collect();
    program.set_rules(&steer::compile(&texts).unwrap()).unwrap();
    for port in 0..10_000 {
        assert_eq!(program.test_run(&udp(port)).unwrap(), XDP_REDIRECT, "port {port}");
    }
    assert_eq!(run(&mut program, &udp(10_000)), (XDP_PASS, Decision::Unmatched));
    let bytes = udp(0).len() as u64;
    for rule in program.rule_counts().unwrap() {
        assert_eq!(rule.count, Count { packets: 1, bytes }, "{}", rule.name);
    }
    program.set_rules(&steer::compile(&texts[..9_999]).unwrap()).unwrap();
    assert_eq!(run(&mut program, &udp(9_999)), (XDP_PASS, Decision::Unmatched));
    program.set_rules(&RuleSet::default()).unwrap();
    assert_eq!(run(&mut program, &udp(0)), (XDP_PASS, Decision::Unmatched));
}

#[test]
#[ignore = "requires root: loads a program into the kernel"]
fn counters_survive_a_change_of_the_other_rules_and_no_others_do() {
    let mut program = load();
    let set = |names: &[&str]| {
        let specs = names.iter().map(|name| RuleSpec::steer(name, &format!("udp dst port {name}"))).collect();
        RuleSet::compile(specs, DefaultAction::Pass).unwrap()
    };
    let counts = |program: &Program| -> Vec<(String, u64)> {
        program.rule_counts().unwrap().into_iter().map(|rule| (rule.name, rule.count.packets)).collect()
    };
    let before = set(&["1", "2"]);
    program.set_rules(&before).unwrap();
    for port in [1, 2, 2] {
        run(&mut program, &udp(port));
    }
    let between = set(&["3", "2"]).named_as_in(&before);
    program.set_rules(&between).unwrap();
    assert_eq!(counts(&program), [("3".to_owned(), 0), ("2".to_owned(), 2)]);
    run(&mut program, &udp(2));
    run(&mut program, &udp(1));
    program.set_rules(&set(&["1", "2", "3"]).named_as_in(&between)).unwrap();
    assert_eq!(counts(&program), [("1".to_owned(), 0), ("2".to_owned(), 3), ("3".to_owned(), 0)]);
    // Each change gives counters back, or there would be none left.
    for round in 0..300 {
        let names: Vec<String> = (0..100).map(|n| format!("round{round}-{n}")).collect();
        let specs = names.iter().map(|name| RuleSpec::steer(name, "arp")).collect();
        program.set_rules(&RuleSet::compile(specs, DefaultAction::Pass).unwrap()).unwrap();
        assert!(counts(&program).iter().all(|(_, packets)| *packets == 0), "round {round}");
    }
}

#[test]
#[ignore = "requires root: loads a program into the kernel"]
fn a_change_that_is_taken_back_was_none() {
    let mut program = load();
    let set = |names: &[&str]| {
        let specs = names.iter().map(|name| RuleSpec::steer(name, &format!("udp dst port {name}"))).collect();
        RuleSet::compile(specs, DefaultAction::Pass).unwrap()
    };
    let before = set(&["1", "2"]);
    program.set_rules(&before).unwrap();
    for round in 1..=40 {
        program.write_rules_aside(&set(&["3", "2"]).named_as_in(&before)).unwrap();
        if round % 2 == 0 {
            program.switch_rules().unwrap();
            assert_eq!(run(&mut program, &udp(1)).1, Decision::Unmatched);
            assert_eq!(run(&mut program, &udp(3)).1, Decision::NoSocket);
        }
        program.undo_rules();
        assert_eq!(run(&mut program, &udp(1)).1, Decision::NoSocket);
        assert_eq!(run(&mut program, &udp(3)).1, Decision::Unmatched);
        let counts: Vec<_> = program.rule_counts().unwrap().into_iter().collect();
        assert_eq!(counts[0].name, "1");
        assert_eq!(counts[0].count.packets, round, "the rule that was away for a while goes on counting");
    }
    // Nor does it take a counter away.
    let names: Vec<String> = (1..=10_000).map(|port| port.to_string()).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let all = set(&all).named_as_in(&before);
    for _ in 0..3 {
        program.write_rules_aside(&all).unwrap();
        program.switch_rules().unwrap();
        program.undo_rules();
    }
    program.set_rules(&all).unwrap();
    let counts = program.rule_counts().unwrap();
    assert_eq!(counts[0].count.packets, 40);
    assert!(counts[1..].iter().all(|rule| rule.count.packets == 0));
}

#[test]
#[ignore = "requires root: loads a program into the kernel"]
fn nothing_is_overwritten_before_the_last_frame_under_it() {
    let mut program = load();
    let rules = rule();
    let time = |f: &mut dyn FnMut()| {
        let start = Instant::now();
        f();
        start.elapsed()
    };
    // Each the least of some times: what waits for a grace period always takes long.
    let mut least = [Duration::MAX; 4];
    for _ in 0..5 {
        let write = time(&mut || program.write_rules_aside(&rules).unwrap());
        let switch = time(&mut || program.switch_rules().unwrap());
        let finish = time(&mut || program.finish_rules());
        program.write_rules_aside(&rules).unwrap();
        program.switch_rules().unwrap();
        // Taken back, they lie in force's place no more; the next ones go there, and nobody has waited yet.
        program.undo_rules();
        let again = time(&mut || program.write_rules_aside(&rules).unwrap());
        for (least, now) in least.iter_mut().zip([write, switch, finish, again]) {
            *least = now.min(*least);
        }
        program.undo_rules();
    }
    let [write, switch, finish, again] = least;
    eprintln!("write {write:?}, switch {switch:?}, finish {finish:?}, write after a switch {again:?}");
    assert!(finish > 5 * switch, "who asked for rules is told before the old ones are out of use");
    assert!(again > 5 * write, "written over rules that a frame may be looked at under");
}

#[test]
#[ignore = "requires root: loads a program into the kernel"]
fn all_takes_even_what_cannot_be_read() {
    let mut program = load();
    program.set_rules(&steer::compile(&["all"]).unwrap()).unwrap();
    let socket = af_xdp_socket();
    program.set_socket(0, socket.as_fd()).unwrap();
    for frames::Case { name, frame, .. } in frames::table() {
        assert_eq!(run(&mut program, &frame), (XDP_REDIRECT, Decision::Steered), "{name}");
    }
}

#[test]
#[ignore = "requires root: loads a program into the kernel"]
fn a_socket_that_is_cleared_or_closed_leaves_its_frames_to_the_stack() {
    let mut program = Program::load(LoadOptions::default()).unwrap();
    program.set_rules(&steer::compile(&["all"]).unwrap()).unwrap();
    let frame = &frames::table()[0].frame;
    let socket = af_xdp_socket();

    program.set_socket(0, socket.as_fd()).unwrap();
    assert_eq!(run(&mut program, frame), (XDP_REDIRECT, Decision::Steered));
    program.clear_socket(0).unwrap();
    assert_eq!(run(&mut program, frame), (XDP_PASS, Decision::NoSocket));
    program.clear_socket(0).unwrap();

    program.set_socket(0, socket.as_fd()).unwrap();
    drop(socket);
    assert_eq!(run(&mut program, frame), (XDP_PASS, Decision::NoSocket));

    assert!(program.set_socket(MAX_QUEUES, af_xdp_socket().as_fd()).is_err());
    assert!(program.set_socket(0, std::io::stdin().as_fd()).is_err(), "a terminal is no AF_XDP socket");
}

#[test]
#[ignore = "requires root: loads a program into the kernel"]
fn the_log_tells_of_every_frame_when_asked_for_and_else_of_none() {
    for log in [false, true] {
        let mut program = Program::load(LoadOptions { log, ..LoadOptions::default() }).unwrap();
        let logger = program.take_log().expect("the program has a log");
        assert!(program.take_log().is_none(), "taken once");
        run(&mut program, &frames::table()[0].frame);
        let readable = rustix::event::PollFd::new(&logger, rustix::event::PollFlags::IN);
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        assert_eq!(rustix::event::poll(&mut [readable], Some(&now)).unwrap(), usize::from(log));
    }
}

/// Loads on a thread of its own that has these capabilities only; says whether failed redirects are counted.
fn load_with(effective: CapabilitySet, options: LoadOptions) -> Result<RedirectErrors, LoadError> {
    std::thread::spawn(move || {
        let sets = capabilities(None).unwrap();
        set_capabilities(None, CapabilitySets { effective, ..sets }).unwrap();
        Program::load(options).map(|program| program.redirect_errors())
    })
    .join()
    .unwrap()
}

/// Whether two are enough here. Where they are not, because the kernel is older than 6.17, or 7.x, whose verifier gives
/// up on arm64, the third one is named.
fn takes_two_capabilities() -> bool {
    let two = CapabilitySet::BPF | CapabilitySet::NET_ADMIN;
    let Err(error) = load_with(two, LoadOptions::default()) else { return true };
    let linux = KernelVersion::current().unwrap();
    assert!(linux < KernelVersion::new(6, 17, 0) || linux >= KernelVersion::new(7, 0, 0), "{error:?}");
    assert!(error.to_string().contains(": CAP_PERFMON missing"), "{error}");
    false
}

#[test]
#[ignore = "requires root: loads a program into the kernel"]
fn two_capabilities_are_enough_and_a_missing_one_is_named() {
    let quiet = LoadOptions::default();
    let (bpf, net_admin) = (CapabilitySet::BPF, CapabilitySet::NET_ADMIN);
    if !takes_two_capabilities() {
        return;
    }
    for switch_tag in [4, 8] {
        load_with(bpf | net_admin, LoadOptions { switch_tag, ..quiet }).map(drop).unwrap();
    }
    for (effective, missing) in [
        (net_admin, "CAP_BPF missing"),
        (bpf, "CAP_NET_ADMIN missing"),
        (CapabilitySet::empty(), "CAP_BPF and CAP_NET_ADMIN missing"),
    ] {
        let error = load_with(effective, quiet).unwrap_err();
        assert!(matches!(error, LoadError::Permission { .. }), "{error:?}");
        assert!(error.to_string().contains(missing), "{error}");
    }
}

#[test]
#[ignore = "requires root: loads a program into the kernel"]
fn logging_takes_a_third_capability() {
    let two = CapabilitySet::BPF | CapabilitySet::NET_ADMIN;
    load_with(two | CapabilitySet::PERFMON, LoadOptions { log: true, ..LoadOptions::default() })
        .map(drop)
        .unwrap();
    let error = load_with(two, LoadOptions { log: true, ..LoadOptions::default() }).unwrap_err();
    assert!(error.to_string().contains(": CAP_PERFMON missing"), "{error}");
}

#[test]
#[ignore = "requires root: loads a program into the kernel"]
fn without_a_third_capability_failed_redirects_are_said_not_to_be_counted() {
    let two = CapabilitySet::BPF | CapabilitySet::NET_ADMIN;
    if takes_two_capabilities() {
        let why = load_with(two, LoadOptions::default()).unwrap().unwrap_err();
        assert!(why.contains("takes CAP_PERFMON"), "{why}");
    }

    let counted = load_with(two | CapabilitySet::PERFMON, LoadOptions::default()).unwrap();
    // The tracepoint tells the map since Linux 5.13.
    assert!(counted.as_ref().is_ok_and(|errors| errors.iter().all(|(_, count)| *count == 0)), "{counted:?}");
}
