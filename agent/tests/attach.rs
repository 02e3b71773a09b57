//! Attaching to a veth in a network namespace of the test's own: who was there first stays, and what is
//! attached goes with its link.

use std::process::Command;

use aya::programs::loaded_links;
use aya::test_helpers::NetNsGuard;
use umemd::ebpf::{AttachError, LoadOptions, Mode, Program};
use umemd::nic::{self, Link};
use umemd::steer::{RuleSet, compile};

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

/// The kernel's id of the link by which this program is attached.
fn link_of(program: u32) -> u32 {
    let mut links = loaded_links().map(|link| link.unwrap());
    links.find(|link| link.program_id() == program).expect("it is attached by a link").id()
}

#[test]
#[ignore = "requires root: attaches to a veth in a network namespace"]
fn a_program_takes_the_place_of_another_by_the_same_link() {
    let veth = Veth::new();
    for mode in [Mode::Native, Mode::Skb] {
        let mut old = load();
        let before = compile(&["arp", "ip"]).unwrap();
        old.set_rules(&before).unwrap();
        old.attach(&veth.near(), mode).unwrap();
        let link = link_of(old.id());
        let mut arp = [0; 60];
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        old.test_run(&arp).unwrap();

        let mut old = old.retire();
        assert_eq!(veth.near().xdp.unwrap().program_id, old.id(), "it stays attached");
        // Another variant, as for a longer MTU; with rules of which one is known.
        let mut new = Program::load(LoadOptions { frags: true, ..LoadOptions::default() }).unwrap();
        let first = compile(&["arp"]).unwrap().named_as_in(&before);
        new.set_rules(&first).unwrap();
        new.replace(&mut old, &veth.near(), mode).unwrap();
        drop(old);
        let attached = veth.near().xdp.unwrap();
        assert_eq!((attached.mode, attached.program_id), (mode.to_string().as_str(), new.id()));
        assert_eq!(link_of(new.id()), link, "nothing was detached");

        new.test_run(&arp).unwrap();
        let counts = new.rule_counts().unwrap();
        assert_eq!((counts.len(), counts[0].count.packets, counts[0].count.bytes), (1, 2, 120));
        // A rule that goes and comes back begins anew.
        new.set_rules(&compile(&["ip", "ip6"]).unwrap().named_as_in(&first)).unwrap();
        assert_eq!(new.rule_counts().unwrap()[0].count.packets, 2, "rule1 is still rule1");
        let none = RuleSet::default();
        new.set_rules(&none).unwrap();
        new.set_rules(&compile(&["arp"]).unwrap().named_as_in(&none)).unwrap();
        assert_eq!(new.rule_counts().unwrap()[0].count.packets, 0);
        drop(new);
        assert_eq!(veth.near().xdp, None, "one link, and it is gone");
    }
}

#[test]
#[ignore = "requires root: attaches to a veth in a network namespace"]
fn a_program_that_the_driver_refuses_leaves_the_other_where_it_is() {
    let veth = Veth::new();
    // The other end's packets are longer than one buffer: veth takes no program that knows only one.
    let mut old = Program::load(LoadOptions { frags: true, ..LoadOptions::default() }).unwrap();
    old.attach(&veth.near(), Mode::Native).unwrap();
    ip("link set far mtu 9000");
    let (id, link) = (old.id(), link_of(old.id()));
    let mut old = old.retire();

    let mut new = load();
    let error = new.replace(&mut old, &veth.near(), Mode::Native).unwrap_err();
    assert!(matches!(error, AttachError::Kernel { .. }), "{error:?}");
    drop(new);
    assert_eq!(veth.near().xdp.map(|xdp| xdp.program_id), Some(id), "it is attached still");
    let mut other = Program::load(LoadOptions { frags: true, ..LoadOptions::default() }).unwrap();
    other.replace(&mut old, &veth.near(), Mode::Native).unwrap();
    assert_eq!(link_of(other.id()), link, "and can be replaced still");
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
