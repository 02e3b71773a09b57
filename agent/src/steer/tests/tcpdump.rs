//! Rules mean what they mean to tcpdump, frame by frame: the one that is installed is asked.

use std::io::{self, Write as _};
use std::process::{Command, Stdio};

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use super::expressions::expression;
use super::frames::any_frame;
use super::*;
use crate::steer::capture::{Matched, count};

/// How a capture is written.
#[derive(Clone, Copy, Debug)]
struct Format {
    /// pcapng instead of pcap.
    ng: bool,
    big_endian: bool,
    /// Time stamps of nanoseconds, in a pcap.
    nanoseconds: bool,
}

const PLAIN: Format = Format { ng: false, big_endian: false, nanoseconds: false };

/// The frames as a capture file (pcap-savefile(5), or draft-ietf-opsawg-pcapng), in which each was longer once.
fn capture(frames: &[Vec<u8>], format: Format) -> Vec<u8> {
    let mut file = Vec::new();
    let word = |file: &mut Vec<u8>, word: u32| {
        file.extend(if format.big_endian { word.to_be_bytes() } else { word.to_le_bytes() });
    };
    let halves = |a: u16, b: u16| match format.big_endian {
        true => u32::from(a) << 16 | u32::from(b),
        false => u32::from(b) << 16 | u32::from(a),
    };
    let header: &[u32] = if format.ng {
        let section = [0x0a0d_0d0a, 28, 0x1a2b_3c4d, halves(1, 0), u32::MAX, u32::MAX, 28];
        let interface = [1, 20, halves(1, 0), 0, 20];
        &[&section[..], &interface].concat()
    } else {
        let magic = if format.nanoseconds { 0xa1b2_3c4d } else { 0xa1b2_c3d4 };
        &[magic, halves(2, 4), 0, 0, 65535, 1]
    };
    header.iter().for_each(|value| word(&mut file, *value));
    for (number, frame) in (0..).zip(frames) {
        let [len, padded] = [frame.len() as u32, frame.len().next_multiple_of(4) as u32];
        if format.ng {
            // Of microseconds, since it is not said otherwise.
            let time = u64::from(number) * 1_000_000;
            let block = [6, 32 + padded, 0, (time >> 32) as u32, time as u32, len, len + 100];
            block.iter().for_each(|value| word(&mut file, *value));
            file.extend(frame);
            file.resize(file.len() + (padded - len) as usize, 0);
            word(&mut file, 32 + padded);
        } else {
            [number, 0, len, len + 100].iter().for_each(|value| word(&mut file, *value));
            file.extend(frame);
        }
    }
    file
}

/// The numbers of the frames that tcpdump matches; `None` if it refuses the expression.
fn tcpdump(expression: &str, file: &[u8]) -> io::Result<Option<Vec<usize>>> {
    let mut child = Command::new("tcpdump")
        .args(["-r", "-", "-w", "-", expression])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut stdin = child.stdin.take().expect("piped");
    let file = file.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&file));
    let output = child.wait_with_output()?;
    let _ = writer.join().expect("the writer does not panic"); // a refused expression is not read to its end
    if !output.status.success() {
        return Ok(None);
    }
    let word = |at: usize| {
        let bytes = output.stdout[at..at + 4].try_into().unwrap();
        // It writes as it reads.
        if output.stdout[0] == 0xa1 {
            u32::from_be_bytes(bytes) as usize
        } else {
            u32::from_le_bytes(bytes) as usize
        }
    };
    let (mut at, mut matched) = (24, Vec::new());
    while at < output.stdout.len() {
        // The time stamp is the number that `capture` gave it.
        matched.push(word(at));
        at += 16 + word(at + 8);
    }
    Ok(Some(matched))
}

/// Whether there is a tcpdump to ask; says so if not.
fn is_installed() -> bool {
    let there = tcpdump("ip", &capture(&[], PLAIN)).is_ok();
    if !there {
        eprintln!("skipped: tcpdump is not installed");
    }
    there
}

/// Frames of every kind, and of some every beginning.
fn corpus(runner: &mut TestRunner, count: usize) -> Vec<Vec<u8>> {
    let built = prop::collection::vec(any_frame(), count).new_tree(runner).unwrap().current();
    let mut frames: Vec<Vec<u8>> = built.iter().map(Frame::bytes).collect();
    for frame in built.iter().take(8) {
        let whole = Frame { cut: None, ..frame.clone() }.bytes();
        frames.extend((0..whole.len()).map(|len| whole[..len].to_vec()));
    }
    frames
}

#[test]
fn rules_mean_what_they_mean_to_tcpdump() {
    if !is_installed() {
        return;
    }
    // The long tests ask for more.
    let rounds = std::env::var("UMEMD_TCPDUMP_RULES").map_or(300, |rounds| rounds.parse().unwrap());
    let mut runner = TestRunner::deterministic();
    let corpora = [(); 4].map(|()| corpus(&mut runner, 800));
    let (mut matched_any, mut compared, mut differing) = (0, 0, Vec::new());
    for round in 0..rounds {
        let expr = expression().new_tree(&mut runner).unwrap().current();
        let frames = &corpora[round % corpora.len()];
        let words = expr.words();
        let Some(rules) = compiled(&words) else { continue };
        let matcher = rules[0].matcher();
        // It refuses what rejects all packets.
        let mut theirs =
            tcpdump(&words, &capture(frames, PLAIN)).unwrap().unwrap_or_default().into_iter().peekable();
        for (number, frame) in frames.iter().enumerate() {
            let they_match = theirs.next_if_eq(&number).is_some();
            let we_match = matcher.matches(frame);
            if we_match != they_match {
                differing.push(format!("{words}: ours {we_match}, cut {}: {frame:02x?}", is_cut(frame)));
                break;
            }
        }
        matched_any += usize::from(frames.iter().any(|frame| matcher.matches(frame)));
        compared += 1;
    }
    assert!(
        compared > rounds / 2 && matched_any > rounds / 3,
        "{matched_any} of {compared} matched anything: this says little"
    );
    assert!(differing.is_empty(), "{} of {compared} differ:\n{}", differing.len(), differing.join("\n"));
}

#[test]
fn every_kind_of_capture_is_read_as_tcpdump_reads_it() {
    if !is_installed() {
        return;
    }
    let frames = corpus(&mut TestRunner::deterministic(), 400);
    let words = ["udp", "host 10.0.0.1", "vlan and ip6", "port 7 or arp", "ether src 02:00:00:00:00:01"];
    for bits in 0..8 {
        let format = Format { ng: bits & 1 != 0, big_endian: bits & 2 != 0, nanoseconds: bits & 4 != 0 };
        let file = capture(&frames, format);
        for words in words {
            let rules = compile(&[words]).unwrap();
            let theirs = tcpdump(words, &file).unwrap().unwrap();
            let matched = Matched { packets: frames.len() as u64, matched: theirs.len() as u64 };
            assert_eq!(count(&rules[0], file.as_slice()).unwrap(), matched, "`{words}` of {format:?}");
            assert!(!theirs.is_empty());
        }
    }
}

#[test]
fn what_tcpdump_refuses_is_refused() {
    if !is_installed() {
        return;
    }
    for expression in [
        "ip port 7",
        "ip udp port 7",
        "icmp port 7",
        "arp or 7",
        "udp 7",
        "udp port",
        "PORT 7",
        "()",
        "udp and arp",
        "port 70000",
        "port 09",
        "ip proto tcp",
        r"ip6 proto \icmp6",
        "dst src port 7",
        "ip and 7",
        "udp port 7 or arp or 8",
        "tcp host 10.0.0.1",
        "ip host fd00::1",
        "ip6 host 10.0.0.1",
        "net 10.0.0.1/8",
        "net 10/8",
        "host 10.0.0.1/8",
        "10.0.0.1",
        "ip 10.0.0.1",
        "vlan 4096",
        "vlan 5 or 6",
        "ether host 10.0.0.1",
        "02:00:00:00:00:01",
        "ether 02:00:00:00:00:01",
        "net 10.0.0.0/33",
        "portrange 7 - 9",
        "port 7-9",
    ] {
        assert_eq!(tcpdump(expression, &capture(&[], PLAIN)).unwrap(), None, "{expression}");
        assert!(compile(&[expression]).is_err(), "{expression}");
    }
}
