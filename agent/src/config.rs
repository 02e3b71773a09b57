//! What to run, as plain data that was validated once.

use std::{net::SocketAddr, time::Duration};

use frame_pool::{FrameLayout, LayoutError};
use thiserror::Error;
use umemd_common::rule::Rule;

use crate::{
    cli::{HandlerArg, ModeArg, RunArgs},
    steer::{self, RuleError},
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
    pub rules: Vec<Rule>,
    /// What to do with the frames.
    pub handler: HandlerArg,
    /// Where the XDP program runs.
    pub mode: ModeArg,
    /// How the socket is bound.
    pub bind: BindMode,
    /// Shape of the UMEM of each queue.
    pub layout: FrameLayout,
    /// CPUs of the workers, in the order of the queues.
    pub cpus: Option<Vec<usize>>,
    /// Where the HTTP listener binds.
    pub listen: SocketAddr,
    /// When to stop without being told.
    pub duration: Option<Duration>,
    /// JSON instead of a table.
    pub json: bool,
    /// Skip the lock-out guard.
    pub force: bool,
    /// Let the XDP program log.
    pub log_program: bool,
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

impl TryFrom<RunArgs> for RunConfig {
    type Error = ConfigError;

    fn try_from(args: RunArgs) -> Result<Self, ConfigError> {
        // Destructured without `..`, so that a new flag cannot be forgotten here.
        let RunArgs {
            ifaces,
            netns,
            queues,
            steer,
            handler,
            mode,
            copy: _, // the default; the flag exists to be said
            zerocopy,
            frames,
            frame_size,
            cpus,
            listen,
            duration,
            json,
            force,
            log_program,
        } = args;

        refuse_duplicates("--iface", &ifaces)?;
        refuse_duplicates("--queues", queues.as_deref().unwrap_or_default())?;
        if ![2048, 4096].contains(&frame_size) {
            return Err(ConfigError::FrameSize(frame_size));
        }
        if !frames.is_power_of_two() || !(64..=262_144).contains(&frames) {
            return Err(ConfigError::Frames(frames));
        }
        let layout = FrameLayout::new(frame_size, frames)
            .map_err(|source| ConfigError::Layout { frames, frame_size, source })?;

        Ok(Self {
            ifaces,
            netns,
            queues,
            rules: steer::compile(&steer)?,
            handler,
            mode,
            bind: if zerocopy { BindMode::ZeroCopy } else { BindMode::Copy },
            layout,
            cpus,
            listen,
            duration,
            json,
            force,
            log_program,
        })
    }
}

fn refuse_duplicates<T: PartialEq + ToString>(flag: &'static str, values: &[T]) -> Result<(), ConfigError> {
    for (i, value) in values.iter().enumerate() {
        if values[..i].contains(value) {
            return Err(ConfigError::Twice { flag, value: value.to_string() });
        }
    }
    Ok(())
}
