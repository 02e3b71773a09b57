//! What the quirks of a driver mean for an interface as it is. Who has which is in [`super::drivers`].
//!
//! `umemd run` picks queues by them, refuses what cannot work before it touches the interface, and warns in its
//! words; `umemd doctor` prints the same for native mode.

mod kind;

use std::fmt;

use datapath::packet::MAX_FRAGMENTS;

use super::{
    drivers::{self, ZeroCopy},
    probe::Facts,
};
use crate::{
    config::{BindMode, L2_OVERHEAD},
    ebpf::Mode,
};
pub use kind::{Kind, Quirk};

/// How long a packet may be that its sender left to be segmented, headers included (`GSO_MAX_SIZE`).
const GSO_MAX: usize = 65_536;

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
    /// Which quirk of which driver it is, in words that do not change: `mvneta-buffer-manager`.
    pub id: String,
    /// How much.
    pub weight: Weight,
    /// What, and what to do.
    pub text: String,
    /// What to type, if something mends it: commands, in their order. One each, so that `sudo` in front of it raises all
    /// of it.
    pub mend: Vec<String>,
    /// How it is known.
    pub source: &'static str,
}

/// In one line, as `umemd run` says it.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        match self.mend[..] {
            [] => Ok(()),
            _ => write!(f, ": {}", self.mend.join(", then ")),
        }
    }
}

/// What is found of a quirk, whoever's it is.
#[derive(Debug)]
struct Judgement {
    weight: Weight,
    text: String,
    mend: Vec<String>,
}

impl Judgement {
    fn new(weight: Weight, text: String) -> Self {
        Self { weight, text, mend: Vec::new() }
    }

    fn mended_by(self, command: impl Into<String>) -> Self {
        self.mended_by_all([command.into()])
    }

    /// By one command after the other.
    fn mended_by_all(mut self, commands: impl IntoIterator<Item = String>) -> Self {
        self.mend.extend(commands);
        self
    }
}

impl Facts {
    /// Those that the driver has in this Linux.
    fn quirks(&self) -> impl Iterator<Item = &'static Quirk> {
        let all = drivers::find(&self.driver).map_or(&[][..], |driver| driver.quirks);
        all.iter().filter(|quirk| quirk.until.is_none_or(|until| self.linux < until))
    }

    /// Whether the chip is one of these; `None` where that cannot be seen.
    fn is_chip(&self, chips: &[&str]) -> Option<bool> {
        Some(self.node.as_ref()?.compatible.iter().any(|have| chips.contains(&have.as_str())))
    }

    /// Whether the machine may have more CPUs than the driver takes a program with.
    fn has_too_many_cpus(&self) -> bool {
        self.quirks().any(|quirk| match quirk.kind {
            Kind::CpuLimit(limit) => self.possible_cpus.is_some_and(|cpus| cpus > limit),
            _ => false,
        })
    }

    /// The one queue that all frames arrive on, if there is just one, whatever the kernel counts.
    pub fn only_queue(&self) -> Option<u32> {
        let one = |quirk: &Quirk| match quirk.kind {
            Kind::OneQueue(chips) => self.is_chip(chips) == Some(true),
            Kind::HashSpreads => self.hashes == Some(false),
            _ => false,
        };
        self.quirks().any(one).then_some(0)
    }

    /// The commands that let flows arrive on the other queues as well, if that is all that keeps them on one.
    pub fn spreading(&self, name: &str) -> Option<[String; 2]> {
        let flat = |quirk: &Quirk| quirk.kind == Kind::HashSpreads && self.hashes == Some(false);
        self.quirks().any(flat).then(|| self.spreads(name))
    }

    /// What spreads flows over the queues that are polled, of a NIC that does not.
    fn spreads(&self, name: &str) -> [String; 2] {
        let equally = || format!("ethtool -X {name} equal {}", self.rx_queues);
        let table = self.polled().map_or_else(equally, |cpus| weights(name, self.rx_queues, cpus));
        [format!("ethtool -K {name} rxhash on"), table]
    }

    fn polls_queues_per_cpu(&self) -> bool {
        self.quirks().any(|quirk| quirk.kind == Kind::PollsQueuesPerCpu)
    }

    /// How many queues are polled, if not all of them are.
    fn polled(&self) -> Option<u32> {
        let fewer = |cpus: &u32| (1..self.rx_queues).contains(cpus);
        self.possible_cpus.filter(fewer).filter(|_| self.polls_queues_per_cpu())
    }

    /// Whether the table by which the NIC spreads flows (RSS) is known to be of the numbers that its queues have.
    pub fn table_is_of_queues(&self) -> bool {
        !self.polls_queues_per_cpu() || self.possible_cpus.is_some_and(|cpus| cpus >= self.rx_queues)
    }

    /// Whether packets in several buffers come through as they were sent.
    pub fn bears_fragments(&self) -> bool {
        !self.quirks().any(|quirk| quirk.kind == Kind::FragmentsBroken)
    }

    /// What matters for this purpose. In `skb` mode the driver never sees the program.
    pub fn findings(&self, name: &str, purpose: Purpose<'_>) -> Vec<Finding> {
        if purpose.mode != Mode::Native {
            return self.unsegmented(name, purpose).into_iter().collect();
        }
        let finding = |quirk: &Quirk| {
            let judgement = self.judge(quirk.kind, name, purpose)?;
            Some(self.finding(quirk.kind.id(), judgement, quirk.source))
        };
        self.quirks()
            .filter_map(finding)
            .chain(self.harm(name, purpose))
            .chain(self.short(name, purpose))
            .collect()
    }

    /// What was found of this driver.
    fn finding(
        &self,
        quirk: &str,
        Judgement { weight, text, mend }: Judgement,
        source: &'static str,
    ) -> Finding {
        let id = format!("{}-{quirk}", self.driver.replace('_', "-"));
        Finding { id, weight, text, mend, source }
    }

    /// What is said of a veth in `skb` mode: its driver does not know of the program, and takes no offload off its peer.
    fn unsegmented(&self, name: &str, purpose: Purpose<'_>) -> Option<Finding> {
        let (frames, counter) =
            if purpose.multi_buffer { (MAX_FRAGMENTS, "rx_too_long") } else { (1, "xsk_rx_dropped") };
        let longest = purpose.capacity as usize * frames;
        (self.driver == "veth" && longest < GSO_MAX).then(|| {
            let text = format!(
                "{name} in skb mode gets packets before its peer's senders have them segmented: such as are longer than \
                 {longest} bytes are dropped and counted as {counter}, which TCP hardly survives; do without --mode \
                 skb, or have the other end segment them"
            );
            let source = "net/core/dev.c: netif_receive_generic_xdp; drivers/net/veth.c: veth_xdp_set";
            let judgement = Judgement::new(Weight::Warning, text);
            self.finding("segments", judgement.mended_by("ethtool -K PEER tso off gso off"), source)
        })
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
        Some(self.finding("zero-copy", Judgement::new(weight, text), driver.source))
    }

    /// What is said if the NIC's ring, which holds frames of ours in zero-copy mode, leaves the fill ring too few.
    fn short(&self, name: &str, purpose: Purpose<'_>) -> Option<Finding> {
        let ring = self
            .ring
            .filter(|ring| purpose.bind == BindMode::ZeroCopy && purpose.lent < ring.saturating_mul(2))?;
        // Half of the frames are lent.
        let frames = ring.saturating_mul(4).next_power_of_two();
        let text = format!(
            "zero-copy on {name} keeps {ring} frames in the NIC's ring, of {} that umemd lends for receiving: with \
             less than twice as many the fill ring may run empty; pass --frames {frames}, or shorten the NIC's ring",
            purpose.lent
        );
        let judgement = Judgement::new(Weight::Warning, text)
            .mended_by(format!("ethtool -G {name} rx {}", purpose.lent / 2));
        let source = "net/xdp/xsk_buff_pool.c: xp_alloc; XDP_STATISTICS, rx_fill_ring_empty_descs";
        Some(self.finding("zero-copy-ring", judgement, source))
    }

    /// What is said if the driver has no channels left to send by for a program, or may have none.
    fn half_of_channels(&self, name: &str) -> Option<Judgement> {
        let driver = &self.driver;
        let weight = match self.runs_programs {
            Some(true) => return None,
            Some(false) => Weight::Refusal,
            // It may be one that does without.
            None => Weight::Warning,
        };
        let Some((now, most)) = self.channels else {
            let text = format!(
                "whether {name} has more than half of its channels in use, with which {driver} takes no program, \
                 ethtool does not tell"
            );
            return Some(Judgement::new(Weight::Unknown, text));
        };
        let half = most / 2;
        (now > half).then(|| {
            let text = format!(
                "{driver} takes no program on {name} with more than half of its channels in use, as it needs as many \
                 again for that, and {now} of {most} are; pass --mode skb, or use fewer"
            );
            Judgement::new(weight, text).mended_by(match half {
                0 => format!("umemd run --iface {name} --mode skb ..."),
                _ => format!("ethtool -L {name} combined {half}"),
            })
        })
    }

    fn judge(&self, kind: Kind, name: &str, purpose: Purpose<'_>) -> Option<Judgement> {
        let Purpose { bind, multi_buffer, capacity, queues, .. } = purpose;
        let zero_copy = bind == BindMode::ZeroCopy;
        let driver = &self.driver;
        let mtu = self.mtu;
        let new = Judgement::new;
        let skb = || format!("umemd run --iface {name} --mode skb ...");
        Some(match kind {
            Kind::Bounces => new(
                Weight::Note,
                format!("{driver} takes {name}'s link down and up when a program is attached or detached"),
            ),
            Kind::BouncesSiblings => new(
                Weight::Warning,
                format!("{driver} takes the links of {name}'s sibling ports down and up too"),
            ),
            Kind::CountersReset => new(
                Weight::Note,
                format!("{driver} sets its rx_pp_* counters to zero when a program is attached or detached"),
            ),
            Kind::NoPagePoolCounters => {
                new(Weight::Note, format!("{driver} does not report its page_pool's counters"))
            }
            Kind::OneQueue(chips) => match self.is_chip(chips) {
                Some(true) => one_queue(name, queues, ""),
                Some(false) => return None,
                None => new(
                    Weight::Unknown,
                    format!(
                        "whether {name} is of the kind whose frames all arrive on queue 0 ({}) cannot be seen: \
                         sysfs does not show its device tree",
                        chips.join(", ")
                    ),
                ),
            },
            Kind::MtuLimit(limit) if mtu > limit => new(
                Weight::Refusal,
                format!(
                    "{driver} takes no program on {name} with MTU {mtu}, but up to {limit}; pass --mode skb, or \
                     lower it"
                ),
            )
            .mended_by(format!("ip link set {name} mtu {limit}")),
            Kind::MtuLimitOfOneBuffer(limit) if mtu > limit && !multi_buffer => new(
                Weight::Refusal,
                format!(
                    "{driver} takes no program for packets in one buffer on {name} with MTU {mtu}, but up to {limit}; \
                     {}, or lower it",
                    if self.bears_fragments() { "leave --multi-buffer off away" } else { "pass --mode skb" }
                ),
            )
            .mended_by(format!("ip link set {name} mtu {limit}")),
            // For another reason it has none, too: CpuLimit's.
            Kind::MtuTakesPools(limit) if mtu <= limit && self.runs_programs == Some(false) && !self.has_too_many_cpus() => new(
                Weight::Refusal,
                format!(
                    "{driver} gave up the pools that its XDP needs: a sibling port of {name} has an MTU above {limit}; \
                     pass --mode skb, or lower that"
                ),
            )
            .mended_by(format!("ip link set PORT mtu {limit}")),
            Kind::MtuTakesPools(limit) if mtu <= limit => new(
                Weight::Note,
                format!(
                    "keep the MTU of {name} and of its sibling ports at {limit} or below while umemd runs: above it \
                     {driver} gives up the pools that its XDP needs"
                ),
            ),
            Kind::CpuLimit(limit) => match self.possible_cpus {
                Some(_) if self.has_too_many_cpus() => new(
                    Weight::Refusal,
                    format!(
                        "{driver} takes no program on a machine with more than {limit} CPUs; boot with \
                         nr_cpus={limit}, or do without the driver"
                    ),
                )
                .mended_by(skb()),
                Some(_) => return None,
                None => new(
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
                (Some(_), Some(false)) => new(
                    Weight::Refusal,
                    format!(
                        "{driver} takes no program on {name} while its device tree gives it a hardware buffer \
                         manager; remove `buffer-manager` there, or do without the driver"
                    ),
                )
                .mended_by(skb()),
                (Some(_), None) => new(
                    Weight::Warning,
                    format!(
                        "{driver} takes no program on {name} if it uses the hardware buffer manager that its device \
                         tree gives it"
                    ),
                ),
                (None, _) => new(
                    Weight::Unknown,
                    format!(
                        "whether {name} has a hardware buffer manager, with which {driver} takes no program, cannot \
                         be seen: sysfs does not show its device tree"
                    ),
                ),
            },
            Kind::HashSpreads => match self.hashes {
                Some(true) => return None,
                Some(false) => one_queue(
                    name,
                    queues,
                    " until flows are spread, but for what a rule of the NIC's own (ethtool -N) sends there",
                )
                .mended_by_all(self.spreads(name)),
                None => new(
                    Weight::Unknown,
                    format!(
                        "whether {driver} spreads the flows of {name} over its queues, or has all frames arrive on \
                         queue 0, ethtool does not tell"
                    ),
                ),
            },
            Kind::PollsQueuesPerCpu if self.possible_cpus.is_none() && self.rx_queues > 1 => new(
                Weight::Unknown,
                format!(
                    "which of the {} queues of {name} are polled is unknown: {driver} polls one per CPU, and sysfs does \
                     not tell how many CPUs there may be",
                    self.rx_queues
                ),
            ),
            Kind::PollsQueuesPerCpu => {
                let cpus = self.polled()?;
                let in_vain = queues.is_some_and(|queues| queues.iter().any(|queue| *queue >= cpus));
                let polled = match cpus {
                    1 => "queue 0".to_owned(),
                    2 => "queues 0 and 1".to_owned(),
                    _ => format!("queues 0 to {}", cpus - 1),
                };
                new(
                    if in_vain { Weight::Warning } else { Weight::Note },
                    format!(
                        "{driver} polls one queue of {name} per CPU, {polled}: what arrives on another one stays \
                         there; with {cpus} CPUs for {} queues the numbers of `ethtool -x` are not theirs; these \
                         weights are for those that are polled",
                        self.rx_queues
                    ),
                )
                .mended_by(weights(name, self.rx_queues, cpus))
            }
            Kind::NoChannels => {
                new(Weight::Note, format!("the number of queues of {name} cannot be changed by ethtool -L"))
            }
            Kind::CombinedChannels => match self.separate_channels {
                Some(false) => return None,
                Some(true) => new(
                    Weight::Refusal,
                    format!(
                        "{driver} takes no program on {name} while it has channels that only receive; pass --mode skb, \
                         or have them combined"
                    ),
                )
                .mended_by(format!("ethtool -L {name} rx 0 tx 0 combined N")),
                None => new(
                    Weight::Unknown,
                    format!(
                        "whether {name} has channels that only receive, with which {driver} takes no program, ethtool \
                         does not tell"
                    ),
                ),
            },
            Kind::HalfOfChannels => self.half_of_channels(name)?,
            Kind::ZeroCopyHeadroom(bytes) if zero_copy => new(
                Weight::Note,
                format!(
                    "zero-copy on {name} takes {bytes} bytes of headroom, and a device behind an IOMMU \
                     (iommu_platform=on,disable-legacy=on in QEMU)"
                ),
            ),
            Kind::ZeroCopyWholeKib if zero_copy && mtu.saturating_add(L2_OVERHEAD) > whole_kib(capacity) => new(
                Weight::Warning,
                format!(
                    "with --zerocopy {driver} fills whole KiB of a frame: packets of more than {} bytes are lost; \
                     --frame-size 4096 has room for 3072",
                    whole_kib(capacity)
                ),
            ),
            Kind::ZeroCopyQueuesAbove if zero_copy => new(
                Weight::Warning,
                format!("with --zerocopy {name} has its queues twice, and the upper half is for zero-copy"),
            ),
            Kind::AttachBeforeBind => {
                new(Weight::Note, format!("{driver} wants the program before the socket, as umemd does it"))
            }
            Kind::FillBeforeBind if zero_copy => new(
                Weight::Warning,
                format!(
                    "with --zerocopy a queue of {driver} that finds no frames at first may stop for good"
                ),
            ),
            Kind::RunsOnMembers => new(
                Weight::Refusal,
                format!(
                    "the program would run on the members of {name}, whose frames reach only sockets of theirs; pass \
                     --mode skb, or name each of them"
                ),
            )
            .mended_by("umemd run --iface MEMBER --iface MEMBER ..."),
            Kind::BehindConduit => new(
                Weight::Refusal,
                format!(
                    "{name} is a port of a switch: native XDP is on its conduit, which `ip link show {name}` names \
                     behind the @; pass --mode skb, or name that"
                ),
            )
            .mended_by("umemd run --iface CONDUIT ..."),
            Kind::FragmentsBroken if multi_buffer => new(
                Weight::Warning,
                format!("{driver} mixes up packets in several buffers: --multi-buffer off, and keep the MTU at 1500"),
            ),
            Kind::MtuLimit(_)
            | Kind::MtuLimitOfOneBuffer(_)
            | Kind::MtuTakesPools(_)
            | Kind::ZeroCopyHeadroom(_)
            | Kind::ZeroCopyWholeKib
            | Kind::ZeroCopyQueuesAbove
            | Kind::FillBeforeBind
            | Kind::FragmentsBroken
            // Others go by these.
            | Kind::NoNapi
            | Kind::HasMembers
            | Kind::TagsEndAtPorts
            | Kind::TagsComeBeside
            | Kind::VariantsDoNotSwap => return None,
        })
    }
}

/// What makes an mvpp2 with fewer CPUs than queues spread flows over those that are polled: of the weights it is told
/// it shuffles the numbers, as `mvpp22_rxfh_indir` does.
fn weights(name: &str, queues: u32, cpus: u32) -> String {
    let per_cpu = queues / cpus;
    let queue = |told: u32| match told / per_cpu {
        // What is for a CPU that there is not goes to the first queue.
        cpu if cpu >= cpus => 0,
        _ => (told * per_cpu + told / cpus) % queues,
    };
    let weights = (0..queues).map(|told| if queue(told) < cpus { " 1" } else { " 0" });
    format!("ethtool -X {name} weight{}", weights.collect::<String>())
}

/// That all frames arrive on queue 0, which matters the more if others were asked for.
fn one_queue(name: &str, asked: Option<&[u32]>, until: &str) -> Judgement {
    let in_vain = asked.is_some_and(|queues| queues != [0]);
    let weight = if in_vain { Weight::Warning } else { Weight::Note };
    let text = format!("all frames of {name} arrive on queue 0: its other queues stay silent{until}");
    Judgement::new(weight, text)
}

/// Bytes of whole KiB, of so many.
fn whole_kib(bytes: u32) -> u32 {
    bytes & !1023
}

#[cfg(test)]
mod tests;
