//! `cargo xtask board`: umemd on the drivers of Marvell's boards, without a board.
//!
//! A guest with the stock kernel of Debian's arm64 runs under QEMU; its network hardware is a process of ours,
//! `board-device`, which models the registers (tests/board). The guest's init is `board-guest`: it loads the
//! drivers, runs the checks on the cross-built umemd, and prints a verdict for each.
//!
//! Nothing is installed: packages are unpacked below `target/board`, and stay there for the next run.

mod cpio;
mod modules;
mod packages;
mod qemu;
mod rigs;
mod tree;

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::board::cpio::Archive;
use crate::board::modules::Modules;
use crate::board::packages::Packages;
use crate::board::qemu::{Console, Process};
use crate::board::rigs::Rig;
use crate::cli::{Board, Kernel, RigName};
use crate::{compile, cross, setup, shell};

/// What a line of the guest's console begins with that is for us.
const MARK: &str = "board: ";

/// The kernel's command line. What it does not know itself is in init's environment.
const APPEND: &str =
    "console=ttyAMA0 panic=-1 quiet loglevel=4 UMEMD_BIN=/usr/bin/umemd PATH=/usr/bin:/usr/sbin";

/// How many lines of the console are shown if a guest fails.
const TAIL: usize = 60;

/// That a rig cannot be had here, which is no failure of umemd's.
#[derive(Debug)]
pub(crate) struct Unavailable(String);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the board rig cannot be had: {}", self.0)
    }
}

impl std::error::Error for Unavailable {}

impl Board {
    fn rigs(&self) -> Vec<&'static Rig> {
        match self.rig {
            Some(RigName::Mvneta) => vec![&rigs::MVNETA],
            Some(RigName::Mvpp2) => vec![&rigs::MVPP2],
            Some(RigName::All) | None => vec![&rigs::MVNETA, &rigs::MVPP2],
        }
    }

    fn kernels(&self) -> Vec<Kernel> {
        if self.kernel.is_empty() { vec![Kernel::Trixie] } else { self.kernel.clone() }
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

/// What is built and fetched once for all rigs.
struct Parts {
    /// QEMU and its helpers, for this machine.
    tools: PathBuf,
    /// Programs for the guest.
    guest: PathBuf,
    device: PathBuf,
    init: PathBuf,
    umemd: PathBuf,
    packages: Packages,
    folder: PathBuf,
}

/// Builds, fetches, and runs the rigs asked for; an error if a check failed.
pub(crate) fn run(options: &Board) -> Result<()> {
    ensure!(
        cfg!(target_arch = "x86_64"),
        Unavailable("it runs on x86-64 only: it takes QEMU from Debian's amd64 packages".to_owned())
    );
    let rigs = options.rigs();
    let folder = shell::target_dir().join("board");
    fs::create_dir_all(&folder)?;
    let mut parts = gather(options, folder)?;
    let mut failed = Vec::new();
    for rig in rigs {
        for kernel in options.kernels() {
            let name = format!("{} on {}", rig.name, kernel.name());
            if let Err(error) = run_rig(&mut parts, rig, kernel.suite(), options) {
                if error.is::<Unavailable>() {
                    return Err(error);
                }
                eprintln!("xtask: {name}: {error:#}");
                failed.push(name);
            }
        }
    }
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

fn gather(options: &Board, folder: PathBuf) -> Result<Parts> {
    setup::cross(options.install)?;
    let built = cross::umemd(options.install)?;
    let mut build = cross::cargo()?;
    let init = compile::find(
        &compile::programs(build.args(["--package", "board", "--bin", "board-guest"]))?,
        "board-guest",
    )?;
    let device = compile::find(
        &compile::programs(shell::cargo().args(["build", "--package", "board", "--bin", "board-device"]))?,
        "board-device",
    )?;
    let umemd = folder.join("umemd");
    strip(&built, &umemd)?;
    let mut packages = Packages::below(&folder);
    let tools = packages.with_dependencies(
        "tools",
        "amd64",
        &["qemu-system-arm", "device-tree-compiler", "xz-utils"],
    )?;
    let guest = packages.with_dependencies("guest", "arm64", &["iproute2", "ethtool", "busybox-static"])?;
    Ok(Parts { tools, guest, device, init, umemd, packages, folder })
}

/// A copy without symbols.
fn strip(program: &Path, to: &Path) -> Result<()> {
    let mut strip = Command::new(format!("{}strip", cross::TOOLS));
    shell::run_quietly(strip.arg("-o").arg(to).arg(program)).map(drop)
}

/// One guest, from its archive to its verdicts.
fn run_rig(parts: &mut Parts, rig: &Rig, suite: &str, options: &Board) -> Result<()> {
    let kernel = parts.packages.kernel(suite, "arm64")?;
    let (version, image) = find_kernel(&kernel)?;
    let start = Instant::now();
    eprintln!("xtask: {} on Linux {version}", rig.name);

    let work = Work::new(&parts.folder, rig.name, options.keep)?;
    let archive = archive(parts, rig, &kernel, &version, options)?;
    let initramfs = work.path.join("initramfs.cpio");
    fs::write(&initramfs, archive)?;
    tree::write(&rig.machine, &parts.tools, &work.path, &(rig.nodes)())?;

    let sockets: Vec<PathBuf> = (1..=rig.slots).map(|slot| work.path.join(format!("slot{slot}"))).collect();
    let mut device = Command::new(&parts.device);
    device.arg(rig.model).args(&sockets);
    let mut device = Process::start("board-device", &pinned(&device)?, |command| {
        command.stdin(Stdio::null());
    })?;
    wait_for(&sockets)?;

    let mut qemu = rig.machine.command(&parts.tools, None);
    qemu.arg("-kernel").arg(image).arg("-initrd").arg(initramfs);
    qemu.arg("-dtb").arg(work.path.join("board.dtb"));
    qemu.args(["-append", APPEND]);
    for (socket, slot) in sockets.iter().zip(1..) {
        qemu.arg("-device").arg(format!(
            r#"{{"driver":"vfio-user-pci","socket":{{"path":"{}","type":"unix"}},"addr":"{slot}"}}"#,
            socket.display()
        ));
    }
    let shell = options.shell;
    let mut qemu = Process::start("QEMU", &pinned(&qemu)?, |command| {
        if !shell {
            command.stdin(Stdio::null()).stdout(Stdio::piped());
        }
    })?;
    if shell {
        qemu.child.wait()?;
        return Ok(());
    }
    let verdict = follow(&mut qemu, &work, Duration::from_secs(rig.patience));
    let ended = qemu.wait(Duration::from_secs(10)).and_then(|()| device.wait(Duration::from_secs(10)));
    eprintln!("xtask: {} on Linux {version}: {:.0} s", rig.name, start.elapsed().as_secs_f64());
    verdict.and(ended)
}

/// Prints the guest's verdicts as they come; an error if one is bad, or if the last one does not come.
fn follow(qemu: &mut Process, work: &Work, patience: Duration) -> Result<()> {
    let console = Console::of(qemu)?;
    let deadline = Instant::now() + patience;
    let mut log = String::new();
    let (mut failed, mut ended) = (0, false);
    let mut read = || -> Result<()> {
        while let Some(line) = console.next(deadline)? {
            log.push_str(&line);
            log.push('\n');
            let Some((_, verdict)) = line.split_once(MARK) else { continue };
            println!("  {verdict}");
            failed += usize::from(verdict.starts_with("FAILED"));
            ended |= verdict == "end";
        }
        Ok(())
    };
    let result = read();
    fs::write(work.console(), &log)?;
    if result.is_err() || !ended || failed > 0 {
        let lines: Vec<&str> = log.lines().collect();
        eprintln!("{}", lines[lines.len().saturating_sub(TAIL)..].join("\n"));
        eprintln!("xtask: the whole console is in {}", work.console().display());
    }
    result?;
    ensure!(failed == 0, "{failed} checks failed");
    ensure!(ended, "the guest ended before its checks did");
    Ok(())
}

/// What the guest has to begin with.
fn archive(parts: &Parts, rig: &Rig, kernel: &Path, version: &str, options: &Board) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    archive.program("init", read(&parts.init)?);
    // The agent's helper takes itself down with its parent by setpriv; init does that under this name.
    archive.link("usr/bin/setpriv", "/init");
    archive.program("usr/bin/umemd", read(&parts.umemd)?);
    for program in ["usr/bin/ip", "usr/sbin/ethtool", "usr/bin/busybox"] {
        let file = [program.to_owned(), program.replacen("usr/", "", 1), program.replacen("bin", "sbin", 1)];
        let file = file.iter().map(|path| parts.guest.join(path)).find(|path| path.is_file());
        archive.program(program, read(&file.with_context(|| format!("Debian has no {program}"))?)?);
    }
    archive.link("bin", "usr/bin");
    archive.link("lib", "usr/lib");
    let libraries = "usr/lib/aarch64-linux-gnu";
    archive.link("usr/lib/ld-linux-aarch64.so.1", "aarch64-linux-gnu/ld-linux-aarch64.so.1");
    for entry in fs::read_dir(parts.guest.join(libraries))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.contains(".so") {
            continue;
        }
        let path = format!("{libraries}/{name}");
        match fs::read_link(entry.path()) {
            Ok(to) => archive.link(&path, &to.to_string_lossy()),
            Err(_) if entry.path().is_file() => archive.program(&path, read(&entry.path())?),
            Err(_) => {}
        }
    }
    let tree = [kernel.join("usr/lib/modules"), kernel.join("lib/modules")];
    let tree = tree.iter().find(|tree| tree.is_dir()).context("the kernel has no modules")?;
    let modules = Modules::below(&tree.join(version), &parts.tools)?.in_order(rig.modules)?;
    let mut config = format!("rig {}\n", rig.name);
    // In the order in which it is done: registers that are not decoded yet swallow what a driver writes.
    for (slot, address) in rig.bars {
        config.push_str(&format!("bar {slot} {address:#x}\n"));
    }
    for module in &modules {
        archive.file(&format!("modules/{}.ko", module.name), module.bytes.as_slice());
        config.push_str(&format!("module {}\n", module.name));
    }
    if options.shell {
        config.push_str("shell\n");
    }
    archive.file("etc/rig", config);
    Ok(archive.bytes())
}

/// Version and image of an unpacked kernel: in boot up to 6.18, beside the modules since.
fn find_kernel(kernel: &Path) -> Result<(String, PathBuf)> {
    let folders = ["usr/lib/modules", "lib/modules"].map(|folder| kernel.join(folder));
    let entries = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    for version in entries.map(|entry| entry.file_name().to_string_lossy().into_owned()) {
        let images = [
            kernel.join(format!("boot/vmlinuz-{version}")),
            kernel.join(format!("usr/lib/modules/{version}/vmlinuz")),
        ];
        if let Some(image) = images.into_iter().find(|image| image.is_file()) {
            return Ok((version, image));
        }
    }
    bail!("no kernel image below {}", kernel.display())
}

/// Model and guest on one CPU: each access to a register is a switch between the two, and four times as dear if
/// another CPU has to be woken for it.
fn pinned(command: &Command) -> Result<Command> {
    let allowed = rustix::thread::sched_getaffinity(None).context("cannot ask which CPUs may be used")?;
    let last = (0..rustix::thread::CpuSet::MAX_CPU).rev().find(|cpu| allowed.is_set(*cpu)).unwrap_or(0);
    let mut pinned = Command::new("taskset");
    pinned.args(["--cpu-list", &last.to_string()]).arg(command.get_program()).args(command.get_args());
    Ok(pinned)
}

/// Waits until the model listens.
fn wait_for(sockets: &[PathBuf]) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !sockets.iter().all(|socket| socket.exists()) {
        ensure!(Instant::now() < deadline, "board-device does not listen");
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// The folder of one run: gone afterwards, but for the console, unless it is to be kept.
struct Work {
    path: PathBuf,
    keep: bool,
}

impl Work {
    fn new(folder: &Path, rig: &str, keep: bool) -> Result<Self> {
        // Short: a socket's path has 108 bytes, and a checkout may lie deep.
        let path = std::env::temp_dir().join(format!("umemd-{rig}-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
        fs::create_dir_all(folder)?;
        if keep {
            eprintln!("xtask: keeping {}", path.display());
        }
        Ok(Self { path, keep })
    }

    fn console(&self) -> PathBuf {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let rig = name.split('-').nth(1).unwrap_or("guest").to_owned();
        shell::target_dir().join("board").join(format!("{rig}.console"))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
