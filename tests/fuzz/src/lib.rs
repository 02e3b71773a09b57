//! What has to be true of any bytes: each target is a function that panics where it is not.
//!
//! | target | the bytes are | what has to be true |
//! | --- | --- | --- |
//! | [`parser`] | a frame | each primitive of the language matches it, whole and cut, if the oracle says so |
//! | [`rule`] | the text of a rule | it is a rule, of which the tables, the entries and tcpdump's own tests say the same; or an error that can be shown |
//!
//! A fuzzer is not needed to ask once: the tests replay the corpora, in which a fuzzer left what reached new code.

#![forbid(unsafe_code)]

pub mod parser;
pub mod rule;

use umemd::steer::{Image, RuleSet};
use umemd_common::{judge, parse};

/// A target, by the name of its corpus.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 2] = [("parser", parser::check), ("rule", rule::check)];

/// The tables of a rule.
fn image(rules: &RuleSet) -> Image {
    let counters: Vec<u16> = (0..rules.len() as u16).collect();
    Image::build(rules, &counters, 0).expect("compiled rules fit")
}

/// Whether the tables have a rule for this frame.
fn hits(image: &Image, frame: &[u8]) -> bool {
    judge(image, frame, 0).rule().is_some()
}

/// Whether the frame ends where it announces more, in front of tags or behind them.
fn is_cut(frame: &[u8]) -> bool {
    [parse::<0, _>(frame), parse::<1, _>(frame), parse::<2, _>(frame)].iter().any(|read| read.missing != 0)
}
