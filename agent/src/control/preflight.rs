//! What can be refused before anything is touched.

use anyhow::{Result, bail};
use rustix::{
    process::{Resource, Rlimit},
    thread::CapabilitySet,
};

use crate::{config::RunConfig, xsk};

/// Capabilities, and whether the kernel has AF_XDP.
pub(super) fn check(config: &RunConfig) -> Result<()> {
    capabilities(config.netns.is_some())?;
    xsk::probe()?;
    raise_memlock();
    Ok(())
}

/// What each step needs (capabilities(7)); root has them all.
fn capabilities(netns: bool) -> Result<()> {
    let missing = missing(rustix::thread::capabilities(None)?.effective, netns);
    if missing.is_empty() {
        return Ok(());
    }
    bail!("missing {}; run as root, for example with sudo", missing.join(", "))
}

/// What no kernel does without. Whether one wants `CAP_PERFMON` to load the program, only loading tells: its version
/// says neither what a distribution brought back to it, nor whether it was booted with `mitigations=off`.
fn missing(have: CapabilitySet, netns: bool) -> Vec<String> {
    // Before Linux 5.8 there was no CAP_BPF; CAP_SYS_ADMIN stood for it and still does.
    let needs = [
        ("CAP_NET_RAW", "open AF_XDP sockets", CapabilitySet::NET_RAW),
        ("CAP_NET_ADMIN", "attach an XDP program", CapabilitySet::NET_ADMIN),
        ("CAP_BPF", "load an XDP program", CapabilitySet::BPF | CapabilitySet::SYS_ADMIN),
    ];
    let mut missing: Vec<String> = needs
        .into_iter()
        .filter(|(_, _, any_of)| !have.intersects(*any_of))
        .map(|(name, what, _)| format!("{name} to {what}"))
        .collect();
    if netns && !have.contains(CapabilitySet::SYS_ADMIN) {
        missing.push("CAP_SYS_ADMIN to enter --netns".into());
    }
    missing
}

/// Raises the limit of locked memory as far as it goes: kernels before 5.11 count BPF maps against it, and every
/// kernel the UMEM, unless CAP_IPC_LOCK is there. That it cannot be raised is no error yet: if the limit turns
/// out too low, the UMEM is refused with ENOBUFS, which is explained there.
fn raise_memlock() {
    let limit = rustix::process::getrlimit(Resource::Memlock);
    if limit.current.is_none() {
        return;
    }
    let unlimited = Rlimit { current: None, maximum: None };
    if rustix::process::setrlimit(Resource::Memlock, unlimited).is_err() {
        let highest = Rlimit { current: limit.maximum, maximum: limit.maximum };
        let _ = rustix::process::setrlimit(Resource::Memlock, highest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_some_kernels_want_is_left_to_them() {
        let three = CapabilitySet::NET_RAW | CapabilitySet::NET_ADMIN | CapabilitySet::BPF;
        assert_eq!(missing(three, false), [""; 0]);
        assert_eq!(missing(three, true), ["CAP_SYS_ADMIN to enter --netns"]);
        assert_eq!(missing(three - CapabilitySet::BPF, false), ["CAP_BPF to load an XDP program"]);
        assert_eq!(missing((three - CapabilitySet::BPF) | CapabilitySet::SYS_ADMIN, true), [""; 0]);
    }
}
