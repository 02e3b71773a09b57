//! Every handler in every mode: each does its work on each packet, and every frame is home at the end.
//!
//! What is particular to one of them is in `handlers`, `modes` and `capture`. A veth has no zero-copy; the rig `igb` has.

use std::fs;

use e2e::{
    agent::{Agent, AgentCommand},
    huge::Pages,
    lab::{Lab, LabConfig, MODES, PORT, STEER},
    pcapng::packets_of,
    privilege::{XDP_USE_SG, kernel_has},
    scratch::Folder,
    wait::PATIENCE,
    wire::{WINDOW, Wire},
};
use serde_json::Value;

/// Packets of each run.
const COUNT: u64 = 2 * WINDOW;
/// As many go at once as the smallest fill ring has frames for: of its 64, half may be gone before it is refilled.
const AT_ONCE: u64 = WINDOW / 4;
/// Bytes that Ethernet, IP and UDP put before a payload.
const HEADERS: u64 = 42;

/// How sockets are made and workers run, beside native or skb.
#[derive(Debug)]
struct Way {
    args: &'static [&'static str],
    mtu: u32,
    /// A label of the metrics that shows it in force.
    shown: (&'static str, &'static str, &'static str),
    /// Numbers that do, of each interface: of a metric, with a label or none.
    told: &'static [Told],
}

/// A metric, labels, and its value.
type Told = (&'static str, &'static [(&'static str, &'static str)], u64);

/// What there is unasked. Headroom no metric tells of: that it is kept is in `modes`.
const SMALL_FRAMES: &[Told] = &[("umemd_umem_frame_size_bytes", &[], 2048)];

const WAYS: [Way; 5] = [
    Way {
        args: &["--spin", "--headroom", "512"],
        mtu: 1200,
        shown: ("umemd_worker_info", "policy", "spin"),
        told: SMALL_FRAMES,
    },
    Way {
        args: &["--copy", "--frame-size", "4096"],
        mtu: 3500,
        shown: ("umemd_socket_info", "mode", "copy"),
        told: &[("umemd_umem_frame_size_bytes", &[], 4096)],
    },
    Way {
        args: &["--rx-ring", "64", "--fill-ring", "64", "--tx-ring", "4", "--completion-ring", "2"],
        mtu: 1500,
        shown: ("umemd_socket_info", "multi_buffer", "false"),
        told: &[
            ("umemd_ring_entries", &[("ring", "rx")], 64),
            ("umemd_ring_entries", &[("ring", "fill")], 64),
            ("umemd_ring_entries", &[("ring", "tx")], 4),
            ("umemd_ring_entries", &[("ring", "completion")], 2),
        ],
    },
    Way {
        args: &["--huge-pages"],
        mtu: 1500,
        shown: ("umemd_umem_info", "backing", "hugetlb"),
        told: SMALL_FRAMES,
    },
    Way { args: &[], mtu: 9000, shown: SEVERAL_FRAMES, told: SMALL_FRAMES },
];

/// Packets take several frames.
const SEVERAL_FRAMES: (&str, &str, &str) = ("umemd_socket_info", "multi_buffer", "true");

impl Way {
    /// Bytes of payload `number`: both ends, and what lies between.
    fn size(&self, number: u64) -> usize {
        let most = self.longest();
        match number % 3 {
            0 => (number / 3) as usize % 64,
            1 => most - (number / 3) as usize % 64,
            _ => (number as usize * 997) % (most + 1),
        }
    }

    fn longest(&self) -> usize {
        // Without the headers of IP and UDP.
        self.mtu as usize - 28
    }

    fn start(&self, command: AgentCommand, mode: &str) -> Agent {
        command.args(self.args.iter().copied()).args(["--mode", mode]).start()
    }

    /// Ends the agent well, and looks whether this way was in force. Its summary.
    fn end(&self, agent: Agent, mode: &str) -> Value {
        let metrics = agent.metrics();
        for (metric, label, value) in [self.shown, ("umemd_device_info", "xdp_mode", mode)] {
            let shown = metrics.label_values(metric, label);
            assert!(!shown.is_empty() && shown.iter().all(|shown| shown == value), "{metrics}");
        }
        for (name, labels, value) in self.told {
            let devices = metrics.label_values(name, "device");
            assert!(!devices.is_empty(), "{name}: {metrics}");
            for device in devices {
                let told = metrics.sum(name, &[&[("device", &*device)], *labels].concat());
                assert_eq!(told, *value, "{name} {labels:?}: {metrics}");
            }
        }
        agent.terminate();
        agent.wait().summary().clone()
    }

    /// Bytes of all packets, as they are on the cable.
    fn bytes(&self) -> u64 {
        (0..COUNT).map(|number| self.size(number) as u64 + HEADERS).sum()
    }
}

/// Calls `run` for each way, in native and in skb mode, with a lab whose interfaces are made for it.
fn in_every_mode(config: LabConfig, run: impl Fn(&Lab, &Way, &str)) {
    for way in &WAYS {
        if way.shown == SEVERAL_FRAMES && !kernel_has(&XDP_USE_SG) {
            continue;
        }
        for mode in MODES {
            let Some(lab) = Lab::with(LabConfig { mtu: way.mtu, ..config }) else { return };
            // Of 2 MiB each, for two times 4096 frames of 2048 bytes.
            let _pages = way.args.contains(&"--huge-pages").then(|| Pages::set(8));
            println!("{mode} {way:?}");
            run(&lab, way, mode);
        }
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn packets_are_dropped_in_every_mode() {
    in_every_mode(LabConfig::default(), |lab, way, mode| {
        let agent = way.start(lab.agent(&["--steer", STEER, "--handler", "drop"]), mode);
        let wire = Wire::connect(&lab.far, lab.pair().near.port(PORT));
        for sent in (0..COUNT).step_by(AT_ONCE as usize).map(|sent| sent + AT_ONCE) {
            wire.send(sent - AT_ONCE..sent, |number| way.size(number));
            agent.metrics_when("these as well", |m| m.total("umemd_rx_packets_total") == sent);
        }
        let summary = way.end(agent, mode);
        assert_eq!(summary["drops"]["handler_dropped"], COUNT, "{summary}");
        assert_eq!(summary["rx_bytes"], way.bytes(), "{summary}");
        assert_eq!(wire.drain(), 0, "nothing comes back");
    });
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn packets_are_reflected_and_captured_in_every_mode() {
    in_every_mode(LabConfig::default(), |lab, way, mode| {
        let folder = Folder::of(lab);
        let file = folder.file("reflected.pcapng");
        let args = ["--steer", STEER, "--handler", "reflect", "--capture", &file];
        let agent = way.start(lab.agent(&args), mode);
        Wire::connect(&lab.far, lab.pair().near.port(PORT)).reflect(COUNT, |number| way.size(number));
        let summary = way.end(agent, mode);
        assert_eq!((&summary["rx_packets"], &summary["tx_packets"]), (&COUNT.into(), &COUNT.into()));
        assert_eq!(summary["tx_bytes"], way.bytes(), "{summary}");
        assert_eq!(summary["capture"]["missed"], 0, "{summary}");
        assert_eq!(packets_of(&fs::read(&file).expect("the file")), COUNT);
    });
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn packets_are_forwarded_in_every_mode() {
    in_every_mode(LabConfig { pairs: 2, beyond: true, ..LabConfig::default() }, |lab, way, mode| {
        let forward = ["--iface", "near0", "--handler", "forward", "--to", "near1", "--steer", STEER];
        let agent = way.start(lab.agent_on(&forward), mode);
        let (here, there) = lab.ends();
        here.send_to(&there, COUNT, |number| way.size(number));
        there.send_to(&here, COUNT, |number| way.size(number));
        let summary = way.end(agent, mode);
        assert_eq!(
            (&summary["rx_packets"], &summary["tx_packets"]),
            (&(2 * COUNT).into(), &(2 * COUNT).into())
        );
        assert_eq!(summary["tx_bytes"], 2 * way.bytes(), "{summary}");
    });
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn packets_are_generated_in_every_mode() {
    in_every_mode(LabConfig::default(), |lab, way, mode| {
        let pair = lab.pair();
        let wire = Wire::listen(&lab.far, pair.far.port(PORT));
        let frame = way.longest() as u64 + HEADERS;
        let args = [
            ["--handler", "generate"],
            ["--dst-mac", &pair.far.mac],
            ["--dst-addr", &pair.far.ip.to_string()],
            ["--src-addr", &pair.near.ip.to_string()],
            ["--dst-port", &PORT.to_string()],
            ["--rate", "2000"],
            ["--size", &frame.to_string()],
        ];
        let agent = way.start(lab.agent(args.as_flattened()), mode);
        for number in 0..COUNT {
            let packet = wire.receive(PATIENCE).unwrap_or_else(|| panic!("packet {number} did not come"));
            assert!(packet == vec![0; way.longest()], "packet {number} has {} bytes", packet.len());
        }
        let summary = way.end(agent, mode);
        let sent = summary["tx_packets"].as_u64().expect("a count");
        assert!(sent >= COUNT, "{summary}");
        assert_eq!(summary["tx_bytes"], sent * frame, "{summary}");
    });
}
