//! Armada 8040: ports that share a processor and its pools, several queues, no page_pool counters, copy mode.

use std::process::Command;

use e2e::{
    agent::umemd,
    command::run,
    metrics::Metrics,
    wait::wait_until,
    wire::{WINDOW, any_size},
};

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
/// Frames with 1,536 bytes for a packet: one of the longest MTU that the driver takes a program with takes two of them,
/// and so another program.
const FRAME: [&str; 2] = ["--headroom", "256"];

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
        "umemd serves queue 0",
        "its driver tells neither netlink nor ethtool",
        "sibling ports down and up",
        "does not report its page_pool",
        "until flows are spread",
        "1640",
    ];
    agent::check_doctor(verdicts, "mvpp2", &truths);
    // Each attach and detach, and each MTU beyond the limit, has the driver drain and fill all its pools: seconds,
    // here. So there are few.
    agent::check_refusals(verdicts, 1640);
    verdicts.check("flows are spread over the queues when the driver is asked for it", || {
        run(Command::new("ethtool").args(["-K", NEAR, "rxhash", "on"]), "")
            .unwrap_or_else(|error| panic!("{error}"));
        // On two CPUs the driver polls two of its four queues, and shuffles what it is told: of the weights those of
        // 0 and 2 are its queues 0 and 1 (mvpp2_main.c, mvpp2_multi_queue_vectors_init; mvpp2_cls.c, mvpp22_rxfh_indir).
        let weights = ["-X", NEAR, "weight", "1", "0", "1", "0"];
        run(Command::new("ethtool").args(weights), "").unwrap_or_else(|error| panic!("{error}"));
        let told = umemd(&["doctor", "--iface", NEAR]).ok();
        assert!(told.contains("umemd serves 4 queues") && !told.contains("stay silent"), "{told}");
        // Nor does the doctor take those numbers for the queues'. It breaks lines where a text is too long.
        let said = told.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(!said.contains("no flow"), "{told}");
        let polled = std::thread::available_parallelism().map_or(1, usize::from);
        assert_eq!(said.contains("polls one queue of eth0 per CPU, queues 0 and 1"), polled == 2, "{told}");
    });
    let agent =
        verdicts.check("native attach restarts the sibling port too; copy mode, on all queues", || {
            e2e::command::ip(&["link", "set", SIBLING, "up"]);
            e2e::command::ip(&["link", "set", "eth3", "up"]);
            wait_until("the sibling has a carrier", LINK, || has_carrier(None, SIBLING));
            let before = [NEAR, SIBLING].map(carrier_changes);
            let agent = agent::reflecting(&FRAME).start();
            assert!(cable::has_carrier_now(NEAR), "it was ready before its link was");
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
    verdicts.check("flows arrive on several queues, and come back from each", || {
        let received = |metrics: &Metrics| {
            ["0", "1", "2", "3"].map(|queue| metrics.sum("umemd_rx_packets_total", &[("queue", queue)]))
        };
        let before = received(&agent.metrics());
        for wire in std::iter::repeat_with(|| cable.wire()).take(16) {
            wire.send(0..4, any_size);
            wire.expect(0..4, any_size, PATIENCE);
        }
        let metrics = agent.metrics_when("64 frames more", |metrics| {
            received(metrics).iter().sum::<u64>() == before.iter().sum::<u64>() + 64
        });
        let busy = received(&metrics).iter().zip(before).filter(|(after, before)| *after > before).count();
        assert!(busy > 1, "all on one queue\n{metrics}");
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
        agent::refuses_mtu(NEAR, 9000, "Illegal MTU value 9000 (> 3552) for XDP mode");
    });
    agent::check_link(verdicts, &agent, &cable);
    // The driver takes both, program or not. Its own port's would have it run the program without pools.
    for (port, mtu, reason) in [
        (SIBLING, 9000, "a sibling port of eth0 has an MTU above 1640"),
        (NEAR, 2000, "takes no program on eth0 with MTU 2000"),
    ] {
        let name =
            format!("MTU {mtu} on {port} takes the pools away: umemd lets go, says why, and comes back");
        verdicts.check(&name, || {
            let served = agent.stderr().matches("served again").count();
            set_mtu(port, mtu);
            wait_until("the program is off", PATIENCE, || cable::show(None, NEAR)["xdp"].is_null());
            let told = umemd(&["doctor", "--iface", NEAR]);
            assert_eq!(told.code, Some(1), "{told:?}");
            assert!(agent.stderr().contains(reason), "{}", agent.stderr());
            set_mtu(port, 1500);
            // Nobody answers at its port while it attaches.
            wait_until("it is served again", PATIENCE, || {
                agent.stderr().matches("served again").count() > served
            });
            cable.wait_for_link();
            cable.restore_neighbour();
            reflect(&agent, &cable, WINDOW);
        });
    }
    agent::check_swap(verdicts, &agent, &cable, 1508, 1600);
    agent::measure(verdicts, &agent);
    agent::check_sigkill(verdicts, agent, &cable);
}
