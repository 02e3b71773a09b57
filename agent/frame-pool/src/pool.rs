//! The owner's side of a pool: `alloc` and `put_direct`, without an atomic read-modify-write.

use std::{cell::Cell, marker::PhantomData};

use crate::{
    AllocStats, Counting, ExtraStats, Frame, FrameAddr, FrameId, FrameLayout, FrameRef, Ledger, PoolConfig,
    PoolPlaces, PoolStats, PoolTag, RecycleStats, Recycler,
    cache::AllocCache,
    frag::FragState,
    frame::LastRight,
    provider::{MemoryProvider, NUMA_NO_NODE},
    refs::RefTable,
    ring::{PtrRing, RingConsumer},
    shared::{Shared, count},
    shutdown::ShutdownClock,
    sync::{Arc, OnceLock, Ordering, OwnLine},
    token::TokenBits,
};

/// How far a pool's life has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Frames are handed out and recycled.
    Live,
    /// Destroyed; frames are still out, and each retry gives up those that came back.
    Draining,
    /// Destroyed, and every frame is given up.
    Freed,
}

/// A recycler of UMEM frames with the semantics of the kernel's page_pool; its owner's side.
///
/// One thread owns it at a time (`Send`, not `Sync`), as one NAPI instance owns a page_pool. All others
/// bring frames home through its [`Recycler`].
///
/// ```compile_fail,E0277
/// fn shared_by_threads<T: Sync>() {}
/// shared_by_threads::<frame_pool::FramePool>();
/// ```
#[derive(Debug)]
pub struct FramePool {
    cache: AllocCache,
    alloc: AllocStats,
    cached: u64,
    cache_full: u64,
    alloc_fail: u64,
    slow_frames: u64,
    /// `pages_state_hold_cnt`: frames obtained from the provider, modulo 2^32.
    hold: u32,
    nid: i32,
    has_nodes: bool,
    refill: usize,
    phase: Phase,
    consumer: RingConsumer,
    counting: Counting,
    pub(crate) held_limit: u32,
    pub(crate) frag: FragState,
    pub(crate) shutdown: ShutdownClock,
    /// The same as in `shared`, one step nearer.
    tag: PoolTag,
    pub(crate) refs: Arc<RefTable>,
    pub(crate) shared: Arc<Shared>,
    _not_sync: PhantomData<Cell<()>>,
}

impl FramePool {
    /// `page_pool_create()`: an empty pool that takes its frames from `provider`.
    pub fn new(config: PoolConfig, provider: Arc<impl MemoryProvider + 'static>) -> Self {
        let refs = Arc::clone(provider.refs());
        let (cache_size, refill) = config.cache_and_refill(refs.layout().chunk_size());
        let (ring, consumer) = PtrRing::new(config.ring_size);
        let tag = PoolTag::next();
        let held_limit = match config.held_limit {
            0 => (refs.layout().chunk_count() / 4).max(1),
            limit => limit,
        };
        let shared = Shared {
            tag,
            refs: Arc::clone(&refs),
            ring,
            tokens: TokenBits::new(if config.tokens { refs.layout().chunk_count() } else { 0 }),
            counters: OwnLine::default(),
            holds: OnceLock::new(),
            provider: provider as Arc<dyn MemoryProvider>,
        };
        shared.counters.release.store(config.first_count, Ordering::Relaxed);
        Self {
            cache: AllocCache::new(cache_size),
            alloc: AllocStats::default(),
            cached: 0,
            cache_full: 0,
            alloc_fail: 0,
            slow_frames: 0,
            hold: config.first_count,
            nid: config.nid,
            has_nodes: shared.provider.has_nodes(),
            refill,
            phase: Phase::Live,
            consumer,
            counting: config.counting,
            held_limit,
            frag: FragState::new(config.frag_align),
            shutdown: ShutdownClock::default(),
            tag,
            refs,
            shared: Arc::new(shared),
            _not_sync: PhantomData,
        }
    }

    /// `page_pool_alloc_pages()`: the hottest idle frame, or `None` if all are in use. Never waits.
    #[inline]
    pub fn alloc(&mut self) -> Option<Frame> {
        match self.cache.pop() {
            None => self.alloc_slow(),
            frame => {
                self.alloc.fast += 1;
                frame
            }
        }
    }

    /// Appends up to `n` frames to `frames`, within its spare capacity, and says how many.
    ///
    /// Counts as that many calls of [`alloc`](Self::alloc). The hottest frame of each run that came from
    /// the cache lies last, so that `Vec::pop` gives it first.
    pub fn alloc_bulk(&mut self, frames: &mut Vec<Frame>, n: usize) -> usize {
        let wanted = n.min(frames.capacity() - frames.len());
        let got = self.cache.pop_into(frames, wanted);
        self.alloc.fast += got as u64;
        if got == wanted { got } else { self.alloc_bulk_slow(frames, wanted, got) }
    }

    /// The cache had only so many of the frames that are wanted.
    #[cold]
    fn alloc_bulk_slow(&mut self, frames: &mut Vec<Frame>, wanted: usize, mut got: usize) -> usize {
        while got < wanted {
            let Some(frame) = self.alloc_slow() else { break };
            frames.push(frame);
            let fast = self.cache.pop_into(frames, wanted - got - 1);
            self.alloc.fast += fast as u64;
            got += 1 + fast;
        }
        got
    }

    /// `page_pool_recycle_direct()`: into the cache; from a full cache on to the ring.
    ///
    /// A frame of another pool is refused and counted (`foreign_put`); its own pool misses it from then on.
    #[inline]
    pub fn put_direct(&mut self, frame: Frame) {
        if !self.refs.is_sole_frame_of(self.tag, &frame) {
            return self.shared.put_odd(frame);
        }
        match self.cache.push(frame) {
            Ok(()) => self.cached += 1,
            Err(frame) => self.cache_refused(frame),
        }
    }

    /// `page_pool_put_page_bulk()` in the owner's context: all frames of the vector, in order, which it
    /// leaves empty.
    pub fn put_direct_bulk(&mut self, frames: &mut Vec<Frame>) {
        self.shared.put_odd_ones(frames);
        self.cached += self.cache.append(frames) as u64;
        self.cache_refused_bulk(frames);
    }

    /// The shortest way from a completion ring to a fill ring: frames that would be put into the cache, and be the next
    /// that are taken out of it. Takes them over in order, as far as there are `slots` on the fill ring, which `fill`
    /// writes; says how many.
    ///
    /// Counts as [`put_direct_bulk`](Self::put_direct_bulk) and [`alloc_bulk`](Self::alloc_bulk) of that many. Ends
    /// before the first of which more is to be said: that does not fit into the cache, that has another holder or
    /// another home, or that the ledger would refuse.
    #[inline]
    pub fn turn_over<D, S>(
        &mut self,
        ledger: &mut Ledger,
        completed: &[D],
        addr_of: impl Fn(&D) -> FrameAddr,
        slots: &mut [S],
        fill: impl FnMut(&mut S, FrameId),
    ) -> usize {
        let completed = &completed[..completed.len().min(self.cache.room())];
        let turned = ledger.turn_over(self.tag, completed, addr_of, self.refs.soles(), slots, fill);
        self.cached += turned as u64;
        self.alloc.fast += turned as u64;
        turned
    }

    /// Gives all references of the bundle back; the last of a frame recycles it as
    /// [`put_direct`](Self::put_direct) does.
    #[inline]
    pub fn put_ref_direct(&mut self, bundle: FrameRef) {
        if let Some(frame) = self.shared.unref(bundle) {
            self.put_direct(frame);
        }
    }

    /// Gives all references of all bundles back, in order; what becomes idle is put in one bulk.
    pub fn put_refs_direct_bulk(&mut self, bundles: &mut Vec<FrameRef>) {
        self.shared.unref_bulk(bundles);
        self.cached += self.cache.push_front_of(bundles) as u64;
        self.cache_refused_bulk(bundles);
    }

    /// What the cache left over of a bulk goes to the ring.
    fn cache_refused_bulk(&mut self, rights: &mut Vec<impl LastRight>) {
        if !rights.is_empty() {
            // After destroy the cache takes nothing (its size is 0) and the owner is as anybody else.
            if self.phase == Phase::Live {
                self.cache_full += rights.len() as u64;
            }
            self.shared.put_ring_bulk(rights);
        }
    }

    #[cold]
    fn cache_refused(&mut self, frame: Frame) {
        if self.phase == Phase::Live {
            self.cache_full += 1;
        }
        self.shared.put_ring(frame);
    }

    /// The cache is empty: the ring, then the provider.
    #[cold]
    fn alloc_slow(&mut self) -> Option<Frame> {
        if self.phase == Phase::Live {
            if let Some(frame) = self.refill_from_ring() {
                return Some(frame);
            }
            if let Some(frame) = self.refill_from_provider() {
                return Some(frame);
            }
        }
        self.alloc_fail += 1;
        None
    }

    /// `page_pool_refill_alloc_cache()`: moves the oldest frames of the ring into the cache, up to a
    /// refill.
    fn refill_from_ring(&mut self) -> Option<Frame> {
        if self.consumer.is_empty(&self.shared.ring) {
            self.alloc.empty += 1;
            return None;
        }
        let tag = self.tag;
        if self.has_nodes {
            self.refill_from_node();
        } else {
            let room = self.refill - self.cache.len();
            self.consumer.consume_bulk(&self.shared.ring, room, self.cache.stack(), tag);
        }
        let frame = self.cache.pop()?;
        self.alloc.refill += 1;
        Some(frame)
    }

    /// As far as the ring has frames of the preferred node. One of another node ends it and is given up.
    fn refill_from_node(&mut self) {
        let preferred = self.preferred_node();
        while self.cache.len() < self.refill {
            let Some(id) = self.consumer.consume(&self.shared.ring) else { return };
            let frame = Frame::of(id, self.tag);
            if self.shared.provider.node_of(id) != preferred {
                self.alloc.waive += 1;
                return self.shared.release(1, Some(frame));
            }
            self.cache.stack().push(frame);
        }
    }

    /// `__page_pool_alloc_pages_slow()`: a batch from the provider.
    fn refill_from_provider(&mut self) -> Option<Frame> {
        let nid = self.preferred_node();
        self.shared.provider.alloc_bulk(self.cache.stack(), self.refill, nid);
        let (delivered, theirs, ours) = (self.cache.len(), self.refs.tag(), self.tag);
        self.cache.stack().retain_mut(|frame| frame.pass(theirs, ours));
        let got = self.cache.len();
        if got < delivered {
            count(&self.shared.counters.foreign_put, delivered - got);
        }
        self.hold = self.hold.wrapping_add(got as u32);
        self.slow_frames += got as u64;
        let frame = self.cache.pop()?;
        self.alloc.slow += 1;
        Some(frame)
    }

    fn preferred_node(&self) -> i32 {
        if self.nid == NUMA_NO_NODE { self.shared.provider.local_node() } else { self.nid }
    }

    /// `page_pool_update_nid()`: prefers another node from now on, and gives up the whole cache.
    pub fn update_nid(&mut self, nid: i32) {
        self.nid = nid;
        self.empty_cache();
    }

    /// A handle that brings frames home from any thread.
    pub fn recycler(&self) -> Recycler {
        Recycler { shared: Arc::clone(&self.shared) }
    }

    /// The first half of `page_pool_destroy()`: no frame enters the cache any more, and none is handed out.
    pub(crate) fn end_allocation(&mut self) {
        self.phase = Phase::Draining;
        self.free_frag();
        self.empty_cache();
        self.cache = AllocCache::new(0);
    }

    /// `page_pool_release()`: gives up what lies in the ring; the pool is freed once nothing is out.
    pub(crate) fn collect_late_frames(&mut self) -> Phase {
        if self.phase == Phase::Draining {
            self.empty_ring();
            if self.inflight() == 0 {
                self.phase = Phase::Freed;
            }
        }
        self.phase
    }

    fn empty_cache(&mut self) {
        self.shared.release(self.cache.len(), self.cache.drain());
    }

    fn empty_ring(&mut self) {
        let (shared, consumer) = (&self.shared, &mut self.consumer);
        while let Some(id) = consumer.consume(&shared.ring) {
            shared.release(1, Some(shared.own(id)));
        }
    }

    /// How far the pool's life has gone.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The pool's tag: its id.
    pub fn tag(&self) -> PoolTag {
        self.tag
    }

    /// The layout of the UMEM.
    pub fn layout(&self) -> FrameLayout {
        self.refs.layout()
    }

    /// The NUMA node that the pool prefers.
    pub fn nid(&self) -> i32 {
        self.nid
    }

    /// Frames obtained from the provider, modulo 2^32 (`pages_state_hold_cnt`).
    pub fn hold(&self) -> u32 {
        self.hold
    }

    /// Frames given up, modulo 2^32 (`pages_state_release_cnt`).
    pub fn release(&self) -> u32 {
        self.shared.counters.release.load(Ordering::Acquire)
    }

    /// `page_pool_inflight()`: frames obtained and not given up, in serial arithmetic. Those idle in cache
    /// and ring are among them, so only after [`destroy`](Self::destroy) are these the frames still out.
    pub fn inflight(&self) -> i32 {
        self.hold.wrapping_sub(self.release()) as i32
    }

    /// All counters at this moment.
    pub fn stats(&self) -> PoolStats {
        let (recycle, extras) = self.shared.stats();
        let (fast, cached) = self.frag.counted(self.counting);
        PoolStats {
            alloc: AllocStats { fast: self.alloc.fast + fast, ..self.alloc },
            recycle: RecycleStats { cached: self.cached + cached, cache_full: self.cache_full, ..recycle },
            extras: ExtraStats { alloc_fail: self.alloc_fail, slow_frames: self.slow_frames, ..extras },
        }
    }

    /// Where the frames are at this moment. Exact while no other thread returns frames.
    pub fn places(&self) -> PoolPlaces {
        let allocs = self.alloc.fast + self.alloc.refill + self.alloc.slow;
        PoolPlaces {
            slab: self.shared.provider.free(),
            cache: self.cache.len() as u32,
            ring: self.consumer.len(&self.shared.ring),
            out: (allocs - self.cached - self.shared.returned() - self.frag.released) as u32,
            detached: self.shared.counters.detached.load(Ordering::Relaxed),
        }
    }
}

/// What a pool looks like inside, for tests and tools. Exact while no other thread returns frames.
impl FramePool {
    /// The frames in the cache, from the bottom to the one that is handed out next.
    pub fn cache_frames(&self) -> impl Iterator<Item = FrameId> {
        self.cache.frames().iter().map(Frame::id)
    }

    /// The frames in the ring, the oldest first.
    pub fn ring_frames(&self) -> impl Iterator<Item = FrameId> {
        self.consumer.peek(&self.shared.ring)
    }

    /// Slots of the ring.
    pub fn ring_size(&self) -> u32 {
        self.shared.ring.size()
    }

    /// Consumed slots of the ring that wait for their group before a put can use them.
    pub fn ring_stale(&self) -> u32 {
        self.consumer.stale()
    }
}

impl Drop for FramePool {
    /// The worker is gone: gives up every idle frame, and from now on late frames go to the provider.
    fn drop(&mut self) {
        self.free_frag();
        self.empty_cache();
        self.shared.ring.close();
        while let Some(id) = self.consumer.consume_last(&self.shared.ring) {
            self.shared.release(1, Some(self.shared.own(id)));
        }
    }
}
