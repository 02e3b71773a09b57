//! Family `netdev`, version 1 (Documentation/netlink/specs/netdev.yaml): every page_pool of the network
//! namespace whose driver tied it to an interface. Needs no privilege.

use std::io;

use super::{Counters, Memory, Pool};
use crate::nic::genl::{Attributes, Genl};

const FAMILY: &str = "netdev";
/// `NETDEV_CMD_PAGE_POOL_GET`, since Linux 6.8.
const PAGE_POOL_GET: u8 = 5;
/// `NETDEV_CMD_PAGE_POOL_STATS_GET`, since Linux 6.8; only with `CONFIG_PAGE_POOL_STATS`.
const PAGE_POOL_STATS_GET: u8 = 9;

/// `NETDEV_A_PAGE_POOL_*`.
mod attr {
    pub(super) const ID: u16 = 1;
    pub(super) const IFINDEX: u16 = 2;
    pub(super) const NAPI_ID: u16 = 3;
    pub(super) const INFLIGHT: u16 = 4;
    pub(super) const INFLIGHT_MEM: u16 = 5;
    pub(super) const DETACH_TIME: u16 = 6;
    pub(super) const DMABUF: u16 = 7;
    pub(super) const IO_URING: u16 = 8;
}

/// `LOOPBACK_IFINDEX` (net/net_namespace.h).
pub(super) const LOOPBACK: u64 = 1;

/// `NETDEV_A_PAGE_POOL_STATS_*`: the counters begin at 8 and lie side by side.
mod stats {
    pub(super) const INFO: u16 = 1;
    pub(super) const ALLOC_FAST: u16 = 8;
    pub(super) const ALLOC_SLOW: u16 = 9;
    pub(super) const ALLOC_SLOW_HIGH_ORDER: u16 = 10;
    pub(super) const ALLOC_EMPTY: u16 = 11;
    pub(super) const ALLOC_REFILL: u16 = 12;
    pub(super) const ALLOC_WAIVE: u16 = 13;
    pub(super) const RECYCLE_CACHED: u16 = 14;
    pub(super) const RECYCLE_CACHE_FULL: u16 = 15;
    pub(super) const RECYCLE_RING: u16 = 16;
    pub(super) const RECYCLE_RING_FULL: u16 = 17;
    pub(super) const RECYCLE_RELEASED_REFCNT: u16 = 18;
}

/// What the family says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// Every pool, with the index of its interface.
    pub(super) pools: Vec<(u32, Pool)>,
    /// How much of the family this kernel has.
    pub(super) support: Support,
}

/// How much a kernel can tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Support {
    /// It does not list pools: older than Linux 6.8.
    #[default]
    Nothing,
    /// It lists pools and was built without `CONFIG_PAGE_POOL_STATS`: they have no counters.
    Pools,
    /// It lists pools and their counters.
    PoolsAndCounters,
}

/// Asks the kernel. A kernel without the family, or without its commands, is an answer too.
pub(super) fn ask() -> io::Result<Answer> {
    let Some(netdev) = Genl::connect(FAMILY)? else { return Ok(Answer::default()) };
    let Some(pools) = supported(netdev.dump(PAGE_POOL_GET))? else { return Ok(Answer::default()) };
    // A kernel that lists pools has the other command as well, unless it was built without.
    let stats = supported(netdev.dump(PAGE_POOL_STATS_GET))?;
    let support = if stats.is_some() { Support::PoolsAndCounters } else { Support::Pools };
    Ok(Answer { pools: join(&pools, &stats.unwrap_or_default()), support })
}

/// `None` if the kernel does not know the command.
fn supported<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Each pool with its counters. Pools come and go between the two dumps: one without counters has none to show.
fn join(pools: &[Attributes], stats: &[Attributes]) -> Vec<(u32, Pool)> {
    let stats: Vec<(u64, Counters)> = stats.iter().filter_map(counters).collect();
    pools
        .iter()
        .filter_map(|attributes| {
            let (ifindex, mut pool) = pool(attributes)?;
            pool.counters = stats.iter().find(|(id, _)| Some(*id) == pool.id).map(|(_, counters)| *counters);
            Some((ifindex, pool))
        })
        .collect()
}

/// A pool that does not say which one it is cannot be told from another, and one without an interface is nobody's.
fn pool(attributes: &Attributes) -> Option<(u32, Pool)> {
    let memory = if attributes.has(attr::DMABUF) {
        Memory::Dmabuf
    } else if attributes.has(attr::IO_URING) {
        Memory::IoUring
    } else {
        Memory::Page
    };
    let pool = Pool {
        id: Some(attributes.uint(attr::ID)?),
        napi: attributes.uint(attr::NAPI_ID),
        memory,
        inflight_pages: attributes.uint(attr::INFLIGHT),
        inflight_bytes: attributes.uint(attr::INFLIGHT_MEM),
        detached_at: attributes.uint(attr::DETACH_TIME),
        counters: None,
    };
    // Of an interface that is gone the kernel gives the pools to the loopback, and does not say so
    // (net/core/page_pool_user.c: page_pool_unreg_netdev).
    let orphaned = pool.detached_at.map(|_| LOOPBACK);
    Some((attributes.uint(attr::IFINDEX).or(orphaned)?.try_into().ok()?, pool))
}

fn counters(attributes: &Attributes) -> Option<(u64, Counters)> {
    let id = attributes.nest(stats::INFO)?.uint(attr::ID)?;
    let counters = Counters {
        alloc_fast: attributes.uint(stats::ALLOC_FAST),
        alloc_slow: attributes.uint(stats::ALLOC_SLOW),
        alloc_slow_high_order: attributes.uint(stats::ALLOC_SLOW_HIGH_ORDER),
        alloc_empty: attributes.uint(stats::ALLOC_EMPTY),
        alloc_refill: attributes.uint(stats::ALLOC_REFILL),
        alloc_waive: attributes.uint(stats::ALLOC_WAIVE),
        recycle_cached: attributes.uint(stats::RECYCLE_CACHED),
        recycle_cache_full: attributes.uint(stats::RECYCLE_CACHE_FULL),
        recycle_ring: attributes.uint(stats::RECYCLE_RING),
        recycle_ring_full: attributes.uint(stats::RECYCLE_RING_FULL),
        recycle_released_refcnt: attributes.uint(stats::RECYCLE_RELEASED_REFCNT),
    };
    Some((id, counters))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        nic::{
            drivers::linux_version,
            genl::fixture::{attribute, dumped, parsed, uint},
        },
        page_pool::recorded,
    };

    #[test]
    fn a_pool_says_what_it_is_and_its_counters_follow_it() {
        let pools = [
            parsed(&[
                uint(attr::ID, 17),
                uint(attr::IFINDEX, 3),
                uint(attr::NAPI_ID, 513),
                uint(attr::INFLIGHT, 256),
                uint(attr::INFLIGHT_MEM, 256 * 4096),
            ]),
            parsed(&[
                uint(attr::ID, 9),
                uint(attr::INFLIGHT, 6),
                uint(attr::DETACH_TIME, 1000),
                attribute(attr::IO_URING, &[]),
            ]),
        ];
        let mut parts = vec![attribute(stats::INFO, &[uint(attr::ID, 17), uint(attr::IFINDEX, 3)].concat())];
        parts.extend((8..=18).map(|kind| uint(kind, 10_000_000_000 + u64::from(kind))));

        let joined = join(&pools, &[parsed(&parts)]);
        let (ifindex, pool) = &joined[0];
        assert_eq!((*ifindex, pool.id, pool.napi), (3, Some(17), Some(513)));
        assert_eq!((pool.inflight_pages, pool.inflight_bytes), (Some(256), Some(1 << 20)));
        assert_eq!((pool.memory, pool.detached_at), (Memory::Page, None));
        let counters = pool.counters.unwrap();
        let values: Vec<u64> = counters.told().map(|(_, value)| value).collect();
        assert_eq!(values, (8..=18).map(|kind| 10_000_000_000 + kind).collect::<Vec<u64>>());

        let (ifindex, pool) = &joined[1];
        assert_eq!((*ifindex, pool.id, pool.detached_at), (1, Some(9), Some(1000)));
        assert_eq!((pool.memory, pool.counters), (Memory::IoUring, None));
    }

    #[test]
    fn a_counter_that_the_kernel_does_not_send_is_no_zero() {
        let pools = [parsed(&[uint(attr::ID, 17), uint(attr::IFINDEX, 3)])];
        let stats = [parsed(&[attribute(stats::INFO, &uint(attr::ID, 17)), uint(stats::ALLOC_FAST, 5)])];
        let counters = join(&pools, &stats)[0].1.counters;
        assert_eq!(counters, Some(Counters { alloc_fast: Some(5), ..Counters::default() }));
    }

    /// What a kernel said ([`recorded`]), read as ynl's `page-pool-get` and `page-pool-stats-get` read it.
    #[test]
    fn a_kernels_own_bytes_are_read() {
        let pools = |pools, stats| {
            let read = |dump| dumped(&recorded::bytes(dump));
            join(&read(pools), &read(stats))
        };
        let told = |told: [u64; 11]| {
            let mut counters = Counters::default();
            for (kind, count) in Counters::default().iter().map(|(name, _)| name).zip(told) {
                *counters.get_mut(kind).unwrap() = Some(count);
            }
            Some(counters)
        };
        let idle = Pool {
            id: Some(2),
            napi: Some(513),
            inflight_pages: Some(128),
            inflight_bytes: Some(128 * 4096),
            counters: told([126, 2, 0, 2, 0, 0, 0, 0, 0, 0, 0]),
            ..Pool::default()
        };
        let busy = Pool {
            id: Some(3),
            napi: Some(514),
            inflight_pages: Some(320),
            inflight_bytes: Some(320 * 4096),
            counters: told([272, 5, 0, 5, 0, 0, 0, 0, 147, 0, 0]),
            ..Pool::default()
        };
        assert_eq!(pools(recorded::POOLS, recorded::STATS), [(2, idle), (3, busy)]);

        let orphan = Pool {
            napi: None,
            inflight_pages: Some(4),
            inflight_bytes: Some(4 * 4096),
            detached_at: Some(10),
            counters: told([272, 5, 0, 5, 0, 0, 0, 0, 256, 16, 0]),
            ..busy
        };
        assert_eq!(pools(recorded::POOLS_ORPHANED, recorded::STATS_ORPHANED), [(1, orphan), (2, idle)]);
    }

    /// What the kernel answers in the steps of its own test (tools/testing/selftests/net/nl_netdev.py), where
    /// netdevsim is told to hold a page: `page_pool_check` and `page_pool_ifindex_leak_check`.
    ///
    /// Of the others, `page_pool_dump_ifindex` and `page_pool_stats_ifindex_check` are followed below, `lo_check` and
    /// `empty_check` in [`crate::nic::netdev`]. Not followed are those about requests that we never make, as our
    /// dumps carry no attribute (`dev_dump_reject_attr`), and those that change the device: `napi_set_threaded`,
    /// `dev_set_threaded`, `nsim_rxq_reset_down`, and `napi_list_check`, whose NAPI instances nobody here lists.
    #[test]
    fn the_kernels_own_test_is_followed() {
        const NIC: u64 = 2;
        let used = |id| parsed(&[uint(attr::ID, id), uint(attr::IFINDEX, NIC), uint(attr::INFLIGHT, 0)]);
        let held_after_its_end = |ifindex: Option<u64>| {
            let gone = uint(attr::DETACH_TIME, 77);
            let of = ifindex.map(|ifindex| uint(attr::IFINDEX, ifindex)).unwrap_or_default();
            parsed(&[uint(attr::ID, 5), of, uint(attr::INFLIGHT, 1), gone])
        };
        for (step, told, seen) in [
            ("up", vec![used(4)], &[(2, 4, 0, None)][..]),
            ("down, and nothing is held", vec![], &[]),
            ("up and down, and a page is held", vec![held_after_its_end(Some(NIC))], &[(2, 5, 1, Some(77))]),
            ("up", vec![used(6), held_after_its_end(Some(NIC))], &[(2, 6, 0, None), (2, 5, 1, Some(77))]),
            ("away: whose the pool is, is not said", vec![held_after_its_end(None)], &[(1, 5, 1, Some(77))]),
            ("the page is given back", vec![], &[]),
        ] {
            let joined = join(&told, &[]);
            let joined = joined
                .iter()
                .map(|(of, pool)| (*of, pool.id.unwrap(), pool.inflight_pages.unwrap(), pool.detached_at));
            assert_eq!(joined.collect::<Vec<_>>(), seen, "{step}");
        }
    }

    /// `page_pool_dump_ifindex` and `page_pool_stats_ifindex_check`: two devices of 3 and of 5 queues, in a dump of all
    /// that is there. New kernels filter if they are asked to; we do not ask, and old ones answer as well.
    #[test]
    fn each_interface_has_its_own_pools_and_counters() {
        const DEVICES: [(u64, std::ops::Range<u64>); 2] = [(2, 10..13), (3, 20..25)];
        let held = |ifindex: Option<u64>| {
            let of = ifindex.map(|ifindex| uint(attr::IFINDEX, ifindex)).unwrap_or_default();
            (10, of, uint(attr::DETACH_TIME, 77))
        };
        let used = |(ifindex, ids): (u64, std::ops::Range<u64>)| {
            ids.map(move |id| (id, uint(attr::IFINDEX, ifindex), Vec::new()))
        };
        let first_down = || std::iter::once(held(Some(2))).chain(used(DEVICES[1].clone()));
        let first_away = || std::iter::once(held(None)).chain(used(DEVICES[1].clone()));
        for (step, told, expected) in [
            ("both up", DEVICES.into_iter().flat_map(used).collect::<Vec<_>>(), [(1, 0), (2, 3), (3, 5)]),
            ("one down, and a page is held", first_down().collect(), [(1, 0), (2, 1), (3, 5)]),
            ("one away, and a page is held", first_away().collect(), [(1, 1), (2, 0), (3, 5)]),
            ("one away", used(DEVICES[1].clone()).collect(), [(1, 0), (2, 0), (3, 5)]),
        ] {
            let pools: Vec<_> = told
                .iter()
                .map(|(id, of, end)| parsed(&[uint(attr::ID, *id), of.clone(), end.clone()]))
                .collect();
            // A pool that was detached is in both dumps, for as long as it lives.
            let stats: Vec<_> = told
                .iter()
                .map(|(id, of, _)| {
                    let info = attribute(stats::INFO, &[uint(attr::ID, *id), of.clone()].concat());
                    parsed(&[info, uint(stats::ALLOC_SLOW, *id)])
                })
                .collect();
            let joined = join(&pools, &stats);
            for (ifindex, expected) in expected {
                let of_it: Vec<_> = joined.iter().filter(|(of, _)| *of == ifindex).collect();
                assert_eq!(of_it.len(), expected, "{step}: {ifindex}");
                for (_, pool) in of_it {
                    assert_eq!(pool.counters.unwrap().alloc_slow, pool.id, "{step}");
                }
            }
            assert_eq!(joined.iter().filter(|(of, _)| *of == 12_345_678).count(), 0, "{step}");
        }
    }

    #[test]
    fn a_pool_of_nobody_is_left_out() {
        assert_eq!(join(&[], &[]), [], "a dump may be empty");
        assert!(join(&[parsed(&[uint(attr::ID, 17)]), parsed(&[uint(attr::IFINDEX, 3)])], &[]).is_empty());
    }

    #[test]
    fn this_kernel_answers() {
        // Which pools there are depends on the machine; whether it tells of them only on the kernel, and some tell earlier
        // than their version says.
        let answer = ask().unwrap();
        let told = answer.support != Support::Nothing;
        assert!(
            told || linux_version() < (6, 8),
            "nothing is understood of a kernel that tells, if it has CONFIG_PAGE_POOL: {answer:?}"
        );
        assert!(told || answer.pools.is_empty(), "{answer:?}");
        let known = |(ifindex, pool): &(u32, Pool)| {
            let device = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten().any(|device| {
                let index = std::fs::read_to_string(device.path().join("ifindex"));
                index.is_ok_and(|index| index.trim() == ifindex.to_string())
            });
            device && (pool.counters.is_some() || answer.support == Support::Pools)
        };
        assert!(answer.pools.iter().all(known), "{answer:?}");
    }
}
