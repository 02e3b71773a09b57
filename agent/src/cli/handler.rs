//! What is done with packets: `--handler`, `--capture`, and what goes with them.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, ValueEnum};
use serde::Deserialize;

use crate::config::{Capture, ConfigError, Generate, Handler, Mac};

/// `--handler`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
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

/// Arguments about captures.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Capture")]
pub struct CaptureArgs {
    /// Write what was handled, as it is sent, in pcapng; "-" for
    /// `| tcpdump -r -`. Goes with every handler.
    #[arg(long = "capture", value_name = "FILE|-")]
    pub file: Option<PathBuf>,

    /// Bytes to keep of each packet [default: 262144].
    #[arg(long, value_name = "BYTES")]
    pub snaplen: Option<u32>,

    /// Begin a new file after so many million bytes: FILE_00002, and so on.
    /// Files of an earlier run stay; numbers go on behind the highest one.
    #[arg(long, value_name = "MB")]
    pub rotate_size: Option<u64>,

    /// Begin a new file after this time.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub rotate_time: Option<Duration>,
}

/// Arguments of `--handler generate`.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Generate")]
pub struct GenerateArgs {
    /// Packets per second, of all queues together; unset: as many as go. Who
    /// comes late makes up for 2 ms, and sends that many fewer otherwise.
    #[arg(long, value_name = "PPS")]
    pub rate: Option<u64>,

    /// End when so many are sent, of all queues together. While a link is down,
    /// or a driver takes none of them, its share waits.
    #[arg(long, value_name = "COUNT")]
    pub count: Option<u64>,

    /// Bytes of each, Ethernet header included [default: 60].
    #[arg(long, value_name = "BYTES")]
    pub size: Option<u16>,

    /// Destination MAC address.
    #[arg(long, value_name = "MAC")]
    pub dst_mac: Option<Mac>,

    /// Source MAC address; unset: the interface's.
    #[arg(long, value_name = "MAC")]
    pub src_mac: Option<Mac>,

    /// Destination IP address [default: 198.18.0.2].
    #[arg(long, value_name = "IP")]
    pub dst_addr: Option<IpAddr>,

    /// Source IP address [default: 198.18.0.1].
    #[arg(long, value_name = "IP")]
    pub src_addr: Option<IpAddr>,

    /// Destination UDP port [default: 9].
    #[arg(long, value_name = "PORT")]
    pub dst_port: Option<u16>,

    /// Source UDP port [default: 9].
    #[arg(long, value_name = "PORT")]
    pub src_port: Option<u16>,
}

impl HandlerArg {
    pub(super) fn with(
        self,
        to: Option<String>,
        ifaces: &[String],
        generate: GenerateArgs,
    ) -> Result<Handler, ConfigError> {
        if to.is_some() && self != Self::Forward {
            return Err(ConfigError::Missing { what: "--to", flag: "--handler forward" });
        }
        if let Some(what) = generate.first()
            && self != Self::Generate
        {
            return Err(ConfigError::Missing { what, flag: "--handler generate" });
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
    pub(super) fn into_config(self) -> Result<Option<Capture>, ConfigError> {
        let Self { file, snaplen, rotate_size, rotate_time } = self;
        let Some(file) = file else {
            return match (snaplen, rotate_size, rotate_time) {
                (None, None, None) => Ok(None),
                _ => Err(ConfigError::Missing {
                    what: "--snaplen, --rotate-size or --rotate-time",
                    flag: "--capture FILE",
                }),
            };
        };
        Ok(Some(Capture {
            file: (file.as_os_str() != "-").then_some(file),
            snaplen: snaplen.unwrap_or(262_144),
            rotate_size: rotate_size.map(|million| million.saturating_mul(1_000_000)),
            rotate_time,
        }))
    }
}

impl GenerateArgs {
    /// The first of them that is set.
    fn first(&self) -> Option<&'static str> {
        let Self { rate, count, size, dst_mac, src_mac, dst_addr, src_addr, dst_port, src_port } = self;
        let all = [
            ("--rate", rate.is_some()),
            ("--count", count.is_some()),
            ("--size", size.is_some()),
            ("--dst-mac", dst_mac.is_some()),
            ("--src-mac", src_mac.is_some()),
            ("--dst-addr", dst_addr.is_some()),
            ("--src-addr", src_addr.is_some()),
            ("--dst-port", dst_port.is_some()),
            ("--src-port", src_port.is_some()),
        ];
        all.into_iter().find(|(_, set)| *set).map(|(name, _)| name)
    }

    fn into_config(self) -> Result<Generate, ConfigError> {
        let Self { rate, count, size, dst_mac, src_mac, dst_addr, src_addr, dst_port, src_port } = self;
        let dst_mac =
            dst_mac.ok_or(ConfigError::Missing { what: "--handler generate", flag: "--dst-mac MAC" })?;
        Generate {
            rate,
            count,
            size: size.unwrap_or(60).into(),
            src_mac,
            dst_mac,
            src: SocketAddr::new(src_addr.unwrap_or(IpAddr::from([198, 18, 0, 1])), src_port.unwrap_or(9)),
            dst: SocketAddr::new(dst_addr.unwrap_or(IpAddr::from([198, 18, 0, 2])), dst_port.unwrap_or(9)),
        }
        .checked()
    }
}
