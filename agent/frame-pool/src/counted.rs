//! Atomics for the unit tests, which count how often a thread reads, changes and writes a word as one: the
//! operations that cost what a lock costs. Loads and stores are free here, as they are on most processors.

use std::{cell::Cell, sync::atomic};

use crate::sync::Ordering;

thread_local! {
    static COUNT: Cell<u32> = const { Cell::new(0) };
}

/// Notes one operation of this thread.
pub(crate) fn note() {
    COUNT.set(COUNT.get() + 1);
}

/// How many such operations this thread does in `work`.
fn count<T>(work: impl FnOnce() -> T) -> (u32, T) {
    let before = COUNT.get();
    let result = work();
    (COUNT.get() - before, result)
}

macro_rules! counted {
    ($name:ident, $value:ty) => {
        #[derive(Debug, Default)]
        pub(crate) struct $name(atomic::$name);

        impl $name {
            pub(crate) const fn new(value: $value) -> Self {
                Self(atomic::$name::new(value))
            }

            pub(crate) fn load(&self, order: Ordering) -> $value {
                self.0.load(order)
            }

            pub(crate) fn store(&self, value: $value, order: Ordering) {
                self.0.store(value, order);
            }

            pub(crate) fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                note();
                self.0.fetch_add(value, order)
            }

            pub(crate) fn fetch_or(&self, value: $value, order: Ordering) -> $value {
                note();
                self.0.fetch_or(value, order)
            }
        }
    };
}

counted!(AtomicU32, u32);
counted!(AtomicU64, u64);

impl AtomicU32 {
    pub(crate) fn fetch_sub(&self, value: u32, order: Ordering) -> u32 {
        note();
        self.0.fetch_sub(value, order)
    }

    pub(crate) fn fetch_and(&self, value: u32, order: Ordering) -> u32 {
        note();
        self.0.fetch_and(value, order)
    }

    pub(crate) fn fetch_update(
        &self,
        set: Ordering,
        fetch: Ordering,
        change: impl FnMut(u32) -> Option<u32>,
    ) -> Result<u32, u32> {
        note();
        self.0.fetch_update(set, fetch, change)
    }
}

impl AtomicU64 {
    pub(crate) fn compare_exchange_weak(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        note();
        self.0.compare_exchange_weak(current, new, success, failure)
    }
}

mod tests {
    use std::time::Duration;

    use super::count;
    use crate::{Frame, FrameLayout, FramePool, PoolConfig, UmemProvider};

    /// A pool whose frames are all idle in its cache.
    fn pool() -> FramePool {
        let provider = UmemProvider::new(FrameLayout::new(4096, 128).unwrap());
        let mut pool = FramePool::new(PoolConfig { refill: 128, ..PoolConfig::default() }, provider);
        let frame = pool.alloc().unwrap();
        pool.put_direct(frame);
        pool
    }

    /// One frame through `way`, and how much that cost beside taking it, which costs nothing.
    fn cost<T>(pool: &mut FramePool, way: impl FnOnce(&mut FramePool, Frame) -> T) -> (u32, T) {
        let (taking, frame) = count(|| pool.alloc().unwrap());
        assert_eq!(taking, 0);
        count(|| way(pool, frame))
    }

    #[test]
    fn a_sole_holder_pays_no_more_than_loads_and_stores() {
        let mut pool = pool();
        let recycler = pool.recycler();
        assert_eq!(cost(&mut pool, FramePool::put_direct).0, 0);
        for refs in [1, 2, 64] {
            let (sharing, bundle) = cost(&mut pool, |_, frame| recycler.share(frame, refs).unwrap());
            assert_eq!((sharing, count(|| pool.put_ref_direct(bundle)).0), (0, 0), "{refs} references");
            let (sharing, bundle) = cost(&mut pool, |_, frame| recycler.share(frame, refs).unwrap());
            let (unsharing, frame) = count(|| recycler.unshare(bundle).unwrap());
            assert_eq!((sharing, unsharing), (0, 0), "{refs} references");
            pool.put_direct(frame);
        }
        let mut bundles: Vec<_> =
            (0..64).map(|_| recycler.share(pool.alloc().unwrap(), 1).unwrap()).collect();
        assert_eq!(count(|| pool.put_refs_direct_bulk(&mut bundles)).0, 0);
        // Its last reference, after the others went.
        let mut bundle = recycler.share(pool.alloc().unwrap(), 2).unwrap();
        let other = bundle.split(1).unwrap();
        assert_eq!(count(|| pool.put_ref_direct(other)).0, 1);
        assert_eq!(count(|| pool.put_ref_direct(bundle)).0, 0);
        assert_eq!(pool.places().out, 0);
    }

    #[test]
    fn who_is_not_the_last_pays_one_subtraction_for_a_whole_bundle() {
        let mut pool = pool();
        for parting in [1, 5, 60] {
            let (_, mut bundle) = cost(&mut pool, |pool, frame| pool.recycler().share(frame, 64).unwrap());
            let part = bundle.split(parting).unwrap();
            assert_eq!(count(|| pool.put_ref_direct(part)).0, 1, "{parting} references");
            pool.put_ref_direct(bundle);
        }
    }

    #[test]
    fn fragments_cost_their_cutter_nothing() {
        let mut pool = pool();
        let (cutting, pieces) = count(|| [0; 4].map(|_| pool.alloc_frag(1024).unwrap()));
        assert_eq!(cutting, 0);
        // The drain of the bias is one subtraction, and so is each piece but the last.
        let (draining, next) = count(|| pool.alloc_frag(1024).unwrap());
        assert_eq!(draining, 1);
        let costs = pieces.map(|piece| count(|| pool.put_ref_direct(piece.right)).0);
        assert_eq!(costs, [1, 1, 1, 0]);
        pool.put_ref_direct(next.right);
    }

    #[test]
    fn the_ring_costs_a_swap_for_each_put_and_its_consumer_nothing() {
        let mut pool = pool();
        let recycler = pool.recycler();
        assert_eq!(cost(&mut pool, |_, frame| recycler.put(frame)).0, 1);
        let shared = |_: &mut FramePool, frame| recycler.put_ref(recycler.share(frame, 1).unwrap());
        assert_eq!(cost(&mut pool, shared).0, 1);
        let mut frames = Vec::with_capacity(128);
        pool.alloc_bulk(&mut frames, 100);
        assert_eq!(count(|| recycler.put_bulk(&mut frames)).0, 1);
        // Whatever is left in the cache, and then what the ring has.
        assert_eq!(count(|| pool.alloc_bulk(&mut frames, 128)), (0, 128));
        assert!(pool.stats().alloc.refill > 0);
        pool.put_direct_bulk(&mut frames);
    }

    /// Beside what cloning and dropping an `Arc` costs.
    #[test]
    fn giving_a_frame_away_costs_the_count_of_held_ones_and_its_return_a_swap() {
        let mut pool = pool();
        let (giving, held) = cost(&mut pool, |pool, frame| pool.give(frame, Duration::ZERO).unwrap());
        assert_eq!(giving, 1);
        assert_eq!(count(|| drop(held)).0, 2);
    }
}
