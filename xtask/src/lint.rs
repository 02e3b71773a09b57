//! `cargo xtask lint`: format, lints and docs by their tools, the shape of the house by ours.

mod arrows;
mod layout;
mod sources;
mod unsafety;

use anyhow::{Result, bail};

use crate::cli::Install;
use crate::lint::sources::Source;
use crate::{setup, shell};

/// Runs every check, the cheap ones first, and fails if one did.
pub(crate) fn run(options: Install) -> Result<()> {
    setup::run(options)?;
    let sources = sources::all()?;
    let checks: [Check<'_>; 8] = [
        ("the top level is as fixed", Box::new(|| complain(layout::check(&layout::top_level()?)))),
        ("crates point where they may", Box::new(|| complain(arrows::check(&arrows::packages()?)))),
        ("modules point where they may", Box::new(|| complain(arrows::check_modules(&sources)))),
        ("unsafe is where it may be, and says why", Box::new(|| complain(unsafety::check(&sources)))),
        ("cargo fmt --check", Box::new(|| cargo(&["fmt", "--all", "--check"]))),
        // The XDP program is no host code: agent/build.rs compiles it, for its own target.
        (
            "cargo clippy -D warnings",
            Box::new(|| {
                cargo(&[
                    "clippy",
                    "--workspace",
                    "--exclude",
                    "xdp-prog",
                    "--all-targets",
                    "--",
                    "-D",
                    "warnings",
                ])
            }),
        ),
        (
            "umemd without its terminal view",
            Box::new(|| {
                cargo(&["clippy", "--package", "umemd", "--no-default-features", "--", "-D", "warnings"])
            }),
        ),
        ("cargo doc -D warnings", Box::new(docs)),
    ];
    let mut failed = Vec::new();
    for (name, check) in checks {
        if let Err(error) = shell::step(name, check) {
            eprintln!("{error:#}");
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("lint failed: {}", failed.join("; "));
    }
    Ok(())
}

type Check<'a> = (&'static str, Box<dyn FnOnce() -> Result<()> + 'a>);

fn cargo(args: &[&str]) -> Result<()> {
    shell::run(shell::cargo().args(args))
}

fn docs() -> Result<()> {
    let mut cargo = shell::cargo();
    cargo.args(["doc", "--workspace", "--exclude", "xdp-prog", "--no-deps"]);
    shell::run(cargo.env("RUSTDOCFLAGS", "-Dwarnings"))
}

/// Turns complaints into an error.
fn complain(complaints: Vec<String>) -> Result<()> {
    if !complaints.is_empty() {
        bail!("  {}", complaints.join("\n  "));
    }
    Ok(())
}

/// A complaint about a line, in the form that editors can follow.
fn at(source: &Source, line: usize, what: &str) -> String {
    format!("{}:{}: {what}", source.path, line + 1)
}
