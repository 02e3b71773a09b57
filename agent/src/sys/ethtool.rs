//! ethtool's ioctls (`SIOCETHTOOL`, linux/ethtool.h): what the netlink family of the same name cannot tell,
//! or tells only on newer kernels. Reading needs no privilege.

#![expect(
    unsafe_code,
    reason = "ioctl(SIOCETHTOOL) takes a pointer to a struct inside a pointer to a struct"
)]

use std::{collections::BTreeSet, io, mem, ptr};

use rustix::{
    fd::{AsRawFd as _, OwnedFd},
    net::{AddressFamily, SocketType},
};

use super::guarded::Guarded;

/// `struct ethtool_channels`: how many of each kind are set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Channels {
    /// Channels that only receive.
    pub rx: u32,
    /// Channels that only send.
    pub tx: u32,
    /// Channels that do both.
    pub combined: u32,
}

/// `ETHTOOL_GCHANNELS`. Errors with `EOPNOTSUPP` if the driver does not report them.
pub fn channels(interface: &str) -> io::Result<Channels> {
    let [.., rx, tx, _, combined] = channel_words(interface)?;
    Ok(Channels { rx, tx, combined })
}

/// How many of each kind there may be (`ETHTOOL_GCHANNELS`).
pub fn most_channels(interface: &str) -> io::Result<Channels> {
    let [_, rx, tx, _, combined, ..] = channel_words(interface)?;
    Ok(Channels { rx, tx, combined })
}

/// `struct ethtool_channels`: cmd, then max and current of rx, tx, other, combined.
fn channel_words(interface: &str) -> io::Result<[u32; 9]> {
    let interface = Interface::new(interface)?;
    const ETHTOOL_GCHANNELS: u32 = 0x3c;
    let mut words = [ETHTOOL_GCHANNELS, 0, 0, 0, 0, 0, 0, 0, 0];
    interface.ioctl(&mut words)?;
    Ok(words)
}

/// Name of the interface's driver (`ETHTOOL_GDRVINFO`), for people.
pub fn driver(interface: &str) -> io::Result<String> {
    let interface = Interface::new(interface)?;
    const ETHTOOL_GDRVINFO: u32 = 0x03;
    // struct ethtool_drvinfo is 196 bytes: cmd, then driver[32], version[32], ...
    let mut words = [0_u32; 49];
    words[0] = ETHTOOL_GDRVINFO;
    interface.ioctl(&mut words)?;
    let bytes: Vec<u8> = words[1..9].iter().flat_map(|word| word.to_ne_bytes()).collect();
    Ok(bytes.split(|byte| *byte == 0).next().map(String::from_utf8_lossy).unwrap_or_default().into_owned())
}

/// Descriptors of a queue of the NIC's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ring {
    /// As many as there are.
    pub now: u32,
    /// As many as there may be.
    pub most: u32,
}

/// `struct ethtool_ringparam`, but for the rings that a few NICs have for packets of other sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rings {
    /// Of each queue that receives.
    pub rx: Ring,
    /// Of each queue that sends.
    pub tx: Ring,
}

/// `ETHTOOL_GRINGPARAM`. Errors with `EOPNOTSUPP` if the driver does not report it.
pub fn rings(interface: &str) -> io::Result<Rings> {
    let interface = Interface::new(interface)?;
    const ETHTOOL_GRINGPARAM: u32 = 0x10;
    // struct ethtool_ringparam: cmd, most of rx, mini, jumbo, tx; then as many as there are of each.
    let mut words = [ETHTOOL_GRINGPARAM, 0, 0, 0, 0, 0, 0, 0, 0];
    interface.ioctl(&mut words)?;
    let ring = |most: usize| Ring { now: words[most + 4], most: words[most] };
    Ok(Rings { rx: ring(1), tx: ring(4) })
}

/// The table by which the NIC spreads flows over queues (RSS, `ETHTOOL_GRXFHINDIR`): queue numbers. Errors with
/// `EOPNOTSUPP` if the driver has none.
pub fn rss_table(interface: &str) -> io::Result<Vec<u32>> {
    let interface = Interface::new(interface)?;
    const ETHTOOL_GRXFHINDIR: u32 = 0x38;
    // struct ethtool_rxfh_indir: cmd, size, and a table of that size; with size 0 only that is told.
    let mut words = [ETHTOOL_GRXFHINDIR, 0];
    interface.ioctl(&mut words)?;
    let size = words[1];
    let table = interface.read_array(&[ETHTOOL_GRXFHINDIR, size], 1, size, size_of::<u32>())?;
    Ok(table.as_chunks::<4>().0.iter().map(|bytes| u32::from_ne_bytes(*bytes)).collect())
}

/// What a NIC does to the frames that it receives, as far as it matters here (`ETHTOOL_GFLAGS`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// It puts TCP segments together (`ETH_FLAG_LRO`).
    pub lro: bool,
    /// It spreads flows over queues by a hash (`ETH_FLAG_RXHASH`).
    pub hash: bool,
}

/// `ETHTOOL_GFLAGS`.
pub fn offloads(interface: &str) -> io::Result<Offloads> {
    let interface = Interface::new(interface)?;
    const ETHTOOL_GFLAGS: u32 = 0x25;
    // struct ethtool_value: cmd, data.
    let mut words = [ETHTOOL_GFLAGS, 0];
    interface.ioctl(&mut words)?;
    let has = |bit: u32| words[1] & 1 << bit != 0;
    Ok(Offloads { lro: has(15), hash: has(28) })
}

/// Features, by the kernel's names for them (`ETH_SS_FEATURES`); for a few `ethtool -k` has others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Those that are on.
    pub on: BTreeSet<String>,
    /// Those that nobody can switch on or off.
    pub fixed: BTreeSet<String>,
}

/// `ETHTOOL_GFEATURES`.
///
/// # Errors
///
/// `ENODEV` if there is no such interface.
pub fn features(interface: &str) -> io::Result<Features> {
    let interface = Interface::new(interface)?;
    const ETHTOOL_GFEATURES: u32 = 0x3a;
    const ETH_SS_FEATURES: u32 = 4;
    // struct ethtool_gfeatures: cmd, size, and for each 32 features: available, requested, active, never_changed.
    const BLOCK: usize = 4 * size_of::<u32>();
    let names = names(&interface, ETH_SS_FEATURES)?;
    let blocks = u32::try_from(names.len().div_ceil(32)).unwrap_or(0);
    if blocks == 0 {
        return Ok(Features::default());
    }
    let blocks = interface.read_array(&[ETHTOOL_GFEATURES, blocks], 1, blocks, BLOCK)?;
    Ok(named(names, &blocks))
}

/// What the blocks say of features with these names.
fn named(names: Vec<String>, blocks: &[u8]) -> Features {
    let words: Vec<u32> = blocks.as_chunks::<4>().0.iter().map(|bytes| u32::from_ne_bytes(*bytes)).collect();
    let mut features = Features::default();
    for (index, name) in names.into_iter().enumerate() {
        let (block, bit) = (index / 32, index % 32);
        let has = |word: usize| words.get(4 * block + word).is_some_and(|word| word & 1 << bit != 0);
        if !has(0) || has(3) {
            features.fixed.insert(name.clone());
        }
        if has(2) {
            features.on.insert(name);
        }
    }
    features
}

/// A driver's own statistics: each with its name, in the driver's order.
pub type Statistics = Vec<(String, u64)>;

/// What `ethtool -S` shows; empty if the driver has nothing to tell (`ETHTOOL_GSTATS`).
///
/// # Errors
///
/// `ENODEV` if there is no such interface; `EAGAIN` if the driver changed its set between the calls.
pub fn statistics(interface: &str) -> io::Result<Statistics> {
    let interface = Interface::new(interface)?;
    const ETHTOOL_GSTATS: u32 = 0x1d;
    const ETH_SS_STATS: u32 = 1;
    let names = names(&interface, ETH_SS_STATS)?;
    let count = u32::try_from(names.len()).unwrap_or(0);
    if count == 0 {
        return Ok(Vec::new());
    }
    let values = interface.read_array(&[ETHTOOL_GSTATS, count], 1, count, size_of::<u64>())?;
    Ok(pair_up(names, &values))
}

/// Each name with its value.
fn pair_up(names: Vec<String>, values: &[u8]) -> Statistics {
    names.into_iter().zip(values.as_chunks::<8>().0.iter().map(|bytes| u64::from_ne_bytes(*bytes))).collect()
}

/// The strings of a set (`enum ethtool_stringset`); none if the driver has no such set.
///
/// `ETHTOOL_GSSET_INFO` says how many there are, `ETHTOOL_GSTRINGS` which.
fn names(interface: &Interface<'_>, set: u32) -> io::Result<Vec<String>> {
    const ETHTOOL_GSSET_INFO: u32 = 0x37;
    const ETHTOOL_GSTRINGS: u32 = 0x1b;

    // struct ethtool_sset_info: cmd, reserved, a 64-bit mask of sets, then one count per set that exists.
    let mut words = [ETHTOOL_GSSET_INFO, 0, 0, 0, 0];
    let mask = (1_u64 << set).to_ne_bytes();
    words[2] = u32::from_ne_bytes([mask[0], mask[1], mask[2], mask[3]]);
    words[3] = u32::from_ne_bytes([mask[4], mask[5], mask[6], mask[7]]);
    match interface.ioctl(&mut words) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    }
    let count = if words[2] == 0 && words[3] == 0 { 0 } else { words[4] };
    if count == 0 {
        return Ok(Vec::new());
    }
    Ok(split(&interface.read_array(&[ETHTOOL_GSTRINGS, set, count], 2, count, NAME)?))
}

/// `ETH_GSTRING_LEN`: bytes of a string of a set.
const NAME: usize = 32;

/// Strings of [`NAME`] bytes each, which end at their first zero or fill them.
fn split(names: &[u8]) -> Vec<String> {
    let name = |bytes: &[u8; NAME]| {
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).trim().to_owned()
    };
    names.as_chunks::<NAME>().0.iter().map(name).collect()
}

/// An interface that is asked something, or several things one after the other.
struct Interface<'a> {
    socket: OwnedFd,
    name: &'a str,
}

impl<'a> Interface<'a> {
    fn new(name: &'a str) -> io::Result<Self> {
        Ok(Self { socket: rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?, name })
    }

    /// A command whose struct is a few words and an array of `count` elements of `size` bytes; word `told` is how many
    /// elements the kernel wrote.
    fn read_array(&self, head: &[u32], told: usize, count: u32, size: usize) -> io::Result<Vec<u8>> {
        let offset = size_of_val(head);
        let length = offset + count as usize * size;
        Guarded::with(length, |memory| {
            for (to, word) in memory.bytes_mut().as_chunks_mut::<4>().0.iter_mut().zip(head) {
                *to = word.to_ne_bytes();
            }
            let data = memory.as_mut_ptr().cast();
            // SAFETY: the struct lies in memory that the kernel cannot write past the end of, whatever number of
            // elements it finds.
            unsafe { self.raw_ioctl(data) }?;
            let written = memory.bytes().as_chunks::<4>().0.get(told).map(|bytes| u32::from_ne_bytes(*bytes));
            if written != Some(count) {
                return Err(io::Error::from_raw_os_error(libc::EAGAIN));
            }
            Ok(memory.bytes()[offset..length].to_vec())
        })?
    }

    /// One `SIOCETHTOOL` with a command struct that starts with its number and has no pointers in it.
    fn ioctl<const N: usize>(&self, command: &mut [u32; N]) -> io::Result<()> {
        // SAFETY: the callers above give arrays of the size of the struct that belongs to the command's number, and
        // the kernel writes no further than that.
        unsafe { self.raw_ioctl(ptr::from_mut(command).cast()) }
    }

    /// # Safety
    ///
    /// `command` points to the struct of an ethtool command, which the kernel may write in full.
    unsafe fn raw_ioctl(&self, command: *mut libc::c_char) -> io::Result<()> {
        // SAFETY: ifreq is plain old data; all zeroes is a valid value.
        let mut request: libc::ifreq = unsafe { mem::zeroed() };
        if self.name.len() >= request.ifr_name.len() {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        for (to, from) in request.ifr_name.iter_mut().zip(self.name.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_data = command;
        // SAFETY:
        // - `request` outlives the call and names the interface with a terminating zero (checked above).
        // - `ifru_data` points to what the caller promised.
        let result =
            unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn loopback_reports_no_channels() {
        assert_eq!(channels("lo").unwrap_err().raw_os_error(), Some(libc::EOPNOTSUPP));
    }

    #[test]
    fn loopback_spreads_no_flows() {
        assert_eq!(offloads("lo").unwrap(), Offloads::default());
    }

    /// Nobody can switch these on or off.
    #[test]
    fn loopback_has_features_but_takes_no_tags() {
        let Features { on, fixed } = features("lo").unwrap();
        assert!(on.contains("loopback") && fixed.contains("loopback"), "{on:?} {fixed:?}");
        assert!(!on.contains("rx-vlan-hw-parse") && !on.contains("rx-vlan-stag-hw-parse"), "{on:?}");
        assert_eq!(features("nosuchif0").unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn a_feature_is_on_if_its_bit_is_active_and_fixed_if_it_is_not_available() {
        let names: Vec<String> = (0..40).map(|bit| bit.to_string()).collect();
        // Available, requested, active, never changed; of 32 each.
        let words = [u32::MAX, u32::MAX, 1 << 3 | 1 << 31, 1 << 4, 0, 0, 1 << 7 | 1 << 8, 0];
        let blocks: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let Features { on, fixed } = named(names, &blocks);
        assert_eq!(on.into_iter().collect::<Vec<_>>(), ["3", "31", "39"]);
        let changeable: Vec<u32> = (0..40).filter(|bit: &u32| !fixed.contains(&bit.to_string())).collect();
        assert_eq!(changeable, (0..32_u32).filter(|bit| *bit != 4).collect::<Vec<_>>());
    }

    #[test]
    fn loopback_has_neither_a_ring_nor_a_table() {
        assert_eq!(rings("lo").unwrap_err().raw_os_error(), Some(libc::EOPNOTSUPP));
        assert_eq!(rss_table("lo").unwrap_err().raw_os_error(), Some(libc::EOPNOTSUPP));
        assert_eq!(rings("nosuchif0").unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn a_name_that_no_interface_can_have_is_no_overflow() {
        assert_eq!(channels("a-name-of-twenty-byte").unwrap_err().raw_os_error(), Some(libc::ENODEV));
        assert_eq!(driver("nosuchif0").unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn loopback_has_no_statistics_of_its_own() {
        assert_eq!(statistics("lo").unwrap(), []);
        assert_eq!(statistics("nosuchif0").unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }

    proptest! {
        #[test]
        fn any_bytes_are_names_and_values(names: Vec<u8>, values: Vec<u8>) {
            let pairs = pair_up(split(&names), &values);
            prop_assert_eq!(pairs.len(), (names.len() / NAME).min(values.len() / 8));
        }
    }

    #[test]
    fn names_end_at_their_first_zero() {
        let mut names = [b'x'; 2 * NAME];
        names[..8].copy_from_slice(b"rx_drop\0");
        let values: Vec<u8> = [7_u64, u64::MAX].iter().flat_map(|value| value.to_ne_bytes()).collect();
        let pairs = pair_up(split(&names), &values);
        assert_eq!(pairs[0], ("rx_drop".to_owned(), 7));
        assert_eq!((pairs[1].0.len(), pairs[1].1), (NAME, u64::MAX), "a name may fill its field");
    }
}
