//! Instructions per packet, by valgrind's callgrind: the figure that a busy machine does not change.
//!
//! The benchmark runs itself under callgrind, which collects inside of `one_turn` only: what fills the rings
//! and empties them is not counted.

use std::env;
use std::fs;
use std::process::{Command, ExitCode};

use crate::figures::{Figure, judge};
use crate::subject::{Case, Subject};

/// The argument by which the benchmark knows that it is the counted one.
pub(crate) const CHILD: &str = "--count-instructions";

const TURNS: u64 = 2048;
/// What receiving and dropping a packet may cost, whatever is recorded, and whoever looks on.
const MOST_DROP: f64 = 60.0;
/// What receiving and sending it may cost.
const MOST_REFLECT: f64 = 120.0;

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

/// Holds every case to what is asked, and to the recorded figures if they are of this compiler and processor.
pub(crate) fn check(file: &str, cases: &[Case]) -> ExitCode {
    let recorded = match fs::read_to_string(file) {
        Ok(recorded) => recorded,
        Err(error) => {
            eprintln!("cannot read the recorded figures in {file}: {error}");
            return ExitCode::from(2);
        }
    };
    let mut figures = Vec::new();
    for case in cases {
        let Some(got) = count(*case) else {
            eprintln!("valgrind is needed to count instructions: apt-get install valgrind");
            return ExitCode::from(2);
        };
        let most = match case.subject {
            Subject::Drop | Subject::Watched => MOST_DROP,
            Subject::Reflect => MOST_REFLECT,
            Subject::Forward | Subject::Generate => f64::INFINITY,
        };
        let Case { subject, batch, frames } = *case;
        figures.push(Figure { subject: subject.name(), batch, frames, most, got });
    }
    let (release, host) = compiler().unwrap_or_default();
    let judgement = judge(&figures, &recorded, (&release, &host));
    for line in judgement.lines {
        println!("{line}");
    }
    if judgement.is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
