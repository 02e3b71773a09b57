//! What can go wrong with the program, and what to do then.

use std::io;

use aya::EbpfError;
use rustix::thread::{CapabilitySet, capabilities};
use thiserror::Error;

use super::{LoadOptions, Mode};
use crate::nic::{self, Link, drivers};
use crate::steer::TablesError;

/// Why the program was not loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    /// `EPERM`.
    #[error("not permitted to {what}: {}", permission(missing))]
    Permission {
        /// What was tried.
        what: &'static str,
        /// The capabilities that it needs and this thread does not have.
        missing: Vec<&'static str>,
    },
    /// Anything else.
    #[error("cannot {what}")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// What aya says, with the verifier's log.
        source: EbpfError,
    },
}

impl LoadError {
    pub(super) fn from_aya(what: &'static str, options: LoadOptions, source: EbpfError) -> Self {
        let missing = missing(options);
        match errno(&source) {
            Some(libc::EPERM) => Self::Permission { what, missing },
            // The verifier's: of code that it allows to the privileged only, of a helper that it does not know, or of
            // a mistake.
            Some(libc::EACCES | libc::EINVAL) if !missing.is_empty() => Self::Permission { what, missing },
            // It had too far to walk, since without this one it also goes where a mispredicted branch would lead
            // (seen: 7.3 on arm64).
            Some(libc::E2BIG) if !may_subtract() => Self::Permission { what, missing: vec!["CAP_PERFMON"] },
            _ => Self::Kernel { what, source },
        }
    }
}

fn permission(missing: &[&str]) -> String {
    if missing.is_empty() {
        // A capability that is there does not help outside of the initial user namespace.
        return "no capability is missing, so a seccomp filter, a security module or a user namespace forbids it; \
                run it outside of the container"
            .to_owned();
    }
    format!("{} missing; run as root, or grant it", missing.join(" and "))
}

/// What loading needs and this thread does not have. Before Linux 5.8, `CAP_SYS_ADMIN` stood for two of them.
fn missing(options: LoadOptions) -> Vec<&'static str> {
    let Ok(sets) = capabilities(None) else {
        return Vec::new();
    };
    let has = |any: CapabilitySet| sets.effective.intersects(any);
    let mut missing = Vec::new();
    if !has(CapabilitySet::BPF | CapabilitySet::SYS_ADMIN) {
        missing.push("CAP_BPF");
    }
    if !has(CapabilitySet::NET_ADMIN) {
        missing.push("CAP_NET_ADMIN");
    }
    if (options.log || loading_takes_perfmon(drivers::linux_version())) && !has(PERFMON) {
        missing.push("CAP_PERFMON");
    }
    missing
}

/// Whether a Linux of this version takes the program only from who has [`PERFMON`], even without its log.
///
/// aya-log moves pointers by what is only known at run time. Without `CAP_PERFMON` the verifier also goes where a
/// mispredicted branch would lead, into the log's code, which is dead; since 6.17 it puts a barrier before what it
/// cannot prove there, and refuses it before that (seen: 6.12 does, 6.18 does not).
pub(crate) fn loading_takes_perfmon(linux: (u32, u32)) -> bool {
    linux < (6, 17)
}

/// Before Linux 5.8, `CAP_SYS_ADMIN` stood for it.
pub(crate) const PERFMON: CapabilitySet = CapabilitySet::PERFMON.union(CapabilitySet::SYS_ADMIN);

/// Whether the verifier lets this thread's programs subtract packet pointers (`kernel/bpf/verifier.c:
/// adjust_reg_min_max_vals`, `allow_ptr_leaks`).
pub(super) fn may_subtract() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.intersects(PERFMON))
}

/// Why the program was not attached.
#[derive(Debug, Error)]
pub enum AttachError {
    /// `EBUSY` or `EEXIST`: there is a program already, and it is not ours to remove.
    #[error("{interface} has an XDP program already{}; {}", program(*id), owner_hint(*id))]
    Occupied {
        /// The interface.
        interface: String,
        /// The kernel's id of that program; `None` if it sits on the device above or below.
        id: Option<u32>,
        /// What the kernel said.
        source: io::Error,
    },
    /// The driver has no XDP.
    #[error("the driver of {interface} has no {mode} XDP; pass `--mode skb` to do without")]
    NoNative {
        /// The interface.
        interface: String,
        /// The mode asked for.
        mode: Mode,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel has no `bpf_link` for XDP; another attachment would outlive this process.
    #[error("{interface} cannot be attached to by a bpf_link, which takes Linux 5.9")]
    NoBpfLink {
        /// The interface.
        interface: String,
    },
    /// Anything else.
    #[error("cannot attach to {interface} in {mode} mode{}", attach_hint(*mode))]
    Kernel {
        /// The interface.
        interface: String,
        /// The mode asked for.
        mode: Mode,
        /// What the kernel said.
        source: io::Error,
    },
}

impl AttachError {
    pub(super) fn new(interface: &Link, mode: Mode, source: io::Error) -> Self {
        let Link { name, index, .. } = interface;
        let interface = name.clone();
        match source.raw_os_error() {
            Some(libc::EBUSY | libc::EEXIST) => {
                let links = nic::links().unwrap_or_default();
                let attached = links.iter().find(|link| link.index == *index).and_then(|link| link.xdp);
                let id = attached.map(|xdp| xdp.program_id).filter(|id| *id != 0);
                Self::Occupied { interface, id, source }
            }
            Some(libc::EOPNOTSUPP) if mode == Mode::Native => Self::NoNative { interface, mode, source },
            _ => Self::Kernel { interface, mode, source },
        }
    }
}

fn program(id: Option<u32>) -> String {
    id.map(|id| format!(", id {id}")).unwrap_or_default()
}

fn owner_hint(id: Option<u32>) -> String {
    match id {
        Some(id) => format!("`bpftool prog show id {id}` says whose it is; it has to detach first"),
        None => "`bpftool net` shows which device has it; it has to detach first".to_owned(),
    }
}

fn attach_hint(mode: Mode) -> &'static str {
    match mode {
        // A driver may have XDP, but not with this MTU, these offloads or these queues.
        Mode::Native => "; the kernel log may say why the driver refuses, `--mode skb` does without it",
        Mode::Skb => "",
    }
}

/// Why a map of the program was not changed or read.
#[derive(Debug, Error)]
pub enum MapError {
    /// More shapes or entries than the maps have room for.
    #[error(transparent)]
    Tables(#[from] TablesError),
    /// Nobody can say when the program is through with the old rules, so that they cannot be overwritten.
    #[error(
        "the kernel does not say when the XDP program is through with the old rules; restart umemd with the new ones"
    )]
    Grace {
        /// Why.
        source: io::Error,
    },
    /// The kernel refused.
    #[error("cannot reach the {what} in the XDP program")]
    Map {
        /// What was to be changed or read.
        what: String,
        /// Why.
        source: aya::maps::MapError,
    },
}

/// The errno behind an error of aya, which wraps it more or less deeply.
pub(super) fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return io.raw_os_error();
        }
        next = error.source();
    }
    None
}
