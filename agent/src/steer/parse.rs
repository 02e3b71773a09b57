//! The grammar: words to [`Terms`].
//!
//! Of pcap-filter(7), with its precedence: `and` and `or` bind equally and from the left.

use std::ops::Range;

use umemd_common::key::{End, MAX_TAGS};
use umemd_common::packet::{
    ETH_P_ARP, ETH_P_IP, ETH_P_IPV6, ETH_P_RARP, IPPROTO_FRAGMENT, IPPROTO_ICMP, IPPROTO_ICMPV6,
    IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP,
};

use super::address::{Address, Prefix, mac, port_prefixes};
use super::error::RuleError;
use super::filter::{Direction, Tree};
use super::lex::{Token, tokens};
use super::terms::{Atom, MAX_TERMS, Terms, Unfit};

/// What a rule may say, for those who said something else.
const WORDS: &str = "a rule is made of: all, ip, ip6, arp, rarp, tcp, udp, sctp, icmp, icmp6, vlan [N], \
    [ip|ip6|arp|rarp] [src|dst] host|net ADDRESS, [tcp|udp|sctp] [src|dst] port N, portrange N-M, \
    [ip|ip6|ether] proto N, ether src|dst|host MAC; and, or, ( )";
/// Parentheses in parentheses; deeper ones could exhaust the stack.
const MAX_DEPTH: usize = 32;
/// The longest EtherType field that is a length instead (`ETHERMTU`).
const MAX_LENGTH: u16 = 1500;
/// Prefixes that a range of ports may need.
const MAX_PREFIXES: usize = 8;
/// The largest VLAN id.
const MAX_VLAN: u16 = 4095;

/// Compiles one rule to the alternatives of which one has to match; there is at least one.
pub(super) fn parse(expression: &str) -> Result<Meaning, RuleError> {
    let mut parser =
        Parser { expression, tokens: tokens(expression), next: 0, depth: 0, head: None, tags: 0, said: 0 };
    let meaning = parser.expression()?;
    if let Some(token) = parser.peek() {
        return Err(parser.error(token.span, "expected `and`, `or` or the end", WORDS));
    }
    if meaning.terms.is_empty() {
        return Err(parser.error(
            0..expression.len(),
            "no frame can match this",
            "its parts exclude each other",
        ));
    }
    Ok(meaning)
}

/// What an expression means.
pub(super) struct Meaning {
    pub(super) terms: Terms,
    pub(super) tree: Tree,
}

/// The words before a value, which a later value without words stands behind again.
#[derive(Clone, Copy, Debug)]
enum Head {
    Port { transport: Option<u8>, direction: Direction },
    PortRange { transport: Option<u8>, direction: Direction },
    Host { network: Option<u16>, direction: Direction },
    Net { network: Option<u16>, direction: Direction },
    EtherHost { direction: Direction },
    Proto { ip: bool, ip6: bool },
    EtherProto,
}

struct Parser<'a> {
    expression: &'a str,
    tokens: Vec<Token<'a>>,
    next: usize,
    /// Parentheses that are open.
    depth: usize,
    /// The head of the primitive just read, if it has one.
    head: Option<Head>,
    /// How often `vlan` has been said: what follows looks behind so many tags.
    tags: usize,
    /// Primitives so far.
    said: usize,
}

impl<'a> Parser<'a> {
    fn expression(&mut self) -> Result<Meaning, RuleError> {
        let mut meaning = self.item(None)?;
        while let Some(Token { text, span }) = self.peek() {
            let Meaning { terms, tree } = meaning;
            meaning = match text {
                "and" | "&&" => {
                    self.next += 1;
                    let right = self.item(self.head)?;
                    self.fit(terms.and(&right.terms), tree.and(right.tree), span)?
                }
                "or" | "||" => {
                    self.next += 1;
                    let right = self.item(self.head)?;
                    self.fit(terms.or(right.terms), tree.or(right.tree), span)?
                }
                _ => return Ok(Meaning { terms, tree }),
            };
        }
        Ok(meaning)
    }

    /// The terms, if they could be put together, with what they are to tcpdump; else what is wrong with that, at this
    /// place.
    fn fit(&self, terms: Result<Terms, Unfit>, tree: Tree, span: Range<usize>) -> Result<Meaning, RuleError> {
        terms.map(|terms| Meaning { terms, tree }).map_err(|unfit| match unfit {
            Unfit::TooMany => {
                let problem = format!("more than {MAX_TERMS} alternatives");
                self.error(span, &problem, "say it in several rules")
            }
            Unfit::TwoDepths => self.error(
                span,
                "this looks at a frame before and behind a VLAN tag, and not for the tag",
                "`vlan` moves all that follows it, also behind an `or`: say what is meant without a tag first, or \
                 in a rule of its own",
            ),
        })
    }

    /// A primitive, an expression in parentheses, or a value that takes up the words of the one before.
    fn item(&mut self, head: Option<Head>) -> Result<Meaning, RuleError> {
        if self.is_next("(") {
            return self.parentheses();
        }
        self.primitive(head)
    }

    /// A primitive, or a value that takes up the words of the one before.
    fn primitive(&mut self, head: Option<Head>) -> Result<Meaning, RuleError> {
        self.head = None;
        let Some(Token { text, span }) = self.take() else {
            return Err(self.error_at_end("expected a word", WORDS));
        };
        self.said += 1;
        if self.said > MAX_TERMS {
            let problem = format!("more than {MAX_TERMS} conditions");
            return Err(self.error(span, &problem, "say it in several rules"));
        }
        let ether = Atom::ether_proto;
        let tags = self.tags;
        match text {
            "all" => Ok(Meaning { terms: Terms::all(), tree: Tree::All }),
            "vlan" => self.vlan(span),
            "ether" => self.ether(),
            "ip" if self.is_next("proto") => self.proto(Head::Proto { ip: true, ip6: false }),
            "ip6" if self.is_next("proto") => self.proto(Head::Proto { ip: false, ip6: true }),
            "proto" => self.value(Head::Proto { ip: true, ip6: true }),
            "ip" | "ip6" | "arp" | "rarp" => self.network(text, span),
            "icmp" => {
                let terms = Terms::one([ether(tags, ETH_P_IP), Atom::ip_proto(tags, IPPROTO_ICMP)]);
                self.fit(terms, Tree::v4_proto(tags, IPPROTO_ICMP), span)
            }
            "icmp6" => self.fit(self.ip6_proto(IPPROTO_ICMPV6), Tree::v6_proto(tags, IPPROTO_ICMPV6), span),
            "tcp" => self.transport(IPPROTO_TCP, span),
            "udp" => self.transport(IPPROTO_UDP, span),
            "sctp" => self.transport(IPPROTO_SCTP, span),
            "src" | "dst" | "port" | "portrange" | "host" | "net" => {
                self.next -= 1;
                self.directed(None, None)
            }
            _ => match head {
                Some(head) if text.starts_with(|c: char| c.is_ascii_digit()) || text.contains(':') => {
                    self.next -= 1;
                    self.value(head)
                }
                _ => Err(self.unknown(text, span)),
            },
        }
    }

    fn parentheses(&mut self) -> Result<Meaning, RuleError> {
        let open = self.take().map_or(0..0, |token| token.span);
        if self.depth == MAX_DEPTH {
            let problem = format!("more than {MAX_DEPTH} parentheses in one another");
            return Err(self.error(open, &problem, "say it in several rules"));
        }
        self.depth += 1;
        let meaning = self.expression()?;
        self.depth -= 1;
        self.head = None;
        match self.peek() {
            Some(Token { text: ")", .. }) => {
                self.next += 1;
                Ok(meaning)
            }
            Some(_) => Err(self.expected_here("`and`, `or` or `)`", WORDS)),
            None => Err(self.error(open, "this parenthesis is not closed", "add a `)`")),
        }
    }

    /// `vlan`, and perhaps the id: what follows looks behind the tag.
    fn vlan(&mut self, span: Range<usize>) -> Result<Meaning, RuleError> {
        let tags = self.tags;
        if tags == MAX_TAGS {
            return Err(self.error(
                span,
                "a rule looks behind two VLAN tags, not three",
                "leave this one out",
            ));
        }
        self.tags += 1;
        let has_id = self.peek().is_some_and(|token| token.text.starts_with(|c: char| c.is_ascii_digit()));
        let next = "an id is a number from 0 to 4095";
        let id = has_id.then(|| self.number("a VLAN id", next, MAX_VLAN, |_| None)).transpose()?;
        let atoms = [Atom::tag(tags)].into_iter().chain(id.map(|id| Atom::tag_id(tags, id)));
        self.fit(Terms::one(atoms), Tree::vlan(tags, id), span)
    }

    /// Behind `ether`.
    fn ether(&mut self) -> Result<Meaning, RuleError> {
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
        self.value(Head::EtherHost { direction: direction.unwrap_or(Direction::Either) })
    }

    /// `ip`, `ip6`, `arp` or `rarp`, alone or before addresses.
    fn network(&mut self, word: &str, span: Range<usize>) -> Result<Meaning, RuleError> {
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
    fn transport(&mut self, protocol: u8, span: Range<usize>) -> Result<Meaning, RuleError> {
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
    fn direction(&mut self) -> Option<Direction> {
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
    fn directed(
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
            Some(text) if said.is_some() && transport.is_none() && Address::parse(text).is_ok() => {
                return self.value(Head::Host { network: ether_proto, direction });
            }
            _ if transport.is_some() => return Err(self.expected_here("`port` or `portrange`", next)),
            _ if network.is_some() => return Err(self.expected_here("`host` or `net`", next)),
            _ => return Err(self.expected_here("`host`, `net`, `port` or `portrange`", next)),
        };
        self.next += 1;
        self.value(head)
    }

    /// `proto N`, behind `ip`, `ip6` or `ether`.
    fn proto(&mut self, head: Head) -> Result<Meaning, RuleError> {
        self.next += 1;
        self.value(head)
    }

    /// The value behind a head.
    fn value(&mut self, head: Head) -> Result<Meaning, RuleError> {
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
    fn port_range(&mut self) -> Result<(u16, u16, PortPrefixes), RuleError> {
        let next = "a range is two port numbers with a dash, such as 8000-8015";
        let token = self.word("a range of ports", next)?;
        let number = |text: &str| pcap_number(text).and_then(|number| u16::try_from(number).ok());
        let (from, to) = token.text.split_once('-').unwrap_or((token.text, token.text));
        let (Some(from), Some(to)) = (number(from), number(to)) else {
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

    fn ports(
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
    fn protocol(&self, number: u8, ip: bool, ip6: bool) -> Result<Terms, Unfit> {
        let mut terms = Terms::default();
        if ip {
            terms = Terms::one([Atom::ether_proto(self.tags, ETH_P_IP), Atom::ip_proto(self.tags, number)])?;
        }
        if ip6 { terms.or(self.ip6_proto(number)?) } else { Ok(terms) }
    }

    fn ip6_proto(&self, protocol: u8) -> Result<Terms, Unfit> {
        let ip6 = Atom::ether_proto(self.tags, ETH_P_IPV6);
        Terms::one([ip6, Atom::ip_proto(self.tags, protocol)])?.or(self.behind_fragment(protocol)?)
    }

    /// IPv6, with this protocol right behind a fragment header that is right behind the fixed one.
    fn behind_fragment(&self, protocol: u8) -> Result<Terms, Unfit> {
        Terms::one([
            Atom::ether_proto(self.tags, ETH_P_IPV6),
            Atom::ip_proto(self.tags, IPPROTO_FRAGMENT),
            Atom::fragment_proto(self.tags, protocol),
        ])
    }

    /// Addresses of IPv4, ARP and RARP, or of IPv6: of one of them, if `network` says which.
    fn addresses(
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

    /// The next word, whatever it is.
    fn word(&mut self, what: &str, next: &str) -> Result<Token<'a>, RuleError> {
        self.take().ok_or_else(|| self.error_at_end(&format!("expected {what}"), next))
    }

    /// A number as pcap writes it (decimal, `0x` hexadecimal, `0` octal) up to `max`, or `\name`.
    fn number(
        &mut self,
        what: &str,
        next: &str,
        max: u16,
        named: impl Fn(&str) -> Option<u16>,
    ) -> Result<u16, RuleError> {
        let Some(Token { text, span }) = self.peek() else {
            return Err(self.error_at_end(&format!("expected {what}"), next));
        };
        let number = match text.strip_prefix('\\') {
            Some(name) => named(name).map(u64::from),
            None => pcap_number(text),
        };
        match number {
            Some(number) if number <= u64::from(max) => {
                self.next += 1;
                Ok(number as u16)
            }
            Some(_) => Err(self.error(span, &format!("`{text}` is too large for {what}"), next)),
            None => Err(self.error(span, &format!("expected {what}, not `{text}`"), next)),
        }
    }

    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.next).cloned()
    }

    fn take(&mut self) -> Option<Token<'a>> {
        let token = self.peek();
        self.next += usize::from(token.is_some());
        token
    }

    fn is_next(&self, word: &str) -> bool {
        self.peek().is_some_and(|token| token.text == word)
    }

    fn unknown(&self, text: &str, span: Range<usize>) -> RuleError {
        match text {
            "not" | "!" => self.error(
                span,
                "a rule cannot say what a frame is not",
                "say what it is; a rule before it can pass the rest",
            ),
            "len" | "less" | "greater" | "mpls" | "pppoes" | "broadcast" | "multicast" | "igmp" | "ah"
            | "esp" | "protochain" | "gateway" | "pppoed" | "geneve" => {
                self.error(span, &format!("tcpdump knows `{text}`, rules do not"), WORDS)
            }
            ")" => self.error(span, "this parenthesis closes nothing", "remove it"),
            _ => self.error(span, &format!("expected a word that rules know, not `{text}`"), WORDS),
        }
    }

    /// `expected` was not what comes next.
    fn expected_here(&self, expected: &str, next: &str) -> RuleError {
        match self.peek() {
            Some(Token { text, span }) => {
                self.error(span, &format!("expected {expected}, not `{text}`"), next)
            }
            None => self.error_at_end(&format!("expected {expected}"), next),
        }
    }

    /// Something is missing behind the last word.
    fn error_at_end(&self, problem: &str, next: &str) -> RuleError {
        // A blank further, where the missing word would stand.
        let mut expression = self.expression.trim_end().to_owned();
        if !expression.is_empty() {
            expression.push(' ');
        }
        let span = expression.len()..expression.len();
        RuleError { expression, span, problem: format!("{problem} at the end"), next: next.to_owned() }
    }

    fn error(&self, span: Range<usize>, problem: &str, next: &str) -> RuleError {
        RuleError {
            expression: self.expression.to_owned(),
            span,
            problem: problem.to_owned(),
            next: next.to_owned(),
        }
    }
}

/// As pcap's scanner reads a number; `None` if it is none.
fn pcap_number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    // from_str_radix would take a sign.
    let plain = !digits.is_empty() && digits.bytes().all(|digit| char::from(digit).is_digit(radix));
    plain.then(|| u64::from_str_radix(digits, radix).unwrap_or(u64::MAX))
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

/// One of the ends, either, or both.
fn both_ends(direction: Direction, of: impl Fn(End) -> Result<Terms, Unfit>) -> Result<Terms, Unfit> {
    match direction {
        Direction::Src => of(End::Src),
        Direction::Dst => of(End::Dst),
        Direction::Either => of(End::Src)?.or(of(End::Dst)?),
        Direction::Both => of(End::Src)?.and(&of(End::Dst)?),
    }
}

/// The smallest range of a power of two that holds this one and begins at a multiple of its size.
fn widen(from: u16, to: u16) -> (u16, u16) {
    let differ = (from ^ to).checked_ilog2().map_or(0, |bit| u16::MAX >> (15 - bit));
    (from & !differ, to | differ)
}
