//! What a primitive begins with: the words in front of its value, or the word that is all of it.

use std::ops::Range;

use umemd_common::key::MAX_TAGS;
use umemd_common::packet::{ETH_P_ARP, ETH_P_IP, ETH_P_IPV6, ETH_P_RARP};

use super::{Head, Meaning, Parser};
use crate::steer::address::Address;
use crate::steer::error::RuleError;
use crate::steer::filter::{Direction, Tree};
use crate::steer::lex::Token;
use crate::steer::terms::{Atom, Terms};

/// The largest VLAN id.
const MAX_VLAN: u16 = 4095;

impl Parser<'_> {
    /// `vlan`, and perhaps the id: what follows looks behind the tag.
    pub(super) fn vlan(&mut self, span: Range<usize>) -> Result<Meaning, RuleError> {
        let tags = self.tags;
        if tags == MAX_TAGS {
            return Err(self.error(
                span,
                "a rule looks behind two VLAN tags, not three",
                "leave this one out",
            ));
        }
        self.tags += 1;
        let begins_id = |token: &&Token<'_>| token.text.starts_with(|c: char| c.is_ascii_digit());
        let opened = self.tokens[self.next..].iter().take_while(|token| token.text == "(").count();
        let id = match self.tokens[self.next..].get(opened).filter(begins_id) {
            Some(_) => {
                self.next += opened;
                let next = "an id is a number from 0 to 4095";
                let id = self.number("a VLAN id", next, MAX_VLAN, |_| None)?;
                for _ in 0..opened {
                    if !self.is_next(")") {
                        return Err(self.expected_here("`)`", "vlan takes one id: say `vlan 5`"));
                    }
                    self.next += 1;
                }
                Some(id)
            }
            None => None,
        };
        let atoms = [Atom::tag(tags)].into_iter().chain(id.map(|id| Atom::tag_id(tags, id)));
        self.fit(Terms::one(atoms), Tree::vlan(tags, id), span)
    }

    /// Behind `ether`.
    pub(super) fn ether(&mut self) -> Result<Meaning, RuleError> {
        if self.is_next("proto") {
            return self.proto(Head::EtherProto);
        }
        let direction = self.direction();
        if self.is_next("host") {
            self.next += 1;
        } else if direction.is_none() {
            let next = "of ether, rules have `ether proto N` and `ether src|dst|host MAC`";
            return Err(self.expected_here("`proto`, `src`, `dst` or `host`", next));
        }
        self.values(Head::EtherHost { direction: direction.unwrap_or(Direction::Either) })
    }

    /// `ip`, `ip6`, `arp` or `rarp`, alone or before addresses.
    pub(super) fn network(&mut self, word: &str, span: Range<usize>) -> Result<Meaning, RuleError> {
        let ether_proto = match word {
            "ip" => ETH_P_IP,
            "ip6" => ETH_P_IPV6,
            "arp" => ETH_P_ARP,
            _ => ETH_P_RARP,
        };
        match self.peek() {
            Some(Token { text: "src" | "dst" | "host" | "net", .. }) => {
                self.directed(Some((word, ether_proto)), None)
            }
            // As in tcpdump: these do not qualify a port or a transport.
            Some(Token { text: "tcp" | "udp" | "sctp" | "port" | "portrange", .. }) => {
                let next = format!("say `{word} and …`, as with tcpdump");
                Err(self.expected_here("`and`", &next))
            }
            _ => {
                let terms = Terms::one([Atom::ether_proto(self.tags, ether_proto)]);
                self.fit(terms, Tree::ether_proto(self.tags, ether_proto), span)
            }
        }
    }

    /// `tcp`, `udp` or `sctp`, alone or before a port.
    pub(super) fn transport(&mut self, protocol: u8, span: Range<usize>) -> Result<Meaning, RuleError> {
        match self.peek() {
            Some(Token { text: "src" | "dst" | "port" | "portrange", .. }) => {
                self.directed(None, Some(protocol))
            }
            _ => {
                let terms = Terms::one([Atom::ip_proto(self.tags, protocol)]);
                let [v4, v6] = [Tree::v4_proto, Tree::v6_proto].map(|of| of(self.tags, protocol));
                self.fit(terms.and_then(|terms| terms.or(self.behind_fragment(protocol)?)), v4.or(v6), span)
            }
        }
    }

    /// `[src|dst|src or dst|src and dst]`
    pub(super) fn direction(&mut self) -> Option<Direction> {
        let word = |at: usize| self.tokens.get(self.next + at).map(|token| token.text);
        let (direction, words) = match (word(0), word(1), word(2)) {
            (Some("src"), Some("or" | "||"), Some("dst")) | (Some("dst"), Some("or" | "||"), Some("src")) => {
                (Direction::Either, 3)
            }
            (Some("src"), Some("and" | "&&"), Some("dst"))
            | (Some("dst"), Some("and" | "&&"), Some("src")) => (Direction::Both, 3),
            (Some("src"), ..) => (Direction::Src, 1),
            (Some("dst"), ..) => (Direction::Dst, 1),
            _ => return None,
        };
        self.next += words;
        Some(direction)
    }

    /// `[DIRECTION] host|net|port|portrange VALUE`, behind the word for a network or a transport, if there was one.
    pub(super) fn directed(
        &mut self,
        network: Option<(&str, u16)>,
        transport: Option<u8>,
    ) -> Result<Meaning, RuleError> {
        let said = self.direction();
        let direction = said.unwrap_or(Direction::Either);
        let ether_proto = network.map(|(_, ether_proto)| ether_proto);
        let next = "of src and dst, rules have `host`, `net`, `port` and `portrange`";
        let head = match self.peek().map(|token| token.text) {
            Some("port" | "portrange") if let Some((word, _)) = network => {
                return Err(self.expected_here(
                    "`host` or `net`",
                    &format!("say `{word} and … port N`, as with tcpdump"),
                ));
            }
            Some("host" | "net") if transport.is_some() => {
                return Err(self.expected_here("`port` or `portrange`", "say it with `and`, as with tcpdump"));
            }
            Some("port") => Head::Port { transport, direction },
            Some("portrange") => Head::PortRange { transport, direction },
            Some("host") => Head::Host { network: ether_proto, direction },
            Some("net") => Head::Net { network: ether_proto, direction },
            // `src 10.0.0.1`: a host, where nothing else is said.
            Some(text)
                if said.is_some()
                    && transport.is_none()
                    && (self.begins_values() || Address::parse(text).is_ok()) =>
            {
                return self.values(Head::Host { network: ether_proto, direction });
            }
            _ if transport.is_some() => return Err(self.expected_here("`port` or `portrange`", next)),
            _ if network.is_some() => return Err(self.expected_here("`host` or `net`", next)),
            _ => return Err(self.expected_here("`host`, `net`, `port` or `portrange`", next)),
        };
        self.next += 1;
        self.values(head)
    }

    /// `proto N`, behind `ip`, `ip6` or `ether`.
    pub(super) fn proto(&mut self, head: Head) -> Result<Meaning, RuleError> {
        self.next += 1;
        self.values(head)
    }
}
