//! Who may depend on whom.
//!
//! ```text
//! xdp-prog -> common <- agent -> datapath -> frame-pool -> (nothing)
//!                         +-------------------^
//! tests -> common           xtask -> (none of ours)
//! ```

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::at;
use super::sources::Source;
use crate::shell;

/// A crate of ours, what it may depend on, and what it may not.
struct Rule {
    package: &'static str,
    /// Of ours.
    ours: &'static [&'static str],
    /// Of others'.
    others: Others,
}

enum Others {
    /// Whatever serves.
    Any,
    /// Anything but these: they do not belong on the packet path.
    AllBut(&'static [&'static str]),
    /// Nothing, except in tests, under a cfg of its own, or behind a feature.
    None,
}

const RULES: [Rule; 10] = [
    Rule { package: "frame-pool", ours: &[], others: Others::None },
    Rule {
        package: "datapath",
        ours: &["frame-pool"],
        others: Others::AllBut(&["tokio", "aya", "xsk-rs", "libc", "clap", "log", "rustix", "anyhow"]),
    },
    Rule { package: "umemd-common", ours: &[], others: Others::None },
    Rule { package: "xdp-prog", ours: &["umemd-common"], others: Others::Any },
    Rule {
        package: "umemd",
        ours: &["umemd-common", "datapath", "frame-pool", "oracle"],
        others: Others::Any,
    },
    Rule { package: "e2e", ours: &["umemd-common", "oracle"], others: Others::Any },
    Rule { package: "board", ours: &["e2e"], others: Others::Any },
    Rule { package: "fuzz", ours: &["umemd", "umemd-common", "oracle"], others: Others::Any },
    // It shares no code with what it is compared with.
    Rule { package: "oracle", ours: &[], others: Others::Any },
    Rule { package: "xtask", ours: &[], others: Others::Any },
];

/// Files, and a word that none of their code may say.
struct ModuleRule {
    /// Beginnings of paths.
    inside: &'static str,
    /// Beginnings of paths that are excepted.
    except: &'static [&'static str],
    words: &'static [&'static str],
    because: &'static str,
}

const MODULE_RULES: [ModuleRule; 3] = [
    ModuleRule {
        inside: "agent/src/xsk/",
        except: &[],
        words: &["tokio::"],
        because: "the packet path waits for nobody: no tokio in xsk",
    },
    ModuleRule {
        inside: "agent/src/metrics/",
        except: &[],
        words: &["crate::xsk", "super::xsk"],
        because: "metrics read what is published, not the sockets",
    },
    ModuleRule {
        inside: "agent/src/",
        except: &["agent/src/main.rs", "agent/src/cli.rs", "agent/src/config.rs"],
        words: &["crate::cli", "super::cli"],
        because: "only main and config read the command line; everything else reads config",
    },
];

/// A package of the workspace.
#[derive(Debug)]
pub(crate) struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Debug)]
struct Dependency {
    name: String,
    /// Has a path in the workspace.
    ours: bool,
    /// Part of every build of the package: neither for tests or build script, nor optional, nor under a cfg.
    always: bool,
}

/// Asks cargo.
pub(crate) fn packages() -> Result<Vec<Package>> {
    let metadata =
        shell::run_quietly(shell::cargo().args(["metadata", "--format-version", "1", "--no-deps"]))?;
    parse(&metadata)
}

fn parse(metadata: &str) -> Result<Vec<Package>> {
    let metadata: Value = serde_json::from_str(metadata).context("cargo metadata is no JSON")?;
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let name = |value: &Value| value["name"].as_str().unwrap_or_default().to_owned();
    let dependency = |value: &Value| Dependency {
        name: name(value),
        ours: value["path"].is_string(),
        always: value["kind"].is_null() && value["optional"] != true && value["target"].is_null(),
    };
    let package = |value: &Value| Package {
        name: name(value),
        dependencies: list(&value["dependencies"]).iter().map(dependency).collect(),
    };
    Ok(list(&metadata["packages"]).iter().map(package).collect())
}

/// Arrows between crates that should not be.
pub(crate) fn check(packages: &[Package]) -> Vec<String> {
    packages.iter().flat_map(check_package).collect()
}

fn check_package(package: &Package) -> Vec<String> {
    let Some(rule) = RULES.iter().find(|rule| rule.package == package.name) else {
        return vec![format!(
            "{}: a crate without a rule; say in xtask/src/lint/arrows.rs where it may point",
            package.name
        )];
    };
    let refuse = |dependency: &&Dependency| {
        let name = dependency.name.as_str();
        if dependency.ours {
            return !rule.ours.contains(&name);
        }
        match rule.others {
            Others::Any => false,
            Others::AllBut(refused) => refused.contains(&name),
            Others::None => dependency.always,
        }
    };
    let refused = package.dependencies.iter().filter(refuse);
    refused.map(|dependency| format!("{} must not depend on {}", package.name, dependency.name)).collect()
}

/// Arrows between modules of the agent that should not be.
pub(crate) fn check_modules(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for rule in &MODULE_RULES {
        let bound = sources.iter().filter(|source| {
            source.path.starts_with(rule.inside)
                && !rule.except.iter().any(|path| source.path.starts_with(path))
        });
        for source in bound {
            let lines = source.code().filter(|(_, line)| rule.words.iter().any(|word| line.contains(word)));
            complaints.extend(lines.map(|(line, _)| at(source, line, rule.because)));
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(package: &str, dependency: &str) -> Vec<String> {
        let metadata = format!(r#"{{"packages":[{{"name":"{package}","dependencies":[{dependency}]}}]}}"#);
        check(&parse(&metadata).unwrap())
    }

    const TOKIO: &str = r#"{"name":"tokio","kind":null,"optional":false,"target":null}"#;

    #[test]
    fn the_inner_crates_keep_out_what_does_not_belong() {
        assert_eq!(complaints("frame-pool", TOKIO), ["frame-pool must not depend on tokio"]);
        assert_eq!(complaints("datapath", TOKIO), ["datapath must not depend on tokio"]);
        assert!(complaints("umemd", TOKIO).is_empty());
    }

    #[test]
    fn frame_pool_may_test_with_others() {
        assert!(complaints("frame-pool", &TOKIO.replace(r#""kind":null"#, r#""kind":"dev""#)).is_empty());
        assert!(
            complaints("frame-pool", &TOKIO.replace(r#""target":null"#, r#""target":"cfg(loom)""#))
                .is_empty()
        );
        assert!(complaints("umemd-common", &TOKIO.replace("false", "true")).is_empty());
    }

    #[test]
    fn xtask_knows_no_crate_of_ours() {
        let ours = r#"{"name":"umemd-common","kind":null,"path":"/ws/common"}"#;
        assert_eq!(complaints("xtask", ours), ["xtask must not depend on umemd-common"]);
        assert!(complaints("umemd", ours).is_empty());
    }

    #[test]
    fn a_new_crate_needs_a_rule() {
        assert_eq!(complaints("new", TOKIO).len(), 1);
    }

    #[test]
    fn modules_are_checked_by_their_code_and_not_their_comments() {
        let source = |path: &str, text: &str| Source { path: path.to_owned(), text: text.to_owned() };
        let sources = [
            source("agent/src/xsk/port.rs", "// no tokio::time here\nuse tokio::time;\n"),
            source("agent/src/control/mod.rs", "use tokio::time;\nuse crate::cli::Cli;\n"),
            source("agent/src/main.rs", "use crate::cli::Cli;\n"),
            source("agent/src/metrics/mod.rs", "use crate::xsk::XskPort;\n"),
        ];
        let complaints = check_modules(&sources);
        let places: Vec<_> = complaints.iter().map(|line| line.split(": ").next().unwrap()).collect();
        assert_eq!(
            places,
            ["agent/src/xsk/port.rs:2", "agent/src/metrics/mod.rs:1", "agent/src/control/mod.rs:2"]
        );
    }
}
