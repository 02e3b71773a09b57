//! Everyone else's side of a pool: how a frame comes home from another thread.

use crate::{
    Frame, FramePin, FrameRef, MAX_REFS, PoolTag,
    shared::Shared,
    sync::{Arc, Ordering},
};

/// Brings frames home from any thread: through the pool's ring, or to the provider if that is full.
///
/// Never waits, and works for as long as anybody keeps it, also after the pool is gone.
#[derive(Clone, Debug)]
pub struct Recycler {
    pub(crate) shared: Arc<Shared>,
}

impl Recycler {
    /// `page_pool_put_page(.., allow_direct = false)`: the ring takes the frame, or else the provider.
    ///
    /// A frame of another pool is refused and counted (`foreign_put`); its own pool misses it from then on.
    #[inline]
    pub fn put(&self, frame: Frame) {
        if self.shared.takes(&frame) {
            self.shared.put_ring(frame);
        } else {
            self.shared.put_odd(frame);
        }
    }

    /// `page_pool_put_page_bulk()`: all frames of the vector, in order, which it leaves empty.
    pub fn put_bulk(&self, frames: &mut Vec<Frame>) {
        self.shared.put_odd_ones(frames);
        self.shared.put_ring_bulk(frames);
    }

    /// `page_pool_fragment_page()`: exchanges the sole right for `n` references, by one store.
    ///
    /// # Errors
    ///
    /// The frame, if it is another pool's or if `n` is 0 or more than [`MAX_REFS`].
    pub fn share(&self, frame: Frame, n: u32) -> Result<FrameRef, Frame> {
        if !frame.is_of(self.shared.tag) || n == 0 || n > MAX_REFS {
            return Err(frame);
        }
        self.shared.refs.set(frame.id(), n);
        Ok(FrameRef::of(frame.id(), frame.home(), n))
    }

    /// The sole right again, if no other reference and no pin is left. Costs a load.
    ///
    /// # Errors
    ///
    /// The references, if they are not all.
    pub fn unshare(&self, bundle: FrameRef) -> Result<Frame, FrameRef> {
        let alone =
            bundle.home() == self.shared.tag && self.shared.refs.is_alone(bundle.id(), bundle.count());
        if !alone {
            return Err(bundle);
        }
        self.shared.refs.set(bundle.id(), 1);
        Ok(Frame::of(bundle.id(), bundle.home()))
    }

    /// `page_pool_ref_page()`: adds `n` references to the bundle, by one atomic operation; `false`,
    /// and nothing changed, if the frame is another pool's or would have more than twice [`MAX_REFS`].
    pub fn charge(&self, bundle: &mut FrameRef, n: u32) -> bool {
        let charged = bundle.home() == self.shared.tag && self.shared.refs.add(bundle.id(), n);
        if charged {
            bundle.charged(n);
        }
        charged
    }

    /// Gives all references of the bundle back; the last of a frame recycles it as [`put`](Self::put) does.
    #[inline]
    pub fn put_ref(&self, bundle: FrameRef) {
        if let Some(frame) = self.shared.unref(bundle) {
            self.put(frame);
        }
    }

    /// Gives all references of all bundles back, in order; what becomes idle goes home in one bulk.
    pub fn put_refs_bulk(&self, bundles: &mut Vec<FrameRef>) {
        self.shared.unref_bulk(bundles);
        self.shared.put_ring_bulk(bundles);
    }

    /// References to the frame of this bundle at this moment, those of the fragment allocator included.
    pub fn ref_count(&self, bundle: &FrameRef) -> u32 {
        self.shared.refs.count(bundle.id())
    }

    /// `get_page()`: a claim on the frame's memory that the pool does not count as a reference. `None` if
    /// the frame is another pool's or has 63 pins already.
    pub fn pin(&self, bundle: &FrameRef) -> Option<FramePin> {
        let pinned = bundle.home() == self.shared.tag && self.shared.refs.pin(bundle.id());
        pinned.then(|| FramePin::of(bundle.id(), bundle.home()))
    }

    /// `put_page()`: takes a pin off. A frame that has left the pool meanwhile reaches its provider with
    /// the last one.
    ///
    /// # Errors
    ///
    /// The pin, if the frame is another pool's.
    pub fn unpin(&self, pin: FramePin) -> Result<(), FramePin> {
        if pin.home() != self.shared.tag {
            return Err(pin);
        }
        self.shared.unpin(pin.id());
        Ok(())
    }

    /// Marks a frame as not to be recycled, as the kernel does not recycle pages of its emergency reserves
    /// (`page_is_pfmemalloc()`): it goes back to the provider with its last reference (`released_refcnt`).
    pub fn set_pfmemalloc(&self, bundle: &FrameRef) {
        if bundle.home() == self.shared.tag {
            self.shared.refs.set_pfmemalloc(bundle.id());
        }
    }

    /// The pool whose frames this brings home.
    pub fn tag(&self) -> PoolTag {
        self.shared.tag
    }

    /// Frames given up by the pool, modulo 2^32.
    pub fn release(&self) -> u32 {
        self.shared.counters.release.load(Ordering::Acquire)
    }

    /// [`HeldFrame`](crate::HeldFrame)s and numbers that are out at this moment.
    pub fn held(&self) -> u32 {
        self.shared.counters.held.load(Ordering::Relaxed)
    }
}
