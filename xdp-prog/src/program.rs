//! What the program is made of: its maps, and what it does with a frame.
//!
//! Apart from its entry points, since a benchmark runs the very same behind one of its own.

use core::hint::black_box;
use core::ptr;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_REDIRECT};
use aya_ebpf::helpers::generated::bpf_xdp_get_buff_len;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, PerCpuArray, XskMap};
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::debug;
use umemd_common::decision::Action;
use umemd_common::maps::{Count, GENERATIONS, MAX_COUNTERS, MAX_QUEUES, MAX_RULES, MAX_SHAPES, MAX_UNITS};
use umemd_common::packet::{DSA_HLEN, MACS, vlan_of};
use umemd_common::search::{Hit, Set, Shape, Tables, Unit, Verdict};
use umemd_common::{Decision, View, judge};

#[map]
pub(crate) static XSKS: XskMap = XskMap::with_max_entries(MAX_QUEUES, 0);

#[map]
static GENERATION: Array<u32> = Array::with_max_entries(1, 0);

#[map]
static SETS: Array<Set> = Array::with_max_entries(GENERATIONS, 0);

#[map]
static SHAPES: Array<Shape> = Array::with_max_entries(GENERATIONS * MAX_SHAPES, 0);

#[map]
static UNITS: Array<Unit> = Array::with_max_entries(GENERATIONS * MAX_UNITS, 0);

#[map]
static QUEUES: Array<u64> = Array::with_max_entries(GENERATIONS * MAX_RULES, 0);

#[map]
pub(crate) static RULE_COUNTS: PerCpuArray<Count> = PerCpuArray::with_max_entries(MAX_COUNTERS, 0);

#[map]
pub(crate) static DECISIONS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Decision::COUNT as u32, 0);

/// Bytes of the tag behind the MAC addresses: set by the agent before the program is loaded, and a constant then.
#[unsafe(no_mangle)]
static SWITCH_TAG: u8 = 0;

/// 1 if who loads the program may have it subtract packet pointers (`CAP_PERFMON`): set and constant as `SWITCH_TAG`.
#[unsafe(no_mangle)]
static SUBTRACTS: u8 = 0;

/// Bytes of the switch's tag. Read anew wherever it is asked for: to the verifier it is a constant, so that it removes
/// what is for another length.
#[inline(always)]
fn switch_tag() -> u8 {
    // SAFETY: valid and constant; volatile, or the compiler would take the value from above.
    unsafe { ptr::read_volatile(&raw const SWITCH_TAG) }
}

/// How many buffers a packet may have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Buffers {
    One,
    Many,
}

/// Parse, decide, act, count.
#[inline(always)]
pub(crate) fn run(ctx: &XdpContext, buffers: Buffers) -> u32 {
    let frame = Frame::of(ctx);
    let Verdict { decision, hit } = judge(&Generation::in_force(), &frame, ctx.rx_queue_index());
    if hit.is_some() {
        count_rule(hit, ctx, buffers);
    }
    let (decision, action) = act(decision, ctx);
    count(decision);
    report(ctx, hit, decision);
    action
}

/// The tables in force when the frame came: read once, so that it sees one generation only.
struct Generation(u32);

impl Generation {
    #[inline(always)]
    fn in_force() -> Self {
        let generation = GENERATION.get_ptr(0).map_or(0, |generation| {
            // SAFETY:
            // - Valid: the helper returned it, and array elements live as long as the program.
            // - Read once, whatever the agent writes meanwhile: volatile.
            unsafe { ptr::read_volatile(generation) }
        });
        Self(generation & 1)
    }
}

impl Tables for Generation {
    #[inline(always)]
    fn set(&self) -> Option<&Set> {
        SETS.get(self.0)
    }

    #[inline(always)]
    fn shape(&self, place: u32) -> Option<&Shape> {
        SHAPES.get(self.0 * MAX_SHAPES + place)
    }

    #[inline(always)]
    fn unit(&self, place: u32) -> Option<&Unit> {
        UNITS.get(place)
    }

    #[inline(always)]
    fn queues(&self, rule: u32) -> u64 {
        QUEUES.get(self.0 * MAX_RULES + rule).copied().unwrap_or(0)
    }
}

/// The bytes of a frame, between the pointers that the verifier knows as its start and end.
pub(crate) struct Frame {
    start: usize,
    /// Where the MAC addresses would begin if no switch had put its tag behind them.
    behind_macs: usize,
    end: usize,
}

impl Frame {
    #[inline(always)]
    pub(crate) fn of(ctx: &XdpContext) -> Self {
        let tag = switch_tag();
        let mut behind_macs = ctx.data();
        // By constants, as in `load_behind`.
        if tag == 4 {
            behind_macs += 4;
            black_box(());
        } else if tag == 8 {
            behind_macs += 8;
            black_box(());
        }
        Self { start: ctx.data(), behind_macs, end: ctx.data_end() }
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
        let start = if offset < MACS { self.start } else { self.behind_macs };
        self.load_at(start + offset)
    }

    /// Moves by a constant for each bit of `words`, in a branch that is not empty: of an empty one LLVM would
    /// make an addition of what is only known at run time. What is in there must not be the pointer itself, for
    /// that would put it on the stack, where no part of it may be overwritten.
    #[inline(always)]
    fn load_behind<const N: usize>(&self, offset: usize, words: u8) -> Option<[u8; N]> {
        let mut at = self.behind_macs + offset;
        for bit in 0..4 {
            if words & 1 << bit != 0 {
                at += 4 << bit;
                black_box(());
            }
        }
        self.load_at(at)
    }

    /// The way with a VLAN tag moves the pointer, so that there is one parser behind both. A branch that is not empty, as
    /// in `load_behind`.
    #[inline(always)]
    fn vlan_of_switch(&self) -> (impl View, Option<u16>) {
        let mut behind_macs = self.behind_macs;
        let header = if switch_tag() == 0 { None } else { self.load_at(behind_macs + MACS - DSA_HLEN) };
        let id = header.and_then(vlan_of);
        if id.is_some() {
            behind_macs -= DSA_HLEN;
            black_box(());
        }
        (Self { behind_macs, ..*self }, id)
    }
}

/// Does what was decided; the redirect finds out whether the queue has a socket.
#[inline(always)]
pub(crate) fn act(decision: Decision, ctx: &XdpContext) -> (Decision, u32) {
    match decision.action() {
        Action::Pass => (decision, XDP_PASS),
        Action::Drop => (decision, XDP_DROP),
        // An empty slot, or a queue beyond the map, gives back the action in the flags.
        Action::Redirect => match XSKS.redirect(ctx.rx_queue_index(), u64::from(XDP_PASS)) {
            Ok(_) => (decision, XDP_REDIRECT),
            Err(_) => (Decision::NoSocket, XDP_PASS),
        },
    }
}

#[inline(always)]
pub(crate) fn count(decision: Decision) {
    if let Some(counter) = DECISIONS.get_ptr_mut(decision as u32) {
        // SAFETY:
        // - Valid: the helper returned it, and array elements live as long as the program.
        // - Unshared: it is this CPU's own, and XDP runs with bottom halves off.
        unsafe { *counter += 1 };
    }
}

#[inline(always)]
pub(crate) fn count_rule(hit: Hit, ctx: &XdpContext, buffers: Buffers) {
    if let Some(count) = RULE_COUNTS.get_ptr_mut(hit.counter()) {
        // SAFETY: as in `count`.
        unsafe {
            (*count).packets += 1;
            (*count).bytes += length(ctx, buffers);
        }
    }
}

/// Bytes of the packet, in all its buffers.
///
/// Two ways, since the difference of packet pointers takes `CAP_PERFMON`, and the helper a kernel that has it (5.18).
/// The verifier sees only the one that is taken.
#[inline(always)]
fn length(ctx: &XdpContext, buffers: Buffers) -> u64 {
    // SAFETY: as in `switch_tag`.
    let subtracts = unsafe { ptr::read_volatile(&raw const SUBTRACTS) } != 0;
    if buffers == Buffers::One && subtracts {
        // Or LLVM would subtract in front of the branch.
        black_box(());
        (ctx.data_end() - ctx.data()) as u64
    } else {
        // SAFETY: the helper takes the context that the kernel gave.
        unsafe { bpf_xdp_get_buff_len(ctx.as_ptr().cast()) }
    }
}

/// Logs a frame, if the agent asked for it when it loaded the program; rule 65535 is none.
///
/// `AYA_LOG_LEVEL` is a constant by then, so that the verifier removes all of this where it is off.
#[inline(always)]
fn report(ctx: &XdpContext, hit: Hit, decision: Decision) {
    debug!(ctx, "queue {}: rule {}: {}", ctx.rx_queue_index(), hit.rule(), decision.name());
}
