//! The grammar: words to [`Terms`].
//!
//! Of pcap-filter(7), with its precedence: `and` and `or` bind equally and from the left.

use std::ops::Range;

use umemd_common::packet::{
    ETH_P_ARP, ETH_P_IP, ETH_P_IPV6, IPPROTO_FRAGMENT, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_SCTP,
    IPPROTO_TCP, IPPROTO_UDP,
};

use super::error::RuleError;
use super::lex::{Token, tokens};
use super::terms::{Condition, MAX_TERMS, Terms, TooMany};

/// What a rule may say, for those who said something else.
const WORDS: &str = "a rule is made of: all, ip, ip6, arp, tcp, udp, sctp, icmp, icmp6, \
    [tcp|udp|sctp] [src|dst] port N, ip|ip6|ether proto N; and, or, ( )";
/// Parentheses in parentheses; deeper ones could exhaust the stack.
const MAX_DEPTH: usize = 32;
/// The longest EtherType field that is a length instead (`ETHERMTU`).
const MAX_LENGTH: u16 = 1500;

/// Compiles one rule to the entries of which one has to match; there is at least one.
pub(super) fn parse(expression: &str) -> Result<Vec<umemd_common::Rule>, RuleError> {
    let mut parser = Parser { expression, tokens: tokens(expression), next: 0, depth: 0, head: None };
    let terms = parser.expression()?;
    if let Some(token) = parser.peek() {
        return Err(parser.error(token.span, "expected `and`, `or` or the end", WORDS));
    }
    let rules = terms.into_rules();
    if rules.is_empty() {
        return Err(parser.error(
            0..expression.len(),
            "no frame can match this",
            "its parts exclude each other",
        ));
    }
    Ok(rules)
}

/// The words before a number, which a later number without words stands behind again.
#[derive(Clone, Copy, Debug)]
enum Head {
    Port { transport: Option<u8>, direction: Direction },
    IpProto,
    Ip6Proto,
    EtherProto,
}

#[derive(Clone, Copy, Debug)]
enum Direction {
    Src,
    Dst,
    Either,
    Both,
}

struct Parser<'a> {
    expression: &'a str,
    tokens: Vec<Token<'a>>,
    next: usize,
    depth: usize,
    /// The head of the primitive just read, if it has one.
    head: Option<Head>,
}

impl<'a> Parser<'a> {
    fn expression(&mut self) -> Result<Terms, RuleError> {
        let mut terms = self.item(None)?;
        while let Some(Token { text, span }) = self.peek() {
            let combined = match text {
                "and" | "&&" => {
                    self.next += 1;
                    terms.and(&self.item(self.head)?)
                }
                "or" | "||" => {
                    self.next += 1;
                    terms.or(self.item(self.head)?)
                }
                _ => break,
            };
            terms = combined.map_err(|TooMany| {
                let problem = format!("more than {MAX_TERMS} alternatives");
                self.error(span, &problem, "say it in several rules")
            })?;
        }
        Ok(terms)
    }

    /// A primitive, an expression in parentheses, or a number that takes up the words of the one before.
    fn item(&mut self, head: Option<Head>) -> Result<Terms, RuleError> {
        self.head = None;
        let Some(Token { text, span }) = self.take() else {
            return Err(self.error_at_end("expected a word", WORDS));
        };
        match text {
            "(" => self.parentheses(span),
            "all" => Ok(Terms::all()),
            "ip" if self.is_next("proto") => self.proto(Head::IpProto),
            "ip6" if self.is_next("proto") => self.proto(Head::Ip6Proto),
            "ether" if self.is_next("proto") => self.proto(Head::EtherProto),
            "ether" => Err(self.expected_here("`proto`", "of ether, rules have `ether proto N`")),
            "ip" | "ip6" | "arp" => self.network(text),
            "icmp" => Ok(ip4_proto(IPPROTO_ICMP)),
            "icmp6" => Ok(ip6_proto(IPPROTO_ICMPV6)),
            "tcp" => self.transport(IPPROTO_TCP),
            "udp" => self.transport(IPPROTO_UDP),
            "sctp" => self.transport(IPPROTO_SCTP),
            "src" | "dst" | "port" => {
                self.next -= 1;
                self.port(None)
            }
            _ => match head {
                Some(head) if text.starts_with(|c: char| c.is_ascii_digit()) => {
                    self.next -= 1;
                    self.value(head)
                }
                _ => Err(self.unknown(text, span)),
            },
        }
    }

    fn parentheses(&mut self, open: Range<usize>) -> Result<Terms, RuleError> {
        if self.depth == MAX_DEPTH {
            let problem = format!("more than {MAX_DEPTH} parentheses in one another");
            return Err(self.error(open, &problem, "say it in several rules"));
        }
        self.depth += 1;
        let terms = self.expression()?;
        self.depth -= 1;
        self.head = None;
        match self.peek() {
            Some(Token { text: ")", .. }) => {
                self.next += 1;
                Ok(terms)
            }
            Some(_) => Err(self.expected_here("`and`, `or` or `)`", WORDS)),
            None => Err(self.error(open, "this parenthesis is not closed", "add a `)`")),
        }
    }

    /// `ip`, `ip6` or `arp`, alone.
    fn network(&mut self, word: &str) -> Result<Terms, RuleError> {
        // As in tcpdump: these do not qualify a port or a transport.
        if let Some(Token { text: "tcp" | "udp" | "sctp" | "src" | "dst" | "port", .. }) = self.peek() {
            let next = format!("say `{word} and …`, as with tcpdump");
            return Err(self.expected_here("`and`", &next));
        }
        let ether_proto = match word {
            "ip" => ETH_P_IP,
            "ip6" => ETH_P_IPV6,
            _ => ETH_P_ARP,
        };
        Ok(Terms::any([Condition { ether_proto: Some(ether_proto), ..Condition::default() }]))
    }

    /// `tcp`, `udp` or `sctp`, alone or before a port.
    fn transport(&mut self, protocol: u8) -> Result<Terms, RuleError> {
        match self.peek() {
            Some(Token { text: "src" | "dst" | "port", .. }) => self.port(Some(protocol)),
            _ => Ok(Terms::any([ip_proto(protocol), behind_fragment(protocol)])),
        }
    }

    /// `[src|dst|src or dst|src and dst] port N`
    fn port(&mut self, transport: Option<u8>) -> Result<Terms, RuleError> {
        let word = |at: usize| self.tokens.get(self.next + at).map(|token| token.text);
        let (direction, words) = match (word(0), word(1), word(2)) {
            (Some("src"), Some("or" | "||"), Some("dst")) | (Some("dst"), Some("or" | "||"), Some("src")) => {
                (Direction::Either, 3)
            }
            (Some("src"), Some("and" | "&&"), Some("dst"))
            | (Some("dst"), Some("and" | "&&"), Some("src")) => (Direction::Both, 3),
            (Some("src"), ..) => (Direction::Src, 1),
            (Some("dst"), ..) => (Direction::Dst, 1),
            _ => (Direction::Either, 0),
        };
        self.next += words;
        if !self.is_next("port") {
            return Err(
                self.expected_here("`port`", "of src and dst, rules have `src port N` and `dst port N`")
            );
        }
        self.next += 1;
        self.value(Head::Port { transport, direction })
    }

    /// `proto N`, behind `ip`, `ip6` or `ether`.
    fn proto(&mut self, head: Head) -> Result<Terms, RuleError> {
        self.next += 1;
        self.value(head)
    }

    /// The number, or the escaped name, behind a head.
    fn value(&mut self, head: Head) -> Result<Terms, RuleError> {
        let terms = match head {
            Head::Port { transport, direction } => {
                let number =
                    self.number("a port number", "a port is a number from 0 to 65535", u16::MAX, |_| None)?;
                ports(transport, direction, number)
            }
            Head::IpProto | Head::Ip6Proto => {
                let next = r"a protocol is a number from 0 to 255, or \icmp, \tcp, \udp, \sctp";
                let number = self.number("a protocol", next, u8::MAX.into(), |name| match name {
                    "icmp" => Some(IPPROTO_ICMP.into()),
                    "tcp" => Some(IPPROTO_TCP.into()),
                    "udp" => Some(IPPROTO_UDP.into()),
                    "sctp" => Some(IPPROTO_SCTP.into()),
                    _ => None,
                })? as u8;
                if matches!(head, Head::IpProto) { ip4_proto(number) } else { ip6_proto(number) }
            }
            Head::EtherProto => {
                let next = r"an EtherType is a number from 1501 to 65535, such as 0x88cc, or \ip, \ip6, \arp";
                let number = self.number("an EtherType", next, u16::MAX, |name| match name {
                    "ip" => Some(ETH_P_IP),
                    "ip6" => Some(ETH_P_IPV6),
                    "arp" => Some(ETH_P_ARP),
                    _ => None,
                })?;
                if number <= MAX_LENGTH {
                    let token = self.tokens[self.next - 1].clone();
                    return Err(self.error(token.span, "this is a length, not an EtherType", next));
                }
                Terms::any([Condition { ether_proto: Some(number), ..Condition::default() }])
            }
        };
        self.head = Some(head);
        Ok(terms)
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
            "not" | "!" => self.error(span, "a rule cannot say what a frame is not", "say what it is"),
            "vlan" | "host" | "net" | "portrange" | "proto" | "len" | "less" | "greater" | "mpls"
            | "pppoes" | "broadcast" | "multicast" | "igmp" | "rarp" | "ah" | "esp" => {
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

/// IPv4 or IPv6, with this protocol right behind the header.
fn ip_proto(protocol: u8) -> Condition {
    Condition { ip_proto: Some(protocol), ..Condition::default() }
}

/// IPv6, with this protocol right behind a fragment header that is right behind the fixed one.
fn behind_fragment(protocol: u8) -> Condition {
    Condition { fragment_proto: Some(protocol), ..ip_proto(IPPROTO_FRAGMENT) }
}

fn ip4_proto(protocol: u8) -> Terms {
    Terms::any([Condition { ether_proto: Some(ETH_P_IP), ..ip_proto(protocol) }])
}

fn ip6_proto(protocol: u8) -> Terms {
    let ip6 = |condition| Condition { ether_proto: Some(ETH_P_IPV6), ..condition };
    Terms::any([ip6(ip_proto(protocol)), ip6(behind_fragment(protocol))])
}

fn ports(transport: Option<u8>, direction: Direction, number: u16) -> Terms {
    let of =
        |src_port, dst_port| Condition { ip_proto: transport, src_port, dst_port, ..Condition::default() };
    let port = Some(number);
    match direction {
        Direction::Src => Terms::any([of(port, None)]),
        Direction::Dst => Terms::any([of(None, port)]),
        Direction::Either => Terms::any([of(port, None), of(None, port)]),
        Direction::Both => Terms::any([of(port, port)]),
    }
}
