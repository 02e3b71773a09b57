//! A packet's way through the handler: from the RX ring, or from the handler's own pen, home or into an outbox.

use std::mem;
use std::time::Duration;

use frame_pool::Frame;

use crate::arrivals::WORTH_PASSING;
use crate::descriptor::Descriptor;
use crate::fragments::Fragments;
use crate::handler::{Due, PacketHandler, Verdict};
use crate::observer::{Home, Observer, Seen};
use crate::outbox::Outbox;
use crate::packet::{MAX_FRAGMENTS, Packet};
use crate::port::{FrameBytes, Glance, PacketSink, Passed, QueuePort};
use crate::right::Right;
use crate::side::Side;
use crate::snapshot::Traffic;
use crate::vec::push;

/// A turn's packets, each in one frame, on their way through the handler while nobody looks on.
///
/// What is collected and counted is in here for as long as that takes, so that it can stay in registers. It goes back
/// to its side also if the handler panics; then only the frame is lost that it had before it. Of packets that an observer
/// is shown, or that have several frames, not even that one.
struct Hands<'a, H, O: Observer> {
    handler: &'a mut H,
    /// Frames of packets that the handler dropped.
    home: &'a mut Vec<Frame>,
    bytes_home: u64,
    sent: Vec<Packet<O::Sent>>,
    bytes_sent: u64,
    /// Packets that were to be sent and have no bytes, which no kernel takes.
    empty: u64,
    /// How many waited to be sent before.
    waiting: usize,
    rx_frames: &'a mut u64,
    traffic: &'a mut Traffic,
    out: &'a mut Outbox<O::Sent>,
}

impl<H, O: Observer> Drop for Hands<'_, H, O> {
    #[inline]
    fn drop(&mut self) {
        *self.rx_frames += (self.home.len() + self.sent.len() - self.waiting) as u64;
        self.traffic.rx_bytes += self.bytes_home + self.bytes_sent;
        self.traffic.handler_dropped += self.home.len() as u64 - self.empty;
        self.out.invalid += self.empty;
        self.out.passes(self.bytes_sent);
        self.out.backlog = mem::take(&mut self.sent);
    }
}

impl<H: PacketHandler, O: Observer> PacketSink for Hands<'_, H, O> {
    #[inline]
    fn decide(&mut self, packet: &mut Packet, bytes: &mut impl FrameBytes) -> Option<Verdict> {
        if O::LOOKS { None } else { Some(bytes.with_mut(packet, |bytes| self.handler.handle(bytes))) }
    }

    #[inline]
    fn take(&mut self, packet: Packet, verdict: Verdict) {
        let len = u64::from(packet.len());
        let home = match verdict {
            Verdict::Drop => packet,
            Verdict::Transmit if len == 0 => {
                self.empty += 1;
                packet
            }
            Verdict::Transmit => match O::overlook(packet) {
                Ok(packet) => {
                    self.bytes_sent += len;
                    return push(&mut self.sent, packet);
                }
                Err(packet) => packet,
            },
        };
        self.bytes_home += len;
        push(self.home, home.into_right());
    }
}

/// The handler, and what it makes of packets while they take the short way.
///
/// The counters go back to their side also if the handler panics.
struct Glancing<'a, H, R> {
    handler: &'a mut H,
    /// Frames of packets that are not sent. None when this begins.
    home: &'a mut Vec<Frame>,
    passed: Passed,
    rx_frames: &'a mut u64,
    tx_frames: &'a mut u64,
    traffic: &'a mut Traffic,
    out: &'a mut Outbox<R>,
}

impl<H, R> Drop for Glancing<'_, H, R> {
    #[inline]
    fn drop(&mut self) {
        let Passed { sent, bytes_sent, bytes_home, empty } = self.passed;
        let home = self.home.len() as u64;
        *self.rx_frames += sent + home;
        *self.tx_frames += sent;
        self.traffic.rx_bytes += bytes_sent + bytes_home;
        self.traffic.handler_dropped += home - empty;
        self.out.invalid += empty;
        self.out.passes(bytes_sent);
    }
}

impl<H: PacketHandler, R> Glance for Glancing<'_, H, R> {
    #[inline]
    fn glance(
        &mut self,
        frame: &mut Frame,
        packet: Descriptor,
        bytes: &mut impl FrameBytes,
    ) -> Option<Verdict> {
        bytes.with_plain(frame, packet, |bytes| self.handler.glance(bytes))
    }

    #[inline]
    fn look(&mut self, frame: &mut Frame, packet: Descriptor, bytes: &mut impl FrameBytes) -> Verdict {
        bytes.with_plain(frame, packet, |bytes| self.handler.handle(bytes))
    }

    #[inline]
    fn home(&mut self) -> &mut Vec<Frame> {
        self.home
    }

    #[inline]
    fn passed(&mut self, Passed { sent, bytes_sent, bytes_home, empty }: Passed) {
        self.passed.sent += sent;
        self.passed.bytes_sent += bytes_sent;
        self.passed.bytes_home += bytes_home;
        self.passed.empty += empty;
    }
}

impl<P: QueuePort> Side<P> {
    /// Takes packets off the RX ring; every one goes through the handler and past the observer, and from there
    /// home or into the outbox.
    #[inline]
    pub(crate) fn receive<H: PacketHandler, O: Observer>(
        &mut self,
        now: Duration,
        side: usize,
        handler: &mut H,
        observer: &mut O,
        out: &mut Outbox<O::Sent>,
    ) -> usize {
        let may_pass = self.batch >= WORTH_PASSING
            && !O::LOOKS
            && O::Sent::IS_SOLE
            && out.is_own()
            && out.backlog.is_empty()
            && self.received.is_empty();
        let passed = if may_pass { self.pass(handler, out) } else { 0 };
        if passed == self.batch {
            return passed;
        }
        let (waiting, unfinished) = (out.backlog.len(), self.received.len());
        let mut hands = Hands::<H, O> {
            handler: &mut *handler,
            home: &mut self.done,
            bytes_home: 0,
            sent: mem::take(&mut out.backlog),
            bytes_sent: 0,
            empty: 0,
            waiting,
            rx_frames: &mut self.rx_frames,
            traffic: &mut self.traffic,
            out: &mut *out,
        };
        let count = passed + self.port.receive(&mut self.received, self.batch - passed, &mut hands);
        drop(hands);
        if !self.received.is_empty() {
            self.rx_frames += (self.received.len() - unfinished) as u64;
            self.handle_rest(now, side, handler, observer, out);
        }
        self.pool.put_direct_bulk(&mut self.done);
        count
    }

    /// The [short way](QueuePort::pass), for who lets nobody look on and sends nothing else.
    #[inline(never)]
    fn pass<H: PacketHandler, R: Right>(&mut self, handler: &mut H, out: &mut Outbox<R>) -> usize {
        let mut glancing = Glancing {
            handler,
            home: &mut self.done,
            passed: Passed::default(),
            out,
            rx_frames: &mut self.rx_frames,
            tx_frames: &mut self.tx_frames,
            traffic: &mut self.traffic,
        };
        let passed = self.port.pass(self.batch, &mut glancing);
        drop(glancing);
        if !self.done.is_empty() {
            self.pool.put_direct_bulk(&mut self.done);
        }
        passed
    }

    /// What did not go through the handler as it came off the ring: because an observer looks on, or because a
    /// packet takes several frames.
    #[inline(never)]
    fn handle_rest<H: PacketHandler, O: Observer>(
        &mut self,
        now: Duration,
        side: usize,
        handler: &mut H,
        observer: &mut O,
        out: &mut Outbox<O::Sent>,
    ) {
        let seen = Seen { at: now, side, verdict: Verdict::Drop };
        self.received.reverse();
        while let Some(part) = self.received.pop() {
            let is_last = !part.has_more();
            self.parts.push(part);
            if is_last {
                self.handle_packet(seen, handler, observer, out);
            } else if self.parts.len() > MAX_FRAGMENTS {
                self.shorten();
            }
        }
        // The beginning of a packet whose other frames have not arrived waits for them.
        self.received.append(&mut self.parts);
    }

    /// Of a packet in more frames than can be sent on, as `__xsk_rcv()` makes of what a sender left to be segmented, only
    /// the first one waits for the end; so that what comes last is not taken for a packet.
    #[cold]
    fn shorten(&mut self) {
        if let Some(first) = self.parts.first_mut() {
            first.overrun();
        }
        let others = self.parts.drain(1..);
        self.traffic.rx_fragments += others.len() as u64;
        for part in others {
            self.traffic.rx_bytes += u64::from(part.len());
            self.done.push(part.into_right());
        }
    }

    /// A packet of which all parts have come.
    fn handle_packet<H: PacketHandler, O: Observer>(
        &mut self,
        seen: Seen,
        handler: &mut H,
        observer: &mut O,
        out: &mut Outbox<O::Sent>,
    ) {
        if self.is_too_long() || self.is_torn() {
            return self.drop_unhandled();
        }
        let bytes = self.port.bytes_mut();
        let wanted = match &mut self.parts[..] {
            [one] => bytes.with_mut(one, |bytes| handler.handle(bytes)),
            parts => handler.handle_fragments(&mut Fragments::new(bytes, parts)),
        };
        let is_valid = self.parts.len() <= out.max_fragments && !self.parts.iter().any(Packet::is_empty);
        let verdict = if is_valid { wanted } else { Verdict::Drop };
        observer.see(Seen { verdict, ..seen }, self.port.bytes(), &self.parts);
        self.count_parts();
        match wanted {
            Verdict::Drop => self.traffic.handler_dropped += 1,
            Verdict::Transmit => out.invalid += u64::from(!is_valid),
        }
        match verdict {
            Verdict::Transmit => self.send_parts(observer, out),
            Verdict::Drop => {
                for part in self.parts.drain(..) {
                    let home = Home { pool: &mut self.pool, recycler: &self.recycler };
                    self.done.extend(observer.dropped(home, part));
                }
            }
        }
    }

    /// The parts of one packet go into the outbox: all of them, or none.
    fn send_parts<O: Observer>(&mut self, observer: &mut O, out: &mut Outbox<O::Sent>) {
        let (before, count) = (out.backlog.len(), self.parts.len());
        for part in self.parts.drain(..) {
            let home = Home { pool: &mut self.pool, recycler: &self.recycler };
            match observer.sent(home, part) {
                Ok(part) => out.push(part),
                Err(part) => self.done.push(part.into_right()),
            }
        }
        if out.backlog.len() == before + count {
            out.had_parts(count);
        } else {
            out.take_back(before, &mut self.pool);
        }
    }

    /// Writes what the handler wants to send by itself, as far as there are frames and room. When it wants
    /// to be asked again, if it says so.
    pub(crate) fn generate<H: PacketHandler, O: Observer>(
        &mut self,
        now: Duration,
        handler: &mut H,
        observer: &mut O,
        out: &mut Outbox<O::Sent>,
    ) -> Option<Duration> {
        let due = handler.due(now);
        if due.packets > 0 {
            let parts = due.size.div_ceil(self.port.blank_len().max(1));
            if parts == 0 || parts > out.max_fragments {
                self.traffic.generated += 1;
                out.invalid += 1;
            } else {
                let room = out.limit.max(self.batch).saturating_sub(out.backlog.len());
                let packets = due.packets.min(room.min(self.batch) / parts);
                self.write_packets(now, Due { packets, ..due }, parts, handler, observer, out);
            }
        }
        due.next
    }

    /// Writes the packets that are due, each in so many parts.
    #[inline(never)]
    fn write_packets<H: PacketHandler, O: Observer>(
        &mut self,
        now: Duration,
        Due { packets, size, .. }: Due,
        parts: usize,
        handler: &mut H,
        observer: &mut O,
        out: &mut Outbox<O::Sent>,
    ) {
        if self.pool.alloc_bulk(&mut self.fresh, packets * parts) < packets * parts {
            self.traffic.alloc_fail += 1;
        }
        self.writes = true;
        while self.fresh.len() >= parts && parts > 0 {
            let mut at = 0;
            while at < size {
                let Some(frame) = self.fresh.pop() else { break };
                let mut part = self.port.blank(frame, size - at);
                let start = at;
                at += part.len() as usize;
                part.set_more(at < size);
                self.parts.push(part);
                let Some(part) = self.parts.last_mut() else { break };
                self.port.bytes_mut().with_mut(part, |bytes| handler.write(start, bytes));
            }
            if at < size {
                // A frame had less room than a blank one. Half a packet is not sent.
                self.done.extend(self.parts.drain(..).map(Packet::into_right));
                break;
            }
            self.traffic.generated += 1;
            let seen = Seen { at: now, side: 0, verdict: Verdict::Transmit };
            observer.see(seen, self.port.bytes(), &self.parts);
            self.send_parts(observer, out);
        }
        self.writes = false;
        self.pool.put_direct_bulk(&mut self.fresh);
        self.pool.put_direct_bulk(&mut self.done);
    }

    /// What is still in the worker's hands goes home; for the end.
    pub(crate) fn drop_unfinished(&mut self) {
        // There are any that are being written, or fresh, only after a panic.
        if self.writes {
            self.done.extend(self.parts.drain(..).map(Packet::into_right));
        }
        if !self.parts.is_empty() {
            self.drop_after_panic();
        }
        self.parts.append(&mut self.received);
        if !self.parts.is_empty() {
            self.drop_unhandled();
        }
        self.pool.put_direct_bulk(&mut self.fresh);
        self.pool.put_direct_bulk(&mut self.done);
    }

    /// The packet that the handler had before it when it panicked, and those that it would have got next, of which
    /// [`handle_rest`](Self::handle_rest) left the first one last.
    #[cold]
    fn drop_after_panic(&mut self) {
        loop {
            self.drop_unhandled();
            while self.parts.last().is_none_or(Packet::has_more) {
                let Some(part) = self.received.pop() else {
                    // The end of this one has not come: it waits as any such packet.
                    return self.received.append(&mut self.parts);
                };
                self.parts.push(part);
            }
        }
    }

    fn count_parts(&mut self) {
        self.traffic.rx_fragments += self.parts.len() as u64 - 1;
        self.traffic.rx_bytes += self.parts.iter().map(|part| u64::from(part.len())).sum::<u64>();
    }

    fn is_too_long(&self) -> bool {
        self.parts.len() > MAX_FRAGMENTS || self.parts.first().is_some_and(Packet::is_too_long)
    }

    fn is_torn(&self) -> bool {
        self.parts.iter().any(Packet::is_torn)
    }

    /// What came of a packet goes home, and nobody has handled it.
    fn drop_unhandled(&mut self) {
        self.count_parts();
        if self.is_too_long() {
            self.traffic.rx_too_long += 1;
        } else if self.is_torn() {
            self.traffic.rx_torn += 1;
        } else {
            self.traffic.rx_unhandled += 1;
        }
        self.done.extend(self.parts.drain(..).map(Packet::into_right));
    }
}
