//! Fails open: a queue whose worker makes no turns gives its traffic back to the stack.

use std::time::{Duration, Instant};

use super::{device::Device, queue::Watch};

/// How often the workers are looked at.
pub(super) const PERIOD: Duration = Duration::from_millis(100);
/// Without a turn for this long a worker counts as stopped. One that sleeps is woken at each look.
const STOPPED: Duration = Duration::from_secs(1);

/// What to do about a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    /// Take the socket out of the program's map: its frames go to the stack.
    FailOpen,
    /// Put it back.
    Steer,
}

/// Looks at every queue of a device.
pub(super) fn check(device: &Device, now: Instant) {
    for queue in device.queues.iter().filter(|queue| !queue.has_ended()) {
        let snapshot = queue.snapshot();
        let turns = snapshot.turns_busy + snapshot.turns_idle;
        // Each time: the next look may come late, and must not find a worker that nobody woke since.
        queue.bell.ring();
        let (watch, step) = next(queue.watch.get(), turns, now);
        let name = &device.info().name;
        let done = match step {
            Step::Nothing => Ok(()),
            Step::FailOpen => {
                log::warn!(
                    "{name} queue {}: its worker made no turn for {} ms; its traffic goes to the stack",
                    queue.number(),
                    now.duration_since(watch.since).as_millis()
                );
                device.clear_socket(queue)
            }
            Step::Steer => {
                log::info!(
                    "{name} queue {}: its worker turns again; its traffic is steered again",
                    queue.number()
                );
                device.set_socket(queue)
            }
        };
        match done {
            Ok(()) => queue.watch.set(watch),
            // Not remembered as done, so it is tried again in a moment.
            Err(error) => log::error!("{name} queue {}: {error:#}", queue.number()),
        }
    }
}

/// The watchdog's memory and next step, given how many turns the worker made until `now`.
fn next(mut watch: Watch, turns: u64, now: Instant) -> (Watch, Step) {
    if turns != watch.turns {
        watch.turns = turns;
        watch.since = now;
        if !watch.steered {
            watch.steered = true;
            return (watch, Step::Steer);
        }
    } else if watch.steered && now.duration_since(watch.since) >= STOPPED {
        watch.steered = false;
        watch.failed_open += 1;
        return (watch, Step::FailOpen);
    }
    (watch, Step::Nothing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_worker_fails_open_once_and_comes_back() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut watch = Watch { turns: 0, since: start, steered: true, failed_open: 0 };
        let mut see = |turns, ms| {
            let (new, step) = next(watch, turns, at(ms));
            watch = new;
            step
        };
        assert_eq!(see(1, 100), Step::Nothing);
        assert_eq!(see(1, 1000), Step::Nothing, "900 ms are not a second");
        assert_eq!(see(1, 1100), Step::FailOpen);
        assert_eq!(see(1, 60_000), Step::Nothing, "once");
        assert_eq!(see(2, 60_100), Step::Steer);
        assert_eq!(see(3, 60_200), Step::Nothing);
        assert_eq!(see(3, 61_200), Step::FailOpen);
        assert_eq!(watch.failed_open, 2);
    }
}
