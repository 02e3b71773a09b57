//! What one page costs: its time and its bytes, for an agent of 64 queues and 256 rules. `cargo xtask bench scrape` runs this.
//!
//! CPU time of the thread, and the median of many runs: what else the machine does has little part in that. It has in
//! the time by the clock on the wall, which is told beside it.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use datapath::snapshot::{Places, Snapshot};
use frame_pool::{AllocStats, HOLD_BOUNDS, HoldTimes, RecycleStats};
use rustix::{
    net::xdp::XdpStatistics,
    time::{ClockId, clock_gettime},
};
use umemd::{
    RingSizes,
    config::Wait,
    ebpf::RuleCount,
    metrics,
    nic::stats::NicStats,
    numa::Nodes,
    observe::{
        DeviceInfo, DeviceView, HolderView, HoldsView, KernelView, Observation, QueueView, Reloads,
        Swallowed, Totals,
    },
    page_pool::{Counters, DevicePools, Pool, Source},
    status::Status,
    steer::compile,
};
use umemd_common::{Decision, maps::Count};

const QUEUES: u32 = 64;
const RULES: u32 = 256;
const RUNS: u32 = 50;

/// A page's name, and what makes it.
type Page = (&'static str, fn(&Observation) -> String);

fn main() {
    let observation = observation();
    let pages: [Page; 2] = [
        ("metrics", |observation| metrics::render(observation.clone()).expect("text in memory")),
        ("status", |observation| Status::of(observation).json()),
    ];
    for (page, make) in pages {
        let bytes = make(&observation).len();
        let (cpu, wall) = (0..RUNS).map(|_| times(|| make(&observation))).unzip();
        let line = serde_json::json!({
            "bench": "scrape", "page": page, "queues": QUEUES, "rules": RULES, "bytes": bytes,
            "cpu_ms": millis(median(cpu)), "wall_ms": millis(median(wall)),
        });
        println!("{line}");
    }
}

/// An agent whose counters are as long as counters get.
fn observation() -> Observation {
    const LONG: u64 = 1 << 40;
    let info = DeviceInfo {
        index: 3,
        name: "enp129s0f0np0".into(),
        driver: "mlx5_core".into(),
        mode: "native",
        zero_copy: true,
        features: None,
        program: "umemd",
        program_id: 4711,
        program_tag: "0123456789abcdef".into(),
    };
    let mut snapshot = Snapshot {
        total: 4096,
        places: Places { slab: 1000, cache: 64, fill: 2000, rx: 1032, ..Places::default() },
        ..Snapshot::default()
    };
    snapshot.pool.alloc.fast = LONG;
    snapshot.pool.recycle.cached = LONG;
    snapshot.traffic.rx_packets = LONG;
    snapshot.traffic.rx_bytes = LONG << 8;
    let holder =
        |name| HolderView { name, frames: 1000, oldest: Some(Duration::from_millis(1234)), leaked: 0 };
    let times = HoldTimes { buckets: [LONG; HOLD_BOUNDS.len() + 1], sum: Duration::from_nanos(LONG) };
    let queue = |queue| QueueView {
        device: "enp129s0f0np0".into(),
        queue,
        cpu: queue as usize,
        frame_size: 4096,
        snapshot,
        holds: HoldsView { times, holders: vec![holder("handler"), holder("capture")] },
        xsk: Some(XdpStatistics {
            rx_dropped: LONG,
            rx_invalid_descs: 0,
            tx_invalid_descs: 0,
            rx_ring_full: Some(LONG),
            rx_fill_ring_empty_descs: Some(LONG),
            tx_ring_empty_descs: Some(LONG),
        }),
        fill_wakeups: (LONG, LONG),
        steered: true,
        failed: false,
        failed_open: 0,
        swallowed: Swallowed::default(),
        huge_pages: false,
        nodes: Nodes::default(),
        multi_buffer: false,
        wait: Wait::Poll { gather: Duration::ZERO },
        rings: RingSizes { fill: 4096, fill_target: 2048, rx: 2048, tx: 1024, completion: 2048 },
        cpu_s: Some(1e6),
    };
    let counters = Counters::of(&AllocStats::default(), &RecycleStats::default());
    let pool = |id| Pool { id: Some(id), counters: Some(counters), ..Pool::default() };
    let kernel = KernelView {
        page_pool: DevicePools { source: Source::Netlink, pools: (0..QUEUES.into()).map(pool).collect() },
        nic: NicStats {
            link: vec![("rx_dropped", LONG)],
            driver: (0..1000).map(|n| (format!("rx{n}_xdp_drops"), LONG)).collect(),
        },
    };
    let expressions: Vec<String> = (0..RULES).map(|n| format!("udp dst port {}", n + 1)).collect();
    let names = (1..=RULES).map(|n| format!("rule{n}"));
    let device = DeviceView {
        info: Arc::new(info),
        decisions: Some([LONG; Decision::COUNT]),
        redirect_errors: Ok(vec![("ENXIO", LONG), ("ENOBUFS", LONG), ("other", LONG)]),
        queues: (0..QUEUES).map(queue).collect(),
        kernel: Some(kernel),
        away: None,
        tables: vec![("rules", RULES, 10_000), ("shapes", 1, 32), ("units", RULES, 65_536)],
        rules: names.map(|name| RuleCount { name, count: Count { packets: LONG, bytes: LONG } }).collect(),
    };
    Observation {
        at: Duration::from_secs(1),
        started: SystemTime::now(),
        epoch: SystemTime::now(),
        leak_after: Duration::from_secs(60),
        rules: Arc::new(compile(&expressions).expect("rules")),
        handler: "drop",
        reloads: Reloads::none(),
        devices: vec![device],
        leaving: Vec::new(),
        orphans: Vec::new(),
        boottime: 0,
        past: Totals::default(),
        capture: None,
        collectors: Vec::new(),
        process: None,
        requests: Vec::new(),
    }
}

/// What some work takes of a CPU, and by the clock on the wall.
fn times<T>(work: impl FnOnce() -> T) -> (Duration, Duration) {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::from_secs(time.tv_sec as u64) + Duration::from_nanos(time.tv_nsec as u64)
    };
    let (start, begun) = (now(), Instant::now());
    std::hint::black_box(work());
    (now() - start, begun.elapsed())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}
