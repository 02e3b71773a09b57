//! Aggregated transmit queues: one per thread of software, for all transmit queues of all ports.

use crate::{
    checksum::{self, Layout},
    memory::{Fault, GuestMemory},
};

/// Bytes of a descriptor.
const DESCRIPTOR: u64 = 32;
/// What is sent at least.
const SHORTEST: usize = 60;
/// Nothing longer leaves the MAC.
const LONGEST: usize = 10 * 1024;
/// Addresses have 41 bits.
const ADDRESS: u64 = (1 << 41) - 1;

const FIRST: u32 = 1 << 29;
const LAST: u32 = 1 << 28;
const IPV6: u32 = 1 << 26;
const UDP: u32 = 1 << 24;
const NO_PADDING: u32 = 1 << 23;
/// Leave the checksum of the IPv4 header as it is.
const NO_IPV4_CHECKSUM: u32 = 1 << 15;
/// Leave the checksum of TCP or UDP as it is.
const NO_L4_CHECKSUM: u32 = 1 << 14;

/// A queue, beside its base and size, which are registers.
#[derive(Debug, Default)]
pub(super) struct Aggregated {
    /// The descriptor to send next.
    next: u32,
    /// The frame whose last descriptor has not come yet, and what is to be done with it.
    frame: Vec<u8>,
    command: u32,
}

impl Aggregated {
    pub(super) fn next(&self) -> u32 {
        self.next
    }

    /// Takes one descriptor: its transmit queue, and the frame if that was its last.
    pub(super) fn run(
        &mut self,
        base: u64,
        size: u32,
        memory: &GuestMemory,
    ) -> Option<(usize, Option<Vec<u8>>)> {
        if size == 0 {
            return None;
        }
        let at = base + DESCRIPTOR * u64::from(self.next);
        self.next = (self.next + 1) % size;
        let mut bytes = [0; DESCRIPTOR as usize];
        let taken = memory.read(at, &mut bytes).and_then(|()| self.descriptor(&bytes, memory));
        match taken {
            Ok(frame) => Some((usize::from(bytes[5]), frame)),
            Err(fault) => {
                eprintln!("pp2: {fault}");
                self.frame.clear();
                Some((usize::from(bytes[5]), None))
            }
        }
    }

    fn descriptor(&mut self, bytes: &[u8; 32], memory: &GuestMemory) -> Result<Option<Vec<u8>>, Fault> {
        let command = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let len = usize::from(u16::from_le_bytes([bytes[6], bytes[7]]));
        let address = bytes[16..24].iter().rev().fold(0, |address, byte| address << 8 | u64::from(*byte));
        if command & FIRST != 0 {
            self.frame.clear();
            self.command = command;
        }
        let start = self.frame.len();
        self.frame.resize(start + len, 0);
        memory.read((address & ADDRESS) + u64::from(bytes[4]), &mut self.frame[start..])?;
        if command & LAST == 0 {
            return Ok(None);
        }
        let mut frame = std::mem::take(&mut self.frame);
        if self.command & NO_PADDING == 0 {
            frame.resize(frame.len().max(SHORTEST), 0);
        }
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
        let header = has(NO_IPV4_CHECKSUM) || checksum::fill_header(frame, layout);
        let payload = has(NO_L4_CHECKSUM) || checksum::fill_l4(frame, layout);
        if !header || !payload {
            eprintln!("pp2: the driver wants checksums in a frame that has no place for them: {layout:?}");
        }
    }
}
