//! [`Leaving`]: what is left of a group that was closed, as long as somebody holds its frames.

use std::time::Duration;

use frame_pool::{FramePool, Shutdown};

use crate::observe::{HoldsView, QueueView};

/// How often queues are counted whose numbers do not add up.
const LOOKS: u32 = 4;

/// A group that was closed, until all of its frames are home.
pub(super) struct Leaving {
    pub(super) workers: Vec<Past>,
    /// Whether the handler of one of them panicked.
    pub(super) failed: bool,
}

/// A worker that ended: the last look at its queues, and their pools.
pub(super) struct Past {
    pub(super) queues: Vec<QueueView>,
    pub(super) pools: Vec<FramePool>,
}

impl Leaving {
    /// The last look at the queues.
    pub(super) fn queues(&self) -> impl Iterator<Item = &QueueView> {
        self.workers.iter().flat_map(|past| &past.queues)
    }

    /// Takes late frames home, and says once a minute if some are still out; whether all are home.
    pub(super) fn retry(&mut self, now: Duration, leak_after: Duration) -> bool {
        let mut all_home = true;
        for Past { queues, pools } in &mut self.workers {
            for pool in &mut *pools {
                if let Shutdown::Draining { warning, .. } = pool.retry(now) {
                    all_home = false;
                    if let Some(stalled) = warning {
                        log::warn!("{stalled}");
                    }
                }
            }
            // Again, if somebody gave a frame back between two of its numbers.
            for _ in 0..LOOKS {
                count_again(queues, pools, now, leak_after);
                if queues.iter().all(|queue| queue.snapshot.conserved()) {
                    break;
                }
            }
            // Where nobody knows, that stays to be seen.
            all_home &= queues.iter().all(|queue| queue.snapshot.conserved());
        }
        all_home
    }
}

/// Brings the last look at a worker's queues up to date with its pools. As while it ran, the second of two
/// accounts for what its own pool took, the first for all the rest.
fn count_again(queues: &mut [QueueView], pools: &[FramePool], now: Duration, leak_after: Duration) {
    let mut others = 0;
    for (side, (queue, pool)) in queues.iter_mut().zip(pools).enumerate().rev() {
        queue.holds = HoldsView::of(&pool.recycler(), now, leak_after);
        let (snapshot, now) = (&mut queue.snapshot, pool.places());
        snapshot.given = pool.held();
        snapshot.inflight = pool.inflight();
        (snapshot.hold, snapshot.release) = (pool.hold(), pool.release());
        let places = &mut snapshot.places;
        places.user = now.out.saturating_sub(places.quarantined);
        (places.ring, places.detached) = (now.ring, now.detached);
        if side > 0 {
            others = now.out + now.ring + now.detached;
            snapshot.total = others;
        } else {
            places.slab = now.slab;
            snapshot.total = pool.layout().chunk_count() - others;
        }
    }
}
