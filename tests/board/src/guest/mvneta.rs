//! Armada 3720: one queue that receives, page_pool counters in ethtool, copy mode; and the frames of a switch chip.

use std::{process::Command, thread, time::Duration};

use e2e::{
    agent::AgentCommand,
    command::run,
    metrics::Metrics,
    wait::wait_until,
    wire::{WINDOW, any_size},
};

use super::{
    agent::{self, PATIENCE, program_id, reflect, set_mtu},
    cable::{self, Cable, NEAR, OTHER_PORT, PORT, STEER, carrier_changes, has_carrier_now},
    driver,
    verdict::Verdicts,
};

/// Frames of a check: an emulated CPU takes a few milliseconds for each.
const COUNT: u64 = 200;

/// The port that the EspressoBIN's switch is behind, and one of the switch.
const CONDUIT: &str = "eth2";
const LAN: &str = "eth3";

pub(super) fn check(verdicts: &mut Verdicts) {
    verdicts.check("the stock driver binds to all ports", || {
        for dev in ["eth0", "eth1", CONDUIT, LAN] {
            assert_eq!(driver::name(dev), "mvneta", "{dev}");
        }
    });
    let cable = verdicts.check("both links come up", || Cable::lay("eth1"));
    let Some(cable) = cable else { return };
    verdicts
        .check("the stack's datagrams come through, checksums by the hardware", || cable.wait_for_traffic());
    let truths = [
        "the driver runs XDP programs and redirects",
        "the driver has none: copy mode",
        "the driver takes packets in several buffers",
        "umemd serves queue 0",
        "to be seen by ethtool",
        "link down and up",
        "arrive on queue 0",
        "rx_pp_*",
    ];
    agent::check_doctor(verdicts, "mvneta", &truths);
    agent::check_refusals(verdicts, 3520);
    let agent = verdicts.check("native attach bounces the link once; copy mode, on the one queue", || {
        let before = carrier_changes(NEAR);
        let agent = agent::reflecting(&[]).start();
        cable.wait_for_link();
        assert_eq!(carrier_changes(NEAR) - before, 2, "down and up");
        assert_eq!(cable::show(None, NEAR)["xdp"]["mode"], 1, "native");
        let of_sockets = |label| agent.metrics().label_values("umemd_socket_info", label);
        assert_eq!((of_sockets("mode"), of_sockets("queue")), (vec!["copy".into()], vec!["0".into()]));
        agent
    });
    let Some(agent) = agent else { return };
    verdicts.check("frames come back byte for byte, and the law holds", || reflect(&agent, &cable, COUNT));
    verdicts.check("the kernel's rx_pp_* and our eleven tell of the same frames, in one scrape", || {
        page_pool(&agent, &cable);
    });
    agent::check_rules(verdicts, &agent, &cable);
    agent::check_doctor_beside(verdicts, "mvneta");
    verdicts.check("the stack keeps what is not steered", || {
        let before = agent.metrics();
        cable.wait_for_traffic();
        let after = agent.metrics();
        let taken = |metrics: &Metrics| metrics.total("umemd_rx_packets_total");
        assert_eq!(taken(&before), taken(&after));
        assert!(after.verdicts("unmatched") > before.verdicts("unmatched"));
    });
    verdicts.check("an MTU that the driver's buffers do not hold is refused while attached", || {
        let error = run(Command::new("ip").args(["link", "set", NEAR, "mtu", "9000"]), "");
        assert!(error.is_err(), "the driver took an MTU of 9000 under a program without fragments");
        reflect(&agent, &cable, WINDOW);
    });
    verdicts.check("the link goes down and up under a running agent", || {
        e2e::command::ip(&["link", "set", NEAR, "down"]);
        e2e::command::ip(&["link", "set", NEAR, "up"]);
        cable.wait_for_link();
        cable.restore_neighbour();
        reflect(&agent, &cable, WINDOW);
    });
    verdicts.check("another program takes its place by link update: no bounce but the new MTU's own", || {
        // What an MTU costs by itself is known from one that needs no other program.
        let set = |mtu: u32| {
            let before = carrier_changes(NEAR);
            set_mtu(NEAR, mtu);
            wait_until("the carrier is back", PATIENCE, || has_carrier_now(NEAR));
            before
        };
        let before = set(1600);
        let own = carrier_changes(NEAR) - before;
        let (program, links) = (program_id(), agent.xdp_links());
        let before = set(2000);
        wait_until("the program for packets in several buffers is there", PATIENCE, || {
            program_id() != program && agent.get("/readyz").status == 200
        });
        assert_eq!(agent.xdp_links(), links, "one bpf_link all the while");
        assert_eq!(carrier_changes(NEAR) - before, own, "the MTU's own");
        cable.wait_for_link();
        cable.restore_neighbour();
        reflect(&agent, &cable, WINDOW);
    });
    verdicts.check("the agent ends with a summary, and takes its program along", || {
        agent.terminate();
        let exit = agent.wait();
        exit.summary();
        // For whoever reads the console.
        println!("{}", exit.stderr);
        set_mtu(NEAR, 1500);
        assert!(cable::show(None, NEAR)["xdp"].is_null(), "{exit}");
    });
    verdicts.check("SIGKILL leaves nothing attached, and the next start works", || {
        for _ in 0..2 {
            let agent = agent::reflecting(&[]).start();
            cable.wait_for_link();
            reflect(&agent, &cable, WINDOW);
            agent.kill();
            agent.wait();
            wait_until("no program is attached", PATIENCE, || cable::show(None, NEAR)["xdp"].is_null());
            cable.wait_for_link();
        }
        cable.wait_for_traffic();
    });
    verdicts.check("frames with a switch's EDSA tag are parsed, steered and sent back", conduit);
    agent::measure(verdicts, &cable);
}

/// In copy mode each frame that is received takes a page of the kernel's pool and a frame of ours, and both go
/// back: per frame one allocation here and one there, and one page recycled into the driver's own cache.
fn page_pool(agent: &e2e::agent::Agent, cable: &Cable) {
    let scrape = || {
        // Answers are kept for a while.
        thread::sleep(Duration::from_millis(300));
        agent.metrics()
    };
    let before = scrape();
    reflect(agent, cable, COUNT);
    let after = scrape();
    let grew = |name: &str| {
        let name = format!("{name}_total");
        after.sum(&name, &[("device", NEAR)]) - before.sum(&name, &[("device", NEAR)])
    };
    let of = |whose: &str, what: &str| grew(&format!("umemd_{whose}_{what}"));
    let allocated = |whose| {
        ["fast", "refill", "slow"].iter().map(|path| of(whose, &format!("alloc_{path}"))).sum::<u64>()
    };
    // The driver refills in batches of its own choice; we lend the fill ring as many as came out of it.
    let slack = 64;
    for (what, count) in [
        ("pages allocated", allocated("kernel_page_pool")),
        ("pages recycled into the cache", of("kernel_page_pool", "recycle_cached")),
        ("frames allocated", allocated("pool")),
        ("frames recycled", of("pool", "recycle_cached") + of("pool", "recycle_ring")),
    ] {
        assert!(count.abs_diff(COUNT) <= slack, "{what}: {count} for {COUNT} frames\n{after}");
    }
    // Released in the driver's own poll, so that no page takes the way over the ring.
    for none in ["recycle_ring", "recycle_ring_full", "recycle_released_refcnt", "alloc_waive"] {
        assert_eq!(of("kernel_page_pool", none), 0, "{none}\n{after}");
    }
    // And that is what ethtool says, too.
    let ethtool = driver::statistics(NEAR);
    let cached = after.sum("umemd_kernel_page_pool_recycle_cached_total", &[("device", NEAR)]);
    assert_eq!(ethtool["rx_pp_recycle_cached"], cached);
}

/// On the EspressoBIN each frame that reaches the CPU carries a tag of 8 bytes behind its addresses.
fn conduit() {
    let cable = Cable::between(CONDUIT, LAN, 1);
    let run = ["--iface", CONDUIT, "--steer", STEER, "--handler", "reflect", "--switch-tag", "edsa"];
    let agent = AgentCommand::new().args(run).start();
    cable.wait_for_link();
    let received = || driver::statistics_in(cable.far.name(), LAN)["good_frames_received"];
    let before = received();
    for (port, count) in [(PORT, COUNT), (OTHER_PORT, WINDOW)] {
        let wire = cable.wire_to(port);
        for first in (0..count).step_by(16) {
            wire.send(first..count.min(first + 16), any_size);
            thread::sleep(Duration::from_millis(20));
        }
    }
    let metrics = agent.metrics_when("the completion of all frames", |metrics| {
        metrics.total("umemd_tx_completions_total") == COUNT
    });
    assert_eq!((metrics.total("umemd_rx_packets_total"), metrics.verdicts("unmatched")), (COUNT, WINDOW));
    // With its addresses swapped, and the tag that the switch takes away again.
    wait_until("all of them are back", PATIENCE, || received() - before >= COUNT);
    agent.terminate();
    assert_eq!(agent.wait().summary()["rx_packets"], COUNT);
}
