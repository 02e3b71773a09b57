//! What is the same on every board: starting the agent, frames there and back, what it takes.

use std::{env, fs, process::Command, time::Duration};

use e2e::{
    agent::{Agent, AgentCommand, umemd},
    command::{ip, run},
    wait::wait_until,
    wire::{WINDOW, Wire, any_size},
};

use super::{
    cable::{self, Cable, NEAR, OTHER_PORT, STEER, carrier_changes, has_carrier_now},
    kernel_log::KernelLog,
    verdict::Verdicts,
};

/// Time enough for anything that works, on an emulated CPU.
pub(super) const PATIENCE: Duration = Duration::from_secs(300);

/// The agent on `eth0`, sending back what it takes.
pub(super) fn reflecting(args: &[&str]) -> AgentCommand {
    handling("reflect", args).args(["--steer", STEER])
}

/// The agent on `eth0` with this handler, taking nothing yet.
pub(super) fn handling(handler: &str, args: &[&str]) -> AgentCommand {
    AgentCommand::new().args(["--iface", NEAR, "--handler", handler]).args(args.iter().copied())
}

/// Sends datagrams in small windows to a reflecting agent, and checks each that comes back, and the law.
pub(super) fn reflect(agent: &Agent, cable: &Cable, count: u64) {
    let wire = cable.wire();
    let before = agent.metrics().total("umemd_rx_packets_total");
    let mut sent = 0;
    while sent < count {
        let window = sent..count.min(sent + WINDOW / 4);
        wire.send(window.clone(), any_size);
        sent = window.end;
        wire.expect(window, any_size, PATIENCE);
    }
    let metrics = agent.metrics_when("the completion of all frames", |m| {
        m.total("umemd_tx_completions_total") == before + count
    });
    assert_eq!(metrics.total("umemd_rx_packets_total"), before + count);
    for none in ["umemd_packets_dropped_total", "umemd_pool_rejected_total", "umemd_xsk_rx_dropped_total"] {
        assert_eq!(metrics.total(none), 0, "{none}");
    }
}

/// What neither driver can do is refused with its reason, and leaves nothing attached.
pub(super) fn check_refusals(verdicts: &mut Verdicts, longest: u32) {
    verdicts.check("zero-copy is refused: the driver has none, and its link is left alone", || {
        let before = carrier_changes(NEAR);
        let exit = reflecting(&["--zerocopy"]).run();
        assert_eq!(exit.code, Some(1), "{exit}");
        assert!(exit.stderr.contains("has no zero-copy: its driver"), "{exit}");
        assert!(cable::show(None, NEAR)["xdp"].is_null(), "{exit}");
        assert_eq!(carrier_changes(NEAR), before, "{exit}");
    });
    verdicts.check("an MTU that the driver takes no program with is refused with its limit", || {
        set_mtu(NEAR, longest + 8);
        let exit = reflecting(&["--multi-buffer", "off"]).run();
        set_mtu(NEAR, 1500);
        assert_eq!(exit.code, Some(1), "{exit}");
        assert!(exit.stderr.contains(&format!("ip link set {NEAR} mtu {longest}")), "{exit}");
    });
}

/// Sets an interface's MTU.
pub(super) fn set_mtu(dev: &str, mtu: u32) {
    ip(&["link", "set", dev, "mtu", &mtu.to_string()]);
}

/// That the driver refuses this MTU under the program, and for this reason: the kernel's log has it alone, and whoever
/// asked has an errno that stands for much.
pub(super) fn refuses_mtu(dev: &str, mtu: u32, reason: &str) {
    let mut log = KernelLog::from_here();
    let told = run(Command::new("ip").args(["link", "set", dev, "mtu", &mtu.to_string()]), "");
    let Err(error) = told else { panic!("the driver took an MTU of {mtu} under a program") };
    assert!(error.contains("Invalid argument"), "{error}");
    let said = log.lines();
    assert!(said.iter().any(|line| line.contains(dev) && line.ends_with(reason)), "{reason}? {said:?}");
}

/// A rule more, and a rule less: what comes back follows, and the link knows nothing of it.
pub(super) fn check_rules(verdicts: &mut Verdicts, agent: &Agent, cable: &Cable) {
    verdicts.check("`umemd rule add` and `del` are in force at once, and no link bounces", || {
        let before = (carrier_changes(NEAR), agent.xdp_links(), program_id());
        let (wire, other, _near) = (cable.wire(), cable.wire_to(OTHER_PORT), cable.listen());
        let comes_back = |wire: &Wire| {
            wire.send(0..1, any_size);
            wire.receive(Duration::from_millis(500)).is_some()
        };
        assert!(comes_back(&wire) && !comes_back(&other));
        let rule = format!("udp dst port {OTHER_PORT}");
        agent.tell(&["rule", "add", &rule, "--name", "other"]).ok();
        assert!(comes_back(&wire) && comes_back(&other));
        agent.tell(&["rule", "del", "other"]).ok();
        assert!(comes_back(&wire) && !comes_back(&other));
        assert_eq!((carrier_changes(NEAR), agent.xdp_links(), program_id()), before);
    });
}

/// The program for packets in several buffers takes the place of the one that is there, as an MTU that is `longer` than a
/// frame asks for it. What an MTU costs by itself is known from one that is `shorter`, and needs no other program.
pub(super) fn check_swap(verdicts: &mut Verdicts, agent: &Agent, cable: &Cable, shorter: u32, longer: u32) {
    verdicts.check("another program takes its place by link update: no bounce but the new MTU's own", || {
        let set = |mtu: u32| {
            let before = carrier_changes(NEAR);
            set_mtu(NEAR, mtu);
            wait_until("the carrier is back", PATIENCE, || has_carrier_now(NEAR));
            before
        };
        let before = set(shorter);
        let own = carrier_changes(NEAR) - before;
        let (program, links) = (program_id(), agent.xdp_links());
        let before = set(longer);
        wait_until("the program for packets in several buffers is there", PATIENCE, || {
            program_id() != program && agent.get("/readyz").status == 200
        });
        assert_eq!(agent.xdp_links(), links, "one bpf_link all the while");
        assert_eq!(carrier_changes(NEAR) - before, own, "the MTU's own");
        cable.wait_for_link();
        cable.restore_neighbour();
        reflect(agent, cable, WINDOW);
    });
    set_mtu(NEAR, 1500);
}

/// The program on `eth0`, by the kernel's number.
pub(super) fn program_id() -> u64 {
    cable::show(None, NEAR)["xdp"]["prog"]["id"].as_u64().expect("a program is attached")
}

/// What the doctor says of `eth0`: no word of something that does not work, and each of these.
pub(super) fn check_doctor(verdicts: &mut Verdicts, driver: &str, says: &[&str]) {
    verdicts.check("the doctor tells the truth about the driver, and touches nothing", || {
        let before = carrier_changes(NEAR);
        // For whoever reads the console.
        println!("{}", umemd(&["doctor", "--iface", NEAR]).stdout);
        let report = umemd(&["doctor", "--iface", NEAR, "--json"]).json();
        assert_eq!(carrier_changes(NEAR), before);
        let findings = report["findings"].as_array().expect("there are findings");
        let texts: Vec<&str> = findings.iter().filter_map(|finding| finding["text"].as_str()).collect();
        assert!(findings.iter().any(|f| f["asked"] == "driver" && f["text"] == driver), "{texts:?}");
        for word in says.iter().chain(&["nobody has an AF_XDP socket here"]) {
            assert!(texts.iter().any(|text| text.contains(word)), "nothing about {word:?}: {texts:?}");
        }
        assert!(findings.iter().all(|finding| finding["answer"] != "no"), "{texts:?}");
    });
}

/// What the doctor says of `eth0` while an agent has it.
pub(super) fn check_doctor_beside(verdicts: &mut Verdicts, driver: &str) {
    verdicts.check("the doctor sees the program and the sockets of a running agent", || {
        let before = carrier_changes(NEAR);
        let told = umemd(&["doctor", "--iface", NEAR]);
        assert_eq!((told.code, carrier_changes(NEAR)), (Some(1), before), "{told:?}");
        for words in [driver, "an XDP program is attached in native mode", "AF_XDP socket"] {
            assert!(told.stdout.contains(words), "nothing about {words:?}: {told:?}");
        }
        assert!(!told.stdout.contains("nobody has"), "{told:?}");
    });
}

/// What a running agent takes of a small board: said, not judged, but for UMEMs of queues that were closed.
pub(super) fn measure(verdicts: &mut Verdicts, agent: &Agent) {
    let measured = verdicts.check("of the agent's memory no more is UMEM than is in use", || {
        let metrics = agent.metrics();
        // All queues have frames of one size.
        let queues = metrics.label_values("umemd_umem_frame_size_bytes", "queue").len() as u64;
        let frame = metrics.total("umemd_umem_frame_size_bytes") / queues;
        let umem = metrics.total("umemd_pool_capacity_frames") * frame;
        let mapped = mapped_umems(agent.pid());
        assert_eq!(mapped, umem, "bytes of UMEMs are mapped, and in use\n{metrics}");
        let huge = kib(&format!("/proc/{}/smaps_rollup", agent.pid()), "AnonHugePages:");
        assert_eq!(huge, 0, "KiB in huge pages that nobody asked for");
        // A number is none of umemd's that does not say how it was built.
        let profile = env::var("UMEMD_PROFILE").expect("xtask tells it");
        (profile, umem / 1024)
    });
    let Some((profile, umem)) = measured else { return };
    let status = format!("/proc/{}/status", agent.pid());
    let [resident, own] = ["VmRSS:", "RssAnon:"].map(|name| kib(&status, name));
    let without = resident.saturating_sub(umem);
    // Of a guest that runs in memory the program is shared memory, as a UMEM is.
    let program = without.saturating_sub(own);
    let size = fs::metadata("/usr/bin/umemd").map_or(0, |meta| meta.len()) / 1024;
    let total = kib("/proc/meminfo", "MemTotal:") / 1024;
    verdicts.note(&format!("umemd ({profile} profile) is {size} KiB; the guest has {total} MiB"));
    verdicts
        .note(&format!("resident {resident} KiB, without UMEM {without} KiB: program {program}, else {own}"));
}

/// Bytes of all UMEMs in a process: of what it maps, shared and anonymous, which is called so in maps.
fn mapped_umems(pid: u32) -> u64 {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("it runs");
    let shared = maps.lines().filter(|line| line.ends_with("/dev/zero (deleted)"));
    let size = |line: &str| {
        let (from, to) = line.split_once(' ')?.0.split_once('-')?;
        Some(u64::from_str_radix(to, 16).ok()? - u64::from_str_radix(from, 16).ok()?)
    };
    shared.map(|line| size(line).expect("two addresses")).sum()
}

/// Killed, it leaves nothing attached, and the stack has its traffic.
pub(super) fn check_sigkill(verdicts: &mut Verdicts, agent: Agent, cable: &Cable) {
    verdicts.check("SIGKILL leaves nothing attached", || {
        agent.kill();
        agent.wait();
        wait_until("no program is attached", PATIENCE, || cable::show(None, NEAR)["xdp"].is_null());
        cable.wait_for_link();
        cable.restore_neighbour();
        cable.wait_for_traffic();
    });
}

/// A link that goes down and comes up again under an agent, which serves it on.
pub(super) fn check_link(verdicts: &mut Verdicts, agent: &Agent, cable: &Cable) {
    verdicts.check("the link goes down and up under a running agent", || {
        let program = program_id();
        for state in ["down", "up"] {
            ip(&["link", "set", NEAR, state]);
        }
        cable.wait_for_link();
        cable.restore_neighbour();
        reflect(agent, cable, WINDOW);
        assert_eq!(program_id(), program, "the same one all the while");
    });
}

/// An agent that has started: its interface has its carrier back, and nobody took its absence for a fault.
pub(super) fn bounce_is_waited_for(agent: &Agent) {
    assert!(cable::has_carrier_now(NEAR), "it was ready before its link was");
    let said = agent.stderr();
    assert!(!said.to_lowercase().contains("warn") && !said.contains("error"), "{said}");
}

/// A value of such a file of proc's, in KiB.
fn kib(file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{file}: {error}"));
    let value =
        text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
    value.unwrap_or_else(|| panic!("{file} has no {name}"))
}
