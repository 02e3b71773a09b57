//! [`Notice`]: the words of a [`SeqLock`] that are not written every round, and whether there is more than they say.
//!
//! ```text
//! writer                                   reader
//!   rounds that are not written:             LOAD version        Acquire (D)
//!     STORE behind = true          (A)       LOAD behind         Acquire (E)
//!   one that is:                             if it is, until the version is a later one:
//!     WRITE words                  (B)         LOAD version      Acquire (F)
//!     STORE behind = false Release (C)       READ words
//! ```
//!
//! (C) pairs with (E): who sees that nothing is behind reads the words that were written before, or later ones, or
//! notices that he has to look again. (The fences of the seqlock would do for that; it does not rest on them.) (D) comes
//! first, and is Acquire so that it stays there: words written between the two looks, of which (E) may not yet know,
//! are then not waited for in vain. (A) carries nothing: who knows of a round by other ways, such as a packet that it
//! sent, sees by those that it is behind.

use std::sync::Arc;

use crate::seqlock::{SeqLock, SeqWriter};
use crate::sync::{AtomicBool, Ordering};

/// The reading side. Clone it for as many readers as there are.
#[derive(Clone, Debug)]
pub(crate) struct Notice<const N: usize> {
    words: Arc<SeqLock<N>>,
    /// Whether rounds have ended since that were not written.
    behind: Arc<AtomicBool>,
}

/// The publication that shows all turns which have ended by some moment: see
/// [`Published::pending`](crate::Published::pending).
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    /// The version of the one before it.
    after: u64,
}

/// The writing side: there is one.
#[derive(Debug)]
pub(crate) struct NoticeWriter<const N: usize> {
    words: SeqWriter<N>,
    behind: Arc<AtomicBool>,
    /// What is stored there: readers' cache lines are written to only when it changes.
    is_behind: bool,
}

impl<const N: usize> NoticeWriter<N> {
    /// Words of zeros, and nothing behind them.
    pub(crate) fn new() -> Self {
        NoticeWriter { words: SeqWriter::new(), behind: Arc::new(AtomicBool::new(false)), is_behind: false }
    }

    /// A reading side.
    pub(crate) fn reader(&self) -> Notice<N> {
        Notice { words: Arc::clone(self.words.lock()), behind: Arc::clone(&self.behind) }
    }

    /// Writes a round, which shows all before it.
    pub(crate) fn write(&mut self, words: &[u64; N]) {
        self.words.write(words); // (B)
        self.set_behind(false); // (C)
    }

    /// A round has ended that is not written.
    #[inline]
    pub(crate) fn fall_behind(&mut self) {
        if !self.is_behind {
            self.set_behind(true); // (A)
        }
    }

    fn set_behind(&mut self, is_behind: bool) {
        self.is_behind = is_behind;
        self.behind.store(is_behind, Ordering::Release);
    }
}

impl<const N: usize> Notice<N> {
    /// One look at the words. `None` if they were being written meanwhile.
    pub(crate) fn read(&self) -> Option<[u64; N]> {
        self.words.read()
    }

    /// What to wait for in order to see every round that has ended by now; `None`: the words show them all.
    pub(crate) fn pending(&self) -> Option<Pending> {
        let after = self.words.version(); // (D)
        self.behind.load(Ordering::Acquire).then_some(Pending { after }) // (E)
    }

    /// Whether that has been written.
    pub(crate) fn has_come(&self, pending: Pending) -> bool {
        // An odd version is of words that are being written: those that are waited for, or, if it was odd when
        // the waiting began, those before them.
        self.words.version() > pending.after | 1 // (F)
    }
}

#[cfg(all(test, not(datapath_loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_being_written_has_not_come() {
        let mut writer = NoticeWriter::<1>::new();
        let reader = writer.reader();
        writer.fall_behind();
        let version = reader.words.version();
        // Begun before the writing of other words, of these, and while others were being written.
        for (after, now, has_come) in [(2, 3, false), (2, 4, true), (3, 3, false), (3, 4, true), (3, 5, true)]
        {
            reader.words.set_version(version + now);
            assert_eq!(reader.has_come(Pending { after: version + after }), has_come, "{after} {now}");
        }
    }
}

/// ```sh
/// RUSTFLAGS="--cfg datapath_loom" cargo test -p datapath --lib -- notice
/// ```
#[cfg(all(test, datapath_loom))]
mod model {
    use loom::thread;

    use super::*;
    use crate::sync::AtomicU64;

    /// A round that is not written, one that is, and the one that whoever waits wakes the worker for.
    #[test]
    fn who_asks_sees_what_ended_before_and_waits_for_nothing_that_never_comes() {
        loom::model(|| {
            let mut writer = NoticeWriter::<1>::new();
            let reader = writer.reader();
            // By which the reader knows of the first round: what came of it, such as a packet.
            let ended = Arc::new(AtomicU64::new(0));
            let worker = {
                let ended = Arc::clone(&ended);
                thread::spawn(move || {
                    writer.fall_behind();
                    ended.store(1, Ordering::Release);
                    writer.write(&[1]);
                    writer.write(&[2]);
                })
            };
            let asker = {
                let reader = reader.clone();
                thread::spawn(move || {
                    let ended = ended.load(Ordering::Acquire);
                    let pending = reader.pending();
                    if pending.is_none_or(|pending| reader.has_come(pending))
                        && let Some([shown]) = reader.read()
                    {
                        assert!(shown >= ended, "{shown} is shown, {ended} had ended");
                    }
                    pending
                })
            };
            worker.join().unwrap();
            let pending = asker.join().unwrap();
            assert!(
                pending.is_none_or(|pending| reader.has_come(pending)),
                "waited for in vain: {pending:?}"
            );
        });
    }
}
