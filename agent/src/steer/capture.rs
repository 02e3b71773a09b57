//! Captures, pcap and pcapng: which of their packets a rule matches.

use std::io::{self, Read};

use pcap_parser::traits::PcapNGPacketBlock as _;
use pcap_parser::{Block, Linktype, PcapBlockOwned, PcapError, UnknownBlock, create_reader};
use serde::Serialize;
use thiserror::Error;
use umemd_common::View as _;
use umemd_common::packet::{ETH_P_8021Q, MACS, Untagged};

use super::Rule;

/// What [`count`] counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Matched {
    /// Packets in the capture.
    pub packets: u64,
    /// Those that the rule matches.
    pub matched: u64,
}

/// Why a capture cannot be read.
#[derive(Debug, Error)]
pub enum CaptureError {
    /// Not a capture, or one that breaks off.
    #[error(
        "this is no capture that can be read, or it breaks off behind {packets} packets; tcpdump writes pcap and pcapng"
    )]
    Format {
        /// Packets that could be read.
        packets: u64,
        /// What is wrong with it.
        source: io::Error,
    },
    /// Something else than Ethernet.
    #[error("the capture is of link type {0}, and rules are about Ethernet (1); one made at `any` is not")]
    LinkType(i32),
}

/// Where a pcap's header has the link type (pcap-savefile(5)).
const LINK_TYPE: i32 = 0xffff;

/// The longest packet of a capture that does not say it, and of any pcap (`MAXIMUM_SNAPLEN`).
const MAX_SNAPLEN: u32 = 262_144;

/// The Packet Block, from before the Enhanced one.
const PACKET_BLOCK: u32 = 2;

/// Room for most blocks.
const BUFFER: usize = 1 << 20;
/// The longest block that libpcap reads (`INITIAL_MAX_BLOCKSIZE`).
const MAX_BLOCK: usize = 16 << 20;
/// Room for it, and for what the library wants beyond.
const MAX_BUFFER: usize = 2 * MAX_BLOCK;

const TOO_LONG: &str = "a block of it is longer than 16 MiB";

/// Counts the packets that the rule matches, behind a switch's tag of so many bytes ([`Untagged`]).
///
/// # Errors
///
/// [`CaptureError`].
pub fn count(rule: &Rule, switch_tag: usize, capture: impl Read + Send) -> Result<Matched, CaptureError> {
    let mut counted = Matched::default();
    let matcher = rule.matcher();
    each_frame(capture, |frame| {
        counted.packets += 1;
        let matches = match switch_tag {
            0 => matcher.matches(frame),
            tag => matcher.matches(&untagged(frame, tag)),
        };
        counted.matched += u64::from(matches);
    })?;
    Ok(counted)
}

/// The frame as the program sees it.
fn untagged(frame: &[u8], tag: usize) -> Vec<u8> {
    let tagged = Untagged { frame, tag };
    let (view, vlan) = tagged.vlan_of_switch();
    let mut bytes: Vec<u8> = (0..).map_while(|at| view.load(at)).map(|[byte]| byte).collect();
    if vlan.is_some() {
        // The switch's tag has all else of the VLAN's, at its place.
        bytes[MACS..][..2].copy_from_slice(&ETH_P_8021Q.to_be_bytes());
    }
    bytes
}

fn each_frame(capture: impl Read + Send, mut frame: impl FnMut(&[u8])) -> Result<(), CaptureError> {
    let mut said = Said::default();
    let mut room = BUFFER;
    let mut reader = create_reader(BUFFER, capture).map_err(|error| said.wrong(describe(&error)))?;
    loop {
        match reader.next() {
            Ok((used, _)) if used > MAX_BLOCK => return Err(said.wrong(TOO_LONG)),
            Ok((used, block)) => {
                if let Some(packet) = said.packet(&block)? {
                    frame(packet);
                    said.packets += 1;
                }
                reader.consume(used);
            }
            Err(PcapError::Eof) => return Ok(()),
            Err(PcapError::Incomplete(_)) => {
                if reader.reader_exhausted() {
                    return Err(said.wrong("it ends within a packet"));
                }
                reader.refill().map_err(|error| said.wrong(describe(&error)))?;
            }
            Err(PcapError::BufferTooSmall) if room < MAX_BUFFER => {
                room *= 2;
                reader.grow(room);
            }
            Err(error) => return Err(said.wrong(describe(&error))),
        }
    }
}

/// What a capture has said so far.
#[derive(Default)]
struct Said {
    packets: u64,
    /// How many interfaces this section of a pcapng has; a pcap has one.
    interfaces: usize,
    /// The longest packet. tcpdump wants it to be the same of all interfaces.
    snaplen: Option<u32>,
    /// Whether this section of a pcapng is in network byte order.
    big_endian: bool,
}

impl Said {
    /// The packet in this block, as long as tcpdump lets it be.
    fn packet<'a>(&mut self, block: &'a PcapBlockOwned<'_>) -> Result<Option<&'a [u8]>, CaptureError> {
        let bytes = match block {
            PcapBlockOwned::LegacyHeader(header) => {
                // The older ones swap the two lengths of a packet, or not.
                if (header.version_major, header.version_minor) != (2, 4) {
                    return Err(self.wrong("its version is not 2.4"));
                }
                // Above the type there are the length of a frame's checksum, and reserved bits.
                self.add_interface(header.network.0 & LINK_TYPE, header.snaplen)?;
                return Ok(None);
            }
            PcapBlockOwned::Legacy(packet) if packet.caplen > MAX_SNAPLEN => {
                return Err(self.wrong("a packet of it is longer than 256 KiB"));
            }
            PcapBlockOwned::Legacy(packet) => {
                packet.data.get(..self.snaplen() as usize).unwrap_or(packet.data)
            }
            PcapBlockOwned::NG(Block::SectionHeader(header)) => {
                (self.interfaces, self.big_endian) = (0, header.big_endian());
                return Ok(None);
            }
            PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
                self.add_interface(interface.linktype.0, interface.snaplen)?;
                return Ok(None);
            }
            PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
                self.captured(packet.if_id as usize, packet.caplen, packet.raw_packet_data())?
            }
            // It does not say how much of the packet it has.
            PcapBlockOwned::NG(Block::SimplePacket(packet)) => {
                self.captured(0, packet.origlen.min(self.snaplen()), packet.raw_packet_data())?
            }
            PcapBlockOwned::NG(Block::Unknown(block)) if self.kind(block) == PACKET_BLOCK => {
                self.old_packet(block.data)?
            }
            PcapBlockOwned::NG(_) => return Ok(None),
        };
        Ok(Some(bytes))
    }

    fn add_interface(&mut self, link_type: i32, snaplen: u32) -> Result<(), CaptureError> {
        if Linktype(link_type) != Linktype::ETHERNET {
            return Err(CaptureError::LinkType(link_type));
        }
        let snaplen = if i32::try_from(snaplen).is_ok_and(|len| len > 0) { snaplen } else { MAX_SNAPLEN };
        if *self.snaplen.get_or_insert(snaplen) != snaplen {
            return Err(
                self.wrong("its interfaces have different lengths of packets, which tcpdump does not read")
            );
        }
        self.interfaces += 1;
        Ok(())
    }

    fn snaplen(&self) -> u32 {
        self.snaplen.unwrap_or(MAX_SNAPLEN)
    }

    /// What a block of a pcapng has of a packet; with padding and options behind it in `bytes`.
    fn captured<'a>(&self, interface: usize, len: u32, bytes: &'a [u8]) -> Result<&'a [u8], CaptureError> {
        if interface >= self.interfaces {
            return Err(self.wrong("a packet is of an interface that is not described"));
        }
        if len > self.snaplen() {
            return Err(self.wrong("a packet is longer than its interface allows"));
        }
        bytes.get(..len as usize).ok_or_else(|| self.wrong("a packet is longer than its block"))
    }

    /// The type of a block that the library does not know, which it reads as if it were little-endian.
    fn kind(&self, block: &UnknownBlock<'_>) -> u32 {
        if self.big_endian { block.block_type.swap_bytes() } else { block.block_type }
    }

    /// The packet of a [`PACKET_BLOCK`]: interface and drops of 2 bytes, time stamp of 8, both lengths of 4.
    fn old_packet<'a>(&self, block: &'a [u8]) -> Result<&'a [u8], CaptureError> {
        let Some((&[a, b, _, _, _, _, _, _, _, _, _, _, c, d, e, f, ..], bytes)) =
            block.split_first_chunk::<20>()
        else {
            return Err(self.wrong("a block of it is too short"));
        };
        let (interface, len) = if self.big_endian {
            (u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, f]))
        } else {
            (u16::from_le_bytes([a, b]), u32::from_le_bytes([c, d, e, f]))
        };
        self.captured(interface.into(), len, bytes)
    }

    fn wrong(&self, what: &str) -> CaptureError {
        let source = io::Error::new(io::ErrorKind::InvalidData, what);
        CaptureError::Format { packets: self.packets, source }
    }
}

/// In words: the library's own are types.
fn describe<I>(error: &PcapError<I>) -> &'static str {
    match error {
        PcapError::Incomplete(_) | PcapError::UnexpectedEof => "it ends within a packet",
        PcapError::BufferTooSmall => TOO_LONG,
        PcapError::HeaderNotRecognized => "it begins with no header of a capture",
        PcapError::ReadError => "it cannot be read",
        _ => "a block of it is malformed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steer::compile;

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn arp() -> Vec<u8> {
        [&[2; 12][..], &[8, 6], &[0; 28]].concat()
    }

    /// Two frames, of which one is ARP.
    fn pcap(magic: u32, link_type: u32) -> Vec<u8> {
        pcap_of(magic, 65535, link_type)
    }

    fn pcap_of(magic: u32, snaplen: u32, link_type: u32) -> Vec<u8> {
        let mut file = words(&[magic, 0x0004_0002, 0, 0, snaplen, link_type]);
        for frame in [arp(), vec![0; 60]] {
            file.extend(words(&[1, 2, frame.len() as u32, 1500]));
            file.extend(frame);
        }
        file
    }

    /// The same two, each in a block of this type with these words before it.
    fn pcapng(kind: u32, snaplen: u32, before: impl Fn(u32) -> Vec<u32>) -> Vec<u8> {
        let mut file = words(&[0x0a0d_0d0a, 28, 0x1a2b_3c4d, 1, u32::MAX, u32::MAX, 28]);
        file.extend(words(&[1, 20, 1, snaplen, 20]));
        for frame in [arp(), vec![0; 60]] {
            let len = frame.len() as u32;
            let before = words(&before(len));
            let total = 12 + before.len() as u32 + len.next_multiple_of(4);
            file.extend([words(&[kind, total]), before, frame].concat());
            file.resize(file.len().next_multiple_of(4), 0);
            file.extend(words(&[total]));
        }
        file
    }

    fn enhanced(snaplen: u32) -> Vec<u8> {
        pcapng(6, snaplen, |len| vec![0, 0, 0, len, 1500])
    }

    fn old(snaplen: u32, interface: u32) -> Vec<u8> {
        pcapng(2, snaplen, |len| vec![0xffff_0000 | interface, 0, 0, len, 1500])
    }

    fn simple(snaplen: u32) -> Vec<u8> {
        pcapng(3, snaplen, |len| vec![len])
    }

    /// What is wrong with a capture.
    fn refused(file: &[u8]) -> String {
        let rules = compile(&["arp"]).unwrap();
        match count(&rules[0], 0, file).unwrap_err() {
            CaptureError::Format { packets, source } => format!("{packets}: {source}"),
            CaptureError::LinkType(link_type) => format!("link type {link_type}"),
        }
    }

    #[test]
    fn packets_are_counted_in_every_kind_of_capture() {
        let rules = compile(&["arp"]).unwrap();
        let with_checksums = pcap(0xa1b2_c3d4, 0x2400_0001);
        for file in
            [pcap(0xa1b2_c3d4, 1), pcap(0xa1b2_3c4d, 1), with_checksums, enhanced(0), old(0, 0), simple(0)]
        {
            assert_eq!(count(&rules[0], 0, file.as_slice()).unwrap(), Matched { packets: 2, matched: 1 });
        }
        let none = words(&[0xa1b2_c3d4, 0x0004_0002, 0, 0, 65535, 1]);
        assert_eq!(count(&rules[0], 0, none.as_slice()).unwrap(), Matched::default());
    }

    /// As libpcap reads it: secrets and names of hosts may be long, packets not.
    #[test]
    fn other_blocks_may_be_long() {
        let rules = compile(&["arp"]).unwrap();
        let plain = enhanced(0);
        let with = |total: u32| {
            let mut block = words(&[0xa, total]);
            block.resize(total as usize - 4, 0);
            block.extend(words(&[total]));
            [&plain[..28], &block, &plain[28..]].concat()
        };
        let long = with(16 << 20);
        assert_eq!(count(&rules[0], 0, long.as_slice()).unwrap(), Matched { packets: 2, matched: 1 });
        for longer in [(16 << 20) + 4, 33 << 20] {
            assert_eq!(refused(&with(longer)), "0: a block of it is longer than 16 MiB");
        }
    }

    #[test]
    fn what_is_no_capture_of_ethernet_is_refused() {
        let rules = compile(&["arp"]).unwrap();
        assert!(matches!(
            count(&rules[0], 0, pcap(0xa1b2_c3d4, 113).as_slice()),
            Err(CaptureError::LinkType(113))
        ));
        for file in [&b""[..], b"no capture at all, but long enough to hold a header of one"] {
            assert!(matches!(count(&rules[0], 0, file), Err(CaptureError::Format { packets: 0, .. })));
        }
        let whole = pcap(0xa1b2_c3d4, 1);
        let cut = &whole[..whole.len() - 1];
        assert!(matches!(count(&rules[0], 0, cut), Err(CaptureError::Format { packets: 1, .. })));
    }
    /// As tcpdump does it: a pcap's packets are cut, a pcapng's are refused, unless it says no length of its own.
    #[test]
    fn no_packet_is_longer_than_the_capture_allows() {
        let rules = compile(&["arp", "src host 0.0.0.0"]).unwrap();
        let matched = |rule: usize, file: &[u8]| count(&rules[rule], 0, file).unwrap().matched;
        for cut in [pcap_of(0xa1b2_c3d4, 31, 1), simple(31)] {
            assert_eq!((matched(0, &cut), matched(1, &cut)), (1, 0), "its address ends at 32");
        }
        for whole in [pcap_of(0xa1b2_c3d4, 32, 1), pcap_of(0xa1b2_c3d4, u32::MAX, 1), simple(32)] {
            assert_eq!((matched(0, &whole), matched(1, &whole)), (1, 1));
        }
        for file in [enhanced(41), old(41, 0)] {
            assert_eq!(refused(&file), "0: a packet is longer than its interface allows");
        }
        let mut long = words(&[0xa1b2_c3d4, 0x0004_0002, 0, 0, u32::MAX, 1, 1, 2, 262_145, 262_145]);
        long.resize(long.len() + 262_145, 0);
        assert_eq!(refused(&long), "0: a packet of it is longer than 256 KiB");
    }

    #[test]
    fn blocks_that_lie_are_refused() {
        assert_eq!(refused(&old(0, 1)), "0: a packet is of an interface that is not described");
        let long = pcapng(2, 0, |len| vec![0, 0, 0, len + 3, 1500]);
        assert_eq!(refused(&long), "0: a packet is longer than its block");
        assert_eq!(refused(&pcapng(3, 0, |_| vec![61])), "0: a packet is longer than its block");
        let short = words(&[2, 20, 0, 0, 20]);
        assert_eq!(refused(&[old(0, 0), short].concat()), "2: a block of it is too short");
        let different = [enhanced(0), enhanced(100)].concat();
        assert!(refused(&different).contains("2: its interfaces have different lengths"));
        assert_eq!(refused(&[enhanced(0), words(&[1, 20, 113, 0, 20])].concat()), "link type 113");
        let mut older = pcap(0xa1b2_c3d4, 1);
        older[6] = 3;
        assert_eq!(refused(&older), "0: its version is not 2.4");
    }

    #[test]
    fn a_switchs_tag_is_looked_behind() {
        let rules = compile(&["arp", "vlan 5 and arp"]).unwrap();
        let behind = |tag: &[u8]| {
            let frame = [&arp()[..12], tag, &arp()[12..]].concat();
            let len = frame.len() as u32;
            [words(&[0xa1b2_c3d4, 0x0004_0002, 0, 0, 65535, 1, 1, 2, len, len]), frame].concat()
        };
        for tag in [0, 4, 8] {
            let file = behind(&[0x40; 8][..tag]);
            for stripped in [0, 4, 8] {
                let counted = count(&rules[0], stripped, file.as_slice()).unwrap();
                assert_eq!(counted, Matched { packets: 1, matched: (stripped == tag).into() });
            }
        }
        // One that was tagged when it came to the switch.
        for (tag, bytes) in [(4, &[0x60, 0, 0, 5][..]), (8, &[0xda, 0xda, 0, 0, 0x60, 0, 0, 5])] {
            let file = behind(bytes);
            let matched = |rule| count(rule, tag, file.as_slice()).unwrap().matched;
            assert_eq!((matched(&rules[0]), matched(&rules[1])), (0, 1), "{tag} bytes");
        }
        assert_eq!(untagged(&[1; 14], 4), [1; 12], "it ends within the tag");
    }
}
