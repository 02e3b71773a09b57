//! What is done with frames: forwarding between two interfaces, and sending frames of one's own.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Command, Stdio},
    time::Duration,
};

use e2e::{
    agent::{Agent, AgentCommand, example},
    command::ip,
    lab::{Lab, LabConfig, MODES, PORT, STEER},
    metrics::Metrics,
    ping::Ping,
    scratch::Folder,
    thread::StoppedThread,
    wait::{PATIENCE, wait_until},
    wire::{WINDOW, Wire, any_size},
};

/// Long enough for a frame that should not come.
const SILENCE: Duration = Duration::from_millis(100);

/// Two far ends, with the agent between them.
fn between(config: LabConfig) -> Option<Lab> {
    Lab::with(LabConfig { pairs: 2, beyond: true, ..config })
}

fn forward(lab: &Lab, args: &[&str]) -> Agent {
    let forward = ["--iface", "near0", "--handler", "forward", "--to", "near1", "--steer", STEER];
    lab.agent_on(&[&forward[..], args].concat()).start()
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn forwarded_frames_cross_in_both_directions() {
    const COUNT: u64 = 1000;
    for mode in MODES {
        let Some(lab) = between(LabConfig::default()) else { return };
        let agent = forward(&lab, &["--mode", mode]);
        let (here, there) = lab.ends();

        here.send_to(&there, COUNT, any_size);
        there.send_to(&here, 2 * COUNT, any_size);

        let metrics = agent.metrics_when("all are sent", |m| m.total("umemd_tx_packets_total") == 3 * COUNT);
        for (device, rx, tx) in [("near0", COUNT, 2 * COUNT), ("near1", 2 * COUNT, COUNT)] {
            let device = [("device", device)];
            assert_eq!(metrics.sum("umemd_rx_packets_total", &device), rx, "{mode} {device:?}");
            assert_eq!(metrics.sum("umemd_tx_packets_total", &device), tx, "{mode} {device:?}");
        }
        agent.terminate();
        let exit = agent.wait();
        let summary = exit.summary();
        assert_eq!(summary["device"], "near0,near1", "{summary}");
        assert_eq!(summary["rx_packets"], 3 * COUNT, "{summary}");
        assert_eq!(summary["tx_packets"], 3 * COUNT, "{summary}");
        assert_eq!(summary["frames"]["total"], 2 * 4096, "one UMEM, twice the frames: {summary}");
        for pair in lab.pairs() {
            assert_eq!(pair.near.xdp_program(), None, "{}", pair.near.name);
        }
    }
}

/// The device drops what it is too narrow for, and says so to nobody.
#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_way_that_is_narrower_at_one_end_is_warned_of() {
    let Some(lab) = between(LabConfig::default()) else { return };
    lab.pairs()[0].near.set(&["mtu", "9000"]);
    let agent = forward(&lab, &[]);
    let said = "near0 has MTU 9000 and near1 has MTU 1500";
    assert_eq!(agent.stderr().matches(said).count(), 1, "{}", agent.stderr());
    lab.pairs()[1].near.set(&["mtu", "1400"]);
    wait_until("it warns again", PATIENCE, || agent.stderr().contains("near1 has MTU 1400"));
    agent.terminate();
    agent.wait().summary();
}

/// Whose checksums its sockets leave to the device, as a veth does.
#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_forwarded_tcp_connection_carries_its_data() {
    for mode in MODES {
        let Some(lab) = between(LabConfig::default()) else { return };
        let args = ["--iface", "near0", "--handler", "forward", "--to", "near1", "--steer", "tcp port 7007"];
        let agent = lab.agent_on(&[&args[..], &["--mode", mode]].concat()).start();
        // Native XDP keeps the other end of a veth from sending segments that somebody has yet to cut, which are longer
        // than any frame; generic XDP does not.
        if mode == "skb" {
            for pair in lab.pairs() {
                pair.far.ethtool("-K", &["tso", "off", "gso", "off"]);
            }
        }
        let beyond = lab.beyond.as_ref().expect("a third namespace");
        let server = lab.pairs()[1].far.port(PORT);
        let data: Vec<u8> = (0..1_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();

        let listener = beyond.run(|| TcpListener::bind(server)).expect("a free port");
        let mut client =
            lab.far.run(|| TcpStream::connect_timeout(&server, PATIENCE)).expect("it is accepted");
        let (mut accepted, _) = listener.accept().expect("a connection");
        for stream in [&client, &accepted] {
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        }
        let arrived = std::thread::scope(|scope| {
            let echo = scope.spawn(|| {
                let mut arrived = vec![0; data.len()];
                accepted.read_exact(&mut arrived).expect("all of it");
                accepted.write_all(&arrived[..1000]).expect("an answer");
                arrived
            });
            client.write_all(&data).expect("a way");
            let mut answer = [0; 1000];
            client.read_exact(&mut answer).expect("an answer");
            assert_eq!(answer[..], data[..1000], "{mode}");
            echo.join().expect("all arrived")
        });
        assert!(arrived == data, "{mode}: the data are not what was sent");

        let metrics = agent.metrics();
        assert_eq!(
            metrics.total("umemd_xsk_rx_dropped_total"),
            0,
            "{mode}: nothing is longer than a frame: {metrics}"
        );
        agent.terminate();
        let exit = agent.wait();
        assert_eq!(exit.summary()["tx_packets"], exit.summary()["rx_packets"], "{mode}: {exit}");
    }
}

/// Native only: generic XDP on a veth of several queues sees every packet on the first one.
#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn forwarding_joins_each_queue_with_its_like() {
    const FLOWS: u64 = 40;
    for queues in ["0,1", "1,0"] {
        let Some(lab) = between(LabConfig { queues: 2, ..LabConfig::default() }) else { return };
        let agent = forward(&lab, &["--frames", "1024", "--queues", queues]);
        let beyond = lab.beyond.as_ref().expect("a third namespace");
        let there = Wire::listen(beyond, lab.pairs()[1].far.port(PORT));

        // Which queue a flow goes to is the kernel's choice; forty flows take both.
        for _ in 0..FLOWS {
            Wire::connect(&lab.far, lab.pairs()[1].far.port(PORT)).send(0..8, any_size);
            there.expect(0..8, any_size, PATIENCE);
        }

        let metrics = agent.metrics();
        for queue in ["0", "1"] {
            let came = metrics.sum("umemd_rx_packets_total", &[("device", "near0"), ("queue", queue)]);
            let went = metrics.sum("umemd_tx_packets_total", &[("device", "near1"), ("queue", queue)]);
            assert!(came > 0 && came == went, "queue {queue}: {came} came in, {went} went out");
        }
        // Interfaces are compared with how they were opened once a second.
        wait_until("two seconds have passed", PATIENCE, || agent.objects().len() >= 2);
        agent.terminate();
        let exit = agent.wait();
        assert_eq!(exit.summary()["tx_packets"], 8 * FLOWS, "{exit}");
        assert!(!exit.stderr.contains("served again"), "{exit}");
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn forwarding_between_unequal_queue_counts_is_refused() {
    let Some(lab) = between(LabConfig { queues: 2, ..LabConfig::default() }) else { return };
    // A veth with XDP must not have fewer receive queues than its peer has for sending.
    lab.pairs()[1].far.ethtool("-L", &["tx", "1"]);
    lab.pairs()[1].near.ethtool("-L", &["rx", "1"]);

    let args = ["--iface", "near0", "--handler", "forward", "--to", "near1", "--steer", STEER];
    let exit = lab.agent_on(&args).run();

    assert_eq!(exit.code, Some(1), "{exit}");
    assert!(exit.stderr.contains("near0 with 2 queues and near1 with 1"), "{exit}");
    for pair in lab.pairs() {
        assert_eq!(pair.near.xdp_program(), None, "{exit}");
    }

    // One queue of each will do.
    let agent = forward(&lab, &["--queues", "0"]);
    agent.terminate();
    agent.wait().summary();
}

/// An agent that sends so many datagrams of this size to the far end, at this rate.
fn generate_to_far(lab: &Lab, mode: &str, count: u64, rate: u64, size: usize) -> AgentCommand {
    let pair = lab.pair();
    let args = [
        ["--mode", mode],
        ["--handler", "generate"],
        ["--dst-mac", &pair.far.mac],
        ["--dst-addr", &pair.far.ip.to_string()],
        ["--src-addr", &pair.near.ip.to_string()],
        ["--dst-port", &PORT.to_string()],
        ["--count", &count.to_string()],
        ["--rate", &rate.to_string()],
        ["--size", &size.to_string()],
    ];
    lab.agent(args.as_flattened())
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn as_many_packets_are_generated_as_were_asked_for() {
    const COUNT: u64 = 1000;
    const SIZE: usize = 300;
    for mode in MODES {
        let Some(lab) = Lab::new() else { return };
        let wire = Wire::listen(&lab.far, lab.pair().far.port(PORT));
        let agent = generate_to_far(&lab, mode, COUNT, 5000, SIZE).start_unready();
        for number in 0..COUNT {
            let packet =
                wire.receive(PATIENCE).unwrap_or_else(|| panic!("{mode}: packet {number} did not come"));
            assert_eq!(packet.len(), SIZE - 42);
        }
        let exit = agent.wait();
        let summary = exit.summary();
        assert_eq!(summary["tx_packets"], COUNT, "{mode}: {summary}");
        assert_eq!(summary["tx_bytes"], COUNT * SIZE as u64, "{mode}: {summary}");
        let took = summary["duration_s"].as_f64().expect("a number");
        assert!(took > 0.19, "5000 a second, and the bucket has 2 ms of them: {took} s");
        assert_eq!(wire.receive(SILENCE), None, "no packet more");
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn several_queues_share_what_is_generated() {
    const COUNT: u64 = 1001;
    for mode in MODES {
        let Some(lab) = Lab::with(LabConfig { queues: 3, ..LabConfig::default() }) else { return };
        let generate = ["--handler", "generate", "--dst-mac", &lab.pair().far.mac, "--mode", mode];
        let exit = lab.agent(&[&generate[..], &["--count", &COUNT.to_string()]].concat()).run();
        assert_eq!(exit.summary()["tx_packets"], COUNT, "{mode}: {exit}");

        // Fewer a second than there are queues: one of them has nothing to do.
        let exit = lab.agent(&[&generate[..], &["--rate", "2", "--count", "7"]].concat()).run();
        assert_eq!(exit.summary()["tx_packets"], 7, "{mode}: {exit}");
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn several_interfaces_share_what_is_generated() {
    const COUNT: u64 = 1001;
    let Some(lab) = Lab::with(LabConfig { queues: 2, pairs: 2, ..LabConfig::default() }) else { return };
    let args = ["--handler", "generate", "--dst-mac", &lab.pair().far.mac, "--count", &COUNT.to_string()];
    let exit = lab.agent(&args).run();
    assert_eq!(exit.summary()["tx_packets"], COUNT, "{exit}");
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn an_interface_that_is_opened_again_generates_what_is_left() {
    const COUNT: u64 = 1501;
    let Some(lab) = Lab::with(LabConfig { queues: 3, ..LabConfig::default() }) else { return };
    let (near, far) = (&lab.pair().near, &lab.pair().far);
    far.ethtool("-L", &["tx", "1"]);
    near.ethtool("-L", &["rx", "1"]);
    let count = COUNT.to_string();
    let args = ["--handler", "generate", "--dst-mac", &far.mac, "--rate", "500", "--count", &count];
    let agent = lab.agent(&args).start();
    let sent = || agent.metrics_anyhow().total("umemd_tx_packets_total");
    wait_until("some are sent", PATIENCE, || sent() > 0);
    near.ethtool("-L", &["rx", "3"]);
    let exit = agent.wait();
    assert!(exit.stderr.contains("near0: served again"), "{exit}");
    assert_eq!(exit.summary()["tx_packets"], COUNT, "{exit}");
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn an_interface_that_went_away_after_its_last_packet_is_not_waited_for() {
    const COUNT: u64 = 400;
    let Some(lab) = Lab::with(LabConfig { pairs: 2, ..LabConfig::default() }) else { return };
    let there = &lab.pairs()[1].near;
    let count = COUNT.to_string();
    let args =
        ["--handler", "generate", "--dst-mac", &lab.pair().far.mac, "--rate", "100", "--count", &count];
    let agent = lab.agent(&args).start();
    there.set(&["down"]);
    let cpu_times = |m: &Metrics| m.label_values("umemd_worker_cpu_seconds_total", "device");
    agent.metrics_when("one is through, and the other is not", |m| {
        m.total("umemd_generated_packets_total") == COUNT && cpu_times(m) == ["near1"]
    });
    lab.pair().remove();
    wait_until("it is closed", PATIENCE, || agent.stderr().contains("near0 was removed"));
    there.set(&["up"]);
    let exit = agent.wait();
    assert!(exit.stderr.contains("no worker is left"), "{exit}");
    let summary = exit.summary.as_ref().expect("a summary");
    assert_eq!((&summary["tx_packets"], &summary["conserved"]), (&COUNT.into(), &true.into()), "{exit}");
}

/// What was written while nothing could be sent counts for nothing: it waits for the link, and is made up for if its
/// socket does not live to see that.
#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn as_many_packets_are_generated_although_the_link_was_down() {
    const COUNT: u64 = 600;
    // What the kernel takes while the link goes down it may drop.
    const DROPPED: u64 = 20;
    // Longer than a worker that ends waits for what it sent.
    const DOWN: Duration = Duration::from_millis(1500);
    for reopened in [false, true] {
        let Some(lab) = Lab::with(LabConfig { queues: 3, ..LabConfig::default() }) else { return };
        let (near, far) = (&lab.pair().near, &lab.pair().far);
        far.ethtool("-L", &["tx", "1"]);
        near.ethtool("-L", &["rx", "1"]);
        let wire = Wire::listen(&lab.far, far.port(PORT));
        let agent = generate_to_far(&lab, "native", COUNT, 200, 60).start();
        for number in 0..10 {
            wire.receive(PATIENCE).unwrap_or_else(|| panic!("packet {number} did not come"));
        }
        near.set(&["down"]);
        let written = |m: &Metrics| m.total("umemd_generated_packets_total") == COUNT;
        agent.metrics_when("all that are left were written", written);
        if reopened {
            near.ethtool("-L", &["rx", "3"]);
            wait_until("its queues are closed", PATIENCE, || {
                agent.stderr().contains("its queues are closed")
            });
        }
        std::thread::sleep(DOWN);
        near.set(&["up"]);
        let exit = agent.wait();
        assert_eq!(exit.code, Some(0), "{exit}");
        let came = 10 + wire.drain();
        assert!((COUNT - DROPPED..=COUNT).contains(&came), "{came} came: {exit}");
        let summary = exit.summary();
        let unsent = summary["drops"]["tx_unsent"].as_u64().expect("a count");
        assert_eq!(unsent > 0, reopened, "{exit}");
        assert_eq!(summary["tx_packets"], COUNT + unsent, "{exit}");
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn packets_that_do_not_fit_the_interface_are_not_generated() {
    let Some(lab) = Lab::new() else { return };
    let args = ["--handler", "generate", "--dst-mac", &lab.pair().far.mac, "--size", "1515"];
    let exit = lab.agent(&args).run();
    assert_eq!(exit.code, Some(1), "{exit}");
    assert!(exit.stderr.contains("MTU is 1500: at most 1514 bytes do"), "{exit}");
    // Nor those that do not fit the frames that they may have.
    let sizes = ["--handler", "generate", "--dst-mac", &lab.pair().far.mac, "--size", "1514"];
    for (args, most) in [
        (
            ["--headroom", "600", "--multi-buffer", "off"],
            "a packet may have 1 on near0: larger frames (--frame-size 4096), several frames (--multi-buffer auto), or at",
        ),
        (
            ["--headroom", "1344", "--tx-ring", "2"],
            "a packet may have 2 on near0: larger frames (--frame-size 4096), a longer --tx-ring, or at most 896 bytes do",
        ),
        (
            ["--headroom", "1344", "--completion-ring", "2"],
            "a longer --completion-ring, or at most 896 bytes do",
        ),
    ] {
        let exit = lab.agent(&[&sizes[..], &args].concat()).run();
        assert_eq!(exit.code, Some(1), "{exit}");
        assert!(exit.stderr.contains(most), "expected {most:?}: {exit}");
    }
    assert_eq!(lab.pair().near.xdp_program(), None, "{exit}");
}

/// What umemd is measured beside would be a bad measure if it lost packets, or did not count them.
#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_loop_without_accounting_carries_as_many() {
    const COUNT: u64 = 1000;
    /// The port that it takes.
    const ECHO: u16 = 7;
    for handler in ["drop", "reflect", "forward", "generate"] {
        let Some(lab) = between(LabConfig::default()) else { return };
        let [here, there] = lab.pairs() else { panic!("two pairs") };
        let mut command = Command::new(example("minimal"));
        command.args(["near0", handler]).args((handler == "forward").then_some("near1"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let minimal = lab.near.run(|| command.spawn()).expect("it can be started");
        wait_until("its program is attached", PATIENCE, || here.near.xdp_program().is_some());

        let to = if handler == "forward" { &there.far } else { &here.near };
        let wire = Wire::connect(&lab.far, to.port(ECHO));
        let stack = Wire::listen(&lab.near, here.near.port(ECHO));
        let beyond = Wire::listen(lab.beyond.as_ref().expect("a third namespace"), there.far.port(ECHO));
        // What was sent counts also if the other end had no room for it.
        let counted = |direction: &str| {
            let shown = ip(&["-netns", lab.near.name(), "-stats", "-json", "link", "show", "dev", "near0"]);
            let shown: serde_json::Value = serde_json::from_str(&shown).expect("`ip -json` prints JSON");
            let count = |what: &str| shown[0]["stats64"][direction][what].as_u64().expect("a count");
            count("packets") + if direction == "tx" { count("dropped") } else { 0 }
        };
        match handler {
            "generate" => {
                wait_until("it sends", PATIENCE, || counted("tx") > COUNT);
            }
            "forward" => {
                wait_until("its socket is there", PATIENCE, || {
                    wire.send(0..1, any_size);
                    beyond.receive(SILENCE).is_some()
                });
                wire.send_to(&beyond, COUNT, any_size);
            }
            _ => {
                wait_until("its socket is there", PATIENCE, || {
                    wire.send(0..1, any_size);
                    stack.receive(SILENCE).is_none()
                });
                wire.drain();
                let before = counted("rx");
                for window in (0..COUNT).step_by(WINDOW as usize).map(|from| from..COUNT.min(from + WINDOW)) {
                    wire.send(window.clone(), any_size);
                    wait_until("they arrive", PATIENCE, || counted("rx") == before + window.end);
                    if handler == "reflect" {
                        wire.expect(window, any_size, PATIENCE);
                    }
                }
            }
        }

        // Its stdin ends.
        let output = minimal.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{handler}: {output:?}");
        let said: u64 = String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number");
        if handler == "generate" {
            // What lies on its TX ring at the end is never sent.
            let sent = counted("tx");
            assert!((said - 2048..=said).contains(&sent), "{said} are said to be sent, {sent} were");
        } else {
            // And the one that told us that it runs.
            assert_eq!(said, COUNT + 1, "{handler}");
        }
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_handler_of_ones_own_answers_pings() {
    for mode in MODES {
        let Some(lab) = Lab::new() else { return };
        let near = &lab.pair().near;
        // Who answers is not the stack.
        lab.near.run(|| std::fs::write("/proc/sys/net/ipv4/icmp_echo_ignore_all", "1")).expect("a sysctl");
        let agent = lab.agent(&["--steer", "icmp", "--mode", mode]).example("own_handler").start_unready();
        let ping = Ping::open(&lab.far, near.ip);
        wait_until("it answers", PATIENCE, || ping.is_answered(0, Duration::from_millis(50)));

        for number in 1..=100 {
            assert!(ping.is_answered(number, PATIENCE), "{mode}: ping {number}");
        }

        agent.terminate();
        let exit = agent.wait();
        assert!(exit.summary()["tx_packets"].as_u64() > Some(100), "{mode}: {exit}");
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_handler_that_panics_takes_its_own_queue_with_it() {
    // A packet alone, and one in the middle of many that take the short way.
    for (args, behind) in [(&[][..], 0), (&[], 54), (&["--mode", "skb"], 54)] {
        let Some(lab) = Lab::with(LabConfig { pairs: 2, ..LabConfig::default() }) else { return };
        let [first, second] = lab.pairs() else { panic!("two pairs") };
        let steer = [&["--steer", STEER][..], args].concat();
        let agent = lab.agent(&steer).example("panicking_handler").start();
        let wire = Wire::connect(&lab.far, first.near.port(PORT));
        wire.reflect(90, any_size);

        if behind == 0 {
            wire.reflect(9, any_size);
            wire.send(99..100, any_size);
        } else {
            let worker = StoppedThread::stop(agent.pid(), "near0/0");
            wire.send(90..100 + behind, any_size);
            agent.metrics_when("all frames steered", |m| m.verdicts("steered") == 100 + behind);
            worker.resume();
            // Those before it are on their way already.
            wire.expect(90..99, any_size, PATIENCE);
        }
        let gone = agent.metrics_anyhow_when("its worker is gone", |m| m.total("umemd_worker_failed") == 1);
        assert!(gone.label_values("umemd_pool_rejected_total", "device").contains(&"near0".to_owned()));
        assert_eq!(gone.total("umemd_pool_rejected_total"), 0, "taken for what it is not: {gone}");

        // Its traffic is the stack's, and the other interface is served.
        let stack = Wire::listen(&lab.near, first.near.port(PORT));
        wire.send_to(&stack, 64, any_size);
        Wire::connect(&lab.far, second.near.port(PORT)).reflect(500, any_size);
        assert_eq!(agent.get("/readyz").body, "near0 queue 0 does not get its traffic\n");
        assert_eq!(agent.get("/healthz").body, "near0 queue 0 is served by nobody: its handler panicked\n");

        agent.terminate();
        let exit = agent.wait();
        assert_eq!(exit.code, Some(1), "{exit}");
        assert!(exit.stderr.contains("near0 queue 0: its handler panicked"), "{exit}");
        let summary = exit.summary.as_ref().expect("a summary");
        // What it had before it is lost, and nothing else: the law is broken by just that, and says so.
        let frames = &summary["frames"];
        let lost = frames["user"].as_u64().expect("a count");
        assert_eq!(lost, 1, "{summary}");
        assert_eq!(summary["conserved"], false, "{summary}");
        assert_eq!(frames["slab"].as_u64(), Some(2 * 4096 - lost), "{summary}");
        assert!(summary["tx_packets"].as_u64() >= Some(99 + 500), "{summary}");
    }
}

/// What came before it was told to end is still handled. With a capture no frame is lost, so that the law says nothing.
#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_handler_that_panics_while_its_worker_ends_is_told_of() {
    for mode in MODES {
        let Some(lab) = Lab::new() else { return };
        let near = &lab.pair().near;
        let folder = Folder::of(&lab);
        let args = ["--steer", STEER, "--mode", mode, "--capture", &folder.file("all.pcapng")];
        let agent = lab.agent(&args).example("panicking_handler").start();
        let wire = Wire::connect(&lab.far, near.port(PORT));
        wire.reflect(99, any_size);
        let worker = StoppedThread::stop(agent.pid(), "near0/0");
        wire.send(99..100, any_size);
        agent.metrics_when("it is steered", |m| m.verdicts("steered") == 100);
        agent.terminate();
        wait_until("nothing more is steered", PATIENCE, || near.xdp_program().is_none());
        worker.resume();

        let exit = agent.wait();
        assert_eq!(exit.code, Some(1), "{exit}");
        assert!(exit.stderr.contains("near0 queue 0: its handler panicked"), "{exit}");
        let summary = exit.summary.as_ref().expect("a summary");
        assert_eq!((&summary["conserved"], &summary["drops"]["rx_unhandled"]), (&true.into(), &1.into()));
    }
}

/// It is as with any other reason why an interface cannot be opened.
#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_handler_that_cannot_be_made_is_asked_for_again() {
    let Some(lab) = Lab::with(LabConfig { queues: 2, ..LabConfig::default() }) else { return };
    let (near, far) = (&lab.pair().near, &lab.pair().far);
    let refused = "cannot serve near0 queue 1: making its handler panicked";
    let exit = lab.agent(&["--steer", STEER]).example("panicking_handler").run();
    assert_eq!(exit.code, Some(1), "{exit}");
    assert!(exit.stderr.contains(refused), "{exit}");
    assert_eq!(near.xdp_program(), None, "{exit}");

    far.ethtool("-L", &["tx", "1"]);
    near.ethtool("-L", &["rx", "1"]);
    let agent = lab.agent(&["--steer", STEER]).example("panicking_handler").start();
    let wire = Wire::connect(&lab.far, near.port(PORT));
    wire.reflect(50, any_size);
    near.ethtool("-L", &["rx", "2"]);
    wait_until("it says why not", PATIENCE, || {
        agent.stderr().contains(&format!("not opened again: {refused}"))
    });
    near.ethtool("-L", &["rx", "1"]);
    wait_until("it is served again", PATIENCE, || agent.stderr().contains("near0: served again"));
    wire.reflect(50, any_size);
    agent.terminate();
    let exit = agent.wait();
    assert_eq!(exit.code, Some(0), "{exit}");
    assert_eq!(exit.summary()["conserved"], true, "{exit}");
}

/// Nobody knows then where its frames are: the law does not hold, and says so.
#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_worker_that_does_not_live_to_tell_breaks_the_law() {
    let Some(lab) = Lab::new() else { return };
    let agent = lab.agent(&["--steer", STEER]).example("panicking_handler").args(["--twice"]).start();
    let wire = Wire::connect(&lab.far, lab.pair().near.port(PORT));
    wire.reflect(99, any_size);
    wire.send(99..100, any_size);
    let error = "near0 queue 0: its worker did not live to say where its frames are";
    // It was the only one.
    let exit = agent.wait();
    assert_eq!(exit.code, Some(1), "{exit}");
    assert!(exit.stderr.contains(error), "{exit}");
    assert_eq!(exit.summary.as_ref().expect("a summary")["conserved"], false, "{exit}");

    // Nor is it forgotten when its interface is gone.
    let Some(lab) = Lab::with(LabConfig { pairs: 2, ..LabConfig::default() }) else { return };
    let agent = lab.agent(&["--steer", STEER]).example("panicking_handler").args(["--twice"]).start();
    let wire = Wire::connect(&lab.far, lab.pair().near.port(PORT));
    wire.reflect(99, any_size);
    wire.send(99..100, any_size);
    wait_until("it says so", PATIENCE, || agent.stderr().contains(error));
    lab.pair().remove();
    wait_until("it is closed", PATIENCE, || agent.stderr().contains("near0 was removed"));
    agent.terminate();
    let exit = agent.wait();
    assert_eq!(exit.code, Some(1), "{exit}");
    assert_eq!(exit.summary.as_ref().expect("a summary")["conserved"], false, "{exit}");
}
