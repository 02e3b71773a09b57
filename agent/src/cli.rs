//! The command line: clap's types, and nothing but them. Everything else reads [`crate::config`].

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    client::Target,
    config::{self, BindMode, Capture, ConfigError, Generate, Handler, Mac, MultiBuffer, RunConfig},
    ebpf::Mode,
    nic::SwitchTag,
    protocol, steer,
    xsk::RingRequest,
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
    Run(Box<RunArgs>),
    /// Look at rules without steering anything.
    #[command(subcommand)]
    Rule(RuleCommand),
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

/// `umemd rule`.
#[derive(Debug, Subcommand)]
pub enum RuleCommand {
    /// Say what a rule compiles to; exit code 2 if it is none.
    Check {
        /// The rule, in tcpdump's words.
        #[arg(value_name = "RULE")]
        rule: String,
    },
    /// Count the packets of a capture that a rule matches, as
    /// `tcpdump -r FILE RULE` would.
    Match {
        /// The rule, in tcpdump's words.
        #[arg(value_name = "RULE")]
        rule: String,

        /// A capture of Ethernet frames, pcap or pcapng; `-` is stdin.
        #[arg(value_name = "FILE")]
        file: std::path::PathBuf,

        /// Print {"packets":N,"matched":N}.
        #[arg(long)]
        json: bool,
    },
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
    /// Interface to examine; may be given several times. None: all of them.
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
    #[arg(long, value_name = "RULE")]
    pub steer: Vec<String>,

    /// What to do with the frames that were taken.
    #[arg(long, value_enum, default_value_t = HandlerArg::Drop)]
    pub handler: HandlerArg,

    /// The other interface of --handler forward. Queue 0 is joined with its
    /// queue 0, and so on; frames cross in both directions.
    #[arg(long, value_name = "NAME")]
    pub to: Option<String>,

    /// Where the XDP program runs: in the driver, or in the stack (slower,
    /// works everywhere).
    #[arg(long, value_enum, default_value_t = ModeArg::Native)]
    pub mode: ModeArg,

    /// Address of the live page, /metrics, /status, /healthz and /readyz.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:19478")]
    pub listen: SocketAddr,

    /// The control socket, which `umemd status` and `umemd rule` ask; `none`:
    /// there is none.
    #[arg(long, value_name = "PATH|none", default_value = protocol::DEFAULT_SOCKET)]
    pub control: PathBuf,

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

    /// Frames kept for longer than this count as leaked, and who keeps them
    /// is told: by a capture that nobody reads, say.
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = humantime::parse_duration)]
    pub leak_after: Duration,

    /// Take the frames even if that cuts a connection to this machine.
    #[arg(long)]
    pub force: bool,

    /// The tag that a switch chip puts behind the MAC addresses (DSA), which
    /// rules then look behind. `auto` asks sysfs.
    #[arg(long, value_enum, default_value_t = SwitchTagArg::Auto)]
    pub switch_tag: SwitchTagArg,

    /// Let the XDP program log every frame (debugging; slow).
    #[arg(long)]
    pub log_program: bool,

    /// How the sockets are made.
    #[command(flatten)]
    pub sockets: SocketArgs,

    /// What is written to a file.
    #[command(flatten)]
    pub capture: CaptureArgs,

    /// What is sent.
    #[command(flatten)]
    pub generate: GenerateArgs,
}

/// Arguments about AF_XDP sockets and their workers.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sockets and workers")]
pub struct SocketArgs {
    /// Bind in copy mode, which every driver can. With neither this nor
    /// --zerocopy a table of drivers decides.
    #[arg(long, conflicts_with = "zerocopy")]
    pub copy: bool,

    /// Bind in zero-copy mode; an error if the driver cannot.
    #[arg(long)]
    pub zerocopy: bool,

    /// Let packets take several frames: where the MTU exceeds one frame,
    /// always, or never.
    #[arg(long, value_enum, default_value_t = MultiBufferArg::Auto)]
    pub multi_buffer: MultiBufferArg,

    /// Frames per queue, a power of two.
    #[arg(long, value_name = "COUNT", default_value_t = 4096)]
    pub frames: u32,

    /// Bytes per frame: 2048 or 4096.
    #[arg(long, value_name = "BYTES", default_value_t = 2048)]
    pub frame_size: u32,

    /// Bytes to keep free in each frame, before the 256 of the kernel.
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    pub headroom: u32,

    /// Put the frames into huge pages; ordinary ones if there are none.
    #[arg(long)]
    pub huge_pages: bool,

    /// Entries of the RX ring, a power of two; unset: half of the frames.
    #[arg(long, value_name = "COUNT")]
    pub rx_ring: Option<u32>,

    /// Entries of the TX ring; unset: a quarter of the frames.
    #[arg(long, value_name = "COUNT")]
    pub tx_ring: Option<u32>,

    /// Entries of the fill ring; unset: twice the RX ring.
    #[arg(long, value_name = "COUNT")]
    pub fill_ring: Option<u32>,

    /// Entries of the completion ring; unset: twice the TX ring.
    #[arg(long, value_name = "COUNT")]
    pub completion_ring: Option<u32>,

    /// CPUs for the workers, in the order of the queues; unset: spread over
    /// the CPUs this process may use, those with the interrupts last.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub cpus: Option<Vec<usize>>,

    /// Never sleep: look for frames again at once. Takes a CPU per queue.
    #[arg(long)]
    pub spin: bool,
}

/// Arguments about captures.
#[derive(Debug, Args)]
#[command(next_help_heading = "Capture")]
pub struct CaptureArgs {
    /// Write what was handled, as it is sent, in pcapng; "-" for
    /// `| tcpdump -r -`. Goes with every handler.
    #[arg(long = "capture", value_name = "FILE|-")]
    pub file: Option<PathBuf>,

    /// Bytes to keep of each packet.
    #[arg(long, value_name = "BYTES", default_value_t = 262_144, requires = "file")]
    pub snaplen: u32,

    /// Begin a new file after so many million bytes: FILE_00002, and so on.
    #[arg(long, value_name = "MB", requires = "file")]
    pub rotate_size: Option<u64>,

    /// Begin a new file after this time.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, requires = "file")]
    pub rotate_time: Option<Duration>,
}

/// Arguments of `--handler generate`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Generate")]
pub struct GenerateArgs {
    /// Packets per second, of all queues together; unset: as many as go.
    #[arg(long, value_name = "PPS")]
    pub rate: Option<u64>,

    /// End when so many are sent, of all queues together.
    #[arg(long, value_name = "COUNT")]
    pub count: Option<u64>,

    /// Bytes of each, Ethernet header included.
    #[arg(long, value_name = "BYTES", default_value_t = 60)]
    pub size: u16,

    /// Destination MAC address.
    #[arg(long, value_name = "MAC")]
    pub dst_mac: Option<Mac>,

    /// Source MAC address; unset: the interface's.
    #[arg(long, value_name = "MAC")]
    pub src_mac: Option<Mac>,

    /// Destination IP address.
    #[arg(long, value_name = "IP", default_value = "198.18.0.2")]
    pub dst_addr: IpAddr,

    /// Source IP address.
    #[arg(long, value_name = "IP", default_value = "198.18.0.1")]
    pub src_addr: IpAddr,

    /// Destination UDP port.
    #[arg(long, value_name = "PORT", default_value_t = 9)]
    pub dst_port: u16,

    /// Source UDP port.
    #[arg(long, value_name = "PORT", default_value_t = 9)]
    pub src_port: u16,
}

/// `--handler`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HandlerArg {
    /// Count and drop.
    Drop,
    /// Send back to where it came from: MACs, IPs and UDP ports swapped.
    Reflect,
    /// Send out of the interface --to, unchanged, and the other way round.
    Forward,
    /// Send packets of its own; see Generate. What was taken is dropped.
    Generate,
}

/// `--multi-buffer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MultiBufferArg {
    /// Where the MTU exceeds a frame.
    Auto,
    /// Always.
    On,
    /// Never: longer packets are dropped.
    Off,
}

/// `--switch-tag`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SwitchTagArg {
    /// As dsa/tagging of the interface in sysfs says.
    Auto,
    /// There is none.
    None,
    /// 4 bytes.
    Dsa,
    /// 8 bytes.
    Edsa,
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
        // Destructured without `..`, here and below, so that a new flag cannot be forgotten.
        let RunArgs {
            ifaces,
            netns,
            queues,
            steer,
            handler,
            to,
            mode,
            listen,
            control,
            allow_hosts,
            duration,
            json,
            leak_after,
            force,
            switch_tag,
            log_program,
            sockets,
            capture,
            generate,
        } = args;
        let SocketArgs {
            copy,
            zerocopy,
            multi_buffer,
            frames,
            frame_size,
            headroom,
            huge_pages,
            rx_ring,
            tx_ring,
            fill_ring,
            completion_ring,
            cpus,
            spin,
        } = sockets;
        config::refuse_duplicates("--iface", &ifaces)?;
        config::refuse_duplicates("--queues", queues.as_deref().unwrap_or_default())?;
        if steer.is_empty() && handler != HandlerArg::Generate {
            return Err(ConfigError::Missing { what: "taking frames", flag: "--steer RULE" });
        }
        let layout = config::layout(frames, frame_size)?;
        let capture = capture.into_config();
        if json && capture.as_ref().is_some_and(|capture| capture.file.is_none()) {
            return Err(ConfigError::Contradiction("--json and --capture - both write to standard output"));
        }
        Ok(Self {
            rules: Arc::new(steer::compile(&steer)?),
            handler: handler.with(to, &ifaces, generate)?,
            ifaces,
            netns,
            queues,
            capture,
            mode: match mode {
                ModeArg::Native => Mode::Native,
                ModeArg::Skb => Mode::Skb,
            },
            bind: match (copy, zerocopy) {
                (true, _) => Some(BindMode::Copy),
                (_, true) => Some(BindMode::ZeroCopy),
                _ => None,
            },
            multi_buffer: match multi_buffer {
                MultiBufferArg::Auto => MultiBuffer::Auto,
                MultiBufferArg::On => MultiBuffer::On,
                MultiBufferArg::Off => MultiBuffer::Off,
            },
            layout,
            headroom: config::headroom(headroom, layout)?,
            huge_pages,
            rings: config::rings(RingRequest {
                fill: fill_ring,
                rx: rx_ring,
                tx: tx_ring,
                completion: completion_ring,
            })?,
            cpus,
            spin,
            listen,
            control: (control.as_os_str() != "none").then_some(control),
            allow_hosts,
            duration,
            json,
            leak_after,
            force,
            switch_tag: match switch_tag {
                SwitchTagArg::Auto => None,
                SwitchTagArg::None => Some(SwitchTag::None),
                SwitchTagArg::Dsa => Some(SwitchTag::Dsa),
                SwitchTagArg::Edsa => Some(SwitchTag::Edsa),
            },
            log_program,
        })
    }
}

impl HandlerArg {
    fn with(
        self,
        to: Option<String>,
        ifaces: &[String],
        generate: GenerateArgs,
    ) -> Result<Handler, ConfigError> {
        if to.is_some() && self != Self::Forward {
            return Err(ConfigError::Missing { what: "--to", flag: "--handler forward" });
        }
        let GenerateArgs { rate, count, dst_mac, src_mac, .. } = &generate;
        let sends = rate.is_some() || count.is_some() || dst_mac.is_some() || src_mac.is_some();
        if sends && self != Self::Generate {
            return Err(ConfigError::Missing {
                what: "--rate, --count, --dst-mac or --src-mac",
                flag: "--handler generate",
            });
        }
        match (self, to) {
            (Self::Drop, _) => Ok(Handler::Drop),
            (Self::Reflect, _) => Ok(Handler::Reflect),
            (Self::Generate, _) => Ok(Handler::Generate(generate.into_config()?)),
            (Self::Forward, None) => {
                Err(ConfigError::Missing { what: "--handler forward", flag: "--to NAME" })
            }
            (Self::Forward, Some(_)) if ifaces.len() > 1 => {
                Err(ConfigError::Contradiction("--handler forward takes one --iface, and one --to"))
            }
            (Self::Forward, Some(to)) if ifaces.contains(&to) => {
                Err(ConfigError::Contradiction("--to is --iface; there is nowhere to forward to"))
            }
            (Self::Forward, Some(to)) => Ok(Handler::Forward { to }),
        }
    }
}

impl CaptureArgs {
    fn into_config(self) -> Option<Capture> {
        let Self { file, snaplen, rotate_size, rotate_time } = self;
        let file = file?;
        Some(Capture {
            file: (file.as_os_str() != "-").then_some(file),
            snaplen,
            rotate_size: rotate_size.map(|million| million.saturating_mul(1_000_000)),
            rotate_time,
        })
    }
}

impl GenerateArgs {
    fn into_config(self) -> Result<Generate, ConfigError> {
        let Self { rate, count, size, dst_mac, src_mac, dst_addr, src_addr, dst_port, src_port } = self;
        let dst_mac =
            dst_mac.ok_or(ConfigError::Missing { what: "--handler generate", flag: "--dst-mac MAC" })?;
        Generate {
            rate,
            count,
            size: size.into(),
            src_mac,
            dst_mac,
            src: SocketAddr::new(src_addr, src_port),
            dst: SocketAddr::new(dst_addr, dst_port),
        }
        .checked()
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

    fn config(line: &str) -> Result<RunConfig, String> {
        let words = ["umemd", "run", "--iface", "eth0"].into_iter().chain(line.split(' '));
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        let Command::Run(args) = cli.command else { unreachable!("it was `umemd run`") };
        RunConfig::try_from(*args).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_that_need_or_exclude_each_other_are_told_apart() {
        let forward = config("--steer all --handler forward --to eth1").unwrap();
        assert_eq!(forward.handler, Handler::Forward { to: "eth1".into() });
        let generate = config("--handler generate --dst-mac 02:00:00:00:00:02 --count 5").unwrap();
        assert!(matches!(generate.handler, Handler::Generate(Generate { count: Some(5), size: 60, .. })));
        let capture = config("--steer all --capture - --snaplen 96").unwrap().capture.unwrap();
        assert_eq!((capture.file, capture.snaplen), (None, 96));
        for (bad, named) in [
            ("--handler drop", "--steer"),
            ("--handler generate", "--dst-mac"),
            ("--steer all --handler forward", "--to"),
            ("--steer all --handler forward --to eth0", "--to is --iface"),
            ("--steer all --handler forward --to eth1 --iface eth2", "one --iface"),
            ("--steer all --to eth1", "--handler forward"),
            ("--steer all --rate 5", "--handler generate"),
            ("--steer all --snaplen 96", "--capture"),
            ("--steer all --json --capture -", "--json"),
            ("--steer all --tx-ring 100", "--tx-ring 100"),
            ("--steer all --headroom 1800", "--headroom 1800"),
        ] {
            let error = config(bad).unwrap_err();
            assert!(error.contains(named), "{bad}: {error}");
        }
    }
}
