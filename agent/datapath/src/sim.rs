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
//! | the program redirects to another queue's socket | drops the packet, and no counter says so |
//! | the program finds no socket in its slot | gives the packet to the stack |
//! | a frame is on the fill ring twice | lets two packets overwrite each other, and tells of both |
//! | the interface is down | refuses to be kicked; nothing else happens to what it has |
//! | the interface is gone | the same for ever; completes what was sent, and gives back nothing that is on a ring |
//! | the socket closes, or its process dies | completes nothing; the frames on its rings are gone; the stack gets what arrives |
//! | of several sockets with one UMEM the first one closes | nothing to the others |
//!
//! Left out is what happens when a socket is made, for that is no call of a port: the queue is busy for a while after
//! another one was closed on it, as long as packets of that one wait in a device. Who makes sockets has tests of its own
//! for that, and the end-to-end tests have the kernel. Zero-copy is left out too: this is copy mode.
//!
//! What the model does of its own accord happens in [`SimPort::step`], by its seed. [`Faulty`] is
//! middleware that makes any port worse, and lets this one lie.

mod faulty;
mod kernel;
mod random;
mod umem;

use frame_pool::{Frame, FrameLayout, FramePool, FrameRef, Lent, RefusedCounts};

pub use self::faulty::{Faulty, Lie, Rates, Tamper};
pub use self::kernel::{Redirect, XdpStatistics};
pub use self::random::Random;
pub use self::umem::SimUmem;

use self::kernel::Kernel;
use crate::packet::Packet;
use crate::port::{Glance, Kick, PacketSink, PortPlaces, QueuePort};
use crate::right::Right;
use crate::rings::{Rings, Slots};

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
    umem: SimUmem,
    rings: Rings,
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
        let slots = Slots {
            fill: config.fill_ring,
            rx: config.rx_ring,
            tx: config.tx_ring,
            completion: config.completion_ring,
        };
        SimPort { umem: umem.clone(), rings: Rings::new(layout, slots), kernel: Kernel::new(config, layout) }
    }
}

impl QueuePort for SimPort {
    type Bytes = SimUmem;

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
        self.rings.receive(&mut self.umem, packets, max, sink)
    }

    fn pass(&mut self, max: usize, glance: &mut impl Glance) -> usize {
        self.rings.pass(&mut self.umem, max, glance)
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
        self.rings.blank(frame, self.kernel.rx_start(), len)
    }

    fn blank_len(&self) -> usize {
        self.rings.blank_len(self.kernel.rx_start())
    }

    fn kick(&mut self) -> Kick {
        if self.rings.is_closed() {
            return Kick::Down;
        }
        let Rings { tx, completion, .. } = &mut self.rings;
        let before = tx.len();
        if before == 0 {
            return Kick::NotNeeded;
        }
        match self.kernel.sendto(tx, completion, &self.umem) {
            Kick::Again | Kick::Done if tx.len() == before => Kick::Busy,
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
        self.kernel.close();
        self.rings.close();
    }

    fn reclaim(&mut self, frames: &mut Vec<Frame>, references: &mut Vec<FrameRef>) -> u32 {
        assert!(self.rings.is_closed(), "the kernel still writes to these frames: close the port first");
        self.rings.reclaim(frames, references)
    }
}
