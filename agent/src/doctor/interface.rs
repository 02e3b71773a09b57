//! One interface: its link and its driver; its [queues], what the NIC [does to frames](offloads), and who else
//! [uses it](others), in modules of their own.

mod offloads;
mod others;
mod queues;

use std::{fs, io};

use super::{Answer, Finding};
use crate::{
    config::{HEADROOM, L2_OVERHEAD},
    ebpf::Mode,
    nic::{
        ActiveQueues, Link,
        drivers::{self, Driver, ZeroCopy},
        netdev::{self, Features},
        probe::Facts,
        quirks::{self, Purpose, Weight},
        rings, sysfs, tags,
    },
    page_pool::{self, Reason, Source},
    sys::ethtool,
};
use others::{conduit, master, program, sockets};

/// Sizes of frames that `--frame-size` takes; the first one if nobody asks.
const FRAMES: [u32; 2] = [2048, 4096];

/// How many of them `umemd run` lends the kernel for receiving if nobody says how many there are: half.
const LENT: u32 = 2048;

/// The first Linux whose AF_XDP sockets take packets in several frames (`XDP_USE_SG`).
const MULTI_BUFFER: (u32, u32) = (6, 6);

pub(super) fn examine(link: &Link, links: &[Link]) -> Vec<Finding> {
    let name = &link.name;
    let facts = Facts::of(link);
    let told = netdev::features(link.index);
    let takes_several = takes_several(told.as_ref().ok().copied().flatten(), &facts);
    let mut findings = vec![driver(link), up(link)];
    findings.extend(features(name, told, &facts));
    findings.push(mtu(link, takes_several));
    let active = ActiveQueues::of(link);
    // No queue is asked for by its number, which is all that could be wrong.
    let chosen = |only| active.as_ref().map(|active| active.choose(None, only).unwrap_or_default());
    // Which is the only one that receives is known whatever the kernel counts.
    let guess = |active: &&ActiveQueues| !active.told && facts.only_queue().is_none();
    let allocated = active.as_ref().ok().filter(guess).map(ActiveQueues::receiving);
    let serves = chosen(facts.only_queue());
    findings.push(queues::served(name, serves.clone(), allocated));
    let served = serves.unwrap_or_default();
    let mute: Vec<u32> = active.iter().flat_map(|active| active.mute(&served)).collect();
    findings.extend(queues::mute(name, &served, &mute));
    if facts.table_is_of_queues() {
        findings.extend(queues::silent_queues(name, ethtool::rss_table(name), chosen(None).ok()));
    }
    findings.extend(queues::napi(name, &facts, netdev::rx_queues(link.index)));
    findings.extend(queues::ring(name, ethtool::rings(name)));
    findings.extend(queues::channels(name, ethtool::channels(name), ethtool::most_channels(name)));
    let multi_buffer = needs_several_frames(link) && facts.bears_fragments();
    findings.extend(offloads::lro(name, ethtool::offloads(name)));
    findings.extend(offloads::gro(name, &facts.driver, ethtool::features(name)));
    if !multi_buffer {
        findings.extend(offloads::data_split(name, rings::tcp_data_split(link.index)));
    }
    findings.extend(offloads::tags(name, tags::kept_away(link, &facts.driver)));
    findings.extend(numa(link));
    findings.push(sockets(link, &served));
    findings.extend(pools(link));
    findings.extend(program(link));
    findings.extend(master(link, links));
    findings.extend(conduit(name, sysfs::folder(link).as_deref()));
    let purpose = Purpose {
        mode: Mode::Native,
        bind: drivers::default_bind(&facts.driver, Mode::Native, facts.linux),
        multi_buffer,
        capacity: FRAMES[0] - HEADROOM,
        lent: LENT,
        queues: None,
    };
    findings.extend(facts.findings(name, purpose).into_iter().map(|found| quirk(name, found)));
    findings
}

/// What the table of drivers knows.
fn quirk(name: &str, quirks::Finding { id, weight, text, mend, source }: quirks::Finding) -> Finding {
    let answer = match weight {
        Weight::Unknown => Answer::Unknown,
        Weight::Note => Answer::Note,
        Weight::Warning => Answer::Warning,
        Weight::Refusal => Answer::No,
    };
    let text = format!("{text} ({source})");
    Finding { quirk: Some(id), mend, ..Finding::new(name, "quirk", answer, text) }
}

/// What the kernel or a driver answers to a question that it need not know: `None` if it does not, and why not if it
/// fails to tell.
fn answer<T>(name: &str, asked: &'static str, told: io::Result<T>) -> Result<Option<T>, Finding> {
    match told {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
        Err(error) => {
            Err(Finding::new(name, asked, Answer::Unknown, format!("the kernel does not tell: {error}")))
        }
    }
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
fn features(name: &str, told: io::Result<Option<Features>>, facts: &Facts) -> Vec<Finding> {
    let finding = |asked, answer, text: String| Finding::new(name, asked, answer, text);
    let Features { native, redirect, zero_copy, fragments, zero_copy_segments } = match told {
        Ok(Some(features)) => features,
        Ok(None) => {
            let text = "this kernel does not tell what the driver can (Linux 6.3 does)";
            return [finding("native XDP", Answer::Unknown, text.to_owned())]
                .into_iter()
                .chain(by_the_table(name, facts))
                .collect();
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
        let skb = format!("umemd run --iface {name} --mode skb ...");
        return vec![finding("native XDP", Answer::No, text.to_owned()).mended_by(skb)];
    }
    let avoid = match drivers::find(&facts.driver) {
        Some(Driver { zero_copy: ZeroCopy::Avoid, source, .. }) => {
            format!("; umemd asks for copy mode ({source})")
        }
        _ => String::new(),
    };
    let zero_copy = match zero_copy_segments {
        _ if !zero_copy => NO_ZERO_COPY.to_owned(),
        Some(most) if most > 1 => format!("the driver has it, for packets of up to {most} frames{avoid}"),
        _ => format!("the driver has it, for packets of one frame{avoid}"),
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

const NO_ZERO_COPY: &str = "the driver has none: copy mode, which every driver has";

/// What is known of a driver that the kernel does not tell of.
fn by_the_table(name: &str, facts: &Facts) -> Option<Finding> {
    let Driver { zero_copy, source, .. } = drivers::find(&facts.driver)?;
    let text = match *zero_copy {
        ZeroCopy::Never => format!("{NO_ZERO_COPY} ({source})"),
        ZeroCopy::Avoid => format!("umemd asks for copy mode ({source})"),
        ZeroCopy::Since(major, minor) if facts.linux < (major, minor) => {
            format!(
                "the driver has it since Linux {major}.{minor}: copy mode, which every driver has ({source})"
            )
        }
        ZeroCopy::Since(major, minor) => format!("the driver has it since Linux {major}.{minor} ({source})"),
    };
    Some(Finding::new(name, "zero-copy", Answer::Note, text))
}

/// Whether `umemd run`, if nobody says how, lets packets take several frames.
fn needs_several_frames(link: &Link) -> bool {
    link.mtu.saturating_add(L2_OVERHEAD) > FRAMES[0] - HEADROOM
}

/// Whether a packet may take several frames here, or why nobody knows.
///
/// That the driver takes packets in several buffers is not all: sockets have to as well, which distributions brought
/// back to older kernels. Only of a driver with zero-copy does such a kernel tell (`NETDEV_A_DEV_XDP_ZC_MAX_SEGS`).
fn takes_several(told: Option<Features>, facts: &Facts) -> Result<bool, &'static str> {
    if !facts.bears_fragments() {
        return Ok(false);
    }
    let sockets_do =
        facts.linux >= MULTI_BUFFER || told.is_some_and(|features| features.zero_copy_segments.is_some());
    match told {
        Some(Features { fragments: false, .. }) => Ok(false),
        _ if !sockets_do => {
            Err("nobody tells whether this kernel's sockets can, which Linux 6.6 taught them")
        }
        Some(_) => Ok(true),
        None => Err("the kernel does not tell whether its driver can"),
    }
}

/// Whether packets of full length fit what `umemd run` gives them if nobody says how: a frame, or several.
fn mtu(link: &Link, takes_several: Result<bool, &str>) -> Finding {
    let most = link.max_mtu.map(|most| format!(" of at most {most}")).unwrap_or_default();
    let finding = |answer, rest: String| {
        Finding::new(&link.name, "mtu", answer, format!("MTU {}{most}: {rest}", link.mtu))
    };
    let [usual, larger] = FRAMES;
    let one_larger = link.mtu.saturating_add(L2_OVERHEAD) <= larger - HEADROOM;
    match takes_several {
        _ if !needs_several_frames(link) => {
            finding(Answer::Ok, format!("packets fit into frames of {usual} bytes"))
        }
        Ok(true) => {
            finding(Answer::Ok, format!("packets of full length take several frames of {usual} bytes"))
        }
        Err(why) => {
            let unknown =
                finding(Answer::Unknown, format!("packets of full length take several frames, and {why}"));
            if one_larger {
                unknown.mended_by(format!("umemd run --frame-size {larger} ..."))
            } else {
                unknown
            }
        }
        Ok(false) if one_larger => {
            let rest =
                format!("packets of full length need frames of {larger} bytes, as they cannot take several");
            finding(Answer::Warning, rest).mended_by(format!("umemd run --frame-size {larger} ..."))
        }
        Ok(false) => {
            let rest = "longer than any frame, and packets cannot take several: with --multi-buffer off what is too \
                        long is dropped, and counted";
            let most = larger - HEADROOM - L2_OVERHEAD;
            finding(Answer::Warning, rest.to_owned())
                .mended_by(format!("ip link set {} mtu {most}", link.name))
        }
    }
}

/// Which CPUs are near, on a machine with several nodes.
fn numa(link: &Link) -> Option<Finding> {
    let node = fs::read_to_string(sysfs::folder(link)?.join("device/numa_node")).ok()?;
    near(&link.name, &node, &fs::read_to_string("/sys/devices/system/node/online").ok()?)
}

/// What to say of an interface at this node, where these are. A device that is at none has -1.
fn near(name: &str, node: &str, nodes: &str) -> Option<Finding> {
    let node: u32 = node.trim().parse().ok()?;
    if !nodes.contains(['-', ',']) {
        return None;
    }
    let text = format!("node {node}: the CPUs that lscpu lists there are near, for --cpus");
    Some(Finding::new(name, "NUMA", Answer::Note, text))
}

/// Where the driver's page_pools can be seen.
fn pools(link: &Link) -> Option<Finding> {
    let statistics = ethtool::statistics(&link.name);
    let mut pools = page_pool::read([(link.index, statistics.as_deref())]).devices;
    let (answer, text) = match pools.remove(&link.index)?.source {
        Source::None(reason @ Reason::Failed(_)) => (Answer::Unknown, reason.to_string()),
        Source::None(reason) => (Answer::Note, format!("not to be seen: {reason}")),
        source => {
            (Answer::Ok, format!("to be seen by {}: umemd pagepool --iface {}", source.name(), link.name))
        }
    };
    Some(Finding::new(&link.name, "page_pool", answer, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::BindMode, nic, sys::ethtool::Channels};

    /// An interface of this name, otherwise as the loopback.
    pub(super) fn link(name: &str) -> Link {
        let lo = nic::links().unwrap().into_iter().find(|link| link.name == "lo").unwrap();
        Link { name: name.into(), xdp: None, ..lo }
    }

    #[test]
    fn packets_that_may_take_several_frames_are_not_said_to_be_dropped() {
        let said = |mtu: u32, takes_several| {
            let Finding { answer, text, mend, .. } =
                super::mtu(&Link { mtu, max_mtu: None, ..link("eth0") }, takes_several);
            (answer, text, mend.concat())
        };
        for takes_several in [Ok(true), Ok(false), Err("why")] {
            assert_eq!(said(1500, takes_several).0, Answer::Ok);
        }
        let (answer, text, mend) = said(9000, Ok(true));
        assert!(answer == Answer::Ok && text.contains("several frames of 2048"), "{text}");
        assert_eq!(mend, "");
        let (answer, text, mend) = said(9000, Ok(false));
        assert!(answer == Answer::Warning && text.contains("with --multi-buffer off"), "{text}");
        assert_eq!(mend, "ip link set eth0 mtu 3822");
        assert_eq!(said(3822, Ok(false)).2, "umemd run --frame-size 4096 ...");
        let (answer, text, mend) = said(9000, Err("why"));
        assert!(answer == Answer::Unknown && text.ends_with("and why") && mend.is_empty(), "{text}");
        assert_eq!(said(3822, Err("why")).2, "umemd run --frame-size 4096 ...", "helps whatever is unknown");
        let nic = Link { mtu: 1500, max_mtu: Some(9676), ..link("eth0") };
        assert!(super::mtu(&nic, Ok(true)).text.starts_with("MTU 1500 of at most 9676: "));
    }

    #[test]
    fn packets_take_several_frames_if_kernel_and_driver_let_them() {
        let driver = |fragments, zero_copy_segments| {
            Some(Features { fragments, zero_copy_segments, ..Features::default() })
        };
        let takes = |told, linux| super::takes_several(told, &Facts { linux, ..Facts::default() });
        assert_eq!(takes(driver(true, None), (6, 6)), Ok(true));
        assert_eq!(takes(driver(false, None), (6, 6)), Ok(false));
        assert_eq!(takes(driver(false, None), (5, 14)), Ok(false));
        for told in [driver(true, None), None] {
            assert!(
                takes(told, (6, 5)).unwrap_err().contains("sockets"),
                "XDP_USE_SG may have been brought back"
            );
        }
        assert_eq!(takes(driver(true, Some(1)), (5, 14)), Ok(true), "what tells so has it");
        assert!(takes(None, (6, 12)).unwrap_err().contains("driver"));
        let mixes = Facts { driver: "i40e".into(), linux: (6, 12), ..Facts::default() };
        assert_eq!(super::takes_several(None, &mixes), Ok(false), "whatever is told");
    }

    fn os<T>(errno: i32) -> io::Result<T> {
        Err(io::Error::from_raw_os_error(errno))
    }

    #[test]
    fn what_a_driver_does_not_tell_is_nothing_and_what_fails_is_unknown() {
        let asked = |errno| {
            [
                queues::silent_queues("eth0", os(errno), Some(vec![0])),
                queues::napi("eth0", &Facts::default(), os(errno)),
                queues::ring("eth0", os(errno)),
                queues::channels("eth0", Ok(Channels::default()), os(errno)),
                offloads::lro("eth0", os(errno)),
                offloads::gro("eth0", "mlx5_core", os(errno)),
                offloads::data_split("eth0", os(errno)),
                offloads::tags("eth0", os(errno)),
            ]
        };
        assert_eq!(asked(libc::EOPNOTSUPP), [const { None }; 8]);
        for finding in asked(libc::EIO) {
            let finding = finding.expect("said to be unknown");
            assert!(
                finding.answer == Answer::Unknown && finding.text.contains("os error 5"),
                "{}",
                finding.text
            );
        }
    }

    #[test]
    fn a_quirk_has_its_name_and_what_mends_it() {
        let facts = Facts { driver: "mvpp2".into(), linux: (6, 12), mtu: 9000, ..Facts::default() };
        let purpose = Purpose {
            mode: Mode::Native,
            bind: BindMode::Copy,
            multi_buffer: true,
            capacity: FRAMES[0] - HEADROOM,
            lent: LENT,
            queues: None,
        };
        let mut found = facts.findings("eth0", purpose).into_iter().map(|found| quirk("eth0", found));
        let mtu = found.find(|finding| finding.answer == Answer::No).expect("it is refused");
        assert_eq!((mtu.asked, mtu.quirk.as_deref()), ("quirk", Some("mvpp2-mtu")));
        assert_eq!(mtu.mend, ["ip link set eth0 mtu 1640"]);
        assert!(mtu.text.ends_with("(mvpp2_main.c: \"Per CPU Pools required for XDP\")"), "{}", mtu.text);
    }

    #[test]
    fn which_cpus_are_near_is_said_where_some_are_not() {
        let said = |node, nodes| near("eth0", node, nodes).map(|finding| finding.text);
        assert!(said("1\n", "0-1\n").unwrap().starts_with("node 1: "));
        assert!(said("0\n", "0,2\n").is_some());
        assert_eq!(said("0\n", "0\n"), None, "all are");
        assert_eq!(said("-1\n", "0-1\n"), None, "it is nowhere");
    }

    #[test]
    fn of_a_driver_that_the_kernel_does_not_tell_of_the_table_does() {
        let said = |driver: &str, linux| {
            let facts = Facts { driver: driver.into(), linux, ..Facts::default() };
            let findings = features("eth0", Ok(None), &facts);
            assert_eq!((findings[0].asked, findings[0].answer), ("native XDP", Answer::Unknown));
            findings.get(1).map(|finding| finding.text.clone())
        };
        assert!(said("mvneta", (6, 1)).unwrap().contains("has none: copy mode"));
        assert!(said("gve", (6, 1)).unwrap().contains("since Linux 6.4: copy mode"));
        assert!(said("igc", (6, 1)).unwrap().starts_with("the driver has it since Linux 5.14"));
        assert_eq!(said("nobody", (6, 1)), None);
    }

    #[test]
    fn a_zero_copy_that_harms_is_said_not_to_be_asked_for() {
        let told = Features { native: true, redirect: true, zero_copy: true, ..Features::default() };
        let said = |driver: &str| {
            let facts = Facts { driver: driver.into(), ..Facts::default() };
            let findings = features("eth0", Ok(Some(told)), &facts).into_iter();
            findings
                .filter(|finding| finding.asked == "zero-copy")
                .map(|finding| finding.text)
                .collect::<String>()
        };
        assert!(said("ice").contains("umemd asks for copy mode"));
        assert!(said("gve").ends_with("packets of one frame"));
    }
}
