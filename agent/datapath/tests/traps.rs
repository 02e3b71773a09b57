//! Traps that others fell into, each with a test that falls in where we would.
//!
//! Those that are out of a worker's reach are in the end-to-end tests: tests/README.md has the table of all. One frame
//! on two rings does not compile: `Frame` is neither `Clone` nor `Copy`. A ring of one queue with two producers does not
//! compile either: a port belongs to one worker.
//!
//! xsk-rs keeps out of reach: libxdp's private indices, ring memory that moves or is freed too soon, a `peek`
//! that is not cancelled, `reserve` in a loop (its `produce` is all or nothing and is given no more than
//! there is room for), and missing acquire and release.

mod common;

use std::time::Duration;

use common::{Echo, Recorder, arrive, lawful, numbered, small_rings, turn, two_turns, worker};
use datapath::handlers::Drop;
use datapath::sim::{Lie, SimConfig, Tamper};
use datapath::{Kick, WorkerConfig};

/// DPDK ab7ed23a2f: a receive path that refills only after receiving deadlocks.
#[test]
fn an_empty_fill_ring_is_refilled_though_nothing_is_received() {
    let mut worker = worker(16, small_rings(16, 16, 16, 16), Echo, WorkerConfig::default());
    turn(&mut worker);
    arrive(&mut worker, 16);
    turn(&mut worker);
    let places = worker.snapshot().places;
    assert_eq!((places.fill, places.kernel, places.rx, places.tx), (0, 0, 0, 16), "all lent to TX");
    arrive(&mut worker, 1);
    assert_eq!(worker.port().statistics().rx_fill_ring_empty_descs, 1, "and so a packet is lost");

    worker.port_mut().complete_sent(16);
    let turn = turn(&mut worker);
    assert_eq!((turn.received, turn.completed, turn.filled), (0, 16, 16));
    arrive(&mut worker, 1);
    assert_eq!(worker.snapshot().places.rx, 1, "and none more");
}

/// quilkin's loop: completions reaped only while something is received.
#[test]
fn completions_are_reaped_though_nothing_is_received() {
    let mut worker = worker(64, small_rings(16, 16, 16, 16), Echo, WorkerConfig::default());
    turn(&mut worker);
    arrive(&mut worker, 8);
    turn(&mut worker);
    worker.port_mut().complete_sent(8);
    assert_eq!(worker.snapshot().places.completion, 8);
    let turn = turn(&mut worker);
    assert_eq!((turn.received, turn.completed), (0, 8));
    assert_eq!(worker.snapshot().places.completion, 0);
}

/// OVS 161773c72, VPP f40bdbb80d5: in copy mode a kick sends 32 packets, and the rest stays.
#[test]
fn a_kick_sends_32_so_a_turn_kicks_until_all_are_sent() {
    let mut worker = worker(256, SimConfig::default(), Echo, WorkerConfig::default());
    turn(&mut worker);
    arrive(&mut worker, 64);
    let turn = turn(&mut worker);
    assert_eq!((turn.transmitted, turn.kick), (64, Kick::Done));
    assert_eq!(worker.port().sent().len(), 64);
    let traffic = worker.snapshot().traffic;
    assert_eq!((traffic.kicks_again, traffic.kicks_done), (1, 1));
}

/// A worker that slept after having received all that the kernel was lent would not wake for what comes next:
/// it finds no frame.
#[test]
fn nobody_sleeps_while_the_kernel_has_no_frame_to_receive_into() {
    let config = WorkerConfig { fill_target: 32, ..WorkerConfig::default() };
    let mut worker = worker(64, SimConfig::default(), Drop, config);
    turn(&mut worker);
    for arrived in [1, 31, 32, 17] {
        arrive(&mut worker, arrived);
        let turns = (0..10).find(|_| turn(&mut worker).may_sleep());
        let places = worker.snapshot().places;
        assert!(places.fill + places.kernel > 0, "{arrived} arrived: {places:?}");
        assert_eq!(places.rx, 0);
        assert!(turns.is_some_and(|turns| turns <= 2), "an idle worker does not spin");
    }
}

/// The same across turns: what a busy device left on the TX ring goes out though nothing new comes.
#[test]
fn what_was_left_on_the_tx_ring_is_kicked_in_later_turns() {
    let mut worker = worker(64, SimConfig::default(), Echo, WorkerConfig::default());
    turn(&mut worker);
    arrive(&mut worker, 8);
    worker.port_mut().set_busy(1000);
    let busy = turn(&mut worker);
    assert_eq!((busy.transmitted, busy.kick, worker.port().sent().len()), (8, Kick::Busy, 0));
    let still_busy = turn(&mut worker);
    assert_eq!(still_busy.kick, Kick::Busy, "asked once a turn, and no more");
    assert_eq!(worker.snapshot().traffic.kicks_busy, 2);
    worker.port_mut().set_busy(0);
    let done = turn(&mut worker);
    assert_eq!((done.received, done.kick, worker.port().sent().len()), (0, Kick::Done, 8));
}

/// quilkin 41d024c8b, agave `tx_loop.rs`: EAGAIN, EBUSY and ENOBUFS are everyday, ENETDOWN is not.
#[test]
fn again_is_counted_apart_from_down_and_neither_loses_a_packet() {
    let mut worker = worker(64, SimConfig::default(), Echo, WorkerConfig::default());
    turn(&mut worker);
    arrive(&mut worker, 8);
    worker.port_mut().set_busy(1);
    turn(&mut worker);
    arrive(&mut worker, 8);
    worker.port_mut().set_up(false);
    let down = turn(&mut worker);
    assert_eq!((down.transmitted, down.kick), (8, Kick::Down));
    assert_eq!(turn(&mut worker).kick, Kick::Down, "it asks once a turn, no more");
    worker.port_mut().set_up(true);
    turn(&mut worker);
    assert_eq!(worker.port().sent().len(), 16);
    let traffic = worker.snapshot().traffic;
    let kicks = (traffic.kicks_again, traffic.kicks_busy, traffic.kicks_down, traffic.kicks_done);
    assert_eq!(kicks, (0, 1, 2, 1));
}

/// Only so many queues send as the interface says (`real_num_tx_queues`), whatever it receives on: `sendto()` of
/// another one returns 0, and sends nothing.
#[test]
fn a_queue_that_the_interface_does_not_send_on_is_not_taken_for_done() {
    let mut worker = worker(64, SimConfig::default(), Echo, WorkerConfig::default());
    turn(&mut worker);
    arrive(&mut worker, 8);
    worker.port_mut().set_mute(true);
    let mute = turn(&mut worker);
    assert_eq!((mute.transmitted, mute.kick, worker.port().sent().len()), (8, Kick::Busy, 0));
    assert_eq!(turn(&mut worker).kick, Kick::Busy, "it asks once a turn, no more");
    let traffic = worker.snapshot().traffic;
    assert_eq!((traffic.kicks_busy, traffic.kicks_done), (2, 0));
    worker.port_mut().set_mute(false);
    assert_eq!(turn(&mut worker).kick, Kick::Done);
    assert_eq!(worker.port().sent().len(), 8);
}

/// No system call where there is nothing to wake the kernel for.
#[test]
fn a_queue_that_only_drops_is_never_kicked() {
    let mut worker = worker(64, SimConfig::default(), Drop, WorkerConfig::default());
    for _ in 0..10 {
        turn(&mut worker);
        arrive(&mut worker, 20);
    }
    let traffic = worker.snapshot().traffic;
    assert_eq!(traffic.handler_dropped, 180);
    assert_eq!(traffic.kicks_done + traffic.kicks_again + traffic.kicks_down, 0);
}

/// quilkin#1077, VPP 4e93a82bf57: the drop path forgets to free the frame.
#[test]
fn a_dropped_frame_goes_home() {
    let mut worker = worker(8, small_rings(8, 8, 8, 8), Drop, WorkerConfig::default());
    for _ in 0..100 {
        two_turns(&mut worker);
        arrive(&mut worker, 8);
    }
    assert_eq!(worker.snapshot().traffic.handler_dropped, 99 * 8);
    assert_eq!(worker.port().statistics().rx_dropped, 0);
}

/// Suricata: an early `continue` desynchronises what is received and what is refilled.
#[test]
fn a_refused_descriptor_costs_its_frame_and_no_other() {
    let mut worker = worker(32, small_rings(32, 32, 32, 32), Drop, WorkerConfig::default());
    turn(&mut worker);
    for round in 0..50 {
        if round < 4 {
            worker.port_mut().tell(Lie::RxTwice);
        }
        arrive(&mut worker, 20);
        two_turns(&mut worker);
    }
    let snapshot = worker.snapshot();
    assert_eq!(snapshot.refused.not_lent, 4);
    assert_eq!(snapshot.traffic.rx_packets, 50 * 20, "every packet still arrives");
}

/// xdp-tutorial#472, DPDK 96d8ae9990: an RX address is not where the chunk begins.
#[test]
fn a_frame_is_recycled_whatever_its_headroom() {
    for headroom in [0, 8, 192, 1000] {
        let sim = SimConfig { headroom, ..small_rings(8, 8, 8, 8) };
        let mut worker = worker(8, sim, Recorder::default(), WorkerConfig::default());
        for _ in 0..20 {
            two_turns(&mut worker);
            arrive(&mut worker, 4);
            worker.port_mut().complete_sent(4);
        }
        turn(&mut worker);
        assert_eq!(worker.handler().seen, worker.port().delivered());
        assert_eq!(worker.handler().seen.len(), 80);
        assert_eq!(worker.snapshot().refused.total(), 0);
    }
}

/// xdp-tools be036c8: waiting until a full ring takes everything hangs at exit, and stops receiving.
#[test]
fn a_full_tx_ring_never_holds_up_what_is_received() {
    let config = WorkerConfig { backlog: 10, ..WorkerConfig::default() };
    let mut worker = worker(256, small_rings(128, 128, 16, 16), Echo, config);
    worker.port_mut().set_busy(usize::MAX);
    let mut received = 0;
    for _ in 0..20 {
        received += turn(&mut worker).received;
        arrive(&mut worker, 64);
    }
    assert_eq!(received, 19 * 64);
    let snapshot = worker.snapshot();
    assert_eq!((snapshot.places.tx, snapshot.places.user, snapshot.held), (16, 10, 10));
    assert_eq!(snapshot.traffic.tx_full, 19 * 64 - 16 - 10);
    assert_eq!(worker.port().statistics().rx_dropped, 0);

    // The ones that waited were the oldest, and leave in order.
    worker.port_mut().set_busy(0);
    for _ in 0..4 {
        turn(&mut worker);
        worker.port_mut().complete_sent(16);
    }
    let waited: Vec<_> = (0..26).map(numbered).collect();
    assert_eq!(worker.port().sent(), waited);
}

/// xdp-tools 6c494c1: descriptors beyond what a call takes must still be there for the next.
#[test]
fn what_a_batch_has_no_room_for_is_received_in_the_next() {
    let config = WorkerConfig { batch: 8, ..WorkerConfig::default() };
    let mut worker = worker(64, small_rings(64, 64, 64, 64), Recorder::default(), config);
    turn(&mut worker);
    arrive(&mut worker, 20);
    assert_eq!([0; 4].map(|_| turn(&mut worker).received), [8, 8, 4, 0]);
    assert_eq!(worker.handler().seen, worker.port().delivered());
}

/// firedancer#4258, DPDK a63d4fca68: a frame that found the RX ring full has left the fill ring and
/// did not come back. The kernel uses it first next time; it is not lost.
#[test]
fn a_full_rx_ring_parks_frames_with_the_kernel() {
    let mut worker = worker(64, small_rings(32, 8, 8, 8), Drop, WorkerConfig::default());
    turn(&mut worker);
    arrive(&mut worker, 12);
    lawful(&worker.snapshot());
    let (places, kernel) = (worker.snapshot().places, worker.port().statistics());
    assert_eq!((places.fill, places.kernel, places.rx), (23, 1, 8));
    assert_eq!((kernel.rx_ring_full, kernel.rx_dropped), (4, 0));
    turn(&mut worker);
    arrive(&mut worker, 1);
    assert_eq!(worker.snapshot().places.kernel, 0, "used first");
}

/// The rule against it: no more frames out for receiving than the RX ring has slots.
#[test]
fn a_fill_target_of_the_rx_rings_size_keeps_it_from_overflowing() {
    let config = WorkerConfig { fill_target: 8, ..WorkerConfig::default() };
    let mut worker = worker(64, small_rings(32, 8, 8, 8), Drop, config);
    for _ in 0..50 {
        two_turns(&mut worker);
        arrive(&mut worker, 30);
    }
    assert_eq!(worker.port().statistics().rx_ring_full, 0);
    assert_eq!(worker.snapshot().traffic.rx_packets, 49 * 8);
}

/// Drivers refill in batches; one by one costs an atomic store and a cache line each.
#[test]
fn the_fill_ring_is_refilled_in_batches_unless_it_runs_dry() {
    let config = WorkerConfig { fill_target: 256, ..WorkerConfig::default() };
    let mut worker = worker(512, SimConfig::default(), Drop, config);
    assert_eq!(turn(&mut worker).filled, 256, "all at first");
    let mut filled = Vec::new();
    for _ in 0..7 {
        arrive(&mut worker, 20);
        filled.push(turn(&mut worker).filled);
    }
    assert_eq!(filled, [0, 0, 0, 0, 64, 0, 0]);
    arrive(&mut worker, 300);
    let filled = [(); 3].map(|()| turn(&mut worker).filled);
    assert_eq!(filled, [64, 64, 64], "as many as were read");
}

/// The fill and the RX ring are flushed one after the other: for a moment a frame is on both.
#[test]
fn a_frame_on_two_rings_at_once_is_counted_once() {
    let mut worker = worker(16, small_rings(16, 16, 16, 16), Drop, WorkerConfig::default());
    turn(&mut worker);
    worker.port_mut().offer(numbered(0));
    worker.port_mut().napi_receive(1);
    lawful(&worker.snapshot());
    worker.port_mut().flush_rx();
    lawful(&worker.snapshot());
    assert_eq!(worker.snapshot().places.rx, 1);
    assert_eq!(turn(&mut worker).received, 1);
    worker.port_mut().flush_fill();
    lawful(&worker.snapshot());
}

/// Linux up to 6.12 takes a bad TX descriptor and never gives its frame back.
#[test]
fn an_empty_packet_is_not_put_on_the_tx_ring() {
    let sim = SimConfig { old_kernel: true, ..small_rings(8, 8, 8, 8) };
    let mut worker = worker(8, sim, Echo, WorkerConfig::default());
    turn(&mut worker);
    worker.port_mut().offer(Vec::new());
    worker.port_mut().napi_poll(1);
    turn(&mut worker);
    let snapshot = worker.snapshot();
    assert_eq!((snapshot.traffic.tx_invalid, snapshot.traffic.tx_packets, snapshot.places.tx), (1, 0, 0));
    assert_eq!(worker.port().statistics().tx_invalid_descs, 0);
}

/// Completed does not mean sent: a queue discipline that drops completes the frame too.
#[test]
fn a_frame_that_the_device_drops_comes_home_like_any_other() {
    let mut worker = worker(16, small_rings(16, 16, 16, 16), Echo, WorkerConfig::default());
    turn(&mut worker);
    arrive(&mut worker, 4);
    worker.port_mut().set_dropping(3);
    turn(&mut worker);
    worker.port_mut().complete_sent(4);
    turn(&mut worker);
    assert_eq!((worker.port().sent().len(), worker.port().statistics().tx_dropped), (1, 3));
    assert_eq!(worker.snapshot().traffic.completions, 4);
}

/// A completion ring smaller than the TX ring stops sending until it is read; reading is in the turn.
#[test]
fn a_full_completion_ring_does_not_stop_a_queue_for_good() {
    let mut worker = worker(64, small_rings(64, 64, 64, 8), Echo, WorkerConfig::default());
    turn(&mut worker);
    arrive(&mut worker, 40);
    for _ in 0..6 {
        turn(&mut worker);
        worker.port_mut().complete_sent(8);
    }
    assert_eq!(worker.port().sent().len(), 40);
}

/// A frame that the kernel took to receive into and never gives back is seen in its hands, and nobody waits for it.
#[test]
fn a_frame_swallowed_on_its_way_in_stays_with_the_kernel() {
    let mut worker = worker(16, small_rings(16, 16, 16, 16), Drop, WorkerConfig::default());
    turn(&mut worker);
    worker.port_mut().tell(Lie::RxSwallow);
    arrive(&mut worker, 4);
    for _ in 0..20 {
        two_turns(&mut worker);
        arrive(&mut worker, 12);
    }
    two_turns(&mut worker);
    let snapshot = worker.snapshot();
    lawful(&snapshot);
    assert_eq!((snapshot.places.kernel, snapshot.traffic.rx_packets), (1, 3 + 20 * 12));
    assert_eq!(worker.finish(Duration::ZERO).snapshot.places.slab, 16, "home when the socket is closed");
}

/// A kernel that swallows a frame, or completes one twice, is a number and not a crash.
#[test]
fn a_swallowed_and_a_doubled_completion_are_counted() {
    let mut worker = worker(16, small_rings(16, 16, 16, 16), Echo, WorkerConfig::default());
    turn(&mut worker);
    arrive(&mut worker, 4);
    turn(&mut worker);
    worker.port_mut().tell(Lie::CompletionSwallow);
    worker.port_mut().complete_sent(1);
    worker.port_mut().tell(Lie::CompletionTwice);
    worker.port_mut().complete_sent(3);
    turn(&mut worker);
    let snapshot = worker.snapshot();
    assert_eq!((snapshot.traffic.completions, snapshot.refused.not_lent, snapshot.places.tx), (3, 1, 1));
}
