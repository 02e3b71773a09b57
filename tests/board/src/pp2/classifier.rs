//! Parser, classifier and RSS: tables that are written through an index register, and the queue of a frame.

use std::collections::BTreeMap;

/// An index register, and the registers behind it, first and last.
const INDEXED: [(u32, u32, u32); 6] = [
    // Parser: TCAM and SRAM.
    (0x1100, 0x1104, 0x1118),
    (0x1200, 0x1204, 0x1210),
    // Classifier: lookup table, flow table, C2 engine.
    (0x1814, 0x1818, 0x1818),
    (0x1820, 0x1824, 0x182c),
    (C2, 0x1b10, 0x1b70),
    (RSS, 0x1504, 0x150c),
];

/// The C2 engine's index, and of an entry: the fields that must match, whether it is invalid, what it does.
const C2: u32 = 0x1b00;
const C2_ENTRIES: u32 = 256;
const C2_FIELDS: [u32; 4] = [0x1b10, 0x1b14, 0x1b18, 0x1b1c];
/// Bits 15:8: the ports.
const C2_PORTS: u32 = 0x1b20;
/// Bit 31.
const C2_INVALID: u32 = 0x1b24;
/// Bits 28:21: the queue, or with RSS whose table.
const C2_QUEUE: u32 = 0x1b64;
/// Bit 30: by RSS.
const C2_RSS: u32 = 0x1b6c;

/// RSS' index: an entry in bits 7:0 of a table in bits 15:8; or a queue in bits 23:16, and the table that is its.
const RSS: u32 = 0x1500;
const RSS_TABLE_OF_QUEUE: u32 = 0x1504;
const RSS_ENTRY: u32 = 0x1508;
/// Entries of a table.
const RSS_ENTRIES: u32 = 32;

/// What was written, by index register, index and register.
#[derive(Debug, Default)]
pub(super) struct Tables {
    indices: BTreeMap<u32, u32>,
    values: BTreeMap<(u32, u32, u32), u32>,
}

impl Tables {
    /// If it is a register of ours: what it says.
    pub(super) fn read(&self, offset: u32) -> Option<u32> {
        let (index, first, _) = find(offset)?;
        let at = self.indices.get(&index).copied().unwrap_or(0);
        Some(if offset < first { at } else { self.get(index, at, offset) })
    }

    /// Whether it is a register of ours.
    pub(super) fn write(&mut self, offset: u32, value: u32) -> bool {
        let Some((index, first, _)) = find(offset) else { return false };
        if offset < first {
            self.indices.insert(index, value);
        } else {
            let at = self.indices.get(&index).copied().unwrap_or(0);
            self.values.insert((index, at, offset), value);
        }
        true
    }

    /// The receive queue of a frame: that of the C2 entry which matches all frames of the port.
    pub(super) fn queue(&self, port: usize, frame: &[u8]) -> Option<usize> {
        let matches = |entry: &u32| {
            let field = |offset| self.get(C2, *entry, offset);
            self.values.contains_key(&(C2, *entry, C2_PORTS))
                && field(C2_INVALID) >> 31 == 0
                && field(C2_PORTS) >> 8 & 1 << port != 0
                && C2_FIELDS.iter().all(|offset| field(*offset) == 0)
        };
        let entry = (0..C2_ENTRIES).find(matches)?;
        let queue = self.get(C2, entry, C2_QUEUE) >> 21 & 0xff;
        if self.get(C2, entry, C2_RSS) & 1 << 30 == 0 {
            return Some(queue as usize);
        }
        let table = self.get(RSS, queue << 16, RSS_TABLE_OF_QUEUE);
        Some(self.get(RSS, (table << 8) | (hash(frame) % RSS_ENTRIES), RSS_ENTRY) as usize)
    }

    fn get(&self, index: u32, at: u32, offset: u32) -> u32 {
        self.values.get(&(index, at, offset)).copied().unwrap_or(0)
    }
}

fn find(offset: u32) -> Option<(u32, u32, u32)> {
    INDEXED.into_iter().find(|(index, first, last)| offset == *index || (*first..=*last).contains(&offset))
}

/// Of addresses and ports: not the hardware's, which no driver knows either, but one that tells flows apart.
fn hash(frame: &[u8]) -> u32 {
    let flow = frame.get(26..38).unwrap_or_default();
    flow.iter().fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)) >> 7
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(tables: &mut Tables, index: u32, registers: &[(u32, u32)]) {
        tables.write(C2, index);
        for (offset, value) in registers {
            assert!(tables.write(*offset, *value));
        }
    }

    #[test]
    fn a_register_behind_an_index_is_many() {
        let mut tables = Tables::default();
        for index in 0..3 {
            tables.write(0x1100, index);
            tables.write(0x1104, 0x100 + index);
        }
        tables.write(0x1100, 1);
        assert_eq!(
            (tables.read(0x1100), tables.read(0x1104), tables.read(0x1108)),
            (Some(1), Some(0x101), Some(0))
        );
        assert_eq!(tables.read(0x5000), None);
        assert!(!tables.write(0x5000, 1));
    }

    #[test]
    fn a_port_has_its_queue_or_its_table() {
        let mut tables = Tables::default();
        assert_eq!(tables.queue(1, &[0; 60]), None);
        entry(&mut tables, 9, &[(C2_PORTS, 2 << 8), (C2_INVALID, 0), (C2_QUEUE, 33 << 21)]);
        assert_eq!(tables.queue(1, &[0; 60]), Some(33));
        assert_eq!(tables.queue(0, &[0; 60]), None);
        entry(&mut tables, 3, &[(C2_PORTS, 2 << 8), (C2_INVALID, 1 << 31), (C2_QUEUE, 7 << 21)]);
        assert_eq!(tables.queue(1, &[0; 60]), Some(33), "invalid entries do not match");

        entry(&mut tables, 9, &[(C2_QUEUE, 5 << 21), (C2_RSS, 1 << 30)]);
        tables.write(RSS, 5 << 16);
        tables.write(RSS_TABLE_OF_QUEUE, 2);
        for at in 0..RSS_ENTRIES {
            tables.write(RSS, 2 << 8 | at);
            tables.write(RSS_ENTRY, 32 + at % 4);
        }
        let queues: std::collections::BTreeSet<_> = (0..64_u8)
            .map(|flow| {
                let mut frame = [0; 60];
                frame[35] = flow;
                tables.queue(1, &frame).unwrap()
            })
            .collect();
        assert_eq!(queues.into_iter().collect::<Vec<_>>(), [32, 33, 34, 35]);
    }
}
