//! What the live page shows, and what that is compared with: the status that it shows it of, be it an agent's or one
//! that is made up.

use serde_json::{Value, json};

use crate::browser::Browser;

/// What the live page shows, and the status that it shows it of.
pub const SHOWN: &str = "(() => {
    const texts = (list, of) => [...list].map(of || (e => e.textContent));
    const rows = id => texts(document.querySelectorAll(`#${id} tr`), tr => texts(tr.children));
    return {
        status: last,
        law: document.getElementById('law').textContent,
        what: document.getElementById('what').textContent,
        trouble: texts(document.getElementById('trouble').children),
        tiles: texts(document.querySelectorAll('#tiles b')),
        tile_names: texts(document.querySelectorAll('#tiles div'), e => e.lastChild.textContent),
        values: Object.fromEntries(
            texts(document.querySelectorAll('[data-value]'), e => [e.dataset.value, e.textContent])),
        drops: rows('drops'), queues: rows('queues'), pools: rows('pools'),
        why: document.getElementById('pools-why').textContent,
        bands: texts(document.querySelectorAll('#places path[style^=fill]'), path => {
            // Its upper edge from the oldest moment to the newest, and its lower one back.
            const points = path.getAttribute('d').slice(1, -1).split('L').map(point => point.split(' ').map(Number));
            const [[, above], [, below]] = points.slice(points.length / 2 - 1);
            return { place: path.getAttribute('style').match(/--([a-z]+)/)[1], above, below };
        }),
        top: document.querySelector('#places i').textContent,
        most: document.querySelector('#recycled i').textContent,
        lines: Object.fromEntries(['recycled', 'lost'].flatMap(id =>
            texts(document.querySelectorAll(`#${id}-now li`), li => {
                // The line of the colour that the legend says, at its newest moment.
                const stroke = `stroke:${li.style.getPropertyValue('--c')};`;
                const line = [...document.querySelectorAll(`#${id} path`)].find(path =>
                    path.getAttribute('style').includes(stroke));
                const top = document.querySelector(`#${id} i`).textContent;
                return [li.lastChild.dataset.value, { top, height: 100 - line.getAttribute('d').split(' ').pop() }];
            }))),
    };
})()";

/// The chart's height between its lower edge and its uppermost line, in its own units.
const HEIGHT: f64 = 98.0;

/// What reaches beyond the right edge, but for tables that are scrolled: of what got lost the counts are in sight.
const BEYOND: &str = "[...document.querySelectorAll('body *')].filter(e => !e.closest('.wide > :not(#drops), svg') &&
    e.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5).map(e => e.outerHTML).concat(
    document.documentElement.scrollWidth > innerWidth ? ['scrolled by ' + document.documentElement.scrollWidth] : [])";

/// On the screen of a phone nothing has to be scrolled sideways, but for tables of queues and pools.
///
/// # Panics
///
/// If something has.
#[track_caller]
pub fn assert_fits_a_phone(browser: &mut Browser, picture: &str) {
    browser.screen(390, 844);
    assert_eq!(browser.value("innerWidth"), 390);
    assert_eq!(browser.value(BEYOND), json!([]));
    browser.picture(picture);
    browser.screen(1100, 1400);
}

/// `1 frame`, `1,234 frames`, as the page writes it.
fn many(count: &Value, what: &str) -> String {
    format!("{} {what}{}", thousands(count), if *count == 1 { "" } else { "s" })
}

/// 1234567 as the page writes it; a dash for what nobody tells.
fn thousands(count: &Value) -> String {
    if count.is_null() {
        return "–".into();
    }
    let digits = count.as_f64().expect("a count").round().to_string();
    let groups: Vec<&[u8]> = digits.as_bytes().rchunks(3).rev().collect();
    String::from_utf8(groups.join(&b',')).expect("digits")
}

fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "–".into() } else { format!("{:.1} %", part as f64 / whole as f64 * 100.0) }
}

/// The elements of a list.
///
/// # Panics
///
/// If it is none.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

/// The row of a queue, as the page should show it.
fn queue_row(device: &Value, queue: &Value) -> Value {
    let counter = |name: &str| queue["counters"][name].as_u64().expect("a counter");
    let sum = |names: &[&str]| names.iter().map(|name| counter(name)).sum::<u64>();
    let recycled =
        percent(sum(&["recycle_cached", "recycle_ring"]), sum(&["alloc_fast", "alloc_refill", "alloc_slow"]));
    let kept = list(&queue["holders"]).iter().map(|holder| holder["frames"].as_u64().expect("a count"));
    let text = |value: &Value| json!(thousands(value));
    let (traffic, steered) = (&queue["traffic"], if queue["steered"] == true { "yes" } else { "NO" });
    json!([
        device["device"],
        text(&queue["queue"]),
        text(&queue["cpu"]),
        text(&traffic["rx_packets"]),
        text(&traffic["tx_packets"]),
        recycled,
        text(&queue["total"]),
        thousands(&json!(kept.sum::<u64>())),
        steered
    ])
}

/// The row of a counter of drops, as the page should show it; none for a zero.
fn drop_row(device: &Value, row: &Value) -> Option<Value> {
    let note = match (row["lost"] == true, row["cause"] == "unaccounted") {
        (true, _) => "",
        (false, true) => " (or on their way)",
        (false, false) => " (not lost)",
    };
    let cause = format!("{}{note}", row["cause"].as_str().expect("a name"));
    (row["count"] != 0).then(|| json!([device["device"], row["layer"], cause, thousands(&row["count"])]))
}

/// The row of a pool of the kernel's, as the page should show it.
fn pool_row(device: &Value, pool: &Value) -> Value {
    let recycled =
        pool["recycle_ratio"].as_f64().map_or("–".into(), |ratio| format!("{:.1} %", ratio * 100.0));
    let inflight = thousands(&pool["inflight_pages"]);
    let stalled = if pool["stalled"] == true { ", STALLED" } else { "" };
    let detached = match &pool["detached_s"] {
        Value::Null => String::new(),
        seconds => format!("{} s ago{stalled}", thousands(seconds)),
    };
    json!([device["device"], pool["pool"], recycled, inflight, detached])
}

/// What the page should say is wrong, in its order.
fn trouble(status: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().expect("a name").to_owned();
    let kept = |queue: &Value, device: &str, all: bool| {
        let number = &queue["queue"];
        let told = |holder: &Value| {
            let (name, frames) = (text(&holder["holder"]), many(&holder["frames"], "frame"));
            let oldest = match &holder["oldest_s"] {
                Value::Null => String::new(),
                seconds => format!(", the oldest for {} s", thousands(seconds)),
            };
            let leaked = match holder["leaked"].as_u64() {
                Some(0) => String::new(),
                _ => format!(": {} LEAKED", thousands(&holder["leaked"])),
            };
            format!("the {name} keeps {frames} of {device} queue {number}{oldest}{leaked}")
        };
        let is_told = |holder: &&Value| holder["leaked"] != 0 || all && holder["frames"] != 0;
        list(&queue["holders"]).iter().filter(is_told).map(told).collect::<Vec<_>>()
    };
    let mut trouble = Vec::new();
    for device in list(&status["devices"]) {
        let name = text(&device["device"]);
        trouble.extend(device["away"].as_str().map(|why| format!("{name} is away: {why}")));
        for queue in list(&device["queues"]) {
            if queue["failed"] == true {
                trouble.push(format!(
                    "{name} queue {} is served by nobody: its handler panicked",
                    queue["queue"]
                ));
            } else if queue["steered"] == false {
                trouble.push(format!(
                    "{name} queue {} is not steered: its traffic goes to the stack",
                    queue["queue"]
                ));
            }
            trouble.extend(kept(queue, &name, false));
        }
    }
    for queue in status["leaving"].as_array().into_iter().flatten() {
        trouble.extend(kept(queue, &format!("{}'s closed", text(&queue["device"])), true));
    }
    for pool in status["orphans"].as_array().into_iter().flatten() {
        let (id, pages, stalled) =
            (text(&pool["pool"]), many(&pool["inflight_pages"], "page"), &pool["stalled"]);
        let detached = match &pool["detached_s"] {
            Value::Null => String::new(),
            seconds => format!(", detached {} s ago", thousands(seconds)),
        };
        let stalled = if *stalled == true { ", STALLED" } else { "" };
        trouble.push(format!(
            "page_pool {id} of an interface that is gone: {pages} in flight{detached}{stalled}"
        ));
    }
    trouble
}

/// 1234567 as the page writes it in short.
fn short(mut number: f64) -> String {
    let mut units = ["k", "M", "G", "T"].iter();
    let mut unit = None;
    while number >= 1000.0 {
        (number, unit) = (number / 1000.0, units.next());
    }
    unit.map_or_else(|| format!("{number:.0} "), |unit| format!("{number:.2} {unit}"))
}

/// What [`short`] says; a chart's is a round number.
fn long(short: &str) -> f64 {
    let (number, unit) = short.split_once(' ').expect("a number and its unit");
    let power = ["", "k", "M", "G", "T"].iter().position(|of| *of == unit).expect("a unit");
    number.parse::<f64>().expect("a number") * 1000_f64.powi(power as i32)
}

/// Compares what is told per second with what was counted from one status to the one that is shown: numbers, and lines of
/// charts. Nothing may have begun anew between them, come or gone.
///
/// # Panics
///
/// If something differs.
#[track_caller]
pub fn assert_shows_its_rates(shown: &Value, then: &Value) {
    let now = &shown["status"];
    let seconds = now["at_s"].as_f64().expect("a time") - then["at_s"].as_f64().expect("a time");
    let devices = |status: &Value| list(&status["devices"]).to_vec();
    let number = |value: &Value| value.as_u64().expect("a count");
    let rate = |of: &dyn Fn(&Value) -> u64| (of(now) - of(then)) as f64 / seconds;
    let recycled = |counters: &Value| number(&counters["recycle_cached"]) + number(&counters["recycle_ring"]);
    let queues = |status: &Value, of: &dyn Fn(&Value) -> u64| {
        devices(status).iter().flat_map(|device| list(&device["queues"])).map(of).sum::<u64>()
    };
    let traffic = |name: &str| rate(&|status| queues(status, &|queue| number(&queue["traffic"][name])));
    let pools = |status: &Value| {
        let pools = |device: &Value| list(&device["page_pool"]["pools"]).to_vec();
        devices(status).iter().flat_map(pools).map(|pool| recycled(&pool["counters"])).sum::<u64>()
    };
    let mut rates = vec![
        ("ours", rate(&|status| queues(status, &|queue| recycled(&queue["counters"])))),
        ("kernels", rate(&pools)),
    ];
    let lost = |layer: &str| {
        // The rows of the NIC may count the same packets; those of all others add up.
        let of = |now: &Value, then: &Value| {
            let rows = list(&now["drops"]).iter().zip(list(&then["drops"]));
            let rows = rows.filter(|(row, _)| row["layer"] == layer && row["lost"] == true);
            let more = rows.map(|(now, then)| number(&now["count"]) - number(&then["count"]));
            if layer == "nic" { more.max().unwrap_or(0) } else { more.sum() }
        };
        devices(now).iter().zip(&devices(then)).map(|(now, then)| of(now, then)).sum::<u64>() as f64 / seconds
    };
    let layers = ["nic", "xdp", "redirect", "socket", "pool", "handler"];
    rates.extend(layers.map(|layer| (layer, lost(layer))));
    for (name, rate) in &rates {
        assert_eq!(shown["values"][name], thousands(&json!(rate)), "{name}: {shown}");
        let line = &shown["lines"][name];
        let (top, height) = (long(line["top"].as_str().expect("a scale")), line["height"].as_f64());
        let expected = HEIGHT * rate / top;
        assert!(height.is_some_and(|height| (height - expected).abs() < 1e-6), "{name}: {expected}, {shown}");
    }
    let (nic, gone) = (rates[2].1, rates[3..].iter().map(|(_, rate)| rate).sum::<f64>());
    let told = |tile: usize| {
        let told = [&shown["tiles"][tile], &shown["tile_names"][tile]];
        told.map(|words| words.as_str().expect("words").to_owned())
    };
    for (tile, name, way) in [(0, "received", "rx"), (1, "sent", "tx")] {
        let [packets, bytes] = ["packets", "bytes"].map(|what| traffic(&format!("{way}_{what}")));
        let expected = [short(packets) + "pps", format!("{name}, {}bit/s", short(8.0 * bytes))];
        assert_eq!(told(tile), expected);
    }
    let per_second = |rate: f64| format!("{}/s", short(rate).trim());
    assert_eq!(told(4), [per_second(gone), format!("lost, and by the NIC {}", per_second(nic))]);
}

/// Compares everything that does not depend on when it was looked at with the status that it is of.
///
/// # Panics
///
/// If something differs.
#[track_caller]
pub fn assert_shows_its_status(shown: &Value) {
    let devices = list(&shown["status"]["devices"]);
    let mut frames = serde_json::Map::new();
    let (mut queues, mut drops, mut pools, mut why) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for device in devices {
        for queue in list(&device["queues"]) {
            for (place, count) in queue["frames"].as_object().expect("places") {
                let sum = frames.get(place).and_then(Value::as_u64).unwrap_or(0);
                frames.insert(place.clone(), json!(sum + count.as_u64().expect("a count")));
            }
            queues.push(queue_row(device, queue));
        }
        drops.extend(list(&device["drops"]).iter().filter_map(|row| drop_row(device, row)));
        let kernels = &device["page_pool"];
        if !kernels.is_null() {
            pools.extend(list(&kernels["pools"]).iter().map(|pool| pool_row(device, pool)));
        }
        if let Some(reason) = kernels["reason"].as_str() {
            why.push(format!("{}: {reason}", device["device"].as_str().expect("a name")));
        }
    }
    assert_eq!(frames.len(), 11);
    for (place, count) in &frames {
        assert_eq!(shown["values"][place], thousands(count), "{place}");
    }
    for (table, rows) in [("queues", queues), ("drops", drops), ("pools", pools)] {
        // The first row is the head; a table without rows has none.
        assert_eq!(list(&shown[table]).get(1..).unwrap_or_default(), rows, "{table}");
    }
    assert_eq!(shown["why"], why.join("; "));
    assert_eq!(shown["trouble"], json!(trouble(&shown["status"])));
    assert_stacks(shown, &frames);
}

/// The bands of the chart at its newest moment lie one on the other, and each is as high as its place has frames, of as many
/// as the chart has room for.
#[track_caller]
fn assert_stacks(shown: &Value, frames: &serde_json::Map<String, Value>) {
    // The chart's lower edge.
    const FLOOR: f64 = 100.0;
    let top: f64 = shown["top"].as_str().unwrap().replace(',', "").parse().unwrap();
    let height = |frames: u64| HEIGHT * frames as f64 / top;
    let is_near = |a: f64, b: f64| (a - b).abs() < 1e-6;
    let (mut floor, mut drawn) = (FLOOR, 0);
    for band in list(&shown["bands"]) {
        let (below, above) = (band["below"].as_f64().unwrap(), band["above"].as_f64().unwrap());
        let its = frames[band["place"].as_str().unwrap()].as_u64().unwrap();
        assert!(
            is_near(below, floor) && is_near(below - above, height(its)),
            "{its} frames: {band}, {shown}"
        );
        (floor, drawn) = (above, drawn + its);
    }
    let all: u64 = frames.values().filter_map(Value::as_u64).sum();
    assert_eq!(drawn, all, "a place has no band: {shown}");
    assert!(is_near(FLOOR - floor, height(all)), "{shown}");
}

/// What a queue counted, with this many packets received and recycled.
pub fn queue(number: u32, packets: u64) -> Value {
    let frames = ["slab", "cache", "ring", "user", "fill", "kernel", "rx", "tx", "completion"];
    let mut frames: serde_json::Map<_, _> = frames.iter().map(|place| ((*place).into(), json!(0))).collect();
    frames.extend([("quarantined".into(), json!(0)), ("detached".into(), json!(0))]);
    frames.insert("slab".into(), json!(4096));
    json!({
        "queue": number, "cpu": 0, "steered": true, "total": 4096, "frames": frames, "holders": [],
        "counters": {"alloc_fast": packets, "alloc_refill": 0, "alloc_slow": 0,
            "recycle_cached": packets, "recycle_ring": 0},
        "traffic": {"rx_packets": packets, "rx_bytes": 60 * packets, "tx_packets": 0, "tx_bytes": 0},
    })
}

/// A device with these queues, and these pools of the kernel: their numbers, and how many pages they recycled.
pub fn device(name: &str, queues: &[Value], pools: &[(u32, u64)]) -> Value {
    let pools: Vec<Value> = pools
        .iter()
        .map(|(id, pages)| {
            let counters = json!({"alloc_fast": 2 * pages, "alloc_refill": 0, "alloc_slow": 0,
                "recycle_cached": pages, "recycle_ring": 0});
            json!({"pool": id.to_string(), "memory": "page", "stalled": false, "counters": counters,
                "inflight_pages": 64, "recycle_ratio": 0.5})
        })
        .collect();
    json!({
        "device": name, "driver": "mlx5_core", "mode": "native", "copy": true, "queues": queues, "drops": [],
        "page_pool": {"source": "netlink", "pools": pools},
    })
}

/// What a board with these devices answers, so many seconds after it began.
pub fn status(at: f64, devices: &[Value]) -> Value {
    json!({"schema": 1, "version": "0", "pid": 1, "at_s": at, "conserved": true, "devices": devices})
}

/// A board at a moment of the five minutes that the README's picture shows: its counts until then. Traffic swells and
/// ebbs; once its default drops what no rule wants, and once the worker is too slow for a while.
pub fn pictured(second: u64) -> Value {
    let rate = |second: u64| {
        // As a day would look, in five minutes, and no second like another.
        let swell = (second as f64 / 47.0).sin() * 6000.0 + (second * second % 97) as f64 * 20.0;
        20_000 + swell as i64
    };
    let until = |rate: &dyn Fn(u64) -> i64| (0..=second).map(rate).sum::<i64>() as u64;
    let received = until(&rate);
    let unwanted =
        until(&|second| if (90..120).contains(&second) { 900 + (second as i64 % 7) * 40 } else { 0 });
    let late = until(&|second| if (215..227).contains(&second) { rate(second) / 9 } else { 0 });
    let pages = until(&|second| rate(second) / 3 + 2000);
    let mut one = queue(0, received);
    let mut place = |name: &str, frames: u64| one["frames"][name] = json!(frames);
    let (user, rx) =
        if (215..227).contains(&second) { (250, 800) } else { (20 + second % 9 * 7, second % 5) };
    let (cache, fill) = (64 - second % 13, 1984 - second % 31);
    for (name, frames) in [("user", user), ("rx", rx), ("cache", cache), ("fill", fill)] {
        place(name, frames);
    }
    place("slab", 4096 - user - rx - cache - fill);
    one["cpu"] = json!(1);
    one["traffic"]["tx_packets"] = json!(received);
    one["traffic"]["tx_bytes"] = json!(60 * received);
    let mut eth0 = device("eth0", &[one], &[(17, pages)]);
    eth0["page_pool"]["pools"][0]["inflight_pages"] = json!(600);
    eth0["drops"] = json!([
        {"layer": "xdp", "cause": "unmatched_dropped", "count": unwanted, "lost": true},
        {"layer": "socket", "cause": "rx_ring_full", "count": late, "lost": true},
        {"layer": "socket", "cause": "tx_ring_empty_descs", "count": received / 3, "lost": false},
    ]);
    status(1000.0 + second as f64, &[eth0])
}
