//! A frame that is to come, as the program will read it, and what of it is not known yet.

use std::net::{IpAddr, Ipv4Addr};

use umemd_common::Key;
use umemd_common::key::End;
use umemd_common::packet::{ETH_P_ARP, ETH_P_IP, ETH_P_IPV6, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP};

use super::{Connection, Cut, Need, Prefix, Tags, Upkeep};
use crate::steer::Rule;
use crate::steer::terms::{Depths, parse_all};

/// One end of a frame that is to come, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Party {
    /// This address.
    Known(IpAddr),
    /// One with this prefix. It matters which one, and that cannot be told: a rule that names one may name this one.
    Unknown(Prefix),
    /// One with this prefix, and nobody in particular: a rule that names one names another one.
    Somebody(Prefix),
}

impl Party {
    /// The address, and how many of its leading bits are known.
    pub(super) fn prefix(self) -> Prefix {
        match self {
            Self::Known(ip) => Prefix::of_one(ip),
            Self::Unknown(prefix) | Self::Somebody(prefix) => prefix,
        }
    }
}

/// A frame, read at every depth.
pub(super) struct Expected {
    depths: Depths,
    /// What it may have of a rule's, or not: its MAC addresses, the rest of [`Party::Unknown`], and ids of VLANs.
    unknown: Key,
    /// What it has of no rule's: the rest of [`Party::Somebody`].
    unnamed: Key,
}

/// Whether a rule takes a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Taken {
    /// Not with any of what is unknown.
    No,
    /// With some of it.
    Perhaps,
    /// With all of it.
    Surely,
}

impl Expected {
    /// The frame of which somebody is cut off, with these tags.
    pub(super) fn of(cut: &Cut, tags: Tags) -> Self {
        let (ether_proto, packet, ends) = match *cut {
            Cut::Connection(Connection { local, remote, .. }) => {
                let ports = ports(remote.port(), local.port());
                let (ether_proto, packet) = ip(IPPROTO_TCP, remote.ip(), local.ip(), &ports);
                (ether_proto, packet, [Party::Known(remote.ip()), Party::Known(local.ip())])
            }
            Cut::Upkeep(Need { upkeep, from, to, .. }) => {
                let [source, target] = [from, to].map(|party| party.prefix().ip);
                let (ether_proto, packet) = match upkeep {
                    Upkeep::Arp => arp(source, target),
                    Upkeep::NeighbourDiscovery => ip(IPPROTO_ICMPV6, source, target, &[135, 0, 0, 0]),
                    Upkeep::Dhcp => ip(IPPROTO_UDP, source, target, &ports(67, 68)),
                    Upkeep::Dhcp6 => ip(IPPROTO_UDP, source, target, &ports(547, 546)),
                };
                (ether_proto, packet, [from, to])
            }
        };
        let mut frame = vec![0; 12];
        let mut unknown = Key::default().with_macs([u8::MAX; 12]);
        for (depth, tag) in tags.iter().enumerate() {
            frame.extend(tag.tpid.to_be_bytes());
            frame.extend(tag.id.unwrap_or(0).to_be_bytes());
            if tag.id.is_none() {
                unknown = unknown.with_tag_id(depth, u16::MAX);
            }
        }
        frame.extend(ether_proto.to_be_bytes());
        frame.extend(packet);
        // The Ethernet minimum, so that no reading behind tags that are not there is cut.
        frame.resize(frame.len().max(80), 0);

        let mut expected = Self { depths: parse_all(frame.as_slice()), unknown, unnamed: Key::default() };
        for (end, party) in [End::Src, End::Dst].into_iter().zip(ends) {
            let open = match party {
                Party::Known(_) => continue,
                Party::Unknown(_) => &mut expected.unknown,
                Party::Somebody(_) => &mut expected.unnamed,
            };
            *open = match party.prefix() {
                Prefix { ip: IpAddr::V4(_), bits } => {
                    open.with_ipv4(end, u32::MAX.checked_shr(bits.into()).unwrap_or(0).to_be_bytes())
                }
                Prefix { ip: IpAddr::V6(_), bits } => {
                    open.with_ipv6(end, u128::MAX.checked_shr(bits.into()).unwrap_or(0).to_be_bytes())
                }
            };
        }
        expected
    }

    /// Whether this rule takes it.
    pub(super) fn taken_by(&self, rule: &Rule) -> Taken {
        let taken = rule.terms().iter().map(|term| {
            let (mask, value, key) = (&term.rule.mask, &term.rule.value, &self.depths[term.tags].key);
            let asks_for = |bits: &Key| mask.zip(bits, |mask, bits| mask & bits) != Key::default();
            let differs = key.zip(value, |key, value| key ^ value).zip(mask, |differs, mask| differs & mask);
            let known = differs.zip(&self.unknown, |differs, unknown| differs & !unknown);
            if known != Key::default() || asks_for(&self.unnamed) {
                Taken::No
            } else if asks_for(&self.unknown) {
                Taken::Perhaps
            } else {
                Taken::Surely
            }
        });
        taken.max().unwrap_or(Taken::No)
    }
}

fn ports(src: u16, dst: u16) -> Vec<u8> {
    [src.to_be_bytes(), dst.to_be_bytes()].concat()
}

/// A reply; a request reads the same to rules.
fn arp(sender: IpAddr, target: IpAddr) -> (u16, Vec<u8>) {
    let ethernet_and_ipv4 = [0, 1, 8, 0, 6, 4, 0, 2];
    let [sender, target] = [sender, target].map(|ip| match ip {
        IpAddr::V4(ip) => ip,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    });
    let mac = [0; 6];
    (ETH_P_ARP, [&ethernet_and_ipv4[..], &mac, &sender.octets(), &mac, &target.octets()].concat())
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
