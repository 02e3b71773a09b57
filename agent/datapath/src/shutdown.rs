//! The end of a worker: what [`drain_once`](crate::Worker::drain_once) and
//! [`finish`](crate::Worker::finish) report.

use std::time::Duration;

use frame_pool::{FramePool, Shutdown};

use crate::handler::PacketHandler;
use crate::port::QueuePort;
use crate::snapshot::Snapshot;
use crate::worker::{Turn, Worker};

/// How far a drain has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drain {
    /// Frames that the kernel still has to send or to complete, and packets that wait for it.
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
pub(crate) fn finish<P: QueuePort, H: PacketHandler>(mut worker: Worker<P, H>, now: Duration) -> FinalReport {
    worker.cut_backlog(0);
    worker.port.close();
    let reclaimed = worker.port.reclaim(&mut worker.done);
    worker.pool.put_direct_bulk(&mut worker.done);
    let shutdown = worker.pool.destroy(now);
    let snapshot = worker.publish();
    FinalReport { snapshot, reclaimed, conserved: snapshot.conserved(), shutdown, pool: worker.pool }
}
