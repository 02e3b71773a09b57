//! Waiting until no XDP program uses any more what the agent has replaced (an RCU grace period).
//!
//! `MEMBARRIER_CMD_GLOBAL` would do it too, but a kernel with `nohz_full` CPUs refuses that (`EINVAL`). Every kernel
//! that has XDP links waits where an inner map is replaced: "map update operations on map-in-map map types always wait
//! for all references to the old map to drop before returning to userspace" (Linux 4.20, `kernel/bpf/syscall.c:
//! maybe_wait_bpf_programs`). So an outer map of one is kept for that alone.

#![expect(unsafe_code, reason = "bpf(2) takes a pointer to a union, and the maps' pointers inside it")]

use std::{io, ptr};

use rustix::fd::{AsRawFd as _, OwnedFd};

use super::bpf::{bpf, new_fd};

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;

/// The beginning of `union bpf_attr` for `BPF_MAP_CREATE`; the rest is zero if it is not given.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Create {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
}

/// The same for `BPF_MAP_UPDATE_ELEM`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Update {
    map_fd: u32,
    unused: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// What waits for programs: an array of one map, and that map.
#[derive(Debug)]
pub struct GracePeriod {
    outer: OwnedFd,
    inner: OwnedFd,
}

impl GracePeriod {
    /// Makes the two maps; takes what loading a program takes.
    ///
    /// # Errors
    ///
    /// What the kernel refuses: `EPERM` without `CAP_BPF`.
    pub fn new() -> io::Result<Self> {
        let inner = create(BPF_MAP_TYPE_ARRAY, 0)?;
        let outer = create(BPF_MAP_TYPE_ARRAY_OF_MAPS, inner.as_raw_fd() as u32)?;
        Ok(Self { outer, inner })
    }

    /// Returns when every program that ran when it was called has ended that run, on whichever CPU.
    ///
    /// # Errors
    ///
    /// What the kernel refuses; nothing is known that would.
    pub fn wait(&self) -> io::Result<()> {
        update(&self.outer, &self.inner.as_raw_fd())
    }
}

/// An array of one value of four bytes: a number, or a map.
fn create(map_type: u32, inner_map_fd: u32) -> io::Result<OwnedFd> {
    let mut attr =
        Create { map_type, key_size: 4, value_size: 4, max_entries: 1, map_flags: 0, inner_map_fd };
    // SAFETY: `Create` is what the kernel reads for this command, without pointers; it answers by a new descriptor.
    unsafe { new_fd(BPF_MAP_CREATE, &mut attr) }
}

/// Puts `value` into the first place of an array.
fn update(map: &OwnedFd, value: &i32) -> io::Result<()> {
    let key = 0_u32;
    let mut attr = Update {
        map_fd: map.as_raw_fd() as u32,
        unused: 0,
        key: ptr::from_ref(&key).expose_provenance() as u64,
        value: ptr::from_ref(value).expose_provenance() as u64,
        flags: 0,
    };
    // SAFETY: `Update` is what the kernel reads for this command; key and value live until it returns, and are of the
    // four bytes each that the map was made with.
    unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut attr) }.map(drop)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// The median of some runs.
    fn time(mut f: impl FnMut()) -> Duration {
        let mut times = [(); 9].map(|()| {
            let start = Instant::now();
            f();
            start.elapsed()
        });
        times.sort();
        times[4]
    }

    #[test]
    #[ignore = "requires root: makes maps in the kernel"]
    fn it_waits_where_a_plain_write_does_not() {
        let grace = GracePeriod::new().unwrap();
        let waiting = time(|| grace.wait().unwrap());
        let writing = time(|| update(&grace.inner, &7).unwrap());
        eprintln!("a grace period: {waiting:?}, a write: {writing:?}");
        assert!(waiting > 20 * writing, "{waiting:?} is no grace period beside {writing:?}");
    }
}
