//! [`Wait`]: what a worker does while there is nothing to do.

use std::time::Duration;

use rustix::time::{ClockId, clock_getres};

use super::{ConfigError, Handler, RunConfig};

/// How long frames gather for a handler that sends nothing: nobody waits for what it does, and each wake-up costs
/// more than the frames that it is for. Linux adds up to as much again (`PR_SET_TIMERSLACK`).
const GATHER: Duration = Duration::from_micros(50);
/// What comes in that time has to find frames; so many suffice at ten million packets per second.
const FRAMES: u32 = 1024;
/// Beyond this it is no wait for more, but a queue that is not served.
const LONGEST: u32 = 1000;

/// How a worker waits for frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all: it looks again at once.
    Spin,
    /// In `poll()`; and once frames have come, it lets more of them gather for this long before it looks again,
    /// as a NIC does by its interrupt coalescing.
    Poll {
        /// 0: it does not.
        gather: Duration,
    },
}

impl RunConfig {
    /// How the worker of a queue waits whose kernel has so many frames to receive into.
    #[must_use]
    pub fn wait(&self, fill_target: u32) -> Wait {
        if self.spin {
            return Wait::Spin;
        }
        // A capture says when a packet came: as exactly as it can.
        let delays_nobody = matches!(self.handler, Handler::Drop) && self.capture.is_none();
        let unasked = if delays_nobody { unasked(fill_target) } else { Duration::ZERO };
        Wait::Poll { gather: self.gather.unwrap_or(unasked) }
    }
}

/// For how long frames gather where nobody said it, and nobody waits for them.
fn unasked(fill_target: u32) -> Duration {
    if fill_target >= FRAMES && has_fine_timers() { GATHER } else { Duration::ZERO }
}

/// Whether sleeps end on time. Without high-resolution timers the shortest one is a tick, up to 10 ms.
fn has_fine_timers() -> bool {
    let resolution = clock_getres(ClockId::Monotonic);
    resolution.tv_sec == 0 && i128::from(resolution.tv_nsec) < GATHER.as_nanos() as i128
}

/// What `--rx-usecs` says.
pub fn gather(rx_usecs: Option<u32>, spin: bool) -> Result<Option<Duration>, ConfigError> {
    match rx_usecs {
        Some(1..) if spin => {
            Err(ConfigError::Contradiction("--spin never waits, so --rx-usecs has no meaning with it"))
        }
        Some(usecs) if usecs > LONGEST => Err(ConfigError::Gather { usecs, longest: LONGEST }),
        usecs => Ok(usecs.map(|usecs| Duration::from_micros(usecs.into()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_gather_unasked_only_where_many_are_lent() {
        assert!(has_fine_timers(), "or this kernel is none that we know");
        assert_eq!(unasked(1024), GATHER);
        assert_eq!(unasked(1023), Duration::ZERO, "what comes in that time might find no frame");
    }

    #[test]
    fn a_wait_that_makes_no_sense_is_refused() {
        let refused = |usecs, spin| gather(Some(usecs), spin).unwrap_err().to_string();
        assert!(refused(1, true).contains("--spin never waits"));
        let long = refused(1001, false);
        assert!(long.contains("--rx-usecs 1001 is too long") && long.contains("1000 microseconds"), "{long}");
        assert_eq!(gather(Some(1000), false).unwrap(), Some(Duration::from_millis(1)));
        assert_eq!(gather(Some(0), true).unwrap(), Some(Duration::ZERO));
    }
}
