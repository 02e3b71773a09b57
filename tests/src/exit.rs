//! [`Exit`]: how an agent ended, and the law in what it printed.

use std::fmt;

use serde_json::Value;

/// How an agent ended. Shows itself as the command line, the exit code and all of stderr.
#[derive(Clone, Debug)]
pub struct Exit {
    pub(crate) line: String,
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// The last object that it printed.
    pub summary: Option<Value>,
    /// The objects before that.
    pub intervals: Vec<Value>,
    /// All that it wrote to stderr.
    pub stderr: String,
}

impl Exit {
    /// The summary of a run that ended well: exit code 0, every frame in the slab, and as many as there are.
    ///
    /// # Panics
    ///
    /// If it did not end so.
    #[track_caller]
    pub fn summary(&self) -> &Value {
        assert_eq!(self.code, Some(0), "expected a good end: {self}");
        let summary = self.summary.as_ref().unwrap_or_else(|| panic!("no summary: {self}"));
        assert_conserved(summary);
        let frames = &summary["frames"];
        assert_eq!(frames["slab"], frames["total"], "a frame did not come home: {summary}");
        summary
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self.code.map_or_else(|| "a signal".into(), |code| format!("exit code {code}"));
        write!(f, "{}\nended by {code}; stderr:\n{}", self.line, self.stderr)
    }
}

/// The law, in an interval or summary: it says so itself, and its places add up.
///
/// # Panics
///
/// If it is broken.
#[track_caller]
pub fn assert_conserved(object: &Value) {
    assert_eq!(object["conserved"], true, "{object}");
    let frames = object["frames"].as_object().unwrap_or_else(|| panic!("no frames: {object}"));
    let places: u64 =
        frames.iter().filter(|(name, _)| *name != "total").filter_map(|(_, n)| n.as_u64()).sum();
    assert_eq!(frames.len(), 12, "eleven places and a total: {object}");
    assert_eq!(Some(places), frames["total"].as_u64(), "the places do not add up: {object}");
}
