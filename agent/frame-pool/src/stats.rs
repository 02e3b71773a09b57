//! The counters: page_pool's eleven, under its names and at its increment points, and honest extras.
//!
//! All count events since the pool was made, as `u64`. The exact increment points are those of
//! `net/core/page_pool.c`; four of them are easily misread. `refill` *replaces* `fast` for the allocation
//! that emptied the ring into the cache. `empty` counts a look at an empty ring and comes before `slow`,
//! also when the provider then has nothing. `ring_full` is one per put, but one per *call* in a bulk.
//! `released_refcnt` means disowned, not recycled.

/// Everything that a pool counts, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// `struct page_pool_alloc_stats`.
    pub alloc: AllocStats,
    /// `struct page_pool_recycle_stats`.
    pub recycle: RecycleStats,
    /// What the kernel does not count.
    pub extras: ExtraStats,
}

/// `struct page_pool_alloc_stats`: how allocations were served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AllocStats {
    /// Allocations served by the cache.
    pub fast: u64,
    /// Batches from the provider: one per batch of up to 64 frames.
    pub slow: u64,
    /// Always 0: a frame is one chunk, there are no higher orders.
    pub slow_high_order: u64,
    /// Allocations that found cache and ring empty.
    pub empty: u64,
    /// Allocations that moved frames from the ring into the cache.
    pub refill: u64,
    /// Frames given up in a refill because they lie on another NUMA node.
    pub waive: u64,
}

/// `struct page_pool_recycle_stats`: where returned frames went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecycleStats {
    /// Frames put into the cache.
    pub cached: u64,
    /// Direct puts that found the cache full; the same put goes on to the ring.
    pub cache_full: u64,
    /// Frames put into the ring.
    pub ring: u64,
    /// Puts that the ring refused: one per single put, one per bulk.
    pub ring_full: u64,
    /// Frames that could not be recycled when their last reference came back.
    pub released_refcnt: u64,
}

/// What the kernel does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExtraStats {
    /// Allocations that got nothing.
    pub alloc_fail: u64,
    /// Frames (not batches) that came from the provider.
    pub slow_frames: u64,
    /// Frames (not calls) that the ring refused.
    pub ring_full_frames: u64,
    /// Frames refused because they belong to another pool, or to another UMEM if a provider brought them.
    pub foreign_put: u64,
    /// Returns refused because the frame was not out.
    pub double_put: u64,
    /// Returns refused because the address is not in the UMEM.
    pub bad_addr: u64,
    /// Frames that were not given away because as many are held as the pool allows.
    pub held_refused: u64,
}

/// Where the frames are, seen from one pool. Each field is counted on its own; that they add up to the
/// UMEM's number of frames is a law that tests check.
///
/// If several pools share a provider, the law is about the sum over the pools, with `slab` (which is the
/// provider's) taken once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolPlaces {
    /// Free, with the provider.
    pub slab: u32,
    /// Idle in the pool's cache.
    pub cache: u32,
    /// Idle in the pool's ring.
    pub ring: u32,
    /// Handed out and not yet back; the frame that fragments are being cut from is one of them.
    pub out: u32,
    /// Left the pool's accounting but still pinned (`released_refcnt`).
    pub detached: u32,
}

impl PoolPlaces {
    /// All frames, in whatever place.
    pub const fn total(&self) -> u32 {
        self.slab + self.cache + self.ring + self.out + self.detached
    }
}
