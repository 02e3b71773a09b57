//! [`Eavesdropper`]: every frame that a namespace's interfaces send and receive, as a packet socket sees it (packet(7)).

use std::{io, time::Duration};

use e2e::netns::NetNs;
use rustix::{
    fd::OwnedFd,
    net::{
        AddressFamily, SocketType, eth, socket,
        sockopt::{Timeout, set_socket_recv_buffer_size_force, set_socket_timeout},
    },
};

/// An EtherType and an IPv4 header without options lie behind both addresses.
const ADDRESSES: usize = 12;
const IPV4: [u8; 2] = [0x08, 0x00];
const TOTAL_LENGTH: usize = 16;
const ETHERNET: usize = 14;

/// A socket that hears all of them. Of a frame that is received the VLAN tag has been taken away, of one that is sent
/// it has not; and what a VLAN's interface sends or receives is heard twice, of its own and of the one below.
pub(super) struct Eavesdropper(OwnedFd);

impl Eavesdropper {
    /// Listens from here on.
    pub(super) fn in_namespace(netns: &NetNs) -> Self {
        let open = || socket(AddressFamily::PACKET, SocketType::RAW, Some(eth::ALL));
        let socket = netns.run(open).expect("root may have a packet socket");
        set_socket_recv_buffer_size_force(&socket, 8 << 20).expect("root may have a large buffer");
        set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_millis(500)))
            .expect("a timeout above zero");
        Self(socket)
    }

    /// The IPv4 frames that were heard, without padding, until none came for a while.
    pub(super) fn frames(&self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut buffer = [0; 2048];
        loop {
            match rustix::io::read(&self.0, &mut buffer) {
                Ok(len) => frames.extend(unpadded(&buffer[..len]).map(<[u8]>::to_vec)),
                Err(errno) if errno == rustix::io::Errno::AGAIN => return frames,
                Err(errno) => panic!("cannot eavesdrop: {}", io::Error::from(errno)),
            }
        }
    }
}

/// A frame without what makes a short one long enough; `None` if it is none of IPv4.
fn unpadded(frame: &[u8]) -> Option<&[u8]> {
    let length = frame.get(TOTAL_LENGTH..TOTAL_LENGTH + 2)?;
    let length = ETHERNET + usize::from(u16::from_be_bytes([length[0], length[1]]));
    (frame[ADDRESSES..ETHERNET] == IPV4).then(|| frame.get(..length)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_and_what_is_no_ipv4_is_left_out() {
        let mut frame = vec![0; 60];
        frame[12..14].copy_from_slice(&IPV4);
        frame[17] = 28;
        assert_eq!(unpadded(&frame).unwrap().len(), 42);
        frame[12] = 0x81;
        assert_eq!(unpadded(&frame), None);
        assert_eq!(unpadded(&frame[..10]), None);
    }
}
