//! The command line: clap's types, and nothing but them. Everything else reads [`crate::config`].

use std::{net::SocketAddr, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    config::{self, BindMode, ConfigError, Handler, RunConfig},
    ebpf::Mode,
};

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
    Run(RunArgs),
    /// Show the kernel's own page_pools; needs neither AF_XDP nor root.
    Pagepool(PagepoolArgs),
    /// Show where a running agent's packets got lost, and what to do about it.
    Drops(DropsArgs),
    /// Show a running agent live in the terminal.
    #[cfg(feature = "tui")]
    Top(AgentArgs),
}

/// Which running agent is meant.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// Where the agent listens.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:19478")]
    pub url: String,
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

/// Arguments of `umemd run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Interface to attach to; may be given several times.
    #[arg(long = "iface", value_name = "NAME", required = true)]
    pub ifaces: Vec<String>,

    /// Network namespace of the interfaces: a name of `ip netns`, or a path
    /// such as /proc/PID/ns/net. The HTTP listener stays in the caller's.
    #[arg(long, value_name = "NAME|PATH")]
    pub netns: Option<String>,

    /// Queues to serve, for example 0,2; unset: every active receive queue, up
    /// to 64 of them.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub queues: Option<Vec<u32>>,

    /// Frames to take, in tcpdump's words: "udp dst port 7", "arp", "all".
    /// May be given several times. Everything else goes to the kernel's stack.
    #[arg(long, value_name = "RULE", required = true)]
    pub steer: Vec<String>,

    /// What to do with the frames that were taken.
    #[arg(long, value_enum, default_value_t = HandlerArg::Drop)]
    pub handler: HandlerArg,

    /// Where the XDP program runs: in the driver, or in the stack (slower,
    /// works everywhere).
    #[arg(long, value_enum, default_value_t = ModeArg::Native)]
    pub mode: ModeArg,

    /// Bind in copy mode (the default: it works with every driver).
    #[arg(long, conflicts_with = "zerocopy")]
    pub copy: bool,

    /// Bind in zero-copy mode; an error if the driver cannot.
    #[arg(long)]
    pub zerocopy: bool,

    /// Frames per queue, a power of two.
    #[arg(long, value_name = "COUNT", default_value_t = 4096)]
    pub frames: u32,

    /// Bytes per frame: 2048 or 4096.
    #[arg(long, value_name = "BYTES", default_value_t = 2048)]
    pub frame_size: u32,

    /// CPUs for the workers, in the order of the queues; unset: spread over
    /// the CPUs this process may use, from the last one down.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub cpus: Option<Vec<usize>>,

    /// Address of the live page, /metrics, /status, /healthz and /readyz.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:19478")]
    pub listen: SocketAddr,

    /// Name by which the listener may be called over HTTP, beside addresses
    /// and this machine's own name; may be given several times.
    #[arg(long = "allow-host", value_name = "NAME")]
    pub allow_hosts: Vec<String>,

    /// Stop after this time: 500ms, 10s, 2m, 1h.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub duration: Option<Duration>,

    /// Print one JSON object per second, and the summary last.
    #[arg(long)]
    pub json: bool,

    /// Take the frames even if that cuts a connection to this machine.
    #[arg(long)]
    pub force: bool,

    /// Let the XDP program log every frame (debugging; slow).
    #[arg(long)]
    pub log_program: bool,
}

/// `--handler`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HandlerArg {
    /// Count and drop.
    Drop,
    /// Send back to where it came from: MACs, IPs and UDP ports swapped.
    Reflect,
}

/// `--mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ModeArg {
    /// In the driver, before the stack has allocated anything.
    Native,
    /// In the stack (generic XDP), on socket buffers.
    Skb,
}

impl TryFrom<RunArgs> for RunConfig {
    type Error = ConfigError;

    fn try_from(args: RunArgs) -> Result<Self, ConfigError> {
        // Destructured without `..`, so that a new flag cannot be forgotten here.
        let RunArgs {
            ifaces,
            netns,
            queues,
            steer,
            handler,
            mode,
            copy: _, // the default; the flag exists to be said
            zerocopy,
            frames,
            frame_size,
            cpus,
            listen,
            allow_hosts,
            duration,
            json,
            force,
            log_program,
        } = args;
        config::refuse_duplicates("--iface", &ifaces)?;
        config::refuse_duplicates("--queues", queues.as_deref().unwrap_or_default())?;
        Ok(Self {
            ifaces,
            netns,
            queues,
            rules: config::rules(&steer)?,
            handler: match handler {
                HandlerArg::Drop => Handler::Drop,
                HandlerArg::Reflect => Handler::Reflect,
            },
            mode: match mode {
                ModeArg::Native => Mode::Native,
                ModeArg::Skb => Mode::Skb,
            },
            bind: if zerocopy { BindMode::ZeroCopy } else { BindMode::Copy },
            layout: config::layout(frames, frame_size)?,
            cpus,
            listen,
            allow_hosts,
            duration,
            json,
            force,
            log_program,
        })
    }
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
