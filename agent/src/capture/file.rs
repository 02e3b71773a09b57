//! Where the bytes go: a file that another one follows, or a pipe.

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{self, IsTerminal as _, Seek as _, SeekFrom, Write as _},
    mem,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, poll};

use super::pcapng;
use crate::config::Capture;

/// After which time it is tried again to begin the next file.
const RETRY: Duration = Duration::from_secs(1);

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
    /// The file's number, where files follow each other.
    number: u64,
    /// When the next file could not be created, if that was the last thing tried.
    refused: Option<Instant>,
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
    /// Creates the file, over one that is there; where files follow each other, behind all that are there.
    ///
    /// # Errors
    ///
    /// What the kernel refuses; or standard output is a terminal.
    pub(super) fn create(config: Capture) -> io::Result<Self> {
        let target = match &config.file {
            Some(path) if config.rotate_size.is_some() || config.rotate_time.is_some() => {
                let (number, file) = create_behind(path, last_number(path)?)?;
                let created = name(path, number);
                return Self::begin(config, Target::File(file), number).inspect_err(|_| {
                    // Whoever starts again and again on a full disk would leave one each time.
                    let _ = fs::remove_file(created);
                });
            }
            Some(path) => {
                Target::File(OpenOptions::new().write(true).create(true).truncate(true).open(path)?)
            }
            None if io::stdout().is_terminal() => {
                return Err(io::Error::other("it is a terminal; pipe it: | tcpdump -r -"));
            }
            None => Target::Pipe(io::stdout().as_fd().try_clone_to_owned()?.into()),
        };
        Self::begin(config, target, 0)
    }

    fn begin(config: Capture, target: Target, number: u64) -> io::Result<Self> {
        let mut output = Self {
            config,
            target,
            interfaces: Vec::new(),
            named: 0,
            written: 0,
            has_packets: false,
            opened: Instant::now(),
            number,
            refused: None,
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
        if self.is_full() {
            self.follow();
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

    /// Begins the next file. Where there is none to be had, this one takes what comes for a while more.
    fn follow(&mut self) {
        let Some(path) = &self.config.file else { return };
        match create_behind(path, self.number) {
            Ok((number, file)) => {
                self.target = Target::File(file);
                self.number = number;
                self.refused = None;
                self.written = 0;
                self.has_packets = false;
                self.opened = Instant::now();
            }
            Err(error) => {
                if self.refused.is_none() {
                    let [before, next] =
                        [self.number, self.number + 1].map(|number| name(path, number).display().to_string());
                    log::warn!(
                        "cannot create {next}: {error}; the capture goes on in {before} until it can be"
                    );
                }
                self.refused = Some(Instant::now());
            }
        }
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
        full && self.has_packets && self.refused.is_none_or(|refused| refused.elapsed() >= RETRY)
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

/// Creates the first file behind number `last` that is not there; its number, and the file.
fn create_behind(path: &Path, last: u64) -> io::Result<(u64, File)> {
    let mut number = last;
    loop {
        number += 1;
        match OpenOptions::new().write(true).create_new(true).open(name(path, number)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            created => return Ok((number, created?)),
        }
    }
}

/// The highest number of the files that are there; 0 without one.
fn last_number(path: &Path) -> io::Result<u64> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut last = 0;
    for file in fs::read_dir(folder)? {
        last = last.max(number_of(&file?.file_name(), path).unwrap_or(0));
    }
    Ok(last)
}

/// The number of a file, if it is one of those that [`name`] makes of `path`.
fn number_of(file: &OsStr, path: &Path) -> Option<u64> {
    let stem = path.file_stem()?.as_encoded_bytes();
    let mut digits = file.as_encoded_bytes().strip_prefix(stem)?.strip_prefix(b"_")?;
    if let Some(extension) = path.extension() {
        digits = digits.strip_suffix(extension.as_encoded_bytes())?.strip_suffix(b".")?;
    }
    // One of more digits is nobody's who counts files.
    let number = str::from_utf8(digits).ok()?.parse::<u32>().ok()?.into();
    (name(path, number).file_name() == Some(file)).then_some(number)
}

/// `capture_00001.pcapng` and so on, as dumpcap does it.
fn name(path: &Path, number: u64) -> PathBuf {
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
        let numbered = |path| name(Path::new(path), 7);
        assert_eq!(numbered("/tmp/a.pcapng"), Path::new("/tmp/a_00007.pcapng"));
        assert_eq!(numbered("a"), Path::new("a_00007"));
    }

    #[test]
    fn files_are_told_from_those_of_others_by_their_names() {
        let number = |file: &str, path| number_of(OsStr::new(file), Path::new(path));
        assert_eq!(number("a_00007.pcapng", "/tmp/a.pcapng"), Some(7));
        assert_eq!(number("a_123456.pcapng", "a.pcapng"), Some(123_456));
        assert_eq!(number("a_00007", "a"), Some(7));
        assert_eq!(number("a_00001_00007", "a_00001"), Some(7));
        for other in [
            "a.pcapng",
            "a_.pcapng",
            "a_7.pcapng",
            "a_+0007.pcapng",
            "a_000007.pcapng",
            "a_99999999999.pcapng",
            "a_00007.pcap",
            "a_00007.pcapng.gz",
            "a_00007pcapng",
            "a_00001_00007.pcapng",
            "aa_00007.pcapng",
            "b_00007.pcapng",
        ] {
            assert_eq!(number(other, "a.pcapng"), None, "{other}");
        }
    }

    /// A folder of a test's own, gone when dropped.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let folder = Self(std::env::temp_dir().join(format!("umemd-{name}-{}", std::process::id())));
            fs::create_dir(&folder.0).unwrap();
            folder
        }

        /// Every file in it, and how many packets it has, in the order of their names.
        fn files(&self) -> Vec<(String, usize)> {
            let mut files: Vec<(String, usize)> = fs::read_dir(&self.0)
                .unwrap()
                .flatten()
                .map(|file| {
                    let blocks = blocks(&fs::read(file.path()).unwrap());
                    (
                        file.file_name().into_string().unwrap(),
                        blocks.iter().filter(|kind| **kind == 6).count(),
                    )
                })
                .collect();
            files.sort();
            files
        }

        fn has(&self, expected: &[(&str, usize)]) {
            let files = self.files();
            assert_eq!(files.iter().map(|(name, packets)| (&**name, *packets)).collect::<Vec<_>>(), expected);
        }

        /// A capture of which every write has a file of its own.
        fn capture(&self) -> Output {
            Output::create(Capture { file: Some(self.0.join("x.pcapng")), ..config(Some(1)) }).unwrap()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Writes so many packets at once.
    fn write(output: &mut Output, packets: usize) {
        (0..packets).for_each(|_| put_packet(output, 60));
        output.flush().unwrap();
    }

    #[test]
    fn files_of_a_run_before_stay_and_are_not_gone_on_with() {
        let folder = Folder::new("capture-again");
        let mut first = folder.capture();
        (1..=3).for_each(|packets| write(&mut first, packets));
        drop(first);
        folder.has(&[("x_00001.pcapng", 1), ("x_00002.pcapng", 2), ("x_00003.pcapng", 3)]);

        // Somebody made room, and has a file of his own.
        fs::remove_file(folder.0.join("x_00001.pcapng")).unwrap();
        fs::write(folder.0.join("y_00009.pcapng"), "").unwrap();
        let mut second = folder.capture();
        write(&mut second, 4);
        // Somebody else writes to the same folder.
        fs::write(folder.0.join("x_00005.pcapng"), "").unwrap();
        write(&mut second, 5);
        folder.has(&[
            ("x_00002.pcapng", 2),
            ("x_00003.pcapng", 3),
            ("x_00004.pcapng", 4),
            ("x_00005.pcapng", 0),
            ("x_00006.pcapng", 5),
            ("y_00009.pcapng", 0),
        ]);
    }

    #[test]
    fn a_file_goes_on_while_the_next_one_cannot_be_created() {
        let folder = Folder::new("capture-nowhere");
        let away = folder.0.with_extension("away");
        let mut output = folder.capture();
        write(&mut output, 1);
        fs::rename(&folder.0, &away).unwrap();
        for packets in 2..=4 {
            write(&mut output, packets);
        }
        assert!(output.refused.is_some());
        fs::rename(&away, &folder.0).unwrap();
        folder.has(&[("x_00001.pcapng", 1 + 2 + 3 + 4)]);

        // Not at once.
        output.refused = Some(Instant::now());
        write(&mut output, 5);
        thread::sleep(RETRY);
        write(&mut output, 6);
        write(&mut output, 7);
        folder.has(&[("x_00001.pcapng", 15), ("x_00002.pcapng", 6), ("x_00003.pcapng", 7)]);
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
        (reader, Output::begin(config(None), Target::Pipe(OwnedFd::from(writer).into()), 0).unwrap())
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
