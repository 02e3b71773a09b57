//! What the kernel says of the interfaces themselves, beside our sockets: its page_pools, its counters.
//!
//! Asked for at a scrape and not in between: it costs system calls, and nobody else wants to know.

use std::{
    collections::BTreeMap,
    io,
    time::{Duration, Instant},
};

use super::{
    DeviceInfo,
    process::{self, ProcessView},
};
use crate::{
    boot::boottime,
    nic::stats::{self, NicStats},
    page_pool::{self, DevicePools, Pool},
    sys::ethtool::{self, Statistics},
};

/// What the kernel says of one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelView {
    /// Its page_pools.
    pub page_pool: DevicePools,
    /// Its counters.
    pub nic: NicStats,
}

/// How asking one source went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    /// Its name.
    pub name: &'static str,
    /// Whether it answered; that it has nothing to tell is an answer.
    pub success: bool,
    /// How long it took.
    pub took: Duration,
}

/// What the kernel said.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Of each device that there is, by its index.
    pub views: BTreeMap<u32, KernelView>,
    /// page_pools of interfaces that are gone.
    pub orphans: Vec<Pool>,
    /// `CLOCK_BOOTTIME` when it was asked, seconds.
    pub boottime: u64,
    /// How it went.
    pub collectors: Vec<Collector>,
    /// Of this process.
    pub process: Option<ProcessView>,
}

/// Asks about each device that is there, in this network namespace, and about this process.
pub fn ask<'a>(devices: impl Iterator<Item = &'a DeviceInfo>) -> Asked {
    let mut collectors = Vec::new();
    let mut timed = |name, start: Instant, success| {
        collectors.push(Collector { name, success, took: start.elapsed() });
    };

    let start = Instant::now();
    let link = stats::link_stats();
    let answered = link.is_ok();
    timed("link", start, answered);
    let mut link = link.unwrap_or_default();

    let start = Instant::now();
    let there = devices.filter(|info| !answered || link.contains_key(&info.index));
    let driver: Vec<(u32, io::Result<Statistics>)> =
        there.map(|info| (info.index, ethtool::statistics(&info.name))).collect();
    timed("ethtool", start, driver.iter().all(|(_, statistics)| statistics.is_ok()));

    let start = Instant::now();
    let page_pool::Said { devices: pools, orphans, complete } =
        page_pool::read(driver.iter().map(|(index, statistics)| (*index, statistics.as_deref())));
    let failed =
        |pools: &DevicePools| matches!(pools.source, page_pool::Source::None(page_pool::Reason::Failed(_)));
    timed("page_pool", start, complete && !pools.values().any(failed));

    let start = Instant::now();
    let process = process::read();
    timed("process", start, process.is_some());

    let mut driver: BTreeMap<u32, Statistics> =
        driver.into_iter().filter_map(|(index, statistics)| Some((index, statistics.ok()?))).collect();
    let view = |(index, page_pool)| {
        let nic = NicStats {
            link: link.remove(&index).unwrap_or_default(),
            driver: driver.remove(&index).unwrap_or_default(),
        };
        (index, KernelView { page_pool, nic })
    };
    let views = pools.into_iter().map(view).collect();
    Asked { views, orphans, boottime: boottime(), collectors, process }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_answered_for_by_every_source() {
        let index = crate::nic::links().unwrap().into_iter().find(|link| link.name == "lo").unwrap().index;
        let info = DeviceInfo {
            index,
            name: "lo".into(),
            ..super::super::fixture().devices[0].info.as_ref().clone()
        };
        let Asked { views, collectors, .. } = ask([&info].into_iter());
        assert!(!views[&index].nic.link.is_empty());
        let names: Vec<_> = collectors.iter().map(|collector| collector.name).collect();
        assert_eq!(names, ["link", "ethtool", "page_pool", "process"]);
        assert!(collectors.iter().all(|collector| collector.success), "{collectors:?}");
    }
}
