//! The end-to-end tests on this guest's kernel: those of its programs that need nothing but `ip` and `ethtool`.

use std::process::{Command, Stdio};

use e2e::command::ip;

use super::verdict::Verdicts;

/// Programs, and the tests of them to run: by parts of their names, or all.
const PROGRAMS: [(&str, &[&str]); 7] = [
    ("program", &[]),
    ("attach", &[]),
    ("datapath", &[]),
    ("lifecycle", &["sigterm", "sigkill", "fails_open", "second_agent", "someone_else"]),
    ("modes", &["9000", "shown"]),
    ("handlers", &["cross_in_both", "were_asked_for"]),
    ("pagepool", &[]),
];

pub(super) fn check(verdicts: &mut Verdicts) {
    // The tests ask for umemd's pages here, and not in a namespace of theirs.
    ip(&["link", "set", "lo", "up"]);
    for (program, filters) in PROGRAMS {
        run(verdicts, program, filters);
    }
}

/// Runs a test program: what it says of each test is a verdict.
fn run(verdicts: &mut Verdicts, program: &str, filters: &[&str]) {
    let mut command = Command::new(format!("/tests/{program}"));
    command.args(["--ignored", "--test-threads=1"]).args(filters).stdin(Stdio::null());
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => return verdicts.fail(program, &format!("cannot start it: {error}")),
    };
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let results: Vec<(&str, &str)> =
        stdout.lines().filter_map(|line| line.strip_prefix("test ")?.split_once(" ... ")).collect();
    for (name, result) in &results {
        // A test that cannot run here says so, and passes.
        let skipped = stderr.lines().find_map(|line| line.strip_prefix(&format!("skipped: {name}: ")));
        match (*result, skipped) {
            ("ok", Some(why)) => verdicts.skip(&format!("{program}: {name}"), why),
            ("ok", None) => verdicts.pass(&format!("{program}: {name}")),
            (bad, _) => verdicts.fail(&format!("{program}: {name}"), bad),
        }
    }
    if !output.status.success() || results.is_empty() {
        println!("{stdout}\n{stderr}");
        verdicts.fail(program, &format!("{} tests ran, and it ended with {}", results.len(), output.status));
    }
}
