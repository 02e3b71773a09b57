//! How a worker ends: what it still does, and how every frame comes home.

mod common;

use std::time::Duration;

use common::{Echo, arrive, lawful, numbered, small_rings, turn, worker};
use datapath::handlers::{Generate, Pace};
use datapath::sim::SimConfig;
use datapath::{Kick, QueuePort, WorkerConfig};

/// `NETDEV_UNREGISTER`: the socket is unbound, and what lies on its rings never comes back by itself.
#[test]
fn the_frames_of_an_interface_that_is_gone_come_home_when_the_socket_is_closed() {
    let mut worker = worker(64, small_rings(16, 16, 16, 16), Echo, WorkerConfig::default());
    turn(&mut worker);
    arrive(&mut worker, 8);
    turn(&mut worker);
    arrive(&mut worker, 4);
    worker.port_mut().set_busy(usize::MAX);
    turn(&mut worker);
    arrive(&mut worker, 2);
    worker.port_mut().unregister();
    worker.port_mut().set_up(true);

    let gone = turn(&mut worker);
    assert_eq!((gone.completed, gone.received, gone.kick), (8, 2, Kick::Down), "what was there before");
    arrive(&mut worker, 4);
    let after = turn(&mut worker);
    assert_eq!((after.completed, after.received, after.kick), (0, 0, Kick::Down));
    let snapshot = worker.snapshot();
    lawful(&snapshot);
    assert_eq!((snapshot.places.tx, snapshot.places.rx), (6, 0), "never sent: {snapshot:?}");
    assert!(snapshot.places.fill > 0);

    let report = worker.finish(Duration::from_secs(1));
    assert_eq!(report.snapshot.places.slab, 64, "{:?}", report.snapshot.places);
    lawful(&report.snapshot);
}

/// Closing a socket completes nothing: every frame on any ring would be lost without a reclaim.
#[test]
fn frames_on_every_ring_come_home_when_the_socket_closes() {
    let config = WorkerConfig { fill_target: 24, ..WorkerConfig::default() };
    let mut worker = worker(64, small_rings(32, 8, 8, 8), Echo, config);
    turn(&mut worker);
    arrive(&mut worker, 8);
    turn(&mut worker);
    worker.port_mut().complete_sent(3);
    arrive(&mut worker, 9);
    let places = worker.snapshot().places;
    let lent = [places.fill, places.kernel, places.rx, places.tx, places.completion];
    assert_eq!(lent, [7, 1, 8, 5, 3], "some everywhere");
    let report = worker.finish(Duration::ZERO);
    assert_eq!(report.reclaimed, 24);
    assert!(report.conserved);
    assert_eq!(report.snapshot.places.slab, 64);
}

/// Who is asked to stop takes in what has come, and begins nothing: a sender without an end would never be idle.
#[test]
fn who_is_to_stop_generates_nothing_more() {
    let endless = Generate::new(&numbered(0), Pace::default()).unwrap();
    let config = WorkerConfig { fill_target: 64, ..WorkerConfig::default() };
    let mut worker = worker(256, SimConfig::default(), endless, config);
    assert!(turn(&mut worker).transmitted > 0);
    arrive(&mut worker, 1);
    let last = worker.take_in_once(Duration::ZERO);
    lawful(&worker.snapshot());
    assert_eq!((last.received, last.transmitted, last.next), (1, 0, None));
    assert!((0..4).any(|_| worker.take_in_once(Duration::ZERO).is_idle()), "it comes to an end");
}

/// The drain sends what was promised, completes it, and takes in nothing new.
#[test]
fn a_drain_ends_with_nothing_lent_to_tx() {
    let config = WorkerConfig { fill_target: 64, ..WorkerConfig::default() };
    let mut worker = worker(256, small_rings(64, 64, 16, 8), Echo, config);
    turn(&mut worker);
    arrive(&mut worker, 64);
    let first = turn(&mut worker);
    assert_eq!((first.received, first.transmitted), (64, 16));
    arrive(&mut worker, 5);
    assert_eq!(worker.drain_once(Duration::ZERO).left, 64, "16 with the kernel, 48 that wait for it");
    let mut drains = 0;
    while worker.drain_once(Duration::ZERO).left > 0 {
        worker.port_mut().complete_sent(8);
        drains += 1;
        assert!(drains < 100, "{:?}", worker.snapshot());
    }
    let snapshot = worker.snapshot();
    lawful(&snapshot);
    assert_eq!((snapshot.traffic.tx_packets, snapshot.traffic.completions), (64, 64));
    assert_eq!((snapshot.places.tx, snapshot.places.completion, snapshot.held), (0, 0, 0));
    assert_eq!(snapshot.traffic.rx_packets, 64, "nothing new");
}

/// A queue that the interface does not send on keeps what it was given: that is no packet sent.
#[test]
fn what_the_kernel_never_took_is_told_at_the_end() {
    let mut worker = worker(64, SimConfig::default(), Echo, WorkerConfig::default());
    turn(&mut worker);
    arrive(&mut worker, 5);
    turn(&mut worker);
    worker.port_mut().set_mute(true);
    arrive(&mut worker, 3);
    turn(&mut worker);
    assert_eq!(worker.snapshot().traffic.tx_unsent, 0, "it may yet be sent");
    let report = worker.finish(Duration::ZERO);
    let traffic = report.snapshot.traffic;
    assert_eq!((traffic.tx_packets, traffic.tx_unsent, report.conserved), (8, 3, true));
}

/// Nothing is lent to a port that is closed, and nothing comes from it.
#[test]
fn a_closed_port_takes_and_gives_nothing() {
    let mut worker = worker(16, small_rings(16, 16, 16, 16), Echo, WorkerConfig::default());
    turn(&mut worker);
    arrive(&mut worker, 4);
    worker.port_mut().close();
    worker.port_mut().close();
    let after = turn(&mut worker);
    assert_eq!((after.received, after.completed, after.filled, after.kick), (0, 0, 0, Kick::Down));
    assert_eq!(worker.snapshot().places.kernel, 16, "lent until they are reclaimed");
    assert!(worker.finish(Duration::ZERO).conserved);
}
