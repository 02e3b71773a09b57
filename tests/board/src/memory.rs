//! [`GuestMemory`]: the guest's RAM, for devices to read and write.
//!
//! QEMU hands over the memfd that backs it. It is reached by pread(2) and pwrite(2) rather than mapped: a
//! microsecond each, which the emulated CPU is slower than, and no unsafe code and no data race with the guest.

use std::{fmt, fs::File, os::unix::fs::FileExt as _};

/// An access to memory that the guest did not give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where, in the guest's physical addresses.
    pub address: u64,
    /// How many bytes.
    pub len: usize,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DMA of {} bytes at {:#x}: the guest has no memory there", self.len, self.address)
    }
}

impl std::error::Error for Fault {}

/// One piece of contiguous memory.
#[derive(Debug)]
struct Region {
    start: u64,
    size: u64,
    file: File,
    offset: u64,
}

/// What a device can reach by DMA.
#[derive(Debug, Default)]
pub struct GuestMemory {
    regions: Vec<Region>,
}

impl GuestMemory {
    /// Adds `size` bytes at `start` that are in `file` from `offset` on; false if something is there already, or
    /// they leave the address space.
    pub fn map(&mut self, start: u64, size: u64, file: File, offset: u64) -> bool {
        let (Some(end), Some(_)) = (start.checked_add(size), offset.checked_add(size)) else { return false };
        let free = self.regions.iter().all(|have| end <= have.start || have.start + have.size <= start);
        if size == 0 || !free {
            return false;
        }
        self.regions.push(Region { start, size, file, offset });
        true
    }

    /// Takes away what was added as just this; false if nothing was.
    pub fn unmap(&mut self, start: u64, size: u64) -> bool {
        let before = self.regions.len();
        self.regions.retain(|region| (region.start, region.size) != (start, size));
        self.regions.len() < before
    }

    /// Fills `bytes` from memory at `address`.
    ///
    /// # Errors
    ///
    /// If they are not all in one region.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Fault> {
        let fault = Fault { address, len: bytes.len() };
        let (file, offset) = self.find(fault)?;
        file.read_exact_at(bytes, offset).map_err(|_| fault)
    }

    /// Writes `bytes` to memory at `address`.
    ///
    /// # Errors
    ///
    /// If they are not all in one region.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Fault> {
        let fault = Fault { address, len: bytes.len() };
        let (file, offset) = self.find(fault)?;
        file.write_all_at(bytes, offset).map_err(|_| fault)
    }

    fn find(&self, fault: Fault) -> Result<(&File, u64), Fault> {
        let inside = |region: &&Region| {
            let before = fault.address.checked_sub(region.start);
            before.is_some_and(|before| {
                before.checked_add(fault.len as u64).is_some_and(|end| end <= region.size)
            })
        };
        let region = self.regions.iter().find(inside).ok_or(fault)?;
        Ok((&region.file, region.offset + (fault.address - region.start)))
    }

    /// Memory that nobody else has, for tests.
    #[cfg(test)]
    pub(crate) fn of_our_own(start: u64, size: u64) -> Self {
        let fd = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let file = File::from(fd);
        file.set_len(size).unwrap();
        let mut memory = Self::default();
        assert!(memory.map(start, size, file, 0));
        memory
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let memory = GuestMemory::of_our_own(0x4000_0000, 0x1000);
        memory.write(0x4000_0ffc, &[1, 2, 3, 4]).unwrap();
        let mut bytes = [0; 4];
        memory.read(0x4000_0ffc, &mut bytes).unwrap();
        assert_eq!(bytes, [1, 2, 3, 4]);
    }

    #[test]
    fn accesses_that_leave_the_region_fault() {
        let memory = GuestMemory::of_our_own(0x4000_0000, 0x1000);
        for address in [0, 0x3fff_ffff, 0x4000_0ffd, 0x4000_1000, u64::MAX - 1] {
            assert_eq!(memory.write(address, &[0; 4]), Err(Fault { address, len: 4 }), "{address:#x}");
        }
    }

    #[test]
    fn a_file_that_shrank_faults() {
        let mut memory = GuestMemory::of_our_own(0, 0x1000);
        let small = File::from(rustix::fs::memfd_create("small", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        assert!(memory.map(0x1000, 0x1000, small, 0));
        assert!(memory.read(0x1000, &mut [0; 4]).is_err());
    }

    #[test]
    fn regions_do_not_overlap_and_go_as_they_came() {
        let mut memory = GuestMemory::of_our_own(0x1000, 0x1000);
        let file = || File::open("/dev/null").unwrap();
        assert!(!memory.map(0x1fff, 0x1000, file(), 0));
        assert!(!memory.map(0, 0x1001, file(), 0));
        assert!(!memory.map(u64::MAX, 2, file(), 0));
        assert!(memory.map(0x2000, 0x1000, file(), 0));
        assert!(!memory.unmap(0x2000, 0x800));
        assert!(memory.unmap(0x2000, 0x1000));
        assert!(!memory.unmap(0x2000, 0x1000));
    }
}
