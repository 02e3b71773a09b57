//! An observation as OpenMetrics 1.0 text.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder, text::encode},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use umemd_common::{Decision, decision::Action};

use super::tree::{Kind, PER_QUEUE, PER_QUEUE_AND};
use crate::observe::{DeviceView, Observation, QueueView};

/// What the text is served as.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The text. Every metric of the tree is in it, whether or not anything was counted.
pub fn render(observation: Observation) -> Result<String, fmt::Error> {
    // The values are read at scrape time and thrown away after it, so the registry lives no longer than that.
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(observation)));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

type Labels = Vec<(&'static str, String)>;

#[derive(Debug)]
struct Scrape(Observation);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut family = |name: &str, kind: Kind, help: &str, series: &[(Labels, u64)]| {
            let metric_type = match kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
            };
            let mut family = encoder.encode_descriptor(name, help, None, metric_type)?;
            for (labels, value) in series {
                let one = family.encode_family(labels)?;
                encode_value(kind, *value, one)?;
            }
            Ok::<(), fmt::Error>(())
        };

        let build = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        family("umemd_build_info", Kind::Gauge, "Version of the running agent.", &[(build, 1)])?;

        let devices = &self.0.devices;
        let info: Vec<_> = devices.iter().map(|d| (device_info(d), 1)).collect();
        family(
            "umemd_device_info",
            Kind::Gauge,
            "What the device runs on and how the program is attached.",
            &info,
        )?;

        let sockets: Vec<_> = each_queue(devices).map(|(d, q)| (socket_info(d, q), 1)).collect();
        let help = "How the AF_XDP socket was bound (XDP_OPTIONS) and where its worker runs.";
        family("umemd_socket_info", Kind::Gauge, help, &sockets)?;

        let decisions: Vec<_> = devices.iter().flat_map(decision_series).collect();
        let help = "Frames by what the XDP program decided (its per-CPU map), and where that sent them.";
        family("umemd_xdp_verdicts", Kind::Counter, help, &decisions)?;

        for metric in PER_QUEUE {
            let series: Vec<_> = each_queue(devices)
                .filter_map(|(d, q)| Some((queue_labels(d, q), (metric.value)(q)?)))
                .collect();
            family(metric.name, metric.kind, metric.help, &series)?;
        }
        for metric in PER_QUEUE_AND {
            let mut series = Vec::new();
            for (device, queue) in each_queue(devices) {
                for (label, value) in (metric.values)(queue) {
                    let mut labels = queue_labels(device, queue);
                    labels.push((metric.label, label.to_owned()));
                    series.push((labels, value));
                }
            }
            family(metric.name, metric.kind, metric.help, &series)?;
        }
        Ok(())
    }
}

fn encode_value(kind: Kind, value: u64, encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
    match kind {
        Kind::Counter => ConstCounter::new(value).encode(encoder),
        // Gauges are signed in the crate; ours count frames and bytes, far below 2^63.
        Kind::Gauge => ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(encoder),
    }
}

fn each_queue(devices: &[DeviceView]) -> impl Iterator<Item = (&DeviceView, &QueueView)> {
    devices.iter().flat_map(|device| device.queues.iter().map(move |queue| (device, queue)))
}

fn queue_labels(device: &DeviceView, queue: &QueueView) -> Labels {
    vec![("device", device.info.name.clone()), ("queue", queue.queue.to_string())]
}

fn device_info(device: &DeviceView) -> Labels {
    let info = &device.info;
    vec![
        ("device", info.name.clone()),
        ("driver", info.driver.clone()),
        ("xdp_mode", info.mode.to_owned()),
        ("program_id", info.program_id.to_string()),
    ]
}

fn socket_info(device: &DeviceView, queue: &QueueView) -> Labels {
    let mut labels = queue_labels(device, queue);
    labels.push(("mode", if device.info.zero_copy { "zerocopy" } else { "copy" }.to_owned()));
    labels.push(("cpu", queue.cpu.to_string()));
    labels
}

fn decision_series(device: &DeviceView) -> Vec<(Labels, u64)> {
    Decision::ALL
        .iter()
        .zip(device.decisions)
        .map(|(decision, count)| {
            let labels = vec![
                ("device", device.info.name.clone()),
                ("verdict", verdict(decision.action()).to_owned()),
                ("reason", decision.name().to_owned()),
            ];
            (labels, count)
        })
        .collect()
}

/// As the XDP action is called.
fn verdict(action: Action) -> &'static str {
    match action {
        Action::Redirect => "redirect",
        Action::Pass => "pass",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::fixture;

    fn series<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
        text.lines().filter(|line| line.starts_with(&format!("{name}{{"))).collect()
    }

    #[test]
    fn every_metric_of_the_tree_is_there_once_per_queue() {
        let text = render(fixture()).unwrap();
        for metric in PER_QUEUE {
            let suffix = if metric.kind == Kind::Counter { "_total" } else { "" };
            let lines = series(&text, &format!("{}{suffix}", metric.name));
            assert_eq!(lines.len(), 2, "{}: {lines:?}", metric.name);
            assert!(lines[1].contains("device=\"eth0\",queue=\"1\""), "{}", lines[1]);
            assert!(text.contains(&format!("# HELP {} {}", metric.name, metric.help)), "{}", metric.name);
        }
        assert!(text.ends_with("# EOF\n"));
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
    fn what_the_kernel_does_not_tell_has_no_series() {
        let mut observation = fixture();
        observation.devices[0].queues[0].xsk = None;
        let text = render(observation).unwrap();
        assert_eq!(series(&text, "umemd_xsk_rx_dropped_total").len(), 1);
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
}
