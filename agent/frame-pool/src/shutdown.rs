//! The end of a pool: `page_pool_destroy()`, and the release work that waits for late frames.
//!
//! The kernel never gives up on a pool whose pages are still out: it looks again each second and warns
//! each minute. So does this, but without a timer or a log of its own: the caller passes the time, calls
//! [`FramePool::retry`] when it is due, and logs the warning that it may get.

use std::{fmt, time::Duration};

use crate::{FramePool, Phase, PoolTag};

/// How often late frames are collected (`DEFER_TIME`).
pub const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// How often a stalled shutdown is reported (`DEFER_WARN_INTERVAL`).
pub const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// How far the shutdown of a pool is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Every frame is back with the provider.
    Freed,
    /// Frames are still out.
    Draining {
        /// How many.
        inflight: i32,
        /// When to call [`FramePool::retry`] again.
        retry_at: Duration,
        /// What to log, once a minute.
        warning: Option<Stalled>,
    },
}

/// A shutdown that waits for frames for longer than it should. Displays as the kernel's own warning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stalled {
    /// The pool's id.
    pub id: PoolTag,
    /// Frames that are still out.
    pub inflight: i32,
    /// Seconds since the pool was destroyed.
    pub seconds: u64,
}

impl fmt::Display for Stalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, inflight, seconds } = self;
        write!(f, "stalled pool shutdown: id {}, {inflight} inflight {seconds} sec", id.number())
    }
}

/// The clock of a shutdown: times are the caller's.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ShutdownClock {
    destroyed: Duration,
    retry_at: Duration,
    warn_at: Duration,
}

impl FramePool {
    /// `page_pool_destroy()`: ends allocation and gives up every idle frame. Frames that are still out may
    /// come back late; call [`retry`](Self::retry) when the answer says so.
    ///
    /// `now` is the time since whatever moment the caller counts from.
    pub fn destroy(&mut self, now: Duration) -> Shutdown {
        if self.phase() == Phase::Live {
            self.shutdown = ShutdownClock { destroyed: now, retry_at: now, warn_at: now + WARN_INTERVAL };
            self.end_allocation();
        }
        self.retry(now)
    }

    /// `page_pool_release_retry()`: gives up what has come back since, if a second has passed.
    ///
    /// On a pool that is not destroyed this does nothing and answers `Draining`.
    pub fn retry(&mut self, now: Duration) -> Shutdown {
        if now >= self.shutdown.retry_at && self.collect_late_frames() == Phase::Draining {
            self.shutdown.retry_at = now + RETRY_INTERVAL;
        }
        if self.phase() == Phase::Freed {
            return Shutdown::Freed;
        }
        let inflight = self.inflight();
        let warning = (self.phase() == Phase::Draining && now >= self.shutdown.warn_at).then(|| {
            self.shutdown.warn_at = now + WARN_INTERVAL;
            let seconds = now.saturating_sub(self.shutdown.destroyed).as_secs();
            Stalled { id: self.tag(), inflight, seconds }
        });
        Shutdown::Draining { inflight, retry_at: self.shutdown.retry_at, warning }
    }
}

#[cfg(all(test, not(frame_pool_loom)))]
mod tests {
    use super::*;
    use crate::{FrameLayout, MemoryProvider, PoolConfig, UmemProvider};

    const SECOND: Duration = RETRY_INTERVAL;

    #[test]
    fn an_idle_pool_is_freed_at_once() {
        let provider = UmemProvider::new(FrameLayout::new(4096, 100).unwrap());
        let mut pool = FramePool::new(PoolConfig::default(), provider.clone());
        let frame = pool.alloc().unwrap();
        pool.put_direct(frame);
        assert_eq!(pool.destroy(SECOND), Shutdown::Freed);
        assert_eq!((provider.free(), pool.inflight()), (100, 0));
        assert_eq!((pool.alloc(), pool.stats().extras.alloc_fail), (None, 1));
    }

    #[test]
    fn a_late_frame_is_collected_by_the_next_retry_and_a_stall_is_told_each_minute() {
        let provider = UmemProvider::new(FrameLayout::new(4096, 100).unwrap());
        let mut pool = FramePool::new(PoolConfig::default(), provider.clone());
        let (late, later) = (pool.alloc().unwrap(), pool.alloc().unwrap());
        let draining = |inflight, retry_at, warning| Shutdown::Draining { inflight, retry_at, warning };
        assert_eq!(pool.destroy(10 * SECOND), draining(2, 11 * SECOND, None));
        assert_eq!(provider.free(), 98);
        pool.recycler().put(late);
        assert_eq!(pool.retry(10 * SECOND + SECOND / 2), draining(2, 11 * SECOND, None));
        assert_eq!(pool.retry(11 * SECOND), draining(1, 12 * SECOND, None));
        let stalled = Stalled { id: pool.tag(), inflight: 1, seconds: 60 };
        assert_eq!(pool.retry(70 * SECOND), draining(1, 71 * SECOND, Some(stalled)));
        assert_eq!(pool.retry(71 * SECOND), draining(1, 72 * SECOND, None));
        assert!(stalled.to_string().ends_with("1 inflight 60 sec"));
        pool.put_direct(later);
        assert_eq!(pool.retry(80 * SECOND), Shutdown::Freed);
        assert_eq!(provider.free(), 100);
    }
}
