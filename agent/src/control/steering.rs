//! Rules while they are in force: each change is a set of its own, guarded, compiled, and put in force at one moment
//! on each interface, or not at all.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use umemd_common::{Decision, maps::Count};

use super::{
    Agent, Group,
    device::{Device, RuleStep},
    plan::Surroundings,
};
use crate::{
    config::RunConfig,
    protocol::{self, Changed, ListedRule, OtherAction, Refusal, RuleListing, RuleText},
    steer::{DefaultAction, RuleSet, RuleSpec, SetError, guard},
};

impl Agent {
    /// The rules in force, and what they have matched.
    pub(super) fn list_rules(&self) -> RuleListing {
        let rules = &self.common.config().rules;
        let mut counts = vec![Count::default(); rules.len()];
        for ours in self.groups.iter().flat_map(Group::rule_counts) {
            for (sum, rule) in counts.iter_mut().zip(ours) {
                sum.packets += rule.count.packets;
                sum.bytes += rule.count.bytes;
            }
        }
        let rules = rules.iter().zip(counts).map(|(rule, count)| ListedRule {
            name: rule.spec.name.clone(),
            expression: rule.spec.expression.clone(),
            action: rule.spec.action.into(),
            queues: protocol::queue_list(rule.spec.queues),
            packets: count.packets,
            bytes: count.bytes,
        });
        let by_default =
            self.decided().into_iter().filter_map(|(_, decisions)| decisions).map(|decisions| {
                BY_DEFAULT.iter().map(|decision| decisions[*decision as usize]).sum::<u64>()
            });
        RuleListing {
            rules: rules.collect(),
            default: self.common.config().rules.default.into(),
            default_packets: by_default.sum(),
        }
    }

    /// Adds rules at a place counted from 1, or at the end.
    pub(super) fn add_rules(
        &self,
        rules: Vec<RuleText>,
        at: Option<usize>,
        force: bool,
    ) -> Result<Changed, Refusal> {
        let (old, default) = self.specs();
        let at = at.unwrap_or(old.len() + 1);
        if !(1..=old.len() + 1).contains(&at) {
            return Err(Refusal::usage(format_args!(
                "there is no place {at} for a rule: there are {} rules, so 1 to {} are",
                old.len(),
                old.len() + 1
            )));
        }
        let count = rules.len();
        let specs = protocol::insert(old, at - 1, rules).map_err(Refusal::usage)?;
        let added = specs[at - 1..][..count].iter().map(|rule| rule.name.clone()).collect();
        self.put_in_force(RuleSet::compile(specs, default), force)?;
        Ok(self.changed(added))
    }

    /// Removes rules by name.
    pub(super) fn delete_rules(&self, names: &[String], force: bool) -> Result<Changed, Refusal> {
        let (mut specs, default) = self.specs();
        for name in names {
            if !specs.iter().any(|rule| rule.name == *name) {
                let known: Vec<&str> = specs.iter().take(SHOWN).map(|rule| rule.name.as_str()).collect();
                let more = if specs.len() > SHOWN { ", and more" } else { "" };
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") + more };
                return Err(Refusal::usage(format_args!("there is no rule `{name}`; there are: {known}")));
            }
        }
        specs.retain(|rule| !names.contains(&rule.name));
        self.put_in_force(RuleSet::compile(specs, default), force)?;
        Ok(self.changed(Vec::new()))
    }

    /// Puts these rules in the place of all others.
    pub(super) fn replace_rules(
        &self,
        rules: Vec<RuleText>,
        default: Option<OtherAction>,
        force: bool,
    ) -> Result<Changed, Refusal> {
        let default = default.unwrap_or_else(|| self.common.config().rules.default.into());
        self.put_in_force(protocol::compile(rules, default), force)?;
        Ok(self.changed(self.specs().0.into_iter().map(|rule| rule.name).collect()))
    }

    /// Changes what becomes of frames without a rule.
    pub(super) fn change_default(&self, action: OtherAction, force: bool) -> Result<Changed, Refusal> {
        self.put_in_force(RuleSet::compile(self.specs().0, action.into()), force)?;
        Ok(self.changed(Vec::new()))
    }

    fn specs(&self) -> (Vec<RuleSpec>, DefaultAction) {
        let rules = &self.common.config().rules;
        (rules.specs(), rules.default)
    }

    /// What is in force now.
    pub(super) fn changed(&self, added: Vec<String>) -> Changed {
        let rules = &self.common.config().rules;
        Changed { rules: rules.len(), default: rules.default.into(), added, warnings: self.warnings() }
    }

    /// Puts rules that somebody asked for in force, or says why not.
    fn put_in_force(&self, rules: Result<RuleSet, SetError>, force: bool) -> Result<(), Refusal> {
        let rules = rules.map_err(Refusal::usage)?;
        self.change_to(rules, force).map_err(|error| Refusal::refused(format_args!("{error:#}")))
    }

    /// The one way in which rules change: refused rules, and rules that the kernel does not take, leave the old ones
    /// in force.
    pub(super) fn change_to(&self, rules: RuleSet, force: bool) -> Result<()> {
        let before = self.common.config();
        // So that those that stay go on counting.
        let rules = Arc::new(rules.named_as_in(&before.rules));
        let harmless = self.guard(&before.rules, &rules, force)?;
        self.change_rules(&rules).context("the rules are not in force, those before stay")?;
        // An interface that comes back is guarded again, except for what was forced.
        let forced = match harmless {
            true => None,
            false if force => Some(Arc::clone(&rules)),
            false => before.forced.clone(),
        };
        self.common.set_config(RunConfig { rules: Arc::clone(&rules), forced, ..RunConfig::clone(&before) });
        // Counts by the names before.
        self.asked.take();
        log::info!("rules in force: {}, the default is {}", rules.len(), rules.default.name());
        for warning in self.warnings() {
            log::warn!("{warning}");
        }
        Ok(())
    }

    /// What is in force and will not be as hoped.
    fn warnings(&self) -> Vec<String> {
        let rules = &self.common.config().rules;
        let mut warnings = Vec::new();
        let _ = self.each_device(|device| {
            warnings.extend(device.plan.warnings(rules));
            Ok(())
        });
        warnings
    }

    /// Puts rules in force on every interface that is served, or on none.
    fn change_rules(&self, rules: &RuleSet) -> Result<()> {
        let on_all = |step| self.each_device(|device| device.change_rules(step));
        in_steps(rules, on_all)
    }

    /// Refuses rules that would cut off what the rules before did not; whether nothing at all is known to be cut off.
    fn guard(&self, before: &RuleSet, rules: &RuleSet, force: bool) -> Result<bool> {
        let surroundings = match Surroundings::ask() {
            Err(_) if force => return Ok(false),
            surroundings => surroundings.context(
                "cannot tell whom the rules would cut off, so they are not in force; --force does without knowing",
            )?,
        };
        // Whom they cut off on an interface that is away is seen when it comes back.
        let mut harmless = self.groups.iter().all(|group| group.with(|_| ()).is_some());
        self.each_device(|device| {
            let link = &device.plan.link;
            match guard::refuse_lock_out(rules, Some(before), &surroundings.facts(link)) {
                Ok(cuts_nothing) => harmless &= cuts_nothing,
                Err(_) if force => harmless = false,
                Err(error) => return Err(error).with_context(|| format!("not changed on {}", link.name)),
            }
            Ok(())
        })?;
        Ok(harmless)
    }

    /// Every interface that is served, up to the first error.
    fn each_device(&self, mut f: impl FnMut(&Device) -> Result<()>) -> Result<()> {
        for group in &self.groups {
            group.with(|open| open.devices.iter().try_for_each(&mut f)).transpose()?;
        }
        Ok(())
    }
}

/// A change of rules in steps, each on all interfaces before the next: what may be refused comes first. After an error
/// every interface has the rules that it had.
fn in_steps<'a>(rules: &'a RuleSet, on_all: impl Fn(RuleStep<'a>) -> Result<()>) -> Result<()> {
    let changed = on_all(RuleStep::WriteAside(rules)).and_then(|()| on_all(RuleStep::Switch));
    on_all(if changed.is_ok() { RuleStep::Finish } else { RuleStep::Undo })?;
    changed
}

/// Of frames that no rule matches.
const BY_DEFAULT: [Decision; 6] = [
    Decision::Unmatched,
    Decision::Truncated,
    Decision::Malformed,
    Decision::UnmatchedDropped,
    Decision::TruncatedDropped,
    Decision::MalformedDropped,
];

/// Names that are enough to see a slip.
const SHOWN: usize = 12;

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use anyhow::bail;

    use super::*;

    /// An interface whose rules are a number, and which fails at a step.
    #[derive(Default)]
    struct Fake {
        in_force: Cell<u32>,
        aside: Cell<Option<u32>>,
        before: Cell<Option<u32>>,
        fails_at: Option<&'static str>,
    }

    impl Fake {
        fn step(&self, step: RuleStep<'_>) -> Result<()> {
            let name = match step {
                RuleStep::WriteAside(_) => "write",
                RuleStep::Switch => "switch",
                RuleStep::Undo => "undo",
                RuleStep::Finish => "finish",
            };
            if self.fails_at == Some(name) {
                bail!("{name} fails");
            }
            match step {
                RuleStep::WriteAside(_) => self.aside.set(Some(2)),
                RuleStep::Switch => {
                    self.before.set(Some(self.in_force.get()));
                    self.in_force.set(self.aside.take().expect("written before"));
                }
                RuleStep::Undo => {
                    self.aside.set(None);
                    self.in_force.set(self.before.take().unwrap_or(self.in_force.get()));
                }
                RuleStep::Finish => self.before.set(None),
            }
            Ok(())
        }
    }

    #[test]
    fn what_one_interface_refuses_is_in_force_on_none() {
        for (place, fails_at) in [
            (2, None),
            (0, Some("write")),
            (1, Some("write")),
            (2, Some("write")),
            (0, Some("switch")),
            (1, Some("switch")),
            (2, Some("switch")),
        ] {
            let fakes = [0, 1, 2].map(|number| Fake {
                in_force: Cell::new(1),
                fails_at: fails_at.filter(|_| number == place),
                ..Fake::default()
            });
            let rules = RuleSet::default();
            let changed = in_steps(&rules, |step| fakes.iter().try_for_each(|fake| fake.step(step)));
            assert_eq!(changed.is_ok(), fails_at.is_none());
            let expected = if changed.is_ok() { 2 } else { 1 };
            for fake in &fakes {
                let left = (fake.in_force.get(), fake.aside.get(), fake.before.get());
                assert_eq!(left, (expected, None, None), "{fails_at:?} on {place}");
            }
        }
    }
}
