//! One queue, as the control plane sees it.

use std::{
    cell::{Cell, RefCell},
    time::Instant,
};

use anyhow::{Context as _, Result};
use datapath::{Published, Worker, WorkerConfig, snapshot::Snapshot};
use frame_pool::{FramePool, PoolConfig, UmemProvider};

use super::worker::{self, QueueWorker, Running};
use crate::{
    config::RunConfig,
    observe::QueueView,
    xsk::{self, Request, RingSizes, SocketHandle},
};

/// How often a block is looked at while its worker writes it. A worker that was stopped in the middle of that
/// must not stop the watchdog too.
const LOOKS: u32 = 100;

/// One queue of one interface: its worker, and what the control plane keeps of its socket.
pub(super) struct Queue {
    pub(super) number: u32,
    cpu: usize,
    frame_size: u32,
    socket: RefCell<Option<SocketHandle>>,
    /// Until its thread starts.
    waiting: Cell<Option<QueueWorker>>,
    running: RefCell<Option<Running>>,
    published: Published,
    last: Cell<Snapshot>,
    pub(super) watch: Cell<Watch>,
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

impl Queue {
    /// Opens the socket and puts the worker together: pool, port and handler. Its thread starts later.
    pub(super) fn open(config: &RunConfig, interface: &str, queue: u32, cpu: usize) -> Result<Self> {
        let rings = RingSizes::for_layout(config.layout);
        let request = Request { interface, queue, layout: config.layout, rings, bind: config.bind };
        let (port, socket) = xsk::open(request)?;
        // A return ring with room for every frame never turns one away (kernel.md 3.8).
        let pool_config = PoolConfig { ring_size: config.layout.chunk_count(), ..PoolConfig::default() };
        let pool = FramePool::new(pool_config, UmemProvider::new(config.layout));
        let worker_config = WorkerConfig { fill_target: rings.fill_target, ..WorkerConfig::default() };
        let mut worker = Worker::new(pool, port, config.handler.into(), worker_config);
        Ok(Self {
            number: queue,
            cpu,
            frame_size: config.layout.chunk_size(),
            socket: RefCell::new(Some(socket)),
            published: worker.published(),
            last: Cell::new(worker.snapshot()),
            waiting: Cell::new(Some(worker)),
            running: RefCell::new(None),
            watch: Cell::new(Watch { turns: 0, since: Instant::now(), steered: false, failed_open: 0 }),
        })
    }

    /// Starts the thread.
    pub(super) fn start(&self, interface: &str, epoch: Instant) -> Result<()> {
        if let Some(mut worker) = self.waiting.take() {
            // The first turn lends the kernel its frames. What is steered before that finds none and is dropped.
            worker.poll_once(epoch.elapsed());
            // Linux cuts a thread's name after 15 bytes; an interface's has up to 15.
            let name = format!("{interface}/{}", self.number);
            let running = worker::spawn(name, worker, self.cpu, epoch)
                .with_context(|| format!("cannot start the thread of {interface} queue {}", self.number))?;
            *self.running.borrow_mut() = Some(running);
        }
        Ok(())
    }

    /// Runs `f` with the socket, until it was released.
    pub(super) fn with_socket<T>(&self, f: impl FnOnce(&SocketHandle) -> T) -> Option<T> {
        self.socket.borrow().as_ref().map(f)
    }

    /// Lets go of the socket: the worker's descriptor is the only one from here on, so closing it frees the queue.
    pub(super) fn release_socket(&self) {
        *self.socket.borrow_mut() = None;
    }

    /// Asks the worker to stop.
    pub(super) fn stop(&self) {
        if let Some(running) = &*self.running.borrow() {
            running.stop.ask();
        }
    }

    /// Whether the worker's thread ended although nobody asked it to.
    pub(super) fn lost_worker(&self) -> bool {
        self.running.borrow().as_ref().is_some_and(Running::is_gone)
    }

    /// The worker's last snapshot; if it is being written for longer than a few looks, the one before.
    pub(super) fn snapshot(&self) -> Snapshot {
        if let Some(snapshot) = (0..LOOKS).find_map(|_| self.published.try_read()) {
            self.last.set(snapshot);
        }
        self.last.get()
    }

    /// The queue as it is now.
    pub(super) fn observe(&self) -> QueueView {
        let xsk = self.with_socket(SocketHandle::statistics).and_then(Result::ok);
        self.view(self.snapshot(), xsk)
    }

    /// Waits for the worker's end. A worker that panicked left its frames nobody knows where: its last snapshot
    /// is returned with `held` such that the law does not hold.
    pub(super) async fn collect(&self) -> QueueView {
        let running = self.running.borrow_mut().take();
        let end = match running {
            Some(running) => running.end().await,
            None => None,
        };
        match end {
            Some(end) => self.view(end.report.snapshot, end.xsk),
            None => {
                log::error!("the worker of queue {} did not live to account for its frames", self.number);
                let snapshot = self.snapshot();
                self.view(Snapshot { held: snapshot.places.user.wrapping_add(1), ..snapshot }, None)
            }
        }
    }

    fn view(&self, snapshot: Snapshot, xsk: Option<rustix::net::xdp::XdpStatistics>) -> QueueView {
        let watch = self.watch.get();
        QueueView {
            queue: self.number,
            cpu: self.cpu,
            frame_size: self.frame_size,
            snapshot,
            xsk,
            steered: watch.steered,
            failed_open: watch.failed_open,
        }
    }
}
