//! Compiles the XDP program, so that the agent can carry it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

#[path = "../xdp-prog/toolchain.rs"]
mod toolchain;

fn main() {
    for path in ["../xdp-prog", "../common/Cargo.toml", "../common/src", "../Cargo.toml", "../Cargo.lock"] {
        println!("cargo::rerun-if-changed={path}");
    }
    for name in toolchain::OVERRIDES {
        println!("cargo::rerun-if-env-changed={name}");
    }
    println!("cargo::rustc-env=UMEMD_TARGET={}", env::var("TARGET").unwrap_or_default());
    println!("cargo::rustc-env=UMEMD_RUSTC={}", rustc_version().unwrap_or_else(|| "unknown".to_owned()));
    // Cargo shows these lines and stops; a panic would add twenty of its own.
    if let Err(text) = build() {
        for line in text.lines() {
            println!("cargo::error={line}");
        }
    }
}

/// `1.95.0`: the second word of `rustc --version`.
fn rustc_version() -> Option<String> {
    let told = Command::new(env::var_os("RUSTC")?).arg("--version").output().ok()?;
    Some(String::from_utf8(told.stdout).ok()?.split_whitespace().nth(1)?.to_owned())
}

/// Leaves the program at `OUT_DIR/xdp-prog.o`, and what it is measured beside at `OUT_DIR/xdp-bench.o`, or says why not.
fn build() -> Result<(), String> {
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets no OUT_DIR")?);
    let manifest_dir =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo sets no CARGO_MANIFEST_DIR")?);
    let workspace = manifest_dir.parent().unwrap_or(Path::new(".."));

    let toolchain = toolchain::find().map_err(|missing| missing.to_string())?;
    let built = toolchain::build_program(&toolchain, workspace, &shared(&out_dir).join("xdp-prog"))
        .map_err(|error| error.to_string())?;
    for name in ["xdp-prog", "xdp-bench"] {
        let (built, object) = (built.with_file_name(name), out_dir.join(format!("{name}.o")));
        fs::copy(&built, &object)
            .map_err(|error| format!("cannot copy {} to {}: {error}", built.display(), object.display()))?;
    }
    Ok(())
}

/// The folder of all builds beside this one: for each of them the program is the same, and compiled once.
fn shared(out_dir: &Path) -> &Path {
    // Cargo tags its target folder, so that backups leave it out.
    out_dir.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file()).unwrap_or(out_dir)
}
