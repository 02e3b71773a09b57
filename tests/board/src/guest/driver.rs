//! What a driver says of itself: by ethtool and sysfs.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use e2e::command;

/// The name of the driver of an interface.
pub(super) fn name(dev: &str) -> String {
    let link = fs::read_link(Path::new("/sys/class/net").join(dev).join("device/driver"));
    let link = link.unwrap_or_else(|error| panic!("{dev} has no driver: {error}"));
    link.file_name().expect("drivers have names").to_string_lossy().into_owned()
}

/// `ethtool -S`: the driver's counters.
pub(super) fn statistics(dev: &str) -> BTreeMap<String, u64> {
    let text =
        command::run(Command::new("ethtool").args(["-S", dev]), "").unwrap_or_else(|error| panic!("{error}"));
    let pair = |line: &str| {
        let (name, value) = line.trim().rsplit_once(": ")?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}
