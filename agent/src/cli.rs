//! The command line: clap's types, and the file beside it. Everything else reads [`crate::config`].

mod file;
mod handler;
mod rule;
mod run;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
pub use handler::{CaptureArgs, GenerateArgs, HandlerArg};
pub use rule::{ActionArg, ChangeArgs, RuleAddArgs, RuleCommand, StrippedArg};
pub use run::{DefaultArg, ModeArg, MultiBufferArg, RunArgs, SocketArgs, SwitchTagArg};

use crate::{client::Target, protocol};

/// Steers frames with an XDP program into AF_XDP memory and shows where every frame is.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 80)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Attach to interfaces, move frames, and report until told to stop.
    Run(Box<RunArgs>),
    /// Change a running agent's rules, or look at rules without any agent.
    #[command(subcommand)]
    Rule(RuleCommand),
    /// Let a running agent read its --config again, and wait until it has.
    ///
    /// The rules of the file and its default are put in force in the place of
    /// all others: rules that `umemd rule add` brought and the file does not
    /// have are gone then. Only rules and default may have changed; whatever
    /// else has takes a restart, and refuses the file as a whole.
    Reload(ChangeArgs),
    /// Say what works here and what does not, why, and what mends it; changes
    /// nothing.
    Doctor(DoctorArgs),
    /// Show what a running agent does.
    Status(StatusArgs),
    /// Show the kernel's own page_pools; needs neither AF_XDP nor root.
    Pagepool(PagepoolArgs),
    /// Show where a running agent's packets got lost, and what to do about it.
    Drops(DropsArgs),
    /// Show a running agent live in the terminal.
    #[cfg(feature = "tui")]
    Top(AgentArgs),
}

/// Which running agent is meant, by those who only look.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// Which running agent is meant.
    #[command(flatten)]
    pub control: ControlArgs,

    /// Ask over HTTP instead, which needs no rights: http://HOST:PORT.
    #[arg(long, value_name = "URL", conflicts_with = "control")]
    pub url: Option<String>,
}

/// Which running agent is meant.
#[derive(Debug, Args)]
pub struct ControlArgs {
    /// The agent's control socket.
    #[arg(long, value_name = "PATH", default_value = protocol::DEFAULT_SOCKET)]
    pub control: PathBuf,
}

impl AgentArgs {
    /// Where to ask.
    #[must_use]
    pub fn target(self) -> Target {
        match self.url {
            Some(url) => Target::Url(url),
            None => Target::Socket(self.control.control),
        }
    }
}

/// Arguments of `umemd status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The agent.
    #[command(flatten)]
    pub agent: AgentArgs,

    /// Print the object of /status.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `umemd drops`.
#[derive(Debug, Args)]
pub struct DropsArgs {
    /// The agent.
    #[command(flatten)]
    pub agent: AgentArgs,

    /// Show the rows that are 0 as well.
    #[arg(long)]
    pub all: bool,

    /// Print one JSON object per device and row, zeros included.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `umemd doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Interface to examine; may be given several times: the exit code is 1 if
    /// one of them cannot be used. None: all of them, and 1 if the machine
    /// cannot run umemd.
    #[arg(long = "iface", value_name = "NAME")]
    pub ifaces: Vec<String>,

    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `umemd pagepool`.
#[derive(Debug, Args)]
pub struct PagepoolArgs {
    /// Interface to ask about; may be given several times. None: all.
    #[arg(long = "iface", value_name = "NAME")]
    pub ifaces: Vec<String>,

    /// Network namespace of the interfaces: a name of `ip netns`, or a path.
    #[arg(long, value_name = "NAME|PATH")]
    pub netns: Option<String>,

    /// Go on, and print rates every second until interrupted.
    #[arg(long)]
    pub watch: bool,

    /// Print one JSON object; with --watch, one per second.
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
