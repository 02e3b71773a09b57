//! What is left of a worker whose handler panics.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use common::{CHUNK, lawful, pool_and_port};
use common::{Fragile, LONGEST, numbered, turn, worker};
use datapath::capture::capture;
use datapath::sim::{SimConfig, SimPort, SimUmem};
use datapath::{Due, PacketHandler, Pair, Verdict, Worker, WorkerConfig};
use frame_pool::{FrameLayout, FramePool, PoolConfig, UmemProvider};

/// The packets before it were dropped or sent; frames behind it come home with those that the kernel has.
#[test]
fn it_loses_the_frame_that_it_had_before_it_and_no_other() {
    let batch = 16;
    for (breaks_at, glances_below) in [0, 1, 7, batch - 1].into_iter().flat_map(|at| [(at, 255), (at, 4)]) {
        let handler = Fragile { left: breaks_at, glances_below };
        let mut worker = worker(64, SimConfig::default(), handler, WorkerConfig::default());
        turn(&mut worker);
        for n in 0..batch {
            worker.port_mut().offer(numbered(n));
        }
        worker.port_mut().napi_poll(batch);
        let turn = AssertUnwindSafe(|| worker.poll_once(Duration::ZERO));
        assert!(catch_unwind(turn).is_err(), "at packet {breaks_at}");

        let traffic = worker.snapshot().traffic;
        assert_eq!(traffic.handler_dropped as usize, breaks_at / 2, "every other one before it");
        assert_eq!(traffic.rx_packets as usize, breaks_at);
        worker.drain_once(Duration::ZERO);
        worker.port_mut().complete_sent(batch);
        worker.drain_once(Duration::ZERO);
        assert_eq!(worker.port_mut().sent().len(), breaks_at.div_ceil(2), "the others went out");
        let snapshot = worker.snapshot();
        assert_eq!(snapshot.traffic.completions as usize, breaks_at.div_ceil(2));
        assert_eq!(snapshot.refused.total(), 0, "nothing was taken for something else");
        let report = worker.finish(Duration::ZERO);
        assert_eq!(report.snapshot.traffic.tx_packets as usize, breaks_at.div_ceil(2));
        assert_eq!((report.snapshot.places.user, report.snapshot.places.slab), (1, 63), "at {breaks_at}");
    }
}

#[test]
fn it_loses_nothing_of_a_packet_in_several_frames() {
    let sim = SimConfig { multi_buffer: true, ..SimConfig::default() };
    let mut worker = worker(64, sim, Fragile { left: 0, glances_below: 255 }, WorkerConfig::default());
    turn(&mut worker);
    for frames in 2..=4 {
        worker.port_mut().offer(vec![1; frames * LONGEST]);
    }
    worker.port_mut().napi_poll(3);
    let turn = AssertUnwindSafe(|| worker.poll_once(Duration::ZERO));
    assert!(catch_unwind(turn).is_err());
    let report = worker.finish(Duration::ZERO);
    assert_eq!((report.snapshot.places.user, report.snapshot.places.slab), (0, 64));
    let traffic = report.snapshot.traffic;
    assert_eq!((traffic.rx_packets, traffic.rx_fragments, traffic.rx_unhandled), (3, 6, 3), "{traffic:?}");
}

/// The second one's other frames are still on the RX ring.
#[test]
fn it_loses_nothing_of_a_packet_that_has_come_in_part() {
    let sim = SimConfig { multi_buffer: true, ..SimConfig::default() };
    let config = WorkerConfig { batch: 4, ..WorkerConfig::default() };
    let mut worker = worker(64, sim, Fragile { left: 0, glances_below: 255 }, config);
    turn(&mut worker);
    for _ in 0..2 {
        worker.port_mut().offer(vec![1; 3 * LONGEST]);
    }
    worker.port_mut().napi_poll(2);
    let turn = AssertUnwindSafe(|| worker.poll_once(Duration::ZERO));
    assert!(catch_unwind(turn).is_err());
    assert!(worker.snapshot().conserved());
    let report = worker.finish(Duration::ZERO);
    assert_eq!((report.snapshot.places.user, report.snapshot.places.slab), (0, 64));
    let traffic = report.snapshot.traffic;
    assert_eq!((traffic.rx_packets, traffic.rx_fragments, traffic.rx_unhandled), (2, 2, 2), "{traffic:?}");
    assert_eq!(traffic.handler_dropped + traffic.rx_torn + traffic.rx_too_long, 0, "{traffic:?}");
}

/// Of each packet it is known what became of it, also of those that the handler never got, and no frame is lost.
#[test]
fn it_loses_nothing_that_somebody_else_is_shown() {
    const BATCH: usize = 64;
    for breaks_at in [0, 1, 10, BATCH - 1] {
        let handler = Fragile { left: breaks_at, glances_below: 255 };
        let (pool, port) = pool_and_port(128, SimConfig::default());
        let (observer, reader) = capture(BATCH);
        let mut worker = Worker::observed(pool, port, handler, observer, WorkerConfig::default());
        worker.poll_once(Duration::ZERO);
        (0..BATCH).for_each(|n| worker.port_mut().offer(numbered(n)));
        worker.port_mut().napi_poll(BATCH);
        let turn = AssertUnwindSafe(|| worker.poll_once(Duration::ZERO));
        assert!(catch_unwind(turn).is_err(), "at packet {breaks_at}");
        assert!(worker.snapshot().conserved());

        worker.drain_once(Duration::ZERO);
        worker.port_mut().complete_sent(BATCH);
        worker.drain_once(Duration::ZERO);
        drop(reader);
        let report = worker.finish(Duration::ZERO);
        let traffic = report.snapshot.traffic;
        let sent = breaks_at.div_ceil(2);
        assert_eq!((traffic.rx_packets, traffic.rx_fragments, traffic.rx_torn), (64, 0, 0), "{traffic:?}");
        assert_eq!((traffic.tx_packets, traffic.completions), (sent as u64, sent as u64), "{traffic:?}");
        assert_eq!(traffic.handler_dropped as usize, breaks_at - sent, "{traffic:?}");
        assert_eq!(traffic.rx_unhandled as usize, BATCH - breaks_at, "{traffic:?}");
        assert_eq!((report.snapshot.places.user, report.snapshot.places.slab), (0, 128), "{breaks_at}");
    }
}

/// Neither side of a pair.
#[test]
fn it_loses_no_frame_of_the_other_side_either() {
    let layout = FrameLayout::new(CHUNK, 128).unwrap();
    let (umem, provider) = (SimUmem::new(layout), UmemProvider::new(layout));
    let side = || {
        (FramePool::new(PoolConfig::default(), provider.clone()), SimPort::on(&umem, SimConfig::default()))
    };
    let (observer, reader) = capture(64);
    let handler = Fragile { left: 20, glances_below: 255 };
    let config = WorkerConfig { fill_target: 32, ..WorkerConfig::default() };
    let mut pair = Pair::new([side(), side()], handler, observer, config);
    pair.poll_once(Duration::ZERO);
    for port in pair.ports_mut() {
        (0..16).for_each(|n| port.offer(numbered(n)));
        port.napi_poll(16);
    }
    let turn = AssertUnwindSafe(|| pair.poll_once(Duration::ZERO));
    assert!(catch_unwind(turn).is_err());
    pair.snapshots().iter().for_each(lawful);
    pair.drain_once(Duration::ZERO);
    pair.ports_mut().into_iter().for_each(|port| port.complete_sent(64));
    pair.drain_once(Duration::ZERO);
    drop(reader);
    let [first, second] = pair.finish(Duration::ZERO).map(|report| report.snapshot);
    assert_eq!((first.traffic.rx_packets, first.traffic.handler_dropped), (16, 8));
    assert_eq!((second.traffic.rx_packets, second.traffic.handler_dropped), (16, 2));
    assert_eq!((first.traffic.rx_unhandled, second.traffic.rx_unhandled), (0, 12));
    assert_eq!((first.traffic.tx_packets, second.traffic.tx_packets), (2, 8));
    assert_eq!((first.places.user, second.places.user, first.places.slab), (0, 0, 128));
}

/// From the second turn on it wants to send packets in three frames; breaks when it is to write the second frame of the
/// one after so many.
struct BreaksOff {
    whole: usize,
}

impl PacketHandler for BreaksOff {
    fn handle(&mut self, _: &mut [u8]) -> Verdict {
        Verdict::Drop
    }

    fn due(&mut self, now: Duration) -> Due {
        Due { packets: if now.is_zero() { 0 } else { 3 }, size: 3 * LONGEST, next: None }
    }

    fn write(&mut self, start: usize, _: &mut [u8]) {
        if start == LONGEST {
            self.whole = self.whole.checked_sub(1).expect("it breaks here");
        }
    }
}

/// What was half written was neither received nor sent. Whole packets before it are sent, and a packet of which only the
/// first frame has come is no part of it.
#[test]
fn it_loses_nothing_of_what_it_was_about_to_send() {
    let sim = SimConfig { multi_buffer: true, ..SimConfig::default() };
    let config = WorkerConfig { batch: 10, fill_target: 32, ..WorkerConfig::default() };
    for whole in 0..3 {
        let mut worker = worker(64, sim, BreaksOff { whole }, config);
        turn(&mut worker);
        for _ in 0..4 {
            worker.port_mut().offer(vec![1; 3 * LONGEST]);
        }
        worker.port_mut().napi_poll(4);
        let turn = AssertUnwindSafe(|| worker.poll_once(Duration::from_millis(1)));
        assert!(catch_unwind(turn).is_err(), "behind {whole}");
        let snapshot = worker.snapshot();
        lawful(&snapshot);
        assert_eq!((snapshot.traffic.rx_packets, snapshot.traffic.generated), (3, whole as u64));

        worker.drain_once(Duration::ZERO);
        worker.port_mut().complete_sent(64);
        worker.drain_once(Duration::ZERO);
        let report = worker.finish(Duration::ZERO);
        assert_eq!((report.snapshot.places.user, report.snapshot.places.slab), (0, 64), "behind {whole}");
        let traffic = report.snapshot.traffic;
        let sent = (traffic.tx_packets as usize, traffic.tx_fragments as usize, traffic.completions as usize);
        assert_eq!(sent, (whole, 2 * whole, 3 * whole), "{traffic:?}");
        assert_eq!((traffic.rx_packets, traffic.rx_fragments), (4, 6), "{traffic:?}");
        assert_eq!((traffic.handler_dropped, traffic.rx_unhandled), (3, 1), "{traffic:?}");
        assert_eq!((traffic.rx_torn, traffic.rx_too_long), (0, 0), "{traffic:?}");
    }
}

/// Breaks when it is asked what it wants to send, behind packets that it sent back.
struct BreaksWhenAsked;

impl PacketHandler for BreaksWhenAsked {
    fn handle(&mut self, _: &mut [u8]) -> Verdict {
        Verdict::Transmit
    }

    fn due(&mut self, now: Duration) -> Due {
        assert!(now.is_zero(), "it breaks here");
        Due::default()
    }
}

#[test]
fn it_loses_nothing_of_what_it_had_handled() {
    for packets in [0, 1, 16] {
        let mut worker = worker(64, SimConfig::default(), BreaksWhenAsked, WorkerConfig::default());
        turn(&mut worker);
        (0..packets).for_each(|n| worker.port_mut().offer(numbered(n)));
        worker.port_mut().napi_poll(packets);
        let turn = AssertUnwindSafe(|| worker.poll_once(Duration::from_millis(1)));
        assert!(catch_unwind(turn).is_err());
        lawful(&worker.snapshot());
        worker.drain_once(Duration::ZERO);
        worker.port_mut().complete_sent(packets);
        worker.drain_once(Duration::ZERO);
        assert_eq!(worker.port().sent().len(), packets, "what it wanted sent is sent");
        let report = worker.finish(Duration::ZERO);
        let traffic = report.snapshot.traffic;
        assert_eq!((traffic.rx_packets as usize, traffic.tx_packets as usize), (packets, packets));
        assert_eq!((report.snapshot.places.user, report.snapshot.places.slab), (0, 64));
    }
}
