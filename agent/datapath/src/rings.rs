//! [`Rings`]: the four rings of a port in memory, and the ledger of what is on them.
//!
//! The user's side of a [`MemoryPort`](crate::MemoryPort) and of a [`SimPort`](crate::sim::SimPort), which differ in
//! who is at the other end. The calls are those of a [`QueuePort`](crate::QueuePort).

use frame_pool::{Frame, FrameAddr, FrameLayout, FramePool, FrameRef, Ledger, Lent};

use crate::arrivals::{Arrivals, Assembly, WORTH_PASSING, pass};
use crate::descriptor::Descriptor;
use crate::packet::{MAX_FRAGMENTS, Packet, whole};
use crate::port::{FrameBytes, Glance, Occupancy, PacketSink, PortPlaces};
use crate::right::Right;
use crate::ring::Ring;

#[derive(Debug)]
pub(crate) struct Rings {
    pub(crate) layout: FrameLayout,
    pub(crate) ledger: Ledger,
    assembly: Assembly,
    pub(crate) fill: Ring<u64>,
    pub(crate) rx: Ring<Descriptor>,
    pub(crate) tx: Ring<Descriptor>,
    pub(crate) completion: Ring<u64>,
    closed: bool,
}

/// Slots of each ring; rounded up to a power of two.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slots {
    pub(crate) fill: u32,
    pub(crate) rx: u32,
    pub(crate) tx: u32,
    pub(crate) completion: u32,
}

impl Rings {
    pub(crate) fn new(layout: FrameLayout, slots: Slots) -> Self {
        Rings {
            layout,
            ledger: Ledger::new(layout),
            assembly: Assembly::default(),
            fill: Ring::new(slots.fill),
            rx: Ring::new(slots.rx),
            tx: Ring::new(slots.tx),
            completion: Ring::new(slots.completion),
            closed: false,
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    #[inline]
    pub(crate) fn fill_room(&self) -> usize {
        if self.closed { 0 } else { self.fill.room() as usize }
    }

    #[inline]
    pub(crate) fn fill(&mut self, frames: &mut Vec<Frame>) -> usize {
        let count = frames.len().min(self.fill_room());
        let layout = self.layout;
        for slots in self.fill.put_slices(count) {
            self.ledger.lend_tail(Lent::Fill, frames, slots, |slot, id| *slot = layout.addr_of(id).0);
        }
        self.fill.submit();
        count
    }

    #[inline]
    pub(crate) fn receive(
        &mut self,
        bytes: &mut impl FrameBytes,
        packets: &mut Vec<Packet>,
        max: usize,
        sink: &mut impl PacketSink,
    ) -> usize {
        let count = max.min(self.rx.waiting() as usize);
        let mut arrivals = Arrivals::new(&mut self.ledger, &mut self.assembly, packets);
        for descriptors in self.rx.take_slices(count) {
            arrivals.settle(descriptors, |descriptor| *descriptor, |_, _, _| {}, bytes, sink);
        }
        let received = arrivals.count();
        self.rx.release();
        received
    }

    #[inline]
    pub(crate) fn pass(
        &mut self,
        bytes: &mut impl FrameBytes,
        max: usize,
        glance: &mut impl Glance,
    ) -> usize {
        if self.rx.waiting() < WORTH_PASSING as u32 {
            return 0;
        }
        let mut passed = 0;
        loop {
            // Up to where one of the arrays ends.
            let (entries, mut slots) = (self.rx.ahead(max - passed), self.tx.writer(max - passed));
            let most = entries.len().min(slots.room());
            let describe = |entry: &Descriptor| *entry;
            let (ledger, assembly) = (&mut self.ledger, &self.assembly);
            let count = pass(ledger, assembly, entries, slots.left(), describe, bytes, glance);
            drop(slots);
            self.rx.skip(count);
            passed += count;
            if count < most || most == 0 || passed == max {
                break;
            }
        }
        self.rx.release();
        passed
    }

    #[inline]
    pub(crate) fn transmit<R: Right>(&mut self, packets: &mut Vec<Packet<R>>) -> usize {
        let room = if self.closed { 0 } else { self.tx.room() as usize };
        let count = whole(packets, room);
        let layout = self.layout;
        for slots in self.tx.put_slices(count) {
            let packets = packets.drain(..slots.len()).map(Packet::into_parts);
            let lent = slots.iter_mut().zip(packets).map(|(slot, (part, right))| ((slot, part), right));
            R::lend_each(&mut self.ledger, lent, |(slot, part), id| {
                *slot = part.in_frame(layout.addr_of(id))
            });
        }
        self.tx.submit();
        count
    }

    #[inline]
    pub(crate) fn complete<R: Right>(&mut self, rights: &mut Vec<R>) -> usize {
        let before = rights.len();
        let count = (rights.capacity() - before).min(self.completion.waiting() as usize);
        for addrs in self.completion.take_slices(count) {
            R::settle_all(&mut self.ledger, addrs, |addr| FrameAddr(*addr), rights);
        }
        self.completion.release();
        rights.len() - before
    }

    #[inline]
    pub(crate) fn turn_over(&mut self, pool: &mut FramePool, max: usize) -> usize {
        let (layout, mut turned) = (self.layout, 0);
        loop {
            // Up to where one of the arrays ends.
            let (addrs, slots) = (self.completion.ahead(max - turned), self.fill.spare(max - turned));
            let most = addrs.len().min(slots.len());
            let addr_of = |addr: &u64| FrameAddr(*addr);
            let count = pool.turn_over(&mut self.ledger, addrs, addr_of, slots, |slot, id| {
                *slot = layout.addr_of(id).0;
            });
            self.completion.skip(count);
            self.fill.advance(count);
            turned += count;
            if count < most || most == 0 || turned == max {
                break;
            }
        }
        self.completion.release();
        self.fill.submit();
        turned
    }

    /// A frame to be written, whose data begin at `start`: for up to `len` bytes.
    pub(crate) fn blank(&self, frame: Frame, start: u32, len: usize) -> Packet {
        let len = len.min(self.blank_len(start)) as u32;
        Packet::received(frame, self.layout, Descriptor::new(FrameAddr(u64::from(start)), len, false))
    }

    pub(crate) fn blank_len(&self, start: u32) -> usize {
        (self.layout.chunk_size() - start) as usize
    }

    pub(crate) fn max_fragments(&self) -> usize {
        // The kernel keeps room on the completion ring for all of them before it sends one (xsk_cq_reserve_locked()).
        MAX_FRAGMENTS.min(self.tx.size().min(self.completion.size()) as usize)
    }

    pub(crate) fn places(&self) -> PortPlaces {
        PortPlaces::from(Occupancy {
            rx: self.rx.len(),
            fill: self.fill.len(),
            completion: self.completion.len(),
            ..Occupancy::of(&self.ledger)
        })
    }

    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.fill.clear();
        self.rx.clear();
        self.tx.clear();
        self.completion.clear();
    }

    pub(crate) fn reclaim(&mut self, frames: &mut Vec<Frame>, references: &mut Vec<FrameRef>) -> u32 {
        self.ledger.reclaim_all(|frame| frames.push(frame))
            + self.ledger.reclaim_refs(|reference| references.push(reference))
    }
}
