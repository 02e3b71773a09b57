//! `umemd pagepool`, beside what ethtool says of the same interface.
//!
//! Of a lab netlink lists nothing: no veth ties its pools to its interface (drivers/net/veth.c,
//! `veth_create_page_pool`), and netdevsim, which does, is in no kernel of Debian's. Where it does is the board rig
//! `virtio`, which asks the same of netlink.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::process::ExitStatusExt as _,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use e2e::{
    agent::{binary, umemd, umemd_of_nobody},
    command::run,
    lab::{Lab, PORT, STEER},
    wait::{PATIENCE, wait_until},
    wire::{WINDOW, Wire},
};
use rustix::{
    process::{Pid, Signal, kill_process},
    time::{ClockId, clock_gettime},
};
use serde_json::{Value, json};

/// Killed, then waited for, when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What `umemd pagepool` says of the near end.
fn asked(lab: &Lab) -> Value {
    let near = &lab.pair().near.name;
    let uptime = || clock_gettime(ClockId::Boottime).tv_sec as f64;
    let before = uptime();
    let said = umemd(&["pagepool", "--netns", lab.near.name(), "--iface", near, "--json"]).json();
    assert_eq!(said["devices"].as_array().map(Vec::len), Some(1), "{said}");
    let at = said["at_s"].as_f64().unwrap_or_else(|| panic!("no time: {said}"));
    assert!((before..uptime() + 1.0).contains(&at), "{said}");
    said["devices"][0].clone()
}

/// `rx_pp_*` of the near end; none, where kernel or driver has no such counters.
fn ethtool(lab: &Lab) -> BTreeMap<String, u64> {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", lab.near.name(), "ethtool", "-S", &lab.pair().near.name]);
    let text = run(&mut command, "").unwrap_or_else(|error| panic!("{error}"));
    let counter = |line: &str| {
        let (name, count) = line.trim().strip_prefix("rx_pp_")?.split_once(": ")?;
        Some((name.to_owned(), count.parse().ok()?))
    };
    text.lines().filter_map(counter).collect()
}

/// The same counters as ethtool has, or why there are none.
#[track_caller]
fn assert_says_as_ethtool(told: &Value, theirs: &BTreeMap<String, u64>) {
    if theirs.is_empty() {
        let reason = told["reason"].as_str().unwrap_or_else(|| panic!("no reason: {told}"));
        assert_eq!(told["source"], "none");
        // Without CONFIG_PAGE_POOL_STATS, or of a time before veths had pools.
        assert!(["CONFIG_PAGE_POOL_STATS", "6.8"].iter().any(|word| reason.contains(word)), "{reason}");
        assert_eq!(told["pools"], json!([]), "and no zeros");
        return;
    }
    assert_eq!((&told["source"], &told["pools"][0]["pool"]), (&"ethtool".into(), &"all".into()));
    let counters = &told["pools"][0]["counters"];
    for (counter, abbreviated) in [
        ("alloc_fast", "alloc_fast"),
        ("alloc_slow_high_order", "alloc_slow_ho"),
        ("recycle_ring", "recycle_ring"),
        ("recycle_released_refcnt", "recycle_released_ref"),
    ] {
        assert_eq!(counters[counter], theirs[abbreviated], "{counter}: {told} {theirs:?}");
    }
}

/// Pages allocated.
fn allocated(counters: &Value) -> u64 {
    let counter = |name: &str| counters[name].as_u64().unwrap_or_else(|| panic!("no {name}: {counters}"));
    counter("alloc_fast") + counter("alloc_refill") + counter("alloc_slow")
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn the_kernels_pools_say_what_ethtool_says_or_why_not() {
    let Some(lab) = Lab::new() else { return };
    let agent = lab.agent(&["--steer", STEER]).start();
    let wire = Wire::connect(&lab.far, lab.pair().near.port(PORT));

    let before = asked(&lab);
    assert_eq!(before["driver"], "veth");
    wire.send(0..WINDOW, |_| 18);
    agent.metrics_when("the frames", |metrics| metrics.total("umemd_rx_packets_total") == WINDOW);
    let (after, theirs) = (asked(&lab), ethtool(&lab));
    let sources = agent.metrics().label_values("umemd_device_info", "page_pool_source");
    assert_eq!(sources, [after["source"].as_str().unwrap()], "the agent sees the same");

    assert_says_as_ethtool(&after, &theirs);
    if !theirs.is_empty() {
        let (before, after) = (&before["pools"][0]["counters"], &after["pools"][0]["counters"]);
        // Several small frames share a page, and since Linux 6.13 they count once.
        assert!(allocated(after) > allocated(before), "{before} {after}");
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn no_agent_is_needed_and_nothing_is_changed() {
    let Some(lab) = Lab::new() else { return };
    let inside = |words: &[&str]| {
        let mut command = Command::new("ip");
        run(command.args(["netns", "exec", lab.near.name()]).args(words), "").unwrap()
    };
    // Without a program a veth has pools where it has NAPI, which GRO wants.
    inside(&["ethtool", "-K", "near0", "gro", "on"]);
    let links = || inside(&["ip", "-details", "link"]);
    let before = links();
    let told = asked(&lab);
    assert_eq!((&told["device"], &told["driver"]), (&"near0".into(), &"veth".into()));
    assert_says_as_ethtool(&told, &ethtool(&lab));

    // All there are, and in words.
    let all = ["pagepool", "--netns", lab.near.name()];
    let named = umemd(&[&all[..], &["--json"]].concat()).json();
    let names: Vec<_> = named["devices"].as_array().unwrap().iter().map(|device| &device["device"]).collect();
    assert!(names.contains(&&json!("lo")) && names.contains(&&json!("near0")), "{named}");
    assert!(named["devices"].as_array().unwrap().contains(&told), "{named}");
    let words = umemd(&all).ok();
    let reason = told["reason"].as_str().unwrap_or("near0 (veth): counters by ethtool\n");
    // Words are broken to the width of a terminal.
    let even = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("near0 (veth)") && even(&words).contains(&even(reason)), "{words}");
    assert_eq!(links(), before);
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn nobody_needs_a_privilege_to_see_the_pools() {
    let Some(lab) = Lab::new() else { return };
    let _agent = lab.agent(&["--steer", STEER]).start();
    let told = lab.near.run(|| umemd_of_nobody(&["pagepool", "--iface", "near0", "--json"]));
    assert_eq!(told.json()["devices"][0], asked(&lab), "the same as root is told");
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_watch_has_rates_or_says_why_there_are_none() {
    let Some(lab) = Lab::new() else { return };
    let _agent = lab.agent(&["--steer", STEER]).start();
    let wire = Wire::connect(&lab.far, lab.pair().near.port(PORT));
    let mut command = Command::new(binary());
    command.args(["pagepool", "--netns", lab.near.name(), "--iface", "near0", "--watch"]);
    let mut watch = Running(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap());
    let lines = BufReader::new(watch.0.stdout.take().unwrap()).lines().map_while(Result::ok);

    let mut report = true;
    for line in lines {
        wire.send(0..WINDOW, |_| 18);
        if let Some((_, reason)) = line.split_once(": no rates: ") {
            assert!(ethtool(&lab).is_empty() && !reason.is_empty(), "{line}");
            return;
        }
        report &= !line.starts_with("device ");
        let words: Vec<&str> = line.split_whitespace().collect();
        // The first second may have been without traffic.
        if !report && words[..2] == ["near0", "all"] && words[2] != "0" {
            assert!(!ethtool(&lab).is_empty() && words[2] != "-", "{line}");
            return;
        }
    }
    panic!("the watch ended by itself");
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_watch_goes_on_when_its_interface_goes() {
    let Some(lab) = Lab::new() else { return };
    let mut command = Command::new(binary());
    command.args(["pagepool", "--netns", lab.near.name(), "--iface", "near0", "--watch"]);
    let mut watch = Running(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap());
    let lines = BufReader::new(watch.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    let (sender, told) = mpsc::channel();
    thread::spawn(move || lines.for_each(|line| drop(sender.send(line))));
    told.recv_timeout(PATIENCE).expect("what is known of it");
    lab.pair().remove();
    let gone = "near0: not here any more; pools that outlive an interface are shown at lo";
    wait_until("it says so", PATIENCE, || told.try_iter().any(|line| line == gone));
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(watch.0.try_wait().unwrap(), None, "it goes on");
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_watch_as_json_is_an_object_a_second_until_ctrl_c() {
    let Some(lab) = Lab::new() else { return };
    let _agent = lab.agent(&["--steer", STEER]).start();
    // Where we are to ignore SIGINT, as a job in the background is, it is not.
    let mut command = Command::new("env");
    command.arg("--default-signal=INT").arg(binary());
    command.args(["pagepool", "--netns", lab.near.name(), "--iface", "near0", "--watch", "--json"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut watch = Running(command.spawn().unwrap());
    let mut reader = BufReader::new(watch.0.stdout.take().unwrap());
    // Nothing is on the cable: each time it says what is said without --watch.
    let now = asked(&lab);
    let assert_is_told = |line: &str| {
        assert!(line.ends_with('\n'), "half a line: {line}");
        let told: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!((&told["type"], &told["schema"]), (&"pagepool".into(), &1.into()), "{line}");
        assert_eq!(told["devices"], Value::from(vec![now.clone()]), "{line}");
        told["at_s"].as_f64().unwrap_or_else(|| panic!("no time: {line}"))
    };

    let (mut came, mut at) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        came.push(Instant::now());
        at.push(assert_is_told(&line));
    }
    assert!(at[2] - at[1] > 0.5 && at[1] > at[0], "each has its time: {at:?}");
    assert!(came[2] - came[1] > Duration::from_millis(500), "it is no flood: {came:?}");

    kill_process(Pid::from_child(&watch.0), Signal::INT).unwrap();
    let (mut rest, mut said) = (String::new(), String::new());
    reader.read_to_string(&mut rest).unwrap();
    watch.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    rest.split_inclusive('\n').for_each(|line| assert!(assert_is_told(line) > at[2], "{line}"));
    // By the signal itself, as whoever runs it in a loop of a shell wants to know.
    let status = watch.0.wait().unwrap();
    assert_eq!((status.signal(), said.as_str()), (Some(Signal::INT.as_raw()), ""), "{status}");
}
