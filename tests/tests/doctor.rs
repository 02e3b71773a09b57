//! `umemd doctor` on a veth, which no board is needed for.

use e2e::{
    agent::{umemd, umemd_of_nobody},
    command::ip,
    lab::{Lab, STEER},
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
    // Sysfs is that of the machine, and does not show this interface.
    assert_eq!(finding(&findings, "DSA").0, "unknown");

    let agent = lab.agent(&["--steer", STEER]).start();
    let (code, findings) = asked(&lab);
    assert_eq!(code, Some(1), "{findings:?}");
    let (answer, text) = finding(&findings, "XDP program");
    assert!(answer == "no" && text.contains("native mode") && text.contains('('), "named: {text}");
    agent.terminate();
    agent.wait().summary();

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
