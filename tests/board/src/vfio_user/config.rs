//! [`ConfigSpace`]: the PCI side of a device that is no PCI device on its board.

/// Bytes of it.
pub(super) const SIZE: usize = 256;

/// Marvell's, and a device that it never made: no driver for PCI takes it.
const VENDOR: u16 = 0x11ab;
const DEVICE: u16 = 0xfee1;

/// "Unassigned": the kernel leaves it alone, and `init` only has it decode its memory.
const CLASS: u8 = 0xff;

/// Where the base addresses are.
const BAR0: usize = 0x10;

/// PCI configuration space: no capability, no interrupt pin, memory BARs of 32 bits.
///
/// QEMU keeps its own copy of what it emulates (base addresses among them) and forwards every access.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: [u8; SIZE],
    bars: &'static [u32],
}

impl ConfigSpace {
    /// With BARs of these sizes.
    pub fn new(bars: &'static [u32]) -> Self {
        let mut bytes = [0; SIZE];
        bytes[..2].copy_from_slice(&VENDOR.to_le_bytes());
        bytes[2..4].copy_from_slice(&DEVICE.to_le_bytes());
        bytes[11] = CLASS;
        Self { bytes, bars }
    }

    pub(super) fn read(&self, offset: usize, len: usize) -> Option<&[u8]> {
        self.bytes.get(offset..offset.checked_add(len)?)
    }

    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) -> bool {
        let Some(end) = offset.checked_add(bytes.len()).filter(|end| *end <= SIZE) else { return false };
        for (at, byte) in (offset..end).zip(bytes) {
            // Command, latency timer and base addresses can be written; the identity cannot.
            let bar = at.checked_sub(BAR0).map(|distance| distance / 4);
            match bar.and_then(|bar| self.bars.get(bar)) {
                Some(size) => {
                    let mask = (!(size - 1)).to_le_bytes()[at % 4];
                    self.bytes[at] = byte & mask;
                }
                None if matches!(at, 4 | 5 | 12 | 13 | 0x3c) => self.bytes[at] = *byte,
                None => {}
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_tell_their_size_and_the_identity_stays() {
        let mut config = ConfigSpace::new(&[0x4000]);
        assert!(config.write(0, &[0xff; 0x18]));
        assert_eq!(config.read(0, 4), Some(&[0xab, 0x11, 0xe1, 0xfe][..]));
        assert_eq!(config.read(BAR0, 8), Some(&[0, 0xc0, 0xff, 0xff, 0, 0, 0, 0][..]));
    }

    #[test]
    fn accesses_beyond_the_end_are_refused() {
        let mut config = ConfigSpace::new(&[0x4000]);
        assert_eq!(config.read(SIZE - 2, 4), None);
        assert_eq!(config.read(usize::MAX, 4), None);
        assert!(!config.write(SIZE - 1, &[0; 2]));
    }
}
