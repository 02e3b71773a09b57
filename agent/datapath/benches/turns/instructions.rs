//! Instructions per packet, by valgrind's callgrind: the figure that a busy machine does not change.
//!
//! The benchmark runs itself under callgrind, which collects inside of `one_turn` only: what fills the rings
//! and empties them is not counted.

use std::env;
use std::fs;
use std::process::{Command, ExitCode};

use crate::subject::{Case, Subject};

/// The argument by which the benchmark knows that it is the counted one.
pub(crate) const CHILD: &str = "--count-instructions";

const TURNS: u64 = 2048;
/// How far a figure may be from the recorded one.
const TOLERANCE: f64 = 0.02;
/// What receiving and dropping a packet may cost, whatever is recorded, and whoever looks on.
const MOST_DROP: f64 = 60.0;
/// What receiving and sending it may cost.
const MOST_REFLECT: f64 = 120.0;
/// How much the number of frames may change what a packet costs: full batches from 1,024 frames to 65,536.
const FLAT: f64 = 1.02;

/// Instructions per packet, or `None` without valgrind.
pub(crate) fn count(case: Case) -> Option<f64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*one_turn*"])
        .arg(env::current_exe().ok()?)
        .args([CHILD, case.subject.name(), &case.batch.to_string(), &case.frames.to_string()])
        .output()
        .ok()?;
    // ==123== Collected : 4567
    let text = String::from_utf8_lossy(&output.stderr);
    let collected = text.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    let packets: f64 = String::from_utf8_lossy(&output.stdout).trim().parse().ok()?;
    collected.map(|collected: f64| collected / packets)
}

/// Who made the instructions, and for what processor.
fn compiler() -> Option<(String, String)> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("-vV").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let field = |name| text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
    field("release: ").zip(field("host: "))
}

/// The counted run: `SUBJECT BATCH FRAMES`.
pub(crate) fn run_child(args: &[String]) {
    let number = |at: usize| args[at].parse::<u32>().expect("the parent passes numbers");
    let named = |subject: &Subject| subject.name() == args[0];
    let subject = Subject::ALL.into_iter().find(named).expect("the parent knows the names");
    println!("{}", Case { subject, batch: number(1) as usize, frames: number(2) }.run(TURNS));
}

/// What is before the compiler's name in the file of recorded figures.
const COMPILER: &str = "compiler: rustc ";

/// Compares with the recorded figures, one `subject batch frames instructions` a line. Skipped, and said to be, on
/// another processor; another compiler makes other instructions, and is held to what is asked only.
pub(crate) fn check(file: &str, cases: &[Case]) -> ExitCode {
    let recorded = match fs::read_to_string(file) {
        Ok(recorded) => recorded,
        Err(error) => {
            eprintln!("cannot read the recorded figures in {file}: {error}");
            return ExitCode::from(2);
        }
    };
    let its = recorded.lines().find_map(|line| line.strip_prefix(COMPILER)?.split_once(" for "));
    let (its_release, its_host) = its.unwrap_or_default();
    let (release, host) = compiler().unwrap_or_default();
    if host != its_host {
        eprintln!("skipped: instructions per packet: recorded for {its_host}, and this is {host}");
        return ExitCode::SUCCESS;
    }
    if release != its_release {
        eprintln!("instructions were recorded with rustc {its_release}, and this is {release}: not compared");
    }
    let mut code = ExitCode::SUCCESS;
    let mut full = Vec::new();
    for case in cases {
        let key = format!("{} {} {} ", case.subject.name(), case.batch, case.frames);
        let line = recorded.lines().find_map(|line| line.strip_prefix(&key));
        let expected = line.and_then(|line| line.trim().parse::<f64>().ok());
        let Some(got) = count(*case) else {
            eprintln!("valgrind is needed to count instructions: apt-get install valgrind");
            return ExitCode::from(2);
        };
        let most = match case.subject {
            Subject::Drop | Subject::Watched => MOST_DROP,
            Subject::Reflect => MOST_REFLECT,
            Subject::Forward | Subject::Generate => f64::INFINITY,
        };
        let verdict = match expected {
            _ if case.batch == 64 && got > most => "MORE THAN IS ASKED",
            _ if release != its_release => "within what is asked",
            Some(expected) if (got / expected - 1.0).abs() <= TOLERANCE => "as recorded",
            Some(_) => "DIFFERS",
            None => "NOT RECORDED",
        };
        if verdict.chars().all(|letter| !letter.is_lowercase()) {
            code = ExitCode::FAILURE;
        }
        println!("{key}{got:.2} {verdict} {expected:?}");
        if case.batch == 64 {
            full.push((case.subject, got));
        }
    }
    for subject in Subject::ALL {
        let costs = || full.iter().filter(|(of, _)| *of == subject).map(|(_, got)| *got);
        let (least, most) = (costs().fold(f64::INFINITY, f64::min), costs().fold(0.0, f64::max));
        if most > least * FLAT {
            println!("{} takes from {least:.2} to {most:.2} instructions: NOT FLAT", subject.name());
            code = ExitCode::FAILURE;
        }
    }
    code
}
