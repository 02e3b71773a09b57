//! [`Registers`]: 32-bit words that read back what was written. Most of a NIC's registers are no more than that
//! to its driver; the models intercept the others.

/// A block of registers, addressed in bytes from its start.
#[derive(Debug)]
pub struct Registers {
    words: Vec<u32>,
}

impl Registers {
    /// All zero.
    pub fn new(bytes: u32) -> Self {
        Self { words: vec![0; bytes as usize / 4] }
    }

    /// The register at `offset`; 0 beyond the block, where a bus answers with nothing.
    pub fn get(&self, offset: u32) -> u32 {
        self.words.get(offset as usize / 4).copied().unwrap_or(0)
    }

    /// Sets the register at `offset`, if there is one.
    pub fn set(&mut self, offset: u32, value: u32) {
        if let Some(word) = self.words.get_mut(offset as usize / 4) {
            *word = value;
        }
    }

    /// Reads and clears.
    pub fn take(&mut self, offset: u32) -> u32 {
        self.words.get_mut(offset as usize / 4).map(std::mem::take).unwrap_or(0)
    }

    /// Adds to a counter, which wraps as the hardware's does.
    pub fn add(&mut self, offset: u32, more: u32) {
        self.set(offset, self.get(offset).wrapping_add(more));
    }

    /// Byte `index` of a table of bytes at `table`, four to a register, the lowest first.
    pub fn byte(&self, table: u32, index: u32) -> u8 {
        self.get(table + index / 4 * 4).to_le_bytes()[index as usize % 4]
    }
}

/// If `offset` is in an array of `count` registers at `first`: which one.
pub fn index(offset: u32, first: u32, count: u32) -> Option<usize> {
    let distance = offset.checked_sub(first)? / 4;
    (distance < count).then_some(distance as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_keep_what_was_written_and_have_an_end() {
        let mut registers = Registers::new(8);
        registers.set(4, 0x0403_0201);
        registers.set(8, 1);
        assert_eq!((registers.get(4), registers.get(8), registers.get(u32::MAX)), (0x0403_0201, 0, 0));
        assert_eq!((registers.byte(4, 0), registers.byte(4, 3)), (1, 4));
        assert_eq!((registers.take(4), registers.take(4)), (0x0403_0201, 0));
    }

    #[test]
    fn an_array_has_two_ends() {
        assert_eq!(index(0x1484, 0x1480, 8), Some(1));
        assert_eq!(index(0x149c, 0x1480, 8), Some(7));
        assert_eq!(index(0x14a0, 0x1480, 8), None);
        assert_eq!(index(0x147c, 0x1480, 8), None);
    }
}
