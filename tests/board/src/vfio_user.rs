//! The server's side of vfio-user: how QEMU's `vfio-user-pci` talks to a device in another process.
//!
//! Messages on a Unix stream socket, a header of 16 bytes and a body each; file descriptors ride along.
//! QEMU asks about the device once, hands over the guest's memory, and then sends each access to a BAR. The
//! one thing that we say on our own is a write to guest memory: that is an interrupt (see [`crate::rack`]).
//! Specification: docs/interop/vfio-user.rst of QEMU, version 0.0.

mod config;
mod connection;
mod message;

pub use config::ConfigSpace;
pub use connection::{Connection, Error};
