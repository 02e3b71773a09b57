//! `cargo xtask conformance`: starts frame-pool's replayer of golden traces.

use std::path::absolute;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::cli::Conformance;
use crate::{setup, shell};

/// Sets up, and replays the traces asked for; the exit code is the replayer's.
pub(crate) fn run(options: &Conformance) -> Result<ExitCode> {
    setup::run(options.install)?;
    let mut replayer = shell::cargo();
    // As the tests build it.
    replayer.args(["run", "--quiet", "--package", "frame-pool", "--example", "replay", "--"]);
    for trace in &options.traces {
        // Cargo runs in the root of the workspace.
        replayer.arg(absolute(trace).with_context(|| format!("{} is no path", trace.display()))?);
    }
    let status = replayer.status().context("cannot start cargo")?;
    Ok(u8::try_from(status.code().unwrap_or(1)).map_or(ExitCode::FAILURE, ExitCode::from))
}
