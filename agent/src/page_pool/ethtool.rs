//! `ethtool -S`: drivers that do not tie their pools to an interface sum them up under names of their own making,
//! all of them from `page_pool_ethtool_stats_get_strings()` (net/core/page_pool.c): mvneta, veth, mlx5, mt76, fec.

use super::Counters;

/// The kernel's counters, if `statistics` has them; the sum over all pools of the interface.
pub(super) fn counters(statistics: &[(String, u64)]) -> Option<Counters> {
    let mut counters = Counters::default();
    for (name, value) in statistics {
        let Some(name) = name.strip_prefix("rx_pp_") else { continue };
        if let Some(counter) = counters.get_mut(unabbreviated(name)) {
            *counter = Some(*value);
        }
    }
    (counters != Counters::default()).then_some(counters)
}

/// Two of the eleven are abbreviated.
fn unabbreviated(name: &str) -> &str {
    match name {
        "alloc_slow_ho" => "alloc_slow_high_order",
        "recycle_released_ref" => "recycle_released_refcnt",
        name => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tail of mvneta's `ethtool -S`, with the strings of net/core/page_pool.c.
    const NAMES: [&str; 14] = [
        "rx_xdp_redirect",
        "tx_xdp_xmit",
        "rx_pp_alloc_fast",
        "rx_pp_alloc_slow",
        "rx_pp_alloc_slow_ho",
        "rx_pp_alloc_empty",
        "rx_pp_alloc_refill",
        "rx_pp_alloc_waive",
        "rx_pp_recycle_cached",
        "rx_pp_recycle_cache_full",
        "rx_pp_recycle_ring",
        "rx_pp_recycle_ring_full",
        "rx_pp_recycle_released_ref",
        "rx_pp_of_a_later_kernel",
    ];

    #[test]
    fn all_eleven_are_found_by_name() {
        let statistics: Vec<_> = NAMES.iter().zip(0..).map(|(name, n)| ((*name).to_owned(), n)).collect();
        let values: Vec<u64> = counters(&statistics).unwrap().told().map(|(_, value)| value).collect();
        assert_eq!(values, (2..=12).collect::<Vec<u64>>());
    }

    #[test]
    fn what_a_driver_leaves_out_is_no_zero() {
        let statistics = [("rx_pp_alloc_fast".to_owned(), 0), ("rx_pp_recycle_released_ref".to_owned(), 7)];
        let told = Counters { alloc_fast: Some(0), recycle_released_refcnt: Some(7), ..Counters::default() };
        assert_eq!(counters(&statistics), Some(told));
    }

    #[test]
    fn a_driver_without_them_has_no_counters() {
        assert_eq!(counters(&[("rx_packets".to_owned(), 7)]), None);
        assert_eq!(counters(&[]), None);
    }
}
