//! NICs of QEMU's own on a hub: Intel's 82576 with zero-copy, and virtio as in any virtual machine.

use std::{process::Command, time::Duration};

use e2e::{
    agent::{Agent, Told, umemd, umemd_of_nobody},
    command::run,
    wait::{wait_for, wait_until},
    wire::{WINDOW, any_size, payload},
};
use serde_json::Value;

use super::{
    agent::{self, PATIENCE, reflect},
    cable::{self, Cable, NEAR, OTHER_PORT, STEER},
    driver::{self, Unbound},
    verdict::Verdicts,
};

/// Frames of a check.
const COUNT: u64 = 400;

/// igb's receive buffers are whole KiB: of a frame of 2048 bytes, 256 of them the kernel's, it fills 1024, and drops
/// what is longer.
const FRAME: [&str; 2] = ["--frame-size", "4096"];

/// The NIC whose driver takes its receive buffers out of the UMEM, if the kernel is new enough.
pub(super) fn check_igb(verdicts: &mut Verdicts) {
    let Some(cable) = begin(verdicts, "igb") else { return };
    let zero_copy =
        if linux() < (6, 14) { "the driver has none: copy mode" } else { "the driver has it, for packets" };
    agent::check_doctor(verdicts, "igb", &["the driver runs XDP programs and redirects", zero_copy]);
    if linux() < (6, 14) {
        verdicts.note("this kernel's igb has no zero-copy: since 6.14");
        verdicts.check("zero-copy is refused, and copy mode is what one gets without asking", || {
            let exit = agent::reflecting(&["--zerocopy"]).run();
            assert_eq!(exit.code, Some(1), "{exit}");
            assert!(exit.stderr.contains("has no zero-copy"), "{exit}");
            let agent = agent::reflecting(&[]).start();
            assert_eq!(modes(&agent), ["copy"]);
        });
    } else {
        verdicts.check("zero-copy: frames are received and sent without a copy, byte for byte", || {
            let agent = agent::reflecting(&["--zerocopy"]).args(FRAME).start();
            cable.wait_for_link();
            assert_eq!(modes(&agent), ["zerocopy"]);
            assert_eq!(cable::show(None, NEAR)["xdp"]["mode"], 1, "native");
            reflect(&agent, &cable, COUNT);
            agent.terminate();
            let exit = agent.wait();
            assert_eq!(exit.summary()["rx_packets"], COUNT);
            assert_eq!(exit.summary()["copy"], false);
        });
        verdicts.check("zero-copy goes on after a link that was down", || {
            let agent = agent::reflecting(&["--zerocopy"]).args(FRAME).start();
            cable.wait_for_link();
            assert_eq!(modes(&agent), ["zerocopy"]);
            reflect(&agent, &cable, WINDOW);
            bounce(&cable);
            reflect(&agent, &cable, WINDOW);
            agent.terminate();
            assert_eq!(agent.wait().summary()["rx_packets"], 2 * WINDOW);
        });
        verdicts.check("more frames than the NIC's ring holds find their way home", || {
            // A ring of 256: each of its buffers is one of ours, and comes back.
            let agent = agent::reflecting(&["--zerocopy", "--frames", "1024"]).args(FRAME).start();
            cable.wait_for_link();
            reflect(&agent, &cable, 3 * COUNT);
            agent.terminate();
            assert_eq!(agent.wait().summary()["rx_packets"], 3 * COUNT);
        });
        verdicts.check("zero-copy: what is dropped was received without a copy, and is counted", || {
            drop_all(&cable);
        });
        verdicts.check("zero-copy: as many packets as were asked for are generated without a copy", || {
            generate(&cable);
        });
    }
    verdicts.check("--copy moves the same frames", || {
        let agent = agent::reflecting(&["--copy"]).start();
        cable.wait_for_link();
        assert_eq!(modes(&agent), ["copy"]);
        reflect(&agent, &cable, COUNT);
        agent.terminate();
        assert_eq!(agent.wait().summary()["rx_packets"], COUNT);
    });
    end(verdicts, &cable);
}

/// The NIC of a virtual machine, without the IOMMU that its zero-copy asks for.
pub(super) fn check_virtio(verdicts: &mut Verdicts) {
    let Some(cable) = begin(verdicts, "virtio_net") else { return };
    let zero_copy = if linux() < (6, 13) { "the driver has none: copy mode" } else { "behind an IOMMU" };
    agent::check_doctor(verdicts, "virtio_net", &["the driver runs XDP programs and redirects", zero_copy]);
    verdicts.check(
        "copy mode is what one gets without asking, said aloud: frames come back byte for byte",
        || {
            let agent = agent::reflecting(&[]).start();
            cable.wait_for_link();
            if linux() >= (6, 13) {
                let said = agent.stderr();
                assert!(said.contains("should have zero-copy and gets copy mode"), "{said}");
            }
            assert_eq!(modes(&agent), ["copy"]);
            assert_eq!(cable::show(None, NEAR)["xdp"]["mode"], 1, "native");
            reflect(&agent, &cable, COUNT);
            agent.terminate();
            assert_eq!(agent.wait().summary()["rx_packets"], COUNT);
        },
    );
    if linux() < (7, 3) {
        verdicts.note("whether this kernel's virtio_net has page_pools was not tried: 7.3 has");
    } else {
        verdicts.check(
            "netlink lists the driver's page_pools: counters per pool, without any privilege",
            || {
                let agent = agent::reflecting(&[]).start();
                cable.wait_for_link();
                page_pools(&agent, &cable);
            },
        );
        verdicts.check(
            "a page_pool that outlives its interface is found, with its pages and its age, until it ends",
            || detached_pool(&cable),
        );
    }
    let why = if linux() < (6, 13) {
        verdicts.note("this kernel's virtio_net has no zero-copy: since 6.13");
        "has no zero-copy"
    } else {
        "behind an IOMMU"
    };
    verdicts.check("zero-copy is refused with what it needs", || {
        let exit = agent::reflecting(&["--zerocopy"]).run();
        assert_eq!(exit.code, Some(1), "{exit}");
        assert!(exit.stderr.contains(why), "{exit}");
        assert!(cable::show(None, NEAR)["xdp"].is_null(), "{exit}");
    });
    verdicts.check("the link goes down and up under a running agent", || {
        let agent = agent::reflecting(&[]).start();
        cable.wait_for_link();
        reflect(&agent, &cable, WINDOW);
        bounce(&cable);
        reflect(&agent, &cable, WINDOW);
    });
    end(verdicts, &cable);
}

fn begin(verdicts: &mut Verdicts, name: &str) -> Option<Cable> {
    verdicts.check("the stock driver binds to both NICs", || {
        for dev in ["eth0", "eth1"] {
            assert_eq!(driver::name(dev), name, "{dev}");
        }
    });
    let cable = verdicts.check("both links come up", || Cable::lay("eth1"))?;
    verdicts.check("the stack's datagrams come through", || cable.wait_for_traffic());
    Some(cable)
}

fn end(verdicts: &mut Verdicts, cable: &Cable) {
    let agent = verdicts.check("once more, to be killed", || {
        let agent = agent::reflecting(&[]).start();
        cable.wait_for_link();
        reflect(&agent, cable, WINDOW);
        agent
    });
    let Some(agent) = agent else { return };
    agent::measure(verdicts, &agent);
    agent::check_sigkill(verdicts, agent, cable);
}

/// More than there are frames: they go on only if each is put back onto the fill ring.
fn drop_all(cable: &Cable) {
    const SENT: u64 = 3 * COUNT;
    let agent = agent::handling("drop", &["--steer", STEER, "--zerocopy", "--frames", "1024"]);
    let agent = agent.args(FRAME).start();
    cable.wait_for_link();
    assert_eq!(modes(&agent), ["zerocopy"]);
    let wire = cable.wire();
    for first in (0..SENT).step_by(WINDOW as usize) {
        let window = first..SENT.min(first + WINDOW);
        wire.send(window.clone(), any_size);
        // Each look checks the law.
        agent.metrics_when("all sent so far", |m| m.total("umemd_rx_packets_total") == window.end);
    }
    let metrics =
        agent.metrics_when("nobody has a frame of them", |m| m.frames("user") + m.frames("rx") == 0);
    let dropped = metrics.sum("umemd_packets_dropped_total", &[("reason", "handler_dropped")]);
    assert_eq!((dropped, metrics.total("umemd_packets_dropped_total")), (SENT, SENT), "{metrics}");
    for none in ["umemd_pool_rejected_total", "umemd_xsk_rx_dropped_total"] {
        assert_eq!(metrics.total(none), 0, "{none}");
    }
    agent.terminate();
    let exit = agent.wait();
    let summary = exit.summary();
    assert_eq!(summary["drops"]["handler_dropped"], SENT, "{exit}");
    assert_eq!((&summary["rx_packets"], &summary["copy"]), (&SENT.into(), &false.into()), "{exit}");
}

/// To a socket at the other end, at a rate that an emulated CPU keeps up with.
fn generate(cable: &Cable) {
    const SIZE: usize = 300;
    /// Ethernet, IPv4 and UDP.
    const HEADERS: usize = 14 + 20 + 8;
    let far = cable.listen_far();
    let args = [
        ["--dst-mac", &cable::mac(Some(cable.far.name()), cable.far_name)],
        ["--dst-addr", &cable.far_ip.to_string()],
        ["--src-addr", &cable.near_ip.to_string()],
        ["--dst-port", &OTHER_PORT.to_string()],
        ["--count", &COUNT.to_string()],
        ["--rate", "200"],
        ["--size", &SIZE.to_string()],
    ];
    let agent = agent::handling("generate", &["--zerocopy"]).args(args.as_flattened().iter().copied());
    let agent = agent.args(FRAME).start_unready();
    for number in 0..COUNT {
        let packet = far.receive(PATIENCE).unwrap_or_else(|| panic!("packet {number} did not come"));
        assert_eq!(packet, [0; SIZE - HEADERS], "packet {number}");
    }
    let exit = agent.wait();
    let summary = exit.summary();
    assert_eq!((&summary["tx_packets"], &summary["copy"]), (&COUNT.into(), &false.into()), "{exit}");
    assert_eq!(summary["tx_bytes"], COUNT * SIZE as u64, "{exit}");
    assert_eq!(far.receive(Duration::from_millis(500)), None, "one more than was asked for");
}

/// A driver that goes destroys its pools, and the kernel keeps one for as long as somebody has a page of it: here a
/// socket whose datagrams nobody has read.
fn detached_pool(cable: &Cable) {
    const UNREAD: u64 = 16;
    /// Too long to be copied out of its page.
    const SIZE: usize = 1400;
    cable.wait_for_traffic();
    let socket = cable.listen();
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout above zero");
    let before = driver::received(NEAR);
    cable.wire_to(OTHER_PORT).send(0..UNREAD, |_| SIZE);
    wait_until("all are received", PATIENCE, || driver::received(NEAR) >= before + UNREAD);
    let attached = pools_of(NEAR);

    let device = Unbound::from(NEAR);
    let detached = || pools_of("lo").into_iter().find(|pool| pool["detached_s"].is_u64());
    let pool = wait_for("a pool is detached", PATIENCE, detached);
    let told = umemd(&["pagepool"]).ok();
    println!("{told}");
    assert!(told.contains("lo (pools of interfaces that are gone): "), "{told}");
    let is_same = |other: &Value| other["pool"] == pool["pool"];
    assert!(attached.iter().any(|before| is_same(before) && before["detached_s"].is_null()), "{attached:?}");
    assert!(pool["inflight_pages"].as_u64().is_some_and(|pages| pages > 0), "{pool}");
    assert_eq!((&pool["memory"], &pool["stalled"]), (&"page".into(), &false.into()), "{pool}");
    let age = |pool: &Value| pool["detached_s"].as_u64();
    wait_until("it grows older", PATIENCE, || detached().is_some_and(|now| age(&now) > age(&pool)));

    // An agent that serves something else knows of it too.
    device.bind();
    cable.lay_again();
    let agent = agent::reflecting(&[]).start();
    cable.wait_for_link();
    let orphans = || {
        let status: Value = serde_json::from_str(&agent.get("/status").body).expect("a status is JSON");
        // Left out where there are none.
        status["orphans"].as_array().cloned().unwrap_or_default()
    };
    assert!(orphans().iter().any(is_same), "{:?}", orphans());
    let told = agent.tell(&["status"]).ok();
    assert!(told.contains("page_pools of interfaces that are gone: 1"), "{told}");

    // The pages are as they were, and go home: so does the pool.
    for number in 0..UNREAD {
        let mut datagram = [0; SIZE];
        let read = socket.recv(&mut datagram).expect("it lies in the socket's queue");
        assert!(datagram[..read] == payload(number, SIZE), "datagram {number}");
    }
    wait_until("the pool ends", PATIENCE, || detached().is_none());
    wait_until("the agent knows", PATIENCE, || orphans().is_empty());
    reflect(&agent, cable, WINDOW);
    agent.terminate();
    assert_eq!(agent.wait().summary()["rx_packets"], WINDOW);
}

/// What `umemd pagepool` says of an interface's pools.
fn pools_of(dev: &str) -> Vec<Value> {
    let told = umemd(&["pagepool", "--iface", dev, "--json"]).json();
    told["devices"][0]["pools"].as_array().expect("a list").clone()
}

/// The driver ties its pools to the interface: each has a number, and counters of its own.
fn page_pools(agent: &Agent, cable: &Cable) {
    let ask = ["pagepool", "--iface", NEAR, "--json"];
    let of = |told: Told| {
        let told = told.json()["devices"][0].clone();
        assert_eq!(told["source"], "netlink", "{told}");
        assert!(told["pools"][0]["pool"].as_str().is_some_and(|id| id.parse::<u32>().is_ok()), "{told}");
        assert!(told["pools"][0]["inflight_pages"].as_u64().is_some_and(|pages| pages > 0), "{told}");
        told["pools"].clone()
    };
    let allocated = |pools: &Value| -> u64 {
        let pools = pools.as_array().expect("a list").iter().map(|pool| &pool["counters"]);
        let counters = pools.flat_map(|c| [&c["alloc_fast"], &c["alloc_refill"], &c["alloc_slow"]]);
        counters.map(|count| count.as_u64().expect("each is told")).sum()
    };
    let before = of(umemd(&ask));
    reflect(agent, cable, COUNT);
    let after = of(umemd(&ask));
    assert!(allocated(&after) > allocated(&before), "{before} {after}");
    assert_eq!(of(umemd_of_nobody(&ask)), after, "nobody is told the same");
    let sources = agent.metrics().label_values("umemd_device_info", "page_pool_source");
    assert_eq!(sources, ["netlink"]);
    let pool = after[0]["pool"].as_str().expect("a number");
    let ids = agent.metrics().label_values("umemd_kernel_page_pool_alloc_fast_total", "pool");
    assert!(ids.iter().any(|id| id == pool), "{ids:?}");
}

fn bounce(cable: &Cable) {
    e2e::command::ip(&["link", "set", NEAR, "down"]);
    e2e::command::ip(&["link", "set", NEAR, "up"]);
    cable.wait_for_link();
    cable.restore_neighbour();
}

fn modes(agent: &Agent) -> Vec<String> {
    agent.metrics().label_values("umemd_socket_info", "mode")
}

/// The first two numbers of the kernel's version.
fn linux() -> (u32, u32) {
    let release =
        run(Command::new("busybox").args(["uname", "-r"]), "").unwrap_or_else(|error| panic!("{error}"));
    let mut numbers = release.split('.').map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}
