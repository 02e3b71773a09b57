//! What a frame costs in the XDP program, by the number of rules and shapes, beside a bare redirect and a program
//! that was written by hand for one kind of rule. As root; `cargo xtask bench steer` builds and runs it.
//!
//! The kernel runs each program many times over a frame and says how long one run took (`BPF_PROG_TEST_RUN`).
//! All contestants take turns in one process, and of the rounds the median counts.

use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use aya::include_bytes_aligned;
use aya::maps::{Array, HashMap};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt::set_xdp_rx_ring_size};
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use umemd::ebpf::{LoadOptions, Program};
use umemd::steer::{DefaultAction, RuleSet, RuleSpec};

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/xdp-bench.o"));

/// Runs of a program in one round: some tens of milliseconds.
const REPEAT: u32 = 200_000;
/// Rounds, in each of which every contestant has its turn.
const ROUNDS: usize = 21;
/// As many rules as there may be.
const MANY: u32 = 10_000;

/// One line of the result.
struct Case {
    rules: u32,
    shapes: u32,
    spread: bool,
    hit: bool,
    program: Program,
    /// The destination port of the frame.
    port: u16,
    times: Vec<f64>,
}

fn main() -> Result<()> {
    let as_json = std::env::args().any(|arg| arg == "--json");
    let socket = socket()?;
    let mut peers = ["nothing", "stirring", "bare", "by_hand"].map(|name| (name, load(name, &socket)));
    let mut cases = Vec::new();
    let mut case = |rules: u32, shapes: u32, spread: bool, hit: bool| -> Result<()> {
        let mut program = load(if spread { "umemd_stirred" } else { "umemd" }, &socket)?;
        program.set_rules(&rule_set(rules, shapes)?)?;
        if spread {
            stir(&mut program, rules)?;
        }
        let port = if hit { 0 } else { 60_000 };
        cases.push(Case { rules, shapes, spread, hit, program, port, times: Vec::new() });
        Ok(())
    };
    for rules in [1, 100, MANY] {
        case(rules, 1, false, true)?;
        case(rules, 1, false, false)?;
    }
    for rules in [100, MANY] {
        case(rules, 1, true, true)?;
    }
    for shapes in [8, 32] {
        case(shapes, shapes, false, true)?;
        case(shapes, shapes, false, false)?;
    }

    let mut peer_times = [const { Vec::new() }; 4];
    for (name, program) in &mut peers {
        let program = program.as_mut().map_err(|error| anyhow::anyhow!("{error}"))?;
        match *name {
            "stirring" => stir(program, MANY)?,
            "by_hand" => {
                let map = program.take_map("PORTS").context("the object has no map of ports")?;
                let mut ports: HashMap<_, u32, u32> = HashMap::try_from(map)?;
                ports.insert(0, 0, 0)?;
            }
            _ => {}
        }
    }
    for _ in 0..ROUNDS {
        for ((_, program), times) in peers.iter_mut().zip(&mut peer_times) {
            if let Ok(program) = program {
                times.push(time(program, 0)?);
            }
        }
        for case in &mut cases {
            case.times.push(time(&mut case.program, case.port)?);
        }
    }

    let [nothing, stirring, bare, by_hand] = peer_times.map(median);
    if !as_json {
        println!(
            "{:>6} {:>6} {:>7} {:>5} {:>9} {:>8} {:>9}",
            "rules", "shapes", "frames", "", "ns", "x bare", "x by hand"
        );
        println!("{:>33} {bare:>9.1} {:>8.2} {:>9.2}", "bare redirect", 1.0, bare / by_hand);
        println!("{:>33} {by_hand:>9.1} {:>8.2} {:>9.2}", "one rule, by hand", by_hand / bare, 1.0);
    }
    for Case { rules, shapes, spread, hit, times, .. } in cases {
        // What stirring takes is none of the program's cost.
        let ns = median(times) - if spread { stirring - nothing } else { 0.0 };
        if as_json {
            let line = json!({
                "bench": "steer", "rules": rules, "shapes": shapes, "spread": spread, "hit": hit,
                "ns_per_packet": round(ns), "ratio_to_bare": round(ns / bare), "ratio_to_handwritten": round(ns / by_hand),
            });
            println!("{line}");
        } else {
            let frames = if spread { "spread" } else { "one" };
            let hit = if hit { "hit" } else { "miss" };
            println!(
                "{rules:>6} {shapes:>6} {frames:>7} {hit:>5} {ns:>9.1} {:>8.2} {:>9.2}",
                ns / bare,
                ns / by_hand
            );
        }
    }
    Ok(())
}

fn round(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// A socket that the program finds at queue 0.
fn socket() -> Result<OwnedFd> {
    let socket = socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    set_xdp_rx_ring_size(&socket, 64)?;
    Ok(socket)
}

fn load(name: &'static str, socket: &OwnedFd) -> Result<Program> {
    let mut program = Program::load_object(OBJECT, name, LoadOptions::default())?;
    program.set_socket(0, socket.as_fd())?;
    Ok(program)
}

/// Sends each run's frame to another one of so many ports.
fn stir(program: &mut Program, ports: u32) -> Result<()> {
    let map = program.take_map("STIR").context("the object has no map for stirring")?;
    let mut stir: Array<_, [u32; 2]> = Array::try_from(map)?;
    Ok(stir.set(0, [1, ports], 0)?)
}

/// Rules of so many shapes in turn; the first one is hit by port 0.
fn rule_set(rules: u32, shapes: u32) -> Result<RuleSet> {
    let expression = |number: u32| match number % shapes {
        0 => format!("udp dst port {}", number / shapes),
        // Sources of other lengths of prefix, so that each asks for something else, and none is hit.
        len => format!("udp dst port 0 and src net 128.0.0.0/{len}"),
    };
    let specs =
        (0..rules).map(|number| RuleSpec::steer(&format!("r{number}"), &expression(number))).collect();
    Ok(RuleSet::compile(specs, DefaultAction::Pass)?)
}

/// UDP over IPv4, 60 bytes.
fn frame(port: u16) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    frame.extend([0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0x0f, 0xa0]);
    frame.extend(port.to_be_bytes());
    frame.resize(60, 0);
    frame
}

/// Nanoseconds per run, of this thread's own time: others may have the CPU meanwhile. The kernel's figure is of the
/// clock, and rounded to whole nanoseconds.
fn time(program: &mut Program, port: u16) -> Result<f64> {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
    };
    let start = now();
    program.test_runs(&frame(port), REPEAT)?;
    Ok((now() - start) / f64::from(REPEAT))
}
