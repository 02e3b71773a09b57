//! [`Plan`]: how an interface is to be opened, from what it is at the moment.

use anyhow::{Context as _, Result, bail};
use datapath::packet::MAX_FRAGMENTS;
use procfs::{Current as _, Meminfo};

use crate::{
    config::{BindMode, HEADROOM, Handler, L2_OVERHEAD, MultiBuffer, RunConfig},
    nic::{
        self, ActiveQueues, Address, Link, NicError, Route, SwitchTag, drivers,
        probe::Facts,
        quirks::{Finding, Kind, Purpose, Weight},
    },
    steer::{
        RuleSet,
        guard::{self, InterfaceFacts},
    },
    xsk::RingSizes,
};

/// How one interface is to be opened.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) link: Link,
    /// What was known of it then.
    pub(super) facts: Facts,
    /// The queues to serve.
    pub(super) queues: Vec<u32>,
    /// Whether somebody told how many are active.
    pub(super) queues_told: bool,
    /// Whether packets may take several frames.
    pub(super) multi_buffer: bool,
    /// Whether that is only for those that come: where the kernel refuses it, they are dropped instead.
    pub(super) does_without_multi_buffer: bool,
    /// The mode to ask for, and whether the user did.
    pub(super) bind: (BindMode, bool),
    /// Bytes to keep free in each frame: as configured, or more if the driver wants that for zero-copy.
    pub(super) headroom: u32,
    /// What a switch chip puts into the frames.
    pub(super) switch_tag: SwitchTag,
}

/// What this network namespace looks like: what the lock-out guard goes by.
pub(super) struct Surroundings {
    links: Vec<Link>,
    addresses: Vec<Address>,
    routes: Vec<Route>,
}

impl Surroundings {
    /// Asks the kernel.
    pub(super) fn ask() -> Result<Self, NicError> {
        let ask = |what| move |source| NicError::Kernel { what, source };
        Ok(Self {
            links: nic::links().map_err(NicError::links)?,
            addresses: nic::addresses().map_err(ask("its addresses"))?,
            routes: nic::routes().map_err(ask("its routes"))?,
        })
    }

    /// What the guard has to know of one of the interfaces.
    pub(super) fn facts(&self, link: &Link) -> InterfaceFacts {
        nic::facts(link, &self.links, &self.addresses, &self.routes)
    }
}

/// Plans for these interfaces, or the reason why one of them cannot be opened.
pub(super) fn make(config: &RunConfig, names: &[String]) -> Result<Vec<Plan>> {
    let surroundings = Surroundings::ask()?;
    let mut plans = Vec::new();
    for name in names {
        let link = nic::find(&surroundings.links, name, config.netns.as_deref())?;
        if !link.up {
            return Err(NicError::Down { name: name.clone() }.into());
        }
        let forced = config.forced.as_deref();
        if forced != Some(&*config.rules) {
            guard::refuse_lock_out(&config.rules, forced, &surroundings.facts(link))
                .with_context(|| format!("will not attach to {name}"))?;
        }
        plans.push(Plan::new(config, link.clone())?);
    }
    join(&mut plans)?;
    Ok(plans)
}

/// What two interfaces that frames cross between must have in common.
fn join(plans: &mut [Plan]) -> Result<()> {
    let [a, b] = plans else { return Ok(()) };
    if a.queues.len() != b.queues.len() {
        bail!(
            "cannot forward between {} with {} queues and {} with {}: queue 0 is joined with queue 0, and so on; \
             --queues chooses as many on both{}",
            a.link.name,
            a.queues.len(),
            b.link.name,
            b.queues.len(),
            more_queues(a, b)
        );
    }
    // One UMEM has one mode, and what comes in has to go out.
    let multi_buffer = a.multi_buffer || b.multi_buffer;
    let copy = [a.bind.0, b.bind.0].contains(&BindMode::Copy);
    let headroom = a.headroom.max(b.headroom);
    for plan in [a, b] {
        plan.headroom = headroom;
        plan.multi_buffer = multi_buffer;
        plan.bind.0 = if copy { BindMode::Copy } else { BindMode::ZeroCopy };
    }
    Ok(())
}

/// What changes how many queues are served, if anything does: of the interface with fewer, whose driver may have them
/// and leave them idle.
fn more_queues(a: &Plan, b: &Plan) -> String {
    let Plan { link, facts, .. } = if a.queues.len() < b.queues.len() { a } else { b };
    let way = match facts.spreading(&link.name) {
        Some(commands) => commands.join("`, then `"),
        None if drivers::has(&facts.driver, |kind| kind == Kind::NoChannels) => return String::new(),
        None => "ethtool -L".to_owned(),
    };
    format!(", or `{way}` changes them")
}

impl Plan {
    pub(super) fn new(config: &RunConfig, link: Link) -> Result<Self> {
        let facts = Facts::of(&link);
        let driver = &facts.driver;
        let bind = match config.bind {
            Some(asked) => (asked, true),
            None => (drivers::default_bind(driver, config.mode, facts.linux), false),
        };
        let wanted = if bind.0 == BindMode::ZeroCopy { drivers::zero_copy_headroom(driver) } else { 0 };
        let headroom = config.headroom.max(wanted);
        let active = ActiveQueues::of(&link)?;
        let queues = active.choose(config.queues.as_deref(), facts.only_queue())?;
        let (mut longest, capacity) = (link.mtu + L2_OVERHEAD, capacity(config, headroom));
        let mut does_without_multi_buffer = config.multi_buffer == MultiBuffer::Auto;
        if let Handler::Generate(generate) = &config.handler {
            if generate.size > link.mtu as usize + 14 {
                bail!(
                    "--size {} does not fit {}, whose MTU is {}: at most {} bytes do",
                    generate.size,
                    link.name,
                    link.mtu,
                    link.mtu + 14
                );
            }
            longest = longest.max(generate.size as u32);
            does_without_multi_buffer &= generate.size as u32 <= capacity;
        }
        let multi_buffer = match config.multi_buffer {
            MultiBuffer::Auto => longest > capacity && facts.bears_fragments(),
            MultiBuffer::On => true,
            MultiBuffer::Off => false,
        };
        if config.handler.sends() {
            active.refuse_mute(&queues)?;
        }
        let switch_tag = switch_tag(config, &link)?;
        let plan = Self {
            link,
            facts,
            queues,
            queues_told: active.told,
            multi_buffer,
            does_without_multi_buffer,
            bind,
            headroom,
            switch_tag,
        };
        if let Handler::Generate(generate) = &config.handler {
            let rings = RingSizes::new(config.layout, 1, config.rings);
            let frame = config.layout.chunk_size();
            if let Some(why) = plan.too_many_frames(generate.size as u32, frame, capacity, rings) {
                bail!(why);
            }
        }
        let refusal = |finding: &Finding| finding.weight == Weight::Refusal;
        match plan.facts.findings(&plan.link.name, plan.purpose(config)).into_iter().find(refusal) {
            Some(finding) => Err(NicError::Quirk { finding }.into()),
            None => Ok(plan),
        }
    }

    /// How many frames the kernel takes for one packet to be sent: those of an skb, or in zero-copy mode what the driver
    /// says (`xdp_zc_max_segs` of `struct net_device`), as far as the kernel tells.
    pub(super) fn max_fragments(&self, bind: BindMode) -> usize {
        let told = self.facts.zero_copy_segments.filter(|_| bind == BindMode::ZeroCopy);
        told.map_or(MAX_FRAGMENTS, |most| (most as usize).clamp(1, MAX_FRAGMENTS))
    }

    /// Why packets of `size` bytes cannot be sent, and what would let them, if they take more frames than a packet may
    /// have here; of frames of so many bytes, with room for `capacity`, on these rings.
    fn too_many_frames(&self, size: u32, frame: u32, capacity: u32, rings: RingSizes) -> Option<String> {
        let kernels = match self.max_fragments(self.bind.0) {
            // A socket for several is refused then, and gets copy mode.
            1 if !self.bind.1 => self.max_fragments(BindMode::Copy),
            most => most,
        } as u32;
        let most = if self.multi_buffer { rings.most_fragments().min(kernels) } else { 1 };
        let wanted = size.div_ceil(capacity);
        if wanted <= most {
            return None;
        }
        let fits_larger = frame < 4096 && size.div_ceil(capacity + 4096 - frame) <= most;
        let several = !self.multi_buffer && self.facts.bears_fragments();
        let longer = self.multi_buffer && wanted <= kernels;
        let ways = [
            (fits_larger, "larger frames (--frame-size 4096)"),
            (several, "several frames (--multi-buffer auto)"),
            (longer && rings.completion >= wanted, "a longer --tx-ring"),
            (longer && rings.tx >= wanted, "a longer --completion-ring"),
            (longer && rings.tx.max(rings.completion) < wanted, "a longer --tx-ring and --completion-ring"),
        ];
        let ways: String =
            ways.iter().filter(|(helps, _)| *helps).map(|(_, way)| format!("{way}, ")).collect();
        Some(format!(
            "--size {size} takes {wanted} frames with room for {capacity} bytes, and a packet may have {most} on {}: \
             {ways}{}at most {} bytes do",
            self.link.name,
            if ways.is_empty() { "" } else { "or " },
            most * capacity
        ))
    }

    /// What the table of quirks has to know of it.
    fn purpose<'a>(&self, config: &'a RunConfig) -> Purpose<'a> {
        Purpose {
            mode: config.mode,
            bind: self.bind.0,
            multi_buffer: self.multi_buffer,
            capacity: capacity(config, self.headroom),
            lent: RingSizes::new(config.layout, 1, config.rings).fill_target,
            queues: config.queues.as_deref(),
        }
    }

    /// Says what will be dropped, and what the driver does otherwise than one expects.
    pub(super) fn warn(&self, config: &RunConfig) {
        for finding in self.facts.findings(&self.link.name, self.purpose(config)) {
            match finding.weight {
                Weight::Refusal => {}
                Weight::Warning => log::warn!("{finding}"),
                Weight::Note | Weight::Unknown => log::info!("{finding}"),
            }
        }
        if self.switch_tag != SwitchTag::None {
            let (name, bytes) = (&self.link.name, self.switch_tag.bytes());
            log::info!(
                "rules look behind the {bytes} bytes of tag that the switch at {name} puts into frames"
            );
        }
        for warning in self.warnings(&config.rules) {
            log::warn!("{warning}");
        }
        if let Some(warning) = self.too_long(config.layout.chunk_size(), capacity(config, self.headroom)) {
            log::warn!("{warning}");
        }
    }

    /// What to say if not all packets fit into a frame of so many bytes, which has room for `capacity`, and none may
    /// take several.
    fn too_long(&self, frame: u32, capacity: u32) -> Option<String> {
        let (name, mtu) = (&self.link.name, self.link.mtu);
        let way = match self.facts.bears_fragments() {
            true => "--multi-buffer auto lets them take several frames",
            false => {
                "larger frames (--frame-size) or a lower MTU let them come, as several frames would mix them up"
            }
        };
        (mtu + L2_OVERHEAD > capacity && !self.multi_buffer).then(|| {
            format!(
                "{name} has MTU {mtu}, and a frame of {frame} bytes holds packets of {capacity}: longer ones are \
                 dropped and counted as xsk_rx_dropped; {way}"
            )
        })
    }

    /// What to say of rules that will not do here what was hoped.
    pub(super) fn warnings(&self, rules: &RuleSet) -> Vec<String> {
        let kept_away = || nic::tags::kept_away(&self.link, &self.facts.driver).ok().flatten();
        let tags = rules.look_for_tags().then(kept_away).flatten();
        tags.iter().map(ToString::to_string).chain(self.idle(rules)).collect()
    }

    /// What to say if rules steer on queues only that are not served.
    fn idle(&self, rules: &RuleSet) -> Option<String> {
        let mut idle = rules.idle_on(&self.queues);
        let (first, others) = (idle.next()?, idle.count());
        let others = if others > 0 { format!(" (and {others} more)") } else { String::new() };
        Some(format!(
            "rule `{first}`{others} steers nothing on {}: none of its queues is served there; umemd serves {}, and \
             --queues chooses others",
            self.link.name,
            self.queues.iter().map(u32::to_string).collect::<Vec<_>>().join(", "),
        ))
    }

    /// What is different in `new`, if the interface has to be opened again for that.
    pub(super) fn difference(&self, new: &Self) -> Option<String> {
        // By name: of a pair it is said of both that they are away.
        let name = &new.link.name;
        if self.queues != new.queues {
            return Some(format!("{name} has {} queues now, not {}", new.queues.len(), self.queues.len()));
        }
        // A pair may have more than its own MTU asks for.
        if new.multi_buffer && !self.multi_buffer {
            return Some(format!("the MTU of {name} is {} now, more than a frame holds", new.link.mtu));
        }
        // Its driver may come later than we do, and dsa/tagging may be written to.
        if self.switch_tag != new.switch_tag {
            let (old, new) = (self.switch_tag.bytes(), new.switch_tag.bytes());
            return Some(format!(
                "the switch of {name} puts a tag of {new} bytes into frames now, not of {old}"
            ));
        }
        None
    }
}

/// What to say of two interfaces that frames cross between, if not all packets fit both.
pub(super) fn narrow_way(a: &Link, b: &Link) -> Option<String> {
    let (wide, narrow) = if a.mtu > b.mtu { (a, b) } else { (b, a) };
    (wide.mtu > narrow.mtu).then(|| {
        format!(
            "{} has MTU {} and {} has MTU {}: longer packets are given to {2} to send, which may drop them, and count as \
             sent; equal MTUs let all of them cross",
            wide.name, wide.mtu, narrow.name, narrow.mtu,
        )
    })
}

/// The tag that a switch chip puts into this interface's frames: as configured, else as sysfs says.
fn switch_tag(config: &RunConfig, interface: &Link) -> Result<SwitchTag> {
    match config.switch_tag {
        Some(tag) => Ok(tag),
        // sysfs would answer for an interface of our own namespace with that name.
        None if config.netns.is_some() => Ok(SwitchTag::None),
        None => nic::tagging(interface).with_context(|| {
            format!(
                "cannot look behind the tag of the switch at {}; its dsa/tagging may be set to `dsa` or `edsa`, \
                 and --switch-tag none takes the frames as they are",
                interface.name
            )
        }),
    }
}

/// Bytes of a packet that a frame has room for.
fn capacity(config: &RunConfig, headroom: u32) -> u32 {
    config.layout.chunk_size() - HEADROOM - headroom
}

/// Refuses UMEMs that the machine cannot hold, before the kernel pins them page by page.
pub(super) fn refuse_too_much_memory(config: &RunConfig, queues: usize) -> Result<()> {
    let wanted =
        u64::from(config.layout.chunk_size()) * u64::from(config.layout.chunk_count()) * queues as u64;
    // A machine that does not tell is not refused.
    let available =
        Meminfo::current().ok().and_then(|meminfo| available(&meminfo, config.huge_pages, wanted));
    match available {
        Some(available) if wanted > available => bail!(
            "{queues} queues with {} frames of {} bytes take {} MiB, and {} MiB are available; ask for fewer \
             --frames or --queues",
            config.layout.chunk_count(),
            config.layout.chunk_size(),
            wanted >> 20,
            available >> 20,
        ),
        _ => Ok(()),
    }
}

/// How much memory there is for so much, if the machine tells. Huge pages that were reserved are none of the memory that
/// is available, and nobody else takes them; if they do not suffice, ordinary ones take their place.
fn available(meminfo: &Meminfo, huge_pages: bool, wanted: u64) -> Option<u64> {
    let free = meminfo.hugepages_free.unwrap_or(0).saturating_sub(meminfo.hugepages_rsvd.unwrap_or(0));
    let set_aside = free * meminfo.hugepagesize.unwrap_or(0);
    if huge_pages && set_aside >= wanted { Some(set_aside) } else { meminfo.mem_available }
}

/// The CPUs for the workers: those asked for, or all that this process may use, from the last one down.
pub(super) fn cpus(config: &RunConfig) -> Result<Vec<usize>> {
    let allowed = rustix::thread::sched_getaffinity(None).context("cannot ask which CPUs may be used")?;
    let all: Vec<usize> =
        (0..rustix::thread::CpuSet::MAX_CPU).rev().filter(|cpu| allowed.is_set(*cpu)).collect();
    let Some(asked) = &config.cpus else { return Ok(all) };
    if let Some(cpu) = asked.iter().find(|cpu| !all.contains(cpu)) {
        bail!(
            "--cpus {cpu}: this process may not use that CPU; it may use {:?}",
            all.into_iter().rev().collect::<Vec<_>>()
        );
    }
    Ok(asked.clone())
}

#[cfg(test)]
mod tests {
    use procfs::FromRead as _;

    use super::*;

    fn plan() -> Plan {
        let link = Link {
            index: 2,
            name: "eth0".into(),
            up: true,
            carrier: true,
            passive: false,
            mac: None,
            mtu: 1500,
            max_mtu: None,
            master: None,
            lower: None,
            peer: None,
            vlan: None,
            filters_vlans: None,
            rx_queues: 1,
            tx_queues: 1,
            xdp: None,
        };
        Plan {
            link,
            facts: Facts { driver: "mvneta".into(), ..Facts::default() },
            queues: vec![0],
            queues_told: true,
            multi_buffer: false,
            does_without_multi_buffer: true,
            bind: (BindMode::Copy, false),
            headroom: 0,
            switch_tag: SwitchTag::None,
        }
    }

    #[test]
    fn what_sockets_and_program_were_made_for_is_noticed_when_it_changes() {
        let plan = plan();
        assert_eq!(plan.difference(&plan.clone()), None);
        let says = |plan: &Plan, new: Plan, said: &str| {
            let why = plan.difference(&new).unwrap_or_default();
            assert!(why.contains(said), "expected {said:?}: {why:?}");
        };
        says(&plan, Plan { queues: vec![0, 1], ..plan.clone() }, "eth0 has 2 queues now, not 1");
        says(&plan, Plan { multi_buffer: true, ..plan.clone() }, "MTU");
        let tagged = Plan { switch_tag: SwitchTag::Edsa, ..plan.clone() };
        says(&plan, tagged.clone(), "a tag of 8 bytes into frames now, not of 0");
        says(&tagged, plan.clone(), "a tag of 0 bytes into frames now, not of 8");
        // More than is asked for is no reason.
        let several = Plan { multi_buffer: true, ..plan.clone() };
        assert_eq!(several.difference(&plan), None);
    }

    #[test]
    fn who_sends_packets_of_too_many_frames_learns_what_would_do() {
        let rings = RingSizes { fill: 64, fill_target: 32, rx: 64, tx: 64, completion: 64 };
        let says = |plan: &Plan, size, rings, said: &str| {
            let why = plan.too_many_frames(size, 2048, 1792, rings).unwrap_or_default();
            assert!(why.contains(said) && why.is_empty() == said.is_empty(), "expected {said:?}: {why:?}");
        };
        says(&plan(), 1792, rings, "");
        says(
            &plan(),
            1793,
            rings,
            "have 1 on eth0: larger frames (--frame-size 4096), several frames (--multi-",
        );
        says(
            &plan(),
            9000,
            rings,
            "have 1 on eth0: several frames (--multi-buffer auto), or at most 1792 bytes do",
        );
        let mixes_up = Facts { driver: "i40e".into(), ..Facts::default() };
        says(&Plan { facts: mixes_up, ..plan() }, 9000, rings, "have 1 on eth0: at most 1792 bytes do");
        let several = Plan { multi_buffer: true, ..plan() };
        says(&several, 9000, rings, "");
        says(
            &several,
            9000,
            RingSizes { tx: 4, ..rings },
            ": larger frames (--frame-size 4096), a longer --tx-ring, or",
        );
        says(
            &several,
            9000,
            RingSizes { completion: 2, ..rings },
            "have 2 on eth0: a longer --completion-ring, or",
        );
        let both = RingSizes { tx: 2, completion: 2, ..rings };
        says(&several, 9000, both, "have 2 on eth0: a longer --tx-ring and --completion-ring, or");
        // A zero-copy that takes one frame is not had for several, and copy mode is; unless it was asked for.
        let one = Facts { zero_copy_segments: Some(1), ..Facts::default() };
        let planned = Plan { facts: one, bind: (BindMode::ZeroCopy, false), ..several };
        says(&planned, 9000, rings, "");
        says(&Plan { bind: (BindMode::ZeroCopy, true), ..planned }, 9000, rings, "have 1 on eth0: at most");
    }

    /// A board of 512 MiB, half of which it has set aside.
    #[test]
    fn huge_pages_that_were_set_aside_are_not_missing() {
        let text = "MemTotal: 499712 kB\nMemFree: 9000 kB\nMemAvailable: 20480 kB\nBuffers: 0 kB\nCached: 0 kB\n\
                    SwapCached: 0 kB\nActive: 0 kB\nInactive: 0 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\nDirty: 0 kB\n\
                    Writeback: 0 kB\nMapped: 0 kB\nSlab: 0 kB\nCommitted_AS: 0 kB\nVmallocTotal: 0 kB\n\
                    VmallocUsed: 0 kB\nVmallocChunk: 0 kB\nHugePages_Total: 128\nHugePages_Free: 104\n\
                    HugePages_Rsvd: 4\nHugepagesize: 2048 kB\n";
        let meminfo = Meminfo::from_read(text.as_bytes()).unwrap();
        assert_eq!(available(&meminfo, true, 200 << 20), Some(200 << 20), "all hundred");
        assert_eq!(available(&meminfo, true, 201 << 20), Some(20 << 20), "ordinary pages take their place");
        assert_eq!(available(&meminfo, false, 64 << 20), Some(20 << 20));
    }

    /// The first of --cpus is for the first of --queues.
    #[test]
    fn queues_that_are_joined_keep_their_order() {
        let asked = Plan { queues: vec![1, 0], ..plan() };
        let mut joined = [asked.clone(), asked.clone()];
        join(&mut joined).unwrap();
        assert!(joined.iter().all(|plan| plan.difference(&asked).is_none()), "{joined:?}");
    }

    #[test]
    fn how_to_have_as_many_queues_is_said_of_the_interface_with_fewer() {
        let (one, four) = (plan(), Plan { queues: vec![0, 1, 2, 3], ..plan() });
        assert_eq!(more_queues(&one, &four), "", "mvneta has no channels");
        let other = Facts { driver: "ice".into(), ..Facts::default() };
        let other = Plan { facts: other, ..one.clone() };
        assert_eq!(more_queues(&other, &four), ", or `ethtool -L` changes them");
        let facts = Facts { driver: "mvpp2".into(), hashes: Some(false), ..Facts::default() };
        let flat = Plan { facts, ..one };
        for (a, b) in [(&flat, &four), (&four, &flat)] {
            assert!(more_queues(a, b).contains("ethtool -K eth0 rxhash on"));
        }
    }

    /// ice takes 8 without a copy; one more would be refused, and on older kernels its frames lost.
    #[test]
    fn a_packet_may_have_as_many_frames_as_the_driver_takes() {
        let mut ice = Plan { facts: Facts { zero_copy_segments: Some(8), ..Facts::default() }, ..plan() };
        let fragments =
            |plan: &Plan| [BindMode::ZeroCopy, BindMode::Copy].map(|bind| plan.max_fragments(bind));
        assert_eq!(fragments(&ice), [8, MAX_FRAGMENTS]);
        ice.facts.zero_copy_segments = None;
        assert_eq!(fragments(&ice), [MAX_FRAGMENTS; 2]);
        ice.facts.zero_copy_segments = Some(64);
        assert_eq!(fragments(&ice), [MAX_FRAGMENTS; 2], "more than a worker puts together");
    }

    #[test]
    fn several_frames_are_advised_only_where_they_work() {
        let mut plan = plan();
        let said = |plan: &Plan, driver: &str| {
            let facts = Facts { driver: driver.into(), ..Facts::default() };
            Plan { facts, ..plan.clone() }.too_long(2048, 1792)
        };
        assert_eq!(said(&plan, "i40e"), None);
        plan.link.mtu = 3000;
        assert!(said(&plan, "ice").unwrap().contains("--multi-buffer auto"));
        let i40e = said(&plan, "i40e").unwrap();
        assert!(!i40e.contains("--multi-buffer") && i40e.contains("--frame-size"), "{i40e}");
        plan.multi_buffer = true;
        assert_eq!(said(&plan, "ice"), None);
    }

    #[test]
    fn a_way_that_is_narrower_at_one_end_is_warned_of() {
        let (a, b) = (plan().link, Link { name: "eth1".into(), mtu: 9000, ..plan().link });
        assert_eq!(narrow_way(&a, &a), None);
        for (a, b) in [(&a, &b), (&b, &a)] {
            let said = narrow_way(a, b).unwrap();
            assert!(said.starts_with("eth1 has MTU 9000 and eth0 has MTU 1500: "), "{said}");
        }
    }
}
