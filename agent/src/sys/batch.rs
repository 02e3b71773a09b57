//! Many entries of a per-CPU array at one call (`BPF_MAP_LOOKUP_BATCH`): since Linux 5.6, for such arrays since 5.13.

#![expect(unsafe_code, reason = "bpf(2) takes a pointer to a union, and pointers to the entries inside it")]

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
    ptr,
    sync::OnceLock,
};

use aya::{
    Pod,
    maps::{IterableMap as _, MapData, PerCpuArray},
    util::nr_cpus,
};

use super::bpf::bpf;

const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;

/// `union bpf_attr` for `BPF_MAP_*_BATCH`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// How many values an entry has, which is told by a file and stays as it is.
fn possible_cpus() -> io::Result<usize> {
    static CPUS: OnceLock<usize> = OnceLock::new();
    match CPUS.get() {
        Some(cpus) => Ok(*cpus),
        None => nr_cpus().map(|cpus| *CPUS.get_or_init(|| cpus)).map_err(|(_, error)| error),
    }
}

/// Entries `first` up to `first + count` of an array: of each one the value of each CPU, as words of 64 bits, one after
/// the other.
///
/// # Errors
///
/// `ENOTSUPP` (524) or `EINVAL` where the kernel cannot do it for such a map.
///
/// # Panics
///
/// If there are not so many entries, or a value is not a number of words.
pub fn read<V: Pod>(array: &PerCpuArray<MapData, V>, first: u32, count: u32) -> io::Result<Vec<u64>> {
    const { assert!(size_of::<V>().is_multiple_of(size_of::<u64>()), "the kernel rounds up to words") };
    assert!(first + count <= array.len(), "{first} and {count} more of {}", array.len());
    let cpus = possible_cpus()?;
    let mut values = vec![0_u64; count as usize * cpus * (size_of::<V>() / size_of::<u64>())];
    let mut keys = vec![0_u32; count as usize];
    // Where the one before ended; none before the first.
    let before = first.wrapping_sub(1);
    let mut end = 0_u32;
    let mut attr = Batch {
        in_batch: if first == 0 { 0 } else { ptr::from_ref(&before).expose_provenance() as u64 },
        out_batch: ptr::from_mut(&mut end).expose_provenance() as u64,
        keys: keys.as_mut_ptr().expose_provenance() as u64,
        values: values.as_mut_ptr().expose_provenance() as u64,
        count,
        map_fd: array.map().fd().as_fd().as_raw_fd() as u32,
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY:
    // - `Batch` is what the kernel reads for this command, and as long.
    // - It writes at most `count` keys of four bytes, which `keys` has room for, and as many values: each of the size of
    //   `V`, which aya has compared with the map's, once for each possible CPU, which `values` has room for.
    // - `before` and `end` are a key each. All of them live until it returns.
    unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) }?;
    // An array has all of its entries.
    if attr.count == count { Ok(values) } else { Err(io::Error::from_raw_os_error(libc::EAGAIN)) }
}
