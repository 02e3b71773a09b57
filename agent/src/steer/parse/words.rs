//! The words of a rule, one after the other, and what is said when one of them is not what was expected.

use std::ops::Range;

use super::Parser;
use crate::steer::error::RuleError;
use crate::steer::lex::{Token, pcap_number};

/// What a rule may say, for those who said something else.
pub(super) const WORDS: &str = "a rule is made of: all, ip, ip6, arp, rarp, tcp, udp, sctp, icmp, icmp6, vlan [N], \
    [ip|ip6|arp|rarp] [src|dst] host|net ADDRESS, [tcp|udp|sctp] [src|dst] port N, portrange N-M, \
    [ip|ip6|ether] proto N, ether src|dst|host MAC; and, or, ( )";

impl<'a> Parser<'a> {
    /// The next word, whatever it is.
    pub(super) fn word(&mut self, what: &str, next: &str) -> Result<Token<'a>, RuleError> {
        self.take().ok_or_else(|| self.error_at_end(&format!("expected {what}"), next))
    }

    /// A number as pcap writes it (decimal, `0x` hexadecimal, `0` octal) up to `max`, or `\name`.
    pub(super) fn number(
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

    pub(super) fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.next).cloned()
    }

    pub(super) fn take(&mut self) -> Option<Token<'a>> {
        let token = self.peek();
        self.next += usize::from(token.is_some());
        token
    }

    pub(super) fn is_next(&self, word: &str) -> bool {
        self.peek().is_some_and(|token| token.text == word)
    }

    pub(super) fn unknown(&self, text: &str, span: Range<usize>) -> RuleError {
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
    pub(super) fn expected_here(&self, expected: &str, next: &str) -> RuleError {
        match self.peek() {
            Some(Token { text, span }) => {
                self.error(span, &format!("expected {expected}, not `{text}`"), next)
            }
            None => self.error_at_end(&format!("expected {expected}"), next),
        }
    }

    /// Something is missing behind the last word.
    pub(super) fn error_at_end(&self, problem: &str, next: &str) -> RuleError {
        // A blank further, where the missing word would stand.
        let mut expression = self.expression.trim_end().to_owned();
        if !expression.is_empty() {
            expression.push(' ');
        }
        let span = expression.len()..expression.len();
        RuleError { expression, span, problem: format!("{problem} at the end"), next: next.to_owned() }
    }

    pub(super) fn error(&self, span: Range<usize>, problem: &str, next: &str) -> RuleError {
        RuleError {
            expression: self.expression.to_owned(),
            span,
            problem: problem.to_owned(),
            next: next.to_owned(),
        }
    }
}
