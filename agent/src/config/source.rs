//! [`Source`]: the file that a configuration came from, to be read again, and to be pointed at when something in it is
//! refused later: by the guard, or because the machine is otherwise.

use std::collections::HashSet;
use std::error::Error;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use umemd_common::maps::MAX_RULES;

use super::{ConfigError, RunConfig};
use crate::ebpf::AttachError;
use crate::nic::NicError;
use crate::steer::guard::LockOutError;
use crate::steer::{SetError, TablesError};

/// Where a configuration came from.
#[derive(Clone)]
pub struct Source {
    path: PathBuf,
    /// As it was when it was read.
    text: Arc<str>,
    read: Arc<dyn Fn() -> Result<RunConfig, ConfigError> + Send + Sync>,
}

impl Source {
    /// The file at `path` with this text, which `read` reads again.
    pub fn new(
        path: PathBuf,
        text: &str,
        read: impl Fn() -> Result<RunConfig, ConfigError> + Send + Sync + 'static,
    ) -> Self {
        Self { path, text: text.into(), read: Arc::new(read) }
    }

    /// Reads it again.
    ///
    /// # Errors
    ///
    /// What is wrong with it now.
    pub fn read(&self) -> Result<RunConfig, ConfigError> {
        (self.read)()
    }

    /// The error, with what is to blame for it in the file above: line, column and carets. As it is, if nothing in the
    /// file is.
    #[must_use]
    pub fn point_at(&self, error: anyhow::Error) -> anyhow::Error {
        match place(&self.text, error.as_ref()) {
            Some(place) => anyhow::anyhow!("{}: {place}\n{error:#}", self.path.display()),
            None => error,
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Where in a file with this text stands what is to blame for an error, as the TOML parser shows it; `None` if it does
/// not say it.
pub(crate) fn place(text: &str, error: &(dyn Error + 'static)) -> Option<String> {
    let mut causes =
        std::iter::successors(Some(error), |error: &&'_ (dyn Error + 'static)| (*error).source());
    let blame = causes.find_map(Blame::of)?;
    let table = DeTable::parse(text).ok()?;
    Some(show(text, blame.find(table.get_ref())?))
}

/// Line, column, the line itself, and carets under the part.
fn show(text: &str, part: Range<usize>) -> String {
    let start = text[..part.start].rfind('\n').map_or(0, |newline| newline + 1);
    let line = text[start..].lines().next().unwrap_or_default();
    let number = text[..start].matches('\n').count() + 1;
    let column = text[start..part.start].chars().count();
    // Of what goes on below, the first line.
    let width = text[part.start..part.end.min(start + line.len()).max(part.start)].chars().count().max(1);
    let margin = " ".repeat(number.to_string().len());
    format!(
        "line {number}, column {}\n{margin} |\n{number} | {line}\n{margin} | {:column$}{:^<width$}",
        column + 1,
        "",
        ""
    )
}

/// What is to blame, as a file may say it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Blame {
    /// The value of a key, or one of its values: the last one that is this.
    Value(&'static [&'static str], String),
    /// A key, whatever it says; in the table before it, if there is one.
    Key(Option<&'static str>, String),
    /// This key of the rule with this name; the last one, if several have it.
    Rule { name: String, key: &'static str },
    /// The expression of a rule.
    Match(String),
    /// The rule at this place.
    RuleAt(usize),
}

impl Blame {
    fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        let interface = |name: &String| Self::Value(&["iface", "to"], name.clone());
        let queue = |queue: &u32| Self::Value(&["queues"], queue.to_string());
        let key = |flag: &str| Self::Key(None, flag.trim_start_matches("--").to_owned());
        if let Some(error) = error.downcast_ref::<NicError>() {
            return match error {
                NicError::Unknown { name, .. } | NicError::Down { name } => Some(interface(name)),
                NicError::NoSuchQueue { queue: number, .. }
                | NicError::MuteQueue { queue: number, .. }
                | NicError::QueueTooHigh { queue: number, .. } => Some(queue(number)),
                NicError::Quirk { .. } | NicError::Kernel { .. } => None,
            };
        }
        if let Some(error) = error.downcast_ref::<AttachError>() {
            return match error {
                AttachError::NoNative { .. } => Some(key("mode")),
                AttachError::Occupied { interface: name, .. }
                | AttachError::NoBpfLink { interface: name }
                | AttachError::Kernel { interface: name, .. } => Some(interface(name)),
            };
        }
        if let Some(LockOutError::LockedOut(cut)) = error.downcast_ref::<LockOutError>() {
            return cut.first().map(|first| Self::Match(first.rule.clone()));
        }
        if let Some(error) = error.downcast_ref::<SetError>() {
            return Self::of_rules(error);
        }
        match error.downcast_ref::<ConfigError>()? {
            ConfigError::Layout { .. } | ConfigError::Frames(_) => Some(key("frames")),
            ConfigError::FrameSize(_) => Some(key("frame-size")),
            ConfigError::Ring { flag, .. } => Some(key(flag)),
            ConfigError::Headroom { .. } => Some(key("headroom")),
            ConfigError::Gather { .. } => Some(key("rx-usecs")),
            ConfigError::Size { .. } => Some(Self::Key(Some("generate"), "size".to_owned())),
            ConfigError::Twice { flag: "--iface", value } => Some(interface(value)),
            ConfigError::Twice { value, .. } => Some(Self::Value(&["queues"], value.clone())),
            // Not among its sources: it is this error itself.
            ConfigError::Rule(error) => Self::of_rules(error),
            // A flag of the generator's, without the generator.
            ConfigError::Missing { what, flag: "--handler generate" } => {
                Some(Self::Key(Some("generate"), what.trim_start_matches('-').to_owned()))
            }
            // Several keys, or none, or the file is named already.
            ConfigError::Missing { .. }
            | ConfigError::Contradiction(_)
            | ConfigError::File { .. }
            | ConfigError::With { .. } => None,
        }
    }

    fn of_rules(error: &SetError) -> Option<Self> {
        let rule = |name: &String, key| Some(Self::Rule { name: name.clone(), key });
        match error {
            SetError::Rule(error) => Some(Self::Match(error.expression().to_owned())),
            SetError::Name(name) | SetError::Twice(name) => rule(name, "name"),
            SetError::Queue { rule: name, .. } | SetError::NoQueues(name) | SetError::NoSteer(name) => {
                rule(name, "queues")
            }
            SetError::TooMany(_) => Some(Self::RuleAt(MAX_RULES as usize)),
            SetError::Tables(TablesError::Shapes { rule: name, .. }) => rule(name, "match"),
            SetError::TooManyAlternatives | SetError::Tables(TablesError::Units { .. }) => None,
        }
    }

    /// The bytes of the file that say it.
    fn find(&self, file: &DeTable<'_>) -> Option<Range<usize>> {
        match self {
            Self::Value(keys, value) => keys.iter().find_map(|key| {
                let said = file.get(*key)?;
                let is_it =
                    |said: &&Spanned<DeValue<'_>>| shown(said.get_ref()).is_some_and(|shown| shown == *value);
                let values = said.get_ref().as_array().map_or(vec![said], |values| values.iter().collect());
                values.into_iter().rev().find(is_it).map(Spanned::span)
            }),
            Self::Key(table, key) => {
                let table = match table {
                    Some(table) => file.get(*table)?.get_ref().as_table()?,
                    None => file,
                };
                table.get(key.as_str()).map(Spanned::span)
            }
            Self::Rule { name, key } => {
                let rules = rules(file);
                let place = names(&rules).into_iter().rposition(|known| known == *name)?;
                let rule = rules[place];
                rule.get(*key).or_else(|| rule.get("match")).map(Spanned::span)
            }
            Self::Match(expression) => {
                let rules = rules(file);
                let matches = rules.iter().filter_map(|rule| rule.get("match"));
                let found = matches.into_iter().find(|said| said.get_ref().as_str() == Some(expression));
                // The default takes what no rule does.
                found
                    .or_else(|| file.get("default").filter(|_| expression.starts_with("the default")))
                    .map(Spanned::span)
            }
            Self::RuleAt(place) => rules(file).get(*place)?.get("match").map(Spanned::span),
        }
    }
}

/// `[[rule]]`, one after the other.
fn rules<'a, 'i>(file: &'a DeTable<'i>) -> Vec<&'a DeTable<'i>> {
    let rules = file.get("rule").and_then(|rules| rules.get_ref().as_array());
    rules.into_iter().flat_map(|rules| rules.iter()).filter_map(|rule| rule.get_ref().as_table()).collect()
}

/// The names of rules; those that say none get the next number that is free ([`crate::protocol::insert`]).
fn names(rules: &[&DeTable<'_>]) -> Vec<String> {
    let said =
        |rule: &&DeTable<'_>| rule.get("name").and_then(|name| name.get_ref().as_str()).map(str::to_owned);
    let taken: HashSet<String> = rules.iter().filter_map(said).collect();
    let mut free = (1_u64..).map(|number| format!("rule{number}")).filter(|name| !taken.contains(name));
    rules.iter().map(|rule| said(rule).or_else(|| free.next()).unwrap_or_default()).collect()
}

/// A value as an error would show it.
fn shown(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;
    use crate::steer::guard::{Cut, LockOut, Need, Party, Tags, Upkeep};

    const FILE: &str = "\
iface = ['eth0', 'eth1', 'eth0']
queues = [0, 7]
frames = 1000
default = 'drop'

[[rule]]
match = 'arp'
[[rule]]
name = 'rule1'
match = 'udp'
queues = [64]
";

    fn found(error: impl Into<anyhow::Error>) -> Option<String> {
        let error = error.into();
        let place = place(FILE, error.context("further up").as_ref())?;
        let lines: Vec<&str> = place.lines().collect();
        let [_, _, line, carets] = lines[..] else { panic!("{place}") };
        // What the carets are under, and where that is.
        let start = carets.find('^').unwrap();
        Some(format!("{}: {}", lines[0], &line[start..start + carets.matches('^').count()]))
    }

    fn locked_out(rule: &str) -> LockOutError {
        let [from, to] = ["10.0.0.1", "10.0.0.5"].map(|ip| Party::Known(ip.parse().unwrap()));
        let cut = Cut::Upkeep(Need { upkeep: Upkeep::Arp, tags: Tags::NONE, from, to });
        LockOutError::LockedOut(vec![LockOut { rule: rule.to_owned(), cut }])
    }

    #[test]
    fn what_is_to_blame_is_found_in_the_file() {
        let name = || "eth1".to_owned();
        let at = |text: &str| Some(text.to_owned());
        let unknown = NicError::Unknown { name: name(), netns: None, existing: Vec::new() };
        assert_eq!(found(unknown), at("line 1, column 18: 'eth1'"));
        let no_queue = NicError::NoSuchQueue { name: name(), queue: 7, active: 1 };
        assert_eq!(found(no_queue), at("line 2, column 14: 7"));
        assert_eq!(found(ConfigError::Frames(1000)), at("line 3, column 10: 1000"));
        let twice = ConfigError::Twice { flag: "--iface", value: "eth0".to_owned() };
        assert_eq!(found(twice), at("line 1, column 26: 'eth0'"));
        assert_eq!(found(locked_out("arp")), at("line 7, column 9: 'arp'"));
        assert_eq!(found(locked_out("the default, drop")), at("line 4, column 11: 'drop'"));
        let queue = |rule: &str| SetError::Queue { rule: rule.to_owned(), queue: 64 };
        assert_eq!(found(queue("rule1")), at("line 11, column 10: [64]"));
        // The first one says no name, and `rule1` is taken.
        assert_eq!(found(SetError::Twice("rule2".to_owned())), at("line 7, column 9: 'arp'"));
        let shapes = TablesError::Shapes { shapes: 33, rule: "rule1".to_owned() };
        assert_eq!(found(SetError::Tables(shapes)), at("line 10, column 9: 'udp'"));
    }

    #[test]
    fn what_the_file_does_not_say_is_not_blamed_on_it() {
        let flag = NicError::Down { name: "eth2".to_owned() };
        assert_eq!(found(flag), None);
        assert_eq!(found(ConfigError::Contradiction("these two")), None);
        assert_eq!(found(std::io::Error::other("anything")), None);
        assert_eq!(found(SetError::TooMany(10_001)), None, "so many are not in this one");
        assert_eq!(place("= no toml", &ConfigError::Frames(1000)), None);
    }

    #[test]
    fn it_is_shown_as_the_parser_shows_it() {
        let file = Source::new("umemd.toml".into(), FILE, || unreachable!("nobody reads it"));
        let error = Err::<(), _>(ConfigError::Frames(1000)).context("cannot").unwrap_err();
        assert_eq!(
            file.point_at(error).to_string(),
            "umemd.toml: line 3, column 10\n  |\n3 | frames = 1000\n  |          ^^^^\n\
             cannot: --frames 1000 is not possible: a power of two from 64 to 262144 is"
        );
        let multiline = "match = '''\nudp dst\nport 7'''\n";
        assert_eq!(show(multiline, 8..29), "line 1, column 9\n  |\n1 | match = '''\n  |         ^^^");
    }
}
