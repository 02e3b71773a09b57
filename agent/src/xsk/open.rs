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

use super::{RingSizes, UmemFrames, XskPort, port::Rings};
use crate::config::BindMode;

/// What is to be opened.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The interface, in this thread's network namespace.
    pub interface: &'a str,
    /// The receive queue; the program finds the socket under this number.
    pub queue: u32,
    /// Shape of the UMEM.
    pub layout: FrameLayout,
    /// Entries of the rings.
    pub rings: RingSizes,
    /// Copy or zero-copy, never "whatever goes".
    pub bind: BindMode,
}

/// Why a socket could not be opened. Facts in fields, the cause in `source()`.
#[derive(Debug, Error)]
pub enum OpenError {
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
    /// The UMEM was refused for another reason.
    #[error("cannot register a UMEM of {frames} frames of {frame_size} bytes")]
    Umem {
        /// Frames.
        frames: u32,
        /// Bytes of a frame.
        frame_size: u32,
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
pub struct SocketHandle {
    fd: OwnedFd,
}

impl SocketHandle {
    /// `XDP_STATISTICS` (kernel.md 3.7).
    pub fn statistics(&self) -> io::Result<xdp::XdpStatistics> {
        Ok(sockopt::xdp_statistics(&self.fd)?)
    }

    /// `XDP_OPTIONS`: whether the kernel bound the socket in zero-copy mode.
    pub fn zero_copy(&self) -> io::Result<bool> {
        Ok(sockopt::xdp_options(&self.fd)?.contains(xdp::XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY))
    }
}

impl AsFd for SocketHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether this kernel has AF_XDP and lets this process use it. Opens a socket and closes it again.
pub fn probe() -> Result<(), OpenError> {
    match rustix::net::socket(AddressFamily::XDP, SocketType::RAW, None) {
        Ok(_) => Ok(()),
        Err(rustix::io::Errno::PERM) => Err(OpenError::NotPermitted),
        Err(_) => Err(OpenError::NoAfXdp),
    }
}

/// Maps and registers a UMEM, opens a socket on it and binds that to the queue.
///
/// The kernel releases a queue some time after its last socket was closed (`xp_release_deferred`), so EBUSY is
/// retried for a second before it is believed.
pub fn open(request: Request<'_>) -> Result<(XskPort, SocketHandle), OpenError> {
    const TRIES: u32 = 20;
    for _ in 1..TRIES {
        match open_once(request) {
            Err(OpenError::Busy { .. }) => thread::sleep(Duration::from_secs(1) / TRIES),
            result => return result,
        }
    }
    open_once(request)
}

fn open_once(request: Request<'_>) -> Result<(XskPort, SocketHandle), OpenError> {
    let Request { interface, queue, layout, rings, bind } = request;
    let mebibytes = (u64::from(layout.chunk_size()) * u64::from(layout.chunk_count())).div_ceil(1 << 20);
    let refused = |reason: &'static str| OpenError::Umem {
        frames: layout.chunk_count(),
        frame_size: layout.chunk_size(),
        source: io::Error::new(io::ErrorKind::InvalidInput, reason),
    };

    let frames = NonZeroU32::new(layout.chunk_count()).ok_or_else(|| refused("no frames"))?;
    let ring = |entries| QueueSize::new(entries).map_err(|_| refused("ring sizes are powers of two"));
    let umem_config = UmemConfig::builder()
        .frame_size(
            FrameSize::new(layout.chunk_size()).map_err(|_| refused("the kernel wants 2048 or 4096"))?,
        )
        .fill_queue_size(ring(rings.fill)?)
        .comp_queue_size(ring(rings.completion)?)
        .build()
        .map_err(|_| refused("frame size and headroom do not fit"))?;

    let (umem, descriptors) = Umem::new(umem_config, frames, false).map_err(|error| match cause(&error) {
        Some(libc::ENOBUFS) => OpenError::Memlock { interface: interface.into(), queue, mebibytes },
        Some(libc::EPERM) => OpenError::NotPermitted,
        Some(errno) => OpenError::Umem {
            frames: layout.chunk_count(),
            frame_size: layout.chunk_size(),
            source: io::Error::from_raw_os_error(errno),
        },
        None => refused("libxdp gave no reason"),
    })?;

    let socket_config = SocketConfig::builder()
        .rx_queue_size(ring(rings.rx)?)
        .tx_queue_size(ring(rings.tx)?)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(
            BindFlags::XDP_USE_NEED_WAKEUP
                | match bind {
                    BindMode::Copy => BindFlags::XDP_COPY,
                    BindMode::ZeroCopy => BindFlags::XDP_ZEROCOPY,
                },
        )
        .build();
    let name = Interface::try_from(interface.as_bytes()).map_err(|_| refused("a name with a zero byte"))?;
    // SAFETY:
    // - The condition is about a second socket on the same UMEM and queue; this UMEM is new and has none.
    // - XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD is set all the same: libxdp must not load a program of its own.
    let (tx, rx, pair) = unsafe { Socket::new(socket_config, &umem, &name, queue) }.map_err(|error| {
        let (interface, copy) = (interface.to_owned(), bind == BindMode::Copy);
        match cause(&error) {
            Some(libc::EBUSY) => OpenError::Busy { interface, queue },
            Some(libc::EOPNOTSUPP) if !copy => OpenError::NoZeroCopy { interface, queue },
            errno => OpenError::Bind {
                interface,
                queue,
                source: errno
                    .map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error),
            },
        }
    })?;
    let (fill, completion) = pair.ok_or_else(|| OpenError::Bind {
        interface: interface.into(),
        queue,
        source: io::Error::other(
            "libxdp handed out no fill and completion ring for the first socket of a UMEM",
        ),
    })?;

    let failed = |what| {
        move |source: io::Error| OpenError::Socket { interface: interface.into(), queue, what, source }
    };
    // SAFETY: `rx` owns the descriptor and outlives the borrow, which ends with the two duplications below.
    let borrowed = unsafe { BorrowedFd::borrow_raw(rx.fd().as_raw_fd()) };
    let duplicate = || borrowed.try_clone_to_owned().map_err(failed("duplicate the descriptor"));
    let handle = SocketHandle { fd: duplicate()? };
    if handle.zero_copy().map_err(failed("read XDP_OPTIONS"))? != (bind == BindMode::ZeroCopy) {
        return Err(OpenError::WrongMode { interface: interface.into(), queue, asked: bind });
    }
    let rings = Rings::new(fill, rx, tx, completion, duplicate()?, rings);
    let frames = UmemFrames::new(umem, descriptors, layout).map_err(|source| OpenError::Umem {
        frames: layout.chunk_count(),
        frame_size: layout.chunk_size(),
        source,
    })?;
    Ok((XskPort::new(Arc::new(frames), rings), handle))
}

/// The errno at the end of a chain of errors, if one stands there.
fn cause(error: &dyn std::error::Error) -> Option<i32> {
    error.source()?.downcast_ref::<io::Error>()?.raw_os_error()
}
