//! Kernel modules: those that a rig asks for and what they need, in the order in which they can be loaded.
//!
//! Debian's packages have no modules.dep, which depmod makes when a kernel is installed. But each module names
//! what it depends on.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::packages;
use crate::shell;

/// A module, decompressed.
pub(crate) struct Module {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

/// The modules of a kernel.
pub(crate) struct Modules<'a> {
    /// By name, with `_` for `-` as the kernel has it.
    files: BTreeMap<String, PathBuf>,
    /// Where xz is.
    tools: &'a Path,
}

impl<'a> Modules<'a> {
    /// Those below a folder.
    pub(crate) fn below(folder: &Path, tools: &'a Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        walk(folder, &mut files)?;
        ensure!(!files.is_empty(), "no kernel module below {}", folder.display());
        Ok(Self { files, tools })
    }

    /// These modules and what they depend on, each after what it needs. One that is not there is built in, or
    /// the kernel does not know it: then whoever needs it does not load, and says so.
    pub(crate) fn in_order(&self, wanted: &[&str]) -> Result<Vec<Module>> {
        let mut modules = Vec::new();
        for name in wanted {
            self.add(name, &mut modules)?;
        }
        Ok(modules)
    }

    fn add(&self, name: &str, modules: &mut Vec<Module>) -> Result<()> {
        let name = name.replace('-', "_");
        let Some(file) = self.files.get(&name).filter(|_| modules.iter().all(|have| have.name != name))
        else {
            return Ok(());
        };
        let bytes = self.decompressed(file)?;
        for dependency in dependencies(&bytes) {
            self.add(&dependency, modules)?;
        }
        modules.push(Module { name, bytes });
        Ok(())
    }

    fn decompressed(&self, file: &Path) -> Result<Vec<u8>> {
        if file.extension().is_some_and(|ending| ending == "ko") {
            return fs::read(file).with_context(|| format!("cannot read {}", file.display()));
        }
        let mut xz = if shell::which("xz").is_some() {
            Command::new("xz")
        } else {
            packages::program(self.tools, "usr/bin/xz")
        };
        let output = xz.args(["--decompress", "--stdout"]).arg(file).stderr(Stdio::inherit()).output()?;
        ensure!(output.status.success(), "xz cannot decompress {}", file.display());
        Ok(output.stdout)
    }
}

/// What a module's `.modinfo` says it depends on.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let value = module[at + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(value);
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn walk(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Not through links: `build` and `source` lead elsewhere.
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), files)?;
        } else if let Some(name) = name.strip_suffix(".ko.xz").or(name.strip_suffix(".ko")) {
            files.insert(name.replace('-', "_"), entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_from_the_modinfo() {
        assert_eq!(
            dependencies(b"\x7fELF..\0license=GPL\0depends=phylink,mvneta_bm\0name=x\0"),
            ["phylink", "mvneta_bm"]
        );
        assert!(dependencies(b"..\0depends=\0").is_empty());
        assert!(dependencies(b"no module").is_empty());
    }
}
