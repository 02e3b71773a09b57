//! Lines out of a pipe that is read when `poll` says so.

use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};

/// A pipe, and the beginning of a line whose end has not come.
pub(crate) struct Lines<R> {
    from: R,
    rest: Vec<u8>,
}

impl<R: Read> Lines<R> {
    /// Nothing is read yet.
    pub(crate) fn new(from: R) -> Self {
        Self { from, rest: Vec::new() }
    }

    /// Reads once, which does not block a pipe that is readable, and returns the lines that are complete. At the
    /// end the pipe is dropped, so that nobody polls it any more.
    pub(crate) fn read(lines: &mut Option<Self>) -> Vec<String> {
        let Some(open) = lines else { return Vec::new() };
        // Less than the PIPE_BUF that a pipe has room for when poll(2) says that it can be written to.
        let mut buffer = [0; 2048];
        match open.from.read(&mut buffer) {
            Ok(count) if count > 0 => {
                open.rest.extend_from_slice(&buffer[..count]);
                open.complete()
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Vec::new(),
            _ => {
                let last = std::mem::take(&mut open.rest);
                *lines = None;
                if last.is_empty() { Vec::new() } else { text(&last) }
            }
        }
    }

    fn complete(&mut self) -> Vec<String> {
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else { return Vec::new() };
        let rest = self.rest.split_off(end + 1);
        text(&std::mem::replace(&mut self.rest, rest))
    }
}

impl<R: AsFd> Lines<R> {
    /// What to poll.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.from.as_fd()
    }
}

fn text(bytes: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives what is listed, a piece per read.
    struct Pieces(std::vec::IntoIter<&'static str>);

    impl Read for Pieces {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let piece = self.0.next().unwrap_or_default().as_bytes();
            buffer[..piece.len()].copy_from_slice(piece);
            Ok(piece.len())
        }
    }

    #[test]
    fn lines_are_whole_however_they_come() {
        let mut lines = Some(Lines::new(Pieces(vec!["a", "b\nc\nd", "\n", "e"].into_iter())));
        let reads: Vec<Vec<String>> = (0..6).map(|_| Lines::read(&mut lines)).collect();
        assert_eq!(reads, [vec![], vec!["ab", "c"], vec!["d"], vec![], vec!["e"], vec![]] as [Vec<&str>; 6]);
        assert!(lines.is_none());
    }
}
