//! The lab's network: two namespaces and the veth pair between them.
//!
//! The owner's pid is in their names, so that labs do not meet. A lock on a file says that the owner lives:
//! the kernel releases it when the owner dies, however it dies, and a pid that is used again does not hold it.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::shell;

/// Where `ip netns` keeps names.
const NETNS: &str = "/run/netns";

/// Where the owners' locks are.
const LOCKS: &str = "/run";

/// The two namespaces of a lab; they are gone when this is dropped.
pub(crate) struct Namespaces {
    /// Holds `near0`, where umemd attaches.
    pub(crate) near: String,
    /// Holds `far0`, where the sender is.
    pub(crate) far: String,
    _alive: Alive,
}

/// Says that this process lives.
struct Alive {
    path: PathBuf,
    _lock: File,
}

impl Namespaces {
    /// Removes what killed labs left, and makes a lab of our own.
    pub(crate) fn create() -> Result<Self> {
        let pid = std::process::id();
        let alive = Alive::declare(Path::new(LOCKS), pid)?;
        for name in stale(&names()?, pid, Path::new(LOCKS)) {
            eprintln!("xtask: removing {name}, left by a lab that was killed");
            delete(&name)?;
        }
        // From here on Drop removes whatever is there, if a step fails.
        let lab = Self { near: format!("umemd-near-{pid}"), far: format!("umemd-far-{pid}"), _alive: alive };
        lab.build().context("cannot build the lab's network")?;
        Ok(lab)
    }

    fn build(&self) -> Result<()> {
        let (near, far) = (self.near.as_str(), self.far.as_str());
        for netns in [near, far] {
            ip(&["netns", "add", netns])?;
            // Before there are interfaces: neighbour discovery would be counted as traffic.
            quiet_ipv6(netns)?;
        }
        self.join(("near0", "02:00:00:00:00:01"), ("far0", "02:00:00:00:00:02"))?;
        for (netns, dev, own, peer, mac) in [
            (near, "near0", "10.77.0.1/30", "10.77.0.2", "02:00:00:00:00:02"),
            (far, "far0", "10.77.0.2/30", "10.77.0.1", "02:00:00:00:00:01"),
        ] {
            ip(&["-n", netns, "address", "add", own, "dev", dev])?;
            ip(&["-n", netns, "link", "set", dev, "up"])?;
            // ARP is traffic that was not sent, and with `--steer all` nobody would answer it.
            ip(&["-n", netns, "neighbour", "replace", peer, "lladdr", mac, "dev", dev, "nud", "permanent"])?;
        }
        hold_back(far);
        Ok(())
    }

    /// A second pair, `near1` and `far1`, for what forwards. Nothing at its far end answers.
    pub(crate) fn add_second_pair(&self) -> Result<()> {
        self.join(("near1", "02:00:00:00:00:11"), ("far1", "02:00:00:00:00:12"))?;
        for (netns, dev) in [(&self.near, "near1"), (&self.far, "far1")] {
            // Without addresses: it could not be told from the first pair by a route.
            quiet_ipv6(netns)?;
            ip(&["-n", netns, "link", "set", dev, "up"])?;
        }
        Ok(())
    }

    /// Adds a veth pair of one queue, each end given by name and MAC.
    fn join(&self, near: (&str, &str), far: (&str, &str)) -> Result<()> {
        let queues = ["numrxqueues", "1", "numtxqueues", "1"];
        let mut pair = vec!["-n", &self.near, "link", "add", "name", near.0, "address", near.1];
        pair.extend(queues);
        pair.extend(["type", "veth", "peer", "name", far.0, "address", far.1]);
        pair.extend(queues);
        pair.extend(["netns", &self.far]);
        ip(&pair)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in [&self.near, &self.far] {
            if let Err(error) = delete(name) {
                eprintln!("xtask: {error:#}");
            }
        }
    }
}

impl Alive {
    fn declare(folder: &Path, pid: u32) -> Result<Self> {
        let path = lock_path(folder, pid);
        let lock = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        lock.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(Self { path, _lock: lock })
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Those of these namespaces that are a lab's whose owner is dead, or had our pid before us.
fn stale(names: &[String], own: u32, locks: &Path) -> Vec<String> {
    let mut stale: Vec<String> = Vec::new();
    for name in names {
        let Some(pid) = owner(name) else { continue };
        if pid == own || !is_alive(locks, pid) {
            stale.push(name.clone());
        }
    }
    stale
}

/// The pid in the name of a lab's namespace.
fn owner(name: &str) -> Option<u32> {
    let pid = name.strip_prefix("umemd-near-").or_else(|| name.strip_prefix("umemd-far-"))?;
    pid.bytes().all(|byte| byte.is_ascii_digit()).then(|| pid.parse().ok()).flatten()
}

/// Whether an xtask holds the lock of this pid. The file of a dead one is removed.
fn is_alive(locks: &Path, pid: u32) -> bool {
    let path = lock_path(locks, pid);
    let Ok(file) = File::open(&path) else { return false };
    let alive = file.try_lock().is_err();
    if !alive {
        let _ = fs::remove_file(&path);
    }
    alive
}

fn lock_path(folder: &Path, pid: u32) -> PathBuf {
    folder.join(format!("umemd-lab-{pid}.lock"))
}

/// The names of all network namespaces.
fn names() -> Result<Vec<String>> {
    match fs::read_dir(NETNS) {
        Ok(entries) => {
            Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).context(format!("cannot list {NETNS}")),
    }
}

/// Deletes a namespace, unless another lab that cleans up is faster. The veth pair goes with it.
fn delete(name: &str) -> Result<()> {
    let is_there = || Path::new(NETNS).join(name).exists();
    if !is_there() {
        return Ok(());
    }
    ip(&["netns", "delete", name]).or_else(|error| if is_there() { Err(error) } else { Ok(()) })
}

/// Turns IPv6 off where the kernel has it.
fn quiet_ipv6(netns: &str) -> Result<()> {
    let script = "for f in /proc/sys/net/ipv6/conf/*/disable_ipv6; do [ ! -e $f ] || echo 1 >$f; done";
    ip(&["netns", "exec", netns, "sh", "-c", script])
}

/// Gives far0 a queue, so that a full veth ring holds the sender back instead of dropping (Linux 6.16:
/// drivers/net/veth.c, `veth_xmit`). Older kernels and those without schedulers drop, and the numbers say so.
fn hold_back(far: &str) {
    if let Some(tc) = shell::which("tc") {
        let mut tc = Command::new(tc);
        tc.args(["-n", far, "qdisc", "replace", "dev", "far0", "root", "pfifo", "limit", "1000"]);
        let _ = shell::run_quietly(&mut tc);
    }
}

fn ip(args: &[&str]) -> Result<()> {
    let program = shell::which("ip").context("there is no ip (package iproute2)")?;
    // In a group of its own: the terminal's Ctrl-C is ours to handle, and no reason for it to fail.
    shell::run_quietly(Command::new(program).args(args).process_group(0)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_labs_have_an_owner() {
        assert_eq!(owner("umemd-near-12"), Some(12));
        assert_eq!(owner("umemd-far-4194304"), Some(4_194_304));
        for other in
            ["umemd-near-", "umemd-near-x", "umemd-near-1-2", "umemd-near-+1", "umemd-e2e-7", "far-1", ""]
        {
            assert_eq!(owner(other), None, "{other}");
        }
    }

    #[test]
    fn a_lab_is_stale_when_nobody_holds_its_lock() {
        let locks = std::env::temp_dir().join(format!("xtask-locks-{}", std::process::id()));
        fs::create_dir_all(&locks).unwrap();
        let alive = Alive::declare(&locks, 7).unwrap();
        fs::write(lock_path(&locks, 8), "").unwrap();

        let names = ["umemd-near-7", "umemd-far-7", "umemd-near-8", "umemd-far-9", "umemd-near-5", "mine"];
        let names = names.map(str::to_owned);
        assert_eq!(stale(&names, 5, &locks), ["umemd-near-8", "umemd-far-9", "umemd-near-5"]);
        assert!(!lock_path(&locks, 8).exists(), "the file of a dead owner goes");

        drop(alive);
        assert_eq!(stale(&names[..1], 5, &locks), ["umemd-near-7"]);
        fs::remove_dir_all(&locks).unwrap();
    }
}
