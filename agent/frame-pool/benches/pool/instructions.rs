//! Instructions per frame, by valgrind's callgrind: the figure that a busy machine does not change.
//!
//! The benchmark runs itself under callgrind twice, with few and with many frames; the difference is what
//! the frames cost, without start and set-up.

use std::{
    env, fs,
    process::{Command, ExitCode},
};

use crate::contestants::{Bench, Case, Contestant};

/// The argument by which the benchmark knows that it is the counted one.
pub(crate) const CHILD: &str = "--count-instructions";

const FEW: u64 = 1 << 12;
const MANY: u64 = 1 << 14;
/// How far a figure may be from the recorded one.
const TOLERANCE: f64 = 0.02;

/// Instructions per frame, or `None` without valgrind.
pub(crate) fn count(case: Case) -> Option<f64> {
    let (few, many) = (run_under_callgrind(case, FEW)?, run_under_callgrind(case, MANY)?);
    Some((many - few) as f64 / (MANY - FEW) as f64)
}

fn run_under_callgrind(case: Case, frames: u64) -> Option<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe().ok()?)
        .args([CHILD, case.bench.name()])
        .args([case.batch as u64, u64::from(case.frames), frames].map(|n| n.to_string()))
        .output()
        .ok()?;
    // ==123== Collected : 4567
    let text = String::from_utf8_lossy(&output.stderr);
    text.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok())
}

/// The counted run: `BENCH BATCH FRAMES_OF_UMEM FRAMES`.
pub(crate) fn run_child(args: &[String]) {
    let number = |at: usize| args[at].parse::<u64>().expect("the parent passes numbers");
    let bench =
        Bench::ALL.into_iter().find(|bench| bench.name() == args[0]).expect("the parent knows the names");
    let case = Case { bench, batch: number(1) as usize, threads: 1, frames: number(2) as u32 };
    Contestant::Pool.prepare(case)(number(3));
}

/// Compares with the recorded figures, one `bench batch frames instructions` a line.
pub(crate) fn check(file: &str, cases: &[Case]) -> ExitCode {
    let recorded = match fs::read_to_string(file) {
        Ok(recorded) => recorded,
        Err(error) => {
            eprintln!("cannot read the recorded figures in {file}: {error}");
            return ExitCode::from(2);
        }
    };
    let mut code = ExitCode::SUCCESS;
    for case in cases.iter().filter(|case| case.threads == 1) {
        let key = format!("{} {} {} ", case.bench.name(), case.batch, case.frames);
        let line = recorded.lines().find_map(|line| line.strip_prefix(&key));
        let (expected, got) = (line.and_then(|line| line.trim().parse::<f64>().ok()), count(*case));
        let verdict = match (expected, got) {
            (_, None) => {
                eprintln!("valgrind is needed to count instructions: apt-get install valgrind");
                return ExitCode::from(2);
            }
            (Some(expected), Some(got)) if (got / expected - 1.0).abs() <= TOLERANCE => "as recorded",
            (Some(_), _) => "DIFFERS",
            (None, _) => "NOT RECORDED",
        };
        if verdict != "as recorded" {
            code = ExitCode::FAILURE;
        }
        println!("{key}{:.2} {verdict} {expected:?}", got.unwrap_or_default());
    }
    code
}
