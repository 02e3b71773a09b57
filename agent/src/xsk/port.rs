//! [`XskPort`]: the four rings of one AF_XDP socket, traded in [`Frame`]s.

#![expect(
    unsafe_code,
    reason = "xsk-rs leaves to its caller what the ledger guarantees; each block says which"
)]

use std::{cell::Cell, mem, ops::Range, sync::Arc};

use datapath::{
    Arrivals, Assembly, Descriptor, FrameBytes, Glance, Kick, Occupancy, Packet, PacketSink, Passed,
    PortPlaces, QueuePort, Right, Verdict, WORTH_PASSING, packet::whole,
};
use frame_pool::{Frame, FrameAddr, FramePool, FrameRef, Ledger, Lent, RefusedCounts};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    io::Errno,
    net::{RecvFlags, SendFlags, sockopt, xdp},
};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, TxQueue};

use super::{FillWakeups, RingSizes, UmemFrames};
use crate::config::BindMode;

/// Most descriptors that one call moves.
const SCRATCH: usize = 64;

/// `XDP_PKT_CONTD` (linux/if_xdp.h): the packet goes on in the next descriptor.
const XDP_PKT_CONTD: u32 = 1;

/// The kernel's side of one queue.
///
/// # Invariants
///
/// A descriptor is on a ring of the kernel's only while `ledger` has its frame lent there. So whoever holds the
/// [`Frame`] is the only one, in user space or in the kernel, who touches that chunk.
pub(crate) struct XskPort {
    /// What one call hands to, or takes from, a ring. xsk-rs moves slices.
    scratch: [FrameDesc; SCRATCH],
    /// Which of them a short way took off a ring and left to the long one, that comes next. Empty between turns.
    left: Range<usize>,
    /// What a short way puts on another ring.
    onward: [FrameDesc; SCRATCH],
    ledger: Ledger,
    assembly: Assembly,
    /// `None` once closed.
    rings: Option<Rings>,
    frames: PortFrames, // last: libxdp unmaps the rings before the UMEM may go
}

/// The rings and the socket: what goes when the port is closed.
pub(super) struct Rings {
    pub(super) fill: FillQueue,
    pub(super) rx: RxQueue,
    pub(super) tx: TxQueue,
    pub(super) completion: CompQueue,
    pub(super) fd: OwnedFd,
    pub(super) sizes: RingSizes,
    pub(super) bind: BindMode,
    pub(super) wakeups: Arc<FillWakeups>,
    /// Frames that the kernel takes for one packet.
    pub(super) max_fragments: usize,
}

impl Rings {
    /// Frames on the TX ring that the kernel has not taken yet.
    fn tx_pending(&mut self) -> u32 {
        self.sizes.tx - self.tx.nb_free_exact()
    }
}

impl XskPort {
    /// The rings must be those of a socket that is bound to the UMEM of `frames`.
    pub(super) fn new(frames: Arc<UmemFrames>, rings: Rings) -> Self {
        Self {
            scratch: [FrameDesc::default(); SCRATCH],
            left: 0..0,
            onward: [FrameDesc::default(); SCRATCH],
            ledger: Ledger::new(frames.layout()),
            assembly: Assembly::default(),
            rings: Some(rings),
            frames: PortFrames(frames),
        }
    }

    /// The frames that this port moves, for a second port on them, or for who reads those that are held.
    pub(crate) fn frames(&self) -> &Arc<UmemFrames> {
        &self.frames.0
    }

    /// The socket, to poll it together with others; `None` once the port is closed.
    pub(crate) fn socket(&self) -> Option<BorrowedFd<'_>> {
        Some(self.rings.as_ref()?.fd.as_fd())
    }

    /// `XDP_STATISTICS`; `None` once the port is closed, or if the kernel does not answer.
    pub(crate) fn statistics(&self) -> Option<xdp::XdpStatistics> {
        sockopt::xdp_statistics(&self.rings.as_ref()?.fd).ok()
    }
}

/// The bytes of a port's frames.
pub(crate) struct PortFrames(Arc<UmemFrames>);

impl FrameBytes for PortFrames {
    #[inline]
    fn with<R: Right, T>(&self, packet: &Packet<R>, look: impl FnOnce(&[u8]) -> T) -> T {
        self.0.with_bytes(packet, look)
    }

    #[inline]
    fn with_mut<T>(&mut self, packet: &mut Packet, change: impl FnOnce(&mut [u8]) -> T) -> T {
        self.0.with_bytes_mut(packet, change)
    }

    #[inline]
    fn with_plain<T>(
        &mut self,
        frame: &mut Frame,
        packet: Descriptor,
        change: impl FnOnce(&mut [u8]) -> T,
    ) -> T {
        self.0.with_plain_bytes(frame, packet, change)
    }
}

impl QueuePort for XskPort {
    type Bytes = PortFrames;

    fn fill_room(&mut self) -> usize {
        self.rings.as_mut().map_or(0, |rings| rings.fill.nb_free_exact() as usize)
    }

    fn fill(&mut self, frames: &mut Vec<Frame>) -> usize {
        let Some(rings) = &mut self.rings else { return 0 };
        // `produce` takes all or nothing, so it is never given more than there is room for.
        let count = frames.len().min(rings.fill.nb_free_exact() as usize);
        let mut done = 0;
        while done < count {
            let batch = (count - done).min(SCRATCH);
            let descriptors = self.frames.0.descriptors();
            self.ledger.lend_tail(Lent::Fill, frames, &mut self.scratch[..batch], |slot, id| {
                // SAFETY: the right to each of these frames is in `frames` or already in the ledger, which gives
                // it to nobody until this call is over.
                *slot = unsafe { descriptors.of_id(id) };
            });
            // SAFETY:
            // - Ours: these describe frames of this socket's UMEM.
            // - Unaliased: each frame was given up to the ledger above; nobody else can name it.
            let produced = unsafe { rings.fill.produce(&self.scratch[..batch]) };
            debug_assert_eq!(produced, batch, "the room was checked, and this is the only producer");
            done += batch;
        }
        done
    }

    fn receive(&mut self, packets: &mut Vec<Packet>, max: usize, sink: &mut impl PacketSink) -> usize {
        let Some(rings) = &mut self.rings else { return 0 };
        if self.left.is_empty() {
            // SAFETY: the descriptors in `scratch` are overwritten by what the kernel gives back; none of them is
            // used for a frame until the ledger has settled it below.
            self.left = 0..unsafe { rings.rx.consume(&mut self.scratch[..max.min(SCRATCH)]) };
        }
        let mut arrivals = Arrivals::new(&mut self.ledger, &mut self.assembly, packets);
        // INVARIANT: the ledger found the address in this packet's frame.
        let note = |frames: &PortFrames, packet: &Packet, desc: &_| frames.0.descriptors().set(packet, desc);
        let entries = &self.scratch[mem::take(&mut self.left)];
        arrivals.settle(entries, describe, note, &mut self.frames, sink);
        arrivals.count()
    }

    fn pass(&mut self, max: usize, glance: &mut impl Glance) -> usize {
        let Some(rings) = &mut self.rings else { return 0 };
        debug_assert!(self.left.is_empty(), "the long way comes next");
        // SAFETY: as in `receive`.
        let count = unsafe { rings.rx.consume(&mut self.scratch[..max.min(SCRATCH)]) };
        if count < WORTH_PASSING {
            self.left = 0..count;
            return 0;
        }
        let room = count.min(rings.tx.nb_free_exact() as usize);
        let onward = Onward { tx: &mut rings.tx, slots: &mut self.onward[..room], sent: Cell::new(0) };
        let mut slots = onward.slots.iter_mut();
        let mut glance = Counted { glance, sent: &onward.sent };
        let entries = &self.scratch[..count];
        let (ledger, frames) = (&mut self.ledger, &mut self.frames);
        let passed = datapath::pass(
            ledger,
            &self.assembly,
            entries,
            &mut slots,
            describe_to_pass,
            frames,
            &mut glance,
        );
        // Not before: should a handler panic, nobody is to take what it left for something else.
        self.left = passed..count;
        passed
    }

    fn transmit<R: Right>(&mut self, packets: &mut Vec<Packet<R>>) -> usize {
        let Some(rings) = &mut self.rings else { return 0 };
        let count = whole(packets, rings.tx.nb_free_exact() as usize);
        let mut done = 0;
        while done < count {
            let batch = (count - done).min(SCRATCH);
            let descriptors = self.frames.0.descriptors();
            let lent = self.scratch.iter_mut().zip(packets.drain(..batch)).map(|(slot, packet)| {
                *slot = descriptors.of(packet.right());
                slot.set_options(u32::from(packet.has_more()) * XDP_PKT_CONTD);
                ((), packet.into_right())
            });
            R::lend_each(&mut self.ledger, lent, |(), _| {});
            // SAFETY: as in `fill`; or the frame is shared, and sending only reads it as the others do.
            let produced = unsafe { rings.tx.produce(&self.scratch[..batch]) };
            debug_assert_eq!(produced, batch, "the room was checked, and this is the only producer");
            done += batch;
        }
        done
    }

    fn complete<R: Right>(&mut self, rights: &mut Vec<R>) -> usize {
        let Some(rings) = &mut self.rings else { return 0 };
        let before = rights.len();
        loop {
            let room = (rights.capacity() - rights.len()).min(SCRATCH);
            let is_left = !self.left.is_empty();
            if !is_left {
                // SAFETY: as in `receive`.
                self.left = 0..unsafe { rings.completion.consume(&mut self.scratch[..room]) };
            }
            let start = self.left.start;
            self.left.start = self.left.end.min(start + room);
            R::settle_all(&mut self.ledger, &self.scratch[start..self.left.start], addr_of, rights);
            // Behind what was left the ring was not looked at; where it had less than there was room for, it is empty.
            if room == 0 || !is_left && self.left.end < room {
                return rights.len() - before;
            }
        }
    }

    fn turn_over(&mut self, pool: &mut FramePool, max: usize) -> usize {
        let max = max.min(SCRATCH);
        let Some(rings) = self.rings.as_mut().filter(|_| max > 0) else { return 0 };
        // SAFETY: as in `receive`.
        let count = unsafe { rings.completion.consume(&mut self.scratch[..max]) };
        let (descriptors, slots) = (self.frames.0.descriptors(), &mut self.onward[..max]);
        let turned = pool.turn_over(&mut self.ledger, &self.scratch[..count], addr_of, slots, |slot, id| {
            // SAFETY: the ledger has the frame, and gives it to nobody until this call is over.
            *slot = unsafe { descriptors.of_id(id) };
        });
        // SAFETY: as in `fill`.
        let produced = unsafe { rings.fill.produce(&self.onward[..turned]) };
        debug_assert_eq!(produced, turned, "the caller knew of the room, and this is the only producer");
        self.left = turned..count;
        if self.ledger.lent(Lent::Tx) == 0 {
            // Nobody asks for completions when none is due: if there are more, they are lies, and refused here.
            for desc in &self.scratch[mem::take(&mut self.left)] {
                let refused = self.ledger.settle_any(Lent::Tx, addr_of(desc));
                debug_assert!(refused.is_err(), "nothing is lent");
            }
        }
        turned
    }

    fn max_fragments(&self) -> usize {
        self.rings.as_ref().map_or(0, |rings| rings.max_fragments.min(rings.sizes.most_fragments() as usize))
    }

    fn blank(&mut self, frame: Frame, len: usize) -> Packet {
        // Where the data lie stays as it was: behind the headroom, or where a packet was received.
        let descriptors = self.frames.0.descriptors();
        descriptors.set_len(&frame, len.min(self.blank_len()) as u32);
        let descriptor = descriptors.of(&frame);
        let addr = FrameAddr(descriptor.addr() as u64);
        let descriptor = Descriptor::new(addr, descriptor.lengths().data() as u32, false);
        Packet::received(frame, self.frames.0.layout(), descriptor)
    }

    fn blank_len(&self) -> usize {
        self.frames.0.blank_len()
    }

    /// Asks the kernel to send what is on the TX ring, and to refill if it says that it waits for it.
    ///
    /// An own `sendto`: xsk-rs's wakeup keeps to itself whether the kernel wants to be woken again or the
    /// interface is down.
    fn kick(&mut self) -> Kick {
        let Some(rings) = &mut self.rings else { return Kick::Down };
        if rings.fill.needs_wakeup() {
            // The answer says nothing that the rings do not: a frame arrives, or the next turn asks again.
            let answer = rustix::net::recv(&rings.fd, &mut [0_u8; 0], RecvFlags::DONTWAIT);
            rings.wakeups.count(answer.is_ok());
        }
        if self.ledger.lent(Lent::Tx) == 0 {
            return Kick::NotNeeded;
        }
        let pending = rings.tx_pending();
        if pending == 0 || !rings.tx.needs_wakeup() {
            return Kick::NotNeeded;
        }
        let answer = rustix::net::send(&rings.fd, &[], SendFlags::DONTWAIT);
        kick_of(answer.err(), rings.tx_pending() < pending, rings.bind)
    }

    #[inline]
    fn bytes(&self) -> &PortFrames {
        &self.frames
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut PortFrames {
        &mut self.frames
    }

    #[inline]
    fn lent(&self, lent: Lent) -> u32 {
        self.ledger.lent(lent)
    }

    fn unsent(&mut self) -> u32 {
        self.rings.as_mut().map_or(0, Rings::tx_pending)
    }

    fn places(&mut self) -> PortPlaces {
        let mut seen = Occupancy::of(&self.ledger);
        if let Some(rings) = &mut self.rings {
            seen.rx = rings.rx.nb_avail_exact();
            seen.fill = rings.sizes.fill - rings.fill.nb_free_exact();
            seen.completion = rings.completion.nb_avail_exact();
        }
        seen.into()
    }

    fn refused(&self) -> RefusedCounts {
        self.ledger.refused()
    }

    fn close(&mut self) {
        self.rings = None;
    }

    fn reclaim(&mut self, frames: &mut Vec<Frame>, references: &mut Vec<FrameRef>) -> u32 {
        debug_assert!(self.rings.is_none(), "the kernel still holds what is to be reclaimed");
        self.ledger.reclaim_all(|frame| frames.push(frame))
            + self.ledger.reclaim_refs(|reference| references.push(reference))
    }
}

/// What an entry of the RX ring says.
#[inline]
fn describe(desc: &FrameDesc) -> Descriptor {
    let len = desc.lengths().data() as u32;
    Descriptor::new(addr_of(desc), len, desc.has_more_frames())
}

/// The same for one that goes on as it is: whatever option it has, the short way is not for it, as a descriptor with an
/// option that the kernel does not take would be a frame that it may keep (`xskq_cons_is_valid_desc`).
#[inline]
fn describe_to_pass(desc: &FrameDesc) -> Descriptor {
    Descriptor::new(addr_of(desc), desc.lengths().data() as u32, desc.options() != 0)
}

#[inline]
fn addr_of(desc: &FrameDesc) -> FrameAddr {
    FrameAddr(desc.addr() as u64)
}

/// Puts the packets that were [passed](QueuePort::pass) on the TX ring in the end, also if a handler panics: the ledger
/// has lent them.
struct Onward<'a> {
    tx: &'a mut TxQueue,
    slots: &'a mut [FrameDesc],
    sent: Cell<usize>,
}

impl Drop for Onward<'_> {
    fn drop(&mut self) {
        // SAFETY: as in `transmit`; the ledger lent each to TX before its slot was written.
        let produced = unsafe { self.tx.produce(&self.slots[..self.sent.get()]) };
        debug_assert_eq!(produced, self.sent.get(), "there are as many slots as there is room");
    }
}

/// Hears how many slots were written.
struct Counted<'a, G> {
    glance: &'a mut G,
    sent: &'a Cell<usize>,
}

impl<G: Glance> Glance for Counted<'_, G> {
    #[inline]
    fn glance(
        &mut self,
        frame: &mut Frame,
        packet: Descriptor,
        bytes: &mut impl FrameBytes,
    ) -> Option<Verdict> {
        self.glance.glance(frame, packet, bytes)
    }

    #[inline]
    fn look(&mut self, frame: &mut Frame, packet: Descriptor, bytes: &mut impl FrameBytes) -> Verdict {
        self.glance.look(frame, packet, bytes)
    }

    #[inline]
    fn home(&mut self) -> &mut Vec<Frame> {
        self.glance.home()
    }

    #[inline]
    fn passed(&mut self, passed: Passed) {
        self.sent.set(self.sent.get() + passed.sent as usize);
        self.glance.passed(passed);
    }
}

/// What it means that `sendto()` gave this error or none, and whether frames left the TX ring meanwhile.
fn kick_of(error: Option<Errno>, any_left: bool, bind: BindMode) -> Kick {
    match error {
        // In copy mode the call itself sends; one that does nothing is of a queue that the interface does not send on
        // (`queue_id >= real_num_tx_queues`). A NIC in zero-copy mode sends later.
        None if !any_left && bind == BindMode::Copy => Kick::Busy,
        None => Kick::Done,
        Some(Errno::AGAIN | Errno::BUSY | Errno::NOBUFS | Errno::NOMEM) if any_left => Kick::Again,
        Some(Errno::AGAIN | Errno::BUSY | Errno::NOBUFS | Errno::NOMEM) => Kick::Busy,
        Some(Errno::NETDOWN | Errno::NXIO) => Kick::Down,
        Some(_) => Kick::Failed,
    }
}

#[cfg(test)]
mod tests {
    use frame_pool::FrameLayout;

    use super::*;

    #[test]
    fn what_passes_is_told_apart_from_what_is_down_and_what_is_wrong() {
        for bind in [BindMode::Copy, BindMode::ZeroCopy] {
            for passing in [Errno::AGAIN, Errno::BUSY, Errno::NOBUFS, Errno::NOMEM] {
                assert_eq!(kick_of(Some(passing), true, bind), Kick::Again, "{passing}");
                assert_eq!(kick_of(Some(passing), false, bind), Kick::Busy, "{passing}");
            }
            for down in [Errno::NETDOWN, Errno::NXIO] {
                assert_eq!(kick_of(Some(down), false, bind), Kick::Down, "{down}");
            }
            assert_eq!(kick_of(Some(Errno::INVAL), false, bind), Kick::Failed);
            assert_eq!(kick_of(None, true, bind), Kick::Done);
        }
    }

    #[test]
    fn what_has_any_option_is_not_sent_as_it_came() {
        let layout = FrameLayout::new(2048, 4).unwrap();
        let mut desc = FrameDesc::default();
        assert!(describe_to_pass(&desc).is_plain(layout));
        for (options, more) in [(XDP_PKT_CONTD, true), (2, false), (XDP_PKT_CONTD | 2, true)] {
            desc.set_options(options);
            assert!(!describe_to_pass(&desc).is_plain(layout), "{options}");
            assert_eq!(describe(&desc).has_more(), more, "{options}");
        }
    }

    #[test]
    fn a_call_that_does_nothing_is_not_done_unless_the_nic_sends_later() {
        assert_eq!(kick_of(None, false, BindMode::Copy), Kick::Busy);
        assert_eq!(kick_of(None, false, BindMode::ZeroCopy), Kick::Done);
    }
}
