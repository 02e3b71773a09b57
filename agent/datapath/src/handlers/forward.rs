//! [`Forward`]: sends every packet on.

use super::partial::{complete_checksum, complete_checksum_in_parts};
use crate::fragments::Fragments;
use crate::handler::{PacketHandler, Verdict};
use crate::port::FrameBytes;

/// Transmits every packet: in a [`Pair`](crate::Pair), out of the other interface. Nothing is changed but a
/// checksum that the sender left to its device, which is [completed](super::complete_checksum). A frame
/// shorter than an Ethernet header cannot be sent and is dropped.
#[derive(Clone, Copy, Debug, Default)]
pub struct Forward;

impl PacketHandler for Forward {
    #[inline]
    fn handle(&mut self, packet: &mut [u8]) -> Verdict {
        if packet.len() < 14 {
            return Verdict::Drop;
        }
        complete_checksum(packet);
        Verdict::Transmit
    }

    fn handle_fragments<B: FrameBytes>(&mut self, packet: &mut Fragments<'_, B>) -> Verdict {
        if packet.with(0, <[u8]>::len) < 14 {
            return Verdict::Drop;
        }
        complete_checksum_in_parts(packet);
        Verdict::Transmit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_is_sent_unchanged_unless_it_is_too_short() {
        let mut frame = [7; 60];
        assert_eq!(Forward.handle(&mut frame), Verdict::Transmit);
        assert_eq!(frame, [7; 60]);
        assert_eq!(Forward.handle(&mut frame[..14]), Verdict::Transmit);
        assert_eq!(Forward.handle(&mut frame[..13]), Verdict::Drop);
        assert_eq!(Forward.handle(&mut []), Verdict::Drop);
    }
}
