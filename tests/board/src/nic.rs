//! [`Nic`]: what a model of a NIC is to the rest.

use crate::memory::GuestMemory;

/// A NIC: registers that the driver reads and writes, ports that frames come in and go out by, interrupts.
///
/// All registers have 32 bits. `bar` and `offset` say which one; `memory` is what it reaches by DMA. A driver
/// that gives it an address without memory loses that frame: the model says so on stderr and goes on.
pub trait Nic {
    /// Sizes of its blocks of registers, in bytes; each a power of two.
    fn bars(&self) -> &'static [u32];

    /// The driver reads a register.
    fn read(&mut self, bar: usize, offset: u32) -> u32;

    /// The driver writes a register.
    fn write(&mut self, bar: usize, offset: u32, value: u32, memory: &GuestMemory);

    /// A frame comes in by a port, without FCS.
    fn receive(&mut self, port: usize, frame: &[u8], memory: &GuestMemory);

    /// Takes the next frame that goes out, and its port.
    fn take_sent(&mut self) -> Option<(usize, Vec<u8>)>;

    /// The interrupt lines that are asserted, a bit each.
    fn interrupts(&self) -> u64;

    /// Back to power-on.
    fn reset(&mut self);
}
