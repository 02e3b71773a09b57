//! [`Pages`]: so many huge pages on this machine, as long as a test needs them.

use std::fs;

const SYSCTL: &str = "/proc/sys/vm/nr_hugepages";

/// The number of huge pages, set back to what it was when dropped.
#[derive(Debug)]
pub struct Pages {
    before: String,
}

impl Pages {
    /// Asks for `count` pages, none of them in use.
    ///
    /// # Panics
    ///
    /// If the kernel has them not to give.
    #[track_caller]
    pub fn set(count: u32) -> Self {
        let before = fs::read_to_string(SYSCTL).unwrap_or_else(|error| panic!("{SYSCTL}: {error}"));
        let pages = Self { before };
        fs::write(SYSCTL, count.to_string()).unwrap_or_else(|error| panic!("{SYSCTL}: {error}"));
        let now = fs::read_to_string(SYSCTL).unwrap_or_default();
        assert_eq!(now.trim(), count.to_string(), "the kernel has not as many huge pages to give");
        pages
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        let _ = fs::write(SYSCTL, &self.before);
    }
}
