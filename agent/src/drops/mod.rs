//! Where packets get lost, from the wire to the handler, in one table: each row with what it means and what to
//! do about it.
//!
//! The layers overlap: what a NIC misses its driver may count again, and in copy mode `rx_fill_ring_empty_descs` is
//! part of `rx_dropped`. A column of them must not be added up. But from the program on, the rows that [are losses](Row::is_lost)
//! count each packet once, as far as umemd knows the errno of a refused redirect: their sum is what is called lost
//! everywhere. What the NIC lost has its place beside it: it may be the same packets again, or others' than ours, and has
//! been counted since the driver was loaded. `lost.json` is an example that every surface is tested with.

#[cfg(test)]
pub(crate) mod example;
mod known;
mod report;

use std::borrow::Cow;

pub use known::{Kind, Known, explain};
pub use report::{json, text};
use umemd_common::Decision;

use crate::observe::{DeviceView, QueueView};

/// The one row that may fall: what was steered and not seen may still be seen.
pub const UNACCOUNTED: &str = "unaccounted";

/// How far a packet had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// The network card, its driver, and the kernel's device.
    Nic,
    /// Our XDP program.
    Xdp,
    /// On the way from the program to the socket.
    Redirect,
    /// The AF_XDP socket: `struct xdp_statistics`.
    Socket,
    /// The pool that frames come from.
    Pool,
    /// The worker and its handler.
    Handler,
}

impl Layer {
    /// Every layer, in the order of a packet's way.
    pub const ALL: [Self; 6] =
        [Self::Nic, Self::Xdp, Self::Redirect, Self::Socket, Self::Pool, Self::Handler];

    /// Its name in metrics and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nic => "nic",
            Self::Xdp => "xdp",
            Self::Redirect => "redirect",
            Self::Socket => "socket",
            Self::Pool => "pool",
            Self::Handler => "handler",
        }
    }
}

/// One counter of one device, summed over its queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// How far the packets had come.
    pub layer: Layer,
    /// The counter's name there; of a driver's counter per queue, with `*` for the queue.
    pub cause: Cow<'static, str>,
    /// Packets, or events: the row's meaning says.
    pub count: u64,
}

impl Row {
    /// Whether it counts packets that are gone for certain. So does a row that nobody has explained.
    pub fn is_lost(&self) -> bool {
        explain(self.layer.name(), &self.cause).is_none_or(|known| known.kind == Kind::Loss)
    }
}

/// Every row that can be told of a device, zeros included, in the order of a packet's way.
pub fn rows(device: &DeviceView) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |layer, cause: Cow<'static, str>, count| rows.push(Row { layer, cause, count });
    if let Some(kernel) = &device.kernel {
        for (name, count) in &kernel.nic.link {
            add(Layer::Nic, Cow::Borrowed(name), *count);
        }
        for (pattern, count) in known::driver_counters(&kernel.nic.driver) {
            add(Layer::Nic, Cow::Borrowed(pattern), count);
        }
    }
    for (decision, count) in Decision::ALL.iter().zip(device.decisions.into_iter().flatten()) {
        if *decision != Decision::Steered {
            add(Layer::Xdp, Cow::Borrowed(decision.name()), count);
        }
    }
    for (errno, count) in device.redirect_errors.iter().flatten() {
        add(Layer::Redirect, Cow::Borrowed(errno), *count);
    }
    if let Some(count) = unaccounted(device) {
        add(Layer::Redirect, Cow::Borrowed(UNACCOUNTED), count);
    }
    rows.extend(of_queues(&device.queues));
    rows
}

/// Packets of one queue that are gone for certain, of those rows that somebody counts by queue. `None` if its socket does
/// not tell: the others alone would look as if it had begun anew.
pub fn lost_of(queue: &QueueView) -> Option<u64> {
    queue.xsk?;
    Some(of_queues(std::slice::from_ref(queue)).iter().filter(|row| row.is_lost()).map(|row| row.count).sum())
}

/// The rows that queues have, from the socket on.
fn of_queues(queues: &[QueueView]) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |layer, cause: Cow<'static, str>, count| rows.push(Row { layer, cause, count });
    for (name, count) in socket(queues) {
        add(Layer::Socket, Cow::Borrowed(name), count);
    }
    let snapshots = || queues.iter().map(|queue| &queue.snapshot);
    // Nobody counts for a device that is away: that is not 0.
    if !queues.is_empty() {
        add(Layer::Socket, Cow::Borrowed("tx_unsent"), snapshots().map(|s| s.traffic.tx_unsent).sum());
        add(Layer::Pool, Cow::Borrowed("alloc_failed"), snapshots().map(|s| s.pool.extras.alloc_fail).sum());
        add(
            Layer::Pool,
            Cow::Borrowed("held_refused"),
            snapshots().map(|s| s.pool.extras.held_refused).sum(),
        );
    }
    let mut handler = crate::counts::Counts::default();
    for (cause, count) in snapshots().flat_map(|snapshot| snapshot.traffic.drops()) {
        handler.add(cause, count);
    }
    for (cause, count) in handler.iter() {
        add(Layer::Handler, Cow::Owned(cause.to_owned()), count);
    }
    rows
}

/// The six of `struct xdp_statistics`; those that the kernel does not tell of every queue are not there: a sum that
/// lacks one for a moment looks as if it had begun anew.
fn socket(queues: &[QueueView]) -> Vec<(&'static str, u64)> {
    let sum = |field: fn(&rustix::net::xdp::XdpStatistics) -> Option<u64>| {
        queues.iter().map(|queue| field(queue.xsk.as_ref()?)).reduce(|a, b| Some(a? + b?)).flatten()
    };
    [
        ("rx_dropped", sum(|x| Some(x.rx_dropped))),
        ("rx_ring_full", sum(|x| x.rx_ring_full)),
        ("rx_fill_ring_empty_descs", sum(|x| x.rx_fill_ring_empty_descs)),
        ("rx_invalid_descs", sum(|x| Some(x.rx_invalid_descs))),
        ("tx_invalid_descs", sum(|x| Some(x.tx_invalid_descs))),
        ("tx_ring_empty_descs", sum(|x| x.tx_ring_empty_descs)),
    ]
    .into_iter()
    .filter_map(|(name, count)| Some((name, count?)))
    .collect()
}

/// Packets that the program steered and that no socket has seen. `None` if the program or a socket does not tell.
pub fn unaccounted(device: &DeviceView) -> Option<u64> {
    let steered = device.decisions?[Decision::Steered as usize];
    let mut seen = 0;
    for queue in &device.queues {
        let xsk = queue.xsk.as_ref()?;
        seen += queue.snapshot.traffic.rx_packets + u64::from(queue.snapshot.places.rx);
        seen += xsk.rx_dropped + xsk.rx_ring_full?;
    }
    Some(steered.saturating_sub(seen))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::{fixture, fixture_with_kernel};

    fn count(rows: &[Row], layer: Layer, cause: &str) -> Option<u64> {
        rows.iter().find(|row| row.layer == layer && row.cause == cause).map(|row| row.count)
    }

    #[test]
    fn rows_follow_a_packet_and_sum_over_queues() {
        let mut observation = fixture_with_kernel();
        let device = &mut observation.devices[0];
        for queue in &mut device.queues {
            queue.snapshot.traffic.handler_dropped = 5;
            queue.snapshot.pool.extras.alloc_fail = 1;
            queue.xsk.as_mut().unwrap().rx_ring_full = Some(2);
        }
        let rows = rows(device);
        assert!(rows.is_sorted_by_key(|row| row.layer), "{rows:?}");
        assert_eq!(count(&rows, Layer::Nic, "rx_dropped"), Some(2));
        assert_eq!(count(&rows, Layer::Nic, "rx_out_of_buffer"), Some(3), "mlx5's own");
        assert_eq!(count(&rows, Layer::Nic, "rx_packets_phy"), None, "that is no loss");
        assert_eq!(count(&rows, Layer::Xdp, "no_socket"), Some(2));
        assert_eq!(count(&rows, Layer::Redirect, "ENXIO"), Some(4));
        assert_eq!(count(&rows, Layer::Socket, "rx_ring_full"), Some(4));
        assert_eq!(count(&rows, Layer::Pool, "alloc_failed"), Some(2));
        assert_eq!(count(&rows, Layer::Handler, "handler_dropped"), Some(10));
    }

    #[test]
    fn what_was_steered_and_not_seen_is_unaccounted_for() {
        let mut observation = fixture();
        let device = &mut observation.devices[0];
        device.decisions.as_mut().unwrap()[Decision::Steered as usize] = 100;
        let queue = &mut device.queues[0];
        queue.snapshot.traffic.rx_packets = 80;
        queue.snapshot.places.rx = 10;
        queue.xsk.as_mut().unwrap().rx_dropped = 7;
        assert_eq!(count(&rows(device), Layer::Redirect, "unaccounted"), Some(3));
        device.queues[1].xsk = None;
        assert_eq!(count(&rows(device), Layer::Redirect, "unaccounted"), None);
    }

    #[test]
    fn what_nobody_counts_is_no_row() {
        let mut observation = fixture();
        let device = &mut observation.devices[0];
        assert_eq!(count(&rows(device), Layer::Socket, "rx_dropped"), Some(0));
        device.queues[1].xsk = None;
        assert_eq!(count(&rows(device), Layer::Socket, "rx_dropped"), None, "one of two sockets is no sum");
        device.queues.clear();
        let rows = rows(device);
        assert_eq!(rows.iter().find(|row| row.layer > Layer::Redirect), None, "{rows:?}");
    }

    #[test]
    fn what_queues_lost_is_what_their_device_did_from_the_socket_on() {
        let mut observation = fixture_with_kernel();
        let device = &mut observation.devices[0];
        for (number, queue) in device.queues.iter_mut().enumerate() {
            queue.snapshot.traffic.handler_dropped = 5;
            queue.snapshot.traffic.tx_full = 3;
            queue.xsk.as_mut().unwrap().rx_dropped = 100 * number as u64;
            // In rx_dropped already.
            queue.xsk.as_mut().unwrap().rx_fill_ring_empty_descs = Some(70);
        }
        let of: Vec<_> = device.queues.iter().map(|queue| lost_of(queue).unwrap()).collect();
        assert_eq!(of, [3, 103]);
        let late = |row: &&Row| row.layer >= Layer::Socket && row.is_lost();
        assert_eq!(rows(device).iter().filter(late).map(|row| row.count).sum::<u64>(), 106);
        device.queues[0].xsk = None;
        assert_eq!(lost_of(&device.queues[0]), None);
    }

    #[test]
    fn every_row_is_explained() {
        for device in &fixture_with_kernel().devices {
            for row in rows(device) {
                assert!(explain(row.layer.name(), &row.cause).is_some(), "{row:?}");
            }
        }
    }
}
