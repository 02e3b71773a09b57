//! The kernel's side: its page_pools under the same names as ours, and the drop table.

use super::{Kind, Metric, Read, metrics};
use crate::{boot::booted_at, drops};

pub(super) const DROPS: &[Metric] = metrics! { Device
    Counter "umemd_drops" ["layer", "cause", "lost"] "The rows of `umemd drops` that only grow, from the wire to the handler; lost is false for those that are no losses. They overlap: only those that are lost, but for layer nic, may be added up."
        |device, out| {
            for row in drops::rows(device).iter().filter(|row| row.cause != drops::UNACCOUNTED) {
                let lost = if row.is_lost() { "true" } else { "false" };
                out.add_with(&[row.layer.name(), &row.cause, lost], row.count);
            }
        };
    Gauge "umemd_xdp_unaccounted_packets" "Packets that the program steered and no socket has seen: their redirect failed, or they are on their way. Nothing to do with frames of the pool: see umemd_pool_conserved."
        drops::unaccounted;
};

pub(super) const POOLS: &[Metric] = metrics! { Pool
    Counter "umemd_kernel_page_pool_alloc_fast" "The kernel's alloc fast: pages served from the pool's cache (page-pool-stats-get, or ethtool rx_pp_alloc_fast)."
        |p| p.counters.and_then(|c| c.alloc_fast);
    Counter "umemd_kernel_page_pool_alloc_slow" "The kernel's alloc slow: bulks from the page allocator (rx_pp_alloc_slow)."
        |p| p.counters.and_then(|c| c.alloc_slow);
    Counter "umemd_kernel_page_pool_alloc_slow_high_order" "The kernel's alloc slow_high_order: pages of higher order from the page allocator (rx_pp_alloc_slow_ho)."
        |p| p.counters.and_then(|c| c.alloc_slow_high_order);
    Counter "umemd_kernel_page_pool_alloc_empty" "The kernel's alloc empty: the pool's ring was empty (rx_pp_alloc_empty)."
        |p| p.counters.and_then(|c| c.alloc_empty);
    Counter "umemd_kernel_page_pool_alloc_refill" "The kernel's alloc refill: allocations that refilled the cache from the ring (rx_pp_alloc_refill)."
        |p| p.counters.and_then(|c| c.alloc_refill);
    Counter "umemd_kernel_page_pool_alloc_waive" "The kernel's alloc waive: pages given up because of their NUMA node (rx_pp_alloc_waive)."
        |p| p.counters.and_then(|c| c.alloc_waive);
    Counter "umemd_kernel_page_pool_recycle_cached" "The kernel's recycle cached: pages put into the cache (rx_pp_recycle_cached)."
        |p| p.counters.and_then(|c| c.recycle_cached);
    Counter "umemd_kernel_page_pool_recycle_cache_full" "The kernel's recycle cache_full: the cache had no room (rx_pp_recycle_cache_full)."
        |p| p.counters.and_then(|c| c.recycle_cache_full);
    Counter "umemd_kernel_page_pool_recycle_ring" "The kernel's recycle ring: pages put into the ring (rx_pp_recycle_ring)."
        |p| p.counters.and_then(|c| c.recycle_ring);
    Counter "umemd_kernel_page_pool_recycle_ring_full" "The kernel's recycle ring_full: the ring had no room (rx_pp_recycle_ring_full)."
        |p| p.counters.and_then(|c| c.recycle_ring_full);
    Counter "umemd_kernel_page_pool_recycle_released_refcnt" "The kernel's recycle released_refcnt: pages released because someone still held them (rx_pp_recycle_released_ref)."
        |p| p.counters.and_then(|c| c.recycle_released_refcnt);
    Gauge "umemd_kernel_page_pool_inflight_pages" "Pages taken from the allocator and not given back (page-pool-get, inflight)."
        |p| p.inflight_pages;
    Gauge "umemd_kernel_page_pool_inflight_bytes" "Bytes of those pages (page-pool-get, inflight-mem)."
        |p| p.inflight_bytes;
};

pub(super) const POOL_INFO: &[Metric] = &[
    Metric {
        name: "umemd_kernel_page_pool_detach_timestamp_seconds",
        kind: Kind::Gauge,
        labels: &[],
        help: "When the driver was done with a pool that cannot end, as somebody keeps its pages; absent for pools in use. Device lo has those of interfaces that are gone.",
        read: Read::Pool(|pool, out| {
            out.add(pool.detached_at.map(|seconds| (booted_at() + seconds as f64).round()));
        }),
    },
    Metric {
        name: "umemd_kernel_page_pool_info",
        kind: Kind::Gauge,
        labels: &["napi", "memory"],
        help: "What the pool is (page-pool-get); pool all is the sum that ethtool tells.",
        read: Read::Pool(|pool, out| {
            let napi = pool.napi.map(|napi| napi.to_string()).unwrap_or_default();
            out.add_with(&[&napi, pool.memory.name()], true);
        }),
    },
];
