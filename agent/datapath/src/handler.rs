//! [`PacketHandler`]: what is done with a received frame.

/// What a handler wants to become of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The frame goes back to the pool.
    Drop,
    /// The frame is sent as it now is, out of the queue on which it came in.
    Transmit,
}

/// Looks at received frames, may change them in place, and says what becomes of each.
///
/// A handler runs inside a worker's turn, on the worker's thread: it does not wait, lock or
/// allocate. It is a type parameter of the worker, so a call costs no indirection.
pub trait PacketHandler {
    /// Handles one frame.
    ///
    /// `frame` holds the bytes from the Ethernet header on, without the frame check sequence. They
    /// come from the network: they may be fewer than a header's, or none.
    fn handle(&mut self, frame: &mut [u8]) -> Verdict;
}

impl<H: PacketHandler> PacketHandler for &mut H {
    #[inline]
    fn handle(&mut self, frame: &mut [u8]) -> Verdict {
        (**self).handle(frame)
    }
}
