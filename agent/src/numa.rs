//! [`Nodes`]: the NUMA nodes that memory lies on (numa_maps(5)).

use std::{fmt, fs};

/// NUMA nodes; of more than 64 the first ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nodes(u64);

impl Nodes {
    /// Those that have pages of the mapping at `address` of this process; none if the kernel does not tell: without
    /// `CONFIG_NUMA`.
    pub fn of(address: usize) -> Self {
        fs::read_to_string("/proc/self/numa_maps").map_or(Self(0), |maps| Self::in_maps(&maps, address))
    }

    /// Each line of `maps` begins with the address of a mapping, in their order, and says how many of its pages are on
    /// which node: `N0=4096`.
    fn in_maps(maps: &str, address: usize) -> Self {
        let begins = |line: &&str| {
            let start = line.split(' ').next().and_then(|start| usize::from_str_radix(start, 16).ok());
            start.is_some_and(|start| start <= address)
        };
        let words = maps.lines().take_while(begins).last().unwrap_or_default().split(' ');
        let nodes = words.filter_map(|word| word.strip_prefix('N')?.split_once('=')?.0.parse().ok());
        Self(nodes.filter_map(|node: u32| 1_u64.checked_shl(node)).fold(0, |all, node| all | node))
    }
}

/// Their numbers with commas between them, or `unknown`.
impl fmt::Display for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("unknown");
        }
        let nodes = (0..u64::BITS).filter(|node| self.0 & 1 << node != 0);
        f.write_str(&nodes.map(|node| node.to_string()).collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shortened; the second mapping is of huge pages, the third has none yet.
    const MAPS: &str = "\
55f0a0000000 default file=/usr/bin/umemd mapped=2 N0=2 kernelpagesize_kB=4
7f0000000000 default file=/anon_hugepage\\040(deleted) huge anon=4 dirty=4 N1=3 N10=1 kernelpagesize_kB=2048
7f1000000000 default anon=0
";

    #[test]
    fn memory_lies_where_its_mapping_has_pages() {
        let of = |address| Nodes::in_maps(MAPS, address).to_string();
        assert_eq!(of(0x55f0_a000_1000), "0");
        assert_eq!(of(0x7f00_0000_0000), "1,10");
        assert_eq!(of(0x7f00_0020_0000), "1,10");
        assert_eq!(of(0x7f10_0000_0000), "unknown");
        assert_eq!(of(0x1000), "unknown", "before the first one");
        assert_eq!(Nodes::in_maps("no such words\n", 7).to_string(), "unknown");
    }

    #[test]
    fn our_own_memory_lies_somewhere_if_the_kernel_tells() {
        let memory = vec![1_u8; 1 << 20];
        let told = fs::exists("/proc/self/numa_maps").unwrap();
        assert_eq!(Nodes::of(memory.as_ptr().addr()) != Nodes::default(), told);
    }
}
