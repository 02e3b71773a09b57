//! How many errors and warnings were logged: who watches metrics learns that there is something to read.

use std::sync::atomic::{AtomicU64, Ordering};

use log::Level;

static ERRORS: AtomicU64 = AtomicU64::new(0);
static WARNINGS: AtomicU64 = AtomicU64::new(0);

/// Counts a message of this level: what logs calls it.
pub fn count(level: Level) {
    match level {
        Level::Error => &ERRORS,
        Level::Warn => &WARNINGS,
        Level::Info | Level::Debug | Level::Trace => return,
    }
    .fetch_add(1, Ordering::Relaxed);
}

/// Each level that is counted, and how many there were since the start.
pub(crate) fn counts() -> [(&'static str, u64); 2] {
    [("error", &ERRORS), ("warn", &WARNINGS)].map(|(level, count)| (level, count.load(Ordering::Relaxed)))
}
