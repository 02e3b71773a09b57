//! What happens to interfaces while they are served.

use std::{fs, path::Path};

use e2e::{
    agent::Agent,
    command::ip,
    exit::assert_conserved,
    lab::{Lab, LabConfig, MODES, PORT, STEER},
    privilege::{QUEUE_GET, kernel_has},
    thread::StoppedThread,
    wait::{PATIENCE, wait_until},
    wire::{WINDOW, Wire, any_size},
};

const REFLECT: [&str; 4] = ["--steer", STEER, "--handler", "reflect"];

fn reflecting(lab: &Lab, args: &[&str]) -> Agent {
    lab.agent(&[&REFLECT, args].concat()).start()
}

fn wire(lab: &Lab) -> Wire {
    Wire::connect(&lab.far, lab.pair().near.port(PORT))
}

/// CPU time of a process so far: ticks of 1/100 s, of user and system.
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process has a stat");
    let fields: Vec<&str> = stat.rsplit_once(") ").expect("a name in brackets").1.split(' ').collect();
    fields[11].parse::<u64>().expect("ticks") + fields[12].parse::<u64>().expect("ticks")
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn traffic_goes_on_when_a_link_was_down() {
    for mode in MODES {
        let Some(lab) = Lab::new() else { return };
        let (agent, near) = (reflecting(&lab, &["--mode", mode]), &lab.pair().near);
        let program = near.xdp_program();
        wire(&lab).reflect(WINDOW, any_size);

        for round in 1..=2 {
            near.set(&["down"]);
            let before = ticks(agent.pid());
            // Longer than the watchdog is patient, and than interfaces are left alone.
            let looks = agent.objects().len();
            wait_until("two seconds have passed", PATIENCE, || agent.objects().len() >= looks + 2);
            let used = ticks(agent.pid()) - before;
            assert!(used < 100, "{mode}: a link that is down takes {used} of 200 ticks of CPU time");
            near.set(&["up"]);
            lab.again(0);
            wire(&lab).reflect(WINDOW, any_size);
            assert_eq!(agent.metrics().total("umemd_rx_packets_total"), (round + 1) * WINDOW, "{mode}");
        }

        assert_eq!(near.xdp_program(), program, "{mode}: it was not attached again");
        agent.terminate();
        assert_eq!(agent.wait().summary()["tx_packets"], 3 * WINDOW, "{mode}");
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn an_interface_that_is_made_again_is_served_again() {
    const ROUNDS: u64 = 3;
    for mode in MODES {
        let Some(lab) = Lab::new() else { return };
        let agent = reflecting(&lab, &["--mode", mode]);
        wire(&lab).reflect(WINDOW, any_size);

        for _ in 0..ROUNDS {
            lab.pair().remove();
            wait_until("/readyz tells", PATIENCE, || {
                agent.get("/readyz").body == "near0 is away: near0 was removed\n"
                    || agent.get("/readyz").body.starts_with("near0 is away: there is no interface near0")
            });
            assert_eq!(agent.metrics_anyhow().total("umemd_device_up"), 0);
            lab.lay(0);
            wait_until("/readyz says ok", PATIENCE, || agent.get("/readyz").status == 200);
            wire(&lab).reflect(WINDOW, any_size);
        }

        agent.terminate();
        let exit = agent.wait();
        let summary = exit.summary();
        assert_eq!(summary["rx_packets"], (ROUNDS + 1) * WINDOW, "{mode}: those before count: {summary}");
        assert_eq!(summary["frames"]["total"], 4096, "{mode}: the last UMEM, and no other: {summary}");
        assert_eq!(exit.stderr.matches("near0 was removed").count() as u64, ROUNDS, "{mode}: {exit}");
        assert_eq!(exit.stderr.matches("near0: served again").count() as u64, ROUNDS, "{mode}: {exit}");
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn an_interface_that_stays_away_is_no_success() {
    let Some(lab) = Lab::new() else { return };
    let agent = reflecting(&lab, &[]);
    wire(&lab).reflect(WINDOW, any_size);
    lab.pair().remove();
    wait_until("/readyz tells", PATIENCE, || agent.get("/readyz").status == 503);
    // Whoever restarts what is not well leaves alone what waits.
    assert_eq!(agent.get("/healthz").status, 200);

    agent.terminate();

    let exit = agent.wait();
    assert_eq!(exit.code, Some(1), "{exit}");
    let summary = exit.summary.as_ref().expect("a summary");
    assert_conserved(summary);
    assert_eq!(summary["rx_packets"], WINDOW, "{summary}");
    assert_eq!(summary["frames"]["total"], 0, "{summary}");
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn of_two_interfaces_the_other_one_goes_on() {
    let Some(lab) = Lab::with(LabConfig { pairs: 2, ..LabConfig::default() }) else { return };
    let agent = reflecting(&lab, &[]);
    lab.pair().remove();
    wait_until("/readyz tells", PATIENCE, || agent.get("/readyz").status == 503);
    Wire::connect(&lab.far, lab.pairs()[1].near.port(PORT)).reflect(WINDOW, any_size);

    lab.lay(0);
    wait_until("/readyz says ok", PATIENCE, || agent.get("/readyz").status == 200);
    wire(&lab).reflect(WINDOW, any_size);
    agent.terminate();
    assert_eq!(agent.wait().summary()["rx_packets"], 2 * WINDOW);
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn both_sides_of_a_forward_are_made_again_with_either() {
    for mode in MODES {
        let Some(lab) = Lab::with(LabConfig { pairs: 2, beyond: true, ..LabConfig::default() }) else {
            return;
        };
        let forward = ["--iface", "near0", "--handler", "forward", "--to", "near1", "--steer", STEER];
        let agent = lab.agent_on(&[&forward[..], &["--mode", mode]].concat()).start();
        let exchange = || {
            let (here, there) = (lab.pairs()[0].far.port(PORT), lab.pairs()[1].far.port(PORT));
            let here = Wire::between(&lab.far, here, there);
            let there = Wire::listen(lab.beyond.as_ref().expect("a third namespace"), there);
            here.send_to(&there, WINDOW, any_size);
        };
        exchange();
        for pair in [1, 0] {
            lab.pairs()[usize::from(pair)].remove();
            wait_until("/readyz tells", PATIENCE, || agent.get("/readyz").body.lines().count() == 2);
            lab.again(pair);
            wait_until("/readyz says ok", PATIENCE, || agent.get("/readyz").status == 200);
            exchange();
        }
        agent.terminate();
        assert_eq!(agent.wait().summary()["tx_packets"], 3 * WINDOW, "{mode}");
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_changed_number_of_queues_is_served() {
    let Some(lab) = Lab::with(LabConfig { queues: 3, ..LabConfig::default() }) else { return };
    let (near, far) = (&lab.pair().near, &lab.pair().far);
    far.ethtool("-L", &["tx", "1"]);
    near.ethtool("-L", &["rx", "1"]);
    let agent = reflecting(&lab, &["--frames", "512"]);
    let queues = || agent.metrics_anyhow().label_values("umemd_rx_packets_total", "queue");
    assert_eq!(queues(), ["0"]);
    wire(&lab).reflect(WINDOW, any_size);
    let links = agent.xdp_links();
    assert_eq!(links.len(), 1);

    near.ethtool("-L", &["rx", "3"]);
    wait_until("three queues are served", PATIENCE, || queues() == ["0", "1", "2"]);
    wait_until("/readyz says ok", PATIENCE, || agent.get("/readyz").status == 200);
    wire(&lab).reflect(WINDOW, any_size);
    assert_eq!(agent.xdp_links(), links, "nothing was detached, which would bounce the link of some NICs");

    agent.terminate();
    let exit = agent.wait();
    assert_eq!(exit.summary()["rx_packets"], 2 * WINDOW, "{exit}");
    assert!(exit.stderr.contains("near0 has 3 queues now, not 1"), "{exit}");
}

/// What its interface is closed for waits for it, and nothing else does.
#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_worker_that_hangs_while_its_interface_changes_holds_up_nobody_else() {
    let config = LabConfig { queues: 2, pairs: 2, ..LabConfig::default() };
    let Some(lab) = Lab::with(config) else { return };
    let (near, far) = (&lab.pair().near, &lab.pair().far);
    // No more than what the near end has when that is one (veth_xdp_set).
    far.ethtool("-L", &["tx", "1"]);
    let shown = |agent: &Agent, what: &str| {
        wait_until(what, PATIENCE, || agent.get("/readyz").body.contains(what));
    };
    let hang_and_change = || {
        near.ethtool("-L", &["rx", "1"]);
        let agent = reflecting(&lab, &["--frames", "512"]);
        let worker = StoppedThread::stop(agent.pid(), "near0/0");
        near.ethtool("-L", &["rx", "2"]);
        shown(&agent, "near0 is away: near0 has 2 queues now, not 1");
        (agent, worker)
    };

    let (agent, worker) = hang_and_change();
    let other = StoppedThread::stop(agent.pid(), "near1/0");
    shown(&agent, "near1 queue 0 does not get its traffic");
    other.resume();
    worker.resume();
    wait_until("both are served", PATIENCE, || agent.get("/readyz").status == 200);
    wire(&lab).reflect(WINDOW, any_size);
    agent.terminate();
    let exit = agent.wait();
    assert_eq!(exit.summary()["rx_packets"], WINDOW, "{exit}");

    let (agent, worker) = hang_and_change();
    agent.terminate();
    wait_until("the programs are detached", PATIENCE, || {
        lab.pairs().iter().all(|pair| pair.near.xdp_program().is_none())
    });
    agent.terminate();
    worker.wait_for_its_end();
    assert_eq!(agent.wait().code, Some(130));
}

/// Queue 1 of one has nothing to be joined with, until the other has one, too.
#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_forward_waits_until_both_interfaces_have_as_many_queues() {
    let Some(lab) = Lab::with(LabConfig { pairs: 2, beyond: true, queues: 2, ..LabConfig::default() }) else {
        return;
    };
    for pair in lab.pairs() {
        pair.far.ethtool("-L", &["tx", "1"]);
        pair.near.ethtool("-L", &["rx", "1"]);
    }
    let forward = ["--iface", "near0", "--handler", "forward", "--to", "near1", "--steer", STEER];
    let agent = lab.agent_on(&[&forward[..], &["--frames", "512"]].concat()).start();
    let (here, there) = (lab.pairs()[0].far.port(PORT), lab.pairs()[1].far.port(PORT));
    let beyond = lab.beyond.as_ref().expect("a third namespace");
    let (a, b) = (Wire::between(&lab.far, here, there), Wire::between(beyond, there, here));
    a.send_to(&b, WINDOW, any_size);

    lab.pairs()[0].near.ethtool("-L", &["rx", "2"]);
    let said = "cannot forward between near0 with 2 queues and near1 with 1";
    wait_until("it is told why not", PATIENCE, || agent.stderr().contains(said));
    lab.pairs()[1].near.ethtool("-L", &["rx", "2"]);
    let queues = || agent.metrics_anyhow().label_values("umemd_rx_packets_total", "queue");
    wait_until("both queues of both are served", PATIENCE, || queues().len() == 4);
    wait_until("/readyz says ok", PATIENCE, || agent.get("/readyz").status == 200);
    a.send_to(&b, WINDOW, any_size);
    b.send_to(&a, WINDOW, any_size);

    agent.terminate();
    let exit = agent.wait();
    assert_eq!(exit.summary()["tx_packets"], 3 * WINDOW, "{exit}");
}

/// "Max queues is not active queues", as others learnt. A tun of several queues has room for 256, and one while nobody has it
/// open; no channel either.
#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn max_queues_are_not_active_queues() {
    if !kernel_has(&QUEUE_GET) {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    if !Path::new("/dev/net/tun").exists() {
        eprintln!("skipped: this machine has no /dev/net/tun");
        return;
    }
    let netns = ["-netns", lab.near.name()];
    ip(&[&netns, &["tuntap", "add", "dev", "tap0", "mode", "tap", "multi_queue"][..]].concat());
    ip(&[&netns, &["link", "set", "dev", "tap0", "up"][..]].concat());
    let agent = lab.agent_on(&["--iface", "tap0", "--mode", "skb", "--steer", STEER]).start();
    let queues = || agent.metrics_anyhow().label_values("umemd_rx_packets_total", "queue");
    assert_eq!(queues(), ["0"]);

    // Nobody tells of one that is down, which is no reason to close it.
    ip(&[&netns, &["link", "set", "dev", "tap0", "down"][..]].concat());
    let looks = agent.objects().len();
    wait_until("two seconds have passed", PATIENCE, || agent.objects().len() >= looks + 2);
    assert_eq!(queues(), ["0"]);
    agent.terminate();
    agent.wait().summary();
}

/// An interface may have fewer queues to send than to receive. The kernel says nothing of packets that are put on the
/// TX ring of another one, and takes none.
#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn queues_that_cannot_send_are_refused_to_who_sends() {
    let Some(lab) = Lab::with(LabConfig { queues: 3, ..LabConfig::default() }) else { return };
    let near = &lab.pair().near;
    near.ethtool("-L", &["rx", "3", "tx", "1"]);
    let generate = ["--handler", "generate", "--dst-mac", &lab.pair().far.mac];
    for args in [&REFLECT[..], &generate[..]] {
        let exit = lab.agent(args).run();
        assert_eq!(exit.code, Some(1), "{exit}");
        assert!(
            exit.stderr.contains("near0 cannot send on queue 1; it has 1 active transmit queue"),
            "{exit}"
        );
        assert_eq!(near.xdp_program(), None, "{exit}");
    }
    let agent = lab.agent(&["--steer", STEER, "--handler", "drop"]).start();
    let queues = |agent: &Agent| agent.metrics_anyhow().label_values("umemd_rx_packets_total", "queue");
    assert_eq!(queues(&agent), ["0", "1", "2"], "they receive");
    agent.terminate();
    agent.wait().summary();

    // While they are served, ethtool lets nobody take them away.
    let agent = reflecting(&lab, &["--queues", "0"]);
    agent.terminate();
    agent.wait().summary();
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn an_interface_that_was_renamed_is_still_the_same() {
    let Some(lab) = Lab::new() else { return };
    let netns = ["-netns", lab.near.name()];
    let agent = reflecting(&lab, &[]);
    wire(&lab).reflect(WINDOW, any_size);

    // Linux 6.2 renames what is up.
    for words in [&["near0", "down"][..], &["near0", "name", "lan0"], &["lan0", "up"]] {
        ip(&[&netns, &["link", "set", "dev"][..], words].concat());
    }
    ip(&[&netns, &["link", "set", "dev", "lan0", "mtu", "9000"][..]].concat());
    wait_until("it is served again", PATIENCE, || agent.stderr().contains("lan0: served again"));
    ip(&[
        &netns,
        &["neighbour", "replace", &lab.pair().far.ip.to_string(), "lladdr", &lab.pair().far.mac][..],
        &["dev", "lan0", "nud", "permanent"],
    ]
    .concat());
    wire(&lab).reflect(WINDOW, any_size);
    assert_eq!(agent.metrics().label_values("umemd_device_up", "device"), ["lan0"]);

    // One that is gone is waited for by the name that was asked for.
    ip(&[&netns, &["link", "delete", "dev", "lan0"][..]].concat());
    wait_until("/readyz tells", PATIENCE, || agent.get("/readyz").status == 503);
    lab.lay(0);
    wait_until("it is served again", PATIENCE, || agent.stderr().contains("near0: served again"));
    wire(&lab).reflect(WINDOW, any_size);
    agent.terminate();
    assert_eq!(agent.wait().summary()["rx_packets"], 3 * WINDOW);
}

/// The program stays where it is also while the interface cannot be opened again.
#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_reopening_that_fails_detaches_nothing() {
    let Some(lab) = Lab::with(LabConfig { queues: 2, ..LabConfig::default() }) else { return };
    let (near, far) = (&lab.pair().near, &lab.pair().far);
    far.ethtool("-L", &["tx", "1"]);
    near.ethtool("-L", &["rx", "1"]);
    let agent = reflecting(&lab, &["--frames", "512"]);
    wire(&lab).reflect(WINDOW, any_size);
    let links = agent.xdp_links();
    assert_eq!(links.len(), 1);

    near.set(&["down"]);
    near.ethtool("-L", &["rx", "2"]);
    wait_until("it cannot be opened", PATIENCE, || agent.stderr().contains("not opened again"));
    assert_eq!(agent.xdp_links(), links, "detached by the first try");
    near.set(&["up"]);
    let queues = || agent.metrics_anyhow().label_values("umemd_rx_packets_total", "queue");
    wait_until("two queues are served", PATIENCE, || queues() == ["0", "1"]);
    wait_until("/readyz says ok", PATIENCE, || agent.get("/readyz").status == 200);
    assert_eq!(agent.xdp_links(), links, "detached by a later one");
    wire(&lab).reflect(WINDOW, any_size);
    agent.metrics_when("its rule goes on counting", |m| {
        m.total("umemd_steer_rule_packets_total") == 2 * WINDOW
    });

    agent.terminate();
    assert_eq!(agent.wait().summary()["rx_packets"], 2 * WINDOW);
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_longer_mtu_is_served_with_packets_in_several_frames() {
    for mode in MODES {
        let Some(lab) = Lab::new() else { return };
        let (near, far) = (&lab.pair().near, &lab.pair().far);
        let agent = reflecting(&lab, &["--mode", mode]);
        wire(&lab).reflect(WINDOW, any_size);
        let multi_buffer = || agent.metrics_anyhow().label_values("umemd_socket_info", "multi_buffer");

        near.set(&["mtu", "9000"]);
        wait_until("several frames are taken", PATIENCE, || multi_buffer() == ["true"]);
        wait_until("/readyz says ok", PATIENCE, || agent.get("/readyz").status == 200);
        // Until then the program on the near end forbade it.
        far.set(&["mtu", "9000"]);
        wire(&lab).reflect(WINDOW, |number| 8972 - number as usize);
        agent.metrics_when("its rule goes on counting", |m| {
            m.total("umemd_steer_rule_packets_total") == 2 * WINDOW
        });

        // A shorter one needs nothing.
        near.set(&["mtu", "8000"]);
        wire(&lab).reflect(WINDOW, any_size);
        agent.terminate();
        let exit = agent.wait();
        assert_eq!(exit.summary()["tx_packets"], 3 * WINDOW, "{exit}");
        assert!(exit.stderr.contains("the MTU of near0 is 9000 now"), "{exit}");
        assert_eq!(exit.stderr.matches("served again").count(), 1, "{exit}");
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn without_multi_buffer_a_longer_mtu_is_warned_of() {
    let Some(lab) = Lab::new() else { return };
    let agent = reflecting(&lab, &["--multi-buffer", "off"]);
    lab.pair().near.set(&["mtu", "3000"]);
    wait_until("it warns", PATIENCE, || agent.stderr().contains("near0 has MTU 3000"));
    wire(&lab).reflect(WINDOW, any_size);
    agent.terminate();
    let exit = agent.wait();
    assert_eq!(exit.summary()["tx_packets"], WINDOW, "{exit}");
    assert!(!exit.stderr.contains("served again"), "{exit}");
}
