//! [`Ring`]: one of the four rings of a port in memory, with the published and the private index of each
//! side.
//!
//! Both sides are in one struct, because whoever simulates is one thread. What is kept apart is what is
//! apart in the kernel (`net/xdp/xsk_queue.h`): a side moves its own index as it works, and the other
//! side sees that only when it is submitted or released. So a worker's turn can fall into the middle
//! of a NAPI poll, when frames were taken from the fill ring and the ring does not show it yet.

use std::{ops::Range, slice};

/// A ring of `T`, a power of two of slots, with free-running indices.
#[derive(Clone, Debug)]
pub(crate) struct Ring<T> {
    slots: Box<[T]>,
    producer: u32,
    consumer: u32,
    producing: u32,
    consuming: u32,
}

impl<T: Copy + Default> Ring<T> {
    /// A ring of `size` slots, rounded up to a power of two. Its indices begin shortly before they
    /// wrap, so that every simulation goes through that.
    pub(crate) fn new(size: u32) -> Self {
        let size = size.next_power_of_two();
        let start = u32::MAX - size / 2;
        Ring {
            slots: vec![T::default(); size as usize].into_boxed_slice(),
            producer: start,
            consumer: start,
            producing: start,
            consuming: start,
        }
    }

    #[inline]
    fn slot(&mut self, index: u32) -> &mut T {
        let mask = self.slots.len() - 1;
        &mut self.slots[index as usize & mask]
    }

    /// Slots in all.
    pub(crate) fn size(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Slots that the producer may write.
    pub(crate) fn room(&self) -> u32 {
        self.slots.len() as u32 - self.producing.wrapping_sub(self.consumer)
    }

    /// Writes an entry, unseen until it is [submitted](Self::submit). False if there is no room.
    pub(crate) fn put(&mut self, entry: T) -> bool {
        let has_room = self.room() > 0;
        if has_room {
            *self.slot(self.producing) = entry;
            self.producing = self.producing.wrapping_add(1);
        }
        has_room
    }

    /// `xskq_prod_submit()`: the consumer sees what was put.
    pub(crate) fn submit(&mut self) {
        self.producer = self.producing;
    }

    /// The next entry, left where it is.
    pub(crate) fn peek(&mut self) -> Option<T> {
        (self.producer != self.consuming).then(|| *self.slot(self.consuming))
    }

    /// An entry further on, left where it is.
    pub(crate) fn peek_at(&mut self, ahead: u32) -> Option<T> {
        (ahead < self.waiting()).then(|| *self.slot(self.consuming.wrapping_add(ahead)))
    }

    /// The next entry, whose slot stays in use until it is [released](Self::release).
    pub(crate) fn take(&mut self) -> Option<T> {
        let entry = self.peek()?;
        self.consuming = self.consuming.wrapping_add(1);
        Some(entry)
    }

    /// `__xskq_cons_release()`: the producer may write again what was taken.
    pub(crate) fn release(&mut self) {
        self.consumer = self.consuming;
    }

    /// Entries that the consumer may take.
    #[inline]
    pub(crate) fn waiting(&self) -> u32 {
        self.producer.wrapping_sub(self.consuming)
    }

    /// [Takes](Self::take) `count` entries, of which there must be as many, as one or two slices.
    #[inline]
    pub(crate) fn take_slices(&mut self, count: usize) -> [&[T]; 2] {
        let start = self.consuming as usize & (self.slots.len() - 1);
        self.consuming = self.consuming.wrapping_add(count as u32);
        let (wrapped, straight) = self.slots.split_at(start);
        let first = count.min(straight.len());
        [&straight[..first], &wrapped[..count - first]]
    }

    /// At most `count` entries, left where they are, up to where the array ends.
    #[inline]
    pub(crate) fn ahead(&self, count: usize) -> &[T] {
        let start = self.consuming as usize & (self.slots.len() - 1);
        let count = count.min(self.waiting() as usize).min(self.slots.len() - start);
        &self.slots[start..start + count]
    }

    /// [Takes](Self::take) `count` entries that were [looked at](Self::ahead).
    #[inline]
    pub(crate) fn skip(&mut self, count: usize) {
        self.consuming = self.consuming.wrapping_add(count as u32);
    }

    /// [Puts](Self::put) `count` entries, for which there must be room, into one or two slices.
    #[inline]
    pub(crate) fn put_slices(&mut self, count: usize) -> [&mut [T]; 2] {
        let start = self.producing as usize & (self.slots.len() - 1);
        self.producing = self.producing.wrapping_add(count as u32);
        let (wrapped, straight) = self.slots.split_at_mut(start);
        let first = count.min(straight.len());
        [&mut straight[..first], &mut wrapped[..count - first]]
    }

    /// At most so many slots for entries of which it is not yet known how many there will be, up to where the array
    /// ends.
    #[inline]
    pub(crate) fn spare(&mut self, most: usize) -> &mut [T] {
        let spare = self.spare_range(most);
        &mut self.slots[spare]
    }

    #[inline]
    fn spare_range(&self, most: usize) -> Range<usize> {
        let start = self.producing as usize & (self.slots.len() - 1);
        start..start + most.min(self.room() as usize).min(self.slots.len() - start)
    }

    /// [Puts](Self::put) what was written to as many of the [spare](Self::spare) slots.
    #[inline]
    pub(crate) fn advance(&mut self, count: usize) {
        self.producing = self.producing.wrapping_add(count as u32);
    }

    /// Slots to be written one by one, at most so many and up to where the array ends.
    #[inline]
    pub(crate) fn writer(&mut self, most: usize) -> Writer<'_, T> {
        let spare = self.spare_range(most);
        let slots = self.slots[spare].iter_mut();
        Writer { room: slots.len(), slots, producer: &mut self.producer, producing: &mut self.producing }
    }

    /// Entries by the published indices: what anyone else can know of the ring.
    pub(crate) fn len(&self) -> u32 {
        self.producer.wrapping_sub(self.consumer)
    }

    /// Forgets every entry, as the ring's memory is gone when its socket closes.
    pub(crate) fn clear(&mut self) {
        self.consumer = self.producing;
        self.consuming = self.producing;
        self.producer = self.producing;
    }
}

/// [Puts](Ring::put) and [submits](Ring::submit) entries of which it is not yet known how many there will be: as many as
/// were written when this is dropped, also by a panic.
#[derive(Debug)]
pub(crate) struct Writer<'a, T> {
    slots: slice::IterMut<'a, T>,
    room: usize,
    producer: &'a mut u32,
    producing: &'a mut u32,
}

impl<'a, T> Writer<'a, T> {
    /// How many slots there were in the beginning.
    #[inline]
    pub(crate) fn room(&self) -> usize {
        self.room
    }

    /// The slots that are not written yet: the next one is the one to write.
    #[inline]
    pub(crate) fn left(&mut self) -> &mut slice::IterMut<'a, T> {
        &mut self.slots
    }
}

impl<T> Drop for Writer<'_, T> {
    #[inline]
    fn drop(&mut self) {
        *self.producing = self.producing.wrapping_add((self.room - self.slots.len()) as u32);
        *self.producer = *self.producing;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_out_in_order_across_the_wrap_of_the_indices() {
        let mut ring = Ring::new(4);
        for n in 0..20_u32 {
            assert!(ring.put(n) && ring.put(n + 100));
            ring.submit();
            assert_eq!((ring.take(), ring.take(), ring.take()), (Some(n), Some(n + 100), None));
            ring.release();
        }
    }

    #[test]
    fn slices_are_the_entries_in_order_across_both_wraps() {
        let mut ring = Ring::new(8);
        for n in (0..60_u32).step_by(3) {
            let slots = ring.put_slices(3).into_iter().flatten();
            slots.zip(n..).for_each(|(slot, entry)| *slot = entry);
            ring.submit();
            assert_eq!((ring.waiting(), ring.room()), (3, 5));
            let taken: Vec<u32> = ring.take_slices(3).into_iter().flatten().copied().collect();
            assert_eq!(taken, [n, n + 1, n + 2]);
            ring.release();
        }
    }

    #[test]
    fn what_is_not_submitted_or_released_is_not_seen() {
        let mut ring = Ring::new(2);
        assert!(ring.put(1) && ring.put(2) && !ring.put(3));
        assert_eq!((ring.len(), ring.peek()), (0, None));
        ring.submit();
        assert_eq!((ring.len(), ring.take()), (2, Some(1)));
        assert_eq!((ring.len(), ring.room()), (2, 0), "taken, and its slot still in use");
        ring.release();
        assert_eq!((ring.len(), ring.room()), (1, 1));
    }
}
