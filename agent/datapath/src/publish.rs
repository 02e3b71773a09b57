//! [`Published`]: a worker's last [`Snapshot`], readable anywhere without disturbing the worker.
//!
//! The numbers of a snapshot lie in the words of a seqlock, one after the other. To take a snapshot and to write it
//! costs more than a turn that found a packet or two, and at moderate load most turns are such: so a worker does it
//! once in a millisecond, and a reader who wants to see all that happened before he asked can wait for it, and see to
//! it that there is another turn if the worker sleeps.

use std::time::Duration;

pub use crate::notice::Pending;
use crate::notice::{Notice, NoticeWriter};
use crate::snapshot::Snapshot;

/// Calls the macro `$with` with the path and type of every number in a [`Snapshot`], in the order in
/// which they lie in the published block.
macro_rules! every_number_of_a_snapshot {
    ($with:ident) => {
        $with! {
            total: u32, held: u32, given: u32,
            places.slab: u32, places.cache: u32, places.ring: u32, places.user: u32,
            places.fill: u32, places.kernel: u32, places.rx: u32, places.tx: u32,
            places.completion: u32, places.quarantined: u32, places.detached: u32,
            pool.alloc.fast: u64, pool.alloc.slow: u64, pool.alloc.slow_high_order: u64,
            pool.alloc.empty: u64, pool.alloc.refill: u64, pool.alloc.waive: u64,
            pool.recycle.cached: u64, pool.recycle.cache_full: u64, pool.recycle.ring: u64,
            pool.recycle.ring_full: u64, pool.recycle.released_refcnt: u64,
            pool.extras.alloc_fail: u64, pool.extras.slow_frames: u64,
            pool.extras.ring_full_frames: u64, pool.extras.foreign_put: u64,
            pool.extras.double_put: u64, pool.extras.bad_addr: u64, pool.extras.held_refused: u64,
            hold: u32, release: u32, inflight: i32,
            refused.out_of_range: u64, refused.not_lent: u64, refused.wrong_ring: u64,
            refused.quarantined: u64, refused.not_ours: u64,
            traffic.rx_packets: u64, traffic.rx_bytes: u64, traffic.tx_packets: u64,
            traffic.tx_bytes: u64, traffic.completions: u64, traffic.filled: u64,
            traffic.rx_fragments: u64, traffic.tx_fragments: u64, traffic.generated: u64,
            traffic.handler_dropped: u64, traffic.rx_torn: u64, traffic.rx_too_long: u64,
            traffic.rx_unhandled: u64,
            traffic.tx_full: u64, traffic.tx_invalid: u64, traffic.tx_unsent: u64,
            traffic.alloc_fail: u64,
            traffic.kicks_done: u64, traffic.kicks_again: u64, traffic.kicks_busy: u64,
            traffic.kicks_down: u64, traffic.kicks_failed: u64,
            traffic.observed: u64, traffic.observe_missed: u64,
            idle_lowest: u32, turns_busy: u64, turns_idle: u64, last_turn: Duration,
        }
    };
}

macro_rules! count {
    ($($($field:ident).+ : $type:ty,)+) => { [$(stringify!($($field).+)),+].len() };
}

/// How many words a snapshot has.
const WORDS: usize = every_number_of_a_snapshot!(count);

/// A number as it lies in the block.
trait Word {
    fn into_word(self) -> u64;
    fn from_word(word: u64) -> Self;
}

macro_rules! word_by_cast {
    ($($type:ty)+) => {
        $(impl Word for $type {
            fn into_word(self) -> u64 {
                self as u64
            }
            fn from_word(word: u64) -> Self {
                word as $type
            }
        })+
    };
}

word_by_cast! { u32 i32 u64 }

/// In nanoseconds, which lasts for 584 years.
impl Word for Duration {
    fn into_word(self) -> u64 {
        self.as_nanos() as u64
    }
    fn from_word(word: u64) -> Self {
        Duration::from_nanos(word)
    }
}

/// The reading side. Clone it for as many readers as there are.
#[derive(Clone, Debug)]
pub struct Published(Notice<WORDS>);

/// The writing side: there is one.
#[derive(Debug)]
pub struct Publisher(NoticeWriter<WORDS>);

impl Publisher {
    /// A block that holds an empty snapshot.
    pub fn new() -> Self {
        Publisher(NoticeWriter::new())
    }

    /// A reading side of this block.
    pub fn reader(&self) -> Published {
        Published(self.0.reader())
    }

    /// Shows `snapshot` to the readers: one Relaxed store per word.
    pub fn publish(&mut self, snapshot: &Snapshot) {
        macro_rules! words_of_each {
            ($($($field:ident).+ : $type:ty,)+) => { [$(snapshot.$($field).+.into_word()),+] };
        }
        self.0.write(&every_number_of_a_snapshot!(words_of_each));
    }

    /// Tells the readers that there is more than was published.
    #[inline]
    pub fn fall_behind(&mut self) {
        self.0.fall_behind();
    }
}

impl Default for Publisher {
    fn default() -> Self {
        Self::new()
    }
}

impl Published {
    /// The worker's last snapshot, whole. Never blocks the worker; may itself look more than once.
    pub fn read(&self) -> Snapshot {
        loop {
            if let Some(snapshot) = self.try_read() {
                return snapshot;
            }
            // The writer was stopped by the scheduler in the middle of its few stores. Spinning could
            // keep the one processor that it waits for.
            std::thread::yield_now();
        }
    }

    /// What to wait for in order to see every turn that has ended by now; `None`: all of them are published.
    ///
    /// A worker at work shows where it is once in a millisecond, one that sleeps in the first turn after it is
    /// woken, or the second.
    pub fn pending(&self) -> Option<Pending> {
        self.0.pending()
    }

    /// Whether that has been published.
    pub fn has_come(&self, pending: Pending) -> bool {
        self.0.has_come(pending)
    }

    /// One look. `None` if the worker was publishing meanwhile.
    pub fn try_read(&self) -> Option<Snapshot> {
        let words = self.0.read()?;
        let mut snapshot = Snapshot::default();
        let mut words = words.into_iter();
        macro_rules! load_each {
            ($($($field:ident).+ : $type:ty,)+) => {
                $(if let Some(word) = words.next() {
                    snapshot.$($field).+ = <$type>::from_word(word);
                })+
            };
        }
        every_number_of_a_snapshot!(load_each);
        Some(snapshot)
    }
}

#[cfg(all(test, not(datapath_loom)))]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A snapshot whose numbers are all different, or all `same`.
    fn snapshot(same: Option<u64>) -> Snapshot {
        let mut snapshot = Snapshot::default();
        let mut n = 0;
        macro_rules! set_each {
            ($($($field:ident).+ : $type:ty,)+) => {
                $(n += 1; snapshot.$($field).+ = <$type>::from_word(same.unwrap_or(n));)+
            };
        }
        every_number_of_a_snapshot!(set_each);
        snapshot
    }

    #[test]
    fn no_number_is_left_out_of_the_block() {
        // All numbers of a snapshot are printed by its Debug. One that the list above lacks stays 0.
        let printed = format!("{:?}", snapshot(None)).replace("ns", "");
        assert!(!printed.contains(": 0,") && !printed.contains(": 0 }"), "{printed}");
        let numbers = printed.split(|c: char| !c.is_ascii_digit()).filter(|word| !word.is_empty());
        assert_eq!(numbers.count(), WORDS);
    }

    #[test]
    fn what_is_published_is_read() {
        let mut publisher = Publisher::new();
        let reader = publisher.reader();
        assert_eq!(reader.read(), Snapshot::default());
        let mut written = snapshot(None);
        written.inflight = -3;
        publisher.publish(&written);
        assert_eq!(reader.read(), written);
        drop(publisher);
        assert_eq!(reader.read(), written, "readable after the worker is gone");
    }

    #[test]
    fn a_reader_waits_for_what_is_not_published_and_for_nothing_else() {
        let mut publisher = Publisher::new();
        let reader = publisher.reader();
        publisher.publish(&snapshot(Some(1)));
        assert!(reader.pending().is_none());
        publisher.fall_behind();
        let pending = reader.pending().expect("a turn is not published");
        assert!(!reader.has_come(pending));
        publisher.publish(&snapshot(Some(2)));
        assert!(reader.has_come(pending) && reader.pending().is_none());
    }

    #[test]
    fn readers_never_see_two_turns_mixed() {
        const READERS: usize = 2;
        const ENCOUNTERS: usize = 30;
        let mut publisher = Publisher::new();
        let finished = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..READERS {
                let (reader, finished) = (publisher.reader(), &finished);
                scope.spawn(move || {
                    // Counted even if an assertion fails, so that the writer ends.
                    let _count = CountOnDrop(finished);
                    let (mut last, mut encounters) = (0, 0);
                    while encounters < ENCOUNTERS {
                        encounters += usize::from(reader.try_read().is_none());
                        let seen = reader.read();
                        assert_eq!(seen, snapshot(Some(seen.turns_busy)), "torn");
                        assert!(seen.turns_busy >= last, "back in time");
                        last = seen.turns_busy;
                    }
                });
            }
            let mut turn = 0;
            while finished.load(Ordering::Relaxed) < READERS {
                turn += 1;
                publisher.publish(&snapshot(Some(turn)));
                // Now and then long enough for a reader to be through.
                (0..turn % 64).for_each(|_| std::hint::spin_loop());
            }
        });
    }

    struct CountOnDrop<'a>(&'a AtomicUsize);

    impl Drop for CountOnDrop<'_> {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}
