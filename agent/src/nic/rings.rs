//! What of a NIC's rings only ethtool's family of generic netlink tells (Documentation/netlink/specs/ethtool.yaml).
//! Needs no privilege, and changes nothing.

use std::io;

use super::genl::{Attributes, Genl};

const FAMILY: &str = "ethtool";
/// `ETHTOOL_MSG_RINGS_GET`.
const RINGS_GET: u8 = 15;
/// `ETHTOOL_A_HEADER_DEV_INDEX`.
const DEV_INDEX: u16 = 1;

/// `ETHTOOL_A_RINGS_*`.
mod told {
    pub(super) const HEADER: u16 = 1;
    pub(super) const TCP_DATA_SPLIT: u16 = 11;
}

/// `ETHTOOL_TCP_DATA_SPLIT_*`, of which 0 is that nobody knows.
mod split {
    pub(super) const DISABLED: u64 = 1;
    pub(super) const ENABLED: u64 = 2;
}

/// Whether an interface has the headers of TCP and its data in buffers of their own; `None` if kernel (older than Linux
/// 5.18) or driver does not tell.
///
/// # Errors
///
/// Those of the kernel; `EOPNOTSUPP` if the driver tells nothing of its rings.
pub fn tcp_data_split(ifindex: u32) -> io::Result<Option<bool>> {
    let Some(ethtool) = Genl::connect(FAMILY)? else { return Ok(None) };
    let answer = ethtool.get_of(RINGS_GET, told::HEADER, DEV_INDEX, ifindex)?;
    Ok(answer.as_ref().and_then(is_split))
}

fn is_split(answer: &Attributes) -> Option<bool> {
    match answer.uint(told::TCP_DATA_SPLIT)? {
        split::DISABLED => Some(false),
        split::ENABLED => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::genl::fixture::{attribute, parsed},
        *,
    };

    #[test]
    fn what_nobody_knows_is_not_off() {
        let told = |value: u8| is_split(&parsed(&[attribute(told::TCP_DATA_SPLIT, &[value])]));
        assert_eq!([0, 1, 2, 3].map(told), [None, Some(false), Some(true), None]);
        assert_eq!(is_split(&parsed(&[])), None, "the attribute is left away");
    }

    #[test]
    fn the_kernel_takes_the_question() {
        let errno = |ifindex| tcp_data_split(ifindex).err().and_then(|error| error.raw_os_error());
        if Genl::connect(FAMILY).unwrap().is_some() {
            assert_eq!(errno(1), Some(libc::EOPNOTSUPP), "the loopback has no rings");
            assert_eq!(errno(i32::MAX as u32), Some(libc::ENODEV));
        }
    }
}
