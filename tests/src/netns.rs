//! [`NetNs`]: a network namespace with a name, gone when it is dropped.
//!
//! aya's `NetNsGuard` moves the calling thread into its namespace. Here a test needs two at once, and has to
//! stay outside of both: the agent's HTTP listener is there.

use std::{
    fs::{self, File},
    os::fd::AsFd as _,
    path::Path,
    process::Command,
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::command;

/// Where ip-netns(8) keeps names.
const NAMES: &str = "/run/netns";
/// What all of ours begin with; the owner's pid, a number and a role follow.
const PREFIX: &str = "umemd-e2e-";

/// A network namespace of ours.
#[derive(Debug)]
pub struct NetNs {
    name: String,
}

impl NetNs {
    /// Creates one that is called `umemd-e2e-PID-NUMBER-ROLE`, with `lo` up and IPv6 off: neighbour discovery
    /// and router solicitation are traffic that no test sent.
    ///
    /// # Panics
    ///
    /// If the kernel or `ip` refuses.
    pub fn new(role: &str) -> Self {
        static STALE: Once = Once::new();
        STALE.call_once(remove_stale);
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{role}", std::process::id());
        command::ip(&["netns", "add", &name]);
        let netns = Self { name };
        netns.disable_ipv6();
        command::ip(&["-netns", &netns.name, "link", "set", "lo", "up"]);
        netns
    }

    /// Its name, as `ip netns` and `umemd --netns` know it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `f` in a thread inside the namespace. Sockets that it opens stay there.
    ///
    /// # Panics
    ///
    /// If the namespace cannot be entered, or `f` panics.
    #[track_caller]
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let path = Path::new(NAMES).join(&self.name);
        let inside = || {
            let file = File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .unwrap_or_else(|error| panic!("cannot enter {}: {error}", path.display()));
            f()
        };
        thread::scope(|scope| scope.spawn(inside).join())
            .unwrap_or_else(|_| panic!("failed in network namespace {}", self.name))
    }

    fn disable_ipv6(&self) {
        self.run(|| {
            for scope in ["default", "all"] {
                // Below /proc/sys/net a thread sees the namespace that it is in.
                let file = format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6");
                if Path::new(&file).exists() {
                    fs::write(&file, "1").unwrap_or_else(|error| panic!("{file}: {error}"));
                }
            }
        });
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        if let Err(error) = delete(&self.name) {
            assert!(thread::panicking(), "{error}");
            eprintln!("{error}");
        }
    }
}

fn delete(name: &str) -> Result<(), String> {
    command::run(Command::new("ip").args(["netns", "delete", name]), "").map(drop)
}

/// Removes what tests left that were killed: namespaces of ours whose owner is no more.
fn remove_stale() {
    for entry in fs::read_dir(NAMES).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if owner(&name).is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // Another test program may be doing the same.
            let _ = delete(&name);
        }
    }
}

/// The pid in the name of one of our namespaces.
fn owner(name: &str) -> Option<&str> {
    let pid = name.strip_prefix(PREFIX)?.split('-').next()?;
    (!pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit())).then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_namespaces_have_an_owner() {
        assert_eq!(owner("umemd-e2e-123-0-near"), Some("123"));
        for other in ["umemd-e2e--0-near", "umemd-near-123", "umemd-e2e-x-0-far", "blue"] {
            assert_eq!(owner(other), None, "{other}");
        }
    }
}
