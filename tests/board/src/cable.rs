//! [`Cables`]: which port leads to which, and what lies between.

/// A port of a NIC, both by number.
pub type Port = (usize, usize);

/// What a frame goes through from one port to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A wire.
    Plain,
    /// A switch chip with its CPU port at the first end and a user port at the other, as the 88E6341 of the
    /// EspressoBIN: with an EDSA tag on all that it gives the CPU.
    Switch,
}

/// Pairs of ports that are joined.
#[derive(Clone, Debug, Default)]
pub struct Cables {
    pairs: Vec<(Port, Port, Kind)>,
}

/// Where the tag is: behind both addresses.
const ADDRESSES: usize = 12;
/// Its EtherType, two bytes of nothing, and Marvell's tag: FORWARD, from device 0, port 1, untagged, priority 0
/// (net/dsa/tag_dsa.c).
const EDSA: [u8; 8] = [0xda, 0xda, 0, 0, 0xc0, 1 << 3, 0, 0];
/// The bit of Marvell's first byte that says that the tag is in the place of an 802.1Q one, and has its priority and id.
const TAGGED: u8 = 0x20;

impl Cables {
    /// Joins these pairs.
    pub fn new(pairs: impl Into<Vec<(Port, Port, Kind)>>) -> Self {
        Self { pairs: pairs.into() }
    }

    /// The other end, and how the frame arrives there; `None` where nothing is plugged in.
    pub fn carry(&self, from: Port, frame: Vec<u8>) -> Option<(Port, Vec<u8>)> {
        let &(a, b, kind) = self.pairs.iter().find(|(a, b, _)| [a, b].contains(&&from))?;
        let to_first = from == b;
        let frame = match kind {
            Kind::Plain => frame,
            Kind::Switch if to_first => tagged(frame),
            Kind::Switch => untagged(frame),
        };
        Some((if to_first { a } else { b }, frame))
    }
}

fn tagged(mut frame: Vec<u8>) -> Vec<u8> {
    let at = ADDRESSES.min(frame.len());
    if let &[0x81, 0, high, low, ..] = &frame[at..] {
        let [a, b, c, d, flags, port, ..] = EDSA;
        // What is neither priority nor id (CFI) lies in another byte.
        let tag = [a, b, c, d, flags | TAGGED, port | high >> 4 & 1, high & !0x10, low];
        frame.splice(at..at + 4, tag);
    } else {
        frame.splice(at..at, EDSA);
    }
    frame
}

/// What the CPU sends without a tag is forwarded as it is.
fn untagged(mut frame: Vec<u8>) -> Vec<u8> {
    if let Some(&[0xda, 0xda, _, _, flags, port, high, low]) = frame.get(ADDRESSES..ADDRESSES + EDSA.len()) {
        let tag = [0x81, 0, high | (port & 1) << 4, low];
        let tag = if flags & TAGGED == 0 { &[][..] } else { &tag };
        frame.splice(ADDRESSES..ADDRESSES + EDSA.len(), tag.iter().copied());
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cable_has_two_ends() {
        let cables = Cables::new([((0, 0), (1, 0), Kind::Plain)]);
        assert_eq!(cables.carry((0, 0), vec![7]), Some(((1, 0), vec![7])));
        assert_eq!(cables.carry((1, 0), vec![7]), Some(((0, 0), vec![7])));
        assert_eq!(cables.carry((0, 1), vec![7]), None);
    }

    #[test]
    fn a_switch_tags_what_it_gives_the_cpu_and_takes_the_tag_away_again() {
        let cables = Cables::new([((2, 0), (3, 0), Kind::Switch)]);
        let frame: Vec<u8> = (0..60).collect();
        let (cpu, with_tag) = cables.carry((3, 0), frame.clone()).unwrap();
        assert_eq!(cpu, (2, 0));
        assert_eq!(with_tag.len(), 68);
        assert_eq!(with_tag[..14], [&frame[..12], &[0xda, 0xda]].concat()[..]);
        assert_eq!(with_tag[20..], frame[12..]);
        assert_eq!(cables.carry(cpu, with_tag), Some(((3, 0), frame.clone())));
        assert_eq!(cables.carry(cpu, frame.clone()), Some(((3, 0), frame)), "without a tag");
        assert_eq!(cables.carry(cpu, vec![1; 13]), Some(((3, 0), vec![1; 13])), "too short for one");
    }

    #[test]
    fn a_switch_puts_its_tag_in_the_place_of_a_vlan_tag() {
        let cables = Cables::new([((2, 0), (3, 0), Kind::Switch)]);
        let mut frame: Vec<u8> = (0..64).collect();
        // Priority 5, CFI, id 0x234.
        frame[12..16].copy_from_slice(&[0x81, 0, 0xb2, 0x34]);
        let (cpu, with_tag) = cables.carry((3, 0), frame.clone()).unwrap();
        assert_eq!(with_tag.len(), 68);
        assert_eq!(with_tag[12..20], [0xda, 0xda, 0, 0, 0xe0, 0x09, 0xa2, 0x34]);
        assert_eq!(with_tag[20..], frame[16..]);
        assert_eq!(cables.carry(cpu, with_tag), Some(((3, 0), frame)));
    }
}
