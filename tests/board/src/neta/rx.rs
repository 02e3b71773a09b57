//! Receive queues.

use super::FCS;
use crate::{
    checksum,
    memory::{Fault, GuestMemory},
};

/// Bytes of a descriptor.
const DESCRIPTOR: u64 = 32;
/// Marvell's header in front of the frame, so that the IP header is aligned.
const HEADER: usize = 2;

const FIRST: u32 = 1 << 27;
const LAST: u32 = 1 << 26;
/// An IPv4 header whose checksum is right.
const IPV4: u32 = 1 << 25;
/// TCP or UDP whose checksum is right.
const L4_OK: u32 = 1 << 30;

/// A queue, beside its base and size, which are registers.
#[derive(Debug, Default)]
pub(super) struct RxQueue {
    /// The descriptor that the next frame goes to.
    next: u32,
    /// Descriptors with frames that the driver has not yet processed.
    occupied: u32,
    /// Descriptors with empty buffers.
    free: u32,
}

impl RxQueue {
    pub(super) fn status(&self) -> u32 {
        self.occupied & 0x3fff | (self.free & 0x3fff) << 16
    }

    pub(super) fn holds_frames(&self) -> bool {
        self.occupied > 0
    }

    /// The driver has processed bits 7:0 of them, and added bits 23:16.
    pub(super) fn update(&mut self, value: u32) {
        self.occupied = self.occupied.saturating_sub(value & 0xff);
        self.free += value >> 16 & 0xff;
    }

    /// Stores a frame; false if there are not enough descriptors, or no memory behind them.
    ///
    /// `size`: how many descriptors the ring has, and in bits 31:19 how much fits into a buffer, in eighths.
    pub(super) fn take(&mut self, frame: &[u8], base: u32, size: u32, memory: &GuestMemory) -> bool {
        let (ring, buffer) = (size & 0x3fff, (size >> 19) as usize * 8);
        let mut bytes = vec![0; HEADER];
        bytes.extend(frame);
        bytes.extend([0; FCS]);
        if ring == 0 || buffer == 0 || bytes.len().div_ceil(buffer) > self.free as usize {
            return false;
        }
        let check = checksum::check(frame);
        let mut status = if check.ipv4 && !check.bad_header { IPV4 } else { 0 };
        status |= if check.l4_ok { L4_OK } else { 0 };
        let last = bytes.len().div_ceil(buffer) - 1;
        for (number, part) in bytes.chunks(buffer).enumerate() {
            let status = status | if number == 0 { FIRST } else { 0 } | if number == last { LAST } else { 0 };
            // The first one tells the length of the whole.
            let len = if number == 0 { bytes.len() } else { part.len() };
            let at = u64::from(base) + DESCRIPTOR * u64::from(self.next);
            if let Err(fault) = fill(at, status, len as u16, part, memory) {
                eprintln!("neta: {fault}");
                return false;
            }
            self.next = (self.next + 1) % ring;
            self.free -= 1;
            self.occupied += 1;
        }
        true
    }
}

/// Writes a part of a frame to the buffer that the descriptor `at` names, then what the descriptor says of it.
fn fill(at: u64, status: u32, len: u16, part: &[u8], memory: &GuestMemory) -> Result<(), Fault> {
    let mut buffer = [0; 4];
    memory.read(at + 8, &mut buffer)?;
    memory.write(u32::from_le_bytes(buffer).into(), part)?;
    memory.write(at, &status.to_le_bytes())?;
    memory.write(at + 6, &len.to_le_bytes())
}
