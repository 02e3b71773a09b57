//! What the kernel's rings are lent and give back, also by the short ways from one to the other.

use std::mem;

use frame_pool::{
    Fate, Frame, FrameAddr, FrameId, FrameRef, Lent, MemoryProvider as _, PoolTag, Refused, Settled,
    UmemProvider,
};

use super::World;

/// A frame that one of the kernel's rings has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loan {
    pub(super) id: FrameId,
    pub(super) lent: Lent,
    /// Whether it is lent as one of several references.
    shared: bool,
}

/// What is done with a frame that came back in a run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    Onward,
    Taken,
    Left,
    /// It is taken, and one of another UMEM is sent onward in its place.
    Exchanged,
}

impl World {
    pub(super) fn lend(&mut self, frame: Frame, tx: bool) {
        let lent = if tx { Lent::Tx } else { Lent::Fill };
        self.lent.push(Loan { id: self.ledger.lend(frame, lent), lent, shared: false });
    }

    /// Lends one more reference, if it is one, and the frame is not lent already.
    pub(super) fn lend_ref(&mut self, bundle: FrameRef) {
        let id = bundle.id();
        let is_lent = self.lent.iter().any(|loan| loan.id == id) || self.quarantined.contains(&id);
        let may_lend = bundle.count() == 1 && !is_lent;
        match self.ledger.lend_ref(bundle) {
            Ok(name) => {
                assert!(may_lend && name == id);
                self.lent.push(Loan { id, lent: Lent::Tx, shared: true });
            }
            Err(bundle) => {
                assert!(!may_lend);
                self.bundles.push(bundle);
            }
        }
    }

    /// Lends a frame of the other pool.
    pub(super) fn lend_guest(&mut self, tx: bool) {
        let guest = self.neighbour.alloc();
        assert_eq!(guest.as_ref().map(Frame::id), self.oracle.slab.pop());
        if let Some(frame) = guest {
            self.oracle.guests.insert(frame.id());
            self.lend(frame, tx);
        }
    }

    pub(super) fn settle(&mut self, Loan { id, lent, shared }: Loan, offset: u16) {
        let FrameAddr(start) = self.pool.layout().addr_of(id);
        let addr = FrameAddr(start + u64::from(offset % 4096));
        let mut sole = Vec::with_capacity(1);
        let settled = self.ledger.settle_bulk(lent, &[addr], |addr| *addr, &mut sole);
        if shared {
            assert_eq!(settled, Err(Refused::Shared));
            let Ok(Settled::Shared(bundle)) = self.ledger.settle_any(lent, addr) else {
                panic!("{id:?} was lent as a reference");
            };
            assert_eq!((bundle.id(), bundle.home(), bundle.count()), (id, self.pool.tag(), 1));
            self.bundles.push(bundle);
        } else {
            settled.unwrap();
            let frame = sole.pop().unwrap();
            assert_eq!((frame.id(), frame.home()), (id, self.home_of(id)));
            self.take(frame);
        }
        assert_eq!(self.ledger.settle(lent, addr), Err(Refused::NotLent));
        self.refused_settles += 1;
    }

    pub(super) fn settle_wrong(&mut self, Loan { id, lent, .. }: Loan) {
        let other = if lent == Lent::Tx { Lent::Fill } else { Lent::Tx };
        let addr = self.pool.layout().addr_of(id);
        assert_eq!(self.ledger.settle(other, addr), Err(Refused::WrongRing));
        assert_eq!(self.ledger.settle(lent, addr), Err(Refused::Quarantined));
        self.refused_settles += 2;
        self.quarantined.push(id);
    }

    pub(super) fn reclaim(&mut self) {
        let mut sole = Vec::new();
        let count = self.ledger.reclaim_all(|frame| sole.push(frame));
        let refs = self.ledger.reclaim_refs(|bundle| self.bundles.push(bundle));
        let (shared, alone): (Vec<_>, Vec<_>) = self.lent.drain(..).partition(|loan| loan.shared);
        assert_eq!((count as usize, refs as usize), (alone.len(), shared.len()));
        sole.into_iter().for_each(|frame| self.take(frame));
    }

    /// Takes the sole right to a frame that was lent. That of a guest goes home at once.
    fn take(&mut self, frame: Frame) {
        if frame.home() == self.pool.tag() {
            return self.frames.push(frame);
        }
        assert!(self.oracle.guests.remove(&frame.id()), "{frame:?} is nobody's");
        self.oracle.slab.push(frame.id());
        self.neighbour.put_direct(frame);
        self.neighbour.update_nid(0);
        assert_eq!(self.neighbour.inflight(), self.oracle.guests.len() as i32);
    }

    /// The pool that has a frame which is out or lent.
    fn home_of(&self, id: FrameId) -> PoolTag {
        if self.oracle.guests.contains(&id) { self.neighbour.tag() } else { self.pool.tag() }
    }

    /// What a ring gives back: up to `n` of the frames that are lent to it, and then one that it must not.
    fn given_back(&self, ring: Lent, which: u8, n: u8) -> Vec<FrameAddr> {
        let layout = self.pool.layout();
        let (its, others): (Vec<_>, Vec<_>) = self.lent.iter().copied().partition(|loan| loan.lent == ring);
        let mut ids: Vec<_> = its.iter().map(|loan| loan.id).collect();
        let first = (which as usize).checked_rem(ids.len()).unwrap_or(0);
        ids.rotate_left(first);
        ids.truncate(n.into());
        let again = ids.first().copied();
        let unlent = self.frames.first().map(Frame::id);
        let wrong = [again, others.first().map(|loan| loan.id), unlent, self.quarantined.first().copied()];
        let mut wrong: Vec<_> = wrong.into_iter().flatten().map(|id| layout.addr_of(id)).collect();
        wrong.push(FrameAddr(layout.byte_len()));
        let mut addrs: Vec<_> = ids.into_iter().map(|id| layout.addr_of(id)).collect();
        addrs.push(wrong[which as usize % wrong.len()]);
        // Anywhere in the frame.
        addrs.into_iter().map(|FrameAddr(start)| FrameAddr(start + u64::from(which) * 16)).collect()
    }

    /// Which of the loans the frame at this address is, if its sole right is lent to that ring.
    fn sole_loan(&self, ring: Lent, addr: FrameAddr) -> Option<usize> {
        let id = self.pool.layout().frame_of(addr)?;
        self.lent.iter().position(|loan| loan.id == id && loan.lent == ring && !loan.shared)
    }

    pub(super) fn pass_run(&mut self, which: u8, n: u8, room: u8, tx: bool, answers: [Answer; 4]) {
        let (ring, other) = if tx { (Lent::Tx, Lent::Fill) } else { (Lent::Fill, Lent::Tx) };
        let all = self.given_back(ring, which, n);
        // What must come of it.
        let (mut taken, mut onward, mut seen, mut gone) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for (&addr, answer) in all.iter().zip(answers.into_iter().cycle()) {
            let Some(at) = self.sole_loan(ring, addr) else { break };
            let id = self.lent[at].id;
            seen.push((addr, id, self.home_of(id)));
            match answer {
                Answer::Onward if onward.len() < room.into() => {
                    onward.push(addr);
                    self.lent[at].lent = other;
                }
                Answer::Onward | Answer::Left => break,
                Answer::Taken | Answer::Exchanged => {
                    taken.push(id);
                    self.lent.remove(at);
                    self.refused_settles += u64::from(matches!(answer, Answer::Exchanged));
                }
            }
            gone += 1;
        }
        // What does.
        let nowhere = FrameAddr(u64::MAX);
        let mut written = vec![nowhere; room.into()];
        let (mut given_back, mut slots) = (&all[..], written.iter_mut());
        let (mut got, mut shown) = (Vec::new(), Vec::new());
        let layout = self.pool.layout();
        let mut answers = answers.into_iter().cycle();
        self.ledger.pass_run(
            ring,
            &mut given_back,
            &mut slots,
            |addr| *addr,
            |addr, mut frame| {
                shown.push((*addr, frame.id(), frame.home()));
                match answers.next().unwrap() {
                    Answer::Onward => Fate::Onward(frame),
                    Answer::Left => Fate::Left(frame),
                    Answer::Taken => {
                        got.push(frame);
                        Fate::Taken
                    }
                    Answer::Exchanged => {
                        let mut strange = Vec::with_capacity(1);
                        UmemProvider::new(layout).alloc_bulk(&mut strange, 1, 0);
                        mem::swap(&mut frame, &mut strange[0]);
                        got.append(&mut strange);
                        Fate::Onward(frame)
                    }
                }
            },
        );
        assert_eq!(given_back, &all[gone..]);
        assert_eq!(slots.len(), usize::from(room) - onward.len());
        assert_eq!(shown, seen);
        assert!(got.iter().map(Frame::id).eq(taken));
        onward.resize(room.into(), nowhere);
        assert_eq!(written, onward);
        got.into_iter().for_each(|frame| self.take(frame));
    }

    pub(super) fn turn_over(&mut self, which: u8, n: u8, room: u8) {
        let completed = self.given_back(Lent::Tx, which, n);
        // What must come of it: a put of all that can be recycled, as far as the cache takes them, and then as many
        // allocations.
        let mut turned = Vec::new();
        for &addr in completed.iter().take(self.oracle.room().min(room.into())) {
            let Some(at) = self.sole_loan(Lent::Tx, addr) else { break };
            let id = self.lent[at].id;
            if self.home_of(id) != self.pool.tag() || !self.oracle.recyclable(id) {
                break;
            }
            turned.push(id);
            self.lent[at].lent = Lent::Fill;
        }
        turned.iter().for_each(|id| self.oracle.put(*id, 1, true));
        let mut again: Vec<_> = turned.iter().filter_map(|_| self.oracle.alloc()).collect();
        again.reverse();
        assert_eq!(again, turned, "the cache hands out what was put last");
        // What does.
        let mut slots = vec![None; room.into()];
        let count = self.pool.turn_over(
            &mut self.ledger,
            &completed,
            |addr| *addr,
            &mut slots,
            |slot, id| *slot = Some(id),
        );
        assert_eq!(count, turned.len());
        let mut expected: Vec<_> = turned.into_iter().map(Some).collect();
        expected.resize(room.into(), None);
        assert_eq!(slots, expected);
    }
}
