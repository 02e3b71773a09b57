//! Rules against a plain oracle: a list of fields, each asked for or not.

use proptest::prelude::*;
use umemd_common::packet::field;
use umemd_common::{Decision, Key, Rule, decide};

prop_compose! {
    /// Keys from few values, so that they meet.
    fn key()(
        fields in 0_u32..32, ether_proto in 0_u16..3, src_port in 0_u16..3, dst_port in 0_u16..3,
        ip_proto in 0_u8..3, fragment_proto in 0_u8..3
    ) -> Key {
        Key { fields, ether_proto, src_port, dst_port, ip_proto, fragment_proto }
    }
}

/// Which fields a rule asks for, and the rule that does.
fn rule() -> impl Strategy<Value = ([bool; 6], Rule)> {
    (any::<[bool; 6]>(), key()).prop_map(|(asked, key)| {
        let all = |asked: bool| if asked { u16::MAX } else { 0 };
        let mask = Key {
            fields: if asked[0] { u32::MAX } else { 0 },
            ether_proto: all(asked[1]),
            src_port: all(asked[2]),
            dst_port: all(asked[3]),
            ip_proto: all(asked[4]) as u8,
            fragment_proto: all(asked[5]) as u8,
        };
        let value = Key {
            fields: key.fields & mask.fields,
            ether_proto: key.ether_proto & mask.ether_proto,
            src_port: key.src_port & mask.src_port,
            dst_port: key.dst_port & mask.dst_port,
            ip_proto: key.ip_proto & mask.ip_proto,
            fragment_proto: key.fragment_proto & mask.fragment_proto,
        };
        (asked, Rule { mask, value })
    })
}

fn oracle(asked: &[bool; 6], value: &Key, key: &Key) -> bool {
    let list = |key: &Key| -> [u32; 6] {
        [
            key.fields,
            key.ether_proto.into(),
            key.src_port.into(),
            key.dst_port.into(),
            key.ip_proto.into(),
            key.fragment_proto.into(),
        ]
    };
    asked
        .iter()
        .zip(list(value).iter().zip(list(key).iter()))
        .all(|(asked, (want, have))| !asked || want == have)
}

proptest! {
    #[test]
    fn a_rule_matches_what_its_oracle_does((asked, rule) in rule(), key in key()) {
        prop_assert_eq!(rule.matches(&key), oracle(&asked, &rule.value, &key));
    }

    #[test]
    fn a_list_steers_what_one_of_its_rules_matches(
        rules in prop::collection::vec(rule(), 0..5), key in key()
    ) {
        let any = rules.iter().any(|(asked, rule)| oracle(asked, &rule.value, &key));
        let rules: Vec<Rule> = rules.into_iter().map(|(_, rule)| rule).collect();
        prop_assert_eq!(decide(&key, &rules) == Decision::Steered, any);
    }
}

#[test]
fn all_matches_even_what_could_not_be_read() {
    assert!(Rule::ALL.matches(&Key::default()));
    assert!(Rule::ALL.matches(&Key { fields: field::TRUNCATED | field::MALFORMED, ..Key::default() }));
}

#[test]
fn port_0_is_not_a_missing_port() {
    let port_0 = Key { fields: field::DST_PORT, ..Key::default() };
    let rule = Rule { mask: Key { dst_port: 0xffff, ..port_0 }, value: port_0 };
    assert!(rule.matches(&port_0));
    assert!(!rule.matches(&Key::default()));
}
