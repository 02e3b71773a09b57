//! `cargo xtask test`: the fast tests by cargo, the pool's threads under loom, what the pool's instructions
//! are, then what needs root, what being watched costs, then what takes minutes.

use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::board;
use crate::cli::{Board, Fuzz, Test, Which};
use crate::compile::{self, Program};
use crate::{bench, fuzz, setup, shell};

/// Sets up, and runs the tests asked for; the fast ones first.
pub(crate) fn run(options: &Test) -> Result<()> {
    let full = options.which == Some(Which::Full);
    if full {
        setup::full_tests(options.install)?;
    } else {
        setup::tests(options.install)?;
    }
    if options.which == Some(Which::Mutants) {
        return mutants(&options.test_args);
    }
    if options.which == Some(Which::Sim) {
        let mut cargo = shell::cargo();
        cargo.args(["test", "--package", "datapath", "--test", "histories", "--test", "sim"]);
        return shell::run(simulated(&mut cargo, options).arg("--").args(&options.test_args));
    }
    if options.which != Some(Which::E2e) {
        shell::run(simulated(&mut cargo_test(), options).arg("--").args(&options.test_args))?;
        interleavings(&options.test_args)?;
        // Whoever asks for some tests does not ask for this one.
        if options.test_args.is_empty() {
            bench::pool::check_instructions().context("the pool costs other than recorded")?;
            turns(full)?;
        }
    }
    if options.which != Some(Which::Fast) {
        let programs = compile::programs(cargo_test().arg("--no-run")).context("the tests were not built")?;
        privileged(options, &programs, &compile::umemd(&programs)?)?;
        if full {
            privileged(options, &programs, &compile::release()?)?;
            if shell::is_root() {
                bench::scrape::check_repeatable().context("being scraped costs more than it may")?;
                bench::datapath::check_repeatable().context("a packet costs more than it may")?;
            } else {
                eprintln!("skipped: what packets and scrapes cost: needs root; run `cargo xtask bench`");
            }
            mutants(&[])?;
            let time = Duration::from_secs(60).into();
            fuzz::run(&Fuzz { target: None, time, merge: false, install: options.install })?;
            boards(options)?;
        }
    }
    Ok(())
}

/// What a packet costs a worker on rings in memory, compared with what is recorded; and how two workers scale, which is
/// a matter of time, and so only `full`.
fn turns(full: bool) -> Result<()> {
    let bench = |arguments: &[&str]| {
        let mut cargo = shell::cargo();
        cargo.args(["bench", "--package", "datapath", "--bench", "turns", "--"]);
        shell::run(cargo.args(arguments))
    };
    bench(&["--check", "benches/turns/recorded.txt"]).context("a worker's turn costs other than recorded")?;
    if full {
        bench(&["--check-scale"]).context("two workers are in each other's way")?;
    }
    Ok(())
}

/// Threads under loom, which needs a build of its own: its atomics are not the standard ones.
fn interleavings(test_args: &[OsString]) -> Result<()> {
    let models: [(_, _, &[&str]); 2] =
        [("frame-pool", ["--test", "loom"], &[]), ("datapath", ["--lib", "-q"], &["seqlock", "notice"])];
    for (package, tests, parts) in models {
        let mut cargo = shell::cargo();
        cargo.args(["test", "--package", package]).args(tests).arg("--").args(parts).args(test_args);
        cargo.env("CARGO_TARGET_DIR", shell::workspace().join("target/loom"));
        // One preemption more takes five times as long, and no mutant needs it.
        cargo.env("RUSTFLAGS", "--cfg frame_pool_loom --cfg datapath_loom").env("LOOM_MAX_PREEMPTIONS", "3");
        shell::run(&mut cargo).with_context(|| format!("a model of the threads of {package} failed"))?;
    }
    Ok(())
}

/// Puts errors into copies of the pool, to see its tests fail.
fn mutants(names: &[OsString]) -> Result<()> {
    let mut cargo = shell::cargo();
    cargo.args(["run", "--quiet", "--package", "frame-pool", "--example", "mutants", "--"]).args(names);
    shell::run(&mut cargo).context("an error in the pool is not noticed")
}

/// All boards on all kernels, where they can be had.
fn boards(options: &Test) -> Result<()> {
    let install = options.install;
    let all = Board {
        rig: None,
        kernel: Vec::new(),
        every_kernel: true,
        keep: false,
        dev: false,
        shell: false,
        skip_unavailable: true,
        install,
    };
    board::run(&all)
}

/// Everything that is built for this machine, with the same features each time: cargo builds it once.
fn cargo_test() -> Command {
    let mut cargo = shell::cargo();
    cargo.args(["test", "--workspace", "--exclude", "xdp-prog"]);
    cargo
}

/// Tells the simulation its seeds.
fn simulated<'a>(cargo: &'a mut Command, options: &Test) -> &'a mut Command {
    let usual = if options.which == Some(Which::Full) { 100_000 } else { 1_000 };
    if let Some(seed) = options.seed {
        cargo.env("UMEMD_SIM_SEED", seed.to_string());
    }
    if options.which == Some(Which::Full) {
        // Expressions that are compared with tcpdump.
        cargo.env("UMEMD_TCPDUMP_RULES", "5000");
    }
    cargo.env("UMEMD_SIM_SEEDS", options.seeds.unwrap_or(usual).to_string())
}

/// The tests that need root, which are those that cargo ignores: built as the user, run as root, one at a
/// time, on this umemd.
fn privileged(options: &Test, programs: &[Program], umemd: &Path) -> Result<()> {
    for program in programs.iter().filter(|program| program.test) {
        let mut list = Command::new(&program.path);
        let list = shell::run_quietly(list.args(["--ignored", "--list", "--format", "terse"]))?;
        let tests: Vec<&str> = list.lines().filter_map(|line| line.strip_suffix(": test")).collect();
        if tests.is_empty() {
            continue;
        }
        let Some(mut test) = as_root(options)? else {
            for test in tests {
                eprintln!("skipped: {test}: needs root; run `cargo xtask test e2e --runner 'sudo -E'`");
            }
            continue;
        };
        test.arg("env").arg(assignment("UMEMD_BIN", umemd));
        test.arg(assignment("XTASK_BIN", &env::current_exe().context("cannot find the running xtask")?));
        // Tests that need a browser and the like ask for this.
        test.args((options.which == Some(Which::Full)).then_some("UMEMD_FULL=1"));
        test.arg(&program.path);
        test.args(["--ignored", "--test-threads=1"]).args(&options.test_args);
        eprintln!("     Running {} as root (UMEMD_BIN={})", program.name, umemd.display());
        shell::run(&mut test).with_context(|| format!("tests of {} failed", program.name))?;
    }
    Ok(())
}

/// A prefix that gives root; `None` if nothing does.
fn as_root(options: &Test) -> Result<Option<Command>> {
    if shell::is_root() {
        let mut command = Command::new("setpriv");
        // Takes the tests down with us.
        command.args(["--pdeathsig", "TERM"]);
        return Ok(Some(command));
    }
    options.runner.as_deref().map(shell::runner).transpose()
}

fn assignment(name: &str, value: &Path) -> OsString {
    let mut assignment = OsString::from(format!("{name}="));
    assignment.push(value);
    assignment
}
