//! What the quirks of a driver mean for an interface as it is. Who has which is in [`super::drivers`].
//!
//! `umemd run` picks queues by them, refuses what cannot work before it touches the interface, and warns in its
//! words; `umemd doctor` prints the same.

use std::{fs, io, path::Path};

use super::{
    Link,
    drivers::{self, ZeroCopy},
    netdev, sysfs,
};
use crate::{
    config::{BindMode, L2_OVERHEAD},
    ebpf::Mode,
    sys::ethtool,
};

/// Something about a driver, and how it is known.
#[derive(Clone, Copy, Debug)]
pub struct Quirk {
    /// What.
    pub kind: Kind,
    /// Where it is known from: a file of the kernel's, or somebody who met it.
    pub source: &'static str,
    /// The first version of Linux that has it no more.
    pub until: Option<(u32, u32)>,
}

/// What a driver does otherwise than one expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Attaching and detaching a program closes and opens the port: the link goes down for a moment. Replacing a
    /// program does not.
    Bounces,
    /// And so do all other ports of the same packet processor.
    BouncesSiblings,
    /// The driver's page_pool counters start anew at each attach.
    CountersReset,
    /// The driver's page_pool counters cannot be seen anywhere.
    NoPagePoolCounters,
    /// All frames arrive on queue 0 of a chip with this `compatible` in the device tree, whatever number of queues
    /// the interface has.
    OneQueue(&'static str),
    /// A program is refused above this MTU.
    MtuLimit(u32),
    /// A program that does not take packets in several buffers is.
    MtuLimitOfOneBuffer(u32),
    /// Above this MTU, also of a sibling port, the driver gives up the pools that its XDP needs, without a word and
    /// with the program attached.
    MtuTakesPools(u32),
    /// On more possible CPUs than this the driver refuses XDP.
    CpuLimit(u32),
    /// If the device tree gives it a hardware buffer manager, the driver refuses XDP.
    NoBufferManager,
    /// Unless flows are hashed (`ethtool -K X rxhash on`), all frames arrive on queue 0.
    HashSpreads,
    /// Zero-copy wants so many bytes of headroom in each frame, for a header of the device's, and a device that the
    /// kernel reaches through an IOMMU.
    ZeroCopyHeadroom(u32),
    /// Zero-copy fills whole KiB of a frame, which in one of 2048 bytes is one.
    ZeroCopyWholeKib,
    /// Two queues are made of each: those for zero-copy have the upper half of the numbers.
    ZeroCopyQueuesAbove,
    /// The program has to be attached before a socket is bound.
    AttachBeforeBind,
    /// Without frames on the fill ring at bind the driver's queue stops for good.
    FillBeforeBind,
    /// Packets in several buffers get mixed up: a program without fragments is right.
    FragmentsBroken,
    /// The program runs on its members. Frames are of their queues then, and a socket that is bound to it gets none.
    RunsOnMembers,
    /// It is a port of a switch, whose frames come by the conduit: native XDP is there.
    BehindConduit,
    /// Its members send and receive in its place: frames come in by each of them.
    HasMembers,
    /// Its frames come from its ports, where the outer VLAN tag is taken away.
    TagsEndAtPorts,
    /// The other end may leave VLAN tags beside the frame.
    TagsComeBeside,
    /// With separate channels for receiving and sending it takes no program.
    CombinedChannels,
    /// A program for packets in several buffers cannot take the place of one for packets in one buffer, nor the other
    /// way round: one has to be detached before the other is attached.
    VariantsDoNotSwap,
}

/// What is known of one interface, as far as the table asks.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Its driver.
    pub driver: String,
    /// The version of Linux.
    pub linux: (u32, u32),
    /// Its node in the device tree; `None` where that cannot be seen.
    pub node: Option<Node>,
    /// Its MTU.
    pub mtu: u32,
    /// Whether its driver says that it runs XDP programs at the moment; `None` if unknown.
    pub runs_programs: Option<bool>,
    /// Whether its driver says that it has zero-copy; `None` if unknown.
    pub zero_copy: Option<bool>,
    /// Receive descriptors of a queue of its; `None` if unknown.
    pub ring: Option<u32>,
    /// Whether it has channels that only receive; `None` if unknown.
    pub separate_channels: Option<bool>,
    /// Whether the NIC hashes flows; `None` if unknown.
    pub hashes: Option<bool>,
    /// CPUs that there may ever be; `None` if unknown.
    pub possible_cpus: Option<u32>,
}

/// What the device tree says of an interface: nothing of one that is not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its `compatible`.
    pub compatible: Vec<String>,
    /// Whether it names a hardware buffer manager.
    pub buffer_manager: bool,
}

/// How an interface is to be used, as far as the table asks.
#[derive(Clone, Copy, Debug)]
pub struct Purpose<'a> {
    /// Where the program runs.
    pub mode: Mode,
    /// How sockets are bound.
    pub bind: BindMode,
    /// Whether packets may take several frames.
    pub multi_buffer: bool,
    /// Bytes of a packet that a frame has room for.
    pub capacity: u32,
    /// Frames of each queue that the kernel has for receiving.
    pub lent: u32,
    /// The queues asked for.
    pub queues: Option<&'a [u32]>,
}

/// How much a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Nobody can tell whether it is so.
    Unknown,
    /// Good to know.
    Note,
    /// Something will not be as hoped.
    Warning,
    /// It cannot work.
    Refusal,
}

/// A quirk that matters for an interface as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How much.
    pub weight: Weight,
    /// What, and what to do.
    pub text: String,
    /// How it is known.
    pub source: &'static str,
}

impl Facts {
    /// Asks ethtool and, where it shows this very interface, sysfs: the device tree is nowhere else.
    pub fn of(link: &Link) -> Self {
        let driver = ethtool::driver(&link.name).unwrap_or_default();
        let features = netdev::features(link.index).ok().flatten();
        Self {
            driver,
            linux: drivers::linux_version(),
            node: sysfs::folder(link).and_then(|folder| Node::read(&folder.join("device/of_node")).ok()),
            mtu: link.mtu,
            runs_programs: features.map(|features| features.native),
            zero_copy: features.map(|features| features.zero_copy),
            ring: ethtool::rx_ring(&link.name).ok().map(|ring| ring.now),
            separate_channels: ethtool::channels(&link.name).ok().map(|channels| channels.rx > 0),
            hashes: ethtool::offloads(&link.name).ok().map(|offloads| offloads.hash),
            possible_cpus: fs::read_to_string("/sys/devices/system/cpu/possible")
                .ok()
                .and_then(|list| count_cpus(list.trim())),
        }
    }

    /// Those that the driver has in this Linux.
    fn quirks(&self) -> impl Iterator<Item = &'static Quirk> {
        let all = drivers::find(&self.driver).map_or(&[][..], |driver| driver.quirks);
        all.iter().filter(|quirk| quirk.until.is_none_or(|until| self.linux < until))
    }

    /// Whether the chip is this one; `None` where that cannot be seen.
    fn is_chip(&self, chip: &str) -> Option<bool> {
        Some(self.node.as_ref()?.compatible.iter().any(|have| have == chip))
    }

    /// The one queue that all frames arrive on, if there is just one, whatever the kernel counts.
    pub fn only_queue(&self) -> Option<u32> {
        let one = |quirk: &Quirk| match quirk.kind {
            Kind::OneQueue(chip) => self.is_chip(chip) == Some(true),
            Kind::HashSpreads => self.hashes == Some(false),
            _ => false,
        };
        self.quirks().any(one).then_some(0)
    }

    /// What lets flows arrive on the other queues as well, if that is all that keeps them on one.
    pub fn spreading(&self, name: &str) -> Option<String> {
        let flat = |quirk: &Quirk| quirk.kind == Kind::HashSpreads && self.hashes == Some(false);
        self.quirks().any(flat).then(|| spreading(name))
    }

    /// Whether packets in several buffers come through as they were sent.
    pub fn bears_fragments(&self) -> bool {
        !self.quirks().any(|quirk| quirk.kind == Kind::FragmentsBroken)
    }

    /// What matters for this purpose. In `skb` mode the driver never sees the program.
    pub fn findings(&self, name: &str, purpose: Purpose<'_>) -> Vec<Finding> {
        if purpose.mode != Mode::Native {
            return Vec::new();
        }
        let finding = |quirk: &Quirk| {
            let (weight, text) = self.judge(quirk.kind, name, purpose)?;
            Some(Finding { weight, text, source: quirk.source })
        };
        self.quirks()
            .filter_map(finding)
            .chain(self.harm(name, purpose))
            .chain(self.short(name, purpose))
            .collect()
    }

    /// What is said to somebody who asked for zero-copy of a driver that has none, or is better off without.
    fn harm(&self, name: &str, purpose: Purpose<'_>) -> Option<Finding> {
        let driver = drivers::find(&self.driver).filter(|_| purpose.bind == BindMode::ZeroCopy)?;
        let (weight, text) = match driver.zero_copy {
            ZeroCopy::Since(..) => return None,
            // The table is of the kernels that there were: the driver knows better.
            ZeroCopy::Never if self.zero_copy == Some(true) => return None,
            ZeroCopy::Never => (
                Weight::Refusal,
                format!(
                    "{name} has no zero-copy: its driver ({}) cannot; leave --zerocopy away",
                    driver.name
                ),
            ),
            ZeroCopy::Avoid => (
                Weight::Warning,
                format!("--zerocopy on {} was seen to be slower than copying, or worse", driver.name),
            ),
        };
        Some(Finding { weight, text, source: driver.source })
    }

    /// What is said if the NIC's ring, which holds frames of ours in zero-copy mode, leaves the fill ring too few.
    fn short(&self, name: &str, purpose: Purpose<'_>) -> Option<Finding> {
        let ring = self
            .ring
            .filter(|ring| purpose.bind == BindMode::ZeroCopy && purpose.lent < ring.saturating_mul(2))?;
        Some(Finding {
            weight: Weight::Warning,
            text: format!(
                "zero-copy on {name} keeps {ring} frames in the NIC's ring, of {} that umemd lends for receiving: with \
                 less than twice as many the fill ring may run empty; --frames {}, or ethtool -G {name} rx {}",
                purpose.lent,
                // Half of the frames are lent.
                ring.saturating_mul(4).next_power_of_two(),
                purpose.lent / 2,
            ),
            source: "net/xdp/xsk_buff_pool.c: xp_alloc; XDP_STATISTICS, rx_fill_ring_empty_descs",
        })
    }

    fn judge(&self, kind: Kind, name: &str, purpose: Purpose<'_>) -> Option<(Weight, String)> {
        let Purpose { bind, multi_buffer, capacity, queues, .. } = purpose;
        let zero_copy = bind == BindMode::ZeroCopy;
        let driver = &self.driver;
        let mtu = self.mtu;
        Some(match kind {
            Kind::Bounces => (
                Weight::Note,
                format!("{driver} takes {name}'s link down and up when a program is attached or detached"),
            ),
            Kind::BouncesSiblings => (
                Weight::Warning,
                format!("{driver} takes the links of {name}'s sibling ports down and up too"),
            ),
            Kind::CountersReset => (
                Weight::Note,
                format!("{driver} sets its rx_pp_* counters to zero when a program is attached or detached"),
            ),
            Kind::NoPagePoolCounters => {
                (Weight::Note, format!("{driver} does not report its page_pool's counters"))
            }
            Kind::OneQueue(chip) => match self.is_chip(chip) {
                Some(true) => one_queue(name, queues, ""),
                Some(false) => return None,
                None => (
                    Weight::Unknown,
                    format!(
                        "whether {name} is of the kind whose frames all arrive on queue 0 ({chip}) cannot be seen: \
                         sysfs does not show its device tree"
                    ),
                ),
            },
            Kind::MtuLimit(limit) if mtu > limit => (
                Weight::Refusal,
                format!(
                    "{driver} takes no program on {name} with MTU {mtu}, but up to {limit}: ip link set {name} mtu \
                     {limit}; or pass --mode skb"
                ),
            ),
            Kind::MtuLimitOfOneBuffer(limit) if mtu > limit && !multi_buffer => (
                Weight::Refusal,
                format!(
                    "{driver} takes no program for packets in one buffer on {name} with MTU {mtu}, but up to {limit}: \
                     ip link set {name} mtu {limit}; or {}",
                    if self.bears_fragments() { "leave --multi-buffer off away" } else { "pass --mode skb" }
                ),
            ),
            Kind::MtuTakesPools(limit) if mtu <= limit && self.runs_programs == Some(false) => (
                Weight::Refusal,
                format!(
                    "{driver} gave up the pools that its XDP needs: a sibling port of {name} has an MTU above {limit}; \
                     ip link set PORT mtu {limit} on that; or pass --mode skb"
                ),
            ),
            Kind::MtuTakesPools(limit) if mtu <= limit => (
                Weight::Note,
                format!(
                    "keep the MTU of {name} and of its sibling ports at {limit} or below while umemd runs: above it \
                     {driver} gives up the pools that its XDP needs"
                ),
            ),
            Kind::CpuLimit(limit) => match self.possible_cpus {
                Some(cpus) if cpus > limit => (
                    Weight::Refusal,
                    format!(
                        "{driver} takes no program on a machine with more than {limit} CPUs: boot with \
                         possible_cpus={limit}; or pass --mode skb"
                    ),
                ),
                Some(_) => return None,
                None => (
                    Weight::Unknown,
                    format!(
                        "whether this machine may have more than {limit} CPUs, with which {driver} takes no program, \
                         sysfs does not tell"
                    ),
                ),
            },
            Kind::NoBufferManager => match (&self.node, self.runs_programs) {
                // The driver does without one that is off or fails.
                (_, Some(true)) => return None,
                (Some(node), _) if !node.buffer_manager => return None,
                (Some(_), Some(false)) => (
                    Weight::Refusal,
                    format!(
                        "{driver} takes no program on {name} while its device tree gives it a hardware buffer \
                         manager: remove `buffer-manager` there; or pass --mode skb"
                    ),
                ),
                (Some(_), None) => (
                    Weight::Warning,
                    format!(
                        "{driver} takes no program on {name} if it uses the hardware buffer manager that its device \
                         tree gives it"
                    ),
                ),
                (None, _) => (
                    Weight::Unknown,
                    format!(
                        "whether {name} has a hardware buffer manager, with which {driver} takes no program, cannot \
                         be seen: sysfs does not show its device tree"
                    ),
                ),
            },
            Kind::HashSpreads if self.hashes == Some(false) => one_queue(
                name,
                queues,
                &format!(
                    " until flows are spread ({}), but for what a rule of the NIC's own (ethtool -N) sends there",
                    spreading(name)
                ),
            ),
            Kind::CombinedChannels if self.separate_channels == Some(true) => (
                Weight::Refusal,
                format!(
                    "{driver} takes no program on {name} while it has channels that only receive: ethtool -L {name} \
                     rx 0 tx 0 combined N; or pass --mode skb"
                ),
            ),
            Kind::ZeroCopyHeadroom(bytes) if zero_copy => (
                Weight::Note,
                format!(
                    "zero-copy on {name} takes {bytes} bytes of headroom, and a device behind an IOMMU \
                     (iommu_platform=on,disable-legacy=on in QEMU)"
                ),
            ),
            Kind::ZeroCopyWholeKib if zero_copy && mtu.saturating_add(L2_OVERHEAD) > whole_kib(capacity) => (
                Weight::Warning,
                format!(
                    "with --zerocopy {driver} fills whole KiB of a frame: packets of more than {} bytes are lost; \
                     --frame-size 4096 has room for 3072",
                    whole_kib(capacity)
                ),
            ),
            Kind::ZeroCopyQueuesAbove if zero_copy => (
                Weight::Warning,
                format!("with --zerocopy {name} has its queues twice, and the upper half is for zero-copy"),
            ),
            Kind::AttachBeforeBind => {
                (Weight::Note, format!("{driver} wants the program before the socket, as umemd does it"))
            }
            Kind::FillBeforeBind if zero_copy => (
                Weight::Warning,
                format!(
                    "with --zerocopy a queue of {driver} that finds no frames at first may stop for good"
                ),
            ),
            Kind::RunsOnMembers => (
                Weight::Refusal,
                format!(
                    "the program would run on the members of {name}, whose frames reach only sockets of theirs: \
                     umemd run --iface with each of them; or pass --mode skb"
                ),
            ),
            Kind::BehindConduit => (
                Weight::Refusal,
                format!(
                    "{name} is a port of a switch: native XDP is on its conduit, which `ip link show {name}` names \
                     behind the @: umemd run --iface with that; or pass --mode skb"
                ),
            ),
            Kind::FragmentsBroken if multi_buffer => (
                Weight::Warning,
                format!("{driver} mixes up packets in several buffers: --multi-buffer off, and keep the MTU at 1500"),
            ),
            Kind::MtuLimit(_)
            | Kind::MtuLimitOfOneBuffer(_)
            | Kind::MtuTakesPools(_)
            | Kind::HashSpreads
            | Kind::CombinedChannels
            | Kind::ZeroCopyHeadroom(_)
            | Kind::ZeroCopyWholeKib
            | Kind::ZeroCopyQueuesAbove
            | Kind::FillBeforeBind
            | Kind::FragmentsBroken
            // Others go by these.
            | Kind::HasMembers
            | Kind::TagsEndAtPorts
            | Kind::TagsComeBeside
            | Kind::VariantsDoNotSwap => return None,
        })
    }
}

/// What spreads flows over the queues of a NIC that does not.
fn spreading(name: &str) -> String {
    format!("ethtool -K {name} rxhash on, then ethtool -X {name} equal N")
}

/// That all frames arrive on queue 0, which matters the more if others were asked for.
fn one_queue(name: &str, asked: Option<&[u32]>, until: &str) -> (Weight, String) {
    let in_vain = asked.is_some_and(|queues| queues != [0]);
    let weight = if in_vain { Weight::Warning } else { Weight::Note };
    (weight, format!("all frames of {name} arrive on queue 0: its other queues stay silent{until}"))
}

/// Bytes of whole KiB, of so many.
fn whole_kib(bytes: u32) -> u32 {
    bytes & !1023
}

impl Node {
    /// As the kernel shows it in sysfs; empty if there is none.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    fn read(node: &Path) -> io::Result<Self> {
        let compatible = match fs::read_to_string(node.join("compatible")) {
            Ok(list) => list.split_terminator('\0').map(str::to_owned).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { compatible, buffer_manager: node.join("buffer-manager").try_exists()? })
    }
}

/// How many CPUs a list such as `0-3,8` names.
fn count_cpus(list: &str) -> Option<u32> {
    list.split(',').try_fold(0, |sum, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        Some(sum + last.checked_sub(first)? + 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
            possible_cpus: Some(4),
            ..Facts::default()
        }
    }

    fn texts(facts: &Facts, purpose: Purpose<'_>, weight: Weight) -> Vec<String> {
        let findings = facts.findings("eth0", purpose).into_iter();
        findings.filter(|finding| finding.weight == weight).map(|finding| finding.text).collect()
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
    fn a_bond_is_served_by_its_members_or_in_skb_mode() {
        let bond = facts("bonding", 1500);
        let [refusal] = &refusals(&bond)[..] else { panic!("one") };
        assert!(refusal.contains("--iface with each of them; or pass --mode skb"), "{refusal}");
        assert!(bond.findings("bond0", Purpose { mode: Mode::Skb, ..PURPOSE }).is_empty());
    }

    #[test]
    fn a_port_of_a_switch_is_served_by_its_conduit_or_in_skb_mode() {
        let [refusal] = &refusals(&facts("dsa", 1500))[..] else { panic!("one") };
        assert!(refusal.contains("on its conduit") && refusal.ends_with("or pass --mode skb"), "{refusal}");
    }

    #[test]
    fn an_mtu_is_refused_where_the_driver_refuses_it() {
        for (driver, most) in [("bnxt_en", 3502), ("i40e", 3046), ("mvneta", 3520), ("mvpp2", 1640)] {
            assert_eq!(refusals(&facts(driver, most)), [""; 0], "{driver}");
            let said = refusals(&facts(driver, most + 1));
            assert!(said.len() == 1 && said[0].contains(&format!("ip link set eth0 mtu {most}")), "{said:?}");
        }
        assert_eq!(facts("mvpp2", 9000).findings("eth0", Purpose { mode: Mode::Skb, ..PURPOSE }), []);
        assert_eq!(facts("nobody", 9000).findings("eth0", PURPOSE), []);
        let several = Purpose { multi_buffer: true, ..PURPOSE };
        let refuses = |driver| !texts(&facts(driver, 9000), several, Weight::Refusal).is_empty();
        assert!(!refuses("mvneta") && refuses("mvpp2"), "packets in several buffers");
        let [i40e] = &refusals(&facts("i40e", 9000))[..] else { panic!("one") };
        assert!(i40e.ends_with("ip link set eth0 mtu 3046; or pass --mode skb"), "{i40e}");
    }

    #[test]
    fn a_sibling_that_takes_the_pools_is_named() {
        let mut port = facts("mvpp2", 1500);
        for (runs_programs, count) in [(None, 0), (Some(true), 0), (Some(false), 1)] {
            port.runs_programs = runs_programs;
            let said = refusals(&port);
            assert_eq!(said.len(), count, "{said:?}");
            assert!(said.iter().all(|text| text.contains("a sibling port of eth0 has an MTU above 1640")));
        }
    }

    #[test]
    fn a_buffer_manager_is_refused_only_where_the_driver_uses_it() {
        let mut board = facts("mvneta", 1500);
        board.node = Some(Node { buffer_manager: true, ..Node::default() });
        let mut said = |runs_programs| {
            board.runs_programs = runs_programs;
            let of = |weight| {
                texts(&board, PURPOSE, weight).iter().filter(|text| text.contains("manager")).count()
            };
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
        let many = Facts { possible_cpus: Some(8), ..facts("mvpp2", 1500) };
        assert_eq!(refusals(&many).len(), 1);
        let unknown = Facts { possible_cpus: None, ..facts("mvpp2", 1500) };
        assert_eq!(refusals(&unknown).len(), 0, "what is unknown is not refused");
    }

    #[test]
    fn what_cannot_be_seen_is_said_to_be_unknown() {
        let unknown = |facts: &Facts| texts(facts, PURPOSE, Weight::Unknown).len();
        assert_eq!(unknown(&Facts { node: None, ..facts("mvneta", 1500) }), 2, "queues, buffer manager");
        assert_eq!(unknown(&Facts { possible_cpus: None, ..facts("mvpp2", 1500) }), 1);
        assert_eq!(unknown(&facts("mvneta", 1500)) + unknown(&facts("mvpp2", 1500)), 0);
        assert_eq!(
            unknown(&Facts { node: None, possible_cpus: None, ..facts("ice", 1500) }),
            0,
            "nobody asks"
        );
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
        assert!(flat.spreading("eth0").unwrap().starts_with("ethtool -K eth0 rxhash on"));
        assert_eq!(board.spreading("eth0"), None, "nothing spreads on that chip");
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
        warns(&nic(Some(2048)), ZEROCOPY, "--frames 8192, or ethtool -G eth0 rx 1024");
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
    fn channels_that_only_receive_are_refused_where_the_driver_refuses_them() {
        let nic = |separate_channels| Facts { separate_channels, ..facts("bnxt_en", 1500) };
        assert_eq!([Some(true), Some(false), None].map(|apart| refusals(&nic(apart)).len()), [1, 0, 0]);
    }

    #[test]
    fn nodes_are_read_as_sysfs_shows_them() {
        let folder = std::env::temp_dir().join(format!("umemd-node-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        assert_eq!(Node::read(&folder).unwrap(), Node::default(), "no device tree");
        fs::write(folder.join("compatible"), "marvell,armada-3700-neta\0other\0").unwrap();
        fs::write(folder.join("buffer-manager"), [0; 4]).unwrap();
        let node = Node::read(&folder);
        fs::remove_dir_all(&folder).unwrap();
        let compatible = ["marvell,armada-3700-neta", "other"].map(String::from).into();
        assert_eq!(node.unwrap(), Node { compatible, buffer_manager: true });
    }

    #[test]
    fn lists_of_cpus_are_counted() {
        assert_eq!(count_cpus("0"), Some(1));
        assert_eq!(count_cpus("0-3"), Some(4));
        assert_eq!(count_cpus("0-1,4,6-7"), Some(5));
        assert_eq!(count_cpus("3-0"), None);
        assert_eq!(count_cpus(""), None);
    }
}
