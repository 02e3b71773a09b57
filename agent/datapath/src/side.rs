//! [`Side`]: one queue's pool and rings, and the steps of a turn. A worker has one, a pair two.

use std::mem;
use std::slice;
use std::time::Duration;

use frame_pool::{Frame, FramePool, Recycler};

use crate::handler::{Due, PacketHandler, Verdict};
use crate::observer::{Home, Observer, Seen};
use crate::outbox::Outbox;
use crate::packet::{Fragments, MAX_FRAGMENTS, Packet, Right, push};
use crate::port::{Kick, PortPlaces, QueuePort};
use crate::publish::Publisher;
use crate::snapshot::{Places, Snapshot, Traffic};
use crate::worker::{Turn, WorkerConfig};

/// How often a turn wakes the kernel at most. In copy mode a call sends 32 packets, so that four of
/// them empty a batch of 64 and what an earlier turn left behind.
const KICKS_PER_TURN: u32 = 4;

/// How many turns may follow one another, each with more to do at once, before the readers are shown where
/// things are. At full load that is a fraction of a millisecond.
const PUBLISH_EVERY: u32 = 16;

/// One queue: the pool that its frames are of, its rings, and what lies in between.
#[derive(Debug)]
pub(crate) struct Side<P> {
    pub(crate) pool: FramePool,
    pub(crate) recycler: Recycler,
    pub(crate) port: P,
    batch: usize,
    fill_target: u32,
    /// Frames on their way home. Empty between turns.
    pub(crate) done: Vec<Frame>,
    /// Frames on their way to the fill ring or to the generator. Empty between turns.
    fresh: Vec<Frame>,
    /// Packets on their way through the handler. Between turns there is at most the beginning of one
    /// whose other frames have not arrived.
    received: Vec<Packet>,
    /// The parts of the one packet that is being handled. Empty between turns.
    parts: Vec<Packet>,
    /// Where the port's frames were at the end of the last turn.
    pub(crate) lent: PortPlaces,
    traffic: Traffic,
    /// Frames that were ever read from the RX ring.
    rx_frames: u64,
    /// Frames that were ever put on the TX ring.
    tx_frames: u64,
    turns_busy: u64,
    turns_idle: u64,
    last_turn: Duration,
    /// Turns since the last one that was published.
    unpublished: u32,
    pub(crate) publisher: Publisher,
}

/// What a side says of itself needs to know of the TX ring that its packets are sent on, which may be
/// another side's.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sending {
    /// Where the frames of that ring's port are.
    pub(crate) lent: PortPlaces,
    /// Frames that wait for it.
    pub(crate) held: usize,
}

/// Which of a provider's frames a side's places must add up to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Account {
    /// All but so many, those in the slab included.
    AllBut(u32),
    /// Those that its pool took from the provider.
    Taken,
}

impl<P: QueuePort> Side<P> {
    pub(crate) fn new(pool: FramePool, mut port: P, config: WorkerConfig) -> Self {
        let batch = config.batch.max(1);
        let lent = port.places();
        let ring = lent.fill.saturating_add(port.fill_room() as u32);
        let arriving = batch + MAX_FRAGMENTS;
        Side {
            recycler: pool.recycler(),
            pool,
            port,
            batch,
            fill_target: config.fill_target.min(ring),
            done: Vec::with_capacity(arriving),
            fresh: Vec::with_capacity(arriving),
            received: Vec::with_capacity(arriving),
            parts: Vec::with_capacity(arriving),
            lent,
            traffic: Traffic::default(),
            rx_frames: 0,
            tx_frames: 0,
            turns_busy: 0,
            turns_idle: 0,
            last_turn: Duration::ZERO,
            unpublished: 0,
            publisher: Publisher::new(),
        }
    }

    /// Sent frames come home. Does not look at whether anything is received: a queue that only sends
    /// would stop otherwise.
    pub(crate) fn complete<R: Right>(&mut self, out: &mut Outbox<R>) -> usize {
        let mut completed = 0;
        loop {
            let batch = self.port.complete(&mut out.sent);
            completed += batch;
            let more = out.sent.len() == out.sent.capacity();
            out.bring_home(&mut self.pool);
            if !more {
                self.traffic.completions += completed as u64;
                return completed;
            }
        }
    }

    /// Lends the kernel frames up to the fill target, in whole batches, or, if it has few left, to
    /// the last one. Does not look at whether anything is received: once the fill ring is empty,
    /// nothing would be ever again.
    pub(crate) fn refill(&mut self) -> usize {
        let missing = self.fill_target.saturating_sub(self.lent.lent_fill()) as usize;
        let running_dry = self.runs_dry();
        if missing < self.batch && !running_dry {
            return 0;
        }
        let mut wanted = missing.min(self.port.fill_room());
        let mut filled = 0;
        while wanted >= self.batch || (wanted > 0 && running_dry) {
            let batch = wanted.min(self.batch);
            let got = self.pool.alloc_bulk(&mut self.fresh, batch);
            let taken = self.port.fill(&mut self.fresh);
            filled += taken;
            wanted -= batch;
            if got < batch {
                self.traffic.alloc_fail += 1;
            }
            if taken < batch {
                self.pool.put_direct_bulk(&mut self.fresh);
                break;
            }
        }
        self.traffic.filled += filled as u64;
        filled
    }

    /// Whether the kernel has less than half of the frames that it should have for receiving.
    fn runs_dry(&self) -> bool {
        self.lent.fill + self.lent.kernel <= self.fill_target / 2
    }

    /// After a turn that received so many: whether another one is worth while at once.
    pub(crate) fn may_have_more(&self, received: usize) -> bool {
        received == self.batch || (received > 0 && self.runs_dry())
    }

    /// Takes packets off the RX ring.
    pub(crate) fn receive(&mut self) -> usize {
        let received = self.port.receive(&mut self.received, self.batch);
        self.rx_frames += received as u64;
        received
    }

    /// Every received packet goes through the handler and past the observer, and from there home or into
    /// the outbox.
    pub(crate) fn handle<H: PacketHandler, O: Observer>(
        &mut self,
        now: Duration,
        side: usize,
        handler: &mut H,
        observer: &mut O,
        out: &mut Outbox<O::Sent>,
    ) {
        let mut received = mem::take(&mut self.received);
        let mut done = mem::take(&mut self.done);
        if Packet::are_whole(&received) {
            let (sent, bytes) = self.ask_all(&mut received, handler);
            if O::LOOKS || (sent > 0 && sent < received.len()) {
                self.part_ways(now, side, received.drain(..), &mut done, observer, out);
            } else if sent == 0 {
                done.extend(received.drain(..).map(Packet::into_right));
            } else {
                out.passes(bytes);
                O::overlook(&mut received, &mut out.backlog);
            }
        } else {
            self.handle_in_parts(now, side, &mut received, &mut done, handler, observer, out);
        }
        self.pool.put_direct_bulk(&mut done);
        self.done = done;
        self.received = received;
        // The beginning of a packet whose other frames have not arrived waits for them.
        self.received.append(&mut self.parts);
    }

    /// Each packet of a turn, all of one frame, is shown to the handler, and keeps its verdict; how many are to
    /// be sent, and the bytes of all.
    #[inline]
    fn ask_all<H: PacketHandler>(&mut self, packets: &mut [Packet], handler: &mut H) -> (usize, u64) {
        let (mut bytes, mut sent) = (0, 0);
        for packet in &mut *packets {
            bytes += u64::from(packet.len());
            if self.port.with_bytes_mut(packet, |bytes| handler.handle(bytes)) == Verdict::Transmit {
                packet.set_sent();
                sent += 1;
            }
        }
        self.traffic.rx_bytes += bytes;
        self.traffic.handler_dropped += (packets.len() - sent) as u64;
        (sent, bytes)
    }

    /// Each packet goes past the observer, and where its verdict sends it.
    #[inline]
    fn part_ways<O: Observer>(
        &mut self,
        now: Duration,
        side: usize,
        packets: impl Iterator<Item = Packet>,
        done: &mut Vec<Frame>,
        observer: &mut O,
        out: &mut Outbox<O::Sent>,
    ) {
        let Side { pool, recycler, port, .. } = self;
        for packet in packets {
            let is_sent = packet.is_sent();
            let verdict = if is_sent { Verdict::Transmit } else { Verdict::Drop };
            observer.see(Seen { at: now, side, verdict }, port, slice::from_ref(&packet));
            let home = Home { pool, recycler };
            if is_sent {
                match observer.sent(home, packet) {
                    Ok(packet) => out.push(packet),
                    Err(packet) => push(done, packet.into_right()),
                }
            } else if let Some(frame) = observer.dropped(home, packet) {
                push(done, frame);
            }
        }
    }

    /// A turn's packets, of which some take several frames, or are empty.
    #[cold]
    #[expect(clippy::too_many_arguments, reason = "two vectors are taken out of `self` by the caller")]
    fn handle_in_parts<H: PacketHandler, O: Observer>(
        &mut self,
        now: Duration,
        side: usize,
        received: &mut Vec<Packet>,
        done: &mut Vec<Frame>,
        handler: &mut H,
        observer: &mut O,
        out: &mut Outbox<O::Sent>,
    ) {
        let mut in_parts = false;
        for packet in received.drain(..) {
            if in_parts || !packet.is_whole() {
                in_parts = self.handle_part(packet, now, side, handler, observer, out);
            } else {
                let mut one = [packet];
                self.ask_all(&mut one, handler);
                let [packet] = &mut one;
                if packet.is_sent() && packet.is_empty() {
                    out.invalid += 1;
                    packet.unset_sent();
                }
                self.part_ways(now, side, one.into_iter(), done, observer, out);
            }
        }
        done.append(&mut self.done);
    }

    /// A part of a packet in several frames; with the last one the packet is handled. Whether there are
    /// more to come.
    #[cold]
    fn handle_part<H: PacketHandler, O: Observer>(
        &mut self,
        part: Packet,
        now: Duration,
        side: usize,
        handler: &mut H,
        observer: &mut O,
        out: &mut Outbox<O::Sent>,
    ) -> bool {
        let is_last = !part.has_more();
        self.parts.push(part);
        // More parts than a packet can have are a lie of the kernel's; then there is no last one to wait for.
        if !is_last && self.parts.len() <= MAX_FRAGMENTS {
            return true;
        }
        let count = self.parts.len();
        self.count_parts();
        if !is_last || self.parts.iter().any(Packet::is_torn) {
            self.drop_torn();
            return false;
        }
        let wanted = handler.handle_fragments(&mut Fragments::new(&mut self.port, &mut self.parts));
        let is_valid = count <= out.max_fragments && !self.parts.iter().any(Packet::is_empty);
        let verdict = if is_valid { wanted } else { Verdict::Drop };
        match wanted {
            Verdict::Drop => self.traffic.handler_dropped += 1,
            Verdict::Transmit => out.invalid += u64::from(!is_valid),
        }
        observer.see(Seen { at: now, side, verdict }, &self.port, &self.parts);
        match verdict {
            Verdict::Transmit => self.send_parts(observer, out),
            Verdict::Drop => {
                for part in self.parts.drain(..) {
                    let home = Home { pool: &mut self.pool, recycler: &self.recycler };
                    self.done.extend(observer.dropped(home, part));
                }
            }
        }
        false
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
        while self.fresh.len() >= parts && parts > 0 {
            let mut at = 0;
            while at < size {
                let Some(frame) = self.fresh.pop() else { break };
                let mut part = self.port.blank(frame, size - at);
                let len = part.len() as usize;
                part.set_more(at + len < size);
                self.port.with_bytes_mut(&mut part, |bytes| handler.write(at, bytes));
                self.parts.push(part);
                at += len;
            }
            if at < size {
                // A frame had less room than a blank one. Half a packet is not sent.
                self.done.extend(self.parts.drain(..).map(Packet::into_right));
                break;
            }
            self.traffic.generated += 1;
            let seen = Seen { at: now, side: 0, verdict: Verdict::Transmit };
            observer.see(seen, &self.port, &self.parts);
            self.send_parts(observer, out);
        }
        self.pool.put_direct_bulk(&mut self.fresh);
        self.pool.put_direct_bulk(&mut self.done);
    }

    /// Lends the kernel what waits, and drops what exceeds the limit.
    pub(crate) fn transmit<R: Right>(&mut self, out: &mut Outbox<R>) -> usize {
        if out.backlog.is_empty() {
            return 0;
        }
        let transmitted = self.port.transmit(&mut out.backlog);
        self.tx_frames += transmitted as u64;
        out.cut(out.limit, &mut self.pool);
        transmitted
    }

    /// Wakes the kernel until it has what it was given or takes no more, or the turn's share of wake-ups is
    /// spent; the next turn goes on.
    pub(crate) fn kick<R: Right>(&mut self, out: &mut Outbox<R>) -> (Kick, usize) {
        let mut completed = 0;
        for _ in 0..KICKS_PER_TURN {
            let kick = self.port.kick();
            self.traffic.count_kick(kick);
            if matches!(kick, Kick::NotNeeded | Kick::Done | Kick::Down) {
                return (kick, completed);
            }
            let reaped = self.complete(out);
            completed += reaped;
            if kick == Kick::Busy && reaped == 0 {
                return (kick, completed);
            }
        }
        (Kick::Again, completed)
    }

    /// Counts a turn.
    pub(crate) fn end_turn(&mut self, now: Duration, turn: &Turn) {
        if turn.is_idle() {
            self.turns_idle += 1;
        } else {
            self.turns_busy += 1;
        }
        self.last_turn = now;
    }

    /// Asks the port where its frames are.
    pub(crate) fn look(&mut self) {
        self.lent = self.port.places();
    }

    /// Whether others are to be shown this turn.
    pub(crate) fn is_to_publish(&mut self, more: bool) -> bool {
        self.unpublished += 1;
        let is_to_publish = !more || self.unpublished >= PUBLISH_EVERY;
        if is_to_publish {
            self.unpublished = 0;
        }
        is_to_publish
    }

    /// The parts of a packet whose others will not arrive go home; for the end.
    pub(crate) fn drop_unfinished(&mut self) {
        self.parts.append(&mut self.received);
        if !self.parts.is_empty() {
            self.count_parts();
            self.drop_torn();
        }
        self.pool.put_direct_bulk(&mut self.done);
    }

    fn count_parts(&mut self) {
        self.traffic.rx_fragments += self.parts.len() as u64 - 1;
        self.traffic.rx_bytes += self.parts.iter().map(|part| u64::from(part.len())).sum::<u64>();
    }

    fn drop_torn(&mut self) {
        self.traffic.rx_torn += 1;
        self.done.extend(self.parts.drain(..).map(Packet::into_right));
    }

    /// Everything about this side as of the last [`look`](Self::look). `out` is its own outbox, `sending`
    /// tells of the ring that its frames are sent on.
    pub(crate) fn snapshot<O: Observer>(
        &self,
        out: &Outbox<O::Sent>,
        sending: Sending,
        account: Account,
        observer: &O,
    ) -> Snapshot {
        // First: who gives a frame back meanwhile is then counted as a holder without one, which is lawful.
        let given = self.pool.held();
        let pool = self.pool.places();
        let inflight = self.pool.inflight();
        let (lent, sending, waiting) = (self.lent, sending.lent, sending.held);
        let quarantined = lent.quarantined_fill + sending.quarantined_tx;
        let lent_or_lost = lent.lent_fill() + sending.lent_tx() + quarantined;
        let (total, slab) = match account {
            Account::AllBut(others) => (self.pool.layout().chunk_count() - others, pool.slab),
            Account::Taken => (self.accounted(), 0),
        };
        let (tx_bytes, tx_fragments) = out.passed_on();
        let counts = observer.counts();
        Snapshot {
            total,
            held: (self.done.len() + self.fresh.len() + self.received.len() + self.parts.len() + waiting)
                as u32,
            given,
            places: Places {
                slab,
                cache: pool.cache,
                ring: pool.ring,
                // More lent than handed out would be a bug. It shows as places that do not add up.
                user: pool.out.saturating_sub(lent_or_lost),
                fill: lent.fill,
                kernel: lent.kernel,
                rx: lent.rx,
                tx: sending.tx,
                completion: sending.completion,
                quarantined,
                detached: pool.detached,
            },
            pool: self.pool.stats(),
            hold: self.pool.hold(),
            release: self.pool.release(),
            inflight,
            refused: self.port.refused(),
            traffic: Traffic {
                rx_packets: self.rx_frames - self.traffic.rx_fragments - self.received.len() as u64,
                tx_packets: self.tx_frames - tx_fragments,
                tx_bytes,
                tx_fragments,
                tx_full: out.full,
                tx_invalid: out.invalid,
                observed: counts.kept,
                observe_missed: counts.missed,
                ..self.traffic
            },
            turns_busy: self.turns_busy,
            turns_idle: self.turns_idle,
            last_turn: self.last_turn,
        }
    }

    /// Frames that this side's pool took from the provider and did not give back, nor lost.
    pub(crate) fn accounted(&self) -> u32 {
        self.pool.inflight() as u32 + self.pool.places().detached
    }
}
