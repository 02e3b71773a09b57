//! `cargo xtask setup`: looks for what is needed, and gets what is not there.
//!
//! What one step installs decides what the next one needs: bpf-linker must share the LLVM of a rustc that
//! may have to be installed first. So it plans, acts and looks again, until nothing is missing.

mod apt;
mod needs;
mod plan;

use std::env::consts;
use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::Command;

use anyhow::{Context as _, Error, Result, bail};

use crate::cli::Install;
use crate::setup::needs::Extent;
use crate::setup::plan::{Offers, Plan, Step};
use crate::{cross, shell, toolchain};

/// Each round installs something; the third one has to find everything.
const ROUNDS: usize = 3;

/// That something is not here, and cannot be fetched: no package has it, or a mirror does not answer. What is here and
/// does not work is another error.
#[derive(Debug)]
pub(crate) struct Unobtainable(String);

impl fmt::Display for Unobtainable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unobtainable {}

impl Unobtainable {
    /// For the same reason.
    fn because(error: &Error) -> Error {
        Self(format!("{error:#}")).into()
    }
}

/// What apt and dpkg say if they fail by the machine, and not by what they fetch.
const BY_THE_MACHINE: [&str; 4] =
    ["No space left on device", "enough free space", "Read-only file system", "dpkg returned an error code"];

/// What apt says of lists that Debian did not sign: no reason to go on without them. A sum that does not fit is a mirror
/// in the middle of its update.
const BY_THE_SIGNATURE: [&str; 3] =
    ["signatures were invalid", "signatures couldn't be verified", "is not signed"];

/// What cargo says if it fails by what it fetches.
const BY_THE_NETWORK: [&str; 4] =
    ["failed to download", "download of ", "spurious network error", "Could not resolve host"];

/// Whether fetching packages failed, and not because they cannot be had: by this machine, or by what came instead.
pub(crate) fn is_a_failure(error: &Error) -> bool {
    says(error, &BY_THE_MACHINE) || says(error, &BY_THE_SIGNATURE)
}

fn says(error: &Error, words: &[&str]) -> bool {
    let said = format!("{error:#}");
    words.iter().any(|words| said.contains(words))
}

/// Makes sure that everything is there that this machine's own umemd needs.
pub(crate) fn run(options: Install) -> Result<()> {
    until_complete(options, Extent::Native)
}

/// Makes sure that everything is there that the tests and benchmarks need, too.
pub(crate) fn tests(options: Install) -> Result<()> {
    until_complete(options, Extent::Tests)
}

/// The same, and what only `cargo xtask test full` needs.
pub(crate) fn full_tests(options: Install) -> Result<()> {
    until_complete(options, Extent::FullTests)
}

/// Makes sure that everything is there that fuzzing needs.
pub(crate) fn fuzz(options: Install) -> Result<()> {
    until_complete(options, Extent::Fuzz)
}

/// Makes sure that everything is there to build for aarch64 too.
pub(crate) fn cross(options: Install) -> Result<()> {
    let extent = if consts::ARCH == cross::ARCH { Extent::Native } else { Extent::Aarch64 };
    until_complete(options, extent)
}

fn until_complete(options: Install, extent: Extent) -> Result<()> {
    let mut agreed = options.yes || !io::stdin().is_terminal();
    let mut updated = false;
    for round in 0..ROUNDS {
        let lacks = needs::look(extent);
        if lacks.is_empty() {
            return Ok(());
        }
        let mut offers = Offers::ask(&lacks);
        let mut plan = Plan::new(&lacks, &offers);
        if round == 0 {
            eprint!("{plan}");
            if options.no_install {
                let text = "something is missing; `cargo xtask setup` gets it";
                return Err(Unobtainable(text.to_owned()).into());
            }
        }
        // A fresh machine has no lists yet: what apt does not know may only be unlisted.
        let unlisted = !offers.unknown.is_empty() || (offers.rust.is_none() && plan::asks_for_rust(&lacks));
        let update = offers.apt && unlisted && !updated;
        if !agreed && (update || plan.by_hand.is_empty()) {
            agreed = ask("Install this now?")?;
        }
        if update {
            if extent == Extent::Aarch64 {
                apt::add_arm64()?;
            }
            fetched(apt::update())?;
            updated = true;
            offers = Offers::ask(&lacks);
            plan = Plan::new(&lacks, &offers);
        }
        if !plan.by_hand.is_empty() {
            let missing = plan.by_hand.join(", ");
            let text = format!("neither apt nor rustup has this; install it by hand: {missing}");
            return Err(Unobtainable(text).into());
        }
        for step in &plan.steps {
            take(step)?;
        }
    }
    let lacks = needs::look(extent);
    if !lacks.is_empty() {
        bail!("installed what was missing, and still not found. {}", Plan::new(&lacks, &Offers::ask(&lacks)));
    }
    Ok(())
}

fn ask(question: &str) -> Result<bool> {
    eprint!("{question} [Y/n] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).context("no answer on stdin")?;
    match answer.trim() {
        "" | "y" | "Y" | "yes" => Ok(true),
        _ => bail!("nothing was installed; `cargo xtask setup` asks again"),
    }
}

fn take(step: &Step) -> Result<()> {
    match step {
        Step::Apt(packages) => fetched(apt::install(packages)),
        Step::Rustup(args) => fetched(shell::step(&format!("rustup {}", args.join(" ")), || {
            shell::run_quietly(Command::new("rustup").args(*args)).map(drop)
        })),
        // It compiles what it fetches.
        Step::Linker(llvm) => install_linker(*llvm).map_err(|error| match says(&error, &BY_THE_NETWORK) {
            true => Unobtainable::because(&error),
            false => error,
        }),
    }
}

/// What became of fetching: [`Unobtainable`] if it failed as what cannot be had does.
fn fetched(result: Result<()>) -> Result<()> {
    result.map_err(|error| match is_a_failure(&error) {
        true => error,
        false => Unobtainable::because(&error),
    })
}

/// bpf-linker from source, linked to Debian's LLVM of that version, in a folder of its own.
fn install_linker(llvm: u32) -> Result<()> {
    let root = toolchain::linker_root(llvm);
    let version = toolchain::LINKER_VERSION;
    let what = format!("cargo install bpf-linker {version} for LLVM {llvm} (about 80 s on two cores)");
    shell::step(&what, || {
        let mut cargo = shell::cargo();
        cargo.args(["install", "bpf-linker", "--locked", "--version", version]);
        cargo.args(["--no-default-features", "--features", &format!("llvm-{llvm}")]);
        cargo.arg("--root").arg(root);
        // Out of the checkout, and its configuration out of this build.
        cargo.current_dir("/").env("LLVM_PREFIX", plan::llvm_prefix(llvm)).env_remove("RUSTFLAGS");
        shell::run_quietly(&mut cargo).map(drop)
    })
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn what_fails_by_the_machine_is_told_from_what_cannot_be_fetched() {
        let unobtainable = |said: &'static str| fetched(Err(anyhow!(said))).unwrap_err().is::<Unobtainable>();
        assert!(unobtainable("E: Unable to locate package qemu-system-riscv"));
        assert!(unobtainable("E: Failed to fetch http://deb.debian.org/x.deb  Could not connect"));
        assert!(!unobtainable("E: Write error - write (28: No space left on device)"));
        assert!(!unobtainable("E: You don't have enough free space in /var/cache/apt/archives/."));
        assert!(!unobtainable("E: Sub-process /usr/bin/dpkg returned an error code (1)"));
        assert!(!unobtainable(
            "E: The repository 'http://deb.debian.org/debian trixie Release' is not signed."
        ));
        let cargo = |said: &'static str| says(&anyhow!(said), &BY_THE_NETWORK);
        assert!(cargo("error: failed to download from `https://static.crates.io/crates/aya/download`"));
        assert!(!cargo("error: linking with `cc` failed: exit status: 1"));
    }
}
