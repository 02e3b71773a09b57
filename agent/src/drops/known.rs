//! Every row that can be in the table: what it means, and what to do about it.

use std::sync::LazyLock;

use super::Layer;

/// Whether a row is about packets that are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// They are gone.
    Loss,
    /// They are gone, or still on their way.
    Open,
    /// They are not; the number helps to understand the others.
    Note,
}

/// One row's explanation.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// How far the packets had come.
    pub layer: Layer,
    /// The counter's name; `*` stands for a number.
    pub cause: &'static str,
    /// Whether packets are gone.
    pub kind: Kind,
    /// What was counted.
    pub meaning: &'static str,
    /// The next step.
    pub advice: &'static str,
}

/// The explanation of a row.
pub fn explain(layer: &str, cause: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.layer.name() == layer && known.cause == cause)
}

/// The driver's counters that are losses, those of all queues under one name; the first pattern that fits wins.
pub(super) fn driver_counters(statistics: &[(String, u64)]) -> Vec<(&'static str, u64)> {
    let mut sums: Vec<(&'static str, u64)> = Vec::new();
    for (name, count) in statistics {
        let Some(Pattern { cause, .. }) = DRIVERS.iter().find(|pattern| pattern.fits(name)) else { continue };
        match sums.iter_mut().find(|(known, _)| known == cause) {
            Some((_, sum)) => *sum = sum.saturating_add(*count),
            None => sums.push((*cause, *count)),
        }
    }
    sums
}

/// The rows of drivers, taken apart once: there may be hundreds of counters at each scrape.
static DRIVERS: LazyLock<Vec<Pattern>> = LazyLock::new(|| {
    let drivers = KNOWN.iter().filter(|known| known.layer == Layer::Nic && !LINK.contains(&known.cause));
    drivers.map(|known| Pattern::new(known.cause)).collect()
});

/// A name, or with a `*` in it any that has a number there.
struct Pattern {
    cause: &'static str,
    around: Option<(&'static str, &'static str)>,
}

impl Pattern {
    fn new(cause: &'static str) -> Self {
        Self { cause, around: cause.split_once('*') }
    }

    fn fits(&self, name: &str) -> bool {
        let Some((before, after)) = self.around else { return self.cause == name };
        let number = name.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
        number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    }
}

/// Fields of `struct rtnl_link_stats64`. Drivers that repeat one of them in `ethtool -S` are not counted twice.
const LINK: [&str; 12] = [
    "rx_dropped",
    "rx_errors",
    "rx_missed_errors",
    "rx_over_errors",
    "rx_fifo_errors",
    "rx_length_errors",
    "rx_crc_errors",
    "rx_frame_errors",
    "rx_nohandler",
    "tx_dropped",
    "tx_errors",
    "tx_carrier_errors",
];

macro_rules! known {
    ($($layer:ident $kind:ident $cause:literal: $meaning:literal, $advice:expr;)+) => {
        &[$(Known {
            layer: Layer::$layer,
            cause: $cause,
            kind: Kind::$kind,
            meaning: $meaning,
            advice: $advice,
        }),+]
    };
}

const TOO_SLOW: &str = "more arrives than the interrupt's CPU takes: longer rings (ethtool -G), more queues, \
                        another CPU for the interrupt, or pause frames (ethtool -A)";
const CABLE: &str = "look at cable, transceiver, and speed and duplex of both ends (ethtool)";
const BUFFERS: &str = "the machine is short of memory for receive buffers: look at dmesg and /proc/meminfo";
const DROPPED: &str =
    "layer xdp says what rules and the default drop; what is more is another program's (ip link)";
const XDP_SEND: &str = "XDP_TX and redirected frames found no room to be sent; umemd sends neither way";

/// Fields of rtnl_link_stats64 first, then what drivers count on their own; then our layers.
static KNOWN: &[Known] = known! {
    Nic Loss "rx_dropped": "received by the device and not passed on, by driver or stack",
        "the driver's own counters below may say why; without them it is the stack, for want of a listener or of memory";
    Nic Loss "rx_errors": "bad frames, and what the driver dropped after it had received it; may contain the rows below",
        "the rows below may say why; without them look at dmesg, and at cable and MTU of both ends";
    Nic Loss "rx_missed_errors": "the device had no receive buffer when the frame came", TOO_SLOW;
    Nic Loss "rx_over_errors": "the receive ring overflowed", TOO_SLOW;
    Nic Loss "rx_fifo_errors": "the device's own memory overflowed", TOO_SLOW;
    Nic Loss "rx_length_errors": "frames shorter or longer than the device takes", "compare the MTU of both ends";
    Nic Loss "rx_crc_errors": "frames with a bad checksum on the wire", CABLE;
    Nic Loss "rx_frame_errors": "frames that do not end at a byte", CABLE;
    Nic Loss "rx_nohandler": "received on a device that passes nothing on", "is it the inactive port of a bond?";
    Nic Loss "tx_dropped": "not sent, by stack or driver",
        "is it up, with a carrier, and the other end fast enough? What a queue discipline drops tc -s qdisc tells";
    Nic Loss "tx_errors": "could not be sent", CABLE;
    Nic Loss "tx_carrier_errors": "not sent for want of a carrier", CABLE;

    // mvneta
    Nic Loss "rx_discard": "mvneta: no receive descriptor was free", TOO_SLOW;
    Nic Loss "rx_overrun": "mvneta: the port's FIFO overflowed", TOO_SLOW;
    Nic Loss "refill_errors": "mvneta: no page for the receive ring", BUFFERS;
    Nic Loss "skb_alloc_errors": "mvneta: no memory for a socket buffer", BUFFERS;
    Nic Loss "bad_crc_event": "mvneta: bad checksum on the wire", CABLE;
    Nic Loss "undersize_received": "mvneta: frames shorter than Ethernet's", CABLE;
    Nic Loss "fragments_received": "mvneta: pieces of frames", CABLE;
    Nic Loss "oversize_received": "mvneta: frames longer than the port takes", "compare the MTU of both ends";
    Nic Loss "jabber_received": "mvneta: frames too long, and with a bad checksum", CABLE;
    Nic Loss "mac_receive_error": "mvneta: the MAC could not receive a frame", CABLE;
    // mvpp2
    Nic Loss "rx_fifo_or_parser_overrun_drops": "mvpp2: FIFO or parser overflowed", TOO_SLOW;
    Nic Loss "rx_classifier_drops": "mvpp2: dropped by the hardware's classifier",
        "look at the hardware's rules (ethtool -n)";
    Nic Loss "rxq_*_queue_full_drops": "mvpp2: the receive queue was full", TOO_SLOW;
    Nic Loss "rxq_*_packets_early_drops": "mvpp2: dropped early, before the queue was full", TOO_SLOW;
    Nic Loss "rxq_*_packets_bm_drops": "mvpp2: the buffer manager had no buffer", TOO_SLOW;
    // mvneta and mvpp2 have these in common.
    Nic Note "rx_xdp_drop": "dropped by an XDP program", DROPPED;
    Nic Loss "rx_xdp_tx_errors": "XDP_TX failed", XDP_SEND;
    Nic Loss "tx_xdp_xmit_errors": "redirected here by XDP and not sent", XDP_SEND;
    // veth
    Nic Loss "rx_queue_*_drops": "igb, igc: no receive descriptor was free; veth, virtio_net before Linux 6.10: a redirect failed, or there was no memory for a socket buffer",
        "igb, igc: longer rings (ethtool -G), more queues, or another CPU for the interrupt; others: see layers redirect and socket";
    Nic Note "rx_queue_*_xdp_drops": "veth, virtio_net before Linux 6.10: dropped by an XDP program", DROPPED;
    Nic Loss "rx_queue_*_xdp_tx_errors": "veth: XDP_TX failed", XDP_SEND;
    Nic Loss "tx_queue_*_xdp_xmit_errors": "veth: redirected here by XDP and not sent", XDP_SEND;
    // virtio_net
    Nic Loss "rx*_drops": "virtio_net: received and not passed on",
        "no memory, frames that contradict themselves, or XDP: see layers redirect and socket";
    Nic Note "rx*_xdp_drops": "virtio_net: dropped by an XDP program, or its redirect failed",
        "layer xdp says what rules and the default drop; the rest is in layers redirect and socket";
    // mlx5
    Nic Loss "rx_out_of_buffer": "mlx5: no receive buffer when the frame came", TOO_SLOW;
    Nic Loss "rx_discards_phy": "mlx5: the port's buffer was full", TOO_SLOW;
    Nic Loss "rx_xsk_buff_alloc_err": "mlx5: no frame on the fill ring (zero-copy)",
        "more frames: --frames; or the worker is too slow";
    // Intel
    Nic Loss "rx_no_dma_resources": "ixgbe: no receive descriptor was free", TOO_SLOW;
    Nic Loss "rx_queue_*_alloc_failed": "igb, igc: no memory for a receive buffer", BUFFERS;
    Nic Loss "rx_no_buffer_count": "igb, igc: no receive buffer when the frame came", TOO_SLOW;
    Nic Loss "port.rx_dropped": "i40e: the port dropped for want of buffers", TOO_SLOW;
    Nic Loss "rx_dropped.nic": "ice: the port dropped for want of buffers", TOO_SLOW;

    Xdp Note "no_socket": "matched a rule and went to the stack: its queue has no socket",
        "serve that queue too (--queues); or its worker stands still, see /healthz";
    Xdp Note "other_queue": "matched a rule that steers on other queues, and went to the stack",
        "nothing, unless the rule should steer on this queue as well";
    Xdp Note "passed": "matched a rule that passes, and went to the stack", "nothing: the rule asks for it";
    Xdp Note "dropped": "matched a rule that drops", "nothing: the rule asks for it";
    Xdp Loss "unmatched_dropped": "matched no rule, and the default is to drop",
        "a rule that passes or steers them, or the default `pass`";
    Xdp Loss "truncated_dropped": "ended inside a header, and the default is to drop", "the sender makes short frames";
    Xdp Loss "malformed_dropped": "has an IP header that contradicts itself, and the default is to drop",
        "the sender makes bad frames";
    Xdp Note "unmatched": "matched no rule and went to the stack", "nothing, unless a rule should have matched";
    Xdp Note "truncated": "ended inside a header and went to the stack", "the sender makes short frames";
    Xdp Note "malformed": "has an IP header that contradicts itself and went to the stack",
        "the sender makes bad frames";

    Redirect Loss "ENXIO": "steered to a socket that was not bound: it was just being opened or closed",
        "nothing, if it stops growing";
    Redirect Loss "EINVAL": "steered to a socket that is bound to another queue or interface",
        "a bug of umemd: please report it";
    Redirect Note "ENOSPC": "longer than a frame: such packets are in the socket's rx_dropped",
        "--frame-size 4096, or --multi-buffer on";
    Redirect Note "ENOMEM": "no frame on the fill ring: such packets are in the socket's rx_dropped",
        "more frames (--frames); or the worker is too slow, or a handler keeps them";
    Redirect Note "ENOBUFS": "no room on the RX ring: such packets are in the socket's rx_ring_full",
        "the worker is too slow: more queues, or a cheaper handler";
    Redirect Loss "other": "the kernel refused to redirect, with an errno that umemd does not know",
        "perf trace -e xdp:xdp_redirect_err names it";
    Redirect Open "unaccounted": "steered by the program, and seen by no socket",
        "if it stays when traffic stops, the rows above name the errno, where the kernel tells it";

    Socket Loss "rx_dropped": "too long for a frame, or no frame on the fill ring",
        "--frame-size 4096 for long packets; for the rest see rx_fill_ring_empty_descs";
    Socket Loss "rx_ring_full": "no room on the RX ring", "the worker is too slow: more queues, or a cheaper handler";
    Socket Note "rx_fill_ring_empty_descs": "the kernel looked for a frame and found none: in copy mode such packets are in rx_dropped, in zero-copy mode the NIC may have dropped some",
        "more frames (--frames); or the worker is too slow, or a handler keeps them";
    Socket Note "rx_invalid_descs": "nothing: no kernel up to 7.3 moves it", "nothing";
    Socket Loss "tx_invalid_descs": "descriptors that the kernel refused to send", "a bug of umemd: please report it";
    Socket Loss "tx_unsent": "frames that were still on the TX ring when its socket was closed, though their packets count as sent",
        "the interface was down, or does not send on this queue";
    Socket Note "tx_ring_empty_descs": "the kernel looked for something to send and found nothing: normal", "nothing";

    Pool Note "alloc_failed": "the worker wanted frames and none was free",
        "drops nothing by itself; if rx_fill_ring_empty_descs grows too: more frames (--frames)";
    Pool Note "held_refused": "a frame was not given away, because as many were held as the pool allows",
        "whoever holds frames is too slow, or leaks them";

    Handler Note "handler_dropped": "dropped by the handler", "nothing: that is its job";
    Handler Loss "rx_torn": "came in several frames, one of which came back wrong from the kernel",
        "see umemd_pool_rejected; a bug of umemd or of the kernel: please report it";
    Handler Loss "rx_too_long": "came in more frames than a packet may have that is sent on",
        "larger frames (--frame-size), or ethtool -K PEER tso off gso off where they come from";
    Handler Loss "rx_unhandled": "nobody handled it: the handler panicked, or umemd ended before its last frame had come",
        "after a panic, which the log tells of: mend the handler";
    Handler Loss "tx_full": "to be sent, and the TX ring was full",
        "the device sends slower than frames arrive; is it up?";
    Handler Loss "tx_invalid": "to be sent, and without a byte, or in more frames than a packet may have",
        "the handler made an empty packet: its bug; or a longer one came in than goes out";
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_one_number() {
        let fits = |pattern, name| Pattern::new(pattern).fits(name);
        assert!(fits("rx*_drops", "rx0_drops") && fits("rx*_drops", "rx17_drops"));
        assert!(!fits("rx*_drops", "rx_drops") && !fits("rx*_drops", "rx0_xdp_drops"));
        assert!(fits("rx_discard", "rx_discard") && !fits("rx_discard", "rx_discards"));
    }

    #[test]
    fn queues_are_summed_and_what_is_no_loss_left_out() {
        let statistics = [
            ("peer_ifindex", 2),
            ("rx_queue_0_drops", 5),
            ("rx_queue_1_drops", 6),
            ("rx_queue_0_xdp_packets", 100),
            ("rx_dropped", 1),
        ];
        let statistics: Vec<_> = statistics.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
        assert_eq!(driver_counters(&statistics), [("rx_queue_*_drops", 11)]);
    }

    #[test]
    fn what_mvneta_counts_of_bad_frames_is_a_loss() {
        for cause in [
            "rx_errors",
            "bad_crc_event",
            "undersize_received",
            "fragments_received",
            "oversize_received",
            "jabber_received",
            "mac_receive_error",
        ] {
            assert_eq!(explain("nic", cause).map(|known| known.kind), Some(Kind::Loss), "{cause}");
        }
    }

    #[test]
    fn what_a_rule_drops_is_blamed_on_nobody() {
        for cause in ["rx_xdp_drop", "rx_queue_*_xdp_drops", "rx*_xdp_drops"] {
            let known = explain("nic", cause).unwrap();
            assert_eq!(known.kind, Kind::Note, "{cause}");
            assert!(known.advice.contains("layer xdp says what rules"), "{cause}");
        }
    }

    #[test]
    fn each_row_is_there_once_and_says_something() {
        for (index, known) in KNOWN.iter().enumerate() {
            let same = |other: &&Known| other.layer == known.layer && other.cause == known.cause;
            assert_eq!(KNOWN.iter().position(|other| same(&other)), Some(index), "{}", known.cause);
            assert!(!known.meaning.is_empty() && !known.advice.is_empty(), "{}", known.cause);
        }
        for field in LINK {
            assert!(explain("nic", field).is_some(), "{field}");
        }
        for (errno, _) in umemd_common::maps::REDIRECT_ERRNOS {
            assert!(explain("redirect", errno).is_some(), "{errno}");
        }
    }
}
