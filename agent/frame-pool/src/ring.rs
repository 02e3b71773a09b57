//! `PtrRing`: the way home for frames that end on another thread. Many producers, one consumer, FIFO.
//!
//! It keeps the kernel's geometry (`include/linux/ptr_ring.h`): the exact size asked for, and slots that
//! are given back to the producers in groups of a cache line or at the end of the array, so that a ring
//! may refuse while up to 15 consumed slots wait for their group. It does not keep the kernel's producer
//! lock: a producer claims slots by one compare-and-swap of `tail`, then fills them.
//!
//! ```text
//! producer                                      consumer
//!   LOAD  head, room left?      (A) Acquire       LOAD  slot != EMPTY      (E) Acquire
//!   CAS   tail += n             (B) AcqRel        STORE group = EMPTY      (F)
//!   STORE slot = id             (C) Release       STORE head += group      (G) Release
//! ```
//!
//! * (C) pairs with (E): bytes written before a put are seen by whoever allocates.
//! * (G) pairs with (A): a producer fills a slot only after the consumer has emptied it.
//! * (B) pairs with itself, through (A): whoever sees a tail sees at least the head that allowed it, so a
//!   tail is never more than one lap ahead of the head that it is compared with.
//!
//! A claimed slot that is not yet filled looks empty and hides those behind it. That is harmless, as it
//! is in the kernel: the consumer takes the slow way and finds them later.

use crate::{
    Frame, FrameId, PoolTag,
    frame::LastRight,
    sync::{AtomicU32, AtomicU64, Ordering, OwnLine, yield_now},
};

/// A slot that holds no frame. No frame has this index, as `FrameLayout` limits their number.
const EMPTY: u32 = u32::MAX;

/// Set in `tail` when no more frames may enter.
const CLOSED: u64 = 1 << 63;

/// One lap further.
const LAP: u64 = 1 << 32;

/// Slots in a cache line of the kernel's ring of pointers, times two (`__ptr_ring_set_size`).
const GROUP: u32 = 16;

/// A position: the lap in the upper half, the slot in the lower, because the size of a ring need not be
/// a power of two and a division per put would be slow. 2^31 laps are never finished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cursor(u64);

impl Cursor {
    fn slot(self) -> u32 {
        self.0 as u32
    }

    /// Entries before this one since the ring was made.
    fn count(self, size: u32) -> u64 {
        self.0 / LAP * u64::from(size) + u64::from(self.slot())
    }

    /// The cursor `n` slots further, for `n` at most `size`.
    #[inline]
    fn advance(self, n: u32, size: u32) -> Self {
        let slot = self.slot() + n;
        if slot < size {
            Self(self.0 + u64::from(n))
        } else {
            Self((self.0 / LAP + 1) * LAP + u64::from(slot - size))
        }
    }

    /// Slots that a producer at this cursor may fill, while those from `head` on are not free.
    ///
    /// A cursor behind the head is one that another producer has moved meanwhile: to claim from it will
    /// fail, whatever is answered.
    #[inline]
    fn room(self, head: Self, size: u32) -> u32 {
        if self.0 / LAP == head.0 / LAP {
            size - self.slot().saturating_sub(head.slot())
        } else {
            head.slot().saturating_sub(self.slot())
        }
    }
}

/// The shared part: what producers see.
#[derive(Debug)]
pub(crate) struct PtrRing {
    /// Claimed up to here; with [`CLOSED`].
    tail: OwnLine<AtomicU64>,
    /// Free for producers up to one lap from here.
    head: OwnLine<AtomicU64>,
    slots: Box<[AtomicU32]>,
}

impl PtrRing {
    /// The kernel's default number of slots.
    pub(crate) const DEFAULT_SIZE: u32 = 1024;
    /// The kernel's limit; what asks for more gets this.
    pub(crate) const MAX_SIZE: u32 = 16384;

    /// A ring of `size` slots, or of the kernel's default for 0, and its only consumer.
    pub(crate) fn new(size: u32) -> (Self, RingConsumer) {
        let size = if size == 0 { Self::DEFAULT_SIZE } else { size.min(Self::MAX_SIZE) };
        let slots = (0..size).map(|_| AtomicU32::new(EMPTY)).collect();
        let group = if GROUP > size / 2 { 1 } else { GROUP };
        let ring = Self { tail: OwnLine(AtomicU64::new(0)), head: OwnLine(AtomicU64::new(0)), slots };
        (ring, RingConsumer { next: Cursor::default(), stale: 0, group })
    }

    /// Number of slots.
    pub(crate) fn size(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Frames that ever entered: the statistic `ring`.
    pub(crate) fn produced(&self) -> u64 {
        Cursor(self.tail.load(Ordering::Acquire) & !CLOSED).count(self.size())
    }

    /// Appends one frame; `false` if the ring is full or closed.
    #[inline]
    pub(crate) fn produce(&self, id: FrameId) -> bool {
        let mut tail = self.tail.load(Ordering::Acquire);
        loop {
            let head = self.head.load(Ordering::Acquire); // (A)
            if tail == head + LAP || tail & CLOSED != 0 {
                return false;
            }
            let next = Cursor(tail).advance(1, self.size()).0;
            // (B)
            match self.tail.compare_exchange_weak(tail, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => break,
                Err(now) => tail = now,
            }
        }
        self.slots[Cursor(tail).slot() as usize].store(id.0, Ordering::Release); // (C)
        true
    }

    /// Appends as many of the frames as there is room for, in order, and says how many that was.
    #[inline]
    pub(crate) fn produce_bulk(&self, rights: &[impl LastRight]) -> usize {
        let Some((first, count)) = self.claim(rights.len()) else { return 0 };
        let (before, from) = self.slots.split_at(first.slot() as usize);
        let (to_end, from_start) = rights[..count].split_at(count.min(from.len()));
        for (slots, rights) in [(from, to_end), (before, from_start)] {
            for (slot, right) in slots.iter().zip(rights) {
                slot.store(right.id().0, Ordering::Release); // (C)
            }
        }
        count
    }

    /// Claims up to `wanted` slots: the first, and how many. `None` if the ring is full or closed.
    #[inline]
    fn claim(&self, wanted: usize) -> Option<(Cursor, usize)> {
        let size = self.size();
        let mut tail = self.tail.load(Ordering::Acquire);
        loop {
            let cursor = Cursor(tail);
            let room = cursor.room(Cursor(self.head.load(Ordering::Acquire)), size); // (A)
            let count = wanted.min(room as usize);
            if count == 0 || tail & CLOSED != 0 {
                return None;
            }
            let next = cursor.advance(count as u32, size).0;
            // (B)
            match self.tail.compare_exchange_weak(tail, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some((cursor, count)),
                Err(now) => tail = now,
            }
        }
    }

    /// Refuses every frame from now on. Those already claimed still arrive.
    pub(crate) fn close(&self) {
        self.tail.fetch_or(CLOSED, Ordering::AcqRel);
    }
}

/// The consumer's part: owned by the pool's owner, so that consuming needs no atomic read-modify-write.
#[derive(Debug)]
pub(crate) struct RingConsumer {
    next: Cursor,
    /// Consumed slots that producers may not use yet.
    stale: u32,
    group: u32,
}

impl RingConsumer {
    /// Takes the oldest frame.
    #[inline]
    pub(crate) fn consume(&mut self, ring: &PtrRing) -> Option<FrameId> {
        let id = ring.slots[self.next.slot() as usize].load(Ordering::Acquire); // (E)
        if id == EMPTY {
            return None;
        }
        if self.consumed(ring, 1) {
            self.publish(ring);
        }
        Some(FrameId(id))
    }

    /// Takes up to `max` of the oldest frames, in order, and puts them at the end of `to` as frames of the
    /// pool with this tag. As `consume` so many times, but faster.
    pub(crate) fn consume_bulk(&mut self, ring: &PtrRing, max: usize, to: &mut Vec<Frame>, tag: PoolTag) {
        let (mut left, mut freed) = (max, false);
        while left > 0 {
            // Up to where the group is complete, or the array ends.
            let (first, wanted) = (self.next.slot() as usize, left.min((self.group - self.stale) as usize));
            let slots = &ring.slots[first..ring.slots.len().min(first + wanted)];
            let filled = slots.iter().take_while(|slot| slot.load(Ordering::Acquire) != EMPTY).count(); // (E)
            if filled == 0 {
                break;
            }
            // Only the consumer empties a slot, so what was filled still is.
            let frame = |slot: &AtomicU32| Frame::of(FrameId(slot.load(Ordering::Relaxed)), tag);
            to.extend(slots[..filled].iter().map(frame));
            freed |= self.consumed(ring, filled as u32);
            left -= filled;
        }
        if freed {
            self.publish(ring);
        }
    }

    /// Moves on by `n` slots, and empties them if that completes their group or reaches the end of the
    /// array (`__ptr_ring_zero_tail()`); whether it did.
    #[inline]
    fn consumed(&mut self, ring: &PtrRing, n: u32) -> bool {
        let end = (self.next.slot() + n) as usize;
        self.next = self.next.advance(n, ring.size());
        self.stale += n;
        let complete = self.stale == self.group || self.next.slot() == 0;
        if complete {
            for slot in &ring.slots[end - self.stale as usize..end] {
                slot.store(EMPTY, Ordering::Relaxed); // (F)
            }
            self.stale = 0;
        }
        complete
    }

    /// Gives the emptied slots to the producers.
    fn publish(&self, ring: &PtrRing) {
        ring.head.store(self.next.0 - u64::from(self.stale), Ordering::Release); // (G)
    }

    /// Whether the next look would find nothing. Relaxed: what is there is acquired when it is taken.
    pub(crate) fn is_empty(&self, ring: &PtrRing) -> bool {
        ring.slots[self.next.slot() as usize].load(Ordering::Relaxed) == EMPTY
    }

    /// Frames in the ring, those just being put included.
    pub(crate) fn len(&self, ring: &PtrRing) -> u32 {
        (ring.produced() - self.next.count(ring.size())) as u32
    }

    /// Consumed slots that producers may not use yet.
    pub(crate) fn stale(&self) -> u32 {
        self.stale
    }

    /// Takes the oldest frame of a closed ring, waiting for a producer that has claimed a slot and not
    /// yet filled it: what the kernel does by taking and dropping the producer lock.
    pub(crate) fn consume_last(&mut self, ring: &PtrRing) -> Option<FrameId> {
        while self.len(ring) > 0 {
            match self.consume(ring) {
                None => yield_now(),
                some => return some,
            }
        }
        None
    }

    /// The frames in the ring, oldest first. For tests and tools, while nobody produces.
    pub(crate) fn peek(&self, ring: &PtrRing) -> impl Iterator<Item = FrameId> {
        (0..self.len(ring)).map(|n| {
            let slot = self.next.advance(n, ring.size()).slot();
            FrameId(ring.slots[slot as usize].load(Ordering::Acquire))
        })
    }
}

#[cfg(all(test, not(frame_pool_loom)))]
mod tests {
    use super::*;

    fn frames(ids: std::ops::Range<u32>) -> Vec<Frame> {
        let tag = PoolTag::next();
        ids.map(|id| Frame::of(FrameId(id), tag)).collect()
    }

    fn fill(ring: &PtrRing, ids: std::ops::Range<u32>) -> usize {
        ids.filter(|&id| ring.produce(FrameId(id))).count()
    }

    #[test]
    fn first_in_first_out_across_the_end_of_the_array() {
        let (ring, mut consumer) = PtrRing::new(3);
        for round in 0..10 {
            let base = round * 2;
            assert_eq!(ring.produce_bulk(&frames(base..base + 2)), 2);
            assert_eq!(consumer.len(&ring), 2);
            assert_eq!(consumer.consume(&ring), Some(FrameId(base)));
            assert_eq!(consumer.consume(&ring), Some(FrameId(base + 1)));
            assert_eq!(consumer.consume(&ring), None);
        }
        assert_eq!(ring.produced(), 20);
    }

    #[test]
    fn a_full_ring_refuses_and_takes_what_fits() {
        let (ring, mut consumer) = PtrRing::new(4);
        assert_eq!(ring.produce_bulk(&frames(0..6)), 4);
        assert!(!ring.produce(FrameId(9)));
        assert_eq!(consumer.consume(&ring), Some(FrameId(0)));
        assert_eq!(ring.produce_bulk(&frames(7..9)), 1);
        let left: Vec<_> = consumer.peek(&ring).map(|id| id.0).collect();
        assert_eq!(left, [1, 2, 3, 7]);
    }

    /// V4 of the specification: a consumed slot is not free until its group of 16 is complete.
    #[test]
    fn consumed_slots_come_back_in_groups() {
        let (ring, mut consumer) = PtrRing::new(64);
        assert_eq!(fill(&ring, 0..100), 64);
        for _ in 0..8 {
            consumer.consume(&ring).unwrap();
        }
        assert_eq!(consumer.stale(), 8);
        assert_eq!(fill(&ring, 100..108), 0);
        for _ in 0..8 {
            consumer.consume(&ring).unwrap();
        }
        assert_eq!(fill(&ring, 108..140), 16);
    }

    #[test]
    fn the_end_of_the_array_completes_a_group() {
        let (ring, mut consumer) = PtrRing::new(40);
        assert_eq!(fill(&ring, 0..40), 40);
        for _ in 0..39 {
            consumer.consume(&ring).unwrap();
        }
        assert_eq!((consumer.stale(), fill(&ring, 40..80)), (7, 32));
        consumer.consume(&ring).unwrap();
        assert_eq!((consumer.stale(), fill(&ring, 80..120)), (0, 8));
    }

    #[test]
    fn a_bulk_is_as_many_single_frames() {
        let tag = PoolTag::next();
        for (size, max) in [(5, 3), (40, 7), (40, 64), (64, 20), (100, 64)] {
            let ((one, mut single), (many, mut bulk)) = (PtrRing::new(size), PtrRing::new(size));
            for round in 0..50 {
                let ids = frames(round * 100..round * 100 + round % 70);
                let accepted = ids.iter().take_while(|frame| one.produce(frame.id())).count();
                assert_eq!(many.produce_bulk(&ids), accepted);
                let expected: Vec<_> = (0..max).map_while(|_| single.consume(&one)).collect();
                let mut got = Vec::new();
                bulk.consume_bulk(&many, max, &mut got, tag);
                assert_eq!(got.iter().map(Frame::id).collect::<Vec<_>>(), expected);
                assert_eq!((bulk.next, bulk.stale), (single.next, single.stale));
            }
        }
    }

    #[test]
    fn sizes_are_the_kernels() {
        for (asked, got, group) in
            [(0, 1024, 16), (1, 1, 1), (31, 31, 1), (32, 32, 16), (40, 40, 16), (20_000, 16_384, 16)]
        {
            let (ring, consumer) = PtrRing::new(asked);
            assert_eq!((ring.size(), consumer.group), (got, group));
        }
    }

    #[test]
    fn a_closed_ring_takes_nothing_and_gives_what_it_had() {
        let (ring, mut consumer) = PtrRing::new(4);
        assert!(ring.produce(FrameId(1)));
        ring.close();
        assert!(!ring.produce(FrameId(2)));
        assert_eq!(consumer.consume_last(&ring), Some(FrameId(1)));
        assert_eq!(consumer.consume_last(&ring), None);
        assert_eq!(ring.produced(), 1);
    }
}
