//! The machine's start, which the kernel counts some times from.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use rustix::time::{ClockId, clock_gettime};

/// [`uptime`] in seconds.
pub fn boottime() -> u64 {
    uptime().as_secs()
}

/// When that was by the wall clock, in seconds since 1970. It is the same number each time, so that what is reckoned from
/// it does not waver, until somebody sets the clock: a board without a battery starts in 1970.
pub fn booted_at() -> f64 {
    static LAST: Mutex<f64> = Mutex::new(0.0);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    *last = settled(*last, now.as_secs_f64() - uptime().as_secs_f64());
    *last
}

/// Two looks at two clocks differ by less than half a second, and a clock that was set by more.
fn settled(last: f64, new: f64) -> f64 {
    if (new - last).abs() < 0.5 { last } else { new }
}

/// The time since then, sleep included (`CLOCK_BOOTTIME`).
pub fn uptime() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_does_not_waver() {
        let first = booted_at();
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(7));
            assert_eq!(booted_at(), first);
        }
        let stat = std::fs::read_to_string("/proc/stat").unwrap();
        let kernels: f64 =
            stat.lines().find_map(|line| line.strip_prefix("btime ")).unwrap().parse().unwrap();
        assert!((first - kernels).abs() < 2.0, "{first} {kernels}");
    }

    #[test]
    fn a_clock_that_was_set_moves_it() {
        assert_eq!(settled(1000.0, 1000.4), 1000.0);
        assert_eq!(settled(1000.0, 5000.25), 5000.25);
        assert_eq!(settled(0.0, 1_700_000_000.5), 1_700_000_000.5);
    }
}
