//! What a driver says it can: family `netdev` of generic netlink (Documentation/netlink/specs/netdev.yaml). Needs no
//! privilege, and changes nothing.

use std::io;

use super::genl::{Attributes, Genl};

const FAMILY: &str = "netdev";
/// `NETDEV_CMD_DEV_GET`, since Linux 6.3.
const DEV_GET: u8 = 1;
/// `NETDEV_CMD_QUEUE_GET`, since Linux 6.8.
const QUEUE_GET: u8 = 10;
/// `NETDEV_CMD_NAPI_GET`, since Linux 6.8.
const NAPI_GET: u8 = 11;

/// `NETDEV_A_DEV_*`.
mod dev {
    pub(super) const IFINDEX: u16 = 1;
    pub(super) const XDP_FEATURES: u16 = 3;
    pub(super) const ZC_MAX_SEGS: u16 = 4;
}

/// `NETDEV_A_QUEUE_*`.
mod queue {
    pub(super) const ID: u16 = 1;
    pub(super) const IFINDEX: u16 = 2;
    pub(super) const TYPE: u16 = 3;
    pub(super) const NAPI_ID: u16 = 4;
    pub(super) const XSK: u16 = 7;
    /// `NETDEV_QUEUE_TYPE_RX`.
    pub(super) const RX: u64 = 0;
    /// `NETDEV_QUEUE_TYPE_TX`.
    pub(super) const TX: u64 = 1;
}

/// `NETDEV_A_NAPI_*`.
mod napi {
    pub(super) const IFINDEX: u16 = 1;
    pub(super) const IRQ: u16 = 3;
}

/// `enum netdev_xdp_act`: what the driver of an interface does for XDP, as it is set up at the moment. mvpp2 and
/// veth change it at run time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Programs in the driver, with `XDP_ABORTED`, `XDP_DROP`, `XDP_PASS` and `XDP_TX`.
    pub native: bool,
    /// `XDP_REDIRECT`.
    pub redirect: bool,
    /// AF_XDP in zero-copy mode.
    pub zero_copy: bool,
    /// Packets in several buffers, on their way in.
    pub fragments: bool,
    /// Most frames of a packet in zero-copy mode (Linux 6.6).
    pub zero_copy_segments: Option<u64>,
}

/// A receive queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RxQueue {
    /// Its number.
    pub number: u32,
    /// The NAPI instance that serves it, if the driver tells. Sockets ask it since Linux 6.13.
    pub napi: Option<u64>,
    /// Whether an AF_XDP socket in zero-copy mode has it (Linux 6.15; older ones do not tell).
    pub has_xsk: bool,
}

/// The features of an interface; `None` if this kernel does not tell (older than Linux 6.3).
///
/// # Errors
///
/// Those of the kernel.
pub fn features(ifindex: u32) -> io::Result<Option<Features>> {
    let answers = ask(|netdev| netdev.dump(DEV_GET))?.unwrap_or_default();
    Ok(answers.iter().find(|answer| answer.uint(dev::IFINDEX) == Some(ifindex.into())).map(read_features))
}

/// The receive queues in use of an interface, by number; `None` if this kernel does not tell (older than Linux 6.8).
/// None while it is down.
///
/// # Errors
///
/// Those of the kernel.
pub fn rx_queues(ifindex: u32) -> io::Result<Option<Vec<RxQueue>>> {
    let Some(answers) = queues(ifindex)? else { return Ok(None) };
    let mut queues: Vec<RxQueue> = answers.iter().filter_map(|answer| read_queue(answer, ifindex)).collect();
    queues.sort_unstable_by_key(|queue| queue.number);
    Ok(Some(queues))
}

/// How many queues of an interface are in use, to receive and to send; `None` if this kernel does not tell (older than
/// Linux 6.8), or not of this interface: it is down.
///
/// # Errors
///
/// Those of the kernel.
pub fn queues_in_use(ifindex: u32) -> io::Result<Option<(u32, u32)>> {
    let answers = queues(ifindex)?.unwrap_or_default();
    let (rx, tx) = (count(&answers, ifindex, queue::RX), count(&answers, ifindex, queue::TX));
    Ok((rx > 0).then_some((rx, tx)))
}

/// The interrupts of an interface's NAPI instances; none if this kernel (older than Linux 6.8) or driver does not tell.
///
/// # Errors
///
/// Those of the kernel.
pub fn interrupts(ifindex: u32) -> io::Result<Vec<u32>> {
    let answers = ask(|netdev| match netdev.dump_of(NAPI_GET, napi::IFINDEX, ifindex) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(Vec::new()),
        answers => answers,
    })?;
    let read = |answer: &Attributes| read_interrupt(answer, ifindex);
    Ok(answers.unwrap_or_default().iter().filter_map(read).collect())
}

fn read_interrupt(attributes: &Attributes, ifindex: u32) -> Option<u32> {
    let is_ours = attributes.uint(napi::IFINDEX) == Some(ifindex.into());
    is_ours.then(|| attributes.uint(napi::IRQ))??.try_into().ok()
}

fn count(answers: &[Attributes], ifindex: u32, kind: u64) -> u32 {
    let is_one = |answer: &&Attributes| {
        answer.uint(queue::IFINDEX) == Some(ifindex.into()) && answer.uint(queue::TYPE) == Some(kind)
    };
    answers.iter().filter(is_one).count() as u32
}

/// The queues in use of an interface, none if it is not there; `None` if the kernel does not tell.
fn queues(ifindex: u32) -> io::Result<Option<Vec<Attributes>>> {
    ask(|netdev| match netdev.dump_of(QUEUE_GET, queue::IFINDEX, ifindex) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(Vec::new()),
        answers => answers,
    })
}

/// What the family answers; `None` if the kernel does not know it, or the command.
fn ask(command: impl FnOnce(&Genl) -> io::Result<Vec<Attributes>>) -> io::Result<Option<Vec<Attributes>>> {
    let Some(netdev) = Genl::connect(FAMILY)? else { return Ok(None) };
    match command(&netdev) {
        Ok(answers) => Ok(Some(answers)),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
        Err(error) => Err(error),
    }
}

fn read_features(attributes: &Attributes) -> Features {
    let bits = attributes.uint(dev::XDP_FEATURES).unwrap_or(0);
    let has = |bit: u32| bits & 1 << bit != 0;
    Features {
        native: has(0),
        redirect: has(1),
        zero_copy: has(3),
        fragments: has(5),
        zero_copy_segments: attributes.uint(dev::ZC_MAX_SEGS),
    }
}

fn read_queue(attributes: &Attributes, ifindex: u32) -> Option<RxQueue> {
    let is_ours = attributes.uint(queue::IFINDEX) == Some(ifindex.into());
    (is_ours && attributes.uint(queue::TYPE) == Some(queue::RX)).then_some(())?;
    Some(RxQueue {
        number: attributes.uint(queue::ID)?.try_into().ok()?,
        napi: attributes.uint(queue::NAPI_ID),
        has_xsk: attributes.has(queue::XSK),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nic::genl::fixture::{attribute, parsed, uint};

    #[test]
    fn features_are_bits() {
        // mvneta's, in zero-copy's absence; and ice's.
        let mvneta = read_features(&parsed(&[uint(1, 3), uint(3, 0x67)]));
        assert_eq!(mvneta, Features { native: true, redirect: true, fragments: true, ..Features::default() });
        let ice = read_features(&parsed(&[uint(1, 3), uint(3, 0x6f), uint(4, 8)]));
        assert!(ice.zero_copy && ice.zero_copy_segments == Some(8));
        assert_eq!(read_features(&parsed(&[])), Features::default());
    }

    #[test]
    fn queues_are_told_apart_by_interface_and_direction() {
        let queue = |index, kind, more: &[Vec<u8>]| {
            let parts = [&[uint(1, 2), uint(2, index), uint(3, kind)], more].concat();
            read_queue(&parsed(&parts), 5)
        };
        let plain = RxQueue { number: 2, napi: None, has_xsk: false };
        assert_eq!(queue(5, 0, &[]), Some(plain));
        let taken = queue(5, 0, &[uint(4, 8193), attribute(7, &[])]);
        assert_eq!(taken, Some(RxQueue { napi: Some(8193), has_xsk: true, ..plain }));
        assert_eq!((queue(6, 0, &[]), queue(5, 1, &[])), (None, None));

        let answer = |index, kind| parsed(&[uint(1, 0), uint(2, index), uint(3, kind)]);
        let answers = [answer(5, 0), answer(5, 1), answer(5, 1), answer(6, 0)];
        assert_eq!((count(&answers, 5, queue::RX), count(&answers, 5, queue::TX)), (1, 2));
    }

    #[test]
    fn a_napi_instance_has_an_interrupt_or_none() {
        let napi =
            |more: &[Vec<u8>]| read_interrupt(&parsed(&[&[uint(1, 5), uint(2, 8193)], more].concat()), 5);
        assert_eq!((napi(&[uint(3, 42)]), napi(&[])), (Some(42), None));
        assert_eq!(read_interrupt(&parsed(&[uint(1, 6), uint(3, 42)]), 5), None);
    }

    /// The kernel's own `empty_check` and `lo_check` (tools/testing/selftests/net/nl_netdev.py): there is a device,
    /// and the loopback can nothing.
    #[test]
    fn the_kernel_answers_or_says_that_it_cannot() {
        assert!(matches!(features(1).unwrap(), None | Some(Features { native: false, redirect: false, .. })));
        let devices = ask(|netdev| netdev.dump(DEV_GET)).unwrap();
        assert!(devices.is_none_or(|devices| !devices.is_empty()));
        rx_queues(1).unwrap();
        queues_in_use(1).unwrap();
        assert_eq!(interrupts(1).unwrap(), [0; 0]);
        assert_eq!(interrupts(u32::MAX).unwrap(), [0; 0]);
        assert_eq!(queues_in_use(u32::MAX).unwrap(), None);
        assert_eq!(features(u32::MAX).unwrap(), None);
    }
}
