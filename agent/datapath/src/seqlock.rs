//! [`SeqLock`]: words with one writer, which never waits, and readers that see all of a round or none of it.
//!
//! The words are atomics, so that it needs no unsafe code and a reader that comes at the wrong moment sees
//! old and new words mixed but never half a word; it notices, and looks again. The writer never notices that
//! it is read.
//!
//! ```text
//! writer, once a round                     reader
//!   STORE version = odd            (A)       LOAD version, is it even?  (E) Acquire
//!   FENCE Release                  (B)       LOAD words         Relaxed (F)
//!   STORE words            Relaxed (C)       FENCE Acquire              (G)
//!   STORE version = even   Release (D)       LOAD version, still that?  (H)
//! ```
//!
//! (D) pairs with (E): who sees an even version sees all the words that were stored before it. (B)
//! pairs with (G): who saw one word of the next round in (F) sees that round's odd version in (H),
//! or a later one, and throws away what it read. See Boehm, "Can seqlocks get along with
//! programming language memory models?" (MSPC 2012), and `include/linux/seqlock.h`.

use std::sync::Arc;

use crate::sync::{AtomicU64, Ordering, fence};

/// The words, on cache lines of their own: 128 bytes, because x86 fetches lines in pairs.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct SeqLock<const N: usize> {
    version: AtomicU64,
    words: [AtomicU64; N],
}

/// The writing side: there is one, which is what the protocol rests on.
#[derive(Debug)]
pub(crate) struct SeqWriter<const N: usize> {
    lock: Arc<SeqLock<N>>,
    version: u64,
}

impl<const N: usize> SeqWriter<N> {
    /// Words of zeros.
    pub(crate) fn new() -> Self {
        let words = std::array::from_fn(|_| AtomicU64::new(0));
        SeqWriter { lock: Arc::new(SeqLock { version: AtomicU64::new(0), words }), version: 0 }
    }

    /// What the readers share.
    pub(crate) fn lock(&self) -> &Arc<SeqLock<N>> {
        &self.lock
    }

    /// Writes a round.
    pub(crate) fn write(&mut self, words: &[u64; N]) {
        self.lock.version.store(self.version + 1, Ordering::Relaxed); // (A)
        fence(Ordering::Release); // (B)
        for (slot, word) in self.lock.words.iter().zip(words) {
            slot.store(*word, Ordering::Relaxed); // (C)
        }
        self.version += 2;
        self.lock.version.store(self.version, Ordering::Release); // (D)
    }
}

impl<const N: usize> SeqLock<N> {
    /// One look. `None` if a round was being written meanwhile.
    pub(crate) fn read(&self) -> Option<[u64; N]> {
        let version = self.version.load(Ordering::Acquire); // (E)
        if version % 2 == 1 {
            return None;
        }
        let words = self.words.each_ref().map(|word| word.load(Ordering::Relaxed)); // (F)
        fence(Ordering::Acquire); // (G)
        (self.version.load(Ordering::Relaxed) == version).then_some(words) // (H)
    }

    /// As if the writer had come so far.
    #[cfg(all(test, not(datapath_loom)))]
    pub(crate) fn set_version(&self, version: u64) {
        self.version.store(version, Ordering::Relaxed);
    }

    /// How many rounds have been written, twice, and once more while one is.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }
}

#[cfg(all(test, not(datapath_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_reader_notices_that_it_came_while_the_writer_wrote() {
        let mut writer = SeqWriter::<2>::new();
        writer.write(&[1, 2]);
        assert_eq!(writer.lock().read(), Some([1, 2]));
        writer.lock().version.store(3, Ordering::Relaxed);
        assert_eq!(writer.lock().read(), None);
    }
}

/// ```sh
/// RUSTFLAGS="--cfg datapath_loom" cargo test -p datapath --lib -- seqlock
/// ```
///
/// One round and one look, as more take loom hours. Each letter's mutant fails it: without (A), (B), (G) or
/// (H), and with (D) or (E) Relaxed.
#[cfg(all(test, datapath_loom))]
mod model {
    use super::*;

    #[test]
    fn a_reader_never_sees_two_rounds_mixed() {
        loom::model(|| {
            let mut writer = SeqWriter::<2>::new();
            let lock = Arc::clone(writer.lock());
            let writer = loom::thread::spawn(move || writer.write(&[1, 1]));
            let reader = loom::thread::spawn(move || {
                if let Some([first, second]) = lock.read() {
                    assert_eq!(first, second, "torn");
                }
            });
            writer.join().unwrap();
            reader.join().unwrap();
        });
    }
}
