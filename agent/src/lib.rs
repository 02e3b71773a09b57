//! `umemd` steers frames with an XDP program into AF_XDP UMEM, recycles them in user space the way the
//! kernel's page_pool recycles pages, and shows where every frame is.
//!
//! This crate is the control plane. What moves and recycles frames lies in two crates of its own,
//! [`datapath`] and [`frame_pool`], which know neither the kernel nor this crate.
//!
//! | module | one idea |
//! | --- | --- |
//! | [`cli`], [`config`] | what the user asked for; the same, validated, as plain data |
//! | [`steer`] | rules in tcpdump's words, compiled; the guard against locking oneself out |
//! | [`ebpf`] | load the XDP program, attach it, reach its maps |
//! | [`nic`] | what an interface is and can do |
//! | `xsk` | the AF_XDP socket of one queue, as a [`datapath::QueuePort`] |
//! | [`capture`] | the thread that writes pcapng |
//! | [`control`] | order of start, worker threads, watchdog, signals, order of shutdown |
//! | [`page_pool`] | the kernel's own page_pools: the other recycler |
//! | [`observe`] | everything that can be said of a running agent, as plain data |
//! | [`status`], [`drops`] | the same as JSON; where packets get lost, and what to do about it |
//! | [`report`] | what the user sees: a table, or JSON |
//! | [`outlet`] | standard output and error, on which nobody waits |
//! | [`metrics`] | the same for Prometheus, over HTTP |
//! | [`protocol`], [`client`] | how a running agent is asked; who asks |
//! | `top` | shows it live in a terminal (feature `tui`) |
//! | [`sys`] | the few system calls that no library has |

pub mod boot;
pub mod capture;
pub mod cli;
pub mod client;
pub mod config;
mod connections;
pub mod control;
pub mod counts;
pub mod doctor;
pub mod drops;
pub mod ebpf;
pub mod logged;
pub mod metrics;
pub mod nic;
pub mod numa;
pub mod observe;
pub mod outlet;
pub mod page_pool;
pub mod protocol;
pub mod report;
pub mod status;
pub mod steer;
pub mod sys;
#[cfg(feature = "tui")]
pub mod top;
mod xsk;

pub use xsk::{RingRequest, RingSizes};
