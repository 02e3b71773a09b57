//! A file of a test's own, or a folder.

use std::{
    fs,
    path::{Path, PathBuf},
    process,
};

use crate::lab::Lab;

/// A file with this text, gone when dropped.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// The test's process has one of this name.
    pub fn new(name: &str, text: &str) -> Self {
        let scratch = Self(std::env::temp_dir().join(format!("umemd-e2e-{}-{name}", process::id())));
        scratch.write(text);
        scratch
    }

    /// Writes it anew.
    pub fn write(&self, text: &str) {
        fs::write(&self.0, text).expect("a temporary file can be written");
    }

    /// Where it is.
    pub fn path(&self) -> &str {
        self.0.to_str().expect("of our making")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A folder of a lab's own, gone when dropped.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// An empty one.
    ///
    /// # Panics
    ///
    /// If it cannot be made.
    #[track_caller]
    pub fn of(lab: &Lab) -> Self {
        let folder = std::env::temp_dir().join(format!("{}-folder", lab.near.name()));
        fs::create_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        Self(folder)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A file in it, whether or not it is there.
    pub fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What is in a folder, in the order of the names.
///
/// # Panics
///
/// If it cannot be read.
#[track_caller]
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.flatten().map(|file| file.path()).collect();
    files.sort();
    files
}
