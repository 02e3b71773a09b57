//! `umemd doctor` on a veth, which no board is needed for.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use e2e::{
    agent::{umemd, umemd_of_nobody},
    command::ip,
    foreign::ForeignProgram,
    huge::Pages,
    lab::{Lab, STEER},
    privilege::kernel_makes,
};
use serde_json::Value;

/// What the doctor says of the near end: its exit code, and each finding by what was asked.
fn asked(lab: &Lab) -> (Option<i32>, Vec<Value>) {
    let near = &lab.pair().near.name;
    let told = lab.near.run(|| umemd(&["doctor", "--iface", near, "--json"]));
    let report: Value =
        serde_json::from_str(&told.stdout).unwrap_or_else(|error| panic!("{error}: {told:?}"));
    (told.code, report["findings"].as_array().expect("a list").clone())
}

/// Answer and text of what was asked.
#[track_caller]
fn finding<'a>(findings: &'a [Value], asked: &str) -> (&'a str, &'a str) {
    let found = findings.iter().find(|finding| finding["asked"] == asked);
    let found = found.unwrap_or_else(|| panic!("nothing about {asked}: {findings:?}"));
    (found["answer"].as_str().expect("a word"), found["text"].as_str().expect("a text"))
}

/// What is said to mend what was asked.
#[track_caller]
fn mend<'a>(findings: &'a [Value], asked: &str) -> &'a Value {
    let found = findings.iter().find(|finding| finding["asked"] == asked);
    &found.unwrap_or_else(|| panic!("nothing about {asked}: {findings:?}"))["mend"]
}

/// How often the link changed, and the program on it.
fn state(lab: &Lab) -> (Value, Value) {
    let near = &lab.pair().near.name;
    // Twice -s: what is counted of the carrier is below the errors.
    let text = ip(&["-netns", lab.near.name(), "-json", "-s", "-s", "link", "show", "dev", near]);
    let links: Value = serde_json::from_str(&text).expect("`ip -json` prints JSON");
    let changes = &links[0]["stats64"]["tx"]["carrier_changes"];
    assert!(changes.is_number(), "{text}");
    (changes.clone(), links[0]["xdp"].clone())
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn an_interface_is_described_as_it_is_and_left_alone() {
    let Some(lab) = Lab::new() else { return };
    let before = state(&lab);
    let (code, findings) = asked(&lab);
    assert_eq!((code, state(&lab)), (Some(0), before), "{findings:?}");
    assert_eq!(finding(&findings, "driver"), ("note", "veth"));
    for asked in ["up", "mtu", "queues", "CAP_BPF", "AF_XDP"] {
        assert_eq!(finding(&findings, asked).0, "ok", "{findings:?}");
    }
    // Sysfs is that of the machine, and does not show this interface; and its other end is in another namespace.
    for asked in ["DSA", "VLAN tags"] {
        assert_eq!(finding(&findings, asked).0, "unknown", "{findings:?}");
    }

    let agent = lab.agent(&["--steer", STEER]).start();
    let (code, findings) = asked(&lab);
    assert_eq!(code, Some(1), "{findings:?}");
    let (answer, text) = finding(&findings, "XDP program");
    assert!(answer == "no" && text.contains("native mode") && text.contains('('), "named: {text}");
    assert!(text.contains("when its owner ends"), "{text}");
    assert!(mend(&findings, "XDP program").is_null(), "no command but the agent's end: {findings:?}");
    agent.terminate();
    agent.wait().summary();

    // Whom nobody holds stays until it is taken off, by the command that the doctor says.
    let foreign = ForeignProgram::attach(&lab.near, &lab.pair().near);
    let findings = asked(&lab).1;
    let mend = mend(&findings, "XDP program");
    let commands: Vec<&str> = mend.as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    let [command] = commands[..] else { panic!("one command: {findings:?}") };
    let words: Vec<&str> = command.split(' ').collect();
    assert_eq!(words[0], "ip", "{command}");
    ip(&[&["-netns", lab.near.name()], &words[1..]].concat());
    assert_eq!(lab.pair().near.xdp_program(), None, "{} is off", foreign.id());

    ip(&["-netns", lab.near.name(), "link", "set", &lab.pair().near.name, "mtu", "9000"]);
    let text = asked(&lab).1;
    assert!(finding(&text, "mtu").1.starts_with("MTU 9000"), "{text:?}");
    ip(&["-netns", lab.near.name(), "link", "set", &lab.pair().near.name, "down"]);
    let (code, findings) = asked(&lab);
    assert_eq!((code, finding(&findings, "up").0), (Some(1), "no"));
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn who_may_nothing_is_told_so_right_by_right() {
    let Some(lab) = Lab::new() else { return };
    let agent = lab.agent(&["--steer", STEER]).start();
    let near = &lab.pair().near.name;
    let told = lab.near.run(|| umemd_of_nobody(&["doctor", "--iface", near]));
    assert_eq!(told.code, Some(1), "{told:?}");
    // Lines break where a text is too long, which the number of a program decides.
    let said = told.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    for words in ["NO CAP_NET_RAW", "NO CAP_NET_ADMIN", "NO CAP_BPF", "its name the kernel does not tell"] {
        assert!(said.contains(words), "nothing about {words:?}: {told:?}");
    }
    agent.terminate();
    agent.wait().summary();
}

/// All that an examination could leave behind, on the machine and on the near end.
#[derive(Debug, PartialEq)]
struct Traces {
    modules: BTreeSet<String>,
    /// File systems for BPF and tracing, and what is pinned there.
    mounts: BTreeSet<String>,
    pinned: BTreeSet<PathBuf>,
    /// What `ip` and `ethtool` show of it.
    shown: Vec<String>,
    sysctls: BTreeMap<PathBuf, String>,
}

impl Traces {
    fn of(lab: &Lab) -> Self {
        let (netns, near) = (lab.near.name(), lab.pair().near.name.as_str());
        // A kernel may be without modules.
        let modules = fs::read_to_string("/proc/modules").unwrap_or_default();
        let modules = modules.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
        let mounts = fs::read_to_string("/proc/self/mounts").expect("it can be read");
        let kind = |line: &&str| {
            line.split(' ').nth(2).is_some_and(|kind| ["bpf", "tracefs", "debugfs"].contains(&kind))
        };
        let mounts = mounts.lines().filter(kind).map(str::to_owned).collect();
        let ethtool = |option| ip(&["netns", "exec", netns, "ethtool", option, near]);
        let link = ip(&["-netns", netns, "-details", "link", "show", "dev", near]);
        Self {
            modules,
            mounts,
            pinned: files(Path::new("/sys/fs/bpf")).into_iter().collect(),
            shown: vec![link, ethtool("-k"), ethtool("-l")],
            sysctls: lab.near.run(|| sysctls(near)),
        }
    }
}

/// The files below a folder; none if there is no such folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Those of an interface, and those of the network as a whole; those that are for writing only are left out.
fn sysctls(name: &str) -> BTreeMap<PathBuf, String> {
    let folders = ["ipv4/conf", "ipv4/neigh", "ipv6/conf", "ipv6/neigh"].map(|kind| format!("{kind}/{name}"));
    let folders = folders.iter().map(String::as_str).chain(["core"]);
    let paths = folders.flat_map(|folder| files(&Path::new("/proc/sys/net").join(folder)));
    paths.filter_map(|path| fs::read_to_string(&path).ok().map(|value| (path, value))).collect()
}

/// How many programs the kernel is given to load while this is done. It numbers them one after the other, so that one
/// that is gone again counts as well; as do those with which `ip` finds out what the kernel can.
fn programs_loaded_meanwhile(lab: &Lab, action: impl FnOnce()) -> u64 {
    let next = || {
        let program = ForeignProgram::attach(&lab.far, &lab.pair().far);
        let id = program.id();
        program.detach();
        id
    };
    let first = next();
    action();
    next().wrapping_sub(first)
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn members_of_a_bond_are_what_is_served() {
    let Some(lab) = Lab::new() else { return };
    if !kernel_makes(lab.near.name(), "bond7 type bond") {
        return;
    }
    let near = &lab.pair().near;
    near.set(&["down"]);
    near.set(&["master", "bond7"]);
    ip(&["-netns", lab.near.name(), "link", "set", "bond7", "up"]);
    let (_, findings) = asked(&lab);
    let (answer, text) = finding(&findings, "master");
    assert_eq!(answer, "warning", "{text}");
    assert!(text.contains("belongs to bond7") && text.contains("its other members"), "{text}");

    let told = lab.near.run(|| umemd(&["run", "--iface", "bond7", "--steer", STEER, "--control", "none"]));
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(told.stderr.contains("the program would run on the members of bond7"), "{told:?}");
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn huge_pages_are_counted() {
    let Some(lab) = Lab::new() else { return };
    for (pages, text) in [(0, "none reserved; umemd does without"), (3, "3 of 3 free")] {
        let _pages = Pages::set(pages);
        let (_, findings) = asked(&lab);
        assert_eq!(finding(&findings, "huge pages"), ("note", text));
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn an_examination_loads_nothing_and_changes_nothing() {
    let Some(lab) = Lab::new() else { return };
    // Others on this machine come and go, and may do so during one of them, but hardly during each.
    let mut seen = Vec::new();
    for _ in 0..10 {
        let by_ip = programs_loaded_meanwhile(&lab, || ());
        let before = Traces::of(&lab);
        assert!(before.sysctls.len() > 50, "{before:?}");
        let mut code = None;
        let loaded = programs_loaded_meanwhile(&lab, || code = asked(&lab).0);
        let after = Traces::of(&lab);
        assert_eq!(code, Some(0));
        if loaded == by_ip && before == after {
            return;
        }
        seen.push(format!("{} programs loaded; {before:#?} became {after:#?}", loaded.wrapping_sub(by_ip)));
    }
    panic!("each time something changed: {}", seen.last().map_or("", String::as_str));
}
