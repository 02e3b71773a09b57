//! umemd's JSON reports, and the one number that only the lab knows.

use serde_json::Value;

/// Adds `"sent_packets"` to an interval or a summary; any other line stays as it is.
///
/// The text is kept, and the order of its keys with it: the key goes before `"rx_packets"`, its counterpart.
pub(crate) fn with_sent(line: &str, sent: u64) -> String {
    let Ok(Value::Object(before)) = serde_json::from_str(line) else { return line.to_owned() };
    let is_report = matches!(before.get("type").and_then(Value::as_str), Some("interval" | "summary"));
    if !is_report || before.contains_key("sent_packets") {
        return line.to_owned();
    }
    let mut wanted = before;
    wanted.insert("sent_packets".to_owned(), sent.into());
    let wanted = Value::Object(wanted);
    let is_it = |text: &String| serde_json::from_str::<Value>(text).is_ok_and(|value| value == wanted);
    // Inside a nested object it would be another key: only what reads back as wanted is taken.
    let inserted = line.find("\"rx_packets\"").map(|at| {
        let (head, tail) = line.split_at(at);
        format!("{head}\"sent_packets\":{sent},{tail}")
    });
    inserted.filter(is_it).unwrap_or_else(|| wanted.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_say_what_was_sent_before_what_was_received() {
        let line = r#"{"type":"summary","schema":1,"duration_s":1.50,"rx_packets":7,"drops":{"a":1}}"#;
        let with = r#"{"type":"summary","schema":1,"duration_s":1.50,"sent_packets":9,"rx_packets":7,"drops":{"a":1}}"#;
        assert_eq!(with_sent(line, 9), with);
        assert!(with_sent(&line.replace("summary", "interval"), 9).contains(r#""sent_packets":9"#));
    }

    #[test]
    fn a_nested_name_does_not_mislead() {
        let line = r#"{"type":"summary","nested":{"rx_packets":1}}"#;
        let with: Value = serde_json::from_str(&with_sent(line, 3)).unwrap();
        assert_eq!(with["sent_packets"], 3);
        assert!(with["nested"].get("sent_packets").is_none());
    }

    #[test]
    fn what_is_no_report_stays() {
        for line in ["", "hello", "[1]", r#"{"type":"other","rx_packets":1}"#, r#"{"rx_packets":1}"#] {
            assert_eq!(with_sent(line, 3), line);
        }
    }
}
