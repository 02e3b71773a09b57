//! `Ledger`: which frames are lent to which kernel ring.
//!
//! A frame that is put on a fill or TX ring becomes an address, and an address is a mere name. The ledger
//! keeps the right meanwhile and makes a [`Frame`] again only for a frame that it has lent to the ring
//! that gives it back. An error of kernel or driver is so a number in a counter, not a frame with two
//! owners.

use std::{error, fmt, mem, ops::ControlFlow};

use crate::{Frame, FrameAddr, FrameId, FrameLayout, FrameRef, PoolTag};

mod entry;
mod onward;

pub use onward::Fate;

use entry::Entry;

/// What a frame is lent for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lent {
    /// To the fill ring; it comes back on the RX ring.
    Fill,
    /// To the TX ring; it comes back on the completion ring.
    Tx,
}

/// Why an address that a kernel ring gave back is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It points past the UMEM.
    OutOfRange,
    /// The frame is not lent to anybody: it came back twice, or the kernel never had it.
    NotLent,
    /// The frame is lent to the other ring. It is quarantined: who writes to it is unknown.
    WrongRing,
    /// The frame is in quarantine already.
    Quarantined,
    /// The frame is lent as one of several references: [`Ledger::settle_any`] takes it. Nothing changed.
    Shared,
}

/// The right that came back.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a right that is not put is lost"]
pub enum Settled {
    /// The sole right.
    Sole(Frame),
    /// One reference of several.
    Shared(FrameRef),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OutOfRange => "the address points past the UMEM",
            Self::NotLent => "the frame is not lent to the kernel",
            Self::WrongRing => "the frame is lent to another ring; it is in quarantine now",
            Self::Quarantined => "the frame is in quarantine",
            Self::Shared => "the frame is lent as a shared one",
        })
    }
}

impl error::Error for Refused {}

/// How often addresses were refused, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RefusedCounts {
    /// [`Refused::OutOfRange`].
    pub out_of_range: u64,
    /// [`Refused::NotLent`].
    pub not_lent: u64,
    /// [`Refused::WrongRing`].
    pub wrong_ring: u64,
    /// [`Refused::Quarantined`].
    pub quarantined: u64,
    /// Frames that were lent although another right to them was lent already, or that are not of this
    /// UMEM. Only mixing up the frames of two UMEMs can do this.
    pub not_ours: u64,
}

impl RefusedCounts {
    /// All refusals.
    pub const fn total(&self) -> u64 {
        self.out_of_range + self.not_lent + self.wrong_ring + self.quarantined + self.not_ours
    }
}

/// Which frames of one UMEM are lent to which of one socket's rings.
///
/// # Invariants
///
/// `lent` counts the entries by place; an entry is not 0 only while the ledger has the right to its frame.
#[derive(Debug)]
pub struct Ledger {
    layout: FrameLayout,
    entries: Box<[Entry]>,
    lent: [u32; 2],
    quarantined: [u32; 2],
    refused: RefusedCounts,
}

impl Ledger {
    /// A ledger for a UMEM of this layout, with nothing lent.
    pub fn new(layout: FrameLayout) -> Self {
        let entries = vec![Entry::NOT_LENT; layout.chunk_count() as usize].into_boxed_slice();
        Self { layout, entries, lent: [0; 2], quarantined: [0; 2], refused: RefusedCounts::default() }
    }

    /// Exchanges the right to a frame for its name, to be put on a kernel ring.
    #[inline]
    pub fn lend(&mut self, frame: Frame, lent: Lent) -> FrameId {
        let id = frame.id();
        match self.entries.get_mut(id.index()) {
            Some(entry) if *entry == Entry::NOT_LENT => {
                *entry = Entry::lent(lent, frame.tag_number());
                self.lent[lent as usize] += 1;
            }
            _ => self.refused.not_ours += 1,
        }
        id
    }

    /// Exchanges one reference to a shared frame for its name, to be put on the TX ring: sending reads the
    /// bytes as any other holder does.
    ///
    /// # Errors
    ///
    /// The bundle, if it is more than one reference, if the frame is lent already, or if it is not of this
    /// UMEM.
    pub fn lend_ref(&mut self, bundle: FrameRef) -> Result<FrameId, FrameRef> {
        match self.entries.get_mut(bundle.id().index()) {
            Some(entry) if *entry == Entry::NOT_LENT && bundle.count() == 1 => {
                *entry = Entry::shared(Lent::Tx, bundle.home().number());
                self.lent[Lent::Tx as usize] += 1;
                Ok(bundle.id())
            }
            _ => Err(bundle),
        }
    }

    /// Exchanges an address that a kernel ring gave back, at any offset in its frame, for the right.
    ///
    /// # Errors
    ///
    /// [`Refused`] if the frame is not lent to that ring. It is counted; a frame that is lent to the other
    /// ring goes into quarantine.
    #[inline]
    pub fn settle(&mut self, lent: Lent, addr: FrameAddr) -> Result<Frame, Refused> {
        // The table is as long as the UMEM has frames, so that one look tells all.
        let index = self.layout.index_of(addr);
        if let Some(entry) = usize::try_from(index).ok().and_then(|index| self.entries.get_mut(index))
            && let Some(frame) = entry.frame_if_sole(lent, index)
        {
            *entry = Entry::NOT_LENT;
            self.lent[lent as usize] -= 1;
            return Ok(frame);
        }
        Err(self.refuse_addr(lent, addr))
    }

    /// [`settle`](Self::settle) for what a ring gave back, in order, until one is refused, or `each` has enough. Takes
    /// what it went through off `given_back`.
    ///
    /// Should `each` panic, what it was given is its own, and only [`reclaim_all`](Self::reclaim_all) counts
    /// right again what is still lent.
    ///
    /// # Errors
    ///
    /// The one that was refused, and why.
    #[inline]
    pub fn settle_run<'d, D>(
        &mut self,
        lent: Lent,
        given_back: &mut &'d [D],
        addr_of: impl Fn(&D) -> FrameAddr,
        mut each: impl FnMut(&'d D, Frame) -> ControlFlow<()>,
    ) -> Result<(), (&'d D, Refused)> {
        let layout = self.layout;
        let table = &mut self.entries[..];
        let before = given_back.len();
        let mut left = given_back.iter();
        let mut refused = None;
        for one in left.by_ref() {
            let index = layout.index_of(addr_of(one));
            if let Some(entry) = usize::try_from(index).ok().and_then(|index| table.get_mut(index))
                && let Some(frame) = entry.frame_if_sole(lent, index)
            {
                *entry = Entry::NOT_LENT;
                if each(one, frame).is_break() {
                    break;
                }
            } else {
                refused = Some(one);
                break;
            }
        }
        *given_back = left.as_slice();
        let settled = before - given_back.len() - usize::from(refused.is_some());
        self.lent[lent as usize] -= settled as u32;
        refused.map_or(Ok(()), |one| Err((one, self.refuse_addr(lent, addr_of(one)))))
    }

    /// [`settle`](Self::settle) for what a ring gave back, in order, as far as `frames` has spare capacity, or until
    /// one is refused: the one behind as many as came into `frames`.
    ///
    /// # Errors
    ///
    /// Why it was refused. It is counted, and done with.
    #[inline]
    pub fn settle_bulk<D>(
        &mut self,
        lent: Lent,
        given_back: &[D],
        addr_of: impl Fn(&D) -> FrameAddr,
        frames: &mut Vec<Frame>,
    ) -> Result<(), Refused> {
        let (layout, before) = (self.layout, frames.len());
        let table = &mut self.entries[..];
        // One that nothing else points to, so that its length stays in a register.
        let mut settled = mem::take(frames);
        let room = settled.capacity() - before;
        let mut settle = |one: &D| {
            let index = layout.index_of(addr_of(one));
            let entry = usize::try_from(index).ok().and_then(|index| table.get_mut(index));
            let frame = entry.and_then(|entry| {
                let frame = entry.frame_if_sole(lent, index)?;
                *entry = Entry::NOT_LENT;
                Some(frame)
            });
            match frame {
                Some(frame) if settled.len() < settled.capacity() => {
                    settled.push(frame);
                    true
                }
                _ => false,
            }
        };
        // Four at a time: the end of the slice is looked for less often.
        let (fours, rest) = given_back[..given_back.len().min(room)].as_chunks::<4>();
        let all = fours.iter().all(|[a, b, c, d]| settle(a) && settle(b) && settle(c) && settle(d))
            && rest.iter().all(settle);
        self.lent[lent as usize] -= (settled.len() - before) as u32;
        *frames = settled;
        if all { Ok(()) } else { Err(self.refuse_addr(lent, addr_of(&given_back[frames.len() - before]))) }
    }

    /// [`lend`](Self::lend) for frames in order, each with what is to be done with its name.
    #[inline]
    pub fn lend_each<T>(
        &mut self,
        lent: Lent,
        frames: impl ExactSizeIterator<Item = (T, Frame)>,
        mut each: impl FnMut(T, FrameId),
    ) {
        let entries = &mut self.entries[..];
        let (count, mut odd) = (frames.len(), 0);
        for (rest, frame) in frames {
            note(entries, lent, &frame, &mut odd);
            each(rest, frame.id());
        }
        self.lent[lent as usize] += count as u32 - odd;
        self.refused.not_ours += u64::from(odd);
    }

    /// [`lend`](Self::lend) for the last frames of a vector, as many as there are slots for their names.
    #[inline]
    pub fn lend_tail<S>(
        &mut self,
        lent: Lent,
        frames: &mut Vec<Frame>,
        slots: &mut [S],
        mut each: impl FnMut(&mut S, FrameId),
    ) {
        // A ring's second half, mostly.
        if slots.is_empty() {
            return;
        }
        let first = frames.len().saturating_sub(slots.len());
        let tail = &frames[first..];
        let entries = &mut self.entries[..];
        let mut odd = 0;
        let mut lend = |slot, frame: &Frame| {
            let id = frame.id();
            note(entries, lent, frame, &mut odd);
            each(slot, id);
        };
        // Eight at a time: the end of the slice is looked for less often.
        let (eights, rest) = tail.as_chunks::<8>();
        let (eight_slots, rest_slots) = slots[..tail.len()].as_chunks_mut::<8>();
        for (slots, frames) in eight_slots.iter_mut().zip(eights) {
            for (slot, frame) in slots.each_mut().into_iter().zip(frames) {
                lend(slot, frame);
            }
        }
        for (slot, frame) in rest_slots.iter_mut().zip(rest) {
            lend(slot, frame);
        }
        self.lent[lent as usize] += tail.len() as u32 - odd;
        self.refused.not_ours += u64::from(odd);
        // Given up: the vector has them no more.
        frames.truncate(first);
    }

    #[cold]
    fn refuse_addr(&mut self, lent: Lent, addr: FrameAddr) -> Refused {
        match self.frame_of(addr) {
            Ok(id) if self.entries[id.index()].tag_if_shared(lent).is_some() => Refused::Shared,
            Ok(id) => self.refuse(id),
            Err(refused) => refused,
        }
    }

    /// As [`settle`](Self::settle), also for frames that were lent by [`lend_ref`](Self::lend_ref).
    ///
    /// # Errors
    ///
    /// As `settle`.
    pub fn settle_any(&mut self, lent: Lent, addr: FrameAddr) -> Result<Settled, Refused> {
        let id = self.frame_of(addr)?;
        let entry = &mut self.entries[id.index()];
        match entry.tag_if_shared(lent) {
            Some(tag) => {
                *entry = Entry::NOT_LENT;
                self.lent[lent as usize] -= 1;
                Ok(Settled::Shared(FrameRef::of(id, tag, 1)))
            }
            None => self.settle(lent, addr).map(Settled::Sole),
        }
    }

    fn frame_of(&mut self, addr: FrameAddr) -> Result<FrameId, Refused> {
        let id = self.layout.frame_of(addr);
        self.refused.out_of_range += u64::from(id.is_none());
        id.ok_or(Refused::OutOfRange)
    }

    #[cold]
    fn refuse(&mut self, id: FrameId) -> Refused {
        let entry = &mut self.entries[id.index()];
        let counts = &mut self.refused;
        if *entry == Entry::NOT_LENT {
            counts.not_lent += 1;
            return Refused::NotLent;
        }
        if entry.is_quarantined() {
            counts.quarantined += 1;
            return Refused::Quarantined;
        }
        let lent = entry.ring();
        self.lent[lent as usize] -= 1;
        *entry = entry.quarantined();
        self.quarantined[lent as usize] += 1;
        counts.wrong_ring += 1;
        Refused::WrongRing
    }

    /// How the UMEM is cut into frames.
    pub fn layout(&self) -> FrameLayout {
        self.layout
    }

    /// Frames lent to one ring.
    pub fn lent(&self, lent: Lent) -> u32 {
        self.lent[lent as usize]
    }

    /// Frames that were lent to one ring, came back wrong, and are never used again.
    pub fn quarantined(&self, lent: Lent) -> u32 {
        self.quarantined[lent as usize]
    }

    /// How often addresses were refused.
    pub fn refused(&self) -> RefusedCounts {
        self.refused
    }

    /// After the kernel has let go of the UMEM's rings: hands over every lent frame and says how many.
    /// Those in quarantine stay there, and those lent by reference wait for
    /// [`reclaim_refs`](Self::reclaim_refs).
    pub fn reclaim_all(&mut self, mut home: impl FnMut(Frame)) -> u32 {
        self.reclaim(Entry::tag_if_sole, |id, tag| home(Frame::of(id, tag)))
    }

    /// As [`reclaim_all`](Self::reclaim_all), for the references that are lent.
    pub fn reclaim_refs(&mut self, mut home: impl FnMut(FrameRef)) -> u32 {
        self.reclaim(Entry::tag_if_shared, |id, tag| home(FrameRef::of(id, tag, 1)))
    }

    fn reclaim(
        &mut self,
        tag_if: impl Fn(Entry, Lent) -> Option<PoolTag>,
        mut home: impl FnMut(FrameId, PoolTag),
    ) -> u32 {
        let mut count = 0;
        let mut still_lent = [0; 2];
        for (index, entry) in (0..).zip(&mut self.entries) {
            for lent in [Lent::Fill, Lent::Tx] {
                if let Some(tag) = tag_if(*entry, lent) {
                    *entry = Entry::NOT_LENT;
                    home(FrameId(index), tag);
                    count += 1;
                } else if entry.tag_if_sole(lent).or(entry.tag_if_shared(lent)).is_some() {
                    still_lent[lent as usize] += 1;
                }
            }
        }
        // Counted anew: a run that ended by a panic did not count what it had settled by then.
        self.lent = still_lent;
        count
    }
}

/// Notes that a frame is lent, or that it cannot be: another right to it is lent already, or it is not of this
/// UMEM.
#[inline]
fn note(entries: &mut [Entry], lent: Lent, frame: &Frame, odd: &mut u32) {
    #[cold]
    fn count(odd: &mut u32) {
        *odd += 1;
    }
    match entries.get_mut(frame.id().index()) {
        Some(entry) if *entry == Entry::NOT_LENT => *entry = Entry::lent(lent, frame.tag_number()),
        _ => count(odd),
    }
}

#[cfg(all(test, not(frame_pool_loom)))]
mod tests {
    use super::*;
    use crate::{FramePool, PoolConfig, UmemProvider};

    pub(super) fn two_frames() -> (FrameLayout, FramePool, Frame, Frame) {
        let layout = FrameLayout::new(4096, 4).unwrap();
        let mut pool = FramePool::new(PoolConfig::default(), UmemProvider::new(layout));
        let (a, b) = (pool.alloc().unwrap(), pool.alloc().unwrap());
        (layout, pool, a, b)
    }

    #[test]
    fn a_lent_frame_comes_back_once() {
        let (layout, pool, a, b) = two_frames();
        let mut ledger = Ledger::new(layout);
        let (fill, tx) = (ledger.lend(a, Lent::Fill), ledger.lend(b, Lent::Tx));
        assert_eq!((ledger.lent(Lent::Fill), ledger.lent(Lent::Tx)), (1, 1));
        let FrameAddr(start) = layout.addr_of(fill);
        let frame = ledger.settle(Lent::Fill, FrameAddr(start + 256)).unwrap();
        assert_eq!((frame.id(), frame.home()), (fill, pool.tag()));
        assert_eq!(ledger.settle(Lent::Fill, FrameAddr(start)), Err(Refused::NotLent));
        assert_eq!(ledger.settle(Lent::Tx, layout.addr_of(tx)).unwrap().id(), tx);
        assert_eq!(ledger.settle(Lent::Tx, FrameAddr(layout.byte_len())), Err(Refused::OutOfRange));
        assert_eq!((ledger.refused().not_lent, ledger.refused().out_of_range), (1, 1));
        assert_eq!([Lent::Fill, Lent::Tx].map(|lent| ledger.quarantined(lent)), [0, 0]);
    }

    #[test]
    fn a_bulk_ends_behind_what_is_refused_and_with_the_room() {
        let (layout, mut pool, a, b) = two_frames();
        let mut ledger = Ledger::new(layout);
        let rest = [pool.alloc().unwrap(), pool.alloc().unwrap()];
        let addrs =
            [a, b].into_iter().chain(rest).map(|frame| layout.addr_of(ledger.lend(frame, Lent::Tx)).0);
        let addrs: Vec<u64> = addrs.collect();
        let given_back = [addrs[0], addrs[1], addrs[0], addrs[2], addrs[3]];
        let mut settle = |given_back: &[u64], frames: &mut Vec<Frame>| {
            let settled = ledger.settle_bulk(Lent::Tx, given_back, |addr| FrameAddr(*addr), frames);
            (settled, frames.len(), ledger.lent(Lent::Tx))
        };
        let mut frames = Vec::with_capacity(3);
        assert_eq!(settle(&given_back, &mut frames), (Err(Refused::NotLent), 2, 2));
        assert_eq!(settle(&given_back[3..], &mut frames), (Ok(()), 3, 1));
        let ids: Vec<_> = frames.iter().map(|frame| layout.addr_of(frame.id()).0).collect();
        assert_eq!((ids, ledger.refused().not_lent), (addrs[..3].to_vec(), 1));
    }

    #[test]
    fn a_frame_on_the_wrong_ring_is_never_used_again() {
        let (layout, _pool, a, b) = two_frames();
        let mut ledger = Ledger::new(layout);
        let (wrong, right) = (ledger.lend(a, Lent::Fill), ledger.lend(b, Lent::Fill));
        assert_eq!(ledger.settle(Lent::Tx, layout.addr_of(wrong)), Err(Refused::WrongRing));
        assert_eq!(ledger.settle(Lent::Fill, layout.addr_of(wrong)), Err(Refused::Quarantined));
        assert_eq!((ledger.lent(Lent::Fill), ledger.quarantined(Lent::Fill)), (1, 1));
        let mut home = Vec::new();
        assert_eq!(ledger.reclaim_all(|frame| home.push(frame.id())), 1);
        assert_eq!((home, ledger.lent(Lent::Fill)), (vec![right], 0));
        assert_eq!([Lent::Fill, Lent::Tx].map(|lent| ledger.quarantined(lent)), [1, 0]);
    }

    /// So that frames which are lost with it are not taken for lent ones.
    #[test]
    fn what_is_still_lent_after_a_panic_is_counted_anew() {
        let (layout, _pool, a, b) = two_frames();
        let mut ledger = Ledger::new(layout);
        let addrs = [a, b].map(|frame| layout.addr_of(ledger.lend(frame, Lent::Fill)));
        let run = std::panic::AssertUnwindSafe(|| {
            ledger.settle_run(
                Lent::Fill,
                &mut &addrs[..],
                |addr| *addr,
                |_, _frame| panic!("as a handler may"),
            )
        });
        assert!(std::panic::catch_unwind(run).is_err());
        let mut home = 0;
        assert_eq!(ledger.reclaim_all(|_frame| home += 1), 1);
        assert_eq!((home, ledger.lent(Lent::Fill)), (1, 0));
    }

    #[test]
    fn a_shared_frame_is_sent_as_one_more_reference() {
        let (layout, mut pool, a, _b) = two_frames();
        let mut ledger = Ledger::new(layout);
        let mut kept = pool.recycler().share(a, 3).unwrap();
        let (sent, again) = (kept.split(1).unwrap(), kept.split(1).unwrap());
        let id = ledger.lend_ref(sent).unwrap();
        let again = ledger.lend_ref(again).unwrap_err();
        let addr = layout.addr_of(id);
        assert_eq!(ledger.settle(Lent::Tx, addr), Err(Refused::Shared));
        let Ok(Settled::Shared(sent)) = ledger.settle_any(Lent::Tx, addr) else { panic!("not a reference") };
        for bundle in [sent, again, kept] {
            assert_eq!(pool.places().out, 2);
            pool.put_ref_direct(bundle);
        }
        assert_eq!((pool.places().out, ledger.lent(Lent::Tx)), (1, 0));

        let frame = pool.alloc().unwrap();
        let bundle = pool.recycler().share(frame, 1).unwrap();
        ledger.lend_ref(bundle).unwrap();
        assert_eq!(ledger.reclaim_all(|frame| panic!("{frame:?} is shared")), 0);
        assert_eq!(ledger.reclaim_refs(|bundle| pool.put_ref_direct(bundle)), 1);
        assert_eq!((pool.places().out, ledger.lent(Lent::Tx)), (1, 0));
    }
}
