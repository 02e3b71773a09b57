//! The end of a worker: what [`drain_once`](crate::Worker::drain_once) and
//! [`finish`](crate::Worker::finish) report.

use std::time::Duration;

use frame_pool::{Frame, FramePool, FrameRef, Shutdown};

use crate::handler::PacketHandler;
use crate::observer::Observer;
use crate::outbox::Outbox;
use crate::pair::Pair;
use crate::port::QueuePort;
use crate::right::Right;
use crate::side::Side;
use crate::snapshot::Snapshot;
use crate::worker::{Turn, Worker};

/// How far a drain has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drain {
    /// Frames that the kernel still has to send or to complete, and those that wait for it.
    pub left: u32,
    /// What this turn did.
    pub turn: Turn,
}

/// What is left when a worker has ended.
#[derive(Debug)]
pub struct FinalReport {
    /// The last snapshot. Its idle frames are all in the slab, and `inflight` is what is still out.
    pub snapshot: Snapshot,
    /// Frames that came home only because the kernel let go of them.
    pub reclaimed: u32,
    /// The law, at the end: see [`Snapshot::conserved`].
    pub conserved: bool,
    /// What the pool said when it was destroyed. Frames in quarantine never come home, so with any of
    /// those it goes on draining.
    pub shutdown: Shutdown,
    /// The destroyed pool, for its owner to [`retry`](FramePool::retry) while frames are still out.
    pub pool: FramePool,
}

/// Steps 4 to 6 of the shutdown: the kernel lets go, lent frames come home, the pool is destroyed.
pub(crate) fn finish<P: QueuePort, H: PacketHandler, O: Observer>(
    mut worker: Worker<P, H, O>,
    now: Duration,
) -> FinalReport {
    let (reclaimed, left) = let_go(&mut worker.side, &mut worker.outbox);
    left.put(&mut [&mut worker.side.pool]);
    let shutdown = worker.side.pool.destroy(now);
    let snapshot = worker.publish();
    FinalReport { snapshot, reclaimed, conserved: snapshot.conserved(), shutdown, pool: worker.side.pool }
}

/// The same for two sides: both ports are closed before the first frame comes home to either.
pub(crate) fn finish_pair<P: QueuePort, H: PacketHandler, O: Observer>(
    mut pair: Pair<P, H, O>,
    now: Duration,
) -> [FinalReport; 2] {
    let [a, b] = &mut pair.sides;
    let [out_a, out_b] = &mut pair.outboxes;
    let ends = [let_go(a, out_a), let_go(b, out_b)];
    let reclaimed = ends.each_ref().map(|(reclaimed, _)| *reclaimed);
    for (_, left) in ends {
        left.put(&mut [&mut a.pool, &mut b.pool]);
    }
    let shutdowns = [a.pool.destroy(now), b.pool.destroy(now)];
    let [snapshot_a, snapshot_b] = pair.publish();
    let [a, b] = pair.sides;
    [
        FinalReport {
            snapshot: snapshot_a,
            reclaimed: reclaimed[0],
            conserved: snapshot_a.conserved(),
            shutdown: shutdowns[0],
            pool: a.pool,
        },
        FinalReport {
            snapshot: snapshot_b,
            reclaimed: reclaimed[1],
            conserved: snapshot_b.conserved(),
            shutdown: shutdowns[1],
            pool: b.pool,
        },
    ]
}

/// Rights whose homes may be different pools.
#[derive(Debug, Default)]
struct Homecomers {
    frames: Vec<Frame>,
    references: Vec<FrameRef>,
}

impl Homecomers {
    /// Each goes to the pool that it is of. One that is of none of them would be a bug; the last pool
    /// counts it as `foreign_put`.
    fn put(self, pools: &mut [&mut FramePool]) {
        let last = pools.len() - 1;
        for frame in self.frames {
            let home = pools.iter().position(|pool| pool.tag() == frame.home()).unwrap_or(last);
            pools[home].put_direct(frame);
        }
        for reference in self.references {
            let home = pools.iter().position(|pool| pool.tag() == reference.home()).unwrap_or(last);
            pools[home].put_ref_direct(reference);
        }
    }
}

/// The kernel lets go of one side's rings: how many frames it had, and the rights to them.
fn let_go<P: QueuePort, R: Right>(side: &mut Side<P>, out: &mut Outbox<R>) -> (u32, Homecomers) {
    out.cut(0, &mut side.pool);
    side.drop_unfinished();
    side.traffic.tx_unsent += u64::from(side.port.unsent());
    side.port.close();
    let mut left = Homecomers::default();
    let reclaimed = side.port.reclaim(&mut left.frames, &mut left.references);
    (reclaimed, left)
}
