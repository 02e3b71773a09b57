//! Who sends what the contestants take, from the far namespace and at a rate.
//!
//! A socket of the stack leaves the checksums of its packets to the device, as those do whose packets are to be carried: who
//! sends such a packet on has to complete it. umemd's `generate` makes whole packets, and more of them. It runs in skb
//! mode, as a program in the driver would make the far veth deliver by NAPI instead of at once. Its program is run for
//! what comes back, too, by whoever sent that, and drops it: the stack, where nobody waits for it, would answer by ICMP.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::contestant::{Contestant, Running};
use crate::cli::{LoadSource, Traffic};
use crate::lab::net::Namespaces;
use crate::lab::sender::RunningSender;

/// Where a socket sends to; every contestant takes it.
const DESTINATION: &str = "10.77.0.1:7";

/// The same for `generate`, by the MAC of `near0`.
const TO: [&str; 4] = ["--dst-mac", "02:00:00:00:00:01", "--dst-port", "7"];

/// Ethernet header included.
const SIZE: u16 = 60;

/// Longer than what was sent is on its way.
const ARRIVAL: Duration = Duration::from_millis(100);

/// A sender, for one run after the other.
pub(super) struct Load {
    source: LoadSource,
    umemd: PathBuf,
    netns: String,
}

impl Load {
    pub(super) fn new(source: LoadSource, umemd: &Contestant, lab: &Namespaces) -> Self {
        Self { source, umemd: umemd.program().to_owned(), netns: lab.far.clone() }
    }

    /// Sends `rate` packets per second for so long, or with a rate of 0 as many as it can, and waits until all have
    /// arrived. How many there were.
    pub(super) fn offer(&self, cpu: &str, rate: u64, time: Duration) -> Result<u64> {
        let sent = match self.source {
            LoadSource::Generate => self.generate(cpu, rate, time),
            LoadSource::Socket => self.send(cpu, rate, time),
        }?;
        thread::sleep(ARRIVAL);
        ensure!(sent > 0, "nothing was sent");
        Ok(sent)
    }

    fn send(&self, cpu: &str, rate: u64, time: Duration) -> Result<u64> {
        let traffic = Traffic { rate, size: SIZE };
        let mut sender = RunningSender::start_on(cpu, &self.netns, DESTINATION, &traffic)?;
        thread::sleep(time);
        if let Some(failure) = sender.failure() {
            return Err(failure);
        }
        sender.stop();
        Ok(sender.sent())
    }

    fn generate(&self, cpu: &str, rate: u64, time: Duration) -> Result<u64> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "taskset", "--cpu-list", cpu]).arg(&self.umemd);
        command.args(["run", "--iface", "far0", "--netns", &self.netns, "--mode", "skb", "--json"]);
        command.args(["--listen", "127.0.0.1:0", "--control", "none", "--cpus", cpu]);
        command.args(["--default", "drop", "--handler", "generate", "--size", &SIZE.to_string()]).args(TO);
        if rate > 0 {
            command.args(["--rate", &rate.to_string()]);
        }
        command.env("UMEMD_LOG", "error").stdin(Stdio::null()).stdout(Stdio::piped());
        let sender = Running::umemd(&mut command, &self.netns, "far0")?;
        thread::sleep(time);
        Ok(sender.finish().context("the sender")?.packets)
    }
}
