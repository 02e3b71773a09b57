//! Builds umemd; `agent/build.rs` builds the XDP program and embeds it.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::shell;

/// What users run.
pub(crate) const UMEMD: &str = "umemd";

/// A program that cargo made, fresh or not, wherever its target folder is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Program {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// The name of its target: of a test or of a binary.
    pub(crate) name: String,
    /// Whether it is a test harness.
    pub(crate) test: bool,
}

/// Builds what users run, and says where it is.
pub(crate) fn release() -> Result<PathBuf> {
    umemd(&programs(shell::cargo().args(["build", "--release", "--package", UMEMD, "--bin", UMEMD]))?)
}

/// Builds one of umemd's examples, and says where it is.
pub(crate) fn release_example(name: &str) -> Result<PathBuf> {
    let built = programs(shell::cargo().args(["build", "--release", "--package", UMEMD, "--example", name]))?;
    let example = built.into_iter().find(|program| program.name == name);
    Ok(example.with_context(|| format!("cargo built {name} but does not say where"))?.path)
}

/// Finds umemd among what was built.
pub(crate) fn umemd(programs: &[Program]) -> Result<PathBuf> {
    find(programs, UMEMD)
}

/// Finds a program among what was built.
pub(crate) fn find(programs: &[Program], name: &str) -> Result<PathBuf> {
    let found = programs.iter().find(|program| program.name == name && !program.test);
    Ok(found.with_context(|| format!("cargo built {name} but does not say where"))?.path.clone())
}

/// Runs cargo, and lists the programs that it made.
pub(crate) fn programs(cargo: &mut Command) -> Result<Vec<Program>> {
    cargo.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    let output = cargo.output().context("cannot start cargo")?;
    ensure!(output.status.success(), "cargo failed ({})", output.status);
    let messages = String::from_utf8(output.stdout).context("cargo's messages are not UTF-8")?;
    Ok(messages.lines().filter_map(program).collect())
}

/// The program that one of cargo's messages reports.
fn program(message: &str) -> Option<Program> {
    let message: Value = serde_json::from_str(message).ok()?;
    if message["reason"] != "compiler-artifact" {
        return None;
    }
    Some(Program {
        path: message["executable"].as_str()?.into(),
        name: message["target"]["name"].as_str()?.into(),
        test: message["profile"]["test"].as_bool()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_among_cargos_messages() {
        let artifact = |executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"name":"wire"}},"profile":{{"test":true}},"executable":{executable}}}"#
            )
        };
        let wire = Program { path: "/t/deps/wire-1a2b".into(), name: "wire".into(), test: true };
        assert_eq!(program(&artifact(r#""/t/deps/wire-1a2b""#)), Some(wire));
        assert_eq!(program(&artifact("null")), None);
        assert_eq!(program(r#"{"reason":"build-finished","success":true}"#), None);
        assert_eq!(program("not cargo's"), None);
    }
}
