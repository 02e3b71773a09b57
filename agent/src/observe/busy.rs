//! [`fixture_busy`]: an agent at work. Of an agent at rest most numbers are 0, so that nobody sees when one field is read
//! for another.

use std::{sync::Arc, time::Duration};

use datapath::{
    Traffic,
    snapshot::{Places, Snapshot},
};
use frame_pool::{AllocStats, ExtraStats, HoldTimes, PoolStats, RecycleStats, RefusedCounts};
use rustix::net::xdp::XdpStatistics;
use umemd_common::{Decision, maps::Count};

use super::{
    Collector, HolderView, HoldsView, Observation, ProcessView, QueueView, Swallowed, fixture_with_kernel,
};
use crate::{capture::Written, nic::netdev::Features, page_pool::Counters, xsk::RingSizes};

/// The one with what the kernel says, at work: no two numbers that are not of the same thing are the same, and the law
/// holds. A queue was closed whose frames somebody keeps.
pub(crate) fn fixture_busy() -> Observation {
    let mut observation = fixture_with_kernel();
    observation.epoch -= Duration::from_secs(500);
    (observation.reloads.applied, observation.reloads.rejected) = (501, 502);
    observation.reloads.at += Duration::from_secs(500);
    observation.capture = Some(Written { packets: 503, bytes: 504, lost: 505 });
    observation.collectors = [("page_pool", true, 506), ("xsk", false, 507)]
        .map(|(name, success, micros)| Collector { name, success, took: Duration::from_micros(micros) })
        .into();
    observation.process = Some(ProcessView {
        cpu_s: 508.5,
        resident_bytes: 509,
        virtual_bytes: 510,
        threads: 511,
        open_fds: 512,
        max_fds: Some(513),
        started_s: 1_699_999_999.5,
    });
    observation.requests = vec![("/metrics", 200, 514), ("other", 404, 515)];

    let device = &mut observation.devices[0];
    let info = Arc::make_mut(&mut device.info);
    info.features = info.features.map(|features| Features { fragments: false, ..features });
    device.redirect_errors = Ok(vec![("ENXIO", 601), ("ENOBUFS", 602), ("other", 603)]);
    // More was steered than came, so that some is unaccounted for.
    let mut decisions = std::array::from_fn(|n| 610 + n as u64);
    decisions[Decision::Steered as usize] = 20_000;
    device.decisions = Some(decisions);
    device.tables = vec![("rules", 631, 632), ("shapes", 633, 634), ("units", 635, 636)];
    for (rule, n) in device.rules.iter_mut().zip(0..) {
        rule.count = Count { packets: 641 + n, bytes: 651 + n };
    }
    if let Some(kernel) = &mut device.kernel {
        for (pool, first) in kernel.page_pool.pools.iter_mut().zip([700, 750]) {
            let mut next = from(first);
            let (alloc, recycle) = (alloc(&mut next), recycle(&mut next));
            pool.counters = Some(Counters::of(&alloc, &recycle));
            (pool.inflight_pages, pool.inflight_bytes) = (Some(next()), Some(next()));
        }
        for ((_, count), n) in kernel.nic.link.iter_mut().zip(661..) {
            *count = n;
        }
        for ((_, count), n) in kernel.nic.driver.iter_mut().zip(671..) {
            *count = n;
        }
    }
    for (queue, first) in device.queues.iter_mut().zip([1000, 4000]) {
        work(queue, first);
    }
    (device.queues[1].steered, device.queues[1].failed) = (false, true);
    let mut closed = device.queues[1].clone();
    work(&mut closed, 7000);
    observation.leaving.push(closed);
    observation
}

/// Numbers that are given once each.
fn from(first: u64) -> impl FnMut() -> u64 {
    let mut last = first;
    move || {
        last += 1;
        last
    }
}

/// A worker that has done something. Every field of what is counted by its name: a new one is not forgotten here.
fn work(queue: &mut QueueView, first: u64) {
    let mut next = from(first);
    queue.snapshot = snapshot(&mut next, queue.queue);
    queue.xsk = Some(XdpStatistics {
        rx_dropped: next(),
        rx_invalid_descs: next(),
        tx_invalid_descs: next(),
        rx_ring_full: Some(next()),
        rx_fill_ring_empty_descs: Some(next()),
        tx_ring_empty_descs: Some(next()),
    });
    queue.fill_wakeups = (next(), next());
    queue.failed_open = next();
    queue.cpu = next() as usize;
    queue.cpu_s = Some(next() as f64 / 4.0);
    let mut next = || next() as u32;
    queue.swallowed = Swallowed { kernel: next(), tx: next() };
    queue.frame_size = next();
    queue.rings = RingSizes { fill: next(), fill_target: next(), rx: next(), tx: next(), completion: next() };
    let mut holder = |name| HolderView {
        name,
        frames: next(),
        oldest: Some(Duration::from_millis(next().into())),
        leaked: next(),
    };
    queue.holds = HoldsView {
        holders: vec![holder("handler"), holder("capture")],
        // Of each bound one more, so that no two buckets are the same.
        times: HoldTimes {
            buckets: std::array::from_fn(|n| if n == 0 { next().into() } else { 1 }),
            sum: Duration::from_millis(next().into()),
        },
    };
}

fn snapshot(next: &mut impl FnMut() -> u64, queue: u32) -> Snapshot {
    Snapshot {
        total: 4096 + 100 * queue,
        held: 45 + queue,
        given: 3,
        places: Places {
            slab: 1777 + 92 * queue,
            cache: 61 + queue,
            ring: 53 + queue,
            user: 47 + queue,
            fill: 1999 - queue,
            kernel: 43 + queue,
            rx: 41 + queue,
            tx: 37 + queue,
            completion: 31 + queue,
            quarantined: 5 + queue,
            detached: 2 + queue,
        },
        pool: PoolStats {
            alloc: alloc(next),
            recycle: recycle(next),
            extras: ExtraStats {
                alloc_fail: next(),
                slow_frames: next(),
                ring_full_frames: next(),
                foreign_put: next(),
                double_put: next(),
                bad_addr: next(),
                held_refused: next(),
            },
        },
        hold: next() as u32,
        release: next() as u32,
        inflight: next() as i32,
        refused: RefusedCounts {
            out_of_range: next(),
            not_lent: next(),
            wrong_ring: next(),
            quarantined: next(),
            not_ours: next(),
        },
        traffic: Traffic {
            rx_packets: next(),
            rx_bytes: next(),
            tx_packets: next(),
            tx_bytes: next(),
            completions: next(),
            filled: next(),
            rx_fragments: next(),
            tx_fragments: next(),
            generated: next(),
            tx_unsent: next(),
            handler_dropped: next(),
            rx_torn: next(),
            rx_too_long: next(),
            rx_unhandled: next(),
            tx_full: next(),
            tx_invalid: next(),
            alloc_fail: next(),
            kicks_done: next(),
            kicks_again: next(),
            kicks_busy: next(),
            kicks_down: next(),
            kicks_failed: next(),
            observed: next(),
            observe_missed: next(),
        },
        idle_lowest: next() as u32,
        turns_busy: next(),
        turns_idle: next(),
        last_turn: Duration::from_millis(next()),
    }
}

fn alloc(next: &mut impl FnMut() -> u64) -> AllocStats {
    AllocStats {
        fast: next(),
        slow: next(),
        slow_high_order: next(),
        empty: next(),
        refill: next(),
        waive: next(),
    }
}

fn recycle(next: &mut impl FnMut() -> u64) -> RecycleStats {
    RecycleStats {
        cached: next(),
        cache_full: next(),
        ring: next(),
        ring_full: next(),
        released_refcnt: next(),
    }
}
