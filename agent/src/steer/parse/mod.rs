//! The grammar: words to [`Terms`].
//!
//! Of pcap-filter(7), with its precedence: `and` and `or` bind equally and from the left.
//!
//! Here is what puts primitives together; beside it what each primitive begins with ([`primitives`]), the values at
//! their ends ([`values`]), what those ask of a frame ([`conditions`]), and the words themselves ([`words`]).

mod conditions;
mod primitives;
mod values;
mod words;

use std::ops::Range;

use umemd_common::packet::{ETH_P_IP, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP};

use self::words::WORDS;
use super::address::mac;
use super::error::RuleError;
use super::filter::{Direction, Tree};
use super::lex::{Token, pcap_number, tokens};
use super::terms::{Atom, MAX_TERMS, Terms, Unfit};

/// Parentheses in parentheses; deeper ones could exhaust the stack.
const MAX_DEPTH: usize = 32;

/// Compiles one rule to the alternatives of which one has to match; there is at least one.
pub(super) fn parse(expression: &str) -> Result<Meaning, RuleError> {
    let mut parser =
        Parser { expression, tokens: tokens(expression), next: 0, depth: 0, head: None, tags: 0, said: 0 };
    let meaning = parser.expression(None)?;
    if let Some(token) = parser.peek() {
        let next =
            if token.text == "mask" { "a net is said with its length, as in net 10.0.0.0/8" } else { WORDS };
        return Err(parser.error(token.span, "expected `and`, `or` or the end", next));
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
    /// `outer` stands before the parentheses that it is in.
    fn expression(&mut self, outer: Option<Head>) -> Result<Meaning, RuleError> {
        let mut meaning = if self.is_next("(") { self.in_parentheses(outer)? } else { self.primitive(None)? };
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
        match head {
            Some(head) if self.begins_values() => {
                let span = self.peek().map_or(0..0, |token| token.span);
                self.say(&span)?;
                self.values(head)
            }
            _ if self.is_next("(") => self.in_parentheses(head),
            _ => self.primitive(head),
        }
    }

    /// Whatever is within, a value behind it takes up the words before it (`grammar.y`: `paren expr ')'`).
    fn in_parentheses(&mut self, head: Option<Head>) -> Result<Meaning, RuleError> {
        let meaning = self.enclosed(|parser| parser.expression(head));
        self.head = head;
        meaning
    }

    /// The value behind a head, or several in parentheses, `(7 or 8)`, each of which stands behind it: what is `id`
    /// in pcap's grammar.
    pub(super) fn values(&mut self, head: Head) -> Result<Meaning, RuleError> {
        if !self.is_next("(") {
            return self.value(head);
        }
        self.enclosed(|parser| {
            // Of all values only a number may stand in parentheses of its own there, and nothing at all may stand
            // behind several that come first: `((7 or 8) and 9)` is none.
            let mut meaning =
                if parser.is_next("(") { parser.enclosed_number(head)? } else { parser.value(head)? };
            while let Some(Token { text, span }) = parser.peek() {
                let Meaning { terms, tree } = meaning;
                meaning = match text {
                    "and" | "&&" => {
                        parser.next += 1;
                        parser.say(&span)?;
                        let right = parser.values(head)?;
                        parser.fit(terms.and(&right.terms), tree.and(right.tree), span)?
                    }
                    "or" | "||" => {
                        parser.next += 1;
                        parser.say(&span)?;
                        let right = parser.values(head)?;
                        parser.fit(terms.or(right.terms), tree.or(right.tree), span)?
                    }
                    _ => return Ok(Meaning { terms, tree }),
                };
            }
            Ok(meaning)
        })
    }

    /// `((7))`: a number in parentheses, of which there may be any.
    fn enclosed_number(&mut self, head: Head) -> Result<Meaning, RuleError> {
        self.enclosed(|parser| match parser.peek() {
            Some(Token { text: "(", .. }) => parser.enclosed_number(head),
            Some(Token { text, .. }) if pcap_number(text).is_some() => {
                let meaning = parser.value(head)?;
                match parser.peek() {
                    Some(Token { text: ")", .. }) | None => Ok(meaning),
                    Some(token) => Err(parser.too_deep(token.span)),
                }
            }
            Some(token) => Err(parser.too_deep(token.span)),
            None => Err(parser.error_at_end("expected a number", "close the parentheses behind it")),
        })
    }

    fn too_deep(&self, span: Range<usize>) -> RuleError {
        let problem = "only a lone number may stand in two parentheses";
        self.error(span, problem, "leave the inner ones out: (7 or 8)")
    }

    /// Whether a value comes next, in parentheses or not.
    pub(super) fn begins_values(&self) -> bool {
        let first = self.tokens[self.next..].iter().find(|token| token.text != "(");
        self.is_next("(") && first.is_some_and(|token| is_value(token.text))
    }

    /// Counts one condition more.
    fn say(&mut self, span: &Range<usize>) -> Result<(), RuleError> {
        self.said += 1;
        if self.said > MAX_TERMS {
            let problem = format!("more than {MAX_TERMS} conditions");
            return Err(self.error(span.clone(), &problem, "say it in several rules"));
        }
        Ok(())
    }

    /// A primitive, or a value that takes up the words of the one before.
    fn primitive(&mut self, head: Option<Head>) -> Result<Meaning, RuleError> {
        self.head = None;
        let Some(Token { text, span }) = self.take() else {
            return Err(self.error_at_end("expected a word", WORDS));
        };
        self.say(&span)?;
        let ether = Atom::ether_proto;
        let tags = self.tags;
        match text {
            "all" => Ok(Meaning { terms: Terms::all(), tree: Tree::All }),
            "vlan" => self.vlan(span),
            "ether" => self.ether(),
            "ip" if self.is_next("proto") => self.proto(Head::Proto { ip: true, ip6: false }),
            "ip6" if self.is_next("proto") => self.proto(Head::Proto { ip: false, ip6: true }),
            "proto" => self.values(Head::Proto { ip: true, ip6: true }),
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
                Some(head) if is_value(text) => {
                    self.next -= 1;
                    self.value(head)
                }
                _ => Err(self.unknown(text, span)),
            },
        }
    }

    /// What `inside` reads, in parentheses.
    fn enclosed(
        &mut self,
        inside: impl FnOnce(&mut Self) -> Result<Meaning, RuleError>,
    ) -> Result<Meaning, RuleError> {
        let open = self.take().map_or(0..0, |token| token.span);
        if self.depth == MAX_DEPTH {
            let problem = format!("more than {MAX_DEPTH} parentheses in one another");
            return Err(self.error(open, &problem, "say it in several rules"));
        }
        self.depth += 1;
        let meaning = inside(self)?;
        self.depth -= 1;
        match self.peek() {
            Some(Token { text: ")", .. }) => {
                self.next += 1;
                Ok(meaning)
            }
            Some(_) => Err(self.expected_here("`and`, `or` or `)`", WORDS)),
            None => Err(self.error(open, "this parenthesis is not closed", "add a `)`")),
        }
    }
}

/// Whether this is a number, an address or a quoted name, which may follow `and` and `or` alone.
fn is_value(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit() || c == '\\') || text.contains(':') || mac(text).is_some()
}
