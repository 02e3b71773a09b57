use super::*;
use crate::nic::probe::Node;

const PURPOSE: Purpose<'_> = Purpose {
    mode: Mode::Native,
    bind: BindMode::Copy,
    multi_buffer: false,
    capacity: 1792,
    lent: 2048,
    queues: None,
};
const ZEROCOPY: Purpose<'_> = Purpose { bind: BindMode::ZeroCopy, ..PURPOSE };

/// On a machine that tells all.
fn facts(driver: &str, mtu: u32) -> Facts {
    Facts {
        driver: driver.into(),
        mtu,
        linux: (6, 12),
        node: Some(Node::default()),
        separate_channels: Some(false),
        channels: Some((2, 8)),
        hashes: Some(true),
        possible_cpus: Some(4),
        ..Facts::default()
    }
}

fn texts(facts: &Facts, purpose: Purpose<'_>, weight: Weight) -> Vec<String> {
    let findings = facts.findings("eth0", purpose).into_iter();
    findings.filter(|finding| finding.weight == weight).map(|finding| finding.to_string()).collect()
}

fn refusals(facts: &Facts) -> Vec<String> {
    texts(facts, PURPOSE, Weight::Refusal)
}

#[track_caller]
fn warns(facts: &Facts, purpose: Purpose<'_>, of: &str) {
    let said = texts(facts, purpose, Weight::Warning);
    assert!(said.iter().any(|text| text.contains(of)), "{of}: {said:?}");
}

#[test]
fn skb_mode_is_warned_of_where_senders_leave_segments_to_others() {
    let skb = Purpose { mode: Mode::Skb, ..PURPOSE };
    warns(&facts("veth", 1500), skb, "longer than 1792 bytes are dropped and counted as xsk_rx_dropped");
    let several = Purpose { multi_buffer: true, ..skb };
    warns(&facts("veth", 9000), several, "longer than 32256 bytes are dropped and counted as rx_too_long");
    assert_eq!(facts("veth", 9000).findings("eth0", Purpose { capacity: 3840, ..several }), []);
    assert_eq!(facts("igb", 1500).findings("eth0", skb), []);
}

#[test]
fn a_bond_is_served_by_its_members_or_in_skb_mode() {
    let bond = facts("bonding", 1500);
    let [refusal] = &refusals(&bond)[..] else { panic!("one") };
    let mend = "pass --mode skb, or name each of them: umemd run --iface MEMBER --iface MEMBER ...";
    assert!(refusal.ends_with(mend), "{refusal}");
    assert!(bond.findings("bond0", Purpose { mode: Mode::Skb, ..PURPOSE }).is_empty());
}

#[test]
fn a_port_of_a_switch_is_served_by_its_conduit_or_in_skb_mode() {
    let [refusal] = &refusals(&facts("dsa", 1500))[..] else { panic!("one") };
    let mend = "pass --mode skb, or name that: umemd run --iface CONDUIT ...";
    assert!(refusal.contains("on its conduit") && refusal.ends_with(mend), "{refusal}");
}

#[test]
fn an_mtu_is_refused_where_the_driver_refuses_it() {
    for (driver, most) in [("bnxt_en", 3502), ("i40e", 3046), ("mvneta", 3520), ("mvpp2", 1640)] {
        assert_eq!(refusals(&facts(driver, most)), [""; 0], "{driver}");
        let said = refusals(&facts(driver, most + 1));
        assert!(said.len() == 1 && said[0].ends_with(&format!(": ip link set eth0 mtu {most}")), "{said:?}");
    }
    assert_eq!(facts("mvpp2", 9000).findings("eth0", Purpose { mode: Mode::Skb, ..PURPOSE }), []);
    assert_eq!(facts("nobody", 9000).findings("eth0", PURPOSE), []);
    let several = Purpose { multi_buffer: true, ..PURPOSE };
    let refuses = |driver| !texts(&facts(driver, 9000), several, Weight::Refusal).is_empty();
    assert!(!refuses("mvneta") && refuses("mvpp2"), "packets in several buffers");
    let [i40e] = &refusals(&facts("i40e", 9000))[..] else { panic!("one") };
    assert!(i40e.ends_with("pass --mode skb, or lower it: ip link set eth0 mtu 3046"), "{i40e}");
}

#[test]
fn a_sibling_that_takes_the_pools_is_named() {
    let mut port = facts("mvpp2", 1500);
    for (runs_programs, count) in [(None, 0), (Some(true), 0), (Some(false), 1)] {
        port.runs_programs = runs_programs;
        let said = refusals(&port);
        assert_eq!(said.len(), count, "{said:?}");
        assert!(said.iter().all(|text| text.contains("a sibling port of eth0 has an MTU above 1640")
            && text.ends_with(": ip link set PORT mtu 1640")));
    }
}

#[test]
fn a_buffer_manager_is_refused_only_where_the_driver_uses_it() {
    let mut board = facts("mvneta", 1500);
    board.node = Some(Node { buffer_manager: true, ..Node::default() });
    let mut said = |runs_programs| {
        board.runs_programs = runs_programs;
        let of =
            |weight| texts(&board, PURPOSE, weight).iter().filter(|text| text.contains("manager")).count();
        [of(Weight::Refusal), of(Weight::Warning)]
    };
    assert_eq!(said(Some(false)), [1, 0]);
    assert_eq!(said(Some(true)), [0, 0], "it does without");
    assert_eq!(said(None), [0, 1], "what is unknown is not refused");
}

#[test]
fn what_the_chip_or_the_tree_decides_is_asked_of_them() {
    let mut board = facts("mvneta", 1500);
    assert_eq!(board.only_queue(), None, "an Armada 38x has eight");
    board.node = Some(Node { compatible: vec!["marvell,armada-3700-neta".into()], ..Node::default() });
    assert_eq!(board.only_queue(), Some(0));
    assert!(refusals(&board).is_empty());
    board.node = Some(Node { compatible: vec!["marvell,armada-ac5-neta".into()], ..Node::default() });
    assert_eq!(board.only_queue(), Some(0), "an Alleycat5 has one, too");
    // It announces no XDP then, for want of the pools that so many CPUs do not get.
    let many = Facts { possible_cpus: Some(8), runs_programs: Some(false), ..facts("mvpp2", 1500) };
    let [why] = &refusals(&many)[..] else { panic!("{:?}", refusals(&many)) };
    assert!(why.contains("more than 4 CPUs"), "{why}");
    let unknown = Facts { possible_cpus: None, ..facts("mvpp2", 1500) };
    assert_eq!(refusals(&unknown).len(), 0, "what is unknown is not refused");
}

#[test]
fn what_cannot_be_seen_is_said_to_be_unknown() {
    let unknown = |facts: &Facts| texts(facts, PURPOSE, Weight::Unknown).len();
    assert_eq!(unknown(&Facts { node: None, ..facts("mvneta", 1500) }), 2, "queues, buffer manager");
    assert_eq!(unknown(&Facts { possible_cpus: None, ..facts("mvpp2", 1500) }), 1);
    let four = Facts { possible_cpus: None, rx_queues: 4, ..facts("mvpp2", 1500) };
    assert_eq!(unknown(&four), 2, "which of them are polled, too");
    assert_eq!(unknown(&Facts { hashes: None, ..facts("mvpp2", 1500) }), 1, "whether flows are spread");
    assert_eq!(unknown(&Facts { separate_channels: None, ..facts("bnxt_en", 1500) }), 1, "channels");
    for driver in ["mvneta", "mvpp2", "bnxt_en"] {
        assert_eq!(unknown(&facts(driver, 1500)), 0, "{driver}");
    }
    assert_eq!(unknown(&Facts { node: None, possible_cpus: None, ..facts("ice", 1500) }), 0, "nobody asks");
}

#[test]
fn queues_that_stay_silent_are_warned_of_if_they_were_asked_for() {
    let mut board = facts("mvneta", 1500);
    board.node = Some(Node { compatible: vec!["marvell,armada-3700-neta".into()], ..Node::default() });
    let flat = Facts { hashes: Some(false), ..facts("mvpp2", 1500) };
    for facts in [&board, &flat] {
        assert_eq!(facts.only_queue(), Some(0));
        let silent = |queues, weight| {
            let purpose = Purpose { queues, ..PURPOSE };
            let said = texts(facts, purpose, weight);
            said.iter().filter(|text| text.contains("its other queues stay silent")).count()
        };
        for asked in [&[1][..], &[0, 1]] {
            assert_eq!(silent(Some(asked), Weight::Warning), 1);
        }
        for asked in [None, Some(&[0][..])] {
            assert_eq!((silent(asked, Weight::Warning), silent(asked, Weight::Note)), (0, 1));
        }
    }
    assert_eq!(Facts { hashes: Some(true), ..facts("mvpp2", 1500) }.only_queue(), None);
    let four = Facts { rx_queues: 4, ..flat };
    let way = ["ethtool -K eth0 rxhash on", "ethtool -X eth0 equal 4"].map(String::from);
    assert_eq!(four.spreading("eth0"), Some(way.clone()));
    let way = way.join(", then ");
    assert!(texts(&four, PURPOSE, Weight::Note).iter().any(|text| text.ends_with(&way)));
    assert_eq!(board.spreading("eth0"), None, "nothing spreads on that chip");
}

#[test]
fn queues_that_nobody_polls_are_told_where_there_are_fewer_cpus() {
    let port = |possible_cpus| Facts { possible_cpus, rx_queues: 4, ..facts("mvpp2", 1500) };
    let said = |cpus, queues, weight| {
        let said = texts(&port(Some(cpus)), Purpose { queues, ..PURPOSE }, weight).into_iter();
        said.filter(|text| text.contains("polls one queue of eth0 per CPU")).collect::<String>()
    };
    for (cpus, polled, weights) in [
        (1, "per CPU, queue 0:", ": ethtool -X eth0 weight 1 0 0 0"),
        // As the board rig has it: its weights of 0 and 2 are queues 0 and 1.
        (2, "per CPU, queues 0 and 1:", ": ethtool -X eth0 weight 1 0 1 0"),
        (3, "per CPU, queues 0 to 2:", ": ethtool -X eth0 weight 1 1 1 1"),
    ] {
        let text = said(cpus, None, Weight::Note);
        assert!(text.contains(polled) && text.ends_with(weights), "{text}");
        assert!(!port(Some(cpus)).table_is_of_queues());
        assert_eq!(said(cpus, None, Weight::Warning), "");
        assert_eq!(said(cpus, Some(&[0]), Weight::Warning), "");
        assert_ne!(said(cpus, Some(&[0, 3]), Weight::Warning), "", "asked for in vain");
    }
    for weight in [Weight::Note, Weight::Warning] {
        assert_eq!(said(4, None, weight), "", "all are polled");
    }
    assert!(port(Some(4)).table_is_of_queues());
    assert!(!port(None).table_is_of_queues(), "nobody knows");
    let other = Facts { possible_cpus: Some(2), rx_queues: 4, ..facts("ice", 1500) };
    assert!(other.table_is_of_queues());
    let flat = Facts { hashes: Some(false), ..port(Some(2)) };
    assert_eq!(flat.spreading("eth0").unwrap()[1], "ethtool -X eth0 weight 1 0 1 0");
}

#[test]
fn what_zero_copy_breaks_is_told_to_whoever_gets_it() {
    for (driver, of) in [
        ("ena", "slower than copying, or worse"),
        ("i40e", "may stop for good"),
        ("ice", "may stop for good"),
        ("igb", "packets of more than 1024 bytes are lost"),
    ] {
        let facts = facts(driver, 1500);
        warns(&facts, ZEROCOPY, of);
        let about = |finding: Finding| finding.text.contains("zero");
        assert!(!facts.findings("eth0", PURPOSE).into_iter().any(about), "{driver}: nobody asked");
    }
    let none = texts(&facts("mvneta", 1500), ZEROCOPY, Weight::Refusal);
    assert!(none.len() == 1 && none[0].starts_with("eth0 has no zero-copy"), "{none:?}");
    let newer = |zero_copy| Facts { zero_copy, ..facts("mvneta", 1500) };
    let refused = |zero_copy| texts(&newer(zero_copy), ZEROCOPY, Weight::Refusal).len();
    assert_eq!([None, Some(false), Some(true)].map(refused), [1, 1, 0], "a newer driver may have it");
    let large = Purpose { capacity: 3840, ..ZEROCOPY };
    let lost =
        |mtu| texts(&facts("igb", mtu), large, Weight::Warning).iter().any(|text| text.contains("lost"));
    assert!(!lost(1500) && lost(3055), "3072 bytes");
}

#[test]
fn a_ring_that_takes_most_of_the_frames_is_warned_of_in_zero_copy_mode() {
    let nic = |ring| Facts { ring, ..facts("gve", 1500) };
    let said = |ring, purpose| texts(&nic(ring), purpose, Weight::Warning);
    warns(
        &nic(Some(2048)),
        ZEROCOPY,
        "pass --frames 8192, or shorten the NIC's ring: ethtool -G eth0 rx 1024",
    );
    assert_eq!(said(Some(1024), ZEROCOPY), [""; 0]);
    assert_eq!(said(Some(2048), PURPOSE), [""; 0], "in copy mode it holds pages of the kernel's");
    assert_eq!(said(None, ZEROCOPY), [""; 0]);
}

#[test]
fn a_quirk_ends_with_the_kernel_that_mends_it() {
    let mut nic = facts("mlx5_core", 1500);
    nic.linux = (6, 0);
    warns(&nic, ZEROCOPY, "its queues twice");
    nic.linux = (6, 1);
    assert_eq!(nic.findings("eth0", ZEROCOPY), []);
}

#[test]
fn packets_in_several_buffers_are_left_off_where_they_get_mixed_up() {
    assert!(!facts("i40e", 9000).bears_fragments() && facts("ice", 9000).bears_fragments());
    warns(&facts("i40e", 9000), Purpose { multi_buffer: true, ..PURPOSE }, "--multi-buffer off");
    assert_eq!(texts(&facts("i40e", 9000), PURPOSE, Weight::Warning), [""; 0]);
}

#[test]
fn queues_of_a_driver_without_channels_stay_as_many_as_they_are() {
    for (driver, count) in [("mvneta", 1), ("mvpp2", 1), ("ice", 0)] {
        let said = texts(&facts(driver, 1500), PURPOSE, Weight::Note);
        let said = said.iter().filter(|text| text.contains("cannot be changed by ethtool -L"));
        assert_eq!(said.count(), count, "{driver}");
    }
}

#[test]
fn channels_that_only_receive_are_refused_where_the_driver_refuses_them() {
    let nic = |separate_channels| Facts { separate_channels, ..facts("bnxt_en", 1500) };
    assert_eq!([Some(true), Some(false), None].map(|apart| refusals(&nic(apart)).len()), [1, 0, 0]);
}

#[test]
fn channels_that_leave_none_for_a_program_are_refused_unless_the_driver_says_that_it_runs_them() {
    let said = |channels, runs_programs| {
        let nic = Facts { channels, runs_programs, ..facts("ena", 1500) };
        let about = |finding: &Finding| finding.id == "ena-half-of-channels";
        nic.findings("eth0", PURPOSE).into_iter().find(about).map(|found| (found.weight, found.mend.concat()))
    };
    let half = || "ethtool -L eth0 combined 4".to_owned();
    assert_eq!(said(Some((4, 8)), Some(false)), None);
    assert_eq!(said(Some((5, 8)), Some(false)), Some((Weight::Refusal, half())));
    assert_eq!(said(Some((8, 8)), None), Some((Weight::Warning, half())), "what is unknown is not refused");
    assert_eq!(said(Some((8, 8)), Some(true)), None, "Amazon's own");
    let skb = "umemd run --iface eth0 --mode skb ...".to_owned();
    assert_eq!(said(Some((1, 1)), Some(false)), Some((Weight::Refusal, skb)));
    assert_eq!(said(None, Some(false)), Some((Weight::Unknown, String::new())));
}

#[test]
fn scripts_know_each_quirk_by_a_name_of_its_own() {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    for driver in drivers::DRIVERS {
        let mut ids: Vec<&str> = driver.quirks.iter().map(|quirk| quirk.kind.id()).collect();
        assert!(ids.iter().all(|id| id.chars().all(word)), "{ids:?}");
        let all = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all, "{}", driver.name);
    }
    let id = |facts: &Facts, purpose| facts.findings("eth0", purpose).pop().map(|finding| finding.id);
    assert_eq!(id(&Facts { node: None, ..facts("mvneta", 1500) }, PURPOSE).unwrap(), "mvneta-buffer-manager");
    assert_eq!(id(&facts("virtio_net", 1500), ZEROCOPY).unwrap(), "virtio-net-zero-copy-headroom");
}

#[test]
fn what_keeps_a_driver_from_its_program_is_mended_by_a_command_or_by_doing_without() {
    let skb = "umemd run --iface eth0 --mode skb ...";
    let managed = Node { buffer_manager: true, ..Node::default() };
    let board = Facts { node: Some(managed), runs_programs: Some(false), ..facts("mvneta", 1500) };
    let many = Facts { possible_cpus: Some(8), runs_programs: Some(false), ..facts("mvpp2", 1500) };
    let apart = Facts { separate_channels: Some(true), ..facts("bnxt_en", 1500) };
    for (facts, mend) in [(board, skb), (many, skb), (apart, "ethtool -L eth0 rx 0 tx 0 combined N")] {
        let refusal = |finding: &Finding| finding.weight == Weight::Refusal;
        let refusal = facts.findings("eth0", PURPOSE).into_iter().find(refusal).expect("it is refused");
        assert_eq!(refusal.mend, [mend], "{refusal}");
        assert!(!refusal.text.contains(mend), "said once: {refusal}");
    }
}

/// `sudo a && b` raises `a` alone.
#[test]
fn whoever_puts_sudo_in_front_of_a_mend_raises_all_of_it() {
    let shells_own = ["&&", "||", ";", "|", ">", "<", "`", "$"];
    let mut mends = 0;
    for driver in drivers::DRIVERS {
        let worst = Facts {
            node: Some(Node { buffer_manager: true, ..Node::default() }),
            runs_programs: Some(false),
            separate_channels: Some(true),
            channels: Some((8, 8)),
            hashes: Some(false),
            possible_cpus: Some(2),
            rx_queues: 4,
            ..facts(driver.name, 9000)
        };
        for mend in worst.findings("eth0", PURPOSE).into_iter().flat_map(|finding| finding.mend) {
            assert!(!mend.split(' ').any(|word| shells_own.contains(&word)), "{}: {mend}", driver.name);
            mends += 1;
        }
    }
    assert!(mends > 5, "{mends}");
}
