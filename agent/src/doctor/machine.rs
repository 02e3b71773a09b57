//! The kernel, and what this user may do with it.

use std::{fs, io};

use procfs::Current as _;
use rustix::{
    process::{Resource, getrlimit},
    thread::{CapabilitySet, capabilities},
};

use super::{Answer, Finding};
use crate::{ebpf, nic::drivers, xsk};

pub(super) const ABOUT: &str = "machine";

/// What `umemd run` takes for one queue unless told otherwise: 4096 frames of 2048 bytes.
const UMEM: u64 = 8 << 20;

/// What each capability is for.
const CAPABILITIES: [(&str, CapabilitySet, &str); 3] = [
    ("CAP_NET_RAW", CapabilitySet::NET_RAW, "open AF_XDP sockets"),
    ("CAP_NET_ADMIN", CapabilitySet::NET_ADMIN, "attach an XDP program"),
    // CAP_SYS_ADMIN stood for it before Linux 5.8, and still does.
    ("CAP_BPF", CapabilitySet::BPF.union(CapabilitySet::SYS_ADMIN), "load an XDP program"),
];

/// Those that the kernel asks for in the machine's first user namespace, whatever one has in another: `bpf_prog_load`,
/// by `bpf_capable`, `perfmon_capable` and `capable`. `CAP_NET_RAW` is asked for in that which the network belongs to.
const IN_THE_FIRST: [&str; 3] = ["CAP_NET_ADMIN", "CAP_BPF", "CAP_PERFMON"];

/// Those that only some flags need.
const FOR_FLAGS: [(&str, CapabilitySet, &str); 2] = [
    ("CAP_SYS_ADMIN", CapabilitySet::SYS_ADMIN, "enter another network namespace: --netns"),
    ("CAP_PERFMON", ebpf::PERFMON, "let the program log: --log-program"),
];

/// What newer kernels have, and what lacks without it. The version is all that tells before something is attached.
const SINCE: [((u32, u32), &str); 3] = [
    ((6, 3), "what drivers can is not told (6.3)"),
    ((6, 6), "packets in several frames are not taken: --multi-buffer off (6.6)"),
    ((6, 8), "page_pools are not listed; ethtool shows those of some drivers (6.8)"),
];

pub(super) fn examine() -> Vec<Finding> {
    let mut findings = vec![kernel()];
    findings.extend(lacks(drivers::linux_version()));
    findings.extend([af_xdp(), jit()]);
    findings.extend(rights());
    findings.extend([memlock(), huge_pages(), bpffs()]);
    findings
}

fn kernel() -> Finding {
    let uname = rustix::system::uname();
    let (release, machine) = (uname.release().to_string_lossy(), uname.machine().to_string_lossy());
    Finding::new(ABOUT, "kernel", Answer::Note, format!("Linux {release}, {machine}"))
}

/// What a kernel of this version is too old for.
fn lacks(linux: (u32, u32)) -> impl Iterator<Item = Finding> {
    let missing = SINCE.into_iter().filter(move |(since, _)| linux < *since);
    missing.map(|(_, text)| Finding::new(ABOUT, "too old", Answer::Note, text))
}

fn af_xdp() -> Finding {
    opened(xsk::probe())
}

fn opened(socket: Result<(), xsk::OpenError>) -> Finding {
    let finding = |answer, text: String| Finding::new(ABOUT, "AF_XDP", answer, text);
    match socket {
        Ok(()) => finding(Answer::Ok, "this kernel has AF_XDP sockets".to_owned()),
        Err(error @ xsk::OpenError::NotPermitted) => {
            finding(Answer::Unknown, error.to_string()).mended_by("sudo umemd ...")
        }
        // They are no module, which a command could load.
        Err(error) => finding(
            Answer::No,
            format!("{error}; no command mends that, but to boot a kernel that was built with it"),
        ),
    }
}

fn jit() -> Finding {
    const FILE: &str = "/proc/sys/net/core/bpf_jit_enable";
    compiled(fs::read_to_string(FILE).map_err(|error| format!("cannot read {FILE}: {error}")))
}

fn compiled(enabled: Result<String, String>) -> Finding {
    match enabled.as_deref().map(str::trim) {
        Ok("0") => {
            Finding::new(ABOUT, "BPF JIT", Answer::Warning, "off: programs are interpreted, and slower")
                .mended_by("sysctl net.core.bpf_jit_enable=1")
        }
        Ok(_) => Finding::new(ABOUT, "BPF JIT", Answer::Ok, "on"),
        Err(why) => Finding::new(ABOUT, "BPF JIT", Answer::Unknown, why),
    }
}

/// Whether this is the machine's first user namespace, or why nobody knows.
type IsFirst = Result<bool, String>;

fn is_first_namespace() -> IsFirst {
    const FILE: &str = "/proc/self/uid_map";
    match fs::read_to_string(FILE) {
        Ok(map) => Ok(maps_all_to_itself(&map)),
        // This kernel has no user namespaces.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(format!("cannot read {FILE}: {error}")),
    }
}

/// Whether a map of users (user_namespaces(7)) is that of the first namespace. Only who may do all there can make
/// another one that looks the same.
fn maps_all_to_itself(map: &str) -> bool {
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

fn rights() -> Vec<Finding> {
    match capabilities(None) {
        Ok(sets) => rights_with(sets.effective, drivers::linux_version(), &is_first_namespace()),
        Err(error) => {
            let text = format!("the kernel does not tell: {error}");
            vec![Finding::new(ABOUT, "capabilities", Answer::Unknown, text)]
        }
    }
}

/// What these capabilities are good for on a Linux of this version.
fn rights_with(have: CapabilitySet, linux: (u32, u32), first: &IsFirst) -> Vec<Finding> {
    let needed = CAPABILITIES.into_iter().map(|(name, any_of, what)| {
        if !have.intersects(any_of) {
            return Finding::new(ABOUT, name, Answer::No, format!("may not {what}"))
                .mended_by("sudo umemd ...");
        }
        match in_vain(name, what, first) {
            Some((answer, text)) => Finding::new(ABOUT, name, answer, text),
            None => Finding::new(ABOUT, name, Answer::Ok, format!("may {what}")),
        }
    });
    let for_flags = FOR_FLAGS.into_iter().map(|(name, any_of, what)| {
        let text = match in_vain(name, what, first) {
            Some((_, text)) if have.intersects(any_of) => text,
            _ if have.intersects(any_of) => format!("may {what}"),
            _ => format!("may not {what}"),
        };
        Finding::new(ABOUT, name, Answer::Note, text)
    });
    needed.chain(for_the_verifier(have, linux, first)).chain(for_flags).collect()
}

/// What to say of a capability that one has in a user namespace where it is worth nothing, or may be.
fn in_vain(name: &str, what: &str, first: &IsFirst) -> Option<(Answer, String)> {
    if !IN_THE_FIRST.contains(&name) {
        return None;
    }
    match first {
        Ok(true) => None,
        Ok(false) => Some((
            Answer::No,
            format!(
                "may not {what}: this is not the machine's first user namespace, in which the kernel asks for it; run \
                 umemd outside of the container"
            ),
        )),
        Err(why) => Some((
            Answer::Unknown,
            format!("may {what} if this is the machine's first user namespace, which nobody tells: {why}"),
        )),
    }
}

/// Whether the verifier takes the program. Its version alone does not tell: a distribution may have brought back what
/// mends it, and `mitigations=off` does without.
fn for_the_verifier(have: CapabilitySet, linux: (u32, u32), first: &IsFirst) -> Option<Finding> {
    const NAME: &str = "CAP_PERFMON";
    const WHAT: &str = "load an XDP program on a Linux before 6.17";
    ebpf::loading_takes_perfmon(linux).then(|| match have.intersects(ebpf::PERFMON) {
        true => match in_vain(NAME, WHAT, first) {
            Some((answer, text)) => Finding::new(ABOUT, NAME, answer, text),
            None => Finding::new(ABOUT, NAME, Answer::Ok, format!("may {WHAT}")),
        },
        false => Finding::new(
            ABOUT,
            NAME,
            Answer::Warning,
            "may not load an XDP program on a Linux before 6.17, unless its distribution brought back what mends it, \
             or it was booted with mitigations=off",
        )
        .mended_by("sudo umemd ..."),
    })
}

fn memlock() -> Finding {
    let limit = getrlimit(Resource::Memlock).current;
    let may_lock = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK));
    // It is asked for in the first namespace, too (xdp_umem_account_pages).
    locked(limit, may_lock && is_first_namespace().unwrap_or(false))
}

/// What a limit of so many bytes is enough for.
fn locked(limit: Option<u64>, may_exceed: bool) -> Finding {
    match limit {
        None => Finding::new(ABOUT, "memlock", Answer::Ok, "unlimited"),
        Some(_) if may_exceed => {
            Finding::new(ABOUT, "memlock", Answer::Ok, "limited, and CAP_IPC_LOCK stands above the limit")
        }
        Some(limit) if limit < UMEM => {
            let text = format!("{} KiB, and a queue's UMEM has {} KiB", limit >> 10, UMEM >> 10);
            // Not by `ulimit`, which is the shell's own: sudo does not find it.
            Finding::new(ABOUT, "memlock", Answer::Warning, text)
                .mended_by("prlimit --pid $$ --memlock=unlimited:unlimited")
        }
        Some(limit) => {
            let queues = match limit / UMEM {
                1 => "1 queue".to_owned(),
                count => format!("{count} queues"),
            };
            let text = format!("{} KiB: {queues} of the usual size", limit >> 10);
            Finding::new(ABOUT, "memlock", Answer::Ok, text)
        }
    }
}

fn huge_pages() -> Finding {
    let Ok(meminfo) = procfs::Meminfo::current() else {
        return Finding::new(ABOUT, "huge pages", Answer::Unknown, "cannot read /proc/meminfo");
    };
    let text = match (meminfo.hugepages_total, meminfo.hugepages_free) {
        (None, _) => "this kernel has none".to_owned(),
        (Some(0), _) => "none reserved; umemd does without".to_owned(),
        (Some(total), free) => format!("{} of {total} free", free.unwrap_or(0)),
    };
    Finding::new(ABOUT, "huge pages", Answer::Note, text)
}

fn bpffs() -> Finding {
    mounted(fs::read_to_string("/proc/mounts"))
}

fn mounted(mounts: io::Result<String>) -> Finding {
    let (answer, text) = match mounts {
        Err(error) => (Answer::Unknown, format!("cannot read /proc/mounts: {error}")),
        Ok(mounts) if mounts.lines().any(|line| line.split(' ').nth(2) == Some("bpf")) => {
            (Answer::Note, "mounted; umemd pins nothing".to_owned())
        }
        Ok(_) => (Answer::Note, "not mounted, and not needed: umemd pins nothing".to_owned()),
    };
    Finding::new(ABOUT, "bpffs", answer, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_is_told_what_it_lacks() {
        let texts = |linux| lacks(linux).map(|finding| finding.text).collect::<Vec<_>>();
        assert_eq!(texts((6, 1)).len(), 3);
        assert!(texts((6, 6)).iter().all(|text| text.contains("page_pools")));
        assert!(texts((6, 12)).is_empty());
    }

    #[test]
    fn a_kernel_without_af_xdp_is_mended_by_another_one() {
        let without = opened(Err(xsk::OpenError::NoAfXdp));
        assert_eq!(without.answer, Answer::No);
        assert!(without.mend.is_empty() && without.text.contains("boot a kernel"), "{}", without.text);
        let unknown = opened(Err(xsk::OpenError::NotPermitted));
        assert_eq!((unknown.answer, unknown.mend), (Answer::Unknown, vec!["sudo umemd ...".to_owned()]));
    }

    #[test]
    fn the_right_that_loading_takes_on_an_older_kernel_is_asked_for_there() {
        let all = CAPABILITIES.iter().fold(CapabilitySet::empty(), |all, (_, any_of, _)| all | *any_of);
        let without = all - CapabilitySet::SYS_ADMIN;
        let told = |have, linux, answer| {
            let findings = rights_with(have, linux, &Ok(true)).into_iter();
            findings
                .filter(|finding| finding.answer == answer)
                .map(|finding| finding.asked)
                .collect::<Vec<_>>()
        };
        let bad =
            |have, linux| [Answer::No, Answer::Warning].map(|answer| told(have, linux, answer)).concat();
        assert_eq!(told(without, (6, 12), Answer::Warning), ["CAP_PERFMON"], "that kernel may do without");
        assert_eq!(told(without, (6, 12), Answer::No), [""; 0]);
        assert_eq!(bad(without, (6, 17)), [""; 0]);
        assert_eq!(bad(without | CapabilitySet::PERFMON, (6, 12)), [""; 0]);
        assert_eq!(bad(all, (6, 12)), [""; 0], "CAP_SYS_ADMIN stands for it");
        let none = ["CAP_NET_RAW", "CAP_NET_ADMIN", "CAP_BPF"];
        assert_eq!(bad(CapabilitySet::empty(), (6, 18)), none);
    }

    #[test]
    fn the_first_user_namespace_is_known_by_its_map() {
        assert!(maps_all_to_itself("         0          0 4294967295\n"));
        for other in [
            // A rootless container, and one whose root is a user of the machine's.
            "         0       1000          1\n         1     100000      65536\n",
            "         0     100000      65536\n",
            "         0          0      65536\n",
            "",
        ] {
            assert!(!maps_all_to_itself(other), "{other:?}");
        }
    }

    #[test]
    fn what_one_may_only_in_another_user_namespace_is_worth_nothing() {
        let all = CapabilitySet::all();
        let told = |first: &IsFirst, answer| {
            let findings = rights_with(all, (6, 12), first).into_iter().filter(|f| f.answer == answer);
            findings.map(|finding| finding.asked).collect::<Vec<_>>()
        };
        let asked = ["CAP_NET_ADMIN", "CAP_BPF", "CAP_PERFMON"];
        assert_eq!(told(&Ok(false), Answer::No), asked);
        assert_eq!(told(&Ok(false), Answer::Ok), ["CAP_NET_RAW"]);
        assert_eq!(told(&Err("why".into()), Answer::Unknown), asked);
        assert_eq!(told(&Ok(true), Answer::Ok).len(), 4);
        let none = rights_with(CapabilitySet::empty(), (6, 18), &Ok(false));
        let text =
            |name| none.iter().find(|finding| finding.asked == name).map(|finding| finding.text.as_str());
        assert_eq!(text("CAP_BPF"), Some("may not load an XDP program"), "sudo is what mends it first");
        assert_eq!(text("CAP_PERFMON"), Some("may not let the program log: --log-program"));
        let have = rights_with(all, (6, 18), &Ok(false));
        let log = have.iter().find(|finding| finding.asked == "CAP_PERFMON").unwrap();
        assert!(log.answer == Answer::Note && log.text.contains("outside of the container"), "{}", log.text);
    }

    #[test]
    fn what_cannot_be_read_is_unknown_and_not_absent() {
        let mounts = |text: &str| mounted(Ok(text.to_owned()));
        assert!(mounts("none /sys/fs/bpf bpf rw 0 0\n").text.starts_with("mounted"));
        assert!(mounts("proc /proc proc rw 0 0\n").text.starts_with("not mounted"));
        assert_eq!(mounted(Err(io::ErrorKind::PermissionDenied.into())).answer, Answer::Unknown);
        let jit = |text: &str| compiled(Ok(text.to_owned())).answer;
        assert_eq!([jit("0\n"), jit("1\n"), jit("2\n")], [Answer::Warning, Answer::Ok, Answer::Ok]);
        assert_eq!(compiled(Err("cannot".into())).answer, Answer::Unknown);
    }

    #[test]
    fn a_limit_of_locked_memory_is_enough_for_so_many_queues() {
        let said = |limit, may_exceed| {
            let finding = locked(limit, may_exceed);
            (finding.answer, finding.text)
        };
        assert_eq!(said(None, false).0, Answer::Ok);
        assert_eq!(said(Some(1 << 16), true).0, Answer::Ok);
        assert_eq!(
            said(Some(1 << 16), false),
            (Answer::Warning, "64 KiB, and a queue's UMEM has 8192 KiB".into())
        );
        assert_eq!(said(Some(8 << 20), false), (Answer::Ok, "8192 KiB: 1 queue of the usual size".into()));
        assert_eq!(said(Some(20 << 20), false).1, "20480 KiB: 2 queues of the usual size");
    }
}
