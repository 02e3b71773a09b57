//! How an XDP program is attached: a `bpf_link`, which goes with its last descriptor (Linux 5.9, `net/core/dev.c:
//! bpf_xdp_link_attach`).
//!
//! aya attaches too, but it closes the link where a driver refuses the program that is to take another's place, and so
//! detaches the other; and where a driver refuses the link it tries netlink, whose attachment outlives this process.

#![expect(unsafe_code, reason = "bpf(2) takes a pointer to a union")]

use std::io;

use rustix::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use super::bpf::{bpf, new_fd};

const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_XDP: u32 = 37;

/// Generic XDP: in the stack (`linux/if_link.h`).
pub const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
/// Native XDP: in the driver.
pub const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// The beginning of `union bpf_attr` for `BPF_LINK_CREATE`; the rest is zero if it is not given.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Create {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// The same for `BPF_LINK_UPDATE`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Update {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// An XDP program's attachment to an interface; dropped, the program is detached.
#[derive(Debug)]
pub struct XdpLink(OwnedFd);

impl XdpLink {
    /// Attaches to the interface of this index in this thread's network namespace; `flags` is one
    /// of `XDP_FLAGS_*`.
    ///
    /// # Errors
    ///
    /// What the kernel or the driver refuses: `EBUSY` and `EEXIST` where there is a program already, `EOPNOTSUPP` where
    /// the driver has no XDP.
    pub fn attach(program: BorrowedFd<'_>, interface: u32, flags: u32) -> io::Result<Self> {
        let prog_fd = program.as_raw_fd() as u32;
        let mut attr = Create { prog_fd, target_ifindex: interface, attach_type: BPF_XDP, flags };
        // SAFETY: `Create` is what the kernel reads for this command, without pointers; it answers by a new descriptor.
        unsafe { new_fd(BPF_LINK_CREATE, &mut attr) }.map(Self)
    }

    /// Runs `program` from here on, without a moment between.
    ///
    /// # Errors
    ///
    /// What the driver refuses, of a program that the MTU is too long for; `ENOLINK` if the interface is gone. The
    /// program before runs on then.
    pub fn update(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        let (link_fd, new_prog_fd) = (self.0.as_raw_fd() as u32, program.as_raw_fd() as u32);
        let mut attr = Update { link_fd, new_prog_fd, flags: 0, old_prog_fd: 0 };
        // SAFETY: `Update` is what the kernel reads for this command, without pointers.
        unsafe { bpf(BPF_LINK_UPDATE, &mut attr) }.map(drop)
    }
}
