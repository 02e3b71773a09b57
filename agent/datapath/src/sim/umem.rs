//! [`SimUmem`]: the bytes of all frames, that several simulated queues may share.

use std::sync::{Arc, Mutex, PoisonError};

use frame_pool::{Frame, FrameLayout};

use crate::capture::{Captured, HeldBytes};
use crate::descriptor::Descriptor;
use crate::packet::Packet;
use crate::port::FrameBytes;
use crate::right::Right;

/// The memory of a simulated UMEM. Clone it for as many queues as there are.
#[derive(Clone, Debug)]
pub struct SimUmem {
    layout: FrameLayout,
    memory: Arc<Mutex<Vec<u8>>>,
}

impl SimUmem {
    /// A UMEM of zeros.
    pub fn new(layout: FrameLayout) -> Self {
        SimUmem { layout, memory: Arc::new(Mutex::new(vec![0; layout.byte_len() as usize])) }
    }

    /// How it is cut into frames.
    pub fn layout(&self) -> FrameLayout {
        self.layout
    }

    /// Looks at, or changes, the `len` bytes from `addr` on.
    #[inline]
    pub(super) fn at<T>(&self, addr: u64, len: u32, look: impl FnOnce(&mut [u8]) -> T) -> T {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let start = addr as usize;
        look(&mut memory[start..start + len as usize])
    }
}

impl HeldBytes for SimUmem {
    fn with_bytes(&self, captured: &Captured, look: &mut dyn FnMut(&[u8])) {
        let start = self.layout.addr_of(captured.frame.id()).0 + u64::from(captured.offset);
        self.at(start, captured.len, |bytes| look(bytes));
    }
}

impl FrameBytes for SimUmem {
    #[inline]
    fn with<R: Right, T>(&self, packet: &Packet<R>, look: impl FnOnce(&[u8]) -> T) -> T {
        self.at(packet.addr(self.layout).0, packet.len(), |bytes| look(bytes))
    }

    #[inline]
    fn with_mut<T>(&mut self, packet: &mut Packet, change: impl FnOnce(&mut [u8]) -> T) -> T {
        self.at(packet.addr(self.layout).0, packet.len(), change)
    }

    #[inline]
    fn with_plain<T>(&mut self, _: &mut Frame, packet: Descriptor, change: impl FnOnce(&mut [u8]) -> T) -> T {
        self.at(packet.addr().0, packet.len(), change)
    }
}
