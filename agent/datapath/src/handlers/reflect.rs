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
use crate::packet::Fragments;
use crate::port::QueuePort;

const ETHERNET: usize = 14;
const IPV4_MIN: usize = 20;
const IPV6: usize = 40;
const UDP: usize = 8;
const UDP_CHECKSUM: usize = 6;

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
        match packet.split_first_chunk_mut() {
            Some((head, data)) if is_plain_udp(head, data.len()) => answer(head, data),
            _ => return self.handle_odd(packet),
        }
        Verdict::Transmit
    }

    /// The headers are in the first frame; the checksum is over all of them.
    fn handle_fragments<P: QueuePort>(&mut self, packet: &mut Fragments<'_, P>) -> Verdict {
        let head_len = packet.with(0, <[u8]>::len);
        let beyond = packet.len() as usize - head_len;
        match packet.with_mut(0, |head| swap(head, beyond)) {
            Swapped::Nothing => return Verdict::Drop,
            Swapped::Macs => {}
            Swapped::Udp(mut checksum) => {
                for index in 1..packet.count() {
                    packet.with(index, |bytes| checksum.go_on(bytes));
                }
                packet.with_mut(0, |head| checksum.write(head));
            }
        }
        Verdict::Transmit
    }
}

impl Reflect {
    #[inline(never)]
    fn handle_odd(self, packet: &mut [u8]) -> Verdict {
        match swap(packet, 0) {
            Swapped::Nothing => return Verdict::Drop,
            Swapped::Macs => {}
            Swapped::Udp(checksum) => checksum.write(packet),
        }
        Verdict::Transmit
    }
}

/// Headers of the most common kind: UDP over IPv4 without options.
type Head = [u8; ETHERNET + IPV4_MIN + UDP];

/// Whether this is the head of a whole datagram, of which `behind` bytes follow, with a checksum.
#[inline]
fn is_plain_udp(head: &Head, behind: usize) -> bool {
    let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let (total_len, udp_len) = (usize::from(word(16)), usize::from(word(38)));
    [head[12], head[13], head[14]] == [0x08, 0x00, 0x45]
        && word(20) & 0x3fff == 0
        && head[23] == PROTOCOL_UDP
        && udp_len >= UDP
        && IPV4_MIN + udp_len <= total_len
        && total_len <= IPV4_MIN + UDP + behind
        && word(40) != 0
}

/// What [`swap`] and [`Checksum`] do, for a plain datagram.
#[inline]
fn answer(head: &mut Head, data: &[u8]) {
    let len = u16::from_be_bytes([head[38], head[39]]);
    let data = data.get(..usize::from(len).saturating_sub(UDP)).unwrap_or_default();
    if let Some(macs) = pair_at::<6>(head, 0) {
        macs.swap(0, 1);
    }
    if let Some(addresses) = pair_at::<4>(head, 26) {
        addresses.swap(0, 1);
    }
    if let Some(ports) = pair_at::<2>(head, 34) {
        ports.swap(0, 1);
    }
    head[40..].fill(0);
    // Addresses, ports, length: the pseudo header and the header without its checksum; the length is in both.
    let sum = Sum::default().number(u16::from(PROTOCOL_UDP)).number(len).bytes(&head[26..]).bytes(data);
    head[40..].copy_from_slice(&sum.finish_udp());
}

/// What was swapped.
enum Swapped {
    /// Nothing: it is shorter than an Ethernet header.
    Nothing,
    /// The MAC addresses; a checksum there is stays right.
    Macs,
    /// Everything up to UDP's ports. The checksum is to be written.
    Udp(Checksum),
}

/// A UDP checksum that may still lack data.
struct Checksum {
    sum: Sum,
    /// Where it is written, from the start of the frame; 0 if the sender made none.
    at: usize,
    /// Bytes of the datagram that are still to be summed.
    missing: usize,
    /// Whether an odd number was summed so far.
    odd: bool,
}

impl Checksum {
    /// Sums the next bytes of the datagram, and none behind it.
    fn go_on(&mut self, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(self.missing)];
        self.sum = self.sum.appended(bytes, self.odd);
        self.missing -= bytes.len();
        self.odd ^= bytes.len() % 2 == 1;
    }

    #[inline]
    fn write(self, packet: &mut [u8]) {
        if let Some(field) = packet.get_mut(self.at..).and_then(<[u8]>::first_chunk_mut)
            && self.at > 0
        {
            *field = self.sum.finish_udp();
        }
    }
}

/// Swaps what is to be swapped in the frame with the headers; `beyond` is how many bytes of the packet are in
/// others.
#[inline]
fn swap(packet: &mut [u8], beyond: usize) -> Swapped {
    let Some((ethernet, payload)) = packet.split_first_chunk_mut::<ETHERNET>() else {
        return Swapped::Nothing;
    };
    if let Some(macs) = pair_at::<6>(ethernet, 0) {
        macs.swap(0, 1);
    }
    let udp = match [ethernet[12], ethernet[13]] {
        ETHERTYPE_IPV4 => swap_ipv4(payload, beyond),
        ETHERTYPE_IPV6 => swap_ipv6(payload, beyond),
        _ => None,
    };
    udp.map_or(Swapped::Macs, Swapped::Udp)
}

/// `None` if this is no whole UDP datagram; then nothing was changed.
#[inline]
fn swap_ipv4(packet: &mut [u8], beyond: usize) -> Option<Checksum> {
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
    let addresses = pair_at::<4>(header, 12)?;
    let mut datagram = Datagram::of(udp, beyond)?;
    datagram.swap(addresses);
    // RFC 768: all zeros say that the sender made no checksum.
    let at = if datagram.has_checksum() { ETHERNET + header_len + UDP_CHECKSUM } else { 0 };
    Some(datagram.checksum(addresses, at))
}

/// `None` if this is no whole UDP datagram; then nothing was changed.
#[inline]
fn swap_ipv6(packet: &mut [u8], beyond: usize) -> Option<Checksum> {
    let (header, payload) = packet.split_first_chunk_mut::<IPV6>()?;
    if header[0] >> 4 != 6 || header[6] != PROTOCOL_UDP {
        return None;
    }
    let payload_len = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let addresses = pair_at::<16>(header, 8)?;
    let (payload, beyond) = cut(payload, beyond, payload_len)?;
    let mut datagram = Datagram::of(payload, beyond)?;
    datagram.swap(addresses);
    Some(datagram.checksum(addresses, ETHERNET + IPV6 + UDP_CHECKSUM))
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

/// A UDP header and its data, or as much of them as is in the first frame.
///
/// # Invariants
///
/// With those in other frames they have as many bytes as the header's length field says.
struct Datagram<'a> {
    header: &'a mut [u8; UDP],
    data: &'a [u8],
    /// Bytes of the data in other frames.
    beyond: usize,
}

impl<'a> Datagram<'a> {
    #[inline]
    fn of(payload: &'a mut [u8], beyond: usize) -> Option<Self> {
        let (header, rest) = payload.split_first_chunk_mut::<UDP>()?;
        let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
        // INVARIANT: less than a header is refused by `checked_sub`, more than there is by `cut`.
        let (data, beyond) = cut(rest, beyond, len.checked_sub(UDP)?)?;
        Some(Self { header, data, beyond })
    }

    #[inline]
    fn has_checksum(&self) -> bool {
        self.header[UDP_CHECKSUM..] != [0, 0]
    }

    /// Swaps the addresses and the ports.
    #[inline]
    fn swap<const N: usize>(&mut self, addresses: &mut [[u8; N]; 2]) {
        addresses.swap(0, 1);
        if let Some(ports) = pair_at::<2>(self.header, 0) {
            ports.swap(0, 1);
        }
    }

    /// The checksum, to be written `at`, with the addresses as part of its pseudo header.
    #[inline]
    fn checksum<const N: usize>(self, addresses: &[[u8; N]; 2], at: usize) -> Checksum {
        let Datagram { header, data, beyond } = self;
        if at == 0 {
            return Checksum { sum: Sum::default(), at, missing: 0, odd: false };
        }
        header[UDP_CHECKSUM..].fill(0);
        // The length is 16 bits in the header and no more in IPv6's 32 of the pseudo header.
        let len = u16::from_be_bytes([header[4], header[5]]);
        let pseudo =
            Sum::default().number(u16::from(PROTOCOL_UDP)).number(len).bytes(addresses.as_flattened());
        Checksum { sum: pseudo.bytes(header).bytes(data), at, missing: beyond, odd: data.len() % 2 == 1 }
    }
}

/// The two fields of `N` bytes that begin at `start`, or `None` if there are fewer bytes.
#[inline]
fn pair_at<const N: usize>(bytes: &mut [u8], start: usize) -> Option<&mut [[u8; N]; 2]> {
    bytes.get_mut(start..)?.as_chunks_mut().0.first_chunk_mut()
}
