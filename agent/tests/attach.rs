//! Attaching to a veth in a network namespace of the test's own: who was there first stays, and what is
//! attached goes with its link.

use std::process::Command;

use aya::test_helpers::NetNsGuard;
use umemd::ebpf::{AttachError, LoadOptions, Mode, Program};
use umemd::nic::{self, Link};

/// A namespace with a veth pair in it, both ends up; gone when dropped.
struct Veth(#[expect(dead_code, reason = "held for its drop")] NetNsGuard);

impl Veth {
    fn new() -> Self {
        let guard = NetNsGuard::new().unwrap();
        ip("link add near type veth peer name far");
        ip("link set near up");
        ip("link set far up");
        Self(guard)
    }

    fn near(&self) -> Link {
        let links = nic::links().unwrap();
        nic::find(&links, "near", None).unwrap().clone()
    }
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("iproute2 is installed");
    assert!(status.success(), "ip {arguments}");
}

fn load() -> Program {
    Program::load(LoadOptions::default()).unwrap()
}

#[test]
#[ignore = "requires root: attaches to a veth in a network namespace"]
fn the_program_runs_in_the_mode_asked_for_until_it_is_detached_or_dropped() {
    let veth = Veth::new();
    for mode in [Mode::Native, Mode::Skb] {
        let mut program = load();
        program.attach(&veth.near(), mode).unwrap();
        let attached = veth.near().xdp.expect("attached");
        assert_eq!((attached.mode, attached.program_id), (mode.to_string().as_str(), program.id()));
        program.detach();
        assert_eq!(veth.near().xdp, None, "detached");

        program.attach(&veth.near(), mode).unwrap();
        drop(program);
        assert_eq!(veth.near().xdp, None, "dropped");
    }
}

#[test]
#[ignore = "requires root: attaches to a veth in a network namespace"]
fn a_program_that_was_there_first_stays_and_is_named() {
    let veth = Veth::new();
    let mut first = load();
    first.attach(&veth.near(), Mode::Native).unwrap();

    for mode in [Mode::Native, Mode::Skb] {
        let error = load().attach(&veth.near(), mode).unwrap_err();
        assert!(matches!(&error, AttachError::Occupied { id, .. } if *id == Some(first.id())), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(&format!("id {}", first.id())) && text.starts_with("near"), "{text}");
        assert_eq!(veth.near().xdp.map(|xdp| xdp.program_id), Some(first.id()), "in {mode} mode");
    }
}

#[test]
#[ignore = "requires root: attaches to a veth in a network namespace"]
fn a_driver_without_native_xdp_is_told_from_other_troubles() {
    let _veth = Veth::new();
    let links = nic::links().unwrap();
    let loopback = nic::find(&links, "lo", None).unwrap();
    let mut program = load();

    let error = program.attach(loopback, Mode::Native).unwrap_err();
    assert!(matches!(error, AttachError::NoNative { .. }), "{error:?}");
    assert!(error.to_string().contains("--mode skb"), "{error}");
    program.attach(loopback, Mode::Skb).unwrap();
}

#[test]
#[ignore = "requires root: attaches to a veth in a network namespace"]
fn an_interface_that_went_away_is_an_error() {
    let veth = Veth::new();
    let near = veth.near();
    ip("link del near");
    let error = load().attach(&near, Mode::Native).unwrap_err();
    assert!(matches!(error, AttachError::Kernel { .. }), "{error:?}");
}
