//! The umemd of the lab: a child that dies with us, and that only our signals reach.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};

use super::Event;
use super::report::Reports;

/// How often a child's end is looked for: no event says it.
const GLANCE: Duration = Duration::from_millis(20);

/// What umemd prints on stderr before the address, once it serves HTTP.
const LISTENING: &str = "listening on http://";

/// A running umemd, and all that the lab hears.
pub(crate) struct Agent {
    child: Child,
    status: Option<ExitStatus>,
    inbox: Receiver<Event>,
    output: Vec<JoinHandle<()>>,
    sent: Arc<AtomicU64>,
}

/// Why [`Agent::wake`] returned.
pub(crate) enum Wake {
    /// We are to end.
    Signal,
    /// umemd has ended.
    Ended,
    /// umemd serves HTTP at this address.
    Listening(String),
    /// It is time.
    Timeout,
}

impl Agent {
    /// Starts it. `json`: its stdout passes through us, and learns what was sent.
    pub(crate) fn start(
        umemd: &Path,
        args: &[OsString],
        json: bool,
        events: Sender<Event>,
        inbox: Receiver<Event>,
    ) -> Result<Self> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--"]).arg(umemd).args(args);
        // A group of its own: the terminal's Ctrl-C reaches us, and we pass it on when it is umemd's turn.
        command.process_group(0).stdin(Stdio::null()).stderr(Stdio::piped());
        command.stdout(if json { Stdio::piped() } else { Stdio::inherit() });
        let mut child = command.spawn().context("cannot start setpriv (package util-linux)")?;

        let sent = Arc::new(AtomicU64::new(0));
        let mut output = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            let (sent, events) = (Arc::clone(&sent), events.clone());
            output.push(thread::spawn(move || pass_on_reports(BufReader::new(stdout), &sent, &events)));
        }
        if let Some(stderr) = child.stderr.take() {
            output.push(thread::spawn(move || pass_on_log(BufReader::new(stderr), &events)));
        }
        Ok(Self { child, status: None, inbox, output, sent })
    }

    /// Where the sender's total belongs, so that it gets into the reports.
    pub(crate) fn sent(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.sent)
    }

    /// Waits for something to happen, until `deadline`.
    pub(crate) fn wake(&mut self, deadline: Instant) -> Wake {
        loop {
            if self.has_ended() {
                return Wake::Ended;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.inbox.recv_timeout(left.min(GLANCE)) {
                Ok(Event::Signal | Event::NobodyListens) => return Wake::Signal,
                Ok(Event::Listening(address)) => return Wake::Listening(address),
                Err(RecvTimeoutError::Disconnected) => thread::sleep(left.min(GLANCE)),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if Instant::now() >= deadline {
                return Wake::Timeout;
            }
        }
    }

    /// Whether umemd is gone.
    pub(crate) fn has_ended(&mut self) -> bool {
        if self.status.is_none() {
            self.status = self.child.try_wait().unwrap_or(None);
        }
        self.status.is_some()
    }

    /// Asks umemd to end.
    pub(crate) fn terminate(&mut self) {
        if !self.has_ended() {
            // It may end in between: then there is nobody to ask.
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        }
    }

    /// Ends umemd.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        self.status = self.child.wait().ok();
    }

    /// Waits for umemd's last words and returns its exit code; 128 and the signal if one ended it.
    pub(crate) fn exit_code(&mut self) -> Result<ExitCode> {
        let status = match self.status {
            Some(status) => status,
            None => self.child.wait().context("cannot wait for umemd")?,
        };
        for thread in self.output.drain(..) {
            let _ = thread.join();
        }
        if let Some(signal) = status.signal() {
            eprintln!("xtask: umemd was killed by signal {signal}");
        }
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        Ok(u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if !self.has_ended() {
            self.kill();
        }
    }
}

/// umemd's JSON lines to our stdout, each with what was sent so far.
fn pass_on_reports(lines: BufReader<impl std::io::Read>, sent: &AtomicU64, events: &Sender<Event>) {
    let mut listened = true;
    let mut reports = Reports::default();
    for line in lines.lines().map_while(Result::ok) {
        let line = reports.with_sent(&line, sent.load(Ordering::Relaxed));
        if listened && writeln!(std::io::stdout().lock(), "{line}").is_err() {
            // umemd must not find a broken pipe before it is told to end: read on, for nobody.
            listened = false;
            let _ = events.send(Event::NobodyListens);
        }
    }
}

/// umemd's log to our stderr, and the address it listens on to the lab.
fn pass_on_log(lines: BufReader<impl std::io::Read>, events: &Sender<Event>) {
    for line in lines.lines().map_while(Result::ok) {
        if let Some(address) = listening(&line) {
            let _ = events.send(Event::Listening(address.to_owned()));
        }
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    }
}

/// The address in umemd's line about its listener.
fn listening(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once(LISTENING)?;
    rest.split(|c: char| c == '/' || c.is_whitespace()).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_listener_is_found_in_the_log() {
        assert_eq!(
            listening("[INFO umemd] listening on http://127.0.0.1:19478/metrics"),
            Some("127.0.0.1:19478")
        );
        assert_eq!(listening("listening on http://[::1]:1"), Some("[::1]:1"));
        assert_eq!(listening("bound near0 queue 0"), None);
    }
}
