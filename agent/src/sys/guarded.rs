//! Memory that ends where nothing is mapped: the kernel cannot write past its end, it fails with `EFAULT`.

#![expect(unsafe_code, reason = "maps and unmaps memory, and lends it as a slice")]

use std::{cell::Cell, ffi::c_void, io, ptr::NonNull, slice};

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

/// Zeroed bytes with an inaccessible page after the last one.
///
/// Some ioctls of ethtool write as many values as the driver has at that moment, whatever room the caller
/// said there is. That number may have grown since it was asked for.
///
/// # Invariants
///
/// `base` is a private mapping of `mapped` bytes, all but its last page readable and writable; `start` lies
/// `length` bytes before that page and is a multiple of 8 away from it.
#[derive(Debug)]
pub(super) struct Guarded {
    base: NonNull<c_void>,
    mapped: usize,
    start: NonNull<u8>,
    length: usize,
}

thread_local! {
    /// What was used last. To take a mapping away interrupts every CPU that a thread of this process runs on, workers
    /// among them.
    static SPARE: Cell<Option<Guarded>> = const { Cell::new(None) };
}

impl Guarded {
    /// Lends `use_it` at least `length` bytes; rounded up to a multiple of 8, so that the start is aligned for a `u64`.
    pub(super) fn with<T>(length: usize, use_it: impl FnOnce(&mut Self) -> T) -> io::Result<T> {
        let length = length.next_multiple_of(8);
        let mut memory = match SPARE.take().and_then(|spare| spare.again(length)) {
            Some(memory) => memory,
            None => Self::new(length)?,
        };
        let result = use_it(&mut memory);
        SPARE.set(Some(memory));
        Ok(result)
    }

    /// The same mapping for so many bytes, zeroed, if it has room for them.
    fn again(self, length: usize) -> Option<Self> {
        let (base, mapped) = (self.base, self.mapped);
        let usable = mapped - rustix::param::page_size();
        if length > usable {
            return None;
        }
        std::mem::forget(self);
        // SAFETY: both lie in the mapping, by the invariants and what was just compared.
        let start = unsafe { base.cast::<u8>().add(usable - length) };
        // INVARIANT: the mapping is that of the one forgotten, and `length` a multiple of 8.
        let mut memory = Self { base, mapped, start, length };
        memory.bytes_mut().fill(0);
        Some(memory)
    }

    fn new(length: usize) -> io::Result<Self> {
        let page = rustix::param::page_size();
        let usable = length.next_multiple_of(page);
        let mapped = usable + page;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new private mapping at an address of the kernel's choice takes nothing from anybody.
        let base = unsafe { mmap_anonymous(std::ptr::null_mut(), mapped, protection, MapFlags::PRIVATE) }?;
        // SAFETY: `usable` is less than `mapped`, so the last page lies in the mapping made above.
        let guard = unsafe { base.byte_add(usable) };
        // SAFETY: that page is ours alone, and nothing refers to it.
        unsafe { mprotect(guard, page, MprotectFlags::empty()) }?;
        // SAFETY: `length` is at most `usable`.
        let start = unsafe { guard.byte_sub(length) };
        let null = || io::Error::from(io::ErrorKind::OutOfMemory);
        // INVARIANT: the guard page is page-aligned, and `length` a multiple of 8.
        Ok(Self {
            base: NonNull::new(base).ok_or_else(null)?,
            mapped,
            start: NonNull::new(start.cast()).ok_or_else(null)?,
            length,
        })
    }

    /// Where the bytes begin.
    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// The bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY:
        // - By the invariants, `length` bytes from `start` are mapped and readable, and mmap zeroed them.
        // - They are changed through `&mut self` only.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }

    /// The bytes, to be written.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `&mut self` makes this the only slice.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the whole mapping is ours, and no slice of it outlives us. It fails only if it were not mapped.
        let _ = unsafe { munmap(self.base.as_ptr(), self.mapped) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_cannot_write_past_the_end() {
        let mut pipe = std::io::pipe().unwrap();
        std::io::Write::write_all(&mut pipe.1, &[7; 64]).unwrap();
        let mut memory = Guarded::new(16).unwrap();
        assert_eq!((memory.bytes().len(), memory.bytes()), (16, &[0; 16][..]));
        // SAFETY: the buffer is 16 bytes long and the length says 32, which is what is tested: what follows is
        // not accessible to anybody, so the kernel stops there.
        let read =
            unsafe { libc::read(std::os::fd::AsRawFd::as_raw_fd(&pipe.0), memory.as_mut_ptr().cast(), 32) };
        // A pipe gives what it could copy, or nothing at all; never more than there is room for.
        assert!(read == -1 || read == 16, "{read}");
        memory.bytes_mut()[15] = 1;
        assert_eq!(memory.bytes()[15], 1);
    }

    #[test]
    fn what_was_used_before_is_zeroed_and_ends_at_the_same_place() {
        let page = rustix::param::page_size();
        let end = |memory: &mut Guarded| memory.bytes().as_ptr_range().end as usize;
        let first = Guarded::with(100, |memory| {
            memory.bytes_mut().fill(7);
            (memory.bytes().len(), end(memory))
        })
        .unwrap();
        assert_eq!(first.0, 104);
        for length in [8, page - 8, page] {
            let again = Guarded::with(length, |memory| (memory.bytes() == vec![0; length], end(memory)));
            assert_eq!(again.unwrap(), (true, first.1), "{length}");
        }
        let more = Guarded::with(page + 1, |memory| memory.bytes() == vec![0; page + 8]);
        assert!(more.unwrap());
    }
}
