//! [`Drop`]: takes every frame and keeps none.

use crate::handler::{PacketHandler, Verdict};

/// Drops every frame. The worker counts them as
/// [`handler_dropped`](crate::Traffic::handler_dropped).
#[derive(Clone, Copy, Debug, Default)]
pub struct Drop;

impl PacketHandler for Drop {
    #[inline]
    fn handle(&mut self, _frame: &mut [u8]) -> Verdict {
        Verdict::Drop
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_is_dropped_unchanged() {
        let mut frame = [7; 60];
        assert_eq!(Drop.handle(&mut frame), Verdict::Drop);
        assert_eq!(frame, [7; 60]);
        assert_eq!(Drop.handle(&mut []), Verdict::Drop);
    }
}
