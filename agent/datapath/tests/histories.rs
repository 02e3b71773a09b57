//! Random histories of every handler on the simulated kernel, a law after every step.
//!
//! `cargo xtask test sim --seeds N` runs the seeds from 0 to N, `--seed S` that one: a failure prints it.
//!
//! * Each frame is in exactly one place, on each side of a pair, and both sides together have all of them.
//! * What is received is what was delivered; what is sent is what the handler made of it, in order.
//! * A capture shows what was dropped and what is sent, byte for byte, while nobody writes to it.
//! * A kernel that lies is counted, and at the end every frame is free, in quarantine, or with its holder.

mod common;

use std::fmt::Debug;
use std::time::Duration;

use common::{Recorder, for_each_seed, lawful, random_sizes};
use datapath::handlers::{Drop, Forward, Generate, Pace, Reflect};
use datapath::sim::{Faulty, Random, Rates, Redirect, SimConfig, SimPort, SimUmem};
use datapath::{
    Capture, CaptureReader, Captured, FinalReport, HeldBytes, Observer, PacketHandler, Pair, Published,
    Snapshot, Turn, Verdict, Worker, WorkerConfig, capture,
};
use frame_pool::{FrameLayout, FramePool, MemoryProvider, PoolConfig, Shutdown, UmemProvider};

const STEPS: usize = 60;

type Port = Faulty<SimPort>;

/// What a worker and a pair have in common.
trait Machine {
    fn turn(&mut self, now: Duration) -> Turn;
    fn drain(&mut self, now: Duration);
    fn ports(&mut self) -> Vec<&mut Port>;
    fn snapshots(&mut self) -> Vec<Snapshot>;
    fn published(&self) -> Vec<Published>;
    fn finish(self, now: Duration) -> Vec<FinalReport>;
}

impl<H: PacketHandler, O: Observer> Machine for Worker<Port, H, O> {
    fn turn(&mut self, now: Duration) -> Turn {
        self.poll_once(now)
    }
    fn drain(&mut self, now: Duration) {
        self.drain_once(now);
    }
    fn ports(&mut self) -> Vec<&mut Port> {
        vec![self.port_mut()]
    }
    fn snapshots(&mut self) -> Vec<Snapshot> {
        vec![self.snapshot()]
    }
    fn published(&self) -> Vec<Published> {
        vec![self.published()]
    }
    fn finish(self, now: Duration) -> Vec<FinalReport> {
        vec![self.finish(now)]
    }
}

impl<H: PacketHandler, O: Observer> Machine for Pair<Port, H, O> {
    fn turn(&mut self, now: Duration) -> Turn {
        self.poll_once(now)
    }
    fn drain(&mut self, now: Duration) {
        self.drain_once(now);
    }
    fn ports(&mut self) -> Vec<&mut Port> {
        self.ports_mut().into()
    }
    fn snapshots(&mut self) -> Vec<Snapshot> {
        self.snapshots().into()
    }
    fn published(&self) -> Vec<Published> {
        self.published().into()
    }
    fn finish(self, now: Duration) -> Vec<FinalReport> {
        self.finish(now).into()
    }
}

fn idle(snapshot: &Snapshot) -> u32 {
    let places = &snapshot.places;
    places.slab + places.cache + places.ring
}

/// Readers see the turn that has ended, or are told that there is more to see. `lowest`: the fewest idle frames that
/// they saw of each side.
fn check_what_is_published(machine: &mut impl Machine, turn: Turn, lowest: &mut [u32]) {
    for ((published, snapshot), lowest) in
        machine.published().into_iter().zip(machine.snapshots()).zip(lowest)
    {
        if turn.published {
            *lowest = idle(&snapshot).min(*lowest);
            assert_eq!(snapshot.idle_lowest, *lowest);
        }
        assert_eq!(published.pending().is_none(), turn.published);
        assert!(
            !turn.published || published.read() == snapshot,
            "{:?} is not {snapshot:?}",
            published.read()
        );
    }
}

/// A UMEM, and random sizes for what is built on it.
struct World {
    random: Random,
    frames: u32,
    umem: SimUmem,
    sim: SimConfig,
    config: WorkerConfig,
    provider: std::sync::Arc<UmemProvider>,
    rates: Rates,
    writer: Option<Writer>,
}

impl World {
    fn new(seed: u64, lies: bool) -> Self {
        let mut random = Random::new(!seed);
        let (frames, sim, config) = random_sizes(&mut random, seed);
        let sim = SimConfig { multi_buffer: random.chance(128), ..sim };
        let layout = FrameLayout::new(common::CHUNK, frames).unwrap();
        let delay = [0, 0, 64][random.below(3)];
        let rates = Rates { delay, lie: if lies { 96 } else { 0 }, drop: 0 };
        let umem = SimUmem::new(layout);
        World { random, frames, umem, sim, config, provider: UmemProvider::new(layout), rates, writer: None }
    }

    fn side(&mut self) -> (FramePool, Port) {
        let held_limit = 1 + self.random.below(self.frames as usize) as u32;
        let pool = PoolConfig { held_limit, ring_size: self.frames, ..PoolConfig::default() };
        let seed = self.random.bits();
        let port = SimPort::on(&self.umem, SimConfig { seed, ..self.sim });
        (FramePool::new(pool, self.provider.clone()), Faulty::new(port, self.rates, seed))
    }

    fn observer(&mut self) -> Capture {
        let (capture, reader) = capture::capture(1 + self.random.below(80));
        self.writer = Some(Writer {
            reader,
            umem: self.umem.clone(),
            parts: Vec::new(),
            held: Vec::new(),
            shown: Vec::new(),
            lies: self.rates.lie > 0,
        });
        capture
    }

    /// After every step: each side by itself, and both together.
    fn check(&self, machine: &mut impl Machine) {
        let snapshots = machine.snapshots();
        snapshots.iter().for_each(lawful);
        assert_eq!(snapshots.iter().map(|snapshot| snapshot.total).sum::<u32>(), self.frames);
    }

    fn run(&mut self, machine: &mut impl Machine) {
        let mut now = Duration::ZERO;
        let mut lowest: Vec<u32> =
            machine.published().iter().map(|published| idle(&published.read())).collect();
        for _ in 0..STEPS {
            match self.random.below(9) {
                0..3 => self.offer(machine),
                3..5 => {
                    let mut ports = machine.ports();
                    let port = self.random.below(ports.len());
                    ports[port].inner_mut().step();
                }
                5..7 => {
                    now += Duration::from_micros(self.random.below(2000) as u64);
                    let turn = machine.turn(now);
                    check_what_is_published(machine, turn, &mut lowest);
                }
                7 => {
                    if let Some(writer) = &mut self.writer {
                        writer.step(&mut self.random);
                    }
                }
                _ if self.random.chance(32) => {
                    let (up, mute) = (self.random.chance(128), self.random.chance(32));
                    let redirects =
                        [Redirect::Here, Redirect::Here, Redirect::OtherQueue, Redirect::EmptySlot];
                    let (redirect, dropping) = (redirects[self.random.below(4)], self.random.below(3));
                    for port in machine.ports() {
                        let sim = port.inner_mut();
                        sim.set_up(up);
                        sim.set_mute(mute);
                        sim.set_redirect(redirect);
                        sim.set_dropping(dropping);
                    }
                }
                _ => {}
            }
            self.check(machine);
        }
    }

    /// Packets of all lengths, now and then longer than a frame.
    fn offer(&mut self, machine: &mut impl Machine) {
        let random = &mut self.random;
        let mut ports = machine.ports();
        for _ in 0..random.below(24) {
            let len = match random.below(16) {
                0 => random.below(15),
                1 => 1500 + random.below(3 * common::CHUNK as usize),
                _ => 60 + random.below(40),
            };
            let packet = common::packet(random, len);
            let port = random.below(ports.len());
            ports[port].inner_mut().offer(packet);
        }
    }

    /// Lets everything come to rest: nothing arrived waits, nothing sent is unfinished.
    fn settle(&mut self, machine: &mut impl Machine) {
        machine.ports().into_iter().for_each(|port| port.set_rates(Rates::default()));
        for _ in 0..10_000 {
            let mut arrived = 0;
            for port in machine.ports() {
                let sim = port.inner_mut();
                sim.set_up(true);
                sim.set_mute(false);
                sim.set_redirect(Redirect::Here);
                sim.set_dropping(0);
                sim.set_busy(0);
                sim.napi_poll(64);
                sim.complete_sent(usize::MAX);
                arrived += sim.arrived();
            }
            if let Some(writer) = &mut self.writer {
                writer.read_all();
                writer.held.clear();
            }
            let idle = machine.turn(Duration::from_secs(1)).is_idle();
            self.check(machine);
            let busy = |s: &Snapshot| s.places.tx + s.places.completion + s.places.user > 0;
            if idle && arrived == 0 && !machine.snapshots().iter().any(busy) {
                return;
            }
        }
        panic!("does not come to rest: {:?}", machine.snapshots());
    }

    /// An interface is removed while it is served, which is noticed some turns later.
    fn unregister(&mut self, machine: &mut impl Machine) {
        let mut ports = machine.ports();
        let gone = self.random.below(ports.len());
        ports[gone].inner_mut().unregister();
        for _ in 0..self.random.below(5) {
            self.offer(machine);
            machine.turn(Duration::from_secs(1));
            self.check(machine);
        }
    }

    /// Ends the machine in the middle of everything. Frames that the writer holds come home later.
    fn end(&mut self, mut machine: impl Machine) -> Vec<Snapshot> {
        if self.random.chance(64) {
            self.unregister(&mut machine);
        }
        for _ in 0..self.random.below(3) {
            machine.drain(Duration::from_secs(2));
            self.check(&mut machine);
        }
        let mut reports = machine.finish(Duration::from_secs(2));
        let snapshots: Vec<Snapshot> = reports.iter().map(|report| report.snapshot).collect();
        snapshots.iter().for_each(lawful);
        if let Some(mut writer) = self.writer.take() {
            writer.read_all();
        }
        let quarantined: u32 = snapshots.iter().map(|snapshot| snapshot.places.quarantined).sum();
        for report in &mut reports {
            report.shutdown = report.pool.retry(Duration::from_secs(4));
            if quarantined == 0 {
                assert_eq!(report.shutdown, Shutdown::Freed, "{report:?}");
            }
        }
        assert_eq!(self.provider.free() + quarantined, self.frames, "{reports:?}");
        snapshots
    }
}

/// Reads what a capture shows, holds some of it for a while, and looks that nobody changes it meanwhile.
struct Writer {
    reader: CaptureReader,
    umem: SimUmem,
    parts: Vec<Captured>,
    held: Vec<(Captured, Vec<u8>)>,
    shown: Vec<(Verdict, Vec<u8>)>,
    lies: bool,
}

impl Writer {
    fn step(&mut self, random: &mut Random) {
        for _ in 0..random.below(20) {
            self.read_one();
        }
        // A kernel that named another frame than it wrote to still has that one to write to.
        for (captured, bytes) in self.held.iter().filter(|_| !self.lies) {
            assert_eq!(read(&self.umem, captured), *bytes, "changed while it was held");
        }
        let drop = random.below(self.held.len() + 1);
        let dropped = self.held.drain(..drop).map(|(captured, _)| captured).collect::<Vec<_>>();
        if random.chance(16) {
            std::thread::scope(|scope| {
                scope.spawn(move || std::mem::drop(dropped));
            });
        }
    }

    fn read_one(&mut self) -> bool {
        if self.reader.try_next(&mut self.parts).is_err() {
            return false;
        }
        let mut packet = Vec::new();
        let verdict = self.parts[0].seen.verdict;
        for part in self.parts.drain(..) {
            let bytes = read(&self.umem, &part);
            packet.extend_from_slice(&bytes);
            self.held.push((part, bytes));
        }
        self.shown.push((verdict, packet));
        true
    }

    fn read_all(&mut self) {
        while self.read_one() {}
    }
}

fn read(umem: &SimUmem, captured: &Captured) -> Vec<u8> {
    let mut bytes = Vec::new();
    umem.with_bytes(captured, &mut |seen| bytes = seen.to_vec());
    bytes
}

/// Whether all of `some` are in `all`, in order.
fn in_order<T: PartialEq + Debug>(some: &[T], all: impl IntoIterator<Item = T>) -> bool {
    let mut all = all.into_iter();
    some.iter().all(|one| all.any(|other| *one == other))
}

fn packets_balance(snapshots: &[Snapshot]) {
    let sum = |count: fn(&Snapshot) -> u64| snapshots.iter().map(count).sum::<u64>();
    let drops = sum(|s| s.traffic.drops().map(|(_, packets)| packets).sum());
    assert_eq!(
        sum(|s| s.traffic.rx_packets + s.traffic.generated),
        sum(|s| s.traffic.tx_packets) + drops,
        "{snapshots:?}"
    );
    assert_eq!(
        sum(|s| s.traffic.tx_packets + s.traffic.tx_fragments),
        sum(|s| s.traffic.completions),
        "{snapshots:?}"
    );
}

#[test]
fn drop_keeps_nothing() {
    for_each_seed(|seed| {
        let mut world = World::new(seed, seed % 4 == 1);
        let (pool, port) = world.side();
        let mut worker = Worker::new(pool, port, Drop, world.config);
        world.run(&mut worker);
        if seed % 4 == 0 {
            world.settle(&mut worker);
            let snapshot = worker.snapshot();
            packets_balance(&[snapshot]);
            let delivered = worker.port().inner().delivered().len() as u64;
            assert_eq!(
                (snapshot.traffic.rx_packets, snapshot.traffic.handler_dropped),
                (delivered, delivered)
            );
            assert_eq!(worker.port().inner().statistics().tx_ring_empty_descs, 0, "never kicked");
        }
        world.end(worker);
    });
}

#[test]
fn reflect_answers_what_it_can() {
    for_each_seed(|seed| {
        let mut world = World::new(seed, seed % 4 == 1);
        let (pool, port) = world.side();
        let mut worker = Worker::new(pool, port, Reflect, world.config);
        world.run(&mut worker);
        if seed % 4 == 0 {
            world.settle(&mut worker);
            packets_balance(&[worker.snapshot()]);
            let sim = worker.port().inner();
            let answers = sim.delivered().iter().filter(|packet| packet.len() >= 14);
            let lens: Vec<_> = sim.sent().iter().map(Vec::len).collect();
            assert!(in_order(&lens, answers.map(Vec::len)));
        }
        world.end(worker);
    });
}

#[test]
fn forward_carries_every_packet_across_and_every_frame_home() {
    for_each_seed(|seed| {
        let mut world = World::new(seed, seed % 4 == 1);
        let sides = [world.side(), world.side()];
        let config = world.config;
        let mut pair = Pair::new(sides, Forward, (), config);
        world.run(&mut pair);
        if seed % 4 == 0 {
            world.settle(&mut pair);
            let snapshots = pair.snapshots();
            packets_balance(&snapshots);
            assert!(snapshots.iter().all(|snapshot| snapshot.pool.extras.foreign_put == 0));
            let [a, b] = pair.ports().map(Faulty::inner);
            let long_enough = |packet: &&Vec<u8>| packet.len() >= 14;
            assert!(in_order(b.sent(), a.delivered().iter().filter(long_enough).cloned()));
            assert!(in_order(a.sent(), b.delivered().iter().filter(long_enough).cloned()));
        }
        world.end(pair);
    });
}

#[test]
fn capture_shows_what_is_dropped_and_what_is_sent() {
    for_each_seed(|seed| {
        let mut world = World::new(seed, seed % 4 == 1);
        let (pool, port) = world.side();
        let observer = world.observer();
        let mut worker = Worker::observed(pool, port, Recorder::default(), observer, world.config);
        world.run(&mut worker);
        if seed % 4 != 1 {
            let traffic = worker.snapshot().traffic;
            let mut writer = world.writer.take().unwrap();
            writer.read_all();
            assert_eq!(writer.shown.len() as u64, traffic.observed);
            assert_eq!(traffic.observed + traffic.observe_missed, traffic.rx_packets);
            // What was to be sent and cannot be is dropped, and shown so.
            let mut cut = 0;
            let mut decided = worker.handler().decided.iter();
            let all_shown = writer.shown.iter().all(|(verdict, packet)| {
                let found = decided.find(|(wanted, decided)| {
                    packet == decided && (wanted == verdict || *wanted == Verdict::Transmit)
                });
                cut += u64::from(found.is_some_and(|(wanted, _)| wanted != verdict));
                found.is_some()
            });
            assert!(all_shown && cut <= traffic.tx_invalid, "{cut} of {traffic:?}");
            writer.held.clear();
            world.writer = Some(writer);
        }
        if seed % 4 == 0 {
            world.settle(&mut worker);
            packets_balance(&[worker.snapshot()]);
        }
        world.end(worker);
    });
}

#[test]
fn a_captured_forward_brings_every_frame_home() {
    for_each_seed(|seed| {
        let mut world = World::new(seed, seed % 4 == 1);
        let sides = [world.side(), world.side()];
        let observer = world.observer();
        let config = world.config;
        let mut pair = Pair::new(sides, Forward, observer, config);
        world.run(&mut pair);
        for traffic in pair.snapshots().map(|side| side.traffic) {
            // Nobody is shown what no handler was.
            let shown = traffic.rx_packets - traffic.rx_torn - traffic.rx_too_long - traffic.rx_unhandled;
            assert_eq!(traffic.observed + traffic.observe_missed, shown, "each where it came in");
        }
        if seed % 4 == 0 {
            world.settle(&mut pair);
            packets_balance(&pair.snapshots());
        }
        world.end(pair);
    });
}

#[test]
fn generate_sends_what_is_due_and_no_more() {
    for_each_seed(|seed| {
        let mut world = World::new(seed, seed % 4 == 1);
        let (pool, port) = world.side();
        let size = 14 + world.random.below(3 * common::CHUNK as usize);
        let template = common::packet(&mut world.random, size);
        let rate = [None, Some(1_000 + world.random.below(1_000_000) as u64)][world.random.below(2)];
        let count = world.random.below(200) as u64;
        let generate = Generate::new(&template, Pace { rate, count: Some(count) }).unwrap();
        let mut worker = Worker::new(pool, port, generate, world.config);
        world.run(&mut worker);
        let left = worker.handler().left().unwrap();
        // Of more frames than a packet may have none is begun, however often one is due.
        let traffic = worker.snapshot().traffic;
        assert_eq!(traffic.generated - traffic.tx_invalid, count - left);
        if seed % 4 == 0 {
            world.settle(&mut worker);
            packets_balance(&[worker.snapshot()]);
            assert!(worker.port().inner().sent().iter().all(|packet| *packet == template));
        }
        world.end(worker);
    });
}

/// That the histories get to what they are meant to be about.
#[test]
fn the_seeds_reach_every_corner() {
    let mut corners = std::collections::BTreeMap::new();
    for seed in 0..400 {
        let mut world = World::new(seed, seed % 4 == 1);
        let sides = [world.side(), world.side()];
        let observer = world.observer();
        let config = world.config;
        let mut pair = Pair::new(sides, Recorder::default(), observer, config);
        world.run(&mut pair);
        for (corner, times) in pair.snapshots().into_iter().flat_map(|snapshot| {
            let (traffic, refused) = (snapshot.traffic, snapshot.refused);
            [
                ("received in fragments", traffic.rx_fragments),
                ("sent in fragments", traffic.tx_fragments),
                ("torn", traffic.rx_torn),
                ("sent", traffic.tx_packets),
                ("backlog full", traffic.tx_full),
                ("nothing to send", traffic.tx_invalid),
                ("kicked again", traffic.kicks_again),
                ("device busy", traffic.kicks_busy),
                ("device down", traffic.kicks_down),
                ("pool empty", traffic.alloc_fail),
                ("captured", traffic.observed),
                ("not captured", traffic.observe_missed),
                ("refused", refused.total()),
                ("put in quarantine", u64::from(snapshot.places.quarantined)),
                ("home through the ring", snapshot.pool.recycle.ring),
                ("held", u64::from(snapshot.given)),
                ("no more held", snapshot.pool.extras.held_refused),
            ]
        }) {
            *corners.entry(corner).or_insert(0) += times;
        }
        world.end(pair);
    }
    assert!(corners.values().all(|times| *times > 0), "{corners:?}");
}
