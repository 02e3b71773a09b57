//! What a driver says of itself: by ethtool and sysfs.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use e2e::command;

/// The name of the driver of an interface.
pub(super) fn name(dev: &str) -> String {
    last(&follow(dev, "device/driver"))
}

/// A device without its driver: its interface is gone, as that of a card is which somebody pulls out.
#[derive(Debug)]
pub(super) struct Unbound {
    driver: PathBuf,
    device: String,
}

impl Unbound {
    /// Takes the device of an interface away from its driver.
    pub(super) fn from(dev: &str) -> Self {
        let unbound = Self { driver: follow(dev, "device/driver"), device: last(&follow(dev, "device")) };
        unbound.tell("unbind");
        unbound
    }

    /// Gives it back.
    pub(super) fn bind(self) {
        self.tell("bind");
    }

    fn tell(&self, file: &str) {
        let file = self.driver.join(file);
        fs::write(&file, &self.device).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
}

/// Where a link in an interface's folder leads to.
fn follow(dev: &str, link: &str) -> PathBuf {
    let link = Path::new("/sys/class/net").join(dev).join(link);
    fs::canonicalize(&link).unwrap_or_else(|error| panic!("{}: {error}", link.display()))
}

fn last(path: &Path) -> String {
    path.file_name().expect("drivers and devices have names").to_string_lossy().into_owned()
}

/// Packets that an interface has received.
pub(super) fn received(dev: &str) -> u64 {
    let file = format!("/sys/class/net/{dev}/statistics/rx_packets");
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
    text.trim().parse().expect("a number")
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
