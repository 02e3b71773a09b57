//! Who else uses an interface: AF_XDP sockets and programs of others, what it belongs to, and a switch behind it.

use std::{collections::BTreeSet, error::Error, fs, io, path::Path};

use aya::programs::links::LinkType;

use super::{
    super::{Answer, Finding},
    queues::list,
};
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
    let all: Vec<u32> = taken.iter().copied().collect();
    let have = match all[..] {
        [queue] => format!("queue {queue} has an AF_XDP socket"),
        _ => format!("queues {} have AF_XDP sockets", list(&all, ", ")),
    };
    let free: Vec<u32> = served.iter().copied().filter(|queue| !taken.contains(queue)).collect();
    let finding = |answer, rest| Finding::new(name, "AF_XDP users", answer, format!("{have}: {rest}"));
    let choosing = |queues: &str| format!("umemd run --iface {name} --queues {queues} ...");
    let others = "umemd run --queues chooses others; `ss --xdp -e` shows whose they are";
    match (served, &free[..]) {
        // Nobody knows which there are.
        ([], _) => finding(Answer::Warning, others).mended_by(choosing("N")),
        (_, []) => finding(
            Answer::No,
            "none is left for umemd before the programs that have them end; `ss --xdp -e` shows whose they are",
        ),
        (_, free) => finding(Answer::Warning, others).mended_by(choosing(&list(free, ","))),
    }
}

/// Whose program is there already.
pub(super) fn program(link: &Link) -> Option<Finding> {
    let attached = link.xdp?;
    let id = attached.program_id;
    Some(occupied(&link.name, attached, program_name(id), &holder(id)))
}

/// libxdp's own program, which runs those that it was given one after the other.
const DISPATCHER: &str = "xdp_dispatcher";

/// What it means that this program is there.
fn occupied(
    interface: &str,
    attached: XdpAttachment,
    name: Result<Option<String>, String>,
    holder: &Holder,
) -> Finding {
    let id = attached.program_id;
    let is_dispatcher = name.as_ref().is_ok_and(|name| name.as_deref() == Some(DISPATCHER));
    let name = match name {
        Ok(Some(_)) if is_dispatcher => {
            " (libxdp's dispatcher, with programs of others behind it)".to_owned()
        }
        Ok(Some(name)) => format!(" ({name})"),
        Ok(None) => String::new(),
        Err(why) => format!("; its name the kernel does not tell: {why}"),
    };
    let text = format!("an XDP program is attached in {} mode: id {id}{name}", attached.mode);
    let (how, mend) = if is_dispatcher {
        ("xdp-loader takes it off".to_owned(), Some(format!("xdp-loader unload {interface} --all")))
    } else {
        taken_off(interface, attached, holder)
    };
    let finding = Finding::new(interface, "XDP program", Answer::No, format!("{text}; {how}"));
    Finding { mend: Vec::from_iter(mend), ..finding }
}

/// The `bpf_link` that keeps a program attached, if one does; or why nobody knows.
type Holder = Result<Option<u32>, String>;

/// How a program goes that somebody else attached, and the command for it. One that a `bpf_link` keeps goes with
/// whoever has that; the kernel takes no other command for it but `BPF_LINK_DETACH`, behind its owner's back.
fn taken_off(interface: &str, attached: XdpAttachment, holder: &Holder) -> (String, Option<String>) {
    let id = attached.program_id;
    let word = match attached.mode {
        "native" => "xdpdrv",
        "skb" => "xdpgeneric",
        "hardware" => "xdpoffload",
        _ => return ("`bpftool net` shows who has to take them off".to_owned(), None),
    };
    match holder {
        Ok(Some(link)) => {
            (format!("it goes when its owner ends, whom `bpftool link show id {link}` names"), None)
        }
        Ok(None) => {
            let how = format!("it stays until it is taken off; `bpftool prog show id {id}` tells what it is");
            (how, Some(format!("ip link set dev {interface} {word} off")))
        }
        Err(_) => {
            (format!("whoever attached it has to take it off; `bpftool prog show id {id}` tells more"), None)
        }
    }
}

/// Which `bpf_link` keeps this program on an interface: to ask takes `CAP_SYS_ADMIN`.
fn holder(program: u32) -> Holder {
    for link in aya::programs::loaded_links() {
        let link = match link {
            Ok(link) => link,
            Err(error) => match innermost(&error).downcast_ref::<io::Error>() {
                // It ended between two questions.
                Some(error) if error.kind() == io::ErrorKind::NotFound => continue,
                _ => return Err(innermost(&error).to_string()),
            },
        };
        if link.program_id() == program && link.link_type().is_ok_and(|kind| kind == LinkType::Xdp) {
            return Ok(Some(link.id()));
        }
    }
    Ok(None)
}

/// The name of a loaded program; `None` if it has gone, and why not if nobody tells: to ask takes `CAP_SYS_ADMIN`.
fn program_name(id: u32) -> Result<Option<String>, String> {
    for program in aya::programs::loaded_programs() {
        let program = program.map_err(|error| innermost(&error).to_string())?;
        if program.id() == id {
            return Ok(program.name_as_str().map(str::to_owned));
        }
    }
    Ok(None)
}

/// The last of the errors behind an error, which says what the kernel said.
fn innermost<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    error.source().map_or(error, innermost)
}

pub(super) fn master(link: &Link, links: &[Link]) -> Option<Finding> {
    let master = links.iter().find(|other| Some(other.index) == link.master)?;
    let driver = ethtool::driver(&master.name).unwrap_or_default();
    let holder = master.xdp.map_or(Ok(None), |xdp| holder(xdp.program_id));
    Some(below(&link.name, master, &driver, &holder))
}

/// What it means to belong to a master with this driver, whose program a `bpf_link` may keep.
fn below(name: &str, master: &Link, driver: &str, holder: &Holder) -> Finding {
    let lag = drivers::has(driver, |kind| kind == Kind::HasMembers);
    match master.xdp {
        // net/core/dev.c, dev_xdp_attach: "Cannot attach when an upper device already has a program".
        Some(xdp) if lag => {
            let (how, mend) = taken_off(&master.name, xdp, holder);
            let text = format!(
                "it belongs to {}, which has an XDP program (id {}): the kernel attaches none below it; {how}",
                master.name, xdp.program_id
            );
            Finding { mend: Vec::from_iter(mend), ..Finding::new(name, "master", Answer::No, text) }
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

    const NATIVE: XdpAttachment = XdpAttachment { mode: "native", program_id: 7 };

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
            assert!(finding.text.contains("`ss --xdp -e` shows"), "{}", finding.text);
            (finding.answer, finding.text, finding.mend)
        };
        let (answer, text, mend) = said(&[1], &[0, 1, 2]);
        assert!(answer == Answer::Warning && text.starts_with("queue 1 has an AF_XDP socket: "), "{text}");
        assert_eq!(mend, ["umemd run --iface eth0 --queues 0,2 ..."]);
        let (answer, text, mend) = said(&[0, 1, 2], &[0, 1]);
        assert!(
            answer == Answer::No && text.contains("have AF_XDP sockets: none is left for umemd"),
            "{text}"
        );
        assert_eq!(mend, [""; 0], "their owners' end, which the text says");
        assert_eq!(said(&[0], &[0]).0, Answer::No, "the one that receives");
        let (answer, _, mend) = said(&[0], &[]);
        assert_eq!(answer, Answer::Warning, "nobody knows which there are");
        assert_eq!(mend, ["umemd run --iface eth0 --queues N ..."]);
    }

    #[test]
    fn programs_of_others_are_named_and_the_dispatcher_of_libxdp_is_known() {
        let said = |name: Result<Option<&str>, &str>| {
            let name = name.map(|name| name.map(str::to_owned)).map_err(str::to_owned);
            let finding = occupied("eth0", NATIVE, name, &Ok(None));
            assert_eq!(finding.answer, Answer::No);
            (finding.text, finding.mend.concat())
        };
        let (text, mend) = said(Ok(Some(DISPATCHER)));
        assert!(text.contains("libxdp's dispatcher, with programs of others"), "{text}");
        assert_eq!(mend, "xdp-loader unload eth0 --all");
        assert!(said(Ok(Some("filter"))).0.contains("id 7 (filter);"));
        assert!(said(Ok(None)).0.contains("id 7;"));
        assert!(said(Err("EPERM")).0.contains("id 7; its name the kernel does not tell: EPERM;"));
    }

    #[test]
    fn a_program_is_taken_off_by_a_command_unless_somebody_holds_it() {
        let off = |mode, holder: Holder| taken_off("eth0", XdpAttachment { mode, program_id: 7 }, &holder);
        let mend = |mode| off(mode, Ok(None)).1.unwrap_or_default();
        assert_eq!(mend("native"), "ip link set dev eth0 xdpdrv off");
        assert_eq!(mend("skb"), "ip link set dev eth0 xdpgeneric off");
        assert_eq!(mend("several"), "");
        let (how, mend) = off("native", Ok(Some(5)));
        assert!(
            how.contains("when its owner ends") && how.contains("link show id 5") && mend.is_none(),
            "{how}"
        );
        let (how, mend) = off("native", Err("EPERM".into()));
        assert!(how.contains("whoever attached it") && mend.is_none(), "{how}");
    }

    #[test]
    fn below_a_bond_with_a_program_none_can_be_attached() {
        let bond = |xdp| Link { xdp, ..link("bond0") };
        let said = |master: &Link, driver: &str| below("eth0", master, driver, &Ok(None));
        let free = said(&bond(None), "bonding");
        assert!(free.answer == Answer::Warning && free.text.contains("its other members"), "{}", free.text);
        let bridge = said(&bond(None), "bridge");
        assert!(bridge.answer == Answer::Warning && !bridge.text.contains("members"), "{}", bridge.text);
        let taken = said(&bond(Some(NATIVE)), "bonding");
        assert!(taken.answer == Answer::No && taken.text.contains("(id 7)"), "{}", taken.text);
        assert_eq!(taken.mend, ["ip link set dev bond0 xdpdrv off"]);
        let taken = said(&bond(Some(XdpAttachment { mode: "skb", program_id: 7 })), "bridge");
        assert!(taken.answer == Answer::Warning && taken.text.contains("some kernels"), "{}", taken.text);
    }
}
