//! [`QueuePort`]: a queue's four rings as the worker sees them.
//!
//! The trait trades in [`Frame`]s, never in addresses. Whoever implements it keeps a
//! [`Ledger`], so that a frame is given up when it goes onto a ring and exists
//! again only when the ledger has recognised the address that came back. A wrong address is then a
//! counter of the port and not a wrong frame in the worker's hands.

use frame_pool::{Frame, FramePool, FrameRef, Ledger, Lent, RefusedCounts};

use crate::descriptor::Descriptor;
use crate::handler::Verdict;
use crate::packet::Packet;
use crate::right::Right;

/// `XDP_PACKET_HEADROOM` (`linux/bpf.h`): how many bytes the kernel leaves free before a received packet.
pub const XDP_PACKET_HEADROOM: u32 = 256;

/// What became of a [`QueuePort::kick`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kick {
    /// Nothing was waiting, or no ring had its `XDP_RING_NEED_WAKEUP` set: no system call was made.
    #[default]
    NotNeeded,
    /// The kernel was woken and took what it was given.
    Done,
    /// The kernel was woken, took some of what it was given, and wants to be woken again: EAGAIN, EBUSY or
    /// ENOBUFS. That is normal. In copy mode one call sends 32 packets (`TX_BATCH_SIZE` in
    /// `net/xdp/xsk.c`).
    Again,
    /// The same, or it did not even say so, and it took nothing: the completion ring is full, the device or memory
    /// short, or this is a queue that the interface does not send on. To ask at once again would be in vain.
    Busy,
    /// The interface is down or gone: ENETDOWN or ENXIO. The frames stay where they are.
    Down,
    /// The kernel gave another error. The frames stay where they are.
    Failed,
}

/// Where the frames lent to the kernel are, in frames.
///
/// `fill + kernel + rx` are the frames lent to the fill ring, `tx + completion` those lent to TX.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortPlaces {
    /// On the fill ring, not yet taken by the kernel.
    pub fill: u32,
    /// Taken by the kernel and not yet back.
    pub kernel: u32,
    /// On the RX ring, not yet read.
    pub rx: u32,
    /// On the TX ring or on their way out.
    pub tx: u32,
    /// On the completion ring, not yet read.
    pub completion: u32,
    /// Refused by the ledger while lent to the fill ring, never used again.
    pub quarantined_fill: u32,
    /// Refused by the ledger while lent to TX, never used again.
    pub quarantined_tx: u32,
}

/// What a port reads to say where its frames are: counts of its ledger, and ring occupancies.
///
/// Read `rx` before `fill`: a frame on its way moves from the fill ring to the RX ring, and in this
/// order it is at worst seen on neither.
#[derive(Clone, Copy, Debug, Default)]
pub struct Occupancy {
    /// Entries of the RX ring that are ready to be read.
    pub rx: u32,
    /// Entries of the fill ring that the kernel has not released.
    pub fill: u32,
    /// Entries of the completion ring that are ready to be read.
    pub completion: u32,
    /// Frames that the ledger has lent to the fill ring.
    pub lent_fill: u32,
    /// Frames that the ledger has lent to TX.
    pub lent_tx: u32,
    /// Frames that the ledger has put away while they were lent to the fill ring.
    pub quarantined_fill: u32,
    /// Frames that the ledger has put away while they were lent to TX.
    pub quarantined_tx: u32,
}

impl Occupancy {
    /// The ledger's counts, and empty rings.
    pub fn of(ledger: &Ledger) -> Self {
        Occupancy {
            lent_fill: ledger.lent(Lent::Fill),
            lent_tx: ledger.lent(Lent::Tx),
            quarantined_fill: ledger.quarantined(Lent::Fill),
            quarantined_tx: ledger.quarantined(Lent::Tx),
            ..Occupancy::default()
        }
    }
}

impl From<Occupancy> for PortPlaces {
    /// Ownership is what the ledger counted; the rings only say how it is spread. They are read
    /// while the kernel moves them (`xsk_flush()` submits the RX ring before it releases the fill
    /// ring, so that for a moment a frame is on both), and a lying ring may show more entries than
    /// were ever lent. What does not fit into the ledger's count is therefore cut off.
    fn from(seen: Occupancy) -> Self {
        let rx = seen.rx.min(seen.lent_fill);
        let fill = seen.fill.min(seen.lent_fill - rx);
        let completion = seen.completion.min(seen.lent_tx);
        PortPlaces {
            fill,
            kernel: seen.lent_fill - rx - fill,
            rx,
            tx: seen.lent_tx - completion,
            completion,
            quarantined_fill: seen.quarantined_fill,
            quarantined_tx: seen.quarantined_tx,
        }
    }
}

impl PortPlaces {
    /// Frames lent to the fill ring and not yet read back from the RX ring.
    pub fn lent_fill(&self) -> u32 {
        self.fill + self.kernel + self.rx
    }

    /// Frames lent to TX and not yet read back from the completion ring.
    pub fn lent_tx(&self) -> u32 {
        self.tx + self.completion
    }
}

/// The bytes of frames. Who has a packet in his hands may look at them.
pub trait FrameBytes {
    /// Looks at the bytes of a part of a packet.
    fn with<R: Right, T>(&self, packet: &Packet<R>, look: impl FnOnce(&[u8]) -> T) -> T;

    /// Changes the bytes of a part of a packet in place; only its sole holder can.
    fn with_mut<T>(&mut self, packet: &mut Packet, change: impl FnOnce(&mut [u8]) -> T) -> T;

    /// Changes the bytes that a [plain](Descriptor::is_plain) descriptor tells of, which lie in `frame`.
    fn with_plain<T>(
        &mut self,
        frame: &mut Frame,
        packet: Descriptor,
        change: impl FnOnce(&mut [u8]) -> T,
    ) -> T;
}

/// Takes packets as they come off an RX ring.
pub trait PacketSink {
    /// What is to become of a packet in one frame; `None` if it must be seen together with what
    /// comes behind it, and is not to be [taken](Self::take) now.
    fn decide(&mut self, packet: &mut Packet, bytes: &mut impl FrameBytes) -> Option<Verdict>;

    /// Takes the packet that was decided about.
    fn take(&mut self, packet: Packet, verdict: Verdict);
}

/// Says what becomes of packets, each in one frame, as they go by: of most at a glance.
pub trait Glance {
    /// What is to become of the packet in `frame`, if a [glance](crate::PacketHandler::glance) tells. If not, nothing
    /// was changed.
    fn glance(
        &mut self,
        frame: &mut Frame,
        packet: Descriptor,
        bytes: &mut impl FrameBytes,
    ) -> Option<Verdict>;

    /// What is to become of the packet in `frame`, for which a [glance](Self::glance) was not enough.
    fn look(&mut self, frame: &mut Frame, packet: Descriptor, bytes: &mut impl FrameBytes) -> Verdict;

    /// Where frames go that are not sent.
    fn home(&mut self) -> &mut Vec<Frame>;

    /// What became of packets; the frames of those that are not sent are [at home](Self::home).
    fn passed(&mut self, passed: Passed);
}

/// What became of packets at a [`Glance`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Packets that were put on the TX ring.
    pub sent: u64,
    /// Bytes of these.
    pub bytes_sent: u64,
    /// Bytes of those that are not sent.
    pub bytes_home: u64,
    /// Of these, packets that were to be sent and have no bytes, which no kernel takes.
    pub empty: u64,
}

/// The four rings of one queue, and the bytes of its frames.
///
/// A port belongs to one worker: the fill ring has one producer and the completion ring one
/// consumer. No call waits for the kernel, and none fails: what did not fit stays with the caller,
/// what went wrong is counted. Vectors are given in by the worker, keep their capacity and never
/// grow on the way.
pub trait QueuePort {
    /// The bytes of the frames that its rings name.
    type Bytes: FrameBytes;

    /// How many frames [`fill`](Self::fill) would take now.
    fn fill_room(&mut self) -> usize;

    /// Lends frames to the kernel for receiving and says how many it took.
    ///
    /// They are taken from the back of `frames`; what does not fit stays in it.
    fn fill(&mut self, frames: &mut Vec<Frame>) -> usize;

    /// Takes frames off the RX ring, in order and at most `max`, and says how many there were, those
    /// that the ledger refused not counted. [`Arrivals`](crate::Arrivals) does most of it.
    ///
    /// Packets go to the sink, as far as they are in one frame each. The first other one, or that the sink
    /// gives back, goes into `packets`, and so does all behind it. What is in `packets` already are the first
    /// parts of a packet whose others had not arrived; then the sink gets nothing.
    fn receive(&mut self, packets: &mut Vec<Packet>, max: usize, sink: &mut impl PacketSink) -> usize;

    /// The short way of most packets, from the RX ring to the TX ring as they came, or home: takes at most `max` off the
    /// RX ring and says how many. Stops before the first that is not in one frame, or that the ledger refuses, or for
    /// which the TX ring has no room; and takes none if they are too few to be worth it. The others are to be
    /// [received](Self::receive). A port need not have it.
    ///
    /// The caller sees to it that no packet waits for the TX ring, and that sent frames may come back as [`Frame`]s.
    #[inline]
    fn pass(&mut self, _max: usize, _glance: &mut impl Glance) -> usize {
        0
    }

    /// Lends packets to the kernel for sending, from the front and in order, and says how many frames it
    /// took. What does not fit stays in `packets`; of a packet in several frames all fit, or none.
    fn transmit<R: Right>(&mut self, packets: &mut Vec<Packet<R>>) -> usize;

    /// Takes sent frames off the completion ring, as many as `rights` has spare capacity for. `R` is the
    /// one by which they were all lent.
    ///
    /// A completion says that the kernel is through with a frame, not that the frame was sent.
    fn complete<R: Right>(&mut self, rights: &mut Vec<R>) -> usize;

    /// The short way from the completion ring to the fill ring, for at most `max` frames: as far as
    /// [`FramePool::turn_over`] goes. Says how many; the others are to be [completed](Self::complete). A port need
    /// not have it.
    #[inline]
    fn turn_over(&mut self, _pool: &mut FramePool, _max: usize) -> usize {
        0
    }

    /// How many frames a packet to be sent may have: [`MAX_FRAGMENTS`](crate::packet::MAX_FRAGMENTS), or
    /// fewer if the TX ring has not as many slots.
    fn max_fragments(&self) -> usize;

    /// A part of a packet for the caller to write, of `len` bytes or as many as a frame of this port has.
    fn blank(&mut self, frame: Frame, len: usize) -> Packet;

    /// How many bytes a [`blank`](Self::blank) part has at most.
    fn blank_len(&self) -> usize;

    /// Wakes the kernel if frames wait for it and it asked to be woken. Called once or more per
    /// turn, so it must cost no system call when there is nothing to do.
    fn kick(&mut self) -> Kick;

    /// The bytes of the frames, to look at.
    fn bytes(&self) -> &Self::Bytes;

    /// The bytes of the frames, to change.
    fn bytes_mut(&mut self) -> &mut Self::Bytes;

    /// Frames lent to the fill ring and not yet read back from the RX ring, or the same of TX and completion:
    /// what the ledger says, without a look at a ring.
    fn lent(&self, lent: Lent) -> u32;

    /// Frames on the TX ring that the kernel has not taken yet; none once closed.
    fn unsent(&mut self) -> u32;

    /// Where the frames lent to the kernel are now. See [`Occupancy`] for how to find out.
    fn places(&mut self) -> PortPlaces;

    /// What the port's ledger refused since the start. Anything but zero is a bug of a driver, of
    /// the kernel or of ours.
    fn refused(&self) -> RefusedCounts;

    /// Makes the kernel let go: the socket is closed. From here on nothing is received or completed,
    /// nothing can be lent, and [`kick`](Self::kick) says [`Kick::Down`]. The frames that the kernel
    /// had stay lent until [`reclaim`](Self::reclaim). A second call does nothing.
    fn close(&mut self);

    /// Takes every lent frame home after [`close`](Self::close), and says how many those were. The
    /// kernel sends no completions when a socket closes, so this is the only way back for them.
    ///
    /// This is not the packet path: `frames` and `references` may grow.
    fn reclaim(&mut self, frames: &mut Vec<Frame>, references: &mut Vec<FrameRef>) -> u32;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_seen_on_two_rings_is_counted_once() {
        let between_submit_and_release = Occupancy {
            rx: 3,
            fill: 7,
            lent_fill: 8,
            completion: 5,
            lent_tx: 4,
            quarantined_tx: 1,
            ..Occupancy::default()
        };
        let places = PortPlaces::from(between_submit_and_release);
        assert_eq!(
            places,
            PortPlaces { rx: 3, fill: 5, completion: 4, quarantined_tx: 1, ..PortPlaces::default() }
        );
        assert_eq!((places.lent_fill(), places.lent_tx()), (8, 4));
    }

    #[test]
    fn what_is_on_no_ring_is_with_the_kernel() {
        let places = PortPlaces::from(Occupancy { rx: 1, fill: 2, lent_fill: 10, ..Occupancy::default() });
        assert_eq!(places.kernel, 7);
    }
}
