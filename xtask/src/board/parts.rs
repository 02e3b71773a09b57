//! What is built and fetched once for all rigs.

use std::fs;
use std::path::PathBuf;

use anyhow::{Error, Result};

use super::outcome::Unavailable;
use super::packages::Packages;
use super::qemu;
use crate::cli::Install;
use crate::compile::Program;
use crate::setup::Unobtainable;
use crate::{compile, cross, setup, shell};

/// What rigs are made of.
pub(super) struct Parts {
    /// QEMU and its helpers, for this machine.
    pub(super) tools: PathBuf,
    /// Programs for the guest.
    pub(super) guest: PathBuf,
    /// The process that models NICs.
    pub(super) device: PathBuf,
    /// The guest's init.
    pub(super) init: PathBuf,
    /// umemd without symbols.
    pub(super) umemd: PathBuf,
    /// How it was built, in cargo's words.
    pub(super) profile: &'static str,
    pub(super) packages: Packages,
    folder: PathBuf,
}

impl Parts {
    /// Sets up, builds, fetches. The packages first: where they cannot be had, nothing is built in vain.
    pub(super) fn gather(dev: bool, install: Install) -> Result<Self> {
        let folder = shell::target_dir().join("board");
        fs::create_dir_all(&folder)?;
        let mut packages = Packages::below(&folder);
        let tools = packages.with_dependencies(
            "tools",
            "amd64",
            &["qemu-system-arm", "device-tree-compiler", "xz-utils"],
        )?;
        qemu::check_version(&tools)?;
        let guest =
            packages.with_dependencies("guest", "arm64", &["iproute2", "ethtool", "busybox-static"])?;

        setup::cross(install).map_err(unavailable)?;
        let (umemd, profile) =
            if dev { (cross::umemd_dev(install)?, "dev") } else { (cross::umemd(install)?, "release") };
        let mut build = cross::cargo("build")?;
        let init = compile::find(
            &compile::programs(build.args(["--package", "board", "--bin", "board-guest"]))?,
            "board-guest",
        )?;
        // Of the whole workspace, so that its features are those of the tests, and what these built serves here too.
        let mut build = shell::cargo();
        build.args(["build", "--workspace", "--exclude", "xdp-prog", "--bin", "board-device"]);
        let device = compile::find(&compile::programs(&mut build)?, "board-device")?;
        Ok(Self { tools, guest, device, init, umemd, profile, packages, folder })
    }

    /// The tests that need root, built for the guest: its file name each, and the program without symbols.
    pub(super) fn tests(&self) -> Result<Vec<(String, PathBuf)>> {
        let mut build = cross::cargo("test")?;
        build.args(["--no-run", "--package", "e2e", "--package", compile::UMEMD]);
        let programs = compile::programs(&mut build)?;
        let test = |Program { path, name, .. }: &Program| {
            let stripped = self.folder.join(format!("test-{name}"));
            cross::strip(path, &stripped).map(|()| (name.clone(), stripped))
        };
        programs.iter().filter(|program| program.test).map(test).collect()
    }
}

/// A compiler that nobody has for us is no failure; one that is here and does not work is.
fn unavailable(error: Error) -> Error {
    match error.is::<Unobtainable>() {
        true => Unavailable(format!("{error:#}")).into(),
        false => error,
    }
}
