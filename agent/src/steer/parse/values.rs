//! The value at the end of a primitive: a number, a range, an address.

use umemd_common::packet::{
    ETH_P_ARP, ETH_P_IP, ETH_P_IPV6, ETH_P_RARP, IPPROTO_ICMP, IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP,
};

use super::conditions::both_ends;
use super::{Head, Meaning, Parser};
use crate::steer::address::{Address, Prefix, mac, port_prefixes};
use crate::steer::error::RuleError;
use crate::steer::filter::{Direction, Tree};
use crate::steer::lex::{Token, pcap_number};
use crate::steer::terms::{Atom, Terms, Unfit};

/// The longest EtherType field that is a length instead (`ETHERMTU`).
const MAX_LENGTH: u16 = 1500;
/// EtherType of AppleTalk.
const ETH_P_ATALK: u16 = 0x809b;
/// EtherType of AppleTalk's ARP.
const ETH_P_AARP: u16 = 0x80f3;
/// Prefixes that a range of ports may need.
const MAX_PREFIXES: usize = 8;

impl<'a> Parser<'a> {
    /// The value behind a head.
    pub(super) fn value(&mut self, head: Head) -> Result<Meaning, RuleError> {
        let start = self.next;
        let tags = self.tags;
        let (terms, tree) = match head {
            Head::Port { transport, direction } => {
                let port =
                    self.number("a port number", "a port is a number from 0 to 65535", u16::MAX, |_| None)?;
                let terms = self.ports(transport, direction, &[(u16::MAX, port)]);
                (terms, Tree::ports(tags, transport, direction, port, port))
            }
            Head::PortRange { transport, direction } => {
                let (from, to, prefixes) = self.port_range()?;
                let terms = self.ports(transport, direction, &prefixes);
                (terms, Tree::ports(tags, transport, direction, from, to))
            }
            Head::Proto { ip, ip6 } => {
                let next = r"a protocol is a number from 0 to 255, or \icmp, \tcp, \udp, \sctp";
                let number = self.number("a protocol", next, u8::MAX.into(), |name| match name {
                    "icmp" => Some(IPPROTO_ICMP.into()),
                    "tcp" => Some(IPPROTO_TCP.into()),
                    "udp" => Some(IPPROTO_UDP.into()),
                    "sctp" => Some(IPPROTO_SCTP.into()),
                    _ => None,
                })? as u8;
                (self.protocol(number, ip, ip6), protocol_tree(tags, number, ip, ip6))
            }
            Head::EtherProto => {
                let next =
                    r"an EtherType is a number from 1501 to 65535, such as 0x88cc, or \ip, \ip6, \arp, \rarp";
                let number = self.number("an EtherType", next, u16::MAX, |name| match name {
                    "ip" => Some(ETH_P_IP),
                    "ip6" => Some(ETH_P_IPV6),
                    "arp" => Some(ETH_P_ARP),
                    "rarp" => Some(ETH_P_RARP),
                    _ => None,
                })?;
                if number <= MAX_LENGTH {
                    let token = self.tokens[self.next - 1].clone();
                    return Err(self.error(token.span, "this is a length, not an EtherType", next));
                }
                // The only two that libpcap looks for in two places (`gencode.c: gen_ether_linktype`).
                if [ETH_P_ATALK, ETH_P_AARP].contains(&number) {
                    let token = self.tokens[self.next - 1].clone();
                    let problem =
                        "tcpdump also takes AppleTalk in 802.3 frames for this, where rules do not look";
                    return Err(self.error(
                        token.span,
                        problem,
                        "no rule can say it; leave it to the default",
                    ));
                }
                (Terms::one([Atom::ether_proto(tags, number)]), Tree::ether_proto(tags, number))
            }
            Head::EtherHost { direction } => {
                let next = "a MAC address is six hexadecimal numbers, such as 02:00:00:00:00:01";
                let token = self.word("a MAC address", next)?;
                let mac = mac(token.text).ok_or_else(|| {
                    self.error(token.span, &format!("expected a MAC address, not `{}`", token.text), next)
                })?;
                let terms = both_ends(direction, |end| Terms::one([Atom::mac(end, mac)]));
                (terms, Tree::ends(direction, |end| Tree::ether_host(end, mac)))
            }
            Head::Host { network, direction } => {
                let token = self.word("an address", Address::NEXT)?;
                let address = Address::parse(token.text)
                    .map_err(|problem| self.error(token.span.clone(), &problem, Address::NEXT))?;
                self.addresses(network, direction, address.prefix(), token)?
            }
            Head::Net { network, direction } => {
                let token = self.word("a network", Prefix::NEXT)?;
                let prefix = Prefix::parse(token.text)
                    .map_err(|problem| self.error(token.span.clone(), &problem, Prefix::NEXT))?;
                self.addresses(network, direction, prefix, token)?
            }
        };
        self.head = Some(head);
        let span = self.tokens.get(start).map_or(0..0, |token| token.span.clone());
        self.fit(terms, tree, span)
    }

    /// `N-M`: both, in order, and the prefixes that cover it.
    pub(super) fn port_range(&mut self) -> Result<(u16, u16, PortPrefixes), RuleError> {
        let next = "a range is two decimal port numbers with a dash, such as 8000-8015";
        let token = self.word("a range of ports", next)?;
        // A lone number may be hexadecimal or octal; the ends of a range are decimal, as tcpdump takes them for names of
        // services (getaddrinfo(3)).
        let lone = |text| pcap_number(text).and_then(|number| u16::try_from(number).ok());
        let end =
            |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        let ends = match token.text.split_once('-') {
            Some((from, to)) => end(from).zip(end(to)),
            None => lone(token.text).map(|port| (port, port)),
        };
        let Some((from, to)) = ends else {
            let problem = format!("expected a range of ports, not `{}`", token.text);
            return Err(self.error(token.span, &problem, next));
        };
        // As tcpdump does.
        let (from, to) = (from.min(to), from.max(to));
        let prefixes = port_prefixes(from, to);
        if prefixes.len() > MAX_PREFIXES {
            let problem =
                format!("this range takes {} prefixes, and {MAX_PREFIXES} are allowed", prefixes.len());
            let (wider, end) = widen(from, to);
            let next = format!("begin and end it at round binary numbers: {wider}-{end} holds it");
            return Err(self.error(token.span, &problem, &next));
        }
        Ok((from, to, prefixes))
    }

    /// Addresses of IPv4, ARP and RARP, or of IPv6: of one of them, if `network` says which.
    pub(super) fn addresses(
        &self,
        network: Option<u16>,
        direction: Direction,
        prefix: Prefix,
        token: Token<'a>,
    ) -> Result<(Result<Terms, Unfit>, Tree), RuleError> {
        let tags = self.tags;
        let mismatch = |what: &str, is: &str| {
            Err(self.error(
                token.span.clone(),
                &format!("expected {what} address, not one of {is}"),
                "leave out the word for the network, or name the other one",
            ))
        };
        let head: Vec<Atom> = network.map(|network| Atom::ether_proto(tags, network)).into_iter().collect();
        let with = |atoms: Vec<Atom>| Terms::one([head.as_slice(), &atoms].concat());
        let tree = match prefix {
            Prefix::V4 { address, mask } => Tree::net4(tags, network, direction, address, mask),
            Prefix::V6 { address, mask } => Tree::net6(tags, direction, address, mask),
        };
        let terms = match prefix {
            Prefix::V4 { .. } if network == Some(ETH_P_IPV6) => return mismatch("an IPv6", "IPv4"),
            Prefix::V6 { .. } if network.is_some_and(|network| network != ETH_P_IPV6) => {
                return mismatch("an IPv4", "IPv6");
            }
            // All networks there are: tcpdump looks at no address then.
            Prefix::V4 { mask: [0, 0, 0, 0], .. } if network.is_none() => [ETH_P_IP, ETH_P_ARP, ETH_P_RARP]
                .into_iter()
                .try_fold(Terms::default(), |terms, ether_proto| {
                    terms.or(Terms::one([Atom::ether_proto(tags, ether_proto)])?)
                }),
            Prefix::V4 { mask: [0, 0, 0, 0], .. } => with(Vec::new()),
            Prefix::V4 { address, mask } => {
                both_ends(direction, |end| with(vec![Atom::ipv4(tags, end, mask, address)]))
            }
            Prefix::V6 { address, mask } => both_ends(direction, |end| {
                let words = (0..4).filter(|word| mask[4 * word] != 0);
                let words = words.map(|word| Atom::ipv6_word(tags, end, word, mask, address));
                Terms::one([Atom::ether_proto(tags, ETH_P_IPV6)].into_iter().chain(words))
            }),
        };
        Ok((terms, tree))
    }
}

/// Ports, each as mask and value.
type PortPrefixes = Vec<(u16, u16)>;

/// `[ip|ip6] proto N`
fn protocol_tree(tags: usize, number: u8, ip: bool, ip6: bool) -> Tree {
    match (ip, ip6) {
        (true, true) => Tree::v4_proto(tags, number).or(Tree::v6_proto(tags, number)),
        (true, false) => Tree::v4_proto(tags, number),
        (false, _) => Tree::v6_proto(tags, number),
    }
}

/// The smallest range of a power of two that holds this one and begins at a multiple of its size.
fn widen(from: u16, to: u16) -> (u16, u16) {
    let differ = (from ^ to).checked_ilog2().map_or(0, |bit| u16::MAX >> (15 - bit));
    (from & !differ, to | differ)
}
