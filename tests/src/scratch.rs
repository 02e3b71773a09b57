//! A file of a test's own.

use std::{fs, path::PathBuf, process};

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
