//! The pools as JSON, in `/status` and in `umemd pagepool --json`.

use serde::{Deserialize, Serialize};

use super::{Counters, DevicePools, Pool, Reason, Source};
use crate::counts::Counts;

/// The pools of one interface.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceJson {
    /// `netlink`, `ethtool` or `none`: where the counters come from.
    pub source: String,
    /// Why there are no counters; not there if there are.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// Why pools may be missing beside counters by ethtool: netlink did not answer. Not there if it did.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub unlisted: Option<String>,
    /// The pools; what nobody tells of one is not there.
    pub pools: Vec<PoolJson>,
}

/// One pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolJson {
    /// The kernel's number of the pool, or `all`: the sum over the interface's pools.
    pub pool: String,
    /// `page`, `dmabuf` or `io_uring`.
    pub memory: String,
    /// The NAPI instance that consumes it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub napi: Option<u64>,
    /// Pages taken from the allocator and not given back.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub inflight_pages: Option<u64>,
    /// Their bytes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub inflight_bytes: Option<u64>,
    /// For how long its driver has been done with it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detached_s: Option<u64>,
    /// Whether somebody has kept its last pages for a minute and more: a stalled pool shutdown.
    pub stalled: bool,
    /// The eleven counters; `null` where the kernel leaves one out.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub counters: Option<Counters>,
    /// `(recycle_cached + recycle_ring) / (alloc_fast + alloc_refill + alloc_slow)`; not there if nothing was
    /// allocated.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub recycle_ratio: Option<f64>,
}

impl DeviceJson {
    /// The pools at `boottime`.
    pub fn new(pools: &DevicePools, boottime: u64) -> Self {
        Self {
            source: pools.source.name().to_owned(),
            reason: match &pools.source {
                Source::None(reason) => Some(reason.to_string()),
                Source::Netlink | Source::Ethtool(_) => None,
            },
            unlisted: match &pools.source {
                Source::Ethtool(unlisted) => unlisted.as_ref().map(Reason::to_string),
                Source::Netlink | Source::None(_) => None,
            },
            pools: pools.pools.iter().map(|pool| PoolJson::new(pool, boottime)).collect(),
        }
    }

    /// The counters of all pools together, those that all of them tell.
    pub fn sum(&self) -> Option<Counts> {
        let sum = super::sum(self.pools.iter().filter_map(|pool| pool.counters))?;
        Some(sum.told().collect())
    }
}

impl PoolJson {
    /// The pool at `boottime`.
    pub fn new(pool: &Pool, boottime: u64) -> Self {
        Self {
            pool: pool.label(),
            memory: pool.memory.name().to_owned(),
            napi: pool.napi,
            inflight_pages: pool.inflight_pages,
            inflight_bytes: pool.inflight_bytes,
            detached_s: pool.detached_s(boottime),
            stalled: pool.is_stalled(boottime),
            counters: pool.counters,
            // Six digits: a ratio of pages has no more to say.
            recycle_ratio: pool
                .counters
                .and_then(|counters| counters.recycle_ratio())
                .map(|ratio| (ratio * 1e6).round() / 1e6),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::page_pool::fixture::two_pools;

    #[test]
    fn what_nobody_tells_is_not_there() {
        let json = serde_json::to_value(DeviceJson::new(&two_pools(), 1200)).unwrap();
        assert_eq!((&json["source"], json.get("reason")), (&"netlink".into(), None));
        let [used, detached] = &json["pools"].as_array().unwrap()[..] else { panic!("two") };
        assert_eq!((&used["pool"], &used["counters"]["alloc_fast"]), (&"17".into(), &900.into()));
        assert_eq!((&used["recycle_ratio"], used.get("detached_s")), (&0.95.into(), None));
        assert_eq!((&detached["detached_s"], &detached["stalled"]), (&200.into(), &true.into()));
        assert_eq!((detached.get("napi"), detached.get("recycle_ratio")), (None, None));

        let none = DevicePools { source: Source::None(Reason::KernelWithoutStats), pools: Vec::new() };
        let json = serde_json::to_string(&DeviceJson::new(&none, 0)).unwrap();
        assert!(json.starts_with(r#"{"source":"none","reason":"this kernel was built without"#), "{json}");

        let unlisted = Some(Reason::Failed("no buffers".into()));
        let half = DevicePools { source: Source::Ethtool(unlisted), pools: Vec::new() };
        let json = serde_json::to_string(&DeviceJson::new(&half, 0)).unwrap();
        let expected =
            r#"{"source":"ethtool","unlisted":"the kernel did not answer: no buffers","pools":[]}"#;
        assert_eq!(json, expected);
    }

    #[test]
    fn a_counter_that_the_kernel_leaves_out_is_null() {
        let mut pools = two_pools();
        pools.pools[0].counters.as_mut().unwrap().recycle_ring = None;
        let json = DeviceJson::new(&pools, 1200);
        let pool = &serde_json::to_value(&json).unwrap()["pools"][0];
        assert_eq!((&pool["counters"]["recycle_ring"], pool.get("recycle_ratio")), (&Value::Null, None));
        assert_eq!(pool["counters"].as_object().unwrap().len(), 11, "and no key is missing: {pool}");
        let sum = json.sum().unwrap();
        assert!(sum.iter().all(|(name, _)| name != "recycle_ring") && sum.get("recycle_cached") == 700);
    }

    #[test]
    fn it_can_be_read_again() {
        let mut pools = two_pools();
        pools.pools[1].counters.as_mut().unwrap().alloc_waive = None;
        let json = DeviceJson::new(&pools, 1200);
        let again: DeviceJson = serde_json::from_str(&serde_json::to_string(&json).unwrap()).unwrap();
        assert_eq!(again, json);
        assert_eq!(again.sum().unwrap().get("recycle_ring"), 250);
    }
}
