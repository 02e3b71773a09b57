//! What to do about what is missing: a plan that people can read before they agree.

use std::env;
use std::fmt;
use std::path::PathBuf;

use super::apt::{self, RustPackages};
use super::needs::Lacks;
use crate::shell;
use crate::toolchain::{self, Missing};

/// Who can help on this machine.
#[derive(Debug)]
pub(crate) struct Offers {
    /// Whether apt is here.
    pub(crate) apt: bool,
    /// The packages that apt has no version of.
    pub(crate) unknown: Vec<String>,
    /// apt's rustc for eBPF, if it has a new one.
    pub(crate) rust: Option<RustPackages>,
    /// Whether rustup is here.
    pub(crate) rustup: bool,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Install these packages of Debian.
    Apt(Vec<String>),
    /// Let rustup fetch something.
    Rustup(&'static [&'static str]),
    /// Build bpf-linker for this LLVM.
    Linker(u32),
}

/// Lines for people, and steps.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// What is missing, and how it is got.
    lines: Vec<(String, String)>,
    /// In order.
    pub(crate) steps: Vec<Step>,
    /// What neither apt nor rustup can get, by the names of Debian's packages.
    pub(crate) by_hand: Vec<String>,
}

impl Offers {
    /// Asks this machine, about what is missing only.
    pub(crate) fn ask(lacks: &Lacks) -> Self {
        let apt = apt::is_here();
        let rust = if apt && asks_for_rust(lacks) { apt::rust_packages() } else { None };
        let mut packages: Vec<String> = lacks.needs.iter().map(|need| need.package.to_owned()).collect();
        packages.extend(rust.as_ref().filter(|_| lacks.cross_std).map(|rust| rust.cross_std.to_owned()));
        packages.extend(llvm(lacks, rust.as_ref()).map(|version| format!("llvm-{version}-dev")));
        let unknown = if apt { apt::unknown(&packages) } else { packages };
        Self { apt, unknown, rust, rustup: shell::which("rustup").is_some() }
    }
}

impl Plan {
    /// What these offers can do about these lacks.
    pub(crate) fn new(lacks: &Lacks, offers: &Offers) -> Self {
        let mut plan = Self::default();
        let mut packages = Vec::new();
        let mut want = |plan: &mut Self, what: &str, package: String| {
            let known = offers.apt && !offers.unknown.contains(&package);
            let list = if known { &mut packages } else { &mut plan.by_hand };
            list.push(package.clone());
            plan.lines.push((what.to_owned(), package));
        };
        for need in &lacks.needs {
            want(&mut plan, need.what, need.package.to_owned());
        }
        let llvm = llvm(lacks, offers.rust.as_ref());
        if let Some(version) = llvm.filter(|version| !has_llvm(*version)) {
            want(&mut plan, "LLVM, for bpf-linker", format!("llvm-{version}-dev"));
        }
        if lacks.cross_std {
            let what = "rustc with std for aarch64";
            match &offers.rust {
                Some(found) => want(&mut plan, what, found.cross_std.to_owned()),
                None if offers.rustup => {
                    plan.steps.push(Step::Rustup(&["target", "add", "aarch64-unknown-linux-gnu"]));
                    plan.lines.push((what.to_owned(), "rustup target add".to_owned()));
                }
                None => plan.by_hand.push("rustc with libstd-rust-dev:arm64, or rustup".to_owned()),
            }
        }
        let mut last = None;
        match &lacks.toolchain {
            None => {}
            Some(Missing::Compiler { .. }) => {
                let what = format!("rustc with core for {}", toolchain::TARGET);
                let way = match &offers.rust {
                    _ if env::var_os("UMEMD_BPF_RUSTC").is_some() => {
                        plan.by_hand.push("what UMEMD_BPF_RUSTC names".to_owned());
                        "UMEMD_BPF_RUSTC names no such rustc: unset it".to_owned()
                    }
                    Some(found) => {
                        packages.extend(found.rust.map(str::to_owned));
                        found.rust.join(" ")
                    }
                    None if offers.rustup => {
                        last = Some(Step::Rustup(&["component", "add", "rust-src"]));
                        let rustup = "rustup component add rust-src";
                        // The lists may be old or not there yet: then apt is asked again first.
                        if offers.apt {
                            format!("apt if its lists have it, or {rustup}")
                        } else {
                            rustup.to_owned()
                        }
                    }
                    None => {
                        plan.by_hand.push("rustc with libstd-rust-dev-bpf, or rustup".to_owned());
                        "Debian's libstd-rust-dev-bpf, or rustup's rust-src".to_owned()
                    }
                };
                plan.lines.push((what, way));
                // Which linker it needs is known for sure only once the compiler is there.
                plan.lines.push((linker(), "cargo install, afterwards".to_owned()));
            }
            Some(Missing::Linker { path, llvm }) => {
                plan.lines.push((linker(), format!("cargo install, for LLVM {llvm}")));
                if path.starts_with(toolchain::linker_root(*llvm)) {
                    last = Some(Step::Linker(*llvm));
                } else {
                    plan.by_hand.push("what UMEMD_BPF_LINKER names".to_owned());
                }
            }
        }
        if !packages.is_empty() {
            plan.steps.push(Step::Apt(packages));
        }
        plan.steps.extend(last);
        plan
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Missing:")?;
        for (what, way) in &self.lines {
            writeln!(f, "  {what:<42} {way}")?;
        }
        Ok(())
    }
}

/// Where LLVM of that version is: Debian's folder, unless the environment says another.
pub(crate) fn llvm_prefix(version: u32) -> PathBuf {
    env::var_os("LLVM_PREFIX").map_or_else(|| format!("/usr/lib/llvm-{version}").into(), PathBuf::from)
}

fn has_llvm(version: u32) -> bool {
    llvm_prefix(version).join("bin/llvm-config").is_file()
        && llvm_prefix(version).join("include/llvm-c").is_dir()
}

/// The LLVM to build bpf-linker with: the compiler's, or that of the compiler to be installed.
fn llvm(lacks: &Lacks, rust: Option<&RustPackages>) -> Option<u32> {
    match &lacks.toolchain {
        Some(Missing::Linker { llvm, .. }) => Some(*llvm),
        Some(Missing::Compiler { .. }) => rust.and_then(|packages| packages.llvm),
        None => None,
    }
}

/// Whether something is missing that comes with a rustc of Debian's.
pub(crate) fn asks_for_rust(lacks: &Lacks) -> bool {
    lacks.cross_std || matches!(lacks.toolchain, Some(Missing::Compiler { .. }))
}

fn linker() -> String {
    format!("bpf-linker {}", toolchain::LINKER_VERSION)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No machine has this one.
    const LLVM: u32 = 9999;

    fn nothing(toolchain: Missing) -> Lacks {
        Lacks { needs: Vec::new(), toolchain: Some(toolchain), ..Lacks::default() }
    }

    fn no_compiler() -> Lacks {
        nothing(Missing::Compiler { asked: Vec::new() })
    }

    fn no_linker() -> Lacks {
        nothing(Missing::Linker { path: toolchain::linker_root(LLVM).join("bin/bpf-linker"), llvm: LLVM })
    }

    fn debian() -> Offers {
        let rust = RustPackages {
            rust: ["rustc", "libstd-rust-dev-bpf"],
            cross_std: "libstd-rust-dev:arm64",
            llvm: Some(LLVM),
        };
        Offers { apt: true, unknown: Vec::new(), rust: Some(rust), rustup: true }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn debian_installs_compiler_and_llvm_in_one_go() {
        let plan = Plan::new(&no_compiler(), &debian());
        assert_eq!(plan.steps, [Step::Apt(names(&["llvm-9999-dev", "rustc", "libstd-rust-dev-bpf"]))]);
        assert!(plan.by_hand.is_empty(), "{plan:?}");
    }

    #[test]
    fn the_linker_is_built_once_the_compiler_is_known() {
        let plan = Plan::new(&no_linker(), &debian());
        assert_eq!(plan.steps, [Step::Apt(names(&["llvm-9999-dev"])), Step::Linker(LLVM)]);
    }

    #[test]
    fn without_a_new_rustc_in_apt_rustup_fetches_the_source() {
        let plan = Plan::new(&no_compiler(), &Offers { rust: None, ..debian() });
        assert_eq!(plan.steps, [Step::Rustup(&["component", "add", "rust-src"])]);
    }

    #[test]
    fn std_for_aarch64_comes_with_debians_rustc_or_by_rustup() {
        let lacks = Lacks { cross_std: true, ..Lacks::default() };
        let plan = Plan::new(&lacks, &debian());
        assert_eq!(plan.steps, [Step::Apt(names(&["libstd-rust-dev:arm64"]))]);
        let plan = Plan::new(&lacks, &Offers { rust: None, ..debian() });
        assert_eq!(plan.steps, [Step::Rustup(&["target", "add", "aarch64-unknown-linux-gnu"])]);
        let plan = Plan::new(&lacks, &Offers { rust: None, rustup: false, ..debian() });
        assert_eq!(plan.by_hand, ["rustc with libstd-rust-dev:arm64, or rustup"]);
    }

    #[test]
    fn what_nobody_has_is_named() {
        let nobody = Offers { apt: false, unknown: names(&["llvm-9999-dev"]), rust: None, rustup: false };
        let plan = Plan::new(&no_linker(), &nobody);
        assert_eq!(plan.by_hand, ["llvm-9999-dev"]);
        assert_eq!(Plan::new(&no_compiler(), &nobody).by_hand, ["rustc with libstd-rust-dev-bpf, or rustup"]);
    }
}
