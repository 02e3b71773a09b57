//! The part of libpcap's optimizer that decides which bytes are looked at (`optimize.c: opt_loop` without statements).
//!
//! Until nothing changes any more, three things are done to the graph:
//! - an edge goes past a test whose outcome follows from an edge before it, or does not matter (`opt_j`),
//! - a test is pulled up to the others of the same bytes, in a chain of alternatives (`or_pullup`) or of conditions
//!   (`and_pullup`),
//! - a comparison of masked bits with 0 becomes a test of bits (`opt_peep`).
//!
//! What comes of it depends on the order, down to that in lists; so these are the same lists. Only what dominates a
//! block is found otherwise ([`Dominance`]).

use std::collections::HashMap;

use super::dominance::{Dominance, Successors};
use super::{Compare, Filter, Look, Next, Node, Test};

/// Changes in a row that only move edges, after which it gives up; as libpcap does.
const PATIENCE: usize = 100;

/// The optimized graph.
pub(super) fn optimize(filter: Filter) -> Filter {
    let Next::Test(root) = filter.root else { return filter };
    let mut graph = Graph::new(&filter.nodes, root);
    let mut moves = 0;
    while moves < PATIENCE {
        match graph.pass() {
            Change::None => break,
            Change::Edges => moves += 1,
            Change::Tests => moves = 0,
        }
    }
    graph.into_filter()
}

/// What a pass has changed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    None,
    /// Edges only, so that it may be going in circles.
    Edges,
    Tests,
}

/// An edge: out of a block, by the outcome of its test.
type Edge = (usize, bool);

/// Members of a set are 1.
#[derive(Clone)]
struct Bits(Vec<u64>);

impl Bits {
    fn none(len: usize) -> Self {
        Self(vec![0; len.div_ceil(64)])
    }

    fn all(len: usize) -> Self {
        Self(vec![u64::MAX; len.div_ceil(64)])
    }

    fn insert(&mut self, member: usize) {
        self.0[member / 64] |= 1 << (member % 64);
    }

    fn members(&self) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().flat_map(|(place, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = left.checked_ilog2().map(|_| left.trailing_zeros())?;
                left &= left - 1;
                Some(64 * place + bit as usize)
            })
        })
    }

    fn intersect(&mut self, other: &Self) {
        for (word, other) in self.0.iter_mut().zip(&other.0) {
            *word &= other;
        }
    }
}

/// A test, or one of the two ends.
struct Block {
    /// `None` at an end.
    test: Option<Test>,
    /// Where it leads: if not, and if so.
    next: [usize; 2],
    /// What it has looked at when it is left, as this pass found it.
    seen: Option<Look>,
    /// The longest way to an end.
    level: usize,
    /// For both edges out of this block, the edges that every way along them goes through.
    edge_dominators: [Bits; 2],
    /// The edges that lead here.
    arriving: Vec<Edge>,
}

struct Graph {
    /// In the order in which they are met from the root, first by the outcome that is true.
    blocks: Vec<Block>,
    root: usize,
    /// The blocks of each level.
    levels: Vec<Vec<usize>>,
    /// Which end means that the frame matches.
    matches: Option<usize>,
    dominance: Dominance,
    /// Whether dominance is that of the graph as it is now: a pass begins with that before any edge was moved.
    knows_moves: bool,
    change: Change,
}

impl Graph {
    fn new(nodes: &[Node], root: usize) -> Self {
        let mut graph = Self {
            blocks: Vec::new(),
            root: 0,
            levels: Vec::new(),
            matches: None,
            dominance: Dominance::default(),
            knows_moves: false,
            change: Change::None,
        };
        let mut order = Vec::new();
        let mut numbers = HashMap::new();
        // A list instead of recursion: alternatives may be thousands of tests deep.
        let mut to_do = vec![Next::Test(root)];
        while let Some(next) = to_do.pop() {
            if numbers.contains_key(&next) {
                continue;
            }
            numbers.insert(next, order.len());
            order.push(next);
            if let Next::Test(node) = next {
                to_do.extend([nodes[node].no, nodes[node].yes]);
            }
        }
        graph.matches = numbers.get(&Next::End(true)).copied();
        let len = order.len();
        graph.blocks.extend(order.into_iter().map(|next| {
            let node = match next {
                Next::Test(node) => Some(&nodes[node]),
                Next::End(_) => None,
            };
            Block {
                test: node.map(|node| node.test),
                next: node.map_or([0; 2], |node| [node.no, node.yes].map(|next| numbers[&next])),
                seen: None,
                level: 0,
                edge_dominators: [Bits::none(2 * len), Bits::none(2 * len)],
                arriving: Vec::new(),
            }
        }));
        graph
    }

    /// All there is to do, once.
    fn pass(&mut self) -> Change {
        self.change = Change::None;
        self.find_levels();
        self.dominance = self.dominance();
        self.knows_moves = false;
        self.find_edge_dominators();
        for number in self.downward() {
            let block = &mut self.blocks[number];
            block.seen = block.test.map(|test| test.look);
            if let Some(simpler) = block.test.and_then(test_of_bits) {
                block.test = Some(simpler);
                block.next.swap(0, 1);
                self.change = Change::Tests;
            }
            // No bits at all: the outcome is no.
            if block.test.is_some_and(|test| test.compare == Compare::Bits && test.with == 0) {
                block.next[1] = block.next[0];
            }
        }
        for level in 1..self.levels.len() {
            for number in self.levels[level].clone() {
                self.shorten((number, true));
                self.shorten((number, false));
            }
        }
        self.find_arriving();
        for level in 1..self.levels.len() {
            for number in self.levels[level].clone() {
                // In a chain of alternatives, a way goes on where the outcome is no; of conditions, where it is yes.
                self.pull_up(number, false);
                self.pull_up(number, true);
            }
        }
        self.change
    }

    fn next(&self, (block, outcome): Edge) -> usize {
        self.blocks[block].next[usize::from(outcome)]
    }

    fn lead(&mut self, (block, outcome): Edge, to: usize) {
        self.blocks[block].next[usize::from(outcome)] = to;
    }

    fn changed(&mut self, change: Change) {
        self.change = self.change.max(change);
    }

    fn is_end(&self, block: usize) -> bool {
        self.blocks[block].test.is_none()
    }

    fn find_levels(&mut self) {
        self.levels = vec![Vec::new(); self.blocks.len()];
        let mut met = vec![false; self.blocks.len()];
        // Each block is taken out twice, before what lies behind it and after that.
        let mut to_do = vec![(self.root, false)];
        while let Some((block, behind_is_done)) = to_do.pop() {
            if behind_is_done {
                let [no, yes] = self.blocks[block].next;
                let level = self.blocks[yes].level.max(self.blocks[no].level) + 1;
                let level = if self.is_end(block) { 0 } else { level };
                self.blocks[block].level = level;
                self.levels[level].push(block);
            } else if !std::mem::replace(&mut met[block], true) {
                to_do.push((block, true));
                if !self.is_end(block) {
                    let [no, yes] = self.blocks[block].next;
                    to_do.extend([(no, false), (yes, false)]);
                }
            }
        }
        self.levels.truncate(self.blocks[self.root].level + 1);
        // Who comes last is the first in the list.
        self.levels.iter_mut().for_each(|level| level.reverse());
    }

    fn downward(&self) -> Vec<usize> {
        self.levels.iter().rev().flatten().copied().collect()
    }

    fn dominance(&self) -> Dominance {
        Dominance::new(&self.downward(), self.blocks.len(), |block| self.successors(block))
    }

    /// The tests that a block leads to.
    fn successors(&self, block: usize) -> Successors {
        self.blocks[block]
            .next
            .map(|next| Some(next).filter(|next| !self.is_end(block) && !self.is_end(*next)))
    }

    /// Leads an edge elsewhere, and keeps up dominance with it.
    fn redirect(&mut self, edge: Edge, to: usize) {
        let [before, now] =
            [self.next(edge), to].map(|block| Some(block).filter(|block| !self.is_end(*block)));
        self.lead(edge, to);
        self.dominance.redirect(edge.0, before, now);
    }

    /// The number of an edge in [`Block::edge_dominators`], in whose order they are tried.
    fn edge(&self, (block, outcome): Edge) -> usize {
        if outcome { block } else { self.blocks.len() + block }
    }

    fn find_edge_dominators(&mut self) {
        let len = self.blocks.len();
        for block in &mut self.blocks {
            block.edge_dominators = [Bits::all(2 * len), Bits::all(2 * len)];
        }
        self.blocks[self.root].edge_dominators = [Bits::none(2 * len), Bits::none(2 * len)];
        for number in self.downward() {
            for outcome in [true, false] {
                let edge = self.edge((number, outcome));
                let dominators = &mut self.blocks[number].edge_dominators[usize::from(outcome)];
                dominators.insert(edge);
                let dominators = dominators.clone();
                if !self.is_end(number) {
                    let next = self.next((number, outcome));
                    self.blocks[next]
                        .edge_dominators
                        .iter_mut()
                        .for_each(|edges| edges.intersect(&dominators));
                }
            }
        }
    }

    fn find_arriving(&mut self) {
        self.blocks.iter_mut().for_each(|block| block.arriving.clear());
        for number in self.downward() {
            if !self.is_end(number) {
                for edge in [(number, true), (number, false)] {
                    let next = self.next(edge);
                    self.blocks[next].arriving.push(edge);
                }
            }
        }
        // Who comes last is the first in the list.
        self.blocks.iter_mut().for_each(|block| block.arriving.reverse());
    }

    /// Leads an edge past tests whose outcome is known or does not matter.
    fn shorten(&mut self, edge: Edge) {
        if self.is_end(self.next(edge)) {
            return;
        }
        let [no, yes] = self.blocks[self.next(edge)].next;
        if no == yes {
            self.lead(edge, yes);
            self.changed(Change::Tests);
        }
        let dominators = self.blocks[edge.0].edge_dominators[usize::from(edge.1)].clone();
        'again: loop {
            for dominator in dominators.members() {
                let Some(target) = self.fold(self.next(edge), dominator) else { continue };
                self.lead(edge, target);
                self.changed(Change::Edges);
                if self.is_end(target) {
                    return;
                }
                continue 'again;
            }
            return;
        }
    }

    /// Where this block leads, for whom has come along this edge.
    fn fold(&self, block: usize, edge: usize) -> Option<usize> {
        let len = self.blocks.len();
        let (from, outcome) = match edge.checked_sub(len) {
            None => (edge, true),
            // Behind the last one: a bit that no edge has.
            Some(from) if from >= len => return None,
            Some(from) => (from, false),
        };
        let (block, from) = (&self.blocks[block], &self.blocks[from]);
        let (test, known) = (block.test?, from.test?);
        if test.compare != known.compare || block.seen != from.seen {
            return None;
        }
        if test.with == known.with {
            return Some(block.next[usize::from(outcome)]);
        }
        // It is another number.
        (outcome && test.compare == Compare::Equal).then_some(block.next[0])
    }

    /// In the chain of blocks from this one on along edges of the outcome `along`, which leave it for one and the same
    /// place, pulls a test up to the others of the same bytes.
    fn pull_up(&mut self, block: usize, along: bool) {
        let Some(first) = self.blocks[block].arriving.first().copied() else { return };
        let seen = self.blocks[first.0].seen;
        if self.blocks[block].arriving.iter().any(|(from, _)| self.blocks[*from].seen != seen) {
            return;
        }
        let exit = self.next((block, !along));
        self.dominance.begin();
        let in_chain = |graph: &mut Self, number: usize| {
            !graph.is_end(number)
                && graph.next((number, !along)) == exit
                && graph.dominance.is_dominated(number, block)
        };
        let mut differs = (first.0, self.next((first.0, true)) == block);
        let mut at_top = true;
        loop {
            let number = self.next(differs);
            if !in_chain(self, number) {
                return;
            }
            if self.blocks[number].seen != seen {
                break;
            }
            differs = (number, along);
            at_top = false;
        }
        let mut same = (self.next(differs), along);
        loop {
            let number = self.next(same);
            if !in_chain(self, number) {
                return;
            }
            if self.blocks[number].seen == seen {
                break;
            }
            same = (number, along);
        }
        let pulled = self.next(same);
        self.redirect(same, self.next((pulled, along)));
        self.redirect((pulled, along), self.next(differs));
        if at_top {
            for (from, _) in self.blocks[block].arriving.clone() {
                let outcome = self.next((from, true)) == block;
                self.redirect((from, outcome), pulled);
            }
        } else {
            self.redirect(differs, pulled);
        }
        if !std::mem::replace(&mut self.knows_moves, true) {
            self.dominance = self.dominance();
        }
        let mut dominance = std::mem::take(&mut self.dominance);
        dominance.settle(|block| self.successors(block));
        self.dominance = dominance;
        self.changed(Change::Edges);
    }

    fn into_filter(self) -> Filter {
        let next = |number: usize| match self.blocks[number].test {
            Some(_) => Next::Test(number),
            None => Next::End(self.matches == Some(number)),
        };
        let mut root = self.root;
        while !self.is_end(root) && self.blocks[root].next[0] == self.blocks[root].next[1] {
            root = self.blocks[root].next[0];
        }
        // The first look stays (`opt_root`), unless there is nothing behind it.
        let first = (root != self.root && !self.is_end(root)).then(|| self.blocks[self.root].test).flatten();
        let ended = Test { look: Look::at(0, 0), compare: Compare::Equal, with: 0 };
        let nodes = self.blocks.iter().map(|block| {
            let [no, yes] = block.next.map(next);
            Node { test: block.test.unwrap_or(ended), yes, no }
        });
        Filter { nodes: nodes.collect(), first: first.map(|test| test.look), root: next(root) }
    }
}

/// The same test as one of bits, with the outcomes swapped: for a comparison of masked bits with 0.
fn test_of_bits(test: Test) -> Option<Test> {
    let Test { look, compare, with } = test;
    let masked = look.mask != u32::MAX && compare == Compare::Equal && with == 0;
    masked.then_some(Test { look: Look { mask: u32::MAX, ..look }, compare: Compare::Bits, with: look.mask })
}
