//! One interface: its link, its driver, and who else uses it.

use std::{fs, io, path::Path};

use super::{Answer, Finding};
use crate::{
    config::{HEADROOM, L2_OVERHEAD},
    ebpf::Mode,
    nic::{
        self, Link,
        quirks::{Facts, Weight},
    },
    page_pool::{self, Reason, Source},
    sys::ethtool,
};

/// Sizes of frames that `--frame-size` takes.
const FRAMES: [u32; 2] = [2048, 4096];

pub(super) fn examine(link: &Link, links: &[Link]) -> Vec<Finding> {
    let facts = Facts::of(link);
    let mut findings = vec![driver(link), up(link), mtu(link), queues(link, &facts)];
    findings.extend(pools(link));
    findings.extend(program(link));
    findings.extend(master(link, links));
    findings.extend(conduit(link));
    findings.extend(facts.findings(&link.name, Mode::Native).into_iter().map(|quirk| {
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
    if link.up {
        return Finding::new(name, "up", Answer::Ok, "it is up");
    }
    let down = "it is down: no AF_XDP socket can be bound to it";
    Finding::new(name, "up", Answer::No, down).mended_by(format!("ip link set {name} up"))
}

fn mtu(link: &Link) -> Finding {
    let longest = link.mtu.saturating_add(L2_OVERHEAD);
    let fits = FRAMES.into_iter().find(|size| longest <= size - HEADROOM);
    let text = |rest: String| format!("MTU {}: {rest}", link.mtu);
    match fits {
        Some(size) if size == FRAMES[0] => Finding::new(
            &link.name,
            "mtu",
            Answer::Ok,
            text(format!("packets fit into frames of {size} bytes")),
        ),
        Some(size) => {
            let rest = text(format!("packets of full length need frames of {size} bytes"));
            Finding::new(&link.name, "mtu", Answer::Warning, rest)
                .mended_by(format!("umemd run --frame-size {size} ..."))
        }
        None => {
            let most = FRAMES[1] - HEADROOM - L2_OVERHEAD;
            let rest = text("longer than any frame: what is too long is dropped, and counted".to_owned());
            Finding::new(&link.name, "mtu", Answer::Warning, rest)
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

/// Where the driver's page_pools can be seen.
fn pools(link: &Link) -> Option<Finding> {
    let statistics = ethtool::statistics(&link.name);
    let mut pools = page_pool::read([(link.index, statistics.as_deref())]);
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
    let id = attached.program_id;
    let name = match program_name(id) {
        Some(name) if name == "xdp_dispatcher" => {
            " (libxdp's dispatcher, with programs of others behind it)".to_owned()
        }
        Some(name) => format!(" ({name})"),
        None => String::new(),
    };
    let text = format!("an XDP program is attached in {} mode: id {id}{name}", attached.mode);
    Some(
        Finding::new(&link.name, "XDP program", Answer::No, text)
            .mended_by(format!("bpftool prog show id {id}")),
    )
}

/// The name of a loaded program; `None` without the right to ask.
fn program_name(id: u32) -> Option<String> {
    let programs = aya::programs::loaded_programs();
    let mut named = programs.map_while(Result::ok).filter(|program| program.id() == id);
    Some(named.next()?.name_as_str()?.to_owned())
}

fn master(link: &Link, links: &[Link]) -> Option<Finding> {
    let master = links.iter().find(|other| Some(other.index) == link.master)?;
    let text = format!("it belongs to {}, which does not see the frames that are steered", master.name);
    Some(Finding::new(&link.name, "master", Answer::Warning, text))
}

/// A DSA conduit's frames carry the switch's tag, and native XDP is on the conduit alone. Sysfs shows it, of the
/// namespace that it was mounted in.
fn conduit(link: &Link) -> Option<Finding> {
    let file = Path::new("/sys/class/net").join(&link.name).join("dsa/tagging");
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
