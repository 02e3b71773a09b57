//! Frames on their way: in by XDP, through UMEM and worker, and out again or home.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};

use e2e::{
    agent::Agent,
    exit::assert_conserved,
    jam::Jam,
    lab::{Lab, LabConfig, MODES, OTHER_PORT, PORT, STEER},
    metrics::Metrics,
    privilege::{XDP_USE_SG, kernel_has},
    thread::StoppedThread,
    wait::{PATIENCE, wait_until},
    wire::{WINDOW, Wire, any_size},
};

/// Ethernet, IPv4 and UDP in front of what a socket sends.
const HEADERS: u64 = 14 + 20 + 8;
/// Long enough for a frame that should not come.
const SILENCE: Duration = Duration::from_millis(100);

fn reflecting(lab: &Lab, mode: &str, args: &[&str]) -> Agent {
    lab.agent(&[&["--steer", STEER, "--handler", "reflect", "--mode", mode], args].concat()).start()
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn frames_come_back_byte_for_byte_and_in_order() {
    const COUNT: u64 = 1500;
    for mode in MODES {
        let Some(lab) = Lab::new() else { return };
        let agent = reflecting(&lab, mode, &[]);
        assert_eq!(agent.metrics().label_values("umemd_device_info", "xdp_mode"), [mode]);
        let wire = Wire::connect(&lab.far, lab.pair().near.port(PORT));

        wire.reflect(COUNT, any_size);

        let bytes = (0..COUNT).map(|number| any_size(number) as u64 + HEADERS).sum::<u64>();
        let metrics = agent
            .metrics_when("completions of all frames", |m| m.total("umemd_tx_completions_total") == COUNT);
        for (name, expected) in [
            ("umemd_rx_packets_total", COUNT),
            ("umemd_tx_packets_total", COUNT),
            ("umemd_rx_bytes_total", bytes),
            ("umemd_tx_bytes_total", bytes),
            ("umemd_packets_dropped_total", 0),
            ("umemd_pool_rejected_total", 0),
            ("umemd_xsk_rx_dropped_total", 0),
        ] {
            assert_eq!(metrics.total(name), expected, "{mode}: {name}");
        }
        agent.terminate();
        let exit = agent.wait();
        let summary = exit.summary();
        assert_eq!(
            (&summary["rx_packets"], &summary["tx_packets"]),
            (&COUNT.into(), &COUNT.into()),
            "{exit}"
        );
        assert_eq!((&summary["mode"], &summary["copy"]), (&mode.into(), &true.into()), "{exit}");
        assert_eq!(wire.drain(), 0, "{mode}: no datagram comes back twice");
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn every_frame_received_is_recycled() {
    const WINDOWS: u64 = 40;
    for mode in MODES {
        let Some(lab) = Lab::new() else { return };
        let agent = lab.agent(&["--steer", STEER, "--mode", mode]).start();
        let wire = Wire::connect(&lab.far, lab.pair().near.port(PORT));

        for window in 1..=WINDOWS {
            let sent = window * WINDOW;
            wire.send(sent - WINDOW..sent, any_size);
            // Each look checks the law.
            let metrics = agent.metrics_when("all frames sent so far are home", |m| {
                m.total("umemd_rx_packets_total") == sent && m.frames("user") + m.frames("rx") == 0
            });
            let recycled = metrics.total("umemd_pool_recycle_cached_total")
                + metrics.total("umemd_pool_recycle_ring_total");
            assert_eq!(recycled, sent, "{mode}: each of {sent} frames was put back once");
            assert_eq!(
                metrics.sum("umemd_packets_dropped_total", &[("reason", "handler_dropped")]),
                sent,
                "{mode}"
            );
        }

        agent.terminate();
        let exit = agent.wait();
        let (summary, sent) = (exit.summary(), WINDOWS * WINDOW);
        assert_eq!(summary["rx_packets"], sent, "{summary}");
        assert_eq!(summary["drops"]["handler_dropped"], sent, "{summary}");
        assert_eq!(summary["frames"]["total"], 4096, "{summary}");
        // Every packet's frame was recycled, and what was lent and never used was not.
        let allocated = sent as f64 / summary["recycle_ratio"].as_f64().expect("a number");
        let lent = allocated - sent as f64;
        assert!((1983.0..2049.0).contains(&lent), "half of the frames were lent, not {lent}: {summary}");
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn the_law_holds_at_every_moment() {
    for mode in MODES {
        let Some(lab) = Lab::new() else { return };
        let agent = reflecting(&lab, mode, &[]);
        let wire = Wire::connect(&lab.far, lab.pair().near.port(PORT));
        let start = Instant::now();

        let (sent, looks) = std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let mut sent = 0;
                while agent.objects().len() < 2 {
                    wire.reflect(WINDOW, |number| any_size(sent + number));
                    sent += WINDOW;
                }
                sent
            });
            let mut looks = 0;
            while !sender.is_finished() {
                agent.metrics();
                looks += 1;
            }
            (sender.join().expect("the sender is content"), looks)
        });

        // A guest without hardware help looks some 40 times.
        assert!(looks > 10, "the law was looked at {looks} times in {:?}", start.elapsed());
        agent.terminate();
        let exit = agent.wait();
        let received = |object: &serde_json::Value| object["rx_packets"].as_u64().expect("a count");
        assert!(exit.intervals.len() >= 2, "{exit}");
        for interval in &exit.intervals {
            assert_eq!(interval["type"], "interval");
            assert_conserved(interval);
        }
        assert_eq!(received(exit.summary()), sent, "{exit}");
        assert!(
            exit.intervals.iter().map(received).sum::<u64>() <= sent,
            "intervals are parts of the summary: {exit}"
        );
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn unmatched_traffic_reaches_the_stack() {
    for mode in MODES {
        let Some(lab) = Lab::new() else { return };
        let near = &lab.pair().near;
        let agent = lab.agent(&["--steer", STEER, "--mode", mode]).start();

        let steered = Wire::listen(&lab.near, near.port(PORT));
        let unmatched = Wire::listen(&lab.near, near.port(OTHER_PORT));
        Wire::connect(&lab.far, near.port(PORT)).send(0..WINDOW, any_size);
        Wire::connect(&lab.far, near.port(OTHER_PORT)).send(0..WINDOW, any_size);
        unmatched.expect(0..WINDOW, any_size, PATIENCE);

        // TCP to the very port: the rule says UDP.
        let listener = lab.near.run(|| TcpListener::bind(near.port(PORT))).expect("a free port");
        let mut client = lab.far.run(|| TcpStream::connect(near.port(PORT))).expect("a handshake");
        let (mut server, _) = listener.accept().expect("a connection");
        client.write_all(b"hello").expect("a connection");
        let mut hello = [0; 5];
        server.read_exact(&mut hello).expect("a connection");
        assert_eq!(&hello, b"hello");

        let metrics =
            agent.metrics_when("all steered frames", |m| m.total("umemd_rx_packets_total") == WINDOW);
        assert_eq!(metrics.verdicts("steered"), WINDOW, "{mode}");
        assert!(metrics.verdicts("unmatched") > WINDOW, "{mode}: {} and TCP", metrics.verdicts("unmatched"));
        assert_eq!(
            metrics.verdicts("no_socket") + metrics.verdicts("malformed") + metrics.verdicts("truncated"),
            0,
            "{mode}"
        );
        assert_eq!(steered.receive(SILENCE), None, "{mode}: what is steered never reaches the stack");
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn one_process_serves_two_interfaces() {
    const COUNT: u64 = 200;
    for mode in MODES {
        let Some(lab) = Lab::with(LabConfig { pairs: 2, ..LabConfig::default() }) else { return };
        let agent = reflecting(&lab, mode, &[]);

        for (pair, count) in lab.pairs().iter().zip([COUNT, 2 * COUNT]) {
            Wire::connect(&lab.far, pair.near.port(PORT)).reflect(count, any_size);
        }

        let metrics = agent.metrics_when("all counted", |m| m.total("umemd_rx_packets_total") == 3 * COUNT);
        for (device, count) in [("near0", COUNT), ("near1", 2 * COUNT)] {
            assert_eq!(
                metrics.sum("umemd_rx_packets_total", &[("device", device)]),
                count,
                "{mode} {device}"
            );
            let steered = [("device", device), ("reason", "steered")];
            assert_eq!(metrics.sum("umemd_xdp_verdicts_total", &steered), count, "{mode} {device}");
        }
        agent.terminate();
        let exit = agent.wait();
        let summary = exit.summary();
        assert_eq!(summary["device"], "near0,near1", "{summary}");
        assert_eq!(summary["rx_packets"], 3 * COUNT, "{summary}");
        assert_eq!(summary["frames"]["total"], 2 * 4096, "{summary}");
        for pair in lab.pairs() {
            assert_eq!(pair.near.xdp_program(), None, "{mode}: {} is left alone", pair.near.name);
        }
    }
}

/// Which queue a flow goes to is the kernel's choice, by a hash that no test knows: new flows send one window
/// each, until `enough`. After each window, `look` comes. Returns how many frames were sent.
fn send_flows(lab: &Lab, agent: &Agent, enough: impl Fn(&Metrics) -> bool, mut look: impl FnMut()) -> u64 {
    for sent in (1..200).map(|flow| flow * WINDOW) {
        Wire::connect(&lab.far, lab.pair().near.port(PORT)).send(sent - WINDOW..sent, any_size);
        let metrics = agent.metrics_when("a decision for every frame, and what is steered received", |m| {
            m.total("umemd_rx_packets_total") + m.verdicts("no_socket") == sent
        });
        look();
        if enough(&metrics) {
            return sent;
        }
    }
    panic!("200 flows did not reach all queues");
}

fn received_by(metrics: &Metrics, queue: &str) -> u64 {
    metrics.sum("umemd_rx_packets_total", &[("queue", queue)])
}

/// Native only: generic XDP on a veth of several queues sees every packet on the first one.
#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn every_queue_has_its_socket_and_worker() {
    let Some(lab) = Lab::with(LabConfig { queues: 3, ..LabConfig::default() }) else { return };
    let agent = lab.agent(&["--steer", STEER, "--frames", "1024"]).start();
    let queues = agent.metrics().label_values("umemd_rx_packets_total", "queue");
    assert_eq!(queues, ["0", "1", "2"], "all active queues are served");

    let sent = send_flows(&lab, &agent, |m| queues.iter().all(|queue| received_by(m, queue) > 0), || {});

    let metrics = agent.metrics();
    assert_eq!(metrics.verdicts("steered"), sent);
    assert_eq!(metrics.total("umemd_pool_capacity_frames"), 3 * 1024);
    agent.terminate();
    assert_eq!(agent.wait().summary()["rx_packets"], sent);
}

/// Native only: generic XDP on a veth of several queues sees every packet on the first one.
#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn queues_that_are_not_served_leave_their_frames_to_the_stack() {
    let Some(lab) = Lab::with(LabConfig { queues: 4, ..LabConfig::default() }) else { return };
    let agent = lab.agent(&["--steer", STEER, "--queues", "0,2"]).start();
    let stack = Wire::listen(&lab.near, lab.pair().near.port(PORT));
    let served = agent.metrics().label_values("umemd_rx_packets_total", "queue");
    assert_eq!(served, ["0", "2"]);

    let mut in_stack = 0;
    let everyone = |m: &Metrics| {
        served.iter().all(|queue| received_by(m, queue) > 0) && m.verdicts("no_socket") >= 2 * WINDOW
    };
    let sent = send_flows(&lab, &agent, everyone, || in_stack += stack.drain());

    let metrics = agent.metrics();
    assert_eq!(metrics.verdicts("no_socket"), in_stack, "what has no socket reaches the stack, all of it");
    assert_eq!(metrics.verdicts("steered") + in_stack, sent);
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn frames_of_4096_bytes_hold_longer_packets() {
    const COUNT: u64 = 300;
    for mode in MODES {
        // All that a veth with XDP takes is below one page.
        let Some(lab) = Lab::with(LabConfig { mtu: 3000, ..LabConfig::default() }) else { return };
        let agent = reflecting(&lab, mode, &["--frame-size", "4096", "--frames", "512"]);
        let wire = Wire::connect(&lab.far, lab.pair().near.port(PORT));

        wire.reflect(COUNT, |number| (2972 - number * 7 % 2972) as usize);

        assert_eq!(agent.metrics().total("umemd_umem_frame_size_bytes"), 4096);
        agent.terminate();
        let exit = agent.wait();
        assert_eq!(exit.summary()["tx_packets"], COUNT, "{exit}");
        assert_eq!(exit.summary()["frames"]["total"], 512, "{exit}");
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn packets_too_long_for_a_frame_are_dropped_and_counted() {
    const LONG: u64 = 10;
    for mode in MODES {
        let Some(lab) = Lab::with(LabConfig { mtu: 3000, ..LabConfig::default() }) else { return };
        let agent = reflecting(&lab, mode, &["--multi-buffer", "off"]);
        assert!(agent.stderr().contains("near0 has MTU 3000"), "expected a warning: {}", agent.stderr());
        let wire = Wire::connect(&lab.far, lab.pair().near.port(PORT));

        wire.send(0..LONG, |_| 2500);
        wire.send(LONG..2 * LONG, |_| 1000);
        wire.expect(LONG..2 * LONG, |_| 1000, PATIENCE);

        let metrics = agent.metrics_when("all counted", |m| m.total("umemd_rx_packets_total") == LONG);
        assert_eq!(metrics.total("umemd_xsk_rx_dropped_total"), LONG, "{mode}");
        assert_eq!(
            metrics.sum("umemd_drops_total", &[("layer", "redirect")]),
            LONG,
            "{mode}: and no other was refused"
        );
        assert_eq!(
            metrics.sum("umemd_drops_total", &[("layer", "redirect"), ("cause", "ENOSPC")]),
            LONG,
            "{mode}"
        );
        agent.terminate();
        let exit = agent.wait();
        assert_eq!(exit.summary()["drops"]["xsk_rx_dropped"], LONG, "{exit}");
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn frames_beyond_what_the_kernel_was_lent_are_dropped_and_counted() {
    // Half of the frames are lent for receiving.
    const LENT: u64 = 32;
    for mode in MODES {
        let Some(lab) = Lab::new() else { return };
        let agent = lab.agent(&["--steer", STEER, "--frames", "64", "--mode", mode]).start();
        let wire = Wire::connect(&lab.far, lab.pair().near.port(PORT));
        agent.metrics_when("the fill ring is full", |m| m.frames("fill") == LENT);

        // While the worker stands still nothing is refilled.
        let worker = StoppedThread::stop(agent.pid(), "near0/0");
        wire.send(0..WINDOW, any_size);
        agent.metrics_when("all frames steered", |m| m.verdicts("steered") == WINDOW);
        worker.resume();

        let metrics =
            agent.metrics_when("what was lent has come", |m| m.total("umemd_rx_packets_total") == LENT);
        assert_eq!(
            metrics.total("umemd_xsk_rx_dropped_total"),
            WINDOW - LENT,
            "{mode}: the others found no frame"
        );
        assert_eq!(
            metrics.sum("umemd_drops_total", &[("layer", "redirect")]),
            WINDOW - LENT,
            "{mode}: the kernel says so too"
        );
        assert_eq!(
            metrics.total("umemd_xsk_rx_ring_full_total"),
            0,
            "{mode}: the RX ring has room for all that is lent"
        );

        // And it goes on.
        for number in 1..=LENT {
            wire.send(0..1, any_size);
            agent.metrics_when("one more", |m| m.total("umemd_rx_packets_total") == LENT + number);
        }
        agent.terminate();
        let exit = agent.wait();
        assert_eq!(exit.summary()["rx_packets"], 2 * LENT, "{exit}");
        assert_eq!(exit.summary()["drops"]["xsk_rx_dropped"], WINDOW - LENT, "{exit}");
    }
}

/// The short way of a full batch is not open to a packet of several frames, nor may what is behind it overtake it.
#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_full_batch_stays_in_order_around_a_packet_of_several_frames() {
    /// What 9000 bytes take in frames of 2048, of which the kernel keeps 256.
    const FRAMES: u64 = 6;
    // Amid the 64 frames of a batch; its last ones; and beginning in one batch and ending in the next.
    const PLACES: [u64; 4] = [WINDOW / 2, WINDOW - FRAMES, WINDOW - FRAMES / 2, WINDOW - 1];
    if !kernel_has(&XDP_USE_SG) {
        return;
    }
    for mode in MODES {
        let Some(lab) = Lab::with(LabConfig { mtu: 9000, ..LabConfig::default() }) else { return };
        let agent = reflecting(&lab, mode, &[]);
        let wire = Wire::connect(&lab.far, lab.pair().near.port(PORT));
        for (round, place) in (1..).zip(PLACES) {
            let size = |number: u64| if number == place { 9000 - 28 } else { any_size(number) };

            // While the worker stands still they gather on the RX ring.
            let worker = StoppedThread::stop(agent.pid(), "near0/0");
            wire.send(0..WINDOW, size);
            agent.metrics_when("all are steered", |m| m.verdicts("steered") == round * WINDOW);
            worker.resume();
            wire.expect(0..WINDOW, size, PATIENCE);

            let metrics = agent.metrics_when("all are sent and home", |m| {
                m.total("umemd_tx_packets_total") == round * WINDOW
                    && m.frames("tx") + m.frames("completion") + m.frames("user") == 0
            });
            for (name, expected) in [
                ("umemd_rx_packets_total", round * WINDOW),
                ("umemd_rx_fragments_total", round * (FRAMES - 1)),
                ("umemd_tx_fragments_total", round * (FRAMES - 1)),
                ("umemd_packets_dropped_total", 0),
                ("umemd_xsk_rx_dropped_total", 0),
                ("umemd_pool_rejected_total", 0),
            ] {
                assert_eq!(metrics.total(name), expected, "{mode}, packet {place}: {name}");
            }
        }
        agent.terminate();
        assert_eq!(agent.wait().summary()["tx_packets"], PLACES.len() as u64 * WINDOW, "{mode}");
        assert_eq!(wire.drain(), 0, "{mode}: no datagram comes back twice");
    }
}

/// What is stuck somewhere behind the interface is as good as swallowed, until it comes back.
#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn frames_that_the_kernel_keeps_are_found_out() {
    const SENT: [(&str, &str); 1] = [("state", "tx")];
    for mode in MODES {
        let Some(lab) = Lab::new() else { return };
        let agent = reflecting(&lab, mode, &["--leak-after", "1s"]);
        let wire = Wire::connect(&lab.far, lab.pair().near.port(PORT));
        let swallowed = |m: &Metrics| m.sum("umemd_pool_swallowed_frames", &SENT);
        let jam = Jam::at(&lab.far, &lab.pair().far);

        wire.send(0..WINDOW, any_size);
        let metrics = agent.metrics_when("somebody misses them", |m| swallowed(m) > 0);
        let stuck = swallowed(&metrics);
        assert_eq!(stuck, metrics.frames("tx"), "{mode}: all that were not completed");
        assert_eq!(
            metrics.total("umemd_pool_swallowed_frames"),
            stuck,
            "{mode}: none that were lent to receive"
        );
        let told = format!("the kernel has kept {stuck} of the frames that it got to send");
        wait_until("the log says so", PATIENCE, || agent.stderr().contains(&told));

        jam.pass_by();
        wire.reflect(WINDOW, any_size);
        let sent = |m: &Metrics| m.total("umemd_tx_packets_total") == 2 * WINDOW && m.frames("tx") == stuck;
        assert_eq!(
            swallowed(&agent.metrics_when("others come and go", sent)),
            stuck,
            "{mode}: and these stay"
        );

        jam.clear();
        agent.metrics_when("they were not lost for good", |m| m.frames("tx") == 0 && swallowed(m) == 0);
        agent.terminate();
        assert_eq!(agent.wait().summary()["tx_packets"], 2 * WINDOW);
    }
}
