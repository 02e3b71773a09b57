//! `umemd status`: a running agent at one moment, for a terminal of 80 columns.

use std::{fmt::Write as _, time::Duration};

use super::{
    numbers::{WIDTH, binary, counted, percent, thousands, wrap},
    table::ranges,
};
use crate::{
    counts::Counts,
    protocol::RuleListing,
    status::{DeviceStatus, Status, recycle_ratio},
};

/// Rules that are shown; of more there is `umemd rule list`.
const RULES: usize = 8;

/// The text; with the rules, if whoever was asked told them.
pub fn status(status: &Status, listing: Option<&RuleListing>) -> String {
    // Seconds are what one wants to know, and not their fractions.
    let up = humantime::format_duration(Duration::from_secs(status.at_s as u64));
    let law = if status.conserved { "law holds" } else { "LAW BROKEN: please report this" };
    let mut text = format!("umemd {}, pid {}, up {up}, {law}\n", status.version, status.pid);
    let rules = status.rules.count;
    let _ = writeln!(
        text,
        "  {} rule{}, everything else is {}; what is steered: {}",
        thousands(rules as u64),
        if rules == 1 { "" } else { "s" },
        if status.rules.default == "drop" { "dropped" } else { "the stack's" },
        done(&status.handler),
    );
    if let Some(listing) = listing {
        add_rules(&mut text, listing);
    }
    for device in &status.devices {
        text.push('\n');
        add_device(&mut text, device);
    }
    for (device, queue, holder) in status.holders().filter(|(.., holder)| holder.leaked > 0) {
        let _ = write!(text, "\n{}\n", holder.told(device, queue));
    }
    if let Some(orphans) = status.orphans_told() {
        let _ = write!(text, "\n{orphans}\n");
    }
    text
}

fn add_rules(text: &mut String, listing: &RuleListing) {
    let shown = listing.rules.iter().take(RULES);
    let width = shown.clone().map(|rule| rule.name.len()).max().unwrap_or(0);
    for rule in shown {
        let line = format!(
            "    {:width$}  {:5}  {:>15} packets  {}",
            rule.name,
            rule.action.name(),
            thousands(rule.packets),
            rule.expression,
        );
        let _ = writeln!(text, "{}", line.chars().take(WIDTH).collect::<String>());
    }
    if listing.rules.len() > RULES {
        let more = thousands((listing.rules.len() - RULES) as u64);
        let _ = writeln!(text, "    and {more} more; `umemd rule list` shows them");
    }
}

/// What a handler does, in a word.
fn done(handler: &str) -> &str {
    match handler {
        "drop" => "dropped",
        "reflect" => "reflected",
        "forward" => "forwarded",
        "generate" => "dropped (generating)",
        other => other,
    }
}

fn add_device(text: &mut String, device: &DeviceStatus) {
    let driver = if device.driver.is_empty() { "unknown driver" } else { &device.driver };
    let _ = write!(text, "{} ({driver})", device.device);
    if let Some(why) = &device.away {
        let _ = writeln!(text, " is away: {why}");
        return;
    }
    let numbers: Vec<u32> = device.queues.iter().map(|queue| queue.queue).collect();
    let _ = writeln!(
        text,
        ": {} mode, {}, {} {}, XDP program {}",
        device.mode,
        if device.copy { "copy" } else { "zero-copy" },
        if numbers.len() == 1 { "queue" } else { "queues" },
        ranges(&numbers),
        device.program_id,
    );
    for queue in &device.queues {
        let _ = writeln!(
            text,
            "  queue {:<3} cpu {:<3} received {:>15}   sent {:>15}",
            queue.queue,
            queue.cpu,
            thousands(queue.traffic.get("rx_packets")),
            thousands(queue.traffic.get("tx_packets")),
        );
        if !queue.steered {
            let why = if queue.failed { "its handler panicked" } else { "its worker makes no turns" };
            let _ = writeln!(text, "            ITS TRAFFIC GOES TO THE STACK: {why}");
        }
    }
    let traffic = device.traffic();
    let _ = writeln!(
        text,
        "  received {}B, sent {}B, recycled {}",
        binary(traffic.get("rx_bytes")),
        binary(traffic.get("tx_bytes")),
        percent(recycle_ratio(&device.counters())),
    );
    text.push_str(&wrap("  frames", nonzero(&device.frames())));
    let decided = wrap("  decided", nonzero(&device.decisions));
    text.push_str(if decided.trim() == "decided" { "  decided nothing yet\n" } else { &decided });
    let lost = device.lost();
    if lost > 0 {
        let _ = writeln!(text, "  lost {}; `umemd drops` says where", thousands(lost));
    }
    let by_nic = device.lost_by_nic();
    if by_nic > 0 {
        let _ = writeln!(text, "  the NIC lost {} since its driver was loaded", thousands(by_nic));
    }
    let pools = device.page_pool.iter().flat_map(|pools| &pools.pools);
    for (pool, age) in pools.filter_map(|pool| Some((pool, pool.detached_s?))) {
        let pages = pool.inflight_pages.map(|pages| format!(", {} in flight", counted(pages, "page")));
        let (pages, age) = (pages.unwrap_or_default(), thousands(age));
        let how = if pool.stalled { "STALLED" } else { "detached" };
        let _ = writeln!(text, "  kernel page_pool {}: {how} for {age} s{pages} (umemd pagepool)", pool.pool);
    }
}

fn nonzero(counts: &Counts) -> impl Iterator<Item = (&str, u64)> {
    counts.iter().filter(|(_, count)| *count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        observe::{fixture, fixture_one_frame_short, fixture_with_kernel},
        protocol::{ListedRule, OtherAction, RuleAction},
    };

    #[test]
    fn a_stranger_sees_what_runs() {
        let text = status(&Status { pid: 7, ..Status::of(&fixture()) }, None);
        let expected = "\
umemd 0.1.0, pid 7, up 1s, law holds
  0 rules, everything else is the stack's; what is steered: dropped

eth0 (mvneta): native mode, copy, queues 0-1, XDP program 7
  queue 0   cpu 1   received               0   sent               0
  queue 1   cpu 1   received               0   sent               0
  received 0 B, sent 0 B, recycled -
  frames slab 3,968  cache 128  fill 4,096
  decided steered 1  no_socket 2  unmatched 3  truncated 4  malformed 5
";
        assert_eq!(text, expected);
        assert!(text.lines().all(|line| line.len() <= WIDTH), "{text}");
    }

    #[test]
    fn a_broken_law_is_said_first() {
        let text = status(&Status { pid: 7, ..Status::of(&fixture_one_frame_short()) }, None);
        let first = "umemd 0.1.0, pid 7, up 1s, LAW BROKEN: please report this\n";
        assert!(text.starts_with(first) && !text.contains("law holds"), "{text}");
    }

    #[test]
    fn the_first_rules_are_shown_and_no_line_is_too_long() {
        let rule = |n: usize| ListedRule {
            name: format!("rule{n}"),
            expression: "udp dst port 7 and src host 192.168.123.123".repeat(n),
            action: RuleAction::Steer,
            queues: None,
            packets: 1234,
            bytes: 0,
        };
        let listing = RuleListing {
            rules: (1..=10).map(rule).collect(),
            default: OtherAction::Pass,
            default_packets: 0,
        };
        let text = status(&Status::of(&fixture()), Some(&listing));
        assert!(
            text.contains("\n    rule1  steer            1,234 packets  udp dst port 7 and src"),
            "{text}"
        );
        assert!(text.contains("\n    and 2 more; `umemd rule list` shows them\n\neth0"), "{text}");
        assert!(text.lines().all(|line| line.len() <= WIDTH), "{text}");
    }

    #[test]
    fn what_was_lost_is_told_beside_what_the_nic_lost() {
        let (then, now, told) = crate::drops::example::read();
        let lines = |status: &Status| super::status(status, None);
        let (before, nic) = (then.devices[0].lost(), then.devices[0].lost_by_nic());
        assert!(lines(&then).ends_with(&format!(
            "\n  lost {before}; `umemd drops` says where\n  the NIC lost {nic} since its driver was loaded\n"
        )));
        assert!(lines(&now).contains(&format!("\n  lost {}; ", before + told.lost)));
        assert!(lines(&now).contains(&format!("\n  the NIC lost {} since", nic + told.nic)));
    }

    #[test]
    fn what_is_wrong_is_seen() {
        let mut observation = fixture_with_kernel();
        observation.devices[0].queues[1].steered = false;
        observation.devices[0].queues[0].snapshot.traffic.rx_packets = u64::MAX;
        let mut away = observation.devices[0].clone();
        away.away = Some("eth0 was removed".into());
        observation.devices.push(away);
        let text = status(&Status::of(&observation), None);
        assert!(text.lines().all(|line| line.len() <= WIDTH), "{text}");
        assert!(text.contains("  ITS TRAFFIC GOES TO THE STACK: its worker makes no turns\n"), "{text}");
        observation.devices[0].queues[1].failed = true;
        let failed = status(&Status::of(&observation), None);
        assert!(failed.contains("  ITS TRAFFIC GOES TO THE STACK: its handler panicked\n"), "{failed}");
        let stalled = "\n  kernel page_pool 9: STALLED for 200 s, 6 pages in flight (umemd pagepool)\n";
        assert!(text.contains(stalled), "{text}");
        let leak = "\nthe capture keeps 3 frames of eth0 queue 0, the oldest for 75.0 s: 1 LEAKED\n";
        assert!(text.contains(leak), "{text}");
        assert!(text.contains("\neth0 (mlx5_core) is away: eth0 was removed\n"), "{text}");
    }
}
