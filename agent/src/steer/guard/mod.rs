//! The lock-out guard: would these rules take frames that keep this machine reachable?
//!
//! It asks with the frame that would come, as the program's parser reads it. Of what is not known of that frame, its MAC
//! addresses, it expects the worst.

mod connections;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use connections::{Connection, connections_on};
use thiserror::Error;
use umemd_common::Key;
use umemd_common::decision::Action;
use umemd_common::packet::{ETH_P_ARP, ETH_P_IP, ETH_P_IPV6, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP};

use super::terms::{Depths, parse_all};
use super::{DefaultAction, RuleSet};

/// What the guard has to know of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceFacts {
    /// The addresses that are reached through it, on whichever device above it they are.
    pub local_addresses: Vec<LocalAddress>,
    /// The tags, as in [`LocalAddress::vlans`], with which each default route of this machine leaves by it.
    pub default_routes: Vec<Vec<u16>>,
}

/// An address of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalAddress {
    /// The address.
    pub ip: IpAddr,
    /// The ids of the VLAN tags with which its frames arrive, the outermost first: those of the VLAN devices
    /// between it and the interface.
    pub vlans: Vec<u16>,
}

/// What a machine needs to keep its place in its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

impl fmt::Display for Upkeep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Arp => "ARP, without which no IPv4 neighbour is found",
            Self::NeighbourDiscovery => {
                "neighbour discovery (ICMPv6), without which no IPv6 neighbour is found"
            }
            Self::Dhcp => "DHCP, without which the IPv4 address is lost",
            Self::Dhcp6 => "DHCPv6, without which the IPv6 address is lost",
        })
    }
}

/// What would be cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Somebody who is connected.
    Connection(Connection),
    /// The machine itself.
    Upkeep(Upkeep),
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
            Cut::Upkeep(upkeep) => write!(f, "{upkeep}")?,
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
    let mut text: String = lock_outs.iter().take(SHOWN).map(|lock_out| format!("\n  {lock_out}")).collect();
    if lock_outs.len() > SHOWN {
        text += &format!("\n  and {} more", lock_outs.len() - SHOWN);
    }
    text
}

/// Refuses rules that would cut off what is connected through this interface, or what keeps it connected.
///
/// # Errors
///
/// [`LockOutError`] names each connection and the rule that would take its frames.
pub fn refuse_lock_out(rules: &RuleSet, facts: &InterfaceFacts) -> Result<(), LockOutError> {
    let connections = connections_on(facts).map_err(|source| LockOutError::Unknown { source })?;
    let lock_outs = check(rules, &connections, &facts.default_routes);
    if lock_outs.is_empty() { Ok(()) } else { Err(LockOutError::LockedOut(lock_outs)) }
}

/// All that these rules would cut off.
///
/// Neighbours have to be found where somebody is connected, or where the default route leaves by; there the
/// addresses have to be kept, too.
#[must_use]
pub fn check(rules: &RuleSet, connections: &[Connection], default_routes: &[Vec<u16>]) -> Vec<LockOut> {
    // In each VLAN with a connection, no VLAN being one of them.
    let connected = |v6: bool| {
        let of_family = connections.iter().filter(move |connection| connection.local.is_ipv6() == v6);
        of_family.map(|connection| connection.vlans).collect::<BTreeSet<_>>()
    };
    let route = || default_routes.iter().map(|vlans| two(vlans));
    let upkeep = [
        (Upkeep::Arp, route().chain(connected(false)).collect::<BTreeSet<_>>()),
        (Upkeep::NeighbourDiscovery, route().chain(connected(true)).collect()),
        (Upkeep::Dhcp, route().collect()),
        (Upkeep::Dhcp6, route().collect()),
    ];
    let needed = upkeep
        .into_iter()
        .flat_map(|(upkeep, vlans)| vlans.into_iter().map(move |vlans| (Cut::Upkeep(upkeep), vlans)));
    let mut lock_outs: Vec<LockOut> = connections
        .iter()
        .map(|connection| (Cut::Connection(*connection), connection.vlans))
        .chain(needed)
        .filter_map(|(cut, vlans)| {
            // A NIC may take the outer tag away before the program sees the frame.
            let [_, inner] = vlans;
            let rule = [vlans, [inner, None]]
                .into_iter()
                .find_map(|vlans| taken_by(rules, &frame_of(cut, vlans)))?;
            Some(LockOut { rule: rule.to_owned(), cut })
        })
        .collect();
    lock_outs.dedup();
    lock_outs
}

/// The rule by which this frame would not reach the stack: surely, or with the MAC addresses that the rule asks for.
fn taken_by<'a>(rules: &'a RuleSet, frame: &Depths) -> Option<&'a str> {
    for rule in rules.iter() {
        let mut surely = false;
        let mut perhaps = false;
        for term in &rule.terms {
            let (mask, value, key) = (&term.rule.mask, &term.rule.value, &frame[term.tags].key);
            let differs = key.zip(mask, |key, mask| key & mask).zip(value, |key, value| key ^ value);
            let known = differs.zip(&unknown(), |differs, unknown| differs & !unknown);
            perhaps |= known == Key::default();
            surely |= known == Key::default()
                && mask.zip(&unknown(), |mask, unknown| mask & unknown) == Key::default();
        }
        match rule.spec.action {
            Action::Pass if surely => return None,
            Action::Redirect | Action::Drop if perhaps => return Some(&rule.spec.expression),
            Action::Pass | Action::Redirect | Action::Drop => {}
        }
    }
    match rules.default {
        DefaultAction::Pass => None,
        DefaultAction::Drop => Some("the default, drop"),
    }
}

/// What is not known of a frame that is to come: its MAC addresses.
fn unknown() -> Key {
    Key::default().with_macs([u8::MAX; 12])
}

/// A frame that must keep arriving, as the program reads it.
fn frame_of(cut: Cut, vlans: [Option<u16>; 2]) -> Depths {
    let (ether_proto, packet) = match cut {
        Cut::Connection(Connection { local, remote, .. }) => {
            ip(IPPROTO_TCP, remote.ip(), local.ip(), &ports(remote.port(), local.port()))
        }
        // Of no sender and no target that is known, as a broadcast of somebody new.
        Cut::Upkeep(Upkeep::Arp) => (ETH_P_ARP, vec![0; 28]),
        Cut::Upkeep(Upkeep::NeighbourDiscovery) => {
            let unspecified = IpAddr::from(Ipv6Addr::UNSPECIFIED);
            ip(IPPROTO_ICMPV6, unspecified, unspecified, &[135, 0, 0, 0])
        }
        Cut::Upkeep(Upkeep::Dhcp) => {
            let unspecified = IpAddr::from(Ipv4Addr::UNSPECIFIED);
            ip(IPPROTO_UDP, unspecified, unspecified, &ports(67, 68))
        }
        Cut::Upkeep(Upkeep::Dhcp6) => {
            let unspecified = IpAddr::from(Ipv6Addr::UNSPECIFIED);
            ip(IPPROTO_UDP, unspecified, unspecified, &ports(547, 546))
        }
    };
    let mut frame = vec![0; 12];
    for id in vlans.into_iter().flatten() {
        frame.extend(0x8100_u16.to_be_bytes());
        frame.extend(id.to_be_bytes());
    }
    frame.extend(ether_proto.to_be_bytes());
    frame.extend(packet);
    // The Ethernet minimum, so that no reading behind tags that are not there is cut.
    frame.resize(frame.len().max(80), 0);
    parse_all(frame.as_slice())
}

fn ports(src: u16, dst: u16) -> Vec<u8> {
    [src.to_be_bytes(), dst.to_be_bytes()].concat()
}

fn ip(proto: u8, from: IpAddr, to: IpAddr, payload: &[u8]) -> (u16, Vec<u8>) {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let header = [0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, proto, 0, 0];
            (ETH_P_IP, [&header[..], &from.octets(), &to.octets(), payload].concat())
        }
        (from, to) => {
            let octets = |ip: IpAddr| match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                IpAddr::V6(ip) => ip.octets(),
            };
            let header = [0x60, 0, 0, 0, 0, 20, proto, 64];
            (ETH_P_IPV6, [&header[..], &octets(from), &octets(to), payload].concat())
        }
    }
}

/// The two outermost tags: the program looks behind no more.
fn two(vlans: &[u16]) -> [Option<u16>; 2] {
    [vlans.first().copied(), vlans.get(1).copied()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steer::compile;

    fn connection(local: &str, remote: &str) -> Connection {
        Connection { local: local.parse().unwrap(), remote: remote.parse().unwrap(), vlans: [None; 2] }
    }

    fn routes(one: bool) -> &'static [Vec<u16>] {
        const ONE: &[Vec<u16>] = &[Vec::new()];
        if one { ONE } else { &[] }
    }

    fn check_one(rule: &str, connections: &[Connection], default_route: bool) -> Vec<String> {
        let rules = compile(&[rule]).unwrap();
        check(&rules, connections, routes(default_route)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_connection_is_cut_off_by_what_matches_its_frames_and_by_nothing_else() {
        let v4 = [connection("10.0.0.5:22", "10.0.0.9:51514")];
        let named = "ssh 10.0.0.5:22 <- 10.0.0.9:51514";
        for rule in [
            "all",
            "ip",
            "tcp",
            "port 22",
            "tcp dst port 22",
            "src port 51514",
            "ip proto 6",
            "ether proto 0x800",
            "udp or tcp",
        ] {
            let cut = check_one(rule, &v4, false);
            assert_eq!(cut[0], format!("{named} (by `{rule}`)"));
        }
        for rule in ["udp", "ip6", "src port 22", "dst port 51514", "tcp port 80", "ip6 and tcp", "icmp"] {
            assert_eq!(check_one(rule, &v4, false), [""; 0], "{rule}");
        }

        let v6 = [connection("[fd00::5]:8443", "[fd00::9]:40000")];
        assert_eq!(check_one("ip6", &v6, false)[0], "tcp [fd00::5]:8443 <- [fd00::9]:40000 (by `ip6`)");
        assert_eq!(check_one("tcp port 8443", &v6, false).len(), 1);
        assert_eq!(check_one("ip", &v6, false), [""; 0]);
    }

    #[test]
    fn the_rule_that_takes_the_frame_is_named_among_others() {
        let rules = compile(&["udp port 7", "tcp", "all"]).unwrap();
        let cut = check(&rules, &[connection("10.0.0.5:22", "10.0.0.9:51514")], &[]);
        assert_eq!(cut.iter().map(|lock_out| lock_out.rule.as_str()).collect::<Vec<_>>(), ["tcp", "all"]);
    }

    #[test]
    fn what_keeps_the_machine_in_its_network_counts_where_the_default_route_leaves() {
        let upkeep = |rule: &str| -> Vec<Cut> {
            assert_eq!(check_one(rule, &[], false), [""; 0], "{rule}, without a default route");
            check(&compile(&[rule]).unwrap(), &[], routes(true))
                .into_iter()
                .map(|lock_out| lock_out.cut)
                .collect()
        };
        assert_eq!(upkeep("arp"), [Cut::Upkeep(Upkeep::Arp)]);
        assert_eq!(upkeep("icmp6"), [Cut::Upkeep(Upkeep::NeighbourDiscovery)]);
        assert_eq!(upkeep("udp port 68"), [Cut::Upkeep(Upkeep::Dhcp)]);
        assert_eq!(upkeep("udp dst port 546"), [Cut::Upkeep(Upkeep::Dhcp6)]);
        assert_eq!(upkeep("udp").len(), 2);
        assert_eq!(upkeep("ip6").len(), 2);
        assert_eq!(upkeep("all").len(), 4);
        assert_eq!(upkeep("udp dst port 7"), []);
        assert_eq!(upkeep("icmp"), []);
        assert_eq!(upkeep("tcp port 22"), []);
    }

    #[test]
    fn neighbours_of_a_connection_have_to_be_found() {
        let v4 = [connection("10.0.0.5:22", "10.0.0.9:51514")];
        assert_eq!(check_one("arp", &v4, false).len(), 1);
        assert_eq!(check_one("icmp6", &v4, false), [""; 0]);
        assert_eq!(check_one("icmp6", &[connection("[fd00::5]:22", "[fd00::9]:1")], false).len(), 1);
    }

    #[test]
    fn the_error_names_each_connection_and_the_way_out() {
        let rules = compile(&["tcp"]).unwrap();
        let many: Vec<Connection> =
            (1..=20).map(|port| connection("10.0.0.5:22", &format!("10.0.0.9:{port}"))).collect();
        let text = LockOutError::LockedOut(check(&rules, &many, &[])).to_string();
        assert!(text.contains("ssh 10.0.0.5:22 <- 10.0.0.9:1 (by `tcp`)"), "{text}");
        assert!(text.contains("and 12 more") && text.contains("--force"), "{text}");
    }
}
