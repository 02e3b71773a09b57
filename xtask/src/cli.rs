//! The command line: clap's types, and nothing but them.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::fuzz;

/// Sets up, builds, runs and tests umemd.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 80)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Find or install what the build needs.
    Setup(Install),
    /// Set up, then build the XDP program and umemd (release).
    Build(Build),
    /// Set up, build, and move frames: in a lab of network namespaces, or on --iface.
    ///
    /// Whatever xtask does not know itself goes to `umemd run` as it stands, for
    /// example --steer "udp dst port 7", --handler reflect, --listen 127.0.0.1:0.
    Run(Run),
    /// Set up, then run the tests.
    Test(Test),
    /// Look for frames and rules that break the parser or the rule language.
    Fuzz(Fuzz),
    /// Check umemd on the stock drivers of Marvell's boards and others, and on
    /// kernels old and new, in guests.
    Board(Board),
    /// Set up, then check format, lints, docs and the shape of the house.
    Lint(Install),
    /// Replay golden traces of the kernel's page_pool, and compare every value.
    Conformance(Conformance),
    /// Measure what umemd costs, beside what one would use instead.
    Bench(Bench),
    /// The lab alone, as root, with a umemd that is built already.
    #[command(hide = true)]
    Lab(Lab),
    /// The lab's sender; runs inside the far namespace and ends with its stdin.
    #[command(hide = true)]
    LabSend(LabSend),
}

/// How far setup may go.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Install {
    /// Install without asking; so does a setup without a terminal.
    #[arg(long, conflicts_with = "no_install")]
    pub(crate) yes: bool,

    /// Only print what is missing; exit code 1 if something is.
    #[arg(long)]
    pub(crate) no_install: bool,
}

/// Arguments of `cargo xtask build`.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Build {
    /// Build for a board instead of this machine: one static program.
    #[arg(long, value_enum)]
    pub(crate) target: Option<Target>,

    #[command(flatten)]
    pub(crate) install: Install,
}

/// What else umemd is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Target {
    /// 64-bit Arm: EspressoBIN, MacchiatoBIN and their like.
    Aarch64,
}

/// Arguments of `cargo xtask run`.
#[derive(Args, Debug)]
pub(crate) struct Run {
    /// Interface to attach to; may be given several times. None: the lab.
    #[arg(long, value_name = "NAME")]
    pub(crate) iface: Vec<String>,

    /// Run on that machine: copies umemd there by ssh, forwards its HTTP port,
    /// and removes it at the end. An aarch64 board gets umemd for aarch64.
    #[arg(long, value_name = "USER@HOST", requires = "iface")]
    pub(crate) board: Option<String>,

    /// How to call ssh: "ssh -p 2222 -i KEY".
    #[arg(long, value_name = "COMMAND", default_value = "ssh", requires = "board")]
    pub(crate) ssh: String,

    /// A umemd for the board that is built already.
    #[arg(long, value_name = "PATH", requires = "board", hide = true)]
    pub(crate) umemd: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) show: Show,

    #[command(flatten)]
    pub(crate) traffic: Traffic,

    /// What gives root to the built program if you are not root.
    #[arg(long, value_name = "COMMAND", default_value = "sudo -E")]
    pub(crate) runner: String,

    #[command(flatten)]
    pub(crate) install: Install,
}

/// When a run ends and how it reports.
#[derive(Args, Clone, Debug)]
pub(crate) struct Show {
    /// End by itself after this time: 500ms, 10s, 2m, 1h.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) duration: Option<Duration>,

    /// Print one JSON object per second, and the summary last.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What the lab sends.
#[derive(Args, Clone, Debug)]
pub(crate) struct Traffic {
    /// Frames per second that the lab sends; 0: as fast as it goes. With
    /// --iface it is umemd's.
    #[arg(long, value_name = "PPS", default_value_t = 100_000)]
    pub(crate) rate: u64,

    /// Bytes of a frame that the lab sends, Ethernet header included. With
    /// --iface it is umemd's.
    #[arg(long, value_name = "BYTES", default_value_t = 60, value_parser = clap::value_parser!(u16).range(42..=1514))]
    pub(crate) size: u16,
}

/// Arguments of `cargo xtask board`.
#[derive(Args, Debug)]
pub(crate) struct Board {
    /// Which rig; unset: all.
    #[arg(value_enum)]
    pub(crate) rig: Option<RigName>,

    /// Which of Debian's kernels, of arm64; may be given several times. Unset:
    /// 7.x for igb and virtio, all three for e2e, 6.12 for the others.
    #[arg(long, value_enum)]
    pub(crate) kernel: Vec<Kernel>,

    /// On every kernel that a rig knows: 6.12 and 7.x, and 6.1 for e2e.
    #[arg(long, conflicts_with = "kernel")]
    pub(crate) every_kernel: bool,

    /// Leave what the guest was made of.
    #[arg(long)]
    pub(crate) keep: bool,

    /// Check a umemd of the dev profile: two minutes less to build.
    #[arg(long)]
    pub(crate) dev: bool,

    /// No checks: a shell on the guest's console. Power off with `poweroff -f`.
    #[arg(long)]
    pub(crate) shell: bool,

    /// Where Debian's packages cannot be had, say so and succeed; fail all the
    /// same if UMEMD_EXPECT_BOARDS is set.
    #[arg(long)]
    pub(crate) skip_unavailable: bool,

    #[command(flatten)]
    pub(crate) install: Install,
}

/// A rig: network hardware in a guest, and checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RigName {
    /// Armada 3720, as on the EspressoBIN.
    Mvneta,
    /// Armada 8040, as on the MacchiatoBIN.
    Mvpp2,
    /// Intel's 82576, whose driver has zero-copy.
    Igb,
    /// A virtual machine's NIC.
    Virtio,
    /// No NIC: end-to-end tests, on kernels old and new.
    E2e,
    /// All of them.
    All,
}

/// A kernel of Debian's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kernel {
    /// Of Debian 12.
    #[value(name = "6.1")]
    Bookworm,
    /// Of Debian 13.
    #[value(name = "6.12")]
    Trixie,
    /// The newest that runs on Debian 13.
    #[value(name = "7.x")]
    Newest,
}

/// Arguments of `cargo xtask lab`.
#[derive(Args, Debug)]
pub(crate) struct Lab {
    /// The umemd to run.
    #[arg(long, value_name = "PATH")]
    pub(crate) umemd: PathBuf,

    #[command(flatten)]
    pub(crate) show: Show,

    #[command(flatten)]
    pub(crate) traffic: Traffic,

    /// More arguments for `umemd run`.
    #[arg(last = true)]
    pub(crate) umemd_args: Vec<OsString>,
}

/// Arguments of `cargo xtask lab-send`.
#[derive(Args, Debug)]
pub(crate) struct LabSend {
    /// Where to.
    #[arg(long, value_name = "ADDR")]
    pub(crate) to: SocketAddr,

    #[command(flatten)]
    pub(crate) traffic: Traffic,
}

/// Arguments of `cargo xtask test`.
#[derive(Args, Debug)]
pub(crate) struct Test {
    /// Which tests; unset: all that CI runs (fast, then e2e).
    #[arg(value_enum)]
    pub(crate) which: Option<Which>,

    /// What gives root to the e2e tests, for example "sudo -E"; unset and not
    /// root: they are skipped, and said to be.
    #[arg(long, value_name = "COMMAND")]
    pub(crate) runner: Option<String>,

    /// Seeds of the simulation, from 0 on; unset: 1,000, and 100,000 if full.
    #[arg(long, value_name = "COUNT", conflicts_with = "seed")]
    pub(crate) seeds: Option<u64>,

    /// The one seed of the simulation, to replay what failed.
    #[arg(long, value_name = "SEED")]
    pub(crate) seed: Option<u64>,

    #[command(flatten)]
    pub(crate) install: Install,

    /// Arguments for the test programs, such as a part of a test's name; after
    /// mutants, parts of their names.
    #[arg(last = true)]
    pub(crate) test_args: Vec<OsString>,
}

/// Arguments of `cargo xtask fuzz`.
#[derive(Args, Debug)]
pub(crate) struct Fuzz {
    /// Which target: parser or rule; unset: one after the other.
    #[arg(value_parser = fuzz::target)]
    pub(crate) target: Option<String>,

    /// How long each is fuzzed.
    #[arg(long, value_name = "TIME", default_value = "60s")]
    pub(crate) time: humantime::Duration,

    /// Do not fuzz; put what was found, and reaches new code, into the corpus.
    #[arg(long)]
    pub(crate) merge: bool,

    #[command(flatten)]
    pub(crate) install: Install,
}

/// Arguments of `cargo xtask conformance`.
#[derive(Args, Debug)]
pub(crate) struct Conformance {
    /// Traces, or directories of them; none: those in agent/frame-pool/tests.
    #[arg(value_name = "DIR|FILE")]
    pub(crate) traces: Vec<PathBuf>,

    #[command(flatten)]
    pub(crate) install: Install,
}

/// Arguments of `cargo xtask bench`.
#[derive(Args, Debug)]
pub(crate) struct Bench {
    #[command(subcommand)]
    pub(crate) which: BenchWhich,

    #[command(flatten)]
    pub(crate) install: Install,
}

/// The benchmarks.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchWhich {
    /// CPU time per packet of the whole process, beside a minimal loop and xdp-bench; as root.
    Datapath(BenchDatapath),
    /// Time and instructions per frame of the pool, beside a Vec, a queue and a lock.
    Pool(BenchPool),
    /// Time per packet in the XDP program by rules and shapes, beside a bare redirect and one written by hand; as
    /// root.
    Steer(BenchSteer),
    /// What being watched costs: a page of 64 queues, and ten scrapes a second;
    /// as root.
    Scrape(BenchScrape),
}

/// Arguments of `cargo xtask bench scrape`.
#[derive(Args, Debug)]
pub(crate) struct BenchScrape {
    /// Print one JSON object per measurement.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Arguments of `cargo xtask bench pool`.
#[derive(Args, Debug)]
pub(crate) struct BenchPool {
    /// Print one JSON object per case.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Arguments of `cargo xtask bench steer`.
#[derive(Args, Debug)]
pub(crate) struct BenchSteer {
    /// Print one JSON object per case.
    #[arg(long)]
    pub(crate) json: bool,

    /// What gives root to the benchmark if you are not root.
    #[arg(long, value_name = "COMMAND", default_value = "sudo -E")]
    pub(crate) runner: String,
}

/// Arguments of `cargo xtask bench datapath`.
#[derive(Args, Debug)]
pub(crate) struct BenchDatapath {
    /// Print one JSON object per comparison.
    #[arg(long)]
    pub(crate) json: bool,

    /// Measure this handler only; may be given several times.
    #[arg(long = "handler", value_name = "NAME", value_enum)]
    pub(crate) handlers: Vec<BenchHandler>,

    /// Compare with this one only: minimal, or xdp-bench; may be given several times.
    #[arg(long = "peer", value_name = "NAME")]
    pub(crate) peers: Vec<String>,

    /// Who sends the packets.
    #[arg(long, value_enum, default_value_t = LoadSource::Generate)]
    pub(crate) source: LoadSource,

    /// Pairs of runs per comparison, at least 6: with fewer there is no interval that has 95 %.
    #[arg(long, value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u16).range(6..))]
    pub(crate) pairs: u16,

    /// For how long umemd lets frames gather, in microseconds; unset: as `umemd run` does. With 0 it is woken as its
    /// peers are.
    #[arg(long, value_name = "USECS")]
    pub(crate) rx_usecs: Option<u32>,

    /// How long a run is.
    #[arg(long, value_name = "TIME", default_value = "1s")]
    pub(crate) time: humantime::Duration,
}

/// Who sends the packets of `bench datapath`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LoadSource {
    /// `umemd run --handler generate`, in skb mode: packets are whole, with their checksums.
    Generate,
    /// A socket of the stack: who sends a packet on has to complete its checksum.
    Socket,
}

/// What is done with packets while it is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchHandler {
    /// Count them.
    Drop,
    /// Send them back.
    Reflect,
    /// Send them to another interface.
    Forward,
    /// Send packets of one's own.
    Generate,
}

/// A group of tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Which {
    /// Unit, model and doc tests, and every interleaving of the pool's threads;
    /// no root.
    Fast,
    /// The simulation alone: random histories of every handler; no root.
    Sim,
    /// What needs root: the XDP program in the kernel, umemd in network
    /// namespaces.
    E2e,
    /// Whether the pool's tests notice each error of a table of them; minutes.
    Mutants,
    /// All of it, and what is too long for every commit.
    Full,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
