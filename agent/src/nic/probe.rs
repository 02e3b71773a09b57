//! [`Facts`]: what is known of an interface and its machine, as far as a driver's quirks depend on it.

use std::{fs, io, path::Path};

use super::{Link, drivers, netdev, sysfs};
use crate::sys::ethtool;

/// What is known of one interface.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Its driver.
    pub driver: String,
    /// The version of Linux.
    pub linux: (u32, u32),
    /// Its node in the device tree; `None` where that cannot be seen.
    pub node: Option<Node>,
    /// Its MTU.
    pub mtu: u32,
    /// Whether its driver says that it runs XDP programs at the moment; `None` if unknown.
    pub runs_programs: Option<bool>,
    /// Whether its driver says that it has zero-copy; `None` if unknown.
    pub zero_copy: Option<bool>,
    /// Frames that its packets may take without a copy; `None` if unknown.
    pub zero_copy_segments: Option<u64>,
    /// Receive descriptors of a queue of its; `None` if unknown.
    pub ring: Option<u32>,
    /// Whether it has channels that only receive; `None` if unknown.
    pub separate_channels: Option<bool>,
    /// Channels that do both, as many as there are and may be; `None` if unknown.
    pub channels: Option<(u32, u32)>,
    /// Whether the NIC hashes flows; `None` if unknown.
    pub hashes: Option<bool>,
    /// CPUs that there may ever be; `None` if unknown.
    pub possible_cpus: Option<u32>,
    /// Receive queues that it has, active or not.
    pub rx_queues: u32,
}

/// What the device tree says of an interface: nothing of one that is not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its `compatible`.
    pub compatible: Vec<String>,
    /// Whether it names a hardware buffer manager.
    pub buffer_manager: bool,
}

impl Facts {
    /// Asks ethtool and, where it shows this very interface, sysfs: the device tree is nowhere else.
    pub fn of(link: &Link) -> Self {
        let driver = ethtool::driver(&link.name).unwrap_or_default();
        let features = netdev::features(link.index).ok().flatten();
        let channels = ethtool::channels(&link.name).ok();
        let most = ethtool::most_channels(&link.name).ok();
        Self {
            driver,
            linux: drivers::linux_version(),
            node: sysfs::folder(link).and_then(|folder| Node::read(&folder.join("device/of_node")).ok()),
            mtu: link.mtu,
            runs_programs: features.map(|features| features.native),
            zero_copy: features.map(|features| features.zero_copy),
            zero_copy_segments: features.and_then(|features| features.zero_copy_segments),
            ring: ethtool::rings(&link.name).ok().map(|rings| rings.rx.now),
            separate_channels: channels.map(|channels| channels.rx > 0),
            channels: channels.zip(most).map(|(now, most)| (now.combined, most.combined)),
            hashes: ethtool::offloads(&link.name).ok().map(|offloads| offloads.hash),
            possible_cpus: fs::read_to_string("/sys/devices/system/cpu/possible")
                .ok()
                .and_then(|list| count_cpus(list.trim())),
            rx_queues: link.rx_queues,
        }
    }
}

impl Node {
    /// As the kernel shows it in sysfs; empty if there is none.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    fn read(node: &Path) -> io::Result<Self> {
        let compatible = match fs::read_to_string(node.join("compatible")) {
            Ok(list) => list.split_terminator('\0').map(str::to_owned).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { compatible, buffer_manager: node.join("buffer-manager").try_exists()? })
    }
}

/// How many CPUs a list such as `0-3,8` names.
fn count_cpus(list: &str) -> Option<u32> {
    list.split(',').try_fold(0, |sum, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        Some(sum + last.checked_sub(first)? + 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_read_as_sysfs_shows_them() {
        let folder = std::env::temp_dir().join(format!("umemd-node-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        assert_eq!(Node::read(&folder).unwrap(), Node::default(), "no device tree");
        fs::write(folder.join("compatible"), "marvell,armada-3700-neta\0other\0").unwrap();
        fs::write(folder.join("buffer-manager"), [0; 4]).unwrap();
        let node = Node::read(&folder);
        fs::remove_dir_all(&folder).unwrap();
        let compatible = ["marvell,armada-3700-neta", "other"].map(String::from).into();
        assert_eq!(node.unwrap(), Node { compatible, buffer_manager: true });
    }

    #[test]
    fn lists_of_cpus_are_counted() {
        assert_eq!(count_cpus("0"), Some(1));
        assert_eq!(count_cpus("0-3"), Some(4));
        assert_eq!(count_cpus("0-1,4,6-7"), Some(5));
        assert_eq!(count_cpus("3-0"), None);
        assert_eq!(count_cpus(""), None);
    }
}
