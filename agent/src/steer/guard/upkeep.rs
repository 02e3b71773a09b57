//! What must keep arriving so that this machine keeps its place in its network, and from whom.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Connection, InterfaceFacts, LocalAddress, Party, Prefix, Tags};

/// What a machine needs to keep its place in its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Upkeep {
    /// Finds IPv4 neighbours, the router among them.
    Arp,
    /// Finds IPv6 neighbours and the router: ICMPv6 types 133 to 137.
    NeighbourDiscovery,
    /// Keeps the IPv4 address: UDP from port 67 to 68.
    Dhcp,
    /// Keeps the IPv6 address: UDP from port 547 to 546.
    Dhcp6,
}

/// One kind of frame that has to arrive.
///
/// Requests and replies are not told apart, since rules do not tell them apart either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Need {
    /// What it is for.
    pub upkeep: Upkeep,
    /// The tags around it.
    pub tags: Tags,
    /// Who sends it; of ARP, the sender that it names.
    pub from: Party,
    /// Where it goes to; of ARP, the target that it names.
    pub to: Party,
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, without) = match self.upkeep {
            Upkeep::Arp => ("ARP", "no IPv4 neighbour is found"),
            Upkeep::NeighbourDiscovery => ("neighbour discovery (ICMPv6)", "no IPv6 neighbour is found"),
            Upkeep::Dhcp => ("DHCP", "the IPv4 address is lost"),
            Upkeep::Dhcp6 => ("DHCPv6", "the IPv6 address is lost"),
        };
        f.write_str(what)?;
        if self.tags != Tags::NONE {
            write!(f, " in {}", self.tags)?;
        }
        write!(f, ", without which {without}")
    }
}

const ANY4: Prefix = Prefix { ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED), bits: 0 };
const ANY6: Prefix = Prefix { ip: IpAddr::V6(Ipv6Addr::UNSPECIFIED), bits: 0 };
const LINK_LOCAL: Prefix = Prefix { ip: IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), bits: 64 };
/// RFC 4291, 2.7.1: with the last 24 bits of the address that is asked for.
const SOLICITED_NODE: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0);
/// Where routers advertise themselves to.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// All that has to arrive: from the neighbours by which somebody is connected, and where the default route leaves by,
/// from the router, and from who gives this machine its addresses.
pub(super) fn needs(connections: &[Connection], facts: &InterfaceFacts) -> BTreeSet<Need> {
    let mut needs = Needs { facts, found: BTreeSet::new() };
    let default_routes = facts.routes.iter().filter(|route| route.destination.bits == 0);
    for tags in default_routes.map(|route| route.tags).collect::<BTreeSet<_>>() {
        needs.of_default_routes(tags);
    }
    for connection in connections {
        needs.of_connection(connection);
    }
    needs.found
}

struct Needs<'a> {
    facts: &'a InterfaceFacts,
    found: BTreeSet<Need>,
}

impl Needs<'_> {
    /// A default route of either family asks for the upkeep of both: the other one may be about to come.
    fn of_default_routes(&mut self, tags: Tags) {
        let routes = self.facts.routes.iter();
        let routes = routes.filter(|route| route.destination.bits == 0 && route.tags == tags);
        let (routers6, routers4): (Vec<IpAddr>, Vec<IpAddr>) =
            routes.filter_map(|route| route.gateway).partition(IpAddr::is_ipv6);
        self.of_routers4(tags, &routers4);
        self.of_routers6(tags, &routers6);
    }

    fn of_routers4(&mut self, tags: Tags, routers: &[IpAddr]) {
        let addresses = self.own(tags, false);
        let mut own = known_or_somebody(&ips(&addresses), ANY4);
        self.add(Upkeep::Arp, tags, &known_or_somebody(routers, ANY4), &own);

        // The kernel knows no DHCP server. It is often the router; else it, or its relay, is a neighbour of the address
        // that it gave.
        let given = addresses.iter().filter(|address| address.dynamic);
        let mut servers: Vec<Party> = given.map(|address| Party::Unknown(address.prefix)).collect();
        if servers.is_empty() {
            servers.push(Party::Somebody(ANY4));
        }
        servers.extend(routers.iter().copied().map(Party::Known));
        own.push(Party::Known(Ipv4Addr::BROADCAST.into()));
        self.add(Upkeep::Dhcp, tags, &servers, &own);
    }

    fn of_routers6(&mut self, tags: Tags, routers: &[IpAddr]) {
        let addresses = self.own(tags, true);
        let own = known_or_somebody(&ips(&addresses), LINK_LOCAL);
        let mut routers = known_or_somebody(routers, LINK_LOCAL);
        routers.extend(link_local_of(&routers));
        let mut targets = asked_for(&own);
        targets.push(Party::Known(ALL_NODES.into()));
        self.add(Upkeep::NeighbourDiscovery, tags, &routers, &targets);

        let link_local = |parties: Vec<Party>| parties.into_iter().filter(|party| is_link_local(*party));
        let mut servers: Vec<Party> = link_local(routers).collect();
        // A router may have given it as well; which of the two it was, the kernel does not say.
        let given = addresses.iter().any(|address| address.dynamic);
        servers.push(if given { Party::Unknown(LINK_LOCAL) } else { Party::Somebody(LINK_LOCAL) });
        let mut clients: Vec<Party> = link_local(own).collect();
        if clients.is_empty() {
            clients.push(Party::Somebody(LINK_LOCAL));
        }
        self.add(Upkeep::Dhcp6, tags, &servers, &clients);
    }

    fn of_connection(&mut self, connection: &Connection) {
        let (local, remote, tags) = (connection.local.ip(), connection.remote.ip(), connection.tags);
        let routes = self.facts.routes.iter();
        let routes = routes.filter(|route| route.tags == tags && route.destination.contains(remote));
        let mut neighbours: BTreeSet<Party> =
            routes.map(|route| Party::Known(route.gateway.unwrap_or(remote))).collect();
        if neighbours.is_empty() {
            // Answers leave by another way; who sends its frames here has asked for us all the same.
            neighbours.insert(Party::Unknown(if remote.is_ipv6() { ANY6 } else { ANY4 }));
        }
        for neighbour in neighbours {
            let is_ipv6 = neighbour.prefix().ip.is_ipv6();
            let own = ips(&self.own(tags, is_ipv6));
            // To an address of loopback packets are routed, by neighbours that ask for the interface's own.
            let mut targets = if own.contains(&local) { vec![local] } else { own.clone() };
            // Without a packet of the connection at hand, neighbours are asked from a link-local address.
            targets.extend(own.into_iter().filter(|ip| LINK_LOCAL.contains(*ip)));
            if targets.is_empty() && local.is_ipv6() == is_ipv6 {
                targets.push(local);
            }
            let targets: Vec<Party> = targets.into_iter().map(Party::Known).collect();
            if is_ipv6 {
                let mut from = vec![neighbour];
                from.extend(link_local_of(&from));
                self.add(Upkeep::NeighbourDiscovery, tags, &from, &asked_for(&targets));
            } else {
                self.add(Upkeep::Arp, tags, &[neighbour], &targets);
            }
        }
    }

    fn add(&mut self, upkeep: Upkeep, tags: Tags, from: &[Party], to: &[Party]) {
        for from in from {
            self.found.extend(to.iter().map(|to| Need { upkeep, tags, from: *from, to: *to }));
        }
    }

    /// The addresses for which neighbours on this interface ask, with these tags.
    fn own(&self, tags: Tags, is_ipv6: bool) -> Vec<LocalAddress> {
        let own = self.facts.local_addresses.iter().copied();
        own.filter(|own| own.on_link && own.tags == tags && own.prefix.ip.is_ipv6() == is_ipv6).collect()
    }
}

fn ips(addresses: &[LocalAddress]) -> Vec<IpAddr> {
    addresses.iter().map(|address| address.prefix.ip).collect()
}

fn known_or_somebody(ips: &[IpAddr], prefix: Prefix) -> Vec<Party> {
    match ips {
        [] => vec![Party::Somebody(prefix)],
        ips => ips.iter().copied().map(Party::Known).collect(),
    }
}

fn is_link_local(party: Party) -> bool {
    let Prefix { ip, bits } = party.prefix();
    bits >= LINK_LOCAL.bits && LINK_LOCAL.contains(ip)
}

/// From where else neighbours ask that are known by other addresses: each has a link-local one, that no route tells.
fn link_local_of(neighbours: &[Party]) -> Option<Party> {
    let all_told = neighbours.iter().all(|neighbour| is_link_local(*neighbour));
    (!all_told).then_some(Party::Unknown(LINK_LOCAL))
}

/// Where neighbours send what concerns these addresses: to them, and, as long as they do not know whose they are, to
/// the multicast address of each.
fn asked_for(own: &[Party]) -> Vec<Party> {
    let solicited_node = own.iter().map(|own| match own {
        Party::Known(IpAddr::V6(own)) => {
            let last = u128::from(*own) & 0x00ff_ffff;
            Party::Known(Ipv6Addr::from(u128::from(SOLICITED_NODE) | last).into())
        }
        _ => Party::Somebody(Prefix { ip: SOLICITED_NODE.into(), bits: 104 }),
    });
    own.iter().copied().chain(solicited_node).collect()
}
