//! [`Outbox`]: packets on their way to a TX ring, and the way home of those that were sent.

use frame_pool::{FramePool, Recycler};

use crate::packet::{Packet, whole};
use crate::right::Right;
use crate::vec::push;

/// What waits for room on a TX ring, and what comes back from its completion ring.
#[derive(Debug)]
pub(crate) struct Outbox<R> {
    /// Parts of packets, in order, each packet whole.
    pub(crate) backlog: Vec<Packet<R>>,
    /// How many frames may wait from one turn to the next.
    pub(crate) limit: usize,
    /// How many frames one packet may have.
    pub(crate) max_fragments: usize,
    /// Rights on their way home. Empty between turns.
    pub(crate) sent: Vec<R>,
    /// Where they go if not to the pool of the side that sends them.
    home: Option<Recycler>,
    /// Bytes of all packets that ever came in and were not dropped.
    bytes: u64,
    /// Frames of those beyond the first of each packet.
    fragments: u64,
    /// Packets that were dropped because the ring was full and so was the backlog.
    pub(crate) full: u64,
    /// Packets that were dropped because the kernel would refuse them.
    pub(crate) invalid: u64,
}

impl<R> Outbox<R> {
    /// Whether its packets were received by the side that sends them.
    #[inline]
    pub(crate) fn is_own(&self) -> bool {
        self.home.is_none()
    }

    /// Counts the bytes of packets, each in one frame, that go into the backlog without [`push`](Self::push).
    #[inline]
    pub(crate) fn passes(&mut self, bytes: u64) {
        self.bytes += bytes;
    }
}

impl<R: Right> Outbox<R> {
    /// `arriving` is how many frames may come in during a turn: they all go through the backlog, and those
    /// beyond its limit are dropped at the turn's end.
    pub(crate) fn new(limit: usize, arriving: usize, max_fragments: usize, home: Option<Recycler>) -> Self {
        Outbox {
            backlog: Vec::with_capacity(limit + arriving),
            limit,
            max_fragments,
            sent: Vec::with_capacity(arriving),
            home,
            bytes: 0,
            fragments: 0,
            full: 0,
            invalid: 0,
        }
    }

    /// Takes in a packet, or a part of one.
    #[inline]
    pub(crate) fn push(&mut self, packet: Packet<R>) {
        self.bytes += u64::from(packet.len());
        push(&mut self.backlog, packet);
    }

    /// Notes that the packet that came in last has so many frames.
    pub(crate) fn had_parts(&mut self, count: usize) {
        self.fragments += count as u64 - 1;
    }

    /// Takes back what came in after there were `len`: it is not to be sent after all.
    pub(crate) fn take_back(&mut self, len: usize, pool: &mut FramePool) {
        for packet in self.backlog.drain(len..) {
            self.bytes -= u64::from(packet.len());
            self.sent.push(packet.into_right());
        }
        self.bring_home(pool);
    }

    /// A frame keeps its home: what was sent for another side goes back as page_pool's pages do after a
    /// redirect, through the ring of the pool that they are of.
    #[inline]
    pub(crate) fn bring_home(&mut self, pool: &mut FramePool) {
        put_home(self.home.as_ref(), pool, &mut self.sent);
    }

    /// Drops what exceeds the limit: the newest, as a full queue of a network device does. It never holds
    /// up what is to be received.
    pub(crate) fn cut(&mut self, limit: usize, pool: &mut FramePool) {
        let keep = whole(&self.backlog, limit);
        if keep == self.backlog.len() {
            return;
        }
        for packet in self.backlog.drain(keep..) {
            self.bytes -= u64::from(packet.len());
            self.fragments -= u64::from(packet.has_more());
            self.full += u64::from(!packet.has_more());
            self.sent.push(packet.into_right());
            // What is cut at the end may be more than a batch.
            if self.sent.len() == self.sent.capacity() {
                put_home(self.home.as_ref(), pool, &mut self.sent);
            }
        }
        self.bring_home(pool);
    }

    /// Bytes and frames beyond the first of each packet, of all that came in and waits no more.
    pub(crate) fn passed_on(&self) -> (u64, u64) {
        let waiting_bytes: u64 = self.backlog.iter().map(|packet| u64::from(packet.len())).sum();
        let waiting_parts = self.backlog.iter().filter(|packet| packet.has_more()).count();
        (self.bytes - waiting_bytes, self.fragments - waiting_parts as u64)
    }

    /// Frames in here.
    pub(crate) fn held(&self) -> usize {
        self.backlog.len() + self.sent.len()
    }
}

#[inline]
fn put_home<R: Right>(home: Option<&Recycler>, pool: &mut FramePool, rights: &mut Vec<R>) {
    match home {
        None => R::put_direct_bulk(pool, rights),
        Some(home) => R::put_bulk(home, rights),
    }
}
