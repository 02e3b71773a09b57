//! Instructions per frame, by valgrind's callgrind: the figure that a busy machine does not change.
//!
//! The benchmark runs itself under callgrind twice, with few and with many frames; the difference is what
//! the frames cost, without start and set-up. What was counted once is recorded in a file, and a change
//! that costs more than [`TOLERANCE`], or saves more, has to record it anew and so is seen in review.

use std::{
    env,
    fmt::Write as _,
    fs, iter,
    process::{Command, ExitCode},
};

use crate::contestants::{Bench, Case, Contestant};

/// The argument by which the benchmark knows that it is the counted one.
pub(crate) const CHILD: &str = "--count-instructions";

/// The recorded figures. Cargo starts a benchmark in its package's folder.
const RECORDED: &str = "benches/pool/instructions.txt";

const FEW: u64 = 1 << 12;
const MANY: u64 = 1 << 14;
/// How far a figure may be from the recorded one.
const TOLERANCE: f64 = 0.03;
/// How far the figures of a small UMEM may be from those of a large one.
const FLATNESS: f64 = 0.02;

/// Whether instructions can be counted here, and what to do if not.
pub(crate) fn available() -> Result<(), String> {
    match Command::new("valgrind").arg("--version").output() {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err("valgrind, which counts them, is missing: apt-get install valgrind".into()),
    }
}

/// Instructions per frame of the pool in a case of one thread. With two, how long one waits for the other
/// is counted too, and differs each time.
pub(crate) fn count(case: Case) -> Result<f64, String> {
    let (few, many) = (run_under_callgrind(case, FEW)?, run_under_callgrind(case, MANY)?);
    Ok((many as f64 - few as f64) / (MANY - FEW) as f64)
}

fn run_under_callgrind(case: Case, frames: u64) -> Result<u64, String> {
    let this = env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(this)
        .args([CHILD, case.bench.name()])
        .args([case.batch as u64, u64::from(case.frames), frames].map(|n| n.to_string()))
        .output()
        .map_err(|error| format!("cannot start valgrind: {error}"))?;
    // ==123== Collected : 4567
    let text = String::from_utf8_lossy(&output.stderr);
    let collected = text.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    match collected {
        Some(collected) if output.status.success() => Ok(collected),
        _ => Err(format!("{case:?} under valgrind failed ({}): {text}", output.status)),
    }
}

/// The counted run: `BENCH BATCH FRAMES_OF_UMEM FRAMES`.
pub(crate) fn run_child(args: &[String]) {
    let number = |at: usize| args[at].parse::<u64>().expect("the parent passes numbers");
    let bench =
        Bench::ALL.into_iter().find(|bench| bench.name() == args[0]).expect("the parent knows the names");
    let case = Case { bench, batch: number(1) as usize, threads: 1, frames: number(2) as u32 };
    Contestant::Pool.prepare(case)(number(3));
}

/// Compares with the recorded figures, and those of small and large UMEMs with each other. Skipped, and
/// said to be, where nothing can be counted or another compiler made other instructions.
pub(crate) fn check(cases: &[Case]) -> Result<ExitCode, String> {
    let text = fs::read_to_string(RECORDED).map_err(|error| format!("cannot read {RECORDED}: {error}"))?;
    let recorded = Recorded::parse(&text)?;
    let compiler = compiler()?;
    let other = || format!("recorded with {}, and this is {compiler}", recorded.compiler);
    let possible =
        available().and_then(|()| if recorded.compiler == compiler { Ok(()) } else { Err(other()) });
    if let Err(why) = possible {
        eprintln!("skipped: instructions per frame of the pool: {why}");
        return Ok(ExitCode::SUCCESS);
    }

    let mut complaints = Vec::new();
    let figures = counted(cases)?;
    for (key, got) in &figures {
        match recorded.figure(key) {
            None => complaints.push(format!("{key}: {got:.2} instructions per frame, not recorded")),
            Some(figure) if (got / figure - 1.0).abs() > TOLERANCE => {
                complaints.push(format!("{key}: {got:.2} instructions per frame, recorded are {figure:.2}"));
            }
            Some(figure) => println!("{key}: {got:.2} instructions per frame, recorded are {figure:.2}"),
        }
    }
    complaints.extend(slopes(&figures));
    for complaint in &complaints {
        eprintln!("error: {complaint}");
    }
    if complaints.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("if that is meant, record it: cargo bench -p frame-pool -- --record");
    Ok(ExitCode::FAILURE)
}

/// Counts, and writes the file that [`check`] compares with.
pub(crate) fn record(cases: &[Case]) -> Result<ExitCode, String> {
    available()?;
    let mut text = format!("{HEADER}\n{COMPILER}{}\n", compiler()?);
    for (key, figure) in counted(cases)? {
        writeln!(text, "{key}: {figure:.2}").expect("a String takes all");
    }
    fs::write(RECORDED, &text).map_err(|error| format!("cannot write {RECORDED}: {error}"))?;
    print!("{text}");
    Ok(ExitCode::SUCCESS)
}

const HEADER: &str = "\
# Instructions per frame, counted by callgrind; `cargo xtask test` compares.
# To record: cargo bench -p frame-pool -- --record
# bench, frames at once, frames of the UMEM: instructions per frame";
const COMPILER: &str = "compiler: ";

/// Instructions per frame, by bench, batch and frames of the UMEM.
type Figure = (String, f64);

fn counted(cases: &[Case]) -> Result<Vec<Figure>, String> {
    let one_thread = cases.iter().filter(|case| case.threads == 1);
    let key = |case: &Case| format!("{} {} {}", case.bench.name(), case.batch, case.frames);
    one_thread.map(|case| Ok((key(case), count(*case)?))).collect()
}

/// What costs more in one UMEM than in another of another size.
fn slopes(figures: &[Figure]) -> Vec<String> {
    let kind = |key: &str| key.rsplit_once(' ').map(|(kind, _)| kind.to_owned());
    let pairs = figures.iter().flat_map(|one| iter::repeat(one).zip(figures));
    let steep = pairs.filter(|((a, x), (b, y))| kind(a) == kind(b) && y / x > 1.0 + FLATNESS);
    steep.map(|((a, x), (b, y))| format!("{b} costs {y:.2} instructions, and {a} only {x:.2}")).collect()
}

struct Recorded {
    compiler: String,
    figures: Vec<Figure>,
}

impl Recorded {
    fn parse(text: &str) -> Result<Self, String> {
        let mut recorded = Self { compiler: String::new(), figures: Vec::new() };
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some(compiler) = line.strip_prefix(COMPILER) {
                recorded.compiler = compiler.into();
            } else {
                let figure = line.split_once(": ").and_then(|(key, x)| Some((key.into(), x.parse().ok()?)));
                recorded.figures.push(figure.ok_or_else(|| format!("{RECORDED} has the line `{line}`"))?);
            }
        }
        Ok(recorded)
    }

    fn figure(&self, key: &str) -> Option<f64> {
        self.figures.iter().find(|(recorded, _)| recorded == key).map(|(_, figure)| *figure)
    }
}

/// Who made the instructions, and for what processor.
fn compiler() -> Result<String, String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(&rustc).arg("-vV").output();
    let output = output.map_err(|error| format!("cannot start {}: {error}", rustc.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let field = |name| text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("unknown");
    Ok(format!("rustc {} for {}", field("release: "), field("host: ")))
}
