//! What each rule has matched, and how often the configuration was read again.

use umemd_common::maps::Count;

use super::{Kind, Metric, Read, metrics, worker};
use crate::{
    ebpf::RuleCount,
    observe::{DeviceView, Observation, Reloads},
    steer::action_name,
};

/// Rules that have series of their own; the others are added up, so that 10,000 rules are not 20,000 series.
pub(in crate::metrics) const MOST: usize = 256;
/// As what.
const OTHERS: &str = "other";

pub(super) const TABLES: &[Metric] = metrics! { Device
    Gauge "umemd_steer_map_entries" ["map"] "Entries of the program's tables that the rules in force take."
        |device, out| device.tables.iter().for_each(|(map, used, _)| out.add_with(&[map], *used));
    Gauge "umemd_steer_map_capacity" ["map"] "Entries that there are in each of them."
        |device, out| device.tables.iter().for_each(|(map, _, room)| out.add_with(&[map], *room));
};

pub(super) const RULES: &[Metric] = &[
    Metric {
        name: "umemd_steer_rule_info",
        kind: Kind::Gauge,
        labels: &["rule", "action", "match"],
        help: "The rules in force, the first 256 of them, as they were given.",
        read: Read::Agent(|observation, out| {
            for rule in observation.rules.iter().take(MOST) {
                out.add_with(&[&rule.spec.name, action_name(rule.spec.action), &rule.spec.expression], true);
            }
        }),
    },
    Metric {
        name: "umemd_steer_rule_packets",
        kind: Kind::Counter,
        labels: &["rule"],
        help: "Frames that the rule matched first; begins at 0 when the rule comes. Up to 0.9 seconds old, as the program is not asked more often. Rules beyond 256 are added up as other, which falls when one of the 256 goes and the next takes its place.",
        read: Read::Device(|device, out| {
            for (rule, packets) in counts(device, |count| count.packets) {
                out.add_with(&[rule], packets);
            }
        }),
    },
    Metric {
        name: "umemd_steer_rule_bytes",
        kind: Kind::Counter,
        labels: &["rule"],
        help: "Their bytes, from the Ethernet header on; as old.",
        read: Read::Device(|device, out| {
            for (rule, bytes) in counts(device, |count| count.bytes) {
                out.add_with(&[rule], bytes);
            }
        }),
    },
];

pub(super) const RELOADS: &[Metric] = &[
    Metric {
        name: "umemd_config_last_reload_successful",
        kind: Kind::Gauge,
        labels: &[],
        help: "1 if what the configuration file said last is in force, 0 if it was refused; 1 from the start on.",
        read: Read::Agent(|observation, out| out.add(observation.reloads.good)),
    },
    Metric {
        name: "umemd_config_last_reload_success_timestamp_seconds",
        kind: Kind::Gauge,
        labels: &[],
        help: "When the configuration was last put in force.",
        read: Read::Agent(|observation, out| {
            out.add(worker::millis(worker::unix(observation.reloads.at)));
        }),
    },
    Metric {
        name: "umemd_config_reloads",
        kind: Kind::Counter,
        labels: &["result"],
        help: "How often the configuration file was read again, by what became of it.",
        read: Read::Agent(|observation: &Observation, out| {
            let Reloads { applied, rejected, .. } = observation.reloads;
            out.add_with(&["applied"], applied);
            out.add_with(&["rejected"], rejected);
        }),
    },
];

/// Each rule that has series of its own, with its count, and the others as one.
fn counts<'a>(
    device: &'a DeviceView,
    of: impl Fn(&Count) -> u64 + Copy + 'a,
) -> impl Iterator<Item = (&'a str, u64)> {
    let (own, beyond) = device.rules.split_at(device.rules.len().min(MOST));
    let of_beyond: u64 = beyond.iter().map(|rule| of(&rule.count)).sum();
    // Names are there once, but somebody may have called a rule that, too.
    let is_others = |rule: &RuleCount| rule.name == OTHERS;
    let others = (!beyond.is_empty() && !own.iter().any(is_others)).then_some((OTHERS, of_beyond));
    let own = own.iter().map(move |rule| {
        let more = if is_others(rule) { of_beyond } else { 0 };
        (rule.name.as_str(), of(&rule.count) + more)
    });
    own.chain(others)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::fixture_with_kernel;

    #[test]
    fn rules_beyond_what_has_series_are_added_up() {
        let mut device = fixture_with_kernel().devices.remove(0);
        let count = Count { packets: 2, bytes: 120 };
        device.rules = (0..MOST + 44).map(|n| RuleCount { name: format!("rule{n}"), count }).collect();
        let packets: Vec<_> = counts(&device, |count| count.packets).collect();
        assert_eq!(
            (packets.len(), packets[MOST - 1], packets[MOST]),
            (MOST + 1, ("rule255", 2), (OTHERS, 88))
        );

        // Who is called that has one series with them.
        device.rules[7].name = OTHERS.to_owned();
        let packets: Vec<_> = counts(&device, |count| count.packets).collect();
        assert_eq!((packets.len(), packets[6], packets[7]), (MOST, ("rule6", 2), (OTHERS, 90)));

        device.rules.truncate(MOST);
        let bytes: Vec<_> = counts(&device, |count| count.bytes).collect();
        assert_eq!((bytes.len(), bytes[7]), (MOST, (OTHERS, 120)), "nobody is beyond");
    }
}
