//! `AllocCache`: page_pool's `struct pp_alloc_cache`, the owner's private stack of hot frames.

use crate::{Frame, frame::LastRight};

/// A stack of at most `limit` frames; last in, first out, because the last one is still in the CPU's cache.
///
/// # Invariants
///
/// The vector's capacity is at least `limit` and never grows.
#[derive(Debug)]
pub(crate) struct AllocCache {
    frames: Vec<Frame>,
    limit: usize,
}

impl AllocCache {
    pub(crate) fn new(limit: usize) -> Self {
        Self { frames: Vec::with_capacity(limit), limit }
    }

    pub(crate) fn len(&self) -> usize {
        self.frames.len()
    }

    /// How many more frames fit.
    pub(crate) fn room(&self) -> usize {
        self.limit - self.frames.len()
    }

    /// Puts a frame on top, or gives it back if the cache is full.
    #[inline]
    pub(crate) fn push(&mut self, frame: Frame) -> Result<(), Frame> {
        if self.frames.len() < self.limit {
            self.frames.push(frame);
            Ok(())
        } else {
            Err(frame)
        }
    }

    /// Takes the frame on top.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Frame> {
        self.frames.pop()
    }

    /// Moves the first frames of `from` on top, in order, as far as there is room; says how many.
    pub(crate) fn push_front_of(&mut self, from: &mut Vec<impl LastRight>) -> usize {
        let count = from.len().min(self.room());
        self.frames.extend(from.drain(..count).map(LastRight::into_frame));
        count
    }

    /// The same for frames, which are copied in one go if all fit.
    #[inline]
    pub(crate) fn append(&mut self, from: &mut Vec<Frame>) -> usize {
        let count = from.len();
        if count > self.room() {
            return self.push_front_of(from);
        }
        self.frames.append(from);
        count
    }

    /// Moves up to `n` frames from the top to the end of `to`, the top one last; says how many.
    #[inline]
    pub(crate) fn pop_into(&mut self, to: &mut Vec<Frame>, n: usize) -> usize {
        let count = self.frames.len().min(n);
        // A drain of the tail alone ends as a copy in one go.
        to.extend(self.frames.drain(self.frames.len() - count..));
        count
    }

    /// Empties the cache, from the top to the bottom.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Frame> {
        self.frames.drain(..).rev()
    }

    /// The frames from the bottom to the top.
    pub(crate) fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// The stack itself, for a provider to fill.
    pub(crate) fn stack(&mut self) -> &mut Vec<Frame> {
        &mut self.frames
    }
}
