//! [`Snapshot`]: everything a worker says about itself, as of the end of one turn.

use std::time::Duration;

use frame_pool::{PoolStats, RefusedCounts};

use crate::port::Kick;

/// How many frames are in each of the eleven places that a frame can be in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// Free, with the provider.
    pub slab: u32,
    /// Idle in the pool's alloc cache.
    pub cache: u32,
    /// Idle in the pool's return ring.
    pub ring: u32,
    /// Handed out by the pool and not lent to the kernel: with the worker, or given away by it.
    pub user: u32,
    /// On the fill ring, not yet taken by the kernel.
    pub fill: u32,
    /// Taken by the kernel and not yet back.
    pub kernel: u32,
    /// On the RX ring, not yet read.
    pub rx: u32,
    /// Lent to TX and not yet completed.
    pub tx: u32,
    /// On the completion ring, not yet read.
    pub completion: u32,
    /// Refused by the ledger, never used again.
    pub quarantined: u32,
    /// Out of the pool's accounting and still referenced.
    pub detached: u32,
}

impl Places {
    /// Each place's name, as JSON and metrics spell it, and its frames; in a frame's order of travel.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u32)> {
        [
            ("slab", self.slab),
            ("cache", self.cache),
            ("ring", self.ring),
            ("user", self.user),
            ("fill", self.fill),
            ("kernel", self.kernel),
            ("rx", self.rx),
            ("tx", self.tx),
            ("completion", self.completion),
            ("quarantined", self.quarantined),
            ("detached", self.detached),
        ]
        .into_iter()
    }

    /// The frames of all places together.
    pub fn sum(&self) -> u64 {
        self.iter().map(|(_, frames)| u64::from(frames)).sum()
    }
}

/// What went through a worker since its start. All of them only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets read from the RX ring.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Packets put on the TX ring.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Frames read from the completion ring. Completed does not mean sent: the device may have
    /// dropped them.
    pub completions: u64,
    /// Frames put on the fill ring.
    pub filled: u64,
    /// Frames read from the RX ring beyond the first of each packet.
    pub rx_fragments: u64,
    /// Frames put on the TX ring beyond the first of each packet.
    pub tx_fragments: u64,
    /// Packets that began here and not on the RX ring, with those that no kernel would send (`tx_invalid`).
    pub generated: u64,
    /// Packets that the handler wanted dropped.
    pub handler_dropped: u64,
    /// Packets in several frames that were dropped, because the ledger refused one of those.
    pub rx_torn: u64,
    /// Packets that were dropped because they came in more frames than can be sent on
    /// ([`MAX_FRAGMENTS`](crate::packet::MAX_FRAGMENTS)).
    pub rx_too_long: u64,
    /// Packets that went home unhandled: the handler panicked at them or before, or the worker ended before their last
    /// frame had come.
    pub rx_unhandled: u64,
    /// Packets to be sent that were dropped, because the TX ring was full and so was the backlog.
    pub tx_full: u64,
    /// Packets to be sent that were dropped, because the kernel would refuse them: they have a part
    /// without bytes, or more parts than a packet may have. Linux up to 6.12 takes such descriptors and
    /// never gives their frames back.
    pub tx_invalid: u64,
    /// Frames that were still on the TX ring when the socket was closed: their packets count as sent, and the kernel
    /// never took them.
    pub tx_unsent: u64,
    /// Refills that wanted more frames than the pool had. No packet of ours was dropped by that; the
    /// kernel drops when its fill ring runs empty.
    pub alloc_fail: u64,
    /// System calls that woke the kernel and found it done ([`Kick::Done`]).
    pub kicks_done: u64,
    /// System calls after which the kernel wanted to be woken again ([`Kick::Again`]).
    pub kicks_again: u64,
    /// System calls that moved nothing ([`Kick::Busy`]).
    pub kicks_busy: u64,
    /// System calls that found the interface down ([`Kick::Down`]).
    pub kicks_down: u64,
    /// System calls that failed otherwise ([`Kick::Failed`]).
    pub kicks_failed: u64,
    /// Packets that the observer kept.
    pub observed: u64,
    /// Packets that the observer would have kept and could not.
    pub observe_missed: u64,
}

impl Traffic {
    /// Each cause for which this worker dropped packets, by its name in JSON and metrics.
    pub fn drops(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("handler_dropped", self.handler_dropped),
            ("rx_torn", self.rx_torn),
            ("rx_too_long", self.rx_too_long),
            ("rx_unhandled", self.rx_unhandled),
            ("tx_full", self.tx_full),
            ("tx_invalid", self.tx_invalid),
        ]
        .into_iter()
    }

    /// How often the kernel was woken to send, whatever it said.
    pub fn kicks(&self) -> u64 {
        self.kicks_done + self.kicks_again + self.kicks_busy + self.kicks_down + self.kicks_failed
    }

    pub(crate) fn count_kick(&mut self, kick: Kick) {
        match kick {
            Kick::NotNeeded => {}
            Kick::Done => self.kicks_done += 1,
            Kick::Again => self.kicks_again += 1,
            Kick::Busy => self.kicks_busy += 1,
            Kick::Down => self.kicks_down += 1,
            Kick::Failed => self.kicks_failed += 1,
        }
    }
}

/// A worker's frames and counters, all of one moment: the end of a turn.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// How many frames the worker's places must add up to: all of the UMEM. The second side of a
    /// [`Pair`](crate::Pair) accounts for the frames that its pool has taken from their provider, and the
    /// first for the rest.
    pub total: u32,
    /// How many frames the worker has in its own hands, by looking.
    pub held: u32,
    /// How many references to frames others hold, that were given away as
    /// [`HeldFrame`](frame_pool::HeldFrame)s. A frame may be one of these and be sent at the same time.
    pub given: u32,
    /// Where the frames are.
    pub places: Places,
    /// The pool's counters.
    pub pool: PoolStats,
    /// Frames that the pool ever took from its provider (`page_pool_state_hold_cnt`, wraps).
    pub hold: u32,
    /// Frames that the pool ever gave back to its provider (`page_pool_state_release_cnt`, wraps).
    pub release: u32,
    /// `hold - release`: the pool's own idle frames included.
    pub inflight: i32,
    /// What the port's ledger refused.
    pub refused: RefusedCounts,
    /// What went through.
    pub traffic: Traffic,
    /// Fewest frames that were idle, in slab, cache and ring, at any of the moments that were published: how many
    /// the UMEM could do without. The slab is with the first side of a [`Pair`](crate::Pair).
    pub idle_lowest: u32,
    /// Turns with something to do.
    pub turns_busy: u64,
    /// Turns that moved nothing: see [`Turn::is_idle`](crate::Turn::is_idle).
    pub turns_idle: u64,
    /// The time that the last turn was given: since whatever moment the caller counts from.
    pub last_turn: Duration,
}

impl Snapshot {
    /// The law: each frame is in exactly one place.
    ///
    /// True if the places add up, and the frames that the pool believes to be with the user are those
    /// that the worker holds, and besides no more than those that others hold. While nobody else holds
    /// any, a single frame that was dropped on the floor makes this false.
    pub fn conserved(&self) -> bool {
        let (held, given) = (u64::from(self.held), u64::from(self.given));
        self.places.sum() == u64::from(self.total)
            && (held..=held + given).contains(&u64::from(self.places.user))
    }
}
