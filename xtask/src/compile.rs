//! Builds umemd; `agent/build.rs` builds the XDP program and embeds it.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::shell;

/// Builds what users run, and says where it is.
pub(crate) fn release() -> Result<PathBuf> {
    umemd(&["--release"])
}

/// Builds what the tests run: with assertions and overflow checks, and sharing what `cargo test` compiled.
pub(crate) fn debug() -> Result<PathBuf> {
    umemd(&[])
}

fn umemd(flags: &[&str]) -> Result<PathBuf> {
    let built =
        executables(shell::cargo().args(["build", "--package", "umemd", "--bin", "umemd"]).args(flags));
    let mut built = built.context("umemd was not built")?;
    built.pop().context("cargo built umemd but does not say where")
}

/// Runs cargo, and lists the programs that it made, fresh or not, wherever its target folder is.
pub(crate) fn executables(cargo: &mut Command) -> Result<Vec<PathBuf>> {
    cargo.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    let output = cargo.output().context("cannot start cargo")?;
    ensure!(output.status.success(), "cargo failed ({})", output.status);
    let messages = String::from_utf8(output.stdout).context("cargo's messages are not UTF-8")?;
    Ok(messages.lines().filter_map(executable).collect())
}

/// The program that one of cargo's messages reports.
fn executable(message: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    let program = message["executable"].as_str()?;
    (message["reason"] == "compiler-artifact").then(|| program.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_among_cargos_messages() {
        let artifact =
            |executable: &str| format!(r#"{{"reason":"compiler-artifact","executable":{executable}}}"#);
        assert_eq!(executable(&artifact(r#""/t/deps/wire-1a2b""#)), Some("/t/deps/wire-1a2b".into()));
        assert_eq!(executable(&artifact("null")), None);
        assert_eq!(executable(r#"{"reason":"build-finished","success":true}"#), None);
        assert_eq!(executable("not cargo's"), None);
    }
}
