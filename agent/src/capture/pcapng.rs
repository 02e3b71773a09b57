//! The blocks of a pcapng file that a capture has: one section, one interface block per interface, one packet
//! block per packet. Native byte order, nanoseconds.
//!
//! draft-ietf-opsawg-pcapng. The crates that write it (pcap-file) know neither the queue nor the verdict of a
//! packet, and copy each packet to write it; here it is copied once, into the buffer that is written.

use std::time::Duration;

/// `LINKTYPE_ETHERNET`.
const ETHERNET: u16 = 1;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;

/// What is told of a packet beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct About {
    /// Which of the interface blocks before it, from 0.
    pub(super) interface: u32,
    /// Since 1970.
    pub(super) time: Duration,
    /// The queue, as `epb_queue`.
    pub(super) queue: u32,
    /// What became of it, as an XDP program would have said: `epb_verdict`.
    pub(super) verdict: Action,
}

/// `enum xdp_action` (linux/bpf.h), as far as it has a word for what a worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// It went home.
    Drop = 1,
    /// It was sent out of the interface that it came in by.
    Tx = 3,
    /// It was sent out of another one.
    Redirect = 4,
}

/// Begins a section: a file, as a rule.
pub(super) fn section(out: &mut Vec<u8>) {
    let block = Block::begin(out, SECTION_HEADER);
    put(block.out, &0x1a2b_3c4d_u32.to_ne_bytes()); // byte-order magic
    put(block.out, &1_u16.to_ne_bytes()); // version 1.0
    put(block.out, &0_u16.to_ne_bytes());
    put(block.out, &u64::MAX.to_ne_bytes()); // length of the section: not known
    option(block.out, 4, concat!("umemd ", env!("CARGO_PKG_VERSION")).as_bytes()); // shb_userappl
    option(block.out, 0, &[]);
    block.end();
}

/// Names an interface. The first one of a section is number 0.
pub(super) fn interface(out: &mut Vec<u8>, name: &str, snaplen: u32) {
    let block = Block::begin(out, INTERFACE_DESCRIPTION);
    put(block.out, &ETHERNET.to_ne_bytes());
    put(block.out, &0_u16.to_ne_bytes());
    put(block.out, &snaplen.to_ne_bytes());
    option(block.out, 2, name.as_bytes()); // if_name
    option(block.out, 9, &[9]); // if_tsresol: 10^-9 s
    option(block.out, 0, &[]);
    block.end();
}

/// A packet of `parts`, of which at most `snaplen` bytes are kept.
pub(super) fn packet(
    out: &mut Vec<u8>,
    about: About,
    snaplen: u32,
    parts: impl FnOnce(&mut dyn FnMut(&[u8])),
) {
    let block = Block::begin(out, ENHANCED_PACKET);
    let nanoseconds = u64::try_from(about.time.as_nanos()).unwrap_or(u64::MAX);
    put(block.out, &about.interface.to_ne_bytes());
    put(block.out, &((nanoseconds >> 32) as u32).to_ne_bytes());
    put(block.out, &(nanoseconds as u32).to_ne_bytes());
    let lengths = block.out.len();
    put(block.out, &[0; 8]);

    let (mut captured, mut original) = (0_u32, 0_u32);
    parts(&mut |bytes| {
        let keep = bytes.len().min((snaplen - captured) as usize);
        put(block.out, &bytes[..keep]);
        captured += keep as u32;
        original += bytes.len() as u32;
    });
    pad(block.out);
    block.out[lengths..lengths + 4].copy_from_slice(&captured.to_ne_bytes());
    block.out[lengths + 4..lengths + 8].copy_from_slice(&original.to_ne_bytes());

    option(block.out, 6, &about.queue.to_ne_bytes());
    // Type 2: a verdict of XDP, which is a u64.
    let mut verdict = [0; 9];
    verdict[0] = 2;
    verdict[1..].copy_from_slice(&(about.verdict as u64).to_ne_bytes());
    option(block.out, 7, &verdict);
    option(block.out, 0, &[]);
    block.end();
}

/// A block: its type, its length, its body, its length.
struct Block<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Block<'a> {
    fn begin(out: &'a mut Vec<u8>, kind: u32) -> Self {
        let start = out.len();
        put(out, &kind.to_ne_bytes());
        put(out, &[0; 4]);
        Self { out, start }
    }

    fn end(self) {
        let length = ((self.out.len() - self.start) as u32 + 4).to_ne_bytes();
        self.out[self.start + 4..self.start + 8].copy_from_slice(&length);
        put(self.out, &length);
    }
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(bytes);
}

/// An option; number 0 ends a list of them.
fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    put(out, &code.to_ne_bytes());
    put(out, &(value.len() as u16).to_ne_bytes());
    put(out, value);
    pad(out);
}

/// Everything is aligned to 4 bytes, and so is the start of the buffer.
fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Type and body of each block; that the two lengths agree is checked on the way.
    fn blocks(mut bytes: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let word = |bytes: &[u8]| u32::from_ne_bytes(bytes[..4].try_into().unwrap());
        let mut blocks = Vec::new();
        while !bytes.is_empty() {
            let length = word(&bytes[4..]) as usize;
            assert_eq!((length % 4, word(&bytes[length - 4..])), (0, length as u32));
            blocks.push((word(bytes), bytes[8..length - 4].to_vec()));
            bytes = &bytes[length..];
        }
        blocks
    }

    #[test]
    fn blocks_are_framed_by_their_length_whatever_is_in_them() {
        for len in 0..9 {
            let mut out = Vec::new();
            section(&mut out);
            interface(&mut out, &"eth0-xyz"[..len.min(8)], 65535);
            let time = Duration::new(1_700_000_000, 123_456_789);
            let about = About { interface: 0, time, queue: 3, verdict: Action::Tx };
            packet(&mut out, about, 65535, |put| put(&[7; 9][..len]));
            let blocks = blocks(&out);
            assert_eq!(
                blocks.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(),
                [SECTION_HEADER, INTERFACE_DESCRIPTION, ENHANCED_PACKET]
            );
            let body = &blocks[2].1;
            let nanoseconds = 1_700_000_000_123_456_789_u64;
            assert_eq!(body[4..8], ((nanoseconds >> 32) as u32).to_ne_bytes());
            assert_eq!(body[8..12], (nanoseconds as u32).to_ne_bytes());
            let padded = 20 + len.next_multiple_of(4);
            let mut options = vec![];
            option(&mut options, 6, &3_u32.to_ne_bytes());
            assert_eq!(body[padded..padded + 8], options);
            assert_eq!(body[padded + 12..padded + 14], [2, 3], "an XDP verdict: XDP_TX");
        }
    }

    #[test]
    fn the_parts_of_a_packet_are_one_and_cut_at_the_snaplen() {
        for (snaplen, captured) in [(100, 10), (10, 10), (7, 7), (5, 5), (3, 3)] {
            let mut out = Vec::new();
            let about = About { interface: 0, time: Duration::ZERO, queue: 0, verdict: Action::Drop };
            packet(&mut out, about, snaplen, |put| {
                put(&[1, 2, 3, 4, 5]);
                put(&[6, 7, 8, 9, 10]);
            });
            let body = &blocks(&out)[0].1;
            assert_eq!(body[12..16], u32::to_ne_bytes(captured));
            assert_eq!(body[16..20], 10_u32.to_ne_bytes());
            let expected: Vec<u8> = (1..=captured as u8).collect();
            assert_eq!(body[20..20 + captured as usize], expected);
        }
    }
}
