//! An observation as OpenMetrics 1.0 text.

use std::{fmt, time::Duration};

use frame_pool::HOLD_BOUNDS;
use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeLabel as _, EncodeLabelSet, LabelSetEncoder, MetricEncoder, NoLabelSet,
        text::encode,
    },
    metrics::MetricType,
    registry::Registry,
};

use super::{
    series::{Sample, Value},
    tree::{self, Kind, Metric, Subjects},
};
use crate::observe::Observation;

/// What the text is served as.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The text. Every metric of the tree is in it, whether or not anything was counted.
///
/// # Errors
///
/// None that text in memory can have.
pub fn render(observation: Observation) -> Result<String, fmt::Error> {
    // Growing to its size would cost as much as a tenth of the text.
    let mut text = String::with_capacity(most_bytes(&observation));
    // The values are read at scrape time and thrown away after it, so the registry lives no longer than that.
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(observation)));
    encode(&mut text, &registry)?;
    Ok(text)
}

/// Bytes that are more than the text has, where names and numbers are not longer than usual.
fn most_bytes(observation: &Observation) -> usize {
    const HELP: usize = 32 << 10;
    const OF_A_QUEUE: usize = 8 << 10;
    const OF_A_RULE: usize = 512;
    let rules = observation.rules.len().min(tree::MOST_RULES);
    HELP + observation.queues().count() * OF_A_QUEUE + rules * OF_A_RULE
}

#[derive(Debug)]
struct Scrape(Observation);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let subjects = Subjects::of(&self.0);
        for metric in tree::all() {
            let metric_type = match metric.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            let mut family = encoder.encode_descriptor(metric.name, metric.help, None, metric_type)?;
            let mut written = Ok(());
            metric.read(&subjects, &mut |sample| {
                written = written.and_then(|()| encode_sample(metric, sample, &mut family));
            });
            written?;
        }
        Ok(())
    }
}

fn encode_sample(metric: &Metric, sample: &Sample<'_>, family: &mut MetricEncoder<'_>) -> fmt::Result {
    if metric.labels().next().is_none() {
        return encode_value(metric.kind, sample.value, family);
    }
    encode_value(metric.kind, sample.value, &mut family.encode_family(&Labels(metric, sample))?)
}

/// The labels of a sample: names of the metric, values of its own.
struct Labels<'a>(&'a Metric, &'a Sample<'a>);

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let mut labels = self.0.labels().zip(self.1.labels());
        labels.try_for_each(|label| label.encode(encoder.encode_label()))
    }
}

fn encode_value(kind: Kind, value: Value, encoder: &mut MetricEncoder<'_>) -> fmt::Result {
    match (kind, value) {
        (Kind::Counter, Value::Int(value)) => encoder.encode_counter::<NoLabelSet, _, u64>(&value, None),
        (Kind::Counter, Value::Float(value)) => encoder.encode_counter::<NoLabelSet, _, f64>(&value, None),
        (Kind::Gauge, Value::Int(value)) => encoder.encode_gauge(&value),
        (Kind::Gauge, Value::Signed(value)) => encoder.encode_gauge(&value),
        (Kind::Gauge, Value::Float(value)) => encoder.encode_gauge(&value),
        (_, Value::Histogram(times)) => {
            let bounds = HOLD_BOUNDS.iter().map(Duration::as_secs_f64).chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(times.buckets).collect();
            encoder.encode_histogram::<NoLabelSet>(times.sum.as_secs_f64(), times.count(), &buckets, None)
        }
        (Kind::Counter, Value::Signed(_)) | (Kind::Histogram, _) => Err(fmt::Error),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use super::*;
    use crate::{
        drops,
        nic::netdev::Features,
        observe::{DeviceInfo, fixture, fixture_one_frame_short, fixture_with_kernel},
        page_pool::fixture::two_pools,
        status::Status,
    };

    fn series<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
        text.lines().filter(|line| line.starts_with(&format!("{name}{{"))).collect()
    }

    #[test]
    fn every_metric_of_the_tree_is_there_and_has_a_sample() {
        let mut observation = fixture_with_kernel();
        observation.leaving.push(observation.devices[0].queues[1].clone());
        let text = render(observation).unwrap();
        for metric in tree::all() {
            assert!(text.contains(&format!("# HELP {} {}", metric.name, metric.help)), "{}", metric.name);
            let sample = metric.sample_name();
            let mut lines = text.lines().filter(|line| !line.starts_with('#'));
            assert!(lines.any(|line| line.split(['{', ' ']).next() == Some(sample.as_str())), "{sample}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn each_name_is_there_once_and_each_sample_has_its_labels() {
        let mut names = BTreeSet::new();
        let observation = fixture_with_kernel();
        let subjects = Subjects::of(&observation);
        for metric in tree::all() {
            assert!(names.insert(metric.name), "{} twice", metric.name);
            assert!(metric.help.ends_with('.'), "{}", metric.name);
            // OpenMetrics wants them escaped, and the writer writes help as it is.
            assert!(!metric.help.contains(['"', '\\', '\n']), "{}", metric.name);
            assert!(!metric.name.ends_with("_total"), "{}: the writer adds that", metric.name);
            let mut seen = BTreeSet::new();
            metric.read(&subjects, &mut |sample| {
                let labels: Vec<String> = sample.labels().map(str::to_owned).collect();
                assert_eq!(labels.len(), metric.labels().count(), "{}: {labels:?}", metric.name);
                assert!(seen.insert(labels.clone()), "{}: {labels:?} twice", metric.name);
            });
        }
    }

    #[test]
    fn one_series_per_queue() {
        let text = render(fixture()).unwrap();
        let lines = series(&text, "umemd_pool_alloc_fast_total");
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert_eq!(lines[1], "umemd_pool_alloc_fast_total{device=\"eth0\",queue=\"1\"} 0");
    }

    #[test]
    fn frames_by_state_sum_to_the_capacity() {
        let text = render(fixture()).unwrap();
        let value = |line: &&str| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
        let frames: u64 = series(&text, "umemd_pool_frames").iter().map(value).sum();
        let capacity: u64 = series(&text, "umemd_pool_capacity_frames").iter().map(value).sum();
        assert_eq!((frames, capacity), (8192, 8192));
    }

    #[test]
    fn the_law_is_broken_where_a_frame_is_missing_and_nowhere_else() {
        let text = render(fixture_one_frame_short()).unwrap();
        let queues =
            [0, 1].map(|queue| format!("umemd_pool_conserved{{device=\"eth0\",queue=\"{queue}\"}} "));
        assert_eq!(series(&text, "umemd_pool_conserved"), [queues[0].clone() + "1", queues[1].clone() + "0"]);
    }

    /// By page_pool's own rule it is a bug (`net/core/page_pool.c: page_pool_inflight`), which 0 would hide.
    #[test]
    fn fewer_frames_in_flight_than_none_are_seen() {
        let mut observation = fixture();
        observation.devices[0].queues[0].snapshot.inflight = -3;
        let text = render(observation).unwrap();
        assert!(series(&text, "umemd_pool_inflight_frames")[0].ends_with(" -3"), "{text}");
    }

    #[test]
    fn times_are_counted_in_buckets_that_contain_each_other() {
        let text = render(fixture_with_kernel()).unwrap();
        let name = "umemd_frame_hold_seconds";
        let buckets = series(&text, &format!("{name}_bucket"));
        let of_first: Vec<_> = buckets.iter().filter(|line| line.contains("queue=\"0\"")).collect();
        assert_eq!(of_first.len(), HOLD_BOUNDS.len() + 1);
        assert!(of_first[2].contains("le=\"0.000256\"") && of_first[2].ends_with(" 0"), "{of_first:?}");
        assert!(of_first[3].ends_with(" 5"), "{of_first:?}");
        assert!(of_first[12].contains("le=\"+Inf\"") && of_first[12].ends_with(" 5"), "{of_first:?}");
        let queue = "{device=\"eth0\",queue=\"0\"}";
        assert!(text.contains(&format!("{name}_count{queue} 5\n")), "{text}");
        assert!(text.contains(&format!("{name}_sum{queue} 0.004\n")), "{text}");
    }

    #[test]
    fn frames_of_a_queue_that_was_closed_are_leaked_with_those_of_the_one_that_took_its_place() {
        let mut observation = fixture_with_kernel();
        let closed = observation.devices[0].queues[0].clone();
        observation.leaving = vec![closed.clone(), closed];
        observation.devices[0].queues[0].holds.holders[1].oldest = Some(Duration::from_secs(5));
        let text = render(observation).unwrap();
        let capture = "{device=\"eth0\",queue=\"0\",holder=\"capture\"}";
        for (name, value) in [
            ("leaked_frames", "3"),
            ("oldest_hold_seconds", "75.0"),
            ("leaving_frames", "6"),
            ("held_frames", "3"),
        ] {
            assert!(text.contains(&format!("umemd_{name}{capture} {value}\n")), "{name}: {text}");
        }
    }

    #[test]
    fn what_the_kernel_does_not_tell_has_no_series() {
        let mut observation = fixture();
        observation.devices[0].queues[0].xsk = None;
        let text = render(observation).unwrap();
        assert_eq!(series(&text, "umemd_xsk_rx_dropped_total").len(), 1);
        assert_eq!(series(&text, "umemd_kernel_page_pool_alloc_fast_total").len(), 0);
        assert!(text.contains("page_pool_source=\"none\"} 1\n"), "{text}");
    }

    #[test]
    fn the_kernels_pools_have_the_same_names_and_a_detached_one_its_time() {
        let text = render(fixture_with_kernel()).unwrap();
        let pool = "{device=\"eth0\",pool=\"17\"}";
        assert!(text.contains(&format!("umemd_kernel_page_pool_recycle_ring_total{pool} 250\n")), "{text}");
        assert!(text.contains(&format!("umemd_kernel_page_pool_inflight_bytes{pool} 1048576\n")), "{text}");
        let detached = series(&text, "umemd_kernel_page_pool_detach_timestamp_seconds");
        assert_eq!(detached.len(), 1, "{detached:?}");
        assert!(detached[0].contains("pool=\"9\""), "{detached:?}");
        std::thread::sleep(Duration::from_millis(600));
        let later = render(fixture_with_kernel()).unwrap();
        assert_eq!(
            detached,
            series(&later, "umemd_kernel_page_pool_detach_timestamp_seconds"),
            "that was once"
        );
    }

    #[test]
    fn what_a_driver_can_do_is_told_or_unknown() {
        let can = |features: Option<Features>| {
            let mut observation = fixture();
            let info = observation.devices[0].info.as_ref().clone();
            observation.devices[0].info = DeviceInfo { features, ..info }.into();
            let text = render(observation).unwrap();
            let info = series(&text, "umemd_device_info").remove(0);
            ["zerocopy_capable", "rx_sg_capable"].map(|label| {
                let value = info.split_once(&format!("{label}=\"")).unwrap().1;
                value.split_once('"').unwrap().0.to_owned()
            })
        };
        assert_eq!(can(None), ["unknown", "unknown"]);
        assert_eq!(can(Some(Features { fragments: true, ..Features::default() })), ["false", "true"]);
        assert_eq!(can(Some(Features { zero_copy: true, ..Features::default() })), ["true", "false"]);
    }

    #[test]
    fn pools_of_an_interface_that_is_gone_are_the_loopbacks() {
        let mut observation = fixture();
        observation.devices[0].away = Some("eth0 was removed".into());
        observation.devices[0].decisions = None;
        observation.orphans = vec![two_pools().pools[1]];
        let text = render(observation).unwrap();
        let pool = "{device=\"lo\",pool=\"9\"}";
        assert!(text.contains(&format!("umemd_kernel_page_pool_inflight_pages{pool} 6\n")), "{text}");
        let detached = series(&text, "umemd_kernel_page_pool_detach_timestamp_seconds");
        assert!(detached.len() == 1 && detached[0].contains(pool), "{detached:?}");
        // Nobody decides about its frames: that is not 0; and no program is on it.
        assert_eq!(series(&text, "umemd_xdp_verdicts_total"), [""; 0]);
        assert_eq!(series(&text, "umemd_program_info"), [""; 0]);
    }

    #[test]
    fn rows_of_drops_are_those_of_the_status() {
        let mut observation = fixture_with_kernel();
        let mut other = observation.devices[0].clone();
        Arc::make_mut(&mut other.info).name = "eth1".into();
        for (queue, n) in other.queues.iter_mut().zip(1..) {
            queue.snapshot.traffic.handler_dropped = 5 * n;
            queue.snapshot.pool.extras.alloc_fail = 7 * n;
            queue.xsk.as_mut().unwrap().rx_ring_full = Some(11 * n);
        }
        observation.devices.push(other);
        let status: serde_json::Value = serde_json::from_str(&Status::of(&observation).json()).unwrap();
        let (mut drops, mut unaccounted) = (Vec::new(), Vec::new());
        for device in status["devices"].as_array().unwrap() {
            for row in device["drops"].as_array().unwrap() {
                let (device, layer, cause) = (&device["device"], &row["layer"], &row["cause"]);
                let (lost, count) = (&row["lost"], &row["count"]);
                // The one that may fall is no counter.
                if cause == drops::UNACCOUNTED {
                    unaccounted.push(format!("umemd_xdp_unaccounted_packets{{device={device}}} {count}"));
                } else {
                    let labels = format!("device={device},layer={layer},cause={cause},lost=\"{lost}\"");
                    drops.push(format!("umemd_drops_total{{{labels}}} {count}"));
                }
            }
        }
        let text = render(observation).unwrap();
        assert_eq!(series(&text, "umemd_drops_total"), drops);
        assert_eq!(series(&text, "umemd_xdp_unaccounted_packets"), unaccounted);
        assert!(drops.iter().any(|row| row.contains("eth1") && row.ends_with(" 33")), "{drops:?}");
        assert_eq!(unaccounted.len(), 2);
    }

    #[test]
    fn decisions_name_their_verdict() {
        let text = render(fixture()).unwrap();
        assert!(
            text.contains(
                "umemd_xdp_verdicts_total{device=\"eth0\",verdict=\"redirect\",reason=\"steered\"} 1\n"
            ),
            "{text}"
        );
    }

    #[test]
    fn times_are_moments() {
        let text = render(fixture()).unwrap();
        assert!(text.contains("umemd_start_time_seconds 1700000000.0\n"), "{text}");
        assert!(
            text.contains(
                "umemd_worker_heartbeat_timestamp_seconds{device=\"eth0\",queue=\"0\"} 1700000000.0\n"
            ),
            "{text}"
        );
    }
}
