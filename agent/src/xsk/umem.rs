//! [`UmemFrames`]: the memory of one UMEM, and where in each of its frames the data lie.

#![expect(
    unsafe_code,
    reason = "xsk-rs leaves to its caller who may touch a frame; a right to the frame is asked for here"
)]

use std::{cell::UnsafeCell, fmt, io, ptr, slice};

use datapath::{Captured, Descriptor, HeldBytes, Packet, Right};
use frame_pool::{Frame, FrameAddr, FrameId, FrameLayout};
use xsk_rs::{FrameDesc, Umem};

/// A UMEM, shared by the ports whose sockets are bound to it, and by who reads frames that are held.
///
/// # Invariants
///
/// - `descriptors[i]` describes frame `i` of `umem`: its address lies in chunk `i`, its length inside the chunk.
/// - Entry and bytes of a frame are written only by who holds the [`Frame`], which is the sole right to it, and
///   read only by who holds that or, while there is none, one of the references that it was shared into.
pub(crate) struct UmemFrames {
    descriptors: Box<[UnsafeCell<FrameDesc>]>,
    layout: FrameLayout,
    /// The first byte of frame 0; `umem` keeps it mapped, and all that come behind it.
    start: *mut u8,
    /// Bytes behind a new descriptor's address, to the end of its chunk.
    blank_len: usize,
    umem: Umem,
}

// SAFETY: by the second invariant neither an entry nor a byte is ever written while another thread looks at it. The right to a
// frame travels between threads through the pool's ring or through a channel, which order what was done by it.
// `Umem` is `Send` and `Sync` by itself.
unsafe impl Send for UmemFrames {}
// SAFETY: as above.
unsafe impl Sync for UmemFrames {}

impl UmemFrames {
    /// Takes what [`Umem::new`] returned for a UMEM of `layout`: one descriptor per chunk, in order.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if it is something else.
    pub(crate) fn new(umem: Umem, descriptors: Vec<FrameDesc>, layout: FrameLayout) -> io::Result<Self> {
        let shift = layout.chunk_size().trailing_zeros();
        let in_order = descriptors.iter().enumerate().all(|(index, d)| d.addr() >> shift == index);
        if descriptors.len() != layout.chunk_count() as usize || !in_order {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the UMEM's frames are not of this layout",
            ));
        }
        // INVARIANT: checked above, and a new descriptor's length is 0.
        let headroom = descriptors.first().map_or(0, |first| first.addr());
        let blank_len = (layout.chunk_size() as usize).saturating_sub(headroom);
        // C was given the pointer to the whole mapping (`xsk_umem__create`), so that its provenance is exposed.
        let start = descriptors.first().map_or(0, |first| {
            // SAFETY: it describes frame 0 of this UMEM, and no byte of it.
            unsafe { umem.data(first) }.contents().as_ptr().addr() - headroom
        });
        let start = ptr::with_exposed_provenance_mut(start);
        let descriptors = descriptors.into_iter().map(UnsafeCell::new).collect();
        Ok(Self { descriptors, layout, start, blank_len, umem })
    }

    /// How the UMEM is cut into frames.
    pub(crate) fn layout(&self) -> FrameLayout {
        self.layout
    }

    /// Where its first frame lies.
    pub(crate) fn address(&self) -> usize {
        self.start.addr()
    }

    /// The UMEM, to bind sockets to.
    pub(crate) fn umem(&self) -> &Umem {
        &self.umem
    }

    /// How many bytes a frame has for a packet that begins in it.
    pub(super) fn blank_len(&self) -> usize {
        self.blank_len
    }

    /// The frames' descriptors.
    #[inline]
    pub(super) fn descriptors(&self) -> Descriptors<'_> {
        Descriptors { umem: self, table: &self.descriptors }
    }

    /// Where the bytes of part of a frame are; none, if the frame is not of this UMEM or has not as many, which cannot
    /// be.
    #[inline]
    fn place(&self, id: FrameId, offset: u32, len: u32) -> (*mut u8, usize) {
        let end = u64::from(offset) + u64::from(len);
        if end > u64::from(self.layout.chunk_size()) || id.index() >= self.layout.chunk_count() as usize {
            return (ptr::dangling_mut(), 0);
        }
        let FrameAddr(start) = self.layout.addr_of(id);
        // Does not leave the mapping: checked just now.
        (self.start.wrapping_add(start as usize + offset as usize), len as usize)
    }

    /// Looks at a packet's bytes.
    #[inline]
    pub(super) fn with_bytes<R: Right, T>(&self, packet: &Packet<R>, look: impl FnOnce(&[u8]) -> T) -> T {
        let (start, len) = self.place(packet.id(), packet.offset(), packet.len());
        // SAFETY:
        // - In bounds of the frame: `place` sees to it.
        // - Not written meanwhile: `packet` holds a right to the frame, and is borrowed all the time.
        look(unsafe { slice::from_raw_parts(start, len) })
    }

    /// Changes a packet's bytes.
    #[inline]
    pub(super) fn with_bytes_mut<T>(&self, packet: &mut Packet, change: impl FnOnce(&mut [u8]) -> T) -> T {
        let (start, len) = self.place(packet.id(), packet.offset(), packet.len());
        // SAFETY:
        // - In bounds of the frame: `place` sees to it.
        // - Unaliased: `packet` holds the sole right to the frame, and is borrowed mutably all the time.
        change(unsafe { slice::from_raw_parts_mut(start, len) })
    }

    /// Changes the bytes of a packet in one frame, before it is one.
    #[inline]
    pub(super) fn with_plain_bytes<T>(
        &self,
        frame: &mut Frame,
        packet: Descriptor,
        change: impl FnOnce(&mut [u8]) -> T,
    ) -> T {
        let (start, len) = self.place(frame.id(), self.layout.offset_of(packet.addr()), packet.len());
        // SAFETY:
        // - In bounds of the frame: `place` sees to it.
        // - Unaliased: `frame` is the sole right to it, and is borrowed mutably all the time.
        change(unsafe { slice::from_raw_parts_mut(start, len) })
    }
}

/// The descriptors of all frames. A loop over packets that has these need not look up for each where they are.
#[derive(Clone, Copy)]
pub(super) struct Descriptors<'a> {
    umem: &'a UmemFrames,
    table: &'a [UnsafeCell<FrameDesc>],
}

impl Descriptors<'_> {
    /// A copy of the descriptor of a frame that the caller has a right to.
    #[inline]
    pub(super) fn of(self, right: &impl Right) -> FrameDesc {
        // SAFETY: `right` is borrowed, so nobody else has the sole right.
        unsafe { self.of_id(right.id()) }
    }

    /// A copy of a frame's descriptor.
    ///
    /// # Safety
    ///
    /// Nobody else has the sole right to the frame meanwhile.
    #[inline]
    pub(super) unsafe fn of_id(self, id: FrameId) -> FrameDesc {
        // SAFETY: by the second invariant nobody writes.
        unsafe { *self.table[id.index()].get() }
    }

    /// Notes what an RX ring said of a packet whose frame the ledger has recognised.
    #[inline]
    pub(super) fn set(self, packet: &Packet, descriptor: &FrameDesc) {
        let said = descriptor.lengths().data() as u32;
        let entry = self.table[packet.id().index()].get();
        // SAFETY: `packet` has the sole right to the frame, so by the second invariant this is the only one who
        // looks at the entry.
        unsafe { *entry = *descriptor };
        if said != packet.len() {
            // INVARIANT: the packet was cut at the chunk's end; a kernel that says more overran it.
            self.set_len(packet.right(), packet.len());
        }
    }

    /// Sets the length of a frame's data, at most to the chunk's end.
    pub(super) fn set_len(self, frame: &Frame, len: u32) {
        let entry = self.table[frame.id().index()].get();
        // SAFETY: as in `set`; and the address lies in this frame's chunk by the first invariant.
        unsafe { self.umem.umem.data_mut(&mut *entry) }.cursor().set_pos(len as usize);
    }
}

impl HeldBytes for UmemFrames {
    fn with_bytes(&self, captured: &Captured, look: &mut dyn FnMut(&[u8])) {
        let (start, len) = self.place(captured.frame.id(), captured.offset, captured.len);
        // SAFETY:
        // - In bounds of the frame: `place` sees to it.
        // - Not written meanwhile: a held frame is one of several references, or all that is left of it.
        look(unsafe { slice::from_raw_parts(start, len) });
    }
}

impl fmt::Debug for UmemFrames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UmemFrames").field("layout", &self.layout).finish_non_exhaustive()
    }
}
