//! What being watched costs: one page of a large agent, the CPU time of an agent that is scraped, and what its worker
//! notices of that.

mod large;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use self::large::large;
use super::ratio::Ratio;
use crate::cli::{BenchScrape, Traffic};
use crate::lab::net::Namespaces;
use crate::lab::scrape;
use crate::lab::sender::RunningSender;
use crate::{compile, shell};

/// Scrapes per second.
const RATE: u32 = 10;
/// What they may take of a core, percent, whether or not packets flow: of an agent of one queue, and with the kernel's
/// answers kept, so that one scrape in ten asks it and the others get those. What one costs that asks, of many queues, is
/// `large`.
const MOST_PERCENT: f64 = 0.5;
/// What they may add to the CPU time that a packet takes the worker, by the lower end of what is measured, and by the
/// median. Hardly any is expected: in instructions it is a third of a percent, which datapath's own benchmark counts (`watched`
/// beside `drop`). Time of two windows differs by some percent for no reason of ours, as caches and interrupts are shared
/// with whatever else runs: the median is to see what is plainly wrong, where nothing else does.
const MOST_RATIO: f64 = 1.02;
const MOST_MEDIAN: f64 = 1.05;
/// How long the agent is watched, with scrapes and without.
const TIME: Duration = Duration::from_secs(5);
/// Windows with scrapes, each beside one without.
const PAIRS: usize = 20;
/// How long each of them is.
const WINDOW: Duration = Duration::from_secs(2);
/// Packets per second meanwhile; less than a veth pair carries.
const LOAD: u64 = 76_000;

/// What one scrape of the largest agent may take of a CPU, and its page of the network. By the clock on the wall it takes
/// longer where others want that CPU too, and by the millisecond or two for which it waits for workers.
const MOST_TIME: Duration = Duration::from_millis(5);
const MOST_BYTES: usize = 1 << 20;

const LISTEN: &str = "127.0.0.1:19479";

/// A measurement of an agent in a lab.
type Measure = fn(&Path, &Namespaces) -> Result<Value>;

/// Prints a line for each measurement; fails if one is over its bound.
pub(super) fn run(options: &BenchScrape) -> Result<()> {
    measure(options)?.iter().try_for_each(|result| check(result, Machine::Ours))
}

/// The same with the bounds that hold on a machine that does something else beside: bytes, CPU times that are far below
/// theirs, and the lower end of what is measured in pairs.
pub(crate) fn check_repeatable() -> Result<()> {
    measure(&BenchScrape { json: false })?.iter().try_for_each(|result| check(result, Machine::Shared))
}

/// Who else uses the machine.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Machine {
    /// Nobody.
    Ours,
    /// Whoever likes.
    Shared,
}

fn measure(options: &BenchScrape) -> Result<Vec<Value>> {
    let mut cargo = shell::cargo();
    cargo.args(["bench", "--package", "umemd", "--bench", "scrape"]);
    let mut results: Vec<Value> = Vec::new();
    for line in shell::run_quietly(&mut cargo)?.lines().filter(|line| line.starts_with('{')) {
        let result = serde_json::from_str(line).context("the benchmark printed no JSON")?;
        print(options, &result);
        results.push(result);
    }
    ensure!(shell::is_root(), "the rest makes network namespaces; run it as root");
    let umemd = compile::release()?;
    let lab = Namespaces::create()?;
    let measures: [Measure; 3] = [idle, busy, large];
    for measure in measures {
        let result = measure(&umemd, &lab)?;
        print(options, &result);
        results.push(result);
    }
    Ok(results)
}

/// Checks a measurement against its bounds. Each has all that its kind has: what is missing is over its bound.
fn check(result: &Value, machine: Machine) -> Result<()> {
    let has = |key: &str| !result[key].is_null();
    let bounds: &[(&str, f64)] = if has("pairs") {
        let all = &[
            ("cpu_percent_low", MOST_PERCENT),
            ("worker_ratio_low", MOST_RATIO),
            ("cpu_percent", MOST_PERCENT),
            ("worker_ratio", MOST_MEDIAN),
        ];
        if machine == Machine::Ours { all } else { &all[..2] }
    } else if has("scrapes") {
        &[("cpu_percent", MOST_PERCENT)]
    } else {
        &[("cpu_ms", MOST_TIME.as_secs_f64() * 1e3), ("bytes", MOST_BYTES as f64)]
    };
    for (key, most) in bounds {
        ensure!(
            result[key].as_f64().is_some_and(|value| value < *most),
            "{key} is {}, and {most} is the bound; where the machine is busy, ask again when it is not",
            result[key]
        );
    }
    Ok(())
}

/// What the thread that answers takes of a CPU, less what it takes when nobody asks. The connection is kept, as
/// Prometheus does.
fn idle(umemd: &Path, lab: &Namespaces) -> Result<Value> {
    let agent = Agent::start(umemd, lab, &["--iface", "near0", "--steer", "udp dst port 7"])?;
    let main = agent.thread("umemd")?;
    let (unwatched, _) = watch(&main, TIME, || ())?;
    let mut connection = scrape::Kept::to(LISTEN).context("umemd does not listen")?;
    let mut answered = 0;
    let (watched, scrapes) =
        watch(&main, TIME, || answered += u32::from(connection.get("/metrics").is_some()))?;
    ensure!(answered == scrapes, "umemd answered {answered} of {scrapes} scrapes");
    let cost = watched.saturating_sub(unwatched);
    Ok(json!({
        "bench": "scrape", "page": "metrics", "queues": 1, "scrapes": scrapes,
        "cpu_us_per_scrape": (cost.as_nanos() as f64 / f64::from(scrapes) / 1e3).round(),
        "cpu_percent": percent(cost, TIME),
        "idle_cpu_percent": percent(unwatched, TIME),
    }))
}

fn percent(time: Duration, of: Duration) -> f64 {
    (time.as_secs_f64() / of.as_secs_f64() * 1e4).round() / 1e2
}

/// While packets flow: the worker's CPU time per packet while the agent is scraped, over the same while it is not; and what
/// the thread that answers takes of a CPU, less what it takes while nobody asks.
fn busy(umemd: &Path, lab: &Namespaces) -> Result<Value> {
    let arguments = ["--iface", "near0", "--steer", "udp dst port 7", "--cpus", "1"];
    let agent = Agent::start(umemd, lab, &arguments)?;
    let (main, worker) = (agent.thread("umemd")?, agent.thread("near0/0")?);
    let _sender = RunningSender::start_on("0", &lab.far, "10.77.0.1:7", &Traffic { rate: LOAD, size: 60 })?;
    thread::sleep(Duration::from_millis(500));
    let cost = |each: &mut dyn FnMut() -> bool| {
        let before = received()?;
        let (unasked, mut answered) = (cpu_time(&main)?, 0);
        let (time, scrapes) = watch(&worker, WINDOW, || answered += u32::from(each()))?;
        let asked = cpu_time(&main)?.saturating_sub(unasked);
        let packets = received()? - before;
        ensure!(packets > 0, "no packet arrived");
        // On a machine that others use, one may take longer than its second.
        ensure!(scrapes - answered <= 1, "umemd answered {answered} of {scrapes} scrapes");
        Ok((time.as_nanos() as f64 / packets as f64, asked))
    };
    let (mut ratios, mut percents) = (Vec::new(), Vec::new());
    for pair in 0..PAIRS {
        let scraped = || {
            let mut connection = scrape::Kept::to(LISTEN).context("umemd does not listen")?;
            cost(&mut || connection.get("/metrics").is_some())
        };
        let quiet = || cost(&mut || true);
        let ((with, asked), (without, unasked)) = if pair % 2 == 0 {
            let with = scraped()?;
            (with, quiet()?)
        } else {
            let without = quiet()?;
            (scraped()?, without)
        };
        ratios.push(with / without);
        percents.push(percent(asked.saturating_sub(unasked), WINDOW));
    }
    let (Ratio { median, low, high }, scraper) = (Ratio::of(&ratios), Ratio::of(&percents));
    let rounded = |ratio: f64| (ratio * 1e3).round() / 1e3;
    Ok(json!({
        "bench": "scrape", "page": "metrics", "pairs": PAIRS, "packets_per_second": LOAD,
        "worker_ratio": rounded(median), "worker_ratio_low": rounded(low), "worker_ratio_high": rounded(high),
        "cpu_percent": rounded(scraper.median), "cpu_percent_low": rounded(scraper.low),
        "cpu_percent_high": rounded(scraper.high),
    }))
}

/// Packets that the agent has received.
fn received() -> Result<u64> {
    let status = scrape::get(LISTEN, "/status").context("umemd does not answer")?;
    let status: Value = serde_json::from_str(&status).context("/status is no JSON")?;
    let packets = status["devices"][0]["queues"][0]["traffic"]["rx_packets"].as_u64();
    packets.context("/status says nothing of packets")
}

/// A umemd that runs; killed, then waited for, when dropped.
struct Agent(Child);

impl Agent {
    /// Starts it in the near namespace, and waits until it is ready.
    fn start(umemd: &Path, lab: &Namespaces, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(umemd).arg("run").args(arguments);
        command.args(["--netns", &lab.near, "--listen", LISTEN, "--control", "none", "--json"]);
        let agent = Self(command.env("UMEMD_LOG", "warn").stdout(Stdio::null()).spawn()?);
        let start = Instant::now();
        while !scrape::is_ready(LISTEN) {
            ensure!(start.elapsed() < Duration::from_secs(20), "umemd does not get ready");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(agent)
    }

    /// The thread of this name: the file that says how long it ran.
    fn thread(&self, name: &str) -> Result<String> {
        let tasks = format!("/proc/{}/task", self.0.id());
        for task in fs::read_dir(&tasks).with_context(|| format!("cannot read {tasks}"))? {
            let task = task?.path();
            if fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim_end() == name) {
                return Ok(task.join("schedstat").to_string_lossy().into_owned());
            }
        }
        anyhow::bail!("umemd has no thread {name}")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Does something at [`RATE`] for a while: what a thread had of a CPU meanwhile, and how often it was done.
fn watch(thread: &str, time: Duration, mut each: impl FnMut()) -> Result<(Duration, u32)> {
    let (before, start) = (cpu_time(thread)?, Instant::now());
    let mut done = 0;
    while start.elapsed() < time {
        each();
        done += 1;
        let next = start + done * Duration::from_secs(1) / RATE;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok((cpu_time(thread)?.saturating_sub(before), done))
}

fn cpu_time(file: &str) -> Result<Duration> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
    let nanos = text.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
    Ok(Duration::from_nanos(nanos.with_context(|| format!("{file} has no number"))?))
}

fn print(options: &BenchScrape, result: &Value) {
    if options.json {
        println!("{result}");
        return;
    }
    let number = |key: &str| result[key].as_f64().unwrap_or_default();
    let page = result["page"].as_str().unwrap_or_default();
    if !result["worker_ratio"].is_null() {
        println!(
            "the worker with {RATE} scrapes a second: {} times its CPU time per packet without [{}, {}]; they take {} % \
             of a core [{}, {}]",
            number("worker_ratio"),
            number("worker_ratio_low"),
            number("worker_ratio_high"),
            number("cpu_percent"),
            number("cpu_percent_low"),
            number("cpu_percent_high"),
        );
    } else if !result["scrapes"].is_null() {
        println!(
            "umemd with {RATE} scrapes a second: {} us of CPU per scrape, {} % of a core (and {} % without)",
            number("cpu_us_per_scrape"),
            number("cpu_percent"),
            number("idle_cpu_percent"),
        );
    } else {
        let what = match result["kept"].as_u64() {
            Some(kept) => format!("asked of this kernel while a capture keeps {kept} frames"),
            None => "made of numbers".to_owned(),
        };
        println!(
            "/{page} of {} queues and {} rules, {what}: {} ms of CPU, {} ms by the clock, {} bytes",
            number("queues"),
            number("rules"),
            number("cpu_ms"),
            number("wall_ms"),
            number("bytes")
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a busy agent would be measured with.
    fn pairs(ratio_low: f64, ratio: f64, percent_low: f64, percent: f64) -> Value {
        json!({
            "pairs": 20, "worker_ratio_low": ratio_low, "worker_ratio": ratio,
            "cpu_percent_low": percent_low, "cpu_percent": percent,
        })
    }

    #[test]
    fn what_is_not_measured_is_not_within_its_bound() {
        let fine = [
            pairs(1.0, 1.01, 0.1, 0.2),
            json!({"scrapes": 50, "cpu_percent": 0.1}),
            json!({"cpu_ms": 1.0, "bytes": 1000}),
        ];
        for result in fine {
            check(&result, Machine::Ours).unwrap();
            for key in
                ["worker_ratio_low", "worker_ratio", "cpu_percent_low", "cpu_percent", "cpu_ms", "bytes"]
            {
                let mut lacking = result.clone();
                if lacking.as_object_mut().unwrap().remove(key).is_some() {
                    assert!(
                        check(&lacking, Machine::Ours).unwrap_err().to_string().contains(key),
                        "{lacking}"
                    );
                }
            }
        }
        for machine in [Machine::Ours, Machine::Shared] {
            assert!(check(&json!({"scrapes": 50, "cpu_percent": 0.6}), machine).is_err());
        }
    }

    #[test]
    fn of_what_varies_its_lower_end_is_bounded_on_a_machine_that_others_use() {
        for much in [pairs(0.99, 1.06, 0.1, 0.2), pairs(0.99, 1.01, 0.4, 0.6)] {
            assert!(check(&much, Machine::Shared).is_ok());
            assert!(check(&much, Machine::Ours).is_err());
        }
        for much in [pairs(1.03, 1.06, 0.1, 0.2), pairs(0.99, 1.01, 0.6, 0.7)] {
            assert!(check(&much, Machine::Shared).is_err());
        }
    }
}
