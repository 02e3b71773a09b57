//! One AF_XDP socket and its UMEM, over xsk-rs: [`XskPort`] is what a worker moves frames through,
//! [`SocketHandle`] what the control plane keeps of it.
//!
//! The only module of the agent that touches packet bytes. xsk-rs leaves it to its caller that a descriptor is
//! used once, in one place, and only while user space owns it. Here the [`frame_pool::Ledger`] makes that true:
//! a descriptor goes to the kernel only for a [`frame_pool::Frame`] that was given up for it, and comes back
//! only where the ledger knows it to be lent. That holds for one [`frame_pool::UmemProvider`] per [`UmemFrames`], which
//! `control` sees to: so this module is the crate's own.

mod open;
mod port;
mod sizes;
mod umem;
mod wakeups;

pub(crate) use open::{OpenError, Request, SocketHandle, UmemRequest, open, patiently, probe, umem};
pub(crate) use port::XskPort;
pub use sizes::{RingRequest, RingSizes};
pub(crate) use umem::UmemFrames;
pub(crate) use wakeups::FillWakeups;
