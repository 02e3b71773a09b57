//! Redirects that fail after the program has ended: the kernel tells nobody but a tracepoint why.
//!
//! Only those of our own socket map are counted. That is told by the map's id, a number among the tracepoint's
//! arguments, so that no pointer of the kernel's need be followed.

use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::{Array, PerCpuArray};
use aya_ebpf::programs::RawTracePointContext;
use umemd_common::maps::{MAX_QUEUES, REDIRECT_ERRNOS, RedirectErrors};

#[map]
static REDIRECT_MAP: Array<u32> = Array::with_max_entries(1, 0);

#[map]
static REDIRECT_ERRORS: PerCpuArray<RedirectErrors> = PerCpuArray::with_max_entries(1, 0);

/// `xdp_redirect_err(dev, xdp, tgt, err, map_type, map_id, index)` (include/trace/events/xdp.h).
#[raw_tracepoint(tracepoint = "xdp_redirect_err")]
fn umemd_redirect(ctx: RawTracePointContext) -> i32 {
    let (error, map, queue): (i32, u32, u32) = (ctx.arg(3), ctx.arg(5), ctx.arg(6));
    // The queue is one of ours wherever the map is. But before Linux 5.13 the tracepoint told a pointer instead of
    // type and id, and had no argument 6: there the kernel refuses this program, instead of letting it count nothing.
    if REDIRECT_MAP.get(0) == Some(&map) && queue < MAX_QUEUES {
        count(error.unsigned_abs());
    }
    0
}

#[inline(always)]
fn count(errno: u32) {
    let Some(counters) = REDIRECT_ERRORS.get_ptr_mut(0) else { return };
    // SAFETY:
    // - Valid: the helper returned it, and array elements live as long as the program.
    // - Unshared: it is this CPU's own, and redirects end with bottom halves off.
    let [named @ .., other] = unsafe { &mut *counters };
    for (counter, (_, number)) in named.iter_mut().zip(REDIRECT_ERRNOS) {
        if number == errno {
            *counter += 1;
            return;
        }
    }
    *other += 1;
}
