//! ethtool's ioctls (`SIOCETHTOOL`, linux/ethtool.h): what the netlink family of the same name cannot tell,
//! or tells only on newer kernels. Reading needs no privilege.

#![expect(
    unsafe_code,
    reason = "ioctl(SIOCETHTOOL) takes a pointer to a struct inside a pointer to a struct"
)]

use std::{io, mem, ptr};

use rustix::{
    fd::{AsRawFd as _, OwnedFd},
    net::{AddressFamily, SocketType},
};

/// `struct ethtool_channels`: how many of each kind are set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Channels {
    /// Channels that only receive.
    pub rx: u32,
    /// Channels that do both.
    pub combined: u32,
}

/// `ETHTOOL_GCHANNELS`. Errors with `EOPNOTSUPP` if the driver does not report them.
pub fn channels(interface: &str) -> io::Result<Channels> {
    const ETHTOOL_GCHANNELS: u32 = 0x3c;
    // struct ethtool_channels: cmd, then max and current of rx, tx, other, combined.
    let mut words = [ETHTOOL_GCHANNELS, 0, 0, 0, 0, 0, 0, 0, 0];
    ioctl(interface, &mut words)?;
    Ok(Channels { rx: words[5], combined: words[8] })
}

/// Name of the interface's driver (`ETHTOOL_GDRVINFO`), for people.
pub fn driver(interface: &str) -> io::Result<String> {
    const ETHTOOL_GDRVINFO: u32 = 0x03;
    // struct ethtool_drvinfo is 196 bytes: cmd, then driver[32], version[32], ...
    let mut words = [0_u32; 49];
    words[0] = ETHTOOL_GDRVINFO;
    ioctl(interface, &mut words)?;
    let bytes: Vec<u8> = words[1..9].iter().flat_map(|word| word.to_ne_bytes()).collect();
    Ok(bytes.split(|byte| *byte == 0).next().map(String::from_utf8_lossy).unwrap_or_default().into_owned())
}

/// One `SIOCETHTOOL` with a command struct that starts with its number and has no pointers in it.
fn ioctl<const N: usize>(interface: &str, command: &mut [u32; N]) -> io::Result<()> {
    let socket: OwnedFd = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    // SAFETY: ifreq is plain old data; all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = ptr::from_mut(command).cast();
    // SAFETY:
    // - `request` outlives the call and names the interface with a terminating zero (checked above).
    // - `ifru_data` points to `command`, which the kernel writes no further than the struct that belongs to
    //   the command's number; the callers above give arrays of that struct's size.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_reports_no_channels() {
        assert_eq!(channels("lo").unwrap_err().raw_os_error(), Some(libc::EOPNOTSUPP));
    }

    #[test]
    fn a_name_that_no_interface_can_have_is_no_overflow() {
        assert_eq!(channels("a-name-of-twenty-byte").unwrap_err().raw_os_error(), Some(libc::ENODEV));
        assert_eq!(driver("nosuchif0").unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }
}
