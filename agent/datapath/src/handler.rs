//! [`PacketHandler`]: what is done with a received packet, and which packets begin here.

use std::time::Duration;

use crate::fragments::Fragments;
use crate::port::FrameBytes;

/// What a handler wants to become of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The frame goes back to the pool.
    Drop,
    /// The packet is sent as it now is: by a [`Worker`](crate::Worker) out of the queue on which it came
    /// in, by a [`Pair`](crate::Pair) out of the other one.
    Transmit,
}

/// The packets that a handler wants to send by itself in this turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// How many. As many as there is room for are written.
    pub packets: usize,
    /// Bytes of each, from the Ethernet header on.
    pub size: usize,
    /// When there will be more, if the handler knows; in the time that the turn was given. If it does not, it may not
    /// be asked again before a packet arrives.
    pub next: Option<Duration>,
}

/// Looks at received packets, may change them in place, and says what becomes of each.
///
/// A handler runs inside a worker's turn, on the worker's thread: it does not wait, lock or
/// allocate. It is a type parameter of the worker, so a call costs no indirection.
pub trait PacketHandler {
    /// Handles a packet in one frame.
    ///
    /// `packet` holds the bytes from the Ethernet header on, without the frame check sequence. They
    /// come from the network: they may be fewer than a header's, or none.
    fn handle(&mut self, packet: &mut [u8]) -> Verdict;

    /// [`handle`](Self::handle) for the common case, in as little code as it takes: all else it leaves alone and says
    /// `None`, and then `handle` is called.
    #[inline]
    fn glance(&mut self, packet: &mut [u8]) -> Option<Verdict> {
        Some(self.handle(packet))
    }

    /// Handles a packet in several frames (`XDP_USE_SG`), of which the first holds the headers. Unless
    /// a handler says otherwise it sees that one only, and its verdict is about all of them.
    #[inline]
    fn handle_fragments<B: FrameBytes>(&mut self, packet: &mut Fragments<'_, B>) -> Verdict {
        packet.with_mut(0, |head| self.handle(head))
    }

    /// Which packets the handler wants to send by itself; asked once a turn. As a rule none.
    #[inline]
    fn due(&mut self, _now: Duration) -> Due {
        Due::default()
    }

    /// Writes the bytes of a packet that was [due](Self::due), those from `at` on; it is called again for
    /// the next frame of a packet that one frame does not hold.
    #[inline]
    fn write(&mut self, _at: usize, _bytes: &mut [u8]) {}
}

impl<H: PacketHandler> PacketHandler for &mut H {
    #[inline]
    fn handle(&mut self, packet: &mut [u8]) -> Verdict {
        (**self).handle(packet)
    }

    #[inline]
    fn glance(&mut self, packet: &mut [u8]) -> Option<Verdict> {
        (**self).glance(packet)
    }

    #[inline]
    fn handle_fragments<B: FrameBytes>(&mut self, packet: &mut Fragments<'_, B>) -> Verdict {
        (**self).handle_fragments(packet)
    }

    #[inline]
    fn due(&mut self, now: Duration) -> Due {
        (**self).due(now)
    }

    #[inline]
    fn write(&mut self, at: usize, bytes: &mut [u8]) {
        (**self).write(at, bytes);
    }
}
