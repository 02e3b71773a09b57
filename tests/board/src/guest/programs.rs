//! The end-to-end tests on this guest's kernel: those of its programs that need nothing but `ip` and `ethtool`.

use std::process::{Command, Stdio};

use e2e::command::ip;

use super::verdict::Verdicts;

/// Programs, and the tests of them to run: by parts of their names, or all.
const PROGRAMS: [(&str, &[&str]); 9] = [
    ("program", &[]),
    ("attach", &[]),
    ("datapath", &[]),
    ("lifecycle", &["sigterm", "sigkill", "fails_open", "second_agent", "someone_else"]),
    ("modes", &["9000", "shown"]),
    ("handlers", &["cross_in_both", "were_asked_for"]),
    ("pagepool", &[]),
    // What it asks of a kernel, each kernel knows more or less of.
    ("doctor", &[]),
    // Few that load a program, which takes long here; and the bridge's, for which kernels have modules.
    ("refusals", &["bad_usage", "bad_rule", "do_not_exist", "cannot_do", "without_force", "behind_a_bridge"]),
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
    let tests = read(&stdout, &stderr);
    for Test { name, result } in &tests {
        let name = format!("{program}: {name}");
        match result {
            Result::Passed => verdicts.pass(&name),
            Result::Skipped(why) => verdicts.skip(&name, why),
            Result::Failed(how) => verdicts.fail(&name, how),
        }
    }
    let mut wrong = complaints(&tests, filters);
    if !output.status.success() {
        wrong.push(format!("it ended with {}", output.status));
    }
    if !wrong.is_empty() {
        println!("{stdout}\n{stderr}");
        verdicts.fail(program, &wrong.join("; "));
    }
}

/// A test, and what became of it.
struct Test<'a> {
    name: &'a str,
    result: Result<'a>,
}

enum Result<'a> {
    Passed,
    /// It cannot run here, and says why.
    Skipped(&'a str),
    Failed(&'a str),
}

/// The tests that a test program tells of.
fn read<'a>(stdout: &'a str, stderr: &'a str) -> Vec<Test<'a>> {
    let results = stdout.lines().filter_map(|line| line.strip_prefix("test ")?.split_once(" ... "));
    let test = |(name, result): (&'a str, &'a str)| {
        let skipped = stderr.lines().find_map(|line| line.strip_prefix(&format!("skipped: {name}: ")));
        let result = match (result, skipped) {
            ("ok", Some(why)) => Result::Skipped(why),
            ("ok", None) => Result::Passed,
            (how, _) => Result::Failed(how),
        };
        Test { name, result }
    };
    results.map(test).collect()
}

/// What is wrong with a run as a whole: that it shows nothing, or that a filter chooses nothing any more.
fn complaints(tests: &[Test<'_>], filters: &[&str]) -> Vec<String> {
    let mut wrong = Vec::new();
    if !tests.iter().any(|test| matches!(test.result, Result::Passed)) {
        wrong.push("no test passed".to_owned());
    }
    let idle = filters.iter().filter(|filter| !tests.iter().any(|test| test.name.contains(**filter)));
    wrong.extend(idle.map(|filter| format!("no test is called {filter}")));
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    const STDOUT: &str =
        "running 3 tests\ntest a_lives ... ok\ntest b_waits ... ok\ntest c_dies ... FAILED\n";
    const STDERR: &str = "skipped: b_waits: no kernel\n";

    #[test]
    fn results_are_read_with_the_reason_of_what_was_skipped() {
        let tests = read(STDOUT, STDERR);
        assert!(matches!(
            tests[..],
            [
                Test { name: "a_lives", result: Result::Passed },
                Test { name: "b_waits", result: Result::Skipped("no kernel") },
                Test { name: "c_dies", result: Result::Failed("FAILED") },
            ]
        ));
    }

    #[test]
    fn a_run_that_shows_nothing_is_no_success() {
        assert_eq!(complaints(&read(STDOUT, STDERR), &["lives", "dies"]), [""; 0]);
        assert_eq!(complaints(&read(STDOUT, STDERR), &["lives", "gone"]), ["no test is called gone"]);
        let skipped = "test b_waits ... ok\n";
        assert_eq!(complaints(&read(skipped, STDERR), &[]), ["no test passed"]);
        assert_eq!(complaints(&[], &[]), ["no test passed"]);
    }
}
