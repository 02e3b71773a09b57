//! What these tests need of the machine, and who is skipped without it.

use std::{
    io::{self, Write as _},
    process::Command,
    thread,
};

use rustix::thread::CapabilitySet;

use crate::command;

/// Something the kernel has or has not.
#[derive(Debug)]
pub struct Feature {
    name: &'static str,
    /// The first Linux that has it.
    since: (u32, u32),
}

/// The agent attaches by nothing else.
const BPF_LINK_XDP: Feature = Feature { name: "a bpf_link for XDP", since: (5, 9) };

/// Which queues are active, from netdev's netlink family.
pub const QUEUE_GET: Feature = Feature { name: "queue-get", since: (6, 8) };

/// Packets in several frames.
pub const XDP_USE_SG: Feature = Feature { name: "XDP_USE_SG", since: (6, 6) };

/// Whether this kernel has it. If not, says on stderr who is skipped and why.
pub fn kernel_has(feature: &Feature) -> bool {
    lacks(feature).is_none_or(|reason| skip(&reason))
}

/// Whether this kernel lacks it. If not, says on stderr who is skipped and why.
pub fn kernel_lacks(feature: &Feature) -> bool {
    lacks(feature).is_some() || skip(&format!("this kernel has {}", feature.name))
}

/// Makes a link, in words of `ip link add`, in namespace `netns`. Whether this kernel can: if it was built without such
/// links, says on stderr who is skipped.
///
/// # Panics
///
/// If it refuses for another reason.
#[track_caller]
pub fn kernel_makes(netns: &str, link: &str) -> bool {
    let mut ip = Command::new("ip");
    ip.args(["-netns", netns, "link", "add"]).args(link.split(' '));
    match command::run(&mut ip, "") {
        Ok(_) => true,
        Err(error)
            if ["Operation not supported", "Unknown device type"].iter().any(|no| error.contains(no)) =>
        {
            skip(&format!("this kernel has no link {link}"))
        }
        Err(error) => panic!("{error}"),
    }
}

/// Whether tests can run here. If not, says on stderr who is skipped and why.
///
/// A kernel that is new enough and still lacks something fails the test instead: that is worth knowing.
pub fn permits_tests() -> bool {
    missing().is_none_or(|reason| skip(&reason))
}

fn skip(reason: &str) -> bool {
    let name = thread::current().name().unwrap_or("a test").to_owned();
    // Written to the descriptor itself: what goes through `eprintln!` is shown of failing tests only. Cargo's
    // harness has begun a line by then.
    let _ = writeln!(io::stderr(), "\nskipped: {name}: {reason}");
    false
}

fn missing() -> Option<String> {
    let needed = [
        ("CAP_SYS_ADMIN", CapabilitySet::SYS_ADMIN),
        ("CAP_NET_ADMIN", CapabilitySet::NET_ADMIN),
        ("CAP_NET_RAW", CapabilitySet::NET_RAW),
    ];
    let effective = rustix::thread::capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    let lacking: Vec<&str> =
        needed.iter().filter(|(_, set)| !effective.contains(*set)).map(|(name, _)| *name).collect();
    if !lacking.is_empty() {
        return Some(format!(
            "needs root ({} missing); run `cargo xtask test e2e --runner 'sudo -E'`",
            lacking.join(", ")
        ));
    }
    lacks(&BPF_LINK_XDP)
}

/// Why this kernel does not have it.
fn lacks(&Feature { name, since }: &Feature) -> Option<String> {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    (version(&release)? < since)
        .then(|| format!("{name} needs Linux {}.{}, this is {release}", since.0, since.1))
}

/// `(6, 1)` of `6.1.0-18-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_have_versions() {
        assert_eq!(version("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(version("5.10"), Some((5, 10)));
        assert_eq!(version("unknown"), None);
        assert!((5, 8) < BPF_LINK_XDP.since && (5, 10) > BPF_LINK_XDP.since && (6, 0) > BPF_LINK_XDP.since);
    }
}
