//! System calls, as the kernel's own tracing counts them: an instance of tracefs that is ours alone.

use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use rustix::mount::{self, FsMountFlags, FsOpenFlags, MountAttrFlags};

/// Counts the system calls of some threads until dropped.
pub(super) struct Syscalls {
    instance: PathBuf,
    /// tracefs, mounted nowhere: a path through this descriptor leads into it.
    _tracefs: OwnedFd,
}

impl Syscalls {
    /// Begins to count those of the threads given; `None`, and why, where the kernel does not trace them.
    pub(super) fn of(threads: &[String]) -> Result<Option<Self>> {
        let tracefs = match tracefs() {
            Ok(tracefs) => tracefs,
            Err(error) => {
                eprintln!("xtask: system calls are not counted: this kernel gives no tracefs ({error})");
                return Ok(None);
            }
        };
        let root = PathBuf::from(format!("/proc/self/fd/{}", tracefs.as_raw_fd()));
        if !root.join("events/raw_syscalls/sys_enter").exists() {
            eprintln!("xtask: system calls are not counted: this kernel has no CONFIG_FTRACE_SYSCALLS");
            return Ok(None);
        }
        let instance = root.join("instances").join(format!("umemd-{}", std::process::id()));
        fs::create_dir(&instance).with_context(|| format!("cannot create {}", instance.display()))?;
        // From here on Drop removes it.
        let counter = Self { instance, _tracefs: tracefs };
        counter.write("set_event_pid", &threads.join(" "))?;
        counter.write("events/raw_syscalls/sys_enter/enable", "1")?;
        Ok(Some(counter))
    }

    /// How many there were.
    pub(super) fn count(&self) -> Result<u64> {
        let cpus = self.instance.join("per_cpu");
        let mut total = 0;
        for cpu in fs::read_dir(&cpus).with_context(|| format!("cannot list {}", cpus.display()))? {
            total += recorded(&fs::read_to_string(cpu?.path().join("stats"))?);
        }
        Ok(total)
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let file = self.instance.join(file);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    }
}

impl Drop for Syscalls {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.instance) {
            eprintln!("xtask: cannot remove {}: {error}", self.instance.display());
        }
    }
}

/// Opens tracefs without mounting it anywhere.
fn tracefs() -> rustix::io::Result<OwnedFd> {
    let context = mount::fsopen("tracefs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    mount::fsconfig_create(&context)?;
    mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

/// The events in a CPU's buffer, and those that newer ones have overwritten.
fn recorded(stats: &str) -> u64 {
    let counts = stats.lines().filter_map(|line| line.split_once(':'));
    let wanted = counts.filter(|(name, _)| matches!(*name, "entries" | "overrun"));
    wanted.filter_map(|(_, count)| count.trim().parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_overwritten_counts_too() {
        let stats = "entries: 12\noverrun: 30\ncommit overrun: 5\nbytes: 99\ndropped events: 0\n";
        assert_eq!(recorded(stats), 42);
    }
}
