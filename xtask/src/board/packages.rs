//! Debian's packages for the rig, in a folder of our own: nothing is installed on this machine.
//!
//! apt works on a root of its own under `target/`, with its own lists and an empty database of what is
//! installed, and checks signatures against Debian's keyring, whatever this machine's own apt does. What it
//! downloads is unpacked, not installed, and kept: a second run asks nobody.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};

use super::outcome::Unavailable;
use crate::{setup, shell};

/// Where Debian keeps the keys of its archive, old and new.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Where Debian is if the machine's own sources do not say.
const MIRROR: &str = "http://deb.debian.org/debian";

/// How long the newest kernel is taken for the newest.
const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Releases that the packages come from; kernels name theirs.
const SUITES: &str = "bookworm trixie trixie-backports";

/// The release with a QEMU that has vfio-user-pci (10.1 or later).
pub(crate) const NEWEST: &str = "trixie-backports";

/// What keeps apt from taking what is not signed, or signed with a weak digest: the machine's configuration may say
/// otherwise.
const SIGNED: [&str; 4] = [
    "APT::Get::AllowUnauthenticated=false",
    "Acquire::AllowInsecureRepositories=false",
    "Acquire::AllowDowngradeToInsecureRepositories=false",
    "Acquire::AllowWeakRepositories=false",
];

/// apt on a root of its own.
#[derive(Debug)]
pub(crate) struct Packages {
    root: PathBuf,
    /// Where packages are unpacked, a folder per set.
    sets: PathBuf,
    updated: bool,
}

impl Packages {
    /// Below this folder, which is made if need be.
    pub(crate) fn below(folder: &Path) -> Self {
        Self { root: folder.join("apt"), sets: folder.to_owned(), updated: false }
    }

    /// The folder with these packages and all that they depend on, of this architecture.
    pub(crate) fn with_dependencies(
        &mut self,
        set: &str,
        architecture: &str,
        packages: &[&str],
    ) -> Result<PathBuf> {
        self.unpacked(set, &packages.join(" "), |apt, into| {
            let mut install = apt.apt("apt-get", architecture);
            install.args(["install", "--yes", "--download-only", "--no-install-recommends"]);
            install.args(["--target-release", NEWEST]).args(packages);
            // Ours alone, whatever was downloaded for another set before.
            install.arg("-o").arg(format!("Dir::Cache::Archives={}", into.display()));
            fs::create_dir_all(into.join("partial"))?;
            ask(&mut install).map(drop)
        })
    }

    /// The folder with the newest kernel of a release. Which that is, is asked once a week.
    pub(crate) fn kernel(&mut self, suite: &str, architecture: &str) -> Result<PathBuf> {
        let set = format!("linux-{suite}-{architecture}");
        let (folder, stamp) = (self.sets.join(&set), self.stamp(&set));
        if is_fresh(&stamp, SystemTime::now()) && folder.is_dir() {
            return Ok(folder);
        }
        let packages = match self.update().and_then(|()| self.kernel_packages(suite, architecture)) {
            Ok(packages) => packages,
            Err(error) if error.is::<Unavailable>() && stamp.is_file() && folder.is_dir() => {
                eprintln!("xtask: {set} stays as it is: nobody says which kernel is the newest: {error:#}");
                return Ok(folder);
            }
            Err(error) => return Err(error),
        };
        self.unpacked(&set, &packages.join(" "), |apt, into| {
            let mut download = apt.apt("apt-get", architecture);
            download.arg("download").args(&packages).current_dir(into);
            ask(&mut download).map(drop)
        })?;
        // Asked again a week from now, also if it is still the same.
        fs::write(&stamp, packages.join(" "))?;
        Ok(folder)
    }

    /// Where it is written what a set holds.
    fn stamp(&self, set: &str) -> PathBuf {
        self.sets.join(format!("{set}.packages"))
    }

    /// The packages that hold the kernel which a release's `linux-image-ARCH` depends on: one up to 6.18, three
    /// since.
    fn kernel_packages(&self, suite: &str, architecture: &str) -> Result<Vec<String>> {
        let mut found: Vec<String> = Vec::new();
        let mut left = vec![format!("linux-image-{architecture}")];
        while let Some(package) = left.pop() {
            let mut depends = self.apt("apt-cache", architecture);
            depends.args(["--target-release", suite, "depends", &package]);
            let text = ask(&mut depends)?;
            for name in kernel_parts(&text) {
                if !found.contains(&name) {
                    found.push(name.clone());
                    left.push(name);
                }
            }
        }
        ensure!(!found.is_empty(), Unavailable(format!("Debian {suite} has no kernel for {architecture}")));
        Ok(found)
    }

    /// The folder of a set, downloaded and unpacked if it is not there yet or holds other packages. The old one stays
    /// until then: whoever is offline the next time has it still.
    fn unpacked(
        &mut self,
        set: &str,
        packages: &str,
        download: impl FnOnce(&Self, &Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let folder = self.sets.join(set);
        let stamp = self.stamp(set);
        if fs::read_to_string(&stamp).is_ok_and(|stamped| stamped == packages) && folder.is_dir() {
            return Ok(folder);
        }
        let what = format!("fetch {set} ({packages}) into {}", self.sets.display());
        shell::step(&what, || {
            self.update()?;
            let beside = |what| self.sets.join(format!("{set}.{what}"));
            let (debs, fresh) = (beside("debs"), beside("fresh"));
            for old in [&debs, &fresh] {
                if old.exists() {
                    fs::remove_dir_all(old)?;
                }
                fs::create_dir_all(old)?;
            }
            download(self, &debs)?;
            let archives = files_ending(&debs, ".deb")?;
            ensure!(!archives.is_empty(), "apt downloaded nothing");
            for archive in archives {
                shell::run_quietly(Command::new("dpkg-deb").arg("-x").arg(archive).arg(&fresh))?;
            }
            fs::remove_dir_all(&debs)?;
            replace(&folder, &fresh, &stamp, packages)
        })?;
        Ok(folder)
    }

    /// Fetches the lists, once.
    fn update(&mut self) -> Result<()> {
        if self.updated {
            return Ok(());
        }
        for program in ["apt-get", "apt-cache", "dpkg-deb"] {
            ensure!(
                shell::which(program).is_some(),
                Unavailable(format!("it takes Debian's packages, and there is no {program}"))
            );
        }
        let keyring = "cannot check Debian's signatures: install debian-archive-keyring, for";
        ensure!(Path::new(KEYRING).is_file(), Unavailable(format!("{keyring} {KEYRING}")));
        for folder in ["etc/apt/sources.list.d", "etc/apt/preferences.d", "var/lib/apt/lists/partial"] {
            fs::create_dir_all(self.root.join(folder))?;
        }
        fs::create_dir_all(self.root.join("var/cache/apt/archives/partial"))?;
        fs::create_dir_all(self.root.join("var/lib/dpkg"))?;
        fs::write(self.root.join("var/lib/dpkg/status"), "")?;
        let sources = format!(
            "Types: deb\nURIs: {}\nSuites: {SUITES}\nComponents: main\nArchitectures: amd64 arm64\nSigned-By: {KEYRING}\n",
            mirror(),
        );
        fs::write(self.root.join("etc/apt/sources.list.d/debian.sources"), sources)?;
        let mut update = self.apt("apt-get", "amd64");
        // A release whose lists cannot be had is an error, not a warning.
        ask(update.args(["update", "--error-on=any"]))?;
        self.updated = true;
        Ok(())
    }

    /// apt-get or apt-cache on our root, for that architecture. The machine's own configuration, a proxy for
    /// example, has been read by then and stays, but for the signatures.
    fn apt(&self, program: &str, architecture: &str) -> Command {
        let mut command = Command::new(program);
        let status = self.root.join("var/lib/dpkg/status");
        command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
        let mut option = |text: String| {
            command.arg("-o").arg(text);
        };
        option(format!("Dir={}", self.root.display()));
        option(format!("Dir::State::status={}", status.display()));
        option(format!("APT::Architecture={architecture}"));
        option("APT::Architectures::=amd64".into());
        option("APT::Architectures::=arm64".into());
        // The user _apt may not read a checkout below somebody's home.
        option("APT::Sandbox::User=root".into());
        for checked in SIGNED {
            option(checked.into());
        }
        command
    }
}

/// Asks Debian by apt. If it fails by what it asks, a mirror, a network, or a package that does not exist, the rig
/// cannot be had; if it fails by this machine, or because what came is not Debian's, that is a failure.
fn ask(apt: &mut Command) -> Result<String> {
    shell::run_quietly(apt).map_err(|error| match setup::is_a_failure(&error) {
        true => error,
        false => Unavailable(format!("{error:#}")).into(),
    })
}

/// Puts a fresh folder in the place of an old one. The stamp goes first and comes last: what is cut off in between is
/// done again.
fn replace(folder: &Path, fresh: &Path, stamp: &Path, packages: &str) -> Result<()> {
    if stamp.exists() {
        fs::remove_file(stamp)?;
    }
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::rename(fresh, folder)?;
    Ok(fs::write(stamp, packages)?)
}

/// Whether it was written within the last week.
fn is_fresh(stamp: &Path, now: SystemTime) -> bool {
    let written = fs::metadata(stamp).and_then(|metadata| metadata.modified());
    written.is_ok_and(|written| now.duration_since(written).is_ok_and(|age| age < WEEK))
}

/// The packages of one kernel among what `apt-cache depends` prints.
fn kernel_parts(depends: &str) -> Vec<String> {
    let names = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    let is_part = |name: &&str| {
        let version = ["linux-image-", "linux-binary-", "linux-modules-"]
            .iter()
            .find_map(|begin| name.strip_prefix(begin));
        version.is_some_and(|version| version.starts_with(|c: char| c.is_ascii_digit()))
    };
    names.filter(is_part).map(str::to_owned).collect()
}

/// The mirror that this machine uses, if it is a Debian of today.
fn mirror() -> String {
    let text = fs::read_to_string("/etc/apt/sources.list.d/debian.sources").unwrap_or_default();
    let uris = text.lines().find_map(|line| line.strip_prefix("URIs: "));
    let first = uris.and_then(|uris| uris.split_whitespace().next());
    first.unwrap_or(MIRROR).to_owned()
}

/// Files right below a folder with this ending.
fn files_ending(folder: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.to_string_lossy().ends_with(ending));
    files.sort();
    Ok(files)
}

/// A program of an unpacked set, run with the libraries beside it instead of this machine's.
pub(crate) fn program(root: &Path, path: &str) -> Command {
    let mut command = Command::new(root.join("usr/lib64/ld-linux-x86-64.so.2"));
    command.arg("--library-path").arg(root.join("usr/lib/x86_64-linux-gnu")).arg(root.join(path));
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_kernel_are_told_from_the_rest() {
        let meta = "linux-image-arm64\n  Depends: linux-image-6.12.107+deb13-arm64\n  Depends: linux-base\n";
        assert_eq!(kernel_parts(meta), ["linux-image-6.12.107+deb13-arm64"]);
        let split = "linux-image-7.3.4\n  Depends: linux-binary-7.3.4+deb13-arm64\n  PreDepends: linux-base-x\n  \
                     Depends: linux-modules-7.3.4+deb13-arm64\n  Depends: kmod\n |Depends: linux-initramfs-tool\n";
        assert_eq!(
            kernel_parts(split),
            ["linux-binary-7.3.4+deb13-arm64", "linux-modules-7.3.4+deb13-arm64"]
        );
    }

    #[test]
    fn neither_a_full_machine_nor_a_bad_signature_is_a_mirror_that_does_not_answer() {
        let cannot_be_had = |says: &str| {
            let error = ask(Command::new("sh").args(["-c", "echo \"$0\" >&2; exit 100", says]));
            error.unwrap_err().is::<Unavailable>()
        };
        assert!(cannot_be_had("E: Unable to locate package qemu-system-riscv"));
        assert!(!cannot_be_had("E: Write error - write (28: No space left on device)"));
        assert!(!cannot_be_had(
            "E: The repository 'http://deb.debian.org/debian trixie Release' is not signed."
        ));
        assert!(!cannot_be_had(
            "W: GPG error: The following signatures were invalid: BADSIG 648ACFD622F3D138"
        ));
        assert_eq!(ask(&mut Command::new("true")).unwrap(), "");
    }

    #[test]
    fn apt_is_told_to_check_signatures_whatever_the_machine_says() {
        let packages = Packages::below(Path::new("/nowhere"));
        for program in ["apt-get", "apt-cache"] {
            let apt = packages.apt(program, "arm64");
            let words: Vec<_> = apt.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
            let options: Vec<&str> =
                words.chunks(2).filter(|pair| pair[0] == "-o").map(|pair| pair[1].as_str()).collect();
            for option in [
                "APT::Get::AllowUnauthenticated=false",
                "Acquire::AllowInsecureRepositories=false",
                "Acquire::AllowDowngradeToInsecureRepositories=false",
                "Acquire::AllowWeakRepositories=false",
            ] {
                assert!(options.contains(&option), "{option}: {words:?}");
            }
        }
    }

    #[test]
    fn a_set_stays_until_a_newer_one_is_there() {
        let root = std::env::temp_dir().join(format!("umemd-sets-{}", std::process::id()));
        let mut packages = Packages { updated: true, ..Packages::below(&root) };
        let (folder, fresh) = (root.join("linux"), root.join("linux.fresh"));
        let stamp = packages.stamp("linux");
        let held = || (fs::read_to_string(folder.join("vmlinuz")), fs::read_to_string(&stamp));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("vmlinuz"), "old").unwrap();
        fs::write(&stamp, "linux-1").unwrap();
        let cut_off =
            packages.unpacked("linux", "linux-2", |_, _| Err(Unavailable("no network".into()).into()));
        // Without dpkg-deb, too.
        let broken = packages.unpacked("linux", "linux-2", |_, debs| {
            Ok(fs::write(debs.join("linux-2_arm64.deb"), "no archive")?)
        });
        let before = held();
        fs::write(fresh.join("vmlinuz"), "new").unwrap();
        replace(&folder, &fresh, &stamp, "linux-2").unwrap();
        let after = held();
        fs::remove_dir_all(&root).unwrap();
        assert!(cut_off.unwrap_err().is::<Unavailable>());
        assert!(!broken.unwrap_err().is::<Unavailable>(), "what is here and cannot be unpacked is a failure");
        assert_eq!((before.0.unwrap(), before.1.unwrap()), ("old".into(), "linux-1".into()));
        assert_eq!((after.0.unwrap(), after.1.unwrap()), ("new".into(), "linux-2".into()));
    }

    #[test]
    fn the_newest_kernel_is_asked_for_once_a_week() {
        let stamp = std::env::temp_dir().join(format!("umemd-stamp-{}", std::process::id()));
        let now = SystemTime::now();
        assert!(!is_fresh(&stamp, now), "nothing was fetched");
        fs::write(&stamp, "linux-image-6.12").unwrap();
        let later = [Duration::ZERO, WEEK / 2, WEEK + Duration::from_secs(60)].map(|age| {
            // A clock that ticks in between is no reason to fail.
            is_fresh(&stamp, now + Duration::from_secs(1) + age)
        });
        fs::remove_file(&stamp).unwrap();
        assert_eq!(later, [true, true, false]);
    }
}
