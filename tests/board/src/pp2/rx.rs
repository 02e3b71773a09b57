//! Receive queues.

use super::bm::Pools;
use crate::{
    checksum,
    memory::{Fault, GuestMemory},
};

/// Bytes of a descriptor.
const DESCRIPTOR: u64 = 32;
/// Marvell's header in front of the frame, so that the IP header is aligned.
const HEADER: usize = 2;
/// What a MAC pads short frames to.
const SHORTEST: usize = 60;

const L4_OK: u32 = 1 << 22;
const BAD_IPV4_HEADER: u32 = 1 << 24;
const TCP: u32 = 1 << 25;
const UDP: u32 = 1 << 26;
const IPV4: u32 = 1 << 28;
const IPV6: u32 = 1 << 30;

/// Which pool takes short frames and which long ones, and where in a buffer they begin, in units of 32 bytes.
const SHORT_POOL: u32 = 20;
const LONG_POOL: u32 = 24;
const OFFSET: u32 = 28;
const OFF: u32 = 1 << 31;

/// A queue.
#[derive(Debug, Default)]
pub(super) struct RxQueue {
    pub(super) base: u64,
    /// Descriptors of the ring.
    pub(super) size: u32,
    /// The descriptor that the next frame goes to.
    pub(super) next: u32,
    /// Descriptors with frames that the driver has not yet processed.
    occupied: u32,
    /// Descriptors that are free.
    free: u32,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Stored,
    /// The queue is switched off.
    Off,
    NoDescriptor,
    /// Its pool is empty, or the frame is longer than the longest buffers.
    NoBuffer,
}

impl RxQueue {
    pub(super) fn status(&self) -> u32 {
        self.occupied & 0x3fff | (self.free & 0x3fff) << 16
    }

    pub(super) fn set_status(&mut self, value: u32) {
        self.occupied = value & 0x3fff;
        self.free = value >> 16 & 0x3fff;
    }

    pub(super) fn holds_frames(&self) -> bool {
        self.occupied > 0
    }

    /// The driver has processed bits 13:0 of them, and added bits 29:16.
    pub(super) fn update(&mut self, value: u32) {
        self.occupied = self.occupied.saturating_sub(value & 0x3fff);
        self.free += value >> 16 & 0x3fff;
    }

    /// Stores a frame in a buffer of the pool for its length.
    pub(super) fn take(
        &mut self,
        frame: &[u8],
        config: u32,
        pools: &mut Pools,
        memory: &GuestMemory,
    ) -> Taken {
        if config & OFF != 0 || self.size == 0 {
            return Taken::Off;
        }
        if self.free == 0 {
            return Taken::NoDescriptor;
        }
        let mut bytes = vec![0; HEADER];
        bytes.extend(frame);
        bytes.resize(bytes.len().max(HEADER + SHORTEST), 0);
        let offset = (config >> OFFSET & 7) as usize * 32;
        let fits = |pool: &usize| offset + bytes.len() <= pools.size(*pool);
        let pool = [SHORT_POOL, LONG_POOL].map(|at| (config >> at & 0xf) as usize).into_iter().find(fits);
        let Some((pool, buffer)) = pool.and_then(|pool| Some((pool, pools.take(pool)?))) else {
            return Taken::NoBuffer;
        };
        let at = self.base + DESCRIPTOR * u64::from(self.next);
        let status = status(frame) | (pool as u32 & 7) << 16;
        let store = || -> Result<(), Fault> {
            memory.write(buffer.address + offset as u64, &bytes)?;
            memory.write(at, &status.to_le_bytes())?;
            memory.write(at + 6, &(bytes.len() as u16).to_le_bytes())?;
            memory.write(at + 16, &buffer.address.to_le_bytes())?;
            memory.write(at + 24, &buffer.cookie.to_le_bytes())
        };
        if let Err(fault) = store() {
            eprintln!("pp2: {fault}");
            pools.give(pool, buffer);
            return Taken::NoBuffer;
        }
        self.next = (self.next + 1) % self.size;
        self.free -= 1;
        self.occupied += 1;
        Taken::Stored
    }
}

/// What the parser says of the headers.
fn status(frame: &[u8]) -> u32 {
    let check = checksum::check(frame);
    [
        (check.ipv4, IPV4),
        (check.ipv6, IPV6),
        (check.bad_header, BAD_IPV4_HEADER),
        (check.tcp, TCP),
        (check.udp, UDP),
        (check.l4_ok, L4_OK),
    ]
    .iter()
    .filter(|(set, _)| *set)
    .fold(0, |status, (_, bit)| status | bit)
}
