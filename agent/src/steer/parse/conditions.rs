//! What a value asks of a frame, as alternatives.

use umemd_common::key::End;
use umemd_common::packet::{ETH_P_IP, ETH_P_IPV6, IPPROTO_FRAGMENT};

use super::Parser;
use crate::steer::filter::Direction;
use crate::steer::terms::{Atom, Terms, Unfit};

impl Parser<'_> {
    pub(super) fn ports(
        &self,
        transport: Option<u8>,
        direction: Direction,
        prefixes: &[(u16, u16)],
    ) -> Result<Terms, Unfit> {
        let tags = self.tags;
        let head: Vec<Atom> =
            transport.map(|transport| Atom::ip_proto(tags, transport)).into_iter().collect();
        let end = |end: End| -> Result<Terms, Unfit> {
            let mut terms = Terms::default();
            for (mask, port) in prefixes {
                terms = terms
                    .or(Terms::one(head.iter().copied().chain([Atom::port(tags, end, *mask, *port)]))?)?;
            }
            Ok(terms)
        };
        both_ends(direction, end)
    }

    /// `[ip|ip6] proto N`
    pub(super) fn protocol(&self, number: u8, ip: bool, ip6: bool) -> Result<Terms, Unfit> {
        let mut terms = Terms::default();
        if ip {
            terms = Terms::one([Atom::ether_proto(self.tags, ETH_P_IP), Atom::ip_proto(self.tags, number)])?;
        }
        if ip6 { terms.or(self.ip6_proto(number)?) } else { Ok(terms) }
    }

    pub(super) fn ip6_proto(&self, protocol: u8) -> Result<Terms, Unfit> {
        let ip6 = Atom::ether_proto(self.tags, ETH_P_IPV6);
        Terms::one([ip6, Atom::ip_proto(self.tags, protocol)])?.or(self.behind_fragment(protocol)?)
    }

    /// IPv6, with this protocol right behind a fragment header that is right behind the fixed one.
    pub(super) fn behind_fragment(&self, protocol: u8) -> Result<Terms, Unfit> {
        Terms::one([
            Atom::ether_proto(self.tags, ETH_P_IPV6),
            Atom::ip_proto(self.tags, IPPROTO_FRAGMENT),
            Atom::fragment_proto(self.tags, protocol),
        ])
    }
}

/// One of the ends, either, or both.
pub(super) fn both_ends(
    direction: Direction,
    of: impl Fn(End) -> Result<Terms, Unfit>,
) -> Result<Terms, Unfit> {
    match direction {
        Direction::Src => of(End::Src),
        Direction::Dst => of(End::Dst),
        Direction::Either => of(End::Src)?.or(of(End::Dst)?),
        Direction::Both => of(End::Src)?.and(&of(End::Dst)?),
    }
}
