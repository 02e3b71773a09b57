//! Finds what the XDP program is built with, and builds it.
//!
//! Two programs include this file by `#[path]`, so that they cannot disagree: `agent/build.rs` builds
//! with what is found here, and `cargo xtask setup` installs what is not. It uses nothing but std.
//!
//! Two parts are needed:
//! - a rustc that has `core` for `bpfel-unknown-none`, either prebuilt (Debian's `libstd-rust-*-dev-bpf`)
//!   or as source to build from (rustup's component `rust-src`), and
//! - bpf-linker, linked to the LLVM that this rustc has: an older LLVM cannot read newer bitcode.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

/// The target of the XDP program: eBPF, little-endian as every board of ours.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// The release of bpf-linker that `cargo xtask setup` installs.
pub(crate) const LINKER_VERSION: &str = "0.13.0";

/// The variables that say which tools to take instead of those found; for `cargo:rerun-if-env-changed`.
pub(crate) const OVERRIDES: [&str; 2] = ["UMEMD_BPF_RUSTC", "UMEMD_BPF_LINKER"];

/// A rustc that can compile for [`TARGET`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Compiler {
    /// The rustc itself, not rustup's proxy of it.
    pub(crate) rustc: PathBuf,
    /// The major version of its LLVM, which bpf-linker has to share.
    pub(crate) llvm: u32,
    /// Whether `core` is built from `rust-src`, because it is not there prebuilt.
    pub(crate) build_std: bool,
}

/// All that [`build_program`] needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Toolchain {
    pub(crate) compiler: Compiler,
    /// bpf-linker, linked to the compiler's LLVM.
    pub(crate) linker: PathBuf,
}

/// What [`find`] did not find.
#[derive(Debug)]
pub(crate) enum Missing {
    /// No rustc has `core` for the target; these were asked, each with what it lacks.
    Compiler { asked: Vec<String> },
    /// There is no bpf-linker at `path` for this version of LLVM.
    Linker { path: PathBuf, llvm: u32 },
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compiler { asked } if asked.is_empty() => {
                write!(f, "no rustc found to build the XDP program")?
            }
            Self::Compiler { asked } => {
                write!(f, "no rustc can build the XDP program ({})", asked.join("; "))?
            }
            Self::Linker { path, llvm } => write!(f, "no bpf-linker for LLVM {llvm} at {}", path.display())?,
        }
        f.write_str("; run `cargo xtask setup`")
    }
}

impl std::error::Error for Missing {}

/// Finds the compiler and its linker.
///
/// # Errors
///
/// [`Missing`] names the first part that is not there.
pub(crate) fn find() -> Result<Toolchain, Missing> {
    let compiler = find_compiler()?;
    let linker = linker_path(compiler.llvm);
    if !linker.is_file() {
        return Err(Missing::Linker { path: linker, llvm: compiler.llvm });
    }
    Ok(Toolchain { compiler, linker })
}

/// Finds the compiler: `UMEMD_BPF_RUSTC` if set, else one with a prebuilt `core`, else one with its source.
///
/// # Errors
///
/// [`Missing::Compiler`] lists who was asked.
pub(crate) fn find_compiler() -> Result<Compiler, Missing> {
    let mut asked = Vec::new();
    let mut from_source = None;
    for rustc in candidates() {
        match examine(&rustc) {
            Ok(compiler) if !compiler.build_std => return Ok(compiler),
            Ok(compiler) => from_source = from_source.or(Some(compiler)),
            Err(lack) => asked.push(format!("{}: {lack}", rustc.display())),
        }
    }
    from_source.ok_or(Missing::Compiler { asked })
}

/// Where bpf-linker is, or where `cargo xtask setup` puts it.
pub(crate) fn linker_path(llvm: u32) -> PathBuf {
    match env::var_os("UMEMD_BPF_LINKER") {
        Some(path) => path.into(),
        None => linker_root(llvm).join("bin/bpf-linker"),
    }
}

/// The `--root` of our bpf-linker: a folder of its own, so that nobody's bpf-linker is overwritten, and
/// one per version of LLVM, so that a newer rustc finds no linker instead of one that cannot read it.
pub(crate) fn linker_root(llvm: u32) -> PathBuf {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(env::temp_dir);
    cache.join(format!("umemd/bpf-linker-{LINKER_VERSION}-llvm-{llvm}"))
}

/// Every rustc worth asking, the likeliest first.
pub(crate) fn candidates() -> Vec<PathBuf> {
    if let Some(rustc) = env::var_os("UMEMD_BPF_RUSTC") {
        return vec![rustc.into()];
    }
    let mut found = vec![PathBuf::from("/usr/bin/rustc")];
    found.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()).map(|dir| dir.join("rustc")));
    found.extend(nightlies());
    let mut seen = Vec::new();
    found.retain(|rustc| match fs::canonicalize(rustc) {
        Ok(real) if !seen.contains(&real) => {
            seen.push(real);
            true
        }
        _ => false,
    });
    found
}

/// rustup's nightly compilers, read off its folder: asking rustup may make it download one.
fn nightlies() -> Vec<PathBuf> {
    let rustup = env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".rustup")));
    let Some(toolchains) = rustup.and_then(|home| fs::read_dir(home.join("toolchains")).ok()) else {
        return Vec::new();
    };
    let mut nightlies: Vec<PathBuf> = toolchains
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("nightly"))
        .map(|entry| entry.path().join("bin/rustc"))
        .collect();
    nightlies.sort();
    nightlies
}

/// Asks one rustc what it is and what it has; the error says what it lacks.
fn examine(rustc: &Path) -> Result<Compiler, String> {
    let (release, llvm) = parse_version(&ask(rustc, &["-vV"])?).ok_or("prints no version of its LLVM")?;
    let wanted = env!("CARGO_PKG_RUST_VERSION");
    if parse_release(&release) < parse_release(wanted) {
        return Err(format!("is {release}, older than {wanted}"));
    }
    let sysroot = PathBuf::from(ask(rustc, &["--print", "sysroot"])?);
    // Behind rustup's proxy the answer depends on the folder and the environment it is asked in.
    let real = sysroot.join("bin/rustc");
    let rustc = if real.is_file() { real } else { rustc.to_owned() };
    let libraries = ask(&rustc, &["--print", "target-libdir", "--target", TARGET])?;
    let prebuilt = fs::read_dir(libraries).is_ok_and(|mut dir| {
        dir.any(|entry| entry.is_ok_and(|e| e.file_name().to_string_lossy().starts_with("libcore-")))
    });
    if !prebuilt && !sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file() {
        return Err(format!("has neither core for {TARGET} nor rust-src"));
    }
    Ok(Compiler { rustc, llvm, build_std: !prebuilt })
}

fn ask(rustc: &Path, arguments: &[&str]) -> Result<String, String> {
    let output =
        Command::new(rustc).args(arguments).output().map_err(|error| format!("does not run: {error}"))?;
    if !output.status.success() {
        return Err(format!("`{}` fails ({})", arguments.join(" "), output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Release and major version of LLVM from `rustc -vV`.
fn parse_version(verbose: &str) -> Option<(String, u32)> {
    let field = |name: &str| verbose.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let llvm = field("LLVM version:")?.split('.').next()?.parse().ok()?;
    Some((field("release:")?.to_owned(), llvm))
}

/// `(major, minor)` of "1.95.0", "1.95" or "1.97.0-nightly".
pub(crate) fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// Why [`build_program`] has no program to give.
#[derive(Debug)]
pub(crate) enum BuildError {
    /// Cargo could not be started.
    Start { cargo: PathBuf, source: io::Error },
    /// Cargo said what is wrong.
    Failed { status: ExitStatus, said: String },
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start { cargo, .. } => {
                write!(f, "cannot start {} to build the XDP program", cargo.display())
            }
            Self::Failed { status, said } => {
                write!(f, "the XDP program does not build ({status}); cargo says:\n{}", said.trim_end())
            }
        }
    }
}

impl std::error::Error for BuildError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Start { source, .. } => Some(source),
            Self::Failed { .. } => None,
        }
    }
}

/// What the compiler and the linker are told: types for the kernel to show, and instructions of Linux 4.14: the 32-bit ones of
/// later ones spill half a stack slot, where the verifier allows none without CAP_PERFMON.
///
/// Headers are aligned to two bytes at best, and Rust knows. From LLVM 22 on the linker can be told that this does not
/// matter, as it does not on x86-64 and arm64; before, each number is read byte by byte.
fn flags(llvm: u32) -> Vec<&'static str> {
    let mut flags = vec!["-Clink-arg=--btf", "-Ctarget-cpu=v2"];
    if llvm >= 22 {
        flags.push("-Clink-arg=--cpu-features=+allows-misaligned-mem-access");
    }
    flags
}

/// Builds package `xdp-prog` of the workspace at `workspace` and returns the path of the object.
///
/// `target_dir` must not be the one of a cargo that waits for us, which holds its lock: a build script takes a folder
/// below it. Several may build there at once, one after the other. stdout stays clean, and stderr too: a build
/// script's is not shown.
///
/// # Errors
///
/// When cargo cannot be started or fails.
pub(crate) fn build_program(
    toolchain: &Toolchain,
    workspace: &Path,
    target_dir: &Path,
) -> Result<PathBuf, BuildError> {
    let Compiler { rustc, llvm, build_std } = &toolchain.compiler;
    let cargo = cargo_for(&toolchain.compiler);
    let mut command = Command::new(&cargo);
    for (name, _) in env::vars_os().filter(|(name, _)| belongs_to_outer_cargo(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    command
        .current_dir(workspace)
        .args(["build", "--package", "xdp-prog", "--profile", "xdp", "--target", TARGET])
        .arg("--target-dir")
        .arg(target_dir)
        .env("RUSTC", rustc)
        // aya-ebpf needs `asm_experimental_arch`, cargo needs leave for -Z; a nightly does not mind.
        .env("RUSTC_BOOTSTRAP", "1")
        // An empty wrapper is none, whatever the user's configuration says: clippy and sccache stay out.
        .env("RUSTC_WRAPPER", "")
        .env("RUSTC_WORKSPACE_WRAPPER", "")
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &toolchain.linker)
        // This variable beats every other source of flags: those of the host are not for the kernel.
        .env("CARGO_ENCODED_RUSTFLAGS", flags(*llvm).join("\x1f"))
        .stdin(Stdio::null());
    if *build_std {
        command.args(["-Z", "build-std=core"]);
    }
    let output = command.output().map_err(|source| BuildError::Start { cargo, source })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(BuildError::Failed { status: output.status, said });
    }
    Ok(target_dir.join(TARGET).join("xdp/xdp-prog"))
}

/// The cargo to build with: the running one, but a `core` from source wants the cargo of its own release.
fn cargo_for(compiler: &Compiler) -> PathBuf {
    let beside = compiler.rustc.with_file_name("cargo");
    if compiler.build_std && beside.is_file() {
        return beside;
    }
    env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")).into()
}

/// Whether a variable tells of the build that runs us, and would mislead the one that we run.
///
/// Where cargo finds registries, the network and its jobserver stays as it is.
fn belongs_to_outer_cargo(name: &str) -> bool {
    const KEPT: [&str; 6] =
        ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "CARGO_SOURCE_", "CARGO_MAKEFLAGS"];
    let cargos = name.starts_with("CARGO") && !KEPT.iter().any(|kept| name.starts_with(kept));
    let rusts = name.starts_with("RUST") && !name.starts_with("RUSTUP_");
    cargos || rusts || name.starts_with("CLIPPY_") || name == "__CARGO_DEFAULT_LIB_METADATA"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_and_llvm_are_read_from_the_verbose_version() {
        let verbose =
            "rustc 1.96.0 (ac68faa20)\nbinary: rustc\nhost: x86_64\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(parse_version(verbose), Some(("1.96.0".to_owned(), 22)));
        assert_eq!(parse_version("rustc 1.96.0"), None);
    }

    #[test]
    fn releases_compare_as_numbers() {
        assert!(parse_release("1.100.0") > parse_release("1.95"));
        assert!(parse_release("1.97.0-nightly") > parse_release("1.95.0"));
        assert!(parse_release("1.85.0") < parse_release("1.95"));
    }

    #[test]
    fn the_outer_build_does_not_leak_into_ours() {
        for name in
            ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC_WORKSPACE_WRAPPER", "CARGO_TARGET_DIR", "CARGO"]
        {
            assert!(belongs_to_outer_cargo(name), "{name}");
        }
        for name in [
            "PATH",
            "HOME",
            "CARGO_HOME",
            "RUSTUP_HOME",
            "CARGO_NET_OFFLINE",
            "CARGO_REGISTRIES_CRATES_IO_INDEX",
        ] {
            assert!(!belongs_to_outer_cargo(name), "{name}");
        }
    }
}
