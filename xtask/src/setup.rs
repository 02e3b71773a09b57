//! `cargo xtask setup`: looks for what is needed, and gets what is not there.
//!
//! What one step installs decides what the next one needs: bpf-linker must share the LLVM of a rustc that
//! may have to be installed first. So it plans, acts and looks again, until nothing is missing.

mod apt;
mod needs;
mod plan;

use std::env::consts;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::cli::Install;
use crate::setup::needs::Extent;
use crate::setup::plan::{Offers, Plan, Step};
use crate::{cross, shell, toolchain};

/// Each round installs something; the third one has to find everything.
const ROUNDS: usize = 3;

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
                bail!("something is missing; `cargo xtask setup` gets it");
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
            apt::update()?;
            updated = true;
            offers = Offers::ask(&lacks);
            plan = Plan::new(&lacks, &offers);
        }
        if !plan.by_hand.is_empty() {
            bail!("neither apt nor rustup has this; install it by hand: {}", plan.by_hand.join(", "));
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
        Step::Apt(packages) => apt::install(packages),
        Step::Rustup(args) => shell::step(&format!("rustup {}", args.join(" ")), || {
            shell::run_quietly(Command::new("rustup").args(*args)).map(drop)
        }),
        Step::Linker(llvm) => install_linker(*llvm),
    }
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
