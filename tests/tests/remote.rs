//! `cargo xtask run --board`: umemd on another machine, which is a namespace with an ssh server.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use e2e::{
    agent,
    board::Board,
    exit, http,
    lab::{Lab, PORT, STEER},
    metrics::Metrics,
    wait::{PATIENCE, wait_until},
    wire::{Wire, any_size},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Where umemd listens on the board, and xtask here.
const LISTEN: &str = "127.0.0.1:19480";

fn start(board: &Board<'_>, args: &[&str]) -> Child {
    let steer = ["--listen", LISTEN, "--steer", STEER, "--handler", "reflect"];
    let mut command: Command = board.xtask(agent::binary(), &[&steer, args].concat());
    command.spawn().unwrap_or_else(|error| panic!("cannot start xtask: {error}"))
}

fn signal(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a pid is positive");
    kill_process(pid, signal).expect("it is our child");
}

/// The forwarded port, as a browser beside xtask would see it.
fn metrics(lab: &Lab) -> Option<Metrics> {
    let ask = || http::request("GET", LISTEN.parse().expect("an address"), "/metrics");
    Some(Metrics::parse(&lab.far.run(ask).ok()?.body))
}

/// Both streams to their ends, and the exit code.
fn end(mut child: Child) -> (Option<i32>, String, String) {
    let (mut output, mut log) = (String::new(), String::new());
    let (stdout, stderr) = (child.stdout.take().expect("a pipe"), child.stderr.take().expect("a pipe"));
    std::thread::scope(|scope| {
        scope.spawn(|| BufReader::new(stdout).read_to_string(&mut output).expect("it is text"));
        scope.spawn(|| BufReader::new(stderr).read_to_string(&mut log).expect("it is text"));
    });
    let code = child.wait().expect("it is our child").code();
    (code, output, log)
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_board_runs_umemd_until_ctrl_c_and_keeps_nothing() {
    let Some(lab) = Lab::new() else { return };
    let board = Board::new(&lab);
    let xtask = start(&board, &["--json"]);
    wait_until("the forwarded port answers", PATIENCE, || metrics(&lab).is_some());
    Wire::connect(&lab.far, lab.pair().near.port(PORT)).reflect(100, any_size);
    let counted = metrics(&lab).expect("it answered before");
    counted.assert_conserved();
    assert_eq!(counted.total("umemd_rx_packets_total"), 100);
    assert_eq!(board.leftovers().len(), 1, "the program's folder");

    let here = connection(&xtask);
    assert!(here.exists(), "{}", here.display());
    signal(&xtask, Signal::INT);
    let (code, output, log) = end(xtask);
    assert_eq!(code, Some(0), "{log}");
    let last: Value = serde_json::from_str(output.lines().last().unwrap_or_default()).expect("a summary");
    assert_eq!(last["type"], "summary", "{output}");
    assert_eq!(last["rx_packets"], 100);
    exit::assert_conserved(&last);
    assert!(log.contains("copy umemd for") && log.contains(LISTEN), "{log}");
    assert_eq!(board.leftovers(), [""; 0]);
    assert!(!here.exists(), "{}", here.display());
    assert_eq!(lab.pair().near.xdp_program(), None);
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn what_a_board_says_comes_while_it_runs() {
    let Some(lab) = Lab::new() else { return };
    let board = Board::new(&lab);
    let mut xtask = start(&board, &["--json"]);
    let stdout = BufReader::new(xtask.stdout.take().expect("a pipe"));
    let (sender, lines) = mpsc::channel();
    let reader = thread::spawn(move || {
        for line in stdout.lines() {
            let _ = sender.send(line.expect("it is text"));
        }
    });
    // Two: the second one is not what the end of a first buffer had to give.
    for _ in 0..2 {
        let line = lines.recv_timeout(PATIENCE).expect("a line a second");
        let said: Value = serde_json::from_str(&line).expect("an object");
        assert_eq!(said["type"], "interval", "{line}");
        assert!(xtask.try_wait().expect("it is our child").is_none(), "it runs on");
        assert!(lab.pair().near.xdp_program().is_some(), "and so does umemd");
    }
    signal(&xtask, Signal::INT);
    assert_eq!(xtask.wait().expect("it is our child").code(), Some(0));
    reader.join().expect("it ends with the pipe");
}

/// Longer than either end believes in the other.
const SILENCE: Duration = Duration::from_secs(90);

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_cut_cable_ends_both_ends_and_nothing_stays_there() {
    let Some(lab) = Lab::new() else { return };
    let board = Board::new(&lab);
    let xtask = start(&board, &["--json"]);
    wait_until("the forwarded port answers", PATIENCE, || metrics(&lab).is_some());
    let here = connection(&xtask);
    board.cut();
    let cut = Instant::now();
    let (code, _, log) = end(xtask);
    assert!(cut.elapsed() < SILENCE, "xtask believed in the board for {:?}", cut.elapsed());
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("ended; umemd there ends by itself"), "{log}");
    assert!(!here.exists(), "{}", here.display());
    wait_until("umemd has ended", SILENCE, || lab.pair().near.xdp_program().is_none());
    wait_until("its folder is gone", PATIENCE, || board.leftovers().is_empty());
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_boards_exit_code_and_words_come_through() {
    let Some(lab) = Lab::new() else { return };
    let board = Board::new(&lab);
    let (code, output, log) = end(start(&board, &["--duration", "1s", "--json"]));
    assert_eq!(code, Some(0), "{log}");
    assert!(output.lines().last().is_some_and(|line| line.contains("\"type\":\"summary\"")), "{output}");

    let (code, _, log) = end(start(&board, &["--steer", "udp dst prot 7"]));
    assert_eq!(code, Some(2), "{log}");
    assert!(log.contains("  udp dst prot 7\n          ^^^^"), "{log}");
    assert_eq!(board.leftovers(), [""; 0]);
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_board_is_left_clean_when_xtask_is_killed() {
    let Some(lab) = Lab::new() else { return };
    let board = Board::new(&lab);
    let mut xtask = start(&board, &[]);
    wait_until("the forwarded port answers", PATIENCE, || metrics(&lab).is_some());
    assert!(lab.pair().near.xdp_program().is_some());
    let here = connection(&xtask);
    assert!(here.exists(), "{}", here.display());
    xtask.kill().expect("it is our child");
    let _ = xtask.wait();
    wait_until("umemd has ended", PATIENCE, || lab.pair().near.xdp_program().is_none());
    wait_until("its folder is gone", PATIENCE, || board.leftovers().is_empty());
    wait_until("ours is gone", PATIENCE, || !here.exists());
    wait_until("no ssh of ours runs", PATIENCE, || !any_process_names(&here));
}

/// Where xtask keeps its connection: `ip netns exec` became xtask, so the child's pid is its own.
fn connection(xtask: &Child) -> PathBuf {
    std::env::temp_dir().join(format!("umemd-ssh-{}", xtask.id()))
}

/// Whether a process has this path on its command line.
fn any_process_names(path: &Path) -> bool {
    let path = path.display().to_string();
    let processes = fs::read_dir("/proc").expect("there is a /proc").flatten();
    processes
        .filter_map(|process| fs::read(process.path().join("cmdline")).ok())
        .any(|line| String::from_utf8_lossy(&line).contains(&path))
}
