//! Who takes packets: umemd, and what it is compared with.

use std::ffi::OsString;
use std::fs;
use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::cli::BenchHandler as Handler;
use crate::shell;

/// Where a contestant runs; the sender has the other CPU.
pub(super) const CPU: &str = "1";

/// The interface it takes packets from.
const INTERFACE: &str = "near0";

/// Where it forwards to.
const OTHER: &str = "near1";

/// Longer than anybody takes to start, under valgrind too.
const START: Duration = Duration::from_secs(30);

/// Between attaching a program and lending the kernel the first frames.
const SETTLE: Duration = Duration::from_millis(300);

/// A program that takes packets.
#[derive(Clone)]
pub(super) struct Contestant {
    pub(super) name: String,
    kind: Kind,
    program: PathBuf,
    netns: String,
    /// What it runs under.
    wrapper: Vec<OsString>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Umemd,
    Minimal,
    XdpBench,
}

impl Contestant {
    pub(super) fn umemd(program: PathBuf, netns: &str) -> Self {
        Self::new("umemd", Kind::Umemd, program, netns)
    }

    pub(super) fn minimal(program: PathBuf, netns: &str) -> Self {
        Self::new("minimal", Kind::Minimal, program, netns)
    }

    /// `xdp-bench` of xdp-tools, if one is installed that has AF_XDP.
    pub(super) fn xdp_bench(netns: &str) -> Option<Self> {
        let program = shell::which("xdp-bench")?;
        let help = Command::new(&program).arg("help").output().ok()?;
        let has =
            [help.stdout, help.stderr].iter().any(|said| String::from_utf8_lossy(said).contains("xsk-drop"));
        if !has {
            eprintln!(
                "xtask: not compared with {}: it has no xsk-drop (xdp-tools 1.6 has)",
                program.display()
            );
        }
        has.then(|| Self::new("xdp-bench", Kind::XdpBench, program, netns))
    }

    fn new(name: &str, kind: Kind, program: PathBuf, netns: &str) -> Self {
        Self { name: name.to_owned(), kind, program, netns: netns.to_owned(), wrapper: Vec::new() }
    }

    /// The same, under another program.
    pub(super) fn under(mut self, wrapper: &[OsString]) -> Self {
        self.wrapper = wrapper.to_vec();
        self
    }

    /// xdp-bench neither forwards from one interface to another nor generates. What it sends back has its MACs
    /// swapped and nothing else, which is less than umemd and the minimal loop do.
    pub(super) fn can(&self, handler: Handler) -> bool {
        self.kind != Kind::XdpBench || matches!(handler, Handler::Drop | Handler::Reflect)
    }

    fn arguments(&self, handler: Handler) -> Vec<&str> {
        match self.kind {
            Kind::Umemd => {
                let mut args = vec!["run", "--iface", INTERFACE, "--steer", "udp dst port 7", "--json"];
                args.extend(["--netns", &self.netns, "--listen", "127.0.0.1:0", "--control", "none"]);
                args.extend(["--cpus", CPU, "--handler", name(handler)]);
                match handler {
                    Handler::Drop | Handler::Reflect => {}
                    Handler::Forward => args.extend(["--to", OTHER]),
                    // Nobody has this MAC: whoever gets it throws it away.
                    Handler::Generate => args.extend(["--dst-mac", "02:00:00:00:00:99"]),
                }
                args
            }
            Kind::Minimal if handler == Handler::Forward => vec![INTERFACE, name(handler), OTHER],
            Kind::Minimal => vec![INTERFACE, name(handler)],
            Kind::XdpBench => {
                let command = if handler == Handler::Reflect { "xsk-tx" } else { "xsk-drop" };
                vec![command, INTERFACE, "--poll", "--quiet", "--copy-mode", "copy"]
            }
        }
    }

    /// Starts it, and waits until it takes packets.
    pub(super) fn start(&self, handler: Handler) -> Result<Running> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]);
        if self.kind != Kind::Umemd {
            command.arg(shell::which("ip").context("there is no ip (package iproute2)")?);
            command.args(["netns", "exec", &self.netns]);
        }
        command.args(["taskset", "--cpu-list", CPU]);
        command.args(&self.wrapper).arg(&self.program).args(self.arguments(handler));
        if self.kind == Kind::XdpBench {
            // It does not wait for the queue if the one before has only just let go of it, and says each time
            // that there is no bpffs in the namespace.
            thread::sleep(SETTLE);
            command.stderr(Stdio::null());
        }
        command.env("UMEMD_LOG", "warn").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child =
            command.spawn().with_context(|| format!("cannot start {}", self.program.display()))?;
        let life_line = child.stdin.take();
        let mut running = Running { kind: self.kind, child, life_line };
        let start = Instant::now();
        // Of two interfaces umemd attaches to the second one last.
        let last = if self.kind == Kind::Umemd && handler == Handler::Forward { OTHER } else { INTERFACE };
        while !has_program(&self.netns, last)? {
            ensure!(start.elapsed() < START, "{} attached no program to {last}", self.name);
            if let Some(status) = running.child.try_wait()? {
                bail!("{} ended by itself ({status})", self.name);
            }
            thread::sleep(Duration::from_millis(10));
        }
        thread::sleep(SETTLE);
        Ok(running)
    }
}

/// A handler, as umemd and the minimal loop call it.
pub(super) fn name(handler: Handler) -> &'static str {
    match handler {
        Handler::Drop => "drop",
        Handler::Reflect => "reflect",
        Handler::Forward => "forward",
        Handler::Generate => "generate",
    }
}

/// How many packets the interface has sent so far.
pub(super) fn transmitted(netns: &str) -> Result<u64> {
    let mut ip = Command::new(shell::which("ip").context("there is no ip (package iproute2)")?);
    let shown =
        shell::run_quietly(ip.args(["-n", netns, "-stats", "-json", "link", "show", "dev", INTERFACE]))?;
    let links: Value = serde_json::from_str(&shown).context("ip -json printed something else")?;
    links[0]["stats64"]["tx"]["packets"].as_u64().context("ip told no tx packets")
}

/// Whether an XDP program is attached.
fn has_program(netns: &str, interface: &str) -> Result<bool> {
    let mut ip = Command::new(shell::which("ip").context("there is no ip (package iproute2)")?);
    let shown = shell::run_quietly(ip.args(["-n", netns, "link", "show", "dev", interface]))?;
    Ok(shown.contains("prog/xdp"))
}

/// A contestant at work. It is killed if this is dropped.
pub(super) struct Running {
    kind: Kind,
    child: Child,
    life_line: Option<ChildStdin>,
}

impl Running {
    /// What all its threads together had of a CPU, in user space and in the kernel.
    ///
    /// To the nanosecond, as the scheduler counts it (`/proc/PID/task/TID/schedstat`); `times(2)` counts ticks.
    pub(super) fn cpu_time(&self) -> Result<Duration> {
        let mut total = Duration::ZERO;
        for thread in self.threads()? {
            let file = format!("/proc/{}/task/{thread}/schedstat", self.child.id());
            let text = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
            let first = text.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
            total += Duration::from_nanos(first.with_context(|| format!("{file} has no number"))?);
        }
        Ok(total)
    }

    /// The ids of its threads.
    pub(super) fn threads(&self) -> Result<Vec<String>> {
        let tasks = format!("/proc/{}/task", self.child.id());
        let entries = fs::read_dir(&tasks).with_context(|| format!("cannot list {tasks}"))?;
        Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
    }

    /// Ends it: the packets that it received, and whether it found every frame again.
    pub(super) fn finish(mut self) -> Result<(u64, bool)> {
        match self.kind {
            Kind::Minimal => drop(self.life_line.take()),
            Kind::Umemd | Kind::XdpBench => kill_process(Pid::from_child(&self.child), Signal::INT)?,
        }
        let mut said = String::new();
        if let Some(mut stdout) = self.child.stdout.take() {
            stdout.read_to_string(&mut said)?;
        }
        let status = self.child.wait()?;
        ensure!(status.success(), "it ended with {status}");
        match self.kind {
            Kind::Umemd => {
                let summary: Value = serde_json::from_str(said.lines().last().unwrap_or_default())?;
                let received = summary["rx_packets"].as_u64().context("a summary without rx_packets")?;
                Ok((received, summary["conserved"] == true))
            }
            Kind::Minimal => Ok((said.trim().parse().context("the minimal loop says no number")?, true)),
            Kind::XdpBench => Ok((xdp_bench_total(&said)?, true)),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The packets in the closing lines of `xdp-bench`: `Totals:`, and below it ` RX    1234 pkts`.
fn xdp_bench_total(said: &str) -> Result<u64> {
    let totals = said.lines().skip_while(|line| !line.starts_with("Totals:"));
    let line = totals.skip(1).find_map(|line| line.trim_start().strip_prefix("RX "));
    // It may group thousands.
    let digits: String = line.unwrap_or_default().chars().filter(char::is_ascii_digit).collect();
    digits.parse().context("xdp-bench says no total")
}

/// What one run came to.
pub(super) struct Outcome {
    /// What was sent to it, if anything was.
    pub(super) sent: Option<u64>,
    /// What it received, or sent by itself.
    pub(super) packets: u64,
    pub(super) cpu_time: Duration,
    /// If they were counted.
    pub(super) syscalls: Option<u64>,
    pub(super) conserved: bool,
}

impl Outcome {
    /// Nanoseconds of CPU per packet.
    pub(super) fn cost(&self) -> Result<f64> {
        ensure!(self.packets > 0, "there was no packet");
        Ok(self.cpu_time.as_nanos() as f64 / self.packets as f64)
    }

    pub(super) fn syscalls_per_packet(&self) -> Option<f64> {
        self.syscalls.map(|calls| calls as f64 / self.packets as f64)
    }

    pub(super) fn lost(&self) -> u64 {
        self.sent.map_or(0, |sent| sent.saturating_sub(self.packets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_of_xdp_bench_is_the_first_one() {
        let said = "\nTotals:\n RX                     1,000,042 pkts\n TX                      7 pkts\n\n sock0:\n  \
                    RX                     3 pkts\n";
        assert_eq!(xdp_bench_total(said).unwrap(), 1_000_042);
        assert!(xdp_bench_total("nothing").is_err());
    }
}
