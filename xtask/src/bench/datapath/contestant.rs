//! Who takes packets: umemd, and what it is compared with.

use std::ffi::OsString;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
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
    /// For how long umemd lets frames gather, if it is told.
    rx_usecs: Option<String>,
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
    pub(super) fn umemd(program: PathBuf, netns: &str, rx_usecs: Option<u32>) -> Self {
        let rx_usecs = rx_usecs.map(|usecs| usecs.to_string());
        Self { rx_usecs, ..Self::new("umemd", Kind::Umemd, program, netns) }
    }

    pub(super) fn minimal(program: PathBuf, netns: &str) -> Self {
        Self::new("minimal", Kind::Minimal, program, netns)
    }

    /// `xdp-bench` of xdp-tools, if one is installed that has AF_XDP.
    pub(super) fn xdp_bench(netns: &str) -> Option<Self> {
        let Some(program) = shell::which("xdp-bench") else {
            eprintln!("xtask: not compared with xdp-bench, which is not installed (xdp-tools 1.6 has it)");
            return None;
        };
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

    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    fn new(name: &str, kind: Kind, program: PathBuf, netns: &str) -> Self {
        let (name, netns) = (name.to_owned(), netns.to_owned());
        Self { name, kind, program, netns, rx_usecs: None, wrapper: Vec::new() }
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
                args.extend(self.rx_usecs.iter().flat_map(|usecs| ["--rx-usecs", usecs]));
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
        // Of two interfaces umemd attaches to the second one last.
        let last = if self.kind == Kind::Umemd && handler == Handler::Forward { OTHER } else { INTERFACE };
        let running = Running::start(self.kind, &mut command, &self.netns, last)?;
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

/// How many packets the interface that a handler sends by has sent so far.
pub(super) fn transmitted(netns: &str, handler: Handler) -> Result<u64> {
    let interface = if handler == Handler::Forward { OTHER } else { INTERFACE };
    let mut ip = Command::new(shell::which("ip").context("there is no ip (package iproute2)")?);
    let shown =
        shell::run_quietly(ip.args(["-n", netns, "-stats", "-json", "link", "show", "dev", interface]))?;
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
    /// umemd, as soon as its program is attached to `interface`.
    pub(super) fn umemd(command: &mut Command, netns: &str, interface: &str) -> Result<Self> {
        Self::start(Kind::Umemd, command, netns, interface)
    }

    fn start(kind: Kind, command: &mut Command, netns: &str, interface: &str) -> Result<Self> {
        let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let life_line = child.stdin.take();
        let mut running = Self { kind, child, life_line };
        let start = Instant::now();
        while !has_program(netns, interface)? {
            ensure!(start.elapsed() < START, "{command:?} attached no program to {interface}");
            if let Some(status) = running.child.try_wait()? {
                bail!("{command:?} ended by itself ({status})");
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(running)
    }

    /// What all its threads together had of a CPU so far, and how long one waited for it.
    pub(super) fn cpu_time(&self) -> Result<CpuTime> {
        let mut sum = CpuTime::default();
        for thread in self.threads()? {
            let read = |name: &str| {
                let file = format!("/proc/{}/task/{thread}/{name}", self.child.id());
                fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))
            };
            let (had, waited) = had_and_waited(&read("schedstat")?).context("a schedstat without times")?;
            sum.total += had;
            sum.waited = sum.waited.max(waited);
            let (user, system) = user_and_system(&read("stat")?).context("a stat without times")?;
            sum.user += user;
            sum.system += system;
        }
        Ok(sum)
    }

    /// The ids of its threads.
    pub(super) fn threads(&self) -> Result<Vec<String>> {
        let tasks = format!("/proc/{}/task", self.child.id());
        let entries = fs::read_dir(&tasks).with_context(|| format!("cannot list {tasks}"))?;
        Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
    }

    /// Ends it, and hears what it says of itself.
    pub(super) fn finish(mut self) -> Result<Said> {
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
            Kind::Umemd => Said::of_umemd(&said),
            Kind::Minimal => Ok(Said::only(said.trim().parse().context("the minimal loop says no number")?)),
            Kind::XdpBench => Ok(Said::only(xdp_bench_total(&said)?)),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a contestant says of itself when it ends.
pub(super) struct Said {
    /// What it received, or sent by itself.
    pub(super) packets: u64,
    /// How much of what it allocated had been recycled, if it knows.
    pub(super) recycle_ratio: Option<f64>,
    /// Whether it found every frame again; who does not look is not blamed.
    pub(super) conserved: bool,
}

impl Said {
    /// The last line of `umemd run --json`.
    fn of_umemd(said: &str) -> Result<Self> {
        let summary: Value = serde_json::from_str(said.lines().last().unwrap_or_default())?;
        let number = |key: &str| summary[key].as_u64().with_context(|| format!("a summary without {key}"));
        // What generates receives nothing.
        let packets = number("rx_packets")?.max(number("tx_packets")?);
        let recycle_ratio = summary["recycle_ratio"].as_f64();
        Ok(Self { packets, recycle_ratio, conserved: summary["conserved"] == true })
    }

    fn only(packets: u64) -> Self {
        Self { packets, recycle_ratio: None, conserved: true }
    }
}

/// What somebody had of a CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CpuTime {
    /// To the nanosecond, as the scheduler counts it (`/proc/PID/task/TID/schedstat`).
    pub(super) total: Duration,
    /// Of that, in user space: by ticks, so good enough for a share only.
    user: Duration,
    /// In the kernel, the same.
    system: Duration,
    /// For how long the thread that waited most was ready to run while another had the CPU.
    pub(super) waited: Duration,
}

impl CpuTime {
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            total: self.total - before.total,
            user: self.user.saturating_sub(before.user),
            system: self.system.saturating_sub(before.system),
            waited: self.waited.saturating_sub(before.waited),
        }
    }

    /// Which part of it was in user space.
    pub(super) fn user_share(self) -> f64 {
        let both = self.user + self.system;
        if both.is_zero() { 0.0 } else { self.user.as_nanos() as f64 / both.as_nanos() as f64 }
    }
}

/// The first two numbers of a thread's `schedstat`: nanoseconds on a CPU, and ready to run without one.
fn had_and_waited(schedstat: &str) -> Option<(Duration, Duration)> {
    let mut fields = schedstat.split_whitespace();
    let mut next = || Some(Duration::from_nanos(fields.next()?.parse().ok()?));
    Some((next()?, next()?))
}

/// The times in a thread's `stat`: ticks of 1/100 s.
fn user_and_system(stat: &str) -> Option<(Duration, Duration)> {
    // The name stands before it, in brackets, and may have brackets of its own.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
    let mut next = || Some(Duration::from_millis(10 * fields.next()?.parse::<u64>().ok()?));
    Some((next()?, next()?))
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
    /// What it received, or sent by itself, in that time.
    pub(super) packets: u64,
    /// What of that it passed on, if that is its work.
    pub(super) carried: u64,
    /// What was sent to it and it did not receive, or did not pass on if that is its work; of who sends by itself,
    /// what it says that it sent and its device did not.
    pub(super) lost: u64,
    pub(super) cpu_time: CpuTime,
    pub(super) recycle_ratio: Option<f64>,
    /// If they were counted.
    pub(super) syscalls: Option<u64>,
    pub(super) conserved: bool,
}

impl Outcome {
    /// Nanoseconds of CPU per packet.
    pub(super) fn cost(&self) -> Result<f64> {
        ensure!(self.packets > 0, "there was no packet");
        Ok(self.cpu_time.total.as_nanos() as f64 / self.packets as f64)
    }

    pub(super) fn syscalls_per_packet(&self) -> Option<f64> {
        self.syscalls.map(|calls| calls as f64 / self.packets as f64)
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

    #[test]
    fn user_and_system_time_are_told_apart() {
        let stat = "7 (near0/0) x) R 1 7 7 0 -1 4194304 90 0 0 0 30 10 0 0 20 0 3 0 5 6 7";
        let (user, system) = user_and_system(stat).unwrap();
        assert_eq!((user, system), (Duration::from_millis(300), Duration::from_millis(100)));
        let (total, waited) = had_and_waited("401000000 2000000 77\n").unwrap();
        assert_eq!((total, waited), (Duration::from_millis(401), Duration::from_millis(2)));
        assert_eq!(had_and_waited("401000000"), None);
        let time = CpuTime { total, user, system, waited };
        assert_eq!(time.since(CpuTime::default()).user_share(), 0.75);
        assert_eq!(time.since(time).user_share(), 0.0);
        assert_eq!(user_and_system("7 (near0/0) R 1"), None);
    }
}
