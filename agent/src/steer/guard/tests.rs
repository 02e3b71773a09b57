//! What the guard refuses, and what it does not.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use crate::steer::{RuleSpec, compile};
use Upkeep::{Arp, Dhcp, Dhcp6, NeighbourDiscovery};

fn prefix(text: &str) -> Prefix {
    let (ip, bits) = text.split_once('/').unwrap();
    Prefix { ip: ip.parse().unwrap(), bits: bits.parse().unwrap() }
}

fn own(text: &str, tags: Tags) -> LocalAddress {
    LocalAddress { prefix: prefix(text), dynamic: false, on_link: true, tags }
}

fn route(destination: &str, gateway: Option<&str>, tags: Tags) -> LeavingRoute {
    let gateway = gateway.map(|gateway| gateway.parse().unwrap());
    LeavingRoute { destination: prefix(destination), gateway, tags }
}

/// One default route, of which no gateway is known, or none.
fn routes(one: bool) -> InterfaceFacts {
    let routes = if one { vec![route("0.0.0.0/0", None, Tags::NONE)] } else { Vec::new() };
    InterfaceFacts { routes, ..InterfaceFacts::default() }
}

fn home_in(tags: Tags) -> InterfaceFacts {
    InterfaceFacts {
        local_addresses: ["10.0.0.5/24", "fe80::5/64", "fd00::5/64"].map(|ip| own(ip, tags)).to_vec(),
        routes: vec![
            route("0.0.0.0/0", Some("10.0.0.1"), tags),
            route("::/0", Some("fe80::1"), tags),
            route("10.0.0.0/24", None, tags),
            route("fe80::/64", None, tags),
            route("fd00::/64", None, tags),
        ],
    }
}

/// A machine in its network, with a router for each family.
fn home() -> InterfaceFacts {
    home_in(Tags::NONE)
}

/// The same without a way to anywhere else.
fn secluded() -> InterfaceFacts {
    let mut facts = home();
    facts.routes.retain(|route| route.destination.bits > 0);
    facts
}

fn vlan(id: u16) -> Tags {
    Tags::of(&[Tag { tpid: 0x8100, id: Some(id) }])
}

fn connection(local: &str, remote: &str) -> Connection {
    Connection { local: local.parse().unwrap(), remote: remote.parse().unwrap(), tags: Tags::NONE }
}

fn check_one(rule: &str, connections: &[Connection], default_route: bool) -> Vec<String> {
    let rules = compile(&[rule]).unwrap();
    let lock_outs = check(&rules, connections, &routes(default_route));
    lock_outs.iter().map(ToString::to_string).collect()
}

/// The kinds of upkeep that these rules cut; those that begin with `pass ` let pass, and the others drop.
fn kinds(rules: &[&str], connections: &[Connection], facts: &InterfaceFacts) -> Vec<Upkeep> {
    let specs = rules.iter().enumerate().map(|(number, text)| {
        let (action, expression) = match text.strip_prefix("pass ") {
            Some(expression) => (Action::Pass, expression),
            None => (Action::Drop, *text),
        };
        RuleSpec { action, ..RuleSpec::steer(&format!("rule{number}"), expression) }
    });
    let rules = RuleSet::compile(specs.collect(), DefaultAction::Pass).unwrap();
    let kinds = check(&rules, connections, facts).into_iter().filter_map(|lock_out| match lock_out.cut {
        Cut::Upkeep(need) => Some(need.upkeep),
        Cut::Connection(_) => None,
    });
    kinds.collect::<BTreeSet<_>>().into_iter().collect()
}

#[test]
fn a_connection_is_cut_off_by_what_matches_its_frames_and_by_nothing_else() {
    let v4 = [connection("10.0.0.5:22", "10.0.0.9:51514")];
    let named = "ssh 10.0.0.5:22 <- 10.0.0.9:51514";
    for rule in [
        "all",
        "ip",
        "tcp",
        "port 22",
        "tcp dst port 22",
        "src port 51514",
        "ip proto 6",
        "ether proto 0x800",
        "udp or tcp",
    ] {
        let cut = check_one(rule, &v4, false);
        assert_eq!(cut[0], format!("{named} (by `{rule}`)"));
    }
    for rule in ["udp", "ip6", "src port 22", "dst port 51514", "tcp port 80", "ip6 and tcp", "icmp"] {
        assert_eq!(check_one(rule, &v4, false), [""; 0], "{rule}");
    }

    let v6 = [connection("[fd00::5]:8443", "[fd00::9]:40000")];
    assert_eq!(check_one("ip6", &v6, false)[0], "tcp [fd00::5]:8443 <- [fd00::9]:40000 (by `ip6`)");
    assert_eq!(check_one("tcp port 8443", &v6, false).len(), 1);
    assert_eq!(check_one("ip", &v6, false), [""; 0]);
}

#[test]
fn the_rule_that_takes_the_frame_is_named_among_others() {
    let rules = compile(&["udp port 7", "tcp", "all"]).unwrap();
    let cut = check(&rules, &[connection("10.0.0.5:22", "10.0.0.9:51514")], &routes(false));
    assert_eq!(cut.iter().map(|lock_out| lock_out.rule.as_str()).collect::<Vec<_>>(), ["tcp", "all"]);
}

#[test]
fn what_keeps_the_machine_in_its_network_counts_where_the_default_route_leaves() {
    let upkeep = |rule: &str| {
        assert_eq!(check_one(rule, &[], false), [""; 0], "{rule}, without a default route");
        assert_eq!(kinds(&[rule], &[], &home()), kinds(&[rule], &[], &routes(true)), "{rule}");
        kinds(&[rule], &[], &routes(true))
    };
    assert_eq!(upkeep("arp"), [Arp]);
    assert_eq!(upkeep("icmp6"), [NeighbourDiscovery]);
    assert_eq!(upkeep("udp port 68"), [Dhcp]);
    assert_eq!(upkeep("udp src port 67"), [Dhcp]);
    assert_eq!(upkeep("dst host 255.255.255.255"), [Dhcp]);
    assert_eq!(upkeep("udp dst port 546"), [Dhcp6]);
    assert_eq!(upkeep("udp"), [Dhcp, Dhcp6]);
    assert_eq!(upkeep("ip6"), [NeighbourDiscovery, Dhcp6]);
    assert_eq!(upkeep("net fe80::/10"), [NeighbourDiscovery, Dhcp6]);
    assert_eq!(upkeep("ip6 dst net ff02::/16"), [NeighbourDiscovery]);
    assert_eq!(upkeep("ip6 dst host ff02::1"), [NeighbourDiscovery]);
    assert_eq!(upkeep("all"), [Arp, NeighbourDiscovery, Dhcp, Dhcp6]);
    assert_eq!(upkeep("udp dst port 7"), []);
    assert_eq!(upkeep("icmp"), []);
    assert_eq!(upkeep("tcp port 22"), []);
}

/// Where the router, this machine, or what everybody listens to is named, upkeep is meant, too.
#[test]
fn a_rule_that_names_an_address_is_refused_if_upkeep_has_it() {
    for (rule, expected) in [
        ("arp src host 10.0.0.1", &[Arp][..]),
        ("arp dst host 10.0.0.5", &[Arp]),
        ("arp net 10.0.0.0/24", &[Arp]),
        ("host 10.0.0.1", &[Arp, Dhcp]),
        ("src net 10.0.0.0/8", &[Arp, Dhcp]),
        ("ip dst host 10.0.0.5", &[Dhcp]),
        ("ip6 src host fe80::1", &[NeighbourDiscovery, Dhcp6]),
        ("ip6 dst host fe80::5", &[NeighbourDiscovery, Dhcp6]),
        ("ip6 dst host fd00::5", &[NeighbourDiscovery]),
        ("ip6 dst host ff02::1:ff00:5", &[NeighbourDiscovery]),
        ("ip6 dst net ff02::1:ff00:0/104", &[NeighbourDiscovery]),
        ("icmp6 and src host fe80::1", &[NeighbourDiscovery]),
    ] {
        assert_eq!(kinds(&[rule], &[], &home()), expected, "{rule}");
    }
    for rule in [
        "arp src host 10.9.9.9",
        "arp src host 10.0.0.9",
        "arp src host 0.0.0.0",
        "arp src host 10.0.0.5",
        "host 10.9.9.9",
        "host 10.9.9.9 and udp",
        "host 10.0.0.9 and udp",
        "src net 192.168.0.0/16",
        "ip6 src host fe80::9",
        "ip6 host fd00::9",
        "ip6 dst host ff02::fb",
        "ip6 dst host ff02::1:ff00:9",
        "ip6 dst net ff05::/16",
        "udp dst port 5353",
        "tcp dst port 80",
    ] {
        assert_eq!(kinds(&[rule], &[], &home()), [], "{rule}");
    }
}

/// A rule for frames like this, with an address that is asked for.
fn naming(upkeep: Upkeep, end: &str, prefix: Prefix) -> String {
    let (kind, port) = match upkeep {
        Arp => ("arp", ""),
        NeighbourDiscovery => ("icmp6", ""),
        Dhcp => ("udp", " and udp src port 67"),
        Dhcp6 => ("udp", " and udp src port 547"),
    };
    let Prefix { ip, bits } = prefix;
    let host_bits = u32::from(Prefix::of_one(ip).bits - bits);
    let net: IpAddr = match ip {
        IpAddr::V4(ip) => Ipv4Addr::from(u32::from(ip) & u32::MAX.checked_shl(host_bits).unwrap_or(0)).into(),
        IpAddr::V6(ip) => {
            Ipv6Addr::from(u128::from(ip) & u128::MAX.checked_shl(host_bits).unwrap_or(0)).into()
        }
    };
    format!("{kind} and {end} net {net}/{bits}{port}")
}

/// Each frame that is needed is cut off by the rule that names exactly its ends, and by one for its neighbourhood.
#[test]
fn each_address_that_upkeep_has_is_refused_by_its_name() {
    let connections = [connection("10.0.0.5:22", "10.0.0.9:1"), connection("[fd00::5]:22", "[fd00::9]:1")];
    let needs = upkeep::needs(&connections, &home());
    for upkeep in [Arp, NeighbourDiscovery, Dhcp, Dhcp6] {
        assert!(needs.iter().any(|need| need.upkeep == upkeep), "{upkeep:?}");
    }
    let mut named = 0;
    for need in needs {
        for (end, party) in [("src", need.from), ("dst", need.to)] {
            let Party::Known(ip) = party else { continue };
            let one = Prefix::of_one(ip);
            for prefix in [one, Prefix { bits: one.bits - 8, ..one }, Prefix { bits: 3, ..one }] {
                let rule = naming(need.upkeep, end, prefix);
                let cut = check(&compile(&[&rule]).unwrap(), &connections, &home());
                assert!(cut.iter().any(|lock_out| lock_out.cut == Cut::Upkeep(need)), "{rule}: {need:?}");
                named += 1;
            }
        }
    }
    assert!(named > 60, "{named}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn a_rule_that_names_addresses_is_refused_if_and_only_if_upkeep_has_one_of_them(
        own_host in 1..255_u8, router in 1..255_u8, named in 0..=255_u8, bits in 20..=32_u8, is_ipv6: bool,
    ) {
        let v4 = |host: u8| IpAddr::from([10, 0, 0, host]);
        let v6 = |network: u16, host: u8| IpAddr::from([network, 0, 0, 0, 0, 0, 0, host.into()]);
        let own_addresses = [(v4(own_host), 24), (v6(0xfe80, own_host), 64), (v6(0xfd00, own_host), 64)];
        let facts = InterfaceFacts {
            local_addresses: own_addresses
                .map(|(ip, bits)| LocalAddress { prefix: Prefix { ip, bits }, ..own("::/0", Tags::NONE) })
                .to_vec(),
            routes: vec![
                LeavingRoute { gateway: Some(v4(router)), ..route("0.0.0.0/0", None, Tags::NONE) },
                LeavingRoute { gateway: Some(v6(0xfe80, router)), ..route("::/0", None, Tags::NONE) },
            ],
        };
        let (upkeep, named, from, to) = if is_ipv6 {
            let named = [v6(0xfe80, named), v6(0xfd00, named)].map(|ip| Prefix { ip, bits: bits + 96 });
            let own = vec![v6(0xfe80, own_host), v6(0xfd00, own_host)];
            (NeighbourDiscovery, named.to_vec(), v6(0xfe80, router), own)
        } else {
            (Arp, vec![Prefix { ip: v4(named), bits }], v4(router), vec![v4(own_host)])
        };
        for prefix in named {
            let rule = naming(upkeep, "src", prefix);
            prop_assert_eq!(kinds(&[&rule], &[], &facts).is_empty(), !prefix.contains(from), "{}", rule);
            let rule = naming(upkeep, "dst", prefix);
            let expected = to.iter().any(|to| prefix.contains(*to));
            prop_assert_eq!(kinds(&[&rule], &[], &facts).is_empty(), !expected, "{}", rule);
        }
    }
}

#[test]
fn only_what_is_passed_for_sure_is_protected() {
    for (rules, expected) in [
        (&["pass arp src host 0.0.0.0", "arp"][..], &[Arp][..]),
        (&["pass arp src host 10.0.0.9", "arp"], &[Arp]),
        (&["pass arp src host 10.0.0.1", "arp"], &[]),
        (&["pass arp dst host 10.0.0.5", "arp"], &[]),
        (&["pass icmp6 and dst host fd00::5", "icmp6"], &[NeighbourDiscovery]),
        (&["pass icmp6 and src host fe80::1", "icmp6"], &[]),
        (&["pass udp src port 67 and src host 10.0.0.1", "ip proto 17"], &[Dhcp]),
        (&["pass udp src port 67", "ip proto 17"], &[]),
        (&["pass ether src 02:00:00:00:00:01", "arp"], &[Arp]),
        (&["ether src 02:00:00:00:00:01 and arp"], &[Arp]),
    ] {
        assert_eq!(kinds(rules, &[], &home()), expected, "{rules:?}");
    }
    // Somebody is nobody whom a rule names, also where no neighbour is known.
    assert_eq!(kinds(&["pass arp src host 0.0.0.0", "arp"], &[], &routes(true)), [Arp]);
    assert_eq!(kinds(&["arp src net 0.0.0.0/8"], &[], &routes(true)), []);
}

/// The kernel knows no DHCP server. It is the router, or somebody near the address that it gave.
#[test]
fn who_may_have_given_the_address_is_not_taken_away() {
    let mut given = home();
    for own in &mut given.local_addresses {
        own.dynamic = !Prefix { ip: "fe80::".parse().unwrap(), bits: 64 }.contains(own.prefix.ip);
    }
    assert_eq!(kinds(&["udp and src host 10.0.0.9"], &[], &given), [Dhcp]);
    assert_eq!(kinds(&["udp and src host fe80::9"], &[], &given), [Dhcp6]);
    assert_eq!(kinds(&["pass udp and src net 10.0.0.0/24", "ip proto 17"], &[], &given), []);
    for rule in ["udp and host 10.9.9.9", "tcp and src host 10.0.0.9", "udp and src host fd00::9"] {
        assert_eq!(kinds(&[rule], &[], &given), [], "{rule}");
    }
    for facts in [home(), given] {
        assert_eq!(kinds(&["udp and src host 10.0.0.1"], &[], &facts), [Dhcp]);
        assert_eq!(kinds(&["udp and src host fe80::1"], &[], &facts), [Dhcp6]);
    }
}

#[test]
fn neighbours_of_a_connection_have_to_be_found() {
    let v4 = [connection("10.0.0.5:22", "10.0.0.9:51514")];
    assert_eq!(check_one("arp", &v4, false).len(), 1);
    assert_eq!(check_one("icmp6", &v4, false), [""; 0]);
    let v6 = [connection("[fd00::5]:22", "[fd00::9]:1")];
    assert_eq!(kinds(&["icmp6"], &v6, &routes(false)), [NeighbourDiscovery]);
    assert_eq!(check_one("arp", &v6, false), [""; 0]);
}

#[test]
fn the_neighbour_of_a_connection_is_the_peer_or_the_router_in_front_of_it() {
    let mut facts = secluded();
    facts.routes.push(route("10.7.0.0/16", Some("10.0.0.254"), Tags::NONE));
    facts.routes.push(route("fd07::/16", Some("fd00::fe"), Tags::NONE));
    let near = [connection("10.0.0.5:22", "10.0.0.9:1")];
    let far = [connection("10.0.0.5:22", "10.7.0.9:1")];
    let elsewhere = [connection("10.0.0.5:22", "10.8.0.9:1")];
    let near6 = [connection("[fd00::5]:22", "[fd00::9]:1")];
    let far6 = [connection("[fd00::5]:22", "[fd07::9]:1")];
    for (rule, connections, expected) in [
        ("arp src host 10.0.0.9", &near, &[Arp][..]),
        ("arp dst host 10.0.0.5", &near, &[Arp]),
        ("arp src host 10.0.0.254", &near, &[]),
        ("arp src host 10.0.0.254", &far, &[Arp]),
        ("host 10.0.0.254", &far, &[Arp]),
        ("arp src host 10.7.0.9", &far, &[]),
        ("arp src host 10.0.0.77", &near, &[]),
        // By which neighbour that one comes, no route tells.
        ("arp src host 10.0.0.77", &elsewhere, &[Arp]),
        ("icmp6 and src host fd00::9", &near6, &[NeighbourDiscovery]),
        ("ip6 dst net ff02::/16", &near6, &[NeighbourDiscovery]),
        ("net fe80::/10", &near6, &[NeighbourDiscovery]),
        ("ip6 dst host fe80::5", &near6, &[NeighbourDiscovery]),
        ("icmp6 and src host fd00::77", &near6, &[]),
        ("icmp6 and src host fd00::fe", &near6, &[]),
        ("icmp6 and src host fd00::fe", &far6, &[NeighbourDiscovery]),
        // A router asks from its link-local address, which is known from no route to it.
        ("icmp6 and src host fe80::77", &far6, &[NeighbourDiscovery]),
    ] {
        assert_eq!(kinds(&[rule], connections, &facts), expected, "{rule}, {}", connections[0]);
    }

    // An address of loopback has no neighbours; its interface has them.
    facts.local_addresses.push(LocalAddress { on_link: false, ..own("10.55.0.1/32", Tags::NONE) });
    let service = [connection("10.55.0.1:22", "10.7.0.9:1")];
    assert_eq!(kinds(&["arp dst host 10.0.0.5"], &service, &facts), [Arp]);
    assert_eq!(kinds(&["arp dst host 10.55.0.1"], &service, &facts), []);

    // IPv4 by an IPv6 router.
    facts.routes = vec![route("0.0.0.0/0", Some("fe80::1"), Tags::NONE)];
    assert_eq!(kinds(&["icmp6 and src host fe80::1"], &far, &facts), [NeighbourDiscovery]);
}

#[test]
fn a_frame_carries_the_tags_of_its_vlan() {
    let [outer, inner] = [Tag { tpid: 0x88a8, id: Some(5) }, Tag { tpid: 0x8100, id: Some(7) }];
    let tags = Tags::of(&[outer, inner]);
    let mut ssh = connection("10.0.0.5:22", "10.0.0.9:1");
    ssh.tags = tags;
    assert_eq!(ssh.to_string(), "ssh 10.0.0.5:22 <- 10.0.0.9:1, VLAN 5, VLAN 7");
    let refused = |rule: &str| {
        check(&compile(&[rule]).unwrap(), &[ssh], &home_in(tags)).iter().map(|l| l.cut).collect::<Vec<_>>()
    };
    for rule in ["ether proto 0x88a8", "vlan 5", "vlan 5 and vlan 7 and tcp", "vlan 5 and ether proto 0x8100"]
    {
        assert!(refused(rule).contains(&Cut::Connection(ssh)), "{rule}");
    }
    // Also once the NIC has taken the outer one away, but not both.
    assert!(
        refused("vlan 7 and arp").iter().all(|cut| matches!(cut, Cut::Upkeep(need) if need.upkeep == Arp))
    );
    assert!(!refused("vlan 7 and arp").is_empty());
    for rule in ["vlan 6", "arp", "tcp", "vlan 5 and vlan 8", "vlan 5 and ether proto 0x88a8"] {
        assert_eq!(refused(rule), [], "{rule}");
    }
}

/// Whichever tag a bridge takes off: a rule that names one may name that one.
#[test]
fn tags_that_a_bridge_takes_off_may_be_any() {
    let any = Tags::of(&[Tag { tpid: 0x8100, id: None }]);
    let mut facts = home_in(any);
    facts.local_addresses.extend(home().local_addresses);
    facts.routes.extend(home().routes);
    let ssh = Connection { tags: any, ..connection("10.0.0.5:22", "10.0.0.9:51514") };
    let cut = |rule: &str| check(&compile(&[rule]).unwrap(), &[ssh], &facts);
    for rule in ["vlan 10 and tcp dst port 22", "vlan and tcp", "vlan 7 and arp", "vlan"] {
        assert!(!cut(rule).is_empty(), "{rule}");
    }
    assert!(cut("vlan 10 and tcp dst port 22")[0].to_string().contains(", a VLAN of the bridge (by"));
    for rule in ["vlan 10 and tcp dst port 80", "vlan and udp dst port 7", "tcp dst port 80"] {
        assert_eq!(cut(rule), [], "{rule}");
    }
    // To let one id pass saves nobody who may come with another one.
    let keep = RuleSpec { action: Action::Pass, ..RuleSpec::steer("keep", "vlan 10 and tcp") };
    let rules =
        RuleSet::compile(vec![keep, RuleSpec::steer("all", "vlan and tcp")], DefaultAction::Pass).unwrap();
    assert!(!check(&rules, &[ssh], &facts).is_empty());
}

/// What somebody forced is one thing, and the next one has to be forced as well.
#[test]
fn what_is_cut_already_is_that_and_nothing_else() {
    let mut facts = home_in(vlan(7));
    let seven = facts.clone();
    facts.local_addresses.extend(home().local_addresses);
    facts.routes.extend(home().routes);
    let cut = |rule: &str| check(&compile(&[rule]).unwrap(), &[], &facts);
    let new = |rule: &str, before: &str| beyond(cut(rule), &compile(&[before]).unwrap());
    assert_eq!(new("arp or (vlan 7 and arp)", "arp or (vlan 7 and arp)"), []);
    assert!(!new("arp or (vlan 7 and arp)", "vlan 7 and arp").is_empty());
    assert!(new("arp or (vlan 7 and arp)", "vlan 7 and arp").iter().all(|lock_out| match lock_out.cut {
        Cut::Upkeep(need) => need.tags == Tags::NONE,
        Cut::Connection(_) => false,
    }));
    // Of one neighbour, too.
    let mut two = home();
    two.routes.push(route("0.0.0.0/0", Some("10.0.0.2"), Tags::NONE));
    let cut = |rule: &str| check(&compile(&[rule]).unwrap(), &[], &two);
    let new = |rule: &str, before: &str| beyond(cut(rule), &compile(&[before]).unwrap());
    assert_eq!(new("arp src host 10.0.0.2", "arp"), []);
    assert!(!new("arp", "arp src host 10.0.0.2").is_empty());

    let text =
        LockOutError::LockedOut(check(&compile(&["vlan 7 and arp"]).unwrap(), &[], &seven)).to_string();
    let said = "\n  ARP in VLAN 7, without which no IPv4 neighbour is found (by `vlan 7 and arp`)\n";
    assert!(text.contains(said), "{text}");
}

#[test]
fn the_error_names_each_connection_and_the_way_out() {
    let rules = compile(&["tcp"]).unwrap();
    let many: Vec<Connection> =
        (1..=20).map(|port| connection("10.0.0.5:22", &format!("10.0.0.9:{port}"))).collect();
    let text = LockOutError::LockedOut(check(&rules, &many, &routes(false))).to_string();
    assert!(text.contains("ssh 10.0.0.5:22 <- 10.0.0.9:1 (by `tcp`)"), "{text}");
    assert!(text.contains("and 12 more") && text.contains("--force"), "{text}");

    let all = LockOutError::LockedOut(check(&compile(&["all"]).unwrap(), &[], &home())).to_string();
    assert_eq!(all.matches("\n  ").count(), 4, "each kind once: {all}");
}
