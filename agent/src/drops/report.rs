//! `umemd drops`: the table for people.

use std::fmt::Write as _;

use serde::Serialize;

use super::{Kind, Layer, explain};
use crate::{
    report::numbers::{WIDTH, thousands},
    status::{DropStatus, Status},
};

/// What was lost on every device, and what to do about it; with `all`, also what was not.
pub fn text(status: &Status, all: bool) -> String {
    let mut text = String::new();
    for device in &status.devices {
        let shown: Vec<&DropStatus> = device.drops.iter().filter(|row| all || is_news(row)).collect();
        let seconds = thousands(status.at_s as u64);
        let before = shown.iter().any(|row| row.layer == Layer::Nic.name());
        let nic = if before { "; nic: since its driver was loaded" } else { "" };
        if let Some(why) = &device.away {
            let _ = writeln!(text, "{} is away{nic}", device.device);
            wrapped(&mut text, "", why);
        } else {
            let _ = writeln!(text, "{}, since its queues were opened; up {seconds} s{nic}", device.device);
        }
        if shown.is_empty() && device.away.is_none() {
            text.push_str("  nothing was lost\n");
        }
        for row in shown {
            write_row(&mut text, row);
        }
        if let Some(why) = &device.no_redirect_errors {
            text.push_str("  redirect  errors are not available\n");
            wrapped(&mut text, "", why);
        }
    }
    write_holders(&mut text, status, all);
    text
}

/// Who keeps frames; what is kept is missing elsewhere. With `all`, also those who keep none for too long.
fn write_holders(text: &mut String, status: &Status, all: bool) {
    let holders: Vec<_> = status.holders().filter(|(.., holder)| all || holder.leaked > 0).collect();
    if holders.is_empty() {
        return;
    }
    let _ = writeln!(text, "kept frames; for longer than {} s they count as leaked", status.leak_after_s);
    for (device, queue, holder) in holders {
        let _ = writeln!(text, "  {}", holder.told(device, queue));
    }
}

/// Whether somebody should look at it: not, if nothing was lost and nothing is to be done.
fn is_news(row: &DropStatus) -> bool {
    let idle = explain(&row.layer, &row.cause)
        .is_some_and(|known| known.kind == Kind::Note && known.advice == "nothing");
    row.count > 0 && !idle
}

/// One object per line: each row of each device, with its explanation; and if nobody tells of failed redirects, why.
pub fn json(status: &Status) -> String {
    #[derive(Serialize)]
    struct Line<'a> {
        device: &'a str,
        #[serde(flatten)]
        row: &'a DropStatus,
        meaning: Option<&'static str>,
        advice: Option<&'static str>,
    }
    /// A layer of which nobody tells.
    #[derive(Serialize)]
    struct Silent<'a> {
        device: &'a str,
        layer: &'static str,
        not_available: &'a str,
    }
    let mut text = String::new();
    for device in &status.devices {
        for row in &device.drops {
            let known = explain(&row.layer, &row.cause);
            let (meaning, advice) = (known.map(|known| known.meaning), known.map(|known| known.advice));
            let line = Line { device: &device.device, row, meaning, advice };
            // Strings and numbers: this cannot fail, and an empty line would say that it did.
            text.push_str(&serde_json::to_string(&line).unwrap_or_default());
            text.push('\n');
        }
        if let Some(why) = &device.no_redirect_errors {
            let silent = Silent { device: &device.device, layer: Layer::Redirect.name(), not_available: why };
            text.push_str(&serde_json::to_string(&silent).unwrap_or_default());
            text.push('\n');
        }
    }
    text
}

fn write_row(text: &mut String, row: &DropStatus) {
    // A row of a newer agent may be one that this umemd does not know.
    let known = explain(&row.layer, &row.cause);
    let _ = writeln!(
        text,
        "  {:8}  {:32}  {:>16}{}",
        row.layer,
        row.cause,
        thousands(row.count),
        match known.map(|known| known.kind) {
            Some(Kind::Loss) | None => "",
            // One space, so that it ends where a terminal does.
            Some(Kind::Open) => " (or on their way)",
            Some(Kind::Note) => "  (not lost)",
        },
    );
    let Some(known) = known else { return };
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
        let xsk = observation.devices[0].queues[0].xsk.as_mut().unwrap();
        (xsk.rx_dropped, xsk.tx_ring_empty_descs) = (1234, Some(7));
        let text = text(&Status::of(&observation), false);
        let expected = "  socket    rx_dropped                                   1,234
            too long for a frame, or no frame on the fill ring
            -> --frame-size 4096 for long packets; for the rest see
               rx_fill_ring_empty_descs
";
        assert!(text.contains(expected), "{text}");
        assert!(
            text.starts_with(
                "eth0, since its queues were opened; up 1 s; nic: since its driver was loaded\n"
            ),
            "{text}"
        );
        assert!(
            text.contains("  xdp       unmatched                                        3  (not lost)\n"),
            "{text}"
        );
        assert!(!text.contains("rx_ring_full  ") && !text.contains("rx_discards_phy"), "{text}");
        assert!(!text.contains("tx_ring_empty_descs"), "that is normal: {text}");
        assert!(text.lines().all(|line| line.len() <= WIDTH), "{text}");
        let leak = "kept frames; for longer than 60 s they count as leaked
  the capture keeps 3 frames of eth0 queue 0, the oldest for 75.0 s: 1 LEAKED
";
        assert!(text.ends_with(leak), "{text}");
    }

    #[test]
    fn all_rows_are_there_if_asked_for() {
        let text = text(&Status::of(&fixture_with_kernel()), true);
        for name in ["rx_discards_phy", "rx_ring_full", "tx_full", "unaccounted"] {
            assert!(text.contains(name), "{text}");
        }
    }

    #[test]
    fn all_rows_fit_a_terminal() {
        let text = text(&Status::of(&fixture_with_kernel()), true);
        let wide: Vec<_> = text.lines().filter(|line| line.len() > WIDTH).collect();
        assert_eq!(wide, [""; 0]);
    }

    #[test]
    fn scripts_get_every_row_with_its_explanation() {
        let status = Status::of(&fixture_with_kernel());
        let text = json(&status);
        let rows: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(rows.len(), status.devices[0].drops.len());
        let row = rows.iter().find(|row| row["cause"] == "rx_out_of_buffer").unwrap();
        assert_eq!(
            (&row["device"], &row["layer"], &row["count"]),
            (&"eth0".into(), &"nic".into(), &3.into())
        );
        assert!(row["meaning"].as_str().unwrap().starts_with("mlx5: "), "{row}");
    }

    #[test]
    fn why_nobody_tells_of_redirects_is_said() {
        let mut observation = fixture_with_kernel();
        observation.devices[0].redirect_errors = Err("no tracepoint".into());
        let status = Status::of(&observation);
        let expected = "  redirect  errors are not available\n            no tracepoint\n";
        assert!(text(&status, false).contains(expected), "{}", text(&status, false));
        let line = r#"{"device":"eth0","layer":"redirect","not_available":"no tracepoint"}"#;
        assert!(json(&status).lines().any(|said| said == line), "{}", json(&status));
    }

    #[test]
    fn nothing_lost_is_said() {
        let mut status = Status::of(&fixture_with_kernel());
        status.devices[0].drops.iter_mut().for_each(|row| row.count = 0);
        status.devices[0].queues[0].holders[1].leaked = 0;
        assert_eq!(text(&status, false), "eth0, since its queues were opened; up 1 s\n  nothing was lost\n");
    }

    #[test]
    fn of_an_interface_that_is_away_it_is_said() {
        let mut observation = fixture_with_kernel();
        let device = &mut observation.devices[0];
        device.away = Some("eth0 was removed".into());
        device.queues.clear();
        (device.decisions, device.kernel) = (None, None);
        device.redirect_errors = Ok(Vec::new());
        let text = text(&Status::of(&observation), false);
        assert_eq!(text, "eth0 is away\n            eth0 was removed\n");
    }
}
