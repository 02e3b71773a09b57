//! How fast the pool is, under the names of the kernel's own `bench_page_pool_simple`, beside what one
//! would write instead.
//!
//! `cargo bench -p frame-pool [-- [--json] [--quick] [NAME] | --check | --record]`
//!
//! A frame is one allocation and one return; every counter is on. Each figure is the median of several
//! rounds, in each of which all contestants run one after another, so that a busy machine slows all of
//! them. Instructions are counted by valgrind's callgrind, if it is installed, and do not depend on how
//! busy the machine is: `--check` compares them with the recorded ones, `--record` records them.

mod contestants;
mod instructions;

use std::{env, process::ExitCode, time::Instant};

use contestants::{Bench, Case, Contestant};

/// Rounds of which the median is taken.
const ROUNDS: usize = 61;

/// One line of the result.
struct Figures {
    case: Case,
    ns_per_frame: f64,
    /// Ours divided by theirs, by contestant.
    ratios: Vec<(Contestant, f64)>,
    /// Of the pool alone; `None` with two threads, and without valgrind.
    instructions_per_frame: Option<f64>,
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if let Some(at) = args.iter().position(|arg| arg == instructions::CHILD) {
        instructions::run_child(&args[at + 1..]);
        return ExitCode::SUCCESS;
    }
    run(&args).unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::from(2)
    })
}

fn run(args: &[String]) -> Result<ExitCode, String> {
    let (mut json, mut rounds, mut cases) = (false, ROUNDS, Case::all());
    for arg in args {
        match arg.as_str() {
            "--json" => json = true,
            "--quick" => rounds = 3,
            "--check" => return instructions::check(&cases),
            "--record" => return instructions::record(&cases),
            name => match Bench::ALL.into_iter().find(|bench| bench.name() == name) {
                Some(bench) => cases.retain(|case| case.bench == bench),
                None => {
                    return Err(format!("what is `{name}`? There are --json, --quick, --check, --record"));
                }
            },
        }
    }
    let counting = instructions::available();
    if let Err(why) = &counting {
        eprintln!("skipped: instructions per frame: {why}");
    }
    for case in cases {
        let mut figures = measure(case, 1 << 15, rounds);
        if counting.is_ok() && case.threads == 1 {
            figures.instructions_per_frame = Some(instructions::count(case)?);
        }
        println!("{}", if json { figures.json() } else { figures.text() });
    }
    Ok(ExitCode::SUCCESS)
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
        instructions_per_frame: None,
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

impl Figures {
    fn json(&self) -> String {
        let Case { bench, batch, threads, frames } = self.case;
        let rivals = self.ratios.iter().filter(|(it, _)| it.is_rival());
        let ratios: Vec<_> = rivals.map(|(it, x)| format!("\"{}\":{x:.3}", it.name())).collect();
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
