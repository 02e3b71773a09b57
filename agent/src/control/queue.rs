//! One queue, as the control plane sees it.

use std::{
    cell::{Cell, RefCell},
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use datapath::{FinalReport, Pending, Published, snapshot::Snapshot};
use frame_pool::Recycler;
use rustix::{net::xdp::XdpStatistics, process::Pid};

use super::{bell::Bell, standstill::Standstill};
use crate::{
    config::Wait,
    numa::Nodes,
    observe::{HoldsView, QueueView, Swallowed},
    sys::thread_clock,
    xsk::{FillWakeups, RingSizes, SocketHandle},
};

/// How often a block is looked at while its worker writes it. A worker that was stopped in the middle of that
/// must not stop the watchdog too.
const LOOKS: u32 = 100;

/// What does not change about a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fixed {
    pub(super) number: u32,
    pub(super) cpu: usize,
    pub(super) frame_size: u32,
    pub(super) huge_pages: bool,
    pub(super) nodes: Nodes,
    pub(super) multi_buffer: bool,
    pub(super) wait: Wait,
    pub(super) rings: RingSizes,
    /// Time zero of its worker's turns.
    pub(super) epoch: Instant,
    pub(super) leak_after: Duration,
}

/// One queue of one interface: what its worker publishes, and its socket.
pub(super) struct Queue {
    device: Arc<str>,
    fixed: Fixed,
    socket: RefCell<Option<SocketHandle>>,
    wakeups: Arc<FillWakeups>,
    published: Published,
    /// Wakes its worker.
    pub(super) bell: Arc<Bell>,
    /// The way home of its frames, for a look at who keeps them.
    pool: Recycler,
    last: Cell<Snapshot>,
    /// Of a socket that was closed.
    statistics: Cell<Option<XdpStatistics>>,
    failed: Cell<bool>,
    abandoned: Cell<bool>,
    /// The worker's thread, while that runs; of two queues of one worker the first one has it.
    pub(super) thread: Cell<Option<Pid>>,
    pub(super) watch: Cell<Watch>,
    pub(super) standstill: Cell<Standstill>,
}

/// What the watchdog remembers of a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watch {
    /// Turns seen last.
    pub(super) turns: u64,
    /// When their number last changed.
    pub(super) since: Instant,
    /// Whether the socket is in the program's map.
    pub(super) steered: bool,
    /// How often it was taken out.
    pub(super) failed_open: u64,
}

/// What a worker has done and not shown yet.
pub(super) struct Unshown {
    published: Published,
    pending: Pending,
    bell: Arc<Bell>,
}

impl Unshown {
    /// Whether it is shown by now. If not, the worker is woken: it may sleep until then.
    pub(super) fn has_come_or_ring(&self) -> bool {
        let has_come = self.published.has_come(self.pending);
        if !has_come {
            self.bell.ring();
        }
        has_come
    }
}

/// What it is called in a message.
impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} queue {}", self.device, self.fixed.number)
    }
}

/// Who lets go of the queue has no more use for its worker.
impl Drop for Queue {
    fn drop(&mut self) {
        self.bell.ring_to_stop();
    }
}

impl Queue {
    pub(super) fn new(
        device: Arc<str>,
        fixed: Fixed,
        socket: SocketHandle,
        published: Published,
        bell: Arc<Bell>,
        pool: Recycler,
    ) -> Self {
        Self {
            device,
            fixed,
            pool,
            wakeups: Arc::clone(socket.wakeups()),
            socket: RefCell::new(Some(socket)),
            last: Cell::new(published.read()),
            published,
            bell,
            statistics: Cell::new(None),
            failed: Cell::new(false),
            abandoned: Cell::new(false),
            thread: Cell::new(None),
            watch: Cell::new(Watch { turns: 0, since: Instant::now(), steered: false, failed_open: 0 }),
            standstill: Cell::new(Standstill::new(Instant::now())),
        }
    }

    /// How its worker waits.
    pub(super) fn wait(&self) -> Wait {
        self.fixed.wait
    }

    /// Its number.
    pub(super) fn number(&self) -> u32 {
        self.fixed.number
    }

    /// How long a frame may be kept before it is taken for leaked.
    pub(super) fn leak_after(&self) -> Duration {
        self.fixed.leak_after
    }

    /// Runs `f` with the socket, until it was released.
    pub(super) fn with_socket<T>(&self, f: impl FnOnce(&SocketHandle) -> T) -> Option<T> {
        self.socket.borrow().as_ref().map(f)
    }

    /// Lets go of the socket: the worker's descriptor is the only one from here on, so closing it frees the queue.
    pub(super) fn release_socket(&self) {
        *self.socket.borrow_mut() = None;
    }

    /// The worker's last snapshot; if it is being written for longer than a few looks, the one before.
    pub(super) fn snapshot(&self) -> Snapshot {
        if let Some(snapshot) = (0..LOOKS).find_map(|_| self.published.try_read()) {
            self.last.set(snapshot);
        }
        let last = self.last.get();
        if self.abandoned.get() { Snapshot { held: last.places.user + 1, ..last } } else { last }
    }

    /// What the worker has done and not shown yet, if it makes turns.
    pub(super) fn unshown(&self) -> Option<Unshown> {
        if self.failed.get() || !self.watch.get().steered {
            return None;
        }
        let pending = self.published.pending()?;
        Some(Unshown { published: self.published.clone(), pending, bell: Arc::clone(&self.bell) })
    }

    /// Notes how the worker ended.
    pub(super) fn ended(&self, report: &FinalReport, statistics: Option<XdpStatistics>) {
        self.release_socket();
        self.thread.set(None);
        self.last.set(report.snapshot);
        self.remember(statistics);
    }

    /// Notes that the worker is no more: its traffic is the stack's from here on.
    pub(super) fn fail(&self) {
        // Who panics even while ending hands over none.
        self.statistics();
        self.release_socket();
        self.thread.set(None);
        self.failed.set(true);
        self.watch.set(Watch { steered: false, ..self.watch.get() });
    }

    /// Whether the worker is through, or no more.
    pub(super) fn has_ended(&self) -> bool {
        self.socket.borrow().is_none()
    }

    /// Whether its handler panicked.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.get()
    }

    /// CPU time of its thread, seconds, if it has one of its own.
    pub(super) fn cpu_s(&self) -> Option<f64> {
        Some(thread_clock::cpu_time(self.thread.get()?)?.as_secs_f64())
    }

    /// The queue as it is now.
    pub(super) fn observe(&self) -> QueueView {
        self.view(self.snapshot(), self.statistics())
    }

    /// The socket's statistics; if it tells none, the last ones: they neither fall nor vanish.
    fn statistics(&self) -> Option<XdpStatistics> {
        self.remember(self.with_socket(SocketHandle::statistics).and_then(Result::ok))
    }

    /// The last statistics there are, these or those before.
    fn remember(&self, statistics: Option<XdpStatistics>) -> Option<XdpStatistics> {
        let last = statistics.or(self.statistics.get());
        self.statistics.set(last);
        last
    }

    /// Notes that the worker did not live to say where its frames are: from here on the law does not hold.
    pub(super) fn abandon(&self) {
        self.abandoned.set(true);
        log::error!("{self}: its worker did not live to say where its frames are");
    }

    fn view(&self, snapshot: Snapshot, xsk: Option<XdpStatistics>) -> QueueView {
        let watch = self.watch.get();
        let fixed = self.fixed;
        QueueView {
            device: Arc::clone(&self.device),
            queue: fixed.number,
            cpu: fixed.cpu,
            frame_size: fixed.frame_size,
            huge_pages: fixed.huge_pages,
            nodes: fixed.nodes,
            multi_buffer: fixed.multi_buffer,
            wait: fixed.wait,
            rings: fixed.rings,
            cpu_s: None,
            snapshot,
            holds: HoldsView::of(&self.pool, fixed.epoch.elapsed(), fixed.leak_after),
            xsk,
            fill_wakeups: self.wakeups.counts(),
            steered: watch.steered,
            failed: self.failed.get(),
            failed_open: watch.failed_open,
            swallowed: Swallowed::default(),
        }
    }
}
