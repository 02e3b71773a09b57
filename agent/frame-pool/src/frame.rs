//! The right to a frame, as opposed to its name.

use std::{
    fmt,
    num::{NonZeroU32, NonZeroU64},
    sync::atomic::{AtomicU32, Ordering},
};

use crate::FrameId;

/// Which pool a frame belongs to; drawn from a process-wide counter, so that no two pools share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolTag(NonZeroU32);

impl PoolTag {
    /// Tags are below this, so that a [`Ledger`](crate::Ledger) can keep one and a frame's state in 32 bits.
    const LIMIT: u32 = 1 << 28;

    /// The next unused tag. After 2^28 pools the counter starts again.
    pub(crate) fn next() -> Self {
        // The standard atomic even under loom: a tag is only ever compared.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let count = NEXT.fetch_add(1, Ordering::Relaxed) % (Self::LIMIT - 1);
        Self(NonZeroU32::MIN.saturating_add(count))
    }

    /// The tag of frames that lie with their provider; no pool has it.
    pub(crate) const NOBODY: Self = Self(NonZeroU32::MAX);

    /// The tag with this number, if it can be one.
    pub(crate) const fn from_number(number: u32) -> Option<Self> {
        match NonZeroU32::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The tag as a number, for messages and metrics: the pool's id.
    pub const fn number(self) -> u32 {
        self.0.get()
    }
}

/// The sole right to one frame's bytes.
///
/// Neither `Clone` nor `Copy`, and made only by this crate: by a provider for a pool, by a pool for its
/// user, and by a [`Ledger`](crate::Ledger) for a frame that the kernel gave back. So safe code can
/// neither forge nor duplicate a right. A `Frame` has no destructor, as the pool that must have it back
/// is not inside: one that is dropped stays `out` for ever.
#[derive(PartialEq, Eq)]
#[must_use = "a frame that is neither put nor lent is lost"]
pub struct Frame(
    /// The pool's tag in the upper half, the index in the lower: one register, and none of it for `None`.
    NonZeroU64,
);

impl Frame {
    /// A frame of nobody. Callers must hold the right that this makes.
    pub(crate) const fn unowned(id: FrameId) -> Self {
        Self::of(id, PoolTag::NOBODY)
    }

    /// A frame of the pool with this tag. Callers must hold the right that this makes.
    #[inline]
    pub(crate) const fn of(id: FrameId, home: PoolTag) -> Self {
        let tag = NonZeroU64::new((home.number() as u64) << 32).expect("a tag is not zero");
        Self(tag.saturating_add(id.0 as u64))
    }

    /// The frame's name.
    #[inline]
    pub const fn id(&self) -> FrameId {
        FrameId(self.0.get() as u32)
    }

    /// The pool that the frame must go back to.
    #[inline]
    pub const fn home(&self) -> PoolTag {
        match PoolTag::from_number((self.0.get() >> 32) as u32) {
            Some(tag) => tag,
            None => PoolTag::NOBODY, // No frame is made with the tag 0.
        }
    }

    /// Whether it is a frame of the pool with this tag.
    #[inline]
    pub(crate) const fn is_of(&self, home: PoolTag) -> bool {
        (self.0.get() >> 32) as u32 == home.number()
    }

    /// Takes possession of a frame that a provider delivered.
    pub(crate) const fn settle_at(&mut self, home: PoolTag) {
        *self = Self::of(self.id(), home);
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame").field("id", &self.id()).field("home", &self.home()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_and_the_lack_of_one_fit_in_a_register() {
        assert_eq!(size_of::<Frame>(), 8);
        assert_eq!(size_of::<Option<Frame>>(), 8);
    }

    #[test]
    fn no_two_pools_share_a_tag() {
        assert_ne!(PoolTag::next(), PoolTag::next());
    }
}
