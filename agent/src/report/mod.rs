//! What the user sees while frames move: a table, or one JSON object per line.

mod interval;
mod json;
mod table;

use std::io::{self, Write};

pub use interval::{Interval, Kind};

use crate::observe::{DeviceInfo, Observation};

/// Turns observations into lines on standard output.
///
/// A reader that went away (`umemd run | head`) is no error of ours: printing stops, the frames go on.
pub struct Reporter<W> {
    out: W,
    json: bool,
    start: Observation,
    last: Observation,
    rows: u32,
    reader_gone: bool,
}

impl<W: Write> Reporter<W> {
    /// Starts with what is true before the first frame.
    pub fn new(out: W, json: bool, start: Observation) -> Self {
        Self { out, json, last: start.clone(), start, rows: 0, reader_gone: false }
    }

    /// Says what runs: the first lines of the table. JSON has none; it is all in the objects.
    pub fn banner(&mut self, devices: &[&DeviceInfo], endpoint: &str) {
        if !self.json {
            let text = table::banner(devices, &self.start, endpoint);
            self.print(&text);
        }
    }

    /// Prints what happened since the last call.
    pub fn interval(&mut self, now: Observation) {
        let interval = Interval::between(Kind::Interval, &self.last, &now);
        let text = if self.json { json::line(&interval) } else { table::row(&interval, &now, self.rows) };
        self.print(&text);
        self.rows += 1;
        self.last = now;
    }

    /// Prints what happened since the start.
    pub fn summary(&mut self, end: &Observation) {
        let summary = Interval::between(Kind::Summary, &self.start, end);
        let text = if self.json { json::line(&summary) } else { table::summary(&summary) };
        self.print(&text);
    }

    fn print(&mut self, text: &str) {
        if self.reader_gone {
            return;
        }
        match self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.reader_gone = true,
            Err(error) => {
                log::warn!("cannot write the report: {error}; it ends here");
                self.reader_gone = true;
            }
        }
    }
}
