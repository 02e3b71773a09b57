//! The corpora, replayed: what a fuzzer once found out of the way, and what it found wrong.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use fuzz::TARGETS;
use umemd::steer;
use umemd_common::key::field;
use umemd_common::parse;

/// The inputs of a target, by their files.
fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

#[test]
fn what_was_found_once_is_in_order() {
    for (name, check) in TARGETS {
        for (path, data) in corpus(name) {
            // Shown if it panics.
            println!("{}", path.display());
            check(&data);
        }
    }
}

#[test]
fn frames_of_the_corpus_have_every_field_and_lack_every_field() {
    let (mut there, mut missing) = (0, 0);
    for (_, data) in corpus("parser") {
        let frame = data.get(2..).unwrap_or_default();
        for read in [parse::<0, _>(frame), parse::<1, _>(frame), parse::<2, _>(frame)] {
            there |= read.key.fields();
            missing |= read.missing;
        }
    }
    let addresses = (field::SRC6 | field::DST6) * field::WHOLE6;
    // Bit 15 is nobody's.
    let all = ((1 << 15) - 1) | addresses;
    assert_eq!(there, all | field::TRUNCATED | field::MALFORMED, "{there:#x}");
    assert_eq!(missing, all, "{missing:#x}");
}

#[test]
fn rules_of_the_corpus_say_every_word() {
    let texts: Vec<String> =
        corpus("rule").into_iter().map(|(_, data)| String::from_utf8_lossy(&data).into_owned()).collect();
    let said: BTreeSet<&str> = texts
        .iter()
        .filter(|text| steer::compile(&[text]).is_ok())
        .flat_map(|text| text.split(|c: char| !c.is_alphanumeric() && !"|&".contains(c)))
        .collect();
    for word in [
        "all",
        "ip",
        "ip6",
        "arp",
        "rarp",
        "tcp",
        "udp",
        "sctp",
        "icmp",
        "icmp6",
        "vlan",
        "ether",
        "proto",
        "src",
        "dst",
        "host",
        "net",
        "port",
        "portrange",
        "and",
        "or",
        "||",
        "&&",
    ] {
        assert!(said.contains(word), "no rule says `{word}`");
    }
}
