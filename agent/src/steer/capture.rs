//! Captures, pcap and pcapng: which of their packets a rule matches.

use std::io::{self, Read};

use pcap_parser::traits::PcapNGPacketBlock as _;
use pcap_parser::{Block, Linktype, PcapBlockOwned, PcapError, create_reader};
use serde::Serialize;
use thiserror::Error;

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
    #[error("the capture is of link type {0}, and rules are about Ethernet (1)")]
    LinkType(i32),
}

/// Where a pcap's header has the link type (pcap-savefile(5)).
const LINK_TYPE: i32 = 0xffff;

/// Room for the longest block.
const BUFFER: usize = 1 << 20;

/// Counts the packets that the rule matches.
///
/// # Errors
///
/// [`CaptureError`].
pub fn count(rule: &Rule, capture: impl Read + Send) -> Result<Matched, CaptureError> {
    let mut counted = Matched::default();
    let matcher = rule.matcher();
    each_frame(capture, |frame| {
        counted.packets += 1;
        counted.matched += u64::from(matcher.matches(frame));
    })?;
    Ok(counted)
}

fn each_frame(capture: impl Read + Send, mut frame: impl FnMut(&[u8])) -> Result<(), CaptureError> {
    let mut packets = 0;
    let wrong = |packets, error: &dyn std::fmt::Display| CaptureError::Format {
        packets,
        source: io::Error::new(io::ErrorKind::InvalidData, error.to_string()),
    };
    let mut reader = create_reader(BUFFER, capture).map_err(|error| wrong(0, &describe(&error)))?;
    // The link types of a pcapng section's interfaces; a pcap has one.
    let mut interfaces: Vec<Linktype> = Vec::new();
    loop {
        match reader.next() {
            Ok((used, block)) => {
                let found = match &block {
                    PcapBlockOwned::LegacyHeader(header) => {
                        // Above the type there are the length of a frame's checksum, and reserved bits.
                        interfaces = vec![Linktype(header.network.0 & LINK_TYPE)];
                        None
                    }
                    PcapBlockOwned::Legacy(packet) => Some((0, packet.data)),
                    PcapBlockOwned::NG(Block::SectionHeader(_)) => {
                        interfaces.clear();
                        None
                    }
                    PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
                        interfaces.push(interface.linktype);
                        None
                    }
                    PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
                        Some((packet.if_id as usize, packet.packet_data()))
                    }
                    PcapBlockOwned::NG(Block::SimplePacket(packet)) => Some((0, packet.packet_data())),
                    PcapBlockOwned::NG(_) => None,
                };
                if let Some((interface, bytes)) = found {
                    match interfaces.get(interface) {
                        Some(&Linktype::ETHERNET) => frame(bytes),
                        Some(other) => return Err(CaptureError::LinkType(other.0)),
                        None => {
                            return Err(wrong(packets, &"a packet of an interface that is not described"));
                        }
                    }
                    packets += 1;
                }
                reader.consume(used);
            }
            Err(PcapError::Eof) => return Ok(()),
            Err(PcapError::Incomplete(_)) => {
                if reader.reader_exhausted() {
                    return Err(wrong(packets, &"it ends within a packet"));
                }
                reader.refill().map_err(|error| wrong(packets, &describe(&error)))?;
            }
            Err(error) => return Err(wrong(packets, &describe(&error))),
        }
    }
}

/// In words: the library's own are types.
fn describe<I>(error: &PcapError<I>) -> &'static str {
    match error {
        PcapError::Incomplete(_) | PcapError::UnexpectedEof => "it ends within a packet",
        PcapError::BufferTooSmall => "a block of it is longer than 1 MiB",
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
        let mut file = words(&[magic, 0x0004_0002, 0, 0, 65535, link_type]);
        for frame in [arp(), vec![0; 60]] {
            file.extend(words(&[1, 2, frame.len() as u32, 1500]));
            file.extend(frame);
        }
        file
    }

    fn pcapng() -> Vec<u8> {
        let mut file = words(&[0x0a0d_0d0a, 28, 0x1a2b_3c4d, 1, u32::MAX, u32::MAX, 28]);
        file.extend(words(&[1, 20, 1, 0, 20]));
        for frame in [arp(), vec![0; 60]] {
            let padded = frame.len().next_multiple_of(4);
            let total = 32 + padded as u32;
            file.extend(words(&[6, total, 0, 0, 0, frame.len() as u32, 1500]));
            file.extend(&frame);
            file.resize(file.len() + padded - frame.len(), 0);
            file.extend(words(&[total]));
        }
        file
    }

    #[test]
    fn packets_are_counted_in_every_kind_of_capture() {
        let rules = compile(&["arp"]).unwrap();
        let with_checksums = pcap(0xa1b2_c3d4, 0x2400_0001);
        for file in [pcap(0xa1b2_c3d4, 1), pcap(0xa1b2_3c4d, 1), with_checksums, pcapng()] {
            assert_eq!(count(&rules[0], file.as_slice()).unwrap(), Matched { packets: 2, matched: 1 });
        }
        let none = words(&[0xa1b2_c3d4, 0x0004_0002, 0, 0, 65535, 1]);
        assert_eq!(count(&rules[0], none.as_slice()).unwrap(), Matched::default());
    }

    #[test]
    fn what_is_no_capture_of_ethernet_is_refused() {
        let rules = compile(&["arp"]).unwrap();
        assert!(matches!(
            count(&rules[0], pcap(0xa1b2_c3d4, 113).as_slice()),
            Err(CaptureError::LinkType(113))
        ));
        for file in [&b""[..], b"no capture at all, but long enough to hold a header of one"] {
            assert!(matches!(count(&rules[0], file), Err(CaptureError::Format { packets: 0, .. })));
        }
        let whole = pcap(0xa1b2_c3d4, 1);
        let cut = &whole[..whole.len() - 1];
        assert!(matches!(count(&rules[0], cut), Err(CaptureError::Format { packets: 1, .. })));
    }
}
