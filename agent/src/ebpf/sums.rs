//! Counters of the program, summed over CPUs: many of them at one call where the kernel can do that.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use aya::{
    Pod,
    maps::{MapData, MapError, PerCpuArray},
};

use crate::sys::batch;

/// What is counted in words of 64 bits, `N` of them.
pub(super) trait Words<const N: usize>: Pod {
    fn words(self) -> [u64; N];
}

impl Words<1> for u64 {
    fn words(self) -> [u64; 1] {
        [self]
    }
}

impl Words<2> for umemd_common::maps::Count {
    fn words(self) -> [u64; 2] {
        [self.packets, self.bytes]
    }
}

/// Whether the kernel said that it cannot read many entries of such arrays at once (before Linux 5.13). Asked once: it
/// does not learn it while anybody runs on it.
static ONE_BY_ONE: AtomicBool = AtomicBool::new(false);

/// The kernel's own number for a command that a kind of map does not have (include/linux/errno.h).
const ENOTSUPP: i32 = 524;

/// Entries `first` up to `first + count`.
pub(super) fn read<const N: usize, V: Words<N>>(
    array: &PerCpuArray<MapData, V>,
    first: u32,
    count: u32,
) -> Result<Vec<[u64; N]>, MapError> {
    if count > 1 && !ONE_BY_ONE.load(Relaxed) {
        match batch::read(array, first, count) {
            Ok(words) => return Ok(summed(&words, count as usize)),
            Err(error) if matches!(error.raw_os_error(), Some(ENOTSUPP | libc::EINVAL)) => {
                log::debug!("this kernel reads counters one by one: {error}");
                ONE_BY_ONE.store(true, Relaxed);
            }
            Err(error) => log::debug!("counters are read one by one this time: {error}"),
        }
    }
    one_by_one(array, first, count)
}

fn one_by_one<const N: usize, V: Words<N>>(
    array: &PerCpuArray<MapData, V>,
    first: u32,
    count: u32,
) -> Result<Vec<[u64; N]>, MapError> {
    let sum = |index| Ok(array.get(&index, 0)?.iter().fold([0; N], |sum, value| add(sum, value.words())));
    (first..first + count).map(sum).collect()
}

/// The sums of `count` values of several CPUs, which lie one after the other.
fn summed<const N: usize>(words: &[u64], count: usize) -> Vec<[u64; N]> {
    let of_one = words.len() / count.max(1);
    let sum = |entry: &[u64]| entry.as_chunks().0.iter().fold([0; N], |sum, value| add(sum, *value));
    words.chunks(of_one.max(1)).map(sum).collect()
}

fn add<const N: usize>(mut sum: [u64; N], value: [u64; N]) -> [u64; N] {
    sum.iter_mut().zip(value).for_each(|(sum, value)| *sum = sum.wrapping_add(value));
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_entry_is_summed_over_cpus() {
        assert_eq!(summed(&[1, 10, 2, 20, 3, 30, 4, u64::MAX], 2), [[3, 30], [7, 29]]);
        assert_eq!(summed(&[1, 2, 3, 4], 2), [[3], [7]]);
        assert_eq!(summed::<1>(&[], 0), [[0; 1]; 0]);
    }

    #[test]
    #[ignore = "requires root: makes a map in the kernel"]
    fn many_at_once_are_the_same_as_one_by_one() {
        use aya::{maps::PerCpuValues, util::nr_cpus};

        let mut program = crate::ebpf::Program::load(crate::ebpf::LoadOptions::default()).unwrap();
        let array = &mut program.decisions;
        let cpus = nr_cpus().unwrap() as u64;
        for index in 0..array.len() {
            let values = (0..cpus).map(|cpu| u64::from(index) * 100 + cpu).collect::<Vec<_>>();
            array.set(index, PerCpuValues::try_from(values).unwrap(), 0).unwrap();
        }
        for (first, count) in [(0, array.len()), (0, 2), (3, 4), (array.len() - 2, 2)] {
            let words = batch::read(array, first, count).unwrap();
            assert_eq!(
                summed::<1>(&words, count as usize),
                one_by_one(array, first, count).unwrap(),
                "{first} {count}"
            );
        }
    }
}
