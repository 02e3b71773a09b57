//! [`Packet`]: a frame and where in it the data lie.

use frame_pool::{Frame, FrameAddr, FrameId, FrameLayout, FrameRef};

use crate::descriptor::{Descriptor, LENGTH, MORE};
use crate::right::Right;

/// A frame of this packet was refused by the ledger. What is left of the packet is no packet.
const TORN: u64 = 1 << 33;

/// Of the first frame's part of a packet in more than [`MAX_FRAGMENTS`], while the others are awaited.
const TOO_LONG: u64 = 1 << 34;

/// Where the offset lies, above length and flags. It fits, as no chunk has more than 64 KiB.
const OFFSET: u32 = 48;

/// The most frames that one packet may have: `MAX_SKB_FRAGS + 1`, what copy mode takes.
pub const MAX_FRAGMENTS: usize = 18;

/// One frame's part of a packet, received or to be sent; as a rule the whole of it.
///
/// A packet that needs several frames is as many of these in a row, each but the last one saying that
/// there is [more](Self::has_more). What moves packets moves all of them or none.
///
/// `R` is the right by which the frame is held: the sole one, or after an observer took another
/// reference, a shared one. Only a sole holder can change the bytes.
///
/// # Invariants
///
/// `offset + len` is at most the chunk size. The constructors make it so, and the fields are private.
#[derive(Debug)]
#[must_use = "a packet that is dropped on the floor takes its frame with it"]
pub struct Packet<R = Frame> {
    right: R,
    /// Length, offset and flags in one word: a packet is moved more often than it is looked at.
    span: u64,
}

impl Packet {
    /// What a descriptor of the RX ring tells of; it points into `frame`.
    ///
    /// A length beyond the chunk's end would be a kernel's that overran it; it is cut.
    #[inline]
    pub fn received(frame: Frame, layout: FrameLayout, descriptor: Descriptor) -> Self {
        let described = descriptor.described;
        let offset = layout.offset_of(descriptor.addr());
        let span = described | u64::from(offset) << OFFSET;
        // INVARIANT: cut here if need be.
        let is_cut = (described & LENGTH) > u64::from(layout.chunk_size() - offset);
        Packet { right: frame, span: if is_cut { cut(span, layout) } else { span } }
    }

    /// The same, of a descriptor that is [plain](Descriptor::is_plain).
    #[inline]
    pub(crate) fn plain(frame: Frame, layout: FrameLayout, descriptor: Descriptor) -> Self {
        // INVARIANT: it does not go beyond the chunk's end.
        let offset = layout.offset_of(descriptor.addr());
        Packet { right: frame, span: descriptor.described | u64::from(offset) << OFFSET }
    }

    /// `len` bytes from `offset` on, to be written by the caller.
    ///
    /// # Errors
    ///
    /// The frame, if there are not as many bytes in a chunk.
    pub fn blank(frame: Frame, layout: FrameLayout, offset: u32, len: u32) -> Result<Self, Frame> {
        match offset.checked_add(len) {
            // INVARIANT: checked here; an offset of 64 KiB has no bytes behind it.
            Some(end) if end <= layout.chunk_size() && offset < layout.chunk_size() => {
                Ok(Packet { right: frame, span: u64::from(len) | u64::from(offset) << OFFSET })
            }
            _ => Err(frame),
        }
    }
}

/// A length that goes beyond the chunk's end ends there.
#[cold]
fn cut(span: u64, layout: FrameLayout) -> u64 {
    span & !LENGTH | (u64::from(layout.chunk_size()) - (span >> OFFSET))
}

impl<R> Packet<R> {
    /// The right, and the descriptor to be, but for where its frame lies: the offset stands for its address.
    #[inline]
    pub fn into_parts(self) -> (Descriptor, R) {
        (Descriptor::of(FrameAddr(self.span >> OFFSET), self.span & (LENGTH | MORE)), self.right)
    }

    /// Where the data begin, in bytes from the start of the chunk. On receive this is headroom +
    /// `XDP_PACKET_HEADROOM` (256) in aligned mode.
    #[inline]
    pub fn offset(&self) -> u32 {
        (self.span >> OFFSET) as u32
    }

    /// How many bytes there are from [`offset`](Self::offset) on, without the frame check sequence.
    #[inline]
    pub fn len(&self) -> u32 {
        self.span as u32
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `XDP_PKT_CONTD`: whether the packet goes on in the next frame.
    #[inline]
    pub fn has_more(&self) -> bool {
        self.span & MORE != 0
    }

    /// Notes that a frame of this packet was refused.
    pub(crate) fn tear(&mut self) {
        self.span |= TORN;
    }

    pub(crate) fn is_torn(&self) -> bool {
        self.span & TORN != 0
    }

    /// Notes that this packet has more frames than can be sent on.
    pub(crate) fn overrun(&mut self) {
        self.span |= TOO_LONG;
    }

    pub(crate) fn is_too_long(&self) -> bool {
        self.span & TOO_LONG != 0
    }

    pub(crate) fn set_more(&mut self, more: bool) {
        self.span = self.span & !MORE | (u64::from(more) * MORE);
    }

    /// The right to the frame.
    #[inline]
    pub fn right(&self) -> &R {
        &self.right
    }

    /// The right to the frame; what was known of its bytes is forgotten.
    #[inline]
    pub fn into_right(self) -> R {
        self.right
    }

    /// The same packet, held by another right to the same frame; or as it was, if there is no other.
    #[inline]
    pub(crate) fn try_hold_by<S>(self, exchange: impl FnOnce(R) -> Result<S, R>) -> Result<Packet<S>, Self> {
        let Packet { right, span } = self;
        match exchange(right) {
            Ok(right) => Ok(Packet { right, span }),
            Err(right) => Err(Packet { right, span }),
        }
    }
}

impl Packet<FrameRef> {
    /// Takes one reference out of the bundle, if it is more than one.
    #[inline]
    pub(crate) fn split_right(&mut self) -> Option<FrameRef> {
        self.right.split(1)
    }
}

impl<R: Right> Packet<R> {
    /// The frame's name.
    #[inline]
    pub fn id(&self) -> FrameId {
        self.right.id()
    }

    /// Where the data begin, in bytes from the start of the UMEM.
    #[inline]
    pub fn addr(&self, layout: FrameLayout) -> FrameAddr {
        FrameAddr(layout.addr_of(self.id()).0 + u64::from(self.offset()))
    }
}

/// How many of `packets`, from the front, make whole packets and are not more than `room`.
#[inline]
pub fn whole<R>(packets: &[Packet<R>], room: usize) -> usize {
    let mut count = packets.len().min(room);
    while count > 0 && packets[count - 1].has_more() {
        count -= 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use frame_pool::{FramePool, PoolConfig, UmemProvider};

    use super::*;

    const CHUNK: u32 = 2048;

    fn pool() -> FramePool {
        let layout = FrameLayout::new(CHUNK, 8).unwrap();
        FramePool::new(PoolConfig::default(), UmemProvider::new(layout))
    }

    fn part(pool: &mut FramePool, more: bool) -> Packet {
        let frame = pool.alloc().unwrap();
        Packet::received(frame, pool.layout(), Descriptor::new(FrameAddr(256), 60, more))
    }

    #[test]
    fn a_packet_is_not_larger_than_a_descriptor() {
        assert_eq!(size_of::<Packet>(), 16);
    }

    /// The kernel's own tests call it `ALIGNED_INV_DESC`.
    #[test]
    fn what_does_not_lie_in_its_chunk_is_no_packet() {
        let mut pool = pool();
        let layout = pool.layout();
        for (offset, len, valid) in [
            (0, CHUNK, true),
            (CHUNK - 1, 1, true),
            (256, CHUNK - 256, true),
            (256, CHUNK - 255, false),
            (0, CHUNK + 1, false),
            (CHUNK, 0, false),
            (CHUNK, 1, false),
            (1, u32::MAX, false),
            (u32::MAX, u32::MAX, false),
        ] {
            let frame = pool.alloc().unwrap();
            let frame = match Packet::blank(frame, layout, offset, len) {
                Ok(packet) => {
                    assert!(valid, "{packet:?}");
                    packet.into_right()
                }
                Err(frame) => {
                    assert!(!valid, "{offset} + {len}");
                    frame
                }
            };
            pool.put_direct(frame);
        }
        let frame = pool.alloc().unwrap();
        let cut =
            Packet::received(frame, layout, Descriptor::new(FrameAddr(3 * 2048 + 300), u32::MAX, false));
        assert_eq!((cut.offset(), cut.len()), (300, CHUNK - 300));
        pool.put_direct(cut.into_right());
    }

    #[test]
    fn only_whole_packets_are_counted() {
        let mut pool = pool();
        let packets: Vec<_> = [false, true, true, false, true].map(|more| part(&mut pool, more)).into();
        assert_eq!([0, 1, 2, 3, 4, 5, 9].map(|room| whole(&packets, room)), [0, 1, 1, 1, 4, 4, 4]);
        packets.into_iter().for_each(|packet| pool.put_direct(packet.into_right()));
    }
}
