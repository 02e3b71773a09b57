//! [`Worker`]: one queue's pool, rings and handler, moved on by one turn at a time.

use std::time::Duration;

use frame_pool::{FramePool, Lent};

use crate::handler::PacketHandler;
use crate::observer::Observer;
use crate::outbox::Outbox;
use crate::packet::MAX_FRAGMENTS;
use crate::port::{Kick, PortPlaces, QueuePort};
use crate::publish::Published;
use crate::shutdown::{Drain, FinalReport};
use crate::side::{Account, PortsSeen, Side, look_again};
use crate::snapshot::Snapshot;

/// A worker's sizes, in frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerConfig {
    /// How many frames a turn receives at most, and how many go onto the fill ring at once. 64 is the
    /// budget of a NAPI poll, and what page_pool refills at once.
    pub batch: usize,
    /// How many frames the kernel should have for receiving: on the fill ring, in its hands, and on
    /// the RX ring. A fill target of no more than the RX ring's size means that the RX ring never
    /// overflows; one above what the fill ring holds means as many as that.
    pub fill_target: u32,
    /// How many frames may wait for room on the TX ring.
    pub backlog: usize,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        WorkerConfig { batch: 64, fill_target: 2048, backlog: 256 }
    }
}

/// What one turn did, in frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Read from the completion ring.
    pub completed: usize,
    /// Put on the fill ring.
    pub filled: usize,
    /// Read from the RX ring.
    pub received: usize,
    /// Put on the TX ring.
    pub transmitted: usize,
    /// What the last wake-up said. After [`Kick::Down`] a caller may want to wait a little.
    pub kick: Kick,
    /// There may be more to receive, or the kernel has few frames left to receive into.
    pub more: bool,
    /// When the handler has packets of its own to send again, if it knows. A caller that sleeps must not
    /// sleep longer.
    pub next: Option<Duration>,
    /// Whether readers were shown this turn. If not, one who [waits](Published::pending) for it needs another
    /// turn: a caller that sleeps should let itself be woken for that.
    pub published: bool,
}

impl Turn {
    /// True if the caller may sleep in `poll()`: all that there was is handled, and what has come since
    /// wakes it at once. To look again instead would cost a turn each time, and at moderate load most
    /// turns are such.
    ///
    /// While frames are [being sent](Worker::is_sending) it must not sleep for long: nothing wakes it when
    /// they complete, or when a device is no longer busy. Nor beyond [`next`](Self::next).
    pub fn may_sleep(&self) -> bool {
        !self.more && self.kick != Kick::Again
    }

    /// True if the turn moved no frame and the kernel does not want to be woken again.
    pub fn is_idle(&self) -> bool {
        self.completed + self.filled + self.received + self.transmitted == 0 && self.kick != Kick::Again
    }
}

/// Moves the frames of one queue between its pool, its port and its handler.
///
/// There is no thread in it and no clock: whoever owns it calls [`poll_once`](Self::poll_once) and
/// decides how to wait in between. It never waits itself, and allocates nothing after `new`.
#[derive(Debug)]
pub struct Worker<P, H, O: Observer = ()> {
    pub(crate) side: Side<P>,
    pub(crate) outbox: Outbox<O::Sent>,
    handler: H,
    observer: O,
}

impl<P: QueuePort, H: PacketHandler> Worker<P, H> {
    /// Puts a worker together. A `batch` of 0 counts as 1.
    ///
    /// The pool must be the one whose UMEM the port has its frames in.
    pub fn new(pool: FramePool, port: P, handler: H, config: WorkerConfig) -> Self {
        Self::observed(pool, port, handler, (), config)
    }
}

impl<P: QueuePort, H: PacketHandler, O: Observer> Worker<P, H, O> {
    /// As [`new`](Worker::new), with an observer.
    pub fn observed(pool: FramePool, port: P, handler: H, observer: O, config: WorkerConfig) -> Self {
        let side = Side::new(pool, port, config);
        let arriving = config.batch.max(1) + MAX_FRAGMENTS;
        let outbox = Outbox::new(config.backlog, arriving, side.port.max_fragments(), None);
        let mut worker = Worker { side, outbox, handler, observer };
        worker.publish();
        worker
    }

    /// Where others read this worker's snapshots. It stays readable after the worker is gone.
    pub fn published(&self) -> Published {
        self.side.published()
    }

    /// The handler, for its owner to look at between turns.
    pub fn handler(&self) -> &H {
        &self.handler
    }

    /// Whether packets wait to be sent, or for their completion, which wakes nobody.
    pub fn is_sending(&self) -> bool {
        self.left() > 0
    }

    /// Whether packets wait to be sent that the kernel has not taken yet.
    pub fn has_unsent(&mut self) -> bool {
        !self.outbox.backlog.is_empty() || self.side.port.unsent() > 0
    }

    fn left(&self) -> u32 {
        self.side.port.lent(Lent::Tx) + self.outbox.backlog.len() as u32
    }

    /// The port, for its owner to poll or look at between turns.
    pub fn port(&self) -> &P {
        &self.side.port
    }

    /// The port, for its owner to change between turns.
    pub fn port_mut(&mut self) -> &mut P {
        &mut self.side.port
    }

    /// One turn: complete, refill, receive, handle, transmit, kick, publish. `now` is the
    /// time since whatever moment the caller counts from, and ends up in [`Snapshot::last_turn`].
    ///
    /// Turns within a millisecond of the last one that was [published](Turn::published) are not.
    pub fn poll_once(&mut self, now: Duration) -> Turn {
        self.turn::<true>(now)
    }

    /// A turn like any other, but the handler sends nothing by itself. For what has come by the time that the worker is
    /// asked to stop.
    pub fn take_in_once(&mut self, now: Duration) -> Turn {
        self.turn::<false>(now)
    }

    #[inline]
    fn turn<const GENERATES: bool>(&mut self, now: Duration) -> Turn {
        let Worker { side, outbox, handler, observer } = self;
        let sent_before = side.tx_frames;
        let (completed, turned_over) = side.turn_over(outbox);
        let filled = turned_over + side.refill();
        let received = side.receive(now, 0, handler, observer, outbox);
        let next = if GENERATES { side.generate(now, handler, observer, outbox) } else { None };
        side.transmit(outbox);
        let transmitted = (side.tx_frames - sent_before) as usize;
        let (kick, completed_late) = side.kick(outbox);
        let completed = completed + completed_late;
        let more = side.may_have_more(received);
        let turn = Turn { completed, filled, received, transmitted, kick, more, next, published: false };
        side.end_turn(now, &turn);
        let published = side.is_to_publish();
        if published {
            self.publish();
        } else {
            side.fall_behind();
        }
        Turn { published, ..turn }
    }

    /// A turn of the shutdown: completes, transmits the backlog and kicks, but takes in nothing new.
    /// Call it until nothing is [left](Drain::left), or until patience ends.
    pub fn drain_once(&mut self, now: Duration) -> Drain {
        let Worker { side, outbox, .. } = self;
        let completed = side.complete(outbox);
        let transmitted = side.transmit(outbox);
        let (kick, completed_late) = side.kick(outbox);
        let completed = completed + completed_late;
        let turn = Turn { completed, transmitted, kick, published: true, ..Turn::default() };
        side.end_turn(now, &turn);
        self.publish();
        Drain { left: self.left(), turn }
    }

    /// Ends the worker: the kernel lets go, every frame comes home, the pool is destroyed.
    ///
    /// Detach the program first and [drain](Self::drain_once); what waits in the backlog by now is
    /// dropped and counted as [`tx_full`](crate::Traffic::tx_full). The last snapshot is published too.
    pub fn finish(self, now: Duration) -> FinalReport {
        crate::shutdown::finish(self, now)
    }

    /// Everything about the worker as it is now.
    pub fn snapshot(&mut self) -> Snapshot {
        let places = self.side.port.places();
        look_again(|| self.account(places), Snapshot::conserved)
    }

    #[inline(never)]
    fn account(&self, places: PortPlaces) -> Snapshot {
        let seen = PortsSeen { receives: places, sends: places, waiting: self.outbox.held() };
        self.side.snapshot(&self.outbox, seen, Account::AllBut(0), self.observer.counts(0))
    }

    /// Shows the worker's snapshot to the readers.
    pub(crate) fn publish(&mut self) -> Snapshot {
        let snapshot = self.snapshot();
        self.side.publish(&snapshot);
        snapshot
    }
}
