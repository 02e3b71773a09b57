//! [`Capture`]: an observer that shows packets to a writer on another thread, as they are sent.
//!
//! Nothing is copied: the writer gets the packet's frames, each as a [`HeldFrame`]. Of a packet that goes
//! home it gets the frame itself; of one that is sent, which nobody writes to any more, one more
//! reference. The frame comes home when the last of both is done with it.
//!
//! ```text
//!              handler                 Capture                            writer's thread
//! packet --> writes, says --> Drop ------- frame ------> [ queue ] -----> HeldFrame, then the ring
//!                         \-> Transmit --- reference --> [       ]
//!                                     \--- reference --> TX ring -------> completion
//! ```
//!
//! That nobody writes to a frame that the writer reads is not a promise but a type, so that no packet ever has to be
//! copied for it: the handler is the last one who has the packet as a [`Packet<Frame>`](Packet), which alone can be
//! changed; what goes on is a `Packet<FrameRef>`, and becomes a `Frame` again when its count says that nobody else is
//! left.
//!
//! ```
//! # use {datapath::{FrameBytes, Packet}, frame_pool::Frame};
//! fn change_before(bytes: &mut impl FrameBytes, packet: &mut Packet<Frame>) {
//!     bytes.with_mut(packet, |bytes| bytes[0] = 1);
//! }
//! ```
//!
//! ```compile_fail
//! # use {datapath::{FrameBytes, Packet}, frame_pool::FrameRef};
//! fn change_behind_the_capture(bytes: &mut impl FrameBytes, sent: &mut Packet<FrameRef>) {
//!     bytes.with_mut(sent, |bytes| bytes[0] = 1);
//! }
//! ```
//!
//! The worker never waits for the writer. A packet for which the queue has no room, or the pool's limit on
//! held frames ([`PoolConfig::held_limit`](frame_pool::PoolConfig::held_limit)) no frame, is missed and
//! counted; it is handled and sent like any other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::Duration;

use frame_pool::{Frame, FrameRef, HeldFrame};

use crate::handler::Verdict;
use crate::holder::HeldBy;
use crate::observer::{Home, Observer, ObserverCounts, Seen};
use crate::packet::Packet;
use crate::port::FrameBytes;

/// A part of a packet, as a rule the whole of it, in the hands of the writer. Dropping it gives the frame
/// back.
#[derive(Debug)]
pub struct Captured {
    /// The right to read the frame's bytes.
    pub frame: HeldFrame,
    /// Where the data begin, in bytes from the start of the chunk.
    pub offset: u32,
    /// How many bytes there are.
    pub len: u32,
    more: bool,
    /// The packet's circumstances.
    pub seen: Seen,
}

/// What is in the queue: a part, or that the packet which began is not going to be whole.
type Part = Option<Captured>;

/// The bytes of frames that are held, for a writer on another thread. Whoever made the UMEM implements it.
pub trait HeldBytes: Send + Sync {
    /// Looks at the bytes that were captured. Nobody writes to them while the frame is held.
    fn with_bytes(&self, captured: &Captured, look: &mut dyn FnMut(&[u8]));
}

/// A queue of `slots` parts of packets between a worker and a writer.
///
/// Made once: nothing is allocated for a packet, and no lock is taken, as the writer never sleeps on the
/// queue.
pub fn capture(slots: usize) -> (Capture, CaptureReader) {
    let slots = slots.max(1);
    let (sender, receiver) = sync_channel(slots);
    let taken = Arc::new(AtomicU64::new(0));
    let capture = Capture {
        sender,
        slots: slots as u64,
        put: 0,
        taken: Arc::clone(&taken),
        counts: [ObserverCounts::default(); 2],
        seen: Seen { at: Duration::ZERO, side: 0, verdict: Verdict::Drop },
        wanted: false,
        first: true,
    };
    (capture, CaptureReader { receiver, taken })
}

/// The worker's end.
#[derive(Debug)]
pub struct Capture {
    sender: SyncSender<Part>,
    slots: u64,
    /// Parts that were ever put into the queue.
    put: u64,
    /// Parts that were ever taken out of it.
    taken: Arc<AtomicU64>,
    /// Of each side.
    counts: [ObserverCounts; 2],
    seen: Seen,
    /// Whether the packet last seen is to be kept.
    wanted: bool,
    /// Whether its next part is the first one.
    first: bool,
}

impl Capture {
    /// Puts a part into the queue, for which there is room as this is the only one who puts; if it can be
    /// held, and there still is a writer.
    #[inline]
    fn put<R>(&mut self, held: Result<HeldFrame, R>, offset: u32, len: u32, more: bool) -> Result<(), R> {
        let (part, refused) = match held {
            Ok(frame) => (Some(Captured { frame, offset, len, more, seen: self.seen }), Ok(())),
            Err(right) => (None, Err(right)),
        };
        let is_held = part.is_some();
        // The first part is the one whose lack nobody need be told of.
        let is_put = (is_held || !self.first) && self.sender.try_send(part).is_ok();
        self.put += u64::from(is_put);
        self.first = false;
        if !(is_held && is_put) {
            self.wanted = false;
            let counts = self.counted();
            counts.kept -= 1;
            counts.missed += 1;
        }
        refused
    }

    /// Where the packet last seen is counted.
    #[inline]
    fn counted(&mut self) -> &mut ObserverCounts {
        &mut self.counts[usize::from(self.seen.side != 0)]
    }
}

impl Observer for Capture {
    type Sent = FrameRef;

    /// All parts of a packet are kept, or none.
    #[inline]
    fn see<B: FrameBytes>(&mut self, seen: Seen, _bytes: &B, parts: &[Packet]) {
        let waiting = self.put - self.taken.load(Ordering::Relaxed);
        self.seen = seen;
        self.first = true;
        self.wanted = waiting + parts.len() as u64 <= self.slots;
        if self.wanted {
            self.counted().kept += 1;
        } else {
            self.counted().missed += 1;
        }
    }

    #[inline]
    fn dropped(&mut self, home: Home<'_>, part: Packet) -> Option<Frame> {
        let (offset, len, more) = (part.offset(), part.len(), part.has_more());
        if !self.wanted {
            return Some(part.into_right());
        }
        self.put(
            home.pool.give_to(part.into_right(), HeldBy::Capture.into(), self.seen.at),
            offset,
            len,
            more,
        )
        .err()
    }

    #[inline]
    fn sent(&mut self, home: Home<'_>, part: Packet) -> Result<Packet<FrameRef>, Packet> {
        let (offset, len, more) = (part.offset(), part.len(), part.has_more());
        let references = 1 + u32::from(self.wanted);
        let mut part = part.try_hold_by(|frame| home.recycler.share(frame, references))?;
        if let Some(shown) = part.split_right()
            && let held = home.pool.give_ref_to(shown, HeldBy::Capture.into(), self.seen.at)
            && let Err(shown) = self.put(held, offset, len, more)
        {
            home.pool.put_ref_direct(shown);
        }
        Ok(part)
    }

    #[inline]
    fn counts(&self, side: usize) -> ObserverCounts {
        self.counts[usize::from(side != 0)]
    }
}

/// The writer's end.
#[derive(Debug)]
pub struct CaptureReader {
    receiver: Receiver<Part>,
    taken: Arc<AtomicU64>,
}

/// Why there is nothing to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NothingCaptured {
    /// Nothing now. Whoever waits sleeps by other means.
    Yet,
    /// The worker is gone, and everything was read.
    AnyMore,
}

impl CaptureReader {
    /// The next packet: all its parts, as a rule one, take the place of what is in `parts`.
    ///
    /// # Errors
    ///
    /// [`NothingCaptured`]. Never waits; the parts of a packet that is not yet complete stay in `parts`, to
    /// be given in again.
    pub fn try_next(&mut self, parts: &mut Vec<Captured>) -> Result<(), NothingCaptured> {
        loop {
            let part = self.receiver.try_recv().map_err(|error| match error {
                TryRecvError::Empty => NothingCaptured::Yet,
                TryRecvError::Disconnected => NothingCaptured::AnyMore,
            })?;
            self.taken.fetch_add(1, Ordering::Relaxed);
            match part {
                None => parts.clear(),
                Some(part) => {
                    // What is whole was given out before.
                    if parts.last().is_some_and(|before| !before.more) {
                        parts.clear();
                    }
                    let is_last = !part.more;
                    parts.push(part);
                    if is_last {
                        return Ok(());
                    }
                }
            }
        }
    }
}
