//! Our pool: page_pool's eleven, what page_pool lacks, and where the frames are.

use std::collections::BTreeMap;

use super::{Metric, metrics};
use crate::observe::{HolderView, QueueView};

pub(super) const TREE: &[Metric] = metrics! { Queue
    Counter "umemd_pool_alloc_fast" "Allocations served from the queue's own cache."
        |q| q.snapshot.pool.alloc.fast;
    Counter "umemd_pool_alloc_slow" "Bulk refills from the free list; one per bulk, as the kernel counts."
        |q| q.snapshot.pool.alloc.slow;
    Counter "umemd_pool_alloc_slow_high_order" "Always 0: frames have one size. Kept so that page_pool dashboards fit."
        |q| q.snapshot.pool.alloc.slow_high_order;
    Counter "umemd_pool_alloc_empty" "Times the return ring was empty, which forces the slow path."
        |q| q.snapshot.pool.alloc.empty;
    Counter "umemd_pool_alloc_refill" "Allocations that refilled the cache from the return ring."
        |q| q.snapshot.pool.alloc.refill;
    Counter "umemd_pool_alloc_waive" "Frames taken off the return ring but not used because of their NUMA node."
        |q| q.snapshot.pool.alloc.waive;
    Counter "umemd_pool_recycle_cached" "Frames put into the cache."
        |q| q.snapshot.pool.recycle.cached;
    Counter "umemd_pool_recycle_cache_full" "Direct puts that found the cache full."
        |q| q.snapshot.pool.recycle.cache_full;
    Counter "umemd_pool_recycle_ring" "Frames put into the return ring."
        |q| q.snapshot.pool.recycle.ring;
    Counter "umemd_pool_recycle_ring_full" "Puts that found the return ring full; one per bulk, as the kernel counts."
        |q| q.snapshot.pool.recycle.ring_full;
    Counter "umemd_pool_recycle_released_refcnt" "Frames released because someone else still held them."
        |q| q.snapshot.pool.recycle.released_refcnt;
    Counter "umemd_pool_alloc_failed" "Allocations that found no frame at all; page_pool does not count these."
        |q| q.snapshot.pool.extras.alloc_fail;
    Counter "umemd_pool_slow_frames" "Frames moved by slow refills, where umemd_pool_alloc_slow counts bulks."
        |q| q.snapshot.pool.extras.slow_frames;
    Counter "umemd_pool_ring_full_frames" "Frames that did not fit the return ring and were released."
        |q| q.snapshot.pool.extras.ring_full_frames;
    Counter "umemd_pool_held_refused" "Frames not given away, because as many were held as the pool allows."
        |q| q.snapshot.pool.extras.held_refused;
    Counter "umemd_pool_rejected" ["reason"] "Returns that were refused. Any value but 0 is a bug."
        |q, out| {
            let (extras, refused) = (&q.snapshot.pool.extras, &q.snapshot.refused);
            out.add_with(&["foreign_put"], extras.foreign_put);
            out.add_with(&["double_put"], extras.double_put);
            out.add_with(&["bad_address"], extras.bad_addr + refused.out_of_range);
            out.add_with(&["unexpected"], refused.total() - refused.out_of_range);
        };
    Gauge "umemd_pool_hold_frames" "Frames ever taken from the free list, modulo 2^32 (pages_state_hold_cnt)."
        |q| q.snapshot.hold;
    Gauge "umemd_pool_release_frames" "Frames ever given back to the free list, modulo 2^32 (pages_state_release_cnt)."
        |q| q.snapshot.release;
    Gauge "umemd_pool_inflight_frames" "Hold count minus release count, as page_pool's inflight: idle frames of the pool included."
        |q| q.snapshot.inflight;
    Gauge "umemd_pool_frames" ["state"] "Frames by place; the sum over state is umemd_pool_capacity_frames."
        |q, out| {
            for (place, frames) in q.snapshot.places.iter() {
                out.add_with(&[place], frames);
            }
        };
    Gauge "umemd_pool_swallowed_frames" ["state"] "Frames that the kernel took and kept for longer than umemd_leak_after_seconds, while nothing was completed (tx) or received (kernel), and has not given back since: it lost them, which is a bug of its or of a driver. As long as traffic goes on it may be fewer, as others that are out stand for some that came back. In zero-copy mode of tx only: on the way in those that wait in the NIC's ring look the same."
        |q, out| {
            out.add_with(&["kernel"], q.swallowed.kernel);
            out.add_with(&["tx"], q.swallowed.tx);
        };
    Gauge "umemd_pool_capacity_frames" "Frames of the queue's UMEM; umemd_pool_frames sums to it."
        |q| q.snapshot.total;
    Gauge "umemd_pool_free_lowest_frames" "Fewest frames in slab, cache and ring since the queue was opened, by looks once in a millisecond: what --frames could be less. Of two joined queues the first one has the slab."
        |q| q.snapshot.idle_lowest;
    Gauge "umemd_pool_conserved" "1 while each frame is in exactly one place and the places add up, else 0, which is a bug."
        |q| q.snapshot.conserved();
    Gauge "umemd_held_frames" ["holder"] "Frames that somebody keeps for longer than a turn, by who that is."
        |q, out| {
            for holder in &q.holds.holders {
                out.add_with(&[holder.name], holder.frames);
            }
        };
    Histogram "umemd_frame_hold_seconds" "How long frames were kept that came back, from the turn that they were given away in. Only of those that somebody held for longer than a turn (umemd_held_frames): what the handler was done with at once is not in it."
        |q| q.holds.times;
    Gauge "umemd_umem_frame_size_bytes" "Size of one frame."
        |q| q.frame_size;
    Gauge "umemd_umem_info" ["backing", "node"] "Which pages the frames are in, hugetlb or base ones, and on which NUMA nodes (numa_maps); two queues that are joined have one UMEM."
        |q, out| out.add_with(&[if q.huge_pages { "hugetlb" } else { "base" }, &q.nodes.to_string()], true);
    Gauge "umemd_umem_size_bytes" "Size of the queue's UMEM."
        |q| u64::from(q.frame_size) * u64::from(q.snapshot.total);
};

pub(super) const LEAKS: &[Metric] = metrics! { Agent
    Gauge "umemd_leaked_frames" ["device", "queue", "holder"] "Frames that are kept for longer than umemd_leak_after_seconds, those of queues that were closed too: somebody forgot them."
        |observation, out| {
            for ((device, queue, holder), kept) in kept(observation.queues()) {
                out.add_with(&[device, &queue.to_string(), holder], kept.leaked);
            }
        };
    Gauge "umemd_oldest_hold_seconds" ["device", "queue", "holder"] "For how long the oldest frame has been kept, of queues that were closed too; 0 if none is."
        |observation, out| {
            for ((device, queue, holder), kept) in kept(observation.queues()) {
                out.add_with(&[device, &queue.to_string(), holder], kept.oldest.unwrap_or_default().as_secs_f64());
            }
        };
    Gauge "umemd_leaving_frames" ["device", "queue", "holder"] "Frames that somebody still keeps of queues that were closed; their UMEM waits for them."
        |observation, out| {
            for ((device, queue, holder), kept) in kept(observation.leaving.iter()) {
                out.add_with(&[device, &queue.to_string(), holder], kept.frames);
            }
        };
};

/// What each holder keeps of each queue. A queue may have been closed, more than once, and opened again.
fn kept<'a>(
    queues: impl Iterator<Item = &'a QueueView>,
) -> BTreeMap<(&'a str, u32, &'static str), HolderView> {
    let mut all = BTreeMap::new();
    for (queue, holder) in
        queues.flat_map(|queue| queue.holds.holders.iter().map(move |holder| (queue, holder)))
    {
        let none = HolderView { frames: 0, oldest: None, leaked: 0, ..*holder };
        let sum = all.entry((&*queue.device, queue.queue, holder.name)).or_insert(none);
        sum.frames += holder.frames;
        sum.leaked += holder.leaked;
        sum.oldest = sum.oldest.max(holder.oldest);
    }
    all
}
