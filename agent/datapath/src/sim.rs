//! The kernel's side of a queue, in memory and seeded.
//!
//! [`SimPort`] is a [`QueuePort`] whose other end is a model of `net/xdp/xsk.c` in copy mode, with the
//! corners that a worker must live with:
//!
//! | when | the model does |
//! | --- | --- |
//! | the fill ring is empty | drops the packet: `rx_dropped`, `rx_fill_ring_empty_descs` |
//! | the RX ring is full | drops the packet, keeps its frame on a free list and uses it first next time |
//! | a packet is longer than a frame | drops it: `rx_dropped` |
//! | a fill address lies outside the UMEM | swallows the entry and tells nobody |
//! | a NAPI poll delivers a burst | shows it at the end only, RX ring first, fill ring later |
//! | it is kicked | sends 32 packets and wants to be kicked again |
//! | the completion ring is full, the device busy | sends nothing and wants to be kicked again |
//! | a queue discipline drops | completes the frame all the same, and wants to be kicked again |
//! | a TX descriptor is bad | counts it; completes it on a new kernel, never on an old one |
//! | packets were sent | completes them later, in any order |
//! | the interface is down | refuses to be kicked |
//! | the socket closes | completes nothing; the frames on its rings are gone |
//!
//! What the model does of its own accord happens in [`SimPort::step`], by its seed. [`Faulty`] is
//! middleware that makes any port worse, and lets this one lie.

mod faulty;
mod kernel;
mod random;
mod ring;

use frame_pool::{Frame, FrameAddr, FrameLayout, Ledger, Lent, RefusedCounts};

pub use self::faulty::{Faulty, Lie, Rates, Tamper};
pub use self::kernel::XdpStatistics;
pub use self::random::Random;

use self::kernel::Kernel;
use self::ring::Ring;
use crate::port::{Kick, Occupancy, Packet, PortPlaces, QueuePort};

/// `XDP_PACKET_HEADROOM`: what the kernel leaves free before a received packet.
const XDP_PACKET_HEADROOM: u32 = 256;

/// `struct xdp_desc`.
#[derive(Clone, Copy, Debug, Default)]
struct Desc {
    addr: u64,
    len: u32,
}

/// A simulated queue's sizes and character.
#[derive(Clone, Copy, Debug)]
pub struct SimConfig {
    /// What [`SimPort::step`] does follows from this alone.
    pub seed: u64,
    /// Slots of the fill ring; rounded up to a power of two, as the other rings' are.
    pub fill_ring: u32,
    /// Slots of the RX ring.
    pub rx_ring: u32,
    /// Slots of the TX ring.
    pub tx_ring: u32,
    /// Slots of the completion ring.
    pub completion_ring: u32,
    /// `headroom` of `struct xdp_umem_reg`, in bytes.
    pub headroom: u32,
    /// A kernel up to 6.12, which never completes a bad TX descriptor.
    pub old_kernel: bool,
}

impl Default for SimConfig {
    fn default() -> Self {
        SimConfig {
            seed: 0,
            fill_ring: 2048,
            rx_ring: 2048,
            tx_ring: 2048,
            completion_ring: 2048,
            headroom: 0,
            old_kernel: false,
        }
    }
}

/// A queue whose kernel is a model. See the [module](self) for what it models.
#[derive(Debug)]
pub struct SimPort {
    layout: FrameLayout,
    memory: Vec<u8>,
    ledger: Ledger,
    fill: Ring<u64>,
    rx: Ring<Desc>,
    tx: Ring<Desc>,
    completion: Ring<u64>,
    kernel: Kernel,
}

impl SimPort {
    /// A queue that is up, with empty rings and a UMEM of zeros.
    pub fn new(layout: FrameLayout, config: SimConfig) -> Self {
        SimPort {
            layout,
            memory: vec![0; layout.byte_len() as usize],
            ledger: Ledger::new(layout),
            fill: Ring::new(config.fill_ring),
            rx: Ring::new(config.rx_ring),
            tx: Ring::new(config.tx_ring),
            completion: Ring::new(config.completion_ring),
            kernel: Kernel::new(config, layout),
        }
    }

    /// Where a packet's bytes are in the UMEM.
    #[inline]
    fn span(&self, packet: &Packet) -> std::ops::Range<usize> {
        let start = self.layout.addr_of(packet.frame.id()).0 as usize + packet.offset as usize;
        start..start + packet.len as usize
    }
}

impl QueuePort for SimPort {
    fn fill_room(&mut self) -> usize {
        if self.kernel.closed { 0 } else { self.fill.room() as usize }
    }

    #[inline]
    fn fill(&mut self, frames: &mut Vec<Frame>) -> usize {
        let count = frames.len().min(self.fill_room());
        let layout = self.layout;
        let mut frames = frames.drain(frames.len() - count..);
        for slots in self.fill.put_slices(count) {
            for (slot, frame) in slots.iter_mut().zip(&mut frames) {
                *slot = layout.addr_of(self.ledger.lend(frame, Lent::Fill)).0;
            }
        }
        self.fill.submit();
        count
    }

    #[inline]
    fn receive(&mut self, packets: &mut Vec<Packet>) -> usize {
        let before = packets.len();
        let count = (packets.capacity() - before).min(self.rx.waiting() as usize);
        let layout = self.layout;
        for descs in self.rx.take_slices(count) {
            for desc in descs {
                let addr = FrameAddr(desc.addr);
                let Ok(frame) = self.ledger.settle(Lent::Fill, addr) else { continue };
                // INVARIANT: the data end inside the chunk, whatever the descriptor says.
                let offset = layout.offset_of(addr);
                let len = desc.len.min(layout.chunk_size() - offset);
                packets.push(Packet { frame, offset, len });
            }
        }
        self.rx.release();
        packets.len() - before
    }

    #[inline]
    fn transmit(&mut self, packets: &mut Vec<Packet>) -> usize {
        let room = if self.kernel.closed { 0 } else { self.tx.room() as usize };
        let count = packets.len().min(room);
        let layout = self.layout;
        let mut packets = packets.drain(..count);
        for slots in self.tx.put_slices(count) {
            for (slot, Packet { frame, offset, len }) in slots.iter_mut().zip(&mut packets) {
                let addr = layout.addr_of(self.ledger.lend(frame, Lent::Tx)).0 + u64::from(offset);
                *slot = Desc { addr, len };
            }
        }
        self.tx.submit();
        count
    }

    #[inline]
    fn complete(&mut self, frames: &mut Vec<Frame>) -> usize {
        let before = frames.len();
        let count = (frames.capacity() - before).min(self.completion.waiting() as usize);
        for addrs in self.completion.take_slices(count) {
            for addr in addrs {
                let Ok(frame) = self.ledger.settle(Lent::Tx, FrameAddr(*addr)) else { continue };
                frames.push(frame);
            }
        }
        self.completion.release();
        frames.len() - before
    }

    fn kick(&mut self) -> Kick {
        if self.tx.len() == 0 && !self.kernel.closed {
            return Kick::NotNeeded;
        }
        self.kernel.sendto(&mut self.tx, &mut self.completion, &self.memory)
    }

    #[inline]
    fn bytes<'a>(&'a self, packet: &'a Packet) -> &'a [u8] {
        &self.memory[self.span(packet)]
    }

    #[inline]
    fn bytes_mut<'a>(&'a mut self, packet: &'a mut Packet) -> &'a mut [u8] {
        let span = self.span(packet);
        &mut self.memory[span]
    }

    fn places(&mut self) -> PortPlaces {
        let rx = self.rx.len();
        let fill = self.fill.len();
        PortPlaces::from(Occupancy {
            rx,
            fill,
            completion: self.completion.len(),
            lent_fill: self.ledger.lent(Lent::Fill),
            lent_tx: self.ledger.lent(Lent::Tx),
            quarantined: self.ledger.quarantined(),
        })
    }

    fn refused(&self) -> RefusedCounts {
        self.ledger.refused()
    }

    fn close(&mut self) {
        self.kernel.close();
        self.fill.clear();
        self.rx.clear();
        self.tx.clear();
        self.completion.clear();
    }

    fn reclaim(&mut self, frames: &mut Vec<Frame>) -> u32 {
        assert!(self.kernel.closed, "the kernel still writes to these frames: close the port first");
        self.ledger.reclaim_all(|frame| frames.push(frame))
    }
}
