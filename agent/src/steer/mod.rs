//! What is steered: rules in the words of pcap-filter(7), compiled to the tables of the program, and the guard
//! against locking oneself out.
//!
//! | words | frames |
//! | --- | --- |
//! | `all` | every frame; tcpdump says this with no words at all |
//! | `ip`, `ip6`, `arp`, `rarp` | by EtherType |
//! | `tcp`, `udp`, `sctp` | over IPv4 or IPv6, behind an IPv6 fragment header too |
//! | `icmp`, `icmp6` | ICMP over IPv4, ICMPv6 over IPv6 |
//! | `[tcp\|udp\|sctp] [src\|dst] port N`, `portrange N-M` | over IPv4 or IPv6, except what is not the first fragment; also `src or dst`, `src and dst` |
//! | `[ip\|arp\|rarp] [src\|dst] host 10.0.0.1`, `net 10.0.0.0/8` | of IPv4, and of ARP and RARP |
//! | `[ip6] [src\|dst] host fd00::1`, `net fd00::/8` | of IPv6 |
//! | `ether src\|dst\|host MAC` | by MAC address |
//! | `[ip\|ip6] proto N` | a number, or `\tcp`, `\udp`, `\sctp`, `\icmp` |
//! | `ether proto N` | a number from 1501 on but for AppleTalk's, or `\ip`, `\ip6`, `\arp`, `\rarp` |
//! | `vlan`, `vlan N` | with a tag; whatever is said behind this word, `or` or not, looks behind the tag; twice for QinQ |
//! | `and`, `&&`, `or`, `\|\|`, `( )` | `and` and `or` bind equally and from the left; a value alone, or several in parentheses, take up the words before the last one |
//!
//! All of it means what it means to tcpdump, and what tcpdump refuses is refused (`ip port 7`). One
//! difference is left in the program: a frame that ends inside its headers ends tcpdump's search at the first word
//! that looks beyond the end, while the program still tries the next alternative of an `or`. [`Matcher`] does as
//! tcpdump does.

mod address;
pub mod capture;
mod error;
mod explain;
mod filter;
pub mod guard;
mod lex;
mod parse;
mod tables;
mod terms;

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};

pub use error::RuleError;
pub use explain::Explanation;
use filter::{Filter, Tree};
use parse::Meaning;
pub use tables::{Image, TablesError, action_name};
pub use terms::Term;
use thiserror::Error;
use umemd_common::decision::Action;
use umemd_common::key::field;
use umemd_common::maps::{MAX_QUEUES, MAX_RULES, MAX_UNITS};
use umemd_common::packet::{ETH_P_8021AD, ETH_P_8021Q};

/// The name of a rule that has none.
#[must_use]
pub fn dealt_name(number: u64) -> String {
    format!("rule{number}")
}

/// A rule as it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSpec {
    /// By which it is known: in metrics, and to whom wants to remove it.
    pub name: String,
    /// Whether that is a number that was dealt: it says nothing of which rule this is, its words do.
    pub dealt: bool,
    /// Which frames, in tcpdump's words.
    pub expression: String,
    /// What becomes of them.
    pub action: Action,
    /// The queues that steer, a bit each; on the others, what matches goes to the stack. `None`: all.
    pub queues: Option<u64>,
}

impl RuleSpec {
    /// Steers these frames, on every queue.
    #[must_use]
    pub fn steer(name: &str, expression: &str) -> Self {
        Self {
            name: name.to_owned(),
            dealt: false,
            expression: expression.to_owned(),
            action: Action::Redirect,
            queues: None,
        }
    }

    /// What it says and does, whatever it is called.
    fn words(&self) -> (&str, Action, Option<u64>) {
        (&self.expression, self.action, self.queues)
    }
}

/// How many rules were compiled.
static SERIALS: AtomicU64 = AtomicU64::new(0);

/// A rule, compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// As it was given.
    pub spec: RuleSpec,
    /// See [`serial`](Self::serial).
    serial: u64,
    /// The alternatives, of which one has to match.
    terms: Vec<Term>,
    tree: Tree,
}

impl Rule {
    /// Which rule it is, of all that there ever were in this process: what goes on counting is [known](RuleSet::named_as_in)
    /// by it.
    #[must_use]
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// The entries that it is compiled to, in the order in which the expression names them.
    #[must_use]
    pub fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// What says of a frame whether tcpdump matches it.
    #[must_use]
    pub fn matcher(&self) -> Matcher<'_> {
        let tags = self.terms.iter().map(|term| term.tags).max().unwrap_or(0);
        Matcher { terms: &self.terms, tags, tree: &self.tree, filter: OnceCell::new() }
    }
}

/// A rule, on the host.
#[derive(Debug)]
pub struct Matcher<'a> {
    terms: &'a [Term],
    /// How many tags it may look behind.
    tags: usize,
    tree: &'a Tree,
    /// Made for the first frame that needs it: with hundreds of words that takes a second.
    filter: OnceCell<Filter>,
}

impl Matcher<'_> {
    /// Whether `tcpdump EXPRESSION` matches this frame.
    ///
    /// As the program does: the frame's headers are read, and compared with the entries. But where the frame ends
    /// within them, as tcpdump does.
    ///
    /// tcpdump's optimizer errs on few expressions, such as `A and (port 0 or A)` where `A` is
    /// `ip6 dst net fd00::/33` (seen with libpcap 1.10.3): what is matched here is what the expression says.
    #[must_use]
    pub fn matches(&self, frame: &[u8]) -> bool {
        let depths = terms::parse_all(frame);
        if depths[..=self.tags].iter().all(|parsed| parsed.missing == 0) {
            self.terms.iter().any(|term| term.rule.matches(&depths[term.tags].key))
        } else {
            self.matches_in_order(frame)
        }
    }

    /// What tcpdump's own tests say, one after the other.
    ///
    /// [`matches`](Self::matches) needs them where a frame ends within its headers; of all others the two say the same,
    /// by ways that have nothing in common.
    #[must_use]
    pub fn matches_in_order(&self, frame: &[u8]) -> bool {
        self.filter.get_or_init(|| Filter::compile(self.tree)).matches(frame)
    }
}

/// What becomes of frames without a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DefaultAction {
    /// They are the stack's.
    #[default]
    Pass,
    /// They are dropped.
    Drop,
}

impl DefaultAction {
    /// As it is called.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
        }
    }
}

/// Rules in their order, compiled, the first of which that matches a frame decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSet {
    rules: Vec<Rule>,
    /// What becomes of the other frames.
    pub default: DefaultAction,
}

/// Why a set of rules is refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SetError {
    /// An expression that cannot be used, with a caret under the word.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// A name that is empty or holds something else than letters, digits and `-_.`.
    #[error(
        "{0:?} is no name for a rule; it is made of letters, digits, `-`, `_` and `.`, and of 64 at most"
    )]
    Name(String),
    /// Two rules with one name.
    #[error("two rules are called `{0}`; give one of them another name")]
    Twice(String),
    /// A queue that no rule can name.
    #[error("rule `{rule}` names queue {queue}, and rules can name those from 0 to {}", MAX_QUEUES - 1)]
    Queue {
        /// The rule.
        rule: String,
        /// The queue.
        queue: u32,
    },
    /// A rule that is limited to no queue at all.
    #[error("rule `{0}` steers on no queue; name some, or leave its queues away for all")]
    NoQueues(String),
    /// Queues of a rule that does not steer.
    #[error("rule `{0}` does not steer, and only `steer` can be limited to queues; leave its queues away")]
    NoSteer(String),
    /// More rules than there is room for.
    #[error("{0} rules are too many: {MAX_RULES} are possible; a net or a portrange says many in one")]
    TooMany(usize),
    /// More alternatives, of all rules together, than anybody could have meant.
    #[error("the rules have more than {MAX_UNITS} alternatives in all; give fewer, or narrower ones")]
    TooManyAlternatives,
    /// More shapes or entries than there is room for.
    #[error(transparent)]
    Tables(#[from] TablesError),
}

impl Deref for RuleSet {
    type Target = [Rule];

    fn deref(&self) -> &[Rule] {
        &self.rules
    }
}

impl RuleSet {
    /// Compiles rules in this order.
    ///
    /// # Errors
    ///
    /// The first rule that is wrong, or what is wrong with all of them together.
    pub fn compile(specs: Vec<RuleSpec>, default: DefaultAction) -> Result<Self, SetError> {
        if specs.len() > MAX_RULES as usize {
            return Err(SetError::TooMany(specs.len()));
        }
        let mut names = HashSet::new();
        let mut rules = Vec::with_capacity(specs.len());
        let mut entries = 0;
        for spec in specs {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if spec.name.is_empty() || spec.name.len() > 64 || !spec.name.chars().all(plain) {
                return Err(SetError::Name(spec.name));
            }
            if !names.insert(spec.name.clone()) {
                return Err(SetError::Twice(spec.name));
            }
            if spec.queues.is_some() && spec.action != Action::Redirect {
                return Err(SetError::NoSteer(spec.name));
            }
            if spec.queues == Some(0) {
                return Err(SetError::NoQueues(spec.name));
            }
            let Meaning { terms, tree } = parse::parse(&spec.expression)?;
            let terms = terms.into_terms();
            entries += terms.len();
            // Before they take much memory.
            if entries > MAX_UNITS as usize {
                return Err(SetError::TooManyAlternatives);
            }
            rules.push(Rule { spec, serial: SERIALS.fetch_add(1, Ordering::Relaxed), terms, tree });
        }
        let set = Self { rules, default };
        // That they fit is known before anybody relies on them.
        Image::build(&set, &vec![0; set.len()], 0)?;
        Ok(set)
    }

    /// Takes rules for those that they were in another set, which was before, so that they go on counting: by their
    /// name; or, of those without one, by their words. The latter keep the names that were dealt to them, unless
    /// somebody gave one of those to another rule; the others get the next that are free.
    #[must_use]
    pub fn named_as_in(mut self, before: &Self) -> Self {
        let given = before.iter().filter(|rule| !rule.spec.dealt);
        let given: HashMap<&str, u64> = given.map(|rule| (&*rule.spec.name, rule.serial)).collect();
        let were = self.dealt_before(before);
        let named = self.iter().filter(|rule| !rule.spec.dealt);
        let mut taken: HashSet<String> = named.map(|rule| rule.spec.name.clone()).collect();
        let mut nameless = Vec::new();
        for (rule, was) in self.rules.iter_mut().zip(were) {
            if !rule.spec.dealt {
                rule.serial = given.get(&*rule.spec.name).copied().unwrap_or(rule.serial);
                continue;
            }
            rule.serial = was.map_or(rule.serial, |was| was.serial);
            match was.filter(|was| taken.insert(was.spec.name.clone())) {
                Some(was) => rule.spec.name.clone_from(&was.spec.name),
                None => nameless.push(rule),
            }
        }
        let mut free = (1_u64..).map(dealt_name);
        for rule in nameless {
            while !taken.insert(rule.spec.name.clone()) {
                rule.spec.name = free.next().unwrap_or_default();
            }
        }
        self
    }

    /// What each of the rules without a name was before.
    fn dealt_before<'a>(&self, before: &'a Self) -> Vec<Option<&'a Rule>> {
        let mut theirs: HashMap<_, VecDeque<usize>> = HashMap::new();
        for (place, rule) in before.iter().enumerate().filter(|(_, rule)| rule.spec.dealt) {
            theirs.entry(rule.spec.words()).or_default().push_back(place);
        }
        let mut found: Vec<Option<usize>> = vec![None; self.len()];
        // Those that have their own name already, before others of the same words.
        for same in [true, false] {
            for (found, rule) in found.iter_mut().zip(self.iter()).filter(|(_, rule)| rule.spec.dealt) {
                let Some(alike) = theirs.get_mut(&rule.spec.words()).filter(|_| found.is_none()) else {
                    continue;
                };
                let its = |place: &usize| before[*place].spec.name == rule.spec.name;
                let next = if same { alike.iter().position(its) } else { Some(0) };
                *found = next.and_then(|next| alike.remove(next));
            }
        }
        // Alike ones in their order: of two in a row, the second is never asked.
        let mut alike: HashMap<_, Vec<usize>> = HashMap::new();
        for (place, rule) in self.iter().enumerate().filter(|(place, _)| found[*place].is_some()) {
            alike.entry(rule.spec.words()).or_default().push(place);
        }
        for places in alike.into_values() {
            let mut theirs: Vec<Option<usize>> = places.iter().map(|place| found[*place]).collect();
            theirs.sort_unstable();
            places.into_iter().zip(theirs).for_each(|(place, its)| found[place] = its);
        }
        found.into_iter().map(|place| place.map(|place| &before[place])).collect()
    }

    /// Whether a rule looks for VLAN tags, or behind them, so that it matches otherwise where a NIC takes tags away.
    #[must_use]
    pub fn look_for_tags(&self) -> bool {
        self.rules.iter().flat_map(Rule::terms).any(|Term { rule, tags }| {
            let ether_proto = rule.mask.fields() & field::ETHER_PROTO != 0;
            *tags > 0 || ether_proto && [ETH_P_8021Q, ETH_P_8021AD].contains(&rule.value.ether_proto())
        })
    }

    /// The rules that steer on none of these queues, by name.
    pub fn idle_on(&self, queues: &[u32]) -> impl Iterator<Item = &str> {
        let on = queues.iter().filter_map(|queue| 1_u64.checked_shl(*queue)).fold(0, |all, one| all | one);
        let idle = move |rule: &&Rule| rule.spec.queues.is_some_and(|queues| queues & on == 0);
        self.rules.iter().filter(idle).map(|rule| rule.spec.name.as_str())
    }

    /// The rules as they were given.
    #[must_use]
    pub fn specs(&self) -> Vec<RuleSpec> {
        self.rules.iter().map(|rule| rule.spec.clone()).collect()
    }
}

/// Compiles rules that steer, called `rule1` and so on.
///
/// # Errors
///
/// As [`RuleSet::compile`].
pub fn compile<T: AsRef<str>>(expressions: &[T]) -> Result<RuleSet, SetError> {
    let specs = (1..).zip(expressions);
    let specs =
        specs.map(|(number, text)| RuleSpec::steer(&format!("rule{number}"), text.as_ref())).collect();
    RuleSet::compile(specs, DefaultAction::Pass)
}

/// The queues as bits.
///
/// # Errors
///
/// A queue beyond those that a rule can name.
pub fn queue_bits(rule: &str, queues: &[u32]) -> Result<u64, SetError> {
    queues.iter().try_fold(0, |bits, queue| match 1_u64.checked_shl(*queue) {
        Some(bit) => Ok(bits | bit),
        None => Err(SetError::Queue { rule: rule.to_owned(), queue: *queue }),
    })
}

#[cfg(test)]
impl RuleSet {
    /// Has the first rule say other words than it was made of, for those who show them.
    pub(crate) fn reword_first(&mut self, words: &str) {
        self.rules[0].spec.expression = words.to_owned();
    }
}

#[cfg(test)]
mod tests;
