//! The lab's sender: UDP from a real socket, through the stack, paced, and counted.
//!
//! It runs as a process of its own inside the far namespace. Its stdin is its life line: when that closes,
//! because the lab says stop or is no more, it prints its last total and ends.

use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::net::UdpSocket;
use std::os::fd::BorrowedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

use super::lines::Lines;
use crate::cli::{LabSend, Traffic};
use crate::shell;

/// Ethernet, IPv4 and UDP in front of what a socket sends.
const HEADERS: usize = 14 + 20 + 8;

/// How often it says how much it has sent.
const REPORT: Duration = Duration::from_millis(20);

/// At most so much is made up for after a pause, so that a busy machine does not turn pace into bursts
/// that no ring holds.
const CATCH_UP: Duration = Duration::from_millis(2);

/// Frames between two looks at the clock when unpaced.
const BATCH: u64 = 64;

/// A sender that this process started.
pub(crate) struct RunningSender {
    child: Child,
    life_line: Option<ChildStdin>,
    totals: Option<Lines<ChildStdout>>,
    sent: u64,
}

impl RunningSender {
    /// Starts it in namespace `netns`.
    pub(crate) fn start(netns: &str, to: &str, traffic: &Traffic) -> Result<Self> {
        Self::start_under(&[], netns, to, traffic)
    }

    /// Starts it there on one CPU.
    pub(crate) fn start_on(cpu: &str, netns: &str, to: &str, traffic: &Traffic) -> Result<Self> {
        Self::start_under(&["taskset", "--cpu-list", cpu], netns, to, traffic)
    }

    fn start_under(wrapper: &[&str], netns: &str, to: &str, traffic: &Traffic) -> Result<Self> {
        let xtask = std::env::current_exe().context("cannot find the running xtask")?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]);
        command.arg(shell::which("ip").context("there is no ip (package iproute2)")?);
        command
            .args(["netns", "exec", netns])
            .args(wrapper)
            .arg(xtask)
            .args(["lab-send", "--to", to])
            .args(flags(traffic));
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start the lab's sender")?;
        let life_line = child.stdin.take();
        let totals = child.stdout.take().map(Lines::new);
        Ok(Self { child, life_line, totals, sent: 0 })
    }

    /// How many datagrams its socket took, as far as it was heard.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Readable when there is a newer total.
    pub(crate) fn totals_fd(&self) -> Option<BorrowedFd<'_>> {
        self.totals.as_ref().map(|totals| totals.as_fd())
    }

    /// Hears it.
    pub(crate) fn read_totals(&mut self) {
        if let Some(total) = Lines::read(&mut self.totals).iter().rev().find_map(|line| line.parse().ok()) {
            self.sent = total;
        }
    }

    /// What went wrong, if it ended by itself.
    pub(crate) fn failure(&mut self) -> Option<anyhow::Error> {
        let status = self.child.try_wait().ok()??;
        Some(anyhow!("the lab's sender ended by itself ({status})"))
    }

    /// Ends it, and hears its last total.
    pub(crate) fn stop(&mut self) {
        self.life_line = None;
        while self.totals.is_some() {
            self.read_totals();
        }
        let _ = self.child.wait();
    }
}

impl Drop for RunningSender {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The flags that stand for this traffic.
pub(crate) fn flags(traffic: &Traffic) -> [OsString; 4] {
    ["--rate".into(), traffic.rate.to_string().into(), "--size".into(), traffic.size.to_string().into()]
}

/// `xtask lab-send`: sends until stdin closes.
pub(crate) fn send(options: &LabSend) -> Result<()> {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).context("cannot open the sender's socket")?;
    socket.connect(options.to).with_context(|| format!("no way to {}", options.to))?;
    let stopped = Arc::new(AtomicBool::new(false));
    thread::spawn({
        let stopped = Arc::clone(&stopped);
        move || {
            let _ = io::stdin().read_to_end(&mut Vec::new());
            stopped.store(true, Ordering::Relaxed);
        }
    });

    let mut payload = vec![0; usize::from(options.traffic.size) - HEADERS];
    let mut pace = Pace::new(options.traffic.rate, Instant::now());
    let mut reported = Instant::now();
    let mut sent: u64 = 0;
    while !stopped.load(Ordering::Relaxed) {
        let now = Instant::now();
        for _ in 0..pace.due(now) {
            number(&mut payload, sent);
            match socket.send(&payload) {
                Ok(_) => sent += 1,
                // Not taken: the stack is out of buffers, or it says that nobody listened to an earlier one.
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error).context(format!("cannot send to {}", options.to)),
            }
        }
        if now - reported >= REPORT {
            reported = now;
            say(sent)?;
        }
        if options.traffic.rate != 0 {
            thread::sleep(Duration::from_micros(200));
        }
    }
    say(sent)
}

/// The running number of a datagram, in its first bytes, as many as there are.
fn number(payload: &mut [u8], number: u64) {
    payload.iter_mut().zip(number.to_le_bytes()).for_each(|(byte, digit)| *byte = digit);
}

fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, Interrupted, WouldBlock};
    matches!(error.kind(), ConnectionRefused | Interrupted | WouldBlock)
        || error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error())
}

fn say(total: u64) -> Result<()> {
    writeln!(io::stdout().lock(), "{total}").context("the lab does not read any more")
}

/// How many datagrams are due when.
struct Pace {
    rate: u64,
    start: Instant,
    /// Due since `start`, and handed out.
    given: u64,
}

impl Pace {
    /// `rate` per second; 0 is no pace at all.
    fn new(rate: u64, now: Instant) -> Self {
        Self { rate, start: now, given: 0 }
    }

    fn due(&mut self, now: Instant) -> u64 {
        if self.rate == 0 {
            return BATCH;
        }
        let rate = u128::from(self.rate);
        let due = u64::try_from(now.saturating_duration_since(self.start).as_nanos() * rate / 1_000_000_000);
        let mut batch = due.unwrap_or(u64::MAX) - self.given;
        let most = u64::try_from(CATCH_UP.as_nanos() * rate / 1_000_000_000).unwrap_or(u64::MAX).max(1);
        if batch > most {
            // What is missed stays missed.
            self.given += batch - most;
            batch = most;
        }
        self.given += batch;
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_kept_over_uneven_turns() {
        let start = Instant::now();
        let mut pace = Pace::new(100_000, start);
        let mut total = 0;
        let mut now = start;
        for turn in 0..10_000 {
            now += Duration::from_micros(if turn % 3 == 0 { 7 } else { 251 });
            total += pace.due(now);
        }
        let expected = u64::try_from((now - start).as_nanos() / 10_000).unwrap();
        assert_eq!(total, expected);
    }

    #[test]
    fn a_pause_is_not_made_up_for_by_a_flood() {
        let start = Instant::now();
        let mut pace = Pace::new(100_000, start);
        assert_eq!(pace.due(start + Duration::from_secs(1)), 200);
        assert_eq!(pace.due(start + Duration::from_secs(1)), 0);
        assert_eq!(pace.due(start + Duration::from_millis(1001)), 100);
    }

    #[test]
    fn a_slow_pace_still_sends() {
        let start = Instant::now();
        let mut pace = Pace::new(1, start);
        assert_eq!(pace.due(start + Duration::from_millis(999)), 0);
        assert_eq!(pace.due(start + Duration::from_millis(1000)), 1);
    }

    #[test]
    fn short_payloads_are_numbered_as_far_as_they_go() {
        let mut payload = [9; 3];
        number(&mut payload, 0x0403_0201);
        assert_eq!(payload, [1, 2, 3]);
        number(&mut [], 1);
    }
}
