//! `--capture`: what is in it, and the frames that it keeps meanwhile.

use std::{fs, process::Command};

use e2e::{
    command::run,
    lab::{Lab, LabConfig, MODES, OTHER_PORT, PORT, STEER},
    metrics::Metrics,
    pcapng::{Fate, XDP_DROP, XDP_REDIRECT, XDP_TX, fates_of, packets_of, tcpdump},
    scratch::Folder,
    thread::StoppedThread,
    wait::{PATIENCE, wait_until},
    wire::{WINDOW, Wire, any_size},
};

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn packets_are_captured_as_they_are_sent() {
    const COUNT: u64 = 500;
    for mode in MODES {
        let Some(lab) = Lab::new() else { return };
        let folder = Folder::of(&lab);
        let file = folder.file("all.pcapng");
        let args = ["--steer", STEER, "--handler", "reflect", "--mode", mode, "--capture", &file];
        let agent = lab.agent(&args).start();

        Wire::connect(&lab.far, lab.pair().near.port(PORT)).reflect(COUNT, any_size);

        agent.terminate();
        let exit = agent.wait();
        let summary = exit.summary();
        assert_eq!(summary["tx_packets"], COUNT, "{summary}");
        let capture = &summary["capture"];
        assert_eq!((&capture["packets"], &capture["missed"]), (&COUNT.into(), &0.into()), "{summary}");
        // Reflected: what came to the port goes out of it.
        let sent = tcpdump(&file, "udp src port 7007");
        assert_eq!(sent.len() as u64, COUNT, "{mode}");
        assert_eq!(tcpdump(&file, "udp dst port 7007").len(), 0, "{mode}");
        for (number, line) in (0..COUNT).zip(&sent) {
            assert!(line.ends_with(&format!("length {}", any_size(number))), "packet {number}: {line}");
        }
        let reflected = Fate { interface: 0, queue: 0, verdict: XDP_TX };
        assert!(
            fates_of(&fs::read(&file).expect("the file")).iter().all(|fate| *fate == reflected),
            "{mode}"
        );
        let day = run(Command::new("date").args(["+%Y-%m-%d", "-r", &file]), "").expect("date");
        assert!(sent[0].starts_with(day.trim()), "{day}: {}", sent[0]);
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn what_is_dropped_is_captured_too_and_what_is_not_steered_is_not() {
    for mode in MODES {
        let Some(lab) = Lab::new() else { return };
        let folder = Folder::of(&lab);
        let file = folder.file("dropped.pcapng");
        let agent =
            lab.agent(&["--steer", STEER, "--mode", mode, "--capture", &file, "--snaplen", "60"]).start();
        let near = &lab.pair().near;
        let stack = Wire::listen(&lab.near, near.port(OTHER_PORT));
        Wire::connect(&lab.far, near.port(OTHER_PORT)).send(0..8, any_size);
        stack.expect(0..8, any_size, PATIENCE);
        Wire::connect(&lab.far, near.port(PORT)).send(0..WINDOW, |_| 500);
        agent.metrics_when("all are written", |m| m.total("umemd_capture_packets_total") == WINDOW);

        // The file is whole while it is written.
        assert_eq!(packets_of(&fs::read(&file).expect("the file")), WINDOW, "{mode}");
        agent.terminate();
        let exit = agent.wait();
        assert_eq!(exit.summary()["capture"]["packets"], WINDOW, "{mode}: {exit}");
        assert_eq!(tcpdump(&file, "").len() as u64, WINDOW, "{mode}");
        let bytes = fs::read(&file).expect("the file");
        let dropped = Fate { interface: 0, queue: 0, verdict: XDP_DROP };
        assert!(fates_of(&bytes).iter().all(|fate| *fate == dropped), "{mode}");
        let bytes = bytes.len() as u64;
        assert!(bytes < WINDOW * 140, "{mode}: 60 bytes of each were kept: {bytes}");
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn forwarded_packets_have_the_interface_that_they_came_in_by() {
    for mode in MODES {
        let Some(lab) = Lab::with(LabConfig { pairs: 2, beyond: true, ..LabConfig::default() }) else {
            return;
        };
        let folder = Folder::of(&lab);
        let file = folder.file("forward.pcapng");
        let forward = ["--iface", "near0", "--handler", "forward", "--to", "near1", "--steer", STEER];
        let agent = lab.agent_on(&[&forward[..], &["--mode", mode, "--capture", &file]].concat()).start();
        let (here, there) = (lab.pairs()[0].far.port(PORT), lab.pairs()[1].far.port(PORT));
        let here = Wire::between(&lab.far, here, there);
        let there = Wire::between(
            lab.beyond.as_ref().expect("a third namespace"),
            there,
            lab.pairs()[0].far.port(PORT),
        );
        here.send_to(&there, WINDOW, any_size);
        there.send_to(&here, 2 * WINDOW, any_size);

        agent.terminate();
        let exit = agent.wait();
        assert_eq!(exit.summary()["capture"]["packets"], 3 * WINDOW, "{mode}: {exit}");
        let (sent, answered) =
            (format!("src {}", lab.pairs()[0].far.ip), format!("dst {}", lab.pairs()[0].far.ip));
        assert_eq!(tcpdump(&file, &sent).len() as u64, WINDOW, "{mode}");
        assert_eq!(tcpdump(&file, &answered).len() as u64, 2 * WINDOW, "{mode}");
        let bytes = fs::read(&file).expect("the file");
        for (interface, count) in [(0, WINDOW), (1, 2 * WINDOW)] {
            let forwarded = Fate { interface, queue: 0, verdict: XDP_REDIRECT };
            let fates = fates_of(&bytes).into_iter().filter(|fate| *fate == forwarded);
            assert_eq!(fates.count() as u64, count, "{mode}: from interface {interface}");
        }
        for name in ["near0", "near1"] {
            assert!(
                bytes.windows(name.len()).any(|window| window == name.as_bytes()),
                "{mode}: {name} is named"
            );
        }
    }
}

/// Native only: generic XDP on a veth of several queues sees every packet on the first one.
#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn each_packet_has_the_queue_that_it_came_in_by() {
    const QUEUES: [&str; 2] = ["0", "1"];
    let Some(lab) = Lab::with(LabConfig { queues: 2, ..LabConfig::default() }) else { return };
    let folder = Folder::of(&lab);
    let file = folder.file("queues.pcapng");
    let args = ["--steer", STEER, "--frames", "1024", "--capture", &file];
    let agent = lab.agent(&args).start();
    let received = |m: &Metrics, queue| m.sum("umemd_rx_packets_total", &[("queue", queue)]);

    // Which queue a flow goes to is the kernel's choice: until both have had some.
    let mut flows = 1..=200;
    let metrics = loop {
        let flow = flows.next().expect("a flow for either queue");
        Wire::connect(&lab.far, lab.pair().near.port(PORT)).send(0..WINDOW, any_size);
        // What is written is counted a little later than what was received was shown.
        let metrics = agent.metrics_when("all are written", |m| {
            ["umemd_capture_packets_total", "umemd_rx_packets_total"].map(|name| m.total(name))
                == [flow * WINDOW; 2]
        });
        if QUEUES.iter().all(|queue| received(&metrics, queue) > 0) {
            break metrics;
        }
    };

    agent.terminate();
    agent.wait().summary();
    let fates = fates_of(&fs::read(&file).expect("the file"));
    for (number, queue) in (0..).zip(QUEUES) {
        let count = fates.iter().filter(|fate| fate.queue == number).count() as u64;
        assert_eq!(count, received(&metrics, queue), "of queue {queue}");
    }
    assert!(fates.iter().all(|fate| fate.verdict == XDP_DROP));
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn packets_in_several_frames_are_one_in_a_capture() {
    const COUNT: u64 = 100;
    for mode in MODES {
        let Some(lab) = Lab::with(LabConfig { mtu: 9000, ..LabConfig::default() }) else { return };
        let folder = Folder::of(&lab);
        let file = folder.file("jumbo.pcapng");
        let args = ["--steer", STEER, "--handler", "reflect", "--mode", mode, "--capture", &file];
        let agent = lab.agent(&args).start();
        let size = |number: u64| (number * 997 % 8973) as usize;
        Wire::connect(&lab.far, lab.pair().near.port(PORT)).reflect(COUNT, size);
        agent.terminate();
        let exit = agent.wait();
        assert_eq!(exit.summary()["capture"]["packets"], COUNT, "{mode}: {exit}");
        for (number, line) in (0..COUNT).zip(tcpdump(&file, "udp src port 7007")) {
            assert!(line.ends_with(&format!("length {}", size(number))), "{mode}, packet {number}: {line}");
        }
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_slow_writer_holds_up_no_frame() {
    const COUNT: u64 = 3000;
    for mode in MODES {
        let Some(lab) = Lab::new() else { return };
        let folder = Folder::of(&lab);
        let file = folder.file("slow.pcapng");
        let args =
            ["--steer", STEER, "--handler", "reflect", "--frames", "512", "--mode", mode, "--capture", &file];
        let agent = lab.agent(&args).start();
        let wire = Wire::connect(&lab.far, lab.pair().near.port(PORT));

        // The writer stands still: as many frames as others may hold are held, and the rest go by.
        let writer = StoppedThread::stop(agent.pid(), "capture");
        wire.reflect(COUNT, any_size);
        let metrics = agent.metrics();
        assert_eq!(metrics.total("umemd_capture_shown_total"), 128, "{mode}: a quarter of the frames");
        assert_eq!(metrics.total("umemd_capture_missed_total"), COUNT - 128, "{mode}");
        writer.resume();

        agent.metrics_when("what was held is written", |m| m.total("umemd_capture_packets_total") == 128);
        agent.terminate();
        let exit = agent.wait();
        assert_eq!(exit.summary()["tx_packets"], COUNT, "{exit}");
        assert_eq!(exit.summary()["capture"]["missed"], COUNT - 128, "{exit}");
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn who_keeps_frames_for_too_long_is_named() {
    const CAPTURE: [(&str, &str); 1] = [("holder", "capture")];
    for mode in MODES {
        let Some(lab) = Lab::new() else { return };
        let folder = Folder::of(&lab);
        let file = folder.file("kept.pcapng");
        let args = ["--steer", STEER, "--mode", mode, "--capture", &file, "--leak-after", "500ms"];
        let agent = lab.agent(&args).start();
        let wire = Wire::connect(&lab.far, lab.pair().near.port(PORT));

        let writer = StoppedThread::stop(agent.pid(), "capture");
        wire.send(0..WINDOW, any_size);
        let metrics = agent.metrics_when("all are kept", |m| m.sum("umemd_held_frames", &CAPTURE) == WINDOW);
        assert_eq!(metrics.sum("umemd_held_frames", &[("holder", "handler")]), 0);
        assert_eq!(metrics.total("umemd_frame_hold_seconds_count"), 0, "{mode}: none came back");
        agent.metrics_when("they count as leaked", |m| m.sum("umemd_leaked_frames", &CAPTURE) == WINDOW);
        let status: serde_json::Value = serde_json::from_str(&agent.get("/status").body).unwrap();
        let holder = &status["devices"][0]["queues"][0]["holders"][1];
        assert_eq!((&holder["holder"], &holder["leaked"]), (&"capture".into(), &WINDOW.into()), "{status}");
        assert!(holder["oldest_s"].as_f64().is_some_and(|age| age >= 0.5), "{status}");
        let told = format!("the capture keeps {WINDOW} frames for longer than 500ms");
        wait_until("the log says so", PATIENCE, || agent.stderr().contains(&told));
        writer.resume();

        let metrics = agent.metrics_when("they came back", |m| m.total("umemd_held_frames") == 0);
        assert_eq!(
            (metrics.total("umemd_leaked_frames"), metrics.total("umemd_oldest_hold_seconds")),
            (0, 0)
        );
        assert_eq!(metrics.total("umemd_frame_hold_seconds_count"), WINDOW);
        let soon = metrics.sum("umemd_frame_hold_seconds_bucket", &[("le", "0.262144")]);
        assert_eq!(soon, 0, "{mode}: each of them was kept for longer");
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn frames_that_are_held_outlive_the_interface() {
    for mode in MODES {
        let Some(lab) = Lab::new() else { return };
        let folder = Folder::of(&lab);
        let file = folder.file("held.pcapng");
        let args = ["--steer", STEER, "--mode", mode, "--capture", &file];
        let agent = lab.agent(&args).start();

        let writer = StoppedThread::stop(agent.pid(), "capture");
        Wire::connect(&lab.far, lab.pair().near.port(PORT)).send(0..WINDOW, any_size);
        agent.metrics_when("all are held", |m| m.frames("user") == WINDOW);
        lab.pair().remove();
        wait_until("/readyz tells", PATIENCE, || agent.get("/readyz").status == 503);
        lab.lay(0);
        wait_until("/readyz says ok", PATIENCE, || agent.get("/readyz").status == 200);
        let held = |object: &serde_json::Value| {
            (&object["frames"]["user"], &object["frames"]["total"]) == (&WINDOW.into(), &(2 * 4096).into())
        };
        wait_until("both UMEMs are there, and the old one waits", PATIENCE, || {
            agent.objects().last().is_some_and(held)
        });
        let metrics = agent.metrics();
        assert_eq!(metrics.sum("umemd_leaving_frames", &[("queue", "0"), ("holder", "capture")]), WINDOW);
        assert_eq!(metrics.total("umemd_held_frames"), 0, "of the new queue");
        writer.resume();

        let home = |object: &serde_json::Value| object["frames"]["total"] == 4096;
        wait_until("the old UMEM is gone", PATIENCE, || agent.objects().last().is_some_and(home));
        agent.terminate();
        let exit = agent.wait();
        assert_eq!(exit.summary()["rx_packets"], WINDOW, "{exit}");
        assert_eq!(exit.summary()["capture"]["packets"], WINDOW, "{exit}");
        assert!(exit.intervals.iter().all(|interval| interval["conserved"] == true), "{exit}");
    }
}
