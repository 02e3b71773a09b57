//! Which CPUs an interface interrupts: the ones on which the kernel receives, so better not ours.

use std::fs;

use super::netdev;

/// The CPUs that serve the interrupts of `interface`: those that the kernel knows of its NAPI instances, and those whose
/// name in `/proc/interrupts` has that of the interface. Many drivers have it there (`eth0`, `eth0-rx-3`,
/// `ice-eth0-TxRx-0`), which older kernels know no more of; a veth has no interrupts, and is received for wherever
/// somebody sends.
pub fn cpus(interface: &str, ifindex: u32) -> Vec<usize> {
    let text = fs::read_to_string("/proc/interrupts").unwrap_or_default();
    let mut irqs = irqs(&text, interface);
    irqs.extend(netdev::interrupts(ifindex).unwrap_or_default());
    let mut cpus: Vec<usize> = irqs.into_iter().flat_map(affinity).collect();
    cpus.sort_unstable();
    cpus.dedup();
    cpus
}

/// The numbers of the lines with `interface` as a word of the name.
fn irqs(text: &str, interface: &str) -> Vec<u32> {
    let is_ours = |line: &&str| {
        line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.'))
            .any(|word| word == interface)
    };
    text.lines().filter(is_ours).filter_map(|line| line.split(':').next()?.trim().parse().ok()).collect()
}

/// Where an interrupt goes; nowhere if the kernel does not tell.
fn affinity(irq: u32) -> Vec<usize> {
    let list = fs::read_to_string(format!("/proc/irq/{irq}/effective_affinity_list"));
    cpu_list(list.unwrap_or_default().trim())
}

/// `0-2,5` as numbers.
fn cpu_list(text: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<usize>().ok()?..=last.parse().ok()?)
    };
    text.split(',').filter_map(range).flatten().collect()
}

/// `cpus` in the order in which workers should get them: first those that the fewest other workers have been given, of
/// these the ones that are not interrupted.
pub fn spread(cpus: &[usize], interrupted: &[usize], taken: &[usize]) -> Vec<usize> {
    let workers = |cpu: &usize| taken.iter().filter(|taken| *taken == cpu).count();
    let mut spread = cpus.to_vec();
    spread.sort_by_key(|cpu| (workers(cpu), interrupted.contains(cpu)));
    spread
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
           CPU0       CPU1
  9:          0          0  GICv2  30 Level     arch_timer
 42:      52124          0  GICv2  74 Level     eth0
 43:          1          2  PCI-MSIX-0000:01:00.0   1-edge      ice-eth0-TxRx-0
 44:          1          2  PCI-MSIX-0000:01:00.1   1-edge      ice-eth01-TxRx-0
ERR:          0
";

    #[test]
    fn an_interface_is_a_whole_word_of_the_name() {
        assert_eq!(irqs(TEXT, "eth0"), [42, 43]);
        assert_eq!(irqs(TEXT, "eth01"), [44]);
        assert!(irqs(TEXT, "veth").is_empty());
        assert!(irqs(TEXT, "edge0").is_empty());
    }

    #[test]
    fn lists_of_cpus_have_ranges() {
        assert_eq!(cpu_list("0-2,5"), [0, 1, 2, 5]);
        assert_eq!(cpu_list("7"), [7]);
        assert!(cpu_list("").is_empty());
    }

    #[test]
    fn who_is_interrupted_comes_last() {
        assert_eq!(spread(&[3, 2, 1, 0], &[3, 1], &[]), [2, 0, 3, 1]);
        assert_eq!(spread(&[1, 0], &[], &[]), [1, 0]);
        assert_eq!(spread(&[1, 0], &[1, 0], &[]), [1, 0]);
        assert!(spread(&[], &[1], &[1]).is_empty());
    }

    /// Also if other CPUs are interrupted by the second interface.
    #[test]
    fn no_two_workers_share_a_cpu_while_another_one_has_none() {
        assert_eq!(spread(&[3, 2, 1, 0], &[1], &[2]), [3, 0, 1, 2]);
        assert_eq!(spread(&[1, 0], &[0], &[1]), [0, 1]);
        assert_eq!(spread(&[1, 0], &[0], &[1, 0]), [1, 0]);
        assert_eq!(spread(&[1, 0], &[0], &[1, 0, 1]), [0, 1]);
    }
}
