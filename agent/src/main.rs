//! The `umemd` binary: parse, run, say what went wrong.

use std::{io::Write as _, process::ExitCode};

use clap::Parser as _;
use umemd::{
    cli::{Cli, Command},
    config::{ConfigError, RunConfig},
    control::{self, Outcome},
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    env_logger::Builder::from_env(env_logger::Env::new().filter_or("UMEMD_LOG", "info"))
        .format(|out, record| {
            let level = record.level().as_str().to_ascii_lowercase();
            writeln!(out, "umemd: {level}: {}", record.args())
        })
        .init();

    let Command::Run(args) = cli.command;
    match RunConfig::try_from(args).map_err(anyhow::Error::from).and_then(control::run) {
        Ok(Outcome::Conserved) => ExitCode::SUCCESS,
        Ok(Outcome::Violated) => ExitCode::FAILURE,
        Err(error) => {
            // One line per cause: the outermost says what was being done, the last one why it failed.
            eprintln!("umemd: error: {error:#}");
            if error.is::<ConfigError>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}
