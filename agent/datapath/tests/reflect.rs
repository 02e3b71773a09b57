//! What `Reflect` makes of packets, with etherparse to build and to judge them.

use std::time::Duration;

use datapath::handlers::Reflect;
use datapath::{MemoryPort, PacketHandler, Verdict, Worker, WorkerConfig};
use etherparse::{
    EtherType, Ipv4Extensions, Ipv4Header, Ipv6FlowLabel, Ipv6Header, NetSlice, PacketBuilder, SlicedPacket,
    TransportSlice, UdpHeader, UdpSlice, VlanId, ip_number,
};
use frame_pool::{FrameLayout, FramePool, PoolConfig, UmemProvider};
use proptest::prelude::*;

const NEAR: [u8; 6] = [2, 0, 0, 0, 0, 1];
const FAR: [u8; 6] = [2, 0, 0, 0, 0, 2];
const NEAR4: [u8; 4] = [10, 0, 0, 1];
const FAR4: [u8; 4] = [10, 0, 0, 2];
const NEAR6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const FAR6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

/// A frame from FAR port 4000 to NEAR port 7, its checksums right.
fn udp4(data: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(FAR, NEAR).ipv4(FAR4, NEAR4, 64).udp(4000, 7);
    builder.write(&mut frame, data).unwrap();
    frame
}

/// The same over IPv6.
fn udp6(data: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(FAR, NEAR).ipv6(FAR6, NEAR6, 64).udp(4000, 7);
    builder.write(&mut frame, data).unwrap();
    frame
}

/// Where the UDP checksum is in a frame made by `udp4` or `udp6`.
fn checksum_of(frame: &mut [u8]) -> &mut [u8] {
    let at = if frame[12] == 0x08 { 14 + 20 + 6 } else { 14 + 40 + 6 };
    &mut frame[at..at + 2]
}

/// What a socket leaves in that place for its device (`CHECKSUM_PARTIAL`): the sum of the pseudo header, word by
/// word as RFC 1071 says it.
fn leave_to_device(frame: &mut [u8]) {
    let (addresses, udp) = if frame[12] == 0x08 { (26..34, 34) } else { (22..54, 54) };
    let mut sum = 17 + u32::from(u16::from_be_bytes([frame[udp + 4], frame[udp + 5]]));
    for word in frame[addresses].chunks(2) {
        sum += u32::from(u16::from_be_bytes([word[0], word[1]]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    checksum_of(frame).copy_from_slice(&(sum as u16).to_be_bytes());
}

fn reflected(mut frame: Vec<u8>) -> Vec<u8> {
    assert_eq!(Reflect.handle(&mut frame), Verdict::Transmit);
    frame
}

fn udp_of<'a>(packet: &'a SlicedPacket<'a>) -> UdpSlice<'a> {
    match packet.transport.clone() {
        Some(TransportSlice::Udp(udp)) => udp,
        other => panic!("no UDP but {other:?}"),
    }
}

/// An answer from NEAR port 7 to FAR port 4000 with `data`, its checksums right.
#[track_caller]
fn is_answer(frame: &[u8], data: &[u8]) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let ethernet = Option::unwrap(packet.link.as_ref()).to_header().unwrap().ethernet2().unwrap();
    assert_eq!((ethernet.source, ethernet.destination), (NEAR, FAR));
    let udp = udp_of(&packet);
    assert_eq!((udp.source_port(), udp.destination_port(), udp.payload()), (7, 4000, data));
    let expected = match packet.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!((header.source, header.destination), (NEAR4, FAR4));
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            udp.to_header().calc_checksum_ipv4(&header, data).unwrap()
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header().to_header();
            assert_eq!((header.source, header.destination), (NEAR6, FAR6));
            udp.to_header().calc_checksum_ipv6(&header, data).unwrap()
        }
        other => panic!("neither IPv4 nor IPv6 but {other:?}"),
    };
    assert_eq!(udp.checksum(), expected);
}

/// The frame with its MAC addresses swapped and nothing else.
fn macs_swapped(frame: &[u8]) -> Vec<u8> {
    [&frame[6..12], &frame[..6], &frame[12..]].concat()
}

#[test]
fn udp_over_ipv4_is_answered() {
    is_answer(&reflected(udp4(b"hello")), b"hello");
}

#[test]
fn udp_over_ipv6_is_answered() {
    is_answer(&reflected(udp6(b"hello")), b"hello");
}

#[test]
fn a_partial_checksum_becomes_a_right_one() {
    for data in [&b""[..], b"x", b"xy", b"xyz", &[0xff; 1400], &[0; 1401]] {
        for mut frame in [udp4(data), udp6(data)] {
            leave_to_device(&mut frame);
            is_answer(&reflected(frame), data);
        }
    }
}

/// A packet that was damaged on its way must not be made to look whole.
#[test]
fn a_wrong_checksum_stays_wrong() {
    for mut frame in [udp4(b"hello"), udp6(b"hello")] {
        checksum_of(&mut frame)[0] ^= 0x10;
        let mut answer = reflected(frame.clone());
        assert_eq!(checksum_of(&mut answer), checksum_of(&mut frame));
    }
}

#[test]
fn no_checksum_over_ipv4_stays_none() {
    let mut frame = udp4(b"hello");
    checksum_of(&mut frame).fill(0);
    let frame = reflected(frame);
    let packet = SlicedPacket::from_ethernet(&frame).unwrap();
    let udp = udp_of(&packet);
    assert_eq!((udp.checksum(), udp.source_port(), udp.destination_port()), (0, 7, 4000));
}

#[test]
fn a_sum_of_zero_is_sent_as_ones() {
    for frame in [udp4(b"ab"), udp6(b"ab")] {
        // Data that make the sum come out as zero: what the checksum would be with zeros in their place.
        let mut frame = frame;
        let end = frame.len();
        frame[end - 2..].fill(0);
        leave_to_device(&mut frame);
        let mut zeros = reflected(frame.clone());
        let data: [u8; 2] = checksum_of(&mut zeros).try_into().unwrap();
        frame[end - 2..].copy_from_slice(&data);
        let mut frame = reflected(frame);
        assert_eq!(checksum_of(&mut frame), [0xff, 0xff]);
        is_answer(&frame, &data);
    }
}

#[test]
fn padding_behind_the_datagram_is_not_summed() {
    let mut frame = udp4(b"x");
    leave_to_device(&mut frame);
    frame.extend([0xee; 17]);
    let frame = reflected(frame);
    assert_eq!(frame[frame.len() - 17..], [0xee; 17]);
    is_answer(&frame[..frame.len() - 17], b"x");
}

#[test]
fn options_of_ipv4_are_stepped_over() {
    let mut frame = Vec::new();
    let mut ip = Ipv4Header::new(0, 64, ip_number::UDP, FAR4, NEAR4).unwrap();
    ip.options = [7, 7, 4, 10, 0, 0, 9, 0].into(); // record route
    PacketBuilder::ethernet2(FAR, NEAR)
        .ip(etherparse::IpHeaders::Ipv4(ip, Ipv4Extensions::default()))
        .udp(4000, 7)
        .write(&mut frame, b"hello")
        .unwrap();
    is_answer(&reflected(frame), b"hello");
}

#[test]
fn behind_a_vlan_tag_nothing_is_parsed() {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(FAR, NEAR)
        .single_vlan(VlanId::try_new(5).unwrap())
        .ipv4(FAR4, NEAR4, 64)
        .udp(4000, 7)
        .write(&mut frame, b"hello")
        .unwrap();
    assert_eq!(reflected(frame.clone()), macs_swapped(&frame));
}

#[test]
fn what_is_no_whole_udp_datagram_only_has_its_macs_swapped() {
    let change = |mut frame: Vec<u8>, at: usize, byte: u8| {
        frame[at] = byte;
        frame
    };
    let (v4, v6) = (udp4(b"hello"), udp6(b"hello"));
    let cases = [
        ("ARP", change(v4.clone(), 13, 0x06)),
        ("version 5", change(v4.clone(), 14, 0x55)),
        ("header of 16 bytes", change(v4.clone(), 14, 0x44)),
        ("header beyond the packet", change(v4.clone(), 14, 0x4f)),
        ("first fragment", change(v4.clone(), 20, 0x20)),
        ("later fragment", change(v4.clone(), 21, 0x01)),
        ("TCP", change(v4.clone(), 23, 6)),
        ("total length beyond the frame", change(v4.clone(), 17, 0xff)),
        ("total length within the header", change(v4.clone(), 17, 19)),
        ("UDP length beyond the packet", change(v4.clone(), 39, 14)),
        ("UDP length within its header", change(v4.clone(), 39, 7)),
        ("version 4 in IPv6", change(v6.clone(), 14, 0x40)),
        ("extension header", change(v6.clone(), 20, 0)),
        ("payload length beyond the frame", change(v6.clone(), 19, 0xff)),
        ("payload length within UDP's header", change(v6.clone(), 19, 7)),
        ("UDP length beyond the IPv6 packet", change(v6.clone(), 59, 14)),
    ];
    for (what, frame) in cases {
        assert_eq!(reflected(frame.clone()), macs_swapped(&frame), "{what}");
    }
}

/// In every way that the data can be cut by the frames, at even and at odd places.
#[test]
fn a_partial_checksum_over_several_frames_is_completed() {
    let layout = FrameLayout::new(2048, 64).unwrap();
    let pool = FramePool::new(PoolConfig::default(), UmemProvider::new(layout));
    let mut worker = Worker::new(pool, MemoryPort::new(layout, 32), Reflect, WorkerConfig::default());
    worker.poll_once(Duration::ZERO);
    for len in (1700..1800).chain([3583, 3584, 3585, 8999, 9000]) {
        let data: Vec<u8> = (0..len).map(|n| (n * 89) as u8).collect();
        for mut frame in [udp4(&data), udp6(&data)] {
            leave_to_device(&mut frame);
            assert!(worker.port_mut().arrive(&frame));
            worker.poll_once(Duration::ZERO);
            is_answer(&worker.port_mut().sent().unwrap(), &data);
        }
        worker.poll_once(Duration::ZERO);
    }
    assert!(worker.finish(Duration::ZERO).conserved);
}

/// A full batch goes the short way, whatever is in it.
#[test]
fn in_a_batch_each_is_answered_as_if_it_was_alone() {
    let layout = FrameLayout::new(2048, 256).unwrap();
    let pool = FramePool::new(PoolConfig::default(), UmemProvider::new(layout));
    let config = WorkerConfig { batch: 64, ..WorkerConfig::default() };
    let mut worker = Worker::new(pool, MemoryPort::new(layout, 128), Reflect, config);
    worker.poll_once(Duration::ZERO);
    for first_partial in [0, 1, 20, 63] {
        let packets = (0..64_usize).map(|n| {
            let mut packet = if n % 5 == 0 { udp6(&vec![n as u8; n]) } else { udp4(&vec![n as u8; n]) };
            if n >= first_partial && n % 3 != 0 {
                leave_to_device(&mut packet);
            }
            // One that is too short to be sent.
            packet.truncate(if n == 40 { 13 } else { packet.len() });
            packet
        });
        let packets: Vec<_> = packets.collect();
        assert!(packets.iter().all(|packet| worker.port_mut().arrive(packet)));
        worker.poll_once(Duration::ZERO);
        for packet in packets.into_iter().filter(|packet| packet.len() >= 14) {
            assert_eq!(worker.port_mut().sent(), Some(reflected(packet)), "{first_partial}");
        }
        assert_eq!(worker.port_mut().sent(), None);
        assert!(worker.snapshot().conserved());
        worker.poll_once(Duration::ZERO);
    }
    assert_eq!(worker.snapshot().traffic.handler_dropped, 4);
}

#[test]
fn less_than_an_ethernet_header_is_dropped() {
    for len in 0..14 {
        let mut frame = vec![7; len];
        assert_eq!(Reflect.handle(&mut frame), Verdict::Drop);
        assert_eq!(frame, vec![7; len]);
    }
}

proptest! {
    #[test]
    fn any_udp_is_answered_also_if_its_checksum_was_left_to_a_device(
        data in prop::collection::vec(any::<u8>(), 0..1473),
        padding in 0..20_usize,
        six in any::<bool>(),
        partial in any::<bool>(),
    ) {
        let mut frame = if six { udp6(&data) } else { udp4(&data) };
        if partial {
            leave_to_device(&mut frame);
        }
        frame.extend(vec![0xee; padding]);
        let frame = reflected(frame);
        is_answer(&frame[..frame.len() - padding], &data);
    }

    #[test]
    fn a_checksum_that_is_not_partial_stays_as_it_is(
        data in prop::collection::vec(any::<u8>(), 0..100),
        difference in 1..0xffff_u16,
        six in any::<bool>(),
    ) {
        let mut frame = if six { udp6(&data) } else { udp4(&data) };
        leave_to_device(&mut frame);
        let field = checksum_of(&mut frame);
        // In one's complement, so that all values but those of the sum itself are met.
        let sum = u32::from(u16::from_be_bytes([field[0], field[1]])) + u32::from(difference);
        let other = ((sum % 0xffff) as u16).to_be_bytes();
        field.copy_from_slice(&other);
        let mut answer = reflected(frame);
        prop_assert_eq!(checksum_of(&mut answer), other);
    }

    #[test]
    fn a_truncated_frame_harms_nobody(len in 0..100_usize, cut in 0..142_usize, six in any::<bool>()) {
        let whole = if six { udp6(&vec![0x5a; len]) } else { udp4(&vec![0x5a; len]) };
        let mut frame = whole[..cut.min(whole.len())].to_vec();
        let verdict = Reflect.handle(&mut frame);
        prop_assert_eq!(verdict == Verdict::Drop, frame.len() < 14);
        if (14..whole.len()).contains(&frame.len()) {
            prop_assert_eq!(frame.clone(), macs_swapped(&whole[..frame.len()]));
        }
    }

    #[test]
    fn noise_is_survived(
        mut frame in prop::collection::vec(any::<u8>(), 0..200),
        ether_type in prop::sample::select(vec![EtherType::IPV4, EtherType::IPV6, EtherType::ARP]),
        first in prop::sample::select(vec![0x45, 0x4f, 0x60]),
    ) {
        if frame.len() > 24 {
            frame[12..14].copy_from_slice(&ether_type.0.to_be_bytes());
            frame[14] = first;
            frame[if first == 0x60 { 20 } else { 23 }] = 17;
        }
        let before = frame.clone();
        Reflect.handle(&mut frame);
        prop_assert_eq!(frame.len(), before.len());
    }
}

/// The two ways of building agree: what the tests above take for UDP's place in a frame is right.
#[test]
fn the_test_frames_are_what_they_seem() {
    let header = UdpHeader::with_ipv6_checksum(
        4000,
        7,
        &Ipv6Header {
            traffic_class: 0,
            flow_label: Ipv6FlowLabel::ZERO,
            payload_length: 13,
            next_header: ip_number::UDP,
            hop_limit: 64,
            source: FAR6,
            destination: NEAR6,
        },
        b"hello",
    )
    .unwrap();
    assert_eq!(*checksum_of(&mut udp6(b"hello")), header.checksum.to_be_bytes());
}
