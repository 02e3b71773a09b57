//! Where frames come from and go back to: page_pool's memory provider (`struct memory_provider_ops`).

use std::{any::Any, fmt};

use crate::{
    Frame, FrameId, FrameLayout,
    refs::RefTable,
    sync::{Arc, AtomicU32, Mutex, Ordering, lock},
};

/// `NUMA_NO_NODE`: no node is preferred to the local one.
pub const NUMA_NO_NODE: i32 = -1;

/// What feeds pools with frames. One provider may feed many pools, as one UMEM may serve many sockets.
///
/// Called on the slow path only. Whoever implements this outside the crate wraps a [`UmemProvider`], as
/// nobody else can make a [`Frame`].
pub trait MemoryProvider: fmt::Debug + Send + Sync {
    /// The reference counts of the UMEM's frames, and with them its layout.
    fn refs(&self) -> &Arc<RefTable>;

    /// Appends up to `n` free frames to `frames`, preferably of NUMA node `nid`, and says how many.
    ///
    /// Never more than `n`, and never waits; the last one is the first to be handed out.
    fn alloc_bulk(&self, frames: &mut Vec<Frame>, n: usize, nid: i32) -> usize;

    /// Takes frames back, in this order: those that a pool gave up. Any other is refused, be it of another
    /// UMEM or still of its pool, which misses it from then on.
    fn release(&self, frames: &mut dyn Iterator<Item = Frame>);

    /// A frame left its pool but is still pinned; it comes by [`release`](Self::release) when its last
    /// pin goes.
    fn detached(&self, _frame: FrameId) {}

    /// Free frames at this moment.
    fn free(&self) -> u32;

    /// Whether frames lie on different NUMA nodes. Asked once, when a pool is made: if not, refills do
    /// not ask for each frame's node.
    fn has_nodes(&self) -> bool {
        false
    }

    /// The NUMA node of a frame.
    fn node_of(&self, _frame: FrameId) -> i32 {
        0
    }

    /// The NUMA node of the processor that runs the owner (`numa_mem_id()`).
    fn local_node(&self) -> i32 {
        0
    }
}

/// The slab: a stack of the free frames of one UMEM. Last in, first out; all of them at the beginning,
/// the one with the lowest address on top.
///
/// Whoever can still bring a frame home keeps the provider alive, and the provider keeps the memory: so
/// the memory is there for as long as anybody may look at a frame, however long ago its pool was freed.
pub struct UmemProvider {
    refs: Arc<RefTable>,
    slab: Mutex<Vec<FrameId>>,
    /// The length of `slab`, so that whoever only looks takes no lock.
    free: AtomicU32,
    memory: Option<Arc<dyn Any + Send + Sync>>,
}

impl fmt::Debug for UmemProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UmemProvider").field("layout", &self.layout()).field("free", &self.free()).finish()
    }
}

impl UmemProvider {
    /// A provider of all frames of one UMEM.
    ///
    /// Make one per UMEM: the frames of two are told apart by their pools' tags, not by their names.
    pub fn new(layout: FrameLayout) -> Arc<Self> {
        Self::with_memory(layout, None)
    }

    /// As [`new`](Self::new), and keeps `memory`, the UMEM's, for as long as anybody has one of its frames.
    pub fn with_memory(layout: FrameLayout, memory: Option<Arc<dyn Any + Send + Sync>>) -> Arc<Self> {
        let slab = (0..layout.chunk_count()).rev().map(FrameId).collect();
        Arc::new(Self {
            refs: Arc::new(RefTable::new(layout)),
            slab: Mutex::new(slab),
            free: AtomicU32::new(layout.chunk_count()),
            memory,
        })
    }

    /// What was given to [`with_memory`](Self::with_memory).
    pub fn memory(&self) -> Option<&Arc<dyn Any + Send + Sync>> {
        self.memory.as_ref()
    }

    /// The layout of the UMEM.
    pub fn layout(&self) -> FrameLayout {
        self.refs.layout()
    }
}

impl MemoryProvider for UmemProvider {
    fn refs(&self) -> &Arc<RefTable> {
        &self.refs
    }

    fn alloc_bulk(&self, frames: &mut Vec<Frame>, n: usize, _nid: i32) -> usize {
        let tag = self.refs.tag();
        let mut slab = lock(&self.slab);
        let count = slab.len().min(n);
        let rest = slab.len() - count;
        frames.extend(slab.drain(rest..).rev().map(|id| Frame::of(id, tag)));
        self.free.store(slab.len() as u32, Ordering::Relaxed);
        count
    }

    fn release(&self, frames: &mut dyn Iterator<Item = Frame>) {
        let tag = self.refs.tag();
        let mut slab = lock(&self.slab);
        for frame in frames {
            if frame.is_of(tag) {
                // There are never more than the slab has room for.
                slab.push(frame.id());
            }
        }
        self.free.store(slab.len() as u32, Ordering::Relaxed);
    }

    fn free(&self) -> u32 {
        self.free.load(Ordering::Relaxed)
    }
}

#[cfg(all(test, not(frame_pool_loom)))]
mod tests {
    use super::*;
    use crate::{FramePool, PoolConfig};

    #[test]
    fn the_slab_is_a_stack() {
        let provider = UmemProvider::new(FrameLayout::new(2048, 5).unwrap());
        let mut frames = Vec::new();
        assert_eq!(provider.alloc_bulk(&mut frames, 3, 0), 3);
        assert_eq!(frames.iter().map(|frame| frame.id().0).collect::<Vec<_>>(), [0, 1, 2]);
        provider.release(&mut frames.drain(..));
        assert_eq!(provider.free(), 5);
        assert_eq!(provider.alloc_bulk(&mut frames, 9, 0), 5);
        assert_eq!(frames.iter().map(|frame| frame.id().0).collect::<Vec<_>>(), [2, 1, 0, 3, 4]);
        assert_eq!(provider.alloc_bulk(&mut frames, 1, 0), 0);
    }

    #[test]
    fn only_its_own_frames_that_left_their_pool_come_back() {
        let layout = FrameLayout::new(2048, 5).unwrap();
        let (provider, other) = (UmemProvider::new(layout), UmemProvider::new(layout));
        let mut pool = FramePool::new(PoolConfig::default(), provider.clone());
        let mut frames = Vec::new();
        other.alloc_bulk(&mut frames, 2, 0);
        frames.extend(pool.alloc());
        provider.release(&mut frames.drain(..));
        assert_eq!((provider.free(), pool.places().out, pool.places().total()), (0, 1, 5));
    }

    /// A provider that says it is of one UMEM and gives frames of another.
    #[derive(Debug)]
    struct Mixed(Arc<UmemProvider>, Arc<UmemProvider>);

    impl MemoryProvider for Mixed {
        fn refs(&self) -> &Arc<RefTable> {
            self.0.refs()
        }

        fn alloc_bulk(&self, frames: &mut Vec<Frame>, n: usize, nid: i32) -> usize {
            self.1.alloc_bulk(frames, 1, nid);
            self.0.alloc_bulk(frames, n - 1, nid)
        }

        fn release(&self, frames: &mut dyn Iterator<Item = Frame>) {
            self.0.release(frames);
        }

        fn free(&self) -> u32 {
            self.0.free()
        }
    }

    #[test]
    fn a_frame_of_another_umem_enters_no_pool() {
        let [small, large] = [4, 400].map(|count| UmemProvider::new(FrameLayout::new(2048, count).unwrap()));
        let mut pool = FramePool::new(PoolConfig::default(), Arc::new(Mixed(small, large)));
        let frames: Vec<_> = (0..4).map_while(|_| pool.alloc()).collect();
        assert_eq!((frames.len(), pool.alloc(), pool.hold()), (4, None, 4));
        assert_eq!((pool.stats().extras.foreign_put, pool.places().total()), (2, 4));
    }
}
