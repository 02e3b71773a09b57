//! [`Status`]: what `/status` says, as JSON; what the live page, `umemd top` and `umemd drops` are made of.

use std::{fmt::Write as _, time::Duration};

use serde::{Deserialize, Serialize};
use umemd_common::Decision;

use crate::{
    counts::Counts,
    drops,
    observe::{DeviceView, HolderView, Observation, QueueView, Swallowed},
    page_pool::{self, DeviceJson, PoolJson},
    report::numbers::{counted, thousands},
};

/// Version of this object; raised when a field changes its meaning or goes.
const SCHEMA: u32 = 1;

/// A running agent at one moment. Counts only grow, but for [`drops::UNACCOUNTED`]: a queue's from when it was opened, which
/// may be again; those of the NIC and of the kernel's pools began before us.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of this object.
    pub schema: u32,
    /// Version of umemd.
    pub version: String,
    /// The agent's process, as it sees itself.
    #[serde(default)]
    pub pid: u32,
    /// Seconds since the workers started.
    pub at_s: f64,
    /// What is done with the frames that were steered.
    #[serde(default)]
    pub handler: String,
    /// The rules in force.
    #[serde(default)]
    pub rules: RulesStatus,
    /// Whether each frame is in exactly one place.
    pub conserved: bool,
    /// Seconds after which a frame that somebody keeps is taken for leaked.
    #[serde(default)]
    pub leak_after_s: f64,
    /// The interfaces, in the order given.
    pub devices: Vec<DeviceStatus>,
    /// Queues that were closed, and whose frames somebody still keeps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaving: Vec<LeavingStatus>,
    /// page_pools of the kernel whose interface is gone, and whose pages somebody still keeps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orphans: Vec<PoolJson>,
}

/// The rules in force, in short.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulesStatus {
    /// How many there are.
    pub count: usize,
    /// What becomes of frames without a rule: `pass` or `drop`.
    pub default: String,
}

/// One interface.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// Its name.
    pub device: String,
    /// Its driver.
    pub driver: String,
    /// `native` or `skb`: where the XDP program runs.
    pub mode: String,
    /// Whether the sockets are in copy mode.
    pub copy: bool,
    /// The kernel's id of the program.
    pub program_id: u32,
    /// Frames by what the program decided.
    pub decisions: Counts,
    /// The queues served; none while the interface is away.
    pub queues: Vec<QueueStatus>,
    /// Why the interface is not served at the moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub away: Option<String>,
    /// The kernel's own page_pools.
    pub page_pool: Option<DeviceJson>,
    /// Where packets got lost, zeros included.
    pub drops: Vec<DropStatus>,
    /// Why nobody counts failed redirects by errno; not there if somebody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_redirect_errors: Option<String>,
}

/// One queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueueStatus {
    /// Its number.
    pub queue: u32,
    /// The CPU of its worker.
    pub cpu: usize,
    /// Whether the program finds its socket.
    pub steered: bool,
    /// Whether its handler panicked, so that nobody serves it any more.
    #[serde(default)]
    pub failed: bool,
    /// How often the watchdog took the socket away.
    pub failed_open: u64,
    /// Packets lost since it was opened, of those rows of the drop table that are counted by queue; not there if its
    /// socket does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<u64>,
    /// Seconds since the workers started, at the worker's last turn.
    pub last_turn_s: f64,
    /// Frames of its UMEM.
    pub total: u64,
    /// The same by place; they add up to the total.
    pub frames: Counts,
    /// page_pool's eleven counters, of our pool.
    pub counters: Counts,
    /// Packets and bytes through the rings.
    pub traffic: Counts,
    /// Who keeps frames, whether or not they do.
    #[serde(default)]
    pub holders: Vec<HolderStatus>,
}

/// Who keeps frames of one queue for longer than a turn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HolderStatus {
    /// `handler` or `capture`; `kernel`, if it lost some.
    pub holder: String,
    /// How many.
    pub frames: u64,
    /// Seconds since they took the oldest; not there if they have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_s: Option<f64>,
    /// How many they have kept for so long that they are taken for leaked.
    pub leaked: u64,
}

/// A queue that was closed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeavingStatus {
    /// Name of its interface.
    pub device: String,
    /// Its number.
    pub queue: u32,
    /// Who keeps its frames.
    pub holders: Vec<HolderStatus>,
}

/// A row of the drop table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropStatus {
    /// How far the packets had come.
    pub layer: String,
    /// The counter's name there.
    pub cause: String,
    /// Its count.
    pub count: u64,
    /// Whether it counts packets that are gone for certain; the others only help to understand these.
    pub lost: bool,
}

impl Status {
    /// The status that an observation shows.
    pub fn of(observation: &Observation) -> Self {
        let boottime = observation.boottime;
        Self {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            at_s: seconds(observation.at),
            handler: observation.handler.to_owned(),
            rules: RulesStatus {
                count: observation.rules.len(),
                default: observation.rules.default.name().to_owned(),
            },
            conserved: observation.conserved(),
            leak_after_s: seconds(observation.leak_after),
            devices: observation.devices.iter().map(|device| DeviceStatus::of(device, boottime)).collect(),
            leaving: observation.leaving.iter().map(LeavingStatus::of).collect(),
            orphans: observation.orphans.iter().map(|pool| PoolJson::new(pool, boottime)).collect(),
        }
    }

    /// A line of the kernel's pools whose interface is gone, if there are such.
    pub fn orphans_told(&self) -> Option<String> {
        // Not told of one, it is not told of all together.
        let pages = self.orphans.iter().map(|pool| pool.inflight_pages).sum::<Option<u64>>();
        let pages = pages.map_or_else(String::new, |pages| format!(", {} in flight", counted(pages, "page")));
        let oldest = self.orphans.iter().filter_map(|pool| pool.detached_s).max();
        let oldest = oldest.map_or_else(String::new, |s| format!(", the oldest for {} s", thousands(s)));
        let count = self.orphans.len();
        (count > 0).then(|| {
            format!("page_pools of interfaces that are gone: {count}{pages}{oldest} (umemd pagepool)")
        })
    }

    /// Everyone who keeps frames, and of which queue of which interface; queues that were closed last.
    pub fn holders(&self) -> impl Iterator<Item = (&str, u32, &HolderStatus)> {
        let served = self.devices.iter().flat_map(|device| {
            device.queues.iter().map(move |q| (device.device.as_str(), q.queue, &q.holders))
        });
        let leaving = self.leaving.iter().map(|q| (q.device.as_str(), q.queue, &q.holders));
        served
            .chain(leaving)
            .flat_map(|(device, queue, holders)| holders.iter().map(move |holder| (device, queue, holder)))
            .filter(|(.., holder)| holder.frames > 0)
    }

    /// As one line of JSON.
    pub fn json(&self) -> String {
        // Strings, numbers and maps with string keys: this cannot fail, and an empty answer would say that it did.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl DeviceStatus {
    fn of(device: &DeviceView, boottime: u64) -> Self {
        let drops = drops::rows(device).into_iter().map(|row| DropStatus {
            lost: row.is_lost(),
            layer: row.layer.name().to_owned(),
            cause: row.cause.into_owned(),
            count: row.count,
        });
        let kernel = device.kernel.as_ref();
        Self {
            device: device.info.name.clone(),
            driver: device.info.driver.clone(),
            mode: device.info.mode.to_owned(),
            copy: !device.info.zero_copy,
            program_id: device.info.program_id,
            decisions: Decision::ALL
                .iter()
                .zip(device.decisions.into_iter().flatten())
                .map(|(decision, count)| (decision.name(), count))
                .collect(),
            queues: device.queues.iter().map(QueueStatus::of).collect(),
            away: device.away.clone(),
            page_pool: kernel.map(|kernel| DeviceJson::new(&kernel.page_pool, boottime)),
            drops: drops.collect(),
            no_redirect_errors: device.redirect_errors.as_ref().err().cloned(),
        }
    }

    /// Packets lost between the program and the worker's end: what is called lost everywhere, see [`drops`].
    pub fn lost(&self) -> u64 {
        self.losses(false).sum()
    }

    /// Packets that the NIC or its driver lost, at least: the largest of its rows, as several may count the same ones.
    pub fn lost_by_nic(&self) -> u64 {
        self.losses(true).max().unwrap_or(0)
    }

    fn losses(&self, nic: bool) -> impl Iterator<Item = u64> {
        let of_nic = |row: &DropStatus| row.layer == drops::Layer::Nic.name();
        self.drops.iter().filter(move |row| row.lost && of_nic(row) == nic).map(|row| row.count)
    }

    /// Frames of all queues by place.
    pub fn frames(&self) -> Counts {
        sum(self.queues.iter().map(|queue| &queue.frames))
    }

    /// Our pools' counters, of all queues.
    pub fn counters(&self) -> Counts {
        sum(self.queues.iter().map(|queue| &queue.counters))
    }

    /// What went through the rings of all queues.
    pub fn traffic(&self) -> Counts {
        sum(self.queues.iter().map(|queue| &queue.traffic))
    }
}

impl QueueStatus {
    fn of(queue: &QueueView) -> Self {
        let snapshot = &queue.snapshot;
        let traffic = &snapshot.traffic;
        let pool = page_pool::Counters::of(&snapshot.pool.alloc, &snapshot.pool.recycle);
        Self {
            queue: queue.queue,
            cpu: queue.cpu,
            steered: queue.steered,
            failed: queue.failed,
            failed_open: queue.failed_open,
            lost: drops::lost_of(queue),
            last_turn_s: seconds(snapshot.last_turn),
            total: snapshot.total.into(),
            frames: snapshot.places.iter().map(|(place, frames)| (place, frames.into())).collect(),
            counters: pool.told().collect(),
            traffic: [
                ("rx_packets", traffic.rx_packets),
                ("rx_bytes", traffic.rx_bytes),
                ("tx_packets", traffic.tx_packets),
                ("tx_bytes", traffic.tx_bytes),
            ]
            .into_iter()
            .collect(),
            holders: HolderStatus::all(queue),
        }
    }
}

impl HolderStatus {
    fn all(queue: &QueueView) -> Vec<Self> {
        let of = |holder: &HolderView| Self {
            holder: holder.name.to_owned(),
            frames: holder.frames.into(),
            oldest_s: holder.oldest.map(seconds),
            leaked: holder.leaked.into(),
        };
        let Swallowed { kernel, tx } = queue.swallowed;
        let swallowed = u64::from(kernel + tx);
        let kernel =
            Self { holder: "kernel".to_owned(), frames: swallowed, oldest_s: None, leaked: swallowed };
        let kernel = Some(kernel).filter(|kernel| kernel.frames > 0);
        queue.holds.holders.iter().map(of).chain(kernel).collect()
    }

    /// `capture keeps 3 frames of eth0 queue 0, the oldest for 75 s`, and whether some are leaked.
    pub fn told(&self, device: &str, queue: u32) -> String {
        let Self { holder, frames, oldest_s, leaked } = self;
        let mut text = format!("the {holder} keeps {} of {device} queue {queue}", counted(*frames, "frame"));
        if let Some(age) = oldest_s {
            let _ = write!(text, ", the oldest for {age:.1} s");
        }
        if *leaked > 0 {
            let _ = write!(text, ": {} LEAKED", thousands(*leaked));
        }
        text
    }
}

impl LeavingStatus {
    fn of(queue: &QueueView) -> Self {
        Self { device: queue.device.to_string(), queue: queue.queue, holders: HolderStatus::all(queue) }
    }
}

/// `(recycle_cached + recycle_ring) / (alloc_fast + alloc_refill + alloc_slow)`; `None` if nothing was allocated.
pub fn recycle_ratio(counters: &Counts) -> Option<f64> {
    let sum = |names: &[&str]| names.iter().map(|name| counters.get(name)).sum::<u64>();
    let allocated = sum(&["alloc_fast", "alloc_refill", "alloc_slow"]);
    (allocated > 0).then(|| sum(&["recycle_cached", "recycle_ring"]) as f64 / allocated as f64)
}

fn sum<'a>(all: impl Iterator<Item = &'a Counts>) -> Counts {
    let mut sum = Counts::default();
    for (name, count) in all.flat_map(Counts::iter) {
        sum.add(name, count);
    }
    sum
}

fn seconds(duration: Duration) -> f64 {
    duration.as_millis() as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        observe::{fixture, fixture_busy, fixture_with_kernel},
        protocol::documented::fields,
    };

    #[test]
    fn it_can_be_read_again() {
        for observation in [fixture(), fixture_with_kernel()] {
            let status = Status::of(&observation);
            assert_eq!(serde_json::from_str::<Status>(&status.json()).unwrap(), status);
        }
    }

    #[test]
    fn every_field_is_documented() {
        let mut observation = fixture_with_kernel();
        let mut away = fixture().devices.remove(0);
        away.away = Some("eth0 was removed".into());
        observation.devices.push(away);
        // Of pools that some of the sources do not tell of.
        let failed = page_pool::Reason::Failed("no buffers".into());
        for source in [page_pool::Source::None(failed.clone()), page_pool::Source::Ethtool(Some(failed))] {
            let mut device = observation.devices[0].clone();
            device.kernel.as_mut().unwrap().page_pool.source = source;
            observation.devices.push(device);
        }
        observation.leaving.push(observation.devices[0].queues[0].clone());
        observation.orphans = observation.devices[0].kernel.as_ref().unwrap().page_pool.pools.clone();
        let mut names = BTreeSet::new();
        fields(&serde_json::from_str(&Status::of(&observation).json()).unwrap(), &mut names);
        let page = include_str!("protocol/PROTOCOL.md");
        let missing: Vec<_> = names.iter().filter(|name| !page.contains(&format!("`{name}`"))).collect();
        assert_eq!(missing, [""; 0], "see the table of `status`");
    }

    #[test]
    fn places_add_up_to_the_total_and_counters_have_the_kernels_names() {
        let status = Status::of(&fixture_with_kernel());
        let device = &status.devices[0];
        assert_eq!((device.frames().sum(), status.conserved), (8192, true));
        let ours: Vec<String> = device.counters().iter().map(|(name, _)| name.to_owned()).collect();
        let pools = &device.page_pool.as_ref().unwrap().pools;
        let kernels = pools[0].counters.as_ref().unwrap();
        assert_eq!(ours, kernels.iter().map(|(name, _)| name).collect::<Vec<_>>());
        assert_eq!((kernels.recycle_ratio(), recycle_ratio(&device.counters())), (Some(0.95), None));
        // Cached and ring, of fast, refill and slow; of both queues.
        let [first, second] =
            [[1007.0, 1009.0, 1001.0, 1005.0, 1002.0], [4007.0, 4009.0, 4001.0, 4005.0, 4002.0]];
        let [cached, ring, fast, refill, slow] = std::array::from_fn(|n| first[n] + second[n]);
        let busy = Status::of(&fixture_busy()).devices[0].counters();
        assert_eq!(recycle_ratio(&busy), Some((cached + ring) / (fast + refill + slow)));
    }

    #[test]
    fn what_the_nic_lost_is_beside_what_was_lost() {
        let (then, now, told) = drops::example::read();
        let grown = |of: fn(&DeviceStatus) -> u64| of(&now.devices[0]) - of(&then.devices[0]);
        assert_eq!(grown(DeviceStatus::lost), told.lost);
        assert_eq!(grown(DeviceStatus::lost_by_nic), told.nic);
    }

    #[test]
    fn who_keeps_frames_is_told_also_of_queues_that_were_closed() {
        let mut observation = fixture_with_kernel();
        observation.leaving.push(observation.devices[0].queues[0].clone());
        let status = Status::of(&observation);
        let told: Vec<_> =
            status.holders().map(|(device, queue, holder)| holder.told(device, queue)).collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert_eq!(told[0], "the capture keeps 3 frames of eth0 queue 0, the oldest for 75.0 s: 1 LEAKED");
        assert_eq!(status.leak_after_s, 60.0);
        observation.devices[0].queues[1].swallowed = Swallowed { kernel: 2, tx: 1 };
        let status = Status::of(&observation);
        let kernel = status.holders().find(|(.., holder)| holder.holder == "kernel");
        let told = kernel.map(|(device, queue, holder)| holder.told(device, queue));
        assert_eq!(told.as_deref(), Some("the kernel keeps 3 frames of eth0 queue 1: 3 LEAKED"));
        assert_eq!(Status::of(&fixture()).holders().count(), 0);
    }

    #[test]
    fn pools_whose_interface_is_gone_are_told_while_there_are_any() {
        let mut observation = fixture_with_kernel();
        assert!(Status::of(&observation).orphans_told().is_none());
        observation.orphans = observation.devices[0].kernel.as_ref().unwrap().page_pool.pools[1..].to_vec();
        let status = Status::of(&observation);
        assert_eq!((status.orphans.len(), status.orphans[0].stalled), (1, true));
        let told = status.orphans_told().unwrap();
        assert!(told.starts_with("page_pools of interfaces that are gone: 1, "), "{told}");
        assert!(told.contains(", the oldest for ") && told.ends_with(" s (umemd pagepool)"), "{told}");
    }

    #[test]
    fn one_queue_is_a_small_answer() {
        let mut observation = fixture_with_kernel();
        observation.devices[0].queues.truncate(1);
        let bytes = Status::of(&observation).json().len();
        assert!(bytes < 6000, "{bytes} bytes, asked for once a second");
    }
}
