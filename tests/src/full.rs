//! Tests with programs that few machines have: a browser, the real Prometheus, its reference parser.

use std::{
    env, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use crate::privilege;

/// What a browser takes to start on a busy machine, or Prometheus to scrape twice.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Whether a test that needs `program` of Debian's `package` can run here. If not, says on stderr who is skipped and
/// why; `cargo xtask test full` installs the packages.
pub fn permits(program: &str, package: &str) -> bool {
    let reason = if env::var_os("UMEMD_FULL").is_none() {
        "`cargo xtask test full` runs it".to_owned()
    } else if find(program).is_none() {
        format!("needs {program}; apt-get install {package}")
    } else {
        return privilege::permits_tests();
    };
    let name = thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(io::stderr(), "\nskipped: {name}: {reason}");
    false
}

/// A path as it is, or a program on `PATH`.
fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.exists())
}

/// A folder of one's own; gone when dropped.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes one.
    ///
    /// # Panics
    ///
    /// If it cannot be made.
    #[track_caller]
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("umemd-e2e-{}-{number}", process::id()));
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("cannot make {}: {error}", path.display()));
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A file of `agent/dist`.
pub fn dist(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/dist").join(path)
}
