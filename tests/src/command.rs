//! Running the programs that build a lab.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

/// Runs `ip` with these arguments and returns what it prints.
///
/// # Panics
///
/// If it fails, with what it said.
#[track_caller]
pub fn ip(args: &[&str]) -> String {
    run(Command::new("ip").args(args), "").unwrap_or_else(|error| panic!("{error}"))
}

/// Runs `bridge`, ip's companion for what is in bridges, with these arguments.
///
/// # Panics
///
/// If it fails, with what it said.
#[track_caller]
pub fn bridge(args: &[&str]) {
    run(Command::new("bridge").args(args), "").unwrap_or_else(|error| panic!("{error}"));
}

/// Runs these lines as `ip` commands in namespace `netns`, by one process.
///
/// # Panics
///
/// If one fails, with what `ip` said.
#[track_caller]
pub fn ip_batch(netns: &str, lines: &[String]) {
    let mut command = Command::new("ip");
    command.args(["-netns", netns, "-batch", "-"]);
    run(&mut command, &lines.join("\n")).unwrap_or_else(|error| panic!("{error}\n{}", lines.join("\n")));
}

/// Runs a program to its end with `input` on stdin.
///
/// # Errors
///
/// If it cannot be started or fails: the command, and what it wrote to stderr.
pub fn run(command: &mut Command, input: &str) -> Result<String, String> {
    let line = format!("{command:?}");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("cannot start {line}: {error}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends before it has read everything says why on stderr.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| format!("cannot wait for {line}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("{line} failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
    }
}
