//! Frames of every kind that tcpdump's words tell apart, and of those that they do not: built from few values, which
//! rules of the same few meet often, and cut anywhere.

use proptest::prelude::*;

/// A frame to be built.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The last byte of the MAC destination, and of the source.
    pub macs: [u8; 2],
    /// VLAN tags, the outermost first: type, and priority with id.
    pub tags: Vec<(u16, u16)>,
    /// What lies behind the Ethernet header.
    pub ether: Ether,
    /// The protocol over IP.
    pub proto: u8,
    /// Numbers of the addresses of both ends.
    pub ends: [u8; 2],
    /// Source port.
    pub src: u16,
    /// Destination port.
    pub dst: u16,
    /// What the packet says of its own length.
    pub length: u16,
    /// Bytes after which the frame ends, whatever was to come.
    pub cut: Option<usize>,
}

/// What lies behind an Ethernet header.
#[derive(Clone, Debug)]
pub enum Ether {
    /// IPv4.
    V4 {
        /// Length of the header, in words of four bytes.
        words: u8,
        /// Flags and offset.
        fragment: u16,
    },
    /// IPv6.
    V6(Extension),
    /// ARP or RARP, by EtherType.
    Arp(u16),
    /// An IPv4 packet that is not seen as one.
    Behind(Wrapping),
    /// The ports alone, behind this EtherType or length.
    Other(u16),
}

/// What lies between IPv6's fixed header and the payload.
#[derive(Clone, Copy, Debug)]
pub enum Extension {
    /// Nothing.
    None,
    /// A fragment header.
    Fragment {
        /// Which part of the packet this is, in steps of 8 bytes.
        offset: u16,
    },
    /// One of 8 bytes: hop-by-hop options, a routing header, destination options, authentication.
    Header(u8),
    /// Hop-by-hop options, then a fragment header.
    HopByHopAndFragment,
}

/// What an IPv4 packet is wrapped in.
#[derive(Clone, Copy, Debug)]
pub enum Wrapping {
    /// One label.
    Mpls,
    /// A session with PPP.
    Pppoe,
    /// A length instead of an EtherType, LLC, and SNAP with the EtherType.
    Snap,
}

pub(crate) const PROTOS: [u8; 8] = [0, 1, 6, 17, 44, 47, 58, 132];
pub(crate) const PORTS: [u16; 6] = [0, 7, 8, 9, 15, 0x1107];
pub(crate) const ETHERS: [u16; 6] = [0x0800, 0x0806, 0x8035, 0x86dd, 0x8100, 0x8847];
pub(crate) const TAG_TYPES: [u16; 3] = [0x8100, 0x88a8, 0x9100];
pub(crate) const V4: [[u8; 4]; 4] = [[10, 0, 0, 1], [10, 0, 0, 2], [10, 1, 0, 1], [11, 0, 0, 1]];

pub(crate) fn v6(end: u8) -> [u8; 16] {
    let mut address = [0; 16];
    address[0] = 0xfd;
    // Each of them differs in another word.
    address[[15, 11, 5, 1][usize::from(end)]] = 7;
    address
}

/// Any frame.
pub fn any_frame() -> impl Strategy<Value = Frame> {
    let select = prop::sample::select::<u16>;
    let words = prop::sample::select(vec![0_u8, 4, 5, 5, 5, 5, 6, 15]);
    let fragment = select(vec![0, 0, 0x4000, 0x2000, 0x2001, 1, 0x1fff]);
    let extension = prop_oneof![
        6 => Just(Extension::None),
        2 => (0_u16..2).prop_map(|offset| Extension::Fragment { offset }),
        2 => prop::sample::select(vec![0_u8, 43, 51, 60]).prop_map(Extension::Header),
        1 => Just(Extension::HopByHopAndFragment),
    ];
    let wrapping = prop::sample::select(vec![Wrapping::Mpls, Wrapping::Pppoe, Wrapping::Snap]);
    let ether = prop_oneof![
        4 => (words, fragment).prop_map(|(words, fragment)| Ether::V4 { words, fragment }),
        4 => extension.prop_map(Ether::V6),
        1 => select(vec![0x0806, 0x8035]).prop_map(Ether::Arp),
        1 => wrapping.prop_map(Ether::Behind),
        1 => select([&ETHERS[..], &[0x8863, 0x88cc, 0, 46, 0x05dc, 0x05dd]].concat()).prop_map(Ether::Other),
    ];
    let tag = (select(TAG_TYPES.to_vec()), select(vec![5, 0x2005, 7, 0]));
    let tags = prop_oneof![
        4 => Just(Vec::new()),
        2 => prop::collection::vec(tag.clone(), 1),
        1 => prop::collection::vec(tag, 2..=3),
    ];
    let ends = [0_u8..4, 0_u8..4];
    (
        [0_u8..3, 0_u8..3],
        tags,
        ether,
        prop::sample::select(PROTOS.to_vec()),
        ends,
        (select(PORTS.to_vec()), select(PORTS.to_vec())),
        select(vec![40, 40, 0, 19, 0xffff]),
        prop::option::weighted(0.5, 0_usize..90),
    )
        .prop_map(|(macs, tags, ether, proto, ends, (src, dst), length, cut)| Frame {
            macs,
            tags,
            ether,
            proto,
            ends,
            src,
            dst,
            length,
            cut,
        })
}

impl Frame {
    /// UDP over IPv4.
    pub fn udp(src: u16, dst: u16) -> Self {
        Self {
            macs: [0, 0],
            tags: Vec::new(),
            ether: Ether::V4 { words: 5, fragment: 0 },
            proto: 17,
            ends: [0, 1],
            src,
            dst,
            length: 44,
            cut: None,
        }
    }

    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let Self { macs, tags, ether, ends, length, .. } = self;
        let [from, to] = ends.map(|end| V4[usize::from(end)]);
        let (ether_proto, packet) = match *ether {
            Ether::V4 { words, fragment } => (0x0800_u16, self.ipv4(words, fragment)),
            Ether::V6(extension) => (0x86dd, self.ipv6(extension)),
            Ether::Arp(ether_proto) => {
                let head = [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1];
                (ether_proto, [&head[..], &from, &[0; 6], &to].concat())
            }
            Ether::Behind(wrapping) => {
                let (ether_proto, head): (u16, &[u8]) = match wrapping {
                    Wrapping::Mpls => (0x8847, &[0, 1, 1, 64]),
                    Wrapping::Pppoe => (0x8864, &[0x11, 0, 0, 1, 0, 46, 0, 0x21]),
                    Wrapping::Snap => (68, &[0xaa, 0xaa, 3, 0, 0, 0, 8, 0]),
                };
                (ether_proto, [head, &self.ipv4(5, 0)].concat())
            }
            Ether::Other(ether_proto) => (ether_proto, self.payload()),
        };
        let mut bytes = vec![2, 0, 0, 0, 0, macs[0], 2, 0, 0, 0, 0, macs[1]];
        for (tag_type, tci) in tags {
            bytes.extend(tag_type.to_be_bytes());
            bytes.extend(tci.to_be_bytes());
        }
        bytes.extend(ether_proto.to_be_bytes());
        bytes.extend(packet);
        // Padding that belongs to no packet, where the packet says that it is longer than it is.
        bytes.resize(bytes.len() + usize::from(*length == u16::MAX) * 40, 0);
        bytes.truncate(self.cut.unwrap_or(usize::MAX));
        bytes
    }

    /// The ports, and enough for any header of a transport.
    fn payload(&self) -> Vec<u8> {
        let mut payload = [self.src.to_be_bytes(), self.dst.to_be_bytes()].concat();
        payload.extend([0; 16]);
        payload
    }

    fn ipv4(&self, words: u8, fragment: u16) -> Vec<u8> {
        let [from, to] = self.ends.map(|end| V4[usize::from(end)]);
        let mut packet = vec![0x40 | words, 0];
        packet.extend(self.length.to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(fragment.to_be_bytes());
        packet.extend([64, self.proto, 0, 0]);
        packet.extend(from);
        packet.extend(to);
        packet.resize(usize::from(words.max(5)) * 4, 1);
        packet.extend(self.payload());
        packet
    }

    fn ipv6(&self, extension: Extension) -> Vec<u8> {
        let proto = self.proto;
        let fragment = |offset: u16| vec![proto, 0, 0, (offset << 3) as u8, 0, 0, 0, 1];
        let (next, extension) = match extension {
            Extension::None => (proto, Vec::new()),
            Extension::Fragment { offset } => (44, fragment(offset)),
            Extension::Header(header) => (header, vec![proto, 0, 1, 4, 0, 0, 0, 0]),
            Extension::HopByHopAndFragment => (0, [vec![44, 0, 1, 4, 0, 0, 0, 0], fragment(0)].concat()),
        };
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend(self.length.to_be_bytes());
        packet.extend([next, 64]);
        packet.extend(v6(self.ends[0]));
        packet.extend(v6(self.ends[1]));
        packet.extend(extension);
        packet.extend(self.payload());
        packet
    }
}
