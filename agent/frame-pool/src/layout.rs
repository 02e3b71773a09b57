//! Where a frame lies in the UMEM: all address arithmetic of the crate, total, by shift and mask.

use std::{error, fmt};

/// The name of one frame: the index of its chunk in the UMEM.
///
/// A name may be copied freely; the right to touch the bytes is a [`Frame`](crate::Frame).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameId(pub(crate) u32);

impl FrameId {
    /// The index of the chunk, from 0.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A byte offset from the start of the UMEM, as it stands in the descriptors of AF_XDP rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameAddr(pub u64);

/// How a UMEM is cut into frames.
///
/// # Invariants
///
/// `1 << chunk_shift` is between [`MIN_CHUNK_SIZE`](Self::MIN_CHUNK_SIZE) and
/// [`MAX_CHUNK_SIZE`](Self::MAX_CHUNK_SIZE); `chunk_count` is between 1 and
/// [`MAX_CHUNK_COUNT`](Self::MAX_CHUNK_COUNT), so that every address fits in a `u64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLayout {
    chunk_shift: u32,
    chunk_count: u32,
}

impl FrameLayout {
    /// The smallest chunk that the kernel registers (`XDP_UMEM_MIN_CHUNK_SIZE`), in bytes.
    pub const MIN_CHUNK_SIZE: u32 = 2048;
    /// The largest chunk, in bytes: a chunk may not be larger than a page, and 64 KiB is the largest page.
    pub const MAX_CHUNK_SIZE: u32 = 1 << 16;
    /// The largest number of chunks.
    pub const MAX_CHUNK_COUNT: u32 = 1 << 30;

    /// A UMEM of `chunk_count` chunks of `chunk_size` bytes.
    ///
    /// # Errors
    ///
    /// [`LayoutError`] if the chunk size is not a power of two that the kernel can register, or if the
    /// number of chunks is zero or too large.
    pub const fn new(chunk_size: u32, chunk_count: u32) -> Result<Self, LayoutError> {
        if !chunk_size.is_power_of_two()
            || chunk_size < Self::MIN_CHUNK_SIZE
            || chunk_size > Self::MAX_CHUNK_SIZE
        {
            return Err(LayoutError::ChunkSize(chunk_size));
        }
        if chunk_count == 0 || chunk_count > Self::MAX_CHUNK_COUNT {
            return Err(LayoutError::ChunkCount(chunk_count));
        }
        // INVARIANT: both were checked above.
        Ok(Self { chunk_shift: chunk_size.trailing_zeros(), chunk_count })
    }

    /// Bytes in one frame.
    pub const fn chunk_size(self) -> u32 {
        1 << self.chunk_shift
    }

    /// Frames in the UMEM.
    pub const fn chunk_count(self) -> u32 {
        self.chunk_count
    }

    /// Bytes in the UMEM.
    pub const fn byte_len(self) -> u64 {
        (self.chunk_count as u64) << self.chunk_shift
    }

    /// The address of the first byte of a frame.
    pub const fn addr_of(self, id: FrameId) -> FrameAddr {
        FrameAddr((id.0 as u64) << self.chunk_shift)
    }

    /// The index that the frame has which `addr` points into, if there is one.
    #[inline]
    pub(crate) const fn index_of(self, addr: FrameAddr) -> u64 {
        addr.0 >> self.chunk_shift
    }

    /// The frame that `addr` points into, at whatever offset, or `None` if it points past the UMEM.
    pub const fn frame_of(self, addr: FrameAddr) -> Option<FrameId> {
        let index = addr.0 >> self.chunk_shift;
        if index < self.chunk_count as u64 { Some(FrameId(index as u32)) } else { None }
    }

    /// The negative of how many bytes there are from `addr` to the end of its frame. To add as many as that, or more,
    /// overflows.
    #[inline]
    pub const fn before_end(self, addr: FrameAddr) -> u64 {
        addr.0 | !(self.chunk_size() as u64 - 1)
    }

    /// How far into its frame `addr` points, in bytes.
    pub const fn offset_of(self, addr: FrameAddr) -> u32 {
        (addr.0 & (self.chunk_size() as u64 - 1)) as u32
    }
}

/// Why a UMEM cannot be laid out as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayoutError {
    /// The chunk size in bytes, which is not a power of two or out of the kernel's bounds.
    ChunkSize(u32),
    /// The number of chunks, which is zero or too large.
    ChunkCount(u32),
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ChunkSize(size) => write!(
                f,
                "a chunk of {size} bytes cannot be registered: choose a power of two from {} to {}, at most \
                 the size of a page",
                FrameLayout::MIN_CHUNK_SIZE,
                FrameLayout::MAX_CHUNK_SIZE
            ),
            Self::ChunkCount(count) => write!(
                f,
                "a UMEM cannot have {count} chunks: choose from 1 to {}",
                FrameLayout::MAX_CHUNK_COUNT
            ),
        }
    }
}

impl error::Error for LayoutError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_its_frame_at_any_offset() {
        let layout = FrameLayout::new(4096, 3).unwrap();
        for id in (0..3).map(FrameId) {
            let FrameAddr(start) = layout.addr_of(id);
            for offset in [0, 1, 256, 4095] {
                let addr = FrameAddr(start + offset);
                assert_eq!(layout.frame_of(addr), Some(id));
                assert_eq!(u64::from(layout.offset_of(addr)), offset);
            }
        }
        assert_eq!(layout.frame_of(FrameAddr(3 * 4096)), None);
        assert_eq!(layout.frame_of(FrameAddr(u64::MAX)), None);
        // An index whose low half is in range must not be mistaken for a frame.
        assert_eq!(layout.frame_of(FrameAddr((1 << 32) * 4096)), None);
    }

    #[test]
    fn only_what_the_kernel_registers_is_a_layout() {
        for size in [0, 1, 1024, 3000, 4097, 1 << 17] {
            assert_eq!(FrameLayout::new(size, 1), Err(LayoutError::ChunkSize(size)));
        }
        for count in [0, FrameLayout::MAX_CHUNK_COUNT + 1] {
            assert_eq!(FrameLayout::new(2048, count), Err(LayoutError::ChunkCount(count)));
        }
        let largest = FrameLayout::new(1 << 16, FrameLayout::MAX_CHUNK_COUNT).unwrap();
        assert_eq!(largest.byte_len(), 1 << 46);
    }
}
