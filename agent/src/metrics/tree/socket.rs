//! `XDP_STATISTICS` of each socket; what an old kernel does not tell has no series.

use super::{Metric, metrics};

pub(super) const TREE: &[Metric] = metrics! { Queue
    Counter "umemd_xsk_rx_dropped" "xdp_statistics.rx_dropped: too long for a frame, or no frame on the fill ring."
        |q| q.xsk.map(|x| x.rx_dropped);
    Counter "umemd_xsk_rx_invalid_descs" "xdp_statistics.rx_invalid_descs: no kernel up to 7.3 ever moves it."
        |q| q.xsk.map(|x| x.rx_invalid_descs);
    Counter "umemd_xsk_tx_invalid_descs" "xdp_statistics.tx_invalid_descs: TX descriptors that the kernel refused."
        |q| q.xsk.map(|x| x.tx_invalid_descs);
    Counter "umemd_xsk_rx_ring_full" "xdp_statistics.rx_ring_full: dropped because the RX ring had no room."
        |q| q.xsk.and_then(|x| x.rx_ring_full);
    Counter "umemd_xsk_rx_fill_ring_empty_descs" "xdp_statistics.rx_fill_ring_empty_descs: the kernel found the fill ring empty. In copy mode such packets are in rx_dropped too; in zero-copy mode the NIC may have dropped some."
        |q| q.xsk.and_then(|x| x.rx_fill_ring_empty_descs);
    Counter "umemd_xsk_tx_ring_empty_descs" "xdp_statistics.tx_ring_empty_descs: the kernel found the TX ring empty, which is normal."
        |q| q.xsk.and_then(|x| x.tx_ring_empty_descs);
};
