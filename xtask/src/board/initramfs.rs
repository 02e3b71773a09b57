//! The guest's first and only file system, and the kernel that it goes with.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::cpio::Archive;
use super::modules::Modules;
use super::parts::Parts;
use super::rigs::{Hardware, Rig};

/// What the guest has to begin with.
pub(super) fn archive(
    parts: &Parts,
    rig: &Rig,
    kernel: &Path,
    version: &str,
    tests: &[(String, PathBuf)],
    shell: bool,
) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    archive.program("init", read(&parts.init)?);
    // The agent's helper takes itself down with its parent by setpriv; init does that under this name.
    archive.link("usr/bin/setpriv", "/init");
    archive.program("usr/bin/umemd", read(&parts.umemd)?);
    for program in ["usr/bin/ip", "usr/sbin/bridge", "usr/sbin/tc", "usr/sbin/ethtool", "usr/bin/busybox"] {
        let file = [program.to_owned(), program.replacen("usr/", "", 1), program.replacen("bin", "sbin", 1)];
        let file = file.iter().map(|path| parts.guest.join(path)).find(|path| path.is_file());
        archive.program(program, read(&file.with_context(|| format!("Debian has no {program}"))?)?);
    }
    archive.link("bin", "usr/bin");
    archive.link("lib", "usr/lib");
    let libraries = "usr/lib/aarch64-linux-gnu";
    archive.link("usr/lib/ld-linux-aarch64.so.1", "aarch64-linux-gnu/ld-linux-aarch64.so.1");
    for entry in fs::read_dir(parts.guest.join(libraries))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.contains(".so") {
            continue;
        }
        let path = format!("{libraries}/{name}");
        match fs::read_link(entry.path()) {
            Ok(to) => archive.link(&path, &to.to_string_lossy()),
            Err(_) if entry.path().is_file() => archive.program(&path, read(&entry.path())?),
            Err(_) => {}
        }
    }
    let tree = [kernel.join("usr/lib/modules"), kernel.join("lib/modules")];
    let tree = tree.iter().find(|tree| tree.is_dir()).context("the kernel has no modules")?;
    let modules = Modules::below(&tree.join(version), &parts.tools)?.in_order(rig.modules)?;
    let mut config = format!("rig {}\n", rig.name);
    // In the order in which it is done: registers that are not decoded yet swallow what a driver writes.
    if let Hardware::Model(model) = &rig.hardware {
        for (slot, address) in model.bars {
            config.push_str(&format!("bar {slot} {address:#x}\n"));
        }
    }
    for module in &modules {
        archive.file(&format!("modules/{}.ko", module.name), module.bytes.as_slice());
        config.push_str(&format!("module {}\n", module.name));
    }
    for (name, program) in tests {
        archive.program(&format!("tests/{name}"), read(program)?);
    }
    if shell {
        config.push_str("shell\n");
    }
    archive.file("etc/rig", config);
    Ok(archive.bytes())
}

/// Version and image of an unpacked kernel: in boot up to 6.18, beside the modules since.
pub(super) fn find_kernel(kernel: &Path) -> Result<(String, PathBuf)> {
    let folders = ["usr/lib/modules", "lib/modules"].map(|folder| kernel.join(folder));
    let entries = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    for version in entries.map(|entry| entry.file_name().to_string_lossy().into_owned()) {
        let images = [
            kernel.join(format!("boot/vmlinuz-{version}")),
            kernel.join(format!("usr/lib/modules/{version}/vmlinuz")),
        ];
        if let Some(image) = images.into_iter().find(|image| image.is_file()) {
            return Ok((version, image));
        }
    }
    bail!("no kernel image below {}", kernel.display())
}
