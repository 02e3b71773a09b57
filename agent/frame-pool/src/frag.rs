//! Fragments: several small buffers cut from one frame, each with a reference of its own.
//!
//! The frame being cut carries a bias of [`MAX_REFS`] references from the start, so that handing out a
//! fragment touches no atomic. When it is used up the pool gives back, in one subtraction, those that it
//! did not hand out; from then on the frame belongs to the holders of its fragments.

use crate::{Counting, Frame, FrameId, FramePool, FrameRef, MAX_REFS};

/// A piece of a frame. The bytes from `offset` on, `len` of them, are the holder's alone: pieces of one
/// frame do not overlap.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a fragment that is not put keeps its frame for ever"]
pub struct Fragment {
    /// The reference to give back when the piece is no longer needed.
    pub right: FrameRef,
    /// Where the piece starts in the frame, in bytes.
    pub offset: u32,
    /// How long it is, in bytes: what was asked for, rounded up to the pool's alignment.
    pub len: u32,
}

/// The frame that fragments are being cut from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragPage {
    /// The frame.
    pub id: FrameId,
    /// Where its unused part begins, in bytes.
    pub offset: u32,
    /// Fragments handed out since it became the current frame, whether they came back or not.
    pub users: u32,
}

/// The owner's state of the fragment allocator.
#[derive(Debug, Default)]
pub(crate) struct FragState {
    page: Option<FragPage>,
    align: u32,
    /// Fragments cut from the current frame without a new one: 6.12 and older count them as `fast`.
    cuts: u64,
    /// Drained frames that were used again at once.
    reuses: u64,
    /// Drained or unused frames that left the pool without any statistic.
    pub(crate) released: u64,
}

impl FragState {
    pub(crate) fn new(align: u32) -> Self {
        Self { align: align.max(1), ..Self::default() }
    }

    /// What fragments add to `fast` and to `cached`.
    pub(crate) fn counted(&self, counting: Counting) -> (u64, u64) {
        match counting {
            Counting::Current => (self.reuses, self.reuses),
            Counting::Before6_13 => (self.reuses + self.cuts, 0),
        }
    }
}

impl FramePool {
    /// `page_pool_alloc_frag()`: `size` bytes of a frame, with one reference to it. `None` if `size` is
    /// more than a frame has, or if a new frame is needed and there is none.
    pub fn alloc_frag(&mut self, size: u32) -> Option<Fragment> {
        let chunk_size = self.layout().chunk_size();
        let len = size.checked_next_multiple_of(self.frag.align).filter(|&len| len <= chunk_size)?;
        if let Some(page) = &mut self.frag.page {
            // Half of the bias is left for references that holders add to their own.
            if page.offset + len <= chunk_size && page.users < MAX_REFS / 2 {
                let FragPage { id, offset, .. } = *page;
                page.offset += len;
                page.users += 1;
                self.frag.cuts += 1;
                return Some(self.fragment(id, offset, len));
            }
        }
        let id = match self.drain_frag() {
            Some(frame) => {
                self.frag.reuses += 1;
                frame.id()
            }
            None => self.alloc()?.id(),
        };
        self.refs.set(id, MAX_REFS);
        self.frag.page = Some(FragPage { id, offset: len, users: 1 });
        Some(self.fragment(id, 0, len))
    }

    /// The frame that fragments are being cut from, if any.
    pub fn frag_page(&self) -> Option<FragPage> {
        self.frag.page
    }

    fn fragment(&self, id: FrameId, offset: u32, len: u32) -> Fragment {
        Fragment { right: FrameRef::of(id, self.tag(), 1), offset, len }
    }

    /// `page_pool_drain_frag()`: leaves the current frame to the holders of its fragments. If there is
    /// none left and it can be recycled, the caller gets it.
    fn drain_frag(&mut self) -> Option<Frame> {
        let page = self.frag.page.take()?;
        if !self.refs.unref(page.id, MAX_REFS - page.users) {
            return None;
        }
        let frame = Frame::of(page.id, self.tag());
        if self.refs.is_sole(page.id) {
            return Some(frame);
        }
        self.frag.released += 1;
        self.shared.disconnect(frame);
        None
    }

    /// `page_pool_free_frag()`: as a drain, but an unused frame leaves the pool.
    pub(crate) fn free_frag(&mut self) {
        if let Some(frame) = self.drain_frag() {
            self.frag.released += 1;
            self.shared.disconnect(frame);
        }
    }
}

#[cfg(all(test, not(frame_pool_loom)))]
mod tests {
    use super::*;
    use crate::{FrameLayout, PoolConfig, UmemProvider};

    fn pool() -> FramePool {
        let provider = UmemProvider::new(FrameLayout::new(4096, 128).unwrap());
        FramePool::new(PoolConfig::default(), provider)
    }

    #[test]
    fn pieces_of_a_frame_do_not_overlap_and_the_last_one_recycles_it() {
        let mut pool = pool();
        let pieces: Vec<_> = (0..4).map(|_| pool.alloc_frag(1020).unwrap()).collect();
        let spans: Vec<_> = pieces.iter().map(|piece| (piece.offset, piece.len)).collect();
        assert_eq!(spans, [(0, 1024), (1024, 1024), (2048, 1024), (3072, 1024)]);
        let next = pool.alloc_frag(8).unwrap();
        assert_ne!(next.right.id(), pieces[0].right.id());
        let out = pool.places().out;
        for piece in pieces {
            assert_eq!(pool.places().out, out);
            pool.put_ref_direct(piece.right);
        }
        assert_eq!((pool.places().out, pool.stats().recycle.cached), (out - 1, 1));
    }

    #[test]
    fn a_frame_without_holders_is_used_again_at_once() {
        let mut pool = pool();
        let piece = pool.alloc_frag(4096).unwrap();
        let (id, fast) = (piece.right.id(), pool.stats().alloc.fast);
        pool.put_ref_direct(piece.right);
        assert_eq!(pool.stats().recycle.cached, 0);
        let piece = pool.alloc_frag(4096).unwrap();
        assert_eq!((piece.right.id(), pool.stats().alloc.fast), (id, fast + 1));
        assert_eq!(pool.stats().recycle.cached, 1);
    }

    #[test]
    fn what_does_not_fit_in_a_frame_is_refused() {
        let mut pool = pool();
        for size in [4097, u32::MAX] {
            assert_eq!(pool.alloc_frag(size), None);
        }
        assert_eq!((pool.hold(), pool.frag_page()), (0, None));
    }
}
