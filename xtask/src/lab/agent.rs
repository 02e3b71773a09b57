//! The umemd of the lab: a child that dies with us, and that only our signals reach.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};

use super::lines::Lines;
use super::report::Reports;

/// What umemd prints on stderr before the address, once it serves HTTP.
const LISTENING: &str = "listening on http://";

/// A running umemd, and what it says.
pub(crate) struct Agent {
    child: Child,
    status: Option<ExitStatus>,
    log: Option<Lines<ChildStderr>>,
    output: Option<Lines<ChildStdout>>,
    reports: Reports,
    /// Why our stdout takes no more.
    refused: Option<io::Error>,
    terminated: bool,
}

/// How long the last words wait for whoever reads them.
const PATIENCE: Duration = Duration::from_secs(2);

impl Agent {
    /// Starts it. What it prints passes through us, and reports learn what was sent.
    pub(crate) fn start(umemd: &Path, args: &[OsString]) -> Result<Self> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--"]).arg(umemd).args(args);
        // A group of its own: the terminal's Ctrl-C reaches us, and we pass it on when it is umemd's turn.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot start setpriv (package util-linux)")?;
        let log = child.stderr.take().map(Lines::new);
        let output = child.stdout.take().map(Lines::new);
        Ok(Self {
            child,
            status: None,
            log,
            output,
            reports: Reports::default(),
            refused: None,
            terminated: false,
        })
    }

    /// Readable when umemd has logged something; nothing while our stderr would make us wait.
    pub(crate) fn log_fd(&self) -> Option<BorrowedFd<'_>> {
        self.log.as_ref().filter(|_| takes(io::stderr(), Duration::ZERO)).map(|log| log.as_fd())
    }

    /// Readable when umemd has reported something; nothing while our stdout would make us wait.
    pub(crate) fn output_fd(&self) -> Option<BorrowedFd<'_>> {
        self.output.as_ref().filter(|_| takes(io::stdout(), Duration::ZERO)).map(|output| output.as_fd())
    }

    /// Passes the log on to our stderr; the address, if umemd has said that it listens.
    pub(crate) fn pass_on_log(&mut self) -> Option<String> {
        let lines = Lines::read(&mut self.log);
        let address = lines.iter().find_map(|line| listening(line)).map(str::to_owned);
        for line in lines {
            let _ = writeln!(io::stderr().lock(), "{line}");
        }
        address
    }

    /// Passes the reports on to our stdout, each with what was sent; whether it takes them.
    pub(crate) fn pass_on_output(&mut self, sent: u64) -> bool {
        for line in Lines::read(&mut self.output) {
            let line = self.reports.with_sent(&line, sent);
            self.print(&line);
        }
        self.refused.is_none()
    }

    /// Writes a line to stdout. Should nobody read it any more, then umemd is told to end, and read on for nobody.
    pub(crate) fn print(&mut self, line: &str) {
        if self.refused.is_none() {
            self.refused = writeln!(io::stdout().lock(), "{line}").err();
        }
    }

    /// Whether umemd is gone.
    pub(crate) fn has_ended(&mut self) -> bool {
        if self.status.is_none() {
            self.status = self.child.try_wait().unwrap_or(None);
        }
        self.status.is_some()
    }

    /// Whether umemd was asked to end.
    pub(crate) fn is_terminated(&self) -> bool {
        self.terminated
    }

    /// Asks umemd to end.
    pub(crate) fn terminate(&mut self) {
        self.terminated = true;
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

    /// umemd's last words, and its exit code; 128 and the signal if one ended it.
    pub(crate) fn exit_code(&mut self, sent: u64) -> Result<ExitCode> {
        let status = match self.status {
            Some(status) => status,
            None => self.child.wait().context("cannot wait for umemd")?,
        };
        while self.log.is_some() && takes(io::stderr(), PATIENCE) {
            self.pass_on_log();
        }
        while self.output.is_some() && takes(io::stdout(), PATIENCE) {
            self.pass_on_output(sent);
        }
        let code = match status.signal() {
            // Ours came before umemd listened for it.
            Some(signal) if signal == Signal::TERM.as_raw() && self.terminated => 0,
            Some(signal) => {
                let _ = writeln!(io::stderr(), "xtask: umemd was killed by signal {signal}");
                128 + signal
            }
            None => status.code().unwrap_or(1),
        };
        if self.output.is_some() {
            bail!("nobody reads the report: its end is not written");
        }
        match self.refused.take() {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(error).context("cannot write the report")
            }
            _ => Ok(u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)),
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if !self.has_ended() {
            self.kill();
        }
    }
}

/// Whether a stream can be written to without waiting, or has an end at which writing fails at once.
fn takes(stream: impl AsFd, patience: Duration) -> bool {
    let mut fds = [PollFd::new(&stream, PollFlags::OUT)];
    let patience = Timespec { tv_sec: patience.as_secs() as _, tv_nsec: patience.subsec_nanos().into() };
    poll(&mut fds, Some(&patience)).is_ok_and(|ready| ready > 0)
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
