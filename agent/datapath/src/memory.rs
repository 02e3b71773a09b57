//! [`MemoryPort`]: four rings and their frames' bytes in memory, and nobody at the other end but the caller.
//!
//! For tests of a handler of one's own, and to count what a worker costs without a kernel. Nothing goes wrong
//! here; for what does, there is [`sim`](crate::sim).

use std::mem;

use frame_pool::{Frame, FrameAddr, FrameLayout, FrameRef, Ledger, Lent, Refused, RefusedCounts};

use crate::packet::{Assembly, MAX_FRAGMENTS, Packet, Right, push, whole};
use crate::port::{Kick, Occupancy, PortPlaces, QueuePort};
use crate::ring::Ring;

/// `XDP_PACKET_HEADROOM`: what is left free before a received packet.
const HEADROOM: u32 = 256;

/// `struct xdp_desc`: the address, and length and options in one word.
#[derive(Clone, Copy, Debug, Default)]
struct Desc {
    addr: u64,
    described: u64,
}

impl Desc {
    fn new(addr: u64, len: u32, more: bool) -> Self {
        Desc { addr, described: u64::from(len) | u64::from(more) << 32 }
    }

    fn len(self) -> usize {
        self.described as u32 as usize
    }

    fn more(self) -> bool {
        self.described >> 32 != 0
    }
}

/// A queue in memory.
#[derive(Debug)]
pub struct MemoryPort {
    layout: FrameLayout,
    memory: Vec<u8>,
    ledger: Ledger,
    assembly: Assembly,
    quarantined_tx: u32,
    fill: Ring<u64>,
    rx: Ring<Desc>,
    tx: Ring<Desc>,
    completion: Ring<u64>,
    closed: bool,
}

impl MemoryPort {
    /// A queue with a UMEM of zeros and four rings of `ring` slots, rounded up to a power of two.
    pub fn new(layout: FrameLayout, ring: u32) -> Self {
        MemoryPort {
            layout,
            memory: vec![0; layout.byte_len() as usize],
            ledger: Ledger::new(layout),
            assembly: Assembly::default(),
            quarantined_tx: 0,
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
            self.memory[addr as usize..addr as usize + part.len()].copy_from_slice(part);
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
        self.rx.put(Desc::new(addr, len, more)).then_some(addr)
    }

    fn deliver(&mut self) {
        self.rx.submit();
        self.fill.release();
    }

    /// The oldest packet on the TX ring is sent: its bytes.
    pub fn sent(&mut self) -> Option<Vec<u8>> {
        let mut packet = Vec::new();
        loop {
            let desc = self.tx.take()?;
            let start = desc.addr as usize;
            packet.extend_from_slice(&self.memory[start..start + desc.len()]);
            self.completion.put(desc.addr);
            if !desc.more() {
                self.tx.release();
                self.completion.submit();
                return Some(packet);
            }
        }
    }

    /// Everything on the TX ring is sent, and nobody looks; how many frames there were.
    pub fn send_all(&mut self) -> usize {
        let mut sent = 0;
        while let Some(desc) = self.tx.take() {
            self.completion.put(desc.addr);
            sent += 1;
        }
        self.tx.release();
        self.completion.submit();
        sent
    }

    #[inline]
    fn span<R: Right>(&self, packet: &Packet<R>) -> std::ops::Range<usize> {
        let start = packet.addr(self.layout).0 as usize;
        start..start + packet.len() as usize
    }
}

impl QueuePort for MemoryPort {
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
    fn receive(&mut self, packets: &mut Vec<Packet>, max: usize) -> usize {
        let before = packets.len();
        let count = max.min(self.rx.waiting() as usize);
        self.assembly.begin(packets);
        for descs in self.rx.take_slices(count) {
            settle(
                &mut self.ledger,
                &mut self.assembly,
                &mut self.quarantined_tx,
                self.layout,
                descs,
                packets,
            );
        }
        self.assembly.end(packets);
        self.rx.release();
        packets.len() - before
    }

    #[inline]
    fn transmit<R: Right>(&mut self, packets: &mut Vec<Packet<R>>) -> usize {
        let room = if self.closed { 0 } else { self.tx.room() as usize };
        let count = whole(packets, room);
        let layout = self.layout;
        for slots in self.tx.put_slices(count) {
            let packets = packets.drain(..slots.len()).map(Packet::into_described);
            let lent = slots.iter_mut().zip(packets).map(|(slot, (span, right))| ((slot, span), right));
            R::lend_each(&mut self.ledger, lent, |(slot, (offset, described)), id| {
                *slot = Desc { addr: layout.addr_of(id).0 + offset, described };
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
            R::settle_all(&mut self.ledger, addrs.iter().copied().map(FrameAddr), rights);
        }
        self.completion.release();
        rights.len() - before
    }

    fn max_fragments(&self) -> usize {
        MAX_FRAGMENTS.min(self.tx.size() as usize)
    }

    fn blank(&mut self, frame: Frame, len: usize) -> Packet {
        let len = len.min(self.blank_len()) as u32;
        Packet::received(frame, self.layout, FrameAddr(u64::from(HEADROOM)), len, false)
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
    fn with_bytes<R: Right, T>(&self, packet: &Packet<R>, look: impl FnOnce(&[u8]) -> T) -> T {
        // Always there; and who does not look need not know.
        look(self.memory.get(self.span(packet)).unwrap_or_default())
    }

    #[inline]
    fn with_bytes_mut<T>(&mut self, packet: &mut Packet, change: impl FnOnce(&mut [u8]) -> T) -> T {
        let span = self.span(packet);
        match self.memory.get_mut(span) {
            Some(bytes) => change(bytes),
            None => change_nothing(change),
        }
    }

    fn places(&mut self) -> PortPlaces {
        PortPlaces::from(Occupancy {
            rx: self.rx.len(),
            fill: self.fill.len(),
            completion: self.completion.len(),
            lent_fill: self.ledger.lent(Lent::Fill),
            lent_tx: self.ledger.lent(Lent::Tx),
            quarantined_fill: self.ledger.quarantined() - self.quarantined_tx,
            quarantined_tx: self.quarantined_tx,
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

/// For a packet that is not in this memory, which cannot be.
#[cold]
fn change_nothing<T>(change: impl FnOnce(&mut [u8]) -> T) -> T {
    change(&mut [])
}

/// Makes packets of descriptors. On its own, so that its loop has the registers for itself.
#[inline(never)]
fn settle(
    ledger: &mut Ledger,
    assembly: &mut Assembly,
    quarantined_tx: &mut u32,
    layout: FrameLayout,
    descs: &[Desc],
    packets: &mut Vec<Packet>,
) {
    let mut descs = descs.iter().map(|desc| (FrameAddr(desc.addr), desc));
    let mut received = mem::take(packets);
    while let Err((desc, refused)) = ledger.settle_run(Lent::Fill, &mut descs, |desc, frame| {
        let packet = Packet::described(frame, layout, FrameAddr(desc.addr), desc.described);
        push(&mut received, packet);
    }) {
        *quarantined_tx += u32::from(refused == Refused::WrongRing);
        *packets = mem::take(&mut received);
        assembly.refused(packets, desc.more());
        received = mem::take(packets);
    }
    *packets = received;
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
