//! bpf(2), for the commands that aya does not offer as they are needed here.

#![expect(unsafe_code, reason = "bpf(2) takes a pointer to a union, which may have pointers inside")]

use std::{io, mem, ptr};

use rustix::fd::{FromRawFd as _, OwnedFd};

/// # Safety
///
/// `attr` begins as the kernel's for `command`, and what it points to lives and is as long as the kernel takes it for.
pub(super) unsafe fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the caller's promise; the size is that of `attr`.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_mut(attr), mem::size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The same for a command that opens something.
///
/// # Safety
///
/// As [`bpf`]; and the kernel answers `command` by a new descriptor.
pub(super) unsafe fn new_fd<T>(command: libc::c_long, attr: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let fd = unsafe { bpf(command, attr) }?;
    // SAFETY: the kernel has just opened it, with O_CLOEXEC, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
