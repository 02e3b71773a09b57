//! Builds for aarch64 boards on another machine: umemd, and what the board rig runs in its guests.
//!
//! The programs are static, so that they run whatever the board's C library is: Debian's, an old one, or none.

use std::env::consts;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::cli::Install;
use crate::{compile, setup, shell, toolchain};

/// The architecture, as people say it and as rustc's `ARCH` does.
pub(crate) const ARCH: &str = "aarch64";

/// The same in rustc's words.
const TRIPLE: &str = "aarch64-unknown-linux-gnu";

/// Debian's prefix of the C tools.
pub(crate) const TOOLS: &str = "aarch64-linux-gnu-";

/// Sets up, builds umemd (release), and says where it is: static and without symbols, unless this is such a machine.
pub(crate) fn umemd(install: Install) -> Result<PathBuf> {
    setup::cross(install)?;
    if consts::ARCH == ARCH {
        return compile::release();
    }
    build_umemd(&["--release"])
}

/// The same of the dev profile.
pub(crate) fn umemd_dev(install: Install) -> Result<PathBuf> {
    setup::cross(install)?;
    build_umemd(&[])
}

fn build_umemd(profile: &[&str]) -> Result<PathBuf> {
    let mut build = with_umemd(cargo("build")?, profile, revision());
    let built = compile::umemd(&compile::programs(&mut build)?)?;
    let image = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    ensure!(!has_interpreter(&image), "{} is not static: boards may lack its libraries", built.display());
    let folder = built.with_file_name("stripped");
    fs::create_dir_all(&folder)?;
    let stripped = folder.join(compile::UMEMD);
    strip(&built, &stripped)?;
    Ok(stripped)
}

/// The same for umemd alone, from this commit.
fn with_umemd(mut build: Command, profile: &[&str], revision: Option<String>) -> Command {
    build.args(["--package", compile::UMEMD, "--bin", compile::UMEMD]).args(profile);
    // What goes to other machines says what it is. Only that: all else would be built anew with each commit.
    if profile.contains(&"--release")
        && let Some(revision) = revision
    {
        build.env("UMEMD_REVISION", revision);
    }
    build
}

/// Makes a copy without symbols, which are two thirds of a program.
pub(crate) fn strip(program: &Path, to: &Path) -> Result<()> {
    let mut strip = Command::new(format!("{TOOLS}strip"));
    shell::run_quietly(strip.arg("-o").arg(to).arg(program)).map(drop)
}

/// Whether an ELF program of 64 bits, little endian, has to be loaded by another one (`PT_INTERP`): a dynamic one has.
fn has_interpreter(elf: &[u8]) -> bool {
    const PT_INTERP: u64 = 3;
    let number = |at: usize, bytes: usize| -> Option<u64> {
        let bytes = elf.get(at..at + bytes)?;
        Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    };
    // Elf64_Ehdr: e_phoff, e_phentsize, e_phnum; Elf64_Phdr: p_type.
    let headers = || Some((number(0x20, 8)? as usize, number(0x36, 2)? as usize, number(0x38, 2)? as usize));
    let (offset, size, count) = headers().unwrap_or_default();
    (0..count).any(|index| number(offset + index * size, 4) == Some(PT_INTERP))
}

/// The commit, and whether something was changed since; `None` outside of a repository.
fn revision() -> Option<String> {
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"])
        .current_dir(shell::workspace());
    Some(shell::run_quietly(&mut git).ok()?.trim().to_owned())
}

/// cargo's `build` or `test` for the boards.
pub(crate) fn cargo(subcommand: &str) -> Result<Command> {
    let rustc = compiler().with_context(|| format!("no rustc has std for {TRIPLE}"))?;
    Ok(cargo_with(&rustc, subcommand))
}

/// The same with this compiler.
fn cargo_with(rustc: &Path, subcommand: &str) -> Command {
    let mut cargo = shell::cargo();
    cargo.args([subcommand, "--target", TRIPLE]);
    // A folder of its own: rustc and the flags differ, and would throw out what is built for this machine.
    cargo.arg("--target-dir").arg(target_dir());
    cargo.env("RUSTC", rustc).env_remove("RUSTFLAGS");
    let variable = |name: &str| format!("CARGO_TARGET_{}_{name}", TRIPLE.to_uppercase().replace('-', "_"));
    cargo.env(variable("LINKER"), format!("{TOOLS}gcc"));
    cargo.env(variable("RUSTFLAGS"), "-Ctarget-feature=+crt-static");
    // libxdp-sys wraps its BPF objects with these, and knows no names for another target.
    cargo.env("LD", format!("{TOOLS}ld")).env("OBJCOPY", format!("{TOOLS}objcopy"));
    cargo.env("AR", format!("{TOOLS}ar"));
    cargo
}

/// Where cargo builds for the boards.
fn target_dir() -> PathBuf {
    shell::target_dir().join(ARCH)
}

/// A rustc that has std for the boards, and is new enough for our crates.
pub(crate) fn compiler() -> Option<PathBuf> {
    toolchain::candidates().into_iter().find(|rustc| {
        let ask = |args: &[&str]| shell::run_quietly(Command::new(rustc).args(args)).unwrap_or_default();
        let release =
            ask(&["-vV"]).lines().find_map(|line| line.strip_prefix("release: ").map(str::to_owned));
        let new_enough = release.is_some_and(|release| {
            toolchain::parse_release(&release) >= toolchain::parse_release(env!("CARGO_PKG_RUST_VERSION"))
        });
        new_enough && has_std(Path::new(ask(&["--print", "target-libdir", "--target", TRIPLE]).trim()))
    })
}

fn has_std(libraries: &Path) -> bool {
    let Ok(entries) = fs::read_dir(libraries) else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    /// What a command has in its environment beside ours: nothing is what it is to do without.
    fn variables(command: &Command) -> Vec<(String, Option<String>)> {
        let text = |text: &OsStr| text.to_str().unwrap().to_owned();
        command.get_envs().map(|(name, value)| (text(name), value.map(text))).collect()
    }

    #[test]
    fn umemd_is_built_for_a_board_as_one_static_program() {
        let build = |profile: &[&str]| {
            let cargo = cargo_with(Path::new("/usr/bin/rustc"), "build");
            with_umemd(cargo, profile, Some("0123456789ab".into()))
        };
        let release = build(&["--release"]);
        let args: Vec<_> = release.get_args().map(|arg| arg.to_str().unwrap()).collect();
        assert_eq!(args[..4], ["build", "--target", TRIPLE, "--target-dir"]);
        assert!(args[4].ends_with("/aarch64"), "{args:?}");
        assert_eq!(args[5..], ["--package", "umemd", "--bin", "umemd", "--release"]);
        let has = |command: &Command, name: &str, value: Option<&str>| {
            variables(command).contains(&(name.to_owned(), value.map(str::to_owned)))
        };
        for (name, value) in [
            ("RUSTC", Some("/usr/bin/rustc")),
            ("RUSTFLAGS", None),
            ("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", Some("aarch64-linux-gnu-gcc")),
            ("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS", Some("-Ctarget-feature=+crt-static")),
            ("LD", Some("aarch64-linux-gnu-ld")),
            ("OBJCOPY", Some("aarch64-linux-gnu-objcopy")),
            ("UMEMD_REVISION", Some("0123456789ab")),
        ] {
            assert!(has(&release, name, value), "{name}: {:?}", variables(&release));
        }
        let named = variables(&build(&[])).into_iter().any(|(name, _)| name == "UMEMD_REVISION");
        assert!(!named, "all would be built anew with each commit");
    }

    #[test]
    fn a_program_that_needs_a_loader_is_told_from_one_that_does_not() {
        let ours = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(has_interpreter(&ours), "tests are dynamic");
        let mut elf = vec![0; 64 + 2 * 56];
        elf[0x20] = 64;
        elf[0x36] = 56;
        elf[0x38] = 2;
        elf[64] = 1;
        assert!(!has_interpreter(&elf), "PT_LOAD alone");
        elf[64 + 56] = 3;
        assert!(has_interpreter(&elf));
        assert!(!has_interpreter(b"no ELF"));
    }
}
