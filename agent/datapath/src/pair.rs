//! [`Pair`]: the same queue of two interfaces, in both directions, in one worker.

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
use crate::worker::{Turn, WorkerConfig};

/// Moves packets from each of two queues to the other, without a copy: both ports have the same UMEM.
///
/// Each side has its own pool, and both pools have one provider. A frame that was received on one side is
/// lent to the other one's TX ring, and when that completes it goes home to the pool that it came from.
///
/// Of the handler, [`Verdict::Transmit`](crate::Verdict::Transmit) means the other side; what it wants to
/// send by itself it is not asked.
#[derive(Debug)]
pub struct Pair<P, H, O: Observer = ()> {
    pub(crate) sides: [Side<P>; 2],
    /// In the order of the sides that send.
    pub(crate) outboxes: [Outbox<O::Sent>; 2],
    handler: H,
    observer: O,
}

impl<P: QueuePort, H: PacketHandler, O: Observer> Pair<P, H, O> {
    /// Puts a pair together.
    ///
    /// Both pools must have been made with the same provider, and both ports must have its UMEM. `config`
    /// is about one side.
    pub fn new(sides: [(FramePool, P); 2], handler: H, observer: O, config: WorkerConfig) -> Self {
        let sides = sides.map(|(pool, port)| Side::new(pool, port, config));
        let outbox = |sends: usize| {
            let home = sides[1 - sends].recycler.clone();
            let arriving = config.batch.max(1) + MAX_FRAGMENTS;
            Outbox::new(config.backlog, arriving, sides[sends].port.max_fragments(), Some(home))
        };
        let outboxes = [outbox(0), outbox(1)];
        let mut pair = Pair { sides, outboxes, handler, observer };
        pair.publish();
        pair
    }

    /// Where others read the snapshots of a side, 0 or 1. They stay readable after the pair is gone.
    pub fn published(&self) -> [Published; 2] {
        [0, 1].map(|side: usize| self.sides[side].published())
    }

    /// The handler, for its owner to look at between turns.
    pub fn handler(&self) -> &H {
        &self.handler
    }

    /// The ports, for their owner to poll or look at between turns.
    pub fn ports(&self) -> [&P; 2] {
        self.sides.each_ref().map(|side| &side.port)
    }

    /// The ports, for their owner to change between turns.
    pub fn ports_mut(&mut self) -> [&mut P; 2] {
        self.sides.each_mut().map(|side| &mut side.port)
    }

    /// One turn of both sides, step by step. The counts are of both.
    pub fn poll_once(&mut self, now: Duration) -> Turn {
        let Pair { sides, outboxes, handler, observer } = self;
        let mut turns = [Turn::default(); 2];
        for ((side, out), turn) in sides.iter_mut().zip(&mut *outboxes).zip(&mut turns) {
            turn.completed = side.complete(out);
        }
        for (index, (side, turn)) in sides.iter_mut().zip(&mut turns).enumerate() {
            turn.filled = side.refill();
            turn.received = side.receive(now, index, handler, observer, &mut outboxes[1 - index]);
        }
        self.send(&mut turns);
        self.end_turn(now, turns)
    }

    /// As [`Worker::drain_once`](crate::Worker::drain_once), for both sides.
    pub fn drain_once(&mut self, now: Duration) -> Drain {
        let mut turns = [Turn::default(); 2];
        for ((side, out), turn) in self.sides.iter_mut().zip(&mut self.outboxes).zip(&mut turns) {
            turn.completed = side.complete(out);
        }
        self.send(&mut turns);
        let turn = self.end_turn(now, turns);
        Drain { left: self.left(), turn }
    }

    /// Whether packets wait to be sent, or for their completion, which wakes nobody.
    pub fn is_sending(&self) -> bool {
        self.left() > 0
    }

    fn left(&self) -> u32 {
        let lent: u32 = self.sides.iter().map(|side| side.port.lent(Lent::Tx)).sum();
        let waiting: usize = self.outboxes.iter().map(|out| out.backlog.len()).sum();
        lent + waiting as u32
    }

    /// Ends both sides: see [`Worker::finish`](crate::Worker::finish).
    pub fn finish(self, now: Duration) -> [FinalReport; 2] {
        crate::shutdown::finish_pair(self, now)
    }

    fn send(&mut self, turns: &mut [Turn; 2]) {
        for ((side, out), turn) in self.sides.iter_mut().zip(&mut self.outboxes).zip(turns) {
            turn.transmitted = side.transmit(out);
            let (kick, completed) = side.kick(out);
            turn.kick = kick;
            turn.completed += completed;
        }
    }

    fn end_turn(&mut self, now: Duration, turns: [Turn; 2]) -> Turn {
        let mut more = false;
        for (side, turn) in self.sides.iter_mut().zip(&turns) {
            side.end_turn(now, turn);
            more |= side.may_have_more(turn.received);
        }
        let published = self.sides[0].is_to_publish();
        if published {
            self.publish();
        } else {
            self.sides.iter_mut().for_each(|side| side.fall_behind());
        }
        let [a, b] = turns;
        Turn {
            completed: a.completed + b.completed,
            filled: a.filled + b.filled,
            received: a.received + b.received,
            transmitted: a.transmitted + b.transmitted,
            kick: self.more_urgent([a.kick, b.kick]),
            more,
            next: None,
            published,
        }
    }

    /// What a caller has to heed: that the kernel is to be woken again, now or later; then that an interface is down,
    /// but not while there is something to wait for at the other one.
    fn more_urgent(&self, kicks: [Kick; 2]) -> Kick {
        let sends = |(side, kick): (&Side<P>, &Kick)| *kick != Kick::Down && side.port.lent(Lent::Tx) > 0;
        let sends = self.sides.iter().zip(&kicks).any(sends);
        [Kick::Again, Kick::Busy, Kick::Failed, Kick::Down, Kick::Done]
            .into_iter()
            .filter(|kick| *kick != Kick::Down || !sends)
            .find(|kick| kicks.contains(kick))
            .unwrap_or_default()
    }

    /// Everything about both sides as it is now.
    pub fn snapshots(&mut self) -> [Snapshot; 2] {
        let places = self.sides.each_mut().map(|side| side.port.places());
        look_again(|| self.account(places), |snapshots| snapshots.iter().all(Snapshot::conserved))
    }

    /// The second side accounts for what its pool took from the provider, the first for all the rest: so
    /// each is lawful by itself, and together they have every frame once.
    fn account(&self, places: [PortPlaces; 2]) -> [Snapshot; 2] {
        let accounts = [Account::AllBut(self.sides[1].accounted()), Account::Taken];
        [0, 1].map(|index: usize| {
            let sends = 1 - index;
            let waiting = self.outboxes[sends].held();
            let seen = PortsSeen { receives: places[index], sends: places[sends], waiting };
            let observed = self.observer.counts(index);
            self.sides[index].snapshot(&self.outboxes[index], seen, accounts[index], observed)
        })
    }

    /// Shows the snapshots to the readers.
    pub(crate) fn publish(&mut self) -> [Snapshot; 2] {
        let snapshots = self.snapshots();
        for (side, snapshot) in self.sides.iter_mut().zip(&snapshots) {
            side.publish(snapshot);
        }
        snapshots
    }
}
