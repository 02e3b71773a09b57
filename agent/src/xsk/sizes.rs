//! How deep the four rings are.

use frame_pool::FrameLayout;

/// Entries of each ring; powers of two.
///
/// Chosen so that what must not happen cannot happen (kernel.md 3.8): at most `fill_target` frames are with the
/// kernel for receiving, so an RX ring of that size never overflows; at most `tx` are being sent, so neither
/// does the completion ring. The fill ring is twice its target: with as many entries as frames lent, a refill
/// that comes between the kernel's two indices would see a full ring that is not full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingSizes {
    /// Fill ring.
    pub fill: u32,
    /// Frames kept with the kernel for receiving.
    pub fill_target: u32,
    /// RX ring.
    pub rx: u32,
    /// TX ring.
    pub tx: u32,
    /// Completion ring.
    pub completion: u32,
}

impl RingSizes {
    /// Half of the frames receive, a quarter may be on their way out, the last quarter is with handlers.
    pub fn for_layout(layout: FrameLayout) -> Self {
        let frames = layout.chunk_count();
        let receive = frames / 2;
        let send = frames / 4;
        Self { fill: 2 * receive, fill_target: receive, rx: receive, tx: send, completion: 2 * send }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_ring_can_overflow() {
        for shift in 6..=18 {
            let layout = FrameLayout::new(2048, 1 << shift).unwrap();
            let sizes = RingSizes::for_layout(layout);
            for entries in [sizes.fill, sizes.rx, sizes.tx, sizes.completion] {
                assert!(entries.is_power_of_two(), "{sizes:?}");
            }
            assert!(sizes.rx >= sizes.fill_target && sizes.completion >= sizes.tx, "{sizes:?}");
            assert!(sizes.fill_target + sizes.tx < layout.chunk_count(), "handlers get some: {sizes:?}");
        }
    }
}
