//! [`Interval`]: the difference between two observations.

use std::time::Duration;

use serde::Serialize;

use crate::{counts::Counts, observe::Observation};

/// Version of the JSON objects; raised when a field changes its meaning or goes.
const SCHEMA: u32 = 1;

/// What an [`Interval`] stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// About a second.
    Interval,
    /// From the start to the end.
    Summary,
}

/// What happened between two observations, and where the frames were at the later one.
///
/// This is the JSON object that `--json` prints, field by field.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// `interval` or `summary`.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// Version of this object.
    pub schema: u32,
    /// Names of the interfaces, joined with commas.
    pub device: String,
    /// `native` or `skb`: where the XDP program runs.
    pub mode: &'static str,
    /// Whether the sockets are in copy mode.
    pub copy: bool,
    /// Length of the interval in seconds.
    pub duration_s: f64,
    /// Packets read from RX rings.
    pub rx_packets: u64,
    /// Packets put on TX rings.
    pub tx_packets: u64,
    /// Bytes of the former.
    pub rx_bytes: u64,
    /// Bytes of the latter.
    pub tx_bytes: u64,
    /// Packets dropped after the program handed them over, by cause; every cause is there, most are 0.
    pub drops: Counts,
    /// `(recycle_cached + recycle_ring) / (alloc_fast + alloc_refill + alloc_slow)`, as ynltool's
    /// `recycling_pct` for the kernel's page_pool; `null` if nothing was allocated.
    pub recycle_ratio: Option<f64>,
    /// Frames at the end of the interval: their `total`, then by place.
    pub frames: Counts,
    /// Whether the law holds at the end of the interval.
    pub conserved: bool,
    /// What was captured, if anything is to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capture: Option<Captured>,
}

/// What a capture took of an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Captured {
    /// Packets written.
    pub packets: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Packets that no worker could show to it, because it was behind.
    pub missed: u64,
    /// Packets that it was shown and could not write.
    pub lost: u64,
}

impl Interval {
    /// What happened between `earlier` and `later`.
    pub fn between(kind: Kind, earlier: &Observation, later: &Observation) -> Self {
        let (before, after) = (earlier.totals(), later.totals());
        let total = [("total", later.total())];
        let frames = total.into_iter().chain(later.places()).collect();
        let names: Vec<&str> = later.devices.iter().map(|device| device.info.name.as_str()).collect();
        let first = later.devices.first().map(|device| &device.info);
        let allocated = after.allocated - before.allocated;
        Self {
            kind,
            schema: SCHEMA,
            device: names.join(","),
            mode: first.map_or("", |info| info.mode),
            copy: first.is_some_and(|info| !info.zero_copy),
            duration_s: millis(later.at.saturating_sub(earlier.at)),
            rx_packets: after.rx_packets - before.rx_packets,
            tx_packets: after.tx_packets - before.tx_packets,
            rx_bytes: after.rx_bytes - before.rx_bytes,
            tx_bytes: after.tx_bytes - before.tx_bytes,
            drops: after.drops.minus(&before.drops),
            recycle_ratio: (allocated > 0)
                .then(|| round((after.recycled - before.recycled) as f64 / allocated as f64)),
            frames,
            conserved: later.conserved(),
            capture: later.capture.map(|now| {
                let then = earlier.capture.unwrap_or_default();
                Captured {
                    packets: now.packets - then.packets,
                    bytes: now.bytes - then.bytes,
                    missed: after.capture_missed - before.capture_missed,
                    lost: now.lost - then.lost,
                }
            }),
        }
    }

    /// `count` per second.
    pub fn per_second(&self, count: u64) -> f64 {
        if self.duration_s > 0.0 { count as f64 / self.duration_s } else { 0.0 }
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_millis() as f64 / 1e3
}

/// Six digits: a ratio of packets has no more to say.
fn round(ratio: f64) -> f64 {
    (ratio * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::{fixture, fixture_one_frame_short};

    #[test]
    fn an_interval_is_the_difference_and_frames_are_where_they_are_now() {
        let (earlier, mut later) = (fixture(), fixture());
        later.at += Duration::from_millis(500);
        let snapshot = &mut later.devices[0].queues[0].snapshot;
        snapshot.traffic.rx_packets += 100;
        snapshot.traffic.rx_bytes += 6000;
        snapshot.traffic.handler_dropped += 100;
        snapshot.pool.alloc.fast += 90;
        snapshot.pool.alloc.slow += 10;
        snapshot.pool.recycle.cached += 80;
        snapshot.pool.recycle.ring += 15;

        let interval = Interval::between(Kind::Interval, &earlier, &later);
        assert_eq!((interval.rx_packets, interval.rx_bytes, interval.tx_packets), (100, 6000, 0));
        assert_eq!(interval.duration_s, 0.5);
        assert_eq!(interval.per_second(interval.rx_packets), 200.0);
        assert_eq!(interval.drops.get("handler_dropped"), 100);
        assert_eq!(interval.drops.get("xsk_rx_dropped"), 0);
        assert_eq!(interval.recycle_ratio, Some(0.95));
        assert_eq!(interval.frames.get("total"), 2 * 4096);
        let by_place: u64 = interval.frames.iter().filter(|(name, _)| *name != "total").map(|(_, n)| n).sum();
        assert_eq!(by_place, 2 * 4096);
        assert!(interval.conserved);
    }

    #[test]
    fn no_allocation_is_no_ratio() {
        let interval = Interval::between(Kind::Summary, &fixture(), &fixture());
        assert_eq!(interval.recycle_ratio, None);
        assert_eq!(interval.per_second(interval.rx_packets), 0.0);
    }

    #[test]
    fn a_frame_in_no_place_breaks_the_law() {
        assert!(!Interval::between(Kind::Interval, &fixture(), &fixture_one_frame_short()).conserved);
    }

    #[test]
    fn the_json_has_the_fields_of_schema_1_in_order() {
        let interval = Interval::between(Kind::Summary, &fixture(), &fixture());
        let line = super::super::json::line(&interval);
        let keys = [
            "type",
            "schema",
            "device",
            "mode",
            "copy",
            "duration_s",
            "rx_packets",
            "tx_packets",
            "rx_bytes",
            "tx_bytes",
            "drops",
            "recycle_ratio",
            "frames",
            "conserved",
        ];
        let mut at = 0;
        for key in keys {
            let found = line[at..].find(&format!("\"{key}\":"));
            at += found.unwrap_or_else(|| panic!("no {key} after byte {at}: {line}"));
        }
        assert!(
            line.starts_with("{\"type\":\"summary\",\"schema\":1,\"device\":\"eth0\",\"mode\":\"native\""),
            "{line}"
        );
        assert!(line.ends_with("}\n"));
    }
}
