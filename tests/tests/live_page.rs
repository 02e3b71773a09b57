//! A browser on the live page. A real one, so these tests are for `cargo xtask test full`.

use std::{
    thread,
    time::{Duration, Instant},
};

use e2e::{
    browser::Browser,
    full,
    lab::{Lab, LabConfig, PORT, STEER},
    page::Puppet,
    shown::{
        SHOWN, assert_fits_a_phone, assert_shows_its_rates, assert_shows_its_status, device, list, pictured,
        queue, status,
    },
    wait::wait_for,
    wire::{WINDOW, Wire, any_size},
};
use serde_json::{Value, json};

#[test]
#[ignore = "requires root and Chromium; cargo xtask test full"]
fn the_live_page_shows_what_the_status_says() {
    const LONG: u64 = 10;
    if !full::permits("chromium", "chromium") {
        return;
    }
    let Some(lab) = Lab::with(LabConfig { mtu: 3000, ..LabConfig::default() }) else { return };
    let agent = lab.agent(&["--steer", STEER, "--handler", "reflect", "--multi-buffer", "off"]).start();
    let wire = Wire::connect(&lab.far, lab.pair().near.port(PORT));
    // Too long for a frame: there are rows in the drop table.
    wire.send(0..LONG, |_| 2500);

    let mut browser = Browser::open(&format!("http://{}/", agent.address()));
    browser.value_when("the page has an answer", "last && last.pid", |pid| *pid == agent.pid());
    // Rates take two answers, with traffic in between.
    let reading = |shown: &Value, tile: usize| shown["tiles"][tile].as_str().unwrap_or_default().to_owned();
    let shown = wait_for("the page shows rates", full::PATIENCE, || {
        wire.reflect(20 * WINDOW, any_size);
        let shown = browser.value(SHOWN);
        let moves = |tile| !["–", "0 pps"].contains(&reading(&shown, tile).as_str());
        (moves(0) && moves(1)).then_some(shown)
    });
    assert!(reading(&shown, 0).ends_with("pps") && reading(&shown, 1).ends_with("pps"), "{shown}");
    assert!(reading(&shown, 2).ends_with(" %"), "recycled by our pool: {shown}");
    assert_ne!(shown["values"]["ours"], "0", "{shown}");
    assert_shows_its_status(&shown);

    // It asks once a second, and not again before it has an answer.
    let asked = || agent.metrics().sum("umemd_http_requests_total", &[("path", "/status")]);
    let (before, start) = (asked(), Instant::now());
    thread::sleep(Duration::from_secs(5));
    let (times, seconds) = (asked() - before, start.elapsed().as_secs());
    assert!((3..=seconds + 1).contains(&times), "it asked {times} times in {seconds} s");

    // And when nothing moves any more.
    agent.metrics_when("all counted", |m| m.total("umemd_xsk_rx_dropped_total") == LONG);
    let status: Value = serde_json::from_str(&agent.get("/status").body).unwrap();
    let sent = &status["devices"][0]["queues"][0]["traffic"]["tx_packets"];
    let expression = "last.devices[0].queues[0].traffic.tx_packets";
    browser.value_when("the page is up to date", expression, |packets| packets == sent);
    let shown = browser.value_when("nothing moves", SHOWN, |shown| shown["tiles"][0] == "0 pps");
    assert_shows_its_status(&shown);
    assert!(list(&shown["drops"]).contains(&json!(["near0", "socket", "rx_dropped", "10"])), "{shown}");
    assert_eq!(shown["law"], "the law holds");
    assert_eq!(shown["what"], "near0 (veth): native mode, copy");
    let kernels = &shown["values"]["kernels"];
    assert_eq!(kernels == "not available", !status["devices"][0]["page_pool"]["reason"].is_null(), "{shown}");
    browser.picture("agent.png");
    assert_fits_a_phone(&mut browser, "agent-phone.png");
}

#[test]
#[ignore = "requires root and Chromium; cargo xtask test full"]
fn the_live_page_draws_no_peak_where_counters_begin_anew() {
    const MANY: u64 = 10_000_000;
    if !full::permits("chromium", "chromium") {
        return;
    }
    let pools = |grown: u64| (0..8).map(|id| (id, MANY + grown)).collect::<Vec<_>>();
    let drops = |device: Value, count: u64| {
        let mut device = device;
        device["drops"] = json!([{"layer": "socket", "cause": "rx_dropped", "count": count, "lost": true}]);
        device
    };
    let eth0 = |grown: u64| device("eth0", &[queue(0, MANY + grown), queue(1, MANY + grown)], &pools(grown));
    let puppet = Puppet::start(status(10.0, &[eth0(0), drops(device("eth1", &[queue(0, MANY)], &[]), MANY)]));
    let mut browser = Browser::open(&puppet.url());
    let mut seen = |at: f64| {
        browser.value_when("the page has seen it", "last && last.at_s", |seen| *seen == at);
        let shown = browser.value(SHOWN);
        let numbers =
            ["ours", "kernels", "socket"].map(|name| shown["values"][name].as_str().unwrap().to_owned());
        (numbers.join(" "), shown["most"].as_str().unwrap().trim().to_owned())
    };
    assert_eq!(seen(10.0).0, "– – –", "one answer is no rate");

    let all = [eth0(1000), drops(device("eth1", &[queue(0, MANY + 1000)], &[]), MANY + 7)];
    puppet.say(Some(status(11.0, &all)));
    assert_eq!(seen(11.0), ("3,000 8,000 7".into(), "8 k".into()));

    // The queue of eth1 was opened again, and one of the eight pools is gone.
    let rest = device("eth0", &[queue(0, MANY + 2000), queue(1, MANY + 2000)], &pools(2000)[..7]);
    puppet.say(Some(status(12.0, &[rest, drops(device("eth1", &[queue(0, 500)], &[]), MANY)])));
    assert_eq!(seen(12.0), ("2,500 7,000 0".into(), "8 k".into()));

    // A queue is gone, another one is new; so it is with pools.
    let other = device("eth0", &[queue(0, MANY + 3000), queue(2, 40)], &[(0, MANY + 3000), (9, 30)]);
    puppet.say(Some(status(13.0, &[other, drops(device("eth1", &[queue(0, 500)], &[]), MANY)])));
    assert_eq!(seen(13.0), ("1,040 1,030 0".into(), "8 k".into()));

    // Pools that somebody tells of only now may have been there all the time.
    let eth0 = device("eth0", &[queue(0, MANY + 4000)], &[(0, MANY + 4000)]);
    let mut eth1 = device("eth1", &[queue(0, 500)], &[(20, MANY)]);
    eth1["page_pool"]["source"] = json!("ethtool");
    puppet.say(Some(status(14.0, &[eth0, eth1])));
    assert_eq!(seen(14.0), ("1,000 1,000 0".into(), "8 k".into()));

    // A counter that the kernel leaves out is no zero: neither did it fall to one, nor is it the rest of a sum. The
    // other pool tells all of them.
    let mut untold = device("eth0", &[queue(0, MANY + 5000)], &[(0, MANY + 5000), (1, 0)]);
    untold["page_pool"]["pools"][0]["counters"]["recycle_cached"] = Value::Null;
    puppet.say(Some(status(15.0, &[untold])));
    assert_eq!(seen(15.0), ("1,000 – 0".into(), "8 k".into()));

    // Told again, it has not grown from zero.
    let told = device("eth0", &[queue(0, MANY + 6000)], &[(0, MANY + 6000)]);
    puppet.say(Some(status(16.0, &[told])));
    assert_eq!(seen(16.0), ("1,000 – 0".into(), "8 k".into()));
    let told = device("eth0", &[queue(0, MANY + 7000)], &[(0, MANY + 7000)]);
    puppet.say(Some(status(17.0, &[told])));
    assert_eq!(seen(17.0), ("1,000 1,000 0".into(), "8 k".into()));

    let mut untold = device("eth0", &[queue(0, MANY + 8000)], &[(0, MANY + 8000)]);
    untold["page_pool"]["pools"][0]["counters"]["recycle_ring"] = Value::Null;
    untold["page_pool"]["pools"][0]["recycle_ratio"] = Value::Null;
    puppet.say(Some(status(18.0, &[untold])));
    assert_eq!(seen(18.0), ("1,000 – 0".into(), "8 k".into()));
    let shown = browser.value(SHOWN);
    assert_shows_its_status(&shown);
    let tiles = &list(&shown["tiles"])[2..4];
    assert_eq!(tiles, ["100.0 %", "–"], "of allocations: {shown}");
}

#[test]
#[ignore = "requires root and Chromium; cargo xtask test full"]
fn the_live_page_tells_and_draws_what_happens_per_second() {
    if !full::permits("chromium", "chromium") {
        return;
    }
    // Each number grows by another one, and from another one.
    let moment = |times: u64| {
        let busy = |number: u32, n: u64| {
            let mut queue = queue(number, 10_000 * n);
            queue["counters"]["recycle_cached"] = json!(1000 * n + 31 * n * times);
            queue["counters"]["recycle_ring"] = json!(2000 * n + 310 * n * times);
            queue["traffic"] = json!({
                "rx_packets": 700 * times * n, "rx_bytes": 90_000 + 170_000 * times * n,
                "tx_packets": 5000 + 60_000 * times * n, "tx_bytes": 31_000_000 * times * n,
            });
            queue
        };
        let mut devices = [
            device("eth0", &[busy(0, 1), busy(1, 2)], &[(17, 5000 + 140 * times), (18, 40 * times)]),
            device("eth1", &[busy(0, 3)], &[(20, 9 * times)]),
        ];
        for (device, n) in devices.iter_mut().zip(1..) {
            let row = |layer: &str, cause: &str, count: u64, lost: bool| json!({"layer": layer, "cause": cause, "count": 100 * n + n * times * count, "lost": lost});
            device["drops"] = json!([
                row("nic", "rx_missed_errors", 44, true),
                row("nic", "rx_over_errors", 40, true),
                row("xdp", "unmatched_dropped", 6, true),
                row("redirect", "ENXIO", 10, true),
                row("redirect", "unaccounted", 1, false),
                row("socket", "rx_dropped", 14, true),
                row("socket", "rx_ring_full", 2, true),
                row("pool", "alloc_failed", 24, true),
                row("handler", "tx_full", 34, true),
            ]);
        }
        status(10.0 + 2.0 * times as f64, &devices)
    };
    let puppet = Puppet::start(moment(0));
    let mut browser = Browser::open(&puppet.url());
    browser.value_when("an answer", "last && last.at_s", |at| *at == 10.0);
    for times in 1..3 {
        puppet.say(Some(moment(times)));
        let at = 10.0 + 2.0 * times as f64;
        let shown = browser.value_when("the next", SHOWN, |shown| shown["status"]["at_s"] == at);
        assert_shows_its_status(&shown);
        assert_shows_its_rates(&shown, &moment(times - 1));
    }
}

#[test]
#[ignore = "requires root and Chromium; cargo xtask test full"]
fn the_live_page_names_who_keeps_frames_and_what_is_away() {
    if !full::permits("chromium", "chromium") {
        return;
    }
    let holder = |name: &str, frames: u64, oldest: Value, leaked: u64| json!({"holder": name, "frames": frames, "oldest_s": oldest, "leaked": leaked});
    let mut kept = queue(3, 1000);
    kept["holders"] = json!([
        holder("handler", 1999, json!(7.4), 0),
        holder("capture", 1500, json!(86_400.4), 1234),
        holder("kernel", 5, Value::Null, 5),
    ]);
    let mut away = device("eth1", &[], &[]);
    away["away"] = json!("eth1 was removed");
    let mut all = status(10.0, &[device("eth0", &[queue(0, 1000), kept], &[]), away]);
    all["leaving"] = json!([{"device": "eth2", "queue": 4, "holders": [
        holder("handler", 0, Value::Null, 0), holder("capture", 17, json!(3.0), 0),
    ]}]);
    let puppet = Puppet::start(all);
    let mut browser = Browser::open(&puppet.url());
    browser.value_when("an answer", "last && last.at_s", |at| *at == 10.0);
    let shown = browser.value(SHOWN);
    assert_shows_its_status(&shown);
    let expected = [
        "the capture keeps 1,500 frames of eth0 queue 3, the oldest for 86,400 s: 1,234 LEAKED",
        "the kernel keeps 5 frames of eth0 queue 3: 5 LEAKED",
        "eth1 is away: eth1 was removed",
        "the capture keeps 17 frames of eth2's closed queue 4, the oldest for 3 s",
    ];
    assert_eq!(shown["trouble"], json!(expected));
    assert_eq!(shown["queues"][2][7], "3,504");
    // As soon as all of that is mended.
    puppet.say(Some(status(11.0, &[device("eth0", &[queue(0, 1000)], &[])])));
    let shown = browser.value_when("the next", SHOWN, |shown| shown["status"]["at_s"] == 11.0);
    assert_shows_its_status(&shown);
    assert_eq!(shown["trouble"], json!([]));
}

#[test]
#[ignore = "requires root and Chromium; cargo xtask test full"]
fn the_live_page_names_the_pools_that_cannot_end() {
    if !full::permits("chromium", "chromium") {
        return;
    }
    let mut eth0 = device("eth0", &[queue(0, 1000)], &[(17, 1000), (9, 500), (8, 20)]);
    let pools = &mut eth0["page_pool"]["pools"];
    // The driver is done with two of them; one has just begun to end.
    pools[1]["detached_s"] = json!(3120);
    pools[1]["stalled"] = json!(true);
    pools[2]["detached_s"] = json!(1);
    pools[2]["inflight_pages"] = Value::Null;
    let mut all = status(10.0, &[eth0]);
    let orphan = |pool: &str, pages: Value| json!({"pool": pool, "memory": "page", "inflight_pages": pages, "detached_s": 86_400, "stalled": true});
    all["orphans"] = json!([orphan("5", json!(1234)), orphan("4", Value::Null)]);
    let puppet = Puppet::start(all);
    let mut browser = Browser::open(&puppet.url());
    browser.value_when("an answer", "last && last.at_s", |at| *at == 10.0);
    let shown = browser.value(SHOWN);
    assert_shows_its_status(&shown);
    let detached: Vec<_> = list(&shown["pools"])[1..].iter().map(|row| row[4].clone()).collect();
    assert_eq!(detached, ["", "3,120 s ago, STALLED", "1 s ago"]);
    let gone = |pool, pages| {
        format!(
            "page_pool {pool} of an interface that is gone: {pages} pages in flight, detached 86,400 s ago, STALLED"
        )
    };
    assert_eq!(shown["trouble"], json!([gone("5", "1,234"), gone("4", "–")]));
    assert_fits_a_phone(&mut browser, "stalled-phone.png");
    // When the last page came home they are gone.
    puppet.say(Some(status(11.0, &[device("eth0", &[queue(0, 1000)], &[(17, 1000)])])));
    let shown = browser.value_when("the next", SHOWN, |shown| shown["status"]["at_s"] == 11.0);
    assert_eq!((&shown["trouble"], list(&shown["pools"]).len()), (&json!([]), 2));
}

#[test]
#[ignore = "requires root and Chromium; cargo xtask test full"]
fn the_live_page_stacks_all_places_to_the_full_height() {
    if !full::permits("chromium", "chromium") {
        return;
    }
    // A power of two in each of the eleven, but for the last: all of them together are 2^11.
    let places = ["slab", "cache", "ring", "user", "fill", "kernel", "rx", "tx", "completion", "quarantined"];
    let full = |order: &mut dyn Iterator<Item = &&str>| {
        let mut one = queue(0, 1000);
        order.zip(1..).for_each(|(place, power)| one["frames"][*place] = json!(2048_u64 >> power));
        one["frames"]["detached"] = json!(2);
        one["total"] = json!(2048);
        device("eth0", &[one], &[])
    };
    let puppet = Puppet::start(status(10.0, &[full(&mut places.iter())]));
    let mut browser = Browser::open(&puppet.url());
    let mut shown = |at: f64| {
        browser.value_when("the page has seen it", "last && last.at_s", |seen| *seen == at);
        let shown = browser.value(SHOWN);
        assert_shows_its_status(&shown);
        let bands = list(&shown["bands"]).to_vec();
        assert_eq!((shown["top"].as_str(), bands.len()), (Some("2,048"), 11), "{shown}");
        assert_eq!(bands[10]["above"], 2.0, "up to the uppermost line: {shown}");
        let rects = "[...document.querySelectorAll('#places path[style^=fill], #places svg')].map(e => \
                     e.getBoundingClientRect().height)";
        let heights = browser.value(rects);
        list(&heights).iter().map(|height| height.as_f64().unwrap()).collect::<Vec<_>>()
    };
    shown(10.0);
    // The same once more: on the screen each band is a bar, as high as its part of the frames.
    puppet.say(Some(status(11.0, &[full(&mut places.iter())])));
    let heights = shown(11.0);
    let (chart, bars) = (heights[0], &heights[1..]);
    for (bar, frames) in bars.iter().zip([1024, 512, 256, 128, 64, 32, 16, 8, 4, 2, 2]) {
        let expected = chart * 0.98 * f64::from(frames) / 2048.0;
        assert!((bar - expected).abs() < 0.1, "{frames} frames: {bar} of {chart}, and not {expected}");
    }
    // And when all of them went elsewhere.
    puppet.say(Some(status(12.0, &[full(&mut places.iter().rev())])));
    shown(12.0);
}

#[test]
#[ignore = "requires root and Chromium; cargo xtask test full"]
fn the_live_page_names_a_queue_whose_handler_panicked() {
    if !full::permits("chromium", "chromium") {
        return;
    }
    let with = |failed: [bool; 2]| {
        let queues = [0, 1].map(|number| {
            let mut queue = queue(number, 1000);
            queue["failed"] = json!(failed[number as usize]);
            queue["steered"] = json!(!failed[number as usize]);
            queue
        });
        device("eth0", &queues, &[])
    };
    let puppet = Puppet::start(status(10.0, &[with([false, false])]));
    let mut browser = Browser::open(&puppet.url());
    let mut trouble = |at: f64| {
        browser.value_when("the page has seen it", "last && last.at_s", |seen| *seen == at);
        let shown = browser.value(SHOWN);
        assert_shows_its_status(&shown);
        shown["trouble"].clone()
    };
    assert_eq!(trouble(10.0), json!([]));
    puppet.say(Some(status(11.0, &[with([false, true])])));
    assert_eq!(trouble(11.0), json!(["eth0 queue 1 is served by nobody: its handler panicked"]));
    assert_fits_a_phone(&mut browser, "panicked-phone.png");
}

#[test]
#[ignore = "requires root and Chromium; cargo xtask test full"]
fn the_live_page_says_that_the_law_is_broken_and_when_it_holds_again() {
    if !full::permits("chromium", "chromium") {
        return;
    }
    let with = |at: f64, conserved: bool| {
        let mut status = status(at, &[device("eth0", &[queue(0, 1000)], &[])]);
        status["conserved"] = json!(conserved);
        status
    };
    let puppet = Puppet::start(with(10.0, true));
    let mut browser = Browser::open(&puppet.url());
    let mut law = |at: f64| {
        browser.value_when("the page has seen it", "last && last.at_s", |seen| *seen == at);
        browser.value("[law.textContent, law.className, getComputedStyle(law).color]")
    };
    let good = law(10.0);
    assert_eq!((&good[0], &good[1]), (&json!("the law holds"), &json!("")));
    puppet.say(Some(with(11.0, false)));
    let bad = law(11.0);
    assert_eq!((&bad[0], &bad[1]), (&json!("THE LAW IS BROKEN"), &json!("bad")));
    assert_ne!(good[2], bad[2], "in another colour");
    puppet.say(Some(with(12.0, true)));
    assert_eq!(law(12.0), good);
}

/// The example that `umemd status`, `top` and the dashboard are tested with.
#[test]
#[ignore = "requires root and Chromium; cargo xtask test full"]
fn the_live_page_calls_lost_what_others_do() {
    if !full::permits("chromium", "chromium") {
        return;
    }
    let example: Value = serde_json::from_str(include_str!("../../agent/src/drops/lost.json")).unwrap();
    let [then, now, told] = [0, 1, 2].map(|place| example[place].clone());
    let puppet = Puppet::start(then);
    let mut browser = Browser::open(&puppet.url());
    browser.value_when("an answer", "last && last.at_s", |at| *at == 10.0);
    puppet.say(Some(now));
    let shown = browser.value_when("the next", SHOWN, |shown| shown["status"]["at_s"] == 11.0);
    assert_eq!(shown["tiles"][4], format!("{}/s", told["lost"]));
    assert_eq!(shown["values"]["nic"], told["nic"].to_string());
    let tile = browser.value("document.querySelector('#tiles div:last-child').lastChild.textContent");
    assert_eq!(tile, format!("lost, and by the NIC {}/s", told["nic"]));
}

#[test]
#[ignore = "requires root and Chromium; cargo xtask test full"]
fn the_live_page_says_since_when_nobody_answers() {
    if !full::permits("chromium", "chromium") {
        return;
    }
    let law = "document.getElementById('law').textContent";
    let says =
        |words: &'static str| move |law: &Value| law.as_str().is_some_and(|law| law.starts_with(words));
    let at = |at: f64| status(at, &[device("eth0", &[queue(0, 1000)], &[])]);
    let puppet = Puppet::start(at(10.0));
    let mut browser = Browser::open(&puppet.url());
    browser.value_when("an answer", law, says("the law holds"));
    // The chart's edge is now, and what was seen moves away from it.
    puppet.say(None);
    let silent = browser.value_when("no answer", law, says("NO ANSWER since "));
    assert!(silent.as_str().unwrap().contains(", for "), "{silent}");
    assert_eq!(browser.value("document.body.className"), "stale");
    let edge = browser.value("edge() - last.at_s").as_f64().unwrap();
    assert!((2.9..60.0).contains(&edge), "{edge}");

    // Five minutes are five minutes, however often somebody answered in them.
    for (now, moments) in [(70.0, 2), (300.0, 3), (340.0, 4), (371.0, 4), (601.0, 4)] {
        puppet.say(Some(at(now)));
        browser.value_when("it is seen", "last.at_s", |seen| *seen == now);
        assert_eq!(browser.value("history.length"), moments, "at {now}");
    }
    browser.value_when("an answer again", law, says("the law holds"));
    assert_eq!(browser.value("document.body.className"), "");
    let width = "+document.querySelector('#places path[style^=fill]').getAttribute('d').match(/^M(\\S+)/)[1]";
    let begins = browser.value(width).as_f64().unwrap();
    assert_eq!(begins, -1.0, "a second beyond the left edge");
}

/// The README's picture is this one: `UMEMD_SCREENSHOTS=$PWD/agent/dist` makes it anew.
#[test]
#[ignore = "requires root and Chromium; cargo xtask test full"]
fn the_live_page_has_all_that_its_picture_shows() {
    if !full::permits("chromium", "chromium") {
        return;
    }
    const MINUTES: u64 = 5;
    let last = pictured(60 * MINUTES);
    let puppet = Puppet::start(pictured(0));
    let mut browser = Browser::open(&puppet.url());
    browser.value_when("an answer", "last && last.at_s", |at| *at == 1000.0);
    puppet.say(Some(last.clone()));
    // Told at once, and not once a second.
    let all: Vec<Value> = (1..=60 * MINUTES).map(pictured).collect();
    browser.value(&format!("{}.forEach(see); draw(last)", json!(all)));
    let shown = browser.value(SHOWN);
    assert_shows_its_status(&shown);
    assert_shows_its_rates(&shown, &pictured(60 * MINUTES - 1));
    let drawn = "['--cache', '--fill'].map(c => [...document.querySelectorAll('#recycled path')].find(p => \
                 p.getAttribute('style').includes(c)).getAttribute('d').split('L').length)";
    let lines = browser.value(drawn);
    assert!(
        list(&lines).iter().all(|points| points.as_u64() > Some(290)),
        "both sides, all the time: {lines}"
    );
    browser.picture("live-page.png");
}

#[test]
#[ignore = "requires root and Chromium; cargo xtask test full"]
fn the_live_page_fits_a_phone() {
    if !full::permits("chromium", "chromium") {
        return;
    }
    let mut away = device("enp129s0f1np1", &[], &[]);
    away["away"] =
        json!("enp129s0f1np1 was removed, and is looked for once a second until it is there again");
    away["page_pool"] = Value::Null;
    let mut busy = device("enp129s0f0np0", &[queue(0, 10_000_000_000), queue(1, 123)], &[]);
    busy["page_pool"]["reason"] = json!(
        "its driver tells ethtool nothing (it may not have pools, or this kernel lacks CONFIG_PAGE_POOL_STATS), and \
         netlink lists pools from Linux 6.8 on"
    );
    busy["queues"][0]["holders"] =
        json!([{"holder": "capture", "frames": 4096, "oldest_s": 86400.5, "leaked": 4000}]);
    busy["drops"] = json!([
        {"layer": "nic", "cause": "tx_queue_*_xdp_xmit_errors", "count": 8_446_744_073_709_551_u64, "lost": true}
    ]);
    let pools = device("eth0", &[queue(0, 99)], &[(17, 10_000_000_000), (4_294_967_295, 1)]);
    let mut all = status(86_400.0, &[busy, away, pools]);
    let puppet = Puppet::start(all.clone());
    let mut browser = Browser::open(&puppet.url());
    browser.value_when("an answer", "last && last.at_s", |at| *at == 86_400.0);
    all["at_s"] = json!(86_401.0);
    let queues = &mut all["devices"][0]["queues"];
    queues[0] = queue(0, 10_014_880_000);
    puppet.say(Some(all));
    browser.value_when("rates", "last.at_s", |at| *at == 86_401.0);
    let shown = browser.value(SHOWN);
    assert_shows_its_status(&shown);
    assert_eq!(shown["tiles"][0], "14.88 Mpps");
    assert_eq!(list(&shown["trouble"]).len(), 1, "{shown}");
    browser.picture("much.png");
    assert_fits_a_phone(&mut browser, "much-phone.png");
    puppet.say(None);
    browser.value_when("no answer", "document.body.className", |class| class == "stale");
    assert_fits_a_phone(&mut browser, "silent-phone.png");
}
