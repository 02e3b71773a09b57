//! A capture as a test reads it: by tcpdump, as its users will, and by what tcpdump does not show.

use std::{path::Path, process::Command};

use crate::command::run;

/// The lines that tcpdump prints for the packets of a file that match `filter`, one each.
///
/// # Panics
///
/// If tcpdump cannot read it.
#[track_caller]
pub fn tcpdump(file: impl AsRef<Path>, filter: &str) -> Vec<String> {
    let mut command = Command::new("tcpdump");
    command.args(["-nn", "-q", "-tttt", "-r"]).arg(file.as_ref()).arg(filter);
    let text = run(&mut command, "").unwrap_or_else(|error| panic!("{error}"));
    text.lines().map(str::to_owned).collect()
}

/// How many packets are in a pcapng file that is made of whole blocks.
///
/// # Panics
///
/// If it is not.
#[track_caller]
pub fn packets_of(bytes: &[u8]) -> u64 {
    fates_of(bytes).len() as u64
}

/// What is told of a packet beside its bytes, which tcpdump does not show.
#[derive(Debug, PartialEq, Eq)]
pub struct Fate {
    /// Which of the file's interfaces it came in by.
    pub interface: u32,
    /// Which queue of it.
    pub queue: u32,
    /// As an XDP program would have said it (`enum xdp_action`).
    pub verdict: u64,
}

/// Dropped.
pub const XDP_DROP: u64 = 1;
/// Sent back by the interface that it came in by.
pub const XDP_TX: u64 = 3;
/// Sent by another one.
pub const XDP_REDIRECT: u64 = 4;

/// What is told of each packet of a pcapng file that is made of whole blocks.
///
/// # Panics
///
/// If it is not.
#[track_caller]
pub fn fates_of(bytes: &[u8]) -> Vec<Fate> {
    let (mut at, mut fates) = (0, Vec::new());
    while at < bytes.len() {
        let length = word(bytes, at + 4) as usize;
        assert_eq!(word(bytes, at + length - 4) as usize, length, "the block at byte {at} is whole");
        let block = &bytes[at..at + length];
        if word(block, 0) == 6 {
            fates.push(fate_of(block));
        }
        at += length;
    }
    fates
}

/// Where the last whole block ends.
pub fn whole(bytes: &[u8]) -> usize {
    let mut at = 0;
    while at + 8 <= bytes.len() && at + word(bytes, at + 4) as usize <= bytes.len() {
        at += word(bytes, at + 4) as usize;
    }
    at
}

/// Of an enhanced packet block: its options come behind the bytes that were kept.
fn fate_of(block: &[u8]) -> Fate {
    let (mut queue, mut verdict) = (None, None);
    let mut at = 28 + (word(block, 20) as usize).next_multiple_of(4);
    loop {
        let [code, length] = [at, at + 2].map(|at| u16::from_ne_bytes([block[at], block[at + 1]]));
        let value = &block[at + 4..at + 4 + usize::from(length)];
        match code {
            0 => break,
            6 => queue = Some(u32::from_ne_bytes(value.try_into().expect("four bytes"))),
            7 => {
                assert_eq!(value[0], 2, "a verdict of XDP");
                verdict = Some(u64::from_ne_bytes(value[1..].try_into().expect("eight bytes")));
            }
            other => panic!("nobody knows option {other}"),
        }
        at += 4 + value.len().next_multiple_of(4);
    }
    Fate { interface: word(block, 8), queue: queue.expect("a queue"), verdict: verdict.expect("a verdict") }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
