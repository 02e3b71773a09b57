//! `umemd rule`: the rules in force, for a terminal.

use std::fmt::Write as _;

use super::{
    numbers::{binary, thousands},
    table::ranges,
};
use crate::{
    protocol::{Changed, ListedRule, OtherAction, RuleListing},
    steer::DefaultAction,
};

/// The table; what a rule asks for is its last column, since it may be long.
pub fn rules(listing: &RuleListing) -> String {
    let width = listing.rules.iter().map(|rule| rule.name.len()).max().unwrap_or(0).max(7);
    let mut text = format!("place  {:width$}  action  {:>15}  {:>10}  match\n", "name", "packets", "bytes");
    for (place, rule) in (1..).zip(&listing.rules) {
        let _ = writeln!(
            text,
            "{place:>5}  {:width$}  {:6}  {:>15}  {:>10}  {}",
            rule.name,
            rule.action.name(),
            thousands(rule.packets),
            binary(rule.bytes) + "B",
            asked(rule),
        );
    }
    let _ = writeln!(
        text,
        "       {:width$}  {:6}  {:>15}  {:>10}  everything else",
        "default",
        name(listing.default),
        thousands(listing.default_packets),
        "",
    );
    text
}

fn asked(rule: &ListedRule) -> String {
    match &rule.queues {
        None => rule.expression.clone(),
        Some(queues) => format!("{} (queues {})", rule.expression, ranges(queues)),
    }
}

/// What is in force after a change.
pub fn changed(changed: &Changed) -> String {
    let mut text = String::new();
    if let [first, rest @ ..] = &changed.added[..] {
        let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
        let _ = writeln!(text, "added {first}{more}");
    }
    let rules = changed.rules;
    let _ = writeln!(
        text,
        "{} rule{} in force, default {}",
        thousands(rules as u64),
        if rules == 1 { "" } else { "s" },
        name(changed.default),
    );
    text
}

fn name(action: OtherAction) -> &'static str {
    DefaultAction::from(action).name()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::RuleAction;

    #[test]
    fn rules_are_a_table_in_their_order() {
        let rule = |name: &str, expression: &str, packets| ListedRule {
            name: name.into(),
            expression: expression.into(),
            action: RuleAction::Steer,
            queues: None,
            packets,
            bytes: packets * 60,
        };
        let limited = ListedRule {
            action: RuleAction::Drop,
            queues: Some(vec![0, 1, 5]),
            ..rule("telemetry", "udp dst port 8000", 0)
        };
        let listing = RuleListing {
            rules: vec![rule("dns", "udp port 53", 1_234_567), limited],
            default: OtherAction::Pass,
            default_packets: 12,
        };
        assert_eq!(
            rules(&listing),
            "\
place  name       action          packets       bytes  match
    1  dns        steer         1,234,567   70.64 MiB  udp port 53
    2  telemetry  drop                  0         0 B  udp dst port 8000 (queues 0-1,5)
       default    pass                 12              everything else
"
        );
    }

    #[test]
    fn a_change_says_what_came_and_what_is_in_force() {
        let added = vec!["a".to_owned(), "b".to_owned()];
        let after = Changed { rules: 1234, default: OtherAction::Drop, added, warnings: Vec::new() };
        assert_eq!(changed(&after), "added a and 1 more\n1,234 rules in force, default drop\n");
        let after = Changed { rules: 1, default: OtherAction::Pass, added: Vec::new(), warnings: Vec::new() };
        assert_eq!(changed(&after), "1 rule in force, default pass\n");
    }
}
