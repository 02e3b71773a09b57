//! `umemd run`: its flags, and how they become a configuration.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use clap::{Args, ValueEnum};
use serde::Deserialize;

use super::{
    file::File,
    handler::{CaptureArgs, GenerateArgs, HandlerArg},
};
use crate::{
    config::{self, BindMode, ConfigError, MultiBuffer, RunConfig, Source},
    ebpf::Mode,
    nic::SwitchTag,
    protocol::{self, OtherAction, RuleText},
    xsk::RingRequest,
};

/// Arguments of `umemd run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Everything else from this file; flags beside it override it. It is read
    /// again after SIGHUP and by `umemd reload`.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Interface to attach to; may be given several times.
    #[arg(long = "iface", value_name = "NAME", required_unless_present = "config")]
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
    /// May be given several times; what becomes of everything else is said by
    /// --default. Unset: nothing is taken, until `umemd rule add`.
    #[arg(long, value_name = "RULE")]
    pub steer: Vec<String>,

    /// What becomes of everything else: it is the stack's, or it is dropped
    /// [default: pass].
    #[arg(long, value_enum)]
    pub default: Option<DefaultArg>,

    /// What to do with the frames that were taken; --capture keeps them in a
    /// file beside any of these [default: drop].
    #[arg(long, value_enum)]
    pub handler: Option<HandlerArg>,

    /// The other interface of --handler forward. Queue 0 is joined with its
    /// queue 0, and so on; frames cross in both directions.
    #[arg(long, value_name = "NAME")]
    pub to: Option<String>,

    /// Where the XDP program runs: in the driver, or in the stack (slower,
    /// works everywhere) [default: native].
    #[arg(long, value_enum)]
    pub mode: Option<ModeArg>,

    /// Address of the live page, /metrics, /status, /healthz and /readyz
    /// [default: 127.0.0.1:19478].
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,

    /// The control socket, which `umemd status` and `umemd rule` ask; `none`:
    /// there is none [default: /run/umemd/umemd.sock].
    #[arg(long, value_name = "PATH|none")]
    pub control: Option<PathBuf>,

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
    /// is told: by a capture that nobody reads, say [default: 1m].
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub leak_after: Option<Duration>,

    /// Take the frames even if that cuts a connection to this machine, or ARP,
    /// neighbour discovery or DHCP on the way to its router.
    #[arg(long)]
    pub force: bool,

    /// The tag that a switch chip puts behind the MAC addresses (DSA), which
    /// rules then look behind, and into for a VLAN tag. `auto` asks sysfs
    /// [default: auto; with --netns, of which sysfs says nothing, none].
    #[arg(long, value_enum)]
    pub switch_tag: Option<SwitchTagArg>,

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
#[derive(Clone, Debug, Args)]
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
    /// always, or never [default: auto].
    #[arg(long, value_enum)]
    pub multi_buffer: Option<MultiBufferArg>,

    /// Frames per queue, a power of two [default: 4096].
    #[arg(long, value_name = "COUNT")]
    pub frames: Option<u32>,

    /// Bytes per frame: 2048 or 4096 [default: 2048].
    #[arg(long, value_name = "BYTES")]
    pub frame_size: Option<u32>,

    /// Bytes to keep free in each frame, before the 256 of the kernel
    /// [default: 0].
    #[arg(long, value_name = "BYTES")]
    pub headroom: Option<u32>,

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

    /// Entries of the completion ring; unset: as many as there are frames,
    /// with --handler forward those of both interfaces.
    #[arg(long, value_name = "COUNT")]
    pub completion_ring: Option<u32>,

    /// CPUs for the workers, in the order of the queues; unset: spread over
    /// the CPUs this process may use, those with the interrupts last.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub cpus: Option<Vec<usize>>,

    /// Never sleep: look for frames again at once. Takes a CPU per queue.
    #[arg(long)]
    pub spin: bool,

    /// While frames come in quick succession, let them gather for so many
    /// microseconds: one wake-up then serves them all, at the price of
    /// latency [default: 50 with --handler drop and no capture, which delays
    /// nobody, if the rings are not small; else 0].
    #[arg(long, value_name = "USECS")]
    pub rx_usecs: Option<u32>,
}

/// `--multi-buffer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MultiBufferArg {
    /// Where the MTU exceeds a frame.
    Auto,
    /// Always.
    On,
    /// Never: longer packets are dropped.
    Off,
}

/// `--switch-tag`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModeArg {
    /// In the driver, before the stack has allocated anything.
    Native,
    /// In the stack (generic XDP), on socket buffers.
    Skb,
}

/// What becomes of frames without a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DefaultArg {
    /// They are the stack's.
    Pass,
    /// They are dropped.
    Drop,
}

impl From<DefaultArg> for OtherAction {
    fn from(action: DefaultArg) -> Self {
        match action {
            DefaultArg::Pass => Self::Pass,
            DefaultArg::Drop => Self::Drop,
        }
    }
}

impl TryFrom<RunArgs> for RunConfig {
    type Error = ConfigError;

    /// Reads the file, if there is one, and validates it with the flags.
    fn try_from(mut args: RunArgs) -> Result<Self, ConfigError> {
        let mut rules: Vec<RuleText> = args.steer.iter().map(|rule| RuleText::steer(rule)).collect();
        let Some(path) = args.config.clone() else {
            if rules.is_empty() && args.handler != Some(HandlerArg::Generate) {
                return Err(ConfigError::Missing { what: "taking frames", flag: "--steer RULE" });
            }
            return args.validate(rules);
        };
        let again = args.clone();
        let (text, file) = File::read(&path)?;
        let from_file = file.under(&mut args);
        if rules.is_empty() {
            rules = from_file;
        } else if !from_file.is_empty() {
            log::info!("--steer overrides the {} rules of {}", from_file.len(), path.display());
        }
        let config = args.validate(rules).map_err(|error| match config::place(&text, &error) {
            Some(place) => {
                let problem = format!("{place}\n{:#}", anyhow::Error::from(error));
                ConfigError::File { path: path.clone(), problem }
            }
            None => ConfigError::With { path: path.clone(), source: Box::new(error) },
        })?;
        let read = move || Self::try_from(again.clone());
        Ok(Self { source: Some(Source::new(path, &text, read)), ..config })
    }
}

impl RunArgs {
    fn validate(self, rules: Vec<RuleText>) -> Result<RunConfig, ConfigError> {
        // Destructured without `..`, here and below, so that a new flag cannot be forgotten.
        let Self {
            config: _,
            ifaces,
            netns,
            queues,
            steer: _,
            default,
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
        } = self;
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
            rx_usecs,
        } = sockets;
        config::refuse_duplicates("--iface", &ifaces)?;
        config::refuse_duplicates("--queues", queues.as_deref().unwrap_or_default())?;
        if ifaces.is_empty() {
            return Err(ConfigError::Missing { what: "running", flag: "--iface NAME" });
        }
        if copy && zerocopy {
            return Err(ConfigError::Contradiction("--copy and --zerocopy exclude each other"));
        }
        if netns.is_some() && switch_tag == Some(SwitchTagArg::Auto) {
            return Err(ConfigError::Contradiction(
                "--switch-tag auto asks sysfs, which does not show the interfaces of --netns; say none, dsa or edsa",
            ));
        }
        let layout = config::layout(frames.unwrap_or(4096), frame_size.unwrap_or(2048))?;
        let capture = capture.into_config()?;
        let control = control.unwrap_or_else(|| protocol::DEFAULT_SOCKET.into());
        if json && capture.as_ref().is_some_and(|capture| capture.file.is_none()) {
            return Err(ConfigError::Contradiction("--json and --capture - both write to standard output"));
        }
        let rules = Arc::new(protocol::compile(rules, default.map(Into::into).unwrap_or_default())?);
        Ok(RunConfig {
            forced: force.then(|| Arc::clone(&rules)),
            rules,
            handler: handler.unwrap_or(HandlerArg::Drop).with(to, &ifaces, generate)?,
            ifaces,
            netns,
            queues,
            capture,
            mode: match mode {
                None | Some(ModeArg::Native) => Mode::Native,
                Some(ModeArg::Skb) => Mode::Skb,
            },
            bind: match (copy, zerocopy) {
                (true, _) => Some(BindMode::Copy),
                (_, true) => Some(BindMode::ZeroCopy),
                _ => None,
            },
            multi_buffer: match multi_buffer {
                None | Some(MultiBufferArg::Auto) => MultiBuffer::Auto,
                Some(MultiBufferArg::On) => MultiBuffer::On,
                Some(MultiBufferArg::Off) => MultiBuffer::Off,
            },
            layout,
            headroom: config::headroom(headroom.unwrap_or(0), layout)?,
            huge_pages,
            rings: config::rings(RingRequest {
                fill: fill_ring,
                rx: rx_ring,
                tx: tx_ring,
                completion: completion_ring,
            })?,
            cpus,
            spin,
            gather: config::gather(rx_usecs, spin)?,
            listen: listen.unwrap_or(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 19478)),
            control: (control.as_os_str() != "none").then_some(control),
            allow_hosts,
            duration,
            json,
            leak_after: leak_after.unwrap_or(Duration::from_secs(60)),
            switch_tag: match switch_tag {
                None | Some(SwitchTagArg::Auto) => None,
                Some(SwitchTagArg::None) => Some(SwitchTag::None),
                Some(SwitchTagArg::Dsa) => Some(SwitchTag::Dsa),
                Some(SwitchTagArg::Edsa) => Some(SwitchTag::Edsa),
            },
            log_program,
            source: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::{
        super::{Cli, Command},
        *,
    };
    use crate::config::{Generate, Handler, Wait};

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
        let wait = |flags: &str| config(&format!("--steer all {flags}")).unwrap().wait(2048);
        let poll = |usecs| Wait::Poll { gather: Duration::from_micros(usecs) };
        assert!(forward.listen.ip().is_loopback(), "unless told otherwise");
        // Only who delays nobody lets frames gather unasked.
        assert_eq!((wait("--handler drop"), wait("--handler reflect")), (poll(50), poll(0)));
        assert_eq!(wait("--handler drop --capture x.pcapng"), poll(0));
        assert_eq!((wait("--rx-usecs 0"), wait("--handler reflect --rx-usecs 200")), (poll(0), poll(200)));
        assert_eq!(wait("--spin"), Wait::Spin);
        for (bad, named) in [
            ("--handler drop", "--steer RULE"),
            ("--steer all --spin --rx-usecs 1", "--spin never waits"),
            ("--handler generate", "--dst-mac"),
            ("--steer all --handler forward", "--to"),
            ("--steer all --handler forward --to eth0", "--to is --iface"),
            ("--steer all --handler forward --to eth1 --iface eth2", "one --iface"),
            ("--steer all --to eth1", "--handler forward"),
            ("--steer all --rate 5", "--rate needs --handler generate"),
            ("--steer all --src-port 5", "--src-port needs --handler generate"),
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
