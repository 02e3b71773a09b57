//! How sockets are made and workers run.

use std::time::{Duration, Instant};

use e2e::{
    lab::{Lab, LabConfig, MODES, PORT, STEER},
    privilege::{XDP_USE_SG, kernel_has, kernel_lacks},
    thread,
    wire::{WINDOW, Wire, any_size},
};

/// The thread of the first queue.
const WORKER: &str = "near0/0";
const REFLECT: [&str; 4] = ["--steer", STEER, "--handler", "reflect"];

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_spinning_worker_never_sleeps_and_another_does() {
    const COUNT: u64 = 500;
    for mode in MODES {
        for (args, spins) in [(&["--spin"][..], true), (&[], false)] {
            let Some(lab) = Lab::new() else { return };
            let agent = lab.agent(&[&REFLECT, args, &["--mode", mode]].concat()).start();
            let wire = Wire::connect(&lab.far, lab.pair().near.port(PORT));
            let before = thread::sleeps(agent.pid(), WORKER);

            wire.reflect(COUNT, any_size);

            let slept = thread::sleeps(agent.pid(), WORKER) - before;
            // poll(2) sleeps at least once per window; a spinner only if a lock of the kernel's is taken.
            assert_eq!(slept < COUNT / 16 / 2, spins, "{mode} {args:?}: slept {slept} times");
            agent.terminate();
            assert_eq!(agent.wait().summary()["tx_packets"], COUNT, "{mode} {args:?}");
        }
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn frames_gather_for_as_long_as_asked() {
    const COUNT: u64 = 1000;
    for mode in MODES {
        let Some(lab) = Lab::new() else { return };
        let agent = lab.agent(&[&REFLECT[..], &["--rx-usecs", "1000", "--mode", mode]].concat()).start();
        assert_eq!(agent.metrics().label_values("umemd_worker_info", "rx_usecs"), ["1000"], "{mode}");
        let wire = Wire::connect(&lab.far, lab.pair().near.port(PORT));

        let start = Instant::now();
        wire.reflect(COUNT, any_size);
        // A quarter of a window waits for the one before it: each takes a turn of its own, and behind each frames gather.
        let turns = (COUNT / (WINDOW / 4)) as u32;
        // Not behind the first ones: alone they are no stream.
        assert!(start.elapsed() >= Duration::from_millis(1) * (turns - 2), "{mode}: {:?}", start.elapsed());
        agent.terminate();
        assert_eq!(agent.wait().summary()["tx_packets"], COUNT, "{mode}");

        for (handler, usecs) in [("drop", "50"), ("reflect", "0")] {
            let agent = lab.agent(&["--steer", STEER, "--handler", handler, "--mode", mode]).start();
            assert_eq!(
                agent.metrics().label_values("umemd_worker_info", "rx_usecs"),
                [usecs],
                "{mode} {handler}"
            );
            agent.terminate();
            agent.wait().summary();
        }
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn the_mode_obtained_is_shown_whoever_chose_it() {
    for (mode, args) in MODES.into_iter().flat_map(|mode| [(mode, &["--copy"][..]), (mode, &[])]) {
        let Some(lab) = Lab::new() else { return };
        let agent = lab.agent(&[&REFLECT, args, &["--mode", mode]].concat()).start();
        // A veth has no zero-copy, and the table knows that: nothing is tried, nothing is said.
        assert_eq!(agent.metrics().label_values("umemd_socket_info", "mode"), ["copy"]);
        assert_eq!(agent.metrics().label_values("umemd_device_info", "xdp_mode"), [mode]);
        assert_eq!(agent.metrics().label_values("umemd_device_info", "driver"), ["veth"]);
        // In skb mode there is a word on segmentation.
        let said = agent.stderr();
        let warning = said.lines().find(|line| line.contains("warn") && !line.contains("in skb mode"));
        assert_eq!(warning, None);
        agent.terminate();
        let exit = agent.wait();
        let summary = exit.summary();
        assert_eq!((&summary["mode"], &summary["copy"]), (&mode.into(), &true.into()), "{exit}");
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn workers_are_pinned_each_to_its_cpu() {
    let Some(lab) = Lab::with(LabConfig { queues: 2, ..LabConfig::default() }) else { return };
    let agent = lab.agent(&["--steer", STEER, "--frames", "64"]).start();
    let cpus = ["near0/0", "near0/1"].map(|worker| thread::cpus(agent.pid(), worker));
    assert_eq!(agent.metrics().label_values("umemd_worker_info", "cpu"), cpus);
    let machine = std::thread::available_parallelism().expect("a count").get();
    assert_eq!(cpus[0] != cpus[1], machine > 1, "{cpus:?}");

    agent.terminate();
    agent.wait().summary();
    let agent = lab.agent(&["--steer", STEER, "--frames", "64", "--cpus", "0"]).start();
    assert_eq!(thread::cpus(agent.pid(), "near0/1"), "0");
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn rings_are_as_small_as_asked_for_and_nothing_is_lost() {
    const COUNT: u64 = 500;
    let rings = ["--rx-ring", "64", "--fill-ring", "64", "--tx-ring", "4", "--completion-ring", "2"];
    for mode in MODES {
        let Some(lab) = Lab::new() else { return };
        let agent = lab.agent(&[&REFLECT[..], &["--mode", mode], &rings].concat()).start();
        agent.metrics_when("64 frames are lent for receiving", |m| m.frames("fill") == 64);
        let wire = Wire::connect(&lab.far, lab.pair().near.port(PORT));

        wire.reflect(COUNT, any_size);

        let metrics = agent.metrics();
        assert_eq!(
            metrics.total("umemd_xsk_rx_ring_full_total"),
            0,
            "{mode}: it has room for all that is lent"
        );
        assert_eq!(metrics.total("umemd_xsk_rx_dropped_total"), 0, "{mode}");
        agent.terminate();
        let exit = agent.wait();
        assert_eq!(exit.summary()["tx_packets"], COUNT, "{mode}: {exit}");
        assert_eq!(exit.summary()["drops"]["tx_full"], 0, "{mode}: {exit}");
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn headroom_is_taken_from_the_room_for_packets() {
    const COUNT: u64 = 100;
    const LONG: u64 = 10;
    for mode in MODES {
        let Some(lab) = Lab::with(LabConfig { mtu: 2000, ..LabConfig::default() }) else { return };
        let headroom = ["--headroom", "512", "--multi-buffer", "off", "--mode", mode];
        let agent = lab.agent(&[&REFLECT[..], &headroom].concat()).start();
        let wire = Wire::connect(&lab.far, lab.pair().near.port(PORT));
        // 2048 without 512, and 256 of the kernel's, less the headers of UDP.
        let most = 2048 - 512 - 256 - 42;

        wire.reflect(COUNT, |number| most - number as usize % 8);
        wire.send(0..LONG, |_| most + 1);
        agent.metrics_when("what is longer is dropped", |m| m.total("umemd_xsk_rx_dropped_total") == LONG);

        agent.terminate();
        assert_eq!(agent.wait().summary()["tx_packets"], COUNT, "{mode}");
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn as_much_headroom_as_the_kernel_takes_or_a_word_on_how_much_that_is() {
    const COUNT: u64 = 100;
    let sizes = [("2048", 1344), ("4096", 3392)];
    for (mode, (frame_size, most)) in MODES.into_iter().flat_map(|mode| sizes.map(|size| (mode, size))) {
        let Some(lab) = Lab::new() else { return };
        let agent = |headroom: u32, duration| {
            let headroom = headroom.to_string();
            let sizes = ["--frame-size", frame_size, "--headroom", &headroom, "--multi-buffer", "off"];
            lab.agent(&[&REFLECT[..], &sizes, &["--mode", mode, "--duration", duration]].concat())
        };
        let served = agent(most, "10m").start();
        // As much as is left in any case.
        Wire::connect(&lab.far, lab.pair().near.port(PORT)).reflect(COUNT, |_| 128 - 42);
        served.terminate();
        assert_eq!(served.wait().summary()["tx_packets"], COUNT, "{mode} {frame_size}");

        // Kernels of before 2026 take more.
        let exit = agent(most + 1, "300ms").run();
        let said = format!("frames of {frame_size} bytes; every kernel takes up to {most}");
        let refused = exit.code == Some(1) && exit.stderr.contains(&said);
        assert!(exit.code == Some(0) || refused, "{mode}: {exit}");
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn packets_of_9000_bytes_take_several_frames() {
    const COUNT: u64 = 200;
    // What fits into one frame, and what takes up to six.
    let size = |number: u64| match number % 3 {
        0 => any_size(number),
        1 => 8972 - (number % 64) as usize,
        _ => (number * 997 % 8973) as usize,
    };
    if !kernel_has(&XDP_USE_SG) {
        return;
    }
    for mode in MODES {
        for frame_size in ["2048", "4096"] {
            let Some(lab) = Lab::with(LabConfig { mtu: 9000, ..LabConfig::default() }) else { return };
            let frames = ["--frames", "1024", "--frame-size", frame_size, "--mode", mode];
            let agent = lab.agent(&[&REFLECT[..], &frames].concat()).start();
            assert_eq!(agent.metrics().label_values("umemd_socket_info", "multi_buffer"), ["true"]);
            let wire = Wire::connect(&lab.far, lab.pair().near.port(PORT));

            wire.reflect(COUNT, size);

            let all_home = |m: &e2e::metrics::Metrics| m.frames("tx") + m.frames("completion") == 0;
            let metrics = agent.metrics_when("all frames are home", all_home);
            assert!(metrics.total("umemd_rx_fragments_total") > COUNT / 2, "{mode} {frame_size}:\n{metrics}");
            let (rx, tx) =
                (metrics.total("umemd_rx_fragments_total"), metrics.total("umemd_tx_fragments_total"));
            assert_eq!(rx, tx, "{mode} {frame_size}");
            agent.terminate();
            let exit = agent.wait();
            assert_eq!(exit.summary()["rx_packets"], COUNT, "{mode} {frame_size}: {exit}");
            assert_eq!(exit.summary()["tx_packets"], COUNT, "{mode} {frame_size}: {exit}");
        }
    }
}

/// Before Linux 6.6 a packet takes one frame; the rig `e2e` has such a kernel.
#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn packets_of_9000_bytes_are_dropped_where_they_cannot_take_several_frames() {
    if !kernel_lacks(&XDP_USE_SG) {
        return;
    }
    for mode in MODES {
        let Some(lab) = Lab::with(LabConfig { mtu: 9000, ..LabConfig::default() }) else { return };
        let agent = lab.agent(&[&REFLECT[..], &["--mode", mode]].concat()).start();
        assert_eq!(agent.metrics().label_values("umemd_socket_info", "multi_buffer"), ["false"]);
        let wire = Wire::connect(&lab.far, lab.pair().near.port(PORT));
        wire.send(0..4, |_| 8972);
        wire.reflect(WINDOW, any_size);
        agent.terminate();
        let exit = agent.wait();
        assert_eq!(exit.summary()["tx_packets"], WINDOW, "{mode}: {exit}");
        assert!(exit.stderr.contains("has no multi-buffer (EINVAL)"), "{exit}");

        let exit = lab.agent(&[&REFLECT[..], &["--multi-buffer", "on", "--mode", mode]].concat()).run();
        assert_eq!(exit.code, Some(1), "{mode}, asked for by name: {exit}");
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn huge_pages_are_used_or_said_to_be_missing() {
    // 4096 frames of 2048 bytes: four pages of 2 MiB.
    for (mode, there) in MODES.into_iter().flat_map(|mode| [(mode, false), (mode, true)]) {
        let Some(lab) = Lab::new() else { return };
        let _pages = e2e::huge::Pages::set(if there { 4 } else { 0 });
        let agent = lab.agent(&[&REFLECT[..], &["--huge-pages", "--mode", mode]].concat()).start();
        let backing = if there { "hugetlb" } else { "base" };
        assert_eq!(
            agent.metrics().label_values("umemd_umem_info", "backing"),
            [backing],
            "{mode}: {}",
            agent.stderr()
        );
        let said = agent.stderr().contains("no huge pages");
        assert_eq!(said, !there, "{mode}: {}", agent.stderr());

        let wire = Wire::connect(&lab.far, lab.pair().near.port(PORT));
        wire.reflect(WINDOW, any_size);
        agent.terminate();
        assert_eq!(agent.wait().summary()["tx_packets"], WINDOW, "{mode}");
    }
}
