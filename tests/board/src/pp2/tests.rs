//! The model against as much of a driver as it takes to set up a port.

use super::*;
use crate::checksum;

const RAM: u64 = 0x1_4000_0000;
const RX_RING: u64 = RAM;
const TX_RING: u64 = RAM + 0x1000;
const BUFFERS: u64 = RAM + 0x1_0000;
/// The distance of two buffers.
const BUFFER: u64 = 0x1000;
const RING: u32 = 16;
/// The thread that does it all, and the port.
const THREAD: usize = 1;
const PORT: usize = 1;
const RXQ: u32 = (PORT * RXQS_PER_PORT) as u32;
const TXQ: u8 = (FIRST_TXQ + PORT * TXQS_PER_PORT) as u8;
const LINE: u64 = 1 << (PORT * interrupts::LINES_PER_PORT + THREAD);
const OFFSET: u64 = 224;

struct Driver {
    nic: Pp2,
    memory: GuestMemory,
}

impl Driver {
    /// A port with one receive queue, pool 0 for short frames and pool 1 for long ones.
    fn new() -> Self {
        let mut driver = Self { nic: Pp2::new(), memory: GuestMemory::of_our_own(RAM, 0x10_0000) };
        for (offset, value) in [
            (0x180, 224 + 200),
            (0x184, 224 + 1600),
            (RXQ_CONFIG + 4 * RXQ, 7 << 28 | 1 << 24),
            (RXQ_NUMBER, RXQ),
            (RXQ_ADDRESS, (RX_RING >> 8) as u32),
            (RXQ_SIZE, RING),
            (RXQ_INDEX, 0),
            (AGGREGATED_ADDRESS + 4 * THREAD as u32, (TX_RING >> 8) as u32),
            (AGGREGATED_SIZE + 4 * THREAD as u32, RING),
            (SCHEDULER_PORT, 16 + PORT as u32),
            (SCHEDULER_COMMAND, 0xff),
            (0x5400, (PORT as u32) << 7 | THREAD as u32),
            (0x5404, 1 << 8),
            (0x5420 + 4 * PORT as u32, 1 << THREAD),
            (0x54a0 + 4 * PORT as u32, 0x00ff_00ff),
        ] {
            driver.set(offset, value);
        }
        driver
    }

    fn set(&mut self, offset: u32, value: u32) {
        self.nic.write(0, THREAD as u32 * WINDOW + offset, value, &self.memory);
    }

    fn get(&mut self, offset: u32) -> u32 {
        self.nic.read(0, THREAD as u32 * WINDOW + offset)
    }

    /// Gives buffer `number` to a pool, with a cookie that tells it.
    fn give(&mut self, pool: u32, number: u64) {
        let address = BUFFERS + BUFFER * number;
        self.set(0x64c4, (address >> 32) as u32);
        self.set(0x64c0, 0xc000 + number as u32);
        self.set(0x6480 + 4 * pool, address as u32);
    }

    fn arrive(&mut self, frame: &[u8]) {
        self.nic.receive(PORT, frame, &self.memory);
    }

    fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read(at, &mut bytes).unwrap();
        bytes
    }

    /// Queues one descriptor for the port's first transmit queue; its part begins `skip` bytes into the buffer.
    fn queue(&mut self, index: u64, command: u32, part: &[u8], skip: u8) {
        let buffer = BUFFERS + BUFFER * index;
        self.memory.write(buffer + u64::from(skip), part).unwrap();
        let mut descriptor = [0; 32];
        descriptor[..4].copy_from_slice(&command.to_le_bytes());
        descriptor[4..6].copy_from_slice(&[skip, TXQ]);
        descriptor[6..8].copy_from_slice(&(part.len() as u16).to_le_bytes());
        descriptor[16..24].copy_from_slice(&(buffer | 0x7f << 41).to_le_bytes());
        self.memory.write(TX_RING + 32 * index, &descriptor).unwrap();
        self.set(AGGREGATED_UPDATE, 1);
    }
}

fn frame(len: usize) -> Vec<u8> {
    (0..len).map(|at| at as u8).collect()
}

/// First and last; no checksums.
const WHOLE: u32 = 1 << 29 | 1 << 28 | 1 << 15 | 1 << 14;

#[test]
fn the_driver_recognises_the_version() {
    assert_eq!(Driver::new().get(VERSION), 0x10);
}

#[test]
fn a_frame_takes_a_buffer_of_the_pool_for_its_length() {
    let mut driver = Driver::new();
    driver.give(0, 3);
    driver.give(1, 5);
    driver.set(RXQ_UPDATE + 4 * RXQ, 8 << 16);
    assert_eq!(driver.nic.interrupts(), 0);

    for (index, (len, pool, buffer)) in [(100, 0, 3), (1500, 1, 5)].into_iter().enumerate() {
        driver.arrive(&frame(len));
        let descriptor = driver.bytes(RX_RING + 32 * index as u64, 32);
        let status = u32::from_le_bytes(descriptor[..4].try_into().unwrap());
        assert_eq!(status >> 16 & 7, pool);
        assert_eq!(descriptor[6..8], (len as u16 + 2).to_le_bytes(), "without FCS");
        let address = BUFFERS + BUFFER * buffer;
        assert_eq!(descriptor[16..24], address.to_le_bytes());
        assert_eq!(descriptor[24..], (0xc000 + buffer).to_le_bytes(), "the cookie");
        assert_eq!(driver.bytes(address + OFFSET + 2, len), frame(len));
    }
    assert_eq!(driver.get(RXQ_STATUS + 4 * RXQ), 6 << 16 | 2);
    assert_eq!(driver.get(0x5480 + 4 * PORT as u32), 1);
    assert_eq!(driver.nic.interrupts(), LINE);

    driver.set(0x5420 + 4 * PORT as u32, 1 << THREAD << 16);
    assert_eq!(driver.nic.interrupts(), 0, "the handler switches itself off");
    driver.set(RXQ_UPDATE + 4 * RXQ, 2 | 2 << 16);
    driver.set(0x5420 + 4 * PORT as u32, 1 << THREAD);
    assert_eq!((driver.nic.interrupts(), driver.get(RXQ_STATUS + 4 * RXQ)), (0, 8 << 16));
}

#[test]
fn frames_without_descriptor_buffer_or_queue_are_lost_and_counted() {
    let mut driver = Driver::new();
    driver.arrive(&frame(60));
    driver.set(RXQ_UPDATE + 4 * RXQ, 2 << 16);
    driver.arrive(&frame(60));
    driver.give(1, 0);
    driver.arrive(&frame(1600));
    driver.set(COUNTER_INDEX, RXQ);
    let counters = [RX_FULL_QUEUE_DROP, RX_NO_BUFFER_DROP, RX_ENQUEUED];
    assert_eq!(counters.map(|counter| driver.get(counter)), [1, 2, 0]);
    assert_eq!(counters.map(|counter| driver.get(counter)), [0; 3], "cleared by reading");

    driver.set(RXQ_CONFIG + 4 * RXQ, 1 << 31);
    driver.arrive(&frame(60));
    assert_eq!(driver.get(OVERRUN_DROP + 4 * PORT as u32), 1);
    assert_eq!(driver.get(RXQ_STATUS + 4 * RXQ), 2 << 16);
}

#[test]
fn frames_are_sent_and_each_thread_is_told_of_its_own() {
    let mut driver = Driver::new();
    driver.set(RESERVE_REQUEST, u32::from(TXQ) << 16 | 64);
    assert_eq!(driver.get(RESERVE_RESULT), 64);
    driver.queue(0, WHOLE, &frame(42), 7);
    let (port, sent) = driver.nic.take_sent().unwrap();
    assert_eq!((port, sent.len(), &sent[..42]), (PORT, 60, &frame(42)[..]), "padded");
    driver.queue(1, WHOLE & !(1 << 28), &frame(100), 0);
    assert_eq!(driver.nic.take_sent(), None);
    driver.queue(2, WHOLE & !(1 << 29), &frame(20), 0);
    assert_eq!(driver.nic.take_sent(), Some((PORT, [frame(100), frame(20)].concat())));

    assert_eq!(driver.get(0x5480 + 4 * PORT as u32), 1 << 16);
    assert_eq!(driver.nic.interrupts(), LINE);
    let sent = TXQ_SENT + 4 * u32::from(TXQ);
    assert_eq!(driver.nic.read(0, sent), 0, "another thread's");
    assert_eq!((driver.get(sent), driver.get(sent)), (3 << 16, 0), "cleared by reading");
    assert_eq!(driver.nic.interrupts(), 0);
}

#[test]
fn checksums_are_made_unless_the_descriptor_says_no() {
    let mut driver = Driver::new();
    driver.give(0, 9);
    driver.set(RXQ_UPDATE + 4 * RXQ, 8 << 16);
    let mut query = frame(60);
    query[12..14].copy_from_slice(&[8, 0]);
    query[14..34].copy_from_slice(&[0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    query[34..42].copy_from_slice(&[0, 7, 0, 7, 0, 26, 0, 0]);
    driver.queue(0, 1 << 29 | 1 << 28 | 1 << 24 | 5 << 8 | 14, &query, 0);
    let (_, sent) = driver.nic.take_sent().unwrap();
    assert!(checksum::check(&sent).l4_ok && !checksum::check(&sent).bad_header);
    driver.arrive(&sent);
    let status = u32::from_le_bytes(driver.bytes(RX_RING, 4).try_into().unwrap());
    assert_eq!(status, 1 << 28 | 1 << 26 | 1 << 22, "IPv4, UDP, checksum right");

    driver.queue(1, WHOLE, &query, 0);
    assert_eq!(driver.nic.take_sent(), Some((PORT, query)));
}

#[test]
fn a_queue_that_is_off_is_flushed() {
    let mut driver = Driver::new();
    driver.set(SCHEDULER_COMMAND, 0xff00);
    assert_eq!(driver.get(SCHEDULER_COMMAND), 0, "ifdown polls for this");
    driver.queue(0, WHOLE, &frame(60), 0);
    assert_eq!(driver.nic.take_sent(), None);
    assert_eq!(driver.get(TXQ_SENT + 4 * u32::from(TXQ)), 1 << 16);
}

#[test]
fn descriptors_that_lead_nowhere_lose_a_frame_and_nothing_else() {
    let mut driver = Driver::new();
    driver.set(RXQ_UPDATE + 4 * RXQ, 2 << 16);
    driver.set(0x64c4, 0);
    driver.set(0x6480, 0x1000);
    driver.arrive(&frame(60));
    assert_eq!(driver.get(RXQ_STATUS + 4 * RXQ), 2 << 16);
    assert_eq!(driver.get(0x6400), 0x1000, "the buffer is back");

    driver.set(AGGREGATED_ADDRESS + 4 * THREAD as u32, u32::MAX);
    driver.set(AGGREGATED_UPDATE, 3);
    driver.set(AGGREGATED_SIZE + 4 * THREAD as u32, 0);
    driver.set(AGGREGATED_UPDATE, 0xffff);
    assert_eq!(driver.nic.take_sent(), None);
}

#[test]
fn windows_and_ports_that_nobody_uses_are_quiet() {
    let mut driver = Driver::new();
    driver.nic.write(0, 15 * WINDOW + AGGREGATED_UPDATE, 1, &driver.memory);
    assert_eq!(driver.nic.read(0, 15 * WINDOW + VERSION), 0);
    driver.nic.write(1, 0x7e00, 5, &driver.memory);
    assert_eq!(driver.nic.read(1, 0x7e00), 5);
    driver.nic.receive(7, &frame(60), &driver.memory);
}
