//! Checksums that a sender left to its device.
//!
//! A packet that a local socket sends over a veth meets no device that would compute the checksum of its UDP or
//! TCP: in its place there is the sum of the pseudo header only (`CHECKSUM_PARTIAL`, include/linux/skbuff.h).
//! The stack at the other end is told of that and content. An AF_XDP socket is not told, and what it sends
//! leaves with the bytes as they are; so whoever sends such a packet on has to complete it.
//!
//! What tells it from others is that the field *is* the sum of the pseudo header: a few additions, however long
//! the packet is. One whole checksum in 65,535 looks the same. If it is right, completing it changes nothing.

use super::checksum::Sum;
use crate::fragments::Fragments;
use crate::port::FrameBytes;

const ETHERNET: usize = 14;
const VLAN: usize = 4;
const MOST_TAGS: usize = 2;

/// What is left to be computed of a packet's checksum; in bytes from the packet's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Partial {
    /// Where the transport header begins.
    start: usize,
    /// Where its data end; behind there may be padding.
    end: usize,
    /// Where the checksum is.
    field: usize,
    is_udp: bool,
}

/// Completes the checksum of a packet's UDP or TCP if it was left to a device; changes nothing else.
///
/// Looks behind up to two VLAN tags and IPv4 options, but not into fragments nor behind extension headers of
/// IPv6.
#[inline]
pub fn complete_checksum(packet: &mut [u8]) {
    if !packet.first_chunk().is_some_and(is_plainly_whole) {
        look_closer(packet);
    }
}

/// Headers of the most common kind: IPv4 without options, and TCP or UDP and its first bytes of data.
type Head = [u8; ETHERNET + 20 + 20];

/// Whether the checksum of such a packet is not partial: told by as few comparisons as can be.
#[inline]
fn is_plainly_whole(head: &Head) -> bool {
    let word = |at: usize| [head[at], head[at + 1], head[at + 2], head[at + 3]];
    // Ethertype, version and header length; no fragment: each in one comparison.
    let [kind, part] = [(word(12), [0xff, 0xff, 0xff, 0]), (word(20), [0x3f, 0xff, 0, 0])]
        .map(|(word, mask)| u32::from_ne_bytes(word) & u32::from_ne_bytes(mask));
    let field = match head[23] {
        17 => [head[40], head[41]],
        6 => [head[50], head[51]],
        _ => return false,
    };
    let len = u16::from_be_bytes([head[16], head[17]]).wrapping_sub(20);
    let pseudo = Sum::default().bytes(&head[26..34]).number(u16::from(head[23])).number(len);
    kind == u32::from_ne_bytes([0x08, 0x00, 0x45, 0]) && part == 0 && !pseudo.is(field)
}

/// [`complete_checksum`] for what may be partial.
#[inline(never)]
pub(super) fn look_closer(packet: &mut [u8]) {
    if let Some(partial) = find(packet, packet.len()) {
        partial.complete(packet, |sum| sum);
    }
}

/// The same for a packet in several frames, whose headers are in the first one.
pub(super) fn complete_checksum_in_parts<B: FrameBytes>(packet: &mut Fragments<'_, B>) {
    let len = packet.len() as usize;
    let Some(partial) = packet.with(0, |head| find(head, len)) else { return };
    let head_len = packet.with(0, <[u8]>::len);
    let (mut rest, mut missing) = (Sum::default(), partial.end.saturating_sub(head_len));
    let mut is_odd = head_len.saturating_sub(partial.start) % 2 == 1;
    for index in 1..packet.count() {
        packet.with(index, |bytes| {
            let bytes = &bytes[..bytes.len().min(missing)];
            rest = rest.appended(bytes, is_odd);
            is_odd ^= bytes.len() % 2 == 1;
            missing -= bytes.len();
        });
    }
    packet.with_mut(0, |head| partial.complete(head, |sum| sum.plus(rest)));
}

impl Partial {
    /// Sums what is here, the sum of the pseudo header with it, and writes what comes of it.
    #[inline(never)]
    fn complete(self, head: &mut [u8], with_rest: impl FnOnce(Sum) -> Sum) {
        let end = self.end.min(head.len());
        let sum = with_rest(Sum::default().bytes(head.get(self.start..end).unwrap_or_default()));
        if let Some(field) = head.get_mut(self.field..).and_then(<[u8]>::first_chunk_mut) {
            *field = if self.is_udp { sum.finish_udp() } else { sum.finish() };
        }
    }
}

/// Finds a partial checksum in a packet of `len` bytes, of which `head` has the first ones.
#[inline]
fn find(head: &[u8], len: usize) -> Option<Partial> {
    let mut ip = ETHERNET;
    loop {
        match *head.get(ip - 2..)?.first_chunk()? {
            [0x08, 0x00] => return find_ipv4(head, ip, len),
            [0x86, 0xdd] => return find_ipv6(head, ip, len),
            [0x81, 0x00] | [0x88, 0xa8] if ip < ETHERNET + MOST_TAGS * VLAN => ip += VLAN,
            _ => return None,
        }
    }
}

#[inline]
fn find_ipv4(head: &[u8], ip: usize, len: usize) -> Option<Partial> {
    let header: &[u8; 20] = head.get(ip..)?.first_chunk()?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    // More-fragments flag and fragment offset: every fragment has one or the other.
    let is_fragment = [header[6] & 0x3f, header[7]] != [0, 0];
    if header[0] >> 4 != 4 || header_len < header.len() || is_fragment || ip + total_len > len {
        return None;
    }
    find_in(head, ip + header_len, ip + total_len, header[9], Sum::default().bytes(&header[12..]))
}

#[inline(never)]
fn find_ipv6(head: &[u8], ip: usize, len: usize) -> Option<Partial> {
    let header: &[u8; 40] = head.get(ip..)?.first_chunk()?;
    let start = ip + header.len();
    let end = start + usize::from(u16::from_be_bytes([header[4], header[5]]));
    if header[0] >> 4 != 6 || end > len {
        return None;
    }
    find_in(head, start, end, header[6], Sum::default().bytes(&header[8..]))
}

/// `addresses` is the sum of both.
#[inline]
fn find_in(head: &[u8], start: usize, end: usize, protocol: u8, addresses: Sum) -> Option<Partial> {
    let (at, is_udp) = match protocol {
        17 => (6, true),
        6 => (16, false),
        _ => return None,
    };
    let field = start + at;
    let transport_len = end.checked_sub(start).filter(|len| *len >= at + 2)?;
    let bytes: [u8; 2] = *head.get(field..)?.first_chunk()?;
    // The length is 16 bits, and no more in IPv6's 32 of the pseudo header.
    let pseudo = addresses.number(u16::from(protocol)).number(transport_len as u16);
    // RFC 768: all zeros say that the sender made no checksum.
    let is_partial = pseudo.is(bytes) && !(is_udp && bytes == [0, 0]);
    is_partial.then_some(Partial { start, end, field, is_udp })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// UDP over IPv4 from 10.0.0.2 port 4000 to 10.0.0.1 port 7.
    fn udp(data: &[u8]) -> Vec<u8> {
        let len = (8 + data.len()) as u16;
        let mut packet = vec![0; 12];
        packet.extend([8, 0, 0x45, 0]);
        packet.extend((20 + len).to_be_bytes());
        packet.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1, 0x0f, 0xa0, 0, 7]);
        packet.extend(len.to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(data);
        packet
    }

    fn whole(packet: &[u8]) -> [u8; 2] {
        let len = (packet.len() - 34) as u16;
        Sum::default().bytes(&packet[26..]).number(17).number(len).finish_udp()
    }

    #[test]
    fn a_partial_checksum_becomes_whole_and_a_whole_one_stays() {
        for len in 0..100_u8 {
            let data: Vec<u8> = (0..len).map(|n| n.wrapping_mul(89)).collect();
            let mut packet = udp(&data);
            let right = whole(&packet);
            let [a, b] = Sum::default().bytes(&packet[26..34]).number(17).number(8 + u16::from(len)).finish();
            packet[40..42].copy_from_slice(&[!a, !b]);
            packet.extend([0xee; 5]);
            complete_checksum(&mut packet);
            assert_eq!(packet[40..42], right, "{len} bytes of data");
            let before = packet.clone();
            complete_checksum(&mut packet);
            assert_eq!(packet, before, "{len} bytes of data");
        }
    }

    #[test]
    fn a_wrong_checksum_stays_wrong() {
        let mut packet = udp(b"hello");
        packet[40..42].copy_from_slice(&[0x12, 0x34]);
        let before = packet.clone();
        complete_checksum(&mut packet);
        assert_eq!(packet, before);
    }

    /// For every value of the field there are data for which it is the right one: also for the one that looks
    /// partial.
    #[test]
    fn a_whole_checksum_that_looks_partial_stays() {
        let mut packet = udp(&[0; 6]);
        let [a, b] = Sum::default().bytes(&packet[26..34]).number(17).number(14).finish();
        packet[40..42].copy_from_slice(&[!a, !b]);
        // The last two bytes make up for what the field lacks.
        let lacking = Sum::default().bytes(&packet[26..]).number(17).number(14).finish();
        packet[46..48].copy_from_slice(&lacking);
        let before = packet.clone();
        complete_checksum(&mut packet);
        assert_eq!(packet, before);
    }

    /// What the stack makes of TCP over IPv6 behind two tags, of TCP over IPv4, and of IPv4 with options.
    #[test]
    fn it_is_found_behind_whatever_lies_before_it() {
        let tcp = |len: usize| (0..len).map(|n| (n * 7 + 3) as u8).collect::<Vec<_>>();
        let ipv4 = |options: &[u8], protocol: u8, len: usize| {
            let header_len = 20 + options.len();
            let mut header = vec![0x40 | (header_len / 4) as u8, 0];
            header.extend(((header_len + len) as u16).to_be_bytes());
            header.extend([0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1]);
            [&header, options].concat()
        };
        let mut ipv6 = vec![0x60, 0, 0, 0, 0, 45, 6, 64];
        ipv6.extend((0..32_u8).map(|n| n.wrapping_mul(31)));
        let tags = [0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 0x86, 0xdd];
        for (ethertype, network, protocol, len, field) in [
            (&[8, 0][..], ipv4(&[], 6, 21), 6, 21, 16),
            (&[8, 0][..], ipv4(&[1; 8], 6, 20), 6, 20, 16),
            (&[8, 0][..], ipv4(&[1; 40], 17, 33), 17, 33, 6),
            (&tags[..], ipv6, 6, 45, 16),
        ] {
            let addresses = if network[0] >> 4 == 4 { &network[12..20] } else { &network[8..] };
            let pseudo = Sum::default().bytes(addresses).number(protocol).number(len as u16);
            let (mut transport, partial) = (tcp(len), pseudo.finish().map(|byte| !byte));
            transport[field..field + 2].fill(0);
            let right = pseudo.bytes(&transport).finish();
            transport[field..field + 2].copy_from_slice(&partial);
            let mut packet = [&[0; 12], ethertype, &network, &transport].concat();
            let start = packet.len() - len;
            complete_checksum(&mut packet);
            assert_eq!(packet[start + field..start + field + 2], right, "{network:?}");
        }
    }
}
