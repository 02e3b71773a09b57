//! Everyone else's side of a pool: how a frame comes home from another thread.

use crate::{
    ExtraStats, Frame, FrameId, PoolTag, RecycleStats,
    provider::MemoryProvider,
    refs::RefTable,
    ring::PtrRing,
    sync::{Arc, AtomicU32, AtomicU64, Ordering, OwnLine},
};

/// What the owner of a pool and its recyclers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) tag: PoolTag,
    pub(crate) refs: Arc<RefTable>,
    pub(crate) ring: PtrRing,
    pub(crate) provider: Arc<dyn MemoryProvider>,
    pub(crate) counters: OwnLine<SharedCounters>,
}

/// Counters that anyone may move. All but `release` are moved on rare paths only.
#[derive(Debug, Default)]
pub(crate) struct SharedCounters {
    /// `pages_state_release_cnt`: frames given up by the pool, modulo 2^32.
    pub(crate) release: AtomicU32,
    pub(crate) detached: AtomicU32,
    ring_full: AtomicU64,
    ring_full_frames: AtomicU64,
    released_refcnt: AtomicU64,
    foreign_put: AtomicU64,
    double_put: AtomicU64,
    bad_addr: AtomicU64,
}

/// Counts without ordering anything.
fn count(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Ordering::Relaxed);
}

impl Shared {
    /// `page_pool_recycle_in_ring()` and, if the ring refuses, the release that follows it.
    pub(crate) fn put_ring(&self, frame: Frame) {
        if !self.ring.produce(frame.id()) {
            count(&self.counters.ring_full, 1);
            count(&self.counters.ring_full_frames, 1);
            self.release(1, &mut [frame].into_iter());
        }
    }

    /// `page_pool_recycle_ring_bulk()`: in order; `ring_full` counts once, and what was refused leaves.
    pub(crate) fn put_ring_bulk(&self, frames: &mut Vec<Frame>) {
        let accepted = self.ring.produce_bulk(frames.iter().map(Frame::id));
        let refused = frames.len() - accepted;
        let mut rest = frames.drain(..).skip(accepted);
        if refused > 0 {
            count(&self.counters.ring_full, 1);
            count(&self.counters.ring_full_frames, refused);
            self.release(refused, &mut rest);
        }
    }

    /// Whether the frame may be recycled by this pool, at once and by its sole holder.
    #[inline]
    pub(crate) fn takes(&self, frame: &Frame) -> bool {
        frame.home() == self.tag && self.refs.is_sole(frame.id())
    }

    /// What becomes of a frame that [`takes`](Self::takes) refused: it is another pool's and is not
    /// accepted, or it is ours and not recyclable and leaves the pool.
    #[cold]
    pub(crate) fn put_odd(&self, frame: Frame) {
        if frame.home() != self.tag {
            count(&self.counters.foreign_put, 1);
            return;
        }
        count(&self.counters.released_refcnt, 1);
        self.release(1, &mut [frame].into_iter());
    }

    /// Takes out of a bulk, in order, what the pool cannot recycle.
    pub(crate) fn put_odd_ones(&self, frames: &mut Vec<Frame>) {
        if !frames.iter().all(|frame| self.takes(frame)) {
            for frame in frames.extract_if(.., |frame| !self.takes(frame)) {
                self.put_odd(frame);
            }
        }
    }

    /// `page_pool_return_page()` for `n` frames that nobody else holds.
    pub(crate) fn release(&self, n: usize, frames: &mut dyn Iterator<Item = Frame>) {
        // Release: whoever sees the pool empty (`inflight`) sees what the last holders did before.
        self.counters.release.fetch_add(n as u32, Ordering::Release);
        self.provider.release(frames);
    }

    /// Frames that came back and did not go into the cache. With `cached` these are all returns.
    pub(crate) fn returned(&self) -> u64 {
        let counters = &self.counters;
        self.ring.produced()
            + counters.ring_full_frames.load(Ordering::Relaxed)
            + counters.released_refcnt.load(Ordering::Relaxed)
    }

    /// The shared half of the statistics.
    pub(crate) fn stats(&self) -> (RecycleStats, ExtraStats) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        let recycle = RecycleStats {
            ring: self.ring.produced(),
            ring_full: read(&counters.ring_full),
            released_refcnt: read(&counters.released_refcnt),
            ..RecycleStats::default()
        };
        let extras = ExtraStats {
            ring_full_frames: read(&counters.ring_full_frames),
            foreign_put: read(&counters.foreign_put),
            double_put: read(&counters.double_put),
            bad_addr: read(&counters.bad_addr),
            ..ExtraStats::default()
        };
        (recycle, extras)
    }
}

/// Brings frames home from any thread: through the pool's ring, or to the provider if that is full.
///
/// Never waits, and works for as long as anybody keeps it, also after the pool is gone.
#[derive(Clone, Debug)]
pub struct Recycler {
    pub(crate) shared: Arc<Shared>,
}

impl Recycler {
    /// `page_pool_put_page(.., allow_direct = false)`: the ring takes the frame, or else the provider.
    #[inline]
    pub fn put(&self, frame: Frame) {
        if self.shared.takes(&frame) {
            self.shared.put_ring(frame);
        } else {
            self.shared.put_odd(frame);
        }
    }

    /// `page_pool_put_page_bulk()`: all frames of the vector, in order, which it leaves empty.
    pub fn put_bulk(&self, frames: &mut Vec<Frame>) {
        self.shared.put_odd_ones(frames);
        self.shared.put_ring_bulk(frames);
    }

    /// The pool whose frames this brings home.
    pub fn tag(&self) -> PoolTag {
        self.shared.tag
    }

    /// Frames given up by the pool, modulo 2^32.
    pub fn release(&self) -> u32 {
        self.shared.counters.release.load(Ordering::Acquire)
    }
}

/// Rebuilds the right to a frame that came out of the ring; only the pool's owner and shutdown may.
pub(crate) const fn from_ring(id: FrameId, tag: PoolTag) -> Frame {
    Frame::of(id, tag)
}
