//! One interface: its link, its driver, and who else uses it.

use std::{collections::BTreeSet, fs, io, path::Path};

use super::{Answer, Finding};
use crate::{
    config::{HEADROOM, L2_OVERHEAD},
    ebpf::Mode,
    nic::{
        self, Link, XdpAttachment, drivers,
        netdev::{self, Features},
        quirks::{Facts, Weight},
        users,
    },
    page_pool::{self, Reason, Source},
    sys::ethtool,
};

/// Sizes of frames that `--frame-size` takes; the first one if nobody asks.
const FRAMES: [u32; 2] = [2048, 4096];

/// The first Linux whose AF_XDP sockets take packets in several frames (`XDP_USE_SG`).
const MULTI_BUFFER: (u32, u32) = (6, 6);

pub(super) fn examine(link: &Link, links: &[Link]) -> Vec<Finding> {
    let facts = Facts::of(link);
    let told = netdev::features(link.index);
    let takes_several = takes_several(told.as_ref().ok().copied().flatten(), drivers::linux_version());
    let mut findings = vec![driver(link), up(link)];
    findings.extend(features(link, told));
    findings.extend([mtu(link, takes_several), queues(link, &facts)]);
    findings.extend(silent_queues(link));
    findings.extend(napi(link));
    findings.extend(ring(link));
    findings.extend(lro(link));
    findings.push(sockets(link));
    findings.extend(pools(link));
    findings.extend(program(link));
    findings.extend(master(link, links));
    findings.extend(conduit(link));
    let quirks = facts.findings(&link.name, Mode::Native, needs_several_frames(link));
    findings.extend(quirks.into_iter().map(|quirk| {
        let answer = match quirk.weight {
            Weight::Note => Answer::Note,
            Weight::Warning => Answer::Warning,
            Weight::Refusal => Answer::No,
        };
        Finding::new(&link.name, "quirk", answer, format!("{} ({})", quirk.text, quirk.source))
    }));
    findings
}

fn driver(link: &Link) -> Finding {
    match ethtool::driver(&link.name) {
        Ok(name) if !name.is_empty() => Finding::new(&link.name, "driver", Answer::Note, name),
        Ok(_) => Finding::new(&link.name, "driver", Answer::Unknown, "ethtool shows no name"),
        Err(error) => {
            Finding::new(&link.name, "driver", Answer::Unknown, format!("ethtool does not tell: {error}"))
        }
    }
}

fn up(link: &Link) -> Finding {
    let name = &link.name;
    if !link.up {
        let down = "it is down: no AF_XDP socket can be bound to it";
        return Finding::new(name, "up", Answer::No, down).mended_by(format!("ip link set {name} up"));
    }
    if link.carrier {
        Finding::new(name, "up", Answer::Ok, "it is up, and has a carrier")
    } else {
        Finding::new(name, "up", Answer::Warning, "it is up without a carrier: nothing is at the other end")
    }
}

/// What the driver says it can.
fn features(link: &Link, told: io::Result<Option<Features>>) -> Vec<Finding> {
    let finding = |asked, answer, text: String| Finding::new(&link.name, asked, answer, text);
    let Features { native, redirect, zero_copy, fragments, zero_copy_segments } = match told {
        Ok(Some(features)) => features,
        Ok(None) => {
            let text = "this kernel does not tell what the driver can (Linux 6.3 does)";
            return vec![finding("native XDP", Answer::Unknown, text.to_owned())];
        }
        Err(error) => {
            let text = format!("the kernel does not tell what the driver can: {error}");
            return vec![finding("native XDP", Answer::Unknown, text)];
        }
    };
    if !(native && redirect) {
        let text = if native {
            "the driver runs XDP programs, and does not redirect to AF_XDP"
        } else {
            "the driver, as it is set up now, runs no XDP program"
        };
        let skb = format!("umemd run --iface {} --mode skb ...", link.name);
        return vec![finding("native XDP", Answer::No, text.to_owned()).mended_by(skb)];
    }
    let zero_copy = match zero_copy_segments {
        _ if !zero_copy => "the driver has none: copy mode, which every driver has".to_owned(),
        Some(most) if most > 1 => format!("the driver has it, for packets of up to {most} frames"),
        _ => "the driver has it, for packets of one frame".to_owned(),
    };
    let fragments = if fragments {
        "the driver takes packets in several buffers"
    } else {
        "the driver takes no packets in several buffers"
    };
    vec![
        finding("native XDP", Answer::Ok, "the driver runs XDP programs and redirects".to_owned()),
        finding("zero-copy", Answer::Note, zero_copy),
        finding("multi-buffer", Answer::Note, fragments.to_owned()),
    ]
}

/// Whether `umemd run`, if nobody says how, lets packets take several frames.
fn needs_several_frames(link: &Link) -> bool {
    link.mtu.saturating_add(L2_OVERHEAD) > FRAMES[0] - HEADROOM
}

/// Whether a packet may take several frames here; `None` if the kernel does not tell of the driver.
fn takes_several(features: Option<Features>, linux: (u32, u32)) -> Option<bool> {
    if linux < MULTI_BUFFER { Some(false) } else { features.map(|features| features.fragments) }
}

/// Whether packets of full length fit what `umemd run` gives them if nobody says how: a frame, or several.
fn mtu(link: &Link, takes_several: Option<bool>) -> Finding {
    let finding =
        |answer, rest: String| Finding::new(&link.name, "mtu", answer, format!("MTU {}: {rest}", link.mtu));
    let [usual, larger] = FRAMES;
    let one_larger = link.mtu.saturating_add(L2_OVERHEAD) <= larger - HEADROOM;
    match takes_several {
        _ if !needs_several_frames(link) => {
            finding(Answer::Ok, format!("packets fit into frames of {usual} bytes"))
        }
        Some(true) => {
            finding(Answer::Ok, format!("packets of full length take several frames of {usual} bytes"))
        }
        None => {
            let rest = "packets of full length take several frames, and the kernel does not tell whether its driver can";
            finding(Answer::Unknown, rest.to_owned())
        }
        Some(false) if one_larger => {
            let rest =
                format!("packets of full length need frames of {larger} bytes, as they cannot take several");
            finding(Answer::Warning, rest).mended_by(format!("umemd run --frame-size {larger} ..."))
        }
        Some(false) => {
            let rest = "longer than any frame, and packets cannot take several: with --multi-buffer off what is too \
                        long is dropped, and counted";
            let most = larger - HEADROOM - L2_OVERHEAD;
            finding(Answer::Warning, rest.to_owned())
                .mended_by(format!("ip link set {} mtu {most}", link.name))
        }
    }
}

fn queues(link: &Link, facts: &Facts) -> Finding {
    match nic::choose_queues(link, None, facts.only_queue()) {
        Ok(queues) => {
            let text = match queues.len() {
                1 => "umemd serves queue 0".to_owned(),
                count => format!("umemd serves {count} queues, 0 to {}", count - 1),
            };
            Finding::new(&link.name, "queues", Answer::Ok, text)
        }
        Err(error) => Finding::new(&link.name, "queues", Answer::Unknown, error.to_string()),
    }
}

/// Queues that the NIC's table for spreading flows does not name: they never see a packet, unless a rule of the
/// NIC's own sends one there.
fn silent_queues(link: &Link) -> Option<Finding> {
    // A driver without a table has its own ways; the quirks know some.
    let table: BTreeSet<u32> = ethtool::rss_table(&link.name).ok()?.into_iter().collect();
    let queues = nic::choose_queues(link, None, None).ok()?;
    let silent: Vec<String> =
        queues.iter().filter(|queue| !table.contains(queue)).map(ToString::to_string).collect();
    if table.is_empty() || silent.is_empty() {
        return None;
    }
    let (word, them) = if silent.len() == 1 { ("queue", "it") } else { ("queues", "them") };
    let text = format!("{word} {} receive no flow: the NIC's RSS table leaves {them} out", silent.join(", "));
    let mend = format!("ethtool -X {} equal {}", link.name, queues.len());
    Some(Finding::new(&link.name, "silent queues", Answer::Warning, text).mended_by(mend))
}

/// Whether the driver tells who polls its queues, without which AF_XDP's busy polling does nothing.
fn napi(link: &Link) -> Option<Finding> {
    let queues = netdev::rx_queues(link.index).ok()??;
    let told = queues.iter().filter(|queue| queue.napi.is_some()).count();
    let text = match (queues.len(), told) {
        (0, _) => return None,
        (all, told) if all == told => "the driver tells who polls each queue: busy polling can work",
        _ => "the driver does not tell who polls its queues: busy polling does nothing",
    };
    Some(Finding::new(&link.name, "NAPI", Answer::Note, text))
}

fn ring(link: &Link) -> Option<Finding> {
    let ethtool::RxRing { now, most } = ethtool::rx_ring(&link.name).ok()?;
    let text = format!("{now} receive descriptors per queue, of at most {most}");
    (most > 0).then(|| Finding::new(&link.name, "ring", Answer::Note, text))
}

fn lro(link: &Link) -> Option<Finding> {
    let text = "LRO is on: many drivers refuse a program then";
    ethtool::offloads(&link.name).is_ok_and(|offloads| offloads.lro).then(|| {
        Finding::new(&link.name, "LRO", Answer::Warning, text)
            .mended_by(format!("ethtool -K {} lro off", link.name))
    })
}

/// Who has AF_XDP sockets on it already: as sock_diag tells, or, of those in zero-copy mode, the queues.
fn sockets(link: &Link) -> Finding {
    let finding = |answer, text: String| Finding::new(&link.name, "AF_XDP users", answer, text);
    let (taken, all) = match users::users() {
        Ok(Some(users)) => {
            (users.iter().filter(|user| user.ifindex == link.index).map(|user| user.queue).collect(), true)
        }
        Ok(None) => {
            let queues = netdev::rx_queues(link.index).ok().flatten().unwrap_or_default();
            (queues.iter().filter(|queue| queue.has_xsk).map(|queue| queue.number).collect(), false)
        }
        Err(error) => return finding(Answer::Unknown, format!("the kernel does not tell: {error}")),
    };
    let taken: BTreeSet<u32> = taken;
    let list: Vec<String> = taken.iter().map(ToString::to_string).collect();
    match (taken.len(), all) {
        (0, true) => finding(Answer::Ok, "nobody has an AF_XDP socket here".to_owned()),
        (0, false) if users::can_be_loaded() => {
            let text =
                "the kernel tells of AF_XDP sockets only with its module xsk_diag, which is not loaded";
            finding(Answer::Unknown, text.to_owned()).mended_by("modprobe xsk_diag")
        }
        (0, false) => {
            let text = "this kernel does not tell of AF_XDP sockets: it has no xsk_diag";
            finding(Answer::Unknown, text.to_owned())
        }
        (1, _) => finding(Answer::Warning, format!("queue {} has an AF_XDP socket", list.join("")))
            .mended_by("ss --xdp -e"),
        _ => finding(Answer::Warning, format!("queues {} have AF_XDP sockets", list.join(", ")))
            .mended_by("ss --xdp -e"),
    }
}

/// Where the driver's page_pools can be seen.
fn pools(link: &Link) -> Option<Finding> {
    let statistics = ethtool::statistics(&link.name);
    let (mut pools, _) = page_pool::read([(link.index, statistics.as_deref())]);
    let (answer, text) = match pools.remove(&link.index)?.source {
        Source::None(reason @ Reason::Failed(_)) => (Answer::Unknown, reason.to_string()),
        Source::None(reason) => (Answer::Note, format!("not to be seen: {reason}")),
        source => {
            (Answer::Ok, format!("to be seen by {}: umemd pagepool --iface {}", source.name(), link.name))
        }
    };
    Some(Finding::new(&link.name, "page_pool", answer, text))
}

/// Whose program is there already.
fn program(link: &Link) -> Option<Finding> {
    let attached = link.xdp?;
    Some(occupied(&link.name, attached, program_name(attached.program_id)))
}

/// What it means that this program is there.
fn occupied(interface: &str, attached: XdpAttachment, name: Option<String>) -> Finding {
    let id = attached.program_id;
    let name = match name {
        Some(name) if name == "xdp_dispatcher" => {
            " (libxdp's dispatcher, with programs of others behind it)".to_owned()
        }
        Some(name) => format!(" ({name})"),
        None => String::new(),
    };
    let text = format!("an XDP program is attached in {} mode: id {id}{name}", attached.mode);
    Finding::new(interface, "XDP program", Answer::No, text).mended_by(format!("bpftool prog show id {id}"))
}

/// The name of a loaded program; `None` without the right to ask.
fn program_name(id: u32) -> Option<String> {
    let programs = aya::programs::loaded_programs();
    let mut named = programs.map_while(Result::ok).filter(|program| program.id() == id);
    Some(named.next()?.name_as_str()?.to_owned())
}

fn master(link: &Link, links: &[Link]) -> Option<Finding> {
    let master = links.iter().find(|other| Some(other.index) == link.master)?;
    let driver = ethtool::driver(&master.name).unwrap_or_default();
    Some(below(&link.name, master, &driver))
}

/// What it means to belong to a master with this driver.
fn below(name: &str, master: &Link, driver: &str) -> Finding {
    let lag = ["bonding", "team"].contains(&driver);
    match &master.xdp {
        // net/core/dev.c, dev_xdp_attach: "Cannot attach when an upper device already has a program".
        Some(xdp) if lag => {
            let text = format!(
                "it belongs to {}, which has an XDP program (id {}): the kernel attaches none below it",
                master.name, xdp.program_id
            );
            Finding::new(name, "master", Answer::No, text)
                .mended_by(format!("bpftool prog show id {}", xdp.program_id))
        }
        Some(xdp) => {
            let text = format!(
                "it belongs to {}, which has an XDP program (id {}): some kernels attach none below one",
                master.name, xdp.program_id
            );
            Finding::new(name, "master", Answer::Warning, text)
        }
        None => {
            let others =
                if lag { "; its other members have frames as well: umemd run --iface with each" } else { "" };
            let text = format!(
                "it belongs to {}, which does not see the frames that are steered{others}",
                master.name
            );
            Finding::new(name, "master", Answer::Warning, text)
        }
    }
}

/// A DSA conduit's frames carry the switch's tag, and native XDP is on the conduit alone. Sysfs shows it, of the
/// namespace that it was mounted in.
fn conduit(link: &Link) -> Option<Finding> {
    conduit_in(Path::new("/sys/class/net"), link)
}

fn conduit_in(sysfs: &Path, link: &Link) -> Option<Finding> {
    let file = sysfs.join(&link.name).join("dsa/tagging");
    let tagging = match fs::read_to_string(file) {
        Ok(tagging) => tagging,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            let text = format!("sysfs does not tell: {error}");
            return Some(Finding::new(&link.name, "DSA", Answer::Unknown, text));
        }
    };
    let text = format!(
        "it is the conduit of a switch: frames of its ports carry a tag ({}) behind their addresses",
        tagging.trim()
    );
    Some(Finding::new(&link.name, "DSA", Answer::Note, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str) -> Link {
        let lo = nic::links().unwrap().into_iter().find(|link| link.name == "lo").unwrap();
        Link { name: name.into(), xdp: None, ..lo }
    }

    #[test]
    fn packets_that_may_take_several_frames_are_not_said_to_be_dropped() {
        let said = |mtu: u32, takes_several| {
            let Finding { answer, text, mend, .. } = super::mtu(&Link { mtu, ..link("eth0") }, takes_several);
            (answer, text, mend.unwrap_or_default())
        };
        for takes_several in [Some(true), Some(false), None] {
            assert_eq!(said(1500, takes_several).0, Answer::Ok);
        }
        let (answer, text, mend) = said(9000, Some(true));
        assert!(answer == Answer::Ok && text.contains("several frames of 2048"), "{text}");
        assert_eq!(mend, "");
        let (answer, text, mend) = said(9000, Some(false));
        assert!(answer == Answer::Warning && text.contains("with --multi-buffer off"), "{text}");
        assert_eq!(mend, "ip link set eth0 mtu 3822");
        assert_eq!(said(3822, Some(false)).2, "umemd run --frame-size 4096 ...");
        assert_eq!(said(9000, None).0, Answer::Unknown);
    }

    #[test]
    fn packets_take_several_frames_if_kernel_and_driver_let_them() {
        let driver = |fragments| Some(Features { fragments, ..Features::default() });
        assert_eq!(takes_several(driver(true), (6, 6)), Some(true));
        assert_eq!(takes_several(driver(false), (6, 6)), Some(false));
        assert_eq!(takes_several(driver(true), (6, 5)), Some(false), "no XDP_USE_SG");
        assert_eq!(takes_several(None, (6, 1)), Some(false));
        assert_eq!(takes_several(None, (6, 12)), None);
    }

    #[test]
    fn the_conduit_of_a_switch_is_one_by_its_tagging() {
        let sysfs = std::env::temp_dir().join(format!("umemd-doctor-{}", std::process::id()));
        fs::create_dir_all(sysfs.join("eth0/dsa")).unwrap();
        fs::write(sysfs.join("eth0/dsa/tagging"), "edsa\n").unwrap();
        let [conduit, other] = ["eth0", "eth1"].map(|name| conduit_in(&sysfs, &link(name)));
        fs::remove_dir_all(&sysfs).unwrap();
        let conduit = conduit.unwrap();
        assert!(conduit.answer == Answer::Note && conduit.text.contains("(edsa)"), "{}", conduit.text);
        assert!(other.is_none());
    }

    #[test]
    fn programs_of_others_are_named_and_the_dispatcher_of_libxdp_is_known() {
        let attached = XdpAttachment { mode: "native", program_id: 7 };
        let said = |name: Option<&str>| {
            let finding = occupied("eth0", attached, name.map(str::to_owned));
            assert_eq!(finding.answer, Answer::No);
            finding.text
        };
        assert!(said(Some("xdp_dispatcher")).contains("libxdp's dispatcher, with programs of others"));
        assert!(said(Some("filter")).ends_with("id 7 (filter)"));
        assert!(said(None).ends_with("id 7"), "who may not ask sees the number");
    }

    #[test]
    fn below_a_bond_with_a_program_none_can_be_attached() {
        let bond = |xdp| Link { xdp, ..link("bond0") };
        let said = |master: &Link, driver: &str| below("eth0", master, driver);
        let free = said(&bond(None), "bonding");
        assert!(free.answer == Answer::Warning && free.text.contains("its other members"), "{}", free.text);
        let bridge = said(&bond(None), "bridge");
        assert!(bridge.answer == Answer::Warning && !bridge.text.contains("members"), "{}", bridge.text);
        let taken = said(&bond(Some(XdpAttachment { mode: "native", program_id: 7 })), "bonding");
        assert!(taken.answer == Answer::No && taken.text.contains("(id 7)"), "{}", taken.text);
        let taken = said(&bond(Some(XdpAttachment { mode: "skb", program_id: 7 })), "bridge");
        assert!(taken.answer == Answer::Warning && taken.text.contains("some kernels"), "{}", taken.text);
    }
}
