//! Entries against a plain oracle: bit by bit.

use proptest::prelude::*;
use umemd_common::key::field;
use umemd_common::{Key, Rule};

/// Keys from few values, so that they meet.
fn key() -> impl Strategy<Value = Key> {
    prop::array::uniform8(0_u64..3).prop_map(|words| Key { words })
}

proptest! {
    #[test]
    fn an_entry_matches_what_its_oracle_does(mask in key(), value in key(), key in key()) {
        let value = value.zip(&mask, |value, mask| value & mask);
        let rule = Rule { mask, value };
        let oracle = (0..512).all(|bit| {
            let of = |key: &Key| key.words[bit / 64] >> (bit % 64) & 1;
            of(&mask) == 0 || of(&key) == of(&value)
        });
        prop_assert_eq!(rule.matches(&key), oracle);
    }
}

#[test]
fn all_matches_even_what_could_not_be_read() {
    assert!(Rule::ALL.matches(&Key::default()));
    assert!(Rule::ALL.matches(&Key::default().with_fields(field::TRUNCATED | field::MALFORMED)));
}
