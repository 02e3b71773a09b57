//! What a frame costs in the pool, beside a `Vec`, a queue and a lock: the crate's own benchmark.

use std::process::Command;

use anyhow::Result;

use crate::cli::BenchPool;
use crate::shell;

/// Runs it, and prints a line for each case.
pub(super) fn run(options: &BenchPool) -> Result<()> {
    let mut cargo = cargo_bench();
    if options.json {
        cargo.arg("--json");
    }
    shell::run(&mut cargo)
}

/// Compares the instructions per frame with the recorded ones. Says why, where it cannot.
pub(crate) fn check_instructions() -> Result<()> {
    shell::run(cargo_bench().arg("--check"))
}

fn cargo_bench() -> Command {
    let mut cargo = shell::cargo();
    cargo.args(["bench", "--package", "frame-pool", "--bench", "pool", "--"]);
    cargo
}
