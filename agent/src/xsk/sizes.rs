//! How deep the four rings are.

use frame_pool::FrameLayout;

/// Entries of each ring; powers of two.
///
/// By default chosen so that what must not happen cannot happen: at most `fill_target` frames are with
/// the kernel for receiving, so an RX ring of that size never overflows; and no more than there are frames can be with
/// it for sending, of which those on the TX ring are only a part, so that the completion ring is as long. The fill ring is
/// twice its target: with as many entries as frames lent, a refill that comes between the kernel's two indices would see
/// a full ring that is not full.
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

/// Sizes that somebody asked for; powers of two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingRequest {
    /// Fill ring.
    pub fill: Option<u32>,
    /// RX ring.
    pub rx: Option<u32>,
    /// TX ring.
    pub tx: Option<u32>,
    /// Completion ring.
    pub completion: Option<u32>,
}

impl RingSizes {
    /// Half of the frames receive, a quarter may wait on the TX ring, the last quarter is with handlers; unless
    /// asked otherwise. The kernel never gets more frames for receiving than the RX ring has room for, so that
    /// one cannot overflow whatever was asked for.
    ///
    /// `layout` is that of one queue's share of a UMEM which so many queues have together.
    pub fn new(layout: FrameLayout, queues: u32, asked: RingRequest) -> Self {
        let frames = layout.chunk_count();
        let rx = asked.rx.unwrap_or(frames / 2);
        let fill = asked.fill.unwrap_or((2 * rx).min(frames));
        let tx = asked.tx.unwrap_or(frames / 4);
        let completion = asked.completion.unwrap_or(queues * frames);
        Self { fill, fill_target: (frames / 2).min(rx).min(fill), rx, tx, completion }
    }

    /// Frames of one packet that can be sent. The kernel takes none before it has kept room for all of them on the
    /// completion ring (`xsk_cq_reserve_locked()`), and holds on to that room while it waits for more.
    pub fn most_fragments(&self) -> u32 {
        self.tx.min(self.completion)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_ring_can_overflow() {
        for (shift, queues) in (6..=18).flat_map(|shift| [(shift, 1), (shift, 2)]) {
            let layout = FrameLayout::new(2048, 1 << shift).unwrap();
            let sizes = RingSizes::new(layout, queues, RingRequest::default());
            for entries in [sizes.fill, sizes.rx, sizes.tx, sizes.completion] {
                assert!(entries.is_power_of_two(), "{sizes:?}");
            }
            assert!(sizes.rx >= sizes.fill_target, "{sizes:?}");
            assert!(sizes.completion >= queues * layout.chunk_count(), "a device may be slow: {sizes:?}");
            // Full at what is lent, the fill ring would keep out the batch that comes before the kernel has released one.
            assert_eq!(sizes.fill, 2 * sizes.fill_target, "{sizes:?}");
            assert!(sizes.fill_target + sizes.tx < layout.chunk_count(), "handlers get some: {sizes:?}");
        }
    }

    #[test]
    fn whatever_is_asked_for_the_rx_ring_has_room_for_what_is_lent() {
        let layout = FrameLayout::new(2048, 4096).unwrap();
        for shift in 0..=13 {
            let ring = Some(1 << shift);
            let asked = [
                RingRequest { rx: ring, ..RingRequest::default() },
                RingRequest { fill: ring, ..RingRequest::default() },
                RingRequest { fill: ring, rx: Some(2048), tx: ring, completion: ring },
            ];
            for sizes in asked.map(|asked| RingSizes::new(layout, 1, asked)) {
                assert!(sizes.fill_target <= sizes.rx && sizes.fill_target <= sizes.fill, "{sizes:?}");
                assert!(sizes.fill_target > 0, "{sizes:?}");
            }
        }
    }
}
