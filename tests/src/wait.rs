//! Waiting for something to become true: the only way in which these tests wait.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Time enough for anything that works, on a machine that is busy with something else.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks until `predicate` says yes, and returns how long that took.
///
/// # Panics
///
/// With `what` was waited for, if it does not become true within `timeout`.
#[track_caller]
pub fn wait_until(what: &str, timeout: Duration, mut predicate: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !predicate() {
        assert!(start.elapsed() < timeout, "waited {timeout:?} in vain until {what}");
        thread::sleep(Duration::from_millis(2));
    }
    start.elapsed()
}

/// As [`wait_until`], for something that is there in the end.
///
/// # Panics
///
/// With `what` was waited for, if it is not there within `timeout`.
#[track_caller]
pub fn wait_for<T>(what: &str, timeout: Duration, mut attempt: impl FnMut() -> Option<T>) -> T {
    let mut found = None;
    wait_until(what, timeout, || {
        found = attempt();
        found.is_some()
    });
    found.expect("it was there a moment ago")
}
