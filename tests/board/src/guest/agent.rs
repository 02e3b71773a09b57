//! What is the same on every board: starting the agent, frames there and back, what it takes.

use std::{fs, process::Command, time::Duration};

use e2e::{
    agent::{Agent, AgentCommand},
    command::{ip, run},
    wire::WINDOW,
};
use serde_json::Value;

use super::{
    cable::{self, Cable, NEAR, STEER},
    verdict::Verdicts,
};

/// Time enough for anything that works, on an emulated CPU.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// The agent on `eth0`, sending back what it takes.
pub(super) fn reflecting(args: &[&str]) -> AgentCommand {
    let run = ["--iface", NEAR, "--steer", STEER, "--handler", "reflect"];
    AgentCommand::new().args(run).args(args.iter().copied())
}

/// Sizes of UDP payloads for an MTU of 1500: both ends, and what lies between.
pub(super) fn any_size(number: u64) -> usize {
    match number % 4 {
        0 => (number / 4 % 64) as usize,
        1 => 1472 - (number / 4 % 64) as usize,
        _ => (number * 37 % 1473) as usize,
    }
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
    verdicts.check("zero-copy is refused: the driver has none", || {
        let exit = reflecting(&["--zerocopy"]).run();
        assert_eq!(exit.code, Some(1), "{exit}");
        assert!(exit.stderr.contains("has no zero-copy (EOPNOTSUPP)"), "{exit}");
        assert!(cable::show(None, NEAR)["xdp"].is_null(), "{exit}");
    });
    verdicts.check("an MTU that the driver takes no program with is refused with its limit", || {
        let set = |mtu: u32| ip(&["link", "set", NEAR, "mtu", &mtu.to_string()]);
        set(longest + 8);
        let exit = reflecting(&[]).run();
        set(1500);
        assert_eq!(exit.code, Some(1), "{exit}");
        assert!(exit.stderr.contains(&format!("ip link set {NEAR} mtu {longest}")), "{exit}");
    });
}

/// What the doctor says of `eth0`: no word of something that does not work, and each of these.
pub(super) fn check_doctor(verdicts: &mut Verdicts, driver: &str, says: &[&str]) {
    verdicts.check("the doctor knows the driver and its quirks", || {
        let mut doctor = Command::new("umemd");
        let text = run(doctor.args(["doctor", "--iface", NEAR, "--json"]), "")
            .unwrap_or_else(|error| panic!("{error}"));
        let report: Value = serde_json::from_str(&text).expect("--json prints JSON");
        let findings = report["findings"].as_array().expect("there are findings");
        let texts: Vec<&str> = findings.iter().filter_map(|finding| finding["text"].as_str()).collect();
        assert!(findings.iter().any(|f| f["asked"] == "driver" && f["text"] == driver), "{texts:?}");
        for word in says {
            assert!(texts.iter().any(|text| text.contains(word)), "nothing about {word:?}: {texts:?}");
        }
        assert!(findings.iter().all(|finding| finding["answer"] != "no"), "{texts:?}");
    });
}

/// What it takes of a small board: said, not judged.
pub(super) fn measure(verdicts: &mut Verdicts, cable: &Cable) {
    let measured = verdicts.check("the agent's memory is measured", || {
        let agent = reflecting(&[]).start();
        cable.wait_for_link();
        reflect(&agent, cable, WINDOW);
        let metrics = agent.metrics();
        let umem = metrics.total("umemd_pool_capacity_frames") * metrics.total("umemd_umem_frame_size_bytes");
        (kib(&format!("/proc/{}/status", agent.pid()), "VmRSS:"), umem / 1024)
    });
    let Some((resident, umem)) = measured else { return };
    let size = fs::metadata("/usr/bin/umemd").map_or(0, |meta| meta.len()) / 1024;
    let without = resident.saturating_sub(umem);
    let total = kib("/proc/meminfo", "MemTotal:") / 1024;
    verdicts.note(&format!(
        "umemd is {size} KiB; resident {resident} KiB, {without} KiB without its UMEM; the guest has {total} MiB"
    ));
}

/// A value of such a file of proc's, in KiB.
fn kib(file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{file}: {error}"));
    let value =
        text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
    value.unwrap_or_else(|| panic!("{file} has no {name}"))
}
