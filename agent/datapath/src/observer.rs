//! [`Observer`]: who sees each packet after the handler, and may keep its bytes.

use std::time::Duration;

use frame_pool::{Frame, FramePool, Recycler};

use crate::handler::Verdict;
use crate::packet::Packet;
use crate::port::FrameBytes;
use crate::right::Right;

/// A packet's circumstances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The time that the turn was given.
    pub at: Duration,
    /// Which of the worker's sides received it (or sends it, if it began here): 0, and 1 for the second
    /// side of a [`Pair`](crate::Pair).
    pub side: usize,
    /// What becomes of it.
    pub verdict: Verdict,
}

/// The pool that a packet's frames are of.
#[derive(Debug)]
pub struct Home<'a> {
    /// The owner's side of it.
    pub pool: &'a mut FramePool,
    /// Everyone else's.
    pub recycler: &'a Recycler,
}

/// What an observer counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ObserverCounts {
    /// Packets that it kept.
    pub kept: u64,
    /// Packets that it would have kept and could not.
    pub missed: u64,
}

/// Sees each packet once the handler is through with it, that is after the last one who writes to it:
/// packets are shown as they are sent.
///
/// An observer runs inside a worker's turn, as a handler does: it does not wait, lock or allocate. `()` is
/// the observer that looks at nothing, and costs nothing.
pub trait Observer {
    /// How a packet that is to be sent is held afterwards: as a [`Frame`] if the observer keeps nothing,
    /// as a [`FrameRef`](frame_pool::FrameRef) if it may.
    type Sent: Right;

    /// Whether it looks at packets at all. Where nobody does, each packet moves on as soon as it is handled.
    const LOOKS: bool = true;

    /// A packet, as a rule of one part. What the observer keeps it takes by the calls of
    /// [`dropped`](Self::dropped) or [`sent`](Self::sent) that follow, one for each part.
    fn see<B: FrameBytes>(&mut self, seen: Seen, bytes: &B, parts: &[Packet]);

    /// A part of the packet last seen, which goes home: the frame, unless the observer keeps it.
    fn dropped(&mut self, home: Home<'_>, part: Packet) -> Option<Frame>;

    /// A part of the packet last seen, which is sent. Both may hold it from now on, and read it.
    ///
    /// # Errors
    ///
    /// The part, if it is of another pool's frame.
    fn sent(&mut self, home: Home<'_>, part: Packet) -> Result<Packet<Self::Sent>, Packet>;

    /// A packet that is sent goes by unseen, if nobody [looks](Self::LOOKS).
    ///
    /// # Errors
    ///
    /// The packet, if somebody does.
    #[inline]
    fn overlook(sent: Packet) -> Result<Packet<Self::Sent>, Packet> {
        Err(sent)
    }

    /// What was kept and missed since the start, of the packets of that [side](Seen::side).
    fn counts(&self, side: usize) -> ObserverCounts;
}

impl Observer for () {
    type Sent = Frame;

    const LOOKS: bool = false;

    #[inline]
    fn see<B: FrameBytes>(&mut self, _seen: Seen, _bytes: &B, _parts: &[Packet]) {}

    #[inline]
    fn dropped(&mut self, _home: Home<'_>, part: Packet) -> Option<Frame> {
        Some(part.into_right())
    }

    #[inline]
    fn sent(&mut self, _home: Home<'_>, part: Packet) -> Result<Packet, Packet> {
        Ok(part)
    }

    #[inline]
    fn overlook(sent: Packet) -> Result<Packet, Packet> {
        Ok(sent)
    }

    #[inline]
    fn counts(&self, _side: usize) -> ObserverCounts {
        ObserverCounts::default()
    }
}
