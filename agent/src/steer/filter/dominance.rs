//! Which blocks every way to a block goes through.
//!
//! libpcap keeps a set of them for each block, and finds all sets anew after each test that it pulls up, which takes
//! 40 seconds for 512 ports. Here one question is answered at a time, by a search from the block towards the root.
//!
//! The answers have to be libpcap's, down to what it gets wrong (`optimize.c: find_dom`): it goes through the blocks in
//! the order that their levels had at the beginning of a pass, so that a block that was pulled up comes too late for
//! those behind it. An edge against that order counts for the block that it leads to, and for none behind it.

/// The tests that a block leads to, by outcome; `None` for an end.
pub(super) type Successors = [Option<usize>; 2];

/// The edges of a graph, backwards.
#[derive(Default)]
pub(super) struct Dominance {
    root: usize,
    /// At which place of the order a block is.
    place: Vec<usize>,
    /// From where edges lead to a block, once for each of them.
    from: Vec<Vec<usize>>,
    /// Whether edges in the order lead from the root to it.
    rooted: Vec<bool>,
    /// In which search a block was met last.
    met: Vec<usize>,
    search: usize,
    /// To or from where edges have been moved.
    touched: Vec<usize>,
}

impl Dominance {
    /// Of the blocks in this order, which begins with the root, out of `len`.
    pub(super) fn new(order: &[usize], len: usize, successors: impl Fn(usize) -> Successors) -> Self {
        let mut dominance = Self {
            root: order.first().copied().unwrap_or(0),
            place: vec![usize::MAX; len],
            from: vec![Vec::new(); len],
            rooted: vec![false; len],
            met: vec![0; len],
            ..Self::default()
        };
        for (place, block) in order.iter().enumerate() {
            dominance.place[*block] = place;
        }
        for block in order {
            successors(*block).into_iter().flatten().for_each(|next| dominance.from[next].push(*block));
        }
        for block in order {
            dominance.rooted[*block] = dominance.is_rooted(*block);
        }
        dominance
    }

    /// An edge out of this block leads elsewhere now; [`settle`](Self::settle) is to follow.
    pub(super) fn redirect(&mut self, block: usize, before: Option<usize>, now: Option<usize>) {
        if let Some(before) = before {
            if let Some(place) = self.from[before].iter().position(|from| *from == block) {
                self.from[before].swap_remove(place);
            }
            self.touched.push(before);
        }
        if let Some(now) = now {
            self.from[now].push(block);
            self.touched.push(now);
        }
    }

    /// Finds anew what depends on edges that were moved.
    pub(super) fn settle(&mut self, successors: impl Fn(usize) -> Successors) {
        while let Some(block) = self.touched.pop() {
            let is_rooted = self.is_rooted(block);
            if is_rooted != std::mem::replace(&mut self.rooted[block], is_rooted) {
                self.touched.extend(successors(block).into_iter().flatten());
            }
        }
    }

    fn is_rooted(&self, block: usize) -> bool {
        let Self { root, place, from, rooted, .. } = self;
        block == *root || from[block].iter().any(|from| place[*from] < place[block] && rooted[*from])
    }

    /// The next questions belong together: until the first one that is denied, while no edge is moved.
    pub(super) fn begin(&mut self) {
        self.search += 1;
    }

    /// Whether every way to `block` goes through `dominator`.
    ///
    /// Who was met since [`begin`](Self::begin) is not gone through again: it leads to nothing that denies it.
    pub(super) fn is_dominated(&mut self, block: usize, dominator: usize) -> bool {
        let Self { place, from, rooted, met, search, .. } = self;
        let mut to_do = vec![block];
        to_do.extend(from[block].iter().filter(|from| place[**from] > place[block]));
        while let Some(block) = to_do.pop() {
            if block == dominator || std::mem::replace(&mut met[block], *search) == *search {
                continue;
            }
            if place[block] > place[dominator] {
                to_do.extend(from[block].iter().filter(|from| place[**from] < place[block]));
            } else if rooted[block] {
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 0 leads to 1 and 2, both of them to 3, and that to 4.
    const NEXT: [Successors; 5] =
        [[Some(1), Some(2)], [Some(3), None], [Some(3), None], [Some(4), None], [None; 2]];

    fn dominators(dominance: &mut Dominance, block: usize) -> Vec<usize> {
        let is_one = |dominator: &usize| {
            dominance.begin();
            dominance.is_dominated(block, *dominator)
        };
        (0..5).filter(is_one).collect()
    }

    #[test]
    fn every_way_goes_through_a_dominator() {
        let mut dominance = Dominance::new(&[0, 1, 2, 3, 4], 5, |block| NEXT[block]);
        for (block, expected) in [(0, &[0][..]), (1, &[0, 1]), (2, &[0, 2]), (3, &[0, 3]), (4, &[0, 3, 4])] {
            assert_eq!(dominators(&mut dominance, block), expected, "{block}");
        }
    }

    #[test]
    fn moved_edges_are_followed() {
        let mut next = NEXT;
        let mut dominance = Dominance::new(&[0, 1, 2, 3, 4], 5, |block| next[block]);
        // 3 is behind 1 only then.
        next[2] = [Some(4), None];
        dominance.redirect(2, Some(3), Some(4));
        dominance.settle(|block| next[block]);
        assert_eq!(dominators(&mut dominance, 3), [0, 1, 3]);
        assert_eq!(dominators(&mut dominance, 4), [0, 4]);
    }

    /// As libpcap's sets do: 1 is reached from 2 alone, which comes after it, so it says nothing of what lies behind it.
    #[test]
    fn edges_against_the_order_count_for_the_next_block_only() {
        let mut next = NEXT;
        let mut dominance = Dominance::new(&[0, 1, 2, 3, 4], 5, |block| next[block]);
        next[0] = [Some(2), Some(2)];
        next[2] = [Some(1), Some(3)];
        next[1] = [Some(3), None];
        dominance.redirect(0, Some(1), Some(2));
        dominance.redirect(2, None, Some(1));
        dominance.settle(|block| next[block]);
        assert_eq!(dominators(&mut dominance, 1), [0, 2]);
        assert_eq!(dominators(&mut dominance, 3), [0, 2, 3]);
    }
}
