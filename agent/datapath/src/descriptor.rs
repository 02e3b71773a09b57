//! [`Descriptor`]: an entry of an RX or TX ring.

use frame_pool::{FrameAddr, FrameLayout};

/// Where in the second word the options lie, above the length. `XDP_PKT_CONTD` is their lowest bit.
pub(crate) const MORE: u64 = 1 << 32;
/// The length, in the second word.
pub(crate) const LENGTH: u64 = 0xffff_ffff;

/// `struct xdp_desc` (linux/if_xdp.h): an address, and in one word the length and the options above it.
///
/// # Invariants
///
/// Of the options there is no other than [`has_more`](Self::has_more).
#[derive(Clone, Copy, Debug, Default)]
pub struct Descriptor {
    addr: u64,
    pub(crate) described: u64,
}

impl Descriptor {
    /// `len` bytes from `addr` on; `more` if the packet goes on in the next frame (`XDP_PKT_CONTD`).
    #[inline]
    pub fn new(addr: FrameAddr, len: u32, more: bool) -> Self {
        Descriptor { addr: addr.0, described: u64::from(len) | (u64::from(more) * MORE) }
    }

    /// Length and options one above the other, as a [`Packet`](crate::Packet) has them.
    #[inline]
    pub(crate) fn of(addr: FrameAddr, described: u64) -> Self {
        Descriptor { addr: addr.0, described }
    }

    /// The same, where the address is an offset in the frame that begins at `start`.
    #[inline]
    pub fn in_frame(self, start: FrameAddr) -> Self {
        Descriptor { addr: start.0 + self.addr, ..self }
    }

    /// Where the data begin.
    #[inline]
    pub fn addr(self) -> FrameAddr {
        FrameAddr(self.addr)
    }

    /// Bytes.
    #[inline]
    pub fn len(self) -> u32 {
        self.described as u32
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Whether the packet goes on in the next frame.
    #[inline]
    pub fn has_more(self) -> bool {
        self.described & MORE != 0
    }

    /// Whether it tells of a packet in one frame, which ends before the frame does.
    #[inline]
    pub fn is_plain(self, layout: FrameLayout) -> bool {
        // One comparison: more to come is more than any frame has.
        !self.described.overflowing_add(layout.before_end(self.addr())).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_packet_in_one_frame_is_plain() {
        let layout = FrameLayout::new(2048, 4).unwrap();
        for (addr, len, more, plain) in [
            (256, 60, false, true),
            (2048 + 256, 1791, false, true),
            // Up to the frame's last byte: what is rare may take the longer way.
            (2048 + 256, 1792, false, false),
            (2048 + 256, 1793, false, false),
            (256, 0, false, true),
            (256, 60, true, false),
            (0, 2047, false, true),
            (0, 2048, false, false),
            (0, 0, false, true),
            (2047, 1, false, false),
            (2047, 2, false, false),
            (0, u32::MAX, false, false),
            (0, 0, true, false),
        ] {
            let descriptor = Descriptor::new(FrameAddr(addr), len, more);
            assert_eq!(descriptor.is_plain(layout), plain, "{descriptor:?}");
        }
    }
}
