//! The MAC's counters, each cleared by reading it.

use super::FCS;
use crate::registers::Registers;

const GOOD_BYTES_RECEIVED: u32 = 0x3000;
const GOOD_FRAMES_RECEIVED: u32 = 0x3010;
const BROADCAST_RECEIVED: u32 = 0x3018;
const MULTICAST_RECEIVED: u32 = 0x301c;
/// Frames of 64 bytes, and of up to 127, 255, 511, 1023 and more; both ways.
const SIZES: u32 = 0x3020;
const GOOD_BYTES_SENT: u32 = 0x3038;
const GOOD_FRAMES_SENT: u32 = 0x3040;
const MULTICAST_SENT: u32 = 0x3048;
const BROADCAST_SENT: u32 = 0x304c;
/// Frames longer than the port takes.
pub(super) const OVERSIZE: u32 = 0x3068;

pub(super) fn is_counter(offset: u32) -> bool {
    (0x3000..0x3080).contains(&offset)
}

pub(super) fn count_received(registers: &mut Registers, frame: &[u8]) {
    count(
        registers,
        frame,
        GOOD_FRAMES_RECEIVED,
        GOOD_BYTES_RECEIVED,
        [MULTICAST_RECEIVED, BROADCAST_RECEIVED],
    );
}

pub(super) fn count_sent(registers: &mut Registers, frame: &[u8]) {
    count(registers, frame, GOOD_FRAMES_SENT, GOOD_BYTES_SENT, [MULTICAST_SENT, BROADCAST_SENT]);
}

fn count(registers: &mut Registers, frame: &[u8], frames: u32, bytes: u32, [multicast, broadcast]: [u32; 2]) {
    let len = (frame.len() + FCS) as u32;
    registers.add(frames, 1);
    // Of 64 bits: low word first.
    let (low, carry) = registers.get(bytes).overflowing_add(len);
    registers.set(bytes, low);
    registers.add(bytes + 4, carry.into());
    match frame {
        [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, ..] => registers.add(broadcast, 1),
        [first, ..] if first & 1 != 0 => registers.add(multicast, 1),
        _ => {}
    }
    let class = [64, 127, 255, 511, 1023].iter().take_while(|limit| len > **limit).count();
    registers.add(SIZES + 4 * class as u32, 1);
}
