//! [`KernelLog`]: what the kernel says while something is done. Some drivers give their reasons nowhere else.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::OpenOptionsExt as _,
};

use rustix::fs::OFlags;

/// A reader of its own of the kernel's log (Documentation/ABI/testing/dev-kmsg).
pub(super) struct KernelLog(File);

impl KernelLog {
    /// Of what is said from here on.
    pub(super) fn from_here() -> Self {
        const FILE: &str = "/dev/kmsg";
        // At the end of the log it says so, and does not wait.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = File::options().read(true).custom_flags(flags).open(FILE);
        let mut file = file.unwrap_or_else(|error| panic!("{FILE}: {error}"));
        file.seek(SeekFrom::End(0)).unwrap_or_else(|error| panic!("{FILE}: {error}"));
        Self(file)
    }

    /// What was said since, a line each.
    pub(super) fn lines(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        // A read gives one record, and none is longer.
        let mut record = [0; 8192];
        loop {
            match self.0.read(&mut record) {
                Ok(length) => lines.extend(text(&record[..length])),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return lines,
                // It said more than its log holds: what is left of it comes next.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
                Err(error) => panic!("cannot read the kernel's log: {error}"),
            }
        }
    }
}

/// What a record says: behind its numbers, and without the names and values that may follow.
fn text(record: &[u8]) -> Option<String> {
    let record = String::from_utf8_lossy(record);
    let (_, text) = record.split_once(';')?;
    text.lines().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_says_what_is_behind_its_numbers() {
        let record = b"6,339,5140900,-;mvneta eth0: Link is Up; full duplex\n SUBSYSTEM=platform\n DEVICE=+platform:x\n";
        assert_eq!(text(record).as_deref(), Some("mvneta eth0: Link is Up; full duplex"));
        assert_eq!(text(b"6,340,5140901,-"), None);
    }
}
