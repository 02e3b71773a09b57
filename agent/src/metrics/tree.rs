//! The metric tree: one row per metric. What is not here is not exported.
//!
//! Names follow the kernel (page_pool's counters, `struct xdp_statistics`) under the prefix `umemd_`; the
//! writer adds `_total` to counters, as OpenMetrics wants it.

use crate::observe::QueueView;

/// Whether a metric only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows, and starts from 0.
    Counter,
    /// Can fall.
    Gauge,
}

/// A metric with one value per queue; labels `device` and `queue`.
pub(super) struct PerQueue {
    /// Without suffix.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// One sentence that says where the number comes from.
    pub(super) help: &'static str,
    /// `None`: the kernel does not tell; there is no series then, never a zero.
    pub(super) value: fn(&QueueView) -> Option<u64>,
}

/// A metric with several values per queue; labels `device`, `queue` and one more.
pub(super) struct PerQueueAnd {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
    /// Name of the third label.
    pub(super) label: &'static str,
    /// Its values, each with the metric's value.
    pub(super) values: fn(&QueueView) -> Vec<(&'static str, u64)>,
}

macro_rules! per_queue {
    ($($kind:ident $name:literal $help:literal $value:expr;)*) => {
        &[$(PerQueue { name: $name, kind: Kind::$kind, help: $help, value: $value }),*]
    };
}

pub(super) const PER_QUEUE: &[PerQueue] = per_queue! {
    Counter "umemd_pool_alloc_fast" "Allocations served from the queue's own cache."
        |q| Some(q.snapshot.pool.alloc.fast);
    Counter "umemd_pool_alloc_slow" "Bulk refills from the free list; one per bulk, as the kernel counts."
        |q| Some(q.snapshot.pool.alloc.slow);
    Counter "umemd_pool_alloc_slow_high_order" "Always 0: frames have one size. Kept so that page_pool dashboards fit."
        |q| Some(q.snapshot.pool.alloc.slow_high_order);
    Counter "umemd_pool_alloc_empty" "Times the return ring was empty, which forces the slow path."
        |q| Some(q.snapshot.pool.alloc.empty);
    Counter "umemd_pool_alloc_refill" "Allocations that refilled the cache from the return ring."
        |q| Some(q.snapshot.pool.alloc.refill);
    Counter "umemd_pool_alloc_waive" "Frames taken off the return ring but not used because of their NUMA node."
        |q| Some(q.snapshot.pool.alloc.waive);
    Counter "umemd_pool_recycle_cached" "Frames put into the cache."
        |q| Some(q.snapshot.pool.recycle.cached);
    Counter "umemd_pool_recycle_cache_full" "Direct puts that found the cache full."
        |q| Some(q.snapshot.pool.recycle.cache_full);
    Counter "umemd_pool_recycle_ring" "Frames put into the return ring."
        |q| Some(q.snapshot.pool.recycle.ring);
    Counter "umemd_pool_recycle_ring_full" "Puts that found the return ring full; one per bulk, as the kernel counts."
        |q| Some(q.snapshot.pool.recycle.ring_full);
    Counter "umemd_pool_recycle_released_refcnt" "Frames released because someone else still held them."
        |q| Some(q.snapshot.pool.recycle.released_refcnt);
    Counter "umemd_pool_alloc_failed" "Allocations that found no frame at all; page_pool does not count these."
        |q| Some(q.snapshot.pool.extras.alloc_fail);
    Counter "umemd_pool_slow_frames" "Frames moved by slow refills, where umemd_pool_alloc_slow counts bulks."
        |q| Some(q.snapshot.pool.extras.slow_frames);
    Counter "umemd_pool_ring_full_frames" "Frames that did not fit the return ring and were released."
        |q| Some(q.snapshot.pool.extras.ring_full_frames);
    Gauge "umemd_pool_hold_frames" "Frames ever taken from the free list, modulo 2^32 (pages_state_hold_cnt)."
        |q| Some(q.snapshot.hold.into());
    Gauge "umemd_pool_release_frames" "Frames ever given back to the free list, modulo 2^32 (pages_state_release_cnt)."
        |q| Some(q.snapshot.release.into());
    Gauge "umemd_pool_inflight_frames" "Hold count minus release count, as page_pool's inflight: idle frames of the pool included."
        |q| Some(q.snapshot.inflight.max(0) as u64);
    Gauge "umemd_pool_capacity_frames" "Frames of the queue's UMEM; umemd_pool_frames sums to it."
        |q| Some(q.snapshot.total.into());
    Gauge "umemd_umem_frame_size_bytes" "Size of one frame."
        |q| Some(q.frame_size.into());
    Counter "umemd_xsk_rx_dropped" "xdp_statistics.rx_dropped: too long for a frame, or no frame on the fill ring."
        |q| q.xsk.map(|x| x.rx_dropped);
    Counter "umemd_xsk_rx_invalid_descs" "xdp_statistics.rx_invalid_descs: no kernel up to 7.3 ever moves it."
        |q| q.xsk.map(|x| x.rx_invalid_descs);
    Counter "umemd_xsk_tx_invalid_descs" "xdp_statistics.tx_invalid_descs: TX descriptors that the kernel refused."
        |q| q.xsk.map(|x| x.tx_invalid_descs);
    Counter "umemd_xsk_rx_ring_full" "xdp_statistics.rx_ring_full: dropped because the RX ring had no room."
        |q| q.xsk.and_then(|x| x.rx_ring_full);
    Counter "umemd_xsk_rx_fill_ring_empty_descs" "xdp_statistics.rx_fill_ring_empty_descs: the kernel found the fill ring empty; in rx_dropped too."
        |q| q.xsk.and_then(|x| x.rx_fill_ring_empty_descs);
    Counter "umemd_xsk_tx_ring_empty_descs" "xdp_statistics.tx_ring_empty_descs: the kernel found the TX ring empty, which is normal."
        |q| q.xsk.and_then(|x| x.tx_ring_empty_descs);
    Counter "umemd_rx_packets" "Packets read from the RX ring."
        |q| Some(q.snapshot.traffic.rx_packets);
    Counter "umemd_rx_bytes" "Bytes of the packets read from the RX ring."
        |q| Some(q.snapshot.traffic.rx_bytes);
    Counter "umemd_tx_packets" "Packets put on the TX ring."
        |q| Some(q.snapshot.traffic.tx_packets);
    Counter "umemd_tx_bytes" "Bytes of the packets put on the TX ring."
        |q| Some(q.snapshot.traffic.tx_bytes);
    Counter "umemd_tx_completions" "Frames read from the completion ring; completed does not mean sent."
        |q| Some(q.snapshot.traffic.completions);
    Counter "umemd_worker_failed_open" "Times the watchdog gave the queue's traffic back to the stack because its worker made no turns."
        |q| Some(q.failed_open);
    Gauge "umemd_worker_steered" "1 while the XDP program finds the queue's socket, 0 while its traffic goes to the stack."
        |q| Some(q.steered.into());
};

pub(super) const PER_QUEUE_AND: &[PerQueueAnd] = &[
    PerQueueAnd {
        name: "umemd_pool_frames",
        kind: Kind::Gauge,
        help: "Frames by place; the sum over state is umemd_pool_capacity_frames.",
        label: "state",
        values: |q| q.snapshot.places.iter().map(|(name, frames)| (name, frames.into())).collect(),
    },
    PerQueueAnd {
        name: "umemd_pool_rejected",
        kind: Kind::Counter,
        help: "Returns that were refused. Any value but 0 is a bug.",
        label: "reason",
        values: |q| {
            let (extras, refused) = (&q.snapshot.pool.extras, &q.snapshot.refused);
            vec![
                ("foreign_put", extras.foreign_put),
                ("double_put", extras.double_put),
                ("bad_address", extras.bad_addr + refused.out_of_range),
                ("unexpected", refused.total() - refused.out_of_range),
            ]
        },
    },
    PerQueueAnd {
        name: "umemd_packets_dropped",
        kind: Kind::Counter,
        help: "Packets dropped by the agent's worker, by reason.",
        label: "reason",
        values: |q| q.snapshot.traffic.drops().collect(),
    },
    PerQueueAnd {
        name: "umemd_ring_wakeups",
        kind: Kind::Counter,
        help: "System calls made to wake the kernel for the TX ring, by what it answered.",
        label: "answer",
        values: |q| {
            let traffic = &q.snapshot.traffic;
            vec![("done", traffic.kicks_done), ("again", traffic.kicks_again), ("down", traffic.kicks_down)]
        },
    },
    PerQueueAnd {
        name: "umemd_worker_polls",
        kind: Kind::Counter,
        help: "Turns of the queue's worker.",
        label: "result",
        values: |q| vec![("busy", q.snapshot.turns_busy), ("idle", q.snapshot.turns_idle)],
    },
];
