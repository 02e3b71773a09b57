//! [`Reflect`]: sends every frame back to where it came from.
//!
//! Whatever the frame is, its MAC addresses change places. If it is a whole UDP datagram directly
//! behind an IPv4 or IPv6 header, addresses and ports do so too, so that a plain UDP socket at the
//! other end gets its answer. Everything else stays as it came: behind a VLAN tag, an IPv6
//! extension header, in a fragment or where lengths contradict each other nothing is looked at.
//!
//! Swapping does not change a checksum, for a sum does not care for the order of what is summed. So
//! one that was right stays right, and one that was wrong stays wrong. One that the sender left to its
//! device, as a local socket on a veth does, is [completed](super::complete_checksum).

use super::checksum::Sum;
use super::partial::{complete_checksum, complete_checksum_in_parts, look_closer};
use crate::fragments::Fragments;
use crate::handler::{PacketHandler, Verdict};
use crate::port::FrameBytes;

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
    fn handle(&mut self, packet: &mut [u8]) -> Verdict {
        let len = packet.len();
        match packet.first_chunk_mut() {
            Some(head) if is_plain_udp(head, len) => {
                let is_partial = is_partial(head);
                answer(head);
                if is_partial {
                    look_closer(packet);
                }
                Verdict::Transmit
            }
            _ => handle_odd(packet),
        }
    }

    #[inline]
    fn glance(&mut self, packet: &mut [u8]) -> Option<Verdict> {
        let len = packet.len();
        let head = packet.first_chunk_mut()?;
        if !is_plain_udp(head, len) || is_partial(head) {
            return None;
        }
        answer(head);
        Some(Verdict::Transmit)
    }

    /// The headers are in the first frame; a checksum is over all of them.
    fn handle_fragments<B: FrameBytes>(&mut self, packet: &mut Fragments<'_, B>) -> Verdict {
        let head_len = packet.with(0, <[u8]>::len);
        let beyond = packet.len() as usize - head_len;
        if !packet.with_mut(0, |head| swap(head, beyond)) {
            return Verdict::Drop;
        }
        complete_checksum_in_parts(packet);
        Verdict::Transmit
    }
}

#[inline(never)]
fn handle_odd(packet: &mut [u8]) -> Verdict {
    if !swap(packet, 0) {
        return Verdict::Drop;
    }
    complete_checksum(packet);
    Verdict::Transmit
}

/// Headers of the most common kind: UDP over IPv4 without options.
type Head = [u8; ETHERNET + IPV4_MIN + UDP];

/// Whether this is the head of a packet of `len` bytes that is a whole datagram.
#[inline]
fn is_plain_udp(head: &Head, len: usize) -> bool {
    let total = u16::from_be_bytes(field(head, 16));
    // Of the two bytes of flags and offset, every fragment has one or the other.
    let part = u16::from_ne_bytes(field(head, 20)) & u16::from_ne_bytes([0x3f, 0xff]);
    field(head, 12) == ETHERTYPE_IPV4
        && head[14] == 0x45
        && part == 0
        && head[23] == PROTOCOL_UDP
        // One comparison: what is too short wraps around to more than there is.
        && usize::from(total).wrapping_sub(IPV4_MIN + UDP) <= len - head.len()
        && field(head, 38) == total.wrapping_sub(IPV4_MIN as u16).to_be_bytes()
}

/// `N` bytes of a header.
#[inline]
fn field<const N: usize>(head: &Head, at: usize) -> [u8; N] {
    std::array::from_fn(|n| head[at + n])
}

/// Whether the checksum of such a datagram is that of the pseudo header only, or looks so because there is none.
#[inline]
fn is_partial(head: &Head) -> bool {
    let [len, checksum] = [38, 40].map(|at| u16::from_ne_bytes(field(head, at)));
    let rest = Sum::of([PROTOCOL_UDP.into(), u16::from_be(len)]).minus(checksum);
    rest.word(u64::from_ne_bytes(field(head, 26))).is_zero()
}

/// What [`swap`] does, for a plain datagram.
#[inline]
fn answer(head: &mut Head) {
    // Eight bytes at once, of which the last two are overwritten by what comes behind.
    let [to, from] = [0, 6].map(|at| field::<8>(head, at));
    head[0..8].copy_from_slice(&from);
    head[6..14].copy_from_slice(&to);
    head[12..14].copy_from_slice(&ETHERTYPE_IPV4);
    let addresses = u64::from_ne_bytes(field(head, 26)).rotate_left(32);
    head[26..34].copy_from_slice(&addresses.to_ne_bytes());
    let ports = u32::from_ne_bytes(field(head, 34)).rotate_left(16);
    head[34..38].copy_from_slice(&ports.to_ne_bytes());
}

/// Swaps what is to be swapped in the frame with the headers; `beyond` is how many bytes of the packet are in
/// others. False, and nothing was swapped, if it is shorter than an Ethernet header.
#[inline]
fn swap(packet: &mut [u8], beyond: usize) -> bool {
    let Some((ethernet, payload)) = packet.split_first_chunk_mut::<ETHERNET>() else { return false };
    if let Some(macs) = pair_at::<6>(ethernet, 0) {
        macs.swap(0, 1);
    }
    // If it is no whole UDP datagram, that was all.
    let _ = match [ethernet[12], ethernet[13]] {
        ETHERTYPE_IPV4 => swap_ipv4(payload, beyond),
        ETHERTYPE_IPV6 => swap_ipv6(payload, beyond),
        _ => None,
    };
    true
}

/// `None` if this is no whole UDP datagram; then nothing was changed.
fn swap_ipv4(packet: &mut [u8], beyond: usize) -> Option<()> {
    let header: &[u8; IPV4_MIN] = packet.first_chunk()?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    // More-fragments flag and fragment offset: every fragment has one or the other.
    let is_fragment = [header[6] & 0x3f, header[7]] != [0, 0];
    if header[0] >> 4 != 4 || header_len < IPV4_MIN || is_fragment || header[9] != PROTOCOL_UDP {
        return None;
    }
    // Behind `total_len` there may be padding up to Ethernet's 60 bytes.
    let (packet, beyond) = cut(packet, beyond, total_len)?;
    let (header, udp) = packet.split_at_mut_checked(header_len)?;
    swap_both(pair_at::<4>(header, 12)?, udp, beyond)
}

/// `None` if this is no whole UDP datagram; then nothing was changed.
fn swap_ipv6(packet: &mut [u8], beyond: usize) -> Option<()> {
    let (header, payload) = packet.split_first_chunk_mut::<IPV6>()?;
    if header[0] >> 4 != 6 || header[6] != PROTOCOL_UDP {
        return None;
    }
    let payload_len = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let (payload, beyond) = cut(payload, beyond, payload_len)?;
    swap_both(pair_at::<16>(header, 8)?, payload, beyond)
}

/// Swaps addresses, and the ports of a datagram that has as many bytes as its header says.
fn swap_both<const N: usize>(addresses: &mut [[u8; N]; 2], udp: &mut [u8], beyond: usize) -> Option<()> {
    let (header, data) = udp.split_first_chunk_mut::<UDP>()?;
    let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
    cut(data, beyond, len.checked_sub(UDP)?)?;
    addresses.swap(0, 1);
    pair_at::<2>(header, 0)?.swap(0, 1);
    Some(())
}

/// The first `len` bytes of something that goes on `beyond` what is here: what of them is here, and how many
/// are not. `None` if there are fewer.
#[inline]
fn cut(bytes: &mut [u8], beyond: usize, len: usize) -> Option<(&mut [u8], usize)> {
    match len.checked_sub(bytes.len()) {
        None => Some((&mut bytes[..len], 0)),
        Some(rest) => (rest <= beyond).then_some((bytes, rest)),
    }
}

/// The two fields of `N` bytes that begin at `start`, or `None` if there are fewer bytes.
#[inline]
fn pair_at<const N: usize>(bytes: &mut [u8], start: usize) -> Option<&mut [[u8; N]; 2]> {
    bytes.get_mut(start..)?.as_chunks_mut().0.first_chunk_mut()
}
