//! [`Fragments`]: a packet that one frame does not hold.

use crate::packet::Packet;
use crate::port::FrameBytes;

/// All parts of a packet that one frame does not hold, for a handler to look at and to change.
#[derive(Debug)]
pub struct Fragments<'a, B> {
    bytes: &'a mut B,
    packets: &'a mut [Packet],
}

impl<'a, B: FrameBytes> Fragments<'a, B> {
    /// `packets` are those of one packet, at least one.
    pub(crate) fn new(bytes: &'a mut B, packets: &'a mut [Packet]) -> Self {
        Fragments { bytes, packets }
    }

    /// How many there are, at least one.
    pub fn count(&self) -> usize {
        self.packets.len()
    }

    /// Looks at the bytes of one; at none if there are not so many.
    pub fn with<T>(&self, index: usize, look: impl FnOnce(&[u8]) -> T) -> T {
        match self.packets.get(index) {
            Some(packet) => self.bytes.with(packet, look),
            None => look(&[]),
        }
    }

    /// Changes the bytes of one in place; none if there are not so many.
    pub fn with_mut<T>(&mut self, index: usize, change: impl FnOnce(&mut [u8]) -> T) -> T {
        match self.packets.get_mut(index) {
            Some(packet) => self.bytes.with_mut(packet, change),
            None => change(&mut []),
        }
    }

    /// Bytes of all of them.
    pub fn len(&self) -> u64 {
        self.packets.iter().map(|packet| u64::from(packet.len())).sum()
    }

    /// Whether there are no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
