//! How fast the pool is, under the names of the kernel's own `bench_page_pool_simple`, beside what one
//! would write instead.
//!
//! `cargo bench -p frame-pool [-- --json] [--quick] [--check FILE] [NAME]`
//!
//! A frame is one allocation and one return; every counter is on. Each figure is the median of several
//! rounds, in each of which all contestants run one after another, so that a busy machine slows all of
//! them. Instructions are counted by valgrind's callgrind, if it is installed, and do not depend on how
//! busy the machine is; `--check` compares them with recorded ones.

mod contestants;
mod instructions;

use std::{env, process::ExitCode, time::Instant};

use contestants::{Case, Contestant};

/// Rounds of which the median is taken.
const ROUNDS: usize = 61;

/// One line of the result.
struct Figures {
    case: Case,
    ns_per_frame: f64,
    /// Ours divided by theirs, by contestant.
    ratios: Vec<(Contestant, f64)>,
    instructions_per_frame: Option<f64>,
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if let Some(at) = args.iter().position(|arg| arg == instructions::CHILD) {
        instructions::run_child(&args[at + 1..]);
        return ExitCode::SUCCESS;
    }
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    let (json, quick) = (has("--json"), has("--quick"));
    let check = args.iter().position(|arg| arg == "--check").and_then(|at| args.get(at + 1));
    let name = args.iter().find(|arg| !arg.starts_with("--") && Some(*arg) != check);

    let cases: Vec<Case> =
        Case::all().into_iter().filter(|case| name.is_none_or(|name| case.bench.name() == name)).collect();
    if let Some(file) = check {
        return instructions::check(file, &cases);
    }
    for case in cases {
        let figures = measure(case, 1 << 15, if quick { 3 } else { ROUNDS });
        println!("{}", if json { figures.json() } else { figures.text() });
    }
    ExitCode::SUCCESS
}

fn measure(case: Case, frames: u64, rounds: usize) -> Figures {
    let contestants = Contestant::for_case(case);
    let mut times = vec![Vec::with_capacity(rounds); contestants.len()];
    for _ in 0..rounds {
        for (contestant, times) in contestants.iter().zip(&mut times) {
            let mut run = contestant.prepare(case);
            run(frames / 16); // Warm.
            let start = Instant::now();
            run(frames);
            times.push(start.elapsed().as_secs_f64() * 1e9 / frames as f64);
        }
    }
    let ratio =
        |theirs: &[f64]| median(times[0].iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect());
    Figures {
        case,
        ns_per_frame: median(times[0].clone()),
        ratios: contestants.iter().zip(&times).skip(1).map(|(it, theirs)| (*it, ratio(theirs))).collect(),
        instructions_per_frame: (case.threads == 1).then(|| instructions::count(case)).flatten(),
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

impl Figures {
    fn json(&self) -> String {
        let Case { bench, batch, threads, frames } = self.case;
        let ratios: Vec<_> = self.ratios.iter().map(|(it, x)| format!("\"{}\":{x:.3}", it.name())).collect();
        let instructions = self.instructions_per_frame.map_or("null".into(), |x| format!("{x:.2}"));
        format!(
            "{{\"bench\":\"{}\",\"batch\":{batch},\"threads\":{threads},\"frames\":{frames},\
             \"ns_per_frame\":{:.3},\"ratio\":{{{}}},\"instructions_per_frame\":{instructions}}}",
            bench.name(),
            self.ns_per_frame,
            ratios.join(",")
        )
    }

    fn text(&self) -> String {
        let Case { bench, batch, threads, frames } = self.case;
        let ratios: Vec<_> = self.ratios.iter().map(|(it, x)| format!("{x:.2}x {}", it.name())).collect();
        let instructions = self.instructions_per_frame.map_or("-".into(), |x| format!("{x:.1}"));
        format!(
            "{:9} batch {batch:2}  threads {threads}  {frames:6} frames  {:7.2} ns  {instructions:>6} instructions  {}",
            bench.name(),
            self.ns_per_frame,
            ratios.join("  ")
        )
    }
}
