//! What to run, as plain data that was validated once.

use std::{net::SocketAddr, time::Duration};

use frame_pool::{FrameLayout, LayoutError};
use thiserror::Error;
use umemd_common::maps::MAX_RULES;

use crate::{
    ebpf::Mode,
    steer::{self, RuleError, RuleSet},
};

/// Everything that `umemd run` was asked to do.
#[derive(Debug)]
pub struct RunConfig {
    /// Names of the interfaces to attach to; each once, at least one.
    pub ifaces: Vec<String>,
    /// Network namespace of the interfaces: a name of `ip netns` or a path.
    pub netns: Option<String>,
    /// Queues to serve; `None`: all active ones.
    pub queues: Option<Vec<u32>>,
    /// The compiled rules, in the order given.
    pub rules: RuleSet,
    /// What to do with the frames.
    pub handler: Handler,
    /// Where the XDP program runs.
    pub mode: Mode,
    /// How the socket is bound.
    pub bind: BindMode,
    /// Shape of the UMEM of each queue.
    pub layout: FrameLayout,
    /// CPUs of the workers, in the order of the queues.
    pub cpus: Option<Vec<usize>>,
    /// Where the HTTP listener binds.
    pub listen: SocketAddr,
    /// Names by which the listener may be called, beside addresses and this machine's own name.
    pub allow_hosts: Vec<String>,
    /// When to stop without being told.
    pub duration: Option<Duration>,
    /// JSON instead of a table.
    pub json: bool,
    /// Skip the lock-out guard.
    pub force: bool,
    /// Let the XDP program log.
    pub log_program: bool,
}

/// What is done with the frames that were steered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handler {
    /// Counted and dropped.
    Drop,
    /// Sent back to where they came from.
    Reflect,
}

/// `XDP_COPY` or `XDP_ZEROCOPY` (linux/if_xdp.h). One of them is always asked for by name: with neither
/// flag the kernel falls back from zero-copy to copy without a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindMode {
    /// The kernel copies each frame into the UMEM.
    Copy,
    /// The NIC writes into the UMEM.
    ZeroCopy,
}

/// What is wrong with what the user typed; exit code 2.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A rule that does not parse, with a caret under the word.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// More rules than the program has places for.
    #[error(
        "the rules compile to {0} entries, the XDP program has {MAX_RULES}; give fewer, or narrower ones"
    )]
    TooManyRules(usize),
    /// Sizes that no UMEM has.
    #[error("--frames {frames} --frame-size {frame_size} is no UMEM")]
    Layout {
        /// `--frames`.
        frames: u32,
        /// `--frame-size`.
        frame_size: u32,
        /// Why.
        source: LayoutError,
    },
    /// A frame size that the kernel or the page size refuses.
    #[error("--frame-size {0} is not possible: the kernel takes 2048 or 4096 (xdp_umem_reg)")]
    FrameSize(u32),
    /// A number of frames that no ring can be derived from.
    #[error("--frames {0} is not possible: a power of two from 64 to 262144 is")]
    Frames(u32),
    /// Something given twice.
    #[error("{flag} {value} is given twice")]
    Twice {
        /// Which flag.
        flag: &'static str,
        /// What stands there twice.
        value: String,
    },
}

/// The UMEM of one queue, if it is one that the kernel takes and that ring sizes can be derived from.
pub fn layout(frames: u32, frame_size: u32) -> Result<FrameLayout, ConfigError> {
    if ![2048, 4096].contains(&frame_size) {
        return Err(ConfigError::FrameSize(frame_size));
    }
    if !frames.is_power_of_two() || !(64..=262_144).contains(&frames) {
        return Err(ConfigError::Frames(frames));
    }
    FrameLayout::new(frame_size, frames).map_err(|source| ConfigError::Layout { frames, frame_size, source })
}

/// Compiles the rules, and refuses more than the XDP program has places for.
pub fn rules(texts: &[String]) -> Result<RuleSet, ConfigError> {
    let rules = steer::compile(texts)?;
    if rules.len() > MAX_RULES as usize { Err(ConfigError::TooManyRules(rules.len())) } else { Ok(rules) }
}

/// Refuses a list in which something stands twice: it would be opened twice.
pub fn refuse_duplicates<T: PartialEq + ToString>(
    flag: &'static str,
    values: &[T],
) -> Result<(), ConfigError> {
    for (i, value) in values.iter().enumerate() {
        if values[..i].contains(value) {
            return Err(ConfigError::Twice { flag, value: value.to_string() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_no_umem_has_are_refused() {
        assert!(layout(4096, 2048).is_ok());
        assert!(layout(64, 4096).is_ok());
        assert!(matches!(layout(4096, 3000), Err(ConfigError::FrameSize(3000))));
        for frames in [0, 1, 32, 4095, 1 << 19, u32::MAX] {
            assert!(matches!(layout(frames, 2048), Err(ConfigError::Frames(n)) if n == frames), "{frames}");
        }
    }

    #[test]
    fn a_queue_given_twice_is_refused() {
        assert!(refuse_duplicates("--queues", &[0, 2, 1]).is_ok());
        let error = refuse_duplicates("--queues", &[0, 2, 0]).unwrap_err().to_string();
        assert_eq!(error, "--queues 0 is given twice");
    }
}
