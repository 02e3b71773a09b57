//! `cargo xtask run`: the main job, in a lab, on the interfaces given, or on a board's.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::cli::{Lab, Run};
use crate::{compile, lab, remote, setup, shell};

/// Sets up, builds, and becomes umemd, or the lab around it. The exit code is umemd's.
pub(crate) fn run(options: &Run, umemd_args: Vec<OsString>) -> Result<ExitCode> {
    if let Some(board) = &options.board {
        return remote::run(options, board, &on_interfaces(options, umemd_args));
    }
    if !shell::is_root() {
        // Before minutes of building.
        let runner = shell::runner(&options.runner)?;
        let program = runner.get_program().display();
        ensure!(
            shell::which(&program.to_string()).is_some(),
            "this needs root, and there is no `{program}`; name another way with --runner, or be root already"
        );
    }
    setup::run(options.install)?;
    let umemd = compile::release()?;
    if options.iface.is_empty() {
        let lab = Lab { umemd, show: options.show.clone(), traffic: options.traffic.clone(), umemd_args };
        if shell::is_root() {
            return lab::run(&lab);
        }
        let xtask = std::env::current_exe().context("cannot find the running xtask")?;
        return become_root(options, "the lab", xtask.into(), lab::command_line(&lab));
    }
    let args = on_interfaces(options, umemd_args);
    if shell::is_root() {
        return Err(replace(Command::new(&umemd).args(args)));
    }
    become_root(options, "umemd", umemd.into(), args)
}

/// `umemd run`'s arguments outside of the lab.
fn on_interfaces(options: &Run, umemd_args: Vec<OsString>) -> Vec<OsString> {
    let mut args: Vec<OsString> = vec!["run".into()];
    for iface in &options.iface {
        args.extend(["--iface".into(), iface.into()]);
    }
    if let Some(duration) = options.show.duration {
        args.extend(["--duration".into(), format!("{}ms", duration.as_millis()).into()]);
    }
    args.extend(options.show.json.then(|| "--json".into()));
    args.extend(umemd_args);
    args
}

fn become_root(options: &Run, what: &str, program: OsString, args: Vec<OsString>) -> Result<ExitCode> {
    eprintln!("xtask: {what} needs root, and this is not: running it under `{}`", options.runner);
    let error = replace(shell::runner(&options.runner)?.arg(program).args(args));
    Err(error.context("cannot become root; name another way with --runner, or be root already"))
}

/// Turns this process into another, so that signals and exit code are its own.
fn replace(command: &mut Command) -> anyhow::Error {
    let error = command.exec();
    anyhow!(error).context(format!("cannot start {}", command.get_program().display()))
}
