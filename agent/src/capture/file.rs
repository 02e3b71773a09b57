//! Where the bytes go: a file that another one follows, or a pipe.

use std::{
    fs::{File, OpenOptions},
    io::{self, IsTerminal as _, Seek as _, SeekFrom, Write as _},
    mem,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    time::Instant,
};

use rustix::event::{PollFd, PollFlags, poll};

use super::pcapng;
use crate::config::Capture;

/// An open capture.
#[derive(Debug)]
pub(super) struct Output {
    config: Capture,
    target: Target,
    /// Names of the interfaces, in the order of their numbers; all files have the same.
    interfaces: Vec<String>,
    /// How many of them this file knows.
    named: usize,
    /// Bytes of whole blocks in the file.
    written: u64,
    has_packets: bool,
    opened: Instant,
    /// How many files there were.
    number: u32,
    /// Packets not yet written.
    buffer: Vec<u8>,
}

#[derive(Debug)]
enum Target {
    File(File),
    /// Standard output, without the buffer that `io::Stdout` has: how much of a block is written has to be known.
    Pipe(File),
}

impl Output {
    /// Creates the file, over one that is there.
    ///
    /// # Errors
    ///
    /// What the kernel refuses; or standard output is a terminal.
    pub(super) fn create(config: Capture) -> io::Result<Self> {
        let target = match &config.file {
            Some(path) => Target::File(create(&name(path, &config, 1))?),
            None if io::stdout().is_terminal() => {
                return Err(io::Error::other("it is a terminal; pipe it: | tcpdump -r -"));
            }
            None => Target::Pipe(io::stdout().as_fd().try_clone_to_owned()?.into()),
        };
        Self::begin(config, target)
    }

    fn begin(config: Capture, target: Target) -> io::Result<Self> {
        let mut output = Self {
            config,
            target,
            interfaces: Vec::new(),
            named: 0,
            written: 0,
            has_packets: false,
            opened: Instant::now(),
            number: 1,
            buffer: Vec::new(),
        };
        output.flush()?;
        Ok(output)
    }

    /// The number of an interface.
    pub(super) fn interface(&mut self, name: &str) -> u32 {
        let known = self.interfaces.iter().position(|known| known == name);
        let number = known.unwrap_or_else(|| {
            self.interfaces.push(name.to_owned());
            self.interfaces.len() - 1
        });
        number as u32
    }

    /// Appends a packet to what is to be written.
    pub(super) fn packet(&mut self, about: pcapng::About, parts: impl FnOnce(&mut dyn FnMut(&[u8]))) {
        pcapng::packet(&mut self.buffer, about, self.config.snaplen, parts);
    }

    /// How many bytes wait to be written.
    pub(super) fn waiting(&self) -> usize {
        self.buffer.len()
    }

    /// How many bytes may wait before the buffer grows.
    #[cfg(test)]
    pub(super) fn room(&self) -> usize {
        self.buffer.capacity()
    }

    /// Writes what waits; into another file if it is time for that.
    ///
    /// # Errors
    ///
    /// What the kernel refuses. What waited is lost then; the file ends behind the last block that is whole.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let packets = mem::take(&mut self.buffer);
        let result = self.write(&packets);
        self.buffer = packets;
        self.buffer.clear();
        result
    }

    fn write(&mut self, packets: &[u8]) -> io::Result<()> {
        if self.is_full()
            && let Some(path) = &self.config.file
        {
            self.target = Target::File(create(&name(path, &self.config, self.number + 1))?);
            self.number += 1;
            self.written = 0;
            self.has_packets = false;
            self.opened = Instant::now();
        }
        // What the file has to know before the first packet; also if that was too much for the disk before.
        let mut head = Vec::new();
        if self.written == 0 {
            pcapng::section(&mut head);
            self.named = 0;
        }
        for interface in &self.interfaces[self.named..] {
            pcapng::interface(&mut head, interface, self.config.snaplen);
        }
        self.put(&head)?;
        self.named = self.interfaces.len();
        self.put(packets)?;
        self.has_packets |= !packets.is_empty();
        Ok(())
    }

    /// All of the bytes, or none.
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.target {
            Target::Pipe(pipe) => write_and_wait(pipe, bytes)?,
            Target::File(file) => {
                if let Err(error) = file.write_all(bytes) {
                    // Half a block would make all that follow unreadable. Of a device this is refused.
                    let _ = file.set_len(self.written);
                    let _ = file.seek(SeekFrom::Start(self.written));
                    return Err(error);
                }
            }
        }
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Whether it is time for another file. Never, before there is a packet in this one.
    fn is_full(&self) -> bool {
        let full = self.config.rotate_size.is_some_and(|size| self.written >= size)
            || self.config.rotate_time.is_some_and(|time| self.opened.elapsed() >= time);
        full && self.has_packets
    }
}

/// Writes all of the bytes, and waits for room as long as there is none: whoever gave us the pipe, or has it besides us,
/// may have set `O_NONBLOCK` on it, and half a block would make all that follow unreadable.
fn write_and_wait(pipe: &mut File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match pipe.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // It returns as well when nobody reads any more, and then the write says so. That it is interrupted, or
                // fails for want of memory, makes one more round.
                let _ = poll(&mut [PollFd::new(pipe, PollFlags::OUT)], None);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).open(path)
}

/// `capture.pcapng`; where files follow each other, `capture_00001.pcapng` and so on, as dumpcap does it.
fn name(path: &Path, config: &Capture, number: u32) -> PathBuf {
    if config.rotate_size.is_none() && config.rotate_time.is_none() {
        return path.to_owned();
    }
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(format!("_{number:05}"));
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, os::fd::OwnedFd, thread, time::Duration};

    use super::*;
    use crate::capture::pcapng::{About, Action};

    fn config(rotate_size: Option<u64>) -> Capture {
        Capture { file: None, snaplen: 65535, rotate_size, rotate_time: None }
    }

    #[test]
    fn files_that_follow_each_other_are_numbered_before_the_extension() {
        let numbered = |path| name(Path::new(path), &config(Some(1)), 7);
        assert_eq!(numbered("/tmp/a.pcapng"), Path::new("/tmp/a_00007.pcapng"));
        assert_eq!(numbered("a"), Path::new("a_00007"));
        assert_eq!(name(Path::new("a.pcapng"), &config(None), 7), Path::new("a.pcapng"));
    }

    fn put_packet(output: &mut Output, len: usize) {
        let interface = output.interface("eth0");
        let about = About { interface, time: Duration::ZERO, queue: 0, verdict: Action::Drop };
        output.packet(about, |put| put(&vec![0; len]));
    }

    /// The type of each block, all of which are whole.
    fn blocks(mut bytes: &[u8]) -> Vec<u32> {
        let word = |bytes: &[u8]| u32::from_ne_bytes(bytes[..4].try_into().unwrap());
        let mut kinds = Vec::new();
        while !bytes.is_empty() {
            let (block, rest) = bytes.split_at(word(&bytes[4..]) as usize);
            assert_eq!(
                word(&block[block.len() - 4..]) as usize,
                block.len(),
                "block {} is whole",
                kinds.len()
            );
            kinds.push(word(block));
            bytes = rest;
        }
        kinds
    }

    fn pipe_that_does_not_wait() -> (io::PipeReader, Output) {
        let (reader, writer) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        (reader, Output::begin(config(None), Target::Pipe(OwnedFd::from(writer).into())).unwrap())
    }

    #[test]
    fn a_pipe_that_does_not_wait_is_waited_for() {
        const PACKETS: usize = 300;
        let (mut reader, mut output) = pipe_that_does_not_wait();
        let reading = thread::spawn(move || {
            let (mut all, mut some) = (Vec::new(), [0; 9999]);
            loop {
                // Slower than it is written: a pipe has 64 KiB.
                thread::sleep(Duration::from_millis(1));
                match reader.read(&mut some).unwrap() {
                    0 => return all,
                    len => all.extend(&some[..len]),
                }
            }
        });
        for _ in 0..PACKETS / 100 {
            (0..100).for_each(|_| put_packet(&mut output, 1500));
            output.flush().unwrap();
        }
        drop(output);
        let blocks = blocks(&reading.join().unwrap());
        assert_eq!(blocks.len(), 2 + PACKETS, "a section, an interface, and every packet");
        assert!(blocks[2..].iter().all(|kind| *kind == 6));
    }

    #[test]
    fn nobody_waits_for_a_reader_that_went_away() {
        let (reader, mut output) = pipe_that_does_not_wait();
        let going = thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            drop(reader);
        });
        (0..100).for_each(|_| put_packet(&mut output, 1500));
        assert_eq!(output.flush().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        going.join().unwrap();
    }
}
