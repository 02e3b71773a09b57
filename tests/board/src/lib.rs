//! Boards without boards: models of the network hardware of Marvell's SoCs, served to QEMU.
//!
//! ```text
//!   guest (arm64, TCG)                                     host
//!   umemd ── mvneta.ko ──load/store──> BAR of a PCI device ──vfio-user socket──> board-device: this crate
//!               ^  DMA                  (vfio-user-pci)                            neta | pp2: the registers
//!               └───────────────── guest memory, a memfd <──────pread/pwrite────── memory
//!               interrupt <── GICv2m frame <──DMA_WRITE──────────────────────────── rack
//! ```
//!
//! The drivers are the stock modules of Debian's kernel; only the hardware is ours. It is modelled where the
//! driver looks: descriptors, status and cause registers, interrupts, counters, drops when there is no
//! descriptor, checksums. Everything else is storage that reads back what was written.
//!
//! A model knows registers and guest memory, and nothing of sockets: its tests need no QEMU.

#![forbid(unsafe_code)]

pub mod cable;
pub mod checksum;
pub mod guest;
pub mod memory;
pub mod neta;
pub mod nic;
pub mod pp2;
pub mod rack;
pub mod registers;
pub mod vfio_user;
