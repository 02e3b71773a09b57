//! The maps between the program and the agent: their names, sizes and value types.
//!
//! | map | kind | key | value |
//! | --- | --- | --- | --- |
//! | [`XSKS`] | `BPF_MAP_TYPE_XSKMAP` | queue | the AF_XDP socket bound to that queue |
//! | [`RULES`] | `BPF_MAP_TYPE_ARRAY` | place, first match wins | [`Rule`](crate::Rule) |
//! | [`RULE_COUNT`] | `BPF_MAP_TYPE_ARRAY` of one | 0 | `u32`: how many of `RULES` are in force |
//! | [`DECISIONS`] | `BPF_MAP_TYPE_PERCPU_ARRAY` | [`Decision`](crate::Decision) | `u64`: frames |

/// The sockets. The slot has to be the queue that the socket is bound to: the kernel drops what is
/// redirected to a socket of another queue (`net/xdp/xsk.c: xsk_rcv_check`).
pub const XSKS: &str = "XSKS";

/// The rules.
pub const RULES: &str = "RULES";

/// How many rules are in force.
pub const RULE_COUNT: &str = "RULE_COUNT";

/// The counters, one per decision and CPU.
pub const DECISIONS: &str = "DECISIONS";

/// Slots of [`XSKS`]: queues from this one on have no socket, so that their frames go to the stack.
pub const MAX_QUEUES: u32 = 64;

/// Entries of [`RULES`].
pub const MAX_RULES: u32 = 64;

/// The name of the program, as the kernel and `bpftool prog` show it.
pub const PROGRAM: &str = "umemd";

/// The name of the same program for packets in several buffers (`xdp.frags`).
pub const PROGRAM_FRAGS: &str = "umemd_frags";
