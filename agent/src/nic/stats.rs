//! What an interface counts itself: the kernel's own statistics of it, and the driver's (`ethtool -S`).

use std::{collections::BTreeMap, io};

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::Stats64,
    stats::{StatsAttribute, StatsFilterMask, StatsMessage},
};

use super::netlink::dump;
use crate::sys::ethtool::Statistics;

/// Counters of one interface, each by its name. All of them count since the driver was loaded, or since it
/// thought fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NicStats {
    /// Those of `struct rtnl_link_stats64` that count packets which got lost.
    pub link: Vec<(&'static str, u64)>,
    /// The driver's own, as `ethtool -S` shows them.
    pub driver: Statistics,
}

/// `struct rtnl_link_stats64` of every interface, by index (`RTM_GETSTATS`, which tells nothing else of them).
///
/// # Errors
///
/// Those of the kernel.
pub fn link_stats() -> io::Result<BTreeMap<u32, Vec<(&'static str, u64)>>> {
    let mut request = StatsMessage::default();
    request.header.filter_mask = StatsFilterMask::Link64;
    let mut all = BTreeMap::new();
    dump(RouteNetlinkMessage::GetStats(request), |message| {
        if let RouteNetlinkMessage::NewStats(message) = message
            && let Some(stats) = message.attributes.iter().find_map(|attribute| match attribute {
                StatsAttribute::Link64(stats) => Some(losses(stats)),
                _ => None,
            })
        {
            all.insert(message.header.ifindex, stats);
        }
    })?;
    Ok(all)
}

/// The sums are there beside their parts: mvneta and mvpp2 count frames that they received and dropped in `rx_errors`
/// alone.
fn losses(stats: &Stats64) -> Vec<(&'static str, u64)> {
    vec![
        ("rx_dropped", stats.rx_dropped),
        ("rx_errors", stats.rx_errors),
        ("rx_missed_errors", stats.rx_missed_errors),
        ("rx_over_errors", stats.rx_over_errors),
        ("rx_fifo_errors", stats.rx_fifo_errors),
        ("rx_length_errors", stats.rx_length_errors),
        ("rx_crc_errors", stats.rx_crc_errors),
        ("rx_frame_errors", stats.rx_frame_errors),
        ("rx_nohandler", stats.rx_nohandler),
        ("tx_dropped", stats.tx_dropped),
        ("tx_errors", stats.tx_errors),
        ("tx_carrier_errors", stats.tx_carrier_errors),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_interface_has_statistics() {
        let all = link_stats().unwrap();
        let lo = crate::nic::links().unwrap().into_iter().find(|link| link.name == "lo").unwrap();
        let names: Vec<_> = all[&lo.index].iter().map(|(name, _)| *name).collect();
        for name in ["rx_dropped", "rx_errors", "tx_errors"] {
            assert!(names.contains(&name), "{names:?}");
        }
    }
}
