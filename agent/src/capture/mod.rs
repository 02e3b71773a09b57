//! `--capture`: the thread that writes what workers show it.
//!
//! A worker gives each packet's frames to a queue and never waits ([`datapath::Capture`]). This thread takes
//! them out, copies the bytes into blocks of pcapng, lets go of the frames, and writes: so frames are held for
//! as long as a copy takes, not for as long as a disk does. While it waits for the disk, the queues fill up, and
//! workers count what they could not show.

mod clock;
mod file;
mod pcapng;

use std::{
    io, mem,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, Sender, TryRecvError, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use datapath::{CaptureReader, Captured, HeldBytes, NothingCaptured, Verdict};
use thiserror::Error;

use crate::config;
use clock::Clock;
use file::Output;
use pcapng::{About, Action};

/// How long the thread sleeps when there is nothing to write. Nobody wakes it: that would be a system call of
/// the worker's.
const NAP: Duration = Duration::from_millis(1);
/// What is written at once, at least if there is as much; and what is read of one worker before the next one's turn.
const CHUNK: usize = 256 << 10;
/// How often it is said at most that packets are lost.
const WARN: Duration = Duration::from_secs(60);

/// Why a capture cannot begin.
#[derive(Debug, Error)]
#[error("cannot capture to {}", target(file.as_ref()))]
pub struct CaptureError {
    /// The file; `None`: standard output.
    file: Option<PathBuf>,
    /// Why not.
    source: io::Error,
}

fn target(file: Option<&PathBuf>) -> String {
    file.map_or_else(|| "standard output".into(), |file| file.display().to_string())
}

/// What was written so far; all only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Packets.
    pub packets: u64,
    /// Bytes of the packets' blocks.
    pub bytes: u64,
    /// Packets that workers had shown, and that the disk did not take.
    pub lost: u64,
}

#[derive(Debug, Default)]
struct Counters {
    packets: AtomicU64,
    bytes: AtomicU64,
    lost: AtomicU64,
}

/// One worker, as the writer sees it.
pub struct Source {
    /// What the worker shows.
    pub reader: CaptureReader,
    /// Where the bytes are.
    pub frames: Arc<dyn HeldBytes>,
    /// Names of its interfaces: one, or the two of a pair in the order of its sides.
    pub interfaces: Vec<String>,
    /// Its queue.
    pub queue: u32,
}

/// A running capture, to which workers can be added.
#[derive(Debug)]
pub struct Writer {
    sources: Sender<Source>,
    counters: Arc<Counters>,
    thread: JoinHandle<()>,
}

impl Writer {
    /// Creates the file and starts the thread. `epoch` is time zero of the workers' turns.
    ///
    /// # Errors
    ///
    /// [`CaptureError`].
    pub fn start(config: config::Capture, epoch: Instant) -> Result<Self, CaptureError> {
        let file = config.file.clone();
        let failed = |source| CaptureError { file: file.clone(), source };
        let what = target(file.as_ref());
        let output = Output::create(config).map_err(failed)?;
        let (sources, added) = channel();
        let counters = Arc::new(Counters::default());
        let thread = thread::Builder::new()
            .name("capture".into())
            .spawn({
                let counters = Arc::clone(&counters);
                let clock = Clock::new(epoch);
                move || Writing { output, what, clock, added, counters, warned: None }.run()
            })
            .map_err(failed)?;
        Ok(Self { sources, counters, thread })
    }

    /// Adds a worker.
    pub fn add(&self, source: Source) {
        // It fails only if the thread panicked; then the worker counts everything as missed.
        let _ = self.sources.send(source);
    }

    /// What was written so far.
    pub fn written(&self) -> Written {
        let Counters { packets, bytes, lost } = &*self.counters;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Written { packets: load(packets), bytes: load(bytes), lost: load(lost) }
    }

    /// Tells that no more workers will be added; the thread ends with the last of them.
    pub fn close(self) -> Closing {
        Closing { counters: self.counters, thread: self.thread }
    }
}

/// A capture that ends with the workers it has.
#[derive(Debug)]
pub struct Closing {
    counters: Arc<Counters>,
    thread: JoinHandle<()>,
}

impl Closing {
    /// Whether everything is written.
    pub fn is_done(&self) -> bool {
        self.thread.is_finished()
    }

    /// What was written so far.
    pub fn written(&self) -> Written {
        let Counters { packets, bytes, lost } = &*self.counters;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Written { packets: load(packets), bytes: load(bytes), lost: load(lost) }
    }
}

/// The thread.
struct Writing {
    output: Output,
    /// Its name, for people.
    what: String,
    clock: Clock,
    added: Receiver<Source>,
    counters: Arc<Counters>,
    /// When it was last said that packets are lost.
    warned: Option<Instant>,
}

/// A worker, and where it is in the file.
struct Open {
    source: Source,
    numbers: Vec<u32>,
    /// The parts of the packet that is being read.
    parts: Vec<Captured>,
}

impl Writing {
    fn run(mut self) {
        let mut open: Vec<Open> = Vec::new();
        let mut more_to_come = true;
        while more_to_come || !open.is_empty() {
            more_to_come &= self.take_in(&mut open);
            if !self.round(&mut open) {
                thread::sleep(NAP);
            }
        }
    }

    /// Reads a share of what each worker has shown, and writes it; whether there was anything. Workers that are gone
    /// leave `open`.
    fn round(&mut self, open: &mut Vec<Open>) -> bool {
        self.clock.look();
        let (mut total, mut waiting) = (0, 0);
        open.retain_mut(|source| {
            let (read, goes_on) = self.read(source);
            total += read;
            waiting += read;
            // However many workers there are, no more than two shares wait.
            if self.output.waiting() >= CHUNK {
                self.flush(mem::take(&mut waiting));
            }
            goes_on
        });
        if waiting > 0 {
            self.flush(waiting);
        }
        total > 0
    }

    /// Takes in new workers; whether there may be more.
    fn take_in(&mut self, open: &mut Vec<Open>) -> bool {
        loop {
            match self.added.try_recv() {
                Ok(source) => {
                    // Named at once: a file without interfaces is none to tcpdump.
                    let numbers = source.interfaces.iter().map(|name| self.output.interface(name)).collect();
                    open.push(Open { source, numbers, parts: Vec::new() });
                    self.flush(0);
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// Reads what a worker has shown, a chunk of it at most, whatever others have shown before it; how many packets,
    /// and whether there may be more of it. The frames are given back on the way.
    fn read(&mut self, open: &mut Open) -> (u64, bool) {
        let before = self.output.waiting();
        let mut packets = 0;
        let goes_on = loop {
            match open.source.reader.try_next(&mut open.parts) {
                Ok(()) => self.append(open),
                Err(NothingCaptured::Yet) => break true,
                Err(NothingCaptured::AnyMore) => {
                    open.parts.clear();
                    break false;
                }
            }
            packets += 1;
            if self.output.waiting() - before >= CHUNK {
                break true;
            }
        };
        (packets, goes_on)
    }

    fn append(&mut self, open: &mut Open) {
        let Open { source, numbers, parts } = open;
        let Some(first) = parts.first() else { return };
        let about = About {
            interface: numbers.get(first.seen.side).or(numbers.first()).copied().unwrap_or(0),
            time: self.clock.at(first.seen.at),
            queue: source.queue,
            verdict: action(first.seen.verdict, numbers.len()),
        };
        self.output.packet(about, |put| {
            for part in &*parts {
                source.frames.with_bytes(part, put);
            }
        });
        parts.clear();
    }

    fn flush(&mut self, packets: u64) {
        let bytes = self.output.waiting() as u64;
        let add = |counter: &AtomicU64, n| counter.fetch_add(n, Ordering::Relaxed);
        match self.output.flush() {
            Ok(()) => {
                add(&self.counters.packets, packets);
                add(&self.counters.bytes, bytes);
            }
            Err(error) => {
                add(&self.counters.lost, packets);
                // A disk that is almost full takes a little now and then.
                if self.warned.is_none_or(|warned| warned.elapsed() >= WARN) {
                    self.warned = Some(Instant::now());
                    log::warn!("the capture to {} loses packets: {error}; frames go on moving", self.what);
                }
            }
        }
    }
}

/// What XDP would have called that which a worker of so many interfaces did.
fn action(verdict: Verdict, interfaces: usize) -> Action {
    match verdict {
        Verdict::Drop => Action::Drop,
        Verdict::Transmit if interfaces > 1 => Action::Redirect,
        Verdict::Transmit => Action::Tx,
    }
}

#[cfg(test)]
mod tests {
    use datapath::{
        Worker, WorkerConfig,
        handlers::Drop,
        sim::{SimConfig, SimPort, SimUmem},
    };
    use frame_pool::{FrameLayout, FramePool, PoolConfig, UmemProvider};

    use super::*;

    const LONGEST: usize = 1500;

    fn writing() -> Writing {
        let config = config::Capture {
            file: Some("/dev/null".into()),
            snaplen: 65535,
            rotate_size: None,
            rotate_time: None,
        };
        Writing {
            output: Output::create(config).unwrap(),
            what: "nothing".into(),
            clock: Clock::new(Instant::now()),
            added: channel().1,
            counters: Arc::default(),
            warned: None,
        }
    }

    /// A worker that has shown so many packets and is gone.
    fn shown(packets: usize) -> Open {
        let layout = FrameLayout::new(2048, 2048).unwrap();
        let umem = SimUmem::new(layout);
        let held_limit = layout.chunk_count();
        let pool =
            FramePool::new(PoolConfig { held_limit, ..PoolConfig::default() }, UmemProvider::new(layout));
        let port = SimPort::on(&umem, SimConfig::default());
        let (capture, reader) = datapath::capture::capture(packets);
        let mut worker = Worker::observed(pool, port, Drop, capture, WorkerConfig::default());
        for _ in 0..packets {
            worker.poll_once(Duration::ZERO);
            worker.port_mut().offer(vec![0; LONGEST]);
            worker.port_mut().napi_poll(1);
        }
        worker.poll_once(Duration::ZERO);
        let traffic = worker.snapshot().traffic;
        assert_eq!((traffic.rx_packets, traffic.observe_missed), (packets as u64, 0));
        let source =
            Source { reader, frames: Arc::new(umem), interfaces: vec!["eth0".into()], queue: packets as u32 };
        Open { source, numbers: vec![0], parts: Vec::new() }
    }

    /// How many packets of a worker nobody has read.
    fn left(open: &mut Open) -> usize {
        std::iter::from_fn(|| open.source.reader.try_next(&mut open.parts).ok()).count()
    }

    #[test]
    fn each_worker_has_its_share_however_much_another_shows() {
        const FEW: usize = 50;
        let busy = 3 * CHUNK / LONGEST;
        let mut writing = writing();
        let mut open: Vec<Open> = [busy, FEW, busy, FEW].map(shown).into();
        assert!(writing.round(&mut open));

        let numbers: Vec<u32> = open.iter().map(|open| open.source.queue).collect();
        assert_eq!(numbers, [busy as u32; 2], "of the others everything was read");
        for open in &mut open {
            let left = left(open);
            assert!((busy / 2..busy).contains(&left), "a share was read: {left} of {busy} are left");
        }
        let written = writing.counters.packets.load(Ordering::Relaxed);
        assert!((2 * FEW..2 * busy).contains(&(written as usize)), "{written}");
    }

    #[test]
    fn what_waits_is_bounded_however_many_workers_there_are() {
        let mut writing = writing();
        let mut open: Vec<Open> = (0..8).map(|_| shown(2 * CHUNK / LONGEST)).collect();
        while writing.round(&mut open) {
            assert!(writing.output.room() < 5 * CHUNK, "{}", writing.output.room());
        }
        assert_eq!(writing.counters.packets.load(Ordering::Relaxed) as usize, 8 * (2 * CHUNK / LONGEST));
    }

    #[test]
    fn what_became_of_a_packet_has_xdps_names() {
        let told = |verdict, interfaces| action(verdict, interfaces) as u32;
        assert_eq!((told(Verdict::Drop, 1), told(Verdict::Drop, 2)), (1, 1), "XDP_DROP");
        assert_eq!(told(Verdict::Transmit, 1), 3, "XDP_TX");
        assert_eq!(told(Verdict::Transmit, 2), 4, "XDP_REDIRECT");
    }
}
