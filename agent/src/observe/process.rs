//! What this process takes of the machine, under the names that every client library of Prometheus uses.

use std::time::SystemTime;

use procfs::process::{LimitValue, Process};

use crate::page_pool::boottime;

/// This process at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessView {
    /// User and system CPU time of all threads, seconds.
    pub cpu_s: f64,
    /// Bytes in memory.
    pub resident_bytes: u64,
    /// Bytes of address space.
    pub virtual_bytes: u64,
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
    let max = process.limits().ok()?.max_open_files.soft_limit;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    Some(ProcessView {
        cpu_s: (stat.utime + stat.stime) as f64 / ticks,
        resident_bytes: stat.rss * procfs::page_size(),
        virtual_bytes: stat.vsize,
        open_fds: process.fd_count().ok()? as u64,
        max_fds: match max {
            LimitValue::Unlimited => None,
            LimitValue::Value(max) => Some(max),
        },
        // The start is told in ticks since the machine's.
        started_s: now.saturating_sub(boottime()) as f64 + stat.starttime as f64 / ticks,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_has_memory_files_and_a_past() {
        let view = read().unwrap();
        assert!(view.resident_bytes > 0 && view.virtual_bytes >= view.resident_bytes, "{view:?}");
        assert!(view.open_fds > 2 && view.max_fds.is_none_or(|max| max >= view.open_fds), "{view:?}");
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(view.started_s < now + 2.0 && view.started_s > now - 3600.0, "{view:?}");
    }
}
