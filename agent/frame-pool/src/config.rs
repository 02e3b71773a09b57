//! The sizes of a pool: page_pool's parameters and constants.

use crate::provider::NUMA_NO_NODE;

/// The sizes of a pool. The default is the kernel's in everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// Slots of the ring (`pool_size`): 0 means 1024, and more than 16384 means 16384. Any size will do.
    pub ring_size: u32,
    /// Frames in the cache (`PP_ALLOC_CACHE_SIZE`). 0 means the kernel's: 128, and less for frames of
    /// 16 KiB (32) and 64 KiB (8).
    pub cache_size: u32,
    /// Frames moved into the cache by a refill, and asked of the provider at once
    /// (`PP_ALLOC_CACHE_REFILL`); at most `cache_size`. 0 means the kernel's: half its cache size.
    pub refill: u32,
    /// The NUMA node that the pool prefers.
    pub nid: i32,
    /// Frames that may be in the hands of [`HeldFrame`](crate::HeldFrame)s at once. 0 means a quarter of
    /// the UMEM's frames, and at least one.
    pub held_limit: u32,
    /// Whether frames may be given away as numbers ([`crate::FramePool::give_token`]); costs a bit per frame.
    pub tokens: bool,
    /// What the length of a fragment is rounded up to, in bytes. The default is Linux 7.x's on 64 bits, 8.
    pub frag_align: u32,
    /// Which kernel's way of counting fragments to follow.
    pub counting: Counting,
    /// Where `hold` and `release` start. Only a test of their wrap around needs another value than 0.
    pub first_count: u32,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            ring_size: 0,
            cache_size: 0,
            refill: 0,
            nid: NUMA_NO_NODE,
            held_limit: 0,
            tokens: false,
            frag_align: 8,
            counting: Counting::Current,
            first_count: 0,
        }
    }
}

impl PoolConfig {
    /// `PP_ALLOC_CACHE_REFILL` for frames of this many bytes: the kernel scales it with the page size.
    const fn default_refill(chunk_size: u32) -> u32 {
        match chunk_size {
            0x1_0000.. => 4,
            0x4000.. => 16,
            _ => 64,
        }
    }

    /// The sizes of cache and refill for frames of this many bytes.
    pub(crate) fn cache_and_refill(&self, chunk_size: u32) -> (usize, usize) {
        let refill = if self.refill == 0 { Self::default_refill(chunk_size) } else { self.refill };
        let cache = match self.cache_size {
            0 => refill.saturating_mul(2).max(2 * Self::default_refill(chunk_size)),
            size => size,
        };
        (cache as usize, refill.min(cache) as usize)
    }
}

/// Which kernel's way of counting fragments a pool follows. All else is the same in all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Counting {
    /// Linux 6.13 and later: a drained frame that is used again at once counts `cached` and `fast`.
    #[default]
    Current,
    /// Linux 6.7 to 6.12: it counts `fast`, and so does each fragment that needs no new frame.
    Before6_13,
}

#[cfg(all(test, not(frame_pool_loom)))]
mod tests {
    use super::*;

    #[test]
    pub(crate) fn cache_and_refill_are_the_kernels() {
        for (chunk_size, sizes) in
            [(2048, (128, 64)), (4096, (128, 64)), (16_384, (32, 16)), (65_536, (8, 4))]
        {
            assert_eq!(PoolConfig::default().cache_and_refill(chunk_size), sizes);
        }
        let config = PoolConfig { cache_size: 10, refill: 64, ..PoolConfig::default() };
        assert_eq!(config.cache_and_refill(4096), (10, 10));
        let config = PoolConfig { refill: 100, ..PoolConfig::default() };
        assert_eq!(config.cache_and_refill(4096), (200, 100));
    }
}
