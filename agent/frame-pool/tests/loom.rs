//! Every interleaving of a few threads around one pool, by loom.
//!
//! ```sh
//! RUSTFLAGS="--cfg frame_pool_loom" cargo test -p frame-pool --test loom --release
//! ```
//!
//! Both sides of each model are spawned and none of them yields or polls, as loom would then pass over the
//! interleavings that matter. Every model is here because a mutant of the crate fails it: see
//! `tests/mutants.txt`.
#![cfg(frame_pool_loom)]

use std::{sync::Arc, time::Duration};

use frame_pool::{
    Frame, FrameId, FrameLayout, FramePool, FrameRef, HeldFrame, MemoryProvider, PoolConfig, Recycler,
    Shutdown, UmemProvider,
};
use loom::{
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

const NOW: Duration = Duration::ZERO;

/// A pool with a ring of this size over a UMEM of this many frames, taken from the provider singly.
fn pool(ring_size: u32, frames: u32) -> (FramePool, Arc<UmemProvider>) {
    let provider = UmemProvider::new(FrameLayout::new(4096, frames).unwrap());
    let config = PoolConfig {
        ring_size,
        cache_size: 4,
        refill: 1,
        held_limit: frames,
        tokens: true,
        ..PoolConfig::default()
    };
    (FramePool::new(config, provider.clone()), provider)
}

/// As many allocations as can be had.
fn alloc_all(pool: &mut FramePool) -> Vec<Frame> {
    std::iter::from_fn(|| pool.alloc()).collect()
}

/// What a frame's bytes stand for: relaxed, so that only the pool's own ordering makes them seen.
fn bytes(frames: usize) -> Arc<Vec<AtomicU32>> {
    Arc::new((0..frames).map(|_| AtomicU32::new(0)).collect())
}

fn write(bytes: &[AtomicU32], id: FrameId) {
    bytes[id.index()].store(1, Ordering::Relaxed);
}

fn read(bytes: &[AtomicU32], id: FrameId) -> u32 {
    bytes[id.index()].load(Ordering::Relaxed)
}

/// Every frame is in exactly one place, whoever counts.
fn check(pool: &FramePool, frames: u32) {
    let mut idle: Vec<_> = pool.cache_frames().chain(pool.ring_frames()).collect();
    idle.sort();
    idle.dedup();
    let places = pool.places();
    assert_eq!(idle.len() as u32, places.cache + places.ring, "{places:?}");
    assert_eq!(places.total(), frames, "{places:?}");
}

#[test]
fn bytes_travel_with_the_frame() {
    loom::model(|| {
        let (mut pool, _) = pool(4, 2);
        let bytes = bytes(2);
        let putters: Vec<_> = (0..)
            .zip(alloc_all(&mut pool))
            .map(|(which, frame)| {
                let (recycler, bytes) = (pool.recycler(), Arc::clone(&bytes));
                thread::spawn(move || {
                    write(&bytes, frame.id());
                    if which == 0 { recycler.put(frame) } else { recycler.put_bulk(&mut vec![frame]) }
                })
            })
            .collect();
        let owner = thread::spawn(move || {
            let got = alloc_all(&mut pool);
            for frame in &got {
                assert_eq!(read(&bytes, frame.id()), 1);
            }
            (pool, got.len())
        });
        putters.into_iter().for_each(|putter| putter.join().unwrap());
        let (mut pool, got) = owner.join().unwrap();
        check(&pool, 2);
        assert_eq!(got + alloc_all(&mut pool).len(), 2);
    });
}

#[test]
fn a_slot_is_filled_only_after_it_was_emptied() {
    loom::model(|| {
        let (mut pool, _) = pool(1, 3);
        let mut frames = alloc_all(&mut pool);
        pool.recycler().put(frames.pop().unwrap());
        let putters: Vec<_> = frames
            .into_iter()
            .map(|frame| {
                let recycler = pool.recycler();
                thread::spawn(move || recycler.put(frame))
            })
            .collect();
        let first = pool.alloc().unwrap();
        putters.into_iter().for_each(|putter| putter.join().unwrap());
        // What the ring did not take is in the slab; what it took is still there.
        check(&pool, 3);
        assert_eq!(alloc_all(&mut pool).len(), 2);
        pool.put_direct(first);
    });
}

/// With more than one slot, as a tail beside too old a head then looks like room.
#[test]
fn a_bulk_fills_only_slots_that_were_emptied() {
    loom::model(|| {
        let (mut pool, _) = pool(2, 4);
        let mut frames = alloc_all(&mut pool);
        // The second slot is the oldest.
        pool.recycler().put(frames.pop().unwrap());
        frames.push(pool.alloc().unwrap());
        let mut full: Vec<_> = frames.drain(..2).collect();
        pool.recycler().put_bulk(&mut full);
        let putters: Vec<_> = frames
            .into_iter()
            .map(|frame| {
                let recycler = pool.recycler();
                thread::spawn(move || recycler.put_bulk(&mut vec![frame]))
            })
            .collect();
        let first = pool.alloc().unwrap();
        putters.into_iter().for_each(|putter| putter.join().unwrap());
        check(&pool, 4);
        assert_eq!(alloc_all(&mut pool).len(), 3);
        pool.put_direct(first);
    });
}

#[test]
fn two_bulks_share_the_last_slots() {
    loom::model(|| {
        let (mut pool, _) = pool(3, 4);
        let frames = alloc_all(&mut pool);
        let mut frames = frames.into_iter();
        let putters: Vec<_> = (0..2)
            .map(|_| {
                let (recycler, mut bulk) = (pool.recycler(), frames.by_ref().take(2).collect::<Vec<_>>());
                thread::spawn(move || recycler.put_bulk(&mut bulk))
            })
            .collect();
        putters.into_iter().for_each(|putter| putter.join().unwrap());
        check(&pool, 4);
        let stats = pool.stats();
        assert_eq!((stats.recycle.ring, stats.extras.ring_full_frames), (3, 1));
        assert_eq!(alloc_all(&mut pool).len(), 4);
    });
}

#[test]
fn a_late_frame_is_collected_after_destroy() {
    loom::model(|| {
        let (mut pool, provider) = pool(2, 2);
        let mut frames = alloc_all(&mut pool);
        let (held, idle) = (frames.pop().unwrap(), frames.pop().unwrap());
        pool.recycler().put(idle);
        let (recycler, bytes, id) = (pool.recycler(), bytes(2), held.id());
        let holder = {
            let bytes = Arc::clone(&bytes);
            thread::spawn(move || {
                write(&bytes, id);
                recycler.put(held);
            })
        };
        let owner = {
            let provider = Arc::clone(&provider);
            thread::spawn(move || {
                pool.destroy(NOW);
                let mut free = Vec::new();
                provider.alloc_bulk(&mut free, 2, 0);
                if free.iter().any(|frame| frame.id() == id) {
                    assert_eq!(read(&bytes, id), 1);
                }
                provider.release(&mut free.into_iter());
                pool
            })
        };
        holder.join().unwrap();
        let mut pool = owner.join().unwrap();
        check(&pool, 2);
        assert_eq!(pool.retry(NOW + Duration::from_secs(1)), Shutdown::Freed);
        assert_eq!((provider.free(), pool.inflight()), (2, 0));
    });
}

#[test]
fn no_frame_is_stranded_when_the_pool_goes() {
    loom::model(|| {
        let (mut pool, provider) = pool(2, 2);
        let holders: Vec<_> = alloc_all(&mut pool)
            .into_iter()
            .map(|frame| {
                let recycler = pool.recycler();
                thread::spawn(move || recycler.put(frame))
            })
            .collect();
        drop(pool);
        holders.into_iter().for_each(|holder| holder.join().unwrap());
        assert_eq!(provider.free(), 2);
    });
}

#[test]
fn the_last_of_several_holders_recycles_and_saw_what_the_others_did() {
    loom::model(|| {
        let (mut pool, _) = pool(2, 1);
        let bytes = bytes(2);
        let frame = pool.alloc().unwrap();
        let first = pool.give(frame, NOW).unwrap();
        let second = first.try_clone().unwrap();
        let drop_after_writing = |held: HeldFrame, byte: usize| {
            let bytes = Arc::clone(&bytes);
            thread::spawn(move || {
                bytes[byte].store(1, Ordering::Relaxed);
                drop(held);
            })
        };
        let holders = [drop_after_writing(first, 0), drop_after_writing(second, 1)];
        let bytes = Arc::clone(&bytes);
        let owner = thread::spawn(move || {
            if pool.alloc().is_some() {
                assert_eq!([0, 1].map(|byte| bytes[byte].load(Ordering::Relaxed)), [1, 1]);
            }
            pool
        });
        holders.into_iter().for_each(|holder| holder.join().unwrap());
        let pool = owner.join().unwrap();
        check(&pool, 1);
        assert_eq!((pool.places().out + pool.places().ring, pool.held()), (1, 0));
    });
}

#[test]
fn a_pinned_frame_leaves_and_arrives_once() {
    loom::model(|| {
        let (mut pool, provider) = pool(2, 1);
        let recycler = pool.recycler();
        let frame = pool.alloc().unwrap();
        let bundle = recycler.share(frame, 1).unwrap();
        let pin = recycler.pin(&bundle).unwrap();
        let holder = {
            let recycler = recycler.clone();
            thread::spawn(move || recycler.put_ref(bundle))
        };
        let exporter = thread::spawn(move || recycler.unpin(pin).unwrap());
        holder.join().unwrap();
        exporter.join().unwrap();
        check(&pool, 1);
        assert_eq!((pool.places().out, pool.places().detached), (0, 0));
        assert_eq!(provider.free() + pool.places().ring, 1);
        assert!(pool.alloc().is_some());
    });
}

#[test]
fn who_gets_a_frame_next_saw_what_holder_and_pin_did() {
    after_holder_and_pin(|recycler, bundle| recycler.put_ref(bundle));
}

#[test]
fn who_gets_a_frame_next_saw_what_holder_and_pin_did_to_a_bulk() {
    after_holder_and_pin(|recycler, bundle| recycler.put_refs_bulk(&mut vec![bundle]));
}

fn after_holder_and_pin(put: fn(&Recycler, FrameRef)) {
    loom::model(move || {
        let (mut pool, _) = pool(2, 1);
        let recycler = pool.recycler();
        let bytes = bytes(2);
        let frame = pool.alloc().unwrap();
        let bundle = recycler.share(frame, 1).unwrap();
        let pin = recycler.pin(&bundle).unwrap();
        let holder = {
            let (recycler, bytes) = (recycler.clone(), Arc::clone(&bytes));
            thread::spawn(move || {
                bytes[0].store(1, Ordering::Relaxed);
                put(&recycler, bundle);
            })
        };
        let exporter = {
            let bytes = Arc::clone(&bytes);
            thread::spawn(move || {
                bytes[1].store(1, Ordering::Relaxed);
                recycler.unpin(pin).unwrap();
            })
        };
        if pool.alloc().is_some() {
            assert_eq!([0, 1].map(|byte| bytes[byte].load(Ordering::Relaxed)), [1, 1]);
        }
        holder.join().unwrap();
        exporter.join().unwrap();
        check(&pool, 1);
    });
}

#[test]
fn a_sole_holder_saw_what_the_others_did() {
    loom::model(|| {
        let (mut pool, _) = pool(2, 1);
        let recycler = pool.recycler();
        let bytes = bytes(1);
        let frame = pool.alloc().unwrap();
        let mut bundle = recycler.share(frame, 2).unwrap();
        let part = bundle.split(1).unwrap();
        let id = bundle.id();
        let other = {
            let (recycler, bytes) = (recycler.clone(), Arc::clone(&bytes));
            thread::spawn(move || {
                write(&bytes, id);
                recycler.put_ref(part);
            })
        };
        let owner = thread::spawn(move || {
            match recycler.unshare(bundle) {
                Ok(frame) => {
                    assert_eq!(read(&bytes, id), 1);
                    pool.put_direct(frame);
                }
                Err(bundle) => pool.put_ref_direct(bundle),
            }
            pool
        });
        other.join().unwrap();
        let pool = owner.join().unwrap();
        check(&pool, 1);
        assert_eq!((pool.places().out, pool.held()), (0, 0));
    });
}

#[test]
fn who_holds_all_the_rest_saw_what_the_others_did() {
    loom::model(|| {
        let (mut pool, _) = pool(2, 1);
        let recycler = pool.recycler();
        let bytes = bytes(1);
        let frame = pool.alloc().unwrap();
        let id = frame.id();
        let mut rest = recycler.share(frame, 3).unwrap();
        let part = rest.split(1).unwrap();
        let other = {
            let bytes = Arc::clone(&bytes);
            thread::spawn(move || {
                write(&bytes, id);
                recycler.put_ref(part);
            })
        };
        let owner = thread::spawn(move || {
            pool.put_ref_direct(rest);
            if pool.alloc().is_some() {
                assert_eq!(read(&bytes, id), 1);
            }
            pool
        });
        other.join().unwrap();
        check(&owner.join().unwrap(), 1);
    });
}

#[test]
fn a_shared_and_pinned_frame_leaves_and_arrives_once() {
    loom::model(|| {
        let (mut pool, provider) = pool(2, 1);
        let recycler = pool.recycler();
        let frame = pool.alloc().unwrap();
        let mut bundle = recycler.share(frame, 2).unwrap();
        let pin = recycler.pin(&bundle).unwrap();
        let other = bundle.split(1).unwrap();
        let holders = [bundle, other].map(|bundle| {
            let recycler = recycler.clone();
            thread::spawn(move || recycler.put_ref(bundle))
        });
        recycler.unpin(pin).unwrap();
        holders.into_iter().for_each(|holder| holder.join().unwrap());
        check(&pool, 1);
        assert_eq!((pool.places().out, pool.places().detached), (0, 0));
        assert_eq!(provider.free() + pool.places().ring, 1);
        assert!(pool.alloc().is_some());
    });
}

#[test]
fn a_fragmented_frame_is_recycled_once() {
    loom::model(|| {
        let (mut pool, _) = pool(2, 2);
        let recycler = pool.recycler();
        let piece = pool.alloc_frag(4096).unwrap();
        let holder = thread::spawn(move || recycler.put_ref(piece.right));
        // The drain meets the return.
        let next = pool.alloc_frag(4096).unwrap();
        holder.join().unwrap();
        check(&pool, 2);
        pool.put_ref_direct(next.right);
        pool.destroy(NOW);
        assert_eq!(pool.places().slab, 2, "{:?}", pool.places());
    });
}

#[test]
fn of_two_who_redeem_a_number_one_gets_the_frame() {
    loom::model(|| {
        let (mut pool, _) = pool(2, 1);
        let bytes = bytes(1);
        let frame = pool.alloc().unwrap();
        write(&bytes, frame.id());
        let token = pool.give_token(frame).unwrap();
        let redeemers: Vec<_> = (0..2)
            .map(|_| {
                let (recycler, bytes) = (pool.recycler(), Arc::clone(&bytes));
                thread::spawn(move || {
                    let frame = recycler.redeem(token).ok()?;
                    assert_eq!(read(&bytes, frame.id()), 1);
                    recycler.put(frame);
                    Some(())
                })
            })
            .collect();
        let redeemed = redeemers.into_iter().filter_map(|redeemer| redeemer.join().unwrap()).count();
        assert_eq!((redeemed, pool.stats().extras.double_put), (1, 1));
        check(&pool, 1);
    });
}

/// A number can be known, or guessed, before its frame is given away.
#[test]
fn who_redeems_a_number_saw_what_the_giver_did() {
    loom::model(|| {
        let (mut pool, _) = pool(2, 1);
        let (recycler, bytes) = (pool.recycler(), bytes(1));
        let frame = pool.alloc().unwrap();
        let token = pool.give_token(frame).unwrap();
        let frame = recycler.redeem(token).unwrap();
        let giver = {
            let bytes = Arc::clone(&bytes);
            thread::spawn(move || {
                write(&bytes, frame.id());
                assert_eq!(pool.give_token(frame), Ok(token));
                pool
            })
        };
        let redeemer = thread::spawn(move || {
            if let Ok(frame) = recycler.redeem(token) {
                assert_eq!(read(&bytes, frame.id()), 1);
                recycler.put(frame);
            }
        });
        redeemer.join().unwrap();
        check(&giver.join().unwrap(), 1);
    });
}
