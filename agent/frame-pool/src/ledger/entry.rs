//! [`Entry`]: what one frame is lent for, in 32 bits.

use std::fmt;

use super::Lent;
use crate::{Frame, PoolTag};

/// One frame's entry: the tag of its pool, which is below 2^28, and above it what it is lent for, and whether as
/// one of several references; 0 if it is not lent.
///
/// Most are lent to the fill ring: there the entry is the tag and nothing else, and all others are not positive.
/// So the packet path asks with one comparison whether a frame that was received may be believed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry(u32);

impl Entry {
    pub(super) const NOT_LENT: Self = Self(0);
    const TAG: u32 = (1 << 29) - 1;
    const QUARANTINED: u32 = 1 << 31 | 1 << 30;
    const SHARED: u32 = 1 << 29;

    #[inline]
    const fn place(lent: Lent) -> u32 {
        match lent {
            Lent::Fill => 0,
            Lent::Tx => 1 << 31,
        }
    }

    #[inline]
    pub(super) const fn lent(lent: Lent, tag: u32) -> Self {
        Self(tag | Self::place(lent))
    }

    /// The same, as one of several references.
    pub(super) const fn shared(lent: Lent, tag: u32) -> Self {
        Self(Self::lent(lent, tag).0 | Self::SHARED)
    }

    /// Which ring it is lent to, if to any.
    pub(super) const fn ring(self) -> Lent {
        if self.0 & Self::place(Lent::Tx) == 0 { Lent::Fill } else { Lent::Tx }
    }

    pub(super) const fn is_quarantined(self) -> bool {
        self.0 & Self::QUARANTINED == Self::QUARANTINED
    }

    pub(super) const fn quarantined(self) -> Self {
        Self(self.0 | Self::QUARANTINED)
    }

    /// What it becomes when the frame goes on to the other ring.
    #[inline]
    pub(super) const fn onward(self) -> Self {
        Self(self.0 ^ Self::place(Lent::Tx))
    }

    /// The pool of a frame that is lent for `lent` by its sole holder.
    #[inline]
    pub(super) const fn tag_if_sole(self, lent: Lent) -> Option<PoolTag> {
        let number = self.0 ^ Self::place(lent);
        let is_sole = match lent {
            Lent::Fill => number as i32 > 0,
            // One comparison: neither 0 nor more than a tag.
            Lent::Tx => number.wrapping_sub(1) < Self::TAG,
        };
        if is_sole { PoolTag::from_number(number) } else { None }
    }

    /// The right to the frame with this index, if its sole holder lent it for `lent`.
    #[inline]
    pub(super) fn frame_if_sole(self, lent: Lent, index: u64) -> Option<Frame> {
        self.tag_if_sole(lent).map(|tag| Frame::of_index(index, tag))
    }

    /// The pool of a frame that is lent for `lent` as one of several references.
    pub(super) const fn tag_if_shared(self, lent: Lent) -> Option<PoolTag> {
        if self.0 & Self::SHARED == 0 { None } else { Self(self.0 ^ Self::SHARED).tag_if_sole(lent) }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0 & Self::TAG, self.0 & !Self::TAG)
    }
}
