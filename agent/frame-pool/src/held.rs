//! `HeldFrame`: a frame given away. Dropping it is the return hook, as freeing an skb is page_pool's.

use std::time::Duration;

use crate::{
    Frame, FrameId, FramePool, FrameRef, Holder, Recycler,
    shared::count,
    sync::{Arc, Ordering},
};

/// A reference to a frame that another thread may keep for as long as it likes; dropping it gives the
/// reference back, and the last one brings the frame home.
///
/// It knows its pool without a lookup and works after the pool and its worker are gone.
#[derive(Debug)]
pub struct HeldFrame {
    id: FrameId,
    recycler: Recycler,
    taken_at: Duration,
}

impl HeldFrame {
    /// The frame's name.
    pub fn id(&self) -> FrameId {
        self.id
    }

    /// The time of the turn in which the frame was given away.
    pub fn taken_at(&self) -> Duration {
        self.taken_at
    }

    /// The way home.
    pub fn recycler(&self) -> &Recycler {
        &self.recycler
    }

    /// One more reference to the same frame; `None` if there are too many. The limit on held frames does
    /// not refuse it, as it keeps no further frame; but it counts as one when the next is given away.
    pub fn try_clone(&self) -> Option<Self> {
        let shared = &self.recycler.shared;
        if !shared.refs.add(self.id, 1) {
            return None;
        }
        shared.counters.held.fetch_add(1, Ordering::Relaxed);
        if let Some(holds) = shared.holds.get() {
            // Whoever holds it already is the one who is known for it.
            holds.begin(self.id, Holder::default(), self.taken_at);
        }
        Some(Self { id: self.id, recycler: self.recycler.clone(), taken_at: self.taken_at })
    }

    /// The sole right to the frame, if no other reference is left. Costs a load.
    ///
    /// # Errors
    ///
    /// The held frame, if others hold it too.
    pub fn try_into_frame(self) -> Result<Frame, Self> {
        let shared = Arc::clone(&self.recycler.shared);
        if !shared.refs.is_alone(self.id, 1) {
            return Err(self);
        }
        let frame = Frame::of(self.id, shared.tag);
        // One reference more, which the drop takes off again: the frame stays ours.
        shared.refs.add(self.id, 1);
        drop(self);
        Ok(frame)
    }
}

impl Drop for HeldFrame {
    fn drop(&mut self) {
        let shared = &self.recycler.shared;
        if let Some(holds) = shared.holds.get() {
            holds.end(self.id, self.taken_at);
        }
        self.recycler.put_ref(FrameRef::of(self.id, shared.tag, 1));
        shared.counters.held.fetch_sub(1, Ordering::Relaxed);
    }
}

impl FramePool {
    /// Gives a frame away, in the turn of time `now`.
    ///
    /// # Errors
    ///
    /// The frame, if as many are held as the pool allows ([`PoolConfig::held_limit`]), so that a slow
    /// holder never starves the fill ring; counted as `held_refused`. Also if it is another pool's frame.
    ///
    /// [`PoolConfig::held_limit`]: crate::PoolConfig::held_limit
    pub fn give(&mut self, frame: Frame, now: Duration) -> Result<HeldFrame, Frame> {
        self.give_to(frame, Holder::default(), now)
    }

    /// The same, to somebody who is [known](Self::time_holds) for holding it.
    ///
    /// # Errors
    ///
    /// As [`give`](Self::give).
    pub fn give_to(&mut self, frame: Frame, by: Holder, now: Duration) -> Result<HeldFrame, Frame> {
        if frame.is_of(self.tag()) && self.may_hold() {
            Ok(self.held_by(frame.id(), by, now))
        } else {
            Err(frame)
        }
    }

    /// Gives one reference to a shared frame away.
    ///
    /// # Errors
    ///
    /// The bundle, as [`give`](Self::give) does, or if it is more than one reference.
    pub fn give_ref(&mut self, bundle: FrameRef, now: Duration) -> Result<HeldFrame, FrameRef> {
        self.give_ref_to(bundle, Holder::default(), now)
    }

    /// The same, to somebody who is [known](Self::time_holds) for holding it.
    ///
    /// # Errors
    ///
    /// As [`give_ref`](Self::give_ref).
    pub fn give_ref_to(
        &mut self,
        bundle: FrameRef,
        by: Holder,
        now: Duration,
    ) -> Result<HeldFrame, FrameRef> {
        if bundle.home() == self.tag() && bundle.count() == 1 && self.may_hold() {
            Ok(self.held_by(bundle.id(), by, now))
        } else {
            Err(bundle)
        }
    }

    fn held_by(&self, id: FrameId, by: Holder, now: Duration) -> HeldFrame {
        if let Some(holds) = self.shared.holds.get() {
            holds.begin(id, by, now);
        }
        HeldFrame { id, recycler: self.recycler(), taken_at: now }
    }

    /// Takes one of the places for held frames, if there is one. Only the owner gives frames away, so
    /// nobody can take it between the look and the addition.
    pub(crate) fn may_hold(&self) -> bool {
        let counters = &self.shared.counters;
        let free = counters.held.load(Ordering::Relaxed) < self.held_limit;
        if free {
            counters.held.fetch_add(1, Ordering::Relaxed);
        } else {
            count(&counters.held_refused, 1);
        }
        free
    }

    /// [`HeldFrame`]s and numbers that are out at this moment.
    pub fn held(&self) -> u32 {
        self.shared.counters.held.load(Ordering::Relaxed)
    }
}

#[cfg(all(test, not(frame_pool_loom)))]
mod tests {
    use super::*;
    use crate::{FrameLayout, MemoryProvider, PoolConfig, UmemProvider};

    const NOW: Duration = Duration::from_secs(5);

    fn pool() -> (FramePool, Arc<UmemProvider>) {
        let provider = UmemProvider::new(FrameLayout::new(4096, 16).unwrap());
        (FramePool::new(PoolConfig::default(), provider.clone()), provider)
    }

    #[test]
    fn the_last_holder_brings_the_frame_home() {
        let (mut pool, _) = pool();
        let frame = pool.alloc().unwrap();
        let held = pool.give(frame, NOW).unwrap();
        let other = held.try_clone().unwrap();
        assert_eq!((held.taken_at(), pool.held()), (NOW, 2));
        drop(held);
        assert_eq!((pool.places().ring, pool.places().out), (0, 1));
        std::thread::spawn(move || drop(other)).join().unwrap();
        assert_eq!((pool.places().ring, pool.places().out, pool.held()), (1, 0, 0));
    }

    #[test]
    fn a_slow_holder_may_keep_a_quarter_of_the_pool() {
        let (mut pool, _) = pool();
        let frames: Vec<_> = (0..5).map(|_| pool.alloc().unwrap()).collect();
        let mut held: Vec<_> = frames.into_iter().map(|frame| pool.give(frame, NOW)).collect();
        let refused = held.pop().unwrap().unwrap_err();
        assert!(held.iter().all(Result::is_ok));
        assert_eq!(pool.stats().extras.held_refused, 1);
        held.pop();
        assert!(pool.give(refused, NOW).is_ok());
    }

    #[test]
    fn a_sole_holder_may_have_the_frame_itself() {
        let (mut pool, _) = pool();
        let frame = pool.alloc().unwrap();
        let held = pool.give(frame, NOW).unwrap();
        let other = held.try_clone().unwrap();
        let held = held.try_into_frame().unwrap_err();
        drop(other);
        let frame = held.try_into_frame().unwrap();
        assert_eq!((pool.held(), pool.places().out), (0, 1));
        pool.put_direct(frame);
        assert_eq!(pool.places().out, 0);
    }

    #[test]
    fn a_frame_held_after_the_pool_is_gone_goes_to_the_provider() {
        let (mut pool, provider) = pool();
        let frame = pool.alloc().unwrap();
        let held = pool.give(frame, NOW).unwrap();
        drop(pool);
        assert_eq!(provider.free(), 15);
        drop(held);
        assert_eq!(provider.free(), 16);
    }
}
