//! [`Verdicts`]: what is true of this board, line by line.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// The message of the last panic, for its verdict.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

/// Runs checks, prints a line for each, and counts them: a console may lose a line.
#[derive(Debug)]
pub(super) struct Verdicts {
    checks: usize,
    failed: usize,
}

impl Default for Verdicts {
    fn default() -> Self {
        std::panic::set_hook(Box::new(|info| {
            let text = info.payload_as_str().unwrap_or("a panic without a message");
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            eprintln!("{text} ({place})");
            // The first one: what fails while it unwinds follows from it.
            PANIC.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| text.to_owned());
        }));
        Self { checks: 0, failed: 0 }
    }
}

impl Verdicts {
    /// Runs a check. A panic is its failure, and the message is why; `None` then.
    pub(super) fn check<T>(&mut self, name: &str, check: impl FnOnce() -> T) -> Option<T> {
        let start = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(check)).ok();
        let why = PANIC.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (&result, why) {
            // A thread of the check's own may have panicked although the check did not notice.
            (Some(_), None) => self.pass(&format!("{name} ({:.1} s)", start.elapsed().as_secs_f64())),
            (_, why) => self.fail(name, &why.unwrap_or_default()),
        }
        result
    }

    /// Says that something is as it should be.
    pub(super) fn pass(&mut self, name: &str) {
        self.checks += 1;
        println!("board: ok     {name}");
    }

    /// Says that something cannot be found out here.
    pub(super) fn skip(&mut self, name: &str, why: &str) {
        self.checks += 1;
        println!("board: skip   {name}: {why}");
    }

    /// Says that something is not as it should be.
    pub(super) fn fail(&mut self, name: &str, why: &str) {
        self.checks += 1;
        self.failed += 1;
        let why: Vec<&str> = why.lines().take(6).collect();
        println!("board: FAILED {name}: {}", why.join(" | "));
    }

    /// Says what was measured.
    pub(super) fn note(&mut self, text: &str) {
        println!("board: note   {text}");
    }

    /// Says how many lines there should have been, notes apart.
    pub(super) fn end(&self) {
        println!("board: end: {} checks, {} failed", self.checks, self.failed);
    }
}
