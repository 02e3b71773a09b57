//! `cargo xtask`: sets up what a build needs, builds, runs and tests umemd.
//!
//! It knows no other crate of ours: the agent is a program that it starts. All that it says itself goes to
//! stderr; stdout belongs to what it runs.

mod args;
mod bench;
mod cli;
mod compile;
mod conformance;
mod lab;
mod lint;
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

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    let (ours, theirs) = args::split(std::env::args_os().collect());
    let result = match Cli::parse_from(ours).command {
        Command::Setup(install) => setup::run(install).map(|()| {
            eprintln!("xtask: all that the build needs is there");
            ExitCode::SUCCESS
        }),
        Command::Build(install) => {
            setup::run(install).and_then(|()| compile::release()).map(|_| ExitCode::SUCCESS)
        }
        Command::Run(options) => run::run(&options, theirs),
        Command::Test(options) => test::run(&options).map(|()| ExitCode::SUCCESS),
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
