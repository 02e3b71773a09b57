//! `umemd drops`: the table for people.

use std::fmt::Write as _;

use super::explain;
use crate::{
    report::numbers::{WIDTH, thousands},
    status::{DropStatus, Status},
};

/// What was lost on every device, and what to do about it; with `all`, also what was not.
pub fn text(status: &Status, all: bool) -> String {
    let mut text = String::new();
    for device in &status.devices {
        let shown: Vec<&DropStatus> = device.drops.iter().filter(|row| all || row.count > 0).collect();
        let _ = writeln!(text, "{}, {} s since the start", device.device, thousands(status.at_s as u64));
        if shown.is_empty() {
            text.push_str("  nothing was lost\n");
        }
        for row in shown {
            write_row(&mut text, row);
        }
    }
    text
}

fn write_row(text: &mut String, row: &DropStatus) {
    let _ = writeln!(
        text,
        "  {:8}  {:32}  {:>16}{}",
        row.layer,
        row.cause,
        thousands(row.count),
        if row.lost { "" } else { "  (not lost)" },
    );
    // A row of a newer agent may be one that this umemd does not know.
    let Some(known) = explain(&row.layer, &row.cause) else { return };
    wrapped(text, "", known.meaning);
    if known.advice != "nothing" {
        wrapped(text, "-> ", known.advice);
    }
}

/// Words, indented under the cause.
fn wrapped(text: &mut String, mark: &str, words: &str) {
    const INDENT: usize = 12;
    let mut line = format!("{:INDENT$}{mark}", "");
    for word in words.split(' ') {
        if line.trim().is_empty() || line.ends_with(mark) && !mark.is_empty() {
            line.push_str(word);
        } else if line.len() + 1 + word.len() > WIDTH {
            text.push_str(&line);
            text.push('\n');
            line = format!("{:1$}{word}", "", INDENT + mark.len());
        } else {
            line.push(' ');
            line.push_str(word);
        }
    }
    text.push_str(&line);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::fixture_with_kernel;

    #[test]
    fn what_was_lost_is_explained_and_the_rest_left_out() {
        let mut observation = fixture_with_kernel();
        observation.devices[0].queues[0].xsk.as_mut().unwrap().rx_dropped = 1234;
        let text = text(&Status::of(&observation), false);
        let expected = "  socket    rx_dropped                                   1,234
            too long for a frame, or no frame on the fill ring
            -> --frame-size 4096 for long packets; for the rest see
               rx_fill_ring_empty_descs
";
        assert!(text.contains(expected), "{text}");
        assert!(
            text.contains("  xdp       unmatched                                        3  (not lost)\n"),
            "{text}"
        );
        assert!(!text.contains("rx_ring_full  ") && !text.contains("refill_errors"), "{text}");
        assert!(text.lines().all(|line| line.len() <= WIDTH), "{text}");
    }

    #[test]
    fn all_rows_are_there_if_asked_for() {
        let text = text(&Status::of(&fixture_with_kernel()), true);
        for name in ["refill_errors", "rx_ring_full", "tx_full"] {
            assert!(text.contains(name), "{text}");
        }
    }

    #[test]
    fn nothing_lost_is_said() {
        let mut status = Status::of(&fixture_with_kernel());
        status.devices[0].drops.iter_mut().for_each(|row| row.count = 0);
        assert_eq!(text(&status, false), "eth0, 1 s since the start\n  nothing was lost\n");
    }
}
