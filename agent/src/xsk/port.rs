//! [`XskPort`]: the four rings of one AF_XDP socket, traded in [`Frame`]s.

#![expect(
    unsafe_code,
    reason = "xsk-rs leaves to its caller what the ledger guarantees; each block says which"
)]

use std::{io, slice, time::Duration};

use datapath::port::{Kick, Occupancy, Packet, PortPlaces, QueuePort};
use frame_pool::{Frame, FrameAddr, FrameLayout, Ledger, Lent, RefusedCounts};
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    fd::{AsFd, BorrowedFd, OwnedFd},
    io::Errno,
    net::{RecvFlags, SendFlags, sockopt, xdp},
};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, TxQueue, Umem};

use super::RingSizes;

/// Most descriptors that one call moves.
const SCRATCH: usize = 64;

/// The kernel's side of one queue.
///
/// # Invariants
///
/// - `descriptors[i]` describes frame `i` of `umem`: its address lies in chunk `i`, its length inside the chunk.
/// - A descriptor is on a ring of the kernel's only while `ledger` has its frame lent there. So whoever holds
///   the [`Frame`] is the only one, in user space or in the kernel, who touches that chunk.
pub struct XskPort {
    descriptors: Vec<FrameDesc>,
    /// What one call hands to, or takes from, a ring. xsk-rs moves slices.
    scratch: [FrameDesc; SCRATCH],
    ledger: Ledger,
    layout: FrameLayout,
    /// `None` once closed.
    rings: Option<Rings>,
    umem: Umem, // last: libxdp unmaps the rings before the UMEM may go
}

/// The rings and the socket: what goes when the port is closed.
pub(super) struct Rings {
    fill: FillQueue,
    rx: RxQueue,
    tx: TxQueue,
    completion: CompQueue,
    fd: OwnedFd,
    sizes: RingSizes,
}

impl Rings {
    pub(super) fn new(
        fill: FillQueue,
        rx: RxQueue,
        tx: TxQueue,
        completion: CompQueue,
        fd: OwnedFd,
        sizes: RingSizes,
    ) -> Self {
        Self { fill, rx, tx, completion, fd, sizes }
    }

    /// Frames on the TX ring that the kernel has not taken yet.
    fn tx_pending(&mut self) -> u32 {
        self.sizes.tx - self.tx.nb_free_exact()
    }
}

impl XskPort {
    /// INVARIANT: `descriptors` is what [`Umem::new`] returned for a UMEM of `layout`: one per chunk, in order.
    pub(super) fn new(umem: Umem, descriptors: Vec<FrameDesc>, layout: FrameLayout, rings: Rings) -> Self {
        Self {
            descriptors,
            scratch: [FrameDesc::default(); SCRATCH],
            ledger: Ledger::new(layout),
            layout,
            rings: Some(rings),
            umem,
        }
    }

    /// Sleeps until a frame arrives, `wake` becomes readable, or the time is up. In copy mode the kernel also
    /// sends what is on the TX ring (`xsk_poll`).
    pub fn wait(&self, wake: BorrowedFd<'_>, timeout: Duration) -> io::Result<()> {
        let Some(rings) = &self.rings else { return Ok(()) };
        let mut fds = [
            PollFd::from_borrowed_fd(rings.fd.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(wake, PollFlags::IN),
        ];
        let timeout = Timespec { tv_sec: timeout.as_secs() as _, tv_nsec: timeout.subsec_nanos().into() };
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// `XDP_STATISTICS`; `None` once the port is closed, or if the kernel does not answer.
    pub fn statistics(&self) -> Option<xdp::XdpStatistics> {
        sockopt::xdp_statistics(&self.rings.as_ref()?.fd).ok()
    }
}

impl QueuePort for XskPort {
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
            let first = frames.len() - batch;
            for (slot, frame) in self.scratch.iter_mut().zip(frames.drain(first..)) {
                *slot = self.descriptors[self.ledger.lend(frame, Lent::Fill).index()];
            }
            // SAFETY:
            // - Ours: by the first invariant these describe frames of this socket's UMEM.
            // - Unaliased: each frame was given up to the ledger one line above; nobody else can name it.
            let produced = unsafe { rings.fill.produce(&self.scratch[..batch]) };
            debug_assert_eq!(produced, batch, "the room was checked, and this is the only producer");
            done += batch;
        }
        done
    }

    fn receive(&mut self, packets: &mut Vec<Packet>) -> usize {
        let Some(rings) = &mut self.rings else { return 0 };
        let room = (packets.capacity() - packets.len()).min(SCRATCH);
        // SAFETY: the descriptors in `scratch` are overwritten by what the kernel gives back; none of them is
        // used for a frame until the ledger has settled it below.
        let count = unsafe { rings.rx.consume(&mut self.scratch[..room]) };
        let before = packets.len();
        for descriptor in &self.scratch[..count] {
            let addr = FrameAddr(descriptor.addr() as u64);
            // What the ledger did not lend to the fill ring it counts and quarantines; there is no frame then.
            if let Ok(frame) = self.ledger.settle(Lent::Fill, addr) {
                // INVARIANT: the ledger found the address in this frame's chunk. A length beyond the chunk's end
                // would be a kernel's that overran it; it is cut here, and by xsk-rs when bytes are asked for.
                self.descriptors[frame.id().index()] = *descriptor;
                let offset = (addr.0 & u64::from(self.layout.chunk_size() - 1)) as u32;
                let len = (descriptor.lengths().data() as u32).min(self.layout.chunk_size() - offset);
                packets.push(Packet { frame, offset, len });
            }
        }
        packets.len() - before
    }

    fn transmit(&mut self, packets: &mut Vec<Packet>) -> usize {
        let Some(rings) = &mut self.rings else { return 0 };
        let count = packets.len().min(rings.tx.nb_free_exact() as usize);
        let mut done = 0;
        while done < count {
            let batch = (count - done).min(SCRATCH);
            for (slot, packet) in self.scratch.iter_mut().zip(packets.drain(..batch)) {
                *slot = self.descriptors[self.ledger.lend(packet.frame, Lent::Tx).index()];
            }
            // SAFETY: as in `fill`.
            let produced = unsafe { rings.tx.produce(&self.scratch[..batch]) };
            debug_assert_eq!(produced, batch, "the room was checked, and this is the only producer");
            done += batch;
        }
        done
    }

    fn complete(&mut self, frames: &mut Vec<Frame>) -> usize {
        let Some(rings) = &mut self.rings else { return 0 };
        let room = (frames.capacity() - frames.len()).min(SCRATCH);
        // SAFETY: as in `receive`.
        let count = unsafe { rings.completion.consume(&mut self.scratch[..room]) };
        let before = frames.len();
        for descriptor in &self.scratch[..count] {
            if let Ok(frame) = self.ledger.settle(Lent::Tx, FrameAddr(descriptor.addr() as u64)) {
                frames.push(frame);
            }
        }
        frames.len() - before
    }

    /// Asks the kernel to send what is on the TX ring, and to refill if it says that it waits for it.
    ///
    /// An own `sendto`: xsk-rs's wakeup keeps to itself whether the kernel wants to be woken again or the
    /// interface is down.
    fn kick(&mut self) -> Kick {
        let Some(rings) = &mut self.rings else { return Kick::Down };
        if rings.fill.needs_wakeup() {
            // The answer says nothing that the rings do not: a frame arrives, or the next turn asks again.
            let _ = rustix::net::recv(&rings.fd, &mut [0_u8; 0], RecvFlags::DONTWAIT);
        }
        if rings.tx_pending() == 0 || !rings.tx.needs_wakeup() {
            return Kick::NotNeeded;
        }
        match rustix::net::send(&rings.fd, &[], SendFlags::DONTWAIT) {
            Ok(_) => Kick::Done,
            Err(Errno::AGAIN | Errno::BUSY | Errno::NOBUFS) => Kick::Again,
            Err(_) => Kick::Down,
        }
    }

    fn bytes<'a>(&'a self, packet: &'a Packet) -> &'a [u8] {
        // SAFETY:
        // - In bounds: by the first invariant.
        // - Not written meanwhile: `packet` holds the frame, and is borrowed as long as the bytes are.
        let data = unsafe { self.umem.data(&self.descriptors[packet.frame.id().index()]) };
        data.contents()
    }

    fn bytes_mut<'a>(&'a mut self, packet: &'a mut Packet) -> &'a mut [u8] {
        let (start, length) = {
            let descriptor = &mut self.descriptors[packet.frame.id().index()];
            // SAFETY: as for the slice below, which outlives this borrow.
            let mut data = unsafe { self.umem.data_mut(descriptor) };
            let bytes = data.contents_mut();
            (bytes.as_mut_ptr(), bytes.len())
        };
        // SAFETY:
        // - In bounds: xsk-rs gave this pointer and length a moment ago, and the UMEM lives as long as `self`.
        //   (Its own guard cannot be returned: it borrows from a local.)
        // - Unaliased: `packet` holds the frame, and is borrowed mutably as long as the bytes are.
        unsafe { slice::from_raw_parts_mut(start, length) }
    }

    fn places(&mut self) -> PortPlaces {
        let mut seen = Occupancy {
            lent_fill: self.ledger.lent(Lent::Fill),
            lent_tx: self.ledger.lent(Lent::Tx),
            quarantined: self.ledger.quarantined(),
            ..Occupancy::default()
        };
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

    fn reclaim(&mut self, frames: &mut Vec<Frame>) -> u32 {
        debug_assert!(self.rings.is_none(), "the kernel still holds what is to be reclaimed");
        self.ledger.reclaim_all(|frame| frames.push(frame))
    }
}
