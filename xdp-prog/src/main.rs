//! The XDP program: parse, decide, act, count.
//!
//! What it decides is in `umemd-common`, where the host tests and predicts it; here is only what needs the
//! kernel: packet pointers, maps and the redirect. In doubt a frame is the stack's (`XDP_PASS`).
//!
//! It loads with `CAP_BPF` and `CAP_NET_ADMIN`. Without `CAP_PERFMON` a packet pointer may be compared and moved
//! by constants, but neither subtracted nor moved by what a frame says (`kernel/bpf/verifier.c: retrieve_ptr_limit`).

// On the host this is a program without a purpose, so that editors and lints can read it.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// UNSAFETY: a map is reached through a pointer that the helper gave, a frame through the context's.
#![expect(unsafe_code, reason = "talks to the kernel in pointers; the verifier checks each of them")]

mod end;
mod program;
mod redirect;

use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;

use crate::program::Buffers;

/// The entry point.
#[xdp]
fn umemd(ctx: XdpContext) -> u32 {
    program::run(&ctx, Buffers::One)
}

/// The same where packets may have several buffers, of which the first one has the headers.
#[xdp(frags)]
fn umemd_frags(ctx: XdpContext) -> u32 {
    program::run(&ctx, Buffers::Many)
}

#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!("xdp-prog is compiled for the kernel, and loaded by umemd");
}
