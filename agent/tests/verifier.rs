//! What the verifier walks through, and how much stack it finds, for each way in which the program is loaded: recorded,
//! so that a change that brings it near the kernel's limits is seen when it is made.

use std::fmt::Write as _;

use aya::programs::{ProgramError, Xdp};
use aya::{EbpfLoader, VerifierLogLevel, include_bytes_aligned};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/xdp-prog.o"));

/// Instructions that the verifier walks before it gives up (`BPF_COMPLEXITY_LIMIT_INSNS`).
const MOST_WALKED: u64 = 1_000_000;
/// Bytes of stack that a chain of calls may have (`MAX_BPF_STACK`).
const MOST_STACK: u64 = 512;

/// Of a way to load the program, what Linux 6.18 says; another kernel counts a little differently.
struct Recorded {
    program: &'static str,
    switch_tag: u8,
    /// Whether packet pointers may be subtracted.
    subtracts: bool,
    walked: u64,
    peak_states: u64,
}

/// Bytes of stack of the longest chain of calls: the program, and one of the functions that it calls.
const STACK: u64 = 296;

const fn recorded(
    program: &'static str,
    switch_tag: u8,
    subtracts: bool,
    walked: u64,
    peak_states: u64,
) -> Recorded {
    Recorded { program, switch_tag, subtracts, walked, peak_states }
}

const RECORDED: [Recorded; 8] = [
    recorded("umemd", 0, true, 210_503, 1_367),
    recorded("umemd", 0, false, 210_486, 1_365),
    recorded("umemd", 4, true, 238_355, 1_485),
    recorded("umemd", 8, true, 238_353, 1_485),
    recorded("umemd", 8, false, 238_336, 1_483),
    recorded("umemd_frags", 0, true, 210_506, 1_365),
    recorded("umemd_frags", 4, true, 238_358, 1_483),
    recorded("umemd_frags", 8, true, 238_356, 1_483),
];

/// What the verifier says.
#[derive(Debug)]
struct Statistics {
    walked: u64,
    peak_states: u64,
    /// Bytes of each function.
    stack: Vec<u64>,
}

/// The verifier's statistics, which aya gives for a program that is not loaded: so it is verified, and then there is no
/// file descriptor for it.
fn verify(program: &str, switch_tag: u8, subtracts: bool) -> Statistics {
    let mut ebpf = EbpfLoader::new()
        .override_global("SWITCH_TAG", &switch_tag, true)
        .override_global("SUBTRACTS", &u8::from(subtracts), true)
        .override_global("AYA_LOG_LEVEL", &0_u8, true)
        .verifier_log_level(VerifierLogLevel::STATS)
        .load(OBJECT)
        .unwrap();
    let xdp: &mut Xdp = ebpf.program_mut(program).unwrap().try_into().unwrap();
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..limit }).unwrap();
    let refused = xdp.load();
    setrlimit(Resource::Nofile, limit).unwrap();
    let Err(ProgramError::LoadError { io_error, verifier_log }) = refused else { panic!("{refused:?}") };
    let log = verifier_log.to_string();
    assert_eq!(io_error.raw_os_error(), Some(libc::EMFILE), "{io_error}: {log}");
    parse(&log).unwrap_or_else(|| panic!("not the verifier's statistics: {log}"))
}

/// `stack depth 48+96`, and `processed N insns (limit 1000000) max_states_per_insn N total_states N peak_states N`.
fn parse(log: &str) -> Option<Statistics> {
    let line = |start: &str| log.lines().find_map(|line| line.strip_prefix(start));
    let stack =
        line("stack depth ")?.split('+').map(|bytes| bytes.trim().parse().ok()).collect::<Option<_>>()?;
    let mut words = line("processed ")?.split_whitespace();
    let walked = words.next()?.parse().ok()?;
    let peak_states = words.skip_while(|word| *word != "peak_states").nth(1)?.parse().ok()?;
    Some(Statistics { walked, peak_states, stack })
}

#[test]
fn the_verifiers_statistics_are_read() {
    let log = "verification time 184103 usec\nstack depth 48+0+96\n\
        processed 353033 insns (limit 1000000) max_states_per_insn 12 total_states 999 peak_states 123 mark_read 45\n";
    let Statistics { walked, peak_states, stack } = parse(log).unwrap();
    assert_eq!((walked, peak_states, stack), (353_033, 123, vec![48, 0, 96]));
    assert!(parse("stack depth 48\n").is_none());
}

#[test]
#[ignore = "requires root: has the kernel verify programs"]
fn the_verifier_walks_and_finds_no_more_than_is_recorded() {
    let mut table = String::new();
    let mut beyond = Vec::new();
    for Recorded { program, switch_tag, subtracts, walked, peak_states } in RECORDED {
        let found = verify(program, switch_tag, subtracts);
        // What the program calls calls nothing.
        let stack = found.stack[0] + found.stack[1..].iter().max().unwrap_or(&0);
        let _ = writeln!(
            table,
            "{program}, tag {switch_tag}, subtracts {subtracts}: {} walked, {} peak states, stack {:?} = {stack}",
            found.walked, found.peak_states, found.stack
        );
        assert!(found.walked < MOST_WALKED / 2 && stack <= MOST_STACK, "near the kernel's limits:\n{table}");
        // A quarter more, for other kernels.
        let more = |recorded: u64| recorded / 4 * 5;
        if found.walked > more(walked) || found.peak_states > more(peak_states) || stack > STACK {
            beyond.push(table.lines().last().unwrap_or_default().to_owned());
        }
    }
    eprintln!("{table}");
    assert!(beyond.is_empty(), "more than is recorded; say why, and record it:\n{}", beyond.join("\n"));
}
