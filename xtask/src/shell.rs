//! Running other programs, and saying how long they took.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

/// The root of the checkout: that of the cargo that runs us, else that in which this xtask was built.
pub(crate) fn workspace() -> PathBuf {
    // A target folder may be shared or copied between checkouts, so what was compiled in may be another's.
    let manifest = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let manifest = PathBuf::from(manifest);
    manifest.parent().map(Path::to_owned).unwrap_or(manifest)
}

/// Where cargo builds: its own answer would take a second, and this is what it says.
pub(crate) fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), |dir| workspace().join(dir))
}

/// The cargo that runs us, in the root of the workspace.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.current_dir(workspace());
    command
}

/// Whether we may do anything.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Finds a program in PATH, and in the folders of root's programs that a user's PATH may lack.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|dir| dir.join(program)).find(|file| is_executable(file))
}

/// Whether this is a program.
pub(crate) fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The words of a `--runner`.
///
/// # Errors
///
/// When there is none.
pub(crate) fn runner(words: &str) -> Result<Command> {
    let mut words = words.split_whitespace();
    let program = words.next().context("--runner is empty; try --runner \"sudo -E\"")?;
    let mut command = Command::new(program);
    command.args(words);
    Ok(command)
}

/// Runs a program, and fails if it does.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start `{}`", line(command)))?;
    ensure!(status.success(), "`{}` failed ({status})", line(command));
    Ok(())
}

/// Runs a program that is worth hearing only if it fails: then its last lines are in the error.
pub(crate) fn run_quietly(command: &mut Command) -> Result<String> {
    const TAIL: usize = 25;
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{}`", line(command)))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let said = format!("{stdout}{}", String::from_utf8_lossy(&output.stderr));
        let lines: Vec<&str> = said.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n  ");
        bail!("`{}` failed ({}):\n  {tail}", line(command), output.status);
    }
    Ok(stdout)
}

/// Says what is being done, does it, and says how long that took.
pub(crate) fn step<T>(what: &str, action: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("xtask: {what}");
    let start = Instant::now();
    let result = action();
    let verdict = if result.is_ok() { "done" } else { "failed" };
    eprintln!("xtask: {what}: {verdict} in {:.1} s", start.elapsed().as_secs_f64());
    result
}

/// A command as one would type it.
fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_the_last_lines() {
        let mut command = Command::new("sh");
        command.args(["-c", "seq 100; echo broken >&2; exit 3"]);
        let error = run_quietly(&mut command).unwrap_err().to_string();
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(error.contains("100\n  broken"), "{error}");
        assert!(!error.contains("\n  42\n"), "{error}");
    }

    #[test]
    fn a_runner_is_words() {
        let command = runner("sudo -E").unwrap();
        assert_eq!(line(&command), "sudo -E");
        assert!(runner("  ").is_err());
    }
}
