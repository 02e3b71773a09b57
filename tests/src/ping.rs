//! [`Ping`]: ICMP echo, by a raw socket.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, recv, sendto, socket, sockopt};

use crate::netns::NetNs;

/// What ours are known by.
const IDENTIFIER: [u8; 2] = *b"um";

/// A socket that pings one host.
#[derive(Debug)]
pub struct Ping {
    socket: OwnedFd,
    to: Ipv4Addr,
}

impl Ping {
    /// Opens one inside a namespace.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    #[track_caller]
    pub fn open(netns: &NetNs, to: Ipv4Addr) -> Self {
        let socket = netns.run(|| socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP)));
        Self { socket: socket.unwrap_or_else(|error| panic!("no raw socket: {error}")), to }
    }

    /// Sends an echo request; whether its reply comes within `timeout`, with the right checksum.
    ///
    /// # Panics
    ///
    /// If it cannot be sent.
    #[track_caller]
    pub fn is_answered(&self, number: u16, timeout: Duration) -> bool {
        let [high, low] = number.to_be_bytes();
        let mut request = vec![8, 0, 0, 0, IDENTIFIER[0], IDENTIFIER[1], high, low];
        request.extend((0..=255).cycle().take(usize::from(number) * 7 % 1000));
        let sum = checksum(&request).to_be_bytes();
        request[2..4].copy_from_slice(&sum);
        sendto(&self.socket, &request, SendFlags::empty(), &SocketAddrV4::new(self.to, 0))
            .unwrap_or_else(|error| panic!("ping {number}: {error}"));

        let mut reply = request;
        reply[0] = 0;
        reply[2..4].fill(0);
        let sum = checksum(&reply).to_be_bytes();
        reply[2..4].copy_from_slice(&sum);
        let deadline = Instant::now() + timeout;
        let mut buffer = [0; 2048];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            sockopt::set_socket_timeout(&self.socket, sockopt::Timeout::Recv, Some(left)).expect("a timeout");
            // Behind an IPv4 header without options.
            match recv(&self.socket, &mut buffer, RecvFlags::empty()) {
                Ok((len, _)) if buffer.get(20..len) == Some(&reply[..]) => return true,
                _ => {}
            }
        }
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum + (sum >> 16)) as u16)
}
