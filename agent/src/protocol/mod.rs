#![doc = include_str!("PROTOCOL.md")]

mod rules;

use std::fmt;

pub use rules::{ListedRule, OtherAction, RuleAction, RuleListing, RuleText, compile, insert, queue_list};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The version of the protocol that is spoken here.
pub const VERSION: u32 = 1;
/// Bytes of a request, its newline included: 10,000 rules, and not much more.
pub const LONGEST_REQUEST: usize = 4 << 20;
/// Where an agent is asked, unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/umemd/umemd.sock";

/// What an agent can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// How it is: the object of `/status`.
    Status,
    /// The rules in force, and what they have matched: a [`RuleListing`].
    RuleList,
    /// Adds rules; answered with [`Changed`], as is every change.
    RuleAdd {
        /// The rules, in their order.
        rules: Vec<RuleText>,
        /// The place of the first of them, counted from 1; without it they come last.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<usize>,
        /// Even if that cuts somebody off.
        #[serde(default)]
        force: bool,
    },
    /// Removes rules: all that are named, or none.
    RuleDel {
        /// Their names.
        names: Vec<String>,
        /// Even if that cuts somebody off, whom a rule that passes kept connected.
        #[serde(default)]
        force: bool,
    },
    /// Puts these rules in the place of all others.
    RuleReplace {
        /// The rules, in their order.
        rules: Vec<RuleText>,
        /// What becomes of all other frames; without it, the same as before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        default: Option<OtherAction>,
        /// Even if that cuts somebody off.
        #[serde(default)]
        force: bool,
    },
    /// Changes what becomes of frames without a rule.
    RuleDefault {
        /// What becomes of them.
        action: OtherAction,
        /// Even if that cuts somebody off.
        #[serde(default)]
        force: bool,
    },
    /// Reads the file of `--config` again.
    Reload {
        /// Even if its rules cut somebody off.
        #[serde(default)]
        force: bool,
    },
}

/// What is in force after a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// How many rules.
    pub rules: usize,
    /// What becomes of frames without one.
    pub default: OtherAction,
    /// The names of the rules that came by this change, in their order.
    pub added: Vec<String>,
    /// What will not be as hoped, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// A request with the version of its language, as one line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    version: u32,
    request: Request,
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Whose fault it is.
    pub kind: RefusalKind,
    /// What, on what, why, and what to do; of several lines, perhaps.
    pub message: String,
}

/// Whose fault it is that a request was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// The request is none, or what it asks for cannot be meant.
    Usage,
    /// It is good, and cannot be done now.
    Refused,
}

/// An answer; either the one or the other is there.
#[derive(Serialize, Deserialize)]
struct Answer<T> {
    version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    ok: Option<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Refusal>,
}

impl Refusal {
    /// The request is wrong.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self { kind: RefusalKind::Usage, message: message.to_string() }
    }

    /// The request is good, and cannot be done.
    pub fn refused(message: impl fmt::Display) -> Self {
        Self { kind: RefusalKind::Refused, message: message.to_string() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}

impl Request {
    /// As a line, with its newline.
    pub fn line(&self) -> String {
        line(&Envelope { version: VERSION, request: self.clone() })
    }

    /// Reads a line.
    ///
    /// # Errors
    ///
    /// What is wrong with it, for who sent it.
    pub fn parse(line: &[u8]) -> Result<Self, Refusal> {
        /// So that a newer client is told about versions, and not about fields.
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }

        let wrong = |error| Refusal::usage(format_args!("not a request: {error}"));
        let Versioned { version } = serde_json::from_slice(line).map_err(wrong)?;
        if version != VERSION {
            return Err(Refusal::usage(format_args!(
                "this umemd ({}) speaks version {VERSION} of the protocol, not {version}; ask with the \
                 same umemd as the one that runs",
                env!("CARGO_PKG_VERSION")
            )));
        }
        serde_json::from_slice(line).map(|Envelope { request, .. }| request).map_err(wrong)
    }
}

/// An answer as a line, with its newline.
pub fn answer<T: Serialize>(result: Result<T, Refusal>) -> String {
    let (ok, error) = match result {
        Ok(ok) => (Some(ok), None),
        Err(error) => (None, Some(error)),
    };
    line(&Answer { version: VERSION, ok, error })
}

/// Reads an answer.
///
/// # Errors
///
/// What is strange about it; a refusal is none.
pub fn parse_answer<T: DeserializeOwned>(line: &[u8]) -> Result<Result<T, Refusal>, String> {
    let Answer { ok, error, .. } = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    match (ok, error) {
        (Some(ok), None) => Ok(Ok(ok)),
        (None, Some(error)) => Ok(Err(error)),
        _ => Err("it is neither an answer nor an error".to_owned()),
    }
}

fn line(value: &impl Serialize) -> String {
    // Strings, numbers and maps with string keys: this cannot fail, and an empty line would say that it did.
    let mut line = serde_json::to_string(value).unwrap_or_default();
    line.push('\n');
    line
}

#[cfg(test)]
pub(crate) mod documented {
    use std::collections::BTreeSet;

    use serde_json::Value;

    /// Names in objects; those of counts are told elsewhere.
    pub(crate) fn fields(value: &Value, into: &mut BTreeSet<String>) {
        const COUNTS: [&str; 4] = ["decisions", "frames", "counters", "traffic"];
        match value {
            Value::Object(object) => {
                for (name, value) in object {
                    into.insert(name.clone());
                    if !COUNTS.contains(&name.as_str()) {
                        fields(value, into);
                    }
                }
            }
            Value::Array(all) => all.iter().for_each(|value| fields(value, into)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_example_of_the_page_is_what_it_says() {
        let page = include_str!("PROTOCOL.md");
        let (mut requests, mut answers) = (0, 0);
        for line in page.lines().filter(|line| line.starts_with('{')) {
            if line.contains("\"request\"") {
                Request::parse(line.as_bytes()).unwrap_or_else(|error| panic!("{line}: {error}"));
                requests += 1;
            } else {
                parse_answer::<serde_json::Value>(line.as_bytes())
                    .unwrap_or_else(|error| panic!("{line}: {error}"))
                    .ok();
                answers += 1;
            }
        }
        assert!(requests >= 1 && answers >= 2, "{requests} requests and {answers} answers");
    }

    #[test]
    fn what_is_no_request_is_said_to_its_sender() {
        for (line, said) in [
            ("", "EOF"),
            ("status", "expected value"),
            ("{}", "missing field `version`"),
            (r#"{"version":2,"anything":1}"#, "speaks version 1 of the protocol, not 2"),
            (r#"{"version":1}"#, "missing field `request`"),
            (r#"{"version":1,"request":"stauts"}"#, "unknown variant `stauts`, expected"),
            (r#"{"version":1,"request":"status","more":1}"#, "unknown field `more`"),
            (r#"{"version":1,"request":"status"}{}"#, "trailing characters"),
        ] {
            let refusal = Request::parse(line.as_bytes()).unwrap_err();
            assert_eq!(refusal.kind, RefusalKind::Usage, "{line}");
            assert!(refusal.message.contains(said), "{line}: {refusal}");
        }
    }

    #[test]
    fn an_answer_comes_as_it_was_given() {
        let line = answer(Ok(7));
        assert_eq!(line, "{\"version\":1,\"ok\":7}\n");
        assert_eq!(parse_answer(line.as_bytes()), Ok(Ok(7)));
        let refusal = Refusal::refused("no\nroom");
        let line = answer::<u32>(Err(refusal.clone()));
        assert_eq!(line.matches('\n').count(), 1, "one line: {line}");
        assert_eq!(parse_answer::<u32>(line.as_bytes()), Ok(Err(refusal)));
        for strange in ["", "{}", r#"{"version":1}"#, "SSH-2.0", r#"{"version":1,"ok":"seven"}"#] {
            assert!(parse_answer::<u32>(strange.as_bytes()).is_err(), "{strange}");
        }
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(bytes: Vec<u8>, text: String) {
            let _ = Request::parse(&bytes);
            let _ = Request::parse(format!("{{\"version\":1,\"request\":{text}}}").as_bytes());
            let _ = parse_answer::<u32>(&bytes);
        }
    }
}
