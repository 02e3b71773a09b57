//! `cargo xtask test`: the fast tests by cargo, the end-to-end tests as root.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::cli::{Test, Which};
use crate::{compile, setup, shell};

/// Sets up, and runs the tests asked for; the fast ones first.
pub(crate) fn run(options: &Test) -> Result<()> {
    setup::run(options.install)?;
    if options.which != Some(Which::E2e) {
        fast(options)?;
    }
    if options.which != Some(Which::Fast) {
        e2e(options, &compile::debug()?)?;
    }
    if options.which == Some(Which::Full) {
        e2e(options, &compile::release()?)?;
    }
    Ok(())
}

/// Unit, model and doc tests of all crates that need no root.
fn fast(options: &Test) -> Result<()> {
    let mut cargo = shell::cargo();
    cargo.args(["test", "--workspace", "--exclude", "xdp-prog", "--exclude", "e2e"]);
    shell::run(cargo.arg("--").args(&options.test_args))
}

/// The end-to-end tests: built as the user, run as root, one at a time, on this umemd.
fn e2e(options: &Test, umemd: &Path) -> Result<()> {
    let programs = build_e2e()?;
    if !shell::is_root() && options.runner.is_none() {
        return skip(&programs);
    }
    for program in &programs {
        let mut test = as_root(options)?;
        test.arg("env").arg(assignment("UMEMD_BIN", umemd)).arg(program);
        test.args(["--include-ignored", "--test-threads=1"]).args(&options.test_args);
        // Where cargo would start it.
        test.current_dir(shell::workspace().join("tests"));
        eprintln!("     Running {} (UMEMD_BIN={})", name(program), umemd.display());
        shell::run(&mut test).with_context(|| format!("end-to-end tests of {} failed", name(program)))?;
    }
    Ok(())
}

/// A prefix that gives root, and takes the tests down with us.
fn as_root(options: &Test) -> Result<Command> {
    match &options.runner {
        Some(runner) if !shell::is_root() => shell::runner(runner),
        _ => {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "TERM"]);
            Ok(command)
        }
    }
}

fn assignment(name: &str, value: &Path) -> OsString {
    let mut assignment = OsString::from(format!("{name}="));
    assignment.push(value);
    assignment
}

/// Builds package e2e, and lists its test programs.
fn build_e2e() -> Result<Vec<PathBuf>> {
    compile::executables(shell::cargo().args(["test", "--package", "e2e", "--no-run"]))
        .context("the end-to-end tests were not built")
}

/// Says what is not run, and why.
fn skip(programs: &[PathBuf]) -> Result<()> {
    for program in programs {
        let list = shell::run_quietly(Command::new(program).args(["--list", "--format", "terse"]))?;
        for test in list.lines().filter_map(|line| line.strip_suffix(": test")) {
            eprintln!("skipped: {test}: needs root; run `cargo xtask test e2e --runner 'sudo -E'`");
        }
    }
    Ok(())
}

/// `lab` of `target/debug/deps/lab-0123456789abcdef`.
fn name(program: &Path) -> String {
    let stem = program.file_stem().unwrap_or_default().to_string_lossy();
    stem.rsplit_once('-').map_or(stem.to_string(), |(name, _)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_named_without_its_hash() {
        assert_eq!(name(Path::new("/t/debug/deps/fail-open-0123456789abcdef")), "fail-open");
    }
}
