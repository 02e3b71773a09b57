//! All that the lab waits for: umemd, the sender, signals, the clock.
//!
//! In one thread, and not only because that is simple: the kernel sends a child's `PR_SET_PDEATHSIG` again for
//! each thread of its parent that dies (kernel/exit.c: forget_original_parent), and umemd takes a second SIGTERM
//! as an order to end at once.

use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

use super::agent::Agent;
use super::sender::RunningSender;

/// How often a child's end is looked for: no descriptor of ours says it.
const GLANCE: Duration = Duration::from_millis(20);

/// Readable once SIGINT, SIGTERM or SIGHUP has come; none of them ends us from here on.
pub(crate) struct Signals(UnixStream);

impl Signals {
    /// Starts to catch them.
    pub(crate) fn catch() -> Result<Self> {
        let (ours, theirs) = UnixStream::pair().context("cannot make a pipe for signals")?;
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            pipe::register(signal, theirs.try_clone()?).context("cannot handle signals")?;
        }
        Ok(Self(ours))
    }

    /// Waits for one, for a while. However many have come by then: they are one wish.
    pub(crate) fn have_come(&self, timeout: Duration) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN)];
        let timeout = Timespec { tv_sec: 0, tv_nsec: timeout.as_nanos().min(999_999_999) as _ };
        let _ = poll(&mut fds, Some(&timeout));
        !fds[0].revents().is_empty() && (&self.0).read(&mut [0; 64]).is_ok_and(|count| count > 0)
    }
}

/// The running lab.
pub(crate) struct Watch {
    signals: Signals,
    pub(crate) agent: Agent,
    /// Once umemd is ready.
    pub(crate) sender: Option<RunningSender>,
}

/// Why [`Watch::wake`] returned.
pub(crate) enum Wake {
    /// We are to end: a signal came, or nobody reads what we print.
    End,
    /// umemd has ended.
    Ended,
    /// umemd serves HTTP at this address.
    Listening(String),
    /// It is time.
    Timeout,
}

impl Watch {
    /// Without a sender yet.
    pub(crate) fn new(signals: Signals, agent: Agent) -> Self {
        Self { signals, agent, sender: None }
    }

    /// How many datagrams the sender's socket took so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sender.as_ref().map_or(0, RunningSender::sent)
    }

    /// Waits for something to happen, until `deadline`; meanwhile passes on what umemd says.
    pub(crate) fn wake(&mut self, deadline: Instant) -> Wake {
        let mut listened = true;
        loop {
            if self.agent.has_ended() {
                return Wake::Ended;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let [signal, totals, log, output] = self.readable(left.min(GLANCE));
            if signal {
                // However many have come by now: they are one wish.
                let _ = self.signals.0.read(&mut [0; 64]);
                return Wake::End;
            }
            // The total first: it is at most the sender's 20 ms older than the report that it goes with.
            if totals && let Some(sender) = &mut self.sender {
                sender.read_totals();
            }
            if output {
                let sent = self.sent();
                let was = std::mem::replace(&mut listened, self.agent.pass_on_output(sent));
                if was && !listened && !self.agent.is_terminated() {
                    return Wake::End;
                }
            }
            if log && let Some(address) = self.agent.pass_on_log() {
                return Wake::Listening(address);
            }
            if Instant::now() >= deadline {
                return Wake::Timeout;
            }
        }
    }

    /// Waits until one of these can be read: signals, the sender's totals, umemd's log, umemd's output.
    fn readable(&self, timeout: Duration) -> [bool; 4] {
        let sources = [
            Some(self.signals.0.as_fd()),
            self.sender.as_ref().and_then(RunningSender::totals_fd),
            self.agent.log_fd(),
            self.agent.output_fd(),
        ];
        let mut fds: Vec<_> =
            sources.iter().flatten().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        let timeout = Timespec { tv_sec: 0, tv_nsec: timeout.as_nanos().min(999_999_999) as _ };
        // An interrupted poll has nothing to report.
        let _ = poll(&mut fds, Some(&timeout));
        let mut fds = fds.iter();
        sources.map(|source| source.is_some() && fds.next().is_some_and(|fd| !fd.revents().is_empty()))
    }
}
