//! [`Totals`]: sums over queues, of what only grows.

use super::QueueView;
use crate::counts::Counts;

/// What went through, summed over queues.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Packets read from RX rings.
    pub rx_packets: u64,
    /// Packets put on TX rings.
    pub tx_packets: u64,
    /// Bytes of the former.
    pub rx_bytes: u64,
    /// Bytes of the latter.
    pub tx_bytes: u64,
    /// Frames that were put into a pool's cache or ring.
    pub recycled: u64,
    /// Frames that were taken out of a pool.
    pub allocated: u64,
    /// Packets that could not be shown to the capture.
    pub capture_missed: u64,
    /// Packets dropped, by cause.
    pub drops: Counts,
}

impl Totals {
    /// Adds a queue.
    pub fn add(&mut self, queue: &QueueView) {
        let traffic = &queue.snapshot.traffic;
        self.rx_packets += traffic.rx_packets;
        self.tx_packets += traffic.tx_packets;
        self.rx_bytes += traffic.rx_bytes;
        self.tx_bytes += traffic.tx_bytes;
        self.capture_missed += traffic.observe_missed;
        let pool = &queue.snapshot.pool;
        self.recycled += pool.recycle.cached + pool.recycle.ring;
        self.allocated += pool.alloc.fast + pool.alloc.refill + pool.alloc.slow;
        for (cause, count) in queue.drops() {
            self.drops.add(cause, count);
        }
    }
}
