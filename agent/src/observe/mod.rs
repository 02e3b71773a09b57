//! [`Observation`]: everything that can be said about a running agent at one moment, as plain data.
//!
//! Table, JSON and metrics all read this and nothing else. Taking one takes no lock of ours that a worker takes: their
//! snapshots are read from a block that they publish once in a millisecond, the rest is asked of the kernel.
//!
//! There it takes one. The kernel reads a socket's `XDP_STATISTICS` under the mutex of that socket, for as long as six
//! numbers take, if it is not preempted there (net/xdp/xsk.c: `xsk_getsockopt`). In copy mode it sends under the same one,
//! in `sendto()` and, of a socket that has a TX ring, in `poll()` (`__xsk_generic_xmit`): a worker in one of these calls may
//! wait for those six numbers, and whoever asks for them, for what one call sends. Packets are received without it, and in
//! zero-copy mode neither call takes it. What a worker notices of being watched is measured by `cargo xtask bench scrape`.

#[cfg(test)]
mod busy;
mod holds;
mod kernel;
pub(crate) mod process;
mod totals;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

#[cfg(test)]
pub(crate) use busy::fixture_busy;
use datapath::snapshot::{Places, Snapshot};
pub use holds::{HolderView, HoldsView};
pub use kernel::{Asked, Collector, KernelView, ask};
pub use process::ProcessView;
use rustix::net::xdp::XdpStatistics;
pub use totals::Totals;
use umemd_common::Decision;

use crate::{
    capture::Written,
    config::Wait,
    ebpf::{RedirectErrors, RuleCount},
    nic::netdev::Features,
    numa::Nodes,
    page_pool::Pool,
    steer::RuleSet,
    xsk::RingSizes,
};

/// All devices at one moment.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Time since the workers started.
    pub at: Duration,
    /// When that was.
    pub started: SystemTime,
    /// What the times of turns and of holds count from.
    pub epoch: SystemTime,
    /// How long a frame may be kept before it is taken for leaked.
    pub leak_after: Duration,
    /// The rules in force.
    pub rules: Arc<RuleSet>,
    /// What is done with the frames that were steered, as `--handler` calls it.
    pub handler: &'static str,
    /// How often the configuration was read again.
    pub reloads: Reloads,
    /// The devices, in the order given.
    pub devices: Vec<DeviceView>,
    /// Queues that were closed, because their interface went or changed, and that somebody still holds frames of.
    pub leaving: Vec<QueueView>,
    /// What went through queues that were closed, and that all frames have come home of.
    pub past: Totals,
    /// What was captured.
    pub capture: Option<Written>,
    /// page_pools of interfaces that are gone, and whose pages somebody keeps; none if the kernel was not asked.
    pub orphans: Vec<Pool>,
    /// `CLOCK_BOOTTIME` when the kernel was asked, seconds: what the age of a detached pool is counted from.
    pub boottime: u64,
    /// How asking the program and the sockets went; and the kernel about the devices, if it was asked.
    pub collectors: Vec<Collector>,
    /// This process; `None` if it was not asked for.
    pub process: Option<ProcessView>,
    /// HTTP requests answered, by page and status.
    pub requests: Vec<(&'static str, u16, u64)>,
}

/// How often the configuration was read again, and how the last time went.
#[derive(Clone, Copy, Debug)]
pub struct Reloads {
    /// How often that was put in force.
    pub applied: u64,
    /// How often it was refused.
    pub rejected: u64,
    /// Whether the last one was put in force; the start counts as one.
    pub good: bool,
    /// When that last succeeded.
    pub at: SystemTime,
}

impl Reloads {
    /// None since the start, which is now.
    #[must_use]
    pub fn none() -> Self {
        Self { applied: 0, rejected: 0, good: true, at: SystemTime::now() }
    }
}

/// One interface.
#[derive(Clone, Debug)]
pub struct DeviceView {
    /// What does not change.
    pub info: Arc<DeviceInfo>,
    /// Frames by what the XDP program decided, in the order of [`Decision::ALL`]; summed over CPUs. `None` while
    /// there is no program, or nobody can read its map.
    pub decisions: Option<[u64; Decision::COUNT]>,
    /// Redirects that failed, by errno; or why nobody counts them.
    pub redirect_errors: RedirectErrors,
    /// The queues served; none while the interface is away.
    pub queues: Vec<QueueView>,
    /// Why the interface is not served at the moment.
    pub away: Option<String>,
    /// How full the program's tables are: each one's name, what is used, and what there is room for.
    pub tables: Vec<(&'static str, u32, u32)>,
    /// What each rule has matched, if it was asked for.
    pub rules: Vec<RuleCount>,
    /// What the kernel says of the interface itself; `None` if it was not asked.
    pub kernel: Option<KernelView>,
}

/// What does not change about an interface while it is served.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    /// Its index in its network namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its driver, or empty if the kernel does not say.
    pub driver: String,
    /// Where the XDP program runs: `native` or `skb`, read back from the kernel.
    pub mode: &'static str,
    /// Whether the sockets are zero-copy, read back from the kernel (`XDP_OPTIONS`).
    pub zero_copy: bool,
    /// What the driver says that it can do; `None` if this kernel does not tell.
    pub features: Option<Features>,
    /// The program.
    pub program: &'static str,
    /// The kernel's id of it.
    pub program_id: u32,
    /// The kernel's hash of its instructions, as in `bpftool prog`.
    pub program_tag: String,
}

/// One queue of an interface.
#[derive(Clone, Debug)]
pub struct QueueView {
    /// Name of its interface.
    pub device: Arc<str>,
    /// Its number.
    pub queue: u32,
    /// The CPU that its worker is pinned to.
    pub cpu: usize,
    /// Bytes per frame.
    pub frame_size: u32,
    /// Whether the frames are in huge pages.
    pub huge_pages: bool,
    /// The NUMA nodes that they lie on.
    pub nodes: Nodes,
    /// Whether packets may take several frames.
    pub multi_buffer: bool,
    /// How its worker waits for frames.
    pub wait: Wait,
    /// Entries of the socket's rings.
    pub rings: RingSizes,
    /// CPU time of the worker's thread, seconds, while it runs; of two queues of one worker the first one has it.
    pub cpu_s: Option<f64>,
    /// What the worker published last.
    pub snapshot: Snapshot,
    /// Who keeps its frames.
    pub holds: HoldsView,
    /// `XDP_STATISTICS`, if the kernel answered.
    pub xsk: Option<XdpStatistics>,
    /// How often the worker woke the kernel for the fill ring: calls that it took, and those that it refused.
    pub fill_wakeups: (u64, u64),
    /// Whether the program finds the queue's socket: not, while the worker makes no turns.
    pub steered: bool,
    /// Whether the queue's handler panicked: its worker is gone, its traffic goes to the stack.
    pub failed: bool,
    /// How often the watchdog took the socket away from a worker that made no turns.
    pub failed_open: u64,
    /// Frames that the kernel does not give back.
    pub swallowed: Swallowed,
}

/// Frames that were lent to the kernel, and that it has kept for too long while nothing moved: it lost them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swallowed {
    /// Of those in place `kernel`.
    pub kernel: u32,
    /// Of those in place `tx`.
    pub tx: u32,
}

impl Observation {
    /// Every queue of every device, and those that are leaving.
    pub fn queues(&self) -> impl Iterator<Item = &QueueView> {
        self.devices.iter().flat_map(|device| &device.queues).chain(&self.leaving)
    }

    /// What went through since the start.
    pub fn totals(&self) -> Totals {
        let mut totals = self.past.clone();
        self.queues().for_each(|queue| totals.add(queue));
        totals
    }

    /// Whether the law holds everywhere: each frame is in exactly one place, and the places add up.
    pub fn conserved(&self) -> bool {
        self.queues().all(|queue| queue.snapshot.conserved())
    }

    /// Frames of all queues.
    pub fn total(&self) -> u64 {
        self.queues().map(|queue| u64::from(queue.snapshot.total)).sum()
    }

    /// Frames of all queues by place, in the order of [`Places::iter`].
    pub fn places(&self) -> Vec<(&'static str, u64)> {
        let mut sums: Vec<(&'static str, u64)> =
            Places::default().iter().map(|(name, _)| (name, 0)).collect();
        for queue in self.queues() {
            for (sum, (_, frames)) in sums.iter_mut().zip(queue.snapshot.places.iter()) {
                sum.1 += u64::from(frames);
            }
        }
        sums
    }
}

impl QueueView {
    /// Packets dropped after the XDP program handed them over, by cause: by this agent, then by the kernel.
    pub fn drops(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let xsk = self.xsk;
        let kernel = [
            // In copy mode it includes what found the fill ring empty. In zero-copy mode the NIC drops that, and counts it,
            // if it has no buffer left: so it is no cause of its own.
            ("xsk_rx_dropped", xsk.map_or(0, |x| x.rx_dropped)),
            ("xsk_rx_ring_full", xsk.and_then(|x| x.rx_ring_full).unwrap_or(0)),
            ("xsk_tx_invalid_descs", xsk.map_or(0, |x| x.tx_invalid_descs)),
            ("tx_unsent", self.snapshot.traffic.tx_unsent),
        ];
        self.snapshot.traffic.drops().chain(kernel)
    }
}

/// One device with two queues of 4096 frames each, at rest.
#[cfg(test)]
pub(crate) fn fixture() -> Observation {
    let info = DeviceInfo {
        index: 3,
        name: "eth0".into(),
        driver: "mvneta".into(),
        mode: "native",
        zero_copy: false,
        features: Some(Features { native: true, redirect: true, fragments: true, ..Features::default() }),
        program: "umemd",
        program_id: 7,
        program_tag: "0123456789abcdef".into(),
    };
    let holder = |name| HolderView { name, frames: 0, oldest: None, leaked: 0 };
    let queue = |queue| QueueView {
        device: "eth0".into(),
        queue,
        cpu: 1,
        frame_size: 2048,
        huge_pages: false,
        nodes: Nodes::default(),
        multi_buffer: false,
        wait: Wait::Poll { gather: Duration::from_micros(50) },
        rings: RingSizes { fill: 4096, fill_target: 2048, rx: 2048, tx: 1024, completion: 2048 },
        cpu_s: Some(0.25),
        snapshot: Snapshot {
            total: 4096,
            places: Places { slab: 1984, cache: 64, fill: 2048, ..Places::default() },
            ..Snapshot::default()
        },
        holds: HoldsView { holders: vec![holder("handler"), holder("capture")], ..HoldsView::default() },
        xsk: Some(XdpStatistics {
            rx_dropped: 0,
            rx_invalid_descs: 0,
            tx_invalid_descs: 0,
            rx_ring_full: Some(0),
            rx_fill_ring_empty_descs: Some(0),
            tx_ring_empty_descs: Some(0),
        }),
        fill_wakeups: (0, 0),
        steered: true,
        failed: false,
        failed_open: 0,
        swallowed: Swallowed::default(),
    };
    let device = DeviceView {
        info: Arc::new(info),
        decisions: Some([1, 2, 0, 0, 0, 3, 4, 5, 0, 0, 0]),
        redirect_errors: Err("it takes CAP_PERFMON".into()),
        queues: vec![queue(0), queue(1)],
        away: None,
        tables: vec![("rules", 1, 10_000), ("shapes", 1, 32), ("units", 3, 65_536)],
        rules: Vec::new(),
        kernel: None,
    };
    Observation {
        at: Duration::from_secs(1),
        started: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        epoch: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        leak_after: Duration::from_secs(60),
        rules: Arc::default(),
        handler: "drop",
        reloads: Reloads {
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            ..Reloads::none()
        },
        devices: vec![device],
        leaving: Vec::new(),
        orphans: Vec::new(),
        boottime: 1200,
        past: Totals::default(),
        capture: None,
        collectors: Vec::new(),
        process: None,
        requests: Vec::new(),
    }
}

/// The same without a frame of the second queue's: the law is broken.
#[cfg(test)]
pub(crate) fn fixture_one_frame_short() -> Observation {
    let mut observation = fixture();
    observation.devices[0].queues[1].snapshot.places.slab -= 1;
    observation
}

/// The first one with what the kernel says: one pool in use and one that cannot end, which only netlink tells, and so of
/// a driver that does; its counters; and a capture that keeps three frames, one of them for too long.
#[cfg(test)]
pub(crate) fn fixture_with_kernel() -> Observation {
    use crate::{nic::stats::NicStats, page_pool::fixture::two_pools};

    let mut observation = fixture();
    let info = Arc::make_mut(&mut observation.devices[0].info);
    info.driver = "mlx5_core".into();
    info.features = info.features.map(|features| Features { zero_copy: true, ..features });
    observation.devices[0].redirect_errors = Ok(vec![("ENXIO", 4), ("ENOBUFS", 0), ("other", 0)]);
    let driver = [("rx_out_of_buffer", 3), ("rx_discards_phy", 0), ("rx_packets_phy", 9)];
    observation.devices[0].kernel = Some(KernelView {
        page_pool: two_pools(),
        nic: NicStats {
            link: vec![("rx_dropped", 2), ("rx_missed_errors", 0)],
            driver: driver.into_iter().map(|(name, count)| (name.to_owned(), count)).collect(),
        },
    });
    observation.rules = Arc::new(crate::steer::compile(&["udp port 53", "arp"]).expect("rules"));
    let count = |packets| umemd_common::maps::Count { packets, bytes: 60 * packets };
    observation.devices[0].rules = ["rule1", "rule2"]
        .into_iter()
        .zip([7, 0])
        .map(|(name, packets)| RuleCount { name: name.to_owned(), count: count(packets) })
        .collect();
    let queue = &mut observation.devices[0].queues[0];
    queue.holds.holders[1] =
        HolderView { name: "capture", frames: 3, oldest: Some(Duration::from_secs(75)), leaked: 1 };
    queue.holds.times.buckets[3] = 5;
    queue.holds.times.sum = Duration::from_millis(4);
    observation.capture = Some(Written { packets: 5, bytes: 500, lost: 0 });
    let took = Duration::from_millis(1);
    observation.collectors = vec![Collector { name: "page_pool", success: true, took }];
    observation.process = Some(ProcessView { max_fds: Some(1024), ..ProcessView::default() });
    observation.requests = vec![("/metrics", 200, 7)];
    observation
}
