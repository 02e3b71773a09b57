//! Who runs, on what, and how the scrape itself went.

use std::sync::LazyLock;

use super::{Kind, Metric, Read, metrics, worker};
use crate::config::NEED_WAKEUP;
use crate::nic::netdev::Features;
use crate::observe::process;

/// The kernel's release, which stays what it is while anybody runs on it.
static KERNEL: LazyLock<String> =
    LazyLock::new(|| rustix::system::uname().release().to_string_lossy().into_owned());

pub(super) const IDENTITY: &[Metric] = &[
    Metric {
        name: "umemd_build_info",
        kind: Kind::Gauge,
        labels: &["version", "revision", "rustc", "target", "kernel"],
        help: "The running agent: its version, the commit that it was built from (known of what was built for another machine), compiler and machine; and the kernel under it.",
        read: Read::Agent(|_, out| {
            let revision = option_env!("UMEMD_REVISION").unwrap_or("unknown");
            let [version, rustc, target] =
                [env!("CARGO_PKG_VERSION"), env!("UMEMD_RUSTC"), env!("UMEMD_TARGET")];
            out.add_with(&[version, revision, rustc, target, &*KERNEL], true);
        }),
    },
    Metric {
        name: "umemd_device_info",
        kind: Kind::Gauge,
        labels: &["driver", "xdp_mode", "zerocopy_capable", "rx_sg_capable", "page_pool_source"],
        help: "What the device runs on and can do (netdev family), how the program is attached, and who tells of the kernel's page_pools.",
        read: Read::Device(|device, out| {
            let info = &device.info;
            let source = device.kernel.as_ref().map_or("none", |kernel| kernel.page_pool.source.name());
            let can = |feature: fn(&Features) -> bool| match &info.features {
                Some(features) if feature(features) => "true",
                Some(_) => "false",
                None => "unknown",
            };
            let (zero_copy, rx_sg) = (can(|features| features.zero_copy), can(|features| features.fragments));
            out.add_with(&[&info.driver, info.mode, zero_copy, rx_sg, source], true);
        }),
    },
    Metric {
        name: "umemd_program_info",
        kind: Kind::Gauge,
        labels: &["program", "id", "tag"],
        help: "The XDP program on the device, as bpftool prog shows it.",
        read: Read::Device(|device, out| {
            // One that is away has none.
            let Some(info) = device.away.is_none().then_some(&device.info) else { return };
            out.add_with(&[info.program, &info.program_id.to_string(), &info.program_tag], true);
        }),
    },
    Metric {
        name: "umemd_socket_info",
        kind: Kind::Gauge,
        labels: &["device", "queue", "mode", "multi_buffer", "need_wakeup"],
        help: "How the AF_XDP socket was bound (mode by XDP_OPTIONS).",
        read: Read::Agent(|observation, out| {
            let wakeup = NEED_WAKEUP.to_string();
            for device in &observation.devices {
                let mode = if device.info.zero_copy { "zerocopy" } else { "copy" };
                for queue in &device.queues {
                    let (number, several) = (queue.queue.to_string(), queue.multi_buffer.to_string());
                    out.add_with(&[&device.info.name, &number, mode, &several, &wakeup], true);
                }
            }
        }),
    },
    Metric {
        name: "umemd_device_up",
        kind: Kind::Gauge,
        labels: &[],
        help: "1 while the device is served, 0 while it is away: removed, or not to be opened again.",
        read: Read::Device(|device, out| out.add(device.away.is_none())),
    },
    Metric {
        name: "umemd_start_time_seconds",
        kind: Kind::Gauge,
        labels: &[],
        help: "When the workers started. A queue's counters begin again when it is closed and opened; those of the NIC and of the kernel's pools began before.",
        read: Read::Agent(|observation, out| out.add(worker::millis(worker::unix(observation.started)))),
    },
];

pub(super) const SELF: &[Metric] = metrics! { Agent
    Gauge "umemd_leak_after_seconds" "How long a frame may be kept before it is taken for leaked (--leak-after)."
        |observation| observation.leak_after.as_secs_f64();
    Counter "umemd_capture_packets" "Packets written to the capture."
        |observation| observation.capture.map(|capture| capture.packets);
    Counter "umemd_capture_bytes" "Bytes written to the capture."
        |observation| observation.capture.map(|capture| capture.bytes);
    Counter "umemd_capture_lost" "Packets shown to the capture that could not be written, as on a disk that is full; the log has the reason."
        |observation| observation.capture.map(|capture| capture.lost);
    Gauge "umemd_scrape_collector_success" ["collector"] "Whether the kernel answered when it was last asked; that it has nothing to tell is an answer."
        |observation, out| {
            for collector in &observation.collectors {
                out.add_with(&[collector.name], collector.success);
            }
        };
    Gauge "umemd_scrape_collector_duration_seconds" ["collector"] "How long the kernel took to answer."
        |observation, out| {
            for collector in &observation.collectors {
                out.add_with(&[collector.name], collector.took.as_micros() as f64 / 1e6);
            }
        };
    Counter "umemd_http_requests" ["path", "code"] "HTTP requests answered before this one; path is other for pages that do not exist."
        |observation, out| {
            for (path, code, count) in &observation.requests {
                out.add_with(&[path, &code.to_string()], *count);
            }
        };
    Counter "umemd_log_messages" ["level"] "Errors and warnings that were logged, in this process; those that UMEMD_LOG hides are not."
        |_, out| {
            for (level, count) in crate::logged::counts() {
                out.add_with(&[level], count);
            }
        };
    Gauge "umemd_capabilities_effective" ["capability"] "1 for each capability that the agent has of those that it may need."
        |_, out| {
            for (capability, has) in process::capabilities() {
                out.add_with(&[capability], has);
            }
        };
    Gauge "umemd_threads" "Threads of this process (/proc/self/stat)."
        |observation| observation.process.map(|p| p.threads);
    Counter "process_cpu_seconds" "User and system CPU time of all threads (/proc/self/stat)."
        |observation| observation.process.map(|p| p.cpu_s);
    Gauge "process_resident_memory_bytes" "Memory in use (/proc/self/stat)."
        |observation| observation.process.map(|p| p.resident_bytes);
    Gauge "process_virtual_memory_bytes" "Address space in use (/proc/self/stat)."
        |observation| observation.process.map(|p| p.virtual_bytes);
    Gauge "process_open_fds" "Open file descriptors (/proc/self/fd)."
        |observation| observation.process.map(|p| p.open_fds);
    Gauge "process_max_fds" "How many there may be (RLIMIT_NOFILE); absent without a limit."
        |observation| observation.process.and_then(|p| p.max_fds);
    Gauge "process_start_time_seconds" "When the process started."
        |observation| observation.process.map(|p| worker::millis(p.started_s));
};
