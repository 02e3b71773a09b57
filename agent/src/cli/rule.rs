//! `umemd rule`: its commands, and the requests that they are.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};

use super::{ControlArgs, DefaultArg, file};
use crate::{
    config::ConfigError,
    nic::SwitchTag,
    protocol::{Request, RuleAction, RuleText},
};

/// `umemd rule`.
#[derive(Debug, Subcommand)]
pub enum RuleCommand {
    /// Add a rule to a running agent.
    Add(RuleAddArgs),
    /// Remove rules from a running agent, by name.
    Del {
        /// Names, as `umemd rule list` shows them.
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,

        /// How it is done.
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Show the rules of a running agent, and what each has matched.
    List {
        /// The agent.
        #[command(flatten)]
        control: ControlArgs,

        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Put other rules in the place of all that a running agent has, at once.
    Replace {
        /// Rules that steer, in tcpdump's words.
        #[arg(value_name = "RULE", required_unless_present = "file", conflicts_with = "file")]
        rules: Vec<String>,

        /// A file with `[[rule]]` and `default` as in the configuration file;
        /// `-` is stdin.
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,

        /// What becomes of everything else; unset: as before.
        #[arg(long, value_enum)]
        default: Option<DefaultArg>,

        /// How it is done.
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Change what becomes of frames that no rule matches.
    Default {
        /// What becomes of them.
        action: DefaultArg,

        /// How it is done.
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Say what a rule compiles to; exit code 2 if it is none.
    Check {
        /// The rule, in tcpdump's words.
        #[arg(value_name = "RULE")]
        rule: String,
    },
    /// Count the packets of a capture that a rule matches, as
    /// `tcpdump -r FILE RULE` would.
    ///
    /// Also of packets that the capture cut short: like tcpdump, it gives one
    /// up at the first word that looks beyond the end. The program, to which
    /// frames come whole, still tries what stands behind an `or`.
    Match {
        /// The rule, in tcpdump's words.
        #[arg(value_name = "RULE")]
        rule: String,

        /// A capture of Ethernet frames, pcap or pcapng; `-` is stdin.
        #[arg(value_name = "FILE")]
        file: std::path::PathBuf,

        /// The tag that a switch put behind the MAC addresses, as in a
        /// capture of umemd's own at a DSA conduit: rules look behind it.
        /// tcpdump does not.
        #[arg(long, value_enum, default_value_t = StrippedArg::None)]
        switch_tag: StrippedArg,

        /// Print {"packets":N,"matched":N}.
        #[arg(long)]
        json: bool,
    },
}

/// Arguments of `umemd rule add`.
#[derive(Debug, Args)]
pub struct RuleAddArgs {
    /// Which frames, in tcpdump's words.
    #[arg(value_name = "RULE")]
    pub rule: String,

    /// Its name [default: rule1, or the next number that is free].
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// What becomes of the frames.
    #[arg(long, value_enum, default_value_t = ActionArg::Steer)]
    pub action: ActionArg,

    /// Queues that steer, for example 0,2; on the others, what matches goes to
    /// the stack [default: all].
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub queues: Option<Vec<u32>>,

    /// Its place, 1 is the first: of several rules that match, the first
    /// decides [default: the last].
    #[arg(long, value_name = "PLACE")]
    pub at: Option<usize>,

    /// How it is done.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `--action`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ActionArg {
    /// To the AF_XDP socket of the queue.
    Steer,
    /// To the stack.
    Pass,
    /// To nowhere.
    Drop,
}

/// `--switch-tag` of `umemd rule match`: a file has no sysfs to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StrippedArg {
    /// There is none.
    None,
    /// 4 bytes.
    Dsa,
    /// 8 bytes.
    Edsa,
}

impl StrippedArg {
    /// How long the tag is.
    #[must_use]
    pub fn bytes(self) -> usize {
        let tag = match self {
            Self::None => SwitchTag::None,
            Self::Dsa => SwitchTag::Dsa,
            Self::Edsa => SwitchTag::Edsa,
        };
        tag.bytes().into()
    }
}

/// How a running agent is changed.
#[derive(Debug, Args)]
pub struct ChangeArgs {
    /// The agent.
    #[command(flatten)]
    pub control: ControlArgs,

    /// Do it even if that cuts a connection to this machine, or ARP, neighbour
    /// discovery or DHCP on the way to its router.
    #[arg(long)]
    pub force: bool,

    /// Print what is in force then as one JSON object.
    #[arg(long)]
    pub json: bool,
}

impl RuleCommand {
    /// Whom to ask what; `None`: nobody is to be asked.
    ///
    /// # Errors
    ///
    /// A file of rules that cannot be used.
    pub fn request(&self) -> Result<Option<(&Path, Request)>, ConfigError> {
        let (control, request) = match self {
            Self::Add(RuleAddArgs { rule, name, action, queues, at, change }) => {
                let rule = RuleText {
                    name: name.clone(),
                    expression: rule.clone(),
                    action: match action {
                        ActionArg::Steer => RuleAction::Steer,
                        ActionArg::Pass => RuleAction::Pass,
                        ActionArg::Drop => RuleAction::Drop,
                    },
                    queues: queues.clone(),
                };
                (&change.control, Request::RuleAdd { rules: vec![rule], at: *at, force: change.force })
            }
            Self::Del { names, change } => {
                (&change.control, Request::RuleDel { names: names.clone(), force: change.force })
            }
            Self::List { control, .. } => (control, Request::RuleList),
            Self::Replace { rules, file, default, change } => {
                let (rules, in_file) = match file {
                    Some(path) => file::rules(path)?,
                    None => (rules.iter().map(|rule| RuleText::steer(rule)).collect(), None),
                };
                let default = default.map(Into::into).or(in_file);
                (&change.control, Request::RuleReplace { rules, default, force: change.force })
            }
            Self::Default { action, change } => {
                (&change.control, Request::RuleDefault { action: (*action).into(), force: change.force })
            }
            Self::Check { .. } | Self::Match { .. } => return Ok(None),
        };
        Ok(Some((&control.control, request)))
    }

    /// Whether JSON is wanted.
    #[must_use]
    pub fn json(&self) -> bool {
        match self {
            Self::Add(RuleAddArgs { change, .. })
            | Self::Del { change, .. }
            | Self::Replace { change, .. }
            | Self::Default { change, .. } => change.json,
            Self::List { json, .. } | Self::Match { json, .. } => *json,
            Self::Check { .. } => false,
        }
    }
}
