//! Reads a frame's headers into a [`Key`], with the eyes of tcpdump.
//!
//! Whatever pcap-filter(7) leaves unsaid is taken from the code that `tcpdump -d` prints for a primitive:
//! - `vlan` makes what follows look four bytes further, whether there is a tag or not. So a frame is read at a
//!   depth: behind no tag, behind one, or behind two.
//! - IPv4's header length is believed as it stands, even where it is too small to be true.
//! - A fragment of IPv4 that is not the first has no ports. IPv6 extension headers hide the ports, and a
//!   fragment header shows the protocol behind it ([`Key::fragment_proto`]), but not its ports.
//! - Only the end of the frame ends it: the length fields of IP are not looked at.

use crate::key::{End, Key, field};

/// Bytes that can only be read as far as they go.
///
/// The program implements it over the kernel's packet pointers, the host over a slice.
pub trait View {
    /// The `N` bytes from `offset` on, or `None` if the frame ends before they do.
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// The `N` bytes that lie `words` times four bytes behind `offset`; `words` is at most 15.
    ///
    /// Apart from [`load`](View::load), since the program may add only constants to a packet pointer.
    #[inline(always)]
    fn load_behind<const N: usize>(&self, offset: usize, words: u8) -> Option<[u8; N]> {
        self.load(offset + usize::from(words) * 4)
    }

    /// The frame with the VLAN tag that a switch chip made part of its own, and that one's id. Its four bytes are not to
    /// be loaded: what is there is the switch's. Without one, the frame as it is.
    #[inline(always)]
    fn vlan_of_switch(&self) -> (impl View, Option<u16>) {
        (self, None)
    }
}

impl<V: View + ?Sized> View for &V {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        (**self).load(offset)
    }

    #[inline(always)]
    fn load_behind<const N: usize>(&self, offset: usize, words: u8) -> Option<[u8; N]> {
        (**self).load_behind(offset, words)
    }
}

impl View for [u8] {
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..)?.first_chunk().copied()
    }
}

/// A frame without the tag that a switch chip put behind the MAC addresses (DSA: 4 bytes, EDSA: 8), and with the VLAN
/// tag that the switch put into that: as the stack sees it.
///
/// Whether a switch put one there cannot be told from the bytes, so `tag` is what the interface's tagging says.
#[derive(Clone, Copy, Debug)]
pub struct Untagged<'a> {
    /// The frame as it was received.
    pub frame: &'a [u8],
    /// Bytes of the tag.
    pub tag: usize,
}

impl View for Untagged<'_> {
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        // Of the loads none crosses the end of the MAC addresses.
        self.frame.load(if offset < MACS { offset } else { offset + self.tag })
    }

    fn vlan_of_switch(&self) -> (impl View, Option<u16>) {
        let header = self.tag.checked_sub(DSA_HLEN).and_then(|before| self.frame.load(MACS + before));
        match header.and_then(vlan_of) {
            Some(id) => (Self { tag: self.tag - DSA_HLEN, ..*self }, Some(id)),
            None => (*self, None),
        }
    }
}

/// EtherType of IPv4.
pub const ETH_P_IP: u16 = 0x0800;
/// EtherType of ARP.
pub const ETH_P_ARP: u16 = 0x0806;
/// EtherType of RARP.
pub const ETH_P_RARP: u16 = 0x8035;
/// EtherType of a VLAN tag (802.1Q).
pub const ETH_P_8021Q: u16 = 0x8100;
/// EtherType of the outer one of two VLAN tags (802.1ad).
pub const ETH_P_8021AD: u16 = 0x88a8;
/// EtherType of IPv6.
pub const ETH_P_IPV6: u16 = 0x86dd;

/// IP protocol of ICMP.
pub const IPPROTO_ICMP: u8 = 1;
/// IP protocol of TCP.
pub const IPPROTO_TCP: u8 = 6;
/// IP protocol of UDP.
pub const IPPROTO_UDP: u8 = 17;
/// IPv6's fragment header.
pub const IPPROTO_FRAGMENT: u8 = 44;
/// IP protocol of ICMPv6.
pub const IPPROTO_ICMPV6: u8 = 58;
/// IP protocol of SCTP.
pub const IPPROTO_SCTP: u8 = 132;

/// Both MAC addresses; what follows them is moved by a tag.
pub const MACS: usize = 12;
/// Marvell's tag, which may have four bytes with an EtherType of its own in front (EDSA).
pub const DSA_HLEN: usize = 4;
const ETHER_PROTO: usize = 2;
const TAG: usize = 4;
/// The bits of a tag that are the VLAN's id.
const VLAN_ID: u16 = 0x0fff;
const IPV6_HEADER: usize = 40;

/// A frame as it was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// What it has.
    pub key: Key,
    /// What it would have had, had it not ended before: bits of [`field`].
    pub missing: u32,
}

/// Reads the headers of the frame that begins with its MAC addresses, behind `TAGS` VLAN tags (at most
/// [`MAX_TAGS`](crate::key::MAX_TAGS)), which need not be there.
///
/// There is no error: what a frame does not have is not in [`Key::fields`], and a rule that asks for it does
/// not match, as a filter of tcpdump fails at a load beyond the packet.
///
/// A frame that ends early leaves by a way of its own, so that there are few ways through the parser, all of which
/// the verifier walks.
#[inline(always)]
#[must_use]
pub fn parse<const TAGS: usize, V: View + ?Sized>(frame: &V) -> Parsed {
    let mut parsed = Parsed::default();
    if let Err(missing) = headers::<TAGS, V>(frame, &mut parsed) {
        parsed.missing = missing;
        parsed.key = parsed.key.with_fields(field::TRUNCATED);
    }
    parsed
}

/// Fields that can only be there if the one before is.
const BEHIND_MACS: u32 = TAGS_FIELDS | BEHIND_TAGS;
const TAGS_FIELDS: u32 = ALL_OF_TAG | ALL_OF_TAG << 1;
const ALL_OF_TAG: u32 = field::TAG_TYPE | field::TAG | field::TAG_ID;
const BEHIND_TAGS: u32 = field::ETHER_PROTO | PROTO | V4 | V6;
const PROTO: u32 = field::IP_PROTO | field::FRAGMENT_PROTO | PORTS;
const PORTS: u32 = field::SRC_PORT | field::DST_PORT;
const V4: u32 = field::SRC4 | field::DST4;
const V6: u32 = (field::SRC6 | field::DST6) * field::WHOLE6;

/// Fills in the key until the headers are read, or the frame ends: `Err` is what is missing then.
#[inline(always)]
fn headers<const TAGS: usize, V: View + ?Sized>(frame: &V, parsed: &mut Parsed) -> Result<(), u32> {
    let Some(macs) = frame.load::<MACS>(0) else { return Err(cut_macs(frame, parsed)) };
    parsed.key = parsed.key.with_macs(macs).with_fields(field::MAC_DST | field::MAC_SRC);
    let (frame, id) = &frame.vlan_of_switch();
    if TAGS == 0 && id.is_some() {
        parsed.key = parsed.key.with_ether_proto(ETH_P_8021Q).with_fields(field::ETHER_PROTO);
        return Ok(());
    }
    let mut tag = 0;
    while tag < TAGS {
        match *id {
            Some(id) if tag == 0 => {
                parsed.key =
                    parsed.key.with_tag_type(0, ETH_P_8021Q).with_tag_id(0, id).with_fields(ALL_OF_TAG);
            }
            _ => vlan(frame, tag, parsed)?,
        }
        tag += 1;
    }
    let at = MACS + TAG * TAGS;
    let ether_proto = u16::from_be_bytes(frame.load(at).ok_or(BEHIND_TAGS)?);
    parsed.key = parsed.key.with_ether_proto(ether_proto).with_fields(field::ETHER_PROTO);
    let at = at + ETHER_PROTO;
    match ether_proto {
        ETH_P_IP => ipv4(frame, at, parsed),
        ETH_P_IPV6 => ipv6(frame, at, parsed),
        ETH_P_ARP | ETH_P_RARP => arp(frame, at, parsed),
        _ => Ok(()),
    }
}

/// The MAC addresses of a frame that ends in them.
#[inline(always)]
fn cut_macs<V: View + ?Sized>(frame: &V, parsed: &mut Parsed) -> u32 {
    let Some([a, b, c, d, e, f]) = frame.load::<6>(0) else {
        return BEHIND_MACS | field::MAC_SRC | field::MAC_DST;
    };
    parsed.key = parsed.key.with_macs([a, b, c, d, e, f, 0, 0, 0, 0, 0, 0]).with_fields(field::MAC_DST);
    BEHIND_MACS | field::MAC_SRC
}

/// Reads what would be a tag.
#[inline(always)]
fn vlan<V: View + ?Sized>(frame: &V, tag: usize, parsed: &mut Parsed) -> Result<(), u32> {
    let behind = BEHIND_TAGS | if tag == 0 { ALL_OF_TAG << 1 } else { 0 };
    let at = MACS + TAG * tag;
    let tag_type = frame.load(at).ok_or(ALL_OF_TAG << tag | behind)?;
    let tag_type = u16::from_be_bytes(tag_type);
    let is_tag = if is_tag_type(tag_type) { field::TAG << tag } else { 0 };
    parsed.key = parsed.key.with_tag_type(tag, tag_type).with_fields(field::TAG_TYPE << tag | is_tag);
    let tci = frame.load(at + ETHER_PROTO).ok_or(field::TAG_ID << tag | behind)?;
    parsed.key =
        parsed.key.with_tag_id(tag, u16::from_be_bytes(tci) & VLAN_ID).with_fields(field::TAG_ID << tag);
    Ok(())
}

/// Whether this type announces a VLAN tag, to tcpdump: 802.1Q, 802.1ad, and the QinQ from before 802.1ad.
#[inline(always)]
#[must_use]
pub const fn is_tag_type(tag_type: u16) -> bool {
    matches!(tag_type, 0x8100 | 0x88a8 | 0x9100)
}

/// The id of the VLAN tag in whose place Marvell's tag is, if it is: out of the outermost tag of a frame the switch makes
/// its own, and says so by a bit. The stack makes an 802.1Q tag of it again (net/dsa/tag_dsa.c: `dsa_rcv_ll`).
#[inline(always)]
#[must_use]
pub const fn vlan_of([flags, _, high, low]: [u8; DSA_HLEN]) -> Option<u16> {
    if flags & 0x20 == 0 { None } else { Some(u16::from_be_bytes([high, low]) & VLAN_ID) }
}

#[inline(always)]
fn ipv4<V: View + ?Sized>(frame: &V, at: usize, parsed: &mut Parsed) -> Result<(), u32> {
    let Some(header) = frame.load::<20>(at) else { return cut_ipv4(frame, at, parsed) };
    let [version_ihl, _, _, _, _, _, fragment_high, fragment_low, _, protocol, ..] = header;
    let [.., a, b, c, d, e, f, g, h] = header;
    parsed.key = (parsed.key.with_ip_proto(protocol))
        .with_ipv4(End::Src, [a, b, c, d])
        .with_ipv4(End::Dst, [e, f, g, h])
        .with_fields(field::IP_PROTO | V4 | malformed4(version_ihl));
    if later_fragment(fragment_high, fragment_low) || !has_ports(protocol) {
        return Ok(());
    }
    ports(frame, at, version_ihl & 0x0f, parsed)
}

/// The rest of an IPv4 frame that ends within the header. If that says it is shorter than a header, its ports may
/// come before that end.
#[inline(always)]
fn cut_ipv4<V: View + ?Sized>(frame: &V, at: usize, parsed: &mut Parsed) -> Result<(), u32> {
    let header = frame.load::<10>(at).ok_or(PROTO & !field::FRAGMENT_PROTO | V4)?;
    let [version_ihl, _, _, _, _, _, fragment_high, fragment_low, _, protocol] = header;
    parsed.key = parsed.key.with_ip_proto(protocol).with_fields(field::IP_PROTO | malformed4(version_ihl));
    let mut missing = V4;
    if let Some(source) = frame.load(at + 12) {
        parsed.key = parsed.key.with_ipv4(End::Src, source).with_fields(field::SRC4);
        missing = field::DST4;
    }
    if !later_fragment(fragment_high, fragment_low)
        && has_ports(protocol)
        && let Err(ports) = ports(frame, at, version_ihl & 0x0f, parsed)
    {
        missing |= ports;
    }
    Err(missing)
}

/// [`field::MALFORMED`] if this is not the beginning of an IPv4 header, without a branch.
#[inline(always)]
fn malformed4(version_ihl: u8) -> u32 {
    let [version, words] = [u32::from(version_ihl >> 4), u32::from(version_ihl & 0x0f)];
    // 16 and more with 5 words; 16 and more with a version that is not 4.
    let long_enough = (words + 11) >> 4;
    let strange = ((version ^ 4) + 15) >> 4;
    ((1 - long_enough) | strange) * field::MALFORMED
}

#[inline(always)]
fn later_fragment(high: u8, low: u8) -> bool {
    u16::from_be_bytes([high, low]) & 0x1fff != 0
}

#[inline(always)]
fn arp<V: View + ?Sized>(frame: &V, at: usize, parsed: &mut Parsed) -> Result<(), u32> {
    let sender = frame.load(at + 14).ok_or(V4)?;
    parsed.key = parsed.key.with_ipv4(End::Src, sender).with_fields(field::SRC4);
    let target = frame.load(at + 24).ok_or(field::DST4)?;
    parsed.key = parsed.key.with_ipv4(End::Dst, target).with_fields(field::DST4);
    Ok(())
}

#[inline(always)]
fn ipv6<V: View + ?Sized>(frame: &V, at: usize, parsed: &mut Parsed) -> Result<(), u32> {
    let Some(addresses) = frame.load::<32>(at + 8) else { return cut_ipv6(frame, at, parsed) };
    let [version, _, _, _, _, _, next_header] = frame.load::<7>(at).ok_or(0_u32)?;
    let (source, destination) = addresses.split_at(16);
    if let (Some(source), Some(destination)) = (source.first_chunk(), destination.first_chunk()) {
        parsed.key = parsed.key.with_ipv6(End::Src, *source).with_ipv6(End::Dst, *destination);
    }
    parsed.key =
        parsed.key.with_ip_proto(next_header).with_fields(field::IP_PROTO | V6 | malformed6(version));
    let payload = at + IPV6_HEADER;
    if next_header == IPPROTO_FRAGMENT {
        let [behind] = frame.load::<1>(payload).ok_or(field::FRAGMENT_PROTO)?;
        parsed.key = parsed.key.with_fragment_proto(behind).with_fields(field::FRAGMENT_PROTO);
        Ok(())
    } else if has_ports(next_header) {
        ports(frame, payload, 0, parsed)
    } else {
        Ok(())
    }
}

/// The rest of an IPv6 frame that ends within the header: tcpdump looks at addresses four bytes at a time, and a
/// prefix may need no more than there is.
#[inline(always)]
fn cut_ipv6<V: View + ?Sized>(frame: &V, at: usize, parsed: &mut Parsed) -> Result<(), u32> {
    let [version, _, _, _, _, _, next_header] = frame.load::<7>(at).ok_or(PROTO | V6)?;
    parsed.key = parsed.key.with_ip_proto(next_header).with_fields(field::IP_PROTO | malformed6(version));
    let behind = match next_header {
        IPPROTO_FRAGMENT => field::FRAGMENT_PROTO,
        _ if has_ports(next_header) => PORTS,
        _ => 0,
    };
    let mut missing = V6 | behind;
    let mut addresses = [[0; 4]; 8];
    let mut word = 0;
    while word < 8 {
        let Some(bytes) = frame.load(at + 8 + 4 * word) else { break };
        addresses[word] = bytes;
        missing &= !(field::SRC6 << word);
        word += 1;
    }
    let [a, b, c, d, e, f, g, h] = addresses.map(u32::from_le_bytes).map(u128::from);
    let address = |a: u128, b: u128, c: u128, d: u128| (a | b << 32 | c << 64 | d << 96).to_le_bytes();
    parsed.key = (parsed.key.with_ipv6(End::Src, address(a, b, c, d)))
        .with_ipv6(End::Dst, address(e, f, g, h))
        .with_fields(V6 & !missing);
    Err(missing)
}

/// [`field::MALFORMED`] if this is not the beginning of an IPv6 header, without a branch.
#[inline(always)]
fn malformed6(version_class: u8) -> u32 {
    ((u32::from((version_class >> 4) ^ 6) + 15) >> 4) * field::MALFORMED
}

/// Reads both ports, or the first alone where the frame ends between them: `src port` matches it then.
#[inline(always)]
fn ports<V: View + ?Sized>(frame: &V, offset: usize, words: u8, parsed: &mut Parsed) -> Result<(), u32> {
    let key = parsed.key;
    if let Some([a, b, c, d]) = frame.load_behind(offset, words) {
        let key = key.with_port(End::Src, u16::from_be_bytes([a, b]));
        parsed.key = key.with_port(End::Dst, u16::from_be_bytes([c, d])).with_fields(PORTS);
        return Ok(());
    }
    let source = u16::from_be_bytes(frame.load_behind(offset, words).ok_or(PORTS)?);
    parsed.key = key.with_port(End::Src, source).with_fields(field::SRC_PORT);
    Err(field::DST_PORT)
}

/// Whether `port` of pcap-filter(7) applies to this protocol.
#[inline(always)]
#[must_use]
pub const fn has_ports(ip_proto: u8) -> bool {
    matches!(ip_proto, IPPROTO_TCP | IPPROTO_UDP | IPPROTO_SCTP)
}
