//! What is measured: a handler on a queue in memory that always has a full batch for it.

use std::hint::black_box;
use std::time::Duration;

use datapath::handlers::{Drop, Forward, Generate, Pace, Reflect};
use datapath::{MemoryPort, PacketHandler, Worker, WorkerConfig};
use frame_pool::{FrameLayout, FramePool, PoolConfig, UmemProvider};

/// A handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Drop,
    /// The same, while somebody reads after each turn what the worker has published, and rings for what it has not as
    /// often as ten scrapes a second do.
    Watched,
    Reflect,
    Forward,
    Generate,
}

impl Subject {
    pub(crate) const ALL: [Subject; 5] =
        [Subject::Drop, Subject::Watched, Subject::Reflect, Subject::Forward, Subject::Generate];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Subject::Drop => "drop",
            Subject::Watched => "watched",
            Subject::Reflect => "reflect",
            Subject::Forward => "forward",
            Subject::Generate => "generate",
        }
    }
}

/// A handler and its sizes, in frames.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) subject: Subject,
    pub(crate) batch: usize,
    pub(crate) frames: u32,
}

impl Case {
    /// Every handler with full batches; how it goes with small ones, and with many frames.
    pub(crate) fn all() -> Vec<Case> {
        let full = Subject::ALL.map(|subject| Case { subject, batch: 64, frames: 4096 });
        let small = [1, 8].map(|batch| Case { subject: Subject::Drop, batch, frames: 4096 });
        let many = [Subject::Drop, Subject::Reflect]
            .into_iter()
            .flat_map(|subject| [1024, 65_536].map(|frames| Case { subject, batch: 64, frames }));
        full.into_iter().chain(small).chain(many).collect()
    }

    /// A run of so many turns, each with a batch of packets; how many packets it handled.
    pub(crate) fn run(self, turns: u64) -> u64 {
        match self.subject {
            Subject::Drop | Subject::Watched => self.run_with(Drop, turns),
            Subject::Reflect => self.run_with(Reflect, turns),
            Subject::Forward => self.run_with(Forward, turns),
            Subject::Generate => {
                let pace = Pace { rate: None, count: None };
                self.run_with(Generate::new(&udp(), pace).expect("it has a header"), turns)
            }
        }
    }

    fn run_with<H: PacketHandler>(self, handler: H, turns: u64) -> u64 {
        let layout = FrameLayout::new(2048, self.frames).expect("a valid layout");
        let pool = FramePool::new(PoolConfig::default(), UmemProvider::new(layout));
        let ring = self.frames / 2;
        let config = WorkerConfig { batch: self.batch, fill_target: ring, backlog: 256 };
        let mut worker = Worker::new(pool, MemoryPort::new(layout, ring), handler, config);
        let packet = udp();
        // Until every frame has held a packet.
        for _ in 0..4 * self.frames {
            worker.poll_once(Duration::ZERO);
            worker.port_mut().arrive(&packet);
            worker.port_mut().send_all();
        }
        let receives = self.subject != Subject::Generate;
        let before = worker.snapshot().traffic;
        let published = worker.published();
        let (mut now, mut rung) = (Duration::ZERO, 0);
        for turn in 0..turns {
            if receives {
                worker.port_mut().arrive_many(self.batch, packet.len() as u32);
            }
            one_turn(&mut worker, now);
            now += TURN;
            worker.port_mut().send_all();
            if self.subject != Subject::Watched {
                continue;
            }
            let pending = published.pending();
            black_box(published.read());
            if turn % SCRAPE == SCRAPE / 2
                && let Some(pending) = pending
            {
                let before = rung;
                while !published.has_come(pending) {
                    one_turn(&mut worker, now);
                    now += LOOK;
                    rung += 1;
                    assert!(rung - before < 10, "it does not publish");
                }
            }
        }
        assert!(self.subject != Subject::Watched || rung > 0, "nobody had to be woken");
        let snapshot = worker.snapshot();
        assert!(snapshot.conserved(), "{snapshot:?}");
        let packets = |traffic: datapath::Traffic| traffic.rx_packets + traffic.generated;
        packets(snapshot.traffic) - packets(before)
    }
}

/// How long a turn is said to take, which decides how many of them are published.
const TURN: Duration = Duration::from_micros(10);
/// Turns from one scrape to the next. At ten a second these are 64,000 packets a second, in full batches.
const SCRAPE: u64 = 100;
/// How long after a ring it is looked whether it was heard, and rung again: the bell wakes a worker that sleeps for
/// a turn without packets, which publishes only if the last publication is a while ago.
const LOOK: Duration = Duration::from_millis(1);

/// What is counted, and nothing else: see `instructions.rs`.
#[inline(never)]
fn one_turn<H: PacketHandler>(worker: &mut Worker<MemoryPort, H>, now: Duration) {
    black_box(worker.poll_once(black_box(now)));
}

/// 60 bytes: UDP over IPv4 with a checksum of its own, so that `reflect` has none to complete.
fn udp() -> Vec<u8> {
    let mut packet = vec![0; 60];
    packet[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
    packet[12..24].copy_from_slice(&[0x08, 0x00, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17]);
    packet[26..34].copy_from_slice(&[10, 0, 0, 2, 10, 0, 0, 1]);
    packet[34..42].copy_from_slice(&[0x0f, 0xa0, 0, 7, 0, 26, 0x12, 0x34]);
    packet
}
