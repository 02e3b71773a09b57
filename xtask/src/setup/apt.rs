//! Debian's package manager: what it has, and how it is asked to install.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{shell, toolchain};

/// The packages of a rustc that compiles for the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RustPackages {
    /// rustc, and its `core` for eBPF.
    pub(crate) rust: [&'static str; 2],
    /// Its `std` for aarch64; a candidate only where apt knows that architecture.
    pub(crate) cross_std: &'static str,
    /// The major version of the LLVM in it, as far as the packages tell.
    pub(crate) llvm: Option<u32>,
}

/// Names of rustc and its libraries: Debian 12 has an old `rustc`, and a new `rustc-web` for its browsers.
const RUST: [([&str; 2], &str); 2] = [
    (["rustc", "libstd-rust-dev-bpf"], "libstd-rust-dev:arm64"),
    (["rustc-web", "libstd-rust-web-dev-bpf"], "libstd-rust-web-dev:arm64"),
];

/// Whether this machine has apt.
pub(crate) fn is_here() -> bool {
    shell::which("apt-get").is_some() && shell::which("apt-cache").is_some()
}

/// Those of these packages that apt has no version of.
pub(crate) fn unknown(packages: &[String]) -> Vec<String> {
    let policy = if packages.is_empty() { String::new() } else { policy(packages).unwrap_or_default() };
    packages.iter().filter(|name| candidate(&policy, name).is_none()).cloned().collect()
}

/// The rustc for eBPF that apt has, if it has one that is new enough.
pub(crate) fn rust_packages() -> Option<RustPackages> {
    let policy = policy(&RUST.iter().flat_map(|(rust, _)| rust).map(ToString::to_string).collect::<Vec<_>>());
    let (rust, cross_std) = choose(&policy.ok()?)?;
    let recommends =
        shell::run_quietly(Command::new("apt-cache").arg("depends").args(rust)).unwrap_or_default();
    Some(RustPackages { rust, cross_std, llvm: llvm_of(&recommends) })
}

/// Installs packages; asks for nothing, and never removes another package to make room.
pub(crate) fn install(packages: &[String]) -> Result<()> {
    let attempt = || {
        let mut apt = as_root("apt-get")?;
        apt.args(["install", "--yes", "--quiet", "--no-install-recommends", "--no-remove"]);
        shell::run_quietly(apt.args(["-o", "DPkg::Lock::Timeout=300"]).args(packages))
    };
    let what = format!("apt-get install {}", packages.join(" "));
    shell::step(&what, || {
        attempt().or_else(|_| {
            // The lists may name versions that the mirror no longer has.
            update()?;
            attempt()
        })?;
        Ok(())
    })
}

/// Fetches the lists of packages.
pub(crate) fn update() -> Result<()> {
    shell::step("apt-get update", || {
        shell::run_quietly(as_root("apt-get")?.args(["update", "--quiet", "-o", "DPkg::Lock::Timeout=300"]))?;
        Ok(())
    })
}

/// Lets apt offer packages of arm64 beside this machine's own.
pub(crate) fn add_arm64() -> Result<()> {
    shell::step("dpkg --add-architecture arm64", || {
        shell::run_quietly(as_root("dpkg")?.args(["--add-architecture", "arm64"])).map(drop)
    })
}

fn as_root(program: &str) -> Result<Command> {
    let mut command = if shell::is_root() {
        Command::new("env")
    } else {
        let sudo = shell::which("sudo").context("installing packages needs root, and there is no sudo")?;
        let mut sudo = Command::new(sudo);
        sudo.arg("env");
        sudo
    };
    command.args(["DEBIAN_FRONTEND=noninteractive", "LC_ALL=C", program]);
    Ok(command)
}

fn policy(packages: &[String]) -> Result<String> {
    shell::run_quietly(Command::new("apt-cache").env("LC_ALL", "C").arg("policy").args(packages))
}

/// The version of a package that apt would install, out of `apt-cache policy`.
fn candidate<'a>(policy: &'a str, package: &str) -> Option<&'a str> {
    let header = format!("{package}:");
    let of_package = policy.lines().skip_while(|line| *line != header).skip(1);
    let mut fields = of_package.take_while(|line| line.starts_with(' '));
    fields.find_map(|line| line.trim().strip_prefix("Candidate: ")).filter(|version| *version != "(none)")
}

/// The first pair of names that both have a version new enough for our crates, and what belongs to it.
fn choose(policy: &str) -> Option<([&'static str; 2], &'static str)> {
    let wanted = toolchain::parse_release(env!("CARGO_PKG_RUST_VERSION"));
    let release = |name| candidate(policy, name).and_then(toolchain::parse_release);
    RUST.into_iter().find(|(names, _)| names.iter().all(|name| release(name) >= wanted))
}

/// The version of LLVM that `apt-cache depends` shows behind Debian's rustc.
fn llvm_of(depends: &str) -> Option<u32> {
    let names = depends.lines().filter_map(|line| line.trim().split_once(": ")).map(|(_, name)| name);
    let mut versions = names.filter_map(|name| {
        let version =
            ["libllvm", "llvm-", "lld-", "clang-"].iter().find_map(|begin| name.strip_prefix(begin))?;
        version.parse().ok()
    });
    versions.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOKWORM: &str = "\
libstd-rust-web-dev-bpf:
  Installed: (none)
  Candidate: 1.96.0+dfsg1-1~deb12u2
  Version table:
     1.96.0+dfsg1-1~deb12u2 500
libstd-rust-dev-bpf:
  Installed: (none)
  Candidate: (none)
  Version table:
rustc:
  Installed: (none)
  Candidate: 1.63.0+dfsg1-2
  Version table:
rustc-web:
  Installed: (none)
  Candidate: 1.96.0+dfsg1-1~deb12u2
";

    #[test]
    fn candidates_are_read_from_the_policy() {
        assert_eq!(candidate(BOOKWORM, "rustc"), Some("1.63.0+dfsg1-2"));
        assert_eq!(candidate(BOOKWORM, "libstd-rust-dev-bpf"), None);
        assert_eq!(candidate(BOOKWORM, "llvm-22-dev"), None);
    }

    #[test]
    fn debian_12_takes_the_browsers_rustc() {
        assert_eq!(choose(BOOKWORM), Some(RUST[1]));
    }

    #[test]
    fn a_new_rustc_goes_by_its_own_name() {
        let sid = "rustc:\n  Candidate: 1.97.1+dfsg1-1\nlibstd-rust-dev-bpf:\n  Candidate: 1.97.1+dfsg1-1\n";
        assert_eq!(choose(sid), Some(RUST[0]));
    }

    #[test]
    fn an_old_rustc_is_none() {
        assert_eq!(choose(&BOOKWORM.replace("1.96", "1.85")), None);
    }

    #[test]
    fn llvm_is_read_from_the_dependencies() {
        let depends = "rustc-web\n  Depends: libc6\n  Depends: <libc-dev>\nlibstd-rust-web-dev-bpf\n  Recommends: lld-22\n";
        assert_eq!(llvm_of(depends), Some(22));
        assert_eq!(llvm_of("rustc\n  Depends: libc6\n"), None);
    }
}
