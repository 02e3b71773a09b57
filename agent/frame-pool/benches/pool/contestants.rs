//! What is measured: the pool, and three things that one could use instead.

use std::{
    hint::black_box,
    sync::{Arc, Mutex},
    thread,
};

use crossbeam_queue::ArrayQueue;
use frame_pool::{Frame, FrameLayout, FramePin, FramePool, FrameRef, PoolConfig, Recycler, UmemProvider};

/// The way of a frame, as the kernel's benchmark names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bench {
    /// Out of the cache and directly back into it.
    FastPath,
    /// Back through the ring.
    PtrRing,
    /// From the provider and back to it, as somebody else still has the frame when the pool gets it back.
    Slow,
}

impl Bench {
    pub(crate) const ALL: [Self; 3] = [Self::FastPath, Self::PtrRing, Self::Slow];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::FastPath => "fast_path",
            Self::PtrRing => "ptr_ring",
            Self::Slow => "slow",
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) bench: Bench,
    /// Frames taken, and then returned, at once.
    pub(crate) batch: usize,
    /// With 2, one thread takes and another returns.
    pub(crate) threads: usize,
    /// Frames of the UMEM.
    pub(crate) frames: u32,
}

impl Case {
    pub(crate) fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for bench in Bench::ALL {
            for batch in [1, 64] {
                // A cost that grows with the UMEM would show.
                for frames in [1 << 10, 1 << 12, 1 << 18] {
                    all.push(Self { bench, batch, threads: 1, frames });
                }
            }
        }
        for batch in [1, 64] {
            all.push(Self { bench: Bench::PtrRing, batch, threads: 2, frames: 1 << 12 });
        }
        all
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contestant {
    Pool,
    /// The floor: `Vec<u32>`, one pop and one push per frame.
    Vec,
    /// As `Vec`, but whole slices are moved.
    VecSlices,
    ArrayQueue,
    MutexVec,
    /// What two threads pay for passing parcels to each other, with no queue or pool at their ends.
    HandOver,
}

/// Passes this many frames through.
pub(crate) type Run = Box<dyn FnMut(u64)>;

impl Contestant {
    /// Who can run the case; the pool is first.
    pub(crate) fn for_case(case: Case) -> Vec<Self> {
        match (case.threads, case.batch) {
            (1, 1) => vec![Self::Pool, Self::Vec, Self::ArrayQueue, Self::MutexVec],
            (1, _) => vec![Self::Pool, Self::Vec, Self::VecSlices, Self::ArrayQueue, Self::MutexVec],
            _ => vec![Self::Pool, Self::Vec, Self::ArrayQueue, Self::MutexVec, Self::HandOver],
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pool => "pool",
            Self::Vec => "vec",
            Self::VecSlices => "vec_slices",
            Self::ArrayQueue => "array_queue",
            Self::MutexVec => "mutex_vec",
            Self::HandOver => "hand_over",
        }
    }

    /// Whether one could use it instead; the others only show where the time goes.
    pub(crate) fn is_rival(self) -> bool {
        !matches!(self, Self::VecSlices | Self::HandOver)
    }

    pub(crate) fn prepare(self, case: Case) -> Run {
        match (self, case.threads) {
            (Self::Pool, 1) => pool_one_thread(case),
            (Self::Pool, _) => pool_two_threads(case),
            // One frame at a time and one thread, whatever the others do: this is the floor, not a rival.
            (Self::Vec, _) => {
                let mut stack: Vec<u32> = (0..case.frames).collect();
                Box::new(move |frames| {
                    for _ in 0..frames {
                        if let Some(id) = black_box(stack.pop()) {
                            stack.push(id);
                        }
                    }
                })
            }
            (Self::VecSlices, _) => {
                let mut stack: Vec<u32> = (0..case.frames).collect();
                let mut hand: Vec<u32> = Vec::with_capacity(case.batch);
                Box::new(move |frames| {
                    rounds(frames, case.batch, |n| {
                        let rest = stack.len() - n;
                        hand.extend_from_slice(&stack[rest..]);
                        stack.truncate(rest);
                        black_box(&mut hand);
                        stack.extend_from_slice(&hand);
                        hand.clear();
                    });
                })
            }
            (Self::ArrayQueue, 1) => one_thread(case, full_array_queue(case)),
            (Self::ArrayQueue, _) => two_threads(case, full_array_queue(case)),
            (Self::MutexVec, 1) => one_thread(case, full_mutex_vec(case)),
            (Self::MutexVec, _) => two_threads(case, full_mutex_vec(case)),
            (Self::HandOver, _) => hand_over(|parcel: &mut Vec<u64>| parcel.push(1), Vec::clear),
        }
    }
}

fn rounds(frames: u64, batch: usize, mut round: impl FnMut(usize)) {
    for _ in 0..frames / batch as u64 {
        round(batch);
    }
}

fn pool(case: Case) -> FramePool {
    let provider = UmemProvider::new(FrameLayout::new(4096, case.frames).expect("it can be laid out"));
    let ring_size = 4096.min(case.frames);
    FramePool::new(PoolConfig { ring_size, ..PoolConfig::default() }, provider)
}

fn pool_one_thread(case: Case) -> Run {
    let pool = pool(case);
    let (recycler, bulk_recycler) = (pool.recycler(), pool.recycler());
    match case.bench {
        Bench::FastPath => take_and_return(case, pool, FramePool::put_direct, FramePool::put_direct_bulk),
        Bench::PtrRing => take_and_return(
            case,
            pool,
            move |_, frame| recycler.put(frame),
            move |_, hand| bulk_recycler.put_bulk(hand),
        ),
        Bench::Slow => {
            let mut bundles = Vec::with_capacity(case.batch);
            let mut pins = Vec::with_capacity(case.batch);
            take_and_return(
                case,
                pool,
                move |pool, frame| {
                    let (bundle, pin) = pinned(&recycler, frame);
                    pool.put_ref_direct(bundle);
                    recycler.unpin(pin).expect("it is this pool's");
                },
                move |pool, hand| {
                    for frame in hand.drain(..) {
                        let (bundle, pin) = pinned(&bulk_recycler, frame);
                        bundles.push(bundle);
                        pins.push(pin);
                    }
                    pool.put_refs_direct_bulk(&mut bundles);
                    pins.drain(..).for_each(|pin| bulk_recycler.unpin(pin).expect("it is this pool's"));
                },
            )
        }
    }
}

/// What the kernel's benchmark does with `get_page()`, so that a page is not recycled.
fn pinned(recycler: &Recycler, frame: Frame) -> (FrameRef, FramePin) {
    let bundle = recycler.share(frame, 1).expect("it is this pool's");
    let pin = recycler.pin(&bundle).expect("nobody else pins it");
    (bundle, pin)
}

fn take_and_return(
    case: Case,
    mut pool: FramePool,
    mut put: impl FnMut(&mut FramePool, Frame) + 'static,
    mut put_bulk: impl FnMut(&mut FramePool, &mut Vec<Frame>) + 'static,
) -> Run {
    let mut hand: Vec<Frame> = Vec::with_capacity(case.batch);
    Box::new(move |frames| {
        let before = returned(&pool, case.bench);
        if case.batch == 1 {
            for _ in 0..frames {
                if let Some(frame) = black_box(pool.alloc()) {
                    put(&mut pool, frame);
                }
            }
        } else {
            rounds(frames, case.batch, |n| {
                pool.alloc_bulk(&mut hand, n);
                black_box(&mut hand);
                put_bulk(&mut pool, &mut hand);
            });
        }
        // Else something else was measured than the name says.
        assert_eq!(returned(&pool, case.bench) - before, frames, "not all frames went the way of {case:?}");
    })
}

/// Frames that came back by this way.
fn returned(pool: &FramePool, bench: Bench) -> u64 {
    let recycle = pool.stats().recycle;
    match bench {
        Bench::FastPath => recycle.cached,
        Bench::PtrRing => recycle.ring,
        Bench::Slow => recycle.released_refcnt,
    }
}

/// Takes and returns one item, as a queue or stack that any thread may use.
trait Shared: Send + Sync + 'static {
    fn take(&self) -> Option<u32>;
    fn give(&self, id: u32);

    fn take_bulk(&self, hand: &mut Vec<u32>, n: usize) {
        hand.extend((0..n).map_while(|_| self.take()));
    }

    fn give_bulk(&self, hand: &mut Vec<u32>) {
        hand.drain(..).for_each(|id| self.give(id));
    }
}

impl Shared for ArrayQueue<u32> {
    fn take(&self) -> Option<u32> {
        self.pop()
    }

    fn give(&self, id: u32) {
        self.push(id).expect("it has room for all");
    }
}

impl Shared for Mutex<Vec<u32>> {
    fn take(&self) -> Option<u32> {
        self.lock().expect("nobody panics").pop()
    }

    fn give(&self, id: u32) {
        self.lock().expect("nobody panics").push(id);
    }

    fn take_bulk(&self, hand: &mut Vec<u32>, n: usize) {
        let mut stack = self.lock().expect("nobody panics");
        let rest = stack.len().saturating_sub(n);
        hand.extend(stack.drain(rest..));
    }

    fn give_bulk(&self, hand: &mut Vec<u32>) {
        self.lock().expect("nobody panics").append(hand);
    }
}

fn full_array_queue(case: Case) -> ArrayQueue<u32> {
    let queue = ArrayQueue::new(case.frames as usize);
    (0..case.frames).for_each(|id| queue.push(id).expect("it has room for all"));
    queue
}

fn full_mutex_vec(case: Case) -> Mutex<Vec<u32>> {
    Mutex::new((0..case.frames).collect())
}

fn one_thread(case: Case, shared: impl Shared) -> Run {
    let mut hand = Vec::with_capacity(case.batch);
    if case.batch == 1 {
        return Box::new(move |frames| {
            for _ in 0..frames {
                if let Some(id) = black_box(shared.take()) {
                    shared.give(id);
                }
            }
        });
    }
    Box::new(move |frames| {
        rounds(frames, case.batch, |n| {
            shared.take_bulk(&mut hand, n);
            black_box(&mut hand);
            shared.give_bulk(&mut hand);
        });
    })
}

/// Hand-over between the two threads is by vectors of this many, the same for all contestants.
const PARCEL: usize = 64;
const PARCELS: usize = 16;

/// The owner fills parcels by `take`; a second thread empties them by `give`.
fn hand_over<T: Send + 'static>(
    mut take: impl FnMut(&mut Vec<T>) + 'static,
    mut give: impl FnMut(&mut Vec<T>) + Send + 'static,
) -> Run {
    let full = Arc::new(ArrayQueue::<Vec<T>>::new(PARCELS));
    let empty = Arc::new(ArrayQueue::<Vec<T>>::new(PARCELS));
    for _ in 0..PARCELS {
        drop(empty.push(Vec::with_capacity(PARCEL)));
    }
    let (their_full, their_empty) = (Arc::clone(&full), Arc::clone(&empty));
    thread::spawn(move || {
        // Until the owner is gone.
        while Arc::strong_count(&their_full) > 1 {
            let Some(mut parcel) = their_full.pop() else {
                thread::yield_now();
                continue;
            };
            give(&mut parcel);
            drop(their_empty.push(parcel));
        }
    });
    Box::new(move |frames| {
        for _ in 0..frames / PARCEL as u64 {
            let mut parcel = loop {
                match empty.pop() {
                    Some(parcel) => break parcel,
                    None => thread::yield_now(),
                }
            };
            while parcel.len() < PARCEL {
                take(&mut parcel);
            }
            drop(full.push(parcel));
        }
    })
}

fn pool_two_threads(case: Case) -> Run {
    let mut pool = pool(case);
    let recycler = pool.recycler();
    if case.batch == 1 {
        hand_over(
            move |parcel| parcel.extend(pool.alloc()),
            move |parcel| parcel.drain(..).for_each(|frame| recycler.put(frame)),
        )
    } else {
        hand_over(
            move |parcel| {
                pool.alloc_bulk(parcel, PARCEL - parcel.len());
            },
            move |parcel| recycler.put_bulk(parcel),
        )
    }
}

fn two_threads(case: Case, shared: impl Shared) -> Run {
    let owner = Arc::new(shared);
    let returner = Arc::clone(&owner);
    if case.batch == 1 {
        hand_over(
            move |parcel| parcel.extend(owner.take()),
            move |parcel: &mut Vec<u32>| parcel.drain(..).for_each(|id| returner.give(id)),
        )
    } else {
        hand_over(
            move |parcel| owner.take_bulk(parcel, PARCEL - parcel.len()),
            move |parcel| returner.give_bulk(parcel),
        )
    }
}
