//! The worker on the simulated kernel, over many seeds.
//!
//! `UMEMD_SIM_SEEDS=n` runs the seeds from 0 to n (100 if unset), `UMEMD_SIM_SEED=n` runs that one:
//! a failure prints it. After every step the law holds: each frame is in exactly one place.

mod common;

use std::time::Duration;

use common::{CHUNK, LONGEST, Recorder, for_each_seed, lawful, packet, pool_and_port, random_sizes};
use datapath::sim::{Faulty, Random, Rates, Redirect, SimPort};
use datapath::{PacketHandler, QueuePort, Snapshot, Traffic, Worker};
use frame_pool::Shutdown;

/// Packets of all lengths, none included, and now and then one too long.
fn offer_some(random: &mut Random, port: &mut SimPort) {
    for _ in 0..random.below(48) {
        let len = match random.below(16) {
            0 => random.below(2),
            1 => LONGEST - 192 - 8 + random.below(CHUNK as usize / 4),
            _ => 14 + random.below(200),
        };
        let packet = packet(random, len);
        port.offer(packet);
    }
}

/// The link goes down or comes up, the queue loses its way in or out or gets it back, its discipline drops some.
fn trouble(random: &mut Random, port: &mut SimPort) {
    match random.below(64) {
        0 => port.set_up(false),
        1 => port.set_mute(true),
        2 => port.set_dropping(1 + random.below(3)),
        3 => port.set_redirect(Redirect::OtherQueue),
        4 => port.set_redirect(Redirect::EmptySlot),
        5..18 => {
            port.set_redirect(Redirect::Here);
            port.set_up(true);
            port.set_mute(false);
        }
        _ => {}
    }
}

fn steps<P: QueuePort, H: PacketHandler>(
    worker: &mut Worker<P, H>,
    random: &mut Random,
    port: fn(&mut Worker<P, H>) -> &mut SimPort,
    check: fn(&mut Worker<P, H>, Snapshot),
) {
    for _ in 0..120 {
        offer_some(random, port(worker));
        trouble(random, port(worker));
        for _ in 0..random.below(4) {
            port(worker).step();
            let snapshot = worker.snapshot();
            check(worker, snapshot);
        }
        for _ in 0..random.below(3) {
            worker.poll_once(Duration::ZERO);
            let snapshot = worker.snapshot();
            check(worker, snapshot);
        }
    }
}

/// Lets everything come to rest: nothing arrived waits, nothing sent is unfinished.
fn settle<P: QueuePort, H: PacketHandler>(
    worker: &mut Worker<P, H>,
    port: fn(&mut Worker<P, H>) -> &mut SimPort,
) {
    for _ in 0..100_000 {
        let sim = port(worker);
        sim.set_up(true);
        sim.set_redirect(Redirect::Here);
        sim.set_mute(false);
        sim.set_busy(0);
        sim.napi_poll(64);
        sim.complete_sent(usize::MAX);
        let arrived = sim.arrived();
        let idle = worker.poll_once(Duration::ZERO).is_idle();
        let places = worker.snapshot().places;
        if idle && arrived + (places.tx + places.completion + places.user) as usize == 0 {
            return;
        }
    }
    panic!("does not come to rest: {:?}", worker.snapshot());
}

#[test]
fn packets_arrive_and_leave_byte_for_byte_and_in_order() {
    for_each_seed(|seed| {
        let mut random = Random::new(!seed);
        let (frames, sim, config) = random_sizes(&mut random, seed);
        let mut worker = common::worker(frames, sim, Recorder::default(), config);
        steps(&mut worker, &mut random, Worker::port_mut, |_, snapshot| lawful(&snapshot));
        settle(&mut worker, Worker::port_mut);
        check_against_the_kernel(&mut worker);
        check_the_end(worker);
    });
}

/// The handler saw what the kernel delivered, and what it wanted sent was sent but for what was counted.
fn check_against_the_kernel(worker: &mut Worker<SimPort, Recorder>) {
    let traffic = worker.snapshot().traffic;
    let (handler, port) = (worker.handler(), worker.port());
    assert!(
        handler.seen == port.delivered(),
        "received {} of {}",
        handler.seen.len(),
        port.delivered().len()
    );
    assert_eq!(traffic.rx_packets, handler.seen.len() as u64);
    assert_eq!(traffic.rx_bytes, handler.seen.iter().map(|packet| packet.len() as u64).sum::<u64>());

    let sent = port.sent();
    // What the queue's discipline drops is completed as if it had been sent.
    let gone = sent.len() as u64 + port.statistics().tx_dropped;
    assert_eq!(traffic.tx_packets, gone);
    let bytes = sent.iter().map(|packet| packet.len() as u64).sum::<u64>();
    assert_eq!(traffic.tx_bytes, bytes + port.statistics().tx_dropped_bytes);
    assert_eq!(traffic.completions, traffic.tx_packets);
    assert_eq!(gone + traffic.tx_full + traffic.tx_invalid, handler.to_send.len() as u64);
    let mut wanted = handler.to_send.iter();
    assert!(sent.iter().all(|packet| wanted.any(|wanted| wanted == packet)), "sent out of order, or changed");

    let drops: u64 = traffic.drops().map(|(_, packets)| packets).sum();
    assert_eq!(traffic.rx_packets, traffic.tx_packets + drops);
    assert_eq!(port.statistics().tx_invalid_descs, 0);
}

/// Whatever was on its way, at the end every frame is in the slab.
fn check_the_end(worker: Worker<SimPort, Recorder>) -> Traffic {
    let published = worker.published();
    let report = worker.finish(Duration::ZERO);
    assert!(report.conserved, "{report:?}");
    assert_eq!(report.snapshot.places.slab, report.snapshot.total);
    assert_eq!(report.shutdown, Shutdown::Freed);
    assert_eq!(report.snapshot.inflight, 0);
    assert_eq!(published.read(), report.snapshot, "the last snapshot is published");
    report.snapshot.traffic
}

#[test]
fn a_worker_ended_in_the_middle_of_everything_gets_every_frame_back() {
    for_each_seed(|seed| {
        let mut random = Random::new(!seed);
        let (frames, sim, config) = random_sizes(&mut random, seed);
        let mut worker = common::worker(frames, sim, Recorder::default(), config);
        steps(&mut worker, &mut random, Worker::port_mut, |_, snapshot| lawful(&snapshot));
        for _ in 0..random.below(5) {
            worker.drain_once(Duration::ZERO);
            lawful(&worker.snapshot());
        }
        let taken = worker.port().sent().len() as u64 + worker.port().statistics().tx_dropped;
        let traffic = check_the_end(worker);
        if traffic.tx_fragments == 0 {
            assert_eq!(traffic.tx_packets, taken + traffic.tx_unsent, "none counts as sent that was not");
        }
    });
}

type OnFaulty = Worker<Faulty<SimPort>, Recorder>;

fn on_faulty(seed: u64, random: &mut Random, rates: Rates) -> OnFaulty {
    let (frames, sim, config) = random_sizes(random, seed);
    let (pool, port) = pool_and_port(frames, sim);
    Worker::new(pool, Faulty::new(port, rates, seed), Recorder::default(), config)
}

fn sim_of(worker: &mut OnFaulty) -> &mut SimPort {
    worker.port_mut().inner_mut()
}

#[test]
fn a_port_that_delays_delays_and_nothing_else() {
    for_each_seed(|seed| {
        let mut random = Random::new(!seed);
        let mut worker = on_faulty(seed, &mut random, Rates { delay: 96, ..Rates::default() });
        steps(&mut worker, &mut random, sim_of, |_, snapshot| lawful(&snapshot));
        worker.port_mut().set_rates(Rates::default());
        settle(&mut worker, sim_of);
        let (handler, port) = (worker.handler(), worker.port().inner());
        assert!(handler.seen == port.delivered());
        let report = worker.finish(Duration::ZERO);
        assert!(report.conserved && report.shutdown == Shutdown::Freed, "{report:?}");
    });
}

#[test]
fn a_kernel_that_lies_is_counted_and_harms_no_other_frame() {
    for_each_seed(|seed| {
        let mut random = Random::new(!seed);
        let mut worker = on_faulty(seed, &mut random, Rates { delay: 16, lie: 128, drop: 0 });
        steps(&mut worker, &mut random, sim_of, |_, snapshot| lawful(&snapshot));
        let bad = sim_of(&mut worker).statistics().tx_invalid_descs;
        assert_eq!(bad, 0, "and is told none itself: what it says of a frame goes on no TX ring unlooked at");
        let report = worker.finish(Duration::ZERO);
        let Snapshot { places, total, .. } = report.snapshot;
        assert!(report.conserved, "{report:?}");
        assert_eq!(places.slab + places.quarantined, total, "{report:?}");
        assert_eq!(u64::from(places.quarantined), report.snapshot.refused.wrong_ring);
    });
}

#[test]
fn lies_do_reach_the_ledger() {
    let mut refused = [0; 4];
    for seed in 0..100 {
        let mut random = Random::new(!seed);
        let mut worker = on_faulty(seed, &mut random, Rates { lie: 128, ..Rates::default() });
        steps(&mut worker, &mut random, sim_of, |_, snapshot| lawful(&snapshot));
        let counts = worker.snapshot().refused;
        for (sum, count) in refused.iter_mut().zip([
            counts.out_of_range,
            counts.not_lent,
            counts.wrong_ring,
            counts.quarantined,
        ]) {
            *sum += count;
        }
        assert_eq!(counts.not_ours, 0);
    }
    assert!(refused.iter().all(|count| *count > 0), "a lie is never told: {refused:?}");
}

#[test]
fn a_frame_dropped_on_the_floor_is_seen_at_once() {
    for_each_seed(|seed| {
        let mut random = Random::new(!seed);
        let mut worker = on_faulty(seed, &mut random, Rates { drop: 16, ..Rates::default() });
        steps(&mut worker, &mut random, sim_of, |worker, snapshot| {
            let dropped = worker.port().dropped();
            assert_eq!(snapshot.places.user - snapshot.held, dropped, "{snapshot:?}");
            assert_eq!(snapshot.conserved(), dropped == 0);
        });
        let dropped = worker.port().dropped();
        let report = worker.finish(Duration::ZERO);
        assert_eq!(report.conserved, dropped == 0);
        assert_eq!(report.pool.inflight(), dropped as i32);
    });
}

#[test]
fn the_seeds_reach_every_corner() {
    let mut corners = std::collections::BTreeMap::new();
    for seed in 0..60 {
        let mut random = Random::new(!seed);
        let (frames, sim, config) = random_sizes(&mut random, seed);
        let mut worker = common::worker(frames, sim, Recorder::default(), config);
        steps(&mut worker, &mut random, Worker::port_mut, |_, _| ());
        settle(&mut worker, Worker::port_mut);
        let (snapshot, kernel) = (worker.snapshot(), worker.port().statistics());
        let (misdirected, passed) = (worker.port().misdirected(), worker.port().passed());
        for (corner, times) in [
            ("fill ring empty", kernel.rx_fill_ring_empty_descs),
            ("rx ring full", kernel.rx_ring_full),
            ("packet too long", kernel.rx_dropped - kernel.rx_fill_ring_empty_descs),
            ("tx ring and backlog full", snapshot.traffic.tx_full),
            ("kicked again", snapshot.traffic.kicks_again),
            ("kicked while down", snapshot.traffic.kicks_down),
            ("dropped by the queue's discipline", kernel.tx_dropped),
            ("redirected to another queue", misdirected),
            ("redirected to nobody", passed),
            ("dropped by the handler", snapshot.traffic.handler_dropped),
            ("nothing to send", snapshot.traffic.tx_invalid),
            ("pool empty", snapshot.traffic.alloc_fail),
            ("idle turn", snapshot.turns_idle),
        ] {
            *corners.entry(corner).or_insert(0) += times;
        }
    }
    assert!(corners.values().all(|times| *times > 0), "{corners:?}");
}
