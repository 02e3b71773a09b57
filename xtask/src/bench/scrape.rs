//! What being watched costs: one page of a large agent, and the CPU time of an agent that is scraped.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::cli::BenchScrape;
use crate::lab::net::Namespaces;
use crate::lab::scrape;
use crate::{compile, shell};

/// Scrapes per second.
const RATE: u32 = 10;

/// How long the agent is watched, with scrapes and without.
const TIME: Duration = Duration::from_secs(5);

/// Prints a line for each page, and one for the agent.
pub(super) fn run(options: &BenchScrape) -> Result<()> {
    let mut cargo = shell::cargo();
    cargo.args(["bench", "--package", "umemd", "--bench", "scrape"]);
    for line in shell::run_quietly(&mut cargo)?.lines().filter(|line| line.starts_with('{')) {
        print(options, &serde_json::from_str(line).context("the benchmark printed no JSON")?);
    }
    ensure!(shell::is_root(), "the rest makes network namespaces; run it as root");
    let umemd = compile::release()?;
    let lab = Namespaces::create()?;
    print(options, &scraped(&umemd, &lab.near)?);
    Ok(())
}

/// What the thread that answers takes of a CPU, less what it takes when nobody asks.
fn scraped(umemd: &Path, netns: &str) -> Result<Value> {
    const LISTEN: &str = "127.0.0.1:19479";
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(umemd).args(["run", "--iface", "near0"]);
    command.args([
        "--netns",
        netns,
        "--steer",
        "udp dst port 7",
        "--listen",
        LISTEN,
        "--control",
        "none",
        "--json",
    ]);
    let agent = Agent(command.env("UMEMD_LOG", "warn").stdout(Stdio::null()).spawn()?);
    let start = Instant::now();
    while !scrape::is_ready(LISTEN) {
        ensure!(start.elapsed() < Duration::from_secs(10), "umemd does not get ready");
        thread::sleep(Duration::from_millis(20));
    }
    let (idle, _) = agent.watch(|| ())?;
    let (watched, scrapes) = agent.watch(|| drop(scrape::get(LISTEN, "/metrics")))?;
    Ok(json!({
        "bench": "scrape", "page": "metrics", "queues": 1, "scrapes": scrapes,
        "cpu_us_per_scrape": (watched.saturating_sub(idle).as_nanos() as f64 / f64::from(scrapes) / 1e3).round(),
        "cpu_percent": percent(watched.saturating_sub(idle)),
        "idle_cpu_percent": percent(idle),
    }))
}

fn percent(time: Duration) -> f64 {
    (time.as_secs_f64() / TIME.as_secs_f64() * 1e4).round() / 1e2
}

/// Killed, then waited for, when dropped.
struct Agent(Child);

impl Agent {
    /// Does something at [`RATE`] for a while: what the agent's main thread, which answers, had of a CPU meanwhile,
    /// and how often it was done.
    fn watch(&self, each: impl Fn()) -> Result<(Duration, u32)> {
        let (before, start) = (self.cpu_time()?, Instant::now());
        let mut done = 0;
        while start.elapsed() < TIME {
            each();
            done += 1;
            thread::sleep(
                (start + done * Duration::from_secs(1) / RATE).saturating_duration_since(Instant::now()),
            );
        }
        Ok((self.cpu_time()?.saturating_sub(before), done))
    }

    fn cpu_time(&self) -> Result<Duration> {
        let file = format!("/proc/{0}/task/{0}/schedstat", self.0.id());
        let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
        let nanos = text.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
        Ok(Duration::from_nanos(nanos.with_context(|| format!("{file} has no number"))?))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn print(options: &BenchScrape, result: &Value) {
    if options.json {
        println!("{result}");
        return;
    }
    let number = |key: &str| result[key].as_f64().unwrap_or_default();
    let page = result["page"].as_str().unwrap_or_default();
    if result["scrapes"].is_null() {
        println!(
            "/{page} of {} queues: {} ms of CPU, {} bytes",
            number("queues"),
            number("cpu_ms"),
            number("bytes")
        );
    } else {
        println!(
            "umemd with {RATE} scrapes a second: {} us of CPU per scrape, {} % of a core (and {} % without)",
            number("cpu_us_per_scrape"),
            number("cpu_percent"),
            number("idle_cpu_percent"),
        );
    }
}
