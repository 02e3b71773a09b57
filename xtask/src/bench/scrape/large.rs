//! One scrape of the largest agent that is promised to be cheap to scrape: with all that a page tells of, frames that a
//! capture keeps included, as it is looked for those in every frame of every queue.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::super::ratio::median;
use super::{Agent, LISTEN, cpu_time};
use crate::lab::net::Namespaces;
use crate::lab::scrape;
use crate::shell;

const QUEUES: u32 = 64;
const RULES: u32 = 256;
/// Frames of each queue: as many as it has unasked.
const FRAMES: u32 = 4096;
/// How often it is scraped; the one in the middle counts, of which what the machine does beside has little part.
const SCRAPES: u32 = 15;
/// Packets that are captured, of all queues together: no more of each than a veth's ring holds.
const PACKETS: u64 = 200 * QUEUES as u64;
/// How many of them come in a second.
const RATE: u64 = 50_000;
/// The destination port of the first rule, and of the packets.
const PORT: u32 = 1000;
/// More than a pipe holds of the packets, and so more than the capture's writer gets rid of before it waits.
const LEAST_KEPT: u64 = PACKETS / 2;

/// One scrape of an agent of many queues and rules, in this kernel.
pub(super) fn large(umemd: &Path, lab: &Namespaces) -> Result<Value> {
    let queues = QUEUES.to_string();
    let many = ["numrxqueues", &queues, "numtxqueues", &queues];
    let mut pair = Command::new("ip");
    pair.args(["-n", &lab.near, "link", "add", "name", "large0"]).args(many);
    pair.args(["type", "veth", "peer", "name", "large1"]).args(many);
    shell::run_quietly(&mut pair)?;
    for dev in ["large0", "large1"] {
        shell::run_quietly(Command::new("ip").args(["-n", &lab.near, "link", "set", dev, "up"]))?;
    }
    let pipe = UnreadPipe::create()?;
    let config = configuration(&pipe.path)?;
    let agent = Agent::start(umemd, lab, &["--config", &config.to_string_lossy()]);
    let _ = fs::remove_file(&config);
    let agent = agent?;
    let kept = capture_some(umemd, lab)?;

    let main = agent.thread("umemd")?;
    // As Prometheus has one: what it takes to make a connection, and to end it, is no part of a scrape.
    let mut connection = scrape::Kept::to(LISTEN).context("umemd does not listen")?;
    let (mut cpu, mut wall, mut page) = (Vec::new(), Vec::new(), String::new());
    for _ in 0..SCRAPES {
        // Each has to ask the kernel: its answers are kept for less.
        thread::sleep(Duration::from_secs(1));
        let (before, start) = (cpu_time(&main)?, Instant::now());
        page = connection.get("/metrics").context("umemd does not answer")?;
        wall.push(start.elapsed().as_secs_f64() * 1e3);
        // The kernel adds up when the thread sleeps again.
        thread::sleep(Duration::from_millis(20));
        cpu.push(cpu_time(&main)?.saturating_sub(before).as_secs_f64() * 1e3);
    }
    for (series, count) in [("umemd_worker_steered{", QUEUES), ("umemd_steer_rule_packets_total{", RULES)] {
        let told = page.lines().filter(|line| line.starts_with(series)).count();
        ensure!(told == count as usize, "the page has {told} of {count} series {series}...}}");
    }
    let bytes = page.len();
    let rounded = |times: &[f64]| (median(times) * 1e3).round() / 1e3;
    Ok(json!({
        "bench": "scrape", "page": "metrics", "queues": QUEUES, "rules": RULES, "frames": FRAMES, "kept": kept,
        "live": true, "cpu_ms": rounded(&cpu), "wall_ms": rounded(&wall), "bytes": bytes,
    }))
}

/// A file that says so, with a capture to `pipe`.
fn configuration(pipe: &Path) -> Result<PathBuf> {
    let mut text = format!("iface = ['large0']\nframes = {FRAMES}\ncapture.file = '{}'\n", pipe.display());
    for rule in 0..RULES {
        let _ = write!(text, "[[rule]]\nname = 'rule-{rule}'\nmatch = 'udp dst port {}'\n", PORT + rule);
    }
    let file = std::env::temp_dir().join(format!("umemd-large-{}.toml", std::process::id()));
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

/// Sends packets to each queue, and waits until they are captured. How many frames the capture keeps.
fn capture_some(umemd: &Path, lab: &Namespaces) -> Result<u64> {
    let mut sender = Command::new("setpriv");
    sender.args(["--pdeathsig", "KILL", "--"]).arg(umemd).args(["run", "--iface", "large1", "--mode", "skb"]);
    sender.args(["--netns", &lab.near, "--listen", "127.0.0.1:0", "--control", "none", "--frames", "512"]);
    // Each queue sends by itself, and what it sends arrives on that of the same number. Nobody has this MAC.
    sender.args(["--handler", "generate", "--dst-mac", "02:00:00:00:00:99"]);
    for (flag, value) in [("--dst-port", PORT.into()), ("--count", PACKETS), ("--rate", RATE)] {
        sender.args([flag, &value.to_string()]);
    }
    shell::run_quietly(sender.env("UMEMD_LOG", "error")).context("nothing was sent")?;
    let received = scrape::settled(LISTEN, PACKETS).context("umemd does not answer")?;
    ensure!(received == PACKETS, "of {PACKETS} packets {received} arrived");
    let page = scrape::get(LISTEN, "/metrics").context("umemd does not answer")?;
    let total = |name| scrape::total(&page, name).with_context(|| format!("no {name} is told"));
    let (kept, came_back) = (total("umemd_held_frames")?, total("umemd_frame_hold_seconds_count")?);
    ensure!(kept >= LEAST_KEPT && came_back > 0, "{kept} frames are kept, {came_back} came back");
    Ok(kept)
}

/// A named pipe that somebody could read, and nobody does: who writes to it waits when it is full. Gone when dropped.
struct UnreadPipe {
    path: PathBuf,
    /// Without a reader, to open it for writing would wait.
    _reader: File,
}

impl UnreadPipe {
    fn create() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("umemd-large-{}.pcapng", std::process::id()));
        shell::run_quietly(Command::new("mkfifo").arg(&path))?;
        // For both, as to open it for reading alone would wait for a writer.
        let reader = OpenOptions::new().read(true).write(true).open(&path);
        match reader {
            Ok(reader) => Ok(Self { path, _reader: reader }),
            Err(error) => {
                let _ = fs::remove_file(&path);
                Err(error).with_context(|| format!("cannot open {}", path.display()))
            }
        }
    }
}

impl Drop for UnreadPipe {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
