//! [`UmemFrames`]: the memory of one UMEM, and where in each of its frames the data lie.

#![expect(
    unsafe_code,
    reason = "xsk-rs leaves to its caller who may touch a frame; a right to the frame is asked for here"
)]

use std::{cell::UnsafeCell, fmt, io};

use datapath::{Captured, HeldBytes, Packet, Right};
use frame_pool::{Frame, FrameId, FrameLayout};
use xsk_rs::{FrameDesc, Umem};

/// A UMEM, shared by the ports whose sockets are bound to it, and by who reads frames that are held.
///
/// # Invariants
///
/// - `descriptors[i]` describes frame `i` of `umem`: its address lies in chunk `i`, its length inside the chunk.
/// - Entry and bytes of a frame are written only by who holds the [`Frame`], which is the sole right to it, and
///   read only by who holds that or, while there is none, one of the references that it was shared into.
pub struct UmemFrames {
    descriptors: Box<[UnsafeCell<FrameDesc>]>,
    layout: FrameLayout,
    /// Bytes in a chunk, less one.
    chunk_mask: usize,
    /// Bytes behind a new descriptor's address, to the end of its chunk.
    blank_len: usize,
    umem: Umem,
}

// SAFETY: by the second invariant an entry is never written while another thread looks at it. The right to a
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
    pub fn new(umem: Umem, descriptors: Vec<FrameDesc>, layout: FrameLayout) -> io::Result<Self> {
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
        let descriptors = descriptors.into_iter().map(UnsafeCell::new).collect();
        let chunk_mask = layout.chunk_size() as usize - 1;
        Ok(Self { descriptors, layout, chunk_mask, blank_len, umem })
    }

    /// How the UMEM is cut into frames.
    pub fn layout(&self) -> FrameLayout {
        self.layout
    }

    /// The UMEM, to bind sockets to.
    pub fn umem(&self) -> &Umem {
        &self.umem
    }

    /// How many bytes a frame has for a packet that begins in it.
    pub(super) fn blank_len(&self) -> usize {
        self.blank_len
    }

    /// A frame's descriptor.
    #[inline]
    fn get(&self, id: FrameId) -> *mut FrameDesc {
        self.descriptors[id.index()].get()
    }

    /// A copy of the descriptor of a frame that the caller has a right to.
    #[inline]
    pub(super) fn descriptor(&self, right: &impl Right) -> FrameDesc {
        // SAFETY: `right` is borrowed, so by the second invariant nobody writes.
        unsafe { *self.get(right.id()) }
    }

    /// Notes what an RX ring said of a frame that the ledger has recognised.
    #[inline]
    pub(super) fn set_descriptor(&self, frame: &Frame, descriptor: &FrameDesc) {
        let entry = self.get(frame.id());
        // SAFETY: `frame` is the sole right to the frame, so by the second invariant this is the only one who
        // looks at the entry.
        unsafe { *entry = *descriptor };
        if descriptor.lengths().data() > (!descriptor.addr() & self.chunk_mask) + 1 {
            // INVARIANT: cut at the chunk's end; a kernel that says so overran it.
            self.set_len(frame, usize::MAX);
        }
    }

    /// Sets the length of a frame's data, at most to the chunk's end.
    pub(super) fn set_len(&self, frame: &Frame, len: usize) {
        // SAFETY: as in `set_descriptor`; and the address lies in this frame's chunk by the first invariant.
        unsafe { self.umem.data_mut(&mut *self.get(frame.id())) }.cursor().set_pos(len);
    }

    /// Looks at a packet's bytes.
    #[inline]
    pub(super) fn with_bytes<R: Right, T>(&self, packet: &Packet<R>, look: impl FnOnce(&[u8]) -> T) -> T {
        // SAFETY:
        // - In bounds: by the first invariant.
        // - Not written meanwhile: `packet` holds a right to the frame, and is borrowed all the time.
        look(unsafe { self.umem.data(&*self.get(packet.id())) }.contents())
    }

    /// Changes a packet's bytes.
    #[inline]
    pub(super) fn with_bytes_mut<T>(&self, packet: &mut Packet, change: impl FnOnce(&mut [u8]) -> T) -> T {
        // SAFETY:
        // - In bounds: by the first invariant.
        // - Unaliased: `packet` holds the sole right to the frame, and is borrowed mutably all the time.
        change(unsafe { self.umem.data_mut(&mut *self.get(packet.id())) }.contents_mut())
    }
}

impl HeldBytes for UmemFrames {
    fn with_bytes(&self, captured: &Captured, look: &mut dyn FnMut(&[u8])) {
        // SAFETY:
        // - In bounds: by the first invariant.
        // - Not written meanwhile: a held frame is one of several references, or all that is left of it.
        look(unsafe { self.umem.data(&*self.get(captured.frame.id())) }.contents());
    }
}

impl fmt::Debug for UmemFrames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UmemFrames").field("layout", &self.layout).finish_non_exhaustive()
    }
}
