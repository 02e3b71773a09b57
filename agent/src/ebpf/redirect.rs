//! Redirects that fail after the XDP program has ended, by errno.
//!
//! The kernel reports them to the tracepoint `xdp_redirect_err` only, which a second program listens to. It is
//! there if the kernel has it and this process may trace; if not, that is said, and nothing else depends on it.

use aya::{
    Ebpf,
    maps::{Array, Map, MapData, PerCpuArray},
    programs::RawTracePoint,
};
use umemd_common::maps::{self, PROGRAM_REDIRECT, REDIRECT_ERRNOS, REDIRECT_ERRORS, REDIRECT_MAP, XSKS};

/// The tracepoint, which names the map by its id since Linux 5.13.
const TRACEPOINT: &str = "xdp_redirect_err";

/// The name that all other errors are counted under.
const OTHER: &str = "other";

/// Failed redirects by the name of their errno, or why nobody counts them.
pub type RedirectErrors = Result<Vec<(&'static str, u64)>, String>;

/// The counters of one program.
pub(super) struct Counters(Result<PerCpuArray<MapData, maps::RedirectErrors>, String>);

impl Counters {
    /// Listens to the tracepoint from now on, for as long as `ebpf` lives.
    pub(super) fn attach(ebpf: &mut Ebpf) -> Self {
        Self(attach(ebpf))
    }

    /// What was counted so far.
    pub(super) fn read(&self) -> RedirectErrors {
        let counters = self.0.as_ref().map_err(Clone::clone)?;
        let per_cpu = counters.get(&0, 0).map_err(|error| error.to_string())?;
        let names = REDIRECT_ERRNOS.iter().map(|(name, _)| *name).chain([OTHER]);
        let sum = |index: usize| per_cpu.iter().map(|counts| counts[index]).sum();
        Ok(names.enumerate().map(|(index, name)| (name, sum(index))).collect())
    }
}

fn attach(ebpf: &mut Ebpf) -> Result<PerCpuArray<MapData, maps::RedirectErrors>, String> {
    // Only a benchmark's object has none of this.
    let missing = || "this object does not count them".to_owned();
    let Some(Map::XskMap(sockets)) = ebpf.map(XSKS) else { return Err(missing()) };
    let id = sockets.info().map_err(|error| error.to_string())?.id();
    let map = ebpf.map_mut(REDIRECT_MAP).ok_or_else(missing)?;
    Array::<_, u32>::try_from(map)
        .and_then(|mut map| map.set(0, id, 0))
        .map_err(|error| error.to_string())?;
    let program: &mut RawTracePoint =
        ebpf.program_mut(PROGRAM_REDIRECT).and_then(|program| program.try_into().ok()).ok_or_else(missing)?;
    let listening = program.load().and_then(|()| program.attach(TRACEPOINT));
    listening.map_err(|error| match super::error::errno(&error) {
        Some(libc::EPERM | libc::EACCES) => {
            format!("listening to the tracepoint {TRACEPOINT} takes CAP_PERFMON")
        }
        Some(libc::ENOENT | libc::EINVAL) => {
            format!("this kernel has no tracepoint {TRACEPOINT} that names the map (Linux 5.13, CONFIG_BPF_EVENTS)")
        }
        _ => format!("the kernel refuses a program at the tracepoint {TRACEPOINT}: {error}"),
    })?;
    let counters = ebpf.take_map(REDIRECT_ERRORS).ok_or_else(missing)?;
    PerCpuArray::try_from(counters).map_err(|error| error.to_string())
}
