//! [`Arrivals`]: how descriptors of an RX ring become packets.
//!
//! Most packets are in one frame that the ledger knows: they go through the worker's hands at once, one by one.
//! The first other one, and what comes behind it, is laid out in a vector for the worker to look at as a whole.

use std::ops::ControlFlow;
use std::{mem, slice};

use frame_pool::{Fate, Frame, Ledger, Lent};

use crate::descriptor::Descriptor;
use crate::handler::Verdict;
use crate::packet::Packet;
use crate::port::{FrameBytes, Glance, PacketSink, Passed};

/// What a port must remember of packets whose frames do not come in one batch.
#[derive(Debug, Default)]
pub struct Assembly {
    /// The first frame of a packet was refused: the next one that comes is what is left of it.
    headless: bool,
}

/// One batch of an RX ring.
///
/// What is left of a packet that lost a frame is marked, so that it is never taken for a packet of fewer
/// frames, or for a part of the next.
#[derive(Debug)]
pub struct Arrivals<'a> {
    ledger: &'a mut Ledger,
    assembly: &'a mut Assembly,
    packets: &'a mut Vec<Packet>,
    /// How many were in `packets` before.
    before: usize,
    taken: usize,
}

impl<'a> Arrivals<'a> {
    /// A batch, and where to put the packets that nobody takes; what is in there already are the first parts
    /// of one whose others had not arrived.
    #[inline]
    pub fn new(ledger: &'a mut Ledger, assembly: &'a mut Assembly, packets: &'a mut Vec<Packet>) -> Self {
        let before = packets.len();
        Arrivals { ledger, assembly, packets, before, taken: 0 }
    }

    /// Goes through a ring's entries in order, each with what it says, and what `note` wants to know of it once it is
    /// a packet; of one that is dropped at once nothing need be noted.
    #[inline]
    pub fn settle<D, B: FrameBytes>(
        &mut self,
        mut entries: &[D],
        describe: impl Fn(&D) -> Descriptor,
        note: impl Fn(&B, &Packet, &D),
        bytes: &mut B,
        sink: &mut impl PacketSink,
    ) {
        if self.packets.is_empty() && !self.assembly.headless {
            let layout = self.ledger.layout();
            let before = entries.len();
            let mut given_back = None;
            let addr_of = |entry: &D| describe(entry).addr();
            let settled = self.ledger.settle_run(Lent::Fill, &mut entries, addr_of, |entry, frame| {
                let descriptor = describe(entry);
                if descriptor.is_plain(layout) {
                    let mut packet = Packet::plain(frame, layout, descriptor);
                    match sink.decide(&mut packet, bytes) {
                        Some(Verdict::Drop) => {
                            sink.take(packet, Verdict::Drop);
                            return ControlFlow::Continue(());
                        }
                        Some(Verdict::Transmit) => {
                            note(bytes, &packet, entry);
                            sink.take(packet, Verdict::Transmit);
                            return ControlFlow::Continue(());
                        }
                        None => {
                            note(bytes, &packet, entry);
                            given_back = Some(packet);
                        }
                    }
                } else {
                    let packet = Packet::received(frame, layout, descriptor);
                    note(bytes, &packet, entry);
                    given_back = Some(packet);
                }
                ControlFlow::Break(())
            });
            self.taken += before - entries.len();
            if let Some(packet) = given_back {
                self.taken -= 1;
                self.packets.push(packet);
            }
            if let Err((refused, _)) = settled {
                self.taken -= 1;
                self.refused(describe(refused));
            }
        }
        if !entries.is_empty() {
            self.keep(entries, &describe, &note, bytes);
        }
    }

    /// All that is left goes into the vector.
    #[inline(never)]
    fn keep<D, B>(
        &mut self,
        mut entries: &[D],
        describe: &impl Fn(&D) -> Descriptor,
        note: &impl Fn(&B, &Packet, &D),
        bytes: &B,
    ) {
        let layout = self.ledger.layout();
        let addr_of = |entry: &D| describe(entry).addr();
        while let Err((refused, _)) =
            self.ledger.settle_run(Lent::Fill, &mut entries, addr_of, |entry, frame| {
                let mut packet = Packet::received(frame, layout, describe(entry));
                note(bytes, &packet, entry);
                if mem::take(&mut self.assembly.headless) {
                    packet.tear();
                }
                self.packets.push(packet);
                ControlFlow::Continue(())
            })
        {
            self.refused(describe(refused));
        }
    }

    /// The ledger refused a frame. It has counted that, and there is none.
    #[cold]
    fn refused(&mut self, descriptor: Descriptor) {
        let more = descriptor.has_more();
        match self.packets.last_mut() {
            Some(before) if before.has_more() => {
                before.tear();
                before.set_more(more);
            }
            _ => self.assembly.headless = more,
        }
    }

    /// Frames that came, those that the ledger refused not counted.
    #[inline]
    pub fn count(self) -> usize {
        self.taken + self.packets.len() - self.before
    }
}

/// Fewer entries are not worth [passing](pass): what that saves each, getting ready for it costs again.
pub const WORTH_PASSING: usize = 16;

/// The [short way](crate::QueuePort::pass) of a ring's entries, in order: those of packets that are sent are copied into
/// the next of `slots` on the TX ring. Says how many went by; the others are to be [settled](Arrivals::settle).
///
/// From the first one on at which a glance is not enough, all are looked at: what a queue is sent is mostly of one kind.
#[inline]
pub fn pass<D: Copy, B: FrameBytes>(
    ledger: &mut Ledger,
    assembly: &Assembly,
    entries: &[D],
    slots: &mut slice::IterMut<'_, D>,
    describe: impl Fn(&D) -> Descriptor + Copy,
    bytes: &mut B,
    sight: &mut impl Glance,
) -> usize {
    if assembly.headless {
        return 0;
    }
    let passed = pass_by::<false, _, _>(ledger, entries, slots, describe, bytes, sight);
    if passed == entries.len() {
        return passed;
    }
    passed + pass_by::<true, _, _>(ledger, &entries[passed..], slots, describe, bytes, sight)
}

/// [`pass`], as far as glances are enough; or all the way, with a closer look at each.
///
/// Not inlined, and its loop has neither a call nor an end by panic if the glance has none: so what the loop needs
/// stays in registers.
#[inline(never)]
fn pass_by<const CLOSER: bool, D: Copy, B: FrameBytes>(
    ledger: &mut Ledger,
    entries: &[D],
    slots: &mut slice::IterMut<'_, D>,
    describe: impl Fn(&D) -> Descriptor,
    bytes: &mut B,
    sight: &mut impl Glance,
) -> usize {
    let layout = ledger.layout();
    let mut passing = Passing::of(sight, slots);
    let Passing { sight, home, slots, passed, .. } = &mut passing;
    // Each may need a slot, or room on the way home.
    let most = entries.len().min(slots.len()).min(home.capacity() - home.len());
    let mut ahead = &entries[..most];
    ledger.pass_run(
        Lent::Fill,
        &mut ahead,
        slots,
        |entry| describe(entry).addr(),
        |entry, mut frame| {
            let packet = describe(entry);
            if !packet.is_plain(layout) {
                return Fate::Left(frame);
            }
            let verdict = if CLOSER {
                Some(sight.look(&mut frame, packet, bytes))
            } else {
                sight.glance(&mut frame, packet, bytes)
            };
            match verdict {
                Some(Verdict::Transmit) if !packet.is_empty() => {
                    passed.bytes_sent += u64::from(packet.len());
                    Fate::Onward(frame)
                }
                Some(verdict) if home.len() < home.capacity() => {
                    passed.bytes_home += u64::from(packet.len());
                    passed.empty += u64::from(verdict == Verdict::Transmit);
                    home.push(frame);
                    Fate::Taken
                }
                _ => Fate::Left(frame),
            }
        },
    );
    most - ahead.len()
}

/// Who glances, and what it is told in the end, also if the handler panics: set aside where nothing else points to it.
struct Passing<'a, 's, D, S: Glance> {
    sight: &'a mut S,
    home: Vec<Frame>,
    slots: &'a mut slice::IterMut<'s, D>,
    /// How many slots there were.
    room: usize,
    passed: Passed,
}

impl<'a, 's, D, S: Glance> Passing<'a, 's, D, S> {
    #[inline]
    fn of(sight: &'a mut S, slots: &'a mut slice::IterMut<'s, D>) -> Self {
        let home = mem::take(sight.home());
        Passing { sight, home, room: slots.len(), slots, passed: Passed::default() }
    }
}

impl<D, S: Glance> Drop for Passing<'_, '_, D, S> {
    #[inline]
    fn drop(&mut self) {
        *self.sight.home() = mem::take(&mut self.home);
        let sent = (self.room - self.slots.len()) as u64;
        self.sight.passed(Passed { sent, ..self.passed });
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use frame_pool::{FrameAddr, FrameLayout, FramePool, PoolConfig, UmemProvider};

    use super::*;
    use crate::right::Right;

    struct NoBytes;

    impl FrameBytes for NoBytes {
        fn with<R: Right, T>(&self, _: &Packet<R>, look: impl FnOnce(&[u8]) -> T) -> T {
            look(&[])
        }

        fn with_mut<T>(&mut self, _: &mut Packet, change: impl FnOnce(&mut [u8]) -> T) -> T {
            change(&mut [])
        }

        fn with_plain<T>(&mut self, _: &mut Frame, _: Descriptor, change: impl FnOnce(&mut [u8]) -> T) -> T {
            change(&mut [])
        }
    }

    /// Takes packets of less than so many bytes, and drops those of an odd number.
    struct Below(u32, Vec<Packet>);

    impl PacketSink for Below {
        fn decide(&mut self, packet: &mut Packet, _: &mut impl FrameBytes) -> Option<Verdict> {
            let verdict = if packet.len() % 2 == 0 { Verdict::Transmit } else { Verdict::Drop };
            (packet.len() < self.0).then_some(verdict)
        }

        fn take(&mut self, packet: Packet, verdict: Verdict) {
            assert_eq!(verdict == Verdict::Drop, packet.len() % 2 == 1);
            self.1.push(packet);
        }
    }

    struct Queue {
        pool: FramePool,
        ledger: Ledger,
        assembly: Assembly,
        sink: Below,
        packets: Vec<Packet>,
        /// Lengths of the packets that were noted.
        noted: RefCell<Vec<u32>>,
    }

    impl Queue {
        fn new(below: u32) -> Self {
            let layout = FrameLayout::new(2048, 8).unwrap();
            Queue {
                pool: FramePool::new(PoolConfig::default(), UmemProvider::new(layout)),
                ledger: Ledger::new(layout),
                assembly: Assembly::default(),
                sink: Below(below, Vec::new()),
                packets: Vec::new(),
                noted: RefCell::default(),
            }
        }

        /// What the kernel says of the next frame that it is lent: so many bytes, and whether there is more.
        fn lend(&mut self, len: u32, more: bool) -> Descriptor {
            let id = self.ledger.lend(self.pool.alloc().unwrap(), Lent::Fill);
            Descriptor::new(FrameAddr(self.pool.layout().addr_of(id).0 + 256), len, more)
        }

        /// From now on the ledger does not know the frame.
        fn lose(&mut self, descriptor: Descriptor) {
            let frame = self.ledger.settle(Lent::Fill, descriptor.addr()).unwrap();
            self.pool.put_direct(frame);
        }

        fn arrive(&mut self, descriptors: &[Descriptor]) -> usize {
            let mut arrivals = Arrivals::new(&mut self.ledger, &mut self.assembly, &mut self.packets);
            let note = |_: &NoBytes, packet: &Packet, descriptor: &Descriptor| {
                assert_eq!(packet.len(), descriptor.len());
                self.noted.borrow_mut().push(descriptor.len());
            };
            arrivals.settle(descriptors, |descriptor| *descriptor, note, &mut NoBytes, &mut self.sink);
            arrivals.count()
        }

        /// Lengths of what was taken, and of what was not.
        fn seen(&self) -> (Vec<u32>, Vec<u32>) {
            let lengths = |packets: &[Packet]| packets.iter().map(Packet::len).collect();
            (lengths(&self.sink.1), lengths(&self.packets))
        }
    }

    impl Drop for Queue {
        fn drop(&mut self) {
            for packet in self.packets.drain(..).chain(self.sink.1.drain(..)) {
                self.pool.put_direct(packet.into_right());
            }
            assert_eq!(self.pool.places().out, self.ledger.lent(Lent::Fill));
        }
    }

    #[test]
    fn all_is_kept_from_the_first_one_on_that_nobody_takes() {
        for (odd_len, more) in [(100, false), (1, true)] {
            let mut queue = Queue::new(100);
            let parts = [(1, false), (2, false), (odd_len, more), (3, false), (4, false)];
            let descriptors = parts.map(|(len, more)| queue.lend(len, more));
            assert_eq!(queue.arrive(&descriptors[..4]), 4);
            assert_eq!(queue.arrive(&descriptors[4..]), 1);
            assert_eq!(queue.seen(), (vec![1, 2], vec![odd_len, 3, 4]));
        }
    }

    /// Who sends it later, or looks at it, needs what the ring said of it.
    #[test]
    fn all_is_noted_but_what_is_dropped_at_once() {
        let mut queue = Queue::new(100);
        let descriptors = [(1, false), (2, false), (3, false), (101, false), (5, false)];
        let descriptors = descriptors.map(|(len, more)| queue.lend(len, more));
        assert_eq!(queue.arrive(&descriptors), 5);
        assert_eq!(*queue.noted.borrow(), [2, 101, 5]);
    }

    #[test]
    fn a_frame_that_was_not_lent_is_nobodys() {
        let mut queue = Queue::new(100);
        let [one, two, three] = [1, 2, 3].map(|len| queue.lend(len, false));
        assert_eq!(queue.arrive(&[one, one, two, two, three]), 3);
        assert_eq!(queue.seen(), (vec![1], vec![2, 3]));
        assert_eq!(queue.ledger.refused().not_lent, 2);
    }

    #[test]
    fn what_lost_a_frame_is_torn_and_its_neighbours_are_not() {
        // Each packet of three frames loses one of them; a packet of one frame before and after, and a lost one
        // that takes nothing with it.
        for (lost, batch_ends_after) in (0..9).map(|n| (n / 3, n % 3)) {
            let mut queue = Queue::new(0);
            let descriptors = [0, 1, 2, 3, 4, 5, 6].map(|part| queue.lend(60, part == 1 || part == 2));
            for refused in [1 + lost, 5] {
                queue.lose(descriptors[refused]);
            }
            let (first, second) = descriptors.split_at(2 + batch_ends_after);
            assert_eq!(queue.arrive(first) + queue.arrive(second), 5);
            let seen: Vec<_> =
                queue.packets.iter().map(|packet| (packet.has_more(), packet.is_torn())).collect();
            let torn = queue.packets.iter().filter(|packet| packet.is_torn()).count();
            assert_eq!((seen.len(), torn), (5, 1), "{seen:?}");
            assert_eq!([seen[0], seen[3], seen[4]], [(false, false); 3], "{seen:?}");
            assert_eq!((seen[1].0, seen[2].0), (true, false), "two frames, then the next packet: {seen:?}");
        }
    }

    /// What is left of it may look like a packet of its own.
    #[test]
    fn the_rest_of_a_torn_packet_is_not_taken() {
        let mut queue = Queue::new(100);
        let [first, rest, next] =
            [(60, true), (50, false), (40, false)].map(|(len, more)| queue.lend(len, more));
        queue.lose(first);
        assert_eq!(queue.arrive(&[first]), 0);
        assert_eq!(queue.arrive(&[rest, next]), 2);
        assert_eq!(queue.seen(), (vec![], vec![50, 40]));
        assert!(queue.packets[0].is_torn() && !queue.packets[1].is_torn());
    }

    /// Sends packets of an even length and takes home those of an odd one: at a glance if they are below 100 bytes.
    struct Sight {
        home: Vec<Frame>,
        looked_at: usize,
        passed: Passed,
    }

    fn even_sent(packet: Descriptor) -> Verdict {
        if packet.len().is_multiple_of(2) { Verdict::Transmit } else { Verdict::Drop }
    }

    impl Glance for Sight {
        fn glance(&mut self, _: &mut Frame, packet: Descriptor, _: &mut impl FrameBytes) -> Option<Verdict> {
            (packet.len() < 100).then(|| even_sent(packet))
        }

        fn look(&mut self, _: &mut Frame, packet: Descriptor, _: &mut impl FrameBytes) -> Verdict {
            self.looked_at += 1;
            even_sent(packet)
        }

        fn home(&mut self) -> &mut Vec<Frame> {
            &mut self.home
        }

        fn passed(&mut self, Passed { sent, bytes_sent, bytes_home, empty }: Passed) {
            self.passed.sent += sent;
            self.passed.bytes_sent += bytes_sent;
            self.passed.bytes_home += bytes_home;
            self.passed.empty += empty;
        }
    }

    /// What became of packets.
    #[derive(Debug, PartialEq)]
    struct Outcome {
        /// The lengths of those that were sent.
        sent: Vec<u32>,
        at_home: usize,
        looked_at: usize,
        passed: Passed,
    }

    /// A packet goes on in the next frame.
    const MORE: u32 = 1 << 16;

    /// Passes packets of these lengths, with so much room for those that are sent, and at home.
    fn passing(lengths: &[u32], slots: usize, at_home: usize) -> Outcome {
        let mut queue = Queue::new(0);
        let lend = |len: &u32| queue.lend(len % MORE, *len >= MORE);
        let descriptors: Vec<_> = lengths.iter().map(lend).collect();
        let mut sight = Sight { home: Vec::with_capacity(at_home), looked_at: 0, passed: Passed::default() };
        let mut sent = vec![Descriptor::new(FrameAddr(0), 0, false); slots];
        let mut left = sent.iter_mut();
        let (ledger, assembly) = (&mut queue.ledger, &queue.assembly);
        let count = pass(ledger, assembly, &descriptors, &mut left, |entry| *entry, &mut NoBytes, &mut sight);
        let unused = left.len();
        sent.truncate(slots - unused);
        let at_home = sight.home.len();
        assert_eq!(
            (count, ledger.lent(Lent::Tx) as usize),
            (sent.len() + at_home, sent.len()),
            "{lengths:?}"
        );
        for descriptor in &sent {
            queue.pool.put_direct(queue.ledger.settle(Lent::Tx, descriptor.addr()).unwrap());
        }
        sight.home.drain(..).for_each(|frame| queue.pool.put_direct(frame));
        let sent = sent.into_iter().map(Descriptor::len).collect();
        Outcome { sent, at_home, looked_at: sight.looked_at, passed: sight.passed }
    }

    #[test]
    fn packets_pass_to_the_other_ring_or_home_and_are_counted() {
        let passed = Passed { sent: 2, bytes_sent: 122, bytes_home: 124, empty: 1 };
        let all = Outcome { sent: vec![60, 62], at_home: 3, looked_at: 0, passed };
        assert_eq!(passing(&[60, 61, 0, 62, 63], 8, 8), all, "one without bytes is not sent");
    }

    #[test]
    fn from_the_first_one_on_that_no_glance_decides_about_all_are_looked_at() {
        let passed = Passed { sent: 2, bytes_sent: 164, bytes_home: 162, empty: 0 };
        let all = Outcome { sent: vec![60, 104], at_home: 2, looked_at: 3, passed };
        assert_eq!(passing(&[60, 101, 104, 61], 8, 8), all);
    }

    #[test]
    fn what_does_not_pass_ends_it_and_stays_lent() {
        for (lengths, slots, at_home, passes) in [
            (&[60, 61, MORE + 60, 60][..], 8, 8, 2),
            (&[60, 100, MORE + 60, 60], 8, 8, 2),
            (&[60, 62, 64], 2, 8, 2),
            (&[60, 102, 64], 2, 8, 2),
            (&[61, 63, 65], 8, 2, 2),
            (&[60], 0, 8, 0),
        ] {
            let outcome = passing(lengths, slots, at_home);
            assert_eq!(outcome.sent.len() + outcome.at_home, passes, "{lengths:?}");
        }
    }
}
