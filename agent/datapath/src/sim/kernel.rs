//! What the kernel and a device do with the four rings (`net/xdp/xsk.c`, copy mode).

use std::collections::VecDeque;

use frame_pool::{FrameAddr, FrameLayout};

use super::faulty::{Lie, Tamper};
use super::random::Random;
use super::{SimConfig, SimPort, SimUmem};
use crate::descriptor::Descriptor;
use crate::packet::MAX_FRAGMENTS;
use crate::port::{Kick, XDP_PACKET_HEADROOM};
use crate::ring::Ring;

/// `TX_BATCH_SIZE`: how many packets one `sendto()` sends.
const TX_BATCH_SIZE: u32 = 32;

/// `struct xdp_statistics`, and what the kernel has no counter for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XdpStatistics {
    /// Packets that were too long or found no frame.
    pub rx_dropped: u64,
    /// Always 0, as in the kernel.
    pub rx_invalid_descs: u64,
    /// Bad TX descriptors.
    pub tx_invalid_descs: u64,
    /// Packets that found the RX ring full.
    pub rx_ring_full: u64,
    /// Packets that found the fill ring empty.
    pub rx_fill_ring_empty_descs: u64,
    /// Looks at an empty TX ring. Normal.
    pub tx_ring_empty_descs: u64,
    /// Fill entries outside the UMEM. The kernel counts them and shows the count to nobody.
    pub fill_invalid_descs: u64,
    /// Packets that the device dropped and completed.
    pub tx_dropped: u64,
    /// Their bytes.
    pub tx_dropped_bytes: u64,
}

/// Where the XDP program's `bpf_redirect_map()` leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Redirect {
    /// To this queue's socket.
    #[default]
    Here,
    /// To the socket of another queue: `xsk_rcv_check()` refuses the packet, and no socket counts it.
    OtherQueue,
    /// To a slot of the XSKMAP without a socket: the program asked for `XDP_PASS` then, so that the stack gets it.
    EmptySlot,
}

#[derive(Debug)]
pub(super) struct Kernel {
    config: SimConfig,
    layout: FrameLayout,
    random: Random,
    up: bool,
    /// `NETDEV_UNREGISTER` has not come yet.
    registered: bool,
    /// `queue_id >= real_num_tx_queues`.
    mute: bool,
    redirect: Redirect,
    /// Packets that arrived and were not yet polled by NAPI.
    arrived: VecDeque<Vec<u8>>,
    /// `pool->free_list`: frames taken from the fill ring and not used.
    free_list: Vec<u64>,
    /// Frames whose packets are on their way out. Each has its slot on the completion ring reserved.
    in_flight: Vec<u64>,
    /// The device says busy this many times more.
    busy: usize,
    /// The queue discipline drops this many packets more.
    dropping: usize,
    lie: Option<Lie>,
    misdirected: u64,
    passed: u64,
    statistics: XdpStatistics,
    delivered: Vec<Vec<u8>>,
    sent: Vec<Vec<u8>>,
    keep_log: bool,
}

impl Kernel {
    pub(super) fn new(config: SimConfig, layout: FrameLayout) -> Self {
        Kernel {
            config,
            layout,
            random: Random::new(config.seed),
            up: true,
            registered: true,
            mute: false,
            redirect: Redirect::default(),
            arrived: VecDeque::new(),
            free_list: Vec::new(),
            in_flight: Vec::new(),
            busy: 0,
            dropping: 0,
            lie: None,
            misdirected: 0,
            passed: 0,
            statistics: XdpStatistics::default(),
            delivered: Vec::new(),
            sent: Vec::new(),
            keep_log: true,
        }
    }

    /// `xsk_release()`: no completions, all frames on rings and lists vanish.
    pub(super) fn close(&mut self) {
        self.redirect = Redirect::EmptySlot;
        self.free_list.clear();
        self.in_flight.clear();
    }

    /// Where received data begin in their frame.
    pub(super) fn rx_start(&self) -> u32 {
        XDP_PACKET_HEADROOM + self.config.headroom
    }

    /// `xsk_sendmsg()` into `__xsk_generic_xmit()`.
    pub(super) fn sendto(
        &mut self,
        tx: &mut Ring<Descriptor>,
        completion: &mut Ring<u64>,
        umem: &SimUmem,
    ) -> Kick {
        if !self.up || !self.registered {
            return Kick::Down;
        }
        if self.mute {
            return Kick::Done;
        }
        let kick = self.generic_xmit(tx, completion, umem);
        tx.release();
        completion.submit();
        kick
    }

    fn generic_xmit(
        &mut self,
        tx: &mut Ring<Descriptor>,
        completion: &mut Ring<u64>,
        umem: &SimUmem,
    ) -> Kick {
        let mut budget = TX_BATCH_SIZE;
        while tx.peek().is_some() {
            let count = packet_at_front(tx);
            let completion_room = completion.room() as usize >= self.in_flight.len() + count as usize;
            if !self.is_valid_packet(tx, count) {
                // xskq_cons_read_desc(): an old kernel skips it, and its frames are never seen again.
                if !self.config.old_kernel && !completion_room {
                    return Kick::Again;
                }
                self.statistics.tx_invalid_descs += u64::from(count);
                for desc in (0..count).filter_map(|_| tx.take()) {
                    if !self.config.old_kernel {
                        self.in_flight.push(desc.addr().0);
                    }
                }
                continue;
            }
            if budget < count || !completion_room {
                return Kick::Again;
            }
            budget -= count;
            if self.busy > 0 {
                self.busy -= 1;
                return Kick::Again;
            }
            let (mut packet, mut len) = (Vec::new(), 0);
            for desc in (0..count).filter_map(|_| tx.take()) {
                self.in_flight.push(desc.addr().0);
                len += u64::from(desc.len());
                if self.keep_log {
                    umem.at(desc.addr().0, desc.len(), |bytes| packet.extend_from_slice(bytes));
                }
            }
            if self.dropping > 0 {
                self.dropping -= 1;
                self.statistics.tx_dropped += 1;
                self.statistics.tx_dropped_bytes += len;
                return Kick::Again;
            }
            if self.keep_log {
                self.sent.push(packet);
            }
        }
        self.statistics.tx_ring_empty_descs += 1;
        Kick::Done
    }

    /// One bad descriptor spoils its whole packet; so do too many.
    fn is_valid_packet(&self, tx: &mut Ring<Descriptor>, count: u32) -> bool {
        count as usize <= MAX_FRAGMENTS
            && (0..count).filter_map(|ahead| tx.peek_at(ahead)).all(|desc| self.is_valid(desc))
    }

    /// `xp_aligned_validate_desc()`.
    fn is_valid(&self, desc: Descriptor) -> bool {
        let offset = self.layout.offset_of(desc.addr());
        !desc.is_empty()
            && u64::from(offset) + u64::from(desc.len()) <= u64::from(self.layout.chunk_size())
            && desc.addr().0 < self.layout.byte_len()
    }

    /// `xsk_buff_can_alloc()`.
    fn can_alloc(&mut self, fill: &Ring<u64>, count: usize) -> bool {
        let can = self.free_list.len() + fill.waiting() as usize >= count;
        self.statistics.rx_fill_ring_empty_descs += u64::from(!can);
        can
    }

    /// `xp_alloc()`: a frame that was taken and not used, or the next good entry of the fill ring.
    fn xp_alloc(&mut self, fill: &mut Ring<u64>) -> Option<u64> {
        if let Some(addr) = self.free_list.pop() {
            return Some(addr);
        }
        while let Some(addr) = fill.take() {
            if addr < self.layout.byte_len() {
                return Some(addr - u64::from(self.layout.offset_of(FrameAddr(addr))));
            }
            self.statistics.fill_invalid_descs += 1;
        }
        self.statistics.rx_fill_ring_empty_descs += 1;
        None
    }

    /// An address to lie with: another frame of the UMEM, or one outside.
    fn wrong_addr(&mut self) -> u64 {
        let frames = self.layout.chunk_count() as usize;
        self.random.below(frames + frames / 8 + 1) as u64 * u64::from(self.layout.chunk_size())
    }
}

/// How many descriptors the packet at the front of the TX ring has.
fn packet_at_front(tx: &mut Ring<Descriptor>) -> u32 {
    let mut count = 1;
    while tx.peek_at(count - 1).is_some_and(|desc| desc.has_more()) {
        count += 1;
    }
    count.min(tx.waiting())
}

/// What the kernel's side does, and what can be learned about it.
impl SimPort {
    /// A packet arrives at the device. It waits there for a NAPI poll.
    pub fn offer(&mut self, packet: Vec<u8>) {
        self.kernel.arrived.push_back(packet);
    }

    /// How many packets wait for a NAPI poll.
    pub fn arrived(&self) -> usize {
        self.kernel.arrived.len()
    }

    /// One NAPI poll with its flush at the end: receives up to `budget` packets.
    pub fn napi_poll(&mut self, budget: usize) {
        self.napi_receive(budget);
        self.flush_rx();
        self.flush_fill();
    }

    /// The first part of a NAPI poll: packets are received, and the rings do not show it yet.
    pub fn napi_receive(&mut self, budget: usize) {
        for _ in 0..budget {
            let Some(packet) = self.kernel.arrived.pop_front() else { return };
            self.xsk_rcv(packet);
        }
    }

    /// The second part, `xskq_prod_submit(xs->rx)` of `xsk_flush()`: packets are on the RX ring.
    pub fn flush_rx(&mut self) {
        self.rings.rx.submit();
    }

    /// The third part, `__xskq_cons_release(xs->pool->fq)` of `xsk_flush()`: the fill ring shows what
    /// was taken.
    pub fn flush_fill(&mut self) {
        self.rings.fill.release();
    }

    /// Completes up to `count` sent packets, oldest first.
    pub fn complete_sent(&mut self, count: usize) {
        for _ in 0..count.min(self.kernel.in_flight.len()) {
            let addr = self.kernel.in_flight.remove(0);
            self.complete_one(addr);
        }
        self.rings.completion.submit();
    }

    /// The device is up or down. While down, it neither receives nor sends.
    pub fn set_up(&mut self, up: bool) {
        self.kernel.up = up;
    }

    /// The interface is removed, for good (`NETDEV_UNREGISTER`): the socket is unbound. What its device had not sent
    /// is freed, which completes it; what lies on the rings stays there.
    pub fn unregister(&mut self) {
        self.kernel.registered = false;
        self.complete_sent(usize::MAX);
    }

    /// Whether the interface has no such queue to send on (`real_num_tx_queues`).
    pub fn set_mute(&mut self, mute: bool) {
        self.kernel.mute = mute;
    }

    /// Where the XDP program sends packets from now on. A socket that is closed is in no slot.
    pub fn set_redirect(&mut self, redirect: Redirect) {
        if !self.rings.is_closed() {
            self.kernel.redirect = redirect;
        }
    }

    /// Packets that were dropped because they came to the socket of another queue. The kernel has no counter for them.
    pub fn misdirected(&self) -> u64 {
        self.kernel.misdirected
    }

    /// Packets that the stack got.
    pub fn passed(&self) -> u64 {
        self.kernel.passed
    }

    /// The device is busy for the next `times` packets.
    pub fn set_busy(&mut self, times: usize) {
        self.kernel.busy = times;
    }

    /// The queue discipline drops the next `count` packets.
    pub fn set_dropping(&mut self, count: usize) {
        self.kernel.dropping = count;
    }

    /// Whether [`delivered`](Self::delivered) and [`sent`](Self::sent) are kept; they are at first.
    /// Without it, long runs take no memory.
    pub fn keep_log(&mut self, keep: bool) {
        self.kernel.keep_log = keep;
    }

    /// The packets that were put on the RX ring so far, in order.
    pub fn delivered(&self) -> &[Vec<u8>] {
        &self.kernel.delivered
    }

    /// The packets that were sent so far, in order.
    pub fn sent(&self) -> &[Vec<u8>] {
        &self.kernel.sent
    }

    /// What the kernel counted.
    pub fn statistics(&self) -> XdpStatistics {
        self.kernel.statistics
    }

    /// Does what a kernel and a device might do next, by the seed: some part of a NAPI poll, some
    /// completions in some order, a busy device now and then.
    pub fn step(&mut self) {
        match self.kernel.random.below(8) {
            0 | 1 => {
                let budget = self.kernel.random.below(65);
                self.napi_poll(budget);
            }
            2 => {
                let budget = self.kernel.random.below(65);
                self.napi_receive(budget);
            }
            3 => self.flush_rx(),
            4 => {
                self.flush_rx();
                self.flush_fill();
            }
            5 | 6 => {
                for _ in 0..self.kernel.random.below(64).min(self.kernel.in_flight.len()) {
                    let index = self.kernel.random.below(self.kernel.in_flight.len());
                    let addr = self.kernel.in_flight.swap_remove(index);
                    self.complete_one(addr);
                }
                self.rings.completion.submit();
            }
            _ => self.kernel.busy = self.kernel.random.below(4),
        }
    }

    /// `__xsk_rcv()`: one packet into one frame, or into as many as it needs, or nowhere.
    fn xsk_rcv(&mut self, packet: Vec<u8>) {
        if !self.kernel.up || !self.kernel.registered {
            return;
        }
        match self.kernel.redirect {
            Redirect::Here => {}
            Redirect::OtherQueue => return self.kernel.misdirected += 1,
            Redirect::EmptySlot => return self.kernel.passed += 1,
        }
        let room = (self.rings.layout.chunk_size() - self.kernel.rx_start()) as usize;
        if packet.len() <= room {
            if self.rcv_part(&packet, false) && self.kernel.keep_log {
                self.kernel.delivered.push(packet);
            }
            return;
        }
        let count = packet.len().div_ceil(room);
        if !self.kernel.config.multi_buffer || !self.kernel.can_alloc(&self.rings.fill, count) {
            self.kernel.statistics.rx_dropped += 1;
            return;
        }
        if (self.rings.rx.room() as usize) < count {
            self.kernel.statistics.rx_ring_full += 1;
            return;
        }
        let mut left = packet.chunks(room);
        let mut whole = true;
        while let Some(part) = left.next() {
            whole &= self.rcv_part(part, left.len() > 0);
        }
        if whole && self.kernel.keep_log {
            self.kernel.delivered.push(packet);
        }
    }

    /// One frame's part of a packet; whether it is on the RX ring, and rightly.
    fn rcv_part(&mut self, part: &[u8], more: bool) -> bool {
        let kernel = &mut self.kernel;
        let Some(frame) = kernel.xp_alloc(&mut self.rings.fill) else {
            kernel.statistics.rx_dropped += 1;
            return false;
        };
        let lie = kernel.lie.take_if(|lie| lie.is_about_receiving());
        if lie == Some(Lie::RxSwallow) {
            return false;
        }
        if lie == Some(Lie::FillTwice) {
            kernel.free_list.push(frame);
        }
        let addr = frame + u64::from(kernel.rx_start());
        let told = if lie == Some(Lie::RxWrongFrame) { kernel.wrong_addr() } else { addr };
        let len = if lie == Some(Lie::RxTooLong) { u32::MAX } else { part.len() as u32 };
        if !self.rings.rx.put(Descriptor::new(FrameAddr(told), len, more)) {
            kernel.statistics.rx_ring_full += 1;
            kernel.free_list.push(frame);
            return false;
        }
        if lie == Some(Lie::RxTwice) {
            self.rings.rx.put(Descriptor::new(FrameAddr(told), len, more));
        }
        self.umem.at(addr, part.len() as u32, |bytes| bytes.copy_from_slice(part));
        true
    }

    /// `xsk_destruct_skb()`: the frame's address goes onto the slot that was reserved for it.
    fn complete_one(&mut self, addr: u64) {
        let lie = self.kernel.lie.take_if(|lie| !lie.is_about_receiving());
        match lie {
            Some(Lie::CompletionSwallow) => return,
            Some(Lie::CompletionWrongFrame) => {
                let wrong = self.kernel.wrong_addr();
                self.rings.completion.put(wrong);
                return;
            }
            // The second one takes no slot that is reserved for another.
            Some(Lie::CompletionTwice)
                if self.rings.completion.room() as usize > self.kernel.in_flight.len() + 1 =>
            {
                self.rings.completion.put(addr);
            }
            _ => {}
        }
        self.rings.completion.put(addr);
    }
}

impl Tamper for SimPort {
    fn tell(&mut self, lie: Lie) {
        self.kernel.lie = Some(lie);
    }
}

#[cfg(test)]
mod tests;
