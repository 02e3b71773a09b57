//! The executable test vectors of the specification: page_pool's counters after short sequences.
#![cfg(not(frame_pool_loom))]

use std::{sync::Arc, time::Duration};

use frame_pool::{
    Frame, FrameLayout, FramePool, MemoryProvider, PoolConfig, PoolStats, Shutdown, UmemProvider,
};

/// A pool with a ring of this size over a provider of this many frames.
fn pool(ring_size: u32, chunk_count: u32) -> (FramePool, Arc<UmemProvider>) {
    let provider = UmemProvider::new(FrameLayout::new(4096, chunk_count).unwrap());
    (FramePool::new(PoolConfig { ring_size, ..PoolConfig::default() }, provider.clone()), provider)
}

fn alloc(pool: &mut FramePool, n: usize) -> Vec<Frame> {
    (0..n).map(|_| pool.alloc().unwrap()).collect()
}

fn put_each(pool: &FramePool, frames: impl IntoIterator<Item = Frame>) {
    let recycler = pool.recycler();
    frames.into_iter().for_each(|frame| recycler.put(frame));
}

/// A provider whose first 64 frames are of node 0, and all others of node 1.
#[derive(Debug)]
struct TwoNodes(Arc<UmemProvider>);

impl MemoryProvider for TwoNodes {
    fn refs(&self) -> &Arc<frame_pool::RefTable> {
        self.0.refs()
    }

    fn alloc_bulk(&self, frames: &mut Vec<Frame>, n: usize, nid: i32) -> usize {
        self.0.alloc_bulk(frames, n, nid)
    }

    fn release(&self, frames: &mut dyn Iterator<Item = Frame>) {
        self.0.release(frames);
    }

    fn free(&self) -> u32 {
        self.0.free()
    }

    fn has_nodes(&self) -> bool {
        true
    }

    fn node_of(&self, frame: frame_pool::FrameId) -> i32 {
        (frame.index() >= 64).into()
    }
}

/// `[fast, slow, empty, refill, waive, cached, cache_full, ring, ring_full, released_refcnt]`.
fn counters(pool: &FramePool) -> [u64; 10] {
    let PoolStats { alloc: a, recycle: r, .. } = pool.stats();
    assert_eq!(a.slow_high_order, 0);
    let (alloc, recycle) = ([a.fast, a.slow, a.empty, a.refill, a.waive], [r.cached, r.cache_full]);
    [&alloc[..], &recycle, &[r.ring, r.ring_full, r.released_refcnt]].concat().try_into().unwrap()
}

/// Cache, hold, release, inflight; and the law.
fn levels(pool: &FramePool) -> (u32, u32, u32, i32) {
    assert_eq!(pool.places().total(), pool.layout().chunk_count(), "{:?}", pool.places());
    (pool.places().cache, pool.hold(), pool.release(), pool.inflight())
}

#[test]
fn v1_a_batch_and_one_more_then_all_back_into_the_cache() {
    let (mut pool, _) = pool(0, 1000);
    let frames = alloc(&mut pool, 65);
    assert_eq!(counters(&pool), [63, 2, 2, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(levels(&pool), (63, 128, 0, 128));
    frames.into_iter().for_each(|frame| pool.put_direct(frame));
    assert_eq!(counters(&pool), [63, 2, 2, 0, 0, 65, 0, 0, 0, 0]);
    assert_eq!(levels(&pool), (128, 128, 0, 128));
}

#[test]
fn v2_a_full_cache_goes_on_to_the_ring() {
    let (mut pool, _) = pool(0, 1000);
    let frames = alloc(&mut pool, 200);
    assert_eq!(counters(&pool), [196, 4, 4, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(levels(&pool), (56, 256, 0, 256));
    frames.into_iter().for_each(|frame| pool.put_direct(frame));
    assert_eq!(counters(&pool), [196, 4, 4, 0, 0, 72, 128, 128, 0, 0]);
    assert_eq!(levels(&pool), (128, 256, 0, 256));
    let _frames = alloc(&mut pool, 200);
    assert_eq!(counters(&pool), [394, 4, 4, 2, 0, 72, 128, 128, 0, 0]);
    assert_eq!(levels(&pool), (56, 256, 0, 256));
}

#[test]
fn v3_a_full_ring_releases() {
    let (mut pool, _) = pool(32, 1000);
    let mut frames = alloc(&mut pool, 64);
    put_each(&pool, frames.drain(..40));
    assert_eq!(counters(&pool), [63, 1, 1, 0, 0, 0, 0, 32, 8, 0]);
    assert_eq!(levels(&pool), (0, 64, 8, 56));
    let _frame = pool.alloc().unwrap();
    assert_eq!(counters(&pool), [63, 1, 1, 1, 0, 0, 0, 32, 8, 0]);
    assert_eq!(levels(&pool), (31, 64, 8, 56));
    put_each(&pool, frames);
    assert_eq!(counters(&pool), [63, 1, 1, 1, 0, 0, 0, 56, 8, 0]);
    assert_eq!(levels(&pool), (31, 64, 8, 56));
}

// V4, the lazily freed slots, is a unit test of the ring.

#[test]
fn v5_a_bulk_counts_ring_full_once() {
    for (ring_size, bulks, ring, ring_full, released) in [(32, 3, 32, 1, 16), (40, 4, 40, 2, 24)] {
        let (mut pool, _) = pool(ring_size, 1000);
        let mut frames = alloc(&mut pool, 64);
        for _ in 0..bulks {
            let mut bulk: Vec<_> = frames.drain(..16).collect();
            pool.recycler().put_bulk(&mut bulk);
            assert!(bulk.is_empty());
        }
        let stats = pool.stats();
        assert_eq!((stats.recycle.ring, stats.recycle.ring_full), (ring, ring_full));
        assert_eq!(stats.extras.ring_full_frames, u64::from(released));
        assert_eq!(levels(&pool), (0, 64, released, 64 - released as i32));
    }
}

#[test]
fn v6_a_frame_of_another_node_is_given_up_and_ends_the_refill() {
    let provider = Arc::new(TwoNodes(UmemProvider::new(FrameLayout::new(4096, 1000).unwrap())));
    let mut pool = FramePool::new(PoolConfig { nid: 0, ..PoolConfig::default() }, provider);
    let mut frames = alloc(&mut pool, 64);
    put_each(&pool, frames.drain(..10));
    pool.update_nid(1);
    let _frame = pool.alloc().unwrap();
    assert_eq!(counters(&pool), [63, 2, 1, 0, 1, 0, 0, 10, 0, 0]);
    assert_eq!((levels(&pool), pool.places().ring), ((63, 128, 1, 127), 9));
}

#[test]
fn v7_a_pinned_frame_is_not_recycled() {
    let (mut pool, _) = pool(0, 1000);
    let recycler = pool.recycler();
    let mut pins = Vec::new();
    for (n, frame) in (0..).zip(alloc(&mut pool, 64)) {
        let bundle = recycler.share(frame, 1).unwrap();
        pins.extend((n < 5).then(|| recycler.pin(&bundle).unwrap()));
        pool.put_ref_direct(bundle);
    }
    assert_eq!(counters(&pool), [63, 1, 1, 0, 0, 59, 0, 0, 0, 5]);
    assert_eq!((levels(&pool), pool.places().detached), ((59, 64, 5, 59), 5));
    pins.into_iter().for_each(|pin| recycler.unpin(pin).unwrap());
    assert_eq!((levels(&pool), pool.places().detached), ((59, 64, 5, 59), 0));
}

#[test]
fn v8_an_exhausted_provider_fails_and_does_not_wait() {
    let (mut pool, _) = pool(0, 70);
    let frames: Vec<_> = (0..72).map(|_| pool.alloc()).collect();
    assert_eq!(frames.iter().filter(|frame| frame.is_none()).count(), 2);
    assert_eq!(counters(&pool), [68, 2, 4, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(levels(&pool), (0, 70, 0, 70));
    assert_eq!((pool.stats().extras.alloc_fail, pool.stats().extras.slow_frames), (2, 70));
}

#[test]
fn a_bulk_is_as_many_single_allocations() {
    let (mut single, _) = pool(0, 300);
    let (mut bulk, _) = pool(0, 300);
    let _singles = alloc(&mut single, 200);
    let mut frames = Vec::with_capacity(200);
    assert_eq!(bulk.alloc_bulk(&mut frames, 1000), 200);
    assert_eq!(counters(&bulk), counters(&single));
    assert_eq!(levels(&bulk), levels(&single));
    bulk.put_direct_bulk(&mut frames);
    assert!(frames.is_empty());
    assert_eq!(levels(&bulk).0, 128);
}

#[test]
fn a_foreign_frame_is_refused() {
    let (mut ours, provider) = pool(0, 300);
    let mut other = FramePool::new(PoolConfig::default(), provider);
    ours.put_direct(other.alloc().unwrap());
    ours.recycler().put(other.alloc().unwrap());
    ours.put_direct_bulk(&mut alloc(&mut other, 3));
    assert_eq!(ours.stats().extras.foreign_put, 5);
    assert_eq!((ours.places().cache, ours.places().ring, other.places().out), (0, 0, 5));
}

#[test]
fn two_pools_share_a_umem() {
    let (mut one, provider) = pool(0, 300);
    let mut other = FramePool::new(PoolConfig::default(), provider.clone());
    let (mut ones, others) = (alloc(&mut one, 70), alloc(&mut other, 10));
    one.put_direct_bulk(&mut ones);
    put_each(&other, others);
    let (a, b) = (one.places(), other.places());
    assert_eq!((a.cache, b.cache, b.ring), (128, 54, 10));
    assert_eq!((a.slab, a.total() + b.total() - b.slab), (b.slab, 300));
    let _ = one.destroy(Duration::ZERO);
    let _ = other.destroy(Duration::ZERO);
    assert_eq!(provider.free(), 300);
}

#[test]
fn the_memory_outlives_the_pool_until_the_last_holder_is_gone() {
    let memory = Arc::new([0_u8; 4096]);
    let weak = Arc::downgrade(&memory);
    let provider = UmemProvider::with_memory(FrameLayout::new(4096, 1).unwrap(), Some(memory));
    let mut pool = FramePool::new(PoolConfig::default(), provider);
    let frame = pool.alloc().unwrap();
    let held = pool.give(frame, Duration::ZERO).unwrap();
    assert_ne!(pool.destroy(Duration::ZERO), Shutdown::Freed);
    drop(pool);
    assert!(weak.upgrade().is_some());
    drop(held);
    assert!(weak.upgrade().is_none());
}

#[test]
fn frames_come_home_after_the_pool_is_gone() {
    let (mut pool, provider) = pool(0, 100);
    let (frame, recycler) = (pool.alloc().unwrap(), pool.recycler());
    recycler.put(pool.alloc().unwrap());
    drop(pool);
    assert_eq!(provider.free(), 99);
    recycler.put(frame);
    assert_eq!(provider.free(), 100);
}
