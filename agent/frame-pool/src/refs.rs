//! `pp_ref_count`: how many rights to a frame exist, one 32-bit word per frame.
//!
//! page_pool keeps three things in three places of `struct page`: the pool's references
//! (`pp_ref_count`), everybody else's (`page_ref_count`), and the mark of the emergency reserves
//! (`page_is_pfmemalloc()`). Here they share a word, so that the question of every put, "is this the last
//! right, and may the frame be recycled?", is one load and one comparison with [`SOLE`].

use crate::{
    FrameId, FrameLayout,
    sync::{AtomicU32, Ordering},
};

/// The word of a frame with one reference, no pin and no mark: of every idle frame, and of every frame
/// whose holder is alone.
pub(crate) const SOLE: u32 = 1;

/// The reference words of all frames of a UMEM; shared by all pools that one provider feeds.
#[derive(Debug)]
pub struct RefTable {
    layout: FrameLayout,
    words: Box<[AtomicU32]>,
}

impl RefTable {
    /// A table for a UMEM of this layout, with every frame idle.
    pub(crate) fn new(layout: FrameLayout) -> Self {
        Self { layout, words: (0..layout.chunk_count()).map(|_| AtomicU32::new(SOLE)).collect() }
    }

    /// The layout of the UMEM.
    pub fn layout(&self) -> FrameLayout {
        self.layout
    }

    /// Whether the only right to this frame is the caller's, and the frame may be recycled.
    #[inline]
    pub(crate) fn is_sole(&self, id: FrameId) -> bool {
        // Acquire: the bytes that former holders wrote must be seen by whoever gets the frame next.
        self.words.get(id.index()).is_some_and(|word| word.load(Ordering::Acquire) == SOLE)
    }
}
