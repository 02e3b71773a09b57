//! What an interface is and can do: asked of the kernel by rtnetlink and ethtool, and not by sysfs, which shows the
//! network namespace it was mounted in and not the one this process is in. A switch's tagging is only there.

pub mod drivers;
pub(crate) mod genl;
pub mod interrupts;
pub mod netdev;
mod netlink;
pub mod probe;
mod queues;
pub mod quirks;
pub mod rings;
pub mod stats;
mod switch;
pub(crate) mod sysfs;
pub(crate) mod tags;
pub mod users;

pub use netlink::{Address, Link, Route, XdpAttachment, addresses, link, links, routes};
pub use queues::Active as ActiveQueues;
use std::{
    collections::{BTreeSet, HashSet},
    io,
};
pub use switch::{SwitchTag, tagging};

use thiserror::Error;

use crate::steer::guard::{InterfaceFacts, LeavingRoute, LocalAddress, Tag, Tags};
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
    #[error("{finding} ({source_of})", source_of = finding.source)]
    Quirk {
        /// Which one.
        finding: quirks::Finding,
    },
    /// A queue that the interface does not have.
    #[error("{name} has no queue {queue}; it has {}", count(*active, "receive"))]
    NoSuchQueue {
        /// The interface.
        name: String,
        /// The queue asked for.
        queue: u32,
        /// How many are active.
        active: u32,
    },
    /// A queue that nothing can be sent on.
    #[error(
        "{name} cannot send on queue {queue}; it has {}: choose other --queues, or let it have as many queues to send \
         as to receive (ethtool -L)",
        count(*active, "transmit")
    )]
    MuteQueue {
        /// The interface.
        name: String,
        /// The queue.
        queue: u32,
        /// How many can send.
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

fn count(active: u32, what: &str) -> String {
    match active {
        0 => format!("no active {what} queue"),
        1 => format!("1 active {what} queue, number 0"),
        n => format!("{n} active {what} queues, 0 to {}", n - 1),
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

/// What the lock-out guard must know of an interface: the addresses that are reached through it, and the routes that
/// leave by it.
///
/// Frames for a bridge, a bond or a VLAN device arrive through the interface below it, those for a VLAN with its
/// tag. So its own addresses count, and those of every device on top of it. An address of a device that nothing
/// arrives on, such as a service's on loopback, may be reached through any interface, and so counts for each, in
/// every VLAN on it.
pub fn facts(link: &Link, links: &[Link], addresses: &[Address], routes: &[Route]) -> InterfaceFacts {
    // Each device with the tags of its frames, once for each way to it. It ends where devices go round in a circle too:
    // of the tags two are kept.
    let mut related: Vec<(u32, Tags)> = Vec::new();
    let mut known = HashSet::new();
    let mut reach = |related: &mut Vec<(u32, Tags)>, index: u32, tags: Tags| {
        if known.insert((index, tags)) {
            related.push((index, tags));
        }
    };
    reach(&mut related, link.index, Tags::NONE);
    let mut next = 0;
    while let Some((below, tags)) = related.get(next).copied() {
        next += 1;
        let master = links.iter().find(|l| l.index == below).and_then(|l| l.master);
        for l in links {
            if l.lower == Some(below) {
                reach(&mut related, l.index, l.vlan.map_or(tags, |own| tags.around(own)));
            } else if master == Some(l.index) {
                reach(&mut related, l.index, tags);
                if let Some(tpid) = l.filters_vlans {
                    reach(&mut related, l.index, tags.around(Tag { tpid, id: None }));
                }
            }
        }
    }
    let tags_of = |index: u32| -> Vec<Tags> {
        related.iter().filter(|(i, _)| *i == index).map(|(_, tags)| *tags).collect()
    };
    let passive = |index| links.iter().any(|link| link.index == index && link.passive);
    let everywhere: BTreeSet<Tags> = related.iter().map(|(_, tags)| *tags).collect();
    InterfaceFacts {
        local_addresses: addresses
            .iter()
            .flat_map(|Address { index, prefix, dynamic }| {
                let mut tags = tags_of(*index);
                let on_link = !tags.is_empty();
                if !on_link && passive(*index) && !prefix.ip.is_loopback() {
                    tags.extend(&everywhere);
                }
                tags.into_iter().map(move |tags| LocalAddress {
                    prefix: *prefix,
                    dynamic: *dynamic,
                    on_link,
                    tags,
                })
            })
            .collect(),
        routes: routes
            .iter()
            .flat_map(|Route { destination, gateway, output }| {
                let leaving = |tags| LeavingRoute { destination: *destination, gateway: *gateway, tags };
                tags_of(*output).into_iter().map(leaving)
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steer::guard::Prefix;

    fn link(index: u32, name: &str, master: Option<u32>, lower: Option<u32>) -> Link {
        let passive = name == "lo";
        let vlan = name.split_once('.').and_then(|(_, id)| id.parse().ok()).map(tag);
        Link {
            index,
            name: name.into(),
            up: true,
            carrier: true,
            passive,
            mac: None,
            mtu: 1500,
            max_mtu: None,
            master,
            lower,
            peer: None,
            vlan,
            filters_vlans: None,
            rx_queues: 1,
            tx_queues: 1,
            xdp: None,
        }
    }

    fn tag(id: u16) -> Tag {
        Tag { tpid: 0x8100, id: Some(id) }
    }

    fn prefix(text: &str) -> Prefix {
        let (ip, bits) = text.split_once('/').unwrap();
        Prefix { ip: ip.parse().unwrap(), bits: bits.parse().unwrap() }
    }

    fn local(address: &str, on_link: bool, tags: &[Tag]) -> LocalAddress {
        LocalAddress { prefix: prefix(address), dynamic: false, on_link, tags: Tags::of(tags) }
    }

    fn address(index: u32, address: &str) -> Address {
        Address { index, prefix: prefix(address), dynamic: false }
    }

    /// With which tags frames for this address come.
    fn tags_of(facts: &InterfaceFacts, address: &str) -> Vec<Tags> {
        let of = facts.local_addresses.iter().filter(|local| local.prefix == prefix(address));
        of.map(|local| local.tags).collect()
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
        let addresses = [
            address(1, "127.0.0.1/8"),
            address(3, "10.0.0.1/24"),
            address(4, "10.7.0.1/24"),
            address(5, "10.9.0.1/24"),
        ];
        let gateway = Some("10.7.0.254".parse().unwrap());
        let routes = [
            Route { destination: prefix("0.0.0.0/0"), gateway, output: 4 },
            Route { destination: prefix("10.0.0.0/24"), gateway: None, output: 3 },
        ];

        let eth0 = facts(&links[1], &links, &addresses, &routes);
        let seven = [tag(7)];
        assert_eq!(
            eth0.local_addresses,
            [local("10.0.0.1/24", true, &[]), local("10.7.0.1/24", true, &seven)]
        );
        let leaving = |destination, gateway, tags: &[Tag]| LeavingRoute {
            destination: prefix(destination),
            gateway,
            tags: Tags::of(tags),
        };
        assert_eq!(eth0.routes, [leaving("0.0.0.0/0", gateway, &seven), leaving("10.0.0.0/24", None, &[])]);

        let eth1 = facts(&links[4], &links, &addresses, &routes);
        assert_eq!(eth1.local_addresses, [local("10.9.0.1/24", true, &[])]);
        assert_eq!(eth1.routes, []);
    }

    #[test]
    fn behind_a_bridge_that_filters_vlans_frames_may_have_any_tag() {
        for tpid in [0x8100, 0x88a8] {
            let bridge = Link { filters_vlans: Some(tpid), ..link(3, "br0", None, None) };
            let links = [link(2, "eth0", Some(3), None), bridge, link(4, "br0.7", None, Some(3))];
            let addresses = [address(3, "10.0.0.1/24"), address(4, "10.7.0.1/24")];
            let eth0 = facts(&links[0], &links, &addresses, &[]);
            let any = Tag { tpid, id: None };
            assert_eq!(tags_of(&eth0, "10.0.0.1/24"), [Tags::NONE, Tags::of(&[any])]);
            assert_eq!(tags_of(&eth0, "10.7.0.1/24"), [Tags::of(&[tag(7)]), Tags::of(&[any, tag(7)])]);
        }
    }

    #[test]
    fn every_way_to_an_address_counts() {
        let links = [
            link(2, "eth0", None, None),
            link(3, "eth0.10", Some(5), Some(2)),
            link(4, "eth0.20", Some(5), Some(2)),
            link(5, "br0", None, None),
        ];
        let eth0 = facts(&links[0], &links, &[address(5, "10.0.0.1/24")], &[]);
        assert_eq!(tags_of(&eth0, "10.0.0.1/24"), [Tags::of(&[tag(10)]), Tags::of(&[tag(20)])]);
        let vlan = facts(&links[2], &links, &[address(5, "10.0.0.1/24")], &[]);
        assert_eq!(tags_of(&vlan, "10.0.0.1/24"), [Tags::NONE]);
    }

    /// The kernel lets nobody stack them so; but links may change between two answers of one dump.
    #[test]
    fn devices_that_go_round_in_a_circle_are_no_endless_way() {
        let links = [link(2, "eth0.7", None, Some(3)), link(3, "eth0.8", None, Some(2))];
        let eth0 = facts(&links[0], &links, &[address(2, "10.0.0.1/24")], &[]);
        assert_eq!(tags_of(&eth0, "10.0.0.1/24"), [Tags::NONE, Tags::of(&[tag(8), tag(7)])]);
    }

    #[test]
    fn an_address_of_loopback_counts_everywhere_unless_it_never_leaves_the_machine() {
        let links = [link(1, "lo", None, None), link(2, "eth0", None, None)];
        let addresses = [
            address(1, "127.0.0.1/8"),
            address(1, "::1/128"),
            address(1, "10.55.0.1/32"),
            address(2, "10.0.0.1/24"),
        ];
        let eth0 = facts(&links[1], &links, &addresses, &[]);
        assert_eq!(
            eth0.local_addresses,
            [local("10.55.0.1/32", false, &[]), local("10.0.0.1/24", true, &[])]
        );
    }

    #[test]
    fn an_unknown_interface_is_answered_with_the_ones_that_exist() {
        let links = [link(1, "lo", None, None), link(2, "eth0", None, None)];
        let error = find(&links, "eth9", None).unwrap_err().to_string();
        assert_eq!(error, "there is no interface eth9; there is: lo, eth0");
    }
}
