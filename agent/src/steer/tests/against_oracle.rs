//! Parser, compiler and tables against the plain oracle, and any text against the parser.

use proptest::prelude::*;

use super::*;
use oracle::{Expr, Frame, any_frame, expression};

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_rule_matches_what_the_oracle_does(
        expr in expression(), frames in prop::collection::vec(any_frame(), 1..40)
    ) {
        let words = expr.words();
        if let Some(rules) = compiled(&words) {
            let image = image(&rules);
            let matcher = rules[0].matcher();
            for built in &frames {
                let whole = Frame { cut: None, ..built.clone() }.bytes();
                let expected = expr.matches(&whole, &mut 0);
                prop_assert_eq!(hit(&image, &whole).is_some(), expected, "`{}` on {:?}", words, built);
                // Where a frame ends within what it announces, the order matters as well.
                if !is_cut(&whole) {
                    prop_assert_eq!(matcher.matches(&whole), expected, "`{}` on {:?}", words, built);
                }
            }
        }
    }

    #[test]
    fn the_first_rule_with_a_matching_entry_is_found_whatever_the_frame(
        exprs in prop::collection::vec(expression(), 1..8), frames in prop::collection::vec(any_frame(), 1..40)
    ) {
        let texts: Vec<String> = exprs.iter().map(Expr::words).filter(|words| compiled(words).is_some()).collect();
        if let Ok(rules) = compile(&texts) {
            let image = image(&rules);
            for built in &frames {
                let bytes = built.bytes();
                let depths = terms::parse_all(bytes.as_slice());
                let first = rules.iter().position(|rule| {
                    rule.terms().iter().any(|term| term.rule.matches(&depths[term.tags].key))
                });
                prop_assert_eq!(hit(&image, &bytes), first.map(|rule| rule as u32), "{:?} on {:?}", texts, built);
            }
        }
    }

    #[test]
    fn any_text_is_a_rule_or_an_error_that_can_be_shown(text in r"([a-z]{1,5}|[0-9()&|!\\ .:/\-\u{e9}\t]){0,12}") {
        if let Err(SetError::Rule(error)) = compile(&[&text]) {
            prop_assert!(error.to_string().lines().count() == 4);
        }
    }

    #[test]
    fn any_words_of_the_language_are_a_rule_or_an_error_that_can_be_shown(
        words in prop::collection::vec(prop::sample::select(vec![
            "all", "ip", "ip6", "arp", "tcp", "udp", "icmp6", "src", "dst", "port", "proto", "ether", "7", "0x800",
            r"\tcp", "and", "or", "&&", "(", ")", "not", "vlan", "host", "net", "portrange", "10.0.0.1", "10.0.0.0/8",
            "fd00::/8", "fd00::1", "7-9", "02:00:00:00:00:01",
        ]), 0..10)
    ) {
        if let Err(SetError::Rule(error)) = compile(&[words.join(" ")]) {
            prop_assert!(error.to_string().lines().count() == 4);
        }
    }
}
