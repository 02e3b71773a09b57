//! A configuration that is read again.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use e2e::{
    agent::Agent,
    command::{ip, run},
    lab::{Lab, OTHER_PORT, PORT, STEER},
    rules::{names, packets},
    scratch::Scratch,
    wait::{PATIENCE, wait_until},
    wire::{WINDOW, Wire, any_size},
};
use rustix::fs::OFlags;

/// The rule for [`OTHER_PORT`].
const OTHER: &str = "udp dst port 7008";

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_file_is_read_again_at_a_command_and_at_sighup() {
    let Some(lab) = Lab::new() else { return };
    let near = &lab.pair().near;
    let rules = |rules: &str| format!("iface = ['near0']\nhandler = 'reflect'\nframes = 512\n{rules}");
    let one = "[[rule]]\nname = 'one'\nmatch = 'udp dst port 7007'\n";
    let file = Scratch::new("reload.toml", &rules(one));
    let agent = lab.agent_on(&["--config", file.path()]).start();
    let program = near.xdp_program();
    let wire = |port| Wire::connect(&lab.far, near.port(port));
    wire(PORT).reflect(WINDOW, any_size);

    file.write(&rules(&format!("{one}[[rule]]\nname = 'two'\nmatch = 'udp dst port 7008'\n")));
    assert_eq!(agent.tell(&["reload"]).ok(), "2 rules in force, default pass\n");
    wire(OTHER_PORT).reflect(WINDOW, any_size);
    assert_eq!((packets(&agent, "one"), packets(&agent, "two")), (WINDOW, WINDOW), "one goes on counting");

    // A bad file is refused as a whole, with where it is bad; as is what takes a restart.
    let bad = format!("{one}[[rule]]\nname = 'three'\nmatch = 'udp dst prot 7'\n");
    for (text, code, said) in [
        (rules(&bad), 2, "line 9: bad rule: expected `port`"),
        (rules("framez = 1\n"), 2, "unknown field `framez`"),
        (rules(one).replace("512", "1024"), 1, "frames or frame-size changed, which takes a restart"),
        (rules(one).replace("reflect", "drop"), 1, "handler changed, which takes a restart"),
    ] {
        file.write(&text);
        let stderr = agent.tell(&["reload"]).refused(code);
        assert!(stderr.contains(said), "expected {said:?}:\n{stderr}");
        assert_eq!(names(&agent), ["one", "two"], "the old rules stay");
    }
    let metrics = agent.metrics();
    assert_eq!(metrics.total("umemd_config_last_reload_successful"), 0);
    assert_eq!(metrics.total("umemd_config_reloads_total"), 5);

    file.write(&rules("[[rule]]\nname = 'three'\nmatch = 'udp dst port 7008'\n"));
    agent.hang_up();
    wait_until("the signal is heeded", PATIENCE, || names(&agent) == ["three"]);
    wire(OTHER_PORT).reflect(WINDOW, any_size);
    file.write("");
    agent.hang_up();
    wait_until("it says why not", PATIENCE, || agent.stderr().matches("not reloaded").count() == 5);
    assert_eq!(names(&agent), ["three"]);

    assert_eq!(near.xdp_program(), program, "nothing was attached again");
    agent.terminate();
    assert_eq!(agent.wait().summary()["rx_packets"], 3 * WINDOW);
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn rules_without_a_name_go_on_counting_when_others_go() {
    let Some(lab) = Lab::new() else { return };
    let file = |rules: &[&str]| {
        let rules: String = rules.iter().map(|rule| format!("[[rule]]\nmatch = '{rule}'\n")).collect();
        format!("iface = ['near0']\nhandler = 'reflect'\n{rules}")
    };
    let config = Scratch::new("unnamed.toml", &file(&[OTHER, STEER]));
    let agent = lab.agent_on(&["--config", config.path()]).start();
    let wire = |port| Wire::connect(&lab.far, lab.pair().near.port(port));
    wire(OTHER_PORT).reflect(WINDOW, any_size);
    wire(PORT).reflect(WINDOW / 2, any_size);

    config.write(&file(&[STEER]));
    agent.tell(&["reload"]).ok();
    assert_eq!(names(&agent), ["rule2"]);
    assert_eq!(packets(&agent, "rule2"), WINDOW / 2, "its own, and not those of the one that went");
    // A name that is dealt again says nothing: what counts under it is new.
    agent.tell(&["rule", "replace", OTHER]).ok();
    wire(OTHER_PORT).reflect(WINDOW / 2, any_size);
    let scraped = || agent.metrics().sum("umemd_steer_rule_packets_total", &[("rule", "rule1")]);
    assert_eq!(scraped(), WINDOW / 2);
    agent.tell(&["rule", "replace", STEER]).ok();
    assert_eq!((names(&agent), packets(&agent, "rule1")), (vec!["rule1".to_owned()], 0));
    assert_eq!(scraped(), 0, "at once, and not as of the scrape just now");
    agent.terminate();
    agent.wait().summary();
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn what_was_read_last_is_in_force_and_what_is_read_for_ever_holds_up_nothing() {
    let Some(lab) = Lab::new() else { return };
    let rules = |name: &str| format!("iface = ['near0']\n[[rule]]\nname = '{name}'\nmatch = 'udp'\n");
    let file = Scratch::new("slow.toml", &rules("first"));
    let slow = file.path().to_owned() + ".fifo";
    // A file that is not read before somebody writes to it.
    let begin_to_read_it = |agent: &Agent| {
        let _ = fs::remove_file(&slow);
        run(Command::new("mkfifo").arg(&slow), "").expect("a FIFO can be made");
        fs::remove_file(file.path()).expect("it is there");
        fs::hard_link(&slow, file.path()).expect("in one folder");
        agent.hang_up();
        // It can be opened for writing once somebody reads.
        let nonblock = OFlags::NONBLOCK.bits() as i32;
        let mut writer = None;
        wait_until("it is being read", PATIENCE, || {
            writer = OpenOptions::new().write(true).custom_flags(nonblock).open(&slow).ok();
            writer.is_some()
        });
        writer.expect("waited for")
    };
    let agent = lab.agent_on(&["--config", file.path()]).start();

    let mut writer = begin_to_read_it(&agent);
    fs::remove_file(file.path()).expect("it is there");
    file.write(&rules("last"));
    thread::scope(|scope| {
        let second = scope.spawn(|| agent.tell(&["reload"]).ok());
        // It is not overtaken by the first one, whoever of them comes first.
        let soon = Instant::now() + Duration::from_millis(300);
        while Instant::now() < soon && names(&agent) != ["last"] {}
        writer.write_all(rules("slow").as_bytes()).expect("somebody reads");
        drop(writer);
        second.join().expect("the command ends");
    });
    wait_until("both are done", PATIENCE, || agent.metrics().total("umemd_config_reloads_total") == 2);
    assert_eq!(names(&agent), ["last"]);

    let _never_written_to = begin_to_read_it(&agent);
    agent.terminate();
    agent.wait().summary();
    fs::remove_file(&slow).expect("it is there");
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_reload_locks_nobody_out_and_sighup_without_a_file_ends() {
    let Some(lab) = Lab::new() else { return };
    let near = &lab.pair().near;
    let file = Scratch::new("guard.toml", "iface = ['near0']\n");
    let agent = lab.agent_on(&["--config", file.path()]).start();
    let (_client, _server) = lab.connection(near.port(PORT));
    for (text, place) in [
        ("iface = ['near0']\ndefault = 'drop'\n", "2 | default = 'drop'\n  |           ^^^^^^\n"),
        ("iface = ['near0']\n[[rule]]\nmatch = 'all'\n", "3 | match = 'all'\n  |         ^^^^^\n"),
    ] {
        file.write(text);
        let stderr = agent.tell(&["reload"]).refused(1);
        assert!(stderr.contains(place), "{stderr}");
        assert!(stderr.contains("cut off") && stderr.contains(&near.port(PORT).to_string()), "{stderr}");
        assert_eq!(names(&agent), [""; 0]);
    }
    agent.hang_up();
    wait_until("the signal is heeded", PATIENCE, || agent.stderr().matches("not reloaded").count() == 3);
    let said = agent.stderr();
    let last = said.rsplit("not reloaded").next().expect("said");
    assert!(last.contains("cut off") && last.contains(&near.port(PORT).to_string()), "{said}");
    assert_eq!(names(&agent), [""; 0]);
    agent.tell(&["reload", "--force"]).ok();
    assert_eq!(names(&agent), ["rule1"]);
    agent.terminate();
    agent.wait().summary();

    // What was forced at the start stays cut off; what is cut off by a later reload has to be forced again.
    let (_other_client, _other_server) = lab.connection(near.port(OTHER_PORT));
    let rule = |port: u16| format!("[[rule]]\nmatch = 'tcp dst port {port}'\n");
    let rules = |rules: &str| format!("iface = ['near0']\nforce = true\n{rules}");
    file.write(&rules(&rule(PORT)));
    let agent = lab.agent_on(&["--config", file.path(), "--force"]).start();
    file.write(&rules(&format!("{}{}", rule(PORT), rule(9000))));
    agent.tell(&["reload"]).ok();
    file.write(&rules(&format!("{}{}", rule(PORT), rule(OTHER_PORT))));
    let stderr = agent.tell(&["reload"]).refused(1);
    assert!(stderr.contains(&near.port(OTHER_PORT).to_string()), "{stderr}");
    assert!(!stderr.contains(&near.port(PORT).to_string()), "{stderr}");
    agent.hang_up();
    wait_until("the signal is heeded", PATIENCE, || agent.stderr().matches("not reloaded").count() == 2);
    agent.tell(&["reload", "--force"]).ok();
    agent.terminate();
    agent.wait().summary();

    ip(&["-netns", lab.near.name(), "link", "set", "near0", "up"]);
    let agent = lab.agent(&["--steer", STEER]).start();
    agent.hang_up();
    agent.wait().summary();
}
