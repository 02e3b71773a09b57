//! [`Standstill`]: frames that the kernel keeps although nothing moves.
//!
//! A frame that was lent is on its way, and where the kernel, or a driver, has lost one, nobody tells. But while packets go
//! on moving, and the link is up, completions come, and in copy mode the kernel takes a frame only when it has a packet for
//! it. So what is still out when neither has happened for long was swallowed. Under traffic without a pause nothing can be
//! said; a pause of that length will come. What was found out by one is remembered when the traffic goes on.

use std::time::{Duration, Instant};

use datapath::snapshot::{Places, Traffic};

use crate::observe::Swallowed;

/// A look at a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) places: Places,
    pub(super) traffic: Traffic,
    /// Grows with each frame that the kernel was through with, wherever it was sent, and each time that the kernel was
    /// woken, as it is only while it has not taken all that it was given.
    pub(super) sent: u64,
    /// Whether frames can move; if not, that they do not says nothing.
    pub(super) can_move: bool,
    /// A NIC in zero-copy mode has its ring full of frames, whether packets come or not.
    pub(super) zero_copy: bool,
    /// After how long a frame that does not come back is lost.
    pub(super) patience: Duration,
    pub(super) now: Instant,
}

/// Since when nothing has moved, and what that has shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standstill {
    receiving: Still,
    sending: Still,
}

#[derive(Clone, Copy, Debug)]
struct Still {
    since: Instant,
    progress: u64,
    swallowed: u32,
}

impl Standstill {
    pub(super) fn new(now: Instant) -> Self {
        let still = Still { since: now, progress: 0, swallowed: 0 };
        Self { receiving: still, sending: still }
    }

    /// What has been swallowed by now.
    pub(super) fn look(&mut self, look: Look) -> Swallowed {
        let Look { places, traffic, sent, zero_copy, .. } = look;
        let received = traffic.rx_packets + traffic.rx_fragments;
        let kernel = if zero_copy { 0 } else { places.kernel };
        Swallowed {
            kernel: self.receiving.keeps(kernel, received, look),
            tx: self.sending.keeps(places.tx, sent, look),
        }
    }
}

impl Still {
    /// How many of these frames have not moved for too long, now or before.
    fn keeps(&mut self, frames: u32, progress: u64, look: Look) -> u32 {
        let Look { now, patience, can_move, .. } = look;
        if frames == 0 || progress != self.progress || !can_move {
            (self.since, self.progress) = (now, progress);
        }
        // Those that were lost are among those that are out, whatever else is.
        self.swallowed = if now - self.since > patience { frames } else { self.swallowed.min(frames) };
        self.swallowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// Looks once a second for three minutes: what was swallowed, by the end of each.
    fn watch(look: impl Fn(u32, Look) -> Look) -> [Swallowed; 3] {
        let start = Instant::now();
        let mut standstill = Standstill::new(start);
        let mut second = 0;
        [(); 3].map(|()| {
            let mut last = Swallowed::default();
            for _ in 0..60 {
                second += 1;
                let places = Places { kernel: 1, tx: 2, ..Places::default() };
                let (traffic, now) = (Traffic::default(), start + Duration::from_secs(second.into()));
                let can_move = true;
                let idle =
                    Look { places, traffic, sent: 0, can_move, zero_copy: false, patience: MINUTE, now };
                last = standstill.look(look(second, idle));
            }
            last
        })
    }

    const ALL: Swallowed = Swallowed { kernel: 1, tx: 2 };
    const NONE: Swallowed = Swallowed { kernel: 0, tx: 0 };

    #[test]
    fn what_does_not_come_back_while_nothing_moves_was_swallowed() {
        assert_eq!(watch(|_, look| look), [NONE, ALL, ALL]);
        let zero_copy = Swallowed { kernel: 0, ..ALL };
        assert_eq!(watch(|_, look| Look { zero_copy: true, ..look }), [NONE, zero_copy, zero_copy]);
        assert_eq!(watch(|_, look| Look { can_move: false, ..look }), [NONE; 3]);
    }

    #[test]
    fn what_was_swallowed_stays_so_when_traffic_goes_on() {
        let out = |kernel, tx| Places { kernel, tx, ..Places::default() };
        let busy = |second: u32, look: Look| Look { sent: second.into(), places: out(1, 30), ..look };
        let goes_on = |second: u32, look: Look| if second <= 90 { look } else { busy(second, look) };
        assert_eq!(watch(goes_on), [NONE, ALL, ALL]);
        // Nor does a link that goes down bring it back.
        let goes_down = |second: u32, look: Look| Look { can_move: second <= 90, ..look };
        assert_eq!(watch(goes_down), [NONE, ALL, ALL]);
        // One of them was only slow.
        let comes_back = |second: u32, look: Look| match second {
            ..=90 => look,
            91 => Look { places: out(1, 1), ..busy(second, look) },
            _ => busy(second, look),
        };
        assert_eq!(watch(comes_back)[2], Swallowed { tx: 1, ..ALL });
    }

    #[test]
    fn what_moves_is_on_its_way() {
        let moves = |second: u32, look: Look| Look {
            sent: second.into(),
            traffic: Traffic { rx_packets: second.into(), ..Traffic::default() },
            ..look
        };
        assert_eq!(watch(moves), [NONE; 3]);
        // Traffic that ends after a minute and a half.
        assert_eq!(watch(|second, look| moves(second.min(90), look)), [NONE, NONE, ALL]);
        // Not more than one packet in half a minute, and it comes back.
        let seldom = |second: u32, look: Look| Look {
            places: if second.is_multiple_of(30) { Places::default() } else { look.places },
            ..look
        };
        assert_eq!(watch(seldom), [NONE; 3]);
    }
}
