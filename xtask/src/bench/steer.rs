//! What a packet costs in the XDP program: an example of umemd's, which has the program.

use std::process::Command;

use anyhow::Result;

use crate::cli::BenchSteer;
use crate::{compile, shell};

/// Builds it, and runs it as root.
pub(super) fn run(options: &BenchSteer) -> Result<()> {
    let example = compile::release_example("bench_steer")?;
    let mut command = if shell::is_root() {
        Command::new(example)
    } else {
        let mut command = shell::runner(&options.runner)?;
        command.arg(example);
        command
    };
    if options.json {
        command.arg("--json");
    }
    shell::run(&mut command)
}
