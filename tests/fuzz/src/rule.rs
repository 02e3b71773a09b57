//! The rule language on any text.

use std::sync::OnceLock;

use oracle::{Frame, any_frame};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use umemd::steer::{self, Explanation, RuleError, RuleSet, SetError};

/// Longer than a rule that anybody writes; what is beyond is time that is lost for shorter ones.
const LONGEST: usize = 300;
/// Columns of a terminal.
const COLUMNS: usize = 80;

/// The bytes are the text of a rule.
///
/// # Panics
///
/// Where two ways to what it means disagree, or an error cannot be shown.
pub fn check(data: &[u8]) {
    if data.len() > LONGEST {
        return;
    }
    let text = String::from_utf8_lossy(data).into_owned();
    match steer::compile(&[&text]) {
        Ok(rules) => check_meaning(&text, &rules),
        Err(SetError::Rule(error)) => check_error(&error),
        // More combinations of fields than there may be: by one rule of many networks.
        Err(SetError::Tables(_)) => {}
        Err(other) => panic!("{text:?}: {other}"),
    }
}

/// What is wrong, the rule, carets under the word, the next step; and nothing that a terminal takes for a command.
fn check_error(error: &RuleError) {
    let shown = error.to_string();
    let lines: Vec<&str> = shown.lines().collect();
    let [problem, rule, carets, next] = lines[..] else { panic!("not four lines: {shown:?}") };
    assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
    assert!(problem.starts_with("bad rule: ") && next.trim().len() > 3, "{shown:?}");
    let carets_alone = carets.trim_start();
    assert!(!carets_alone.is_empty() && carets_alone.chars().all(|c| c == '^'), "{shown:?}");
    assert!(carets.chars().count() <= rule.chars().count().max(2) + 1, "a caret under nothing: {shown:?}");
}

fn check_meaning(text: &str, rules: &RuleSet) {
    let again = steer::compile(&[format!("({text})")]);
    match &again {
        Ok(again) => assert_eq!(again[0].terms(), rules[0].terms(), "parentheses change {text:?}"),
        Err(error) => assert!(error.to_string().contains("parentheses in one another"), "{text:?}: {error}"),
    }
    let explanation = Explanation::of(rules).expect("a set of one rule").to_string();
    let too_long = explanation.lines().skip(1).find(|line| line.chars().count() > COLUMNS);
    assert_eq!(too_long, None, "explained in too long a line");

    let (image, matcher) = (crate::image(rules), rules[0].matcher());
    for frame in frames() {
        let matches = matcher.matches(frame);
        if crate::is_cut(frame) {
            // The order of the words matters then, and tcpdump's own tests are what says.
            continue;
        }
        assert_eq!(crate::hits(&image, frame), matches, "{text:?}: tables, of {frame:02x?}");
        assert_eq!(matcher.matches_in_order(frame), matches, "{text:?}: tcpdump's tests, of {frame:02x?}");
    }
}

/// Some of every kind.
fn frames() -> &'static [Vec<u8>] {
    static FRAMES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    FRAMES.get_or_init(|| {
        let built = prop::collection::vec(any_frame(), 200);
        let built = built.new_tree(&mut TestRunner::deterministic()).expect("no rejection").current();
        built.iter().map(Frame::bytes).collect()
    })
}
