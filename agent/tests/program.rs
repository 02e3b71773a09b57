//! The XDP program in this kernel, frame by frame (`BPF_PROG_TEST_RUN`).
//!
//! The table is the one that the host's parser is tested with, so both see and decide the same.

#[path = "../../common/tests/frames/mod.rs"]
mod frames;

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt::set_xdp_rx_ring_size};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use umemd::ebpf::{LoadError, LoadOptions, MapError, Program};
use umemd_common::maps::{MAX_QUEUES, MAX_RULES};
use umemd_common::{Decision, Rule, decide, parse};

const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;

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
    let mut program = Program::load(LoadOptions::default()).unwrap();
    program.set_rules(&[frames::rule()]).unwrap();
    let socket = af_xdp_socket();
    for with_socket in [false, true] {
        if with_socket {
            program.set_socket(0, socket.as_fd()).unwrap();
        }
        for frames::Case { name, frame, key, decision } in frames::table() {
            assert_eq!(parse(frame.as_slice()), key, "{name}, on the host");
            let expected = match (decision, with_socket) {
                (Decision::Steered, false) => (XDP_PASS, Decision::NoSocket),
                (Decision::Steered, true) => (XDP_REDIRECT, Decision::Steered),
                (other, _) => (XDP_PASS, other),
            };
            assert_eq!(run(&mut program, &frame), expected, "{name}, socket: {with_socket}");
        }
    }
}

#[test]
#[ignore = "requires root: loads a program into the kernel"]
fn every_frame_of_the_table_cut_anywhere_is_judged_as_on_the_host() {
    let mut program = Program::load(LoadOptions::default()).unwrap();
    let rules = [frames::rule()];
    program.set_rules(&rules).unwrap();
    let socket = af_xdp_socket();
    program.set_socket(0, socket.as_fd()).unwrap();
    for frames::Case { name, frame, .. } in frames::table() {
        for len in SHORTEST..=frame.len() {
            let cut = &frame[..len];
            assert_eq!(run(&mut program, cut).1, decide(&parse(cut), &rules), "{name}, cut at {len}");
        }
    }
}

#[test]
#[ignore = "requires root: loads a program into the kernel"]
fn without_a_rule_everything_is_the_stacks() {
    let mut program = Program::load(LoadOptions::default()).unwrap();
    let socket = af_xdp_socket();
    program.set_socket(0, socket.as_fd()).unwrap();
    for frames::Case { name, frame, .. } in frames::table() {
        let (action, decision) = run(&mut program, &frame);
        assert_eq!(action, XDP_PASS, "{name}");
        assert_eq!(decision, decide(&parse(frame.as_slice()), &[]), "{name}");
    }
}

#[test]
#[ignore = "requires root: loads a program into the kernel"]
fn the_last_of_all_rules_is_reached_and_rules_can_be_taken_back() {
    let mut program = Program::load(LoadOptions::default()).unwrap();
    let socket = af_xdp_socket();
    program.set_socket(0, socket.as_fd()).unwrap();
    let never =
        Rule { mask: frames::rule().mask, value: umemd_common::Key { dst_port: 9, ..frames::rule().value } };
    let mut rules = vec![never; MAX_RULES as usize];
    *rules.last_mut().unwrap() = frames::rule();
    let frame = &frames::table()[0].frame;

    program.set_rules(&rules).unwrap();
    assert_eq!(run(&mut program, frame), (XDP_REDIRECT, Decision::Steered));
    program.set_rules(&rules[..rules.len() - 1]).unwrap();
    assert_eq!(run(&mut program, frame), (XDP_PASS, Decision::Unmatched));
    program.set_rules(&[]).unwrap();
    assert_eq!(run(&mut program, frame), (XDP_PASS, Decision::Unmatched));

    rules.push(never);
    let error = program.set_rules(&rules).unwrap_err();
    assert!(matches!(error, MapError::TooManyRules { entries: 65 }), "{error}");
}

#[test]
#[ignore = "requires root: loads a program into the kernel"]
fn all_takes_even_what_cannot_be_read() {
    let mut program = Program::load(LoadOptions::default()).unwrap();
    program.set_rules(&[Rule::ALL]).unwrap();
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
    program.set_rules(&[Rule::ALL]).unwrap();
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

/// Loads on a thread of its own that has these capabilities only.
fn load_with(effective: CapabilitySet, options: LoadOptions) -> Result<(), LoadError> {
    std::thread::spawn(move || {
        let sets = capabilities(None).unwrap();
        set_capabilities(None, CapabilitySets { effective, ..sets }).unwrap();
        Program::load(options).map(drop)
    })
    .join()
    .unwrap()
}

#[test]
#[ignore = "requires root: loads a program into the kernel"]
fn two_capabilities_are_enough_and_a_missing_one_is_named() {
    let quiet = LoadOptions::default();
    let (bpf, net_admin) = (CapabilitySet::BPF, CapabilitySet::NET_ADMIN);
    load_with(bpf | net_admin, quiet).unwrap();
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
    load_with(two | CapabilitySet::PERFMON, LoadOptions { log: true, ..LoadOptions::default() }).unwrap();
    let error = load_with(two, LoadOptions { log: true, ..LoadOptions::default() }).unwrap_err();
    assert!(error.to_string().contains(": CAP_PERFMON missing"), "{error}");
}
