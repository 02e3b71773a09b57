//! What an expression means: a list of rules, of which one has to match.
//!
//! `or` puts lists together, `and` merges each rule of one list with each of the other. What can match no
//! frame, or only frames that another rule of the list takes, is left out.

use umemd_common::packet::{ETH_P_IP, ETH_P_IPV6, IPPROTO_FRAGMENT, field, has_ports};
use umemd_common::{Key, Rule};

/// More alternatives than this are refused while an expression is compiled; a sane one has a handful.
pub(super) const MAX_TERMS: usize = 512;

/// The rules of which one has to match; none of them is superfluous.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Terms(Vec<Rule>);

/// More than [`MAX_TERMS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooMany;

impl Terms {
    /// Every frame.
    pub(super) fn all() -> Self {
        Self(vec![Rule::ALL])
    }

    /// The frames that meet one of these few conditions.
    pub(super) fn any<const N: usize>(conditions: [Condition; N]) -> Self {
        let mut terms = Self::default();
        conditions.into_iter().for_each(|condition| terms.add(condition.rule()));
        terms
    }

    pub(super) fn or(mut self, other: Self) -> Result<Self, TooMany> {
        for rule in other.0 {
            self.add(rule);
        }
        self.bounded()
    }

    pub(super) fn and(&self, other: &Self) -> Result<Self, TooMany> {
        let mut merged = Self::default();
        for left in &self.0 {
            for right in &other.0 {
                if let Some(rule) = merge(left, right) {
                    merged.add(rule);
                }
            }
            merged = merged.bounded()?;
        }
        Ok(merged)
    }

    /// The rules in the order in which the expression names them; none if no frame can match.
    pub(super) fn into_rules(self) -> Vec<Rule> {
        self.0
    }

    fn add(&mut self, rule: Rule) {
        if is_impossible(&rule) || self.0.iter().any(|wider| includes(wider, &rule)) {
            return;
        }
        self.0.retain(|narrower| !includes(&rule, narrower));
        self.0.push(rule);
    }

    fn bounded(self) -> Result<Self, TooMany> {
        if self.0.len() > MAX_TERMS { Err(TooMany) } else { Ok(self) }
    }
}

/// What a primitive asks of a frame; what is `None` it does not ask for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Condition {
    pub(super) ether_proto: Option<u16>,
    pub(super) ip_proto: Option<u8>,
    pub(super) fragment_proto: Option<u8>,
    pub(super) src_port: Option<u16>,
    pub(super) dst_port: Option<u16>,
}

impl Condition {
    fn rule(self) -> Rule {
        let Self { ether_proto, ip_proto, fragment_proto, src_port, dst_port } = self;
        let bit = |asked: bool, bit: u32| if asked { bit } else { 0 };
        let fields = bit(ether_proto.is_some(), field::ETHER_PROTO)
            | bit(ip_proto.is_some(), field::IP_PROTO)
            | bit(fragment_proto.is_some(), field::FRAGMENT_PROTO)
            | bit(src_port.is_some(), field::SRC_PORT)
            | bit(dst_port.is_some(), field::DST_PORT);
        let all_16 = |value: Option<u16>| value.map_or(0, |_| u16::MAX);
        let all_8 = |value: Option<u8>| value.map_or(0, |_| u8::MAX);
        Rule {
            mask: Key {
                fields,
                ether_proto: all_16(ether_proto),
                src_port: all_16(src_port),
                dst_port: all_16(dst_port),
                ip_proto: all_8(ip_proto),
                fragment_proto: all_8(fragment_proto),
            },
            value: Key {
                fields,
                ether_proto: ether_proto.unwrap_or(0),
                src_port: src_port.unwrap_or(0),
                dst_port: dst_port.unwrap_or(0),
                ip_proto: ip_proto.unwrap_or(0),
                fragment_proto: fragment_proto.unwrap_or(0),
            },
        }
    }
}

/// The rule that matches what both match, or `None` if they want different values.
fn merge(a: &Rule, b: &Rule) -> Option<Rule> {
    let differ = zip(&a.value, &b.value, |a, b| a ^ b);
    let both_ask = zip(&a.mask, &b.mask, |a, b| a & b);
    if zip(&differ, &both_ask, |a, b| a & b) != Key::default() {
        return None;
    }
    Some(Rule { mask: zip(&a.mask, &b.mask, |a, b| a | b), value: zip(&a.value, &b.value, |a, b| a | b) })
}

/// Whether every frame that `narrow` matches is matched by `wide`.
fn includes(wide: &Rule, narrow: &Rule) -> bool {
    let unasked = zip(&wide.mask, &narrow.mask, |wide, narrow| wide & !narrow);
    unasked == Key::default() && zip(&narrow.value, &wide.mask, |value, mask| value & mask) == wide.value
}

/// Whether no frame has a key that this rule matches, by the way keys are made.
fn is_impossible(Rule { mask, value }: &Rule) -> bool {
    let asks = |bits: u32| value.fields & bits != 0;
    let ether = (mask.ether_proto != 0).then_some(value.ether_proto);
    let proto = (mask.ip_proto != 0).then_some(value.ip_proto);
    let ports = asks(field::SRC_PORT | field::DST_PORT);
    let fragment = asks(field::FRAGMENT_PROTO);

    let not_ip = ether.is_some_and(|ether| ether != ETH_P_IP && ether != ETH_P_IPV6);
    (not_ip && (asks(field::IP_PROTO) || fragment || ports))
        || (fragment && (ports || ether == Some(ETH_P_IP) || proto.is_some_and(|p| p != IPPROTO_FRAGMENT)))
        || (ports && proto.is_some_and(|proto| !has_ports(proto)))
}

/// Field by field.
fn zip(a: &Key, b: &Key, f: impl Fn(u32, u32) -> u32) -> Key {
    let f16 = |a: u16, b: u16| f(a.into(), b.into()) as u16;
    let f8 = |a: u8, b: u8| f(a.into(), b.into()) as u8;
    Key {
        fields: f(a.fields, b.fields),
        ether_proto: f16(a.ether_proto, b.ether_proto),
        src_port: f16(a.src_port, b.src_port),
        dst_port: f16(a.dst_port, b.dst_port),
        ip_proto: f8(a.ip_proto, b.ip_proto),
        fragment_proto: f8(a.fragment_proto, b.fragment_proto),
    }
}
