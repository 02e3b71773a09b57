//! Rules as they are written down: on the control socket as JSON, in files as TOML.

use serde::{Deserialize, Serialize};
use umemd_common::decision::Action;

use crate::steer::{DefaultAction, RuleSet, RuleSpec, SetError, action_name, dealt_name, queue_bits};

/// A rule; `T` is its expression, with or without its place in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleText<T = String> {
    /// By which it is known; without one it is called `rule1`, or the next number that is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Which frames, in tcpdump's words.
    #[serde(rename = "match")]
    pub expression: T,
    /// What becomes of them.
    #[serde(default)]
    pub action: RuleAction,
    /// The queues that steer; on the others, what matches is the stack's. Without it: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queues: Option<Vec<u32>>,
}

/// What becomes of the frames of a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleAction {
    /// They go to the queue's AF_XDP socket, or to the stack if there is none.
    #[default]
    Steer,
    /// They go to the stack.
    Pass,
    /// They are dropped.
    Drop,
}

/// What becomes of frames without a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OtherAction {
    /// They go to the stack.
    #[default]
    Pass,
    /// They are dropped.
    Drop,
}

/// All rules, and what they have matched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleListing {
    /// In their order: the first that matches decides.
    pub rules: Vec<ListedRule>,
    /// What becomes of the frames that none matches.
    pub default: OtherAction,
    /// How many there were, since the interfaces were opened.
    pub default_packets: u64,
}

/// A rule in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedRule {
    /// Its name.
    pub name: String,
    /// Which frames, in tcpdump's words.
    #[serde(rename = "match")]
    pub expression: String,
    /// What becomes of them.
    pub action: RuleAction,
    /// The queues that steer, if not all do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queues: Option<Vec<u32>>,
    /// Frames that it matched on all interfaces, since it came or they were opened.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl From<RuleAction> for Action {
    fn from(action: RuleAction) -> Self {
        match action {
            RuleAction::Steer => Self::Redirect,
            RuleAction::Pass => Self::Pass,
            RuleAction::Drop => Self::Drop,
        }
    }
}

impl From<Action> for RuleAction {
    fn from(action: Action) -> Self {
        match action {
            Action::Redirect => Self::Steer,
            Action::Pass => Self::Pass,
            Action::Drop => Self::Drop,
        }
    }
}

impl RuleAction {
    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        action_name(self.into())
    }
}

impl From<OtherAction> for DefaultAction {
    fn from(action: OtherAction) -> Self {
        match action {
            OtherAction::Pass => Self::Pass,
            OtherAction::Drop => Self::Drop,
        }
    }
}

impl From<DefaultAction> for OtherAction {
    fn from(action: DefaultAction) -> Self {
        match action {
            DefaultAction::Pass => Self::Pass,
            DefaultAction::Drop => Self::Drop,
        }
    }
}

impl RuleText {
    /// A rule that steers, of no name.
    #[must_use]
    pub fn steer(expression: &str) -> Self {
        Self { name: None, expression: expression.to_owned(), action: RuleAction::Steer, queues: None }
    }

    fn spec(mut self, dealt: &mut impl Iterator<Item = String>) -> Result<RuleSpec, SetError> {
        let given = self.name.take();
        let is_dealt = given.is_none();
        let name = given.or_else(|| dealt.next()).unwrap_or_default();
        let queues = self.queues.map(|queues| queue_bits(&name, &queues)).transpose()?;
        let Self { expression, action, .. } = self;
        Ok(RuleSpec { name, dealt: is_dealt, expression, action: action.into(), queues })
    }
}

/// Puts rules among others that are in force, at a place counted from 0; those that have no name get one.
///
/// # Errors
///
/// A queue that no rule can name.
pub fn insert(mut others: Vec<RuleSpec>, at: usize, rules: Vec<RuleText>) -> Result<Vec<RuleSpec>, SetError> {
    let taken =
        others.iter().map(|rule| rule.name.clone()).chain(rules.iter().filter_map(|r| r.name.clone()));
    let taken: std::collections::HashSet<String> = taken.collect();
    let mut free = (1_u64..).map(dealt_name).filter(|name| !taken.contains(name));
    let specs: Vec<RuleSpec> =
        rules.into_iter().map(|rule| rule.spec(&mut free)).collect::<Result<_, _>>()?;
    others.splice(at..at, specs);
    Ok(others)
}

/// Compiles rules as they are written down.
///
/// # Errors
///
/// As [`RuleSet::compile`].
pub fn compile(rules: Vec<RuleText>, default: OtherAction) -> Result<RuleSet, SetError> {
    RuleSet::compile(insert(Vec::new(), 0, rules)?, default.into())
}

/// Queues of a rule as they are written, from their bits.
#[must_use]
pub fn queue_list(bits: Option<u64>) -> Option<Vec<u32>> {
    bits.map(|bits| (0..u64::BITS).filter(|queue| bits >> queue & 1 != 0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_needs_nothing_but_its_expression() {
        let rule: RuleText = serde_json::from_str(r#"{"match":"arp"}"#).unwrap();
        assert_eq!(rule, RuleText::steer("arp"));
        assert_eq!(serde_json::to_string(&rule).unwrap(), r#"{"match":"arp","action":"steer"}"#);
        for bad in
            [r#"{"name":"a"}"#, r#"{"match":"arp","action":"redirect"}"#, r#"{"match":"arp","port":1}"#]
        {
            assert!(serde_json::from_str::<RuleText>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rules_without_a_name_get_the_next_that_is_free() {
        let named = |name: &str| RuleText { name: Some(name.to_owned()), ..RuleText::steer("arp") };
        let names = |specs: &[RuleSpec]| specs.iter().map(|spec| spec.name.clone()).collect::<Vec<_>>();
        let first =
            insert(Vec::new(), 0, vec![named("rule2"), RuleText::steer("ip"), RuleText::steer("ip6")])
                .unwrap();
        assert_eq!(names(&first), ["rule2", "rule1", "rule3"]);
        let more = insert(first.clone(), 1, vec![RuleText::steer("tcp")]).unwrap();
        assert_eq!(names(&more), ["rule2", "rule4", "rule1", "rule3"]);
        let beyond = RuleText { queues: Some(vec![0, 64]), ..RuleText::steer("tcp") };
        assert!(matches!(insert(first, 0, vec![beyond]), Err(SetError::Queue { queue: 64, .. })));
        let twice = compile(vec![named("a"), named("a")], OtherAction::Pass);
        assert!(matches!(twice, Err(SetError::Twice(name)) if name == "a"));
    }

    #[test]
    fn queues_are_bits_and_back() {
        let rule = RuleText { queues: Some(vec![0, 5, 63]), ..RuleText::steer("arp") };
        let rules = compile(vec![rule], OtherAction::Drop).unwrap();
        assert_eq!(queue_list(rules[0].spec.queues), Some(vec![0, 5, 63]));
        assert_eq!((queue_list(None), rules.default), (None, DefaultAction::Drop));
    }
}
