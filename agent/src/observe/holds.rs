//! [`HoldsView`]: who keeps a queue's frames, how long they took that came back, and who forgot to.

use std::time::Duration;

use datapath::HeldBy;
use frame_pool::{HoldTimes, Holder, Recycler};

/// Who keeps the frames of one queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HoldsView {
    /// How long the frames were kept that came back.
    pub times: HoldTimes,
    /// Everyone who may keep frames, whether or not they do.
    pub holders: Vec<HolderView>,
}

/// What one of them has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HolderView {
    /// Their name.
    pub name: &'static str,
    /// How many frames they keep.
    pub frames: u32,
    /// For how long they have kept the oldest one, if they keep any.
    pub oldest: Option<Duration>,
    /// How many they have kept for so long that they are taken for leaked: `--leak-after`.
    pub leaked: u32,
}

impl HoldsView {
    /// Looks at who keeps the frames of a pool at time `now` of its clock.
    pub fn of(pool: &Recycler, now: Duration, leak_after: Duration) -> Self {
        let mut holders: Vec<HolderView> = HeldBy::ALL
            .iter()
            .map(|by| HolderView { name: by.name(), frames: 0, oldest: None, leaked: 0 })
            .collect();
        for held in pool.held_frames() {
            let by = HeldBy::ALL.iter().position(|by| Holder::from(*by) == held.by).unwrap_or(0);
            let (holder, age) = (&mut holders[by], now.saturating_sub(held.since));
            holder.frames += 1;
            holder.oldest = holder.oldest.max(Some(age));
            holder.leaked += u32::from(age >= leak_after);
        }
        Self { times: pool.hold_times(), holders }
    }

    /// Those who have kept frames for too long.
    pub fn leaks(&self) -> impl Iterator<Item = &HolderView> {
        self.holders.iter().filter(|holder| holder.leaked > 0)
    }
}

#[cfg(test)]
mod tests {
    use frame_pool::{FrameLayout, FramePool, PoolConfig, UmemProvider};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn who_keeps_a_frame_for_too_long_is_named() {
        let provider = UmemProvider::new(FrameLayout::new(2048, 64).unwrap());
        let mut pool = FramePool::new(PoolConfig::default(), provider);
        pool.time_holds(|| 70 * SECOND);
        let mut give = |by: HeldBy, at| {
            let frame = pool.alloc().unwrap();
            pool.give_to(frame, by.into(), at).unwrap()
        };
        let held = [give(HeldBy::Capture, 2 * SECOND), give(HeldBy::Capture, 61 * SECOND)];
        let view = HoldsView::of(&pool.recycler(), 70 * SECOND, 60 * SECOND);
        let names: Vec<_> = view.holders.iter().map(|holder| (holder.name, holder.frames)).collect();
        assert_eq!(names, [("handler", 0), ("capture", 2)]);
        assert_eq!(view.holders[0].oldest, None);
        let leaks: Vec<_> = view.leaks().collect();
        assert_eq!((leaks.len(), leaks[0].name, leaks[0].leaked), (1, "capture", 1));
        assert_eq!(leaks[0].oldest.map(|age| age.as_secs()), Some(68));

        drop(held);
        let view = HoldsView::of(&pool.recycler(), 70 * SECOND, 60 * SECOND);
        assert_eq!((view.leaks().count(), view.times.count()), (0, 2));
        assert_eq!(view.times.sum, 77 * SECOND);
    }
}
