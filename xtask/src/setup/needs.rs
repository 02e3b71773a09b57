//! What a build, the lab and the tests need, and how each need is recognised.
//!
//! By file, not by package: a machine that has it some other way lacks nothing, and looking costs nothing.

use std::fs;
use std::path::{Path, PathBuf};

use crate::toolchain::{self, Missing};
use crate::{cross, shell};

/// Something that a file or program on this machine shows to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Need {
    /// What it is, for people.
    pub(crate) what: &'static str,
    /// Debian's package of it.
    pub(crate) package: &'static str,
    sign: Sign,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    Program(&'static str),
    Header(&'static str),
    /// A header, and what the linker takes for it on this architecture: Debian's packages of every
    /// architecture share their headers.
    Linked(&'static str, &'static str),
    /// A file, from the root.
    File(&'static str),
    /// A shared library, by the beginnings that its file name may have.
    Library(&'static [&'static str]),
}

/// xsk-rs compiles libxdp and libbpf from source, and bindgen reads their headers with libclang.
const NEEDS: [Need; 9] = [
    Need { what: "C compiler", package: "gcc", sign: Sign::Program("cc") },
    Need { what: "headers of the C library", package: "libc6-dev", sign: Sign::Header("stdio.h") },
    Need { what: "libelf, for libbpf", package: "libelf-dev", sign: Sign::Linked("libelf.h", "libelf") },
    Need { what: "zlib, for libbpf", package: "zlib1g-dev", sign: Sign::Linked("zlib.h", "libz") },
    Need { what: "m4, for libxdp", package: "m4", sign: Sign::Program("m4") },
    Need { what: "make, for libbpf", package: "make", sign: Sign::Program("make") },
    Need { what: "pkg-config, for libbpf", package: "pkg-config", sign: Sign::Program("pkg-config") },
    Need { what: "clang, for libxdp's programs", package: "clang", sign: Sign::Program("clang") },
    Need {
        what: "libclang, for bindgen",
        package: "libclang-dev",
        sign: Sign::Library(&["libclang.so", "libclang-1", "libclang-2"]),
    },
];

/// The lab's and the tests' network namespaces.
const LAB: [Need; 3] = [
    Need { what: "ip, for network namespaces", package: "iproute2", sign: Sign::Program("ip") },
    Need { what: "ethtool, for queues and offloads", package: "ethtool", sign: Sign::Program("ethtool") },
    Need { what: "tcpdump, to read captures back", package: "tcpdump", sign: Sign::Program("tcpdump") },
];

/// What a frame costs in the pool; a board that is reached by ssh.
const TESTS: [Need; 3] = [
    Need { what: "valgrind, to count instructions", package: "valgrind", sign: Sign::Program("valgrind") },
    Need { what: "ssh, to reach boards", package: "openssh-client", sign: Sign::Program("ssh") },
    // Not openssh-server, which would begin to serve the machine that it is installed on.
    Need { what: "dropbear, to be reached", package: "dropbear-bin", sign: Sign::Program("dropbear") },
];

/// The full tests' real peers.
const FULL: [Need; 3] = [
    Need { what: "chromium, for the live page", package: "chromium", sign: Sign::Program("chromium") },
    Need { what: "Prometheus and promtool", package: "prometheus", sign: Sign::Program("promtool") },
    Need {
        what: "Prometheus' parser in Python",
        package: "python3-prometheus-client",
        sign: Sign::File("usr/lib/python3/dist-packages/prometheus_client/openmetrics/parser.py"),
    },
];

/// libFuzzer is a C++ program.
const FUZZ: [Need; 1] =
    [Need { what: "C++ compiler, for libFuzzer", package: "g++", sign: Sign::Program("c++") }];

/// The C side of a static build for aarch64.
const AARCH64: [Need; 4] = [
    Need {
        what: "C compiler for aarch64",
        package: "gcc-aarch64-linux-gnu",
        sign: Sign::Program("aarch64-linux-gnu-gcc"),
    },
    Need {
        what: "C library for aarch64",
        package: "libc6-dev-arm64-cross",
        sign: Sign::File("usr/aarch64-linux-gnu/lib/libc.a"),
    },
    Need {
        what: "libelf for aarch64",
        package: "libelf-dev:arm64",
        sign: Sign::File("usr/lib/aarch64-linux-gnu/libelf.a"),
    },
    Need {
        what: "zlib for aarch64",
        package: "zlib1g-dev:arm64",
        sign: Sign::File("usr/lib/aarch64-linux-gnu/libz.a"),
    },
];

/// How much is to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// What building and running on this machine takes.
    Native,
    /// That, and what the tests and benchmarks take.
    Tests,
    /// That, the real peers of the longest tests, and what fuzzing takes.
    FullTests,
    /// What building and running on this machine takes, and what fuzzing does.
    Fuzz,
    /// What building and running takes, and what building for aarch64 does.
    Aarch64,
}

/// What is not there.
#[derive(Debug, Default)]
pub(crate) struct Lacks {
    /// Of the fixed list.
    pub(crate) needs: Vec<Need>,
    /// What the XDP program is built with.
    pub(crate) toolchain: Option<Missing>,
    /// Whether no rustc has std for aarch64.
    pub(crate) cross_std: bool,
}

impl Lacks {
    /// Whether nothing is missing.
    pub(crate) fn is_empty(&self) -> bool {
        self.needs.is_empty() && self.toolchain.is_none() && !self.cross_std
    }
}

/// Looks at this machine.
pub(crate) fn look(extent: Extent) -> Lacks {
    let root = Path::new("/");
    let there = |need: &Need| match need.sign {
        Sign::Program(name) => shell::which(name).is_some(),
        Sign::Header(name) => has_header(root, name),
        Sign::Linked(header, library) => has_header(root, header) && links(root, library),
        Sign::File(path) => root.join(path).is_file(),
        Sign::Library(names) => has_library(root, names),
    };
    let cross = extent == Extent::Aarch64;
    let more: &[&[Need]] = match extent {
        Extent::Native => &[],
        Extent::Tests => &[&TESTS],
        Extent::FullTests => &[&TESTS, &FULL, &FUZZ],
        Extent::Fuzz => &[&FUZZ],
        Extent::Aarch64 => &[&AARCH64],
    };
    let needs = NEEDS
        .iter()
        .chain(&LAB)
        .chain(more.iter().copied().flatten())
        .filter(|need| !there(need))
        .copied()
        .collect();
    Lacks { needs, toolchain: toolchain::find().err(), cross_std: cross && cross::compiler().is_none() }
}

/// Where C compilers look without being told, Debian's folder per architecture included.
fn has_header(root: &Path, name: &str) -> bool {
    let include = root.join("usr/include");
    let mut folders = vec![include.clone(), root.join("usr/local/include")];
    folders.extend(subfolders(&include, |folder| folder.contains("-linux-")));
    folders.iter().any(|folder| folder.join(name).is_file())
}

/// Where the linker looks without being told. What belongs to another architecture is no help to it.
fn links(root: &Path, library: &str) -> bool {
    let mut folders: Vec<_> = ["usr/lib", "usr/lib64", "usr/local/lib"].map(|lib| root.join(lib)).into();
    let ours = |folder: &str| folder.starts_with(std::env::consts::ARCH) && folder.contains("-linux-");
    folders.extend(subfolders(&root.join("usr/lib"), ours));
    folders
        .iter()
        .any(|folder| ["so", "a"].iter().any(|end| folder.join(format!("{library}.{end}")).exists()))
}

/// Where clang-sys looks for libclang: the library folders, and those of each LLVM.
fn has_library(root: &Path, beginnings: &[&str]) -> bool {
    let mut folders = Vec::new();
    for lib in ["usr/lib", "usr/lib64", "usr/local/lib"] {
        let lib = root.join(lib);
        folders.extend(subfolders(&lib, |folder| folder.contains("-linux-")));
        folders.extend(
            subfolders(&lib, |folder| folder.starts_with("llvm")).iter().map(|llvm| llvm.join("lib")),
        );
        folders.push(lib);
    }
    let is_it = |name: &str| name.contains(".so") && beginnings.iter().any(|begin| name.starts_with(begin));
    folders.iter().any(|folder| !entries(folder, is_it).is_empty())
}

fn subfolders(folder: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    entries(folder, wanted).into_iter().filter(|path| path.is_dir()).collect()
}

fn entries(folder: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| wanted(&entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A folder that plays `/`, gone with the test.
    struct Root(PathBuf);

    impl Root {
        fn new(test: &str, files: &[&str]) -> Self {
            let root = std::env::temp_dir().join(format!("xtask-{test}-{}", std::process::id()));
            for file in files {
                let file = root.join(file);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, "").unwrap();
            }
            Self(root)
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn headers_are_found_where_debian_and_others_put_them() {
        let root = Root::new("headers", &["usr/include/libelf.h", "usr/include/x86_64-linux-gnu/zconf.h"]);
        assert!(has_header(&root.0, "libelf.h"));
        assert!(has_header(&root.0, "zconf.h"));
        assert!(!has_header(&root.0, "zlib.h"));
    }

    #[test]
    fn a_library_is_what_the_linker_of_this_architecture_takes() {
        let at = |folder: &str, file: &str| format!("usr/lib/{folder}/{file}");
        let ours = format!("{}-linux-gnu", std::env::consts::ARCH);
        let foreign = Root::new("foreign", &[&at("s390x-linux-gnu", "libelf.so"), &at(&ours, "libelf.so.1")]);
        assert!(!links(&foreign.0, "libelf"));
        let debian = Root::new("linked", &[&at(&ours, "libelf.so")]);
        assert!(links(&debian.0, "libelf"));
        let fedora = Root::new("lib64", &["usr/lib64/libelf.a"]);
        assert!(links(&fedora.0, "libelf"));
    }

    #[test]
    fn libclang_is_neither_libclang_cpp_nor_an_archive() {
        let names = &["libclang.so", "libclang-1", "libclang-2"];
        let without =
            Root::new("cpp", &["usr/lib/llvm-22/lib/libclang-cpp.so.22.1", "usr/lib/llvm-22/lib/libclang.a"]);
        assert!(!has_library(&without.0, names));
        let debian = Root::new("debian", &["usr/lib/llvm-14/lib/libclang-14.so.1"]);
        assert!(has_library(&debian.0, names));
        let fedora = Root::new("fedora", &["usr/lib64/libclang.so.19"]);
        assert!(has_library(&fedora.0, names));
    }

    #[test]
    fn an_empty_machine_has_nothing() {
        let root = Root::new("empty", &[]);
        assert!(!has_header(&root.0, "stdio.h"));
        assert!(!has_library(&root.0, &["libclang"]));
    }

    /// What stands in front of rustc when somebody types `cargo build`.
    const WRAPPER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../.cargo/rustc-wrapper");

    /// What it does with a package on a machine that has these programs and no others: what it prints, and what it
    /// tells cargo.
    fn wrapped(package: &str, programs: &[&str], compiler: &str) -> (String, String) {
        let root = Root::new("wrapper", &["bin/nothing"]);
        let bin = root.0.join("bin");
        for name in programs {
            let script = if *name == "cc" { compiler } else { "#!/bin/sh\n" };
            fs::write(bin.join(name), script).unwrap();
            fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let mut wrapper = std::process::Command::new("/bin/sh");
        wrapper.args([WRAPPER, "/bin/echo", "compiled"]).env("CARGO_PKG_NAME", package).env("PATH", bin);
        wrapper.env_remove("CC").env_remove("M4").env_remove("CLANG");
        let output = wrapper.output().unwrap();
        assert_eq!(output.status.success(), output.stderr.is_empty());
        let told: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap_or_default();
        let told = told["rendered"].as_str().unwrap_or_default().to_owned();
        (String::from_utf8(output.stdout).unwrap(), told)
    }

    #[test]
    fn a_plain_build_stops_with_one_line_for_each_need_of_setup() {
        let programs = NEEDS.iter().filter_map(|need| match need.sign {
            Sign::Program(name) => Some(name),
            _ => None,
        });
        let programs: Vec<&str> = programs.collect();
        let (works, fails) = ("#!/bin/sh\n", "#!/bin/sh\nexit 1\n");
        let line = |what: &str| format!("error: this machine lacks {what}: run `cargo xtask setup`\n");
        assert_eq!(wrapped("libbpf-sys", &programs, works), ("compiled\n".to_owned(), String::new()));
        for lacking in &programs {
            let others: Vec<&str> = programs.iter().copied().filter(|name| name != lacking).collect();
            let what = if *lacking == "cc" { "a C compiler" } else { lacking };
            assert_eq!(wrapped("libbpf-sys", &others, works), (String::new(), line(what)));
        }
        let headers = NEEDS.iter().filter_map(|need| match need.sign {
            Sign::Linked(header, _) => Some(header),
            _ => None,
        });
        let headers: Vec<&str> = headers.collect();
        assert_eq!(wrapped("clang-sys", &programs, fails), (String::new(), line(&headers.join(", "))));
        // What builds without all that is left alone, xtask first of all.
        assert_eq!(wrapped("xtask", &[], works).0, "compiled\n");
    }
}
