//! page_pool's rules, as plainly as they can be written: no atomics, no slices, one frame at a time.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    mem,
};

use frame_pool::{FragPage, FrameId, FrameLayout, Phase, PoolStats};

/// Where `hold` and `release` start: so near the end of 32 bits that they wrap in the shortest history.
pub(crate) const FIRST_COUNT: u32 = u32::MAX;

/// Sizes of a pool and its UMEM.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) frames: u32,
    pub(crate) ring: u32,
    pub(crate) cache: usize,
    pub(crate) refill: usize,
    /// Whether frames lie on two NUMA nodes, by turns.
    pub(crate) nodes: bool,
}

/// The rights to a frame that is out.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rights {
    /// References that users hold.
    pub(crate) refs: u32,
    pub(crate) pins: u32,
    pub(crate) marked: bool,
    /// Whether fragments are being cut from it.
    pub(crate) current: bool,
}

#[derive(Debug)]
pub(crate) struct Oracle {
    pub(crate) sizes: Sizes,
    pub(crate) slab: Vec<FrameId>,
    pub(crate) cache: Vec<FrameId>,
    pub(crate) ring: VecDeque<FrameId>,
    /// Where the consumer of the ring is, and the slots behind it that producers may not use yet.
    pub(crate) position: u32,
    pub(crate) stale: u32,
    pub(crate) out: BTreeMap<FrameId, Rights>,
    /// Pins of frames that left the pool.
    pub(crate) detached: BTreeMap<FrameId, u32>,
    /// Frames of the UMEM that another pool has.
    pub(crate) guests: BTreeSet<FrameId>,
    pub(crate) frag: Option<FragPage>,
    pub(crate) stats: PoolStats,
    pub(crate) hold: u32,
    pub(crate) release: u32,
    pub(crate) phase: Phase,
    pub(crate) nid: i32,
    /// What the provider gives at most, at once.
    pub(crate) mood: usize,
    /// Whether its next batch begins with a frame of another UMEM.
    pub(crate) lie: bool,
}

impl Oracle {
    pub(crate) fn new(sizes: Sizes, layout: FrameLayout, nid: i32) -> Self {
        let chunk = u64::from(layout.chunk_size());
        let id = |index| layout.frame_of(frame_pool::FrameAddr(index * chunk)).unwrap();
        Self {
            sizes,
            slab: (0..u64::from(sizes.frames)).rev().map(id).collect(),
            cache: Vec::new(),
            ring: VecDeque::new(),
            position: 0,
            stale: 0,
            out: BTreeMap::new(),
            detached: BTreeMap::new(),
            guests: BTreeSet::new(),
            frag: None,
            stats: PoolStats::default(),
            hold: FIRST_COUNT,
            release: FIRST_COUNT,
            phase: Phase::Live,
            nid,
            mood: usize::MAX,
            lie: false,
        }
    }

    pub(crate) fn alloc(&mut self) -> Option<FrameId> {
        let id = self.alloc_idle();
        match id {
            Some(id) => drop(self.out.insert(id, Rights { refs: 1, ..Rights::default() })),
            None => self.stats.extras.alloc_fail += 1,
        }
        id
    }

    fn alloc_idle(&mut self) -> Option<FrameId> {
        if self.phase != Phase::Live {
            return None;
        }
        if let Some(id) = self.cache.pop() {
            self.stats.alloc.fast += 1;
            return Some(id);
        }
        if self.ring.is_empty() {
            self.stats.alloc.empty += 1;
        }
        while self.cache.len() < self.sizes.refill {
            let Some(id) = self.consume() else { break };
            if self.sizes.nodes && node(id) != self.nid {
                self.stats.alloc.waive += 1;
                self.give_up(id);
                break;
            }
            self.cache.push(id);
        }
        if let Some(id) = self.cache.pop() {
            self.stats.alloc.refill += 1;
            return Some(id);
        }
        let mut batch = self.sizes.refill.min(self.mood);
        if batch > 0 && mem::take(&mut self.lie) {
            batch -= 1;
            self.stats.extras.foreign_put += 1;
        }
        for _ in 0..batch {
            let Some(id) = self.slab.pop() else { break };
            self.cache.push(id);
            self.hold = self.hold.wrapping_add(1);
            self.stats.extras.slow_frames += 1;
        }
        let id = self.cache.pop()?;
        self.stats.alloc.slow += 1;
        Some(id)
    }

    fn consume(&mut self) -> Option<FrameId> {
        let id = self.ring.pop_front()?;
        let group = if 16 > self.sizes.ring / 2 { 1 } else { 16 };
        self.position += 1;
        self.stale += 1;
        if self.stale == group || self.position == self.sizes.ring {
            self.stale = 0;
        }
        if self.position == self.sizes.ring {
            self.position = 0;
        }
        Some(id)
    }

    /// Gives `n` references back; whether they were the last, so that the frame is to be put.
    fn unref(&mut self, id: FrameId, n: u32) -> bool {
        let rights = self.out.get_mut(&id).unwrap();
        rights.refs -= n;
        rights.refs == 0 && !rights.current
    }

    pub(crate) fn put(&mut self, id: FrameId, n: u32, direct: bool) {
        self.put_bulk(&[(id, n)], direct);
    }

    /// One call for all: that only matters for how often `ring_full` is counted.
    pub(crate) fn put_bulk(&mut self, rights: &[(FrameId, u32)], direct: bool) {
        let mut to_ring = VecDeque::new();
        for &(id, n) in rights {
            if !self.unref(id, n) {
                continue;
            }
            if !self.recyclable(id) {
                self.stats.recycle.released_refcnt += 1;
                self.leave(id);
                continue;
            }
            self.out.remove(&id);
            if direct && self.phase == Phase::Live {
                if self.cache.len() < self.sizes.cache {
                    self.cache.push(id);
                    self.stats.recycle.cached += 1;
                    continue;
                }
                self.stats.recycle.cache_full += 1;
            }
            to_ring.push_back(id);
        }
        while self.ring.len() as u32 + self.stale < self.sizes.ring {
            let Some(id) = to_ring.pop_front() else { return };
            self.ring.push_back(id);
            self.stats.recycle.ring += 1;
        }
        if !to_ring.is_empty() {
            self.stats.recycle.ring_full += 1;
            self.stats.extras.ring_full_frames += to_ring.len() as u64;
            to_ring.into_iter().for_each(|id| self.give_up(id));
        }
    }

    /// How many more frames the cache takes.
    pub(crate) fn room(&self) -> usize {
        if self.phase == Phase::Live { self.sizes.cache - self.cache.len() } else { 0 }
    }

    pub(crate) fn recyclable(&self, id: FrameId) -> bool {
        let rights = self.out[&id];
        rights.pins == 0 && !rights.marked
    }

    /// An idle frame goes to the provider.
    fn give_up(&mut self, id: FrameId) {
        self.release = self.release.wrapping_add(1);
        self.slab.push(id);
    }

    /// A frame that was out leaves the pool, and reaches the provider when nobody pins it.
    fn leave(&mut self, id: FrameId) {
        let rights = self.out.remove(&id).unwrap();
        if rights.pins == 0 {
            self.give_up(id);
        } else {
            self.release = self.release.wrapping_add(1);
            self.detached.insert(id, rights.pins);
        }
    }

    pub(crate) fn unpin(&mut self, id: FrameId) {
        let Some(pins) = self.detached.get_mut(&id) else {
            self.out.get_mut(&id).unwrap().pins -= 1;
            return;
        };
        *pins -= 1;
        if *pins == 0 {
            self.detached.remove(&id);
            self.slab.push(id);
        }
    }

    /// The frame and the offset of a fragment of `size` bytes.
    pub(crate) fn alloc_frag(&mut self, size: u32) -> Option<(FrameId, u32)> {
        let size = size.next_multiple_of(8);
        if size > 4096 {
            return None;
        }
        if let Some(page) = self.frag.as_mut().filter(|page| page.offset + size <= 4096) {
            let offset = page.offset;
            page.offset += size;
            page.users += 1;
            self.out.get_mut(&page.id).unwrap().refs += 1;
            return Some((page.id, offset));
        }
        let id = match self.drain_frag() {
            Some(id) => {
                self.stats.alloc.fast += 1;
                self.stats.recycle.cached += 1;
                id
            }
            None => self.alloc()?,
        };
        *self.out.get_mut(&id).unwrap() = Rights { refs: 1, current: true, ..Rights::default() };
        self.frag = Some(FragPage { id, offset: size, users: 1 });
        Some((id, 0))
    }

    /// Gives the current page up; it is the answer if nobody holds a fragment and it can be recycled.
    fn drain_frag(&mut self) -> Option<FrameId> {
        let id = self.frag.take()?.id;
        let rights = self.out.get_mut(&id).unwrap();
        rights.current = false;
        if rights.refs > 0 {
            return None;
        }
        if self.recyclable(id) {
            return Some(id);
        }
        self.leave(id);
        None
    }

    pub(crate) fn update_nid(&mut self, nid: i32) {
        self.nid = nid;
        self.empty_cache();
    }

    fn empty_cache(&mut self) {
        while let Some(id) = self.cache.pop() {
            self.give_up(id);
        }
    }

    pub(crate) fn destroy(&mut self) {
        if self.phase == Phase::Live {
            self.phase = Phase::Draining;
            if let Some(id) = self.drain_frag() {
                self.leave(id);
            }
            self.empty_cache();
        }
        self.retry();
    }

    pub(crate) fn retry(&mut self) {
        if self.phase == Phase::Draining {
            while let Some(id) = self.consume() {
                self.give_up(id);
            }
            if self.hold == self.release {
                self.phase = Phase::Freed;
            }
        }
    }

    /// Every frame, wherever it is; sorted, so that one in two places or in none shows.
    pub(crate) fn everywhere(&self) -> Vec<FrameId> {
        let idle = self.slab.iter().chain(&self.cache).chain(&self.ring);
        let out = self.out.keys().chain(self.detached.keys()).chain(&self.guests);
        let mut all: Vec<_> = idle.chain(out).copied().collect();
        all.sort();
        all
    }
}

/// Frames lie on two nodes by turns.
pub(crate) fn node(id: FrameId) -> i32 {
    (id.index() % 2) as i32
}
