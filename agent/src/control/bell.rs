//! [`Bell`]: how the control plane wakes a worker that sleeps.
//!
//! A worker that has nothing to do sleeps until a frame arrives, and sets no timer: to start and to cancel one at
//! each sleep was a tenth of what a packet costs at moderate load. Whoever wants something of it in between rings.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{
    event::EventfdFlags,
    fd::{AsFd, BorrowedFd, OwnedFd},
};

/// Wakes one worker, for another turn or to stop.
#[derive(Debug)]
pub(super) struct Bell {
    wake: OwnedFd,
    stop: AtomicBool,
}

impl Bell {
    pub(super) fn new() -> io::Result<Self> {
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { wake, stop: AtomicBool::new(false) })
    }

    /// The worker makes another turn, if it sleeps.
    pub(super) fn ring(&self) {
        // Fails only if it would overflow a u64: the worker then has long been woken.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// The worker finishes its turn, drains, and ends.
    pub(super) fn ring_to_stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.ring();
    }

    /// Whether the worker is to stop.
    pub(super) fn says_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Once heard, it is silent until it is rung again.
    pub(super) fn silence(&self) {
        // Fails only if it was silent.
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
    }
}

/// Readable while it rings.
impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    #[test]
    fn it_rings_until_it_is_heard() {
        let bell = Bell::new().unwrap();
        let rings = || {
            let mut fds = [PollFd::from_borrowed_fd(bell.as_fd(), PollFlags::IN)];
            poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
        };
        assert!(!rings());
        bell.ring();
        bell.ring();
        assert!(rings() && !bell.says_stop());
        bell.silence();
        assert!(!rings());
        bell.silence();
        bell.ring_to_stop();
        assert!(rings() && bell.says_stop());
    }
}
