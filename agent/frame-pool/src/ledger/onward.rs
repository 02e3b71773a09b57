//! The short ways: what comes back from one ring and is lent to the other one at once.
//!
//! A packet that is sent on goes from the RX ring to the TX ring, and its frame from there to the fill ring. Its right
//! stays in the ledger all the way; only the entry says another ring.

use std::{mem, slice};

use super::{Entry, Ledger, Lent};
use crate::{Frame, FrameAddr, FrameId, PoolTag};

/// What becomes of a frame that came back in a [`Ledger::pass_run`].
#[derive(Debug)]
pub enum Fate {
    /// Somebody has it.
    Taken,
    /// It is lent to the other ring.
    Onward(Frame),
    /// It stays lent where it was, and the run ends before it.
    Left(Frame),
}

impl Lent {
    /// The other ring: where a frame goes that is lent again as soon as it comes back.
    const fn other(self) -> Self {
        match self {
            Self::Fill => Self::Tx,
            Self::Tx => Self::Fill,
        }
    }
}

impl Ledger {
    /// The short way from one ring to the other: settles what a ring gave back, in order, and lends to the other one
    /// what `each` sends [onward](Fate::Onward), where the entry is copied into the next of `slots`. Takes what it
    /// went through off both.
    ///
    /// Ends before the first that is [left](Fate::Left), or that is to be refused, or for which there is no slot; so
    /// that what is rare is left to [`settle_run`](Self::settle_run). Should `each` panic, what it was given is its own.
    #[inline]
    pub fn pass_run<D: Copy>(
        &mut self,
        lent: Lent,
        given_back: &mut &[D],
        slots: &mut slice::IterMut<'_, D>,
        addr_of: impl Fn(&D) -> FrameAddr,
        mut each: impl FnMut(&D, Frame) -> Fate,
    ) {
        let layout = self.layout;
        let table = &mut self.entries[..];
        let mut run = Run::new(&mut self.lent, lent, given_back, slots);
        while let Some((one, behind)) = run.left.split_first() {
            let index = layout.index_of(addr_of(one));
            let Some(entry) = usize::try_from(index).ok().and_then(|index| table.get_mut(index)) else {
                return;
            };
            let Some(frame) = entry.frame_if_sole(lent, index) else { return };
            let (was, number) = (mem::replace(entry, Entry::NOT_LENT), frame.number());
            run.left = behind;
            match each(one, frame) {
                Fate::Taken => {}
                Fate::Onward(frame)
                    if frame.number() == number
                        && let Some(slot) = run.slots.next() =>
                {
                    *entry = was.onward();
                    *slot = *one;
                }
                Fate::Onward(frame) | Fate::Left(frame) if frame.number() == number => {
                    *entry = was;
                    run.left = &run.given_back[run.given_back.len() - behind.len() - 1..];
                    return;
                }
                // Exchanged for another one, whose right is lost with it.
                Fate::Onward(_) | Fate::Left(_) => self.refused.not_ours += 1,
            }
        }
    }

    /// Sent frames of one pool, each of which has a sole holder, are lent to the fill ring at once: see
    /// [`FramePool::turn_over`](crate::FramePool::turn_over).
    #[inline]
    pub(crate) fn turn_over<D, S>(
        &mut self,
        home: PoolTag,
        completed: &[D],
        addr_of: impl Fn(&D) -> FrameAddr,
        is_sole: impl Fn(u64) -> bool,
        slots: &mut [S],
        mut fill: impl FnMut(&mut S, FrameId),
    ) -> usize {
        let layout = self.layout;
        let table = &mut self.entries[..];
        let [filled, sent] = [Lent::Fill, Lent::Tx].map(|lent| Entry::lent(lent, home.number()));
        let mut turned = 0;
        for (one, slot) in completed.iter().zip(slots) {
            let index = layout.index_of(addr_of(one));
            match usize::try_from(index).ok().and_then(|index| table.get_mut(index)) {
                Some(entry) if *entry == sent && is_sole(index) => *entry = filled,
                _ => break,
            }
            fill(slot, FrameId(index as u32));
            turned += 1;
        }
        self.lent[Lent::Tx as usize] -= turned;
        self.lent[Lent::Fill as usize] += turned;
        turned as usize
    }
}

/// How far a [`Ledger::pass_run`] has come. Its end tells everybody, also if that is a panic.
struct Run<'a, 'd, 's, D> {
    counts: &'a mut [u32; 2],
    lent: Lent,
    given_back: &'a mut &'d [D],
    left: &'d [D],
    all_slots: &'a mut slice::IterMut<'s, D>,
    room: usize,
    slots: slice::IterMut<'s, D>,
}

impl<'a, 'd, 's, D> Run<'a, 'd, 's, D> {
    #[inline]
    fn new(
        counts: &'a mut [u32; 2],
        lent: Lent,
        given_back: &'a mut &'d [D],
        all_slots: &'a mut slice::IterMut<'s, D>,
    ) -> Self {
        let slots = mem::take(all_slots);
        Run { counts, lent, left: given_back, given_back, all_slots, room: slots.len(), slots }
    }
}

impl<D> Drop for Run<'_, '_, '_, D> {
    #[inline]
    fn drop(&mut self) {
        self.counts[self.lent as usize] -= (self.given_back.len() - self.left.len()) as u32;
        self.counts[self.lent.other() as usize] += (self.room - self.slots.len()) as u32;
        *self.given_back = self.left;
        *self.all_slots = mem::take(&mut self.slots);
    }
}

#[cfg(all(test, not(frame_pool_loom)))]
mod tests {
    use super::*;
    use crate::Settled;
    use crate::ledger::tests::two_frames;

    #[test]
    fn a_run_passes_frames_on_to_the_other_ring_as_they_came() {
        let (layout, mut pool, a, b) = two_frames();
        let mut ledger = Ledger::new(layout);
        let rest = [pool.alloc().unwrap(), pool.alloc().unwrap()];
        let addrs =
            [a, b].into_iter().chain(rest).map(|frame| layout.addr_of(ledger.lend(frame, Lent::Fill)));
        let addrs: Vec<_> = addrs.map(|FrameAddr(start)| FrameAddr(start + 256)).collect();
        let mut slots = [FrameAddr(0); 4];
        let mut taken = Vec::new();
        let mut fates = 0..;
        let mut pass = |ledger: &mut Ledger, given_back: &mut &[FrameAddr], slots: &mut [FrameAddr]| {
            let mut slots = slots.iter_mut();
            ledger.pass_run(
                Lent::Fill,
                given_back,
                &mut slots,
                |addr| *addr,
                |_, frame| match fates.next() {
                    Some(0) => {
                        taken.push(frame);
                        Fate::Taken
                    }
                    Some(2) => Fate::Left(frame),
                    _ => Fate::Onward(frame),
                },
            );
            (given_back.len(), slots.len(), ledger.lent(Lent::Fill), ledger.lent(Lent::Tx))
        };
        let mut given_back = &addrs[..];
        assert_eq!(
            pass(&mut ledger, &mut given_back, &mut slots),
            (2, 3, 2, 1),
            "one taken, one on, one left"
        );
        assert_eq!(slots[0], addrs[1]);
        assert_eq!(
            pass(&mut ledger, &mut given_back, &mut slots[1..2]),
            (1, 0, 1, 2),
            "no slot for the last"
        );
        assert_eq!(slots[1], addrs[2]);
        // It came back already: it is left to be refused.
        assert_eq!(pass(&mut ledger, &mut &addrs[1..], &mut slots), (3, 4, 1, 2));
        assert_eq!(ledger.refused().total(), 0);
        for (lent, addr) in [(Lent::Tx, addrs[1]), (Lent::Tx, addrs[2]), (Lent::Fill, addrs[3])] {
            taken.push(ledger.settle(lent, addr).unwrap());
        }
        assert_eq!((taken.len(), pool.places().out), (4, 4));
    }

    #[test]
    fn what_is_turned_over_counts_as_put_and_taken_again() {
        let (layout, mut pool, a, b) = two_frames();
        let mut ledger = Ledger::new(layout);
        let c = pool.alloc().unwrap();
        let mut shared = pool.recycler().share(c, 2).unwrap();
        let sent = shared.split(1).unwrap();
        let mut addrs = [a, b].map(|frame| layout.addr_of(ledger.lend(frame, Lent::Tx))).to_vec();
        addrs.push(layout.addr_of(ledger.lend_ref(sent).unwrap()));
        let before = pool.stats();
        let mut filled = [None; 3];
        let mut turn = |completed: &[FrameAddr], most: usize| {
            let slots = &mut filled[..most];
            let turned =
                pool.turn_over(&mut ledger, completed, |addr| *addr, slots, |slot, id| *slot = Some(id));
            (turned, ledger.lent(Lent::Fill), ledger.lent(Lent::Tx))
        };
        assert_eq!(turn(&addrs, 1), (1, 1, 2), "as many as there are slots");
        assert_eq!(turn(&addrs, 3), (0, 1, 2), "it came back already");
        assert_eq!(turn(&addrs[1..], 3), (1, 2, 1), "one that is shared goes the long way");
        assert_eq!(filled[0], layout.frame_of(addrs[1]));
        assert_eq!(ledger.refused().total(), 0);
        let after = pool.stats();
        let counted = (after.recycle.cached - before.recycle.cached, after.alloc.fast - before.alloc.fast);
        assert_eq!((counted, pool.places().out), ((2, 2), 3));
        let Ok(Settled::Shared(sent)) = ledger.settle_any(Lent::Tx, addrs[2]) else { panic!("no reference") };
        pool.put_ref_direct(sent);
        pool.put_ref_direct(shared);
        for addr in &addrs[..2] {
            pool.put_direct(ledger.settle(Lent::Fill, *addr).unwrap());
        }
        assert_eq!(pool.places().out, 0);
    }

    #[test]
    fn a_run_that_ends_by_a_panic_has_counted_what_it_settled() {
        let (layout, _pool, a, b) = two_frames();
        let mut ledger = Ledger::new(layout);
        let addrs = [a, b].map(|frame| layout.addr_of(ledger.lend(frame, Lent::Fill)));
        let mut slots = addrs;
        let mut first = true;
        let run = std::panic::AssertUnwindSafe(|| {
            ledger.pass_run(
                Lent::Fill,
                &mut &addrs[..],
                &mut slots.iter_mut(),
                |addr| *addr,
                |_, frame| {
                    assert!(std::mem::take(&mut first), "as a handler may panic");
                    Fate::Onward(frame)
                },
            );
        });
        assert!(std::panic::catch_unwind(run).is_err());
        assert_eq!((ledger.lent(Lent::Fill), ledger.lent(Lent::Tx)), (0, 1));
    }
}
