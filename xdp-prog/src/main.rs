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

use core::hint::black_box;

use aya_ebpf::bindings::xdp_action::{XDP_PASS, XDP_REDIRECT};
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, PerCpuArray, XskMap};
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::debug;
use umemd_common::maps::{MAX_QUEUES, MAX_RULES};
use umemd_common::{Decision, Key, Rule, View, decide, parse};

#[map]
static XSKS: XskMap = XskMap::with_max_entries(MAX_QUEUES, 0);

#[map]
static RULES: Array<Rule> = Array::with_max_entries(MAX_RULES, 0);

#[map]
static RULE_COUNT: Array<u32> = Array::with_max_entries(1, 0);

#[map]
static DECISIONS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Decision::COUNT as u32, 0);

/// The entry point.
#[xdp]
fn umemd(ctx: XdpContext) -> u32 {
    steer(&ctx)
}

/// The same where packets may have several buffers, of which the first one has the headers.
#[xdp(frags)]
fn umemd_frags(ctx: XdpContext) -> u32 {
    steer(&ctx)
}

#[inline(always)]
fn steer(ctx: &XdpContext) -> u32 {
    let key = parse(&Frame::of(ctx));
    let (decision, action) = act(decide(&key, rules()), ctx);
    count(decision);
    report(ctx, &key, decision);
    action
}

/// The bytes of a frame, between the pointers that the verifier knows as its start and end.
struct Frame {
    start: usize,
    end: usize,
}

impl Frame {
    #[inline(always)]
    fn of(ctx: &XdpContext) -> Self {
        Self { start: ctx.data(), end: ctx.data_end() }
    }

    /// The bytes at a packet pointer.
    #[inline(always)]
    fn load_at<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        if at + N > self.end {
            return None;
        }
        // SAFETY:
        // - In bounds: the frame goes on until `end`, and the last byte lies before it.
        // - Alignment: an array of bytes has none.
        Some(unsafe { *(at as *const [u8; N]) })
    }
}

impl View for Frame {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.load_at(self.start + offset)
    }

    /// Moves by a constant for each bit of `words`, in a branch that is not empty: of an empty one LLVM would
    /// make an addition of what is only known at run time. What is in there must not be the pointer itself, for
    /// that would put it on the stack, where no part of it may be overwritten.
    #[inline(always)]
    fn load_behind<const N: usize>(&self, offset: usize, words: u8) -> Option<[u8; N]> {
        let mut at = self.start + offset;
        for bit in 0..4 {
            if words & 1 << bit != 0 {
                at += 4 << bit;
                black_box(());
            }
        }
        self.load_at(at)
    }
}

/// The rules in force, in their order.
#[inline(always)]
fn rules() -> impl Iterator<Item = &'static Rule> {
    let count = RULE_COUNT.get(0).copied().unwrap_or(0);
    // Two bounds: the constant one is for the verifier.
    (0..MAX_RULES).take_while(move |&place| place < count).map_while(|place| RULES.get(place))
}

/// Does what was decided; the redirect finds out whether the queue has a socket.
#[inline(always)]
fn act(decision: Decision, ctx: &XdpContext) -> (Decision, u32) {
    if decision != Decision::Steered {
        return (decision, XDP_PASS);
    }
    // An empty slot, or a queue beyond the map, gives back the action in the flags.
    match XSKS.redirect(ctx.rx_queue_index(), u64::from(XDP_PASS)) {
        Ok(_) => (Decision::Steered, XDP_REDIRECT),
        Err(_) => (Decision::NoSocket, XDP_PASS),
    }
}

#[inline(always)]
fn count(decision: Decision) {
    if let Some(counter) = DECISIONS.get_ptr_mut(decision as u32) {
        // SAFETY:
        // - Valid: the helper returned it, and array elements live as long as the program.
        // - Unshared: it is this CPU's own, and XDP runs with bottom halves off.
        unsafe { *counter += 1 };
    }
}

/// Logs a frame, if the agent asked for it when it loaded the program.
///
/// `AYA_LOG_LEVEL` is a constant by then, so that the verifier removes all of this where it is off.
#[inline(always)]
fn report(ctx: &XdpContext, key: &Key, decision: Decision) {
    debug!(
        ctx,
        "queue {}: ethertype {:x} proto {} ports {} -> {}: {}",
        ctx.rx_queue_index(),
        key.ether_proto,
        key.ip_proto,
        key.src_port,
        key.dst_port,
        decision.name(),
    );
}

/// Nothing may panic, and the verifier proves it: it refuses a program that can come here, as it would
/// never end.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!("xdp-prog is compiled for the kernel, and loaded by umemd");
}

/// The helpers that we call are open to any licence, but those that aya-log may call are not.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
