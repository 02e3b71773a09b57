//! [`Generate`]: sends packets of its own, at a given rate.
//!
//! Pacing is by a token bucket that the time of the turns fills, so that a simulation decides how fast it
//! goes. The bucket holds what is due in [`BURST`], and one packet: a worker that slept that long
//! sends what it missed, one that slept longer does not try to catch up.

use std::time::Duration;

use crate::handler::{Due, PacketHandler, Verdict};

/// How much time the bucket holds: short enough that what is made up for at once fits into a ring of 2,048 up to a
/// million packets per second.
pub const BURST: Duration = Duration::from_millis(2);

const SECOND: u128 = Duration::from_secs(1).as_nanos();

/// How fast to send, and how many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// Packets per second; `None`: as fast as they go.
    pub rate: Option<u64>,
    /// How many in all; `None`: without end.
    pub count: Option<u64>,
}

/// Why a packet cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GenerateError {
    /// The template is shorter than an Ethernet header.
    Short(usize),
}

impl std::fmt::Display for GenerateError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            GenerateError::Short(len) => {
                write!(f, "a packet of {len} bytes has no Ethernet header; send at least 14")
            }
        }
    }
}

impl std::error::Error for GenerateError {}

/// Sends copies of one packet; drops what it receives.
#[derive(Clone, Debug)]
pub struct Generate {
    template: Box<[u8]>,
    rate: Option<u64>,
    left: Option<u64>,
    /// The time of the last turn; none before the first one.
    last: Option<Duration>,
    /// What the bucket holds: packets times a second, in nanoseconds.
    credit: u128,
}

impl Generate {
    /// Sends `template`, Ethernet header first and checksums right, without a frame check sequence.
    ///
    /// # Errors
    ///
    /// [`GenerateError`].
    pub fn new(template: &[u8], pace: Pace) -> Result<Self, GenerateError> {
        if template.len() < 14 {
            return Err(GenerateError::Short(template.len()));
        }
        let Pace { rate, count } = pace;
        Ok(Generate { template: template.into(), rate, left: count, last: None, credit: 0 })
    }

    /// How many packets are still to be sent, if they were counted.
    pub fn left(&self) -> Option<u64> {
        self.left
    }

    /// Lets time pass; how many packets the bucket holds, and when it holds the next one.
    fn fill(&mut self, rate: u64, now: Duration) -> (u64, Option<Duration>) {
        if rate == 0 {
            return (0, None);
        }
        let passed = now.saturating_sub(self.last.unwrap_or(now)).as_nanos();
        let first = if self.last.is_none() { SECOND } else { 0 };
        let full = BURST.as_nanos() * u128::from(rate) + SECOND;
        self.last = Some(now);
        self.credit = (self.credit + first + passed * u128::from(rate)).min(full);
        let missing = SECOND - self.credit % SECOND;
        let next = now + Duration::from_nanos(missing.div_ceil(rate.into()) as u64);
        ((self.credit / SECOND) as u64, Some(next))
    }
}

impl PacketHandler for Generate {
    #[inline]
    fn handle(&mut self, _packet: &mut [u8]) -> Verdict {
        Verdict::Drop
    }

    fn due(&mut self, now: Duration) -> Due {
        if self.left == Some(0) {
            return Due::default();
        }
        let (packets, next) = match self.rate {
            None => (u64::MAX, Some(now)),
            Some(rate) => self.fill(rate, now),
        };
        let packets = packets.min(self.left.unwrap_or(u64::MAX));
        Due { packets: packets as usize, size: self.template.len(), next }
    }

    #[inline]
    fn write(&mut self, at: usize, bytes: &mut [u8]) {
        if at == 0 {
            self.left = self.left.map(|left| left.saturating_sub(1));
            self.credit = self.credit.saturating_sub(SECOND);
        }
        if let Some(part) = self.template.get(at..at + bytes.len()) {
            bytes.copy_from_slice(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generate(rate: Option<u64>, count: Option<u64>) -> Generate {
        Generate::new(&[0x5a; 60], Pace { rate, count }).unwrap()
    }

    /// Sends what is due at `now`.
    fn send(generate: &mut Generate, now: Duration) -> usize {
        let due = generate.due(now);
        for _ in 0..due.packets {
            generate.write(0, &mut [0; 60]);
        }
        due.packets
    }

    #[test]
    fn a_rate_is_kept_whatever_the_turns_are() {
        for step in [1, 7, 100, 333, 1000, 1999] {
            let mut generate = generate(Some(100_000), None);
            let turns = 1_000_000 / step;
            let sent: usize =
                (0..=turns).map(|turn| send(&mut generate, Duration::from_micros(turn * step))).sum();
            let expected = (turns * step / 10) as usize;
            assert!((expected..=expected + 1).contains(&sent), "{sent} of {expected}, each {step} us");
        }
    }

    #[test]
    fn a_slow_rate_says_when_its_next_packet_is_due() {
        let mut generate = generate(Some(3), None);
        assert_eq!(send(&mut generate, Duration::ZERO), 1);
        let mut now = Duration::ZERO;
        for _ in 0..9 {
            let due = generate.due(now);
            assert_eq!(due.packets, 0);
            now = due.next.unwrap();
            assert_eq!(send(&mut generate, now), 1);
        }
        assert!((Duration::from_secs(3)..Duration::from_nanos(3_000_000_100)).contains(&now), "{now:?}");
    }

    #[test]
    fn what_was_slept_through_is_not_caught_up_with() {
        let mut generate = generate(Some(10_000), None);
        send(&mut generate, Duration::ZERO);
        assert_eq!(send(&mut generate, Duration::from_secs(60)), 21, "2 ms of it");
        assert_eq!(send(&mut generate, Duration::from_secs(59)), 0, "a clock that goes back harms nobody");
    }

    #[test]
    fn a_count_ends() {
        let mut generate = generate(None, Some(5));
        assert_eq!(send(&mut generate, Duration::ZERO), 5);
        assert_eq!(generate.due(Duration::from_secs(1)), Due::default());
        assert_eq!(generate.left(), Some(0));
    }

    #[test]
    fn a_packet_without_a_header_is_refused() {
        let error = Generate::new(&[0; 13], Pace::default()).unwrap_err();
        assert_eq!(error.to_string(), "a packet of 13 bytes has no Ethernet header; send at least 14");
    }

    #[test]
    fn a_packet_is_written_in_parts() {
        let template: Vec<u8> = (0..100).collect();
        let mut generate = Generate::new(&template, Pace { rate: None, count: Some(1) }).unwrap();
        let mut bytes = [0; 100];
        let (head, tail) = bytes.split_at_mut(64);
        generate.write(0, head);
        generate.write(64, tail);
        assert_eq!((&bytes[..], generate.left()), (&template[..], Some(0)));
    }
}
