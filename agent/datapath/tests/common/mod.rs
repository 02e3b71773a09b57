//! A worker on a simulated queue, and handlers that remember what they saw.
#![allow(clippy::allow_attributes, reason = "not every binary has something to expect")]
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use std::time::Duration;

use datapath::sim::{Random, SimConfig, SimPort};
use datapath::{PacketHandler, QueuePort, Snapshot, Turn, Verdict, Worker, WorkerConfig};
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
    lawful(&worker.published().read());
    turn
}

/// Each frame is in exactly one place.
#[track_caller]
pub fn lawful(snapshot: &Snapshot) {
    let sum: u32 = snapshot.places.iter().map(|(_, frames)| frames).sum();
    assert_eq!(sum, snapshot.total, "frames appear or vanish: {snapshot:?}");
    assert_eq!(snapshot.places.user, snapshot.held, "frames on the floor: {snapshot:?}");
    assert!(snapshot.conserved());
}

/// Remembers every packet; decides by the first byte, and changes the last byte of what it sends.
#[derive(Debug, Default)]
pub struct Recorder {
    pub seen: Vec<Vec<u8>>,
    pub to_send: Vec<Vec<u8>>,
}

impl PacketHandler for Recorder {
    fn handle(&mut self, frame: &mut [u8]) -> Verdict {
        self.seen.push(frame.to_vec());
        if frame.first().is_some_and(|byte| byte % 2 == 0) {
            return Verdict::Drop;
        }
        if let Some(last) = frame.last_mut() {
            *last ^= 0xff;
        }
        self.to_send.push(frame.to_vec());
        Verdict::Transmit
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
