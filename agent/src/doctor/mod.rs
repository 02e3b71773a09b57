//! `umemd doctor`: what works on this machine and interface and what does not, why, and what mends it.
//!
//! It only asks. It attaches nothing, not even to try: on mvneta and mvpp2 that takes the link down. What it
//! cannot find out it says it does not know.

mod interface;
mod machine;

use std::fmt;

use serde::Serialize;
use serde_json::json;

use crate::nic;

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    /// As it should be.
    Ok,
    /// It works, but not as one may hope.
    Warning,
    /// It does not work.
    No,
    /// The kernel or our rights do not let us know.
    Unknown,
    /// Neither good nor bad.
    Note,
}

/// One thing that was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    /// `machine`, or the name of an interface.
    about: String,
    /// What was asked, in a word or two that do not change.
    asked: &'static str,
    /// Which one it is of the quirks that the table of drivers knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    quirk: Option<String>,
    answer: Answer,
    /// The answer in full.
    text: String,
    /// What to type, if something mends it: commands, in their order, so that each can have its own `sudo`. What is in
    /// capitals, or `...`, is to be filled in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mend: Vec<String>,
}

impl Finding {
    fn new(about: &str, asked: &'static str, answer: Answer, text: impl Into<String>) -> Self {
        Self { about: about.into(), asked, quirk: None, answer, text: text.into(), mend: Vec::new() }
    }

    fn mended_by(mut self, command: impl Into<String>) -> Self {
        self.mend.push(command.into());
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.answer {
            Answer::Ok => "ok",
            Answer::Warning => "warning",
            Answer::No => "NO",
            Answer::Unknown => "unknown",
            Answer::Note => "note",
        };
        let mut lines = wrapped(&self.text).into_iter();
        write!(f, "  {mark:<8} {:<14} {}", self.asked, lines.next().unwrap_or_default())?;
        lines.try_for_each(|line| write!(f, "\n{:COLUMN$}{line}", ""))?;
        // Each on one line, however long: it is there to be copied.
        self.mend.iter().try_for_each(|command| write!(f, "\n{:COLUMN$}-> {command}", ""))
    }
}

/// The version of what [`Report::json`] gives. Up to 1 `mend` was a string.
const SCHEMA: u32 = 2;

/// Where answers begin, on lines of 80 columns.
const COLUMN: usize = 26;
const WIDTH: usize = 80 - COLUMN;

/// A text in lines that fit, broken between words.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Everything that was found out.
#[derive(Clone, Debug)]
pub struct Report {
    findings: Vec<Finding>,
    /// Whether it is about interfaces that somebody asked for.
    asked: bool,
}

/// Examines the machine, and these interfaces or all.
///
/// # Errors
///
/// If the kernel does not list its interfaces, or there is none of that name.
pub fn examine(names: &[String]) -> anyhow::Result<Report> {
    let links = nic::links()?;
    let mut findings = machine::examine();
    if names.is_empty() {
        // The loopback interface has no driver to speak of.
        for link in links.iter().filter(|link| link.name != "lo") {
            findings.extend(interface::examine(link, &links));
        }
    }
    for name in names {
        findings.extend(interface::examine(nic::find(&links, name, None)?, &links));
    }
    Ok(Report { findings, asked: !names.is_empty() })
}

impl Report {
    /// Whether something does not work: of the machine, or of the interfaces asked for. That a machine has others
    /// that cannot be used, an `ifb0` or a port that is down, is no fault of it.
    pub fn is_bad(&self) -> bool {
        let counts = |finding: &Finding| self.asked || finding.about == machine::ABOUT;
        self.findings.iter().any(|finding| finding.answer == Answer::No && counts(finding))
    }

    /// For people: a line each, and below it what to type.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut about = "";
        for finding in &self.findings {
            if finding.about != about {
                about = &finding.about;
                text += &format!("{about}\n");
            }
            text += &format!("{finding}\n");
        }
        text
    }

    /// For scripts: one object.
    pub fn json(&self) -> String {
        format!("{}\n", json!({ "type": "doctor", "schema": SCHEMA, "findings": self.findings }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            findings: vec![
                Finding::new("machine", "AF_XDP", Answer::Ok, "this kernel has it"),
                Finding::new("eth0", "up", Answer::No, "eth0 is down").mended_by("ip link set eth0 up"),
            ],
            asked: true,
        }
    }

    #[test]
    fn lines_fit_a_terminal() {
        let text = "the kernel tells of AF_XDP sockets by xsk_diag, which is neither built in nor loaded";
        let lines = wrapped(text);
        assert!(lines.len() == 2 && lines.iter().all(|line| line.len() <= WIDTH), "{lines:?}");
        assert_eq!(lines.join(" "), text);
        assert_eq!(wrapped(""), [""]);
    }

    #[test]
    fn people_read_a_list_with_what_to_type() {
        let expected = "machine\n  ok       AF_XDP         this kernel has it\neth0\n  NO       up             eth0 is down\n\
                        \x20                         -> ip link set eth0 up\n";
        assert_eq!(report().text(), expected);
        assert!(report().is_bad());
    }

    #[test]
    fn what_takes_two_commands_is_two_lines_to_copy() {
        let finding = Finding::new("eth0", "quirk", Answer::Note, "one queue").mended_by("a").mended_by("b");
        let arrow = |command| format!("\n{:COLUMN$}-> {command}", "");
        assert!(finding.to_string().ends_with(&[arrow("a"), arrow("b")].concat()), "{finding}");
    }

    #[test]
    fn an_interface_that_nobody_asked_for_does_not_make_the_machine_bad() {
        let mut report = Report { asked: false, ..report() };
        assert!(!report.is_bad());
        report.findings.push(Finding::new("machine", "CAP_BPF", Answer::No, "may not load a program"));
        assert!(report.is_bad());
    }

    #[test]
    fn scripts_read_one_object() {
        let object: serde_json::Value = serde_json::from_str(&report().json()).unwrap();
        assert_eq!(object["findings"][0]["answer"], "ok");
        assert_eq!(object["findings"][1]["mend"], json!(["ip link set eth0 up"]));
        assert!(object["findings"][0].get("mend").is_none());
    }

    #[test]
    fn every_interface_of_this_machine_gets_an_answer() {
        let links = nic::links().unwrap();
        for link in &links {
            let findings = interface::examine(link, &links);
            assert!(findings.iter().any(|finding| finding.asked == "driver"), "{findings:?}");
        }
    }
}
