//! The fields of a trace's line, each of the type that the format gives it.

use serde_json::{Map, Value};

use crate::trace::Fault;

/// The value of a field that every trace must have.
pub(crate) fn field<'a>(line: &'a Map<String, Value>, name: &str) -> Result<&'a Value, Fault> {
    line.get(name).ok_or_else(|| Fault::Format(format!("field `{name}` is missing")))
}

/// A number that a field has, if it is one of the type wanted.
pub(crate) fn number<N: TryFrom<i64>>(line: &Map<String, Value>, name: &str) -> Result<N, Fault> {
    let value = field(line, name)?;
    let number = value.as_i64().and_then(|number| N::try_from(number).ok());
    number.ok_or_else(|| Fault::Format(format!("`{name}` cannot be {value}")))
}

pub(crate) fn optional<N: TryFrom<i64>>(line: &Map<String, Value>, name: &str) -> Result<Option<N>, Fault> {
    if field(line, name)?.is_null() { Ok(None) } else { number(line, name).map(Some) }
}

/// How many bytes of a page a line asks for; more than a page has is allowed, and refused by the pool.
pub(crate) fn size(line: &Map<String, Value>) -> Result<u32, Fault> {
    number::<u64>(line, "size").map(|size| size.try_into().unwrap_or(u32::MAX))
}

/// The handles that a bulk returns.
pub(crate) fn handles(line: &Map<String, Value>) -> Result<Vec<&str>, Fault> {
    let handles = field(line, "h")?.as_array();
    let handles = handles.and_then(|handles| handles.iter().map(Value::as_str).collect());
    handles.ok_or_else(|| Fault::Format("`h` is not a list of handles".into()))
}

pub(crate) fn flag(line: &Map<String, Value>, name: &str) -> Result<bool, Fault> {
    field(line, name)?.as_bool().ok_or_else(|| Fault::Format(format!("`{name}` is not a boolean")))
}

pub(crate) fn text(line: &Map<String, Value>, name: &str) -> Result<String, Fault> {
    let text = field(line, name)?.as_str();
    text.map(str::to_owned).ok_or_else(|| Fault::Format(format!("`{name}` is not a string")))
}
