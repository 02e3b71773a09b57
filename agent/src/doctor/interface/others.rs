//! Who else uses an interface: AF_XDP sockets and programs of others, what it belongs to, and a switch behind it.

use std::{collections::BTreeSet, error::Error, fs, io, path::Path};

use super::super::{Answer, Finding};
use crate::{
    nic::{Link, SwitchTag, XdpAttachment, drivers, netdev, quirks::Kind, users},
    sys::ethtool,
};

/// Who has AF_XDP sockets on it already: as sock_diag tells, or, of those in zero-copy mode, the queues. Those that
/// `umemd run` serves if nobody says which are `served`.
pub(super) fn sockets(link: &Link, served: &[u32]) -> Finding {
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
    if !taken.is_empty() {
        return occupied_queues(&link.name, &taken, served);
    }
    match all {
        true => finding(Answer::Ok, "nobody has an AF_XDP socket here".to_owned()),
        false if users::can_be_loaded() => {
            let text =
                "the kernel tells of AF_XDP sockets only with its module xsk_diag, which is not loaded";
            finding(Answer::Unknown, text.to_owned()).mended_by("modprobe xsk_diag")
        }
        false => {
            let text = "this kernel does not tell of AF_XDP sockets: it has no xsk_diag";
            finding(Answer::Unknown, text.to_owned())
        }
    }
}

/// What it means that these queues are taken, which a queue is by one UMEM's sockets: `xp_assign_dev` answers `EBUSY`.
fn occupied_queues(name: &str, taken: &BTreeSet<u32>, served: &[u32]) -> Finding {
    let list = taken.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let have = match taken.len() {
        1 => format!("queue {list} has an AF_XDP socket"),
        _ => format!("queues {list} have AF_XDP sockets"),
    };
    let (answer, rest) = if !served.is_empty() && served.iter().all(|queue| taken.contains(queue)) {
        (Answer::No, "none is left for umemd")
    } else {
        (Answer::Warning, "umemd run --queues chooses others")
    };
    Finding::new(name, "AF_XDP users", answer, format!("{have}: {rest}")).mended_by("ss --xdp -e")
}

/// Whose program is there already.
pub(super) fn program(link: &Link) -> Option<Finding> {
    let attached = link.xdp?;
    Some(occupied(&link.name, attached, program_name(attached.program_id)))
}

/// What it means that this program is there.
fn occupied(interface: &str, attached: XdpAttachment, name: Result<Option<String>, String>) -> Finding {
    let id = attached.program_id;
    let name = match name {
        Ok(Some(name)) if name == "xdp_dispatcher" => {
            " (libxdp's dispatcher, with programs of others behind it)".to_owned()
        }
        Ok(Some(name)) => format!(" ({name})"),
        Ok(None) => String::new(),
        Err(why) => format!("; its name the kernel does not tell: {why}"),
    };
    let text = format!("an XDP program is attached in {} mode: id {id}{name}", attached.mode);
    Finding::new(interface, "XDP program", Answer::No, text).mended_by(format!("bpftool prog show id {id}"))
}

/// The name of a loaded program; `None` if it has gone, and why not if nobody tells: to ask takes `CAP_SYS_ADMIN`.
fn program_name(id: u32) -> Result<Option<String>, String> {
    for program in aya::programs::loaded_programs() {
        let program = program.map_err(|error| innermost(&error))?;
        if program.id() == id {
            return Ok(program.name_as_str().map(str::to_owned));
        }
    }
    Ok(None)
}

/// The last of the errors behind an error, which says what the kernel said.
fn innermost(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => innermost(source),
        None => error.to_string(),
    }
}

pub(super) fn master(link: &Link, links: &[Link]) -> Option<Finding> {
    let master = links.iter().find(|other| Some(other.index) == link.master)?;
    let driver = ethtool::driver(&master.name).unwrap_or_default();
    Some(below(&link.name, master, &driver))
}

/// What it means to belong to a master with this driver.
fn below(name: &str, master: &Link, driver: &str) -> Finding {
    let lag = drivers::has(driver, |kind| kind == Kind::HasMembers);
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

/// A DSA conduit's frames carry the switch's tag, and native XDP is on the conduit alone. Its folder in sysfs shows it.
pub(super) fn conduit(name: &str, folder: Option<&Path>) -> Option<Finding> {
    let finding = |answer, text: String| Some(Finding::new(name, "DSA", answer, text));
    let Some(folder) = folder else {
        let text = "sysfs does not show this interface, and so not whether a switch is behind it";
        return finding(Answer::Unknown, text.to_owned());
    };
    let tagging = match fs::read_to_string(folder.join("dsa/tagging")) {
        Ok(tagging) => tagging,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => return finding(Answer::Unknown, format!("sysfs does not tell: {error}")),
    };
    let tagging = tagging.trim();
    match SwitchTag::named(tagging) {
        Some(SwitchTag::None) => {
            let text = "it is the conduit of a switch, which puts no tag into the frames of its ports";
            finding(Answer::Note, text.to_owned())
        }
        Some(_) => {
            let text = format!(
                "it is the conduit of a switch: frames of its ports carry a tag ({tagging}) behind their addresses"
            );
            finding(Answer::Note, text)
        }
        // As `umemd run` refuses it.
        None => {
            let text = format!(
                "it is the conduit of a switch, and umemd cannot look behind its tag ({tagging}); its dsa/tagging may \
                 be set to `dsa` or `edsa`, and --switch-tag none takes the frames as they are"
            );
            let mend = format!("umemd run --iface {name} --switch-tag none ...");
            Some(Finding::new(name, "DSA", Answer::No, text).mended_by(mend))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::link, *};

    #[test]
    fn the_conduit_of_a_switch_is_one_by_its_tagging() {
        let folder = std::env::temp_dir().join(format!("umemd-doctor-{}", std::process::id()));
        fs::create_dir_all(folder.join("dsa")).unwrap();
        let other = conduit("eth0", Some(&folder));
        let found = ["edsa\n", "none\n", "brcm\n"].map(|tagging| {
            fs::write(folder.join("dsa/tagging"), tagging).unwrap();
            conduit("eth0", Some(&folder)).unwrap()
        });
        fs::remove_dir_all(&folder).unwrap();
        let [edsa, none, brcm] = found;
        assert!(edsa.answer == Answer::Note && edsa.text.contains("(edsa)"), "{}", edsa.text);
        assert!(none.answer == Answer::Note && none.text.contains("no tag"), "{}", none.text);
        assert!(brcm.answer == Answer::No && brcm.text.contains("(brcm)"), "{}", brcm.text);
        assert_eq!(brcm.mend, ["umemd run --iface eth0 --switch-tag none ..."]);
        assert!(other.is_none());
        assert_eq!(conduit("eth0", None).unwrap().answer, Answer::Unknown, "of another namespace");
    }

    #[test]
    fn where_every_queue_is_taken_none_can_be_served() {
        let said = |taken: &[u32], served: &[u32]| {
            let finding = occupied_queues("eth0", &taken.iter().copied().collect(), served);
            assert_eq!(finding.mend, ["ss --xdp -e"]);
            (finding.answer, finding.text)
        };
        let (answer, text) = said(&[1], &[0, 1]);
        assert!(answer == Answer::Warning && text.starts_with("queue 1 has an AF_XDP socket: "), "{text}");
        let (answer, text) = said(&[0, 1, 2], &[0, 1]);
        assert!(
            answer == Answer::No && text.ends_with("have AF_XDP sockets: none is left for umemd"),
            "{text}"
        );
        assert_eq!(said(&[0], &[0]).0, Answer::No, "the one that receives");
        assert_eq!(said(&[0], &[]).0, Answer::Warning, "nobody knows which there are");
    }

    #[test]
    fn programs_of_others_are_named_and_the_dispatcher_of_libxdp_is_known() {
        let attached = XdpAttachment { mode: "native", program_id: 7 };
        let said = |name: Result<Option<&str>, &str>| {
            let name = name.map(|name| name.map(str::to_owned)).map_err(str::to_owned);
            let finding = occupied("eth0", attached, name);
            assert_eq!(finding.answer, Answer::No);
            finding.text
        };
        assert!(said(Ok(Some("xdp_dispatcher"))).contains("libxdp's dispatcher, with programs of others"));
        assert!(said(Ok(Some("filter"))).ends_with("id 7 (filter)"));
        assert!(said(Ok(None)).ends_with("id 7"));
        assert!(said(Err("EPERM")).ends_with("id 7; its name the kernel does not tell: EPERM"));
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
