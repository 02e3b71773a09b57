//! What an agent refuses, how it says so, and that it leaves nothing behind.

use std::{
    io::Write as _,
    net::{TcpListener, TcpStream},
};

use e2e::{
    agent::AgentCommand,
    command::{bridge, ip, ip_batch},
    exit::Exit,
    full::Scratch,
    lab::{Lab, LabConfig, OTHER_PORT, PORT, STEER},
    privilege,
    veth::VethEnd,
    wait::{PATIENCE, wait_until},
};

/// Bad usage.
const USAGE: i32 = 2;
/// Good usage that cannot be done.
const REFUSED: i32 = 1;

/// Checks that a run ended with `code`, said all of `words` and left no program on any interface of the lab.
#[track_caller]
fn assert_refused(lab: &Lab, exit: &Exit, code: i32, words: &[&str]) {
    assert_eq!(exit.code, Some(code), "expected exit code {code}: {exit}");
    for word in words {
        assert!(exit.stderr.contains(word), "expected {word:?}: {exit}");
    }
    assert!(!exit.stderr.contains("panicked"), "{exit}");
    assert_eq!(exit.summary, None, "nothing ran, so there is nothing to sum up: {exit}");
    for pair in lab.pairs() {
        wait_until("no program is attached", PATIENCE, || pair.near.xdp_program().is_none());
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn bad_usage_is_refused_with_exit_code_2() {
    let Some(lab) = Lab::new() else { return };
    for (args, words) in [
        (&["--steer", STEER, "--frame-size", "3000"][..], &["--frame-size 3000", "2048 or 4096"][..]),
        (&["--steer", STEER, "--frames", "1000"], &["--frames 1000", "power of two"]),
        (&["--steer", STEER, "--frames", "many"], &["--frames", "many"]),
        (&["--steer", STEER, "--queues", "0,0"], &["--queues 0 is given twice"]),
        (&["--steer", STEER, "--iface", "near0"], &["--iface near0 is given twice"]),
        (&["--steer", STEER, "--copy", "--zerocopy"], &["--copy", "--zerocopy"]),
        (&["--steer", STEER, "--duration", "soon"], &["--duration", "soon"]),
        (&["--steer", STEER, "--mode", "fast"], &["--mode", "native", "skb"]),
        (&["--steer", ""], &["bad rule"]),
        (&[], &["--steer"]),
    ] {
        let exit = lab.agent(args).run();
        assert_refused(&lab, &exit, USAGE, words);
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_bad_rule_is_shown_with_a_caret_under_the_word() {
    let Some(lab) = Lab::new() else { return };
    for (rule, word) in [
        ("udp dst prot 7", "prot"),
        ("udp dst port 70000", "70000"),
        ("quic", "quic"),
        ("udp port 7 und tcp", "und"),
    ] {
        let exit = lab.agent(&["--steer", rule]).run();
        assert_refused(&lab, &exit, USAGE, &["bad rule", rule]);
        let lines: Vec<&str> = exit.stderr.lines().collect();
        let shown = lines.iter().position(|line| line.trim() == rule);
        let shown = shown.unwrap_or_else(|| panic!("expected {rule:?} on a line of its own: {exit}"));
        let carets = lines.get(shown + 1).copied().unwrap_or_default();
        assert_eq!(carets.find('^'), lines[shown].find(word), "expected carets under {word:?}: {exit}");
        assert_eq!(carets.trim(), "^".repeat(word.len()), "{exit}");
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn interfaces_and_queues_that_do_not_exist_are_named() {
    let Some(lab) = Lab::with(LabConfig { queues: 2, ..LabConfig::default() }) else { return };
    let netns = lab.near.name();

    let unknown = AgentCommand::new().args(["--netns", netns, "--iface", "eth77", "--steer", STEER]).run();
    assert_refused(&lab, &unknown, REFUSED, &["no interface eth77", netns, "lo, near0"]);

    let no_queue = lab.agent(&["--steer", STEER, "--queues", "0,5"]).run();
    assert_refused(&lab, &no_queue, REFUSED, &["near0 has no queue 5", "2 active receive queues, 0 to 1"]);

    let no_netns =
        AgentCommand::new().args(["--netns", "no-such", "--iface", "near0", "--steer", STEER]).run();
    assert_refused(&lab, &no_netns, REFUSED, &["no network namespace no-such"]);

    ip(&["-netns", netns, "link", "set", "near0", "down"]);
    let down = lab.agent(&["--steer", STEER]).run();
    assert_refused(&lab, &down, REFUSED, &["near0 is down", "ip link set near0 up"]);
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn what_is_refused_late_is_shown_where_the_file_says_it() {
    let Some(lab) = Lab::new() else { return };
    let near = &lab.pair().near;
    let listener = lab.near.run(|| TcpListener::bind(near.port(PORT))).expect("a free port");
    let _client = lab.far.run(|| TcpStream::connect(near.port(PORT))).expect("a handshake");
    let _server = listener.accept().expect("a connection");
    let scratch = Scratch::new();
    let path = scratch.path().join("umemd.toml");
    let rule = "[[rule]]\nmatch = 'udp dst port 7007'\n";
    for (text, place) in [
        (
            format!("iface = ['near7']\n{rule}"),
            "line 1, column 10\n  |\n1 | iface = ['near7']\n  |          ^^^^^^^\nthere is",
        ),
        (
            format!("iface = ['near0']\nqueues = [0, 5]\n{rule}"),
            "2 | queues = [0, 5]\n  |              ^\nnear0 has no queue 5",
        ),
        (
            format!("iface = ['near0']\n{rule}[[rule]]\nmatch = 'tcp'\n"),
            "line 5, column 9\n  |\n5 | match = 'tcp'\n  |         ^^^^^\nwill not attach to near0",
        ),
        (
            format!("iface = ['near0']\ndefault = 'drop'\n{rule}"),
            "2 | default = 'drop'\n  |           ^^^^^^\nwill not attach",
        ),
    ] {
        std::fs::write(&path, text).expect("a file can be written");
        let exit = lab.agent_on(&["--config", path.to_str().expect("of our making")]).run();
        assert_refused(&lab, &exit, REFUSED, &["umemd.toml: line ", place]);
    }
    // What a flag says is not blamed on the file.
    let path = path.to_str().expect("of our making");
    let exit = lab.agent_on(&["--config", path, "--iface", "near9"]).run();
    assert_refused(&lab, &exit, REFUSED, &["umemd: error: there is no interface near9"]);
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_second_interface_that_is_refused_takes_the_first_with_it() {
    let Some(lab) = Lab::with(LabConfig { pairs: 2, ..LabConfig::default() }) else { return };
    // Opened after the first one: everything of that is closed again.
    let agent = lab.agent(&["--steer", STEER, "--mode", "native"]);
    let blocker =
        AgentCommand::new().args(["--netns", lab.near.name(), "--iface", "near1", "--steer", STEER]).start();
    let exit = agent.run();
    assert_eq!(exit.code, Some(REFUSED), "{exit}");
    assert!(exit.stderr.contains("near1 has an XDP program already"), "{exit}");
    let first = &lab.pairs()[0].near;
    wait_until("no program is attached to near0", PATIENCE, || first.xdp_program().is_none());
    blocker.terminate();
    blocker.wait().summary();
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn what_the_driver_or_the_machine_cannot_do_is_no_silent_fallback() {
    let Some(lab) = Lab::new() else { return };
    let zerocopy = lab.agent(&["--steer", STEER, "--zerocopy"]).run();
    assert_refused(&lab, &zerocopy, REFUSED, &["near0 has no zero-copy", "leave --zerocopy away"]);

    let netns = lab.near.name();
    let loopback = AgentCommand::new().args(["--netns", netns, "--iface", "lo", "--steer", STEER]).run();
    assert_refused(&lab, &loopback, REFUSED, &["lo has no native XDP", "--mode skb"]);

    let cpu = lab.agent(&["--steer", STEER, "--cpus", "1000"]).run();
    assert_refused(&lab, &cpu, REFUSED, &["--cpus 1000", "may not use that CPU"]);
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_port_in_use_is_refused_before_anything_is_touched() {
    let Some(lab) = Lab::new() else { return };
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();

    let exit = lab.agent(&["--steer", STEER]).listen(&address).run();

    assert_refused(&lab, &exit, REFUSED, &[&address, "--listen", "in use"]);
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn missing_capabilities_are_named() {
    let Some(lab) = Lab::new() else { return };
    for (dropped, named) in [
        ("-net_raw", "CAP_NET_RAW"),
        ("-net_admin", "CAP_NET_ADMIN"),
        ("-bpf,-sys_admin", "CAP_BPF"),
        ("-sys_admin", "CAP_SYS_ADMIN"),
        ("-all", "CAP_NET_RAW"),
    ] {
        let bounding = format!("--bounding-set={dropped}");
        let prefix = ["setpriv", "--inh-caps=-all", bounding.as_str(), "--"];
        let exit = lab.agent(&["--steer", STEER]).under(prefix).run();
        assert_refused(&lab, &exit, REFUSED, &["missing", named]);
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_limit_of_locked_memory_is_explained_or_overruled() {
    let Some(lab) = Lab::new() else { return };
    // 64 KiB, which nobody may raise; a UMEM has 8 MiB.
    let limited = |dropped: &str| {
        let bounding = format!("--bounding-set={dropped}");
        let prefix = ["prlimit", "--memlock=65536:65536", "setpriv", "--inh-caps=-all", &bounding, "--"];
        lab.agent(&["--steer", STEER]).under(prefix)
    };

    let exit = limited("-sys_resource,-ipc_lock").run();
    assert_refused(&lab, &exit, REFUSED, &["8 MiB", "ENOBUFS", "CAP_IPC_LOCK", "--frames"]);

    let agent = limited("-sys_resource").start();
    agent.terminate();
    agent.wait().summary();
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn rules_that_cut_a_connection_are_refused_without_force() {
    let Some(lab) = Lab::new() else { return };
    let near = &lab.pair().near;
    let listener = lab.near.run(|| TcpListener::bind(near.port(PORT))).expect("a free port");
    let client = lab.far.run(|| TcpStream::connect(near.port(PORT))).expect("a handshake");
    let _server = listener.accept().expect("a connection");
    let (local, remote) = (near.port(PORT).to_string(), client.local_addr().expect("connected").to_string());

    for rule in ["all", "tcp", "tcp dst port 7007"] {
        let exit = lab.agent(&["--steer", rule]).run();
        assert_refused(&lab, &exit, REFUSED, &["near0", &local, &remote, rule, "--force"]);
    }
    let exit = lab.agent(&["--steer", STEER, "--default", "drop"]).run();
    assert_refused(&lab, &exit, REFUSED, &["near0", &local, &remote, "the default, drop", "--force"]);
    // Nobody is cut off by these.
    for rule in ["udp", "tcp dst port 7008"] {
        let agent = lab.agent(&["--steer", rule]).start();
        agent.terminate();
        agent.wait().summary();
    }
    let forced = lab.agent(&["--steer", "all", "--force"]).start();
    assert!(near.xdp_program().is_some());
    forced.terminate();
    forced.wait().summary();
}

/// The near end is a port of a bridge that takes the tag of VLAN 10 off.
#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn rules_that_cut_a_connection_behind_a_bridge_that_filters_vlans_are_refused() {
    let Some(lab) = Lab::new() else { return };
    let [near, far] = [lab.near.name(), lab.far.name()];
    let pair = lab.pair();
    if !privilege::kernel_makes(near, "br0 type bridge vlan_filtering 1 vlan_default_pvid 0") {
        return;
    }
    let above = |end: &VethEnd, other: &VethEnd, device: &str| {
        [
            format!("address flush dev {}", end.name),
            format!("link set {device} address {} up", end.mac),
            format!("address add {}/30 dev {device}", end.ip),
            format!("neighbour replace {} lladdr {} dev {device} nud permanent", other.ip, other.mac),
        ]
    };
    ip_batch(near, &["link set near0 master br0".into()]);
    ip_batch(near, &above(&pair.near, &pair.far, "br0"));
    bridge(&["-netns", near, "vlan", "add", "dev", "near0", "vid", "10"]);
    bridge(&["-netns", near, "vlan", "add", "dev", "br0", "self", "vid", "10", "pvid", "untagged"]);
    ip_batch(far, &["link add link far0 name far0.10 type vlan id 10".into()]);
    ip_batch(far, &above(&pair.far, &pair.near, "far0.10"));
    pair.far.ethtool("-K", &["txvlan", "off"]);

    let ssh = pair.near.port(PORT);
    let listener = lab.near.run(|| TcpListener::bind(ssh)).expect("a free port");
    let client = lab.far.run(|| TcpStream::connect_timeout(&ssh, PATIENCE)).expect("a handshake");
    let _server = listener.accept().expect("a connection");
    let remote = client.local_addr().expect("connected").to_string();
    let cuts = |vlan: &str, port: u16| format!("{vlan} and tcp dst port {port}");
    let refused = |rule: &str| {
        let exit = lab.agent(&["--steer", rule]).run();
        let words = ["near0", &ssh.to_string(), &remote, "a VLAN of the bridge", rule, "--force"];
        assert_refused(&lab, &exit, REFUSED, &words);
    };
    for rule in [&cuts("vlan 10", PORT), &cuts("vlan", PORT), "ether proto 0x8100"] {
        refused(rule);
    }
    // Nobody is cut off by these.
    for rule in [&cuts("vlan 10", OTHER_PORT), "ether proto 0x88a8"] {
        let agent = lab.agent(&["--steer", rule]).start();
        agent.terminate();
        agent.wait().summary();
    }
    // It is what the rule says: frames that come with that tag.
    let forced = lab.agent(&["--steer", &cuts("vlan 10", PORT), "--force"]).start();
    client.set_nonblocking(true).expect("a socket");
    (&client).write_all(b"x").expect("there is room");
    forced.metrics_when("the frame is taken", |m| m.verdicts("steered") > 0);
    forced.terminate();
    forced.wait().summary();

    // It may take tags of the other protocol off instead.
    ip(&["-netns", near, "link", "set", "br0", "type", "bridge", "vlan_protocol", "802.1ad"]);
    refused("ether proto 0x88a8");
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn rules_that_cut_the_way_to_the_router_are_refused_without_force() {
    let Some(lab) = Lab::new() else { return };
    let pair = lab.pair();
    // Without a default route it is anybody's traffic.
    let agent = lab.agent(&["--steer", "arp"]).start();
    agent.terminate();
    agent.wait().summary();

    let router = pair.far.ip.to_string();
    ip(&["-netns", lab.near.name(), "route", "add", "default", "via", &router]);
    let [of_router, for_us] = [format!("arp src host {router}"), format!("dst host {}", pair.near.ip)];
    for (rule, named) in [
        ("all", "ARP"),
        ("arp", "ARP"),
        (&of_router, "ARP"),
        (&for_us, "ARP"),
        ("udp dst port 68", "DHCP"),
        ("udp", "DHCP"),
        ("dst host 255.255.255.255", "DHCP"),
        ("ip6 dst net ff02::/16", "neighbour discovery"),
        ("net fe80::/10", "neighbour discovery"),
    ] {
        let exit = lab.agent(&["--steer", rule]).run();
        assert_refused(&lab, &exit, REFUSED, &["near0", named, rule, "--force"]);
    }
    let nobody = "arp src host 10.9.9.9 or (host 10.9.9.9 and udp)";
    for args in [&["--steer", STEER][..], &["--steer", nobody], &["--steer", "arp", "--force"]] {
        let agent = lab.agent(args).start();
        agent.terminate();
        agent.wait().summary();
    }

    // One with several next hops is a default route like any other.
    let hop = ["nexthop", "via", &router, "dev", "near0", "weight"];
    let ecmp = ["-netns", lab.near.name(), "route", "replace", "default"];
    ip(&[&ecmp[..], &hop, &["1"], &hop, &["2"]].concat());
    let exit = lab.agent(&["--steer", &of_router]).run();
    assert_refused(&lab, &exit, REFUSED, &["near0", "ARP", &of_router, "--force"]);
}
