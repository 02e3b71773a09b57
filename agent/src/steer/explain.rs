//! What a rule compiles to, in words.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use umemd_common::key::{End, MAX_TAGS, field};

use super::{Image, Rule, RuleSet, Term};

/// A rule, explained: shown as a line for each entry, and one about its cost.
#[derive(Debug)]
pub struct Explanation<'a> {
    rule: &'a Rule,
    shapes: usize,
    units: usize,
}

impl<'a> Explanation<'a> {
    /// Explains the only rule of a set.
    #[must_use]
    pub fn of(rules: &'a RuleSet) -> Option<Self> {
        let image = Image::build(rules, &vec![0; rules.len()], 0).ok()?;
        Some(Self { rule: rules.first()?, shapes: image.shapes().len(), units: image.units().len() })
    }
}

impl fmt::Display for Explanation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, shapes, units } = self;
        writeln!(f, "{}", rule.spec.expression)?;
        let terms = rule.terms();
        writeln!(f, "matches a frame with {}:", if terms.len() == 1 { "this" } else { "one of these" })?;
        for term in terms {
            writeln!(f, "{}", lines(&conditions(term)))?;
        }
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        write!(
            f,
            "takes {} entr{}, {shapes} look-up{} and {} bytes of tables",
            terms.len(),
            if terms.len() == 1 { "y" } else { "ies" },
            plural(*shapes),
            units * 32,
        )
    }
}

/// Columns of a terminal.
const COLUMNS: usize = 80;

/// The conditions with commas between, in lines that a terminal holds; none is cut.
fn lines(conditions: &[String]) -> String {
    let mut text = String::new();
    let mut column = 0;
    for (number, condition) in conditions.iter().enumerate() {
        let comma = usize::from(number + 1 < conditions.len());
        if number == 0 || column + 1 + condition.len() + comma > COLUMNS {
            let indent = if number == 0 { "  " } else { "\n    " };
            text += indent;
            column = indent.trim_start_matches('\n').len();
        } else {
            text.push(' ');
            column += 1;
        }
        text += condition;
        text += &","[..comma];
        column += condition.len() + comma;
    }
    text
}

/// What an entry asks for, from the outside in.
fn conditions(term: &Term) -> Vec<String> {
    let (mask, value) = (&term.rule.mask, &term.rule.value);
    let asks = |bits: u32| mask.fields() & bits != 0;
    let mut said = Vec::new();
    for (end, bit, name) in [(End::Dst, field::MAC_DST, "destination"), (End::Src, field::MAC_SRC, "source")]
    {
        if asks(bit) {
            let octets: Vec<String> = value.mac(end).iter().map(|octet| format!("{octet:02x}")).collect();
            said.push(format!("MAC {name} {}", octets.join(":")));
        }
    }
    for tag in 0..MAX_TAGS {
        let place = if tag == 0 { "a VLAN tag" } else { "a second VLAN tag" };
        match (asks(field::TAG << tag), asks(field::TAG_ID << tag)) {
            (true, true) => said.push(format!("{place} with id {}", value.tag_id(tag))),
            (true, false) => said.push(place.to_owned()),
            (false, true) => said.push(format!("{} where {place} has its id", value.tag_id(tag))),
            (false, false) => {}
        }
        if asks(field::TAG_TYPE << tag) {
            said.push(format!("type {:#06x} there", value.tag_type(tag)));
        }
    }
    if asks(field::ETHER_PROTO) {
        said.push(format!("EtherType {:#06x}", value.ether_proto()));
    }
    for (end, four, six, name) in
        [(End::Src, field::SRC4, field::SRC6, "source"), (End::Dst, field::DST4, field::DST6, "destination")]
    {
        if asks(four) {
            let len = u32::from_be_bytes(mask.ipv4(end)).count_ones();
            said.push(format!("IPv4 or ARP {name} {}/{len}", Ipv4Addr::from(value.ipv4(end))));
        }
        if asks(six * field::WHOLE6) {
            let len = u128::from_be_bytes(mask.ipv6(end)).count_ones();
            said.push(format!("IPv6 {name} {}/{len}", Ipv6Addr::from(value.ipv6(end))));
        }
    }
    if asks(field::IP_PROTO) {
        said.push(format!("IP protocol {}", value.ip_proto()));
    }
    if asks(field::FRAGMENT_PROTO) {
        said.push(format!("protocol {} behind an IPv6 fragment header", value.fragment_proto()));
    }
    for (end, bit, name) in
        [(End::Src, field::SRC_PORT, "source"), (End::Dst, field::DST_PORT, "destination")]
    {
        if asks(bit) {
            let (first, any) = (value.port(end), !mask.port(end));
            let ports = if any == 0 { first.to_string() } else { format!("{first} to {}", first | any) };
            said.push(format!("{name} port {ports}"));
        }
    }
    match (said.is_empty(), term.tags) {
        (true, _) => vec!["anything".to_owned()],
        (false, 0) => said,
        (false, 1) => [said, vec!["all read behind 4 bytes of tag".to_owned()]].concat(),
        (false, _) => [said, vec!["all read behind 8 bytes of tags".to_owned()]].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steer::compile;

    fn explain(expression: &str) -> String {
        Explanation::of(&compile(&[expression]).unwrap()).unwrap().to_string()
    }

    #[test]
    fn a_rule_is_explained_by_its_entries_and_its_cost() {
        assert_eq!(
            explain("vlan 5 and udp dst portrange 8000-8015"),
            "vlan 5 and udp dst portrange 8000-8015\n\
             matches a frame with this:\n\
             \x20 a VLAN tag with id 5, IP protocol 17, destination port 8000 to 8015,\n\
             \x20   all read behind 4 bytes of tag\n\
             takes 1 entry, 1 look-up and 128 bytes of tables"
        );
        assert_eq!(
            explain("host 10.0.0.1"),
            "host 10.0.0.1\n\
             matches a frame with one of these:\n\
             \x20 IPv4 or ARP source 10.0.0.1/32\n\
             \x20 IPv4 or ARP destination 10.0.0.1/32\n\
             takes 2 entries, 2 look-ups and 256 bytes of tables"
        );
        let widest = "vlan 4095 and vlan 4095 and dst net fd00:1111:2222:3333:4444:5555:6666::/112 and \
             src net fd00:1111:2222:3333:4444:5555:6666::/112 and udp src and dst portrange 32768-65535 and \
             ether src 02:00:00:00:00:01 and ether dst 02:00:00:00:00:02";
        let explained = explain(widest);
        assert!(explained.lines().skip(1).all(|line| line.len() <= COLUMNS), "{explained}");
        assert!(explain("all").contains("\n  anything\n"));
        assert!(explain("ip6 net fd00::/8").contains("IPv6 source fd00::/8"));
        assert!(explain("ether src 2:0:0:0:0:1").contains("MAC source 02:00:00:00:00:01"));
    }
}
