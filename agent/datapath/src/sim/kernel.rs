//! What the kernel and a device do with the four rings (`net/xdp/xsk.c`, copy mode).

use std::collections::VecDeque;

use frame_pool::{FrameAddr, FrameLayout};

use super::faulty::{Lie, Tamper};
use super::random::Random;
use super::ring::Ring;
use super::{Desc, SimConfig, SimPort, XDP_PACKET_HEADROOM};
use crate::port::Kick;

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
}

#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) closed: bool,
    config: SimConfig,
    layout: FrameLayout,
    random: Random,
    up: bool,
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
    statistics: XdpStatistics,
    delivered: Vec<Vec<u8>>,
    sent: Vec<Vec<u8>>,
    keep_log: bool,
}

impl Kernel {
    pub(super) fn new(config: SimConfig, layout: FrameLayout) -> Self {
        Kernel {
            closed: false,
            config,
            layout,
            random: Random::new(config.seed),
            up: true,
            arrived: VecDeque::new(),
            free_list: Vec::new(),
            in_flight: Vec::new(),
            busy: 0,
            dropping: 0,
            lie: None,
            statistics: XdpStatistics::default(),
            delivered: Vec::new(),
            sent: Vec::new(),
            keep_log: true,
        }
    }

    /// `xsk_release()`: no completions, all frames on rings and lists vanish.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.free_list.clear();
        self.in_flight.clear();
    }

    /// `xsk_sendmsg()` into `__xsk_generic_xmit()`.
    pub(super) fn sendto(&mut self, tx: &mut Ring<Desc>, completion: &mut Ring<u64>, memory: &[u8]) -> Kick {
        if self.closed || !self.up {
            return Kick::Down;
        }
        let kick = self.generic_xmit(tx, completion, memory);
        tx.release();
        completion.submit();
        kick
    }

    fn generic_xmit(&mut self, tx: &mut Ring<Desc>, completion: &mut Ring<u64>, memory: &[u8]) -> Kick {
        let mut budget = TX_BATCH_SIZE;
        while let Some(desc) = tx.peek() {
            let completion_room = completion.room() > self.in_flight.len() as u32;
            if !self.is_valid(desc) {
                // xskq_cons_read_desc(): an old kernel skips it, and its frame is never seen again.
                if !self.config.old_kernel {
                    if !completion_room {
                        return Kick::Again;
                    }
                    self.in_flight.push(desc.addr);
                }
                self.statistics.tx_invalid_descs += 1;
                tx.take();
                continue;
            }
            if budget == 0 || !completion_room {
                return Kick::Again;
            }
            budget -= 1;
            if self.busy > 0 {
                self.busy -= 1;
                return Kick::Again;
            }
            tx.take();
            self.in_flight.push(desc.addr);
            if self.dropping > 0 {
                self.dropping -= 1;
                self.statistics.tx_dropped += 1;
                return Kick::Again;
            }
            if self.keep_log {
                let start = desc.addr as usize;
                self.sent.push(memory[start..start + desc.len as usize].to_vec());
            }
        }
        self.statistics.tx_ring_empty_descs += 1;
        Kick::Done
    }

    /// `xp_aligned_validate_desc()`.
    fn is_valid(&self, desc: Desc) -> bool {
        let offset = self.layout.offset_of(FrameAddr(desc.addr));
        desc.len > 0
            && u64::from(offset) + u64::from(desc.len) <= u64::from(self.layout.chunk_size())
            && desc.addr < self.layout.byte_len()
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
        self.rx.submit();
    }

    /// The third part, `__xskq_cons_release(xs->pool->fq)` of `xsk_flush()`: the fill ring shows what
    /// was taken.
    pub fn flush_fill(&mut self) {
        self.fill.release();
    }

    /// Completes up to `count` sent packets, oldest first.
    pub fn complete_sent(&mut self, count: usize) {
        for _ in 0..count.min(self.kernel.in_flight.len()) {
            let addr = self.kernel.in_flight.remove(0);
            self.complete_one(addr);
        }
        self.completion.submit();
    }

    /// The device is up or down. While down, it neither receives nor sends.
    pub fn set_up(&mut self, up: bool) {
        self.kernel.up = up;
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
                self.completion.submit();
            }
            _ => self.kernel.busy = self.kernel.random.below(4),
        }
    }

    /// `xsk_rcv()`: one packet into one frame.
    fn xsk_rcv(&mut self, packet: Vec<u8>) {
        let kernel = &mut self.kernel;
        if kernel.closed || !kernel.up {
            return;
        }
        let start = XDP_PACKET_HEADROOM + kernel.config.headroom;
        if packet.len() > (self.layout.chunk_size() - start) as usize {
            kernel.statistics.rx_dropped += 1;
            return;
        }
        let Some(frame) = kernel.xp_alloc(&mut self.fill) else {
            kernel.statistics.rx_dropped += 1;
            return;
        };
        let lie = kernel.lie.take_if(|lie| lie.is_about_receiving());
        if lie == Some(Lie::RxSwallow) {
            return;
        }
        let addr = frame + u64::from(start);
        let told = if lie == Some(Lie::RxWrongFrame) { kernel.wrong_addr() } else { addr };
        let len = if lie == Some(Lie::RxTooLong) { u32::MAX } else { packet.len() as u32 };
        if !self.rx.put(Desc { addr: told, len }) {
            kernel.statistics.rx_ring_full += 1;
            kernel.free_list.push(frame);
            return;
        }
        if lie == Some(Lie::RxTwice) {
            self.rx.put(Desc { addr: told, len });
        }
        self.memory[addr as usize..addr as usize + packet.len()].copy_from_slice(&packet);
        if kernel.keep_log {
            kernel.delivered.push(packet);
        }
    }

    /// `xsk_destruct_skb()`: the frame's address goes onto the slot that was reserved for it.
    fn complete_one(&mut self, addr: u64) {
        let lie = self.kernel.lie.take_if(|lie| !lie.is_about_receiving());
        match lie {
            Some(Lie::CompletionSwallow) => return,
            Some(Lie::CompletionWrongFrame) => {
                let wrong = self.kernel.wrong_addr();
                self.completion.put(wrong);
                return;
            }
            // The second one takes no slot that is reserved for another.
            Some(Lie::CompletionTwice)
                if self.completion.room() as usize > self.kernel.in_flight.len() + 1 =>
            {
                self.completion.put(addr);
            }
            _ => {}
        }
        self.completion.put(addr);
    }
}

impl Tamper for SimPort {
    fn tell(&mut self, lie: Lie) {
        self.kernel.lie = Some(lie);
    }
}
