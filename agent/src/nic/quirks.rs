//! What the quirks of a driver mean for an interface as it is. Who has which is in [`super::drivers`].
//!
//! `umemd run` picks queues by them, refuses what cannot work before it touches the interface, and warns in its
//! words; `umemd doctor` prints the same.

use std::{fs, path::Path};

use super::{
    Link,
    drivers::{self, ZeroCopy},
    netdev,
};
use crate::{ebpf::Mode, sys::ethtool};

/// Something about a driver, and how it is known.
#[derive(Clone, Copy, Debug)]
pub struct Quirk {
    /// What.
    pub kind: Kind,
    /// Where it is known from: a file of the kernel's, or somebody who met it.
    pub source: &'static str,
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
}

/// What is known of one interface, as far as the table asks.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Its driver.
    pub driver: String,
    /// `compatible` of its node in the device tree; empty without a tree, or where it cannot be seen.
    pub compatible: Vec<String>,
    /// Whether its node names a hardware buffer manager.
    pub buffer_manager: bool,
    /// Its MTU.
    pub mtu: u32,
    /// Whether its driver says that it runs XDP programs at the moment; `None` if unknown. Asked only of drivers that
    /// may cease to.
    pub runs_programs: Option<bool>,
    /// Whether the NIC hashes flows; `None` if unknown.
    pub hashes: Option<bool>,
    /// CPUs that there may ever be; `None` if unknown.
    pub possible_cpus: Option<u32>,
}

/// How much a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
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
        let folder = Path::new("/sys/class/net").join(&link.name);
        let index = fs::read_to_string(folder.join("ifindex")).ok().and_then(|text| text.trim().parse().ok());
        let node = (index == Some(link.index)).then(|| folder.join("device/of_node"));
        let compatible = node.as_ref().and_then(|node| fs::read_to_string(node.join("compatible")).ok());
        let driver = ethtool::driver(&link.name).unwrap_or_default();
        let may_cease = drivers::find(&driver).is_some_and(|known| {
            known.quirks.iter().any(|quirk| matches!(quirk.kind, Kind::MtuTakesPools(_)))
        });
        let features = if may_cease { netdev::features(link.index).ok().flatten() } else { None };
        Self {
            driver,
            runs_programs: features.map(|features| features.native),
            compatible: compatible
                .map(|list| list.split_terminator('\0').map(str::to_owned).collect())
                .unwrap_or_default(),
            buffer_manager: node.is_some_and(|node| node.join("buffer-manager").exists()),
            mtu: link.mtu,
            hashes: ethtool::offloads(&link.name).ok().map(|offloads| offloads.hash),
            possible_cpus: fs::read_to_string("/sys/devices/system/cpu/possible")
                .ok()
                .and_then(|list| count_cpus(list.trim())),
        }
    }

    fn quirks(&self) -> &'static [Quirk] {
        drivers::find(&self.driver).map_or(&[], |driver| driver.quirks)
    }

    /// The one queue that all frames arrive on, if there is just one whatever the kernel counts.
    pub fn only_queue(&self) -> Option<u32> {
        let one = |quirk: &Quirk| matches!(quirk.kind, Kind::OneQueue(chip) if self.compatible.iter().any(|have| have == chip));
        self.quirks().iter().any(one).then_some(0)
    }

    /// What matters for a program in this mode, which takes packets in several buffers or does not. In `skb` mode the
    /// driver never sees it.
    pub fn findings(&self, name: &str, mode: Mode, multi_buffer: bool) -> Vec<Finding> {
        if mode != Mode::Native {
            return Vec::new();
        }
        let finding = |quirk: &Quirk| {
            let (weight, text) = self.judge(quirk.kind, name, multi_buffer)?;
            Some(Finding { weight, text, source: quirk.source })
        };
        let zero_copy = drivers::find(&self.driver).filter(|driver| driver.zero_copy == ZeroCopy::Avoid);
        let harms = zero_copy.map(|driver| Finding {
            weight: Weight::Note,
            text: format!("--zerocopy on {} was seen to be slower than copying, or worse", driver.name),
            source: driver.source,
        });
        self.quirks().iter().filter_map(finding).chain(harms).collect()
    }

    fn judge(&self, kind: Kind, name: &str, multi_buffer: bool) -> Option<(Weight, String)> {
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
            Kind::OneQueue(_) => {
                self.only_queue()?;
                (
                    Weight::Note,
                    format!("all frames of {name} arrive on queue 0: its other queues stay silent"),
                )
            }
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
                     ip link set {name} mtu {limit}; or leave --multi-buffer off away"
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
            Kind::CpuLimit(limit) if self.possible_cpus.is_some_and(|cpus| cpus > limit) => (
                Weight::Refusal,
                format!(
                    "{driver} takes no program on a machine with more than {limit} CPUs: boot with possible_cpus={limit}; \
                     or pass --mode skb"
                ),
            ),
            Kind::NoBufferManager if self.buffer_manager => (
                Weight::Refusal,
                format!(
                    "{driver} takes no program on {name} while its device tree gives it a hardware buffer manager: \
                     remove `buffer-manager` there; or pass --mode skb"
                ),
            ),
            Kind::HashSpreads if self.hashes == Some(false) => (
                Weight::Note,
                format!(
                    "all frames of {name} arrive on queue 0 until flows are spread: ethtool -K {name} rxhash on, then \
                     ethtool -X {name} equal N"
                ),
            ),
            Kind::MtuLimit(_)
            | Kind::MtuLimitOfOneBuffer(_)
            | Kind::MtuTakesPools(_)
            | Kind::CpuLimit(_)
            | Kind::NoBufferManager
            | Kind::HashSpreads => {
                return None;
            }
            Kind::ZeroCopyHeadroom(bytes) => (
                Weight::Note,
                format!(
                    "zero-copy on {name} takes {bytes} bytes of headroom, and a device behind an IOMMU \
                     (iommu_platform=on,disable-legacy=on in QEMU)"
                ),
            ),
            Kind::ZeroCopyWholeKib => (
                Weight::Note,
                format!(
                    "with --zerocopy {driver} fills whole KiB of a frame: packets of more than 1024 bytes are lost \
                     without --frame-size 4096"
                ),
            ),
            Kind::ZeroCopyQueuesAbove => (
                Weight::Note,
                format!("with --zerocopy {name} has its queues twice, and the upper half is for zero-copy"),
            ),
            Kind::AttachBeforeBind => {
                (Weight::Note, format!("{driver} wants the program before the socket, as umemd does it"))
            }
            Kind::FillBeforeBind => (
                Weight::Note,
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
            Kind::FragmentsBroken => {
                (Weight::Note, format!("{driver} mixes up packets in several buffers: keep the MTU at 1500"))
            }
        })
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

    fn facts(driver: &str, mtu: u32) -> Facts {
        Facts { driver: driver.into(), mtu, possible_cpus: Some(4), ..Facts::default() }
    }

    #[test]
    fn a_bond_is_served_by_its_members_or_in_skb_mode() {
        let bond = facts("bonding", 1500);
        let [refusal] = &refusals(&bond)[..] else { panic!("one") };
        assert!(refusal.contains("--iface with each of them; or pass --mode skb"), "{refusal}");
        assert!(bond.findings("bond0", Mode::Skb, false).is_empty());
    }

    fn refusals(facts: &Facts) -> Vec<String> {
        let findings = facts.findings("eth0", Mode::Native, false).into_iter();
        findings.filter(|finding| finding.weight == Weight::Refusal).map(|finding| finding.text).collect()
    }

    #[test]
    fn an_mtu_is_refused_where_the_driver_refuses_it() {
        for (driver, most) in [("mvneta", 3520), ("mvpp2", 1640)] {
            assert_eq!(refusals(&facts(driver, most)), [""; 0], "{driver}");
            let said = refusals(&facts(driver, most + 1));
            assert!(said.len() == 1 && said[0].contains(&format!("ip link set eth0 mtu {most}")), "{said:?}");
        }
        let findings = |driver, mtu, mode| facts(driver, mtu).findings("eth0", mode, true);
        assert_eq!(findings("mvpp2", 9000, Mode::Skb), []);
        assert_eq!(findings("nobody", 9000, Mode::Native), []);
        assert_eq!(findings("ena", 1500, Mode::Native).len(), 1, "zero-copy, which harms");
        let refuses = |driver| {
            findings(driver, 9000, Mode::Native).iter().any(|finding| finding.weight == Weight::Refusal)
        };
        assert!(!refuses("mvneta") && refuses("mvpp2"), "packets in several buffers");
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
    fn what_the_chip_or_the_tree_decides_is_asked_of_them() {
        let mut board = facts("mvneta", 1500);
        assert_eq!(board.only_queue(), None, "an Armada 38x has eight");
        board.compatible = vec!["marvell,armada-3700-neta".into()];
        assert_eq!(board.only_queue(), Some(0));
        assert!(refusals(&board).is_empty());
        board.buffer_manager = true;
        assert_eq!(refusals(&board).len(), 1);
        let many = Facts { possible_cpus: Some(8), ..facts("mvpp2", 1500) };
        assert_eq!(refusals(&many).len(), 1);
        let unknown = Facts { possible_cpus: None, ..facts("mvpp2", 1500) };
        assert_eq!(refusals(&unknown).len(), 0, "what is unknown is not refused");
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
