//! The model against as much of a driver as it takes to set up a ring.

use super::*;
use crate::checksum;

const RAM: u64 = 0x4000_0000;
const RX_RING: u32 = 0x4000_0000;
const TX_RING: u32 = 0x4000_1000;
const BUFFERS: u32 = 0x4001_0000;
/// A buffer's size, and the distance to the next one.
const BUFFER: u32 = 0x1000;
const RING: u32 = 16;
const LAST_FIRST: u32 = 1 << 27 | 1 << 26;

/// A NIC as mvneta leaves it after `ip link set up`: port on, promiscuous, one queue each way.
struct Driver {
    nic: Neta,
    memory: GuestMemory,
}

impl Driver {
    fn new() -> Self {
        let mut driver = Self { nic: Neta::new(), memory: GuestMemory::of_our_own(RAM, 0x10_0000) };
        for index in 0..RING {
            let descriptor = u64::from(RX_RING) + 32 * u64::from(index) + 8;
            driver.memory.write(descriptor, &(BUFFERS + BUFFER * index).to_le_bytes()).unwrap();
        }
        for (offset, value) in [
            (RXQ_BASE, RX_RING),
            (RXQ_SIZE, RING | (1536 / 8) << 19),
            (TXQ_BASE, TX_RING),
            (TXQ_SIZE, RING),
            (0x2400, 1),
            (RXQ_COMMAND, 1),
            (TXQ_COMMAND, 1),
            (GMAC_CONTROL_0, (9700 / 2) << 2 | 1),
            (MASK, 0xffff),
        ] {
            driver.set(offset, value);
        }
        driver
    }

    fn set(&mut self, offset: u32, value: u32) {
        self.nic.write(0, offset, value, &self.memory);
    }

    fn get(&mut self, offset: u32) -> u32 {
        self.nic.read(0, offset)
    }

    fn arrive(&mut self, frame: &[u8]) {
        self.nic.receive(0, frame, &self.memory);
    }

    fn bytes(&self, at: u32, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read(at.into(), &mut bytes).unwrap();
        bytes
    }

    /// Status and size of a receive descriptor.
    fn received(&self, index: u32) -> (u32, usize) {
        let bytes = self.bytes(RX_RING + 32 * index, 8);
        let status = u32::from_le_bytes(bytes[..4].try_into().unwrap());
        (status, u16::from_le_bytes(bytes[6..].try_into().unwrap()).into())
    }

    /// Queues one descriptor.
    fn queue(&mut self, index: u32, command: u32, part: &[u8]) {
        let buffer = BUFFERS + BUFFER * index;
        self.memory.write(buffer.into(), part).unwrap();
        let mut descriptor = [0; 12];
        descriptor[..4].copy_from_slice(&command.to_le_bytes());
        descriptor[6..8].copy_from_slice(&(part.len() as u16).to_le_bytes());
        descriptor[8..].copy_from_slice(&buffer.to_le_bytes());
        self.memory.write(u64::from(TX_RING + 32 * index), &descriptor).unwrap();
        self.set(TXQ_UPDATE, 1);
    }
}

fn frame(len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|at| at as u8).collect();
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    frame
}

#[test]
fn a_frame_is_stored_announced_and_processed() {
    let mut driver = Driver::new();
    driver.set(RXQ_UPDATE, 4 << 16);
    assert_eq!((driver.get(RXQ_STATUS), driver.nic.interrupts()), (4 << 16, 0));

    driver.arrive(&frame(100));

    assert_eq!(driver.get(RXQ_STATUS), 3 << 16 | 1);
    assert_eq!(driver.get(CAUSE), 1 << 8);
    assert_eq!(driver.nic.interrupts(), 1);
    assert_eq!(driver.received(0), (LAST_FIRST, 2 + 100 + 4));
    assert_eq!(driver.bytes(BUFFERS + 2, 100), frame(100));

    driver.set(MASK, 0);
    assert_eq!(driver.nic.interrupts(), 0, "masked");
    driver.set(RXQ_UPDATE, 1 | 1 << 16);
    driver.set(MASK, 0xffff);
    assert_eq!((driver.get(RXQ_STATUS), driver.nic.interrupts()), (4 << 16, 0));
}

#[test]
fn a_frame_without_a_descriptor_is_discarded_and_counted_once() {
    let mut driver = Driver::new();
    driver.set(RXQ_UPDATE, 2 << 16);
    for _ in 0..5 {
        driver.arrive(&frame(60));
    }
    assert_eq!(driver.get(RXQ_STATUS), 2);
    assert_eq!((driver.get(RX_DISCARD), driver.get(RX_DISCARD)), (3, 0), "cleared by reading");
    assert_eq!(driver.get(0x3010), 5, "the MAC received all of them");
}

#[test]
fn a_frame_longer_than_a_buffer_takes_several_or_none() {
    let mut driver = Driver::new();
    driver.set(RXQ_UPDATE, 3 << 16);
    let long = frame(4000);
    driver.arrive(&long);
    assert_eq!(driver.received(0), (1 << 27, 4006));
    assert_eq!(driver.received(1), (0, 1536));
    assert_eq!(driver.received(2), (1 << 26, 4006 - 2 * 1536));
    let stored = [1536, 1536, 934]
        .iter()
        .zip(0..)
        .flat_map(|(len, index)| driver.bytes(BUFFERS + BUFFER * index, *len));
    assert_eq!(stored.collect::<Vec<_>>()[2..4002], long);

    driver.set(RXQ_UPDATE, 3 | 2 << 16);
    driver.arrive(&long);
    assert_eq!((driver.get(RXQ_STATUS), driver.get(RX_DISCARD)), (2 << 16, 1));
}

#[test]
fn the_ring_wraps() {
    let mut driver = Driver::new();
    for number in 0..3 * RING {
        driver.set(RXQ_UPDATE, 1 << 16);
        driver.arrive(&frame(60 + number as usize));
        assert_eq!(driver.received(number % RING).1, 66 + number as usize);
        driver.set(RXQ_UPDATE, 1);
    }
}

#[test]
fn nothing_comes_in_while_the_port_or_the_queue_is_off_or_the_frame_too_long() {
    let mut driver = Driver::new();
    driver.set(RXQ_UPDATE, 8 << 16);
    driver.set(RXQ_COMMAND, 1 << 8);
    assert_eq!(driver.get(RXQ_COMMAND), 0, "ifdown polls for this");
    driver.arrive(&frame(60));
    assert_eq!(driver.get(RX_DISCARD), 1);
    driver.set(RXQ_COMMAND, 1);
    driver.set(GMAC_CONTROL_0, (1518 / 2) << 2 | 1);
    driver.arrive(&frame(1515));
    assert_eq!(driver.get(mib::OVERSIZE), 1);
    driver.set(GMAC_CONTROL_0, 0);
    driver.arrive(&frame(60));
    assert_eq!(driver.get(RXQ_STATUS), 8 << 16);
}

#[test]
fn a_short_frame_is_padded_and_sent() {
    let mut driver = Driver::new();
    driver.queue(0, FIRST_LAST_TX, &frame(42));
    let (port, sent) = driver.nic.take_sent().unwrap();
    assert_eq!((port, sent.len()), (0, 60));
    assert_eq!(sent[..42], frame(42));
    assert_eq!(driver.get(TXQ_STATUS), 1 << 16);
    assert_eq!((driver.get(CAUSE), driver.nic.interrupts()), (1, 1));
    driver.set(TXQ_UPDATE, 1 << 16);
    assert_eq!((driver.get(TXQ_STATUS), driver.nic.interrupts()), (0, 0));
    assert_eq!((driver.get(0x3040), driver.get(0x3038)), (1, 64));
}

const FIRST_LAST_TX: u32 = 1 << 21 | 1 << 20;

#[test]
fn a_frame_in_parts_is_sent_with_its_last() {
    let mut driver = Driver::new();
    let whole = frame(3000);
    driver.queue(0, 1 << 21, &whole[..1000]);
    driver.queue(1, 0, &whole[1000..2500]);
    assert_eq!(driver.nic.take_sent(), None);
    driver.queue(2, 1 << 20, &whole[2500..]);
    assert_eq!(driver.nic.take_sent(), Some((0, whole)));
}

#[test]
fn a_queue_that_is_off_sends_once_it_is_on() {
    let mut driver = Driver::new();
    driver.set(TXQ_COMMAND, 1 << 8);
    driver.queue(0, FIRST_LAST_TX, &frame(60));
    assert_eq!((driver.nic.take_sent(), driver.get(TXQ_STATUS)), (None, 1));
    driver.set(TXQ_COMMAND, 1);
    assert!(driver.nic.take_sent().is_some());
}

#[test]
fn checksums_are_made_and_checked_as_the_descriptors_say() {
    let mut driver = Driver::new();
    driver.set(RXQ_UPDATE, 4 << 16);
    let mut query = frame(60);
    query[12..14].copy_from_slice(&[8, 0]);
    query[14..34].copy_from_slice(&[0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    query[34..42].copy_from_slice(&[0, 7, 0, 7, 0, 26, 0, 0]);
    let command = FIRST_LAST_TX | 14 | 5 << 8 | 1 << 18 | 1 << 16 | 1 << 30;

    driver.queue(0, command, &query);
    let (_, sent) = driver.nic.take_sent().unwrap();
    let check = checksum::check(&sent);
    assert!(check.ipv4 && !check.bad_header && check.l4_ok, "{check:?}");
    driver.arrive(&sent);
    assert_eq!(driver.received(0).0, LAST_FIRST | 1 << 25 | 1 << 30);

    // The driver gives checksums of its own, which are wrong here: they leave as they are, and are found out.
    query[40] = 0xaa;
    driver.queue(1, FIRST_LAST_TX | 1 << 31, &query);
    let (_, sent) = driver.nic.take_sent().unwrap();
    assert_eq!(sent, query);
    driver.arrive(&sent);
    assert_eq!(driver.received(1).0, LAST_FIRST, "neither header nor payload");
}

#[test]
fn descriptors_that_lead_nowhere_lose_a_frame_and_nothing_else() {
    let mut driver = Driver::new();
    driver.set(RXQ_UPDATE, 4 << 16);
    driver.memory.write(u64::from(RX_RING) + 8, &[0; 4]).unwrap();
    driver.arrive(&frame(60));
    assert_eq!((driver.get(RX_DISCARD), driver.get(RXQ_STATUS)), (1, 4 << 16));

    driver.memory.write(u64::from(TX_RING), &FIRST_LAST_TX.to_le_bytes()).unwrap();
    driver.memory.write(u64::from(TX_RING) + 4, &[0, 0, 60, 0, 0, 0, 0, 0]).unwrap();
    driver.set(TXQ_UPDATE, 1);
    assert_eq!((driver.nic.take_sent(), driver.get(TXQ_STATUS)), (None, 1 << 16));
    driver.queue(1, FIRST_LAST_TX, &frame(60));
    assert!(driver.nic.take_sent().is_some());

    driver.set(RXQ_BASE, 0xffff_fff0);
    driver.set(RXQ_UPDATE, 1 << 16);
    driver.arrive(&frame(60));
    assert_eq!(driver.get(RX_DISCARD), 1);
}

#[test]
fn a_new_base_is_a_new_ring() {
    let mut driver = Driver::new();
    driver.set(RXQ_UPDATE, 4 << 16);
    driver.arrive(&frame(60));
    driver.set(RXQ_BASE, RX_RING);
    assert_eq!((driver.get(RXQ_STATUS), driver.nic.interrupts()), (0, 0));
    driver.set(RXQ_UPDATE, 1 << 16);
    driver.arrive(&frame(99));
    assert_eq!(driver.received(0).1, 105, "from the start");
}

#[test]
fn what_is_not_modelled_reads_back() {
    let mut driver = Driver::new();
    driver.set(0x2400, 0x1234_5678);
    assert_eq!(driver.get(0x2400), 0x1234_5678);
    driver.nic.reset();
    assert_eq!(driver.get(0x2400), 0);
}
