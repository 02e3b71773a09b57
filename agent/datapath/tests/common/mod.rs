//! A worker on a simulated queue, and handlers that remember what they saw.
#![allow(clippy::allow_attributes, reason = "not every binary has something to expect")]
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use std::time::Duration;

use datapath::sim::{Random, SimConfig, SimPort};
use datapath::{
    Fragments, FrameBytes, PacketHandler, QueuePort, Snapshot, Turn, Verdict, Worker, WorkerConfig,
};
use frame_pool::{FrameLayout, FramePool, PoolConfig, UmemProvider};

pub const CHUNK: u32 = 2048;

/// The longest packet that one frame holds behind `XDP_PACKET_HEADROOM`.
pub const LONGEST: usize = CHUNK as usize - 256;

/// A pool of `frames` frames and a simulated queue for it.
pub fn pool_and_port(frames: u32, sim: SimConfig) -> (FramePool, SimPort) {
    let layout = FrameLayout::new(CHUNK, frames).unwrap();
    let pool = FramePool::new(PoolConfig::default(), UmemProvider::new(layout));
    (pool, SimPort::new(layout, sim))
}

/// A worker on a simulated queue of `frames` frames.
pub fn worker<H: PacketHandler>(
    frames: u32,
    sim: SimConfig,
    handler: H,
    config: WorkerConfig,
) -> Worker<SimPort, H> {
    let (pool, port) = pool_and_port(frames, sim);
    Worker::new(pool, port, handler, config)
}

/// One turn, after which the law must hold.
#[track_caller]
pub fn turn<P: QueuePort, H: PacketHandler>(worker: &mut Worker<P, H>) -> Turn {
    let turn = worker.poll_once(Duration::ZERO);
    lawful(&worker.snapshot());
    turn
}

/// Rings of so many slots.
pub fn small_rings(fill: u32, rx: u32, tx: u32, completion: u32) -> SimConfig {
    SimConfig {
        fill_ring: fill,
        rx_ring: rx,
        tx_ring: tx,
        completion_ring: completion,
        ..SimConfig::default()
    }
}

/// Lets `count` packets arrive and be polled by NAPI.
pub fn arrive<H: PacketHandler>(worker: &mut Worker<SimPort, H>, count: usize) {
    for n in 0..count {
        worker.port_mut().offer(numbered(n));
    }
    worker.port_mut().napi_poll(count);
}

/// A turn that receives, and one that refills.
#[track_caller]
pub fn two_turns<H: PacketHandler>(worker: &mut Worker<SimPort, H>) {
    turn(worker);
    turn(worker);
}

/// Each frame is in exactly one place.
#[track_caller]
pub fn lawful(snapshot: &Snapshot) {
    let sum: u32 = snapshot.places.iter().map(|(_, frames)| frames).sum();
    assert_eq!(sum, snapshot.total, "frames appear or vanish: {snapshot:?}");
    let held = snapshot.held..=snapshot.held + snapshot.given;
    assert!(held.contains(&snapshot.places.user), "frames on the floor: {snapshot:?}");
    assert!(snapshot.conserved());
}

/// Remembers every packet; decides by the first byte, and changes the last byte of what it sends.
#[derive(Debug, Default)]
pub struct Recorder {
    pub seen: Vec<Vec<u8>>,
    pub to_send: Vec<Vec<u8>>,
    /// What it made of each packet, and what it said; but a packet without bytes cannot be sent.
    pub decided: Vec<(Verdict, Vec<u8>)>,
}

impl Recorder {
    fn decide(&mut self, mut packet: Vec<u8>) -> Verdict {
        self.seen.push(packet.clone());
        if packet.first().is_some_and(|byte| byte % 2 == 0) {
            self.decided.push((Verdict::Drop, packet));
            return Verdict::Drop;
        }
        if let Some(last) = packet.last_mut() {
            *last ^= 0xff;
        }
        let is_sent = if packet.is_empty() { Verdict::Drop } else { Verdict::Transmit };
        self.decided.push((is_sent, packet.clone()));
        self.to_send.push(packet);
        Verdict::Transmit
    }
}

impl PacketHandler for Recorder {
    /// Now and then it has to look closer.
    fn glance(&mut self, packet: &mut [u8]) -> Option<Verdict> {
        let is_odd = packet.last().is_some_and(|last| last % 8 == 0);
        (!is_odd).then(|| self.handle(packet))
    }

    fn handle(&mut self, packet: &mut [u8]) -> Verdict {
        let verdict = self.decide(packet.to_vec());
        if let (Verdict::Transmit, Some(last)) = (verdict, packet.last_mut()) {
            *last ^= 0xff;
        }
        verdict
    }

    fn handle_fragments<B: FrameBytes>(&mut self, packet: &mut Fragments<'_, B>) -> Verdict {
        let mut whole = Vec::new();
        (0..packet.count()).for_each(|index| packet.with(index, |bytes| whole.extend_from_slice(bytes)));
        let verdict = self.decide(whole);
        if verdict == Verdict::Transmit {
            packet.with_mut(packet.count() - 1, |tail| {
                if let Some(last) = tail.last_mut() {
                    *last ^= 0xff;
                }
            });
        }
        verdict
    }
}

/// Sends everything as it is.
#[derive(Debug, Default)]
pub struct Echo;

impl PacketHandler for Echo {
    fn handle(&mut self, _frame: &mut [u8]) -> Verdict {
        Verdict::Transmit
    }
}

/// A packet of random bytes.
pub fn packet(random: &mut Random, len: usize) -> Vec<u8> {
    (0..len).map(|_| random.bits() as u8).collect()
}

/// A packet that can be told from others: its number in every byte pair.
pub fn numbered(n: usize) -> Vec<u8> {
    (n as u16).to_be_bytes().repeat(30)
}

/// Runs `scenario` with every seed that the environment asks for.
pub fn for_each_seed(scenario: fn(u64)) {
    let number = |name| std::env::var(name).ok().map(|value| value.parse::<u64>().expect(name));
    let seeds = match number("UMEMD_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("UMEMD_SIM_SEEDS").unwrap_or(100),
    };
    for seed in seeds {
        let _guard = PrintOnPanic(seed);
        scenario(seed);
    }
}

struct PrintOnPanic(u64);

impl Drop for PrintOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay with `cargo xtask test sim --seed {}`", self.0);
        }
    }
}

/// A queue of random sizes, small enough for every ring to be empty and full now and then.
pub fn random_sizes(random: &mut Random, seed: u64) -> (u32, SimConfig, WorkerConfig) {
    let mut ring = || 1 << (1 + random.below(8));
    let sim = SimConfig {
        seed,
        fill_ring: ring(),
        rx_ring: ring(),
        tx_ring: ring(),
        completion_ring: ring(),
        headroom: [0, 64, 192][random.below(3)],
        multi_buffer: false,
        old_kernel: random.chance(128),
    };
    let worker = WorkerConfig {
        batch: 1 + random.below(80),
        fill_target: 1 + random.below(300) as u32,
        backlog: random.below(100),
    };
    (8 + random.below(500) as u32, sim, worker)
}

/// Sends the first packet, drops the next one, and so on; breaks after so many.
#[derive(Debug)]
pub struct Fragile {
    pub left: usize,
    /// A glance is enough for packets with lower numbers.
    pub glances_below: u8,
}

impl PacketHandler for Fragile {
    fn glance(&mut self, packet: &mut [u8]) -> Option<Verdict> {
        (packet[1] < self.glances_below).then(|| self.handle(packet))
    }

    fn handle(&mut self, packet: &mut [u8]) -> Verdict {
        self.left = self.left.checked_sub(1).expect("it breaks here");
        if packet[1].is_multiple_of(2) { Verdict::Transmit } else { Verdict::Drop }
    }
}
