//! The tag that a switch chip puts into each frame for the CPU (DSA, Documentation/networking/dsa/dsa.rst).
//!
//! Of a frame with a VLAN tag it takes that one's place, and its priority and id. As the stack does
//! (net/dsa/tag_dsa.c), the program reads a VLAN tag there: `umemd_common::packet::vlan_of`.

use std::fs;
use std::io;
use std::path::Path;

use super::{Link, sysfs};

/// What lies between the MAC addresses and the EtherType of frames from a switch chip.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SwitchTag {
    /// Nothing: no switch is behind this interface, or its tag lies elsewhere.
    #[default]
    None,
    /// Marvell's tag of 4 bytes.
    Dsa,
    /// The same behind an EtherType of its own: 8 bytes.
    Edsa,
}

impl SwitchTag {
    /// By the name that sysfs has for it; `None` of one that cannot be stripped.
    pub(crate) fn named(tagging: &str) -> Option<Self> {
        match tagging {
            "none" => Some(Self::None),
            "dsa" => Some(Self::Dsa),
            "edsa" => Some(Self::Edsa),
            _ => None,
        }
    }

    /// How long it is.
    #[must_use]
    pub const fn bytes(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Dsa => 4,
            Self::Edsa => 8,
        }
    }
}

/// The tag on the frames of this interface, as its `dsa/tagging` in sysfs says; none where sysfs does not show it.
///
/// # Errors
///
/// A tagging that cannot be stripped; what sysfs says is the error's text.
pub fn tagging(interface: &Link) -> io::Result<SwitchTag> {
    sysfs::folder(interface).map_or(Ok(SwitchTag::None), |folder| tagging_in(&folder))
}

fn tagging_in(folder: &Path) -> io::Result<SwitchTag> {
    let tagging = match fs::read_to_string(folder.join("dsa/tagging")) {
        Ok(tagging) => tagging,
        // Not the conduit of a switch.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(SwitchTag::None),
        Err(error) => return Err(error),
    };
    let tagging = tagging.trim();
    SwitchTag::named(tagging)
        .ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, format!("tagging `{tagging}`")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tagging_is_what_sysfs_says() {
        let sysfs = std::env::temp_dir().join(format!("umemd-switch-{}", std::process::id()));
        let dsa = sysfs.join("eth0/dsa");
        fs::create_dir_all(&dsa).unwrap();
        for (text, expected) in [
            ("none\n", Some(SwitchTag::None)),
            ("dsa\n", Some(SwitchTag::Dsa)),
            ("edsa\n", Some(SwitchTag::Edsa)),
            ("brcm\n", None),
        ] {
            fs::write(dsa.join("tagging"), text).unwrap();
            assert_eq!(tagging_in(&sysfs.join("eth0")).ok(), expected, "{text}");
        }
        assert_eq!(tagging_in(&sysfs.join("eth1")).unwrap(), SwitchTag::None);
        fs::remove_dir_all(&sysfs).unwrap();
    }
}
