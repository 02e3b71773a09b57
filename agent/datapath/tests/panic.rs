//! What is left of a worker whose handler panics.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use common::{Fragile, LONGEST, numbered, turn, worker};
use datapath::sim::SimConfig;
use datapath::{Due, PacketHandler, Verdict, WorkerConfig};

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
    worker.port_mut().offer(vec![1; 2 * LONGEST]);
    worker.port_mut().napi_poll(2);
    let turn = AssertUnwindSafe(|| worker.poll_once(Duration::ZERO));
    assert!(catch_unwind(turn).is_err());
    let report = worker.finish(Duration::ZERO);
    assert_eq!((report.snapshot.places.user, report.snapshot.places.slab), (0, 64));
}

/// Wants to send packets of so many bytes, and breaks when it is to write behind their beginning.
struct BreaksOff(usize);

impl PacketHandler for BreaksOff {
    fn handle(&mut self, _: &mut [u8]) -> Verdict {
        Verdict::Drop
    }

    fn due(&mut self, _: Duration) -> Due {
        Due { packets: 1, size: self.0, next: None }
    }

    fn write(&mut self, start: usize, _: &mut [u8]) {
        assert!(start < LONGEST, "it breaks here");
    }
}

/// What was half written was neither received nor sent.
#[test]
fn it_loses_nothing_of_what_it_was_about_to_send() {
    let sim = SimConfig { multi_buffer: true, ..SimConfig::default() };
    let config = WorkerConfig { fill_target: 32, ..WorkerConfig::default() };
    let mut worker = worker(64, sim, BreaksOff(3 * LONGEST), config);
    let turn = AssertUnwindSafe(|| worker.poll_once(Duration::ZERO));
    assert!(catch_unwind(turn).is_err());
    assert_eq!(worker.snapshot().traffic.rx_packets, 0);
    let report = worker.finish(Duration::ZERO);
    assert_eq!((report.snapshot.places.user, report.snapshot.places.slab), (0, 64));
    let traffic = report.snapshot.traffic;
    assert_eq!((traffic.rx_packets, traffic.rx_fragments, traffic.rx_bytes), (0, 0, 0), "{traffic:?}");
    assert_eq!((traffic.rx_torn, traffic.generated, traffic.tx_packets), (0, 0, 0), "{traffic:?}");
}
