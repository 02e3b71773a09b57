//! The rights to a frame, as opposed to its name: the sole one, a shared one, and a pin.

use std::{
    fmt,
    num::{NonZeroU32, NonZeroU64},
    sync::atomic::{AtomicU32, Ordering},
};

use crate::FrameId;

/// Which pool a frame belongs to; drawn from a process-wide counter, so that no two pools share one. A UMEM
/// has one too: that of its frames while they lie with their provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolTag(NonZeroU32);

impl PoolTag {
    /// Tags are below this, so that a [`Ledger`](crate::Ledger) can keep one and a frame's state in 32 bits.
    const LIMIT: u32 = 1 << 28;

    /// The next unused tag. After 2^28 pools and UMEMs the counter starts again.
    pub(crate) fn next() -> Self {
        // The standard atomic even under loom: a tag is only ever compared.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let count = NEXT.fetch_add(1, Ordering::Relaxed) % (Self::LIMIT - 1);
        Self(NonZeroU32::MIN.saturating_add(count))
    }

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
///
/// ```compile_fail,E0382
/// fn put_twice(pool: &mut frame_pool::FramePool, frame: frame_pool::Frame) {
///     pool.put_direct(frame);
///     pool.put_direct(frame);
/// }
/// ```
#[derive(PartialEq, Eq)]
#[must_use = "a frame that is neither put nor lent is lost"]
pub struct Frame(
    /// The pool's tag in the upper half, the index in the lower: one register, and none of it for `None`.
    NonZeroU64,
);

impl Frame {
    /// The lowest bit of the tag.
    const TAG: NonZeroU64 = NonZeroU64::new(1 << 32).expect("it is not 0");

    /// A frame of the pool, or of the provider, with this tag. Callers must hold the right that this makes.
    #[inline]
    pub(crate) fn of(id: FrameId, home: PoolTag) -> Self {
        Self::of_index(u64::from(id.0), home)
    }

    /// The same, by the index of its chunk, which must be one.
    #[inline]
    pub(crate) fn of_index(index: u64, home: PoolTag) -> Self {
        // A shift, but one that stays other than 0 without being looked at.
        Self(NonZeroU64::from(home.0).saturating_mul(Self::TAG) | index)
    }

    /// The frame's name.
    #[inline]
    pub const fn id(&self) -> FrameId {
        FrameId(self.0.get() as u32)
    }

    /// The number of the tag of the pool that the frame must go back to.
    #[inline]
    pub(crate) const fn tag_number(&self) -> u32 {
        (self.0.get() >> 32) as u32
    }

    /// The pool that the frame must go back to.
    #[inline]
    pub const fn home(&self) -> PoolTag {
        match PoolTag::from_number((self.0.get() >> 32) as u32) {
            Some(tag) => tag,
            None => PoolTag(NonZeroU32::MAX), // No frame is made with the tag 0.
        }
    }

    /// Whether it is a frame of the pool with this tag.
    #[inline]
    pub(crate) const fn is_of(&self, home: PoolTag) -> bool {
        (self.0.get() >> 32) as u32 == home.number()
    }

    /// The index, if it is a frame of the pool with this tag; else more than any index is. One look at
    /// the bounds of a table then tells both.
    #[inline]
    pub(crate) const fn index_at(&self, home: PoolTag) -> u64 {
        self.0.get() ^ ((home.number() as u64) << 32)
    }

    /// Tag and index as one number: a name.
    #[inline]
    pub(crate) const fn number(&self) -> u64 {
        self.0.get()
    }

    /// Hands a frame over, from its provider to a pool or back; `false`, and nothing changed, if it is not
    /// of the one that hands it over.
    #[inline]
    pub(crate) fn pass(&mut self, from: PoolTag, to: PoolTag) -> bool {
        let ours = self.is_of(from);
        if ours {
            *self = Self::of(self.id(), to);
        }
        ours
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame").field("id", &self.id()).field("home", &self.home()).finish()
    }
}

/// A shared right to one frame: one or more references in one hand.
///
/// Its bytes may be read, and sent, but not written. As in page_pool, references are counted where the
/// frame is and not where they are held: splitting a bundle costs nothing, so a holder that will hand out
/// many references asks for them at once ([`Recycler::share`], one store) and gives the unused ones back
/// at once. That is the kernel's bias.
///
/// Neither `Clone` nor `Copy`, and without a destructor, as a [`Frame`] is. [`Recycler::charge`] adds
/// references, [`Recycler::put_ref`] gives all of a bundle back; the last one recycles the frame.
///
/// [`Recycler::share`]: crate::Recycler::share
/// [`Recycler::charge`]: crate::Recycler::charge
/// [`Recycler::put_ref`]: crate::Recycler::put_ref
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a reference that is not put keeps its frame for ever"]
pub struct FrameRef {
    id: FrameId,
    home: PoolTag,
    count: u32,
}

impl FrameRef {
    /// `count` references. Callers must have counted them.
    pub(crate) const fn of(id: FrameId, home: PoolTag, count: u32) -> Self {
        Self { id, home, count }
    }

    /// The frame's name.
    pub const fn id(&self) -> FrameId {
        self.id
    }

    /// The pool that the references must go back to.
    pub const fn home(&self) -> PoolTag {
        self.home
    }

    /// References in this bundle, at least one.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Takes `n` references out of the bundle, which keeps at least one; no atomic operation.
    pub const fn split(&mut self, n: u32) -> Option<Self> {
        if n == 0 || n >= self.count {
            return None;
        }
        self.count -= n;
        Some(Self { id: self.id, home: self.home, count: n })
    }

    /// Puts another bundle of the same frame into this one, or gives it back.
    ///
    /// # Errors
    ///
    /// `other`, if it is a right to another frame.
    pub fn merge(&mut self, other: Self) -> Result<(), Self> {
        if (other.id, other.home) == (self.id, self.home) {
            self.count += other.count;
            Ok(())
        } else {
            Err(other)
        }
    }

    /// Notes references that were added to the frame's count.
    pub(crate) const fn charged(&mut self, n: u32) {
        self.count += n;
    }
}

/// A claim on a frame's memory from outside the pool, as `get_page()` makes: while it lasts the frame
/// cannot be recycled, and if its last reference goes, it leaves the pool (`released_refcnt`).
///
/// For those who export a frame to where nobody counts for them. Ends by
/// [`Recycler::unpin`](crate::Recycler::unpin), also after the frame has left the pool.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a pin that is not taken off keeps its frame for ever"]
pub struct FramePin {
    id: FrameId,
    home: PoolTag,
}

impl FramePin {
    /// A pin. Callers must have counted it.
    pub(crate) const fn of(id: FrameId, home: PoolTag) -> Self {
        Self { id, home }
    }

    /// The frame's name.
    pub const fn id(&self) -> FrameId {
        self.id
    }

    /// The pool whose frame this was when it was pinned.
    pub const fn home(&self) -> PoolTag {
        self.home
    }
}

/// A right that is the last one to its frame; lets bulks of frames and of references share their code.
pub(crate) trait LastRight {
    fn id(&self) -> FrameId;
    fn into_frame(self) -> Frame;
}

impl LastRight for Frame {
    fn id(&self) -> FrameId {
        Frame::id(self)
    }

    fn into_frame(self) -> Frame {
        self
    }
}

impl LastRight for FrameRef {
    fn id(&self) -> FrameId {
        self.id
    }

    fn into_frame(self) -> Frame {
        Frame::of(self.id, self.home)
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
