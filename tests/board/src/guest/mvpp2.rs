//! Armada 8040: ports that share a processor and its pools, several queues, no page_pool counters, copy mode.

use std::process::Command;

use e2e::{agent::umemd, command::run, wait::wait_until, wire::WINDOW};

use super::{
    agent::{self, PATIENCE, reflect, set_mtu},
    cable::{self, Cable, LINK, NEAR, carrier_changes, has_carrier},
    driver,
    verdict::Verdicts,
};

/// The other port of the processor that `eth0` is on.
const SIBLING: &str = "eth1";
/// Frames of a check.
const COUNT: u64 = 200;

pub(super) fn check(verdicts: &mut Verdicts) {
    verdicts.check("the stock driver binds to the four ports of two processors", || {
        for dev in ["eth0", "eth1", "eth2", "eth3"] {
            assert_eq!(driver::name(dev), "mvpp2", "{dev}");
        }
    });
    // eth0 is joined to eth2, eth1 to eth3.
    let Some(cable) = verdicts.check("both links come up", || Cable::lay("eth2")) else { return };
    verdicts
        .check("the stack's datagrams come through, checksums by the hardware", || cable.wait_for_traffic());
    verdicts.check("each port has an interrupt per CPU", || {
        let text = std::fs::read_to_string("/proc/interrupts").expect("every kernel has it");
        let lines = text.lines().filter(|line| line.trim_end().ends_with(NEAR)).count();
        assert_eq!(lines, std::thread::available_parallelism().map_or(1, usize::from), "{text}");
    });
    verdicts.check("the driver reports no page_pool counters", || {
        let statistics = driver::statistics(NEAR);
        assert!(statistics.contains_key("rx_xdp_redirect"), "{statistics:?}");
        assert!(!statistics.keys().any(|name| name.starts_with("rx_pp_")), "{statistics:?}");
    });
    let truths = [
        "the driver runs XDP programs and redirects",
        "the driver has none: copy mode",
        "the driver takes no packets in several buffers",
        "umemd serves 4 queues, 0 to 3",
        "not to be seen: its driver tells neither netlink nor ethtool",
        "sibling ports down and up",
        "does not report its page_pool",
        "until flows are spread",
        "1640",
    ];
    agent::check_doctor(verdicts, "mvpp2", &truths);
    // Each attach and detach, and each MTU beyond the limit, has the driver drain and fill all its pools: seconds,
    // here. So there are few.
    agent::check_refusals(verdicts, 1640);
    let agent =
        verdicts.check("native attach restarts the sibling port too; copy mode, on all queues", || {
            e2e::command::ip(&["link", "set", SIBLING, "up"]);
            e2e::command::ip(&["link", "set", "eth3", "up"]);
            wait_until("the sibling has a carrier", LINK, || has_carrier(None, SIBLING));
            let before = [NEAR, SIBLING].map(carrier_changes);
            let agent = agent::reflecting(&[]).start();
            cable.wait_for_link();
            wait_until("the sibling has its carrier again", LINK, || has_carrier(None, SIBLING));
            let after = [NEAR, SIBLING].map(carrier_changes);
            assert!(after[0] > before[0], "eth0 went down and up: {before:?} {after:?}");
            assert!(after[1] > before[1], "its sibling did too: {before:?} {after:?}");
            assert_eq!(cable::show(None, NEAR)["xdp"]["mode"], 1, "native");
            assert_eq!(
                agent.metrics().label_values("umemd_socket_info", "mode"),
                ["copy"; 4],
                "all its queues"
            );
            agent
        });
    let Some(agent) = agent else { return };
    verdicts.check("frames come back byte for byte, and the law holds", || {
        cable.restore_neighbour();
        let redirected = driver::statistics(NEAR)["rx_xdp_redirect"];
        reflect(&agent, &cable, COUNT);
        assert_eq!(driver::statistics(NEAR)["rx_xdp_redirect"] - redirected, COUNT);
        cable.wait_for_traffic();
    });
    verdicts.check("of the driver's page_pools there is no number, and the reason is told", || {
        let metrics = agent.metrics();
        assert_eq!(metrics.label_values("umemd_device_info", "page_pool_source"), ["none"]);
        let kernels = metrics.label_values("umemd_kernel_page_pool_alloc_fast_total", "device");
        assert!(kernels.is_empty(), "{metrics}");
        let told = umemd(&["pagepool", "--iface", NEAR]).ok();
        assert!(told.contains("its driver tells neither netlink nor ethtool"), "{told}");
    });
    agent::check_rules(verdicts, &agent, &cable);
    agent::check_doctor_beside(verdicts, "mvpp2");
    verdicts.check("an MTU that the driver refuses is refused while attached", || {
        let error = run(Command::new("ip").args(["link", "set", NEAR, "mtu", "9000"]), "");
        assert!(error.is_err(), "the driver took an MTU of 9000 under a program");
    });
    verdicts.check("a sibling's MTU takes the pools away: umemd lets go, says why, and comes back", || {
        set_mtu(SIBLING, 9000);
        wait_until("the program is off", PATIENCE, || cable::show(None, NEAR)["xdp"].is_null());
        let told = umemd(&["doctor", "--iface", NEAR]);
        assert_eq!(told.code, Some(1), "{told:?}");
        let reason = "a sibling port of eth0 has an MTU above 1640";
        assert!(agent.stderr().contains(reason), "{}", agent.stderr());
        set_mtu(SIBLING, 1500);
        // Nobody answers at its port while it attaches.
        wait_until("it is served again", PATIENCE, || agent.stderr().contains("served again"));
        cable.wait_for_link();
        cable.restore_neighbour();
        reflect(&agent, &cable, WINDOW);
        agent.terminate();
        agent.wait().summary();
    });
    verdicts.check("SIGKILL leaves nothing attached", || {
        cable.wait_for_link();
        let agent = agent::reflecting(&[]).start();
        cable.wait_for_link();
        reflect(&agent, &cable, WINDOW);
        agent.kill();
        agent.wait();
        wait_until("no program is attached", PATIENCE, || cable::show(None, NEAR)["xdp"].is_null());
        cable.wait_for_link();
        cable.wait_for_traffic();
    });
}
