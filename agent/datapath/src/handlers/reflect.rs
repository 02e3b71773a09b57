//! [`Reflect`]: sends every frame back to where it came from.
//!
//! Whatever the frame is, its MAC addresses change places. If it is a whole UDP datagram directly
//! behind an IPv4 or IPv6 header, addresses and ports do so too, so that a plain UDP socket at the
//! other end gets its answer. Everything else stays as it came: behind a VLAN tag, an IPv6
//! extension header, in a fragment or where lengths contradict each other nothing is looked at.
//!
//! Swapping does not change a checksum, for a sum does not care for the order of what is summed.
//! The IPv4 header's is therefore left alone. UDP's is computed anew all the same: a veth hands
//! over frames of local sockets with the sum over the pseudo header only (`CHECKSUM_PARTIAL`), and
//! an AF_XDP socket sends bytes as they are.

use super::checksum::Sum;
use crate::handler::{PacketHandler, Verdict};

const ETHERNET: usize = 14;
const IPV4_MIN: usize = 20;
const IPV6: usize = 40;
const UDP: usize = 8;

const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const PROTOCOL_UDP: u8 = 17;

/// Swaps MAC addresses, and for UDP addresses and ports; transmits. A frame shorter than an
/// Ethernet header cannot be sent and is dropped.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reflect;

impl PacketHandler for Reflect {
    #[inline]
    fn handle(&mut self, frame: &mut [u8]) -> Verdict {
        let Some((ethernet, payload)) = frame.split_first_chunk_mut::<ETHERNET>() else {
            return Verdict::Drop;
        };
        swap::<6>(ethernet, 0, 6);
        match [ethernet[12], ethernet[13]] {
            ETHERTYPE_IPV4 => reflect_ipv4(payload),
            ETHERTYPE_IPV6 => reflect_ipv6(payload),
            _ => None,
        };
        Verdict::Transmit
    }
}

/// `None` if this is no whole UDP datagram; then nothing was changed.
#[inline]
fn reflect_ipv4(packet: &mut [u8]) -> Option<()> {
    let header: &[u8; IPV4_MIN] = packet.first_chunk()?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    // More-fragments flag and fragment offset: every fragment has one or the other.
    let is_fragment = [header[6] & 0x3f, header[7]] != [0, 0];
    if header[0] >> 4 != 4 || header_len < IPV4_MIN || is_fragment || header[9] != PROTOCOL_UDP {
        return None;
    }
    // Behind `total_len` there may be padding up to Ethernet's 60 bytes.
    let (header, udp) = packet.get_mut(..total_len)?.split_at_mut_checked(header_len)?;
    let datagram = Datagram::of(udp)?;
    swap::<4>(header, 12, 16);
    // RFC 768: all zeros say that the sender made no checksum.
    if datagram.checksum() != [0, 0] {
        datagram.reflect(&header[12..20]);
    } else {
        datagram.swap_ports();
    }
    Some(())
}

/// `None` if this is no whole UDP datagram; then nothing was changed.
#[inline]
fn reflect_ipv6(packet: &mut [u8]) -> Option<()> {
    let (header, payload) = packet.split_first_chunk_mut::<IPV6>()?;
    if header[0] >> 4 != 6 || header[6] != PROTOCOL_UDP {
        return None;
    }
    let payload_len = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let datagram = Datagram::of(payload.get_mut(..payload_len)?)?;
    swap::<16>(header, 8, 24);
    datagram.reflect(&header[8..40]);
    Some(())
}

/// A UDP header and its data.
///
/// # Invariants
///
/// There are at least [`UDP`] bytes, and as many as the header's length field says.
struct Datagram<'a>(&'a mut [u8]);

impl<'a> Datagram<'a> {
    #[inline]
    fn of(payload: &'a mut [u8]) -> Option<Self> {
        let header: &[u8; UDP] = payload.first_chunk()?;
        let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
        // INVARIANT: less than a header is refused here, more than there is by `get_mut`.
        (len >= UDP).then(|| payload.get_mut(..len).map(Self))?
    }

    #[inline]
    fn checksum(&self) -> [u8; 2] {
        [self.0[6], self.0[7]]
    }

    #[inline]
    fn swap_ports(self) -> &'a mut [u8] {
        swap::<2>(self.0, 0, 2);
        self.0
    }

    /// Swaps the ports and makes the checksum, with both addresses as its pseudo header.
    #[inline]
    fn reflect(self, addresses: &[u8]) {
        let udp = self.swap_ports();
        udp[6..8].fill(0);
        // The length is 16 bits in the header and no more in IPv6's 32 of the pseudo header.
        let len = u16::from_be_bytes([udp[4], udp[5]]);
        let sum = Sum::default().number(u16::from(PROTOCOL_UDP)).number(len).bytes(addresses).bytes(udp);
        // RFC 768: a sum that comes out as zero is sent as its other zero.
        let checksum = match sum.finish() {
            [0, 0] => [0xff, 0xff],
            checksum => checksum,
        };
        udp[6..8].copy_from_slice(&checksum);
    }
}

/// Swaps the `N` bytes at `a` with the `N` bytes at `b`, which lies right behind.
#[inline]
fn swap<const N: usize>(bytes: &mut [u8], a: usize, b: usize) {
    let (front, back) = bytes.split_at_mut(b);
    front[a..a + N].swap_with_slice(&mut back[..N]);
}
