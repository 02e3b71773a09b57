//! `cargo xtask board`: umemd on the drivers of Marvell's boards and others, without a board.
//!
//! A guest with a stock kernel of Debian's arm64 runs under QEMU. The network hardware of the SoCs is a process of
//! ours, `board-device`, which models the registers (tests/board); other NICs are QEMU's own. The guest's init is
//! `board-guest`: it loads the drivers, runs the checks on the cross-built umemd, and prints a verdict for each.
//!
//! Nothing is installed: packages are unpacked below `target/board`, and stay there for the next run.

mod cpio;
mod initramfs;
mod modules;
mod outcome;
mod packages;
mod parts;
mod qemu;
mod rigs;
mod tree;
mod verdicts;
mod work;

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::board::outcome::{Outcome, Unavailable};
use crate::board::parts::Parts;
use crate::board::qemu::{Console, Process};
use crate::board::rigs::{Hardware, Rig};
use crate::board::verdicts::Verdicts;
use crate::board::work::Work;
use crate::cli::{Board, Kernel, RigName};
use crate::shell;

/// The kernel's command line. What it does not know itself is in init's environment.
const APPEND: &str = "console=ttyAMA0 panic=-1 quiet loglevel=4 UMEMD_BIN=/usr/bin/umemd \
                      UMEMD_START_SECONDS=300 PATH=/usr/bin:/usr/sbin";

/// How many lines of the console are shown if a guest fails.
const TAIL: usize = 60;

/// Set, it says that the packages are to be had here, so that it is a failure if they are not: for CI.
const EXPECT: &str = "UMEMD_EXPECT_BOARDS";

/// Why a rig does not know Debian 12's kernel.
const TOO_OLD: &str = "its checks ask the doctor what a kernel tells of drivers and of queues, as Linux does since 6.3 and \
                       6.8; of older ones `e2e` shows what umemd does there";

/// Those of `cargo xtask board all`.
const ALL: [&Rig; 5] = [&rigs::MVNETA, &rigs::MVPP2, &rigs::IGB, &rigs::VIRTIO, &rigs::E2E];

impl Board {
    fn rigs(&self) -> Vec<&'static Rig> {
        match self.rig {
            Some(RigName::Mvneta) => vec![&rigs::MVNETA],
            Some(RigName::Mvpp2) => vec![&rigs::MVPP2],
            Some(RigName::Igb) => vec![&rigs::IGB],
            Some(RigName::Virtio) => vec![&rigs::VIRTIO],
            Some(RigName::E2e) => vec![&rigs::E2E],
            Some(RigName::All) | None => ALL.to_vec(),
        }
    }

    /// Each rig with each of its kernels, or with those asked for. Some a rig may not know.
    fn runs(&self) -> impl Iterator<Item = (&'static Rig, Kernel)> {
        let with_kernels = |rig: &'static Rig| {
            let kernels = match &self.kernel[..] {
                [] if self.every_kernel => [rig.kernels, rig.more_kernels].concat(),
                [] => rig.kernels.to_vec(),
                asked => asked.to_vec(),
            };
            kernels.into_iter().map(move |kernel| (rig, kernel))
        };
        self.rigs().into_iter().flat_map(with_kernels)
    }

    /// Whether it is no failure that rigs cannot be had; `expected` is what [`EXPECT`] is set to.
    fn skips(&self, expected: Option<&OsStr>) -> bool {
        self.skip_unavailable && expected.is_none()
    }
}

impl Kernel {
    /// As on the command line.
    fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "6.1",
            Self::Trixie => "6.12",
            Self::Newest => "7.x",
        }
    }

    /// The release that has it.
    fn suite(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Newest => packages::NEWEST,
        }
    }
}

/// Builds, fetches, and runs the rigs asked for; an error if a check failed.
pub(crate) fn run(options: &Board) -> Result<()> {
    let mut outcome = Outcome::default();
    let name = |(rig, kernel): &(&Rig, Kernel)| format!("{} on {}", rig.name, kernel.name());
    let (runs, unknown): (Vec<_>, Vec<_>) = options.runs().partition(|(rig, kernel)| rig.knows(*kernel));
    for run in &unknown {
        eprintln!("skipped: board {}: {TOO_OLD}", name(run));
    }
    ensure!(!runs.is_empty(), "no rig that was asked for has checks for that kernel");
    match gather(options) {
        Ok(mut parts) => {
            for run in &runs {
                let &(rig, kernel) = run;
                outcome.add(name(run), run_rig(&mut parts, rig, kernel.suite(), options));
            }
        }
        Err(error) => outcome.add(runs.iter().map(name).collect::<Vec<_>>().join(", "), Err(error)),
    }
    outcome.verdict(options.skips(env::var_os(EXPECT).as_deref()))
}

fn gather(options: &Board) -> Result<Parts> {
    ensure!(
        cfg!(target_arch = "x86_64"),
        Unavailable("it runs on x86-64 only: it takes QEMU from Debian's amd64 packages".to_owned())
    );
    Parts::gather(options.dev, options.install)
}

/// One guest, from its archive to its verdicts.
fn run_rig(parts: &mut Parts, rig: &Rig, suite: &str, options: &Board) -> Result<()> {
    let kernel = parts.packages.kernel(suite, "arm64")?;
    let (version, image) = initramfs::find_kernel(&kernel)?;
    let tests = match rig.hardware {
        Hardware::None => parts.tests()?,
        Hardware::Model(_) | Hardware::Qemu(_) => Vec::new(),
    };
    let start = Instant::now();
    eprintln!("xtask: {} on Linux {version}", rig.name);

    let work = Work::new(rig.name, options.keep)?;
    let archive = initramfs::archive(parts, rig, &kernel, &version, &tests, options.shell)?;
    let initramfs = work.path.join("initramfs.cpio");
    fs::write(&initramfs, archive)?;

    let mut qemu = rig.machine.command(&parts.tools, None);
    let append = format!("{APPEND} UMEMD_PROFILE={}", parts.profile);
    qemu.arg("-kernel").arg(image).arg("-initrd").arg(initramfs).args(["-append", &append]);
    let device = plug_in(&rig.hardware, rig, parts, &work, &mut qemu)?;
    let shell = options.shell;
    let mut qemu = Process::start("QEMU", &work::pinned(&qemu)?, |command| {
        if !shell {
            command.stdin(Stdio::null()).stdout(Stdio::piped());
        }
    })?;
    if shell {
        qemu.child.wait()?;
        return Ok(());
    }
    let verdict = follow(&mut qemu, &console(rig), Duration::from_secs(rig.patience));
    let mut ended = qemu.wait(Duration::from_secs(10));
    if let Some(mut device) = device {
        ended = ended.and_then(|()| device.wait(Duration::from_secs(10)));
    }
    eprintln!("xtask: {} on Linux {version}: {:.0} s", rig.name, start.elapsed().as_secs_f64());
    verdict.and(ended)
}

/// Gives QEMU its network hardware; the process of the model, if it is one.
fn plug_in(
    hardware: &Hardware,
    rig: &Rig,
    parts: &Parts,
    work: &Work,
    qemu: &mut Command,
) -> Result<Option<Process>> {
    let model = match hardware {
        Hardware::None => return Ok(None),
        Hardware::Qemu(device) => {
            for port in 0..2 {
                qemu.args(["-netdev", &format!("hubport,hubid=0,id=port{port}")]);
                // A bus each: on one, igb's virtual functions would claim the same places.
                qemu.args(["-device", &format!("pcie-root-port,id=bus{port},chassis={port}")]);
                qemu.args(["-device", &format!("{device},bus=bus{port},netdev=port{port}")]);
            }
            return Ok(None);
        }
        Hardware::Model(model) => model,
    };
    tree::write(&rig.machine, &parts.tools, &work.path, &(model.nodes)())?;
    qemu.arg("-dtb").arg(work.path.join("board.dtb"));
    let sockets: Vec<PathBuf> = (1..=model.slots).map(|slot| work.path.join(format!("slot{slot}"))).collect();
    for (socket, slot) in sockets.iter().zip(1..) {
        qemu.arg("-device").arg(format!(
            r#"{{"driver":"vfio-user-pci","socket":{{"path":"{}","type":"unix"}},"addr":"{slot}"}}"#,
            socket.display()
        ));
    }
    let mut device = Command::new(&parts.device);
    device.arg(model.kind).args(&sockets);
    let device = Process::start("board-device", &work::pinned(&device)?, |command| {
        command.stdin(Stdio::null());
    })?;
    work::wait_for(&sockets)?;
    Ok(Some(device))
}

/// Where the console of a rig's last guest is kept.
fn console(rig: &Rig) -> PathBuf {
    shell::target_dir().join("board").join(format!("{}.console", rig.name))
}

/// Prints the guest's verdicts as they come; an error if one is bad, or if not all of them come.
fn follow(qemu: &mut Process, kept: &Path, patience: Duration) -> Result<()> {
    let console = Console::of(qemu)?;
    let deadline = Instant::now() + patience;
    let mut log = String::new();
    let mut verdicts = Verdicts::default();
    let mut read = || -> Result<()> {
        while let Some(line) = console.next(deadline)? {
            log.push_str(&line);
            log.push('\n');
            if let Some(verdict) = verdicts.hear(&line) {
                println!("  {verdict}");
            }
        }
        Ok(())
    };
    let result = read().and_then(|()| verdicts.conclude());
    fs::write(kept, &log)?;
    if result.is_err() {
        let lines: Vec<&str> = log.lines().collect();
        eprintln!("{}", lines[lines.len().saturating_sub(TAIL)..].join("\n"));
        eprintln!("xtask: the whole console is in {}", kept.display());
    }
    result
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn board(args: &[&str]) -> Board {
        let cli = Cli::try_parse_from([&["xtask", "board"], args].concat()).unwrap();
        let Command::Board(board) = cli.command else { panic!("{args:?}") };
        board
    }

    #[test]
    fn nothing_is_skipped_unasked_or_where_it_is_expected() {
        assert!(!board(&[]).skips(None));
        let may_skip = board(&["--skip-unavailable"]);
        assert!(may_skip.skips(None));
        assert!(!may_skip.skips(Some("1".as_ref())));
    }

    #[test]
    fn each_rig_runs_on_its_kernels_or_on_those_asked_for() {
        let names = |args: &[&str]| -> Vec<String> {
            let asked = board(args);
            asked.runs().map(|(rig, kernel)| format!("{} {}", rig.name, kernel.name())).collect()
        };
        assert_eq!(names(&["mvneta"]), ["mvneta 6.12"]);
        assert_eq!(names(&["e2e"]), ["e2e 6.1", "e2e 6.12", "e2e 7.x"]);
        assert_eq!(names(&["igb", "--kernel", "6.12"]), ["igb 6.12"]);
        assert_eq!(names(&[]).len(), 7);
        assert_eq!(names(&[]), names(&["all"]));
        assert_eq!(names(&["mvneta", "--every-kernel"]), ["mvneta 6.12", "mvneta 7.x"]);
        assert_eq!(names(&["--every-kernel"]).len(), 11);
    }

    #[test]
    fn a_kernel_that_tells_too_little_is_left_out_and_no_other_one() {
        let known = |args: &[&str]| {
            let asked = board(args);
            let known = asked.runs().filter(|(rig, kernel)| rig.knows(*kernel));
            known.map(|(rig, _)| rig.name).collect::<Vec<_>>()
        };
        assert_eq!(known(&["--kernel", "6.1"]), ["e2e"]);
        for kernel in ["6.12", "7.x"] {
            assert_eq!(known(&["--kernel", kernel]).len(), ALL.len());
        }
        assert_eq!(known(&["--every-kernel"]).len(), 11);
    }
}
