//! How an agent begins, stumbles and ends, and what it leaves behind.

use std::{fs, thread, time::Duration};

use e2e::{
    foreign::{ForeignProgram, ForeignSocket},
    lab::{Lab, MODES, PORT, STEER},
    thread::StoppedThread,
    wait::{PATIENCE, wait_until},
    wire::{WINDOW, Wire},
};

/// The thread of the first queue.
const WORKER: &str = "near0/0";

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn sigterm_drains_what_was_received() {
    for mode in MODES {
        let Some(lab) = Lab::new() else { return };
        let near = &lab.pair().near;
        let agent = lab.agent(&["--steer", STEER, "--handler", "reflect", "--mode", mode]).start();
        let wire = Wire::connect(&lab.far, near.port(PORT));

        // Frames that are on the RX ring when the signal comes: the worker stands still meanwhile.
        let worker = StoppedThread::stop(agent.pid(), WORKER);
        wire.send(0..WINDOW, |_| 500);
        agent.metrics_when("all frames steered", |m| m.verdicts("steered") == WINDOW);
        assert_eq!(agent.metrics().total("umemd_rx_packets_total"), 0, "{mode}: the worker stands still");
        agent.terminate();
        wait_until("the program is detached", PATIENCE, || near.xdp_program().is_none());
        worker.resume();

        let exit = agent.wait();
        let summary = exit.summary();
        assert_eq!(
            (&summary["rx_packets"], &summary["tx_packets"]),
            (&WINDOW.into(), &WINDOW.into()),
            "{mode}: {summary}"
        );
        wire.expect(0..WINDOW, |_| 500, PATIENCE);
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn no_huge_page_is_taken_unasked() {
    let Some(lab) = Lab::new() else { return };
    let agent = lab.agent(&["--steer", STEER]).start();
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    assert!(status.lines().any(|line| line == "THP_enabled:\t0"), "{status}");
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn sigint_ends_as_well_as_sigterm() {
    let Some(lab) = Lab::new() else { return };
    let agent = lab.agent(&["--steer", STEER]).start();
    Wire::connect(&lab.far, lab.pair().near.port(PORT)).send(0..WINDOW, |_| 100);
    agent.metrics_when("all frames", |m| m.total("umemd_rx_packets_total") == WINDOW);

    agent.interrupt();

    let exit = agent.wait();
    assert_eq!(exit.summary()["rx_packets"], WINDOW, "{exit}");
    assert_eq!(lab.pair().near.xdp_program(), None, "{exit}");
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_second_signal_ends_at_once() {
    let Some(lab) = Lab::new() else { return };
    let near = &lab.pair().near;
    let agent = lab.agent(&["--steer", STEER]).start();

    // A worker that stands still keeps the first one waiting.
    let worker = StoppedThread::stop(agent.pid(), WORKER);
    agent.terminate();
    wait_until("the program is detached", PATIENCE, || near.xdp_program().is_none());
    agent.terminate();
    worker.wait_for_its_end();

    let exit = agent.wait();
    assert_eq!((exit.code, &exit.summary), (Some(130), &None), "no drain, no summary: {exit}");
    assert!(exit.stderr.contains("second signal"), "{exit}");
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn duration_ends_by_itself() {
    let Some(lab) = Lab::new() else { return };
    let agent = lab.agent(&["--steer", STEER, "--duration", "1200ms"]).start();
    Wire::connect(&lab.far, lab.pair().near.port(PORT)).send(0..WINDOW, |_| 100);

    let exit = agent.wait();

    let summary = exit.summary();
    let duration = summary["duration_s"].as_f64().expect("a number");
    assert!((1.2..PATIENCE.as_secs_f64()).contains(&duration), "1.2 s took {duration} s: {exit}");
    assert_eq!(summary["rx_packets"], WINDOW, "{summary}");
    assert!(exit.intervals.len() as f64 <= duration, "one a second: {:?} {exit}", exit.intervals);
    assert_eq!(lab.pair().near.xdp_program(), None, "{exit}");
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn sigkill_leaves_no_program_and_the_next_start_works() {
    for mode in MODES {
        let Some(lab) = Lab::new() else { return };
        let near = &lab.pair().near;
        let wire = Wire::connect(&lab.far, near.port(PORT));
        for round in 0..3 {
            let agent = lab.agent(&["--steer", STEER, "--handler", "reflect", "--mode", mode]).start();
            assert!(near.xdp_program().is_some(), "{mode}: attached in round {round}");
            wire.send(0..WINDOW, |_| 300);
            wire.expect(0..WINDOW, |_| 300, PATIENCE);

            agent.kill();

            let exit = agent.wait();
            assert_eq!(exit.code, None, "{mode}: killed in round {round}: {exit}");
            // The kernel lets go of a dead process's link in its own time.
            wait_until("no program is attached", PATIENCE, || near.xdp_program().is_none());
        }
        // The stack has its port back.
        let stack = Wire::listen(&lab.near, near.port(PORT));
        wire.send(0..WINDOW, |_| 100);
        stack.expect(0..WINDOW, |_| 100, PATIENCE);
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_stopped_worker_fails_open_and_comes_back() {
    for mode in MODES {
        let Some(lab) = Lab::new() else { return };
        let near = &lab.pair().near;
        let agent = lab.agent(&["--steer", STEER, "--handler", "reflect", "--mode", mode]).start();
        let stack = Wire::listen(&lab.near, near.port(PORT));
        let wire = Wire::connect(&lab.far, near.port(PORT));
        wire.send(0..WINDOW, |_| 200);
        wire.expect(0..WINDOW, |_| 200, PATIENCE);

        let worker = StoppedThread::stop(agent.pid(), WORKER);
        let took = wait_until("/readyz says 503", PATIENCE, || agent.get("/readyz").status == 503);
        // A second without a turn, looked at ten times a second. The rest is for a machine that is busy.
        assert!(took > Duration::from_millis(500), "{mode}: a worker was given up after {took:?}");
        assert!(took < Duration::from_secs(4), "{mode}: traffic was held for {took:?}");
        let page = agent.get("/readyz");
        assert!(page.body.contains("near0 queue 0"), "says which queue: {}", page.body);
        wire.send(0..WINDOW, |_| 200);
        stack.expect(0..WINDOW, |_| 200, PATIENCE);
        let metrics = agent.metrics();
        assert_eq!(metrics.verdicts("no_socket"), WINDOW, "{mode}");
        assert_eq!(metrics.total("umemd_worker_failed_open_total"), 1, "{mode}");
        assert_eq!(metrics.total("umemd_worker_steered"), 0);

        wait_until("/healthz says that it hangs", PATIENCE, || agent.get("/healthz").status == 503);
        let page = agent.get("/healthz");
        assert!(page.body.contains("near0 queue 0 makes no turns"), "{}", page.body);

        worker.resume();
        wait_until("/healthz says ok again", PATIENCE, || agent.get("/healthz").status == 200);
        wait_until("/readyz says ok again", PATIENCE, || agent.get("/readyz").status == 200);
        wire.send(0..WINDOW, |_| 200);
        wire.expect(0..WINDOW, |_| 200, PATIENCE);
        let metrics = agent.metrics();
        assert_eq!(metrics.verdicts("steered"), 2 * WINDOW);
        assert_eq!(metrics.verdicts("no_socket"), WINDOW, "{mode}");
        assert_eq!(metrics.total("umemd_worker_steered"), 1);
        assert_eq!(
            stack.receive(Duration::from_millis(50)),
            None,
            "{mode}: steered frames do not reach the stack"
        );

        agent.terminate();
        let exit = agent.wait();
        assert_eq!(exit.summary()["rx_packets"], 2 * WINDOW, "{exit}");
        assert!(exit.stderr.contains("its traffic goes to the stack"), "{exit}");
        assert!(exit.stderr.contains("steered again"), "{exit}");
    }
}

/// It sleeps until somebody wakes it, and must be woken before it counts as stopped.
#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_worker_without_traffic_is_not_taken_for_a_stopped_one() {
    let Some(lab) = Lab::new() else { return };
    let agent = lab.agent(&["--steer", STEER]).start();
    // Twice as long as a worker may make no turn, and nobody asks for anything.
    thread::sleep(Duration::from_secs(2));
    assert_eq!(agent.get("/readyz").status, 200);
    let metrics = agent.metrics();
    assert_eq!(metrics.total("umemd_worker_failed_open_total"), 0);
    assert_eq!(metrics.total("umemd_worker_steered"), 1);
    agent.terminate();
    agent.wait().summary();
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_report_that_nobody_reads_holds_up_nothing() {
    let Some(lab) = Lab::new() else { return };
    let near = &lab.pair().near;
    let agent = lab.agent(&["--steer", STEER]).unread().start();
    let stack = Wire::listen(&lab.near, near.port(PORT));
    let wire = Wire::connect(&lab.far, near.port(PORT));
    wire.send(0..WINDOW, |_| 200);
    agent.metrics_when("all frames", |m| m.total("umemd_rx_packets_total") == WINDOW);

    // The watchdog still gives up a worker that stands still,
    let worker = StoppedThread::stop(agent.pid(), WORKER);
    wait_until("/readyz says 503", PATIENCE, || agent.get("/readyz").status == 503);
    wire.send(0..WINDOW, |_| 200);
    stack.expect(0..WINDOW, |_| 200, PATIENCE);
    worker.resume();
    wait_until("/readyz says ok again", PATIENCE, || agent.get("/readyz").status == 200);

    // and a signal still ends it.
    agent.terminate();
    let exit = agent.wait();
    assert_eq!(exit.code, Some(1), "it could not say what it counted: {exit}");
    assert!(exit.stderr.contains("nobody reads the report"), "{exit}");
    assert_eq!(near.xdp_program(), None, "{exit}");
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_second_agent_is_told_whose_program_is_there() {
    let Some(lab) = Lab::new() else { return };
    let near = &lab.pair().near;
    let first = lab.agent(&["--steer", STEER, "--handler", "reflect"]).start();
    let id = near.xdp_program().expect("attached");

    for mode in MODES {
        let second = lab.agent(&["--steer", STEER, "--mode", mode]).run();
        assert_eq!(second.code, Some(1), "{second}");
        assert!(second.stderr.contains("near0 has an XDP program already"), "{second}");
        assert!(second.stderr.contains(&format!("id {id}")), "expected id {id}: {second}");
        assert_eq!(near.xdp_program(), Some(id), "the first one's program stays");
    }

    let wire = Wire::connect(&lab.far, near.port(PORT));
    wire.send(0..WINDOW, |_| 64);
    wire.expect(0..WINDOW, |_| 64, PATIENCE);
    first.terminate();
    assert_eq!(first.wait().summary()["rx_packets"], WINDOW);
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_program_of_someone_else_is_never_removed() {
    let Some(lab) = Lab::new() else { return };
    let near = &lab.pair().near;
    let foreign = ForeignProgram::attach(&lab.near, near);

    for mode in MODES {
        let exit = lab.agent(&["--steer", STEER, "--mode", mode]).run();
        assert_eq!(exit.code, Some(1), "{exit}");
        let id = foreign.id();
        assert!(exit.stderr.contains(&format!("id {id}")), "expected id {id}: {exit}");
        assert_eq!(near.xdp_program(), Some(id), "the other's program stays: {exit}");
    }

    foreign.detach();
    let agent = lab.agent(&["--steer", STEER]).start();
    agent.terminate();
    agent.wait().summary();
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_queue_with_someone_elses_socket_is_busy() {
    let Some(lab) = Lab::new() else { return };
    let near = &lab.pair().near;
    let foreign = ForeignSocket::bind(&lab.near, near, 0);

    let exit = lab.agent(&["--steer", STEER]).run();
    assert_eq!(exit.code, Some(1), "{exit}");
    for words in ["near0 queue 0", "EBUSY", "another AF_XDP socket"] {
        assert!(exit.stderr.contains(words), "expected {words:?}: {exit}");
    }
    wait_until("no program is attached", PATIENCE, || near.xdp_program().is_none());

    drop(foreign);
    let agent = lab.agent(&["--steer", STEER]).start();
    agent.terminate();
    agent.wait().summary();
}

/// The kernel releases a queue some time after its last socket was closed. Meanwhile one UMEM is all that may be locked.
#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_queue_that_is_released_soon_is_waited_for() {
    let Some(lab) = Lab::new() else { return };
    let near = &lab.pair().near;
    let foreign = ForeignSocket::bind(&lab.near, near, 0);
    // 192 KiB, which nobody may raise; the UMEM has 128.
    let prefix = ["prlimit", "--memlock=196608:196608", "setpriv", "--inh-caps=-all"];
    let prefix = [&prefix[..], &["--bounding-set=-sys_resource,-ipc_lock", "--"]].concat();
    let agent = lab.agent(&["--steer", STEER, "--frames", "64"]).under(prefix).start_unready();
    // Attached first; it waits for a second, of which `ip` would take too much to look.
    wait_until("the program is attached", PATIENCE, || !agent.xdp_links().is_empty());
    thread::sleep(Duration::from_millis(100));
    drop(foreign);
    wait_until("it runs", PATIENCE, || !agent.objects().is_empty());
    agent.terminate();
    agent.wait().summary();
}
