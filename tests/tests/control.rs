//! The control socket: who may ask, what is answered, and what is not suffered.

use std::{
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::UnixStream,
    },
    path::Path,
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use e2e::{
    agent::{Agent, binary, umemd},
    lab::{Lab, LabConfig, PORT, STEER},
    scratch::Scratch,
    strain::{Strain, asking},
    terminal::Terminal,
    wire::{WINDOW, Wire, any_size},
};
use rustix::{
    io::ioctl_fionread,
    net::{AddressFamily, SocketType, connect, socket, sockopt::set_socket_recv_buffer_size},
    process::Signal,
};
use serde_json::Value;

const REFLECT: [&str; 4] = ["--steer", STEER, "--handler", "reflect"];

/// Sends these bytes, and reads what is answered.
fn send(path: &Path, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(path).expect("somebody listens");
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn the_status_is_told_over_the_socket() {
    let Some(lab) = Lab::with(LabConfig { pairs: 2, ..LabConfig::default() }) else { return };
    let agent = lab.agent(&REFLECT).start();
    Wire::connect(&lab.far, lab.pair().near.port(PORT)).reflect(WINDOW, any_size);

    let status = agent.tell(&["status", "--json"]).json();
    assert_eq!(status["pid"], agent.pid(), "{status}");
    assert_eq!(status["rules"], serde_json::json!({"count": 1, "default": "pass"}));
    assert_eq!(status["devices"][0]["queues"][0]["traffic"]["rx_packets"], WINDOW);
    // Over HTTP it is the same.
    let url = format!("http://{}", agent.address());
    let same: Value = serde_json::from_str(&umemd(&["status", "--json", "--url", &url]).ok()).expect("JSON");
    assert_eq!(same["devices"][0]["program_id"], status["devices"][0]["program_id"]);

    let text = agent.tell(&["status"]).ok();
    for words in ["law holds", "1 rule,", "near0 (veth): native mode, copy, queue 0", "near1 (veth)", "slab"]
    {
        assert!(text.contains(words), "expected {words:?}:\n{text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(agent.tell(&["drops"]).ok().starts_with("near0, "));

    agent.terminate();
    agent.wait().summary();
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn the_socket_is_roots_alone_and_goes_with_its_agent() {
    let Some(lab) = Lab::new() else { return };
    let agent = lab.agent(&REFLECT).start();
    let path = agent.control().to_owned();
    let file = fs::metadata(&path).expect("a socket");
    assert!(file.file_type().is_socket());
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
    agent.terminate();
    agent.wait().summary();
    assert!(!path.exists());

    let asked = umemd(&["status", "--control", path.to_str().expect("of our making")]).refused(1);
    assert!(asked.contains("no umemd answers at") && asked.contains("--control"), "{asked}");

    let none = lab.agent(&REFLECT).control("none").start();
    assert!(!Path::new("none").exists());
    none.terminate();
    none.wait().summary();
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn the_socket_of_a_killed_agent_is_taken_over_and_that_of_a_living_one_is_not() {
    let Some(lab) = Lab::with(LabConfig { pairs: 2, ..LabConfig::default() }) else { return };
    let on = |name| lab.agent_on(&[&REFLECT[..], &["--iface", name]].concat());
    let agent = on("near0").start();
    let path = agent.control().to_owned();

    let exit = on("near1").control(&path).run();
    assert_eq!(exit.code, Some(1), "{exit}");
    for words in [&format!("another umemd, pid {};", agent.pid()), "--control PATH", "--control none"] {
        assert!(exit.stderr.contains(words), "expected {words:?}: {exit}");
    }
    assert_eq!(lab.pairs()[1].near.xdp_program(), None, "refused before anything was touched");
    assert_eq!(agent.tell(&["status", "--json"]).json()["pid"], agent.pid(), "and the first one goes on");

    agent.kill();
    assert_eq!(agent.wait().code, None);
    assert!(path.exists(), "a killed agent removes nothing");
    let next = on("near1").control(&path).start();
    assert_eq!(next.tell(&["status", "--json"]).json()["pid"], next.pid());
    next.terminate();
    next.wait().summary();
    assert!(!path.exists());
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn who_asks_nonsense_or_nothing_costs_the_datapath_nothing() {
    let Some(lab) = Lab::with(LabConfig { pairs: 2, ..LabConfig::default() }) else { return };
    let on = |name| lab.agent_on(&[&REFLECT[..], &["--iface", name]].concat());
    let (agent, bystander) = (on("near0").start(), on("near1").start());
    let wire = Wire::connect(&lab.far, lab.pair().near.port(PORT));
    let path = agent.control();

    for (bad, said) in [
        ("hello", "not a request"),
        (r#"{"version":1,"request":"reboot"}"#, "unknown variant `reboot`"),
        (r#"{"version":9,"request":"status"}"#, "version 1 of the protocol, not 9"),
    ] {
        let answer = send(path, bad.as_bytes());
        assert!(answer.contains(r#""kind":"usage""#) && answer.contains(said), "{bad}: {answer}");
    }

    let requests = AtomicU64::new(0);
    let strain = Strain::of(&agent, &bystander, "near0/0", &wire, |asked, phase| {
        let path = asked.control();
        // Those who begin a request, and those who take no answer.
        let stuck: Vec<UnixStream> = (0..100)
            .map(|n| {
                let mut stream = UnixStream::connect(path).expect("somebody listens");
                let part: &[u8] =
                    if n % 2 == 0 { b"{\"version\"" } else { b"{\"version\":1,\"request\":\"status\"}\n" };
                let _ = stream.write_all(part);
                stream
            })
            .collect();
        let nonsense = || {
            send(path, &[0xff; 3000]);
            requests.fetch_add(1, Ordering::Relaxed);
        };
        asking(2, nonsense, || {
            phase();
            assert_eq!(asked.tell(&["status", "--json"]).json()["conserved"], true, "others are answered");
        });
        drop(stuck);
    });
    let requests = requests.into_inner();
    assert!(requests > 100, "it was no flood: {requests} requests");
    strain.assert_little();

    assert_eq!(agent.get("/readyz").status, 200);
    agent.terminate();
    let exit = agent.wait();
    let summary = exit.summary();
    assert_eq!(summary["rx_packets"], strain.packets, "{summary}");
    assert_eq!(summary["tx_packets"], strain.packets, "{summary}");
    assert!(!exit.stderr.contains("panicked"), "{exit}");
}

/// A connection whose end here takes as little as the kernel lets a socket take.
fn narrow(address: SocketAddr) -> TcpStream {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    // Before it is connected, so that no larger window is ever offered.
    set_socket_recv_buffer_size(&socket, 1).expect("any size will do");
    connect(&socket, &address).expect("somebody listens");
    socket.into()
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn who_reads_no_answer_costs_the_datapath_nothing() {
    /// As many as make a list of rules longer than what a socket may have on its way (net.core.wmem_default).
    const RULES: u32 = 4000;
    const PAGES: usize = 300;
    let Some(lab) = Lab::with(LabConfig { pairs: 2, ..LabConfig::default() }) else { return };
    let mut text = format!("handler = 'reflect'\n[[rule]]\nmatch = '{STEER}'\n");
    for port in 0..RULES {
        let _ = write!(text, "[[rule]]\nname = 'rule-{port}'\nmatch = 'udp dst port {}'\n", 10_000 + port);
    }
    let file = Scratch::new("unread.toml", &text);
    let on = |name| lab.agent_on(&["--config", file.path(), "--iface", name]).start();
    let (agent, bystander) = (on("near0"), on("near1"));
    let wire = Wire::connect(&lab.far, lab.pair().near.port(PORT));
    let page = agent.get("/metrics").body.len();
    let list = send(agent.control(), b"{\"version\":1,\"request\":\"rule_list\"}\n").len();

    // Fewer than there may be at once, so that none of them has to give way.
    let ask_pages = |asked: &Agent| {
        let mut stream = narrow(asked.address());
        let request = "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
        stream.write_all(request.repeat(PAGES).as_bytes()).expect("requests are short");
        stream
    };
    let ask_list = |asked: &Agent| {
        let mut stream = UnixStream::connect(asked.control()).expect("somebody listens");
        stream.write_all(b"{\"version\":1,\"request\":\"rule_list\"}\n").expect("a request is short");
        stream
    };
    // Each datagram comes back, as soon as when nobody asks.
    let strain = Strain::of(&agent, &bystander, "near0/0", &wire, |asked, phase| {
        let pages: Vec<TcpStream> = (0..8).map(|_| ask_pages(asked)).collect();
        let lists: Vec<UnixStream> = (0..4).map(|_| ask_list(asked)).collect();
        // While others ask.
        asking(1, || drop(asked.get("/metrics")), phase);
        let start = Instant::now();
        assert_eq!(asked.tell(&["status", "--json"]).json()["conserved"], true);
        asked.metrics();
        assert!(start.elapsed() < Duration::from_secs(5), "others wait: {:?}", start.elapsed());
        for stream in &pages {
            let came = ioctl_fionread(stream).expect("it is a socket");
            assert!(
                (1..(PAGES * page) as u64).contains(&came),
                "{came} bytes came: nothing is stuck half way"
            );
        }
        for stream in &lists {
            let came = ioctl_fionread(stream).expect("it is a socket");
            assert!(
                (1..list as u64).contains(&came),
                "{came} of {list} bytes came: nothing is stuck half way"
            );
        }
    });
    strain.assert_little();
    let metrics = agent.metrics();
    for name in ["rx_dropped", "rx_ring_full"] {
        assert_eq!(metrics.total(&format!("umemd_xsk_{name}_total")), 0, "{name}");
    }
    assert_eq!(metrics.total("umemd_worker_failed_open_total"), 0);
    agent.terminate();
    let exit = agent.wait();
    let sent = serde_json::Value::from(strain.packets);
    assert_eq!((&exit.summary()["rx_packets"], &exit.summary()["tx_packets"]), (&sent, &sent));
}

/// `umemd top` on this agent.
fn top(agent: &Agent) -> Command {
    let mut command = Command::new(binary());
    command.arg("top").arg("--control").arg(agent.control()).env("TERM", "xterm-256color");
    command.env_remove("NO_COLOR");
    command
}

/// Takes a terminal for its own: the alternate screen, without a cursor; and the other way round.
const TAKEN: &str = "\u{1b}[?1049h";
const GIVEN_BACK: [&str; 2] = ["\u{1b}[?1049l", "\u{1b}[?25h"];

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn top_gives_the_terminal_back() {
    let Some(lab) = Lab::new() else { return };
    let agent = lab.agent(&REFLECT).start();
    type End = fn(&mut Terminal);
    let ends: [(End, i32); 5] = [
        (|terminal| terminal.press("q"), 0),
        (|terminal| terminal.press("\u{3}"), 0),
        (|terminal| terminal.signal(Signal::TERM), 128 + 15),
        (|terminal| terminal.signal(Signal::INT), 128 + 2),
        (|terminal| terminal.signal(Signal::HUP), 128 + 1),
    ];
    for (end, code) in ends {
        let mut terminal = Terminal::start(&mut top(&agent));
        terminal.wait_for("holds");
        end(&mut terminal);
        let left = terminal.wait();
        assert_eq!((left.code, left.cooked), (Some(code), true), "{left:?}");
        let after = left.written.rsplit_once(TAKEN).expect("it drew on a screen of its own").1;
        for sequence in GIVEN_BACK {
            assert!(after.contains(sequence), "{sequence:?}: {left:?}");
        }
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn top_draws_without_colours_if_asked_and_says_when_nobody_answers() {
    let Some(lab) = Lab::new() else { return };
    let agent = lab.agent(&REFLECT).start();
    let is_coloured = |written: &str| {
        let sequences = written.split("\u{1b}[").skip(1).filter_map(|rest| rest.split_once('m'));
        let codes =
            sequences.map(|(codes, _)| codes).filter(|c| c.bytes().all(|c| c.is_ascii_digit() || c == b';'));
        // 39 and 49 are the terminal's own, and what follows 38;5 is a colour's number.
        codes.flat_map(|codes| codes.split(';').next()).any(|code| ["31", "32", "34", "38"].contains(&code))
    };
    for no_color in [false, true] {
        let mut command = top(&agent);
        if no_color {
            command.env("NO_COLOR", "1");
        }
        let mut terminal = Terminal::start(&mut command);
        terminal.wait_for("holds");
        terminal.press("q");
        let left = terminal.wait();
        assert_eq!(is_coloured(&left.written), !no_color, "{left:?}");
    }

    let mut terminal = Terminal::start(&mut top(&agent));
    terminal.wait_for("holds");
    agent.stop();
    terminal.wait_for("ANSWER");
    let asked = Instant::now();
    let silence = agent.tell(&["status"]).refused(1);
    assert!(silence.contains("did not answer within 3 s"), "{silence}");
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    terminal.press("q");
    assert_eq!(terminal.wait().code, Some(0), "keys are answered while the agent is not");
    agent.resume();
    assert_eq!(agent.tell(&["status", "--json"]).json()["conserved"], true);
}
