//! One object per line (JSON Lines).

use super::Interval;

pub(super) fn line(interval: &Interval) -> String {
    // Strings, numbers and maps with string keys: this cannot fail, and an empty line would say that it did.
    let mut line = serde_json::to_string(interval).unwrap_or_default();
    line.push('\n');
    line
}
