//! What is steered: rules in the words of pcap-filter(7), compiled to the entries of the program's map, and
//! the guard against locking oneself out.
//!
//! | words | frames |
//! | --- | --- |
//! | `all` | every frame; tcpdump says this with no words at all |
//! | `ip`, `ip6`, `arp` | by EtherType |
//! | `tcp`, `udp`, `sctp` | over IPv4 or IPv6, behind an IPv6 fragment header too |
//! | `icmp`, `icmp6` | ICMP over IPv4, ICMPv6 over IPv6 |
//! | `[tcp\|udp\|sctp] [src\|dst] port N` | over IPv4 or IPv6, except what is not the first fragment; also `src or dst`, `src and dst` |
//! | `ip proto N`, `ip6 proto N` | a number, or `\tcp`, `\udp`, `\sctp`, `\icmp` |
//! | `ether proto N` | a number from 1501 on, or `\ip`, `\ip6`, `\arp` |
//! | `and`, `&&`, `or`, `\|\|`, `( )` | `and` and `or` bind equally and from the left; a number alone takes up the words before the last one |
//!
//! All of it means what it means to tcpdump, and what tcpdump refuses is refused (`ip port 7`). One
//! difference is left: a frame that ends inside its headers ends tcpdump's search at the first word that
//! looks beyond the end, while here the next alternative of an `or` is still tried.

mod error;
pub mod guard;
mod lex;
mod parse;
mod terms;

use std::ops::Deref;

pub use error::RuleError;
use umemd_common::{Key, Rule};

/// Rules in their order, compiled: a slice of map entries that remembers which rule each came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSet {
    entries: Vec<Rule>,
    /// For each entry, the index of its text.
    origins: Vec<usize>,
    texts: Vec<String>,
}

impl RuleSet {
    /// The text of the first rule that matches a frame with this key.
    #[must_use]
    pub fn first_match(&self, key: &Key) -> Option<&str> {
        let entry = self.entries.iter().position(|rule| rule.matches(key))?;
        Some(&self.texts[self.origins[entry]])
    }
}

impl Deref for RuleSet {
    type Target = [Rule];

    /// The entries, in the order in which the program tries them.
    fn deref(&self) -> &[Rule] {
        &self.entries
    }
}

/// Compiles rules, the first of which that matches a frame wins.
///
/// How many entries the program has room for is known to [`Program::set_rules`](crate::ebpf::Program::set_rules).
///
/// # Errors
///
/// The first rule that is wrong, with a caret under the word.
pub fn compile<T: AsRef<str>>(texts: &[T]) -> Result<RuleSet, RuleError> {
    let mut rules = RuleSet::default();
    for (origin, text) in texts.iter().enumerate() {
        let text = text.as_ref();
        let entries = parse::parse(text)?;
        rules.origins.extend(entries.iter().map(|_| origin));
        rules.entries.extend(entries);
        rules.texts.push(text.to_owned());
    }
    Ok(rules)
}

#[cfg(test)]
mod tests;
