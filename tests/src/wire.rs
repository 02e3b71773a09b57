//! UDP in the lab: numbered datagrams with contents that tell one from another, sent a few at a time.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    ops::Range,
    time::{Duration, Instant},
};

use crate::{netns::NetNs, wait::PATIENCE};

/// How many datagrams may be on their way at once. A veth's ring holds 256, and drops what it has no room for.
pub const WINDOW: u64 = 64;

/// A UDP socket inside a namespace.
#[derive(Debug)]
pub struct Wire {
    socket: UdpSocket,
}

impl Wire {
    /// Opens a socket bound to `address`.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    #[track_caller]
    pub fn listen(netns: &NetNs, address: SocketAddr) -> Self {
        let socket = netns.run(|| UdpSocket::bind(address));
        let socket = socket.unwrap_or_else(|error| panic!("cannot bind {address}: {error}"));
        // A window of jumbo packets is more than a socket takes by itself.
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 8 << 20)
            .unwrap_or_else(|error| panic!("cannot enlarge the socket's buffer: {error}"));
        Self { socket }
    }

    /// Opens a socket that sends to `to` and hears nobody else.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    #[track_caller]
    pub fn connect(netns: &NetNs, to: SocketAddr) -> Self {
        Self::between(netns, "0.0.0.0:0".parse().expect("an address"), to)
    }

    /// Opens a socket bound to `from` that sends to `to` and hears nobody else.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    #[track_caller]
    pub fn between(netns: &NetNs, from: SocketAddr, to: SocketAddr) -> Self {
        let wire = Self::listen(netns, from);
        wire.socket.connect(to).unwrap_or_else(|error| panic!("no way to {to}: {error}"));
        wire
    }

    /// Sends datagrams with these numbers; datagram `n` has `size(n)` bytes.
    ///
    /// # Panics
    ///
    /// If the socket does not take one, or if they are more than a [`WINDOW`].
    #[track_caller]
    pub fn send(&self, numbers: Range<u64>, size: impl Fn(u64) -> usize) {
        assert!(numbers.end - numbers.start <= WINDOW, "{numbers:?} does not fit into a veth's ring at once");
        for number in numbers {
            let payload = payload(number, size(number));
            let sent =
                self.socket.send(&payload).unwrap_or_else(|error| panic!("datagram {number}: {error}"));
            assert_eq!(sent, payload.len(), "datagram {number} was cut");
        }
    }

    /// The next datagram; `None` if none comes within `timeout`.
    ///
    /// # Panics
    ///
    /// If the socket has an error to report.
    #[track_caller]
    pub fn receive(&self, timeout: Duration) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 1 << 16];
        self.socket.set_read_timeout(Some(timeout)).expect("a timeout above zero");
        let received = loop {
            // A debugger or a profiler may have stopped us meanwhile.
            match self.socket.recv(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                received => break received,
            }
        };
        match received {
            Ok(len) => {
                buffer.truncate(len);
                Some(buffer)
            }
            Err(error) if [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut].contains(&error.kind()) => {
                None
            }
            Err(error) => panic!("cannot receive: {error}"),
        }
    }

    /// Receives datagrams with just these numbers, in this order, byte for byte as [`Wire::send`] sent them.
    ///
    /// # Panics
    ///
    /// At the first that is missing within `timeout`, out of order, or different.
    #[track_caller]
    pub fn expect(&self, numbers: Range<u64>, size: impl Fn(u64) -> usize, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        for number in numbers.clone() {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            let Some(got) = self.receive(left) else {
                panic!("datagram {number} of {numbers:?} did not come within {timeout:?}");
            };
            let expected = payload(number, size(number));
            if got != expected {
                let at = got.iter().zip(&expected).take_while(|(got, expected)| got == expected).count();
                panic!(
                    "datagram {number} of {numbers:?}: expected {} bytes, got {} that differ from byte {at} on; \
                     they begin with number {:?}",
                    expected.len(),
                    got.len(),
                    number_of(&got),
                );
            }
        }
    }

    /// Sends datagrams to somebody who reflects them, a few at a time, and checks each that comes back.
    ///
    /// # Panics
    ///
    /// At the first that does not come, or comes otherwise.
    #[track_caller]
    pub fn reflect(&self, count: u64, size: impl Fn(u64) -> usize) {
        self.send_to(self, count, size);
    }

    /// Sends datagrams to `to`, a few at a time, and checks each that it receives.
    ///
    /// # Panics
    ///
    /// At the first that does not come, or comes otherwise.
    #[track_caller]
    pub fn send_to(&self, to: &Self, count: u64, size: impl Fn(u64) -> usize) {
        let mut sent = 0;
        while sent < count {
            let window = sent..count.min(sent + WINDOW / 4);
            self.send(window.clone(), &size);
            sent = window.end;
            to.expect(window, &size, PATIENCE);
        }
    }

    /// Takes whatever has come, without waiting, and counts it.
    pub fn drain(&self) -> u64 {
        let mut count = 0;
        while self.receive(Duration::from_millis(1)).is_some() {
            count += 1;
        }
        count
    }

    /// The socket's own address.
    ///
    /// # Panics
    ///
    /// Never: the socket is bound.
    pub fn address(&self) -> SocketAddr {
        self.socket.local_addr().expect("a bound socket has an address")
    }
}

/// Sizes of UDP payloads for an MTU of 1500: each residue of small alignments, both ends, and what lies between.
pub fn any_size(number: u64) -> usize {
    match number % 4 {
        0 => (number / 4 % 64) as usize,
        1 => 1472 - (number / 4 % 64) as usize,
        _ => (number * 37 % 1473) as usize,
    }
}

/// The contents of datagram `number`: the number itself, then bytes that follow from it alone (xorshift64).
pub fn payload(number: u64, size: usize) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = number.to_le_bytes().to_vec();
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

fn number_of(payload: &[u8]) -> Option<u64> {
    payload.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_have_their_size_and_differ() {
        for size in [0, 1, 7, 8, 9, 1472] {
            assert_eq!(payload(5, size).len(), size);
        }
        assert_ne!(payload(5, 64), payload(6, 64));
        assert_eq!(payload(5, 100)[..64], payload(5, 64)[..]);
        assert_eq!(number_of(&payload(77, 64)), Some(77));
        assert_eq!(number_of(&payload(77, 3)), None);
    }
}
