//! [`MemoryPort`]: four rings and their frames' bytes in memory, and nobody at the other end but the caller.
//!
//! For tests of a handler of one's own, and to count what a worker costs without a kernel. Nothing goes wrong
//! here; for what does, there is [`sim`](crate::sim).

use frame_pool::{Frame, FrameAddr, FrameLayout, FramePool, FrameRef, Lent, RefusedCounts};

use crate::descriptor::Descriptor;
use crate::packet::Packet;
use crate::port::{FrameBytes, Glance, Kick, PacketSink, PortPlaces, QueuePort, XDP_PACKET_HEADROOM};
use crate::right::Right;
use crate::rings::{Rings, Slots};

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
    memory: Memory,
    rings: Rings,
}

impl MemoryPort {
    /// A queue with a UMEM of zeros and four rings of `ring` slots, rounded up to a power of two.
    pub fn new(layout: FrameLayout, ring: u32) -> Self {
        MemoryPort {
            memory: Memory { layout, bytes: vec![0; layout.byte_len() as usize] },
            rings: Rings::new(layout, Slots { fill: ring, rx: ring, tx: ring, completion: ring }),
        }
    }

    /// A packet arrives: in one frame, or in as many as it needs. False, and nothing happened, if there are
    /// not enough on the fill ring or slots on the RX ring.
    pub fn arrive(&mut self, packet: &[u8]) -> bool {
        let room = self.blank_len();
        let count = packet.len().div_ceil(room).max(1);
        if self.rings.fill.waiting() < count as u32 || self.rings.rx.room() < count as u32 {
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
        let addr = self.rings.fill.take()? + u64::from(XDP_PACKET_HEADROOM);
        self.rings.rx.put(Descriptor::new(FrameAddr(addr), len, more)).then_some(addr)
    }

    fn deliver(&mut self) {
        self.rings.rx.submit();
        self.rings.fill.release();
    }

    /// The oldest packet on the TX ring is sent: its bytes.
    pub fn sent(&mut self) -> Option<Vec<u8>> {
        let mut packet = Vec::new();
        loop {
            let descriptor = self.rings.tx.take()?;
            let start = descriptor.addr().0 as usize;
            packet.extend_from_slice(&self.memory.bytes[start..start + descriptor.len() as usize]);
            self.rings.completion.put(descriptor.addr().0);
            if !descriptor.has_more() {
                self.rings.tx.release();
                self.rings.completion.submit();
                return Some(packet);
            }
        }
    }

    /// Everything on the TX ring is sent, and nobody looks; how many frames there were.
    pub fn send_all(&mut self) -> usize {
        let mut sent = 0;
        while let Some(descriptor) = self.rings.tx.take() {
            self.rings.completion.put(descriptor.addr().0);
            sent += 1;
        }
        self.rings.tx.release();
        self.rings.completion.submit();
        sent
    }
}

impl QueuePort for MemoryPort {
    type Bytes = Memory;

    #[inline]
    fn fill_room(&mut self) -> usize {
        self.rings.fill_room()
    }

    #[inline]
    fn fill(&mut self, frames: &mut Vec<Frame>) -> usize {
        self.rings.fill(frames)
    }

    #[inline]
    fn receive(&mut self, packets: &mut Vec<Packet>, max: usize, sink: &mut impl PacketSink) -> usize {
        self.rings.receive(&mut self.memory, packets, max, sink)
    }

    fn pass(&mut self, max: usize, glance: &mut impl Glance) -> usize {
        self.rings.pass(&mut self.memory, max, glance)
    }

    #[inline]
    fn transmit<R: Right>(&mut self, packets: &mut Vec<Packet<R>>) -> usize {
        self.rings.transmit(packets)
    }

    #[inline]
    fn complete<R: Right>(&mut self, rights: &mut Vec<R>) -> usize {
        self.rings.complete(rights)
    }

    #[inline]
    fn turn_over(&mut self, pool: &mut FramePool, max: usize) -> usize {
        self.rings.turn_over(pool, max)
    }

    fn max_fragments(&self) -> usize {
        self.rings.max_fragments()
    }

    fn blank(&mut self, frame: Frame, len: usize) -> Packet {
        self.rings.blank(frame, XDP_PACKET_HEADROOM, len)
    }

    fn blank_len(&self) -> usize {
        self.rings.blank_len(XDP_PACKET_HEADROOM)
    }

    /// The caller is the kernel, and needs not be woken.
    #[inline]
    fn kick(&mut self) -> Kick {
        if self.rings.is_closed() { Kick::Down } else { Kick::NotNeeded }
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
        self.rings.ledger.lent(lent)
    }

    fn unsent(&mut self) -> u32 {
        self.rings.tx.len()
    }

    fn places(&mut self) -> PortPlaces {
        self.rings.places()
    }

    fn refused(&self) -> RefusedCounts {
        self.rings.ledger.refused()
    }

    fn close(&mut self) {
        self.rings.close();
    }

    fn reclaim(&mut self, frames: &mut Vec<Frame>, references: &mut Vec<FrameRef>) -> u32 {
        self.rings.reclaim(frames, references)
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
