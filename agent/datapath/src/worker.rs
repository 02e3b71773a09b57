//! [`Worker`]: one queue's pool, rings and handler, moved on by one turn at a time.

use std::time::Duration;

use frame_pool::{Frame, FramePool};

use crate::handler::{PacketHandler, Verdict};
use crate::port::{Kick, Packet, PortPlaces, QueuePort};
use crate::publish::{Published, Publisher};
use crate::shutdown::{Drain, FinalReport};
use crate::snapshot::{Places, Snapshot, Traffic};

/// How often a turn wakes the kernel at most. In copy mode a call sends 32 packets, so that four of
/// them empty a batch of 64 and what an earlier turn left behind.
const KICKS_PER_TURN: u32 = 4;

/// A worker's sizes, in frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerConfig {
    /// How many packets a turn receives at most, and how many frames go onto the fill ring at once.
    /// 64 is the budget of a NAPI poll, and what page_pool refills at once.
    pub batch: usize,
    /// How many frames the kernel should have for receiving: on the fill ring, in its hands, and on
    /// the RX ring. A fill target of no more than the RX ring's size means that the RX ring never
    /// overflows; one above what the fill ring holds means as many as that.
    pub fill_target: u32,
    /// How many packets may wait for room on the TX ring.
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
}

impl Turn {
    /// True if the caller may sleep in `poll()`: all that there was is handled, and what has come since
    /// wakes it at once. To look again instead would cost a turn each time, and at moderate load most
    /// turns are such.
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
pub struct Worker<P, H> {
    pub(crate) pool: FramePool,
    pub(crate) port: P,
    handler: H,
    batch: usize,
    fill_target: u32,
    backlog_limit: usize,
    /// Frames on their way home. Empty between turns.
    pub(crate) done: Vec<Frame>,
    /// Frames on their way to the fill ring. Empty between turns.
    fresh: Vec<Frame>,
    /// Packets on their way through the handler. Empty between turns.
    received: Vec<Packet>,
    /// Packets that wait for room on the TX ring.
    pub(crate) backlog: Vec<Packet>,
    /// Where the port's frames were at the end of the last turn.
    lent: PortPlaces,
    pub(crate) traffic: Traffic,
    /// Bytes of all packets that ever came into the backlog.
    queued_bytes: u64,
    turns_busy: u64,
    turns_idle: u64,
    last_turn: Duration,
    publisher: Publisher,
}

impl<P: QueuePort, H: PacketHandler> Worker<P, H> {
    /// Puts a worker together. A `batch` of 0 counts as 1.
    ///
    /// The pool must be the one whose UMEM the port has its frames in.
    pub fn new(pool: FramePool, mut port: P, handler: H, config: WorkerConfig) -> Self {
        let batch = config.batch.max(1);
        let lent = port.places();
        let ring = lent.fill.saturating_add(port.fill_room() as u32);
        let mut worker = Worker {
            pool,
            port,
            handler,
            batch,
            fill_target: config.fill_target.min(ring),
            backlog_limit: config.backlog,
            done: Vec::with_capacity(batch),
            fresh: Vec::with_capacity(batch),
            received: Vec::with_capacity(batch),
            // A turn's packets all go through it, and those beyond its limit are dropped at its end.
            backlog: Vec::with_capacity(config.backlog + batch),
            lent,
            traffic: Traffic::default(),
            queued_bytes: 0,
            turns_busy: 0,
            turns_idle: 0,
            last_turn: Duration::ZERO,
            publisher: Publisher::new(),
        };
        worker.publish();
        worker
    }

    /// Where others read this worker's snapshots. It stays readable after the worker is gone.
    pub fn published(&self) -> Published {
        self.publisher.reader()
    }

    /// The handler, for its owner to look at between turns.
    pub fn handler(&self) -> &H {
        &self.handler
    }

    /// Whether packets wait to be sent, or for their completion, which wakes nobody.
    pub fn is_sending(&self) -> bool {
        self.lent.lent_tx() + self.backlog.len() as u32 > 0
    }

    /// The port, for its owner to poll or look at between turns.
    pub fn port(&self) -> &P {
        &self.port
    }

    /// The port, for its owner to change between turns.
    pub fn port_mut(&mut self) -> &mut P {
        &mut self.port
    }

    /// One turn: complete, refill, receive, handle, transmit, kick, publish. `now` is the
    /// time since whatever moment the caller counts from, and ends up in [`Snapshot::last_turn`].
    pub fn poll_once(&mut self, now: Duration) -> Turn {
        let completed = self.complete();
        let filled = self.refill();
        let received = self.receive();
        self.handle();
        let transmitted = self.transmit();
        let (kick, completed_late) = self.kick();
        let mut turn =
            Turn { completed: completed + completed_late, filled, received, transmitted, kick, more: false };
        self.end_turn(now, turn);
        turn.more = received == self.batch || (received > 0 && self.runs_dry());
        turn
    }

    /// A turn of the shutdown: completes, transmits the backlog and kicks, but takes in nothing new.
    /// Call it until nothing is [left](Drain::left), or until patience ends.
    pub fn drain_once(&mut self, now: Duration) -> Drain {
        let completed = self.complete();
        let transmitted = self.transmit();
        let (kick, completed_late) = self.kick();
        let turn = Turn { completed: completed + completed_late, transmitted, kick, ..Turn::default() };
        self.end_turn(now, turn);
        Drain { left: self.lent.lent_tx() + self.backlog.len() as u32, turn }
    }

    /// Ends the worker: the kernel lets go, every frame comes home, the pool is destroyed.
    ///
    /// Detach the program first and [drain](Self::drain_once); what waits in the backlog by now is
    /// dropped and counted as [`tx_full`](Traffic::tx_full). The last snapshot is published too.
    pub fn finish(self, now: Duration) -> FinalReport {
        crate::shutdown::finish(self, now)
    }

    /// Everything about the worker as it is now.
    pub fn snapshot(&mut self) -> Snapshot {
        self.lent = self.port.places();
        let pool = self.pool.places();
        let lent = self.lent;
        let lent_or_lost = lent.lent_fill() + lent.lent_tx() + lent.quarantined;
        let waiting_bytes: u64 = self.backlog.iter().map(|packet| u64::from(packet.len)).sum();
        Snapshot {
            total: self.pool.layout().chunk_count(),
            held: (self.done.len() + self.fresh.len() + self.received.len() + self.backlog.len()) as u32,
            places: Places {
                slab: pool.slab,
                cache: pool.cache,
                ring: pool.ring,
                // More lent than handed out would be a bug. It shows as places that do not add up.
                user: pool.out.saturating_sub(lent_or_lost),
                fill: lent.fill,
                kernel: lent.kernel,
                rx: lent.rx,
                tx: lent.tx,
                completion: lent.completion,
                quarantined: lent.quarantined,
                detached: pool.detached,
            },
            pool: self.pool.stats(),
            hold: self.pool.hold(),
            release: self.pool.release(),
            inflight: self.pool.inflight(),
            refused: self.port.refused(),
            traffic: Traffic { tx_bytes: self.queued_bytes - waiting_bytes, ..self.traffic },
            turns_busy: self.turns_busy,
            turns_idle: self.turns_idle,
            last_turn: self.last_turn,
        }
    }

    /// Sent frames come home. Does not look at whether anything is received: a queue that only sends
    /// would stop otherwise.
    fn complete(&mut self) -> usize {
        let mut completed = 0;
        loop {
            let batch = self.port.complete(&mut self.done);
            completed += batch;
            self.pool.put_direct_bulk(&mut self.done);
            if batch < self.batch {
                self.traffic.completions += completed as u64;
                return completed;
            }
        }
    }

    /// Lends the kernel frames up to the fill target, in whole batches, or, if it has few left, to
    /// the last one. Does not look at whether anything is received: once the fill ring is empty,
    /// nothing would be ever again.
    fn refill(&mut self) -> usize {
        let missing = self.fill_target.saturating_sub(self.lent.lent_fill()) as usize;
        let running_dry = self.runs_dry();
        if missing < self.batch && !running_dry {
            return 0;
        }
        let mut wanted = missing.min(self.port.fill_room());
        let mut filled = 0;
        while wanted >= self.batch || (wanted > 0 && running_dry) {
            let batch = wanted.min(self.batch);
            let got = self.pool.alloc_bulk(&mut self.fresh, batch);
            let taken = self.port.fill(&mut self.fresh);
            filled += taken;
            wanted -= batch;
            if got < batch {
                self.traffic.alloc_fail += 1;
            }
            if taken < batch {
                self.pool.put_direct_bulk(&mut self.fresh);
                break;
            }
        }
        self.traffic.filled += filled as u64;
        filled
    }

    /// Whether the kernel has less than half of the frames that it should have for receiving.
    fn runs_dry(&self) -> bool {
        self.lent.fill + self.lent.kernel <= self.fill_target / 2
    }

    fn receive(&mut self) -> usize {
        let received = self.port.receive(&mut self.received);
        self.traffic.rx_packets += received as u64;
        received
    }

    /// Every received packet goes through the handler, and from there home or into the backlog.
    fn handle(&mut self) {
        let received = self.received.len();
        let mut bytes = 0;
        let mut queued = 0;
        let mut invalid = 0;
        for mut packet in self.received.drain(..) {
            let len = u64::from(packet.len);
            bytes += len;
            match self.handler.handle(self.port.bytes_mut(&mut packet)) {
                Verdict::Transmit if len > 0 => {
                    queued += 1;
                    self.queued_bytes += len;
                    self.backlog.push(packet);
                    continue;
                }
                Verdict::Transmit => invalid += 1,
                Verdict::Drop => {}
            }
            self.done.push(packet.frame);
        }
        self.traffic.rx_bytes += bytes;
        self.traffic.tx_invalid += invalid;
        self.traffic.handler_dropped += (received - queued) as u64 - invalid;
        self.pool.put_direct_bulk(&mut self.done);
    }

    /// Lends the kernel what waits in the backlog, and drops what exceeds it: the newest, as a full
    /// queue of a network device does. It never holds up what is to be received.
    fn transmit(&mut self) -> usize {
        if self.backlog.is_empty() {
            return 0;
        }
        let transmitted = self.port.transmit(&mut self.backlog);
        self.traffic.tx_packets += transmitted as u64;
        self.cut_backlog(self.backlog_limit);
        transmitted
    }

    /// Drops what the backlog holds beyond `limit` packets.
    pub(crate) fn cut_backlog(&mut self, limit: usize) {
        if self.backlog.len() <= limit {
            return;
        }
        for packet in self.backlog.drain(limit..) {
            self.queued_bytes -= u64::from(packet.len);
            self.traffic.tx_full += 1;
            self.done.push(packet.frame);
        }
        self.pool.put_direct_bulk(&mut self.done);
    }

    /// Wakes the kernel until it has what it was given, or the turn's share of wake-ups is spent; the
    /// next turn goes on. A full completion ring is one of the reasons to be told "again".
    fn kick(&mut self) -> (Kick, usize) {
        let mut completed = 0;
        for _ in 0..KICKS_PER_TURN {
            let kick = self.port.kick();
            self.traffic.count_kick(kick);
            if kick != Kick::Again {
                return (kick, completed);
            }
            completed += self.complete();
        }
        (Kick::Again, completed)
    }

    fn end_turn(&mut self, now: Duration, turn: Turn) {
        if turn.is_idle() {
            self.turns_idle += 1;
        } else {
            self.turns_busy += 1;
        }
        self.last_turn = now;
        self.publish();
    }

    /// Shows the worker's snapshot to the readers.
    pub(crate) fn publish(&mut self) -> Snapshot {
        let snapshot = self.snapshot();
        self.publisher.publish(&snapshot);
        snapshot
    }
}
