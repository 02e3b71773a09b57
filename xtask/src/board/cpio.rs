//! The archive that a kernel unpacks as its first file system: cpio's "newc" format, uncompressed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a path holds.
enum Content {
    File { bytes: Vec<u8>, executable: bool },
    Link(String),
}

/// Files by path, without the leading slash. Folders come by themselves.
#[derive(Default)]
pub(crate) struct Archive {
    entries: BTreeMap<PathBuf, Content>,
}

/// Types in the upper bits of a mode.
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

impl Archive {
    /// Adds a file.
    pub(crate) fn file(&mut self, path: &str, bytes: impl Into<Vec<u8>>) {
        self.entries.insert(path.into(), Content::File { bytes: bytes.into(), executable: false });
    }

    /// Adds a program.
    pub(crate) fn program(&mut self, path: &str, bytes: impl Into<Vec<u8>>) {
        self.entries.insert(path.into(), Content::File { bytes: bytes.into(), executable: true });
    }

    /// Adds a symbolic link.
    pub(crate) fn link(&mut self, path: &str, to: &str) {
        self.entries.insert(path.into(), Content::Link(to.to_owned()));
    }

    /// The archive.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut number = 0;
        let mut folders: Vec<&Path> = Vec::new();
        for (path, content) in &self.entries {
            let mut above: Vec<&Path> = path.ancestors().skip(1).filter(|at| *at != Path::new("")).collect();
            above.reverse();
            for folder in above {
                if !folders.contains(&folder) {
                    folders.push(folder);
                    entry(&mut bytes, &mut number, folder, FOLDER | 0o755, &[]);
                }
            }
            let (mode, content) = match content {
                Content::File { bytes, executable } => {
                    (FILE | if *executable { 0o755 } else { 0o644 }, bytes.as_slice())
                }
                Content::Link(to) => (LINK | 0o777, to.as_bytes()),
            };
            entry(&mut bytes, &mut number, path, mode, content);
        }
        entry(&mut bytes, &mut number, Path::new("TRAILER!!!"), 0, &[]);
        bytes
    }
}

/// A header of thirteen numbers in eight hexadecimal digits each, the name, the content; padded to four bytes.
fn entry(bytes: &mut Vec<u8>, number: &mut u32, path: &Path, mode: u32, content: &[u8]) {
    *number += 1;
    let name = path.to_string_lossy();
    let links = 1;
    let (name_size, size) = (name.len() as u32 + 1, content.len() as u32);
    let fields = [*number, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0];
    bytes.extend(b"070701");
    for field in fields {
        bytes.extend(format!("{field:08x}").as_bytes());
    }
    bytes.extend(name.as_bytes());
    bytes.push(0);
    pad(bytes);
    bytes.extend(content);
    pad(bytes);
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names, modes and contents, read back.
    fn read(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        loop {
            assert_eq!(&bytes[..6], b"070701");
            let field = |index: usize| {
                let text = std::str::from_utf8(&bytes[6 + 8 * index..][..8]).unwrap();
                u32::from_str_radix(text, 16).unwrap() as usize
            };
            let (mode, size, name_size) = (field(1), field(6), field(11));
            let name = String::from_utf8(bytes[110..110 + name_size - 1].to_vec()).unwrap();
            let start = (110 + name_size).next_multiple_of(4);
            let content = bytes[start..start + size].to_vec();
            bytes = &bytes[(start + size).next_multiple_of(4)..];
            if name == "TRAILER!!!" {
                assert!(bytes.is_empty());
                return entries;
            }
            entries.push((name, mode as u32, content));
        }
    }

    #[test]
    fn folders_come_before_what_is_in_them() {
        let mut archive = Archive::default();
        archive.program("usr/bin/ip", *b"elf");
        archive.link("bin", "usr/bin");
        archive.file("etc/rig", "");
        let expected = [
            ("bin", LINK | 0o777, "usr/bin"),
            ("etc", FOLDER | 0o755, ""),
            ("etc/rig", FILE | 0o644, ""),
            ("usr", FOLDER | 0o755, ""),
            ("usr/bin", FOLDER | 0o755, ""),
            ("usr/bin/ip", FILE | 0o755, "elf"),
        ];
        let expected = expected.map(|(name, mode, text)| (name.to_owned(), mode, text.as_bytes().to_vec()));
        assert_eq!(read(&archive.bytes()), expected);
    }
}
