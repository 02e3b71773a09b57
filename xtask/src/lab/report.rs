//! umemd's JSON reports, and the one number that only the lab knows.

use serde_json::{Map, Value};

/// Tells each report what was sent: an interval since the one before it, the summary in all.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    /// What the intervals so far were told.
    told: u64,
}

impl Reports {
    /// Adds `"sent_packets"` to a line that is a report; any other line stays as it is.
    pub(crate) fn with_sent(&mut self, line: &str, total: u64) -> String {
        let Ok(Value::Object(report)) = serde_json::from_str(line) else { return line.to_owned() };
        let sent = match report.get("type").and_then(Value::as_str) {
            _ if report.contains_key(SENT) => return line.to_owned(),
            Some("interval") => total - std::mem::replace(&mut self.told, total),
            Some("summary") => total,
            _ => return line.to_owned(),
        };
        insert(line, report, sent)
    }
}

const SENT: &str = "sent_packets";

/// The text is kept, and the order of its keys with it: the key goes before `"rx_packets"`, its counterpart.
fn insert(line: &str, mut report: Map<String, Value>, sent: u64) -> String {
    report.insert(SENT.to_owned(), sent.into());
    let wanted = Value::Object(report);
    let is_it = |text: &String| serde_json::from_str::<Value>(text).is_ok_and(|value| value == wanted);
    // Inside a nested object it would be another key: only what reads back as wanted is taken.
    let inserted = line.find("\"rx_packets\"").map(|at| {
        let (head, tail) = line.split_at(at);
        format!("{head}\"{SENT}\":{sent},{tail}")
    });
    inserted.filter(is_it).unwrap_or_else(|| wanted.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_sent(line: &str, total: u64) -> String {
        Reports::default().with_sent(line, total)
    }

    #[test]
    fn reports_say_what_was_sent_before_what_was_received() {
        let line = r#"{"type":"summary","schema":1,"duration_s":1.50,"rx_packets":7,"drops":{"a":1}}"#;
        let with = r#"{"type":"summary","schema":1,"duration_s":1.50,"sent_packets":9,"rx_packets":7,"drops":{"a":1}}"#;
        assert_eq!(with_sent(line, 9), with);
    }

    #[test]
    fn an_interval_says_what_was_sent_in_it() {
        let mut reports = Reports::default();
        let interval = r#"{"type":"interval","rx_packets":7}"#;
        assert_eq!(reports.with_sent(interval, 9), r#"{"type":"interval","sent_packets":9,"rx_packets":7}"#);
        assert_eq!(reports.with_sent(interval, 12), r#"{"type":"interval","sent_packets":3,"rx_packets":7}"#);
        let summary = r#"{"type":"summary","rx_packets":12}"#;
        assert_eq!(reports.with_sent(summary, 12), r#"{"type":"summary","sent_packets":12,"rx_packets":12}"#);
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
