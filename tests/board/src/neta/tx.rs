//! Transmit queues.

use super::SHORTEST;
use crate::{
    checksum::{self, Layout},
    memory::{Fault, GuestMemory},
};

/// Bytes of a descriptor.
const DESCRIPTOR: u64 = 32;
/// Nothing longer leaves the MAC: jumbo frames have 9676 bytes of payload.
const LONGEST: usize = 10 * 1024;

const FIRST: u32 = 1 << 21;
const LAST: u32 = 1 << 20;
/// Make the checksum of the IPv4 header.
const IPV4_CHECKSUM: u32 = 1 << 18;
const IPV6: u32 = 1 << 17;
const UDP: u32 = 1 << 16;
/// Make the checksum of TCP or UDP.
const L4_CHECKSUM: u32 = 1 << 30;

/// A queue, beside its base and size, which are registers.
#[derive(Debug, Default)]
pub(super) struct TxQueue {
    /// The descriptor to send next.
    next: u32,
    /// Descriptors that the driver has added.
    pending: u32,
    /// Descriptors that were sent, and that the driver does not know of yet.
    sent: u32,
    /// The frame whose last descriptor has not come yet, and what is to be done with it.
    frame: Vec<u8>,
    command: u32,
}

impl TxQueue {
    pub(super) fn status(&self) -> u32 {
        self.pending & 0x3fff | (self.sent & 0x3fff) << 16
    }

    /// Whether more were sent than the threshold in bits 29:16 of the size.
    pub(super) fn has_sent(&self, size: u32) -> bool {
        self.sent > size >> 16 & 0x3fff
    }

    /// The driver has added bits 7:0 of them, and knows of bits 23:16 that were sent.
    pub(super) fn update(&mut self, value: u32) {
        self.pending += value & 0xff;
        self.sent = self.sent.saturating_sub(value >> 16 & 0xff);
    }

    /// Sends what is pending: the frames that are whole.
    pub(super) fn run(&mut self, base: u32, size: u32, memory: &GuestMemory) -> Vec<Vec<u8>> {
        let ring = size & 0x3fff;
        let mut frames = Vec::new();
        while self.pending > 0 && ring > 0 {
            let at = u64::from(base) + DESCRIPTOR * u64::from(self.next);
            self.next = (self.next + 1) % ring;
            self.pending -= 1;
            self.sent += 1;
            match self.descriptor(at, memory) {
                Ok(frame) => frames.extend(frame),
                Err(fault) => {
                    eprintln!("neta: {fault}");
                    self.frame.clear();
                }
            }
        }
        frames
    }

    /// Adds one descriptor's part; the frame if that was its last.
    fn descriptor(&mut self, at: u64, memory: &GuestMemory) -> Result<Option<Vec<u8>>, Fault> {
        let mut bytes = [0; 12];
        memory.read(at, &mut bytes)?;
        let command = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let len = usize::from(u16::from_le_bytes([bytes[6], bytes[7]]));
        let buffer = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
        if command & FIRST != 0 {
            self.frame.clear();
            self.command = command;
        }
        let start = self.frame.len();
        self.frame.resize(start + len, 0);
        memory.read(buffer.into(), &mut self.frame[start..])?;
        if command & LAST == 0 {
            return Ok(None);
        }
        let mut frame = std::mem::take(&mut self.frame);
        frame.resize(frame.len().max(SHORTEST), 0);
        self.fill_checksums(&mut frame);
        Ok((frame.len() <= LONGEST).then_some(frame))
    }

    /// Bits 6:0 of the command: where the IP header begins. Bits 12:8: its length in words.
    fn fill_checksums(&self, frame: &mut [u8]) {
        let has = |flag: u32| self.command & flag != 0;
        let layout = Layout {
            l3: (self.command & 0x7f) as usize,
            l3_len: (self.command >> 8 & 0x1f) as usize * 4,
            v6: has(IPV6),
            udp: has(UDP),
        };
        let header = !has(IPV4_CHECKSUM) || checksum::fill_header(frame, layout);
        let payload = !has(L4_CHECKSUM) || checksum::fill_l4(frame, layout);
        if !header || !payload {
            eprintln!("neta: the driver wants checksums in a frame that has no place for them: {layout:?}");
        }
    }
}
