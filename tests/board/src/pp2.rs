//! [`Pp2`]: Marvell's PPv2.2, the packet processor of a CP110 of Armada 7K and 8K, which `mvpp2` drives.
//!
//! Several ports share one processor. Its registers appear in windows of 64 KiB, one per thread of software (a CPU,
//! as a rule), which differ in what a thread is doing: its indirect registers, its aggregated transmit queue, its
//! interrupt causes. Buffers are not in the descriptors: the hardware takes them from pools (BM) that the driver
//! filled, by size.
//! Not modelled: the parser (every frame comes in, by the port's default queue or its RSS table), interrupt
//! coalescing (an interrupt comes at once), PTP, the MAC's own counters, flow control, the scheduler's bandwidths.

mod bm;
mod classifier;
mod interrupts;
mod rx;
mod tx;

use std::collections::{BTreeMap, VecDeque};

use crate::{
    memory::GuestMemory,
    nic::Nic,
    registers::{Registers, index},
};
use bm::Pools;
use classifier::Tables;
use interrupts::Interrupts;
use rx::RxQueue;
use tx::Aggregated;

/// Ports of one processor.
const PORTS: usize = 3;
/// Windows that software uses.
const THREADS: usize = 9;
/// Receive queues of one port, whether used or not.
const RXQS_PER_PORT: usize = 32;
/// Receive queues of all.
const RXQS: u32 = 32 * 4;
/// Transmit queues, those of passive optical networks included.
const TXQS: u32 = 256;
/// Transmit queues of one port, and the number of the first port's first.
const TXQS_PER_PORT: usize = 8;
const FIRST_TXQ: usize = 16 * TXQS_PER_PORT;

/// Bytes of a window.
const WINDOW: u32 = 0x1_0000;
/// All windows, and the MACs' block, which needs 0xb000.
const SIZES: [u32; 2] = [0x10_0000, 0x1_0000];

const RXQ_CONFIG: u32 = 0x0800;
const RXQ_NUMBER: u32 = 0x2040;
const RXQ_ADDRESS: u32 = 0x2044;
const RXQ_SIZE: u32 = 0x2048;
const RXQ_INDEX: u32 = 0x2050;
const AGGREGATED_UPDATE: u32 = 0x2090;
const TXQ_PENDING: u32 = 0x20a0;
const RESERVE_REQUEST: u32 = 0x20b0;
const RESERVE_RESULT: u32 = 0x20b4;
const AGGREGATED_ADDRESS: u32 = 0x2100;
const AGGREGATED_SIZE: u32 = 0x2140;
const AGGREGATED_STATUS: u32 = 0x2180;
const AGGREGATED_INDEX: u32 = 0x21c0;
const RXQ_UPDATE: u32 = 0x3000;
const RXQ_STATUS: u32 = 0x3400;
const TXQ_SENT: u32 = 0x3c00;
/// The version: 0x10 is PPv2.2.
const VERSION: u32 = 0x50b0;
/// Frames of a port that were lost before they had a queue; cleared by reading.
const OVERRUN_DROP: u32 = 0x7000;
/// Which queue the counters at 0x7100 to 0x72ff tell of.
const COUNTER_INDEX: u32 = 0x7040;
const RX_ENQUEUED: u32 = 0x7120;
const RX_FULL_QUEUE_DROP: u32 = 0x7220;
const RX_NO_BUFFER_DROP: u32 = 0x7228;
/// Which port's transmit queues are switched by the next one, as NETA's are.
const SCHEDULER_PORT: u32 = 0x8000;
const SCHEDULER_COMMAND: u32 = 0x8004;

/// What one thread of software is doing.
#[derive(Debug)]
struct Thread {
    /// The receive queue that its indirect registers mean.
    rxq: usize,
    /// How many descriptors were granted to it.
    granted: u32,
    aggregated: Aggregated,
    /// Descriptors sent that it does not know of yet, by transmit queue.
    sent: Vec<u32>,
}

impl Default for Thread {
    fn default() -> Self {
        Self { rxq: 0, granted: 0, aggregated: Aggregated::default(), sent: vec![0; TXQS as usize] }
    }
}

/// The processor.
#[derive(Debug)]
pub struct Pp2 {
    common: Registers,
    macs: Registers,
    threads: [Thread; THREADS],
    rx: Vec<RxQueue>,
    pools: Pools,
    tables: Tables,
    interrupts: Interrupts,
    /// Transmit queues that are on, by port as the scheduler counts them.
    scheduled: BTreeMap<u32, u32>,
    /// Counters by what was at [`COUNTER_INDEX`], and offset.
    counters: BTreeMap<(u32, u32), u32>,
    out: VecDeque<(usize, Vec<u8>)>,
}

impl Default for Pp2 {
    fn default() -> Self {
        Self {
            common: Registers::new(WINDOW),
            macs: Registers::new(SIZES[1]),
            threads: Default::default(),
            rx: (0..RXQS).map(|_| RxQueue::default()).collect(),
            pools: Pools::default(),
            tables: Tables::default(),
            interrupts: Interrupts::default(),
            scheduled: BTreeMap::new(),
            counters: BTreeMap::new(),
            out: VecDeque::new(),
        }
    }
}

impl Pp2 {
    /// Powered on.
    pub fn new() -> Self {
        Self::default()
    }

    fn count(&mut self, queue: usize, counter: u32) {
        *self.counters.entry((queue as u32, counter)).or_default() += 1;
    }

    /// What a window shows of the processor.
    fn window_read(&mut self, thread: usize, offset: u32) -> u32 {
        if let Some(rxq) = index(offset, RXQ_STATUS, RXQS) {
            return self.rx[rxq].status();
        }
        if let Some(txq) = index(offset, TXQ_SENT, TXQS) {
            return std::mem::take(&mut self.threads[thread].sent[txq]) << 16;
        }
        if index(offset, AGGREGATED_STATUS, THREADS as u32).is_some() {
            return 0;
        }
        if let Some(other) = index(offset, AGGREGATED_INDEX, THREADS as u32) {
            return self.threads[other].aggregated.next();
        }
        if let Some(value) = self.pools.read(thread, offset).or_else(|| self.tables.read(offset)) {
            return value;
        }
        if let Some(port) = self.interrupts.port_of_cause(offset) {
            return self.cause(port, thread);
        }
        match offset {
            VERSION => 0x10,
            RESERVE_RESULT => self.threads[thread].granted,
            TXQ_PENDING => 0,
            SCHEDULER_COMMAND => self.scheduled.get(&self.common.get(SCHEDULER_PORT)).copied().unwrap_or(0),
            0x7100..0x7300 => self.counters.remove(&(self.common.get(COUNTER_INDEX), offset)).unwrap_or(0),
            OVERRUN_DROP..COUNTER_INDEX => self.common.take(offset),
            _ => self.common.get(offset),
        }
    }

    fn window_write(&mut self, thread: usize, offset: u32, value: u32, memory: &GuestMemory) {
        let state = &mut self.threads[thread];
        if let Some(rxq) = index(offset, RXQ_UPDATE, RXQS) {
            self.rx[rxq].update(value);
            return;
        }
        if let Some(rxq) = index(offset, RXQ_STATUS, RXQS) {
            self.rx[rxq].set_status(value);
            return;
        }
        if self.pools.write(thread, offset, value)
            || self.tables.write(offset, value)
            || self.interrupts.write(thread, offset, value)
        {
            return;
        }
        match offset {
            RXQ_NUMBER => state.rxq = value as usize % RXQS as usize,
            RXQ_ADDRESS => self.rx[state.rxq].base = u64::from(value) << 8,
            RXQ_SIZE => self.rx[state.rxq].size = value & 0x3fff,
            RXQ_INDEX => self.rx[state.rxq].next = value & 0x3fff,
            // All that is asked for is granted: what was queued has left by the time of the next one.
            RESERVE_REQUEST => state.granted = value & 0x3fff,
            AGGREGATED_UPDATE => self.transmit(thread, value & 0x3fff, memory),
            SCHEDULER_COMMAND => {
                let on = self.scheduled.entry(self.common.get(SCHEDULER_PORT)).or_default();
                *on = (*on | value & 0xff) & !(value >> 8 & 0xff);
            }
            _ => self.common.set(offset, value),
        }
    }

    /// A thread has added descriptors to its aggregated queue.
    fn transmit(&mut self, thread: usize, count: u32, memory: &GuestMemory) {
        let at = 4 * thread as u32;
        let base = u64::from(self.common.get(AGGREGATED_ADDRESS + at)) << 8;
        let size = self.common.get(AGGREGATED_SIZE + at) & 0x3fff;
        let Thread { aggregated, sent, .. } = &mut self.threads[thread];
        for _ in 0..count {
            let Some((txq, frame)) = aggregated.run(base, size, memory) else { continue };
            sent[txq] += 1;
            let Some((port, frame)) = txq.checked_sub(FIRST_TXQ).map(|txq| txq / TXQS_PER_PORT).zip(frame)
            else {
                continue;
            };
            // A queue that is switched off is being flushed.
            let on = self.scheduled.get(&(16 + port as u32)).copied().unwrap_or(0);
            if on & 1 << (txq % TXQS_PER_PORT) != 0 {
                self.out.push_back((port, frame));
            }
        }
    }

    fn cause(&self, port: usize, thread: usize) -> u32 {
        let (start, count) = self.interrupts.group(port, thread);
        let first = port * RXQS_PER_PORT + start;
        let held = |number: &usize| self.rx.get(first + number).is_some_and(RxQueue::holds_frames);
        let received = (0..count).filter(held).fold(0, |bits, number| bits | 1 << number);
        let first = FIRST_TXQ + port * TXQS_PER_PORT;
        let sent = &self.threads[thread].sent[first..first + TXQS_PER_PORT];
        sent.iter().zip(16..).filter(|(sent, _)| **sent > 0).fold(received, |bits, (_, bit)| bits | 1 << bit)
    }
}

impl Nic for Pp2 {
    fn bars(&self) -> &'static [u32] {
        &SIZES
    }

    fn read(&mut self, bar: usize, offset: u32) -> u32 {
        let thread = (offset / WINDOW) as usize;
        match bar {
            0 if thread < THREADS => self.window_read(thread, offset % WINDOW),
            1 => self.macs.get(offset),
            _ => 0,
        }
    }

    fn write(&mut self, bar: usize, offset: u32, value: u32, memory: &GuestMemory) {
        let thread = (offset / WINDOW) as usize;
        match bar {
            0 if thread < THREADS => self.window_write(thread, offset % WINDOW, value, memory),
            1 => self.macs.set(offset, value),
            _ => {}
        }
    }

    fn receive(&mut self, port: usize, frame: &[u8], memory: &GuestMemory) {
        let id = self.tables.queue(port, frame).unwrap_or(port * RXQS_PER_PORT);
        let Some(config) = self.rx.get(id).map(|_| self.common.get(RXQ_CONFIG + 4 * id as u32)) else {
            return;
        };
        match self.rx[id].take(frame, config, &mut self.pools, memory) {
            rx::Taken::Stored => self.count(id, RX_ENQUEUED),
            rx::Taken::Off => self.common.add(OVERRUN_DROP + 4 * port as u32, 1),
            rx::Taken::NoDescriptor => self.count(id, RX_FULL_QUEUE_DROP),
            rx::Taken::NoBuffer => self.count(id, RX_NO_BUFFER_DROP),
        }
    }

    fn take_sent(&mut self) -> Option<(usize, Vec<u8>)> {
        self.out.pop_front()
    }

    fn interrupts(&self) -> u64 {
        (0..PORTS * interrupts::LINES_PER_PORT).fold(0, |lines, line| {
            let (port, thread) = (line / interrupts::LINES_PER_PORT, line % interrupts::LINES_PER_PORT);
            let asserted = self.interrupts.passes(port, thread)
                && self.cause(port, thread) & self.interrupts.mask(port, thread) != 0;
            lines | u64::from(asserted) << line
        })
    }

    fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests;
