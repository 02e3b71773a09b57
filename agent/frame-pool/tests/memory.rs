//! What a pool costs: memory once, when it is made, and none after that.
#![cfg(not(frame_pool_loom))]

use std::time::Duration;

use allocation_counter::measure;
use frame_pool::{FrameLayout, FramePool, Ledger, Lent, PoolConfig, UmemProvider};

#[test]
fn a_frame_costs_at_most_16_bytes_beside_the_umem() {
    for (frames, ring_size) in [(4096, 0), (16_384, 16_384), (1 << 18, 16_384)] {
        let layout = FrameLayout::new(4096, frames).unwrap();
        let mut kept = None;
        let info = measure(|| {
            let pool =
                FramePool::new(PoolConfig { ring_size, ..PoolConfig::default() }, UmemProvider::new(layout));
            kept = Some((pool, Ledger::new(layout)));
        });
        // The pool itself, its cache and its counters, whatever the number of frames.
        let constant = 2560;
        let per_frame = (info.bytes_max as f64 - f64::from(constant)) / f64::from(frames);
        assert!(per_frame <= 16.0, "{per_frame} bytes per frame of {frames}");
    }
}

#[test]
fn nothing_is_allocated_after_construction() {
    let layout = FrameLayout::new(4096, 512).unwrap();
    let config = PoolConfig { ring_size: 40, held_limit: 8, tokens: true, ..PoolConfig::default() };
    let mut pool = FramePool::new(config, UmemProvider::new(layout));
    let mut ledger = Ledger::new(layout);
    let recycler = pool.recycler();
    let mut frames = Vec::with_capacity(512);
    let mut bundles = Vec::with_capacity(8);
    let info = measure(|| {
        for _ in 0..3 {
            assert_eq!(pool.alloc_bulk(&mut frames, 300), 300);
            let addrs: [_; 8] =
                std::array::from_fn(|_| layout.addr_of(ledger.lend(frames.pop().unwrap(), Lent::Fill)));
            frames.extend(addrs.map(|addr| ledger.settle(Lent::Fill, addr).unwrap()));
            let held: [_; 4] =
                std::array::from_fn(|_| pool.give(frames.pop().unwrap(), Duration::ZERO).unwrap());
            drop(held);
            let token = pool.give_token(frames.pop().unwrap()).unwrap();
            recycler.put(recycler.redeem(token).unwrap());
            let mut bundle = recycler.share(frames.pop().unwrap(), 3).unwrap();
            let pin = recycler.pin(&bundle).unwrap();
            bundles.push(bundle.split(1).unwrap());
            bundles.push(bundle);
            bundles.push(pool.alloc_frag(100).unwrap().right);
            pool.put_refs_direct_bulk(&mut bundles);
            recycler.unpin(pin).unwrap();
            // More than the ring takes, and more than the cache does.
            frames.drain(..100).for_each(|frame| recycler.put(frame));
            frames.drain(..10).for_each(|frame| pool.put_direct(frame));
            pool.put_direct_bulk(&mut frames);
            let _ = (pool.stats(), pool.places());
        }
        pool.update_nid(1);
        let _ = pool.destroy(Duration::ZERO);
    });
    assert_eq!((info.count_total, info.bytes_total), (0, 0));
}
