//! The thread of one crew.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use datapath::{FinalReport, Kick, Turn};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec},
    fd::{AsFd as _, OwnedFd},
    io::Errno,
    net::xdp::XdpStatistics,
    thread::CpuSet,
};
use tokio::sync::oneshot;

use super::crew::{self, Crew};
use crate::xsk::XskPort;

/// How long an idle worker sleeps at most: its turns are its heartbeat.
const IDLE: Duration = Duration::from_millis(100);
/// The same while frames are being sent: nothing wakes a sleeper when a completion arrives.
const SENDING: Duration = Duration::from_millis(1);
/// The same after a turn that readers were not shown: the next one is.
const UNPUBLISHED: Duration = Duration::from_millis(5);
/// How long a stopping worker waits for frames that the kernel still sends.
const DRAIN: Duration = Duration::from_secs(1);

/// Why a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// It was asked to.
    Asked,
    /// There was nothing more to do.
    Done,
    /// Its handler panicked.
    Panicked,
}

/// What a worker leaves behind.
#[derive(Debug)]
pub(super) struct End {
    pub(super) why: Why,
    /// Where the frames are, and the statistics of the socket at the moment before it was closed; one of each
    /// per side.
    pub(super) sides: Vec<(FinalReport, Option<XdpStatistics>)>,
}

/// Tells a worker to stop, and wakes it for that.
#[derive(Debug)]
pub(super) struct Stop {
    asked: AtomicBool,
    wake: OwnedFd,
}

impl Stop {
    fn new() -> io::Result<Self> {
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { asked: AtomicBool::new(false), wake })
    }

    /// The worker finishes its turn, drains, and ends.
    pub(super) fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
        // Fails only if it would overflow a u64: the worker then has long been woken.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }
}

/// A running worker, as the control plane sees it.
#[derive(Debug)]
pub(super) struct Running {
    thread: JoinHandle<()>,
    pub(super) stop: Arc<Stop>,
    end: oneshot::Receiver<End>,
}

impl Running {
    /// Whether the thread is gone.
    pub(super) fn is_gone(&self) -> bool {
        self.thread.is_finished()
    }

    /// What it left behind; `None` if it panicked even when it ended.
    pub(super) async fn end(self) -> Option<End> {
        self.end.await.ok()
    }
}

/// How a thread is to run.
#[derive(Clone, Debug)]
pub(super) struct Post {
    /// Its name.
    pub(super) name: String,
    /// Where it is pinned.
    pub(super) cpu: usize,
    /// Whether it never sleeps.
    pub(super) spin: bool,
    /// Time zero of its turns.
    pub(super) epoch: Instant,
}

/// Starts the thread, in the network namespace of the caller.
pub(super) fn spawn(post: Post, crew: Box<dyn Crew>) -> io::Result<Running> {
    let stop = Arc::new(Stop::new()?);
    let (sender, end) = oneshot::channel();
    let thread = thread::Builder::new().name(post.name.clone()).spawn({
        let stop = Arc::clone(&stop);
        move || {
            pin(&post);
            // The control plane may have given up on us; then nobody wants to know.
            let _ = sender.send(run(crew, &stop, &post));
        }
    })?;
    Ok(Running { thread, stop, end })
}

fn pin(post: &Post) {
    let mut only = CpuSet::new();
    only.set(post.cpu);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &only) {
        log::warn!("{} is not pinned to CPU {}: {error}", post.name, post.cpu);
    }
}

fn run(mut crew: Box<dyn Crew>, stop: &Stop, post: &Post) -> End {
    let now = || post.epoch.elapsed();
    // A handler that panics was in the middle of a turn. Rust drops what that had in its hands, so that those
    // frames are lost: they stay where the pool last saw them, with the user, and the law says so. All else of
    // the worker is as it was between two calls, and the kernel's frames can be taken home.
    let worked = catch_unwind(AssertUnwindSafe(|| work(&mut *crew, stop, post)));
    let why = worked.unwrap_or(Why::Panicked);
    let statistics: Vec<_> = {
        let (first, second) = crew.ports();
        [Some(first), second].into_iter().flatten().map(XskPort::statistics).collect()
    };
    End { why, sides: crew.finish(now()).into_iter().zip(statistics).collect() }
}

/// Turns until asked to stop, or done; then drains.
fn work(crew: &mut dyn Crew, stop: &Stop, post: &Post) -> Why {
    let now = || post.epoch.elapsed();
    let why = loop {
        let turn = crew.poll_once(now());
        if stop.asked() {
            break Why::Asked;
        }
        if crew.is_done() {
            break Why::Done;
        }
        match longest_nap(&turn, || crew.is_sending(), now) {
            Some(_) if post.spin => std::hint::spin_loop(),
            Some(longest) => sleep(crew, stop, longest),
            None => {}
        }
    };

    // The program is detached: what is on the RX ring now is all that there will be. It is still handled.
    let deadline = Instant::now() + DRAIN;
    while why == Why::Asked && !crew.poll_once(now()).is_idle() && Instant::now() < deadline {}
    // Then nothing is taken in any more, and what was sent is waited for.
    while crew.drain_once(now()).left > 0 && Instant::now() < deadline {
        thread::sleep(SENDING);
    }
    why
}

/// How long the worker may sleep now; `None`: not at all.
fn longest_nap(turn: &Turn, is_sending: impl Fn() -> bool, now: impl Fn() -> Duration) -> Option<Duration> {
    if !turn.may_sleep() {
        return None;
    }
    // While the interface is down nothing completes, however often one looks.
    let longest = if turn.kick != Kick::Down && is_sending() { SENDING } else { IDLE };
    let longest = if turn.published { longest } else { longest.min(UNPUBLISHED) };
    let longest = turn.next.map_or(longest, |next| longest.min(next.saturating_sub(now())));
    (!longest.is_zero()).then_some(longest)
}

/// Sleeps until a frame arrives, the worker is to stop, or the time is up. In copy mode the kernel also sends
/// what is on the TX ring (`xsk_poll`).
fn sleep(crew: &dyn Crew, stop: &Stop, longest: Duration) {
    let mut fds = [(); 3].map(|()| PollFd::from_borrowed_fd(stop.wake.as_fd(), PollFlags::IN));
    let mut count = 1;
    for (slot, socket) in fds[1..].iter_mut().zip(crew::sockets(crew)) {
        *slot = PollFd::from_borrowed_fd(socket, PollFlags::IN);
        count += 1;
    }
    let woken = poll(&mut fds[..count], longest);
    // An interface that is gone wakes at once each time. What comes next is being told to stop.
    let gone = fds[1..count].iter().any(|fd| fd.revents().intersects(PollFlags::ERR | PollFlags::HUP));
    if !woken || gone {
        // poll() fails for want of memory only. Without this sleep both would spin.
        poll(&mut fds[..1], SENDING);
    }
}

fn poll(fds: &mut [PollFd<'_>], longest: Duration) -> bool {
    let timeout = Timespec { tv_sec: longest.as_secs() as _, tv_nsec: longest.subsec_nanos().into() };
    matches!(rustix::event::poll(fds, Some(&timeout)), Ok(_) | Err(Errno::INTR))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_sleeps_no_longer_than_what_it_has_left_to_do_allows() {
        let idle = Turn { published: true, ..Turn::default() };
        let ms = Duration::from_millis;
        let nap = |turn: Turn, is_sending| longest_nap(&turn, || is_sending, || ms(100));
        assert_eq!(nap(idle, false), Some(IDLE));
        assert_eq!(nap(Turn { published: false, ..idle }, false), Some(UNPUBLISHED));
        assert_eq!(nap(idle, true), Some(SENDING));
        assert_eq!(nap(Turn { kick: Kick::Down, ..idle }, true), Some(IDLE), "nothing completes");
        assert_eq!(nap(Turn { next: Some(ms(103)), ..idle }, false), Some(ms(3)));
        assert_eq!(nap(Turn { next: Some(ms(99)), ..idle }, false), None);
        assert_eq!(nap(Turn { more: true, ..idle }, false), None);
        assert_eq!(nap(Turn { kick: Kick::Again, ..idle }, true), None);
    }
}
