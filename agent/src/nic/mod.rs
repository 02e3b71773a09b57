//! What an interface is and can do: asked of the kernel by rtnetlink and ethtool, and not by sysfs, which shows the
//! network namespace it was mounted in and not the one this process is in. A switch's tagging is only there.

pub mod drivers;
pub(crate) mod genl;
pub mod interrupts;
pub mod netdev;
mod netlink;
mod queues;
pub mod quirks;
pub mod stats;
mod switch;
pub mod users;

pub use netlink::{Address, Link, Route, XdpAttachment, addresses, link, links, routes};
pub use queues::choose as choose_queues;
use std::{collections::BTreeSet, io};
pub use switch::{SwitchTag, tagging};

use thiserror::Error;

use crate::steer::guard::{InterfaceFacts, LocalAddress};
use queues::MAX_QUEUES;

/// Why an interface cannot be used.
#[derive(Debug, Error)]
pub enum NicError {
    /// No interface of that name in this network namespace.
    #[error("there is no interface {name}{}; there is: {}", here(netns.as_deref()), existing.join(", "))]
    Unknown {
        /// The name asked for.
        name: String,
        /// The namespace looked into, if not the caller's.
        netns: Option<String>,
        /// What exists there.
        existing: Vec<String>,
    },
    /// The interface is administratively down; an AF_XDP socket cannot be bound to it.
    #[error("interface {name} is down; bring it up first: ip link set {name} up")]
    Down {
        /// Its name.
        name: String,
    },
    /// Its driver cannot, as the table of quirks has it.
    #[error("{text} ({source_of})", source_of = finding.source, text = finding.text)]
    Quirk {
        /// Which one.
        finding: quirks::Finding,
    },
    /// A queue that the interface does not have.
    #[error("{name} has no queue {queue}; it has {}", count(*active))]
    NoSuchQueue {
        /// The interface.
        name: String,
        /// The queue asked for.
        queue: u32,
        /// How many are active.
        active: u32,
    },
    /// A queue that the XDP program has no place for.
    #[error("{name} queue {queue} cannot be served: the XDP program has places for queues 0 to {}", MAX_QUEUES - 1)]
    QueueTooHigh {
        /// The interface.
        name: String,
        /// The queue asked for.
        queue: u32,
    },
    /// The kernel did not answer.
    #[error("cannot ask the kernel for {what}")]
    Kernel {
        /// What was asked for.
        what: &'static str,
        /// Why it did not answer.
        source: io::Error,
    },
}

impl NicError {
    /// The kernel does not list its interfaces.
    pub fn links(source: io::Error) -> Self {
        Self::Kernel { what: "its interfaces", source }
    }
}

fn here(netns: Option<&str>) -> String {
    netns.map(|name| format!(" in network namespace {name}")).unwrap_or_default()
}

fn count(active: u32) -> String {
    match active {
        1 => "1 active receive queue, number 0".into(),
        n => format!("{n} active receive queues, 0 to {}", n - 1),
    }
}

/// Finds the interface, or says which ones exist.
pub fn find<'a>(links: &'a [Link], name: &str, netns: Option<&str>) -> Result<&'a Link, NicError> {
    links.iter().find(|link| link.name == name).ok_or_else(|| NicError::Unknown {
        name: name.into(),
        netns: netns.map(Into::into),
        existing: links.iter().map(|link| link.name.clone()).collect(),
    })
}

/// What the lock-out guard must know of an interface: the addresses that are reached through it, and whether
/// this machine's default route leaves by it.
///
/// Frames for a bridge, a bond or a VLAN device arrive through the interface below it, those for a VLAN with its
/// tag. So its own addresses count, and those of every device on top of it. An address of a device that nothing
/// arrives on, such as a service's on loopback, may be reached through any interface, and so counts for each, in
/// every VLAN on it.
pub fn facts(link: &Link, links: &[Link], addresses: &[Address], routes: &[Route]) -> InterfaceFacts {
    // Each device with the tags of its frames, the outermost first.
    let mut related: Vec<(u32, Vec<u16>)> = vec![(link.index, Vec::new())];
    let mut next = 0;
    while let Some((below, tags)) = related.get(next).cloned() {
        next += 1;
        let master = links.iter().find(|l| l.index == below).and_then(|l| l.master);
        for l in links {
            let known = related.iter().any(|(index, _)| *index == l.index);
            if !known && (master == Some(l.index) || l.lower == Some(below)) {
                let own = l.vlan.filter(|_| l.lower == Some(below));
                related.push((l.index, tags.iter().copied().chain(own).collect()));
            }
        }
    }
    let tags_of = |index: u32| related.iter().find(|(i, _)| *i == index).map(|(_, tags)| tags.clone());
    let passive = |index| links.iter().any(|link| link.index == index && link.passive);
    let everywhere: BTreeSet<&Vec<u16>> = related.iter().map(|(_, tags)| tags).collect();
    InterfaceFacts {
        local_addresses: addresses
            .iter()
            .flat_map(|Address { index, ip }| {
                let tags: Vec<Vec<u16>> = match tags_of(*index) {
                    Some(tags) => vec![tags],
                    None if passive(*index) && !ip.is_loopback() => {
                        everywhere.iter().copied().cloned().collect()
                    }
                    None => Vec::new(),
                };
                tags.into_iter().map(|vlans| LocalAddress { ip: *ip, vlans })
            })
            .collect(),
        default_routes: routes
            .iter()
            .filter(|route| route.is_default)
            .filter_map(|route| tags_of(route.output?))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, master: Option<u32>, lower: Option<u32>) -> Link {
        let passive = name == "lo";
        let vlan = name.split_once('.').and_then(|(_, id)| id.parse().ok());
        Link {
            index,
            name: name.into(),
            up: true,
            carrier: true,
            passive,
            mac: None,
            mtu: 1500,
            master,
            lower,
            vlan,
            rx_queues: 1,
            xdp: None,
        }
    }

    fn local(ip: &str, vlans: &[u16]) -> LocalAddress {
        LocalAddress { ip: ip.parse().unwrap(), vlans: vlans.to_vec() }
    }

    fn address(index: u32, ip: &str) -> Address {
        Address { index, ip: ip.parse().unwrap() }
    }

    #[test]
    fn an_address_of_a_bridge_or_vlan_on_top_counts() {
        let links = [
            link(1, "lo", None, None),
            link(2, "eth0", Some(3), None),
            link(3, "br0", None, None),
            link(4, "br0.7", None, Some(3)),
            link(5, "eth1", None, None),
        ];
        let addresses =
            [address(1, "127.0.0.1"), address(3, "10.0.0.1"), address(4, "10.7.0.1"), address(5, "10.9.0.1")];
        let routes = [Route { is_default: true, output: Some(4) }];

        let eth0 = facts(&links[1], &links, &addresses, &routes);
        assert_eq!(eth0.local_addresses, [local("10.0.0.1", &[]), local("10.7.0.1", &[7])]);
        assert_eq!(eth0.default_routes, [[7]]);

        let eth1 = facts(&links[4], &links, &addresses, &routes);
        assert_eq!(eth1.local_addresses, [local("10.9.0.1", &[])]);
        assert_eq!(eth1.default_routes, [[0; 0]; 0]);
    }

    #[test]
    fn an_address_of_loopback_counts_everywhere_unless_it_never_leaves_the_machine() {
        let links = [link(1, "lo", None, None), link(2, "eth0", None, None)];
        let addresses =
            [address(1, "127.0.0.1"), address(1, "::1"), address(1, "10.55.0.1"), address(2, "10.0.0.1")];
        let eth0 = facts(&links[1], &links, &addresses, &[]);
        assert_eq!(eth0.local_addresses, [local("10.55.0.1", &[]), local("10.0.0.1", &[])]);
    }

    #[test]
    fn an_unknown_interface_is_answered_with_the_ones_that_exist() {
        let links = [link(1, "lo", None, None), link(2, "eth0", None, None)];
        let error = find(&links, "eth9", None).unwrap_err().to_string();
        assert_eq!(error, "there is no interface eth9; there is: lo, eth0");
    }
}
