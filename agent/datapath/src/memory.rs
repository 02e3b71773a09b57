//! [`MemoryPort`]: four rings and their frames' bytes in memory, and nobody at the other end but the caller.
//!
//! For tests of a handler of one's own, and to count what a worker costs without a kernel. Nothing goes wrong
//! here; for what does, there is [`sim`](crate::sim).

use frame_pool::{Frame, FrameAddr, FrameLayout, FramePool, FrameRef, Ledger, Lent, RefusedCounts};

use crate::arrivals::{Arrivals, Assembly, WORTH_PASSING, pass};
use crate::descriptor::Descriptor;
use crate::packet::{MAX_FRAGMENTS, Packet, whole};
use crate::port::{FrameBytes, Glance, Kick, Occupancy, PacketSink, PortPlaces, QueuePort};
use crate::right::Right;
use crate::ring::Ring;

/// `XDP_PACKET_HEADROOM`: what is left free before a received packet.
const HEADROOM: u32 = 256;

/// The bytes of all frames.
#[derive(Debug)]
pub struct Memory {
    layout: FrameLayout,
    bytes: Vec<u8>,
}

impl FrameBytes for Memory {
    #[inline]
    fn with<R: Right, T>(&self, packet: &Packet<R>, look: impl FnOnce(&[u8]) -> T) -> T {
        let bytes = self.bytes.get(packet.addr(self.layout).0 as usize..);
        // Always there; and who does not look need not know.
        look(bytes.and_then(|bytes| bytes.get(..packet.len() as usize)).unwrap_or_default())
    }

    #[inline]
    fn with_mut<T>(&mut self, packet: &mut Packet, change: impl FnOnce(&mut [u8]) -> T) -> T {
        let start = packet.addr(self.layout).0 as usize;
        match self.bytes.get_mut(start..start + packet.len() as usize) {
            Some(bytes) => change(bytes),
            None => change_nothing(change),
        }
    }

    #[inline]
    fn with_plain<T>(&mut self, _: &mut Frame, packet: Descriptor, change: impl FnOnce(&mut [u8]) -> T) -> T {
        let start = packet.addr().0 as usize;
        match self.bytes.get_mut(start..start + packet.len() as usize) {
            Some(bytes) => change(bytes),
            None => change_nothing(change),
        }
    }
}

/// For a packet that is not in this memory, which cannot be.
#[cold]
fn change_nothing<T>(change: impl FnOnce(&mut [u8]) -> T) -> T {
    change(&mut [])
}

/// A queue in memory.
#[derive(Debug)]
pub struct MemoryPort {
    layout: FrameLayout,
    memory: Memory,
    ledger: Ledger,
    assembly: Assembly,
    fill: Ring<u64>,
    rx: Ring<Descriptor>,
    tx: Ring<Descriptor>,
    completion: Ring<u64>,
    closed: bool,
}

impl MemoryPort {
    /// A queue with a UMEM of zeros and four rings of `ring` slots, rounded up to a power of two.
    pub fn new(layout: FrameLayout, ring: u32) -> Self {
        MemoryPort {
            layout,
            memory: Memory { layout, bytes: vec![0; layout.byte_len() as usize] },
            ledger: Ledger::new(layout),
            assembly: Assembly::default(),
            fill: Ring::new(ring),
            rx: Ring::new(ring),
            tx: Ring::new(ring),
            completion: Ring::new(ring),
            closed: false,
        }
    }

    /// A packet arrives: in one frame, or in as many as it needs. False, and nothing happened, if there are
    /// not enough on the fill ring or slots on the RX ring.
    pub fn arrive(&mut self, packet: &[u8]) -> bool {
        let room = self.blank_len();
        let count = packet.len().div_ceil(room).max(1);
        if self.fill.waiting() < count as u32 || self.rx.room() < count as u32 {
            return false;
        }
        let mut rest = packet;
        for left in (0..count).rev() {
            let (part, behind) = rest.split_at(rest.len().min(room));
            rest = behind;
            let Some(addr) = self.arrive_as_it_is(part.len() as u32, left > 0) else { return false };
            self.memory.bytes[addr as usize..addr as usize + part.len()].copy_from_slice(part);
        }
        self.deliver();
        true
    }

    /// The next frames of the fill ring become packets of `len` bytes, whatever those are; how many did.
    /// For who counts instructions and needs no particular bytes.
    pub fn arrive_many(&mut self, count: usize, len: u32) -> usize {
        let arrived = (0..count).take_while(|_| self.arrive_as_it_is(len, false).is_some()).count();
        self.deliver();
        arrived
    }

    fn arrive_as_it_is(&mut self, len: u32, more: bool) -> Option<u64> {
        let addr = self.fill.take()? + u64::from(HEADROOM);
        self.rx.put(Descriptor::new(FrameAddr(addr), len, more)).then_some(addr)
    }

    fn deliver(&mut self) {
        self.rx.submit();
        self.fill.release();
    }

    /// The oldest packet on the TX ring is sent: its bytes.
    pub fn sent(&mut self) -> Option<Vec<u8>> {
        let mut packet = Vec::new();
        loop {
            let descriptor = self.tx.take()?;
            let start = descriptor.addr().0 as usize;
            packet.extend_from_slice(&self.memory.bytes[start..start + descriptor.len() as usize]);
            self.completion.put(descriptor.addr().0);
            if !descriptor.has_more() {
                self.tx.release();
                self.completion.submit();
                return Some(packet);
            }
        }
    }

    /// Everything on the TX ring is sent, and nobody looks; how many frames there were.
    pub fn send_all(&mut self) -> usize {
        let mut sent = 0;
        while let Some(descriptor) = self.tx.take() {
            self.completion.put(descriptor.addr().0);
            sent += 1;
        }
        self.tx.release();
        self.completion.submit();
        sent
    }
}

impl QueuePort for MemoryPort {
    type Bytes = Memory;

    #[inline]
    fn fill_room(&mut self) -> usize {
        if self.closed { 0 } else { self.fill.room() as usize }
    }

    #[inline]
    fn fill(&mut self, frames: &mut Vec<Frame>) -> usize {
        let count = frames.len().min(self.fill_room());
        let layout = self.layout;
        for slots in self.fill.put_slices(count) {
            self.ledger.lend_tail(Lent::Fill, frames, slots, |slot, id| *slot = layout.addr_of(id).0);
        }
        self.fill.submit();
        count
    }

    #[inline]
    fn receive(&mut self, packets: &mut Vec<Packet>, max: usize, sink: &mut impl PacketSink) -> usize {
        let count = max.min(self.rx.waiting() as usize);
        let mut arrivals = Arrivals::new(&mut self.ledger, &mut self.assembly, packets);
        for descriptors in self.rx.take_slices(count) {
            arrivals.settle(descriptors, |descriptor| *descriptor, |_, _, _| {}, &mut self.memory, sink);
        }
        let received = arrivals.count();
        self.rx.release();
        received
    }

    fn pass(&mut self, max: usize, glance: &mut impl Glance) -> usize {
        if self.rx.waiting() < WORTH_PASSING as u32 {
            return 0;
        }
        let mut passed = 0;
        loop {
            // Up to where one of the arrays ends.
            let (entries, mut slots) = (self.rx.ahead(max - passed), self.tx.writer(max - passed));
            let most = entries.len().min(slots.room());
            let describe = |entry: &Descriptor| *entry;
            let count = pass(
                &mut self.ledger,
                &self.assembly,
                entries,
                slots.left(),
                describe,
                &mut self.memory,
                glance,
            );
            drop(slots);
            self.rx.skip(count);
            passed += count;
            if count < most || most == 0 {
                break;
            }
        }
        self.tx.submit();
        self.rx.release();
        passed
    }

    #[inline]
    fn transmit<R: Right>(&mut self, packets: &mut Vec<Packet<R>>) -> usize {
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
    fn complete<R: Right>(&mut self, rights: &mut Vec<R>) -> usize {
        let before = rights.len();
        let count = (rights.capacity() - before).min(self.completion.waiting() as usize);
        for addrs in self.completion.take_slices(count) {
            R::settle_all(&mut self.ledger, addrs, |addr| FrameAddr(*addr), rights);
        }
        self.completion.release();
        rights.len() - before
    }

    #[inline]
    fn turn_over(&mut self, pool: &mut FramePool, max: usize) -> usize {
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
            if count < most || most == 0 {
                break;
            }
        }
        self.completion.release();
        self.fill.submit();
        turned
    }

    fn max_fragments(&self) -> usize {
        MAX_FRAGMENTS.min(self.tx.size() as usize)
    }

    fn blank(&mut self, frame: Frame, len: usize) -> Packet {
        let len = len.min(self.blank_len()) as u32;
        Packet::received(frame, self.layout, Descriptor::new(FrameAddr(u64::from(HEADROOM)), len, false))
    }

    fn blank_len(&self) -> usize {
        (self.layout.chunk_size() - HEADROOM) as usize
    }

    /// The caller is the kernel, and needs not be woken.
    #[inline]
    fn kick(&mut self) -> Kick {
        if self.closed { Kick::Down } else { Kick::NotNeeded }
    }

    #[inline]
    fn bytes(&self) -> &Memory {
        &self.memory
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut Memory {
        &mut self.memory
    }

    #[inline]
    fn lent(&self, lent: Lent) -> u32 {
        self.ledger.lent(lent)
    }

    fn places(&mut self) -> PortPlaces {
        PortPlaces::from(Occupancy {
            rx: self.rx.len(),
            fill: self.fill.len(),
            completion: self.completion.len(),
            ..Occupancy::of(&self.ledger)
        })
    }

    fn refused(&self) -> RefusedCounts {
        self.ledger.refused()
    }

    fn close(&mut self) {
        self.closed = true;
        self.fill.clear();
        self.rx.clear();
        self.tx.clear();
        self.completion.clear();
    }

    fn reclaim(&mut self, frames: &mut Vec<Frame>, references: &mut Vec<FrameRef>) -> u32 {
        self.ledger.reclaim_all(|frame| frames.push(frame))
            + self.ledger.reclaim_refs(|reference| references.push(reference))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use frame_pool::{FramePool, PoolConfig, UmemProvider};

    use super::*;
    use crate::handlers::Forward;
    use crate::worker::{Worker, WorkerConfig};

    #[test]
    fn what_arrives_is_sent_back_whole() {
        let layout = FrameLayout::new(2048, 64).unwrap();
        let pool = FramePool::new(PoolConfig::default(), UmemProvider::new(layout));
        let config = WorkerConfig { batch: 16, ..WorkerConfig::default() };
        let mut worker = Worker::new(pool, MemoryPort::new(layout, 32), Forward, config);
        worker.poll_once(Duration::ZERO);
        let packets = [60, 1792, 1793, 9000, 14].map(|len| vec![len as u8; len]);
        for _ in 0..20 {
            worker.poll_once(Duration::ZERO);
            assert!(packets.iter().all(|packet| worker.port_mut().arrive(packet)));
            worker.poll_once(Duration::ZERO);
            for packet in &packets {
                assert!(worker.port_mut().sent().as_ref() == Some(packet), "{} bytes", packet.len());
            }
            assert_eq!(worker.port_mut().sent(), None);
            assert!(worker.snapshot().conserved());
        }
        assert!(!worker.port_mut().arrive(&[0; 64_000]), "more than there are frames");
        assert!(worker.finish(Duration::ZERO).conserved);
    }
}
