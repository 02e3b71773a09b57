//! [`Neta`]: Marvell's NETA, the NIC of Armada 370, XP, 38x and 3720, which `mvneta` drives.
//!
//! One port, eight receive and eight transmit queues, descriptors of 32 bytes. Buffers are the driver's own
//! (`BM`, the hardware's buffer manager, is another device, which the EspressoBIN's tree does not have).
//! Not modelled: interrupt coalescing (an interrupt comes at once), VLAN and TOS priorities, the link's
//! autonegotiation (the tree says fixed-link).

mod filter;
mod mib;
mod rx;
mod tx;

use std::collections::VecDeque;

use crate::{
    memory::GuestMemory,
    nic::Nic,
    registers::{Registers, index},
};
use rx::RxQueue;
use tx::TxQueue;

/// Queues each way.
const QUEUES: u32 = 8;
/// Bytes of registers.
const SIZE: u32 = 0x4000;
/// What a MAC pads short frames to, and refuses to send less of.
const SHORTEST: usize = 60;
/// Frame check sequence.
const FCS: usize = 4;

const RXQ_BASE: u32 = 0x1480;
const RXQ_SIZE: u32 = 0x14a0;
const RXQ_STATUS: u32 = 0x14e0;
const RXQ_UPDATE: u32 = 0x1500;
/// Which receive queues are on: written as "enable" in bits 7:0 and "disable" in 15:8.
const RXQ_COMMAND: u32 = 0x2680;
const TXQ_BASE: u32 = 0x3c00;
const TXQ_SIZE: u32 = 0x3c20;
const TXQ_STATUS: u32 = 0x3c40;
const TXQ_UPDATE: u32 = 0x3c60;
const TXQ_COMMAND: u32 = 0x2448;

/// Bit 8: the transmit FIFO is empty, as it always is here.
const PORT_STATUS: u32 = 0x2444;
/// Frames that found no descriptor; cleared by reading.
const RX_DISCARD: u32 = 0x2484;
const RX_OVERRUN: u32 = 0x2488;
/// Bit q: transmit queue q has sent; bit 8 + q: receive queue q holds frames.
const CAUSE: u32 = 0x25a0;
const MASK: u32 = 0x25a4;
/// Bit 0: the port is on. Bits 14:2: half of the longest frame that is taken, FCS included.
const GMAC_CONTROL_0: u32 = 0x2c00;
/// Link up, 1000 Mbit/s, full duplex.
const GMAC_STATUS: u32 = 0x2c10;

/// The NIC.
#[derive(Debug)]
pub struct Neta {
    registers: Registers,
    rx: [RxQueue; QUEUES as usize],
    tx: [TxQueue; QUEUES as usize],
    rx_enabled: u32,
    tx_enabled: u32,
    sent: VecDeque<Vec<u8>>,
}

impl Default for Neta {
    fn default() -> Self {
        Self {
            registers: Registers::new(SIZE),
            rx: Default::default(),
            tx: Default::default(),
            rx_enabled: 0,
            tx_enabled: 0,
            sent: VecDeque::new(),
        }
    }
}

impl Neta {
    /// Powered on.
    pub fn new() -> Self {
        Self::default()
    }

    fn is_on(&self) -> bool {
        self.registers.get(GMAC_CONTROL_0) & 1 != 0
    }

    fn cause(&self) -> u32 {
        let bits = |shift: usize, set: &dyn Fn(usize) -> bool| {
            (0..QUEUES as usize)
                .filter(|queue| set(*queue))
                .fold(0, |bits, queue| bits | 1 << (shift + queue))
        };
        bits(0, &|queue| self.tx[queue].has_sent(self.registers.get(TXQ_SIZE + 4 * queue as u32)))
            | bits(8, &|queue| self.rx[queue].holds_frames())
    }

    /// Sends what the driver has queued on queues that are on.
    fn transmit(&mut self, memory: &GuestMemory) {
        if !self.is_on() {
            return;
        }
        for (queue, state) in self.tx.iter_mut().enumerate() {
            if self.tx_enabled & 1 << queue == 0 {
                continue;
            }
            let at = 4 * queue as u32;
            let (base, size) = (self.registers.get(TXQ_BASE + at), self.registers.get(TXQ_SIZE + at));
            for frame in state.run(base, size, memory) {
                mib::count_sent(&mut self.registers, &frame);
                self.sent.push_back(frame);
            }
        }
    }
}

/// What the enable registers keep: bits 7:0 switch on, bits 15:8 off.
fn switch(enabled: u32, command: u32) -> u32 {
    (enabled | command & 0xff) & !(command >> 8 & 0xff)
}

impl Nic for Neta {
    fn bars(&self) -> &'static [u32] {
        &[SIZE]
    }

    fn read(&mut self, _: usize, offset: u32) -> u32 {
        if let Some(queue) = index(offset, RXQ_STATUS, QUEUES) {
            return self.rx[queue].status();
        }
        if let Some(queue) = index(offset, TXQ_STATUS, QUEUES) {
            return self.tx[queue].status();
        }
        match offset {
            RXQ_COMMAND => self.rx_enabled,
            TXQ_COMMAND => self.tx_enabled,
            PORT_STATUS => 1 << 8,
            GMAC_STATUS => 0b1011,
            CAUSE => self.cause(),
            RX_DISCARD | RX_OVERRUN => self.registers.take(offset),
            _ if mib::is_counter(offset) => self.registers.take(offset),
            _ => self.registers.get(offset),
        }
    }

    fn write(&mut self, _: usize, offset: u32, value: u32, memory: &GuestMemory) {
        if let Some(queue) = index(offset, RXQ_UPDATE, QUEUES) {
            self.rx[queue].update(value);
        } else if let Some(queue) = index(offset, TXQ_UPDATE, QUEUES) {
            self.tx[queue].update(value);
            self.transmit(memory);
        } else if offset == RXQ_COMMAND {
            self.rx_enabled = switch(self.rx_enabled, value);
        } else if offset == TXQ_COMMAND {
            self.tx_enabled = switch(self.tx_enabled, value);
            self.transmit(memory);
        } else {
            if let Some(queue) = index(offset, RXQ_BASE, QUEUES) {
                self.rx[queue] = RxQueue::default();
            } else if let Some(queue) = index(offset, TXQ_BASE, QUEUES) {
                self.tx[queue] = TxQueue::default();
            }
            self.registers.set(offset, value);
        }
    }

    fn receive(&mut self, _: usize, frame: &[u8], memory: &GuestMemory) {
        if !self.is_on() {
            return;
        }
        let mut frame = frame.to_vec();
        frame.resize(frame.len().max(SHORTEST), 0);
        let longest = (self.registers.get(GMAC_CONTROL_0) >> 2 & 0x1fff) as usize * 2;
        if frame.len() + FCS > longest {
            self.registers.add(mib::OVERSIZE, 1);
            return;
        }
        let Some(queue) = filter::queue(&self.registers, &frame) else { return };
        mib::count_received(&mut self.registers, &frame);
        let at = 4 * queue as u32;
        let (base, size) = (self.registers.get(RXQ_BASE + at), self.registers.get(RXQ_SIZE + at));
        let on = self.rx_enabled & 1 << queue != 0;
        if !on || !self.rx[queue].take(&frame, base, size, memory) {
            self.registers.add(RX_DISCARD, 1);
        }
    }

    fn take_sent(&mut self) -> Option<(usize, Vec<u8>)> {
        self.sent.pop_front().map(|frame| (0, frame))
    }

    fn interrupts(&self) -> u64 {
        u64::from(self.cause() & self.registers.get(MASK) != 0)
    }

    fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests;
