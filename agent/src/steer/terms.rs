//! What an expression means: a list of alternatives, each of which is a list of conditions.
//!
//! `or` puts lists together, `and` merges each alternative of one list with each of the other. What can match
//! no frame, or only frames that another alternative takes, is left out.

use umemd_common::key::{End, MAX_TAGS, field};
use umemd_common::packet::{
    ETH_P_ARP, ETH_P_IP, ETH_P_IPV6, ETH_P_RARP, IPPROTO_FRAGMENT, Parsed, has_ports, is_tag_type,
};
use umemd_common::{Key, Rule, View, parse};

/// More alternatives than this are refused while an expression is compiled; a sane one has a handful.
pub(super) const MAX_TERMS: usize = 512;

/// One alternative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// What it asks for, all at once: an entry of the program's tables.
    pub rule: Rule,
    /// Behind how many VLAN tags a frame is read for it.
    pub tags: usize,
}

/// One condition, and behind how many tags it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Atom {
    pub(super) rule: Rule,
    pub(super) tags: usize,
}

/// The alternatives of which one has to match; none of them is superfluous.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Terms(Vec<Term>);

/// Why alternatives cannot be put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// More than [`MAX_TERMS`].
    TooMany,
    /// One alternative looks at the same frame in front of a VLAN tag and behind it, without asking for the tag.
    TwoDepths,
}

/// Fields that are read behind as many tags as their atom says; the others lie in front of any tag, or are it.
const BEHIND_TAGS: u32 = field::ETHER_PROTO | BEHIND_ETHER;
const BEHIND_ETHER: u32 = field::IP_PROTO | field::FRAGMENT_PROTO | PORTS | V4 | V6;
const PORTS: u32 = field::SRC_PORT | field::DST_PORT;
const V4: u32 = field::SRC4 | field::DST4;
const V6: u32 = (field::SRC6 | field::DST6) * field::WHOLE6;

impl Atom {
    /// A field, its bits that matter, and their values.
    pub(super) fn new(tags: usize, fields: u32, mask: Key, value: Key) -> Self {
        let value = value.zip(&mask, |value, mask| value & mask);
        Self { rule: Rule { mask: mask.with_fields(fields), value: value.with_fields(fields) }, tags }
    }

    pub(super) fn ether_proto(tags: usize, ether_proto: u16) -> Self {
        let key = Key::default();
        Self::new(tags, field::ETHER_PROTO, key.with_ether_proto(u16::MAX), key.with_ether_proto(ether_proto))
    }

    pub(super) fn ip_proto(tags: usize, ip_proto: u8) -> Self {
        let key = Key::default();
        Self::new(tags, field::IP_PROTO, key.with_ip_proto(u8::MAX), key.with_ip_proto(ip_proto))
    }

    pub(super) fn fragment_proto(tags: usize, proto: u8) -> Self {
        let key = Key::default();
        Self::new(
            tags,
            field::FRAGMENT_PROTO,
            key.with_fragment_proto(u8::MAX),
            key.with_fragment_proto(proto),
        )
    }

    pub(super) fn port(tags: usize, end: End, mask: u16, port: u16) -> Self {
        let (key, field) = (Key::default(), of(end, field::SRC_PORT, field::DST_PORT));
        Self::new(tags, field, key.with_port(end, mask), key.with_port(end, port))
    }

    pub(super) fn ipv4(tags: usize, end: End, mask: [u8; 4], address: [u8; 4]) -> Self {
        let (key, field) = (Key::default(), of(end, field::SRC4, field::DST4));
        Self::new(tags, field, key.with_ipv4(end, mask), key.with_ipv4(end, address))
    }

    /// The `word`th four bytes of an IPv6 address.
    pub(super) fn ipv6_word(tags: usize, end: End, word: usize, mask: [u8; 16], address: [u8; 16]) -> Self {
        let mut only = [0; 16];
        only[4 * word..][..4].copy_from_slice(&mask[4 * word..][..4]);
        let (key, field) = (Key::default(), of(end, field::SRC6, field::DST6) << word);
        Self::new(tags, field, key.with_ipv6(end, only), key.with_ipv6(end, address))
    }

    pub(super) fn mac(end: End, [a, b, c, d, e, f]: [u8; 6]) -> Self {
        let (key, x) = (Key::default(), u8::MAX);
        match end {
            End::Dst => Self::new(
                0,
                field::MAC_DST,
                key.with_macs([x, x, x, x, x, x, 0, 0, 0, 0, 0, 0]),
                key.with_macs([a, b, c, d, e, f, 0, 0, 0, 0, 0, 0]),
            ),
            End::Src => Self::new(
                0,
                field::MAC_SRC,
                key.with_macs([0, 0, 0, 0, 0, 0, x, x, x, x, x, x]),
                key.with_macs([0, 0, 0, 0, 0, 0, a, b, c, d, e, f]),
            ),
        }
    }

    /// There is a VLAN tag behind `tags` others.
    pub(super) fn tag(tags: usize) -> Self {
        Self::new(tags + 1, field::TAG << tags, Key::default(), Key::default())
    }

    /// The id of the VLAN tag behind `tags` others.
    pub(super) fn tag_id(tags: usize, id: u16) -> Self {
        let key = Key::default();
        Self::new(tags + 1, field::TAG_ID << tags, key.with_tag_id(tags, 0x0fff), key.with_tag_id(tags, id))
    }
}

fn of(end: End, src: u32, dst: u32) -> u32 {
    match end {
        End::Src => src,
        End::Dst => dst,
    }
}

impl Terms {
    /// Every frame.
    pub(super) fn all() -> Self {
        Self(vec![Term { rule: Rule::ALL, tags: 0 }])
    }

    /// The frames that meet all of these conditions.
    pub(super) fn one(atoms: impl IntoIterator<Item = Atom>) -> Result<Self, Unfit> {
        let mut terms = Self::all();
        for Atom { rule, tags } in atoms {
            terms = terms.and(&Self(vec![Term { rule, tags }]))?;
        }
        Ok(terms)
    }

    pub(super) fn or(mut self, other: Self) -> Result<Self, Unfit> {
        for term in other.0 {
            self.add(term);
        }
        self.bounded()
    }

    pub(super) fn and(&self, other: &Self) -> Result<Self, Unfit> {
        let mut merged = Self::default();
        for left in &self.0 {
            for right in &other.0 {
                if let Some(term) = left.merge(right)? {
                    merged.add(term);
                }
            }
            merged = merged.bounded()?;
        }
        Ok(merged)
    }

    /// Whether no frame can match.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The alternatives; none if no frame can match.
    pub(super) fn into_terms(self) -> Vec<Term> {
        self.0
    }

    fn add(&mut self, term: Term) {
        if is_impossible(&term.rule) || self.0.iter().any(|wider| includes(wider, &term)) {
            return;
        }
        self.0.retain(|narrower| !includes(&term, narrower));
        self.0.push(term);
    }

    fn bounded(self) -> Result<Self, Unfit> {
        if self.0.len() > MAX_TERMS { Err(Unfit::TooMany) } else { Ok(self) }
    }
}

impl Term {
    /// What both match, or `None` if they want different things.
    fn merge(&self, other: &Self) -> Result<Option<Self>, Unfit> {
        let tags = self.tags.max(other.tags);
        let asked = self.rule.mask.fields() | other.rule.mask.fields();
        let (Some(a), Some(b)) = (lift(self, tags, asked)?, lift(other, tags, asked)?) else {
            return Ok(None);
        };
        let differ = a.value.zip(&b.value, |a, b| a ^ b);
        let both_ask = a.mask.zip(&b.mask, |a, b| a & b);
        if differ.zip(&both_ask, |a, b| a & b) != Key::default() {
            return Ok(None);
        }
        let rule =
            Rule { mask: a.mask.zip(&b.mask, |a, b| a | b), value: a.value.zip(&b.value, |a, b| a | b) };
        Ok(Some(Self { rule, tags }))
    }
}

/// The rule of a term, for frames that are read behind `tags` tags, where `asked` is asked for; `None` if no
/// frame has both.
fn lift(term: &Term, tags: usize, asked: u32) -> Result<Option<Rule>, Unfit> {
    let mut rule = term.rule;
    for depth in term.tags..tags {
        let fields = rule.mask.fields() & BEHIND_TAGS;
        if fields & BEHIND_ETHER != 0 {
            // No IP lies where the tag does.
            return if asked & (field::TAG << depth) != 0 { Ok(None) } else { Err(Unfit::TwoDepths) };
        }
        if fields == field::ETHER_PROTO {
            // What was the EtherType is the type field of the tag.
            let ether_proto = rule.value.ether_proto();
            if asked & (field::TAG << depth) != 0 && !is_tag_type(ether_proto) {
                return Ok(None);
            }
            for (key, ether_proto) in [(&mut rule.mask, u16::MAX), (&mut rule.value, ether_proto)] {
                key.words[0] &= !(u64::from(u16::MAX) << 32 | u64::from(field::ETHER_PROTO));
                *key = key.with_tag_type(depth, ether_proto).with_fields(field::TAG_TYPE << depth);
            }
        }
    }
    Ok(Some(rule))
}

/// Whether every frame that `narrow` matches is matched by `wide`.
fn includes(wide: &Term, narrow: &Term) -> bool {
    if wide.tags != narrow.tags && wide.rule != Rule::ALL {
        return false;
    }
    let (wide, narrow) = (&wide.rule, &narrow.rule);
    let unasked = wide.mask.zip(&narrow.mask, |wide, narrow| wide & !narrow);
    unasked == Key::default() && narrow.value.zip(&wide.mask, |value, mask| value & mask) == wide.value
}

/// Whether no frame has a key that this rule matches, by the way keys are made.
fn is_impossible(Rule { mask, value }: &Rule) -> bool {
    let asks = |bits: u32| value.fields() & bits != 0;
    let ether = asks(field::ETHER_PROTO).then_some(value.ether_proto());
    let proto = asks(field::IP_PROTO).then_some(value.ip_proto());
    let not = |ethers: &[u16]| ether.is_some_and(|ether| !ethers.contains(&ether));
    let tags = (0..MAX_TAGS).any(|tag| {
        asks(field::TAG << tag) && asks(field::TAG_TYPE << tag) && !is_tag_type(value.tag_type(tag))
    });
    let ip = asks(field::IP_PROTO | field::FRAGMENT_PROTO | PORTS);
    tags || (ip && not(&[ETH_P_IP, ETH_P_IPV6]))
        || (asks(V4) && not(&[ETH_P_IP, ETH_P_ARP, ETH_P_RARP]))
        || (asks(V6 | field::FRAGMENT_PROTO) && not(&[ETH_P_IPV6]))
        || (asks(V4) && asks(V6 | field::FRAGMENT_PROTO))
        || (asks(field::FRAGMENT_PROTO) && (asks(PORTS) || proto.is_some_and(|p| p != IPPROTO_FRAGMENT)))
        || (asks(PORTS) && mask.ip_proto() == u8::MAX && proto.is_some_and(|proto| !has_ports(proto)))
}

/// A frame, read at every depth.
pub(super) type Depths = [Parsed; MAX_TAGS + 1];

pub(super) fn parse_all<V: View + ?Sized>(frame: &V) -> Depths {
    [parse::<0, V>(frame), parse::<1, V>(frame), parse::<2, V>(frame)]
}
