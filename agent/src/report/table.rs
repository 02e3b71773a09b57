//! The table: at most 80 columns, no colour, readable in a log.

use std::fmt::Write as _;

use super::{
    Interval,
    numbers::{binary, counted, decimal, percent, thousands, wrap},
};
use crate::{counts::Counts, observe::Observation};

/// The heading is repeated so that it is in sight on a terminal of 24 lines.
const ROWS_PER_HEADING: u32 = 10;

pub(super) fn banner(start: &Observation, endpoint: &str) -> String {
    let mut text = String::new();
    for view in &start.devices {
        let info = &view.info;
        let driver = if info.driver.is_empty() { "unknown driver" } else { &info.driver };
        let bind = if info.zero_copy { "zero-copy" } else { "copy" };
        let queues: Vec<u32> = view.queues.iter().map(|queue| queue.queue).collect();
        let _ = writeln!(
            text,
            "{} ({driver}): {} mode, {bind}, {} {}, XDP program {}",
            info.name,
            info.mode,
            if queues.len() == 1 { "queue" } else { "queues" },
            ranges(&queues),
            info.program_id,
        );
        // Of two interfaces that frames cross between, the first has them all.
        if let Some(queue) = view.queues.first().filter(|queue| queue.snapshot.total > 0) {
            let bytes = u64::from(queue.snapshot.total) * u64::from(queue.frame_size);
            let _ = writeln!(
                text,
                "  {} frames of {} bytes per queue: {}B of UMEM each{}{}",
                queue.snapshot.total,
                queue.frame_size,
                binary(bytes),
                if queue.huge_pages { ", in huge pages" } else { "" },
                if queue.multi_buffer { ", packets in several frames" } else { "" },
            );
        }
    }
    let _ = writeln!(text, "metrics on {endpoint}/metrics, stop with Ctrl-C");
    text
}

/// `0-3,7`.
pub(super) fn ranges(numbers: &[u32]) -> String {
    let runs = numbers.chunk_by(|a, b| a + 1 == *b);
    let texts: Vec<String> = runs
        .map(|run| match run {
            [first, .., last] => format!("{first}-{last}"),
            _ => run.iter().map(u32::to_string).collect(),
        })
        .collect();
    texts.join(",")
}

pub(super) fn row(interval: &Interval, now: &Observation, rows: u32) -> String {
    let mut text = String::new();
    if rows.is_multiple_of(ROWS_PER_HEADING) {
        let _ = writeln!(
            text,
            "\n{:>6}  {:>10} {:>11}  {:>10} {:>11}  {:>9}  {:>5}",
            "time", "rx pps", "rx bit/s", "tx pps", "tx bit/s", "recycled", "law"
        );
    }
    let _ = writeln!(
        text,
        "{:>5}s  {:>10} {:>11}  {:>10} {:>11}  {:>9}  {:>5}",
        now.at.as_secs_f64().round(),
        thousands(interval.per_second(interval.rx_packets).round() as u64),
        decimal(interval.per_second(interval.rx_bytes * 8)),
        thousands(interval.per_second(interval.tx_packets).round() as u64),
        decimal(interval.per_second(interval.tx_bytes * 8)),
        percent(interval.recycle_ratio),
        law(interval.conserved),
    );
    text.push_str(&wrap("  frames", now.places().into_iter().filter(|(_, frames)| *frames > 0)));
    if interval.drops.iter().any(|(_, count)| count > 0) {
        text.push_str(&wrap("  drops ", nonzero(&interval.drops)));
    }
    for device in &now.devices {
        if let Some(why) = &device.away {
            let _ = writeln!(text, "  {} is away: {why}", device.info.name);
        }
    }
    text
}

pub(super) fn summary(summary: &Interval) -> String {
    let mut text = format!(
        "\n{} after {:.1} s, {} mode, {}\n",
        summary.device,
        summary.duration_s,
        summary.mode,
        if summary.copy { "copy" } else { "zero-copy" },
    );
    let _ = writeln!(
        text,
        "  received {} ({}B), sent {} ({}B)",
        counted(summary.rx_packets, "packet"),
        binary(summary.rx_bytes),
        thousands(summary.tx_packets),
        binary(summary.tx_bytes),
    );
    let _ = writeln!(text, "  recycled {}", percent(summary.recycle_ratio));
    if let Some(capture) = &summary.capture {
        let _ = writeln!(
            text,
            "  captured {} packets ({}B), missed {}, lost {}",
            thousands(capture.packets),
            binary(capture.bytes),
            thousands(capture.missed),
            thousands(capture.lost),
        );
    }
    if summary.drops.iter().all(|(_, count)| count == 0) {
        text.push_str("  drops  none\n");
    } else {
        text.push_str(&wrap("  drops ", nonzero(&summary.drops)));
    }
    text.push_str(&wrap("  frames", nonzero(&summary.frames).filter(|(name, _)| *name != "total")));
    let total = thousands(summary.frames.get("total"));
    let _ = writeln!(
        text,
        "  the law {}",
        if summary.conserved {
            format!("holds: each of the {total} frames is in exactly one place")
        } else {
            format!("IS BROKEN: the places do not add up to the {total} frames; please report this")
        },
    );
    text
}

fn nonzero(counts: &Counts) -> impl Iterator<Item = (&str, u64)> {
    counts.iter().filter(|(_, count)| *count > 0)
}

fn law(conserved: bool) -> &'static str {
    if conserved { "holds" } else { "BROKEN" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        observe::{fixture, fixture_one_frame_short},
        report::Kind,
    };

    #[test]
    fn a_broken_law_is_said_in_each_row_and_at_the_end() {
        let said = |now: &Observation| {
            let interval = Interval::between(Kind::Interval, &fixture(), now);
            let row = row(&interval, now, 1).lines().next().unwrap_or_default().to_owned();
            (row.split_whitespace().last().unwrap_or_default().to_owned(), summary(&interval))
        };
        let (law, end) = said(&fixture());
        assert_eq!(law, "holds");
        let holds = "\n  the law holds: each of the 8,192 frames is in exactly one place\n";
        assert!(end.ends_with(holds), "{end}");
        let (law, end) = said(&fixture_one_frame_short());
        assert_eq!(law, "BROKEN");
        let broken =
            "\n  the law IS BROKEN: the places do not add up to the 8,192 frames; please report this\n";
        assert!(end.ends_with(broken), "{end}");
    }

    #[test]
    fn queues_in_a_row_are_a_range() {
        assert_eq!(ranges(&[0]), "0");
        assert_eq!(ranges(&[0, 1, 2, 3, 7, 9, 10]), "0-3,7,9-10");
        assert_eq!(ranges(&[2, 0, 1]), "2,0-1");
    }
}
