//! [`Clock`]: what time it was by the clock on the wall when a worker made a turn.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// By how much two readings of clocks may be apart because somebody else had the processor.
const SLEPT: Duration = Duration::from_millis(100);

/// Turns are timed by a clock that nobody sets (`CLOCK_MONOTONIC`), packets of a capture by the one on the wall. That one
/// is 1970 on a board without a battery until NTP sets it, and may be set again; the other one stands still while the
/// machine is suspended. So where the two stand is looked at again and again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// Time zero of the turns.
    epoch: Instant,
    /// The same moment, since 1970, by what the wall said last.
    zero: Duration,
}

impl Clock {
    pub(super) fn new(epoch: Instant) -> Self {
        let mut clock = Self { epoch, zero: Duration::ZERO };
        clock.look();
        clock
    }

    /// Looks at the clock on the wall.
    pub(super) fn look(&mut self) {
        self.set(self.epoch.elapsed(), SystemTime::now());
    }

    /// Two readings of which the thread may have slept in between: what they differ by is that, unless it is much.
    fn set(&mut self, turn: Duration, wall: SystemTime) {
        let zero = wall.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(turn);
        if zero.abs_diff(self.zero) > SLEPT {
            self.zero = zero;
        }
    }

    /// The time of a turn, since 1970.
    pub(super) fn at(&self, turn: Duration) -> Duration {
        self.zero + turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_later_is_followed() {
        let (seconds, mut clock) = (Duration::from_secs, Clock::new(Instant::now()));
        clock.set(seconds(7), UNIX_EPOCH + seconds(27));
        assert_eq!(clock.at(seconds(6)), seconds(26), "a board without a battery");
        clock.set(seconds(9), UNIX_EPOCH + seconds(1_700_000_009));
        assert_eq!(clock.at(seconds(8)), seconds(1_700_000_008), "NTP");
        // Suspended for an hour.
        clock.set(seconds(10), UNIX_EPOCH + seconds(1_700_003_610));
        assert_eq!(clock.at(seconds(10)), seconds(1_700_003_610));
        clock.set(seconds(10), UNIX_EPOCH + seconds(1_700_003_610) + Duration::from_millis(99));
        assert_eq!(clock.at(seconds(10)), seconds(1_700_003_610), "packets do not go back in time");
        // It has no time before 1970, and may be set to just then.
        clock.set(seconds(11), UNIX_EPOCH);
        assert_eq!(clock.at(seconds(11)), seconds(11));
    }
}
