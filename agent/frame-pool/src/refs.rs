//! `pp_ref_count`: how many rights to a frame exist, one 32-bit word per frame.
//!
//! page_pool keeps three things in three places of `struct page`: the pool's references
//! (`pp_ref_count`), everybody else's (`page_ref_count`), and the mark of the emergency reserves
//! (`page_is_pfmemalloc()`). Here they share a word, so that the question of every put, "is this the last
//! right, and may the frame be recycled?", is one load and one comparison with [`SOLE`].
//!
//! ```text
//! 31          30        29 .. 24   23 .. 0
//! pfmemalloc  detached  pins       references
//! ```

use crate::{
    Frame, FrameId, FrameLayout, PoolTag,
    sync::{AtomicU32, Ordering},
};

/// The word of a frame with one reference, no pin and no mark: of every idle frame, and of every frame
/// whose holder is alone.
const SOLE: u32 = 1;
const REFS: u32 = (1 << 24) - 1;
const PIN: u32 = 1 << 24;
const PINS: u32 = 0x3f << 24;
/// Left its pool while pinned; the last pin brings it to the provider.
const DETACHED: u32 = 1 << 30;
const PFMEMALLOC: u32 = 1 << 31;

/// The most references that a frame can be shared into at once, and what the fragment allocator charges a
/// frame with (`BIAS_MAX`): half of what fits, to leave room for references that are added later.
pub const MAX_REFS: u32 = 1 << 23;

/// The reference words of all frames of a UMEM; shared by all pools that one provider feeds.
#[derive(Debug)]
pub struct RefTable {
    layout: FrameLayout,
    tag: PoolTag,
    words: Box<[AtomicU32]>,
}

impl RefTable {
    /// A table for a UMEM of this layout, with every frame idle.
    pub(crate) fn new(layout: FrameLayout) -> Self {
        Self {
            layout,
            tag: PoolTag::next(),
            words: (0..layout.chunk_count()).map(|_| AtomicU32::new(SOLE)).collect(),
        }
    }

    /// The layout of the UMEM.
    pub fn layout(&self) -> FrameLayout {
        self.layout
    }

    /// The tag of the UMEM's frames while they are with their provider: only these may enter a pool, and
    /// only these may come back, so that no two rights to a frame can be made of the frames of two UMEMs.
    pub(crate) fn tag(&self) -> PoolTag {
        self.tag
    }

    /// The word of a frame; frames are made from this table's layout, so there is one.
    fn word(&self, id: FrameId) -> &AtomicU32 {
        &self.words[id.index()]
    }

    /// Whether the only right to this frame is the caller's, and the frame may be recycled
    /// (`__page_pool_page_can_be_recycled()`).
    #[inline]
    pub(crate) fn is_sole(&self, id: FrameId) -> bool {
        // Acquire: the bytes that former holders wrote must be seen by whoever gets the frame next.
        self.words.get(id.index()).is_some_and(|word| word.load(Ordering::Acquire) == SOLE)
    }

    /// Whether it is a frame of the pool with this tag, and [`is_sole`](Self::is_sole).
    #[inline]
    pub(crate) fn is_sole_frame_of(&self, home: PoolTag, frame: &Frame) -> bool {
        is_sole_frame_of(&self.words, home, frame)
    }

    /// [`is_sole`](Self::is_sole), for a loop.
    #[inline]
    pub(crate) fn soles(&self) -> impl Fn(u64) -> bool {
        // As in `are_sole_frames_of`.
        let words = &self.words[..];
        move |index| words.get(index as usize).is_some_and(|word| word.load(Ordering::Acquire) == SOLE)
    }

    /// Whether all frames are of the pool with this tag, and each [`is_sole`](Self::is_sole).
    #[inline]
    pub(crate) fn are_sole_frames_of(&self, home: PoolTag, frames: &[Frame]) -> bool {
        // A slice of its own, or else each Acquire would make the compiler look it up again.
        let words = &self.words[..];
        let is_sole = |frame: &Frame| is_sole_frame_of(words, home, frame);
        // Eight at a time: the end of the slice is looked for less often.
        let (eights, rest) = frames.as_chunks::<8>();
        eights.iter().all(|eight| eight.iter().all(is_sole)) && rest.iter().all(is_sole)
    }

    /// `page_pool_fragment_page()`: the sole holder turns its reference into `n`, by one store.
    pub(crate) fn set(&self, id: FrameId, n: u32) {
        let word = self.word(id);
        // A sole holder is alone: nobody can pin the frame meanwhile, and no pin is left.
        word.store(word.load(Ordering::Relaxed) & PFMEMALLOC | n, Ordering::Relaxed);
    }

    /// `page_pool_ref_page()`: `n` more references for one who has one already; `false` if they would not
    /// fit.
    pub(crate) fn add(&self, id: FrameId, n: u32) -> bool {
        let add = |word: u32| (n <= REFS - (word & REFS)).then(|| word + n);
        self.word(id).fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
    }

    /// `page_pool_unref_page()`: gives `n` references back; whether they were the last. If so, the frame
    /// has one reference again and the caller is its sole holder.
    ///
    /// Whoever holds all of them pays a load and, for more than one, a store.
    #[inline]
    pub(crate) fn unref(&self, id: FrameId, n: u32) -> bool {
        let word = self.word(id);
        // Acquire and Release: what the other holders did to the bytes is done before the last one acts.
        let seen = word.load(Ordering::Acquire);
        if seen & REFS == n {
            if n > 1 && seen & PINS == 0 {
                word.store(seen & PFMEMALLOC | SOLE, Ordering::Relaxed);
            } else if n > 1 {
                word.fetch_sub(n - 1, Ordering::Relaxed);
            }
            return true;
        }
        let last = word.fetch_sub(n, Ordering::AcqRel) & REFS == n;
        if last {
            word.fetch_add(1, Ordering::Relaxed);
        }
        last
    }

    /// References at this moment.
    pub(crate) fn count(&self, id: FrameId) -> u32 {
        self.word(id).load(Ordering::Acquire) & REFS
    }

    /// Whether the holder of `n` references is alone, without pins.
    pub(crate) fn is_alone(&self, id: FrameId, n: u32) -> bool {
        self.word(id).load(Ordering::Acquire) & !PFMEMALLOC == n
    }

    /// `get_page()`; `false` if the frame has as many pins as can be counted.
    pub(crate) fn pin(&self, id: FrameId) -> bool {
        let add = |word: u32| (word & PINS != PINS).then(|| word + PIN);
        self.word(id).fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
    }

    /// `put_page()`: whether this was the last pin of a detached frame, which is now the caller's.
    pub(crate) fn unpin(&self, id: FrameId) -> bool {
        let ours = self.word(id).fetch_sub(PIN, Ordering::AcqRel) & (DETACHED | PINS) == DETACHED | PIN;
        if ours {
            self.reset(id);
        }
        ours
    }

    /// Pins at this moment.
    pub(crate) fn pins(&self, id: FrameId) -> u32 {
        (self.word(id).load(Ordering::Acquire) & PINS) / PIN
    }

    /// The sole holder leaves the frame to those who pin it; whether nobody did any more, so that it is
    /// still the caller's.
    pub(crate) fn detach(&self, id: FrameId) -> bool {
        let ours = self.word(id).fetch_or(DETACHED, Ordering::AcqRel) & PINS == 0;
        if ours {
            self.reset(id);
        }
        ours
    }

    /// The frame leaves its pool: its mark goes.
    pub(crate) fn reset(&self, id: FrameId) {
        self.word(id).store(SOLE, Ordering::Relaxed);
    }

    /// Marks a frame as not to be recycled.
    pub(crate) fn set_pfmemalloc(&self, id: FrameId) {
        self.word(id).fetch_or(PFMEMALLOC, Ordering::Relaxed);
    }
}

#[inline]
fn is_sole_frame_of(words: &[AtomicU32], home: PoolTag, frame: &Frame) -> bool {
    let word = usize::try_from(frame.index_at(home)).ok().and_then(|index| words.get(index));
    word.is_some_and(|word| word.load(Ordering::Acquire) == SOLE)
}

#[cfg(all(test, not(frame_pool_loom)))]
mod tests {
    use super::*;

    const ID: FrameId = FrameId(0);

    fn table() -> RefTable {
        RefTable::new(FrameLayout::new(4096, 1).unwrap())
    }

    #[test]
    fn the_last_reference_makes_a_sole_holder_again() {
        let refs = table();
        refs.set(ID, 3);
        assert!(!refs.is_sole(ID));
        assert!(refs.add(ID, 2));
        assert!(!refs.unref(ID, 1));
        assert!(!refs.unref(ID, 3));
        assert!(refs.unref(ID, 1));
        assert!(refs.is_sole(ID));
        refs.set(ID, 7);
        assert!(refs.unref(ID, 7));
        assert!(refs.is_sole(ID));
    }

    #[test]
    fn too_many_references_are_refused() {
        let refs = table();
        refs.set(ID, MAX_REFS);
        assert!(!refs.add(ID, MAX_REFS));
        assert!(refs.add(ID, MAX_REFS - 1));
        assert!(!refs.add(ID, 1));
        assert_eq!((refs.count(ID), refs.pins(ID)), (REFS, 0));
    }

    #[test]
    fn pins_and_marks_survive_references() {
        let refs = table();
        assert!(refs.pin(ID));
        refs.set_pfmemalloc(ID);
        assert!(refs.add(ID, 4));
        assert!(refs.unref(ID, 5));
        assert!(!refs.is_sole(ID));
        assert_eq!((refs.count(ID), refs.pins(ID)), (1, 1));
        assert!(!refs.detach(ID));
        assert!(refs.unpin(ID));
        assert!(refs.is_sole(ID));
    }

    #[test]
    fn as_many_pins_as_can_be_counted() {
        let refs = table();
        assert_eq!((0..200).filter(|_| refs.pin(ID)).count(), 63);
        assert_eq!((0..63).filter(|_| refs.unpin(ID)).count(), 0);
        assert!(refs.is_sole(ID));
    }
}
