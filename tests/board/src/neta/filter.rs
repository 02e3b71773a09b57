//! Which frames are for us, and for which queue: the tables of destination addresses.

use crate::registers::Registers;

/// Bit 0: take every unicast. Bits 3:1: the queue of what no table names.
const PORT_CONFIG: u32 = 0x2400;
const ADDRESS_LOW: u32 = 0x2414;
const ADDRESS_HIGH: u32 = 0x2418;
/// Multicast 01:00:5e:00:00:xx by its last byte, other multicast by a CRC, unicast by its last four bits. An entry
/// is a byte: bit 0 says take it, bits 3:1 by which queue.
const SPECIAL_MULTICAST: u32 = 0x3400;
const OTHER_MULTICAST: u32 = 0x3500;
const UNICAST: u32 = 0x3600;

/// The queue that takes this frame, if one does.
pub(super) fn queue(registers: &Registers, frame: &[u8]) -> Option<usize> {
    let destination: [u8; 6] = *frame.first_chunk()?;
    let config = registers.get(PORT_CONFIG);
    let default = (config >> 1 & 7) as usize;
    let entry = |table: u32, index: u8| {
        let entry = registers.byte(table, index.into());
        (entry & 1 != 0).then_some(usize::from(entry >> 1 & 7))
    };
    match destination {
        [0xff, 0xff, 0xff, 0xff, 0xff, 0xff] => Some(default),
        [1, 0, 0x5e, 0, 0, last] => entry(SPECIAL_MULTICAST, last),
        _ if destination[0] & 1 != 0 => entry(OTHER_MULTICAST, crc8(&destination)),
        _ if config & 1 != 0 => Some(default),
        _ => {
            let [.., low_1, low_0] = registers.get(ADDRESS_LOW).to_be_bytes();
            let [a, b, c, d] = registers.get(ADDRESS_HIGH).to_be_bytes();
            let own = [a, b, c, d, low_1, low_0 & 0xf0];
            let [head @ .., last] = destination;
            let ours = head == own[..5] && last & 0xf0 == own[5];
            if ours { entry(UNICAST, last & 0xf) } else { None }
        }
    }
}

/// CRC-8 with the polynomial x^8 + x^2 + x + 1.
fn crc8(address: &[u8]) -> u8 {
    address.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ byte, |crc: u8, _| crc << 1 ^ if crc & 0x80 != 0 { 0x07 } else { 0 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(destination: [u8; 6]) -> Vec<u8> {
        [&destination[..], &[0; 54]].concat()
    }

    #[test]
    fn the_crc_is_the_one_of_everyone() {
        // The check value of CRC-8/SMBUS.
        assert_eq!(crc8(b"123456789"), 0xf4);
    }

    #[test]
    fn a_unicast_is_taken_if_the_table_has_its_last_digit() {
        let mut registers = Registers::new(super::super::SIZE);
        registers.set(ADDRESS_HIGH, 0x0200_0000);
        registers.set(ADDRESS_LOW, 0x0021);
        assert_eq!(queue(&registers, &frame([2, 0, 0, 0, 0, 0x21])), None);
        registers.set(UNICAST, 0x0000_0700);
        assert_eq!(queue(&registers, &frame([2, 0, 0, 0, 0, 0x21])), Some(3));
        for other in [[2, 0, 0, 0, 0, 0x22], [2, 0, 0, 0, 0, 0x31], [2, 0, 0, 1, 0, 0x21]] {
            assert_eq!(queue(&registers, &frame(other)), None, "{other:?}");
        }
        registers.set(PORT_CONFIG, 1 | 5 << 1);
        assert_eq!(queue(&registers, &frame([2, 0, 0, 1, 0, 0x21])), Some(5), "promiscuous");
    }

    #[test]
    fn multicast_has_two_tables_and_broadcast_none() {
        let mut registers = Registers::new(super::super::SIZE);
        assert_eq!(queue(&registers, &frame([0xff; 6])), Some(0));
        assert_eq!(queue(&registers, &frame([1, 0, 0x5e, 0, 0, 6])), None);
        registers.set(SPECIAL_MULTICAST + 4, 0x0003_0000);
        assert_eq!(queue(&registers, &frame([1, 0, 0x5e, 0, 0, 6])), Some(1));
        let other = [0x33, 0x33, 0, 0, 0, 1];
        assert_eq!(queue(&registers, &frame(other)), None);
        registers.set(OTHER_MULTICAST + u32::from(crc8(&other)) / 4 * 4, 0x0101_0101);
        assert_eq!(queue(&registers, &frame(other)), Some(0));
    }
}
