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
        if let Some(macs) = pair_at::<6>(ethernet, 0) {
            macs.swap(0, 1);
        }
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
    let addresses = pair_at::<4>(header, 12)?;
    let mut datagram = Datagram::of(udp)?;
    datagram.swap(addresses);
    // RFC 768: all zeros say that the sender made no checksum.
    if datagram.has_checksum() {
        datagram.make_checksum(addresses);
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
    let addresses = pair_at::<16>(header, 8)?;
    let mut datagram = Datagram::of(payload.get_mut(..payload_len)?)?;
    datagram.swap(addresses);
    datagram.make_checksum(addresses);
    Some(())
}

/// A UDP header and its data.
///
/// # Invariants
///
/// Together they have as many bytes as the header's length field says.
struct Datagram<'a> {
    header: &'a mut [u8; UDP],
    data: &'a [u8],
}

impl<'a> Datagram<'a> {
    #[inline]
    fn of(payload: &'a mut [u8]) -> Option<Self> {
        let (header, rest) = payload.split_first_chunk_mut::<UDP>()?;
        let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
        // INVARIANT: less than a header is refused by `checked_sub`, more than there is by `get`.
        let data = rest.get(..len.checked_sub(UDP)?)?;
        Some(Self { header, data })
    }

    #[inline]
    fn has_checksum(&self) -> bool {
        self.header[6..] != [0, 0]
    }

    /// Swaps the addresses and the ports.
    #[inline]
    fn swap<const N: usize>(&mut self, addresses: &mut [[u8; N]; 2]) {
        addresses.swap(0, 1);
        if let Some(ports) = pair_at::<2>(self.header, 0) {
            ports.swap(0, 1);
        }
    }

    /// Makes the checksum, with the addresses as part of its pseudo header.
    #[inline]
    fn make_checksum<const N: usize>(self, addresses: &[[u8; N]; 2]) {
        let header = self.header;
        header[6..].fill(0);
        // The length is 16 bits in the header and no more in IPv6's 32 of the pseudo header.
        let len = u16::from_be_bytes([header[4], header[5]]);
        let pseudo =
            Sum::default().number(u16::from(PROTOCOL_UDP)).number(len).bytes(addresses.as_flattened());
        // RFC 768: a sum that comes out as zero is sent as its other zero.
        let checksum = match pseudo.bytes(header).bytes(self.data).finish() {
            [0, 0] => [0xff, 0xff],
            checksum => checksum,
        };
        header[6..].copy_from_slice(&checksum);
    }
}

/// The two fields of `N` bytes that begin at `start`, or `None` if there are fewer bytes.
#[inline]
fn pair_at<const N: usize>(bytes: &mut [u8], start: usize) -> Option<&mut [[u8; N]; 2]> {
    bytes.get_mut(start..)?.as_chunks_mut().0.first_chunk_mut()
}
