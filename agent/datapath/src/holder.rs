//! [`HeldBy`]: who keeps frames longer than a turn.

use frame_pool::Holder;

/// Who keeps frames longer than a turn, as the pool is told ([`frame_pool::FramePool::give_to`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldBy {
    /// A handler; and whoever else did not say who it is.
    Handler,
    /// A [`Capture`](crate::Capture): packets that wait to be written.
    Capture,
}

impl HeldBy {
    /// Everyone.
    pub const ALL: [Self; 2] = [Self::Handler, Self::Capture];

    /// The name in metrics and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Handler => "handler",
            Self::Capture => "capture",
        }
    }
}

impl From<HeldBy> for Holder {
    fn from(by: HeldBy) -> Self {
        Self(by as u8)
    }
}
