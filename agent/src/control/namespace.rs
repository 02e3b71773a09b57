//! `--netns`: moves this thread, and with it every thread started later, into a network namespace.

use std::{fs::File, path::PathBuf};

use anyhow::{Context as _, Result};
use rustix::{fd::AsFd as _, thread::LinkNameSpaceType};

/// Enters the namespace named as `ip netns` names it, or given as a path such as `/proc/PID/ns/net`.
///
/// Sockets opened before, such as the HTTP listener, stay where they are.
pub fn enter(name_or_path: &str) -> Result<()> {
    let path = if name_or_path.contains('/') {
        PathBuf::from(name_or_path)
    } else {
        // Where ip-netns(8) keeps them.
        PathBuf::from("/run/netns").join(name_or_path)
    };
    let file = File::open(&path).with_context(|| {
        format!(
            "there is no network namespace {name_or_path} ({}); `ip netns list` shows them",
            path.display()
        )
    })?;
    rustix::thread::move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("cannot enter network namespace {name_or_path}; that needs CAP_SYS_ADMIN"))
}
