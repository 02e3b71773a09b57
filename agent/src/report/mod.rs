//! What the user sees while frames move: a table, or one JSON object per line.

mod interval;
mod json;
pub(crate) mod numbers;
mod rules;
mod status;
mod table;

use std::{io, time::Duration};

pub use interval::{Interval, Kind};
pub use rules::{changed, rules};
pub use status::status;

use crate::{observe::Observation, outlet::Outlet};

/// How long the summary waits for a reader.
const PATIENCE: Duration = Duration::from_secs(2);

/// Turns observations into lines on standard output.
///
/// A reader that went away (`umemd run | head`) is no error of ours: printing stops, the frames go on. For one
/// that is slow, intervals are put together.
pub struct Reporter {
    out: Outlet,
    json: bool,
    start: Observation,
    last: Observation,
    rows: u32,
}

impl Reporter {
    /// Starts with what is true before the first frame.
    pub fn new(out: Outlet, json: bool, start: Observation) -> Self {
        Self { out, json, last: start.clone(), start, rows: 0 }
    }

    /// Says what runs: the first lines of the table. JSON has none; it is all in the objects.
    pub fn banner(&mut self, endpoint: &str) {
        if !self.json {
            self.out.offer(table::banner(&self.start, endpoint));
        }
    }

    /// Prints what happened since the last call that was heard.
    pub fn interval(&mut self, now: Observation) {
        let interval = Interval::between(Kind::Interval, &self.last, &now);
        let text = if self.json { json::line(&interval) } else { table::row(&interval, &now, self.rows) };
        if self.out.offer(text) {
            self.rows += 1;
            self.last = now;
        }
    }

    /// Prints what happened since the start, and waits a while until all is written; whether it could be.
    ///
    /// `before` is the moment before the frames that the kernel had were taken home. They come back through the
    /// pool, but nobody has used them, so that recycling is judged without them.
    pub fn summary(self, before: &Observation, end: &Observation) -> bool {
        let recycle_ratio = Interval::between(Kind::Summary, &self.start, before).recycle_ratio;
        let summary = Interval { recycle_ratio, ..Interval::between(Kind::Summary, &self.start, end) };
        self.out.insist(if self.json { json::line(&summary) } else { table::summary(&summary) });
        let written = self.out.drain(PATIENCE);
        match self.out.error() {
            Some(error) if error.kind() == io::ErrorKind::BrokenPipe => true,
            Some(error) => {
                log::error!("cannot write the report: {error}");
                false
            }
            None if !written => {
                log::error!("nobody reads the report: its end is not written");
                false
            }
            None => true,
        }
    }
}
