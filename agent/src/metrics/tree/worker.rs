//! What went through the rings, who moved it, and what the XDP program decided.

use std::time::{Duration, SystemTime};

use umemd_common::{Decision, decision::Action};

use super::{Kind, Metric, Read, metrics};
use crate::config::Wait;

pub(super) const TREE: &[Metric] = metrics! { Queue
    Counter "umemd_rx_packets" "Packets read from the RX ring."
        |q| q.snapshot.traffic.rx_packets;
    Counter "umemd_rx_bytes" "Bytes of the packets read from the RX ring."
        |q| q.snapshot.traffic.rx_bytes;
    Counter "umemd_tx_packets" "Packets put on the TX ring."
        |q| q.snapshot.traffic.tx_packets;
    Counter "umemd_tx_bytes" "Bytes of the packets put on the TX ring."
        |q| q.snapshot.traffic.tx_bytes;
    Counter "umemd_tx_completions" "Frames read from the completion ring; completed does not mean sent."
        |q| q.snapshot.traffic.completions;
    Counter "umemd_rx_fragments" "Frames read from the RX ring beyond the first of each packet."
        |q| q.snapshot.traffic.rx_fragments;
    Counter "umemd_tx_fragments" "Frames put on the TX ring beyond the first of each packet."
        |q| q.snapshot.traffic.tx_fragments;
    Counter "umemd_generated_packets" "Packets that began here and not on the RX ring, with those that no kernel would send (tx_invalid)."
        |q| q.snapshot.traffic.generated;
    Counter "umemd_tx_unsent" "Frames that were still on the TX ring when its socket was closed: counted as sent, and not sent."
        |q| q.snapshot.traffic.tx_unsent;
    Counter "umemd_capture_shown" "Packets that the worker showed to the capture."
        |q| q.snapshot.traffic.observed;
    Counter "umemd_capture_missed" "Packets that the worker could not show to the capture, because that was behind."
        |q| q.snapshot.traffic.observe_missed;
    Counter "umemd_packets_dropped" ["reason"] "Packets dropped by the agent's worker, by reason."
        |q, out| {
            for (reason, packets) in q.snapshot.traffic.drops() {
                out.add_with(&[reason], packets);
            }
        };
    Counter "umemd_ring_wakeups" ["ring", "answer"] "System calls made to wake the kernel, by the ring that it was to look at and what it answered. For the fill ring only drivers in zero-copy mode want any."
        |q, out| {
            let (done, failed) = q.fill_wakeups;
            out.add_with(&["fill", "done"], done);
            out.add_with(&["fill", "failed"], failed);
            let traffic = &q.snapshot.traffic;
            out.add_with(&["tx", "done"], traffic.kicks_done);
            out.add_with(&["tx", "again"], traffic.kicks_again);
            out.add_with(&["tx", "busy"], traffic.kicks_busy);
            out.add_with(&["tx", "down"], traffic.kicks_down);
            out.add_with(&["tx", "failed"], traffic.kicks_failed);
        };
    Gauge "umemd_worker_info" ["cpu", "policy", "rx_usecs"] "Where the queue's worker is pinned, whether it sleeps in poll or never does, as with --spin, and for how long frames gather before it looks again (--rx-usecs)."
        |q, out| {
            let (policy, gather) = match q.wait {
                Wait::Spin => ("spin", Duration::ZERO),
                Wait::Poll { gather } => ("poll", gather),
            };
            out.add_with(&[&q.cpu.to_string(), policy, &gather.as_micros().to_string()], true);
        };
    Counter "umemd_worker_polls" ["result"] "Turns of the queue's worker."
        |q, out| {
            out.add_with(&["busy"], q.snapshot.turns_busy);
            out.add_with(&["idle"], q.snapshot.turns_idle);
        };
    Counter "umemd_worker_cpu_seconds" "CPU time of the queue's thread (clock_gettime of its clock); of two queues that one thread serves, the first one's."
        |q| q.cpu_s;
    Gauge "umemd_ring_entries" ["ring"] "Entries of the socket's rings. How deep they are is umemd_pool_frames: states fill, rx, tx and completion."
        |q, out| {
            for (ring, entries) in
                [("fill", q.rings.fill), ("completion", q.rings.completion), ("rx", q.rings.rx), ("tx", q.rings.tx)]
            {
                out.add_with(&[ring], entries);
            }
        };
    Counter "umemd_worker_failed_open" "Times the watchdog gave the queue's traffic back to the stack because its worker made no turns."
        |q| q.failed_open;
    Gauge "umemd_worker_failed" "1 if the queue's handler panicked: its worker is gone, its traffic goes to the stack."
        |q| q.failed;
    Gauge "umemd_worker_steered" "1 while the XDP program finds the queue's socket, 0 while its traffic goes to the stack; 1 still of a worker that has sent its --count."
        |q| q.steered;
};

/// By hand, as the first of them needs the moment that turns are counted from.
pub(super) const STEERING: &[Metric] = &[
    Metric {
        name: "umemd_worker_heartbeat_timestamp_seconds",
        kind: Kind::Gauge,
        labels: &["device", "queue"],
        help: "When the queue's worker last made a turn; an idle one makes ten a second.",
        read: Read::Agent(|observation, out| {
            for device in &observation.devices {
                for queue in &device.queues {
                    let at = unix(observation.epoch) + queue.snapshot.last_turn.as_secs_f64();
                    out.add_with(&[&device.info.name, &queue.queue.to_string()], millis(at));
                }
            }
        }),
    },
    Metric {
        name: "umemd_xdp_verdicts",
        kind: Kind::Counter,
        labels: &["verdict", "reason"],
        help: "Frames by what the XDP program decided (its per-CPU map), and where that sent them.",
        read: Read::Device(|device, out| {
            for (decision, frames) in Decision::ALL.iter().zip(device.decisions.into_iter().flatten()) {
                out.add_with(&[verdict(decision.action()), decision.name()], frames);
            }
        }),
    },
];

/// As the XDP action is called.
fn verdict(action: Action) -> &'static str {
    match action {
        Action::Redirect => "redirect",
        Action::Pass => "pass",
        Action::Drop => "drop",
    }
}

/// Seconds since 1970.
pub(super) fn unix(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}

/// Milliseconds are as much as a clock on the wall is good for.
pub(super) fn millis(seconds: f64) -> f64 {
    (seconds * 1e3).round() / 1e3
}
