//! The maps between the program and the agent: their names, sizes and value types.
//!
//! | map | kind | key | value |
//! | --- | --- | --- | --- |
//! | [`XSKS`] | `BPF_MAP_TYPE_XSKMAP` | queue | the AF_XDP socket bound to that queue |
//! | [`GENERATION`] | `BPF_MAP_TYPE_ARRAY` of one | 0 | `u32`: which generation is in force, 0 or 1 |
//! | [`SETS`] | `BPF_MAP_TYPE_ARRAY` | generation | [`Set`](crate::search::Set) |
//! | [`SHAPES`] | `BPF_MAP_TYPE_ARRAY` | generation × [`MAX_SHAPES`] + place | [`Shape`](crate::search::Shape) |
//! | [`UNITS`] | `BPF_MAP_TYPE_ARRAY` | generation × [`MAX_UNITS`] + place | [`Unit`](crate::search::Unit) |
//! | [`QUEUES`] | `BPF_MAP_TYPE_ARRAY` | generation × [`MAX_RULES`] + rule | `u64`: queues that steer, a bit each |
//! | [`RULE_COUNTS`] | `BPF_MAP_TYPE_PERCPU_ARRAY` | counter of a rule | [`Count`] |
//! | [`REDIRECT_MAP`] | `BPF_MAP_TYPE_ARRAY` of one | 0 | `u32`: the kernel's id of [`XSKS`] |
//! | [`REDIRECT_ERRORS`] | `BPF_MAP_TYPE_PERCPU_ARRAY` of one | 0 | [`RedirectErrors`] |
//! | [`DECISIONS`] | `BPF_MAP_TYPE_PERCPU_ARRAY` | [`Decision`](crate::Decision) | `u64`: frames |

/// The sockets. The slot has to be the queue that the socket is bound to: the kernel drops what is
/// redirected to a socket of another queue (`net/xdp/xsk.c: xsk_rcv_check`).
pub const XSKS: &str = "XSKS";

/// Which generation of the rules is in force. The two values differ in one byte, so that no writing of it can
/// be seen halfway.
pub const GENERATION: &str = "GENERATION";

/// The heads of both generations.
pub const SETS: &str = "SETS";

/// The shapes, in the order in which they are searched.
pub const SHAPES: &str = "SHAPES";

/// The tables of all shapes.
pub const UNITS: &str = "UNITS";

/// The queues of rules that are limited to some.
pub const QUEUES: &str = "QUEUES";

/// What each rule has matched, per CPU.
pub const RULE_COUNTS: &str = "RULE_COUNTS";

/// The counters, one per decision and CPU.
pub const DECISIONS: &str = "DECISIONS";

/// Of which map's redirects the errors are counted.
pub const REDIRECT_MAP: &str = "REDIRECT_MAP";

/// Redirects that failed after the program had ended, by errno, per CPU.
pub const REDIRECT_ERRORS: &str = "REDIRECT_ERRORS";

/// What the kernel may answer on the way to a socket (`net/xdp/xsk.c`), by name and number
/// (`asm-generic/errno-base.h`, `asm-generic/errno.h`).
pub const REDIRECT_ERRNOS: [(&str, u32); 5] =
    [("ENXIO", 6), ("EINVAL", 22), ("ENOSPC", 28), ("ENOMEM", 12), ("ENOBUFS", 105)];

/// A counter for each of [`REDIRECT_ERRNOS`], in that order, and one for all others.
pub type RedirectErrors = [u64; REDIRECT_ERRNOS.len() + 1];

/// Slots of [`XSKS`]: queues from this one on have no socket, so that their frames go to the stack.
pub const MAX_QUEUES: u32 = 64;

/// Rules in one generation.
pub const MAX_RULES: u32 = 10_000;

/// Counters of rules: more than there are rules, since a new rule never takes that of one which a frame in
/// flight may still match.
pub const MAX_COUNTERS: u32 = 2 * MAX_RULES;

/// Shapes in one generation.
pub const MAX_SHAPES: u32 = 32;

/// Units of the tables of one generation: 4 MiB.
pub const MAX_UNITS: u32 = 1 << 17;

/// Generations: one in force, one to be written.
pub const GENERATIONS: u32 = 2;

/// The name of the program, as the kernel and `bpftool prog` show it.
pub const PROGRAM: &str = "umemd";

/// The name of the same program for packets in several buffers (`xdp.frags`).
pub const PROGRAM_FRAGS: &str = "umemd_frags";

/// The name of the program that counts failed redirects.
pub const PROGRAM_REDIRECT: &str = "umemd_redirect";

/// A global of the program: bytes of the tag that a switch chip puts behind the MAC addresses (DSA).
pub const SWITCH_TAG: &str = "SWITCH_TAG";

/// A global of the program: 1 if it may subtract packet pointers, which takes `CAP_PERFMON`.
pub const SUBTRACTS: &str = "SUBTRACTS";

/// What a rule has matched on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Frames.
    pub packets: u64,
    /// Their bytes, from the Ethernet header on.
    pub bytes: u64,
}

#[cfg(feature = "user")]
mod pod {
    #![expect(unsafe_code, reason = "aya::Pod vouches for the layout of map values")]

    // SAFETY:
    // - Any bytes are a valid value: both fields are integers.
    // - No uninitialised byte is read: `repr(C)`, and two words of eight bytes leave no room for a hole.
    unsafe impl aya::Pod for super::Count {}
}
