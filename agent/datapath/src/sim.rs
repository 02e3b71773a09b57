//! The kernel's side of a queue, in memory and seeded.
//!
//! [`SimPort`] is a [`QueuePort`] whose other end is a model of `net/xdp/xsk.c` in copy mode, with the
//! corners that a worker must live with:
//!
//! | when | the model does |
//! | --- | --- |
//! | the fill ring is empty | drops the packet: `rx_dropped`, `rx_fill_ring_empty_descs` |
//! | the RX ring is full | drops the packet, keeps its frame on a free list and uses it first next time |
//! | a packet is longer than a frame | drops it: `rx_dropped`; with multi-buffer, uses several or none |
//! | a packet to be sent is in several frames | sends it with the last one; one bad one spoils them all |
//! | a fill address lies outside the UMEM | swallows the entry and tells nobody |
//! | a NAPI poll delivers a burst | shows it at the end only, RX ring first, fill ring later |
//! | it is kicked | sends 32 packets and wants to be kicked again |
//! | the completion ring is full, the device busy | sends nothing and wants to be kicked again |
//! | a queue discipline drops | completes the frame all the same, and wants to be kicked again |
//! | a TX descriptor is bad | counts it; completes it on a new kernel, never on an old one |
//! | packets were sent | completes them later, in any order |
//! | the interface has no such queue to send on | sends nothing, and does not say so |
//! | the interface is down | refuses to be kicked |
//! | the interface is gone | the same for ever; completes what was sent, and gives back nothing that is on a ring |
//! | the socket closes | completes nothing; the frames on its rings are gone |
//!
//! What the model does of its own accord happens in [`SimPort::step`], by its seed. [`Faulty`] is
//! middleware that makes any port worse, and lets this one lie.

mod faulty;
mod kernel;
mod random;
mod umem;

use frame_pool::{Frame, FrameAddr, FrameLayout, FramePool, FrameRef, Ledger, Lent, RefusedCounts};

pub use self::faulty::{Faulty, Lie, Rates, Tamper};
pub use self::kernel::XdpStatistics;
pub use self::random::Random;
pub use self::umem::SimUmem;

use self::kernel::Kernel;
use crate::arrivals::{Arrivals, Assembly, WORTH_PASSING, pass};
use crate::descriptor::Descriptor;
use crate::packet::{MAX_FRAGMENTS, Packet, whole};
use crate::port::{Glance, Kick, Occupancy, PacketSink, PortPlaces, QueuePort};
use crate::right::Right;
use crate::ring::Ring;

/// `XDP_PACKET_HEADROOM`: what the kernel leaves free before a received packet.
const XDP_PACKET_HEADROOM: u32 = 256;

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
    /// `XDP_USE_SG`: packets may have several frames.
    pub multi_buffer: bool,
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
            multi_buffer: false,
            old_kernel: false,
        }
    }
}

/// A queue whose kernel is a model. See the [module](self) for what it models.
#[derive(Debug)]
pub struct SimPort {
    layout: FrameLayout,
    umem: SimUmem,
    ledger: Ledger,
    assembly: Assembly,
    fill: Ring<u64>,
    rx: Ring<Descriptor>,
    tx: Ring<Descriptor>,
    completion: Ring<u64>,
    kernel: Kernel,
}

impl SimPort {
    /// A queue that is up, with empty rings and a UMEM of zeros.
    pub fn new(layout: FrameLayout, config: SimConfig) -> Self {
        Self::on(&SimUmem::new(layout), config)
    }

    /// One of several queues with the same UMEM (`XDP_SHARED_UMEM`).
    pub fn on(umem: &SimUmem, config: SimConfig) -> Self {
        let layout = umem.layout();
        SimPort {
            layout,
            umem: umem.clone(),
            ledger: Ledger::new(layout),
            assembly: Assembly::default(),
            fill: Ring::new(config.fill_ring),
            rx: Ring::new(config.rx_ring),
            tx: Ring::new(config.tx_ring),
            completion: Ring::new(config.completion_ring),
            kernel: Kernel::new(config, layout),
        }
    }
}

impl QueuePort for SimPort {
    type Bytes = SimUmem;

    fn fill_room(&mut self) -> usize {
        if self.kernel.closed { 0 } else { self.fill.room() as usize }
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

    fn receive(&mut self, packets: &mut Vec<Packet>, max: usize, sink: &mut impl PacketSink) -> usize {
        let count = max.min(self.rx.waiting() as usize);
        let mut arrivals = Arrivals::new(&mut self.ledger, &mut self.assembly, packets);
        for descriptors in self.rx.take_slices(count) {
            arrivals.settle(descriptors, |descriptor| *descriptor, |_, _, _| {}, &mut self.umem, sink);
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
                &mut self.umem,
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
        let room = if self.kernel.closed { 0 } else { self.tx.room() as usize };
        let count = whole(packets, room);
        let layout = self.layout;
        let mut packets = packets.drain(..count).map(Packet::into_parts);
        for slots in self.tx.put_slices(count) {
            let lent = slots.iter_mut().zip(&mut packets).map(|(slot, (part, right))| ((slot, part), right));
            R::lend_each(&mut self.ledger, lent, |(slot, part), id| {
                *slot = part.in_frame(layout.addr_of(id))
            });
        }
        drop(packets);
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
        let start = self.kernel.rx_start();
        let len = len.min(self.blank_len()) as u32;
        Packet::received(frame, self.layout, Descriptor::new(FrameAddr(u64::from(start)), len, false))
    }

    fn blank_len(&self) -> usize {
        (self.layout.chunk_size() - self.kernel.rx_start()) as usize
    }

    fn kick(&mut self) -> Kick {
        if self.tx.len() == 0 && !self.kernel.closed {
            return Kick::NotNeeded;
        }
        let before = self.tx.len();
        match self.kernel.sendto(&mut self.tx, &mut self.completion, &self.umem) {
            Kick::Again | Kick::Done if self.tx.len() == before => Kick::Busy,
            kick => kick,
        }
    }

    #[inline]
    fn bytes(&self) -> &SimUmem {
        &self.umem
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut SimUmem {
        &mut self.umem
    }

    #[inline]
    fn lent(&self, lent: Lent) -> u32 {
        self.ledger.lent(lent)
    }

    fn places(&mut self) -> PortPlaces {
        let rx = self.rx.len();
        let fill = self.fill.len();
        PortPlaces::from(Occupancy {
            rx,
            fill,
            completion: self.completion.len(),
            ..Occupancy::of(&self.ledger)
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

    fn reclaim(&mut self, frames: &mut Vec<Frame>, references: &mut Vec<FrameRef>) -> u32 {
        assert!(self.kernel.closed, "the kernel still writes to these frames: close the port first");
        self.ledger.reclaim_all(|frame| frames.push(frame))
            + self.ledger.reclaim_refs(|reference| references.push(reference))
    }
}
