//! The buffer manager: pools of buffers, which the driver fills and the hardware takes from.

use std::collections::VecDeque;

use super::THREADS;
use crate::registers::index;

/// Pools.
const POOLS: u32 = 16;

/// How long a pool's buffers are, bytes.
const BUFFER_SIZE: u32 = 0x0180;
/// How many buffers a pool has: in memory, in groups of eight, and in the chip. One more is in neither count.
const IN_MEMORY: u32 = 0x60c0;
const IN_CHIP: u32 = 0x6140;
/// Reading takes a buffer: the lower half of its address here, its cookie's and both upper halves beside.
const TAKE: u32 = 0x6400;
const TAKEN_COOKIE: u32 = 0x6440;
const TAKEN_HIGH: u32 = 0x6444;
/// Writing gives a buffer back: what is beside comes first.
const GIVE: u32 = 0x6480;
const GIVEN_COOKIE: u32 = 0x64c0;
const GIVEN_HIGH: u32 = 0x64c4;

/// A buffer: where it is, and what the driver knows it by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Buffer {
    pub(super) address: u64,
    pub(super) cookie: u64,
}

/// What a thread of software gives or has taken.
#[derive(Clone, Copy, Debug, Default)]
struct Beside {
    cookie: u32,
    /// Bits 7:0 of the address' upper half, bits 15:8 of the cookie's.
    high: u32,
}

/// All pools.
#[derive(Debug, Default)]
pub(super) struct Pools {
    pools: [VecDeque<Buffer>; POOLS as usize],
    sizes: [u32; POOLS as usize],
    taken: [Beside; THREADS],
    given: [Beside; THREADS],
}

impl Pools {
    /// Takes a buffer, as the hardware does for a frame.
    pub(super) fn take(&mut self, pool: usize) -> Option<Buffer> {
        self.pools.get_mut(pool)?.pop_front()
    }

    /// Gives one back that could not be used.
    pub(super) fn give(&mut self, pool: usize, buffer: Buffer) {
        if let Some(pool) = self.pools.get_mut(pool) {
            pool.push_back(buffer);
        }
    }

    /// How long its buffers are.
    pub(super) fn size(&self, pool: usize) -> usize {
        self.sizes.get(pool).copied().unwrap_or(0) as usize
    }

    /// If it is a register of ours: what it says.
    pub(super) fn read(&mut self, thread: usize, offset: u32) -> Option<u32> {
        let uncounted = |pool: usize, pools: &Self| (pools.pools[pool].len() as u32).saturating_sub(1);
        if let Some(pool) = index(offset, TAKE, POOLS) {
            let Buffer { address, cookie } = self.take(pool).unwrap_or_default();
            let high = (address >> 32) as u32 & 0xff | ((cookie >> 32) as u32 & 0xff) << 8;
            self.taken[thread] = Beside { cookie: cookie as u32, high };
            Some(address as u32)
        } else if let Some(pool) = index(offset, IN_MEMORY, POOLS) {
            Some(uncounted(pool, self) & !7)
        } else if let Some(pool) = index(offset, IN_CHIP, POOLS) {
            Some(uncounted(pool, self) & 7)
        } else if let Some(pool) = index(offset, BUFFER_SIZE, POOLS) {
            Some(self.sizes[pool])
        } else {
            match offset {
                TAKEN_COOKIE => Some(self.taken[thread].cookie),
                TAKEN_HIGH => Some(self.taken[thread].high),
                _ => None,
            }
        }
    }

    /// Whether it is a register of ours.
    pub(super) fn write(&mut self, thread: usize, offset: u32, value: u32) -> bool {
        if let Some(pool) = index(offset, GIVE, POOLS) {
            let Beside { cookie, high } = self.given[thread];
            let address = u64::from(high & 0xff) << 32 | u64::from(value);
            let cookie = u64::from(high >> 8 & 0xff) << 32 | u64::from(cookie);
            self.give(pool, Buffer { address, cookie });
        } else if let Some(pool) = index(offset, BUFFER_SIZE, POOLS) {
            self.sizes[pool] = value;
        } else {
            match offset {
                GIVEN_COOKIE => self.given[thread].cookie = value,
                GIVEN_HIGH => self.given[thread].high = value,
                _ => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_with_their_cookies_and_upper_halves() {
        let mut pools = Pools::default();
        for (offset, value) in [(GIVEN_HIGH, 0x0201), (GIVEN_COOKIE, 0xaaaa_0000), (GIVE + 4 * 3, 0x1000)] {
            assert!(pools.write(1, offset, value));
        }
        assert_eq!(pools.read(0, TAKE + 4 * 3), Some(0x1000));
        assert_eq!(
            (pools.read(0, TAKEN_COOKIE), pools.read(0, TAKEN_HIGH)),
            (Some(0xaaaa_0000), Some(0x0201))
        );
        assert_eq!(pools.read(1, TAKEN_COOKIE), Some(0), "another thread's");
        assert_eq!(pools.read(0, TAKE + 4 * 3), Some(0), "empty");
    }

    #[test]
    fn the_counts_leave_one_out() {
        let mut pools = Pools::default();
        for count in 0..20 {
            let counted = pools.read(0, IN_MEMORY).unwrap() + pools.read(0, IN_CHIP).unwrap();
            assert_eq!(counted, u32::saturating_sub(count, 1));
            pools.write(0, GIVE, 0x1000 * (count + 1));
        }
    }
}
