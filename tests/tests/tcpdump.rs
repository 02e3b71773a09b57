//! `umemd rule match` says what tcpdump says: the one that is installed is asked, about frames that are made up and
//! frames that were captured. Needs no root.

use std::{
    env, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use e2e::{agent::umemd, full::Scratch};
use oracle::{Ether, Expr, Format, Frame, any_frame, capture, expression};
use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use serde_json::json;

/// Expressions of which tcpdump's optimizer makes something else than they say, as random rounds found them with libpcap
/// 1.10.3 (`optimize.c`): it takes a test for decided by one that another branch has not passed. Without it
/// (`tcpdump -O`), tcpdump says what we say, and so does whoever reads the expression.
const MISCOMPILED: [&str; 3] = [
    "ip6 dst net fd00::/33 and (port 0 or ip6 dst net fd00::/33)",
    "ip6 src net fd00::/48 or rarp or ip and (rarp or ip6 src net fd00::/48 and sctp port 8)",
    "ip6 dst net fd00::/33 and ip6 dst net fd00::/33 or (vlan or (ip proto 44 and sctp src or dst portrange 4359-4367))",
];

/// The packets of a pcap that tcpdump matches, as a pcap; `None` if it refuses the expression.
fn tcpdump(options: &[&str], expression: &str, file: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut command = Command::new("tcpdump");
    command.args(options).arg("-r").arg(file).args(["-w", "-", expression]);
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output()?;
    Ok(output.status.success().then_some(output.stdout))
}

/// The packets of a pcap in this machine's byte order, each from its header on.
fn packets(pcap: &[u8]) -> Vec<&[u8]> {
    const FILE_HEADER: usize = 24;
    const HEADER: usize = 16;
    let mut packets = Vec::new();
    let mut rest = pcap.get(FILE_HEADER..).unwrap_or_default();
    while let Some(length) = rest.get(8..12) {
        let length = u32::from_ne_bytes(length.try_into().expect("four bytes")) as usize;
        let (packet, behind) = rest.split_at(HEADER + length);
        packets.push(packet);
        rest = behind;
    }
    packets
}

/// Whether there is a tcpdump to ask; says so if not.
fn is_installed() -> bool {
    let there = Command::new("tcpdump").arg("--version").output().is_ok();
    if !there {
        let _ = writeln!(io::stderr(), "\nskipped: tcpdump is not installed; cargo xtask setup installs it");
    }
    there
}

/// Captures to ask about, in a folder of their own.
struct Corpus {
    _scratch: Scratch,
    files: Vec<PathBuf>,
}

impl Corpus {
    /// Frames of every kind, and of some every beginning; and the captures of real traffic.
    fn new(runner: &mut TestRunner) -> Self {
        let scratch = Scratch::new();
        let mut files = captures();
        assert!(files.len() >= 8, "tests/captures has lost some: {files:?}");
        for number in 0..4 {
            let path = scratch.path().join(format!("made{number}.pcap"));
            fs::write(&path, capture(&frames(runner, 800), Format::PLAIN)).expect("a file can be written");
            files.push(path);
        }
        Self { _scratch: scratch, files }
    }
}

/// What was captured of real traffic; `tests/captures/make` says how.
fn captures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("captures");
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    files.retain(|path| path.extension().is_some_and(|end| end == "pcap"));
    files.sort();
    files
}

fn frames(runner: &mut TestRunner, count: usize) -> Vec<Vec<u8>> {
    let built = prop::collection::vec(any_frame(), count).new_tree(runner).expect("no rejection").current();
    let mut frames: Vec<Vec<u8>> = built.iter().map(Frame::bytes).collect();
    for frame in built.iter().take(8) {
        let whole = Frame { cut: None, ..frame.clone() }.bytes();
        frames.extend((0..whole.len()).map(|len| whole[..len].to_vec()));
    }
    frames
}

fn runner(seed: u64) -> TestRunner {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

/// A number from the environment.
fn setting(name: &str, otherwise: u64) -> u64 {
    env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

/// What `umemd rule match` says: how many packets there are, and how many match; `None` if it refuses the expression
/// for a reason that a generated one may have.
fn matched(expression: &str, file: &Path) -> Option<(u64, u64)> {
    let told = umemd(&["rule", "match", expression, file.to_str().expect("of our making"), "--json"]);
    if told.code == Some(2) {
        let known =
            ["no frame can match", "before and behind a VLAN tag", "not three", "different combinations"];
        assert!(known.iter().any(|known| told.stderr.contains(known)), "`{expression}`: {}", told.stderr);
        return None;
    }
    let counted = told.json();
    let number = |key: &str| counted[key].as_u64().expect("a count");
    Some((number("packets"), number("matched")))
}

/// The first packet of a capture that only one of the two matches, asked one by one; `None` if there is none for which
/// the optimizer is not to blame.
fn differing(expression: &str, file: &Path, scratch: &Scratch) -> Option<String> {
    let whole = tcpdump(&[], "", file).expect("it ran before").expect("no expression");
    let single = scratch.path().join("single.pcap");
    for packet in packets(&whole) {
        fs::write(&single, [&whole[..24], packet].concat()).expect("a file can be written");
        let (_, ours) = matched(expression, &single).expect("it was understood before");
        let theirs = |options: &[&str]| {
            let pcap = tcpdump(options, expression, &single).expect("it ran before").unwrap_or_default();
            packets(&pcap).len() as u64
        };
        if ours != theirs(&[]) && ours != theirs(&["-O"]) {
            return Some(format!("{}: ours {ours}: {:02x?}", file.display(), &packet[16..]));
        }
    }
    None
}

#[test]
fn rules_match_what_tcpdump_matches() {
    if !is_installed() {
        return;
    }
    // The long tests ask for more. Expressions that no frame can match do not count.
    let rounds = setting("UMEMD_TCPDUMP_RULES", 100);
    let seed = setting("UMEMD_TCPDUMP_SEED", 0);
    let mut runner = runner(seed);
    let corpus = Corpus::new(&mut runner);
    let scratch = Scratch::new();
    let (mut round, mut compared, mut matched_any, mut miscompiled) = (0_usize, 0, 0, Vec::new());
    while compared < rounds {
        round += 1;
        let words = expression().prop_map(|expr: Expr| expr.words());
        let words = words.new_tree(&mut runner).expect("no rejection").current();
        let file = &corpus.files[round % corpus.files.len()];
        let Some((_, ours)) = matched(&words, file) else { continue };
        // tcpdump refuses what rejects all packets.
        let theirs = tcpdump(&[], &words, file).expect("it is installed").unwrap_or_default();
        let theirs = packets(&theirs).len() as u64;
        if ours != theirs {
            match differing(&words, file, &scratch) {
                Some(difference) => panic!("seed {seed}, round {round}: `{words}` of {difference}"),
                None => miscompiled.push(words),
            }
        }
        matched_any += u64::from(ours > 0);
        compared += 1;
    }
    println!(
        "{compared} of {rounds} compared, {matched_any} match something; by the optimizer: {miscompiled:?}"
    );
    assert!(
        compared > rounds / 2 && matched_any > rounds / 4,
        "{matched_any} of {compared}: this says little"
    );
    assert!(
        miscompiled.len() as u64 <= rounds / 200 + 1,
        "the optimizer is blamed too often: {miscompiled:?}"
    );
}

#[test]
fn what_the_optimizer_miscompiles_is_matched_as_it_is_said() {
    if !is_installed() {
        return;
    }
    // Whole ones: where a frame is cut, the optimizer's order counts.
    let built = prop::collection::vec(any_frame(), 2000).new_tree(&mut runner(0)).unwrap().current();
    let whole = built.into_iter().filter(|frame| !matches!(frame.ether, Ether::Other(_)));
    let frames: Vec<Vec<u8>> = whole.map(|frame| Frame { cut: None, ..frame }.bytes()).collect();
    let scratch = Scratch::new();
    let file = scratch.path().join("whole.pcap");
    fs::write(&file, capture(&frames, Format::PLAIN)).unwrap();
    for expression in MISCOMPILED {
        let theirs = |options: &[&str]| {
            packets(&tcpdump(options, expression, &file).unwrap().unwrap_or_default()).len() as u64
        };
        let (optimized, plain) = (theirs(&[]), theirs(&["-O"]));
        let (_, ours) = matched(expression, &file).expect("a rule");
        assert_eq!(ours, plain, "`{expression}`");
        println!("`{expression}`: {plain} match, {optimized} when it is optimized");
    }
}

#[test]
fn every_kind_of_capture_is_read_as_tcpdump_reads_it() {
    if !is_installed() {
        return;
    }
    let frames = frames(&mut runner(0), 400);
    let scratch = Scratch::new();
    let path = scratch.path().join("capture");
    let words = ["udp", "host 10.0.0.1", "vlan and ip6", "port 7 or arp", "ether src 02:00:00:00:00:01"];
    for bits in 0..16 {
        let (ng, big_endian, other) = (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0);
        // A pcapng must not have longer packets, and a pcap's are cut; 0 says nothing of them.
        let snaplen = [65535, if ng { 0 } else { 50 }][bits >> 3];
        let format = Format { ng, big_endian, other, snaplen };
        fs::write(&path, capture(&frames, format)).unwrap();
        for words in words {
            // It writes as it reads, so it is asked for lines.
            let mut command = Command::new("tcpdump");
            command.args(["-n", "-t", "-q", "-r"]).arg(&path).args(["--count", words]);
            let said = String::from_utf8(command.output().unwrap().stdout).unwrap();
            let theirs: u64 = said.split(' ').next().and_then(|number| number.parse().ok()).expect(&said);
            assert!(theirs > 0);
            let told = umemd(&["rule", "match", words, path.to_str().unwrap(), "--json"]).json();
            assert_eq!(
                told,
                json!({ "packets": frames.len(), "matched": theirs }),
                "`{words}` of {format:?}"
            );
        }
    }
}

/// A number alone, and a length, may be octal or hexadecimal, while octets are decimal.
#[test]
fn networks_are_read_as_tcpdump_reads_them() {
    if !is_installed() {
        return;
    }
    let mut frames = Vec::new();
    for address in [
        [0; 4],
        [0, 0, 0, 1],
        [0, 0, 0, 8],
        [0, 1, 0, 0],
        [1, 0, 0, 0],
        [1, 0, 0, 9],
        [1, 0, 9, 9],
        [1, 1, 0, 0],
        [1, 2, 3, 4],
        [8, 0, 0, 0],
        [8, 9, 9, 9],
        [10, 0, 0, 1],
        [10, 0, 0, 10],
        [10, 0, 0, 70],
        [10, 0, 9, 9],
        [10, 8, 0, 0],
        [10, 99, 99, 99],
        [255; 4],
    ] {
        let mut frame = [&[2; 12][..], &[8, 0, 0x45], &[0; 19]].concat();
        frame[26..30].copy_from_slice(&address);
        frames.push(frame);
    }
    let scratch = Scratch::new();
    let path = scratch.path().join("addresses.pcap");
    fs::write(&path, capture(&frames, Format::PLAIN)).unwrap();
    for net in [
        "0",
        "00",
        "0x0",
        "0.0",
        "0.0.0.0",
        "0.0.0.0/0",
        "1",
        "10",
        "010",
        "0x0a",
        "0X0A",
        "256",
        "257",
        "2560",
        "65536",
        "16777216",
        "0x0a000001",
        "4294967295",
        "10.0",
        "1.2.3",
        "010.8",
        "10.08",
        "10.0.0.010",
        "10.0.0.0/010",
        "10.0.0.0/0x8",
        "10.0.0.0/032",
        "10.0/16",
        "10.0/8",
        "10.0.0.0/8 or 010",
        "10.8 or 0",
    ] {
        let words = format!("ip src net {net}");
        let theirs = tcpdump(&[], &words, &path).unwrap().expect(&words);
        let theirs = packets(&theirs).len() as u64;
        assert!(theirs > 0, "`{words}`");
        assert_eq!(matched(&words, &path), Some((frames.len() as u64, theirs)), "`{words}`");
    }
}

/// With the words before them, which only the first one says; and in parentheses.
#[test]
fn values_are_read_as_tcpdump_reads_them() {
    if !is_installed() {
        return;
    }
    let corpus = Corpus::new(&mut runner(1));
    for words in [
        "port 7 or (tcp) or 53",
        "udp port 7 or (port 53) or 5000",
        "port 7 or ((tcp) and 53) or 5000",
        "port 7 or (((host 10.0.0.1)) or 53)",
        "host 10.0.0.1 or (port 7) or 10.0.0.2",
        "tcp and port 7 or (53 or 80)",
        "udp port ((7) or 53)",
        "udp port (((7)) or (53 or 5000)) and ip",
        "vlan (5)",
        "vlan ((5)) and vlan (7)",
        r"ip proto (\tcp or \udp)",
        r"ip proto \icmp or \udp",
        "ether src 02-00-00-00-00-01 or 02-00-00-00-00-02",
        "ether host aabbccddeeff or 020000000001 or 02000000000a or 02:00:00:00:00:01",
        "ether dst (0200.0000.0001 or 0200.0000.0002)",
        "net (10 or 192.168)",
        "portrange (7-9 or 50-60)",
    ] {
        let both = corpus.files.iter().map(|file| {
            let theirs = packets(&tcpdump(&[], words, file).expect("it is installed").expect(words)).len();
            let (_, ours) = matched(words, file).expect(words);
            assert_eq!(ours, theirs as u64, "`{words}` of {}", file.display());
            ours
        });
        assert!(both.sum::<u64>() > 0, "`{words}` matches nothing, which says little");
    }
}

/// Behind a length and SNAP too, and nowhere else: what tcpdump finds there is refused.
#[test]
fn ether_types_are_looked_for_where_tcpdump_looks() {
    if !is_installed() {
        return;
    }
    let apple_talk = [0x809b_u16, 0x80f3];
    let others =
        [0x05dd, 0x0600, 0x0800, 0x0806, 0x6003, 0x8035, 0x8100, 0x8137, 0x86dd, 0x88cc, 0x9000, 0xffff];
    let mut frames = Vec::new();
    for ether_proto in apple_talk.into_iter().chain(others) {
        let ether_proto = ether_proto.to_be_bytes();
        frames.push([&[2; 12][..], &ether_proto, &[0; 46]].concat());
        for organization in [[0, 0, 0], [8, 0, 7]] {
            let snap = [&[0xaa, 0xaa, 3][..], &organization, &ether_proto].concat();
            frames.push([&[2; 12][..], &[0, 46], &snap, &[0; 38]].concat());
        }
    }
    let scratch = Scratch::new();
    let path = scratch.path().join("ether.pcap");
    fs::write(&path, capture(&frames, Format::PLAIN)).unwrap();
    let theirs = |words: &str| packets(&tcpdump(&[], words, &path).unwrap().expect(words)).len() as u64;
    for ether_proto in apple_talk {
        let words = format!("ether proto {ether_proto:#06x}");
        assert_eq!(theirs(&words), 2, "`{words}`");
        umemd(&["rule", "check", &words]).refused(2);
    }
    for ether_proto in others {
        let words = format!("ether proto {ether_proto:#06x}");
        assert_eq!(matched(&words, &path), Some((frames.len() as u64, theirs(&words))), "`{words}`");
    }
}

#[test]
fn what_tcpdump_refuses_is_refused() {
    if !is_installed() {
        return;
    }
    let scratch = Scratch::new();
    let empty = scratch.path().join("empty.pcap");
    fs::write(&empty, capture(&[], Format::PLAIN)).unwrap();
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
        "port 000000000007",
        "net 000000000010",
        "ip proto tcp",
        r"ip6 proto \icmp6",
        "dst src port 7",
        "ip and 7",
        "udp port 7 or arp or 8",
        "udp port (7 or udp)",
        "udp port ((7 or 8) and 9)",
        "udp port ((7 or 8))",
        "port 7 or ((8 or 9))",
        "port (7 or ((8 or 9)))",
        "host ((10.0.0.1))",
        "host ((10.0.0.1) or 10.0.0.2)",
        "host (10.0.0.1 or ((10.0.0.2)))",
        "net ((10.0))",
        "portrange ((7-8))",
        "ether src ((02:00:00:00:00:01))",
        r"ip proto ((\tcp))",
        "udp\u{a0}port 7",
        "udp\u{b}port 7",
        "(udp port 7) or 8",
        "port 7 or (tcp or 8)",
        "(port 7 or 8) or 9",
        "tcp or (port 8) or 9",
        "vlan (5 or 6)",
        "vlan (port 7)",
        "tcp host 10.0.0.1",
        "ip host fd00::1",
        "ip6 host 10.0.0.1",
        "net 10.0.0.1/8",
        "net 10/8",
        "net 0/0",
        "net 08",
        "net 10.0.0.0/08",
        "net fd00::/08",
        "net 4294967296",
        "net 256.1",
        "net 1.0x2",
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
        assert_eq!(tcpdump(&[], expression, &empty).unwrap(), None, "{expression}");
        umemd(&["rule", "check", expression]).refused(2);
    }
}
