//! The lock-out guard: would these rules take frames that keep this machine reachable?
//!
//! It asks with the frame that would come, as the program's parser reads it. Of what is not known of that frame, such
//! as its MAC addresses, it expects the worst.

mod connections;
mod expected;
mod upkeep;

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::IpAddr;

pub use connections::{Connection, connections_on};
pub use expected::Party;
use expected::{Expected, Taken};
use thiserror::Error;
use umemd_common::decision::Action;
pub use upkeep::{Need, Upkeep};

use super::{DefaultAction, RuleSet};

/// What the guard has to know of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceFacts {
    /// The addresses that are reached through it, on whichever device above it they are.
    pub local_addresses: Vec<LocalAddress>,
    /// The routes that leave by it.
    pub routes: Vec<LeavingRoute>,
}

/// An address of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalAddress {
    /// The address, and how many of its leading bits its neighbours have in common.
    pub prefix: Prefix,
    /// Whether it ends unless somebody prolongs it: a DHCP server or a router.
    pub dynamic: bool,
    /// Whether neighbours ask for it; to one of loopback only routes lead.
    pub on_link: bool,
    /// The tags with which its frames arrive.
    pub tags: Tags,
}

/// A route of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeavingRoute {
    /// Where it leads: everywhere, if it is a default route.
    pub destination: Prefix,
    /// The neighbour that takes the packets, unless their destination is one itself.
    pub gateway: Option<IpAddr>,
    /// The tags with which they leave.
    pub tags: Tags,
}

/// Addresses that begin alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// One of them.
    pub ip: IpAddr,
    /// How many leading bits they have in common.
    pub bits: u8,
}

impl Prefix {
    /// This address alone.
    #[must_use]
    pub const fn of_one(ip: IpAddr) -> Self {
        Self { ip, bits: if ip.is_ipv6() { 128 } else { 32 } }
    }

    /// Whether the address is one of them.
    #[must_use]
    pub fn contains(self, ip: IpAddr) -> bool {
        // The leading bits first, so that both families are compared alike.
        let bits = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => u128::from(u32::from(ip)) << 96,
            IpAddr::V6(ip) => u128::from(ip),
        };
        let differ = bits(self.ip) ^ bits(ip);
        self.ip.is_ipv6() == ip.is_ipv6() && differ.leading_zeros() >= u32::from(self.bits)
    }
}

/// A VLAN tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag {
    /// What announces it, in the place of the EtherType: 0x8100 (802.1Q) or 0x88a8 (802.1ad).
    pub tpid: u16,
    /// The id of the VLAN; `None` if it may be any, or none at all: a bridge takes such tags off.
    pub id: Option<u16>,
}

/// The tags around a frame that the program can look behind: those of the VLAN devices, and of the bridges that filter
/// VLANs, between an address and the interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tags([Option<Tag>; 2]);

impl Tags {
    /// None at all.
    pub const NONE: Self = Self([None; 2]);

    /// The outermost first; the program looks behind no more than two.
    #[must_use]
    pub fn of(tags: &[Tag]) -> Self {
        Self([tags.first().copied(), tags.get(1).copied()])
    }

    /// These around one more.
    #[must_use]
    pub fn around(self, inner: Tag) -> Self {
        match self.0 {
            [None, _] => Self([Some(inner), None]),
            [outer, None] => Self([outer, Some(inner)]),
            _ => self,
        }
    }

    fn iter(self) -> impl Iterator<Item = Tag> {
        self.0.into_iter().flatten()
    }

    /// As they come, and as they are once the NIC has taken the outer one away.
    fn seen(self) -> impl Iterator<Item = Self> {
        let [outer, inner] = self.0;
        [Some(self), outer.map(|_| Self([inner, None]))].into_iter().flatten()
    }
}

impl fmt::Display for Tags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        self.iter().try_for_each(|tag| {
            f.write_str(std::mem::replace(&mut comma, ", "))?;
            match tag.id {
                Some(id) => write!(f, "VLAN {id}"),
                None => f.write_str("a VLAN of the bridge"),
            }
        })
    }
}

/// What would be cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cut {
    /// Somebody who is connected.
    Connection(Connection),
    /// The machine itself.
    Upkeep(Need),
}

/// A rule, and what it would cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockOut {
    /// The rule, as it was given.
    pub rule: String,
    /// What it takes away from the stack.
    pub cut: Cut,
}

impl fmt::Display for LockOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cut {
            Cut::Connection(connection) => write!(f, "{connection}")?,
            Cut::Upkeep(need) => write!(f, "{need}")?,
        }
        write!(f, " (by `{}`)", self.rule)
    }
}

/// Why rules are refused.
#[derive(Debug, Error)]
pub enum LockOutError {
    /// They cut something off.
    #[error("the rules would cut off{}\nnarrow the rule, or pass --force if nobody needs that", list(.0))]
    LockedOut(Vec<LockOut>),
    /// Nobody can say whether they do.
    #[error(
        "cannot see who is connected, and so not whether the rules would cut them off; --force goes on without"
    )]
    Unknown {
        /// Why.
        source: io::Error,
    },
}

/// Enough to recognise oneself in.
const SHOWN: usize = 8;

fn list(lock_outs: &[LockOut]) -> String {
    // One kind of upkeep comes from several neighbours.
    let mut known = HashSet::new();
    let mut lines: Vec<String> = lock_outs.iter().map(|lock_out| format!("\n  {lock_out}")).collect();
    lines.retain(|line| known.insert(line.clone()));
    let more = lines.len().saturating_sub(SHOWN);
    lines.truncate(SHOWN);
    if more > 0 {
        lines.push(format!("\n  and {more} more"));
    }
    lines.concat()
}

/// Refuses rules that would cut off what is connected through this interface, or what keeps it connected; except for
/// what other rules cut off already, by which somebody wanted it so. Whether they cut off nothing at all.
///
/// # Errors
///
/// [`LockOutError`] names each connection and the rule that would take its frames.
pub fn refuse_lock_out(
    rules: &RuleSet,
    already: Option<&RuleSet>,
    facts: &InterfaceFacts,
) -> Result<bool, LockOutError> {
    let connections = connections_on(facts).map_err(|source| LockOutError::Unknown { source })?;
    let cut = check(rules, &connections, facts);
    let harmless = cut.is_empty();
    let new = match already {
        Some(already) => beyond(cut, already),
        None => cut,
    };
    if new.is_empty() { Ok(harmless) } else { Err(LockOutError::LockedOut(new)) }
}

/// What is cut off, and is not by other rules already.
fn beyond(mut cut: Vec<LockOut>, already: &RuleSet) -> Vec<LockOut> {
    cut.retain(|lock_out| cut_by(already, &lock_out.cut).is_none());
    cut
}

/// All that these rules would cut off.
///
/// Neighbours have to be found where somebody is connected, or where the default route leaves by; there the
/// addresses have to be kept, too.
#[must_use]
pub fn check(rules: &RuleSet, connections: &[Connection], facts: &InterfaceFacts) -> Vec<LockOut> {
    let connected = connections.iter().map(|connection| Cut::Connection(*connection));
    let needs = upkeep::needs(connections, facts).into_iter().map(Cut::Upkeep);
    let lock_out = |cut| Some(LockOut { rule: cut_by(rules, &cut)?.to_owned(), cut });
    connected.chain(needs).filter_map(lock_out).collect()
}

/// The rule by which this would be cut off.
fn cut_by<'a>(rules: &'a RuleSet, cut: &Cut) -> Option<&'a str> {
    let tags = match cut {
        Cut::Connection(connection) => connection.tags,
        Cut::Upkeep(need) => need.tags,
    };
    tags.seen().find_map(|tags| taken_by(rules, &Expected::of(cut, tags)))
}

/// The rule by which this frame would not reach the stack: surely, or with what the rule asks for of what is not known.
fn taken_by<'a>(rules: &'a RuleSet, frame: &Expected) -> Option<&'a str> {
    for rule in rules.iter() {
        match (rule.spec.action, frame.taken_by(rule)) {
            (Action::Pass, Taken::Surely) => return None,
            (Action::Redirect | Action::Drop, Taken::Perhaps | Taken::Surely) => {
                return Some(&rule.spec.expression);
            }
            _ => {}
        }
    }
    match rules.default {
        DefaultAction::Pass => None,
        DefaultAction::Drop => Some("the default, drop"),
    }
}

#[cfg(test)]
mod tests;
