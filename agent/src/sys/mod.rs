//! The few system calls that no library has: small, audited, and the only unsafe code beside `crate::xsk`.

pub mod batch;
mod bpf;
pub mod ethtool;
pub mod grace;
mod guarded;
pub mod link;
pub mod thread_clock;
