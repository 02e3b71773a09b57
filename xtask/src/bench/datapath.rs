//! What moving a packet costs: umemd and others, in turns, under the same offered load.
//!
//! On shared cores only cost can be measured, not a peak. So a load is offered that all can carry, and
//! the CPU time of the process that receives it is divided by the packets. Runs alternate, and a ratio is
//! taken within each pair, so that what disturbs the machine for longer than a pair disturbs both.
//!
//! umemd runs as it does by default. So `drop`, for which nobody waits, lets frames gather, and the others are woken as
//! their peers are; with `--rx-usecs 0` it is woken as they are, too.
//!
//! What is asked is checked. Of `drop` and `reflect` beside `minimal`: that the interval does not lie above 1.05 times its
//! CPU time, and that they take only so many instructions more. Beside `xdp-bench`: less CPU time and fewer system calls.
//! And that nothing is lost, and the law holds. Instructions depend little on what else the machine does, so `cargo xtask
//! test full` checks them too.
//!
//! The load comes from umemd's own `generate`, or from a socket of the stack (`--source socket`): [`load`] says what
//! differs.

mod contestant;
mod instructions;
mod load;
mod syscalls;

use std::iter;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum as _;
use serde_json::{Value, json};

use self::contestant::{Contestant, Outcome, Said, name, transmitted};
use self::load::Load;
use self::syscalls::Syscalls;
use super::ratio::{self, Ratio};
use crate::cli::{BenchDatapath, BenchHandler as Handler, LoadSource};
use crate::lab::net::Namespaces;
use crate::{compile, shell};

/// The sender's CPU; whoever receives has the other one.
const SENDER_CPU: &str = "0";

/// What a run measures beside CPU time; both cost the contestant time of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counted {
    Nothing,
    Syscalls,
    /// The wrapper counts. The sender shares the contestant's CPU: each fills, or empties, the rings while the
    /// other one waits, so that there is always a full batch. Apart, batches would be as small as the contestant
    /// is fast.
    Instructions,
}

/// Loads, as parts of what the pair of interfaces can carry.
const LOADS: [f64; 2] = [0.5, 0.8];

/// What a packet may take beside the minimal loop, where that is bounded, by the lower end of what is measured.
const MOST_RATIO: f64 = 1.05;

/// How many instructions more than the minimal loop a handler may take for a packet, where that is bounded.
fn most_instructions(handler: Handler) -> Option<f64> {
    match handler {
        Handler::Drop => Some(60.0),
        Handler::Reflect => Some(120.0),
        Handler::Forward | Handler::Generate => None,
    }
}

/// Runs every comparison and prints a line for each; fails if one is not as it should be.
pub(super) fn run(options: &BenchDatapath) -> Result<()> {
    ensure!(shell::is_root(), "this benchmark makes network namespaces; run it as root");
    let umemd = compile::release()?;
    let minimal = compile::release_example("minimal")?;
    let lab = Namespaces::create()?;
    let ours = Contestant::umemd(umemd, &lab.near, options.rx_usecs);
    let minimal = Contestant::minimal(minimal, &lab.near);
    let all: Vec<_> = iter::once(minimal.clone()).chain(Contestant::xdp_bench(&lab.near)).collect();
    let wanted = |peer: &&Contestant| options.peers.is_empty() || options.peers.contains(&peer.name);
    let peers: Vec<_> = all.iter().filter(wanted).collect();
    if let Some(name) = options.peers.iter().find(|name| peers.iter().all(|peer| peer.name != **name)) {
        bail!("there is no {name} to compare with: it knows minimal, and xdp-bench where that is installed");
    }
    lab.add_second_pair()?;

    let bench = Bench { lab: &lab, load: Load::new(options.source, &ours, &lab), options };
    let handlers = if options.handlers.is_empty() { Handler::value_variants() } else { &options.handlers };
    let mut missed = Vec::new();
    for &handler in handlers {
        let capacity = bench.capacity(&minimal, handler)?;
        eprintln!("xtask: {} carries {capacity} packets per second", name(handler));
        let own_instructions = bench.instructions(&ours, handler)?;
        for peer in peers.iter().filter(|peer| peer.can(handler)) {
            // What sends by itself sends all it can.
            let loads = if handler == Handler::Generate { &[1.0][..] } else { &LOADS };
            let peer_instructions = bench.instructions(peer, handler)?;
            for load in loads {
                let rate = (capacity as f64 * load) as u64;
                let mut result = bench.compare(&ours, peer, handler, *load, rate)?;
                result["instructions_per_packet"] = json!(own_instructions);
                result["peer_instructions_per_packet"] = json!(peer_instructions);
                if options.json {
                    println!("{result}");
                } else {
                    println!("{}", line(&result));
                }
                missed.extend(misses(&result, most_instructions(handler)));
            }
        }
    }
    ensure!(missed.is_empty(), "not reached, or the machine was busy:\n{}", missed.join("\n"));
    Ok(())
}

/// The instructions alone, beside the minimal loop.
pub(crate) fn check_repeatable() -> Result<()> {
    let time = Duration::from_secs(1).into();
    let source = LoadSource::Generate;
    let (handlers, peers) = (Vec::new(), Vec::new());
    let options = BenchDatapath { json: false, handlers, peers, source, pairs: 0, rx_usecs: None, time };
    let (umemd, minimal) = (compile::release()?, compile::release_example("minimal")?);
    let lab = Namespaces::create()?;
    let (ours, minimal) =
        (Contestant::umemd(umemd, &lab.near, None), Contestant::minimal(minimal, &lab.near));
    let bench = Bench { lab: &lab, load: Load::new(source, &ours, &lab), options: &options };
    for handler in [Handler::Drop, Handler::Reflect] {
        let (own, peer) = (bench.instructions(&ours, handler)?, bench.instructions(&minimal, handler)?);
        let (Some(own), Some(peer)) = (own, peer) else { return Ok(()) };
        eprintln!("xtask: {}: {own} instructions a packet, and {peer} of the minimal loop", name(handler));
        let result = json!({"instructions_per_packet": own, "peer_instructions_per_packet": peer});
        let missed = too_many_instructions(&result, most_instructions(handler));
        ensure!(missed.is_none(), "{}: {}", name(handler), missed.unwrap_or_default());
    }
    Ok(())
}

/// What a comparison shows that is not as it should be.
fn misses(result: &Value, most_instructions: Option<f64>) -> Vec<String> {
    let number = |key: &str| result[key].as_f64();
    // What was not measured is not reached either.
    let is_less =
        |ours: &str, than: Option<f64>| number(ours).zip(than).is_some_and(|(ours, than)| ours < than);
    let mut missed = Vec::new();
    if result["peer"] == "minimal" {
        missed.extend(too_many_instructions(result, most_instructions));
        if most_instructions.is_some() && !is_less("cpu_ratio_low", Some(MOST_RATIO)) {
            missed.push(format!("{} times its CPU time at least", result["cpu_ratio_low"]));
        }
    } else {
        if !is_less("cpu_ratio_high", Some(1.0)) {
            missed.push(format!("{} times its CPU time at most", result["cpu_ratio_high"]));
        }
        if !is_less("syscalls_per_packet", number("peer_syscalls_per_packet")) {
            missed.push(format!("{} system calls a packet", result["syscalls_per_packet"]));
        }
    }
    if result["lost"] != 0 {
        missed.push(format!("{} packets lost", result["lost"]));
    }
    if result["conserved"] != true {
        missed.push("frames lost".into());
    }
    let what = format!("{} beside {} at {}", result["bench"], result["peer"], result["load"]);
    missed.into_iter().map(|missed| format!("  {what}: {missed}")).collect()
}

fn too_many_instructions(result: &Value, most: Option<f64>) -> Option<String> {
    let most = most?;
    let [ours, peers] =
        ["instructions_per_packet", "peer_instructions_per_packet"].map(|key| result[key].as_f64());
    let Some((ours, peers)) = ours.zip(peers) else { return Some("no instructions counted".into()) };
    let more = ours - peers;
    (more > most).then(|| format!("{more} instructions a packet more"))
}

/// A line for people.
fn line(result: &Value) -> String {
    let number = |key: &str| result[key].as_f64().unwrap_or(f64::NAN);
    format!(
        "{:8} beside {:10} at {:.1} of the load: {:.3} times its CPU time [{:.3}, {:.3}], {:.0} ns per packet, {:.0} of \
         them in user space\n{:9}system calls per packet {:.3} and {:.3}, instructions {:.0} and {:.0}; recycled {:.1} %, {} and {} \
         lost, the law {}",
        result["bench"].as_str().unwrap_or_default(),
        result["peer"].as_str().unwrap_or_default(),
        number("load"),
        number("cpu_ratio"),
        number("cpu_ratio_low"),
        number("cpu_ratio_high"),
        number("cpu_ns_per_packet"),
        number("user_ns_per_packet"),
        "",
        number("syscalls_per_packet"),
        number("peer_syscalls_per_packet"),
        number("instructions_per_packet"),
        number("peer_instructions_per_packet"),
        100.0 * number("recycle_ratio"),
        result["lost"],
        result["peer_lost"],
        if result["conserved"] == true { "holds" } else { "is violated" },
    )
}

/// The lab, and what to do in it.
struct Bench<'a> {
    lab: &'a Namespaces,
    load: Load,
    options: &'a BenchDatapath,
}

impl Bench<'_> {
    /// Packets per second that a contestant passes on without a loss, or drops if that is its work (the throughput of
    /// RFC 2544, 26.1): at most what it carries when the sender sends as fast as it can.
    ///
    /// That is not enough by itself: what is too much comes in full batches, and a packet of those costs less.
    fn capacity(&self, contestant: &Contestant, handler: Handler) -> Result<u64> {
        let seconds = 2;
        let carry =
            |rate| self.carry(contestant, handler, rate, Duration::from_secs(seconds), Counted::Nothing);
        let most = carry(0)?.carried / seconds;
        ensure!(most > 0, "{} carried nothing", contestant.name);
        // What sends by itself sends all it can, and loses nothing by it.
        if handler == Handler::Generate {
            return Ok(most);
        }
        let mut rate = most;
        while rate > most / 10 {
            // Twice, as the machine may have been busy once.
            for _ in 0..2 {
                let outcome = carry(rate)?;
                if outcome.lost == 0 {
                    return Ok(rate.min(outcome.carried / seconds));
                }
            }
            rate = rate * 9 / 10;
        }
        bail!("{} lost packets at {rate} a second, and carried {most} before", contestant.name)
    }

    /// Pairs of runs, ours and the peer's, the first of a pair changing each time.
    fn compare(
        &self,
        ours: &Contestant,
        peer: &Contestant,
        handler: Handler,
        load: f64,
        rate: u64,
    ) -> Result<Value> {
        let (mut costs, mut ratios, mut lost, mut peer_lost, mut conserved) =
            (Vec::new(), Vec::new(), 0, 0, true);
        let (mut user_shares, mut recycled) = (Vec::new(), Vec::new());
        for pair in 0..self.options.pairs {
            let run = |contestant| {
                self.carry(contestant, handler, rate, self.options.time.into(), Counted::Nothing)
            };
            let (own, other) = if pair % 2 == 0 {
                let own = run(ours)?;
                (own, run(peer)?)
            } else {
                let other = run(peer)?;
                (run(ours)?, other)
            };
            costs.push(own.cost()?);
            ratios.push(own.cost()? / other.cost()?);
            user_shares.push(own.cpu_time.user_share());
            recycled.extend(own.recycle_ratio);
            lost += own.lost;
            peer_lost += other.lost;
            for (contestant, outcome) in [(ours, &own), (peer, &other)] {
                // Who is kept from its CPU for longer than its rings last loses packets, however good it is.
                if outcome.lost > 0 {
                    let waited = outcome.cpu_time.waited.as_millis();
                    eprintln!(
                        "  {} lost {} packets in a run in which it waited for its CPU for {waited} ms (pair {})",
                        contestant.name,
                        outcome.lost,
                        pair + 1,
                    );
                }
            }
            conserved &= own.conserved;
            if !self.options.json {
                eprintln!(
                    "  {} {}: {:.0} ns, {}: {:.0} ns (pair {})",
                    name(handler),
                    ours.name,
                    own.cost()?,
                    peer.name,
                    other.cost()?,
                    pair + 1,
                );
            }
        }
        let traced = |who| self.carry(who, handler, rate, self.options.time.into(), Counted::Syscalls);
        let Ratio { median, low, high } = Ratio::of(&ratios);
        let (cost, user_share) = (ratio::median(&costs), ratio::median(&user_shares));
        Ok(json!({
            "bench": name(handler), "peer": peer.name, "runs": self.options.pairs, "load": load,
            "cpu_ns_per_packet": cost.round(),
            "user_ns_per_packet": (cost * user_share).round(),
            "system_ns_per_packet": (cost * (1.0 - user_share)).round(),
            "cpu_ratio": median, "cpu_ratio_low": low, "cpu_ratio_high": high,
            "syscalls_per_packet": traced(ours)?.syscalls_per_packet(),
            "peer_syscalls_per_packet": traced(peer)?.syscalls_per_packet(),
            "recycle_ratio": (!recycled.is_empty()).then(|| ratio::median(&recycled)),
            "lost": lost, "peer_lost": peer_lost, "conserved": conserved,
        }))
    }

    /// In user space, per packet, whatever the load.
    fn instructions(&self, who: &Contestant, handler: Handler) -> Result<Option<f64>> {
        instructions::per_packet(|wrapper, time| {
            self.carry(&who.clone().under(wrapper), handler, 0, time, Counted::Instructions)
        })
    }

    /// One run: a contestant carries what is sent at `rate` for so long, or sends by itself.
    fn carry(
        &self,
        contestant: &Contestant,
        handler: Handler,
        rate: u64,
        time: Duration,
        counted: Counted,
    ) -> Result<Outcome> {
        let device_sent = || transmitted(&self.lab.near, handler);
        let at_first = device_sent()?;
        let running = contestant.start(handler)?;
        let trace = if counted == Counted::Syscalls { Syscalls::of(&running.threads()?)? } else { None };
        let before = (running.cpu_time()?, device_sent()?);
        let sent = if handler == Handler::Generate {
            std::thread::sleep(time);
            None
        } else {
            let cpu = if counted == Counted::Instructions { contestant::CPU } else { SENDER_CPU };
            Some(self.load.offer(cpu, rate, time)?)
        };
        let after = (running.cpu_time()?, device_sent()?);
        let syscalls = trace.map(|trace| trace.count()).transpose()?;
        let said = running.finish().with_context(|| contestant.name.clone())?;
        let sent_at_last = device_sent()?;
        let (packets, carried, lost) = match (handler, sent) {
            // Who sends by itself began before and ends later.
            (_, None) => {
                let sent = after.1 - before.1;
                (sent, sent, said.packets.saturating_sub(sent_at_last - at_first))
            }
            (Handler::Reflect | Handler::Forward, Some(sent)) => {
                let passed_on = said.packets.min(sent_at_last - before.1);
                (said.packets, passed_on, sent.saturating_sub(passed_on))
            }
            (_, Some(sent)) => (said.packets, said.packets, sent.saturating_sub(said.packets)),
        };
        let cpu_time = after.0.since(before.0);
        let Said { recycle_ratio, conserved, .. } = said;
        Ok(Outcome { packets, carried, lost, cpu_time, recycle_ratio, syscalls, conserved })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_and_not_reached_is_named() {
        let beside = |peer: &str| {
            json!({
                "bench": "reflect", "peer": peer, "load": 0.5, "lost": 0, "conserved": true,
                "cpu_ratio_low": 0.9, "cpu_ratio_high": 0.99,
                "instructions_per_packet": 200.0, "peer_instructions_per_packet": 100.0,
                "syscalls_per_packet": 1.0, "peer_syscalls_per_packet": 1.5,
            })
        };
        for peer in ["minimal", "xdp-bench"] {
            assert_eq!(misses(&beside(peer), Some(120.0)), [""; 0], "{peer}");
        }
        for (peer, key, value, named) in [
            ("minimal", "instructions_per_packet", json!(221.0), "121 instructions"),
            ("minimal", "cpu_ratio_low", json!(1.06), "1.06 times"),
            ("xdp-bench", "cpu_ratio_high", json!(1.01), "1.01 times"),
            ("xdp-bench", "syscalls_per_packet", json!(1.6), "1.6 system calls"),
            ("xdp-bench", "peer_syscalls_per_packet", json!(null), "1.0 system calls"),
            ("minimal", "cpu_ratio_low", json!(null), "null times"),
            ("minimal", "instructions_per_packet", json!(null), "no instructions counted"),
            ("minimal", "lost", json!(3), "3 packets lost"),
            ("minimal", "conserved", json!(false), "frames lost"),
        ] {
            let mut result = beside(peer);
            result[key] = value;
            let missed = misses(&result, Some(120.0));
            assert!(missed.len() == 1 && missed[0].contains(named), "{missed:?}");
        }
    }
}
