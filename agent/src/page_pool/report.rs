//! `umemd pagepool`: what the kernel's pools say, for people and scripts.

use std::{collections::BTreeMap, fmt::Write as _, io, time::Duration};

use serde::Serialize;

use super::{DevicePools, Pool, Reason, Since, Source, json::DeviceJson, netlink::LOOPBACK};
use crate::{
    boot::uptime,
    nic::{self, NicError},
    report::numbers::{binary, counted, known, percent, thousands, wrap},
    sys::ethtool,
};

/// Version of the JSON object; raised when a field changes its meaning or goes.
const SCHEMA: u32 = 1;
/// The heading of the rates is repeated so that it is in sight on a terminal of 24 lines.
const LINES_PER_HEADING: u32 = 20;

/// The pools of some interfaces at one moment.
#[derive(Clone, Debug)]
pub struct Report {
    /// Since the machine started.
    at: Duration,
    devices: Vec<Device>,
}

#[derive(Clone, Debug)]
struct Device {
    index: u32,
    name: String,
    driver: String,
    pools: DevicePools,
}

impl Report {
    /// Asks for the interfaces named, or for all there are.
    ///
    /// # Errors
    ///
    /// If there is no interface of a name, or the kernel does not list its interfaces.
    pub fn take(names: &[String], netns: Option<&str>) -> Result<Self, NicError> {
        let links = links()?;
        let asked: Vec<_> = if names.is_empty() {
            links.iter().collect()
        } else {
            names.iter().map(|name| nic::find(&links, name, netns)).collect::<Result<_, _>>()?
        };
        Ok(Self::of(&asked))
    }

    /// The same once more, of those that are still there. In the place of one that is not comes what is left of pools whose
    /// interface is gone.
    ///
    /// # Errors
    ///
    /// If the kernel does not list its interfaces.
    fn again(names: &[String]) -> Result<Self, NicError> {
        let links = links()?;
        let find = |name: &String| links.iter().find(|link| link.name == *name);
        let mut asked: Vec<_> =
            if names.is_empty() { links.iter().collect() } else { names.iter().filter_map(find).collect() };
        let loopback = links.iter().find(|link| u64::from(link.index) == LOOPBACK);
        let one_is_gone = names.iter().any(|name| find(name).is_none());
        let more = loopback.filter(|loopback| one_is_gone && !names.contains(&loopback.name));
        asked.extend(more);
        let mut report = Self::of(&asked);
        report
            .devices
            .retain(|device| more.is_none_or(|more| device.index != more.index) || device.has_orphans());
        Ok(report)
    }

    fn of(asked: &[&nic::Link]) -> Self {
        let statistics: Vec<_> =
            asked.iter().map(|link| (link.index, ethtool::statistics(&link.name))).collect();
        let said = statistics.iter().map(|(index, statistics)| (*index, statistics.as_deref()));
        let mut pools = super::read(said).devices;
        let device = |link: &&nic::Link| {
            let driver = ethtool::driver(&link.name).unwrap_or_default();
            let pools = pools.remove(&link.index)?;
            Some(Device { index: link.index, name: link.name.clone(), driver, pools })
        };
        let devices = asked.iter().filter_map(device).collect();
        Self { at: uptime(), devices }
    }

    /// One JSON object, and a newline.
    pub fn json(&self) -> String {
        #[derive(Serialize)]
        struct All<'a> {
            r#type: &'static str,
            schema: u32,
            at_s: f64,
            devices: Vec<One<'a>>,
        }
        #[derive(Serialize)]
        struct One<'a> {
            device: &'a str,
            driver: &'a str,
            #[serde(flatten)]
            pools: DeviceJson,
        }
        let one = |device: &'_ Device| DeviceJson::new(&device.pools, self.at.as_secs());
        let devices = self
            .devices
            .iter()
            .map(|device| One { device: &device.name, driver: &device.driver, pools: one(device) })
            .collect();
        // Strings, numbers and maps with string keys: this cannot fail, and an empty line would say that it did.
        let all = All { r#type: "pagepool", schema: SCHEMA, at_s: self.at.as_millis() as f64 / 1e3, devices };
        let mut line = serde_json::to_string(&all).unwrap_or_default();
        line.push('\n');
        line
    }

    /// Each interface with its pools; last those of which nobody tells anything, and why.
    ///
    /// A pool whose interface went is listed at `lo`, which is said: the kernel moves it there
    /// (`page_pool_unreg_netdev`, net/core/page_pool_user.c).
    pub fn text(&self) -> String {
        let mut text = String::new();
        for device in self.devices.iter().filter(|device| !device.pools.pools.is_empty()) {
            let _ = write!(text, "{}: ", device.title());
            match &device.pools.source {
                Source::None(reason) => {
                    let _ = writeln!(text, "no counters, {reason}");
                }
                source => {
                    let _ = writeln!(text, "counters by {}", source.name());
                }
            }
            if let Source::Ethtool(Some(reason)) = &device.pools.source {
                let _ = writeln!(text, "  pages in flight and detached pools are not known: {reason}");
            }
            for pool in &device.pools.pools {
                self.write_pool(&mut text, pool);
            }
        }
        let silent = self.devices.iter().filter(|device| device.pools.pools.is_empty());
        for (reason, titles) in by_reason(silent) {
            let _ = writeln!(text, "{titles}: not available: {reason}");
        }
        text
    }

    fn write_pool(&self, text: &mut String, pool: &Pool) {
        let mut facts = vec![match pool.id {
            Some(id) => format!("pool {id}"),
            None => "all pools".to_owned(),
        }];
        facts.extend(pool.napi.map(|napi| format!("NAPI {napi}")));
        facts.extend((pool.memory != super::Memory::Page).then(|| pool.memory.name().to_owned()));
        facts.extend(pool.inflight_pages.map(|pages| {
            let bytes = pool.inflight_bytes.map(|bytes| format!(" ({}B)", binary(bytes)));
            format!("{} in flight{}", counted(pages, "page"), bytes.unwrap_or_default())
        }));
        let _ = writeln!(text, "  {}", facts.join(", "));
        write_detached(text, pool, "", self.at.as_secs());
        let Some(counters) = &pool.counters else { return };
        for half in ["alloc", "recycle"] {
            let named = counters
                .iter()
                .filter_map(|(name, n)| Some((name.strip_prefix(half)?.strip_prefix('_')?, n)));
            text.push_str(&wrap(&format!("    {half:8}"), named));
        }
        let _ = writeln!(
            text,
            "    recycled {} of {}",
            percent(counters.recycle_ratio()),
            counters.allocated().map_or_else(|| "- allocations".into(), |all| counted(all, "allocation")),
        );
    }
}

impl Device {
    fn title(&self) -> String {
        let what =
            if self.has_orphans() { "pools of interfaces that are gone" } else { self.driver.as_str() };
        match what {
            "" => self.name.clone(),
            what => format!("{} ({what})", self.name),
        }
    }

    /// Whether it is the loopback, with what is left of others.
    fn has_orphans(&self) -> bool {
        u64::from(self.index) == LOOPBACK && self.pools.pools.iter().any(|pool| pool.detached_at.is_some())
    }

    /// Why it has no counters, if it has none.
    fn reason(&self) -> Option<&Reason> {
        match &self.pools.source {
            Source::None(reason) => Some(reason),
            Source::Netlink | Source::Ethtool(_) => None,
        }
    }
}

/// Who has no counters, by the reason: mostly it is one for all of them.
fn by_reason<'a>(devices: impl Iterator<Item = &'a Device>) -> Vec<(&'a Reason, String)> {
    let mut silent: Vec<(&Reason, Vec<String>)> = Vec::new();
    for device in devices {
        let Some(reason) = device.reason() else { continue };
        match silent.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, titles)) => titles.push(device.title()),
            None => silent.push((reason, vec![device.title()])),
        }
    }
    silent.into_iter().map(|(reason, titles)| (reason, titles.join(", "))).collect()
}

fn links() -> Result<Vec<nic::Link>, NicError> {
    nic::links().map_err(|source| NicError::Kernel { what: "its interfaces", source })
}

/// `umemd pagepool --watch`: rates, a line per pool.
#[derive(Debug)]
pub struct Watch {
    last: Report,
    lines: u32,
    /// Whose want of counters was told, and the reason.
    told: BTreeMap<String, Reason>,
}

impl Watch {
    /// Starts from a report.
    pub fn new(first: Report) -> Self {
        Self { last: first, lines: 0, told: BTreeMap::new() }
    }

    /// What happened since the last report, and what is in flight. A pool that was not there then, or has no
    /// counters, has no rates; why an interface has none is told once, and anew if the reason changes, as is one that went.
    pub fn rates(&mut self, now: Report) -> String {
        let seconds = now.at.saturating_sub(self.last.at).as_secs_f64();
        let mut text = self.reasons(&now);
        for device in &now.devices {
            let before = self.last.devices.iter().find(|before| before.name == device.name);
            let gone = if device.has_orphans() { ", and its interface is gone" } else { "" };
            for pool in &device.pools.pools {
                let earlier = before.and_then(|before| {
                    before.pools.pools.iter().find(|earlier| earlier.id == pool.id)?.counters
                });
                let since = pool.counters.zip(earlier).map(|(counters, earlier)| counters.since(&earlier));
                if self.lines.is_multiple_of(LINES_PER_HEADING) {
                    let _ = writeln!(text, "{HEADING}");
                }
                self.lines += 1;
                line(&mut text, &device.name, pool, since, seconds);
                write_detached(&mut text, pool, gone, now.at.as_secs());
            }
        }
        self.last = now;
        text
    }

    /// A line for each reason that is news.
    fn reasons(&mut self, now: &Report) -> String {
        let is_news = |device: &&Device| self.told.get(&device.name) != device.reason();
        let mut text = String::new();
        for Device { name, index, .. } in &self.last.devices {
            // What is left of others is shown there, and ends in time.
            let is_loopback = u64::from(*index) == LOOPBACK;
            if !is_loopback && now.devices.iter().all(|device| device.name != *name) {
                let _ = writeln!(
                    text,
                    "{name}: not here any more; pools that outlive an interface are shown at lo"
                );
            }
        }
        for (reason, titles) in by_reason(now.devices.iter().filter(is_news)) {
            let _ = writeln!(text, "{titles}: no rates: {reason}");
        }
        let all = now.devices.iter();
        self.told = all.filter_map(|device| Some((device.name.clone(), device.reason()?.clone()))).collect();
        text
    }
}

const HEADING: &str =
    "device           pool   alloc/s    slow/s  cached/s    ring/s   freed/s recycled in flight";

fn line(text: &mut String, device: &str, pool: &Pool, since: Option<Since>, seconds: f64) {
    let now = since.map(|since| since.counters).unwrap_or_default();
    let rate = |count: Option<u64>| known(count.map(|n| (n as f64 / seconds.max(1e-3)).round() as u64));
    let _ = writeln!(
        text,
        "{device:15} {:>5} {:>9} {:>9} {:>9} {:>9} {:>9} {:>8} {:>9}{}",
        pool.label(),
        rate(now.allocated()),
        rate(now.alloc_slow),
        rate(now.recycle_cached),
        rate(now.recycle_ring),
        rate(now.released()),
        percent(now.recycle_ratio()),
        known(pool.inflight_pages),
        if since.is_some_and(|since| since.restarted) { "  counters began anew" } else { "" },
    );
}

/// For a pool whose driver is done with it: since when, what else there is to say, and whether it cannot end.
fn write_detached(text: &mut String, pool: &Pool, more: &str, boottime: u64) {
    let Some(age) = pool.detached_s(boottime) else { return };
    let stalled = if pool.is_stalled(boottime) {
        "; STALLED: somebody keeps its last pages, and it cannot end before they come back"
    } else {
        ""
    };
    let _ = writeln!(text, "    detached {} s ago{more}{stalled}", thousands(age));
}

/// Prints a report; with `watch`, one a second until nobody reads any more.
///
/// # Errors
///
/// As [`Report::take`], or if standard output cannot be written.
pub fn run(
    names: &[String],
    netns: Option<&str>,
    watch: bool,
    json: bool,
    out: &mut impl io::Write,
) -> anyhow::Result<()> {
    let first = Report::take(names, netns)?;
    let mut print = |text: &str| -> io::Result<bool> {
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            // `umemd pagepool | head` is no error of ours.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            other => other.map(|()| true),
        }
    };
    let mut text = if json { first.json() } else { first.text() };
    let mut rates = Watch::new(first);
    while print(&text)? && watch {
        std::thread::sleep(Duration::from_secs(1));
        let now = Report::again(names)?;
        text = if json { now.json() } else { rates.rates(now) };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        page_pool::{
            Counters,
            fixture::{counters, two_pools, zeros},
        },
        protocol::documented::fields,
    };

    fn report() -> Report {
        let device = |index, name: &str, driver: &str, pools| Device {
            index,
            name: name.into(),
            driver: driver.into(),
            pools,
        };
        let all = Pool { counters: Some(counters()), ..Pool::default() };
        let none = |reason| DevicePools { source: Source::None(reason), pools: Vec::new() };
        let devices = vec![
            device(1, "lo", "", none(Reason::DriverSilent)),
            device(2, "eth0", "mlx5_core", two_pools()),
            device(3, "eth1", "mvneta", DevicePools { source: Source::Ethtool(None), pools: vec![all] }),
            device(4, "eth2", "mvpp2", none(Reason::Unlisted)),
        ];
        Report { at: Duration::from_millis(4_120_250), devices }
    }

    #[test]
    fn the_report_reads_from_what_is_known_to_what_is_not() {
        let expected = "\
eth0 (mlx5_core): counters by netlink
  pool 17, NAPI 513, 256 pages in flight (1.00 MiB)
    alloc    fast 900  slow 10  slow_high_order 0  empty 11  refill 90  waive 1
    recycle  cached 700  cache_full 3  ring 250  ring_full 5  released_refcnt 7
    recycled 95.0 % of 1,000 allocations
  pool 9, 6 pages in flight (24.00 KiB)
    detached 3,120 s ago; STALLED: somebody keeps its last pages, and it cannot end before they come back
    alloc    fast 0  slow 0  slow_high_order 0  empty 0  refill 0  waive 0
    recycle  cached 0  cache_full 0  ring 0  ring_full 0  released_refcnt 0
    recycled - of 0 allocations
eth1 (mvneta): counters by ethtool
  all pools
    alloc    fast 900  slow 10  slow_high_order 0  empty 11  refill 90  waive 1
    recycle  cached 700  cache_full 3  ring 250  ring_full 5  released_refcnt 7
    recycled 95.0 % of 1,000 allocations
lo: not available: netlink lists no pool of it: it is down, or its driver tells neither netlink nor ethtool; \
tracepoints (page_pool:*) are then the only way to see its pools
eth2 (mvpp2): not available: netlink lists no pool of it, and this kernel was built without CONFIG_PAGE_POOL_STATS; one built with it tells \
         more, if the driver does
";
        assert_eq!(report().text(), expected);
    }

    #[test]
    fn what_netlink_did_not_tell_beside_ethtool_is_said() {
        let mut report = report();
        report.devices.retain(|device| device.name == "eth1");
        report.devices[0].pools.source = Source::Ethtool(Some(Reason::Failed("no buffers".into())));
        let expected = "eth1 (mvneta): counters by ethtool\n  pages in flight and detached pools are not known: the \
                        kernel did not answer: no buffers\n  all pools\n";
        assert!(report.text().starts_with(expected), "{}", report.text());
    }

    #[test]
    fn an_interface_that_goes_is_told_of_once_and_the_others_go_on() {
        let mut watch = Watch::new(report());
        let without = || {
            let mut now = report();
            now.devices.retain(|device| device.name != "eth1");
            now
        };
        let told = watch.rates(without());
        assert!(
            told.contains("eth1: not here any more; pools that outlive an interface are shown at lo\n"),
            "{told}"
        );
        assert!(told.contains("eth0 ") && !watch.rates(without()).contains("any more"), "{told}");
        let mut now = without();
        now.devices.retain(|device| device.name != "lo");
        assert!(!watch.rates(now).contains("any more"), "the last of those at lo has ended");
        assert!(watch.rates(report()).contains("eth1 "), "until it is there again");
    }

    #[test]
    fn what_is_left_of_interfaces_that_are_gone_is_not_the_loopbacks_own() {
        let mut report = report();
        report.devices.truncate(1);
        let pools = two_pools().pools.split_off(1);
        report.devices[0].pools = DevicePools { source: Source::Netlink, pools };
        let text = report.text();
        let expected =
            "lo (pools of interfaces that are gone): counters by netlink\n  pool 9, 6 pages in flight";
        assert!(text.starts_with(expected), "{text}");
        let text = Watch::new(report.clone()).rates(report);
        assert!(text.contains("\n    detached 3,120 s ago, and its interface is gone; STALLED: "), "{text}");
    }

    #[test]
    fn json_is_one_object_per_report() {
        let json: serde_json::Value = serde_json::from_str(&report().json()).unwrap();
        assert_eq!((&json["type"], &json["schema"]), (&"pagepool".into(), &1.into()));
        assert_eq!(json["at_s"], 4120.25);
        let device = &json["devices"][1];
        assert_eq!((&device["device"], &device["driver"]), (&"eth0".into(), &"mlx5_core".into()));
        assert_eq!(device["pools"][1]["stalled"], true);
        assert_eq!(json["devices"][3]["source"], "none");
    }

    #[test]
    fn every_field_is_documented() {
        let mut report = report();
        report.devices[2].pools.source = Source::Ethtool(Some(Reason::Failed("no buffers".into())));
        let page = include_str!("../protocol/PROTOCOL.md");
        let (_, own) = page.split_once("`umemd pagepool --json`").unwrap();
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        let mut names = BTreeSet::new();
        fields(&json, &mut names);
        let of_all = ["type", "schema", "at_s", "devices", "device", "driver"];
        assert!(of_all.iter().all(|name| names.contains(*name)), "{names:?}");
        // The pools are told of with those of the status.
        let missing = |name: &&String| {
            !if of_all.contains(&name.as_str()) { own } else { page }.contains(&format!("`{name}`"))
        };
        assert_eq!(names.iter().filter(missing).collect::<Vec<_>>(), [""; 0]);
    }

    #[test]
    fn rates_are_differences_and_a_restart_is_said() {
        let first = report();
        let mut later = first.clone();
        later.at += Duration::from_secs(2);
        later.devices[1].pools.pools[0].counters =
            Some(Counters { alloc_fast: Some(2900), recycle_cached: Some(2690), ..counters() });
        later.devices[2].pools.pools[0].counters = Some(Counters { alloc_slow: Some(4), ..zeros() });

        let text = Watch::new(first).rates(later);
        let lines = words(&text);
        let heading = lines.iter().position(|words| words[..2] == ["device", "pool"]).unwrap();
        let [used, idle, detached, anew] = &lines[heading + 1..] else { panic!("{text}") };
        assert_eq!(*used, ["eth0", "17", "1,000", "0", "995", "0", "0", "99.5", "%", "256"]);
        assert_eq!(*idle, ["eth0", "9", "0", "0", "0", "0", "0", "-", "6"]);
        assert_eq!(detached[..5], ["detached", "3,122", "s", "ago;", "STALLED:"]);
        assert_eq!(anew[..10], ["eth1", "all", "2", "2", "0", "0", "0", "0.0", "%", "-"]);
        assert!(text.lines().last().unwrap().ends_with("counters began anew"));
    }

    fn words(text: &str) -> Vec<Vec<&str>> {
        text.lines().map(|line| line.split_whitespace().collect()).collect()
    }

    #[test]
    fn without_counters_a_watch_says_why_once_and_goes_on_with_what_is_known() {
        let mut first = report();
        // Linux without CONFIG_PAGE_POOL_STATS still lists pools.
        let pools = &mut first.devices[1].pools;
        pools.source = Source::None(Reason::KernelWithoutStats);
        pools.pools.iter_mut().for_each(|pool| pool.counters = None);
        first.devices.remove(2);

        let mut watch = Watch::new(first.clone());
        let text = watch.rates(first.clone());
        let why = "eth0 (mlx5_core): no rates: this kernel was built without CONFIG_PAGE_POOL_STATS";
        assert_eq!(text.matches(why).count(), 1, "{text}");
        assert!(text.contains("lo: no rates: netlink lists no pool of it"), "{text}");
        let shown = |text: &str| {
            let lines = words(text);
            assert!(lines.contains(&vec!["eth0", "17", "-", "-", "-", "-", "-", "-", "256"]), "{text}");
            assert!(lines.contains(&vec!["eth0", "9", "-", "-", "-", "-", "-", "-", "6"]), "{text}");
            assert!(text.contains("detached 3,120 s ago; STALLED"), "{text}");
        };
        shown(&text);
        let text = watch.rates(first.clone());
        assert!(!text.contains("no rates"), "once: {text}");
        shown(&text);

        first.devices[0].pools.source = Source::None(Reason::KernelTooOld);
        let text = watch.rates(first);
        assert_eq!(text.matches("no rates").count(), 1, "another reason is news: {text}");
    }

    #[test]
    fn a_counter_that_the_kernel_leaves_out_is_a_dash() {
        let mut first = report();
        first.devices.retain(|device| device.name == "eth1");
        first.devices[0].pools.pools[0].counters.as_mut().unwrap().recycle_ring = None;
        let text = first.text();
        assert!(text.contains("cache_full 3  ring -  ring_full 5"), "{text}");
        assert!(text.contains("recycled - of 1,000 allocations"), "{text}");
        let text = Watch::new(first.clone()).rates(first);
        assert_eq!(words(&text)[1], ["eth1", "all", "0", "0", "0", "-", "0", "-", "-"]);
    }

    #[test]
    fn loopback_is_told_about_on_every_machine() {
        let report = Report::take(&["lo".into()], None).unwrap();
        assert!(report.text().starts_with("lo: "), "{}", report.text());
        assert!(Report::take(&["nosuchif0".into()], None).is_err());
    }
}
