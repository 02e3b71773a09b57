//! Armada 3720: one queue that receives, page_pool counters in ethtool, copy mode.

use std::process::Command;

use e2e::{command::run, wait::wait_until, wire::WINDOW};

use super::{
    agent::{self, PATIENCE, reflect},
    cable::{self, Cable, NEAR, carrier_changes},
    driver,
    verdict::Verdicts,
};

/// Frames of a check: an emulated CPU takes a few milliseconds for each.
const COUNT: u64 = 200;

pub(super) fn check(verdicts: &mut Verdicts) {
    verdicts.check("the stock driver binds to both ports", || {
        for dev in ["eth0", "eth1"] {
            assert_eq!(driver::name(dev), "mvneta", "{dev}");
        }
    });
    let cable = verdicts.check("both links come up", || Cable::lay("eth1"));
    let Some(cable) = cable else { return };
    verdicts
        .check("the stack's datagrams come through, checksums by the hardware", || cable.wait_for_traffic());
    agent::check_doctor(verdicts, "mvneta", &["link down and up", "arrive on queue 0", "rx_pp_*"]);
    agent::check_refusals(verdicts, 3520);
    verdicts.check("native attach bounces the link once, and frames come back byte for byte", || {
        let before = carrier_changes(NEAR);
        let agent = agent::reflecting(&[]).start();
        cable.wait_for_link();
        assert_eq!(carrier_changes(NEAR) - before, 2, "down and up");
        assert_eq!(cable::show(None, NEAR)["xdp"]["mode"], 1, "native");
        assert_eq!(agent.metrics().label_values("umemd_socket_info", "mode"), ["copy"]);
        assert_eq!(
            agent.metrics().label_values("umemd_socket_info", "queue"),
            ["0"],
            "the only one that receives"
        );
        reflect(&agent, &cable, COUNT);
        agent.terminate();
        assert_eq!(agent.wait().summary()["rx_packets"], COUNT);
    });
    verdicts.check("the kernel's rx_pp_* and ours tell of the same frames", || page_pool(&cable));
    verdicts.check("the stack keeps what is not steered", || {
        let agent = agent::reflecting(&[]).start();
        cable.wait_for_link();
        cable.wait_for_traffic();
        let metrics = agent.metrics();
        assert_eq!(metrics.total("umemd_rx_packets_total"), 0);
        assert!(metrics.verdicts("unmatched") > 0);
    });
    verdicts.check("the link goes down and up under a running agent", || {
        let agent = agent::reflecting(&[]).start();
        cable.wait_for_link();
        reflect(&agent, &cable, WINDOW);
        e2e::command::ip(&["link", "set", NEAR, "down"]);
        e2e::command::ip(&["link", "set", NEAR, "up"]);
        cable.wait_for_link();
        cable.restore_neighbour();
        reflect(&agent, &cable, WINDOW);
        agent.terminate();
        assert_eq!(agent.wait().summary()["rx_packets"], 2 * WINDOW);
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
    verdicts.check("an MTU that the driver's buffers do not hold is refused while attached", || {
        let agent = agent::reflecting(&[]).start();
        cable.wait_for_link();
        let error = run(Command::new("ip").args(["link", "set", NEAR, "mtu", "9000"]), "");
        assert!(error.is_err(), "the driver took an MTU of 9000 under a program without fragments");
        reflect(&agent, &cable, WINDOW);
    });
    agent::measure(verdicts, &cable);
}

/// In copy mode each frame that is received takes a page of the kernel's pool and a frame of ours, and both go
/// back: per frame one allocation here and one there, and one page recycled into the driver's own cache.
fn page_pool(cable: &Cable) {
    let agent = agent::reflecting(&[]).start();
    cable.wait_for_link();
    // The pools were made anew with the attach: so were their counters.
    let kernel = || driver::statistics(NEAR);
    let allocated = |statistics: &std::collections::BTreeMap<String, u64>| {
        statistics["rx_pp_alloc_fast"] + statistics["rx_pp_alloc_refill"] + statistics["rx_pp_alloc_slow"]
    };
    let (before, ours_before) = (kernel(), agent.metrics());
    reflect(&agent, cable, COUNT);
    let (after, ours) = (kernel(), agent.metrics());

    let ours_allocated = |m: &e2e::metrics::Metrics| {
        ["fast", "refill", "slow"]
            .iter()
            .map(|path| m.total(&format!("umemd_pool_alloc_{path}_total")))
            .sum::<u64>()
    };
    let kernels = allocated(&after) - allocated(&before);
    let recycled = after["rx_pp_recycle_cached"] - before["rx_pp_recycle_cached"];
    // The driver refills in batches of its own choice; we lend the fill ring as many as came out of it.
    let slack = 64;
    for (what, count) in [
        ("pages allocated", kernels),
        ("pages recycled", recycled),
        ("frames allocated", ours_allocated(&ours) - ours_allocated(&ours_before)),
        ("redirects", after["rx_xdp_redirect"] - before["rx_xdp_redirect"]),
    ] {
        assert!(count.abs_diff(COUNT) <= slack, "{what}: {count} for {COUNT} frames; kernel: {after:?}");
    }
    assert_eq!(after["rx_xdp_redirect"] - before["rx_xdp_redirect"], COUNT, "{after:?}");
    assert_eq!(after["rx_pp_recycle_released_ref"], 0, "{after:?}");
}
