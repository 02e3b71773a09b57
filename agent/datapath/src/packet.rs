//! [`Packet`]: a frame and where in it the data lie, and several of them if one does not hold the packet.

use std::mem;

use frame_pool::{
    Frame, FrameAddr, FrameId, FrameLayout, FramePool, FrameRef, Ledger, Lent, PoolTag, Recycler, Settled,
};

use crate::port::QueuePort;

/// The length, as in a descriptor.
const LENGTH: u64 = 0xffff_ffff;
/// `XDP_PKT_CONTD`: the packet goes on in the next frame. Here it lies where it does in a descriptor.
const MORE: u64 = 1 << 32;
/// A frame of this packet was refused by the ledger. What is left of the packet is no packet.
const TORN: u64 = 1 << 33;
/// The handler wants it sent.
const SENT: u64 = 1 << 34;
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
    /// What a descriptor of the RX ring tells of: `len` bytes from `addr` on, which points into `frame`.
    ///
    /// A length beyond the chunk's end would be a kernel's that overran it; it is cut.
    #[inline]
    pub fn received(frame: Frame, layout: FrameLayout, addr: FrameAddr, len: u32, more: bool) -> Self {
        Self::described(frame, layout, addr, u64::from(len) | (u64::from(more) * MORE))
    }

    /// The same, of length and options as they lie in a descriptor, one above the other; of the options there
    /// must be no other than whether there is more.
    #[inline]
    pub(crate) fn described(frame: Frame, layout: FrameLayout, addr: FrameAddr, described: u64) -> Self {
        let offset = layout.offset_of(addr);
        let span = described | u64::from(offset) << OFFSET;
        // INVARIANT: cut here if need be.
        let is_cut = (described & LENGTH) > u64::from(layout.chunk_size() - offset);
        Packet { right: frame, span: if is_cut { cut(span, layout) } else { span } }
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
    /// The right and what a descriptor says besides the frame: offset, length, and whether there is more.
    #[inline]
    pub fn into_parts(self) -> ((u32, u32, bool), R) {
        ((self.offset(), self.len(), self.has_more()), self.right)
    }

    /// The same, with length and options as they lie in a descriptor, one above the other.
    #[inline]
    pub(crate) fn into_described(self) -> ((u64, u64), R) {
        ((self.span >> OFFSET, self.span & (LENGTH | MORE)), self.right)
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

    /// Whether this is a packet in one frame, and whole.
    #[inline]
    pub(crate) fn is_whole(&self) -> bool {
        self.span & (MORE | TORN) == 0
    }

    /// Whether all of these are [whole](Self::is_whole), and none is empty.
    #[inline]
    pub(crate) fn are_whole(packets: &[Self]) -> bool {
        // What is neither is a length above zero; of anything else one less is more than a length.
        let odd =
            |packet: &Self| (packet.span & (MORE | TORN | LENGTH)).wrapping_sub(1) >> LENGTH.count_ones();
        packets.iter().fold(0, |any, packet| any | odd(packet)) == 0
    }

    /// Notes what a handler said.
    #[inline]
    pub(crate) fn set_sent(&mut self) {
        self.span |= SENT;
    }

    /// It is not to be sent after all.
    pub(crate) fn unset_sent(&mut self) {
        self.span &= !SENT;
    }

    /// What [`set_sent`](Self::set_sent) noted.
    #[inline]
    pub(crate) fn is_sent(&self) -> bool {
        self.span & SENT != 0
    }

    pub(crate) fn is_torn(&self) -> bool {
        self.span & TORN != 0
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

mod sealed {
    pub trait Sealed {}
    impl Sealed for frame_pool::Frame {}
    impl Sealed for frame_pool::FrameRef {}
}

/// How a frame that is to be sent is held: as a [`Frame`] by the sole holder, or as a [`FrameRef`] by one
/// of several. Sending reads the bytes as any other holder does.
pub trait Right: sealed::Sealed + Sized {
    /// The frame's name.
    fn id(&self) -> FrameId;

    /// The pool that the right must go back to.
    fn home(&self) -> PoolTag;

    /// Exchanges rights, each with what is to be done with its name, for the frames' names, to be put on the
    /// TX ring.
    fn lend_each<T>(
        ledger: &mut Ledger,
        rights: impl ExactSizeIterator<Item = (T, Self)>,
        each: impl FnMut(T, FrameId),
    );

    /// Exchanges addresses of the completion ring for the rights; the ledger counts those that it refuses.
    fn settle_all(
        ledger: &mut Ledger,
        addrs: impl ExactSizeIterator<Item = FrameAddr>,
        rights: &mut Vec<Self>,
    );

    /// Brings all of them home to their owner, who is the caller; leaves the vector empty.
    fn put_direct_bulk(pool: &mut FramePool, rights: &mut Vec<Self>);

    /// Brings all of them home to somebody else; leaves the vector empty.
    fn put_bulk(recycler: &Recycler, rights: &mut Vec<Self>);
}

impl Right for Frame {
    #[inline]
    fn id(&self) -> FrameId {
        self.id()
    }

    #[inline]
    fn home(&self) -> PoolTag {
        self.home()
    }

    #[inline]
    fn lend_each<T>(
        ledger: &mut Ledger,
        rights: impl ExactSizeIterator<Item = (T, Self)>,
        each: impl FnMut(T, FrameId),
    ) {
        ledger.lend_each(Lent::Tx, rights, each);
    }

    #[inline]
    fn settle_all(
        ledger: &mut Ledger,
        addrs: impl ExactSizeIterator<Item = FrameAddr>,
        rights: &mut Vec<Self>,
    ) {
        let mut addrs = addrs.map(|addr| (addr, ()));
        let mut settled = mem::take(rights);
        while ledger.settle_run(Lent::Tx, &mut addrs, |(), frame| push(&mut settled, frame)).is_err() {}
        *rights = settled;
    }

    #[inline]
    fn put_direct_bulk(pool: &mut FramePool, rights: &mut Vec<Self>) {
        pool.put_direct_bulk(rights);
    }

    fn put_bulk(recycler: &Recycler, rights: &mut Vec<Self>) {
        recycler.put_bulk(rights);
    }
}

impl Right for FrameRef {
    #[inline]
    fn id(&self) -> FrameId {
        self.id()
    }

    #[inline]
    fn home(&self) -> PoolTag {
        self.home()
    }

    #[inline]
    fn lend_each<T>(
        ledger: &mut Ledger,
        rights: impl ExactSizeIterator<Item = (T, Self)>,
        mut each: impl FnMut(T, FrameId),
    ) {
        for (rest, right) in rights {
            each(rest, right.id());
            // It is one reference, of this UMEM and lent nowhere: anything else would be a bug of ours, and
            // the frame then stays out, which the places show.
            let _ = ledger.lend_ref(right);
        }
    }

    #[inline]
    fn settle_all(
        ledger: &mut Ledger,
        addrs: impl ExactSizeIterator<Item = FrameAddr>,
        rights: &mut Vec<Self>,
    ) {
        for addr in addrs {
            match ledger.settle_any(Lent::Tx, addr) {
                Ok(Settled::Shared(reference)) => rights.push(reference),
                // Who lends references lends nothing else; it stays lent.
                Ok(Settled::Sole(frame)) => {
                    ledger.lend(frame, Lent::Tx);
                }
                Err(_) => {}
            }
        }
    }

    fn put_direct_bulk(pool: &mut FramePool, rights: &mut Vec<Self>) {
        pool.put_refs_direct_bulk(rights);
    }

    fn put_bulk(recycler: &Recycler, rights: &mut Vec<Self>) {
        recycler.put_refs_bulk(rights);
    }
}

/// [`Vec::push`] for a vector that has room, in a loop: if nothing takes its address, not even to grow it, its
/// length stays in a register.
#[inline]
pub(crate) fn push<T>(to: &mut Vec<T>, item: T) {
    #[cold]
    fn grow<T>(mut to: Vec<T>, item: T) -> Vec<T> {
        to.push(item);
        to
    }
    if to.len() < to.capacity() {
        to.push(item);
    } else {
        *to = grow(mem::take(to), item);
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

/// The parts of packets that come off an RX ring, of which the ledger may refuse some.
///
/// A port that has one of these tells it of each batch and of every descriptor that was refused, and what is
/// left of a packet that lost a frame is marked, so that it is never taken for a packet of fewer frames, or
/// for a part of the next.
#[derive(Debug, Default)]
pub struct Assembly {
    /// The first frame of a packet was refused: where the next one will be, which is to be marked.
    headless: Option<usize>,
}

impl Assembly {
    /// A batch begins, behind what is in `packets` already.
    #[inline]
    pub fn begin(&mut self, packets: &[Packet]) {
        if self.headless.is_some() {
            self.headless = Some(packets.len());
        }
    }

    /// The ledger refused a frame, of which the descriptor says whether there is more.
    #[cold]
    pub fn refused(&mut self, packets: &mut [Packet], more: bool) {
        self.end(packets);
        match packets.last_mut() {
            Some(before) if before.has_more() => {
                before.span |= TORN;
                before.set_more(more);
            }
            _ => self.headless = more.then_some(packets.len()),
        }
    }

    /// The batch is over.
    #[inline]
    pub fn end(&mut self, packets: &mut [Packet]) {
        if let Some(packet) = self.headless.and_then(|index| packets.get_mut(index)) {
            packet.span |= TORN;
            self.headless = None;
        }
    }
}

/// All parts of a packet that one frame does not hold, for a handler to look at and to change.
#[derive(Debug)]
pub struct Fragments<'a, P> {
    port: &'a mut P,
    packets: &'a mut [Packet],
}

impl<'a, P: QueuePort> Fragments<'a, P> {
    /// `packets` are those of one packet, at least one.
    pub(crate) fn new(port: &'a mut P, packets: &'a mut [Packet]) -> Self {
        Fragments { port, packets }
    }

    /// How many there are, at least one.
    pub fn count(&self) -> usize {
        self.packets.len()
    }

    /// Looks at the bytes of one; at none if there are not so many.
    pub fn with<T>(&self, index: usize, look: impl FnOnce(&[u8]) -> T) -> T {
        match self.packets.get(index) {
            Some(packet) => self.port.with_bytes(packet, look),
            None => look(&[]),
        }
    }

    /// Changes the bytes of one in place; none if there are not so many.
    pub fn with_mut<T>(&mut self, index: usize, change: impl FnOnce(&mut [u8]) -> T) -> T {
        match self.packets.get_mut(index) {
            Some(packet) => self.port.with_bytes_mut(packet, change),
            None => change(&mut []),
        }
    }

    /// Bytes of all of them.
    pub fn len(&self) -> u64 {
        self.packets.iter().map(|packet| u64::from(packet.len())).sum()
    }

    /// Whether there are no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
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
        Packet::received(frame, pool.layout(), FrameAddr(256), 60, more)
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
        let cut = Packet::received(frame, layout, FrameAddr(3 * 2048 + 300), u32::MAX, false);
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

    #[test]
    fn what_lost_a_frame_is_torn_and_its_neighbours_are_not() {
        // Each packet of three frames loses one of them; a packet of one frame before and after.
        for (lost, batch_ends_after) in (0..9).map(|n| (n / 3, n % 3)) {
            let mut pool = pool();
            let (mut assembly, mut packets) = (Assembly::default(), Vec::new());
            packets.push(part(&mut pool, false));
            for fragment in 0..3 {
                let more = fragment < 2;
                if fragment == lost {
                    assembly.refused(&mut packets, more);
                } else {
                    packets.push(part(&mut pool, more));
                }
                if fragment == batch_ends_after {
                    assembly.end(&mut packets);
                    assembly.begin(&packets);
                }
            }
            packets.push(part(&mut pool, false));
            // A single frame that is lost takes nothing with it.
            assembly.refused(&mut packets, false);
            packets.push(part(&mut pool, false));
            assembly.end(&mut packets);
            let seen: Vec<_> = packets.iter().map(|packet| (packet.has_more(), packet.is_torn())).collect();
            let torn = packets.iter().filter(|packet| packet.is_torn()).count();
            assert_eq!((seen.len(), torn), (5, 1), "{seen:?}");
            assert_eq!([seen[0], seen[3], seen[4]], [(false, false); 3], "{seen:?}");
            assert_eq!((seen[1].0, seen[2].0), (true, false), "two frames, then the next packet: {seen:?}");
            packets.into_iter().for_each(|packet| pool.put_direct(packet.into_right()));
        }
    }
}
