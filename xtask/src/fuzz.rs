//! `cargo xtask fuzz`: looks for input that breaks what `tests/fuzz` says, with libFuzzer, on stable Rust.
//!
//! What it does by hand is what cargo-fuzz does with `--sanitizer none`: compiler flags that count the edges taken and
//! watch comparisons. Safe code has nothing for a sanitizer to find, and those take a nightly.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::cli::Fuzz;
use crate::{compile, setup, shell};

/// The targets of `tests/fuzz`.
const TARGETS: [&str; 2] = ["parser", "rule"];

/// LLVM's pass that tells libFuzzer where execution goes, and the options that cargo-fuzz gives it.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Sets up, builds and fuzzes one target after the other.
pub(crate) fn run(options: &Fuzz) -> Result<()> {
    setup::fuzz(options.install)?;
    let programs = build()?;
    let targets: Vec<&str> = match &options.target {
        Some(target) => vec![target],
        None => TARGETS.into(),
    };
    for target in targets {
        let program = compile::find(&programs, &format!("fuzz-{target}"))?;
        let places = Places::of(target)?;
        if options.merge {
            merge(&program, &places).with_context(|| format!("the corpus of {target} was not merged"))?;
        } else {
            fuzz(&program, target, &places, options.time.as_secs())?;
        }
    }
    Ok(())
}

fn build() -> Result<Vec<compile::Program>> {
    let host = shell::run_quietly(Command::new("rustc").args(["--print", "host-tuple"]))?;
    let mut cargo = shell::cargo();
    cargo.args(["build", "--package", "fuzz", "--bins", "--features", "libfuzzer", "--profile", "fuzz"]);
    // Named, so that the flags are not for build scripts and macros, which have no fuzzer to talk to.
    cargo.args(["--target", host.trim()]);
    cargo.env("CARGO_TARGET_DIR", shell::target_dir().join("fuzz")).env("RUSTFLAGS", FLAGS);
    compile::programs(&mut cargo).context("the fuzzers were not built")
}

/// Where a target's inputs are.
struct Places {
    /// Those that are committed.
    corpus: PathBuf,
    /// Those found on this machine.
    found: PathBuf,
    /// Those that broke something; the beginning of their files' names.
    broken: PathBuf,
}

impl Places {
    fn of(target: &str) -> Result<Self> {
        let scratch = shell::target_dir().join("fuzz");
        let places = Self {
            corpus: shell::workspace().join("tests/fuzz/corpus").join(target),
            found: scratch.join("found").join(target),
            broken: scratch.join("broken").join(format!("{target}-")),
        };
        for folder in [Some(places.corpus.as_path()), Some(&places.found), places.broken.parent()] {
            let folder = folder.unwrap_or(Path::new("."));
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        Ok(places)
    }
}

fn fuzz(program: &Path, target: &str, places: &Places, seconds: u64) -> Result<()> {
    let mut fuzzer = Command::new(program);
    // What is new goes to the first folder.
    fuzzer.args([&places.found, &places.corpus]).arg(format!("-max_total_time={seconds}"));
    fuzzer.arg(format!("-artifact_prefix={}", places.broken.display())).arg("-print_final_stats=1");
    // What a rule or a frame takes at most; and a second is a thousand times what an input should take.
    fuzzer.args(["-max_len=512", "-timeout=5"]);
    shell::step(&format!("fuzz {target} for {seconds} s"), || shell::run(&mut fuzzer)).with_context(|| {
        format!(
            "{target}: an input breaks it; it lies under {}*; put it into {} once that is mended",
            places.broken.display(),
            places.corpus.display()
        )
    })
}

/// Puts into the corpus what reaches code that nothing in it reaches.
fn merge(program: &Path, places: &Places) -> Result<()> {
    let count = || fs::read_dir(&places.corpus).map(Iterator::count);
    let before = count()?;
    let mut fuzzer = Command::new(program);
    shell::run_quietly(fuzzer.arg("-set_cover_merge=1").args([&places.corpus, &places.found]))?;
    eprintln!("xtask: {}: {} inputs, {before} before", places.corpus.display(), count()?);
    Ok(())
}

/// Refuses a target that there is none of.
pub(crate) fn target(name: &str) -> Result<String> {
    if !TARGETS.contains(&name) {
        bail!("there is no such target; there are {}", TARGETS.join(", "));
    }
    Ok(name.to_owned())
}
