//! The kernel's own page_pools: the other recycler, under the same eleven names as ours.
//!
//! Two sources say where they stand, and no interface has a right to either. Netlink (family `netdev`) lists each
//! pool of a driver that tied it to the interface, with its pages in flight, and its counters if the kernel was
//! built with them. `ethtool -S` has the counters of some other drivers, mvneta among them, summed over their
//! pools. Where neither says anything the reason is told, never a zero.
//!
//! Reading changes nothing and needs no privilege.

mod ethtool;
mod json;
mod netlink;
#[cfg(test)]
mod recorded;
mod report;

use std::{collections::BTreeMap, io};

use frame_pool::{AllocStats, RecycleStats};
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use json::{DeviceJson, PoolJson};
pub use report::{Report, Watch, run};

/// A macro, so that names, fields and their order cannot drift apart.
macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident $half:ident.$field:ident,)+) => {
        /// page_pool's eleven counters, in the kernel's order; all of them count from the making of the pool. One
        /// that nobody tells is `None`, and `null` in JSON: it may be anything.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $name: Option<u64>,)+
        }

        impl Counters {
            /// Those of a pool of ours, which tells all of them.
            pub fn of(alloc: &AllocStats, recycle: &RecycleStats) -> Self {
                // Named as in the kernel: the first half of a counter's name is the structure that it is in.
                let halves = Halves { alloc, recycle };
                Self { $($name: Some(halves.$half.$field)),+ }
            }

            /// Each counter under the kernel's name, with `alloc_` or `recycle_` before it.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, Option<u64>)> {
                [$((stringify!($name), self.$name)),+].into_iter()
            }

            /// The counter of that name.
            fn get_mut(&mut self, name: &str) -> Option<&mut Option<u64>> {
                match name {
                    $(stringify!($name) => Some(&mut self.$name),)+
                    _ => None,
                }
            }

            /// Counter by counter; what one side does not know, nobody knows.
            fn zip(&self, other: &Self, with: impl Fn(u64, u64) -> u64) -> Self {
                Self { $($name: self.$name.zip(other.$name).map(|(one, other)| with(one, other))),+ }
            }
        }
    };
}

counters! {
    /// Pages served from the cache.
    alloc_fast alloc.fast,
    /// Bulks from the page allocator.
    alloc_slow alloc.slow,
    /// Pages of higher order from the page allocator.
    alloc_slow_high_order alloc.slow_high_order,
    /// Allocations that found the ring empty.
    alloc_empty alloc.empty,
    /// Allocations that refilled the cache from the ring.
    alloc_refill alloc.refill,
    /// Pages given up because of their NUMA node.
    alloc_waive alloc.waive,
    /// Pages put into the cache.
    recycle_cached recycle.cached,
    /// Direct puts that found the cache full.
    recycle_cache_full recycle.cache_full,
    /// Pages put into the ring.
    recycle_ring recycle.ring,
    /// Puts that found the ring full.
    recycle_ring_full recycle.ring_full,
    /// Pages released because someone still held them.
    recycle_released_refcnt recycle.released_refcnt,
}

struct Halves<'a> {
    alloc: &'a AllocStats,
    recycle: &'a RecycleStats,
}

impl Counters {
    /// Those that are told.
    pub fn told(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.iter().filter_map(|(name, count)| Some((name, count?)))
    }

    /// Allocations that got a page: `fast + refill + slow`.
    pub fn allocated(&self) -> Option<u64> {
        Some(self.alloc_fast? + self.alloc_refill? + self.alloc_slow?)
    }

    /// Pages that came back into the pool: `cached + ring`.
    pub fn recycled(&self) -> Option<u64> {
        Some(self.recycle_cached? + self.recycle_ring?)
    }

    /// Pages that did not, and went back to the page allocator: `ring_full + released_refcnt`.
    pub fn released(&self) -> Option<u64> {
        Some(self.recycle_ring_full? + self.recycle_released_refcnt?)
    }

    /// [`recycled`](Self::recycled) over [`allocated`](Self::allocated), as ynltool's `recycling_pct`; `None` if
    /// nothing was allocated.
    pub fn recycle_ratio(&self) -> Option<f64> {
        let allocated = self.allocated().filter(|allocated| *allocated > 0)?;
        Some(self.recycled()? as f64 / allocated as f64)
    }

    /// What was counted since `earlier`.
    ///
    /// A counter that is lower than before began anew, and so did the others: the pool was made anew. mvneta does
    /// that whenever an XDP program comes or goes. What is counted now was counted since then.
    pub fn since(&self, earlier: &Self) -> Since {
        let mut both = self.iter().zip(earlier.iter());
        // `None` is less than any number, and no fall: the counter is not told any more.
        let restarted = both.any(|((_, now), (_, then))| now.is_some() && now < then);
        let counters = if restarted { *self } else { self.zip(earlier, |now, then| now - then) };
        Since { counters, restarted }
    }
}

/// Counter by counter; what one of them does not tell is in no sum.
fn sum(counters: impl Iterator<Item = Counters>) -> Option<Counters> {
    counters.reduce(|sum, counters| sum.zip(&counters, u64::saturating_add))
}

/// What was counted between two moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since {
    /// The differences.
    pub counters: Counters,
    /// Whether the counters began anew in between, so that only what came after that is known.
    pub restarted: bool,
}

/// What a pool's pages are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Memory {
    /// Pages of the machine's memory.
    #[default]
    Page,
    /// A dma-buf: devmem TCP.
    Dmabuf,
    /// Memory of an io_uring: zero-copy receive.
    IoUring,
}

impl Memory {
    /// Its name in metrics and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Page => "page",
            Self::Dmabuf => "dmabuf",
            Self::IoUring => "io_uring",
        }
    }
}

/// One pool, or the sum of a driver's pools.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// The kernel's number of it; `None`: the sum of all pools of the interface, as ethtool tells them.
    pub id: Option<u64>,
    /// The NAPI instance that consumes it, if the driver said so: only then are freed buffers put back directly.
    pub napi: Option<u64>,
    /// What its pages are.
    pub memory: Memory,
    /// Pages taken from the allocator and not given back: those that lie idle in the pool are among them.
    pub inflight_pages: Option<u64>,
    /// Their bytes.
    pub inflight_bytes: Option<u64>,
    /// When its driver destroyed it, in seconds of `CLOCK_BOOTTIME`. It lives on for as long as somebody has one
    /// of its pages.
    pub detached_at: Option<u64>,
    /// The eleven, if somebody tells them.
    pub counters: Option<Counters>,
}

/// After this long the kernel itself begins to complain about a pool that cannot end (`DEFER_WARN_INTERVAL`). The alert of
/// `dist` begins there too, and waits for five minutes more before it speaks.
pub const STALLED_AFTER_S: u64 = 60;

impl Pool {
    /// The pool's number, or `all`.
    pub fn label(&self) -> String {
        self.id.map_or_else(|| "all".to_owned(), |id| id.to_string())
    }

    /// For how long the pool has been waiting for its last pages, at `boottime` seconds; `None` if it is in use.
    pub fn detached_s(&self, boottime: u64) -> Option<u64> {
        self.detached_at.map(|at| boottime.saturating_sub(at))
    }

    /// Whether it is what the kernel's log calls a stalled pool shutdown.
    pub fn is_stalled(&self, boottime: u64) -> bool {
        self.detached_s(boottime).is_some_and(|age| age >= STALLED_AFTER_S)
            && self.inflight_pages.is_none_or(|pages| pages > 0)
    }
}

/// Where the counters of an interface's pools come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `page-pool-stats-get`: each pool its own.
    Netlink,
    /// `ethtool -S`: one sum. And why nobody knows whether there is more, if netlink did not answer: pages in flight,
    /// detached pools.
    Ethtool(Option<Reason>),
    /// Nobody tells.
    None(Reason),
}

impl Source {
    /// Its name in metrics and JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Netlink => "netlink",
            Self::Ethtool(_) => "ethtool",
            Self::None(_) => "none",
        }
    }
}

/// Why there are no counters. Each says what to do about it.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Reason {
    /// Its pools are known by netlink, which has no counters then.
    #[error("this kernel was built without CONFIG_PAGE_POOL_STATS; one built with it is needed")]
    KernelWithoutStats,
    /// The same, and of this interface netlink knows no pool either: whether one built otherwise would tell of them depends
    /// on its driver.
    #[error(
        "netlink lists no pool of it, and this kernel was built without CONFIG_PAGE_POOL_STATS; one built with it tells \
         more, if the driver does"
    )]
    Unlisted,
    /// The kernel could, the driver does not; or it has no pools at the moment: many have them only while they are up.
    #[error(
        "netlink lists no pool of it: it is down, or its driver tells neither netlink nor ethtool; tracepoints \
         (page_pool:*) are then the only way to see its pools"
    )]
    DriverSilent,
    /// Neither can be told apart.
    #[error(
        "its driver tells ethtool nothing (it may not have pools, or this kernel lacks CONFIG_PAGE_POOL_STATS), and \
         netlink lists pools from Linux 6.8 on"
    )]
    KernelTooOld,
    /// The kernel did not answer.
    #[error("the kernel did not answer: {0}")]
    Failed(String),
}

/// What an interface's pools say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicePools {
    /// Where their counters come from.
    pub source: Source,
    /// The pools; those that were detached among them.
    pub pools: Vec<Pool>,
}

impl DevicePools {
    /// The counters of all pools together, if there are any.
    pub fn sum(&self) -> Option<Counters> {
        sum(self.pools.iter().filter_map(|pool| pool.counters))
    }
}

/// What the kernel says of its pools.
#[derive(Debug)]
pub struct Said {
    /// Those of the interfaces that were asked for, by index.
    pub devices: BTreeMap<u32, DevicePools>,
    /// Those that are left of interfaces that are gone.
    pub orphans: Vec<Pool>,
    /// Whether netlink answered: if not, pools are missing above though ethtool told their counters.
    pub complete: bool,
}

/// The pools of the interfaces given: each one's index, and what `ethtool -S` says of it.
pub fn read<'a>(
    interfaces: impl IntoIterator<Item = (u32, Result<&'a [(String, u64)], &'a io::Error>)>,
) -> Said {
    said(&netlink::ask(), interfaces)
}

/// What [`read`] makes of netlink's answer.
fn said<'a>(
    netlink: &io::Result<netlink::Answer>,
    interfaces: impl IntoIterator<Item = (u32, Result<&'a [(String, u64)], &'a io::Error>)>,
) -> Said {
    let devices: BTreeMap<u32, DevicePools> = interfaces
        .into_iter()
        .map(|(index, statistics)| (index, device(index, netlink, statistics.map(ethtool::counters))))
        .collect();
    let orphans = netlink.iter().flat_map(|answer| orphans(answer, |index| devices.contains_key(&index)));
    Said { orphans: orphans.collect(), devices, complete: netlink.is_ok() }
}

/// Pools that were detached and lie with an interface that nobody asked about: the loopback.
fn orphans(answer: &netlink::Answer, asked: impl Fn(u32) -> bool) -> impl Iterator<Item = Pool> {
    let pools = answer
        .pools
        .iter()
        .filter(move |(index, _)| u64::from(*index) == netlink::LOOPBACK && !asked(*index));
    pools.map(|(_, pool)| *pool).filter(|pool| pool.detached_at.is_some())
}

/// Puts together what the two sources say of one interface.
fn device(
    index: u32,
    netlink: &io::Result<netlink::Answer>,
    ethtool: Result<Option<Counters>, &io::Error>,
) -> DevicePools {
    use netlink::Support;
    let of_device = |answer: &netlink::Answer| -> Vec<Pool> {
        answer.pools.iter().filter(|(of, _)| *of == index).map(|(_, pool)| *pool).collect()
    };
    let mut pools = netlink.as_ref().map(of_device).unwrap_or_default();
    if pools.iter().any(|pool| pool.counters.is_some()) {
        return DevicePools { source: Source::Netlink, pools };
    }
    if let Ok(Some(counters)) = ethtool {
        pools.push(Pool { counters: Some(counters), ..Pool::default() });
        let unlisted = netlink.as_ref().err().map(|error| Reason::Failed(error.to_string()));
        return DevicePools { source: Source::Ethtool(unlisted), pools };
    }
    let reason = match (netlink, ethtool) {
        (Err(error), _) | (_, Err(error)) => Reason::Failed(error.to_string()),
        (Ok(answer), _) => match answer.support {
            Support::Nothing => Reason::KernelTooOld,
            Support::Pools if pools.is_empty() => Reason::Unlisted,
            Support::Pools => Reason::KernelWithoutStats,
            Support::PoolsAndCounters => Reason::DriverSilent,
        },
    };
    DevicePools { source: Source::None(reason), pools }
}

/// Pools as tests want them.
#[cfg(test)]
pub(crate) mod fixture {
    use super::*;

    /// Counters that all differ.
    pub(crate) fn counters() -> Counters {
        Counters::of(
            &AllocStats { fast: 900, slow: 10, slow_high_order: 0, empty: 11, refill: 90, waive: 1 },
            &RecycleStats { cached: 700, cache_full: 3, ring: 250, ring_full: 5, released_refcnt: 7 },
        )
    }

    /// Those of a pool that has done nothing.
    pub(crate) fn zeros() -> Counters {
        Counters::of(&AllocStats::default(), &RecycleStats::default())
    }

    /// A pool in use, and one that waits for its last six pages since second 1000.
    pub(crate) fn two_pools() -> DevicePools {
        let used = Pool {
            id: Some(17),
            napi: Some(513),
            inflight_pages: Some(256),
            inflight_bytes: Some(1 << 20),
            counters: Some(counters()),
            ..Pool::default()
        };
        let detached = Pool {
            id: Some(9),
            inflight_pages: Some(6),
            inflight_bytes: Some(6 * 4096),
            detached_at: Some(1000),
            counters: Some(zeros()),
            ..Pool::default()
        };
        DevicePools { source: Source::Netlink, pools: vec![used, detached] }
    }
}

#[cfg(test)]
mod tests {
    use super::{fixture::*, netlink::Support, *};

    #[test]
    fn what_is_left_of_gone_interfaces_is_found_at_the_loopback() {
        let detached = two_pools().pools[1];
        let used = Pool { id: Some(3), ..Pool::default() };
        let answer = netlink::Answer {
            pools: vec![(1, used), (1, detached), (2, Pool { id: Some(4), ..detached })],
            support: Support::PoolsAndCounters,
        };
        assert_eq!(orphans(&answer, |_| false).collect::<Vec<_>>(), [detached]);
        // Who serves the loopback sees them there.
        assert_eq!(orphans(&answer, |index| index == 1).count(), 0);
    }

    fn answer(support: Support, counters: Option<Counters>) -> io::Result<netlink::Answer> {
        let pool = Pool { id: Some(17), inflight_pages: Some(4), counters, ..Pool::default() };
        Ok(netlink::Answer { pools: vec![(3, pool)], support })
    }

    #[test]
    fn what_netlink_did_not_tell_is_missed_whatever_ethtool_tells() {
        let told =
            counters().told().map(|(name, count)| (format!("rx_pp_{name}"), count)).collect::<Vec<_>>();
        let interface = || [(3, Ok(&told[..]))];
        let silent = said(&Err(io::Error::from_raw_os_error(libc::ENOBUFS)), interface());
        let Source::Ethtool(Some(Reason::Failed(why))) = &silent.devices[&3].source else {
            panic!("{silent:?}")
        };
        assert!(why.contains("No buffer space") && !silent.complete, "{why}");
        let said_all = said(&answer(Support::Pools, None), interface());
        assert_eq!((&said_all.devices[&3].source, said_all.complete), (&Source::Ethtool(None), true));
        assert!(!said(&Err(io::Error::other("no answer")), []).complete);
    }

    #[test]
    fn each_pool_is_better_than_a_sum() {
        let both = device(3, &answer(Support::PoolsAndCounters, Some(counters())), Ok(Some(counters())));
        assert_eq!((both.source, both.pools.len()), (Source::Netlink, 1));
    }

    #[test]
    fn a_sum_is_better_than_nothing_and_comes_beside_the_pages_in_flight() {
        let ethtool = device(3, &answer(Support::Pools, None), Ok(Some(counters())));
        assert_eq!((&ethtool.source, ethtool.pools.len()), (&Source::Ethtool(None), 2));
        assert_eq!(ethtool.sum(), Some(counters()));
        assert_eq!(ethtool.pools[0].inflight_pages, Some(4));
    }

    #[test]
    fn what_is_not_told_has_a_reason_and_no_zeros() {
        let none = |answer| device(3, &answer, Ok(None));
        let without = none(answer(Support::Pools, None));
        assert_eq!(without.source, Source::None(Reason::KernelWithoutStats));
        assert_eq!((without.sum(), without.pools[0].inflight_pages), (None, Some(4)), "but pages in flight");
        let silent = device(4, &answer(Support::PoolsAndCounters, Some(counters())), Ok(None));
        assert_eq!(silent, DevicePools { source: Source::None(Reason::DriverSilent), pools: vec![] });
        let old = none(Ok(netlink::Answer::default()));
        assert_eq!(old.source, Source::None(Reason::KernelTooOld));
        let denied = none(Err(io::Error::from_raw_os_error(libc::EPERM)));
        assert!(matches!(denied.source, Source::None(Reason::Failed(why)) if why.contains("not permitted")));
    }

    #[test]
    fn a_counter_that_fell_began_anew() {
        let later = Counters { alloc_fast: Some(1000), recycle_cached: Some(780), ..counters() };
        let since = later.since(&counters());
        assert_eq!(
            (since.counters.allocated(), since.counters.recycled(), since.restarted),
            (Some(100), Some(80), false)
        );
        assert_eq!(since.counters.recycle_ratio(), Some(0.8));

        let anew = Counters { alloc_slow: Some(2), ..zeros() };
        let since = anew.since(&counters());
        assert_eq!((since.counters, since.restarted), (anew, true));
        assert_eq!(anew.since(&anew).counters.recycle_ratio(), None);
    }

    #[test]
    fn a_counter_that_nobody_tells_is_no_zero_and_no_restart() {
        let without = Counters { alloc_waive: None, recycle_ring: None, ..counters() };
        assert_eq!(
            (without.allocated(), without.recycled(), without.recycle_ratio()),
            (Some(1000), None, None)
        );
        assert_eq!(without.told().count(), 9);
        for (now, then) in [(without, counters()), (counters(), without)] {
            let since = now.since(&then);
            assert!(!since.restarted, "{now:?} after {then:?}");
            assert_eq!((since.counters.alloc_waive, since.counters.alloc_fast), (None, Some(0)));
        }
        let pool = |counters| Pool { counters: Some(counters), ..Pool::default() };
        let pools = vec![pool(counters()), pool(without)];
        let sum = DevicePools { source: Source::Netlink, pools }.sum().unwrap();
        assert_eq!((sum.recycle_ring, sum.recycle_cached), (None, Some(1400)), "a part is not the sum");
    }

    #[test]
    fn a_pool_without_an_end_is_stalled_after_a_minute() {
        let [used, detached] = two_pools().pools[..] else { panic!("two") };
        assert_eq!((used.detached_s(5000), used.is_stalled(5000)), (None, false));
        assert_eq!((detached.detached_s(1059), detached.is_stalled(1059)), (Some(59), false));
        assert!(detached.is_stalled(1060));
        assert!(!Pool { inflight_pages: Some(0), ..detached }.is_stalled(5000), "about to end");
    }
}
