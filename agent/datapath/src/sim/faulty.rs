//! [`Faulty`]: middleware that drops, delays and lies.

use frame_pool::{Frame, FramePool, FrameRef, Lent, RefusedCounts};

use super::random::Random;
use crate::handler::Verdict;
use crate::packet::Packet;
use crate::port::{FrameBytes, Glance, Kick, PacketSink, PortPlaces, QueuePort};
use crate::right::Right;

/// Something untrue about one frame, that a broken kernel or driver might say on a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// The RX ring names another frame, perhaps one outside the UMEM.
    RxWrongFrame,
    /// The RX ring names the same frame twice.
    RxTwice,
    /// The RX ring's length reaches beyond the frame.
    RxTooLong,
    /// A frame stands twice on the fill ring: the next packet overwrites this one, and comes in the same frame.
    FillTwice,
    /// A frame is taken from the fill ring and never comes back.
    RxSwallow,
    /// The completion ring names another frame, perhaps one outside the UMEM.
    CompletionWrongFrame,
    /// The completion ring names the same frame twice.
    CompletionTwice,
    /// A sent frame is never completed.
    CompletionSwallow,
}

impl Lie {
    /// Every one.
    pub const ALL: [Lie; 8] = [
        Lie::RxWrongFrame,
        Lie::RxTwice,
        Lie::RxTooLong,
        Lie::FillTwice,
        Lie::RxSwallow,
        Lie::CompletionWrongFrame,
        Lie::CompletionTwice,
        Lie::CompletionSwallow,
    ];

    pub(super) fn is_about_receiving(self) -> bool {
        matches!(self, Lie::RxWrongFrame | Lie::RxTwice | Lie::RxTooLong | Lie::FillTwice | Lie::RxSwallow)
    }
}

/// A port whose kernel can be made to lie. A [`QueuePort`] trades in frames and could not itself
/// lie about one; lies are told underneath, where there are addresses.
pub trait Tamper {
    /// The next frame to which it applies is lied about, once.
    fn tell(&mut self, lie: Lie);
}

/// How often what goes wrong, in 256ths.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    /// Calls that do nothing, or less than they could.
    pub delay: u8,
    /// Calls of `receive` in which one frame is dropped on the floor: the bug that
    /// [`Snapshot::conserved`](crate::Snapshot::conserved) is there to find.
    pub drop: u8,
    /// Calls of `receive` before which the kernel begins to tell a [`Lie`].
    pub lie: u8,
}

/// A port that is worse than the one inside.
#[derive(Debug)]
pub struct Faulty<P> {
    inner: P,
    rates: Rates,
    random: Random,
    dropped: u32,
}

impl<P> Faulty<P> {
    /// Makes `inner` worse. The same seed gives the same faults.
    pub fn new(inner: P, rates: Rates, seed: u64) -> Self {
        Faulty { inner, rates, random: Random::new(seed ^ 0xfa17), dropped: 0 }
    }

    /// The port inside.
    pub fn inner(&self) -> &P {
        &self.inner
    }

    /// The port inside.
    pub fn inner_mut(&mut self) -> &mut P {
        &mut self.inner
    }

    /// How often what goes wrong from now on.
    pub fn set_rates(&mut self, rates: Rates) {
        self.rates = rates;
    }

    /// Frames that were dropped on the floor so far.
    pub fn dropped(&self) -> u32 {
        self.dropped
    }

    fn delayed(&mut self) -> bool {
        self.random.chance(self.rates.delay)
    }
}

/// Drops the first packet that it is given on the floor.
struct Clumsy<'a, S> {
    sink: &'a mut S,
    /// How many are still to be dropped.
    drops: u32,
}

impl<S: PacketSink> PacketSink for Clumsy<'_, S> {
    fn decide(&mut self, packet: &mut Packet, bytes: &mut impl FrameBytes) -> Option<Verdict> {
        if self.drops == 0 { self.sink.decide(packet, bytes) } else { Some(Verdict::Drop) }
    }

    fn take(&mut self, packet: Packet, verdict: Verdict) {
        match self.drops.checked_sub(1) {
            None => self.sink.take(packet, verdict),
            Some(left) => self.drops = left,
        }
    }
}

impl<P: QueuePort + Tamper> QueuePort for Faulty<P> {
    type Bytes = P::Bytes;

    fn fill_room(&mut self) -> usize {
        let room = self.inner.fill_room();
        // More room than there is: another producer might have been quicker.
        if self.delayed() { room + self.random.below(64) } else { room }
    }

    fn fill(&mut self, frames: &mut Vec<Frame>) -> usize {
        if self.delayed() { 0 } else { self.inner.fill(frames) }
    }

    fn receive(&mut self, packets: &mut Vec<Packet>, max: usize, sink: &mut impl PacketSink) -> usize {
        if self.random.chance(self.rates.lie) {
            let lie = Lie::ALL[self.random.below(Lie::ALL.len())];
            self.inner.tell(lie);
        }
        if self.delayed() {
            return 0;
        }
        let drops = u32::from(self.random.chance(self.rates.drop));
        let mut sink = Clumsy { sink, drops };
        let received = self.inner.receive(packets, max, &mut sink);
        // The sink is given nothing while parts of a packet are waited for.
        if sink.drops > 0 && received > 0 && packets.pop().is_some() {
            sink.drops -= 1;
        }
        let dropped = drops - sink.drops;
        self.dropped += dropped;
        received - dropped as usize
    }

    fn pass(&mut self, max: usize, glance: &mut impl Glance) -> usize {
        if self.delayed() { 0 } else { self.inner.pass(max, glance) }
    }

    fn transmit<R: Right>(&mut self, packets: &mut Vec<Packet<R>>) -> usize {
        if self.delayed() { 0 } else { self.inner.transmit(packets) }
    }

    fn complete<R: Right>(&mut self, rights: &mut Vec<R>) -> usize {
        if self.delayed() { 0 } else { self.inner.complete(rights) }
    }

    fn turn_over(&mut self, pool: &mut FramePool, max: usize) -> usize {
        if self.delayed() { 0 } else { self.inner.turn_over(pool, max) }
    }

    fn max_fragments(&self) -> usize {
        self.inner.max_fragments()
    }

    fn blank(&mut self, frame: Frame, len: usize) -> Packet {
        self.inner.blank(frame, len)
    }

    fn blank_len(&self) -> usize {
        self.inner.blank_len()
    }

    fn kick(&mut self) -> Kick {
        if self.delayed() { Kick::Again } else { self.inner.kick() }
    }

    fn bytes(&self) -> &P::Bytes {
        self.inner.bytes()
    }

    fn bytes_mut(&mut self) -> &mut P::Bytes {
        self.inner.bytes_mut()
    }

    fn lent(&self, lent: Lent) -> u32 {
        self.inner.lent(lent)
    }

    fn unsent(&mut self) -> u32 {
        self.inner.unsent()
    }

    fn places(&mut self) -> PortPlaces {
        self.inner.places()
    }

    fn refused(&self) -> RefusedCounts {
        self.inner.refused()
    }

    fn close(&mut self) {
        self.inner.close();
    }

    fn reclaim(&mut self, frames: &mut Vec<Frame>, references: &mut Vec<FrameRef>) -> u32 {
        self.inner.reclaim(frames, references)
    }
}
