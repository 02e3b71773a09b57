//! The kernel's own AF_XDP tests (tools/testing/selftests/bpf/prog_tests/test_xsk.c), as far as an agent can be
//! asked to do the same; each names the one that it is after. Those left out are in the README, with the reason.
//!
//! There two sockets on a veth pair talk to each other. Here the far side is a socket of the stack.

use std::time::Duration;

use e2e::{
    agent::Agent,
    lab::{Lab, LabConfig, MODES, PORT, STEER},
    metrics::Metrics,
    scratch::Scratch,
    thread::{StoppedThread, sleeps},
    wait::{PATIENCE, wait_until},
    wire::{WINDOW, Wire, any_size},
};

/// What the kernel's tests send.
const COUNT: u64 = 4096;
/// The thread of the first queue.
const WORKER: &str = "near0/0";

fn reflecting(lab: &Lab, args: &[&str]) -> Agent {
    lab.agent(&[&["--steer", STEER, "--handler", "reflect"], args].concat()).start()
}

fn wire(lab: &Lab) -> Wire {
    Wire::connect(&lab.far, lab.pair().near.port(PORT))
}

fn all_sent_are_back(agent: &Agent, count: u64) -> Metrics {
    agent.metrics_when("all are received, sent and home", |m| {
        m.total("umemd_rx_packets_total") == count
            && m.total("umemd_tx_completions_total") >= count
            && m.frames("tx") + m.frames("completion") + m.frames("user") == 0
    })
}

/// SEND_RECEIVE, SEND_RECEIVE_2K_FRAME and BIDIRECTIONAL: in order, with the same contents, in both directions.
#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn send_receive() {
    for mode in MODES {
        for frame_size in ["2048", "4096"] {
            let Some(lab) = Lab::new() else { return };
            let agent = reflecting(&lab, &["--mode", mode, "--frame-size", frame_size, "--frames", "1024"]);
            wire(&lab).reflect(COUNT, |number| 18 + number as usize % 4);
            all_sent_are_back(&agent, COUNT);
            agent.terminate();
            assert_eq!(agent.wait().summary()["tx_packets"], COUNT, "{mode} {frame_size}");
        }
    }
}

/// SEND_RECEIVE_SINGLE_PKT: nothing waits for company.
#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn send_receive_single_packet() {
    for mode in MODES {
        let Some(lab) = Lab::new() else { return };
        let agent = reflecting(&lab, &["--mode", mode]);
        wire(&lab).reflect(1, any_size);
        all_sent_are_back(&agent, 1);
    }
}

/// POLL_RX and POLL_TX: a worker that sleeps in poll(2) is woken by one packet, each time.
#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn poll_rx_and_tx() {
    const ROUNDS: u64 = 50;
    for mode in MODES {
        let Some(lab) = Lab::new() else { return };
        let agent = reflecting(&lab, &["--mode", mode]);
        let wire = wire(&lab);
        let mut late = Vec::new();
        for round in 0..ROUNDS {
            // Asleep: an idle turn was the last one.
            let turns = |m: &Metrics| m.sum("umemd_worker_polls_total", &[("result", "idle")]);
            let before = turns(&agent.metrics());
            agent.metrics_when("an idle turn", |m| turns(m) > before);
            let start = std::time::Instant::now();
            wire.send(round..round + 1, any_size);
            wire.expect(round..round + 1, any_size, PATIENCE);
            late.extend(Some(start.elapsed()).filter(|took| *took > Duration::from_millis(90)));
        }
        // A machine that is busy is late now and then; whom only its heartbeat wakes is mostly late.
        assert!(late.len() as u64 <= ROUNDS / 10, "{mode}: woken by its heartbeat, after {late:?}");
    }
}

/// POLL_TXQ_FULL: nobody takes what is sent, so that the TX ring fills up; the worker goes on.
#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn poll_txq_full() {
    for mode in MODES {
        let Some(lab) = Lab::new() else { return };
        let args = ["--handler", "generate", "--dst-mac", &lab.pair().far.mac, "--tx-ring", "64"];
        let agent = lab.agent(&[&args[..], &["--mode", mode]].concat()).start();
        agent.metrics_when("it sends", |m| m.total("umemd_tx_packets_total") > COUNT);
        // A device that is down completes nothing, and its queue is full.
        lab.pair().near.set(&["down"]);
        let full = agent.metrics_when("the ring is full", |m| m.frames("tx") == 64);
        assert!(full.frames("user") <= 256 + 64, "the backlog has an end: {full}");
        let turns = |m: &Metrics| m.sum("umemd_worker_polls_total", &[("result", "idle")]);
        agent.metrics_when("it turns on", |m| turns(m) > turns(&full) + 2);
        // In vain, so not as fast as it can.
        let before = sleeps(agent.pid(), WORKER);
        wait_until("it sleeps", PATIENCE, || sleeps(agent.pid(), WORKER) > before + 10);

        lab.pair().near.set(&["up"]);
        let sent = full.total("umemd_tx_packets_total");
        agent.metrics_when("it sends again", |m| m.total("umemd_tx_packets_total") > sent + COUNT);
        agent.terminate();
        agent.wait().summary();
    }
}

/// STAT_RX_DROPPED and UMEM_HEADROOM: so much headroom that one byte is too many.
#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn stat_rx_dropped() {
    for mode in MODES {
        let Some(lab) = Lab::new() else { return };
        let headroom = ["--headroom", "1300", "--multi-buffer", "off", "--mode", mode];
        let agent = lab.agent(&[&["--steer", STEER], &headroom[..]].concat()).start();
        // 2048 - 256 - 1300: 492 bytes, headers included.
        wire(&lab).send(0..WINDOW, |number| if number % 2 == 0 { 450 } else { 451 });
        let half = WINDOW / 2;
        agent.metrics_when("half of them", |m| {
            m.total("umemd_rx_packets_total") == half && m.total("umemd_xsk_rx_dropped_total") == half
        });
    }
}

/// STAT_FILL_EMPTY: the kernel finds nothing on the fill ring.
#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn stat_fill_empty() {
    for mode in MODES {
        let Some(lab) = Lab::new() else { return };
        let agent = lab.agent(&["--steer", STEER, "--fill-ring", "1", "--mode", mode]).start();
        let worker = StoppedThread::stop(agent.pid(), WORKER);
        wire(&lab).send(0..WINDOW, any_size);
        agent.metrics_when("one found a frame", |m| {
            m.total("umemd_xsk_rx_fill_ring_empty_descs_total") == WINDOW - 1
        });
        worker.resume();
        let metrics = agent.metrics_when("it is received", |m| m.total("umemd_rx_packets_total") == 1);
        assert_eq!(metrics.total("umemd_xsk_rx_dropped_total"), WINDOW - 1, "{mode}");
        wire(&lab).send(0..1, any_size);
        agent.metrics_when("and it goes on", |m| m.total("umemd_rx_packets_total") == 2);
    }
}

/// STAT_RX_FULL, the other way round: the ring has room for all that the kernel was lent, so that it cannot be full.
#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn stat_rx_full_cannot_be() {
    for mode in MODES {
        let Some(lab) = Lab::new() else { return };
        let agent = lab.agent(&["--steer", STEER, "--rx-ring", "32", "--mode", mode]).start();
        let worker = StoppedThread::stop(agent.pid(), WORKER);
        wire(&lab).send(0..WINDOW, any_size);
        let metrics = agent.metrics_when("the rest found no frame", |m| {
            m.total("umemd_xsk_rx_dropped_total") == WINDOW - 32
        });
        assert_eq!(metrics.total("umemd_xsk_rx_ring_full_total"), 0, "{mode}");
        worker.resume();
        agent.metrics_when("32 are received", |m| m.total("umemd_rx_packets_total") == 32);
    }
}

/// TX_QUEUE_CONSUMER: one wake-up sends 32 in copy mode; the worker wakes until all are sent.
#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn tx_queue_consumer() {
    for mode in MODES {
        let Some(lab) = Lab::new() else { return };
        let agent = reflecting(&lab, &["--mode", mode]);
        let wire = wire(&lab);
        let worker = StoppedThread::stop(agent.pid(), WORKER);
        wire.send(0..WINDOW, any_size);
        agent.metrics_when("all frames steered", |m| m.verdicts("steered") == WINDOW);
        worker.resume();
        wire.expect(0..WINDOW, any_size, PATIENCE);
        let metrics = all_sent_are_back(&agent, WINDOW);
        let again = [("answer", "again")];
        assert!(
            metrics.sum("umemd_ring_wakeups_total", &again) >= 1,
            "{mode}: the first takes 32 of 64: {metrics}"
        );
    }
}

/// XDP_DROP_HALF: what is dropped leaves no gap in what is not. There every second packet, here those of one sender of
/// two who take turns, as rules know packets by what is in them.
#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn xdp_drop_half() {
    const HALF: u64 = COUNT / 2;
    let rules = format!(
        "[[rule]]\nmatch = '{STEER} and src port {PORT}'\naction = 'drop'\n[[rule]]\nmatch = '{STEER}'\n"
    );
    let rules = Scratch::new("drop_half.toml", &rules);
    for mode in MODES {
        let Some(lab) = Lab::new() else { return };
        let agent = lab.agent(&["--config", rules.path(), "--handler", "reflect", "--mode", mode]).start();
        let to = lab.pair().near.port(PORT);
        let (kept, dropped) =
            (Wire::connect(&lab.far, to), Wire::between(&lab.far, lab.pair().far.port(PORT), to));
        for window in (0..HALF).step_by(WINDOW as usize / 2).map(|from| from..from + WINDOW / 2) {
            for number in window.clone() {
                dropped.send(number..number + 1, any_size);
                kept.send(number..number + 1, any_size);
            }
            kept.expect(window, any_size, PATIENCE);
        }
        let metrics = all_sent_are_back(&agent, HALF);
        assert_eq!(metrics.verdicts("dropped"), HALF, "{mode}: {metrics}");
        assert_eq!(metrics.verdicts("steered"), HALF, "{mode}: {metrics}");
        assert_eq!(dropped.drain(), 0, "{mode}: what is dropped goes nowhere");
        agent.terminate();
        assert_eq!(agent.wait().summary()["rx_packets"], HALF, "{mode}");
    }
}

/// TEARDOWN: made and taken down ten times, with traffic.
#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn teardown() {
    let Some(lab) = Lab::new() else { return };
    let _stack = Wire::listen(&lab.near, lab.pair().near.port(PORT));
    let wire = wire(&lab);
    for round in 0..10 {
        let mode = MODES[round % 2];
        let agent = lab.agent(&["--steer", STEER, "--mode", mode]).start();
        wire.send(0..WINDOW, any_size);
        agent.metrics_when("it receives", |m| m.total("umemd_rx_packets_total") == WINDOW);
        agent.terminate();
        wire.send(0..WINDOW, any_size);
        agent.wait().summary();
        assert_eq!(lab.pair().near.xdp_program(), None);
    }
}

/// The worse half of TOO_MANY_FRAGS: the kernel would wait for ever for room that the completion ring can never have.
#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn more_fragments_than_the_completion_ring_holds() {
    for mode in MODES {
        let Some(lab) = Lab::with(LabConfig { mtu: 9000, ..LabConfig::default() }) else { return };
        let agent = reflecting(&lab, &["--mode", mode, "--completion-ring", "4"]);
        let wire = wire(&lab);
        // 1792 bytes in each frame: four, and six.
        wire.reflect(WINDOW, |_| 7000);
        wire.send(0..4, |_| 8972);
        wire.reflect(WINDOW, |_| 7000);
        let metrics = agent.metrics();
        let cut = metrics.sum("umemd_packets_dropped_total", &[("reason", "tx_invalid")]);
        assert_eq!(cut, 4, "{mode}: {metrics}");
        agent.terminate();
        assert_eq!(agent.wait().summary()["tx_packets"], 2 * WINDOW, "{mode}");
    }
}

/// XDP_SHARED_UMEM: two sockets, one UMEM, each gets what is its own. There by MAC address, here by interface.
#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn xdp_shared_umem() {
    for mode in MODES {
        let Some(lab) = Lab::with(LabConfig { pairs: 2, beyond: true, ..LabConfig::default() }) else {
            return;
        };
        let forward = ["--iface", "near0", "--handler", "forward", "--to", "near1", "--steer", STEER];
        let agent = lab.agent_on(&[&forward[..], &["--mode", mode]].concat()).start();
        let (here, there) = (lab.pairs()[0].far.port(PORT), lab.pairs()[1].far.port(PORT));
        let beyond = lab.beyond.as_ref().expect("a third namespace");
        let (a, b) = (Wire::between(&lab.far, here, there), Wire::between(beyond, there, here));
        // By turns, so that frames of one UMEM are on both sides' rings at once.
        for _ in 0..COUNT / WINDOW / 2 {
            a.send_to(&b, WINDOW / 2, any_size);
            b.send_to(&a, WINDOW / 2, any_size);
        }
        agent.terminate();
        assert_eq!(agent.wait().summary()["tx_packets"], COUNT / 2, "{mode}");
    }
}

/// SEND_RECEIVE_9K_PACKETS and the good half of TOO_MANY_FRAGS: as long as a packet can be.
#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn send_receive_9k_packets() {
    for mode in MODES {
        let Some(lab) = Lab::with(LabConfig { mtu: 9000, ..LabConfig::default() }) else { return };
        let agent = reflecting(&lab, &["--mode", mode]);
        wire(&lab).reflect(WINDOW * 4, |number| 8972 - number as usize % 4);
        let metrics = all_sent_are_back(&agent, WINDOW * 4);
        // 1792 bytes in each frame.
        assert_eq!(metrics.total("umemd_rx_fragments_total"), WINDOW * 4 * 5, "{mode}");
    }
}

/// The bad half of TOO_MANY_FRAGS: a packet that takes more frames than the kernel makes of one is dropped, and
/// those after it are not.
#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn too_many_fragments() {
    // 492 bytes in each frame: 19 for a packet of 9014, of which 18 are the most; or 448, and 21.
    for (mode, headroom) in MODES.into_iter().flat_map(|mode| ["1300", "1344"].map(|bytes| (mode, bytes))) {
        let Some(lab) = Lab::with(LabConfig { mtu: 9000, ..LabConfig::default() }) else { return };
        let agent = reflecting(&lab, &["--headroom", headroom, "--mode", mode]);
        let wire = wire(&lab);
        wire.reflect(WINDOW, |number| 8000 - number as usize);
        wire.send(0..4, |_| 8972);
        wire.reflect(WINDOW, |number| 8000 - number as usize);
        let metrics = agent.metrics();
        let dropped = metrics.total("umemd_xsk_rx_dropped_total");
        let lost = dropped
            + metrics.sum("umemd_packets_dropped_total", &[("reason", "tx_invalid")])
            + metrics.sum("umemd_packets_dropped_total", &[("reason", "rx_too_long")]);
        assert_eq!(lost, 4, "{mode}: {metrics}");
        // What is left of one is no packet.
        assert_eq!(metrics.total("umemd_rx_packets_total") + dropped, 2 * WINDOW + 4, "{mode}: {metrics}");
    }
}
