//! What the owner of a pool and everyone else share: the ring, the provider, and the rare counters.

use crate::{
    ExtraStats, Frame, FrameId, FrameRef, PoolTag, RecycleStats,
    frame::LastRight,
    holds::Holds,
    provider::MemoryProvider,
    refs::RefTable,
    ring::PtrRing,
    sync::{Arc, AtomicU32, AtomicU64, OnceLock, Ordering, OwnLine},
    token::TokenBits,
};

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) tag: PoolTag,
    pub(crate) refs: Arc<RefTable>,
    pub(crate) ring: PtrRing,
    pub(crate) tokens: TokenBits,
    pub(crate) provider: Arc<dyn MemoryProvider>,
    pub(crate) counters: OwnLine<SharedCounters>,
    pub(crate) holds: OnceLock<Box<Holds>>,
}

/// Counters that anyone may move, on paths that are rare.
#[derive(Debug, Default)]
pub(crate) struct SharedCounters {
    /// `pages_state_release_cnt`: frames given up by the pool, modulo 2^32.
    pub(crate) release: AtomicU32,
    /// Frames that left the pool and are still pinned.
    pub(crate) detached: AtomicU32,
    /// Frames given away, as [`HeldFrame`](crate::HeldFrame)s or as numbers.
    pub(crate) held: AtomicU32,
    pub(crate) held_refused: AtomicU64,
    ring_full: AtomicU64,
    ring_full_frames: AtomicU64,
    released_refcnt: AtomicU64,
    pub(crate) foreign_put: AtomicU64,
    pub(crate) double_put: AtomicU64,
    pub(crate) bad_addr: AtomicU64,
}

/// Counts without ordering anything.
pub(crate) fn count(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Ordering::Relaxed);
}

impl Shared {
    /// The right to a frame that came out of the ring, which holds this pool's frames only.
    pub(crate) fn own(&self, id: FrameId) -> Frame {
        Frame::of(id, self.tag)
    }

    /// Whether the frame may be recycled by this pool.
    #[inline]
    pub(crate) fn takes(&self, frame: &Frame) -> bool {
        self.refs.is_sole_frame_of(self.tag, frame)
    }

    /// `page_pool_recycle_in_ring()` and, if the ring refuses, the release that follows it.
    #[inline]
    pub(crate) fn put_ring(&self, frame: Frame) {
        if !self.ring.produce(frame.id()) {
            self.ring_refused(frame);
        }
    }

    #[cold]
    fn ring_refused(&self, frame: Frame) {
        count(&self.counters.ring_full, 1);
        count(&self.counters.ring_full_frames, 1);
        self.release(1, Some(frame));
    }

    /// `page_pool_recycle_ring_bulk()`: in order; `ring_full` counts once, and what was refused leaves.
    pub(crate) fn put_ring_bulk(&self, rights: &mut Vec<impl LastRight>) {
        let accepted = self.ring.produce_bulk(rights);
        let refused = rights.len() - accepted;
        if refused > 0 {
            count(&self.counters.ring_full, 1);
            count(&self.counters.ring_full_frames, refused);
            self.release(refused, rights.drain(accepted..).map(LastRight::into_frame));
        }
        rights.clear();
    }

    /// What becomes of a frame that [`takes`](Self::takes) refused: it is another pool's and is not
    /// accepted, or it is ours and not recyclable and leaves the pool.
    #[cold]
    pub(crate) fn put_odd(&self, frame: Frame) {
        if frame.is_of(self.tag) {
            count(&self.counters.released_refcnt, 1);
            self.disconnect(frame);
        } else {
            count(&self.counters.foreign_put, 1);
        }
    }

    /// Takes out of a bulk, in order, what the pool cannot recycle.
    #[inline]
    pub(crate) fn put_odd_ones(&self, frames: &mut Vec<Frame>) {
        if !self.refs.are_sole_frames_of(self.tag, frames) {
            self.remove_odd_ones(frames);
        }
    }

    #[cold]
    fn remove_odd_ones(&self, frames: &mut Vec<Frame>) {
        for frame in frames.extract_if(.., |frame| !self.takes(frame)) {
            self.put_odd(frame);
        }
    }

    /// Gives the references of a bundle back; the frame, if they were the last.
    #[inline]
    pub(crate) fn unref(&self, bundle: FrameRef) -> Option<Frame> {
        if bundle.home() != self.tag {
            count(&self.counters.foreign_put, 1);
            return None;
        }
        self.refs.unref(bundle.id(), bundle.count()).then(|| bundle.into_frame())
    }

    /// Gives the references of all bundles back; leaves in the vector those that were the last to a frame
    /// that can be recycled. The other last ones leave the pool, in order.
    pub(crate) fn unref_bulk(&self, bundles: &mut Vec<FrameRef>) {
        bundles.retain(|bundle| {
            if bundle.home() != self.tag {
                count(&self.counters.foreign_put, 1);
                return false;
            }
            if !self.refs.unref(bundle.id(), bundle.count()) {
                return false;
            }
            let recyclable = self.refs.is_sole(bundle.id());
            if !recyclable {
                self.put_odd(Frame::of(bundle.id(), self.tag));
            }
            recyclable
        });
    }

    /// `page_pool_return_page()` for `n` frames that nobody else holds.
    pub(crate) fn release(&self, n: usize, frames: impl IntoIterator<Item = Frame>) {
        // Release: whoever sees the pool empty (`inflight`) sees what the last holders did before.
        self.counters.release.fetch_add(n as u32, Ordering::Release);
        self.give_up(frames);
    }

    fn give_up(&self, frames: impl IntoIterator<Item = Frame>) {
        let theirs = self.refs.tag();
        self.provider.release(&mut frames.into_iter().map(|frame| Frame::of(frame.id(), theirs)));
    }

    /// `page_pool_return_page()` for a frame that may be pinned or marked: it leaves the pool now, and
    /// reaches the provider when its last pin goes.
    pub(crate) fn disconnect(&self, frame: Frame) {
        let id = frame.id();
        if self.refs.pins(id) > 0 {
            // Both are said before the frame is let go, as the last pin may go at any moment from then on.
            self.counters.detached.fetch_add(1, Ordering::Relaxed);
            self.provider.detached(id);
            if !self.refs.detach(id) {
                self.counters.release.fetch_add(1, Ordering::Release);
                return;
            }
            self.counters.detached.fetch_sub(1, Ordering::Relaxed);
        } else {
            self.refs.reset(id);
        }
        self.release(1, Some(frame));
    }

    /// Takes a pin off; a detached frame that loses its last one goes to the provider.
    pub(crate) fn unpin(&self, id: FrameId) {
        if self.refs.unpin(id) {
            self.counters.detached.fetch_sub(1, Ordering::Relaxed);
            self.give_up(Some(self.own(id)));
        }
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
            held_refused: read(&counters.held_refused),
            ..ExtraStats::default()
        };
        (recycle, extras)
    }
}
