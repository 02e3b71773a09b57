//! Who is interrupted: each thread of software by each port, for a group of its receive queues.

use super::{PORTS, THREADS};
use crate::registers::index;

/// Interrupt lines of a port: one per thread, for as many as the device tree gives.
pub(super) const LINES_PER_PORT: usize = 5;

/// Which group the next one is about: port in bits 9:7, thread in bits 3:0.
const GROUP_INDEX: u32 = 0x5400;
/// First queue in bits 4:0, how many in bits 11:8.
const GROUP: u32 = 0x5404;
/// Per port: threads to switch on in bits 15:0, and off in bits 31:16.
const ENABLE: u32 = 0x5420;
/// Per port, of the thread that asks: receive queues of the group in bits 7:0, transmit queues in bits 23:16.
const CAUSE: u32 = 0x5480;
const MASK: u32 = 0x54a0;

/// The registers.
#[derive(Debug, Default)]
pub(super) struct Interrupts {
    group_index: u32,
    groups: [[(usize, usize); THREADS]; PORTS],
    enabled: [u32; PORTS],
    masks: [[u32; THREADS]; PORTS],
}

impl Interrupts {
    /// Whether it is a register of ours.
    pub(super) fn write(&mut self, thread: usize, offset: u32, value: u32) -> bool {
        if let Some(port) = index(offset, ENABLE, PORTS as u32) {
            self.enabled[port] = (self.enabled[port] | value & 0xffff) & !(value >> 16);
        } else if let Some(port) = index(offset, MASK, PORTS as u32) {
            self.masks[port][thread] = value;
        } else if offset == GROUP_INDEX {
            self.group_index = value;
        } else if offset == GROUP {
            let (port, thread) = ((self.group_index >> 7 & 7) as usize, (self.group_index & 0xf) as usize);
            if let Some(group) = self.groups.get_mut(port).and_then(|threads| threads.get_mut(thread)) {
                *group = ((value & 0x1f) as usize, (value >> 8 & 0xf) as usize);
            }
        } else {
            return false;
        }
        true
    }

    /// If it is the register of a cause: of which port.
    pub(super) fn port_of_cause(&self, offset: u32) -> Option<usize> {
        index(offset, CAUSE, PORTS as u32)
    }

    /// First queue, from the port's first, and how many.
    pub(super) fn group(&self, port: usize, thread: usize) -> (usize, usize) {
        self.groups[port][thread]
    }

    pub(super) fn mask(&self, port: usize, thread: usize) -> u32 {
        self.masks[port][thread]
    }

    /// Whether a thread's interrupt by a port is switched on.
    pub(super) fn passes(&self, port: usize, thread: usize) -> bool {
        self.enabled[port] & 1 << thread != 0
    }
}
