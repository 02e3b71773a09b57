//! What is served over HTTP.

use std::{
    fs,
    io::Write as _,
    net::TcpStream,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, SystemTime},
};

use e2e::{
    agent::Agent,
    http,
    lab::{Lab, LabConfig, OTHER_PORT, PORT, STEER},
    strain::{Strain, asking},
    wire::{WINDOW, Wire},
};

/// The eleven counters of the kernel's page_pool.
const PAGE_POOL: [&str; 11] = [
    "umemd_pool_alloc_fast_total",
    "umemd_pool_alloc_slow_total",
    "umemd_pool_alloc_slow_high_order_total",
    "umemd_pool_alloc_empty_total",
    "umemd_pool_alloc_refill_total",
    "umemd_pool_alloc_waive_total",
    "umemd_pool_recycle_cached_total",
    "umemd_pool_recycle_cache_full_total",
    "umemd_pool_recycle_ring_total",
    "umemd_pool_recycle_ring_full_total",
    "umemd_pool_recycle_released_refcnt_total",
];

/// `struct xdp_statistics`.
const XDP_STATISTICS: [&str; 6] = [
    "umemd_xsk_rx_dropped_total",
    "umemd_xsk_rx_invalid_descs_total",
    "umemd_xsk_tx_invalid_descs_total",
    "umemd_xsk_rx_ring_full_total",
    "umemd_xsk_rx_fill_ring_empty_descs_total",
    "umemd_xsk_tx_ring_empty_descs_total",
];

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn metrics_equal_the_frames_sent() {
    const WINDOWS: u64 = 10;
    const SIZE: u64 = 100;
    let Some(lab) = Lab::new() else { return };
    let near = &lab.pair().near;
    let agent = lab.agent(&["--steer", STEER]).start();
    let wire = Wire::connect(&lab.far, near.port(PORT));
    let _listener = Wire::listen(&lab.near, near.port(OTHER_PORT));
    let others = Wire::connect(&lab.far, near.port(OTHER_PORT));

    for window in 1..=WINDOWS {
        wire.send(0..WINDOW, |_| SIZE as usize);
        others.send(0..3, |_| 10);
        agent.metrics_when("this window", |m| m.total("umemd_rx_packets_total") == window * WINDOW);
    }

    let sent = WINDOWS * WINDOW;
    let metrics = agent.metrics_when("the other frames", |m| m.verdicts("unmatched") == 3 * WINDOWS);
    assert_eq!(
        metrics.sum("umemd_xdp_verdicts_total", &[("reason", "steered"), ("verdict", "redirect")]),
        sent
    );
    assert_eq!(metrics.sum("umemd_xdp_verdicts_total", &[("verdict", "pass")]), 3 * WINDOWS);
    assert_eq!(metrics.total("umemd_rx_bytes_total"), sent * (SIZE + 42));
    assert_eq!(metrics.total("umemd_tx_packets_total"), 0);
    assert_eq!(metrics.sum("umemd_packets_dropped_total", &[("reason", "handler_dropped")]), sent);
    assert_eq!(metrics.sum("umemd_rx_packets_total", &[("device", "near0"), ("queue", "0")]), sent);
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_heartbeat_is_of_the_past() {
    let Some(lab) = Lab::new() else { return };
    let agent = lab.agent(&["--steer", STEER]).start();
    for _ in 0..20 {
        let page = agent.get("/metrics").body;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
        let line = page.lines().find(|line| line.starts_with("umemd_worker_heartbeat_timestamp_seconds{"));
        let beat: f64 = line.unwrap().rsplit(' ').next().unwrap().parse().unwrap();
        assert!(beat <= now && beat > now - 60.0, "{beat} at {now}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn pool_counters_obey_their_laws() {
    const WINDOWS: u64 = 60;
    let Some(lab) = Lab::new() else { return };
    let agent = lab.agent(&["--steer", STEER]).start();
    let wire = Wire::connect(&lab.far, lab.pair().near.port(PORT));
    for window in 1..=WINDOWS {
        wire.send(0..WINDOW, |_| 18);
        agent.metrics_when("this window", |m| m.total("umemd_rx_packets_total") == window * WINDOW);
    }

    let metrics = agent.metrics();
    for name in PAGE_POOL {
        // Panics if it is missing.
        metrics.total(name);
    }
    let pool = |name: &str| metrics.total(&format!("umemd_pool_{name}_total"));
    let allocated = pool("alloc_fast") + pool("alloc_refill") + pool("alloc_slow");
    let put_back = pool("recycle_cached") + pool("recycle_ring") + pool("ring_full_frames");
    let places = ["user", "fill", "kernel", "rx", "tx", "completion"];
    let out: u64 = places.iter().map(|place| metrics.frames(place)).sum();
    assert_eq!(allocated - put_back, out, "what was allocated and not put back is out");
    assert_eq!(put_back, WINDOWS * WINDOW, "each frame received was put back once");
    assert!(allocated >= WINDOWS * WINDOW, "{allocated} allocations carried {} frames", WINDOWS * WINDOW);
    assert!(pool("alloc_empty") <= pool("alloc_slow"), "an empty ring leads to the slow path");

    let gauge = |name: &str| metrics.total(&format!("umemd_pool_{name}_frames"));
    assert_eq!(gauge("hold") - gauge("release"), gauge("inflight"));
    assert_eq!(
        gauge("inflight"),
        gauge("capacity") - metrics.frames("slab"),
        "in flight is what is not in the slab"
    );
    assert_eq!(metrics.total("umemd_pool_rejected_total"), 0);
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn the_pages_are_openmetrics_and_plain_text() {
    let Some(lab) = Lab::new() else { return };
    let agent = lab.agent(&["--steer", STEER]).start();

    let page = agent.get("/metrics");
    assert_eq!(page.status, 200);
    assert_eq!(
        page.header("content-type"),
        Some("application/openmetrics-text; version=1.0.0; charset=utf-8")
    );
    assert!(page.body.ends_with("# EOF\n"), "{}", page.body);
    assert_eq!(page.body.matches("# EOF").count(), 1, "{}", page.body);
    let metrics = agent.metrics();
    for name in XDP_STATISTICS {
        // An idle queue moves only the last one: the kernel looks for something to send whenever the worker sleeps.
        let value = metrics.total(name);
        assert!(
            value == 0 || name == "umemd_xsk_tx_ring_empty_descs_total",
            "{name} is {value} before any traffic"
        );
    }
    assert_eq!(metrics.total("umemd_build_info"), 1);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").expect("every Linux has it");
    assert_eq!(metrics.label_values("umemd_build_info", "kernel"), [kernel.trim_end()]);
    assert_eq!(metrics.label_values("umemd_device_info", "xdp_mode"), ["native"]);
    assert_eq!(metrics.label_values("umemd_device_info", "driver"), ["veth"]);
    let program = lab.pair().near.xdp_program().expect("attached").to_string();
    assert_eq!(metrics.label_values("umemd_program_info", "id"), [program]);
    assert_eq!(metrics.label_values("umemd_socket_info", "mode"), ["copy"]);
    assert_eq!(metrics.total("umemd_worker_steered"), 1);
    // It has a time.
    metrics.total("umemd_worker_cpu_seconds_total");

    for path in ["/healthz", "/readyz"] {
        let page = agent.get(path);
        assert_eq!((page.status, page.body.as_str()), (200, "ok\n"), "{path}");
    }
    assert_eq!(agent.get("/").status, 200);
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn unknown_pages_and_methods_are_refused() {
    let Some(lab) = Lab::new() else { return };
    let agent = lab.agent(&["--steer", STEER]).start();

    let unknown = agent.get("/metrics/");
    assert_eq!(unknown.status, 404);
    assert!(unknown.body.contains("/metrics"), "says which pages there are: {}", unknown.body);
    let post = agent.request("POST", "/metrics");
    assert_eq!((post.status, post.header("allow")), (405, Some("GET, HEAD")));
    let head = agent.request("HEAD", "/metrics");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    // None of that disturbed it.
    assert_eq!(agent.get("/healthz").status, 200);
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn the_status_says_what_the_metrics_say() {
    let Some(lab) = Lab::new() else { return };
    let agent = lab.agent(&["--steer", STEER]).start();
    let wire = Wire::connect(&lab.far, lab.pair().near.port(PORT));
    wire.send(0..WINDOW, |_| 18);
    let metrics = agent.metrics_when("the frames", |m| m.total("umemd_rx_packets_total") == WINDOW);

    let page = agent.get("/status");
    assert_eq!((page.status, page.header("content-type")), (200, Some("application/json")));
    let status: serde_json::Value = serde_json::from_str(&page.body).unwrap();
    let device = &status["devices"][0];
    assert_eq!((&status["conserved"], &device["driver"]), (&true.into(), &"veth".into()));
    let queue = &device["queues"][0];
    assert_eq!(queue["traffic"]["rx_packets"], WINDOW);
    let cached = metrics.total("umemd_pool_recycle_cached_total");
    assert_eq!(queue["counters"]["recycle_cached"], cached);
    let frames = queue["frames"].as_object().unwrap().values().filter_map(serde_json::Value::as_u64);
    assert_eq!(Some(frames.sum()), queue["total"].as_u64());
    let rows = device["drops"].as_array().unwrap();
    let row = rows.iter().find(|row| row["cause"] == "handler_dropped").unwrap();
    assert_eq!(row["count"], WINDOW);
    // Either there are counters, or the reason why there are none; never zeros.
    let pools = &device["page_pool"];
    let counters = pools["pools"].as_array().unwrap().iter().any(|pool| pool["counters"].is_object());
    assert_eq!(counters, pools.get("reason").is_none(), "{pools}");
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn who_floods_or_dawdles_costs_the_datapath_nothing() {
    let Some(lab) = Lab::with(LabConfig { pairs: 2, ..LabConfig::default() }) else { return };
    let on = |name| lab.agent_on(&["--steer", STEER, "--handler", "reflect", "--iface", name]).start();
    let (agent, bystander) = (on("near0"), on("near1"));
    let wire = Wire::connect(&lab.far, lab.pair().near.port(PORT));
    let dawdler = |asked: &Agent, n| {
        let mut stream = TcpStream::connect(asked.address()).unwrap();
        let part = if n % 2 == 0 { "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n" } else { "\0garbage" };
        stream.write_all(part.as_bytes()).unwrap();
        stream
    };
    let scrapes = AtomicU64::new(0);
    let strain = Strain::of(&agent, &bystander, "near0/0", &wire, |asked, phase| {
        let dawdlers: Vec<TcpStream> = (0..100).map(|n| dawdler(asked, n)).collect();
        let scrape = || {
            // It may be turned away when there are too many.
            let answer = http::request("GET", asked.address(), "/metrics");
            scrapes.fetch_add(answer.is_ok().into(), Ordering::Relaxed);
        };
        asking(2, scrape, phase);
        drop(dawdlers);
    });
    let scrapes = scrapes.into_inner();
    assert!(scrapes > 100, "it was no flood: {scrapes} scrapes");
    strain.assert_little();
    let metrics = agent.metrics();
    assert_eq!(metrics.total("umemd_rx_packets_total"), strain.packets);
    for name in ["rx_dropped", "rx_ring_full"] {
        assert_eq!(metrics.total(&format!("umemd_xsk_{name}_total")), 0, "{name}");
    }
    assert_eq!(metrics.total("umemd_worker_failed_open_total"), 0);
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_name_that_is_not_ours_is_not_answered() {
    let Some(lab) = Lab::new() else { return };
    let agent = lab.agent(&["--steer", STEER, "--allow-host", "board.example"]).start();
    let ask = |host| http::request_of(host, "GET", agent.address(), "/status").unwrap().status;
    assert_eq!((ask("localhost"), ask("board.example:19478")), (200, 200));
    assert_eq!(ask("rebound.example"), 421);
}
