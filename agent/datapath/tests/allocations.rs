//! A worker allocates when it is made, and never after that.

use std::time::Duration;

use allocation_counter::measure;
use datapath::capture::capture;
use datapath::handlers::{Drop, Forward, Generate, Pace, Reflect};
use datapath::{MemoryPort, Observer, PacketHandler, Pair, Worker, WorkerConfig};
use frame_pool::{FrameLayout, FramePool, PoolConfig, UmemProvider};

const FRAMES: u32 = 1024;
const TURNS: u32 = 64;

/// Long enough for every turn to be published.
const TURN: Duration = Duration::from_millis(2);

fn layout() -> FrameLayout {
    FrameLayout::new(2048, FRAMES).unwrap()
}

fn pool() -> FramePool {
    FramePool::new(PoolConfig::default(), UmemProvider::new(layout()))
}

/// A burst of short packets, some that an odd way is for, and one in several frames.
fn arrive(port: &mut MemoryPort) {
    port.arrive_many(64, 60);
    assert!(port.arrive(&[0; 14]) && port.arrive(&[0; 5000]) && port.arrive(&[]));
}

fn turns<H: PacketHandler, O: Observer>(worker: &mut Worker<MemoryPort, H, O>, mut between: impl FnMut()) {
    worker.poll_once(Duration::ZERO);
    let info = measure(|| {
        for turn in 1..TURNS {
            arrive(worker.port_mut());
            worker.poll_once(TURN * turn);
            worker.port_mut().send_all();
            between();
        }
    });
    let snapshot = worker.snapshot();
    assert!(snapshot.conserved() && snapshot.traffic.rx_packets > 64 * 60, "{snapshot:?}");
    assert_eq!((info.count_total, info.bytes_total), (0, 0));
}

fn worker<H: PacketHandler>(handler: H) -> Worker<MemoryPort, H> {
    Worker::new(pool(), MemoryPort::new(layout(), FRAMES), handler, WorkerConfig::default())
}

#[test]
fn no_handler_allocates() {
    turns(&mut worker(Drop), || ());
    turns(&mut worker(Reflect), || ());
    turns(&mut worker(Forward), || ());
    let pace = Pace { rate: None, count: None };
    turns(&mut worker(Generate::new(&[0; 60], pace).unwrap()), || ());
}

#[test]
fn a_pair_allocates_nothing() {
    let provider = UmemProvider::new(layout());
    let side =
        || (FramePool::new(PoolConfig::default(), provider.clone()), MemoryPort::new(layout(), FRAMES / 2));
    let config = WorkerConfig { fill_target: FRAMES / 4, ..WorkerConfig::default() };
    let mut pair = Pair::new([side(), side()], Forward, (), config);
    pair.poll_once(Duration::ZERO);
    let info = measure(|| {
        for turn in 1..TURNS {
            pair.ports_mut().into_iter().for_each(arrive);
            // The second turn is for what the first one had no room for.
            pair.poll_once(TURN * turn);
            pair.poll_once(TURN * turn + TURN / 2);
            for port in pair.ports_mut() {
                port.send_all();
            }
        }
    });
    assert!(pair.snapshots().iter().all(|side| side.conserved() && side.traffic.tx_packets > 64 * 60));
    assert_eq!((info.count_total, info.bytes_total), (0, 0));
}

#[test]
fn a_capture_allocates_nothing() {
    let (observer, mut reader) = capture(256);
    let port = MemoryPort::new(layout(), FRAMES);
    let mut worker = Worker::observed(pool(), port, Reflect, observer, WorkerConfig::default());
    let mut parts = Vec::with_capacity(32);
    turns(&mut worker, || while reader.try_next(&mut parts).is_ok() {});
    assert!(worker.snapshot().traffic.observed > 0);
}
