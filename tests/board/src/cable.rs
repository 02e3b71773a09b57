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
    frame.splice(at..at, EDSA);
    frame
}

/// What the CPU sends without a tag is forwarded as it is.
fn untagged(mut frame: Vec<u8>) -> Vec<u8> {
    let end = ADDRESSES + EDSA.len();
    if frame.len() >= end && frame[ADDRESSES..].starts_with(&EDSA[..2]) {
        frame.drain(ADDRESSES..end);
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
}
