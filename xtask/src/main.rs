//! `cargo xtask`: sets up what a build needs, builds, runs and tests umemd.
//!
//! It knows no other crate of ours: the agent is a program that it starts. All that it says itself goes to
//! stderr; stdout belongs to what it runs.

mod args;
mod bench;
mod board;
mod cli;
mod compile;
mod conformance;
mod cross;
mod fuzz;
mod lab;
mod lint;
mod remote;
mod run;
mod setup;
mod shell;
mod test;
#[expect(dead_code, reason = "agent/build.rs includes this file too, and uses the rest")]
#[path = "../../xdp-prog/toolchain.rs"]
mod toolchain;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Build, Cli, Command, Target};

fn main() -> ExitCode {
    let (ours, theirs) = args::split(std::env::args_os().collect());
    let result = match Cli::parse_from(ours).command {
        Command::Setup(install) => setup::run(install).map(|()| {
            eprintln!("xtask: all that the build needs is there");
            ExitCode::SUCCESS
        }),
        Command::Build(options) => build(&options).map(|()| ExitCode::SUCCESS),
        Command::Run(options) => run::run(&options, theirs),
        Command::Test(options) => test::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Fuzz(options) => fuzz::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Board(options) => board::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Lint(install) => lint::run(install).map(|()| ExitCode::SUCCESS),
        Command::Conformance(options) => conformance::run(&options),
        Command::Bench(options) => bench::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Lab(options) => lab::run(&options),
        Command::LabSend(options) => lab::sender::send(&options).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        // Where stderr is full or closed there is nobody to tell.
        let _ = writeln!(io::stderr(), "xtask: {error:#}");
        ExitCode::FAILURE
    })
}

/// Builds umemd, and says where it is if that is not where everyone looks.
fn build(options: &Build) -> anyhow::Result<()> {
    match options.target {
        None => setup::run(options.install).and_then(|()| compile::release()).map(drop),
        Some(Target::Aarch64) => {
            let umemd = cross::umemd(options.install)?;
            eprintln!("xtask: for {}: {}", cross::ARCH, umemd.display());
            Ok(())
        }
    }
}
