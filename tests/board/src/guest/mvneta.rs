//! Armada 3720: one queue that receives, page_pool counters in ethtool, copy mode; and the frames of a switch chip.

use std::{net::Ipv4Addr, thread, time::Duration};

use e2e::{
    agent::AgentCommand,
    command::ip,
    metrics::Metrics,
    wire::{WINDOW, Wire, any_size},
};

use super::{
    agent::{self, reflect},
    cable::{self, Cable, NEAR, OTHER_PORT, PORT, STEER, carrier_changes},
    driver,
    eavesdropper::Eavesdropper,
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
        agent::bounce_is_waited_for(&agent);
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
        agent::refuses_mtu(NEAR, 9000, "Illegal MTU 9000 for XDP prog without frags");
        reflect(&agent, &cable, WINDOW);
    });
    agent::check_link(verdicts, &agent, &cable);
    agent::measure(verdicts, &agent);
    agent::check_swap(verdicts, &agent, &cable, 1600, 2000);
    agent::check_sigkill(verdicts, agent, &cable);
    verdicts.check("the next start works, ends with a summary, and takes its program along", || {
        let agent = agent::reflecting(&[]).start();
        cable.wait_for_link();
        reflect(&agent, &cable, WINDOW);
        agent.terminate();
        let exit = agent.wait();
        exit.summary();
        // For whoever reads the console.
        println!("{}", exit.stderr);
        assert!(cable::show(None, NEAR)["xdp"].is_null(), "{exit}");
    });
    verdicts.check(
        "frames with a switch's EDSA tag are parsed, steered and sent back, of VLANs as well",
        conduit,
    );
}

/// In copy mode each frame that is received takes a page of the kernel's pool and a frame of ours, and both go
/// back: per frame one allocation here and one there, and one page recycled into the driver's own cache.
fn page_pool(agent: &e2e::agent::Agent, cable: &Cable) {
    let scrape = || {
        // The kernel's answers are kept for 0.9 seconds.
        thread::sleep(Duration::from_secs(1));
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

/// A VLAN whose frames come through the switch as well: its id, its interface, and addresses there.
const VLAN: &str = "5";
const VLAN_DEV: &str = "vlan5";
const VLAN_FAR: &str = "10.79.5.2/30";
const VLAN_NEAR: Ipv4Addr = Ipv4Addr::new(10, 79, 5, 1);

/// On the EspressoBIN each frame that reaches the CPU carries a tag of 8 bytes behind its addresses, in the place of
/// its VLAN tag if it has one. What comes back has its addresses swapped, and is else what was sent, byte for byte.
fn conduit() {
    let cable = Cable::between(CONDUIT, LAN, 1);
    let in_vlan = format!("vlan {VLAN} and {STEER}");
    let run = ["--iface", CONDUIT, "--steer", STEER, "--steer", &in_vlan, "--handler", "reflect"];
    // All frames arrive on queue 0, whatever somebody asks for.
    let agent = AgentCommand::new().args(run).args(["--switch-tag", "edsa", "--queues", "0,1"]).start();
    let said = agent.stderr();
    assert!(said.contains("all frames of eth2 arrive on queue 0"), "{said}");
    cable.wait_for_link();
    let near_mac = cable::mac(None, CONDUIT);
    let far = cable.far.name();
    // What is sent is to have its checksum when it is looked at.
    ip(&["netns", "exec", far, "ethtool", "-K", LAN, "tx", "off"]);
    let in_far = |args: &[&str]| ip(&[&["-netns", far], args].concat());
    in_far(&["link", "add", "link", LAN, "name", VLAN_DEV, "type", "vlan", "id", VLAN]);
    in_far(&["address", "add", VLAN_FAR, "dev", VLAN_DEV]);
    in_far(&["link", "set", VLAN_DEV, "up"]);
    let near = VLAN_NEAR.to_string();
    in_far(&["neighbour", "replace", &near, "lladdr", &near_mac, "dev", VLAN_DEV, "nud", "permanent"]);

    let (steered, other) = (cable.wire_to(PORT), cable.wire_to(OTHER_PORT));
    let tagged = Wire::connect(&cable.far, (VLAN_NEAR, PORT).into());
    let eavesdropper = Eavesdropper::in_namespace(&cable.far);
    let mut heard = Vec::new();
    for (wire, count) in [(&steered, COUNT), (&other, WINDOW), (&tagged, WINDOW)] {
        for first in (0..count).step_by(16) {
            wire.send(first..count.min(first + 16), any_size);
            thread::sleep(Duration::from_millis(20));
        }
        heard.extend(eavesdropper.frames());
    }
    let taken = COUNT + WINDOW;
    let metrics = agent.metrics_when("the completion of all frames", |metrics| {
        metrics.total("umemd_tx_completions_total") == taken
    });
    assert_eq!((metrics.total("umemd_rx_packets_total"), metrics.verdicts("unmatched")), (taken, WINDOW));
    heard.extend(eavesdropper.frames());

    let (sent, back): (Vec<_>, Vec<_>) =
        heard.into_iter().partition(|frame| frame[..6] == bytes_of(&near_mac));
    let (mut expected, mut back) = (comes_back(&sent), back);
    assert_eq!((expected.len() as u64, back.len() as u64), (COUNT + 2 * WINDOW, COUNT + 2 * WINDOW));
    expected.sort();
    back.sort();
    assert!(expected == back, "what came back is not what was sent with its addresses swapped");
    agent.terminate();
    assert_eq!(agent.wait().summary()["rx_packets"], taken);
}

/// What comes back of frames that the VLAN's interface or the one below sent: each to the port of the agent, with its
/// addresses swapped; those of the VLAN are received by both.
fn comes_back(sent: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let steered = sent.iter().filter(|frame| frame[36..38] == PORT.to_be_bytes());
    let swapped = |frame: &Vec<u8>| [&frame[6..12], &frame[..6], &frame[12..]].concat();
    steered
        .flat_map(|frame| vec![swapped(frame); if frame[30..34] == VLAN_NEAR.octets() { 2 } else { 1 }])
        .collect()
}

/// The bytes of a hardware address.
fn bytes_of(mac: &str) -> Vec<u8> {
    mac.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("two digits")).collect()
}
