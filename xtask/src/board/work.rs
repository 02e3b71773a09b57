//! What a run leaves on this machine while it lasts: a folder, and where its processes may run.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

/// Model and guest on one CPU: each access to a register is a switch between the two, and four times as dear if
/// another CPU has to be woken for it.
pub(super) fn pinned(command: &Command) -> Result<Command> {
    let allowed = rustix::thread::sched_getaffinity(None).context("cannot ask which CPUs may be used")?;
    let last = (0..rustix::thread::CpuSet::MAX_CPU).rev().find(|cpu| allowed.is_set(*cpu)).unwrap_or(0);
    let mut pinned = Command::new("taskset");
    pinned.args(["--cpu-list", &last.to_string()]).arg(command.get_program()).args(command.get_args());
    Ok(pinned)
}

/// Waits until the model listens.
pub(super) fn wait_for(sockets: &[PathBuf]) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !sockets.iter().all(|socket| socket.exists()) {
        ensure!(Instant::now() < deadline, "board-device does not listen");
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// What the names of such folders begin with; the rig and the owner's pid follow.
const PREFIX: &str = "umemd-board-";
/// The file in a folder that is to be kept.
const KEPT: &str = "kept";

/// The folder of one run: gone afterwards, unless it is to be kept.
pub(super) struct Work {
    pub(super) path: PathBuf,
    keep: bool,
}

impl Work {
    /// Makes one, and removes those of runs that were killed.
    pub(super) fn new(rig: &str, keep: bool) -> Result<Self> {
        // Short: a socket's path has 108 bytes, and a checkout may lie deep.
        let temporary = std::env::temp_dir();
        for entry in fs::read_dir(&temporary).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let killed =
                name.strip_prefix(PREFIX).and_then(|rest| rest.rsplit_once('-')).is_some_and(|(_, pid)| {
                    !pid.is_empty()
                        && pid.bytes().all(|byte| byte.is_ascii_digit())
                        && !Path::new("/proc").join(pid).exists()
                });
            if killed && !entry.path().join(KEPT).exists() {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let path = temporary.join(format!("{PREFIX}{rig}-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
        if keep {
            fs::write(path.join(KEPT), "")?;
            eprintln!("xtask: keeping {}", path.display());
        }
        Ok(Self { path, keep })
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
