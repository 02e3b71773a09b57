//! Who holds frames, and for how long: what page_pool's users read out of `inflight` by guessing.
//!
//! One word per frame says since when it is held and by whom, and a few more count how long it took. Whoever
//! gives a frame away writes them, and whoever brings it home: by atomic additions, without a lock. They carry
//! nothing that the pool itself relies on, and a pool has them only if it was [asked to](FramePool::time_holds).

use std::{fmt, time::Duration};

use crate::{
    FrameId, FramePool, Recycler,
    sync::{Ordering::Relaxed, Tally},
};

/// Upper bounds of the buckets of [`HoldTimes`], each included: powers of four, from 16 µs to 67 s.
pub const HOLD_BOUNDS: [Duration; 12] = {
    let mut bounds = [Duration::ZERO; 12];
    let mut n = 0;
    while n < bounds.len() {
        bounds[n] = Duration::from_micros(16 << (2 * n));
        n += 1;
    }
    bounds
};

/// Who holds a frame. What the numbers stand for is the caller's to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Holder(pub u8);

/// A frame that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Which.
    pub id: FrameId,
    /// By whom first, if several hold it.
    pub by: Holder,
    /// Since when, by the pool's clock, to a millisecond.
    pub since: Duration,
}

/// How long frames were held that came home.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HoldTimes {
    /// How many took no longer than the bound of the same index in [`HOLD_BOUNDS`], and longer than the one
    /// before; behind the last bound, those that took longer than it.
    pub buckets: [u64; HOLD_BOUNDS.len() + 1],
    /// The sum of all of them.
    pub sum: Duration,
}

impl HoldTimes {
    /// How many there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// The index of the bucket for this time.
fn bucket(time: Duration) -> usize {
    HOLD_BOUNDS.partition_point(|bound| *bound < time)
}

/// ```text
/// 63 .. 24                          23 .. 16   15 .. 0
/// since, in units of 2^20 ns        holder     how many hold it
/// ```
/// All zeros while nobody does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word(u64);

impl Word {
    const COUNT: u64 = 0xffff;

    /// The first hold. The time wraps after 36 years.
    fn first(by: Holder, at: Duration) -> Self {
        Self((at.as_nanos() as u64 >> 20) << 24 | u64::from(by.0) << 16 | 1)
    }

    fn count(self) -> u64 {
        self.0 & Self::COUNT
    }

    fn held(self, id: FrameId) -> Held {
        let since = Duration::from_nanos(self.0 >> 24 << 20);
        Held { id, by: Holder((self.0 >> 16) as u8), since }
    }
}

/// What [`FramePool::time_holds`] adds to a pool.
pub(crate) struct Holds {
    clock: Box<dyn Fn() -> Duration + Send + Sync>,
    words: Box<[Tally]>,
    buckets: [Tally; HOLD_BOUNDS.len() + 1],
    sum_ns: Tally,
}

impl Holds {
    /// One more holder. Of 65535 who hold one frame at once no more are counted, and it is shown as held for
    /// ever.
    pub(crate) fn begin(&self, id: FrameId, by: Holder, at: Duration) {
        self.update(id, |word| match word.count() {
            0 => Some(Word::first(by, at)),
            Word::COUNT => None,
            _ => Some(Word(word.0 + 1)),
        });
    }

    /// One holder less, who held the frame since `taken_at`.
    ///
    /// To be called before the frame goes home: from then on the word may be the next holder's.
    pub(crate) fn end(&self, id: FrameId, taken_at: Duration) {
        self.update(id, |word| match word.count() {
            // It was given away before anybody asked for the time.
            0 | Word::COUNT => None,
            1 => Some(Word(0)),
            _ => Some(Word(word.0 - 1)),
        });
        let time = (self.clock)().saturating_sub(taken_at);
        self.buckets[bucket(time)].fetch_add(1, Relaxed);
        self.sum_ns.fetch_add(time.as_nanos() as u64, Relaxed);
    }

    fn update(&self, id: FrameId, change: impl Fn(Word) -> Option<Word>) {
        let change = |word| change(Word(word)).map(|word| word.0);
        if let Some(word) = self.words.get(id.index()) {
            // Refused where nothing is to change.
            let _ = word.fetch_update(Relaxed, Relaxed, change);
        }
    }
}

impl fmt::Debug for Holds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Holds").field("frames", &self.words.len()).finish_non_exhaustive()
    }
}

impl FramePool {
    /// From now on it is known who holds frames, since when, and how long those held that came home. This takes
    /// 8 bytes per frame of the UMEM; and a look at `clock`, which must go on from the times that frames are
    /// [given away](Self::give) at, each time that a holder lets go, on that one's thread.
    ///
    /// Called again it changes nothing. Numbers ([`Token`](crate::Token)) are not timed.
    pub fn time_holds(&mut self, clock: impl Fn() -> Duration + Send + Sync + 'static) {
        self.shared.holds.get_or_init(|| {
            Box::new(Holds {
                clock: Box::new(clock),
                words: (0..self.layout().chunk_count()).map(|_| Tally::new(0)).collect(),
                buckets: Default::default(),
                sum_ns: Tally::new(0),
            })
        });
    }
}

impl Recycler {
    /// The frames that are held at this moment, if holds are [timed](FramePool::time_holds). Costs a load if
    /// there are none, and one per frame of the UMEM at most.
    pub fn held_frames(&self) -> impl Iterator<Item = Held> {
        let mut left = u64::from(self.held());
        let words = self.shared.holds.get().map_or(&[][..], |holds| &holds.words[..]);
        let mut words = (0..).map(FrameId).zip(words);
        std::iter::from_fn(move || {
            while left > 0 {
                let (id, word) = words.next()?;
                let word = Word(word.load(Relaxed));
                if word.count() > 0 {
                    left = left.saturating_sub(word.count());
                    return Some(word.held(id));
                }
            }
            None
        })
    }

    /// How long frames were held that came home; none at all if holds are not [timed](FramePool::time_holds).
    pub fn hold_times(&self) -> HoldTimes {
        self.shared.holds.get().map_or_else(HoldTimes::default, |holds| HoldTimes {
            buckets: holds.buckets.each_ref().map(|bucket| bucket.load(Relaxed)),
            sum: Duration::from_nanos(holds.sum_ns.load(Relaxed)),
        })
    }
}

#[cfg(all(test, not(frame_pool_loom)))]
mod tests {
    use std::{
        sync::{Arc, atomic::AtomicU64},
        thread,
    };

    use super::*;
    use crate::{FrameLayout, PoolConfig, UmemProvider};

    const SECOND: Duration = Duration::from_secs(1);
    const CAPTURE: Holder = Holder(7);

    /// A pool of 16 frames of which all may be held, and its clock.
    fn pool() -> (FramePool, Arc<AtomicU64>) {
        let provider = UmemProvider::new(FrameLayout::new(4096, 16).unwrap());
        let mut pool = FramePool::new(PoolConfig { held_limit: 16, ..PoolConfig::default() }, provider);
        let nanos = Arc::new(AtomicU64::new(0));
        let clock = Arc::clone(&nanos);
        pool.time_holds(move || Duration::from_nanos(clock.load(Relaxed)));
        (pool, nanos)
    }

    #[test]
    fn a_bound_is_the_last_of_its_bucket() {
        assert_eq!(HOLD_BOUNDS[0], Duration::from_micros(16));
        assert_eq!(HOLD_BOUNDS[11], Duration::from_micros(67_108_864));
        for (index, bound) in HOLD_BOUNDS.into_iter().enumerate() {
            assert_eq!((bucket(bound), bucket(bound + Duration::from_nanos(1))), (index, index + 1));
        }
        assert_eq!(bucket(Duration::ZERO), 0);
    }

    #[test]
    fn who_holds_a_frame_and_since_when_is_known_until_the_last_lets_go() {
        let (mut pool, nanos) = pool();
        let recycler = pool.recycler();
        let (first, second) = (pool.alloc().unwrap(), pool.alloc().unwrap());
        let ids = [first.id(), second.id()];
        let first = pool.give_to(first, CAPTURE, SECOND).unwrap();
        let second = pool.give(second, 2 * SECOND).unwrap();
        let mut held: Vec<_> = recycler.held_frames().map(|held| (held.id, held.by)).collect();
        held.sort_by_key(|(id, _)| *id != ids[0]);
        assert_eq!(held, [(ids[0], CAPTURE), (ids[1], Holder(0))]);

        let clone = first.try_clone().unwrap();
        nanos.store(3_000_000_000, Relaxed);
        drop(first);
        drop(second);
        let left: Vec<_> = recycler.held_frames().collect();
        assert_eq!(left.len(), 1);
        assert_eq!((left[0].id, left[0].by), (ids[0], CAPTURE));
        assert!(SECOND - left[0].since < Duration::from_micros(1049), "{left:?}");
        drop(clone);
        assert_eq!(recycler.held_frames().count(), 0);

        let times = recycler.hold_times();
        // Two of two seconds, and one of one: the first bound above is 4.2 s, and 1.05 s.
        assert_eq!((times.count(), times.sum), (3, 5 * SECOND));
        assert_eq!((times.buckets[bucket(SECOND)], times.buckets[bucket(2 * SECOND)]), (1, 2));
    }

    #[test]
    fn a_frame_that_is_given_away_again_is_held_anew() {
        let (mut pool, _) = pool();
        let recycler = pool.recycler();
        for at in 1..=3 {
            let frame = pool.alloc().unwrap();
            let held = pool.give(frame, at * SECOND).unwrap();
            let since = recycler.held_frames().next().unwrap().since;
            assert!(at * SECOND - since < Duration::from_micros(1049), "{since:?}");
            let frame = held.try_into_frame().unwrap();
            assert_eq!(recycler.held_frames().count(), 0);
            pool.put_direct(frame);
        }
        assert_eq!(recycler.hold_times().count(), 3);
    }

    #[test]
    fn a_pool_that_was_not_asked_knows_nothing() {
        let provider = UmemProvider::new(FrameLayout::new(4096, 16).unwrap());
        let mut pool = FramePool::new(PoolConfig::default(), provider);
        let frame = pool.alloc().unwrap();
        let early = pool.give(frame, SECOND).unwrap();
        assert_eq!(pool.recycler().held_frames().count(), 0);
        pool.time_holds(|| 2 * SECOND);
        drop(early);
        assert_eq!((pool.recycler().held_frames().count(), pool.held()), (0, 0));
    }

    #[test]
    fn many_threads_that_let_go_leave_nothing_behind() {
        let (mut pool, _) = pool();
        let recycler = pool.recycler();
        for _ in 0..200 {
            let frame = pool.alloc().unwrap();
            let held = pool.give(frame, Duration::ZERO).unwrap();
            let others: Vec<_> = (0..3).map(|_| held.try_clone().unwrap()).collect();
            thread::scope(|scope| {
                others.into_iter().for_each(|held| drop(scope.spawn(move || drop(held))));
                drop(held);
            });
            assert_eq!(recycler.held_frames().count(), 0);
        }
        assert_eq!(recycler.hold_times().count(), 800);
    }
}
