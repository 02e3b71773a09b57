//! [`Side`]: one queue's pool and rings, and the steps of a turn. A worker has one, a pair two.

use std::time::Duration;

use frame_pool::{Frame, FramePool, Lent, Recycler};

use crate::observer::ObserverCounts;
use crate::outbox::Outbox;
use crate::packet::{MAX_FRAGMENTS, Packet};
use crate::port::{Kick, PortPlaces, QueuePort};
use crate::publish::{Published, Publisher};
use crate::right::Right;
use crate::snapshot::{Places, Snapshot, Traffic};
use crate::worker::{Turn, WorkerConfig};

/// How often a turn wakes the kernel at most. In copy mode a call sends 32 packets, so that four of
/// them empty a batch of 64 and what an earlier turn left behind.
const KICKS_PER_TURN: u32 = 4;

/// How far readers may be behind a worker that is at work. Most turns of a busy queue are over in a few
/// microseconds, and to show each of them would cost as much as the turn.
const PUBLISH_EVERY: Duration = Duration::from_millis(1);

/// How often what does not add up is counted: somebody else may give a frame back meanwhile.
const COUNTS: u32 = 4;

/// Counts until it adds up, or patience ends.
#[inline]
pub(crate) fn look_again<S>(count: impl Fn() -> S, adds_up: impl Fn(&S) -> bool) -> S {
    let mut counted = count();
    for _ in 1..COUNTS {
        if adds_up(&counted) {
            break;
        }
        counted = count();
    }
    counted
}

/// One queue: the pool that its frames are of, its rings, and what lies in between.
#[derive(Debug)]
pub(crate) struct Side<P> {
    pub(crate) pool: FramePool,
    pub(crate) recycler: Recycler,
    pub(crate) port: P,
    pub(crate) batch: usize,
    fill_target: u32,
    /// Frames on their way home. Empty between turns.
    pub(crate) done: Vec<Frame>,
    /// Frames on their way to the fill ring or to the generator. Empty between turns.
    pub(crate) fresh: Vec<Frame>,
    /// Packets on their way through the handler. Between turns there is at most the beginning of one
    /// whose other frames have not arrived.
    pub(crate) received: Vec<Packet>,
    /// The parts of the one packet that is being handled. Empty between turns.
    pub(crate) parts: Vec<Packet>,
    /// Whether the handler writes those parts, and did not receive them. Not between turns.
    pub(crate) writes: bool,
    pub(crate) traffic: Traffic,
    /// Frames that were ever read from the RX ring.
    pub(crate) rx_frames: u64,
    /// Frames that were ever put on the TX ring.
    pub(crate) tx_frames: u64,
    turns_busy: u64,
    turns_idle: u64,
    last_turn: Duration,
    /// The last turn that was published.
    last_published: Duration,
    /// See [`Snapshot::idle_lowest`]; by what was published.
    idle_lowest: u32,
    publisher: Publisher,
}

/// Where the ports say that the frames are which a side accounts for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PortsSeen {
    /// The side's own port, which receives into them.
    pub(crate) receives: PortPlaces,
    /// The port that sends them, which may be another side's.
    pub(crate) sends: PortPlaces,
    /// Frames that wait for that one's TX ring.
    pub(crate) waiting: usize,
}

/// Which of a provider's frames a side's places must add up to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Account {
    /// All but so many, those in the slab included.
    AllBut(u32),
    /// Those that its pool took from the provider.
    Taken,
}

impl<P: QueuePort> Side<P> {
    pub(crate) fn new(pool: FramePool, mut port: P, config: WorkerConfig) -> Self {
        let batch = config.batch.max(1);
        let ring = port.places().fill.saturating_add(port.fill_room() as u32);
        let arriving = batch + MAX_FRAGMENTS;
        Side {
            recycler: pool.recycler(),
            pool,
            port,
            batch,
            fill_target: config.fill_target.min(ring),
            done: Vec::with_capacity(arriving),
            fresh: Vec::with_capacity(arriving),
            received: Vec::with_capacity(arriving),
            parts: Vec::with_capacity(arriving),
            writes: false,
            traffic: Traffic::default(),
            rx_frames: 0,
            tx_frames: 0,
            turns_busy: 0,
            turns_idle: 0,
            last_turn: Duration::ZERO,
            last_published: Duration::ZERO,
            idle_lowest: u32::MAX,
            publisher: Publisher::new(),
        }
    }

    /// Sent frames come home, if any are out. Does not look at whether anything is received: a queue that only
    /// sends would stop otherwise.
    #[inline]
    pub(crate) fn complete<R: Right>(&mut self, out: &mut Outbox<R>) -> usize {
        if self.port.lent(Lent::Tx) == 0 { 0 } else { self.reap(out) }
    }

    /// The same, but as many as are missing on the fill ring go there at once: what would come home only to be taken
    /// again need not. How many were sent, and how many of them are lent again.
    #[inline]
    pub(crate) fn turn_over<R: Right>(&mut self, out: &mut Outbox<R>) -> (usize, usize) {
        if self.port.lent(Lent::Tx) == 0 { (0, 0) } else { self.turn_over_some(out) }
    }

    #[inline(never)]
    fn turn_over_some<R: Right>(&mut self, out: &mut Outbox<R>) -> (usize, usize) {
        let missing = if out.is_own() { self.missing() } else { 0 };
        let turned = self.port.turn_over(&mut self.pool, missing);
        self.traffic.completions += turned as u64;
        self.traffic.filled += turned as u64;
        (turned + self.complete(out), turned)
    }

    fn reap<R: Right>(&mut self, out: &mut Outbox<R>) -> usize {
        let mut completed = 0;
        loop {
            let batch = self.port.complete(&mut out.sent);
            completed += batch;
            let more = out.sent.len() == out.sent.capacity();
            out.bring_home(&mut self.pool);
            if !more {
                self.traffic.completions += completed as u64;
                return completed;
            }
        }
    }

    /// Lends the kernel frames up to the fill target, in whole batches, or, if it has few left, to
    /// the last one. Does not look at whether anything is received: once the fill ring is empty,
    /// nothing would be ever again.
    pub(crate) fn refill(&mut self) -> usize {
        let mut wanted = self.missing();
        let mut filled = 0;
        while wanted > 0 {
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

    /// How many frames the kernel should be lent now: whole batches, or all up to the fill target if it has few.
    fn missing(&mut self) -> usize {
        let missing = self.fill_target.saturating_sub(self.port.lent(Lent::Fill)) as usize;
        let running_dry = self.runs_dry();
        if missing < self.batch && !running_dry {
            return 0;
        }
        let missing = missing.min(self.port.fill_room());
        if running_dry { missing } else { missing - missing % self.batch }
    }

    /// Whether the kernel has less than half of the frames that it should have for receiving. Those on the RX
    /// ring count as well: while there are many, every turn reads a batch and refills one.
    fn runs_dry(&self) -> bool {
        self.port.lent(Lent::Fill) <= self.fill_target / 2
    }

    /// After a turn that received so many: whether another one is worth while at once.
    pub(crate) fn may_have_more(&self, received: usize) -> bool {
        received == self.batch || (received > 0 && self.runs_dry())
    }

    /// Lends the kernel what waits, and drops what exceeds the limit.
    #[inline]
    pub(crate) fn transmit<R: Right>(&mut self, out: &mut Outbox<R>) -> usize {
        if out.backlog.is_empty() { 0 } else { self.send(out) }
    }

    fn send<R: Right>(&mut self, out: &mut Outbox<R>) -> usize {
        let transmitted = self.port.transmit(&mut out.backlog);
        self.tx_frames += transmitted as u64;
        out.cut(out.limit, &mut self.pool);
        transmitted
    }

    /// Wakes the kernel until it has what it was given or takes no more, or the turn's share of wake-ups is
    /// spent; the next turn goes on.
    #[inline]
    pub(crate) fn kick<R: Right>(&mut self, out: &mut Outbox<R>) -> (Kick, usize) {
        match self.port.kick() {
            Kick::NotNeeded => (Kick::NotNeeded, 0),
            first => self.kick_on(first, out),
        }
    }

    fn kick_on<R: Right>(&mut self, first: Kick, out: &mut Outbox<R>) -> (Kick, usize) {
        let (mut kick, mut completed) = (first, 0);
        for kicks in 1.. {
            self.traffic.count_kick(kick);
            if matches!(kick, Kick::NotNeeded | Kick::Done | Kick::Down | Kick::Failed) {
                break;
            }
            let reaped = self.complete(out);
            completed += reaped;
            if kick == Kick::Busy && reaped == 0 {
                break;
            }
            if kicks == KICKS_PER_TURN {
                return (Kick::Again, completed);
            }
            kick = self.port.kick();
        }
        (kick, completed)
    }

    /// Counts a turn.
    pub(crate) fn end_turn(&mut self, now: Duration, turn: &Turn) {
        if turn.is_idle() {
            self.turns_idle += 1;
        } else {
            self.turns_busy += 1;
        }
        self.last_turn = now;
    }

    /// Whether readers are to be shown the turn that has [ended](Self::end_turn).
    pub(crate) fn is_to_publish(&mut self) -> bool {
        let is_to_publish = self.last_turn.saturating_sub(self.last_published) >= PUBLISH_EVERY;
        if is_to_publish {
            self.last_published = self.last_turn;
        }
        is_to_publish
    }

    /// Everything about this side, given where the ports said that the frames are. `out` is its own outbox.
    pub(crate) fn snapshot<R: Right>(
        &self,
        out: &Outbox<R>,
        seen: PortsSeen,
        account: Account,
        observed: ObserverCounts,
    ) -> Snapshot {
        // First: who gives a frame back meanwhile is then counted as a holder without one, which is lawful.
        let given = self.pool.held();
        let pool = self.pool.places();
        let inflight = self.pool.inflight();
        let PortsSeen { receives: lent, sends: sending, waiting } = seen;
        let quarantined = lent.quarantined_fill + sending.quarantined_tx;
        let lent_or_lost = lent.lent_fill() + sending.lent_tx() + quarantined;
        let (total, slab) = match account {
            Account::AllBut(others) => (self.pool.layout().chunk_count() - others, pool.slab),
            Account::Taken => (self.accounted(), 0),
        };
        let (tx_bytes, tx_fragments) = out.passed_on();
        // Of what is being handled there is none but after a panic.
        let unfinished = self.received.len() + if self.writes { 0 } else { self.parts.len() };
        Snapshot {
            total,
            held: (self.done.len() + self.fresh.len() + self.received.len() + self.parts.len() + waiting)
                as u32,
            given,
            places: Places {
                slab,
                cache: pool.cache,
                ring: pool.ring,
                // More lent than handed out would be a bug. It shows as places that do not add up.
                user: pool.out.saturating_sub(lent_or_lost),
                fill: lent.fill,
                kernel: lent.kernel,
                rx: lent.rx,
                tx: sending.tx,
                completion: sending.completion,
                quarantined,
                detached: pool.detached,
            },
            pool: self.pool.stats(),
            hold: self.pool.hold(),
            release: self.pool.release(),
            inflight,
            refused: self.port.refused(),
            traffic: Traffic {
                rx_packets: self.rx_frames - self.traffic.rx_fragments - unfinished as u64,
                tx_packets: self.tx_frames - tx_fragments,
                tx_bytes,
                tx_fragments,
                tx_full: out.full,
                tx_invalid: out.invalid,
                observed: observed.kept,
                observe_missed: observed.missed,
                ..self.traffic
            },
            turns_busy: self.turns_busy,
            turns_idle: self.turns_idle,
            idle_lowest: self.idle_lowest.min(slab + pool.cache + pool.ring),
            last_turn: self.last_turn,
        }
    }

    /// Where others read what was published.
    pub(crate) fn published(&self) -> Published {
        self.publisher.reader()
    }

    /// Shows it to the readers.
    pub(crate) fn publish(&mut self, snapshot: &Snapshot) {
        self.idle_lowest = snapshot.idle_lowest;
        self.publisher.publish(snapshot);
    }

    /// Tells the readers that there is more than was published.
    #[inline]
    pub(crate) fn fall_behind(&mut self) {
        self.publisher.fall_behind();
    }

    /// Frames that this side's pool took from the provider and did not give back, nor lost.
    pub(crate) fn accounted(&self) -> u32 {
        self.pool.inflight() as u32 + self.pool.places().detached
    }
}
