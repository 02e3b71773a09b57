//! Rules that change while frames move.

use std::{
    io::{Read as _, Write as _},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use e2e::{
    agent::Agent,
    lab::{Lab, LabConfig, OTHER_PORT, PORT, STEER},
    rules::{names, packets, rule},
    scratch::Scratch,
    veth::{VethConfig, VethPair},
    wait::{PATIENCE, wait_until},
    wire::{WINDOW, Wire, any_size},
};
use serde_json::json;

const REFLECT: [&str; 4] = ["--steer", STEER, "--handler", "reflect"];
/// The rule for [`OTHER_PORT`].
const OTHER: &str = "udp dst port 7008";

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn rules_come_and_go_and_the_others_go_on_counting() {
    let Some(lab) = Lab::new() else { return };
    let near = &lab.pair().near;
    let agent = lab.agent(&REFLECT).start();
    let program = near.xdp_program();
    let [taken, other] = [PORT, OTHER_PORT].map(|port| Wire::connect(&lab.far, near.port(port)));
    let stack = Wire::listen(&lab.near, near.port(OTHER_PORT));
    taken.reflect(WINDOW, any_size);
    other.send(0..WINDOW, any_size);
    stack.expect(0..WINDOW, any_size, PATIENCE);

    let added = agent.tell(&["rule", "add", OTHER, "--name", "more", "--at", "1", "--json"]).json();
    assert_eq!(added, json!({"rules": 2, "default": "pass", "added": ["more"]}));
    other.reflect(WINDOW, any_size);
    taken.reflect(WINDOW, any_size);
    assert_eq!(stack.drain(), 0, "it is steered now");
    assert_eq!((packets(&agent, "more"), packets(&agent, "rule1")), (WINDOW, 2 * WINDOW));

    // First match decides; the rule behind loses nothing but what the one in front takes.
    agent.tell(&["rule", "add", STEER, "--name", "front", "--action", "drop", "--at", "1"]).ok();
    taken.send(0..WINDOW, any_size);
    agent.metrics_when("all are dropped", |m| m.verdicts("dropped") == WINDOW);
    assert_eq!((packets(&agent, "front"), packets(&agent, "rule1")), (WINDOW, 2 * WINDOW));
    assert_eq!(names(&agent), ["front", "more", "rule1"]);

    agent.tell(&["rule", "del", "front", "more"]).ok();
    taken.reflect(WINDOW, any_size);
    other.send(0..WINDOW, any_size);
    stack.expect(0..WINDOW, any_size, PATIENCE);
    assert_eq!(packets(&agent, "rule1"), 3 * WINDOW, "over three changes");
    agent
        .metrics_when("the rule in the metrics", |m| m.total("umemd_steer_rule_packets_total") == 3 * WINDOW);

    let text = agent.tell(&["rule", "list"]).ok();
    assert!(text.contains("rule1    steer               192"), "{text}");
    assert_eq!(near.xdp_program(), program, "nothing was attached again");
    agent.terminate();
    assert_eq!(agent.wait().summary()["rx_packets"], 4 * WINDOW);
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_set_that_is_replaced_under_traffic_is_never_seen_by_half() {
    const ROUNDS: u64 = 60;
    let Some(lab) = Lab::new() else { return };
    let near = &lab.pair().near;
    // Both sets take both ports; each rule takes the other's frames in the other set, by another shape. With half of
    // either, frames of one port are nobody's, and go to the stack.
    let port = |port: u16| format!("udp dst port {port}");
    let from = |port: u16| format!("src host {} and udp dst portrange {port}-{port}", lab.pair().far.ip);
    let set = |x: String, y: String| {
        format!("[[rule]]\nname = 'x'\nmatch = '{x}'\n[[rule]]\nname = 'y'\nmatch = '{y}'\n")
    };
    let sets = [
        Scratch::new("a.toml", &set(port(PORT), port(OTHER_PORT))),
        Scratch::new("b.toml", &set(from(OTHER_PORT), from(PORT))),
    ];
    let agent = lab.agent(&["--config", sets[0].path(), "--handler", "reflect"]).start();
    let program = near.xdp_program();

    let replaced = AtomicBool::new(false);
    let mut sent = 0;
    thread::scope(|scope| {
        let replacing = scope.spawn(|| {
            for round in 1..=ROUNDS {
                agent.tell(&["rule", "replace", "--file", sets[(round % 2) as usize].path()]).ok();
            }
            replaced.store(true, Ordering::Relaxed);
        });
        let wires = [PORT, OTHER_PORT].map(|port| Wire::connect(&lab.far, near.port(port)));
        while !replaced.load(Ordering::Relaxed) {
            for wire in &wires {
                wire.reflect(WINDOW, any_size);
                sent += WINDOW;
            }
        }
        replacing.join().expect("every set was taken");
    });

    let metrics = agent.metrics();
    assert_eq!(packets(&agent, "x") + packets(&agent, "y"), sent, "each is counted by exactly one");
    for none in ["unmatched", "passed", "dropped", "no_socket", "other_queue"] {
        assert_eq!(metrics.verdicts(none), 0, "{none}");
    }
    assert_eq!(metrics.verdicts("steered"), sent);
    assert!(sent > ROUNDS, "{sent} frames over {ROUNDS} changes");
    assert_eq!(near.xdp_program(), program, "nothing was attached again");
    agent.terminate();
    assert_eq!(agent.wait().summary()["tx_packets"], sent);
}

/// A veth has a tag beside the frame where the other end leaves it there.
#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn who_adds_a_rule_about_tags_learns_that_they_are_taken_away() {
    let Some(lab) = Lab::new() else { return };
    // Of the lab's pair nobody here can ask the other end; this one has both ends here.
    let both = VethPair::new(&lab.near, &lab.near, VethConfig { number: 7, queues: 1, mtu: 1500 });
    for (near, mend) in [
        (&lab.pair().near, "leave them in: ethtool -K NAME txvlan off tx-vlan-stag-hw-insert off"),
        (&both.near, "leave them in: ethtool -K far7 txvlan off tx-vlan-stag-hw-insert off"),
    ] {
        let agent = lab.agent_on(&REFLECT).args(["--iface", near.name.as_str()]).start();
        let add = |expression| agent.tell(&["rule", "add", expression, "--json"]);
        assert_eq!(add(OTHER).stderr, "", "no tag is looked for");
        // Each time, and not only at the first; whatever this end is told.
        near.ethtool("-K", &["rxvlan", "off", "rx-vlan-stag-hw-parse", "off"]);
        for expression in ["vlan 5", "vlan 6 and arp", "ether proto 0x8100"] {
            let told = add(expression);
            assert!(told.stderr.contains(mend), "{}", told.stderr);
            assert!(told.json()["warnings"][0].as_str().expect("a sentence").contains(mend));
        }
        assert!(agent.stderr().contains(mend));
        if near.name == both.near.name {
            both.far.ethtool("-K", &["txvlan", "off"]);
            assert!(add("vlan 7").stderr.contains("-K far7 tx-vlan-stag-hw-insert off"));
            both.far.ethtool("-K", &["tx-vlan-stag-hw-insert", "off"]);
            assert_eq!(add("vlan 8").stderr, "");
        }
        agent.terminate();
        agent.wait().summary();
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_rule_may_be_limited_to_queues() {
    let Some(lab) = Lab::with(LabConfig { queues: 2, ..LabConfig::default() }) else { return };
    let near = &lab.pair().near;
    let agent = lab.agent(&["--steer", OTHER, "--handler", "reflect"]).start();
    let told = agent.tell(&["rule", "add", STEER, "--name", "first", "--queues", "0"]);
    assert_eq!((told.code, &told.stderr[..]), (Some(0), ""));
    let told = agent.tell(&["rule", "add", OTHER, "--name", "nowhere", "--queues", "5"]);
    assert!(told.stderr.contains("rule `nowhere` steers nothing on near0"), "{}", told.stderr);
    let stack = Wire::listen(&lab.near, near.port(PORT));
    let (mut sent, mut passed) = (0, 0);
    // Which queue a flow takes is the kernel's to choose.
    wait_until("both queues have been used", PATIENCE, || {
        Wire::connect(&lab.far, near.port(PORT)).send(0..1, |_| 100);
        sent += 1;
        agent.metrics_when("the frame is decided", |m| {
            m.verdicts("steered") + m.verdicts("other_queue") == sent
        });
        passed += stack.drain();
        let metrics = agent.metrics();
        metrics.verdicts("steered") > 0 && metrics.verdicts("other_queue") > 0
    });
    let metrics = agent.metrics();
    wait_until("the stack has the others", PATIENCE, || {
        passed += stack.drain();
        passed == metrics.verdicts("other_queue")
    });
    assert_eq!(packets(&agent, "first"), sent, "a match is a match on every queue");
    assert_eq!(rule(&agent, "first")["queues"], json!([0]));
    agent.terminate();
    agent.wait().summary();
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn what_is_refused_changes_nothing() {
    let Some(lab) = Lab::new() else { return };
    let agent = lab.agent(&REFLECT).start();
    let bad = Scratch::new("bad.toml", "[[rule]]\nmatch = 'udp dst prot 7'\n");
    let before = agent.tell(&["rule", "list", "--json"]).json();
    for (args, code, said) in [
        (&["rule", "add", "udp dst prot 7"][..], 2, "        ^^^^"),
        (&["rule", "add", "arp", "--name", "rule1"], 2, "two rules are called `rule1`"),
        (&["rule", "add", "arp", "--name", "a b"], 2, "no name for a rule"),
        (&["rule", "add", "arp", "--at", "3"], 2, "there is no place 3"),
        (&["rule", "add", "arp", "--queues", "64"], 2, "queue 64"),
        (&["rule", "del", "rule1", "rule9"], 2, "there is no rule `rule9`; there are: rule1"),
        (&["rule", "replace", "arp", "quic"], 2, "quic"),
        (&["rule", "replace", "--file", bad.path()], 2, "line 2: bad rule"),
        (&["rule", "replace"], 2, "RULE"),
        (&["reload"], 1, "started without --config"),
    ] {
        let stderr = agent.tell(args).refused(code);
        assert!(stderr.contains(said), "{args:?}: expected {said:?}:\n{stderr}");
    }
    assert_eq!(agent.tell(&["rule", "list", "--json"]).json(), before);
    Wire::connect(&lab.far, lab.pair().near.port(PORT)).reflect(WINDOW, any_size);
    agent.terminate();
    agent.wait().summary();
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn changes_that_come_at_once_are_done_one_after_the_other() {
    const EACH: usize = 12;
    let Some(lab) = Lab::new() else { return };
    let agent = lab.agent(&REFLECT).start();
    let wire = Wire::connect(&lab.far, lab.pair().near.port(PORT));
    thread::scope(|scope| {
        for client in 0..4 {
            let agent = &agent;
            scope.spawn(move || {
                for n in 0..EACH {
                    let port = format!("udp dst port {}", 9000 + client * EACH + n);
                    agent
                        .tell(&["rule", "add", &port, "--name", &format!("c{client}.{n}"), "--at", "1"])
                        .ok();
                    if n % 2 == 1 {
                        agent.tell(&["rule", "del", &format!("c{client}.{}", n - 1)]).ok();
                    }
                }
            });
        }
        wire.reflect(4 * WINDOW, any_size);
    });
    let mut names = names(&agent);
    assert_eq!(names.pop().as_deref(), Some("rule1"));
    assert_eq!(names.len(), 4 * EACH / 2, "none was lost: {names:?}");
    assert_eq!(packets(&agent, "rule1"), 4 * WINDOW);
    let text = agent.tell(&["status"]).ok();
    assert!(text.contains("and 17 more; `umemd rule list` shows them"), "{text}");
    agent.terminate();
    assert_eq!(agent.wait().summary()["tx_packets"], 4 * WINDOW);
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn nobody_is_locked_out_by_a_rule_that_comes_later() {
    let Some(lab) = Lab::new() else { return };
    let near = &lab.pair().near;
    let agent = lab.agent(&REFLECT).start();
    let (client, _server) = lab.connection(near.port(PORT));
    let ends = [near.port(PORT).to_string(), client.local_addr().expect("connected").to_string()];
    let all = Scratch::new("all.toml", "[[rule]]\nmatch = 'tcp'\naction = 'drop'\n");
    for args in [
        &["rule", "add", "all"][..],
        &["rule", "add", "tcp dst port 7007", "--action", "drop"],
        &["rule", "replace", "udp", "tcp"],
        &["rule", "replace", "--file", all.path()],
        &["rule", "default", "drop"],
        &["rule", "replace", STEER, "--default", "drop"],
    ] {
        let stderr = agent.tell(args).refused(1);
        for words in [&ends[0], &ends[1], "near0", "--force"] {
            assert!(stderr.contains(words), "{args:?}: expected {words:?}:\n{stderr}");
        }
    }
    assert_eq!(names(&agent), ["rule1"]);

    // With a rule that lets it pass, the rest may go. Then that rule is what keeps it.
    agent
        .tell(&["rule", "add", "tcp port 7007 or arp", "--name", "keep", "--action", "pass", "--at", "1"])
        .ok();
    agent.tell(&["rule", "default", "drop"]).ok();
    let stderr = agent.tell(&["rule", "del", "keep"]).refused(1);
    assert!(stderr.contains(&ends[0]) && stderr.contains("the default, drop"), "{stderr}");

    // Whoever forces it gets it, and is not asked again about what is cut already.
    agent.tell(&["rule", "del", "keep", "--force"]).ok();
    agent.tell(&["rule", "add", OTHER]).ok();
    agent.terminate();
    agent.wait().summary();
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn an_interface_that_comes_back_gets_the_rules_of_the_day() {
    let Some(lab) = Lab::new() else { return };
    let agent = lab.agent(&REFLECT).start();
    agent.tell(&["rule", "replace", OTHER]).ok();
    lab.pair().remove();
    wait_until("/readyz tells", PATIENCE, || agent.get("/readyz").status == 503);
    // Also those that come while it is away.
    agent.tell(&["rule", "add", STEER, "--name", "late"]).ok();
    lab.lay(0);
    wait_until("/readyz says ok", PATIENCE, || agent.get("/readyz").status == 200);
    for port in [PORT, OTHER_PORT] {
        Wire::connect(&lab.far, lab.pair().near.port(port)).reflect(WINDOW, any_size);
    }
    assert_eq!((packets(&agent, "rule1"), packets(&agent, "late")), (WINDOW, WINDOW));
    agent.terminate();
    agent.wait().summary();
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn an_interface_that_comes_back_locks_nobody_out() {
    let Some(lab) = Lab::with(LabConfig { queues: 2, ..LabConfig::default() }) else { return };
    let (near, far) = (&lab.pair().near, &lab.pair().far);
    far.ethtool("-L", &["tx", "1"]);
    near.ethtool("-L", &["rx", "1"]);
    let agent = lab.agent(&REFLECT).start();
    let (mut client, (_listener, mut server)) = lab.connection(near.port(PORT));

    // A rule that comes while the interface is away finds nobody whom it could cut off.
    near.set(&["down"]);
    near.ethtool("-L", &["rx", "2"]);
    wait_until("it is away", PATIENCE, || agent.get("/readyz").status == 503);
    agent.tell(&["rule", "add", "tcp", "--name", "cut", "--action", "drop"]).ok();
    near.set(&["up"]);
    lab.again(0);
    let cut = near.port(PORT).to_string();
    wait_until("it is not served by that rule", PATIENCE, || {
        agent
            .stderr()
            .lines()
            .any(|line| line.contains("not opened again") && line.contains("will not attach"))
    });
    assert!(agent.stderr().contains(&cut), "{}", agent.stderr());
    client.write_all(b"still").expect("connected");
    let mut heard = [0; 5];
    server.read_exact(&mut heard).expect("connected");
    assert_eq!(&heard, b"still");
    assert_eq!(agent.get("/readyz").status, 503);

    agent.tell(&["rule", "del", "cut"]).ok();
    wait_until("it is served without", PATIENCE, || agent.get("/readyz").status == 200);
    Wire::connect(&lab.far, near.port(PORT)).reflect(WINDOW, any_size);
    agent.terminate();
    agent.wait().summary();
}

/// Takes the near end away from the agent, and gives it back, with more queues than it had, once `f` is done.
fn while_away(lab: &Lab, agent: &Agent, queues: u32, f: impl FnOnce()) {
    let near = &lab.pair().near;
    near.set(&["down"]);
    near.ethtool("-L", &["rx", &queues.to_string()]);
    wait_until("it is away", PATIENCE, || agent.get("/readyz").status == 503);
    f();
    near.set(&["up"]);
    lab.again(0);
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn an_interface_that_comes_back_is_served_by_what_was_forced_and_by_nothing_else() {
    const FORCED: &str = "tcp dst port 7007";
    let Some(lab) = Lab::with(LabConfig { queues: 4, ..LabConfig::default() }) else { return };
    let (near, far) = (&lab.pair().near, &lab.pair().far);
    far.ethtool("-L", &["tx", "1"]);
    near.ethtool("-L", &["rx", "1"]);
    let (_client, _server) = lab.connection(near.port(PORT));
    let (_other_client, _other_server) = lab.connection(near.port(OTHER_PORT));
    let agent = lab.agent(&[&REFLECT[..], &["--steer", FORCED, "--force"]].concat()).start();
    let is_served = || agent.get("/readyz").status == 200;

    while_away(&lab, &agent, 2, || {
        agent.tell(&["rule", "add", OTHER, "--name", "harmless"]).ok();
    });
    wait_until("it is served, though a rule cuts somebody off", PATIENCE, is_served);
    while_away(&lab, &agent, 3, || {
        agent.tell(&["rule", "add", "tcp dst port 7008", "--name", "cut", "--action", "drop"]).ok();
    });
    wait_until("it is not served by a rule that nobody forced", PATIENCE, || {
        agent
            .stderr()
            .lines()
            .any(|line| line.contains("not opened again") && line.contains("will not attach"))
    });
    let said = agent.stderr();
    assert!(said.contains(&near.port(OTHER_PORT).to_string()), "{said}");
    assert!(!said.contains(&near.port(PORT).to_string()), "{said}");
    agent.tell(&["rule", "del", "cut"]).ok();
    wait_until("it is served without", PATIENCE, is_served);

    while_away(&lab, &agent, 4, || {
        let cut = ["rule", "add", "tcp dst port 7008", "--name", "cut", "--action", "drop", "--force"];
        agent.tell(&cut).ok();
    });
    wait_until("it is served by what was forced while it was away", PATIENCE, is_served);
    agent.terminate();
    agent.wait().summary();
}
