//! Packets that one frame does not hold.

mod common;

use std::time::Duration;

use common::{Echo, LONGEST, Recorder, numbered, small_rings, turn, worker};
use datapath::WorkerConfig;
use datapath::handlers::Drop;
use datapath::sim::SimConfig;

/// The kernel's own `TOO_MANY_FRAGS`: it drops such a packet, and older ones never give its frames back.
#[test]
fn a_packet_of_too_many_frames_is_not_put_on_the_tx_ring() {
    let sim = SimConfig { multi_buffer: true, old_kernel: true, ..small_rings(64, 64, 16, 16) };
    let config = WorkerConfig { fill_target: 64, ..WorkerConfig::default() };
    let mut worker = worker(128, sim, Echo, config);
    turn(&mut worker);
    for frames in [16, 17] {
        worker.port_mut().offer(vec![7; frames * LONGEST]);
        worker.port_mut().napi_poll(1);
        turn(&mut worker);
        worker.port_mut().complete_sent(64);
        turn(&mut worker);
    }
    let traffic = worker.snapshot().traffic;
    assert_eq!((traffic.tx_packets, traffic.tx_fragments, traffic.tx_invalid), (1, 15, 1));
    assert_eq!((worker.port().sent().len(), worker.port().statistics().tx_invalid_descs), (1, 0));
    assert_eq!(worker.snapshot().places.user, 0);
}

/// The kernel keeps room on the completion ring for all frames of a packet before it sends one: where there can never be
/// as much, it would wait for good, and all that comes behind with it.
#[test]
fn a_packet_of_more_frames_than_the_completion_ring_has_entries_stops_nobody() {
    let sim = SimConfig { multi_buffer: true, ..small_rings(64, 64, 64, 4) };
    let config = WorkerConfig { fill_target: 64, ..WorkerConfig::default() };
    let mut worker = worker(128, sim, Echo, config);
    turn(&mut worker);
    for frames in [4, 5, 1] {
        worker.port_mut().offer(vec![7; frames * LONGEST]);
        worker.port_mut().napi_poll(1);
        for _ in 0..3 {
            turn(&mut worker);
            worker.port_mut().complete_sent(64);
        }
    }
    let traffic = worker.snapshot().traffic;
    assert_eq!((traffic.tx_packets, traffic.tx_invalid, worker.port().sent().len()), (2, 1, 2));
    assert_eq!(worker.snapshot().places.user, 0);
}

/// A sender's 64 kB that nobody segmented are 37 frames. All of them are one packet, which is dropped; none of its parts
/// is another one.
#[test]
fn the_end_of_a_packet_that_is_too_long_is_no_packet() {
    for (frames, batch) in (17..60).flat_map(|frames| [1, 7, 16, 64].map(|batch| (frames, batch))) {
        let sim = SimConfig { multi_buffer: true, ..small_rings(128, 128, 64, 64) };
        let config = WorkerConfig { batch, fill_target: 128, ..WorkerConfig::default() };
        let mut worker = worker(256, sim, Recorder::default(), config);
        turn(&mut worker);
        worker.port_mut().offer(numbered(1));
        worker.port_mut().offer(vec![0x80; frames * LONGEST - 5]);
        worker.port_mut().offer(numbered(2));
        worker.port_mut().napi_poll(3);
        while !turn(&mut worker).is_idle() {}
        let traffic = worker.snapshot().traffic;
        let too_long = u64::from(frames > 18);
        assert_eq!((traffic.rx_packets, traffic.rx_torn), (3, 0), "{frames} frames, {batch} at once");
        assert_eq!(traffic.rx_too_long, too_long, "{frames} frames, {batch} at once");
        assert_eq!(traffic.rx_fragments, frames as u64 - 1, "{frames} frames, {batch} at once");
        assert_eq!(traffic.rx_bytes, (2 * 60 + frames * LONGEST - 5) as u64);
        let seen = &worker.handler().seen;
        assert_eq!(seen.len() as u64, 3 - too_long, "{frames} frames, {batch} at once");
        assert_eq!((seen.first(), seen.last()), (Some(&numbered(1)), Some(&numbered(2))));
        assert!(worker.finish(Duration::ZERO).conserved);
    }
}

/// A packet whose last frame has not arrived waits for it, and goes home whole.
#[test]
fn the_frames_of_a_packet_are_recycled_together_after_the_last_one() {
    let sim = SimConfig { multi_buffer: true, ..small_rings(64, 64, 16, 16) };
    let config = WorkerConfig { batch: 2, ..WorkerConfig::default() };
    let mut worker = worker(64, sim, Drop, config);
    turn(&mut worker);
    worker.port_mut().offer(vec![7; 5 * LONGEST]);
    worker.port_mut().napi_poll(1);
    let held = [0; 3].map(|_| {
        turn(&mut worker);
        worker.snapshot().held
    });
    assert_eq!(held, [2, 4, 0]);
    let traffic = worker.snapshot().traffic;
    assert_eq!((traffic.rx_packets, traffic.rx_fragments, traffic.handler_dropped), (1, 4, 1));
    assert_eq!(traffic.rx_bytes, 5 * LONGEST as u64);
}
