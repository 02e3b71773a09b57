//! [`QueuePort`]: a queue's four rings as the worker sees them.
//!
//! The trait trades in [`Frame`]s, never in addresses. Whoever implements it keeps a
//! [`Ledger`](frame_pool::Ledger), so that a frame is given up when it goes onto a ring and exists
//! again only when the ledger has recognised the address that came back. A wrong address is then a
//! counter of the port and not a wrong frame in the worker's hands.

use frame_pool::{Frame, RefusedCounts};

/// One received or to be sent packet: a frame, and where in its chunk the data lie.
///
/// # Invariants
///
/// `offset + len` is at most the chunk size. The port makes it so and nobody else changes it.
#[derive(Debug)]
#[must_use = "a packet that is dropped on the floor takes its frame with it"]
pub struct Packet {
    /// The sole right to the chunk's bytes.
    pub frame: Frame,
    /// Where the Ethernet header begins, in bytes from the start of the chunk. On receive this is
    /// headroom + `XDP_PACKET_HEADROOM` (256) in aligned mode.
    pub offset: u32,
    /// How many bytes there are from `offset` on, without the frame check sequence.
    pub len: u32,
}

/// What became of a [`QueuePort::kick`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kick {
    /// Nothing was waiting, or no ring had its `XDP_RING_NEED_WAKEUP` set: no system call was made.
    #[default]
    NotNeeded,
    /// The kernel was woken and took what it was given.
    Done,
    /// The kernel was woken and wants to be woken again: EAGAIN, EBUSY or ENOBUFS. That is normal.
    /// In copy mode one call sends 32 packets (`TX_BATCH_SIZE` in `net/xdp/xsk.c`), and a full
    /// completion ring or a busy device stops it earlier.
    Again,
    /// The interface is down or gone: ENETDOWN or ENXIO. The frames stay where they are.
    Down,
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
    /// Refused by the ledger, never used again.
    pub quarantined: u32,
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
    /// Frames that the ledger has put away.
    pub quarantined: u32,
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
            quarantined: seen.quarantined,
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

/// The four rings of one queue, and the bytes of its frames.
///
/// A port belongs to one worker: the fill ring has one producer and the completion ring one
/// consumer. No call waits for the kernel, and none fails: what did not fit stays with the caller,
/// what went wrong is counted. Vectors are given in by the worker, keep their capacity and never
/// grow on the way.
pub trait QueuePort {
    /// How many frames [`fill`](Self::fill) would take now.
    fn fill_room(&mut self) -> usize;

    /// Lends frames to the kernel for receiving and says how many it took.
    ///
    /// They are taken from the back of `frames`; what does not fit stays in it.
    fn fill(&mut self, frames: &mut Vec<Frame>) -> usize;

    /// Takes packets off the RX ring, in order, as many as `packets` has spare capacity for.
    fn receive(&mut self, packets: &mut Vec<Packet>) -> usize;

    /// Lends packets to the kernel for sending, from the front and in order, and says how many it
    /// took. What does not fit stays in `packets`.
    fn transmit(&mut self, packets: &mut Vec<Packet>) -> usize;

    /// Takes sent frames off the completion ring, as many as `frames` has spare capacity for.
    ///
    /// A completion says that the kernel is through with a frame, not that the frame was sent.
    fn complete(&mut self, frames: &mut Vec<Frame>) -> usize;

    /// Wakes the kernel if frames wait for it and it asked to be woken. Called once or more per
    /// turn, so it must cost no system call when there is nothing to do.
    fn kick(&mut self) -> Kick;

    /// The bytes of a packet.
    fn bytes<'a>(&'a self, packet: &'a Packet) -> &'a [u8];

    /// The bytes of a packet, to be changed in place.
    fn bytes_mut<'a>(&'a mut self, packet: &'a mut Packet) -> &'a mut [u8];

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
    /// This is not the packet path: `frames` may grow.
    fn reclaim(&mut self, frames: &mut Vec<Frame>) -> u32;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_seen_on_two_rings_is_counted_once() {
        let between_submit_and_release =
            Occupancy { rx: 3, fill: 7, lent_fill: 8, completion: 5, lent_tx: 4, quarantined: 1 };
        let places = PortPlaces::from(between_submit_and_release);
        assert_eq!(places, PortPlaces { rx: 3, fill: 5, kernel: 0, tx: 0, completion: 4, quarantined: 1 });
        assert_eq!((places.lent_fill(), places.lent_tx()), (8, 4));
    }

    #[test]
    fn what_is_on_no_ring_is_with_the_kernel() {
        let places = PortPlaces::from(Occupancy { rx: 1, fill: 2, lent_fill: 10, ..Occupancy::default() });
        assert_eq!(places.kernel, 7);
    }
}
