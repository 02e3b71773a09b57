//! The format of a golden trace, and the comparison line by line.

use std::{
    fmt,
    fs::File,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
};

use frame_pool::Phase;
use serde_json::{Map, Value};

use crate::{fields::field, subject::Subject};

/// Why a line cannot be replayed as recorded.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The line is not what the format allows, or asks for what a pool cannot do.
    Format(String),
    /// The pool does not do what the line asks for, because of what it has done before.
    Refused(String),
    /// A field differs.
    Differs { field: String, expected: String, got: String },
}

impl Fault {
    pub(crate) fn compare(field: &str, expected: &Value, got: &Value) -> Result<(), Self> {
        if expected == got {
            return Ok(());
        }
        let (field, expected, got) = (field.to_owned(), expected.to_string(), got.to_string());
        Err(Self::Differs { field, expected, got })
    }

    pub(crate) fn no_handle() -> Self {
        Self::Refused("the handle is unknown".into())
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Format(error.to_string())
    }
}

impl From<serde_json::Error> for Fault {
    fn from(error: serde_json::Error) -> Self {
        // It only saw this line, and calls it the first.
        Self::Format(error.to_string().replace(" at line 1 column ", ", column "))
    }
}

/// The first difference of a file.
#[derive(Debug)]
pub(crate) struct Failure {
    file: PathBuf,
    /// From 1; 0 for the file as a whole.
    line: usize,
    fault: Fault,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: ", self.file.display())?,
            line => write!(f, "{}:{line}: ", self.file.display())?,
        }
        match &self.fault {
            Fault::Format(what) | Fault::Refused(what) => write!(f, "{what}"),
            Fault::Differs { field, expected, got } => write!(f, "{field}: expected {expected}, got {got}"),
        }
    }
}

/// Replays one file, line by line, up to the first difference.
pub(crate) fn replay(file: &Path) -> Result<(), Failure> {
    match File::open(file) {
        Ok(trace) => replay_from(BufReader::new(trace), file),
        Err(error) => Err(Failure { file: file.to_owned(), line: 0, fault: error.into() }),
    }
}

/// Replays what a reader gives; `file` is what a failure calls it.
pub(crate) fn replay_from(trace: impl BufRead, file: &Path) -> Result<(), Failure> {
    let mut line = 0;
    replay_lines(trace, &mut line).map_err(|fault| Failure { file: file.to_owned(), line, fault })
}

fn replay_lines(trace: impl BufRead, line_number: &mut usize) -> Result<(), Fault> {
    let mut lines = trace.lines();
    let mut next = || -> Result<Option<Map<String, Value>>, Fault> {
        let Some(line) = lines.next() else { return Ok(None) };
        *line_number += 1;
        Ok(Some(serde_json::from_str(&line?)?))
    };
    let header = next()?.ok_or_else(|| Fault::Format("the file is empty".into()))?;
    let may_misuse = field(&header, "misuse")? == &Value::Bool(true);
    let mut subject = Subject::new(&header)?;
    let mut misused = false;
    while let Some(line) = next()? {
        misused |= may_misuse && is_misuse(&subject, &line);
        match subject.perform(&line) {
            Err(Fault::Refused(_)) if may_misuse => misused = true,
            got if misused => expect_refusal(&subject, &got?)?,
            got => compare(&line, &got?)?,
        }
    }
    if !subject.is_created() {
        return Err(Fault::Format("the file ends before the first operation".into()));
    }
    subject.end()
}

/// Fields that only say what to do.
const INPUTS: [&str; 7] = ["op", "h", "n", "direct", "size", "nid", "cap"];

/// Every field of the line that is not an input must be what the subject says, and all that it says must be
/// there.
fn compare(line: &Map<String, Value>, got: &Map<String, Value>) -> Result<(), Fault> {
    if let Some(missing) = got.keys().find(|&name| !line.contains_key(name)) {
        return Err(Fault::Format(format!("field `{missing}` is missing")));
    }
    let create = line.get("op").is_some_and(|op| op == "create");
    for (name, expected) in line {
        let input = INPUTS.contains(&name.as_str()) || create && (name == "pool_size" || name == "order");
        match got.get(name) {
            Some(Value::Object(got)) => match expected.as_object() {
                Some(expected) => compare(expected, got)?,
                None => Fault::compare(name, expected, &Value::Object(got.clone()))?,
            },
            Some(got) => Fault::compare(name, expected, got)?,
            None if input || line.get("op").is_some_and(|op| op == "put_page") && name == "page" => {}
            None => return Err(Fault::Format(format!("field `{name}` is unknown"))),
        }
    }
    Ok(())
}

/// Whether a line asks a destroyed pool for a frame, or gives it one as if it lived. Any other misuse, such
/// as a handle that is put twice, the subject refuses by itself.
fn is_misuse(subject: &Subject, line: &Map<String, Value>) -> bool {
    let op = line.get("op").and_then(Value::as_str).unwrap_or_default();
    let direct = line.get("direct") == Some(&Value::Bool(true));
    subject.phase() != Phase::Live && (op == "alloc" || op == "frag_alloc" || direct)
}

/// From the first misuse on the recording is of what nobody should do, and only this is compared: a
/// destroyed pool gives nothing out, and nothing stays in its cache.
fn expect_refusal(subject: &Subject, got: &Map<String, Value>) -> Result<(), Fault> {
    if subject.phase() != Phase::Live {
        Fault::compare("cache", &Value::from(0), &got["cache"])?;
        if let Some(handle) = got.get("ret") {
            Fault::compare("ret", &Value::Null, handle)?;
        }
    }
    Ok(())
}
