//! Why a frame went where it went.

/// One variant per reason; the discriminant is the index of its counter in [`DECISIONS`].
///
/// A frame is counted exactly once, so that the counters sum to the frames that the program saw.
///
/// [`DECISIONS`]: crate::maps::DECISIONS
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decision {
    /// A rule steers it, and the queue's socket was there to take the frame.
    ///
    /// `bpf_redirect_map()` accepted it; the socket may still drop it (its ring is full, no frame was on the
    /// fill ring), which `XDP_STATISTICS` counts and the program cannot see.
    Steered = 0,
    /// A rule steers it, but the queue has no socket: the frame went to the stack.
    NoSocket = 1,
    /// A rule steers it on other queues than this one: the frame went to the stack.
    OtherQueue = 2,
    /// A rule passes it: the frame went to the stack.
    Passed = 3,
    /// A rule drops it.
    Dropped = 4,
    /// No rule matched: the frame went to the stack.
    Unmatched = 5,
    /// No rule matched, and the frame ended inside a header: it went to the stack.
    Truncated = 6,
    /// No rule matched, and its IP header contradicts itself: the frame went to the stack.
    Malformed = 7,
    /// No rule matched, and the default is to drop.
    UnmatchedDropped = 8,
    /// No rule matched, the frame ended inside a header, and the default is to drop.
    TruncatedDropped = 9,
    /// No rule matched, its IP header contradicts itself, and the default is to drop.
    MalformedDropped = 10,
}

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Into the socket of its queue (`XDP_REDIRECT`).
    Redirect,
    /// Up the kernel's network stack (`XDP_PASS`).
    Pass,
    /// Nowhere (`XDP_DROP`).
    Drop,
}

impl Decision {
    /// How many there are: the entries of the counter map.
    pub const COUNT: usize = Self::ALL.len();

    /// Every decision, in the order of its counters.
    pub const ALL: [Self; 11] = [
        Self::Steered,
        Self::NoSocket,
        Self::OtherQueue,
        Self::Passed,
        Self::Dropped,
        Self::Unmatched,
        Self::Truncated,
        Self::Malformed,
        Self::UnmatchedDropped,
        Self::TruncatedDropped,
        Self::MalformedDropped,
    ];

    /// The name in metrics and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Steered => "steered",
            Self::NoSocket => "no_socket",
            Self::OtherQueue => "other_queue",
            Self::Passed => "passed",
            Self::Dropped => "dropped",
            Self::Unmatched => "unmatched",
            Self::Truncated => "truncated",
            Self::Malformed => "malformed",
            Self::UnmatchedDropped => "unmatched_dropped",
            Self::TruncatedDropped => "truncated_dropped",
            Self::MalformedDropped => "malformed_dropped",
        }
    }

    /// One line for people: what it counts.
    #[must_use]
    pub const fn help(self) -> &'static str {
        match self {
            Self::Steered => "matched a rule and went to the queue's socket",
            Self::NoSocket => "matched a rule and went to the stack, as the queue has no socket",
            Self::OtherQueue => "matched a rule that steers on other queues and went to the stack",
            Self::Passed => "matched a rule that passes and went to the stack",
            Self::Dropped => "matched a rule that drops",
            Self::Unmatched => "matched no rule and went to the stack",
            Self::Truncated => "matched no rule, ended inside a header and went to the stack",
            Self::Malformed => "matched no rule, has a bad IP header and went to the stack",
            Self::UnmatchedDropped => "matched no rule and was dropped by default",
            Self::TruncatedDropped => "matched no rule, ended inside a header and was dropped by default",
            Self::MalformedDropped => "matched no rule, has a bad IP header and was dropped by default",
        }
    }

    /// Where a frame with this decision goes.
    #[must_use]
    pub const fn action(self) -> Action {
        match self {
            Self::Steered => Action::Redirect,
            Self::NoSocket
            | Self::OtherQueue
            | Self::Passed
            | Self::Unmatched
            | Self::Truncated
            | Self::Malformed => Action::Pass,
            Self::Dropped | Self::UnmatchedDropped | Self::TruncatedDropped | Self::MalformedDropped => {
                Action::Drop
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_decision_has_the_counter_of_its_place() {
        for (index, decision) in Decision::ALL.into_iter().enumerate() {
            assert_eq!(decision as usize, index, "{}", decision.name());
        }
    }

    #[test]
    fn names_are_distinct_snake_case() {
        for (index, decision) in Decision::ALL.into_iter().enumerate() {
            let name = decision.name();
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
            assert!(Decision::ALL[..index].iter().all(|other| other.name() != name), "{name} twice");
        }
    }
}
