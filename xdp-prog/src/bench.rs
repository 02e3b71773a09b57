//! What the program is measured beside (`cargo xtask bench steer`), and the program itself on frames that change.
//!
//! The kernel runs a program many times over one frame (`BPF_PROG_TEST_RUN`), and what the program writes into the
//! frame is there the next time. So the frames of a benchmark are stirred from within.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// UNSAFETY: as in main.rs.
#![expect(unsafe_code, reason = "talks to the kernel in pointers; the verifier checks each of them")]

mod end;
mod program;

use core::mem;

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, HashMap};
use aya_ebpf::programs::XdpContext;
use umemd_common::View;
use umemd_common::decision::{Action, Decision};
use umemd_common::packet::{ETH_P_IP, ETH_P_IPV6, IPPROTO_UDP};
use umemd_common::search::Hit;

use crate::program::{Buffers, Frame, XSKS, act, count, count_rule};

/// The hand-written program's rules: destination ports of UDP.
#[map]
static PORTS: HashMap<u32, u32> = HashMap::with_max_entries(16384, 0);

/// Where the stirring is, and how many ports there are.
#[map]
static STIR: Array<[u32; 2]> = Array::with_max_entries(1, 0);

/// The program, on a frame that stays the same.
#[xdp]
fn umemd(ctx: XdpContext) -> u32 {
    program::run(&ctx, Buffers::One)
}

/// The program, each time on a frame for another port.
#[xdp]
fn umemd_stirred(ctx: XdpContext) -> u32 {
    stir(&ctx);
    program::run(&ctx, Buffers::One)
}

/// What takes nothing.
#[xdp]
fn nothing(_: XdpContext) -> u32 {
    XDP_PASS
}

/// What stirring takes.
#[xdp]
fn stirring(ctx: XdpContext) -> u32 {
    stir(&ctx);
    XDP_PASS
}

/// All frames to the socket.
#[xdp]
fn bare(ctx: XdpContext) -> u32 {
    XSKS.redirect(ctx.rx_queue_index(), u64::from(XDP_PASS)).unwrap_or(XDP_PASS)
}

/// `udp dst port N` and nothing else, as one writes it by hand: parse, one look-up of that key, counters, redirect.
#[xdp]
fn by_hand(ctx: XdpContext) -> u32 {
    let rule = udp_port(&Frame::of(&ctx)).and_then(|port| {
        // SAFETY: the value is read at once, and elements are not freed while the program runs.
        unsafe { PORTS.get(u32::from(port)) }.copied()
    });
    let decision = match rule {
        Some(rule) => {
            count_rule(Hit::new(0, rule as u16, Action::Redirect, false), &ctx, Buffers::One);
            Decision::Steered
        }
        None => Decision::Unmatched,
    };
    let (decision, action) = act(decision, &ctx);
    count(decision);
    action
}

/// The destination port of UDP over IPv4 or IPv6.
#[inline(always)]
fn udp_port(frame: &Frame) -> Option<u16> {
    match u16::from_be_bytes(frame.load(12)?) {
        ETH_P_IP => {
            let [version_ihl, _, _, _, _, _, high, low, _, protocol] = frame.load::<10>(14)?;
            let later_fragment = u16::from_be_bytes([high, low]) & 0x1fff != 0;
            if protocol != IPPROTO_UDP || later_fragment {
                return None;
            }
            Some(u16::from_be_bytes(frame.load_behind(16, version_ihl & 0x0f)?))
        }
        ETH_P_IPV6 => {
            let [next_header] = frame.load(20)?;
            if next_header != IPPROTO_UDP {
                return None;
            }
            Some(u16::from_be_bytes(frame.load(56)?))
        }
        _ => None,
    }
}

/// Writes the next port into a frame of UDP over IPv4 without options.
#[inline(always)]
fn stir(ctx: &XdpContext) {
    const PORT: usize = 36;
    let Some(stir) = STIR.get_ptr_mut(0) else { return };
    // SAFETY: the helper returned it; one benchmark runs at a time.
    let [state, ports] = unsafe { &mut *stir };
    *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    let port = (u64::from(*state) * u64::from(*ports)) >> 32;
    let at = ctx.data() + PORT;
    if at + mem::size_of::<u16>() <= ctx.data_end() {
        // SAFETY: in bounds, as just compared; aligned to two bytes, which a frame is.
        unsafe { *(at as *mut u16) = (port as u16).to_be() };
    }
}

#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!("compiled for the kernel, and run by `cargo xtask bench steer`");
}
