//! [`Forward`]: sends every packet as it is.

use crate::handler::{PacketHandler, Verdict};

/// Transmits every packet unchanged: in a [`Pair`](crate::Pair), out of the other interface. A frame shorter
/// than an Ethernet header cannot be sent and is dropped.
#[derive(Clone, Copy, Debug, Default)]
pub struct Forward;

impl PacketHandler for Forward {
    #[inline]
    fn handle(&mut self, packet: &mut [u8]) -> Verdict {
        if packet.len() < 14 { Verdict::Drop } else { Verdict::Transmit }
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
