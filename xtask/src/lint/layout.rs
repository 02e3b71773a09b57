//! The top level of the checkout, which is fixed: configuration goes into dot-files, docs and packaging into
//! the crate that they belong to.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::Result;

use crate::shell;

const ALLOWED: [&str; 8] =
    ["Cargo.lock", "Cargo.toml", "README.md", "agent", "common", "tests", "xdp-prog", "xtask"];

/// What lies at the top level: by git, which knows what is ignored; without git, all but cargo's folder.
pub(crate) fn top_level() -> Result<BTreeSet<String>> {
    let mut git = Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(shell::workspace());
    if let Ok(files) = shell::run_quietly(&mut git) {
        let first = |path: &str| path.split('/').next().map(str::to_owned);
        return Ok(files.lines().filter_map(first).collect());
    }
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(shell::workspace())? {
        names.insert(entry?.file_name().to_string_lossy().into_owned());
    }
    names.remove("target");
    Ok(names)
}

/// What is there and should not be.
pub(crate) fn check(top_level: &BTreeSet<String>) -> Vec<String> {
    let strange = top_level.iter().filter(|name| !name.starts_with('.') && !ALLOWED.contains(&name.as_str()));
    strange.map(|name| format!("{name}: the top level holds only {}", ALLOWED.join(", "))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_named_and_dot_files_are_not() {
        let names = [".ci", ".gitignore", "Cargo.toml", "agent", "docs"].map(str::to_owned);
        let complaints = check(&BTreeSet::from(names));
        assert_eq!(complaints.len(), 1);
        assert!(complaints[0].starts_with("docs:"), "{complaints:?}");
    }
}
