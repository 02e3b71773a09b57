//! What this process takes of the machine, under the names that every client library of Prometheus uses.

use procfs::process::Process;
use rustix::{
    process::{Resource, getrlimit},
    thread::CapabilitySet,
};

use crate::boot::booted_at;

/// This process at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessView {
    /// User and system CPU time of all threads, seconds.
    pub cpu_s: f64,
    /// Bytes in memory.
    pub resident_bytes: u64,
    /// Bytes of address space.
    pub virtual_bytes: u64,
    /// Threads.
    pub threads: u64,
    /// Open file descriptors.
    pub open_fds: u64,
    /// How many there may be, if there is a limit.
    pub max_fds: Option<u64>,
    /// When it started, seconds since 1970.
    pub started_s: f64,
}

/// Reads `/proc/self`; `None` if it is not there or says what nobody understands.
pub(super) fn read() -> Option<ProcessView> {
    let process = Process::myself().ok()?;
    let stat = process.stat().ok()?;
    let ticks = procfs::ticks_per_second() as f64;
    Some(ProcessView {
        cpu_s: (stat.utime + stat.stime) as f64 / ticks,
        resident_bytes: stat.rss * procfs::page_size(),
        virtual_bytes: stat.vsize,
        threads: u64::try_from(stat.num_threads).unwrap_or(0),
        open_fds: process.fd_count().ok()? as u64,
        max_fds: getrlimit(Resource::Nofile).current,
        // The start is told in ticks since the machine's.
        started_s: booted_at() + stat.starttime as f64 / ticks,
    })
}

/// The capabilities that a umemd may need, and whether this thread has each (capabilities(7)).
pub(crate) fn capabilities() -> impl Iterator<Item = (&'static str, bool)> {
    let needed = [
        ("cap_bpf", CapabilitySet::BPF),
        ("cap_ipc_lock", CapabilitySet::IPC_LOCK),
        ("cap_net_admin", CapabilitySet::NET_ADMIN),
        ("cap_net_raw", CapabilitySet::NET_RAW),
        ("cap_perfmon", CapabilitySet::PERFMON),
        ("cap_sys_admin", CapabilitySet::SYS_ADMIN),
    ];
    let sets = rustix::thread::capabilities(None).ok();
    sets.into_iter().flat_map(move |sets| needed.map(|(name, one)| (name, sets.effective.contains(one))))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn capabilities_are_those_of_the_thread() {
        let (bpf, raw) = (CapabilitySet::BPF, CapabilitySet::NET_RAW);
        let sets = rustix::thread::capabilities(None).unwrap();
        let has = |name| capabilities().find(|(known, _)| *known == name).unwrap().1;
        assert_eq!(
            (has("cap_bpf"), has("cap_net_raw")),
            (sets.effective.contains(bpf), sets.effective.contains(raw))
        );
    }

    #[test]
    fn a_test_has_memory_files_and_a_past() {
        let view = read().unwrap();
        assert!(view.resident_bytes > 0 && view.virtual_bytes >= view.resident_bytes, "{view:?}");
        assert!(view.threads > 0, "{view:?}");
        assert!(view.open_fds > 2 && view.max_fds.is_none_or(|max| max >= view.open_fds), "{view:?}");
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(view.started_s < now + 2.0 && view.started_s > now - 3600.0, "{view:?}");
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(read().unwrap().started_s, view.started_s, "it started once");
    }
}
