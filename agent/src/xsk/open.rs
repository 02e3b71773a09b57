//! From a name and a queue number to a bound socket, or to the reason why not.

#![expect(unsafe_code, reason = "xsk_rs::Socket::new is unsafe; the condition is named at the call")]

use std::{io, num::NonZeroU32, sync::Arc, thread, time::Duration};

use frame_pool::FrameLayout;
use rustix::{
    fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
    net::{AddressFamily, SocketType, sockopt, xdp},
};
use thiserror::Error;
use xsk_rs::{
    Socket, Umem,
    config::{BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig},
};

use super::{FillWakeups, RingSizes, UmemFrames, XskPort, port::Rings};
use crate::config::{BindMode, NEED_WAKEUP};

/// Bytes of a frame that no headroom may take, whatever the kernel: 256 before the packet (`XDP_PACKET_HEADROOM`),
/// and since 2026, in stable kernels too, 128 for the packet and 320 for a `struct skb_shared_info` behind it
/// (`xdp_umem_reg()`). Before, one byte for the packet was enough.
const KEPT: u32 = 256 + 128 + 320;

/// Which memory is to be registered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UmemRequest<'a> {
    /// The interface that it is for, to be named where it is refused.
    pub interface: &'a str,
    /// The queue that it is for.
    pub queue: u32,
    /// How it is cut into frames.
    pub layout: FrameLayout,
    /// Bytes kept free in each frame, before what the kernel keeps for the XDP program.
    pub headroom: u32,
    /// Huge pages, or nothing.
    pub huge_pages: bool,
    /// Entries of the rings.
    pub rings: RingSizes,
}

/// Which socket is to be bound.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    /// The interface, in this thread's network namespace.
    pub interface: &'a str,
    /// The receive queue; the program finds the socket under this number.
    pub queue: u32,
    /// Its UMEM; a second socket on the same one shares it.
    pub frames: &'a Arc<UmemFrames>,
    /// Entries of the rings: those that the UMEM was made with.
    pub rings: RingSizes,
    /// Copy or zero-copy, never "whatever goes".
    pub bind: BindMode,
    /// Whether packets may take several frames (`XDP_USE_SG`).
    pub multi_buffer: bool,
    /// Frames that the kernel takes for one packet to be sent, if they may be several.
    pub max_fragments: usize,
}

/// Why a socket could not be opened. Facts in fields, the cause in `source()`.
#[derive(Debug, Error)]
pub(crate) enum OpenError {
    /// The kernel was built without `CONFIG_XDP_SOCKETS`.
    #[error("this kernel has no AF_XDP sockets; it needs CONFIG_XDP_SOCKETS=y (Linux 4.18)")]
    NoAfXdp,
    /// `CAP_NET_RAW` is missing.
    #[error("an AF_XDP socket needs CAP_NET_RAW; run as root, or grant it: setcap cap_net_raw+ep")]
    NotPermitted,
    /// Pinning the UMEM goes over `RLIMIT_MEMLOCK`.
    #[error(
        "cannot lock {mebibytes} MiB for {interface} queue {queue} (ENOBUFS): the limit of locked memory is too \
         low; raise it (ulimit -l, LimitMEMLOCK=infinity), run with CAP_IPC_LOCK, or ask for fewer --frames"
    )]
    Memlock {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// Size of the UMEM, rounded up.
        mebibytes: u64,
    },
    /// Someone else's socket is bound to the queue.
    #[error(
        "{interface} queue {queue} is taken by another AF_XDP socket (EBUSY); `ss --xdp -e` lists them; stop that \
         program or choose other --queues"
    )]
    Busy {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
    },
    /// The driver has no zero-copy.
    #[error(
        "{interface} queue {queue} has no zero-copy (EOPNOTSUPP): its driver cannot; leave --zerocopy away"
    )]
    NoZeroCopy {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
    },
    /// The kernel takes no packets in several frames here.
    #[error(
        "{interface} queue {queue} has no multi-buffer ({why}); --multi-buffer off does without, and drops what is \
         longer than a frame"
    )]
    NoMultiBuffer {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// What the kernel said, and means.
        why: &'static str,
    },
    /// There are not as many huge pages free as the UMEM takes.
    #[error(
        "{interface} queue {queue} has no huge pages: its UMEM takes {mebibytes} MiB of them; \
         `sysctl vm.nr_hugepages=N` provides N, and /proc/meminfo tells their size"
    )]
    NoHugePages {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// Size of the UMEM, rounded up.
        mebibytes: u64,
    },
    /// The kernel bound the socket in another mode than asked for.
    #[error("{interface} queue {queue} was bound in another mode than {asked:?}")]
    WrongMode {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// What was asked for.
        asked: BindMode,
    },
    /// More headroom than this kernel leaves beside a packet.
    #[error(
        "this kernel refuses --headroom {headroom} in frames of {frame_size} bytes; every kernel takes up to {}{}",
        frame_size - KEPT,
        if *frame_size < 4096 { ", or more with --frame-size 4096" } else { "" }
    )]
    Headroom {
        /// Bytes that are kept free.
        headroom: u32,
        /// Bytes of a frame.
        frame_size: u32,
    },
    /// The UMEM was refused for another reason.
    #[error("cannot register a UMEM of {frames} frames of {frame_size} bytes, {headroom} of them headroom")]
    Umem {
        /// Frames.
        frames: u32,
        /// Bytes of a frame.
        frame_size: u32,
        /// Bytes of those that are kept free.
        headroom: u32,
        /// Why.
        source: io::Error,
    },
    /// Bind failed for another reason.
    #[error("cannot bind an AF_XDP socket to {interface} queue {queue}")]
    Bind {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// Why.
        source: io::Error,
    },
    /// A system call on the bound socket failed.
    #[error("cannot {what} of the AF_XDP socket on {interface} queue {queue}")]
    Socket {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

/// What the control plane keeps of a socket that a worker owns: a second descriptor of the same socket, to put
/// it into the program's map, to take it out, and to ask for its statistics.
///
/// It keeps the socket alive, and with it the queue busy: drop it before the worker closes.
#[derive(Debug)]
pub(crate) struct SocketHandle {
    fd: OwnedFd,
    wakeups: Arc<FillWakeups>,
}

impl SocketHandle {
    /// `XDP_STATISTICS` (`xsk_getsockopt()`, net/xdp/xsk.c).
    pub(crate) fn statistics(&self) -> io::Result<xdp::XdpStatistics> {
        Ok(sockopt::xdp_statistics(&self.fd)?)
    }

    /// How often the worker has woken the kernel for the fill ring: counts that outlive the socket.
    pub(crate) fn wakeups(&self) -> &Arc<FillWakeups> {
        &self.wakeups
    }

    /// `XDP_OPTIONS`: whether the kernel bound the socket in zero-copy mode.
    pub(crate) fn zero_copy(&self) -> io::Result<bool> {
        Ok(sockopt::xdp_options(&self.fd)?.contains(xdp::XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY))
    }
}

impl AsFd for SocketHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether this kernel has AF_XDP and lets this process use it. Opens a socket and closes it again.
pub(crate) fn probe() -> Result<(), OpenError> {
    match rustix::net::socket(AddressFamily::XDP, SocketType::RAW, None) {
        Ok(_) => Ok(()),
        Err(rustix::io::Errno::PERM) => Err(OpenError::NotPermitted),
        Err(_) => Err(OpenError::NoAfXdp),
    }
}

/// Attempts what may meet a queue that is not free yet: the kernel releases one some time after its last socket
/// was closed (`xp_release_deferred`), so EBUSY is believed only after a second.
///
/// # Errors
///
/// Those of the last attempt.
pub(crate) fn patiently<T>(mut attempt: impl FnMut() -> Result<T, OpenError>) -> Result<T, OpenError> {
    const TRIES: u32 = 20;
    for _ in 1..TRIES {
        match attempt() {
            Err(OpenError::Busy { .. }) => thread::sleep(Duration::from_secs(1) / TRIES),
            result => return result,
        }
    }
    attempt()
}

/// Maps and registers a UMEM.
///
/// # Errors
///
/// [`OpenError::Umem`], [`OpenError::Headroom`], [`OpenError::Memlock`], [`OpenError::NotPermitted`] or [`OpenError::NoHugePages`].
pub(crate) fn umem(request: UmemRequest<'_>) -> Result<Arc<UmemFrames>, OpenError> {
    let UmemRequest { interface, queue, layout, headroom, huge_pages, rings } = request;
    let (frames, frame_size) = (layout.chunk_count(), layout.chunk_size());
    let failed = |source| OpenError::Umem { frames, frame_size, headroom, source };
    let refused = |reason: &'static str| failed(io::Error::new(io::ErrorKind::InvalidInput, reason));
    let mebibytes = (u64::from(frame_size) * u64::from(frames)).div_ceil(1 << 20);

    let config = UmemConfig::builder()
        .frame_size(FrameSize::new(frame_size).map_err(|_| refused("the kernel wants 2048 or 4096"))?)
        .frame_headroom(headroom)
        .fill_queue_size(entries(rings.fill).ok_or_else(|| refused(POWERS))?)
        .comp_queue_size(entries(rings.completion).ok_or_else(|| refused(POWERS))?)
        .build()
        .map_err(|_| refused("frame size and headroom do not fit"))?;
    let count = NonZeroU32::new(frames).ok_or_else(|| refused("no frames"))?;
    let (umem, descriptors) = Umem::new(config, count, huge_pages).map_err(|error| match cause(&error) {
        Some(libc::ENOMEM) if huge_pages => {
            OpenError::NoHugePages { interface: interface.into(), queue, mebibytes }
        }
        Some(libc::ENOBUFS) => OpenError::Memlock { interface: interface.into(), queue, mebibytes },
        Some(libc::EPERM) => OpenError::NotPermitted,
        Some(libc::EINVAL) if headroom > frame_size - KEPT => OpenError::Headroom { headroom, frame_size },
        Some(errno) => failed(io::Error::from_raw_os_error(errno)),
        None => refused("libxdp gave no reason"),
    })?;
    Ok(Arc::new(UmemFrames::new(umem, descriptors, layout).map_err(failed)?))
}

/// Opens a socket on a UMEM and binds it to the queue.
///
/// # Errors
///
/// All that are left. [`OpenError::Busy`] may pass: see [`patiently`].
pub(crate) fn open(request: Request<'_>) -> Result<(XskPort, SocketHandle), OpenError> {
    let Request { interface, queue, frames, rings, bind, multi_buffer, max_fragments } = request;
    let failed = |source| OpenError::Bind { interface: interface.to_owned(), queue, source };
    let refused = |reason: &'static str| failed(io::Error::new(io::ErrorKind::InvalidInput, reason));

    let config = SocketConfig::builder()
        .rx_queue_size(entries(rings.rx).ok_or_else(|| refused(POWERS))?)
        .tx_queue_size(entries(rings.tx).ok_or_else(|| refused(POWERS))?)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(bind_flags(bind, multi_buffer))
        .build();
    let name = Interface::try_from(interface.as_bytes()).map_err(|_| refused("a name with a zero byte"))?;
    // SAFETY: the condition is that XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD is set where a second socket of the same
    // UMEM is bound to the same queue; it always is, as libxdp must not load a program of its own.
    let opened = unsafe { Socket::new(config, frames.umem(), &name, queue) };
    let (tx, rx, pair) = opened.map_err(|error| {
        let interface = interface.to_owned();
        match cause(&error) {
            Some(libc::EBUSY) => OpenError::Busy { interface, queue },
            Some(libc::EINVAL) if multi_buffer => {
                OpenError::NoMultiBuffer { interface, queue, why: "EINVAL: XDP_USE_SG takes Linux 6.6" }
            }
            // A driver that has zero-copy for packets in one frame only says the same as one that has none.
            Some(libc::EOPNOTSUPP) if bind == BindMode::ZeroCopy && multi_buffer => {
                let why = "EOPNOTSUPP: its driver has no zero-copy, or none for packets in several frames";
                OpenError::NoMultiBuffer { interface, queue, why }
            }
            Some(libc::EOPNOTSUPP) if bind == BindMode::ZeroCopy => {
                OpenError::NoZeroCopy { interface, queue }
            }
            Some(errno) => failed(io::Error::from_raw_os_error(errno)),
            None => failed(io::Error::other(error.to_string())),
        }
    })?;
    let (fill, completion) = pair.ok_or_else(|| {
        failed(io::Error::other("libxdp handed out no fill and completion ring of this UMEM for this queue"))
    })?;

    let failed = |what| {
        move |source: io::Error| OpenError::Socket { interface: interface.into(), queue, what, source }
    };
    // SAFETY: `rx` owns the descriptor and outlives the borrow, which ends with the two duplications below.
    let borrowed = unsafe { BorrowedFd::borrow_raw(rx.fd().as_raw_fd()) };
    let duplicate = || borrowed.try_clone_to_owned().map_err(failed("duplicate the descriptor"));
    let wakeups = Arc::<FillWakeups>::default();
    let handle = SocketHandle { fd: duplicate()?, wakeups: Arc::clone(&wakeups) };
    if handle.zero_copy().map_err(failed("read XDP_OPTIONS"))? != (bind == BindMode::ZeroCopy) {
        return Err(OpenError::WrongMode { interface: interface.into(), queue, asked: bind });
    }
    let fd = duplicate()?;
    // Without XDP_USE_SG the kernel takes no packet in several frames.
    let max_fragments = if multi_buffer { max_fragments } else { 1 };
    let rings = Rings { fill, rx, tx, completion, fd, sizes: rings, bind, wakeups, max_fragments };
    Ok((XskPort::new(Arc::clone(frames), rings), handle))
}

/// One of the two modes always: without either the kernel falls back from zero-copy to copy mode and says nothing.
fn bind_flags(bind: BindMode, multi_buffer: bool) -> BindFlags {
    let mut flags = match bind {
        BindMode::Copy => BindFlags::XDP_COPY,
        BindMode::ZeroCopy => BindFlags::XDP_ZEROCOPY,
    };
    flags.set(BindFlags::XDP_USE_NEED_WAKEUP, NEED_WAKEUP);
    flags.set(BindFlags::XDP_USE_SG, multi_buffer);
    flags
}

const POWERS: &str = "ring sizes are powers of two";

fn entries(ring: u32) -> Option<QueueSize> {
    QueueSize::new(ring).ok()
}

/// The errno at the end of a chain of errors, if one stands there.
fn cause(error: &dyn std::error::Error) -> Option<i32> {
    error.source()?.downcast_ref::<io::Error>()?.raw_os_error()
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, time::Instant};

    use super::*;

    fn busy() -> OpenError {
        OpenError::Busy { interface: "eth0".into(), queue: 0 }
    }

    #[test]
    fn a_mode_is_asked_for_and_wake_ups_where_they_are_needed() {
        let always = BindFlags::XDP_USE_NEED_WAKEUP;
        assert_eq!(bind_flags(BindMode::Copy, false).bits(), (always | BindFlags::XDP_COPY).bits());
        let zero_copy = always | BindFlags::XDP_ZEROCOPY;
        assert_eq!(bind_flags(BindMode::ZeroCopy, false).bits(), zero_copy.bits());
        let several = always | BindFlags::XDP_COPY | BindFlags::XDP_USE_SG;
        assert_eq!(bind_flags(BindMode::Copy, true).bits(), several.bits());
    }

    #[test]
    fn a_queue_that_is_still_being_released_is_waited_for() {
        let tries = Cell::new(0);
        let attempt = || {
            tries.set(tries.get() + 1);
            if tries.get() < 4 { Err(busy()) } else { Ok(tries.get()) }
        };
        assert!(matches!(patiently(attempt), Ok(4)));
    }

    #[test]
    fn one_that_is_not_is_named_in_a_second() {
        let start = Instant::now();
        let answer = patiently(|| Err::<(), _>(busy()));
        assert!(matches!(answer, Err(OpenError::Busy { .. })), "{answer:?}");
        assert!(start.elapsed() >= Duration::from_millis(900), "{:?}", start.elapsed());
    }

    #[test]
    fn nothing_else_passes() {
        let tries = Cell::new(0);
        let answer = patiently(|| {
            tries.set(tries.get() + 1);
            Err::<(), _>(OpenError::NotPermitted)
        });
        assert!(matches!((answer, tries.get()), (Err(OpenError::NotPermitted), 1)));
    }
}
