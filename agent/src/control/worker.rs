//! The thread of one queue.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use datapath::{
    FinalReport, PacketHandler, Verdict, Worker,
    handlers::{Drop, Reflect},
};
use rustix::{
    event::EventfdFlags,
    fd::{AsFd as _, OwnedFd},
    net::xdp::XdpStatistics,
    thread::CpuSet,
};
use tokio::sync::oneshot;

use crate::{config::Handler, xsk::XskPort};

/// How long an idle worker sleeps at most: its turns are its heartbeat.
const IDLE: Duration = Duration::from_millis(100);
/// The same while frames are being sent: nothing wakes a sleeper when a completion arrives.
const SENDING: Duration = Duration::from_millis(1);
/// How long a stopping worker waits for frames that the kernel still sends.
const DRAIN: Duration = Duration::from_secs(1);

/// A worker of the agent: one of the built-in handlers on an AF_XDP socket.
pub(super) type QueueWorker = Worker<XskPort, BuiltIn>;

/// The built-in handlers. An enum and not a `dyn`: the match is predicted, and the handlers are inlined.
#[derive(Debug)]
pub(super) enum BuiltIn {
    Drop(Drop),
    Reflect(Reflect),
}

impl From<Handler> for BuiltIn {
    fn from(handler: Handler) -> Self {
        match handler {
            Handler::Drop => Self::Drop(Drop),
            Handler::Reflect => Self::Reflect(Reflect),
        }
    }
}

impl PacketHandler for BuiltIn {
    #[inline]
    fn handle(&mut self, frame: &mut [u8]) -> Verdict {
        match self {
            Self::Drop(handler) => handler.handle(frame),
            Self::Reflect(handler) => handler.handle(frame),
        }
    }
}

/// What a worker leaves behind.
#[derive(Debug)]
pub(super) struct End {
    /// Where the frames are.
    pub(super) report: FinalReport,
    /// The socket's statistics at the moment before it was closed.
    pub(super) xsk: Option<XdpStatistics>,
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
    /// Whether the thread is gone. Unless it was asked to stop, it panicked.
    pub(super) fn is_gone(&self) -> bool {
        self.thread.is_finished()
    }

    /// What it left behind; `None` if it panicked.
    pub(super) async fn end(self) -> Option<End> {
        self.end.await.ok()
    }
}

/// Starts the thread, pinned to `cpu`, in the network namespace of the caller. `epoch` is time zero of its turns.
pub(super) fn spawn(name: String, worker: QueueWorker, cpu: usize, epoch: Instant) -> io::Result<Running> {
    let stop = Arc::new(Stop::new()?);
    let (sender, end) = oneshot::channel();
    let thread = thread::Builder::new().name(name.clone()).spawn({
        let stop = Arc::clone(&stop);
        move || {
            pin(&name, cpu);
            // The control plane may have given up on us; then nobody wants to know.
            let _ = sender.send(run(worker, &stop, epoch));
        }
    })?;
    Ok(Running { thread, stop, end })
}

fn pin(name: &str, cpu: usize) {
    let mut only = CpuSet::new();
    only.set(cpu);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &only) {
        log::warn!("{name} is not pinned to CPU {cpu}: {error}");
    }
}

fn run(mut worker: QueueWorker, stop: &Stop, epoch: Instant) -> End {
    let now = || epoch.elapsed();

    while !stop.asked() {
        if worker.poll_once(now()).may_sleep() {
            sleep(&worker, stop, if worker.is_sending() { SENDING } else { IDLE });
        }
    }

    // The program is detached: what is on the RX ring now is all that there will be. It is still handled.
    let deadline = Instant::now() + DRAIN;
    while !worker.poll_once(now()).is_idle() && Instant::now() < deadline {}
    // Then nothing is taken in any more, and what was sent is waited for.
    while worker.drain_once(now()).left > 0 && Instant::now() < deadline {
        thread::sleep(SENDING);
    }
    let xsk = worker.port().statistics();
    End { report: worker.finish(now()), xsk }
}

fn sleep(worker: &QueueWorker, stop: &Stop, longest: Duration) {
    if worker.port().wait(stop.wake.as_fd(), longest).is_err() {
        // poll() fails for want of memory only. Without the sleep this would spin.
        thread::sleep(SENDING);
    }
}
