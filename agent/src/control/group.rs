//! [`Group`]: interfaces that are opened and closed together: one, or two that frames cross between.
//!
//! A UMEM cannot be bound again once its interface went (libxdp keeps its first socket as long as the UMEM), and
//! what the sockets were made for may change under them. So there is one answer to an interface that was removed,
//! that has other queues now, or packets that its frames do not hold: all of the group is closed, and opened again
//! with new UMEMs and pools as soon as that can be. What was closed waits for who still holds its frames. Where the
//! interface is still there, the program stays attached meanwhile and passes everything, so that no link bounces.

use std::{
    cell::{Cell, RefCell},
    mem,
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use anyhow::Result;
use datapath::{Traffic, handlers::Pace};
use tokio::sync::Notify;
use umemd_common::Decision;

use super::{
    crew::{self, Hire, Part},
    device::{Costly, Device, Kept},
    leaving::Leaving,
    open::{Buried, Change, Open},
    plan,
    queue::Unshown,
};
use crate::{
    capture::Writer,
    config::RunConfig,
    ebpf::RuleCount,
    nic::{self, interrupts},
    observe::{DeviceInfo, DeviceView},
};

/// How often a program took each [`Decision`].
pub(super) type Decisions = [u64; Decision::COUNT];

/// What groups need of the agent that they are of.
pub(super) struct Common {
    config: RefCell<Rc<RunConfig>>,
    pub(super) hire: Hire,
    pub(super) capture: RefCell<Option<Writer>>,
    /// Time zero of all turns.
    pub(super) epoch: Instant,
    /// Rung by a worker that panicked.
    pub(super) alarm: Arc<Notify>,
}

impl Common {
    pub(super) fn new(config: RunConfig, hire: Hire, capture: Option<Writer>, epoch: Instant) -> Self {
        Self {
            config: RefCell::new(Rc::new(config)),
            hire,
            capture: RefCell::new(capture),
            epoch,
            alarm: Arc::default(),
        }
    }

    /// The configuration at the moment; its rules are those in force.
    pub(super) fn config(&self) -> Rc<RunConfig> {
        Rc::clone(&self.config.borrow())
    }

    /// Notes what is in force from here on.
    pub(super) fn set_config(&self, config: RunConfig) {
        *self.config.borrow_mut() = Rc::new(config);
    }
}

/// Interfaces that are opened and closed together.
pub(super) struct Group {
    /// As they were asked for.
    names: Vec<String>,
    /// The CPUs of its workers, in their order; repeated if there are more workers.
    cpus: Vec<usize>,
    part: Cell<Part>,
    state: RefCell<State>,
}

enum State {
    Open(Open),
    /// What was known of the interfaces when they were open, and why they are not.
    Closed {
        infos: Vec<Arc<DeviceInfo>>,
        why: String,
        kept: Vec<Kept>,
    },
}

impl Group {
    /// Opens the group, of so many `queues` that all groups have. Its workers get `cpus` that those before were not
    /// given, while there are such.
    pub(super) fn open(
        common: &Common,
        names: Vec<String>,
        cpus: &[usize],
        before: &[Self],
        queues: usize,
    ) -> Result<Self> {
        let plans = plan::make(&common.config(), &names)?;
        let taken: Vec<usize> = before.iter().flat_map(Self::cpus).collect();
        let mut cpus = cpus.to_vec();
        if common.config().cpus.is_some() {
            // In the order asked for, from where the last worker left off.
            let first = taken.len() % cpus.len().max(1);
            cpus.rotate_left(first);
        } else {
            let interrupted = |plan: &plan::Plan| interrupts::cpus(&plan.link.name, plan.link.index);
            let interrupted: Vec<usize> = plans.iter().flat_map(interrupted).collect();
            cpus = interrupts::spread(&cpus, &interrupted, &taken);
        }
        let (before, own) = (taken.len(), plans[0].queues.len());
        let mut part = Part { before, after: queues.saturating_sub(before + own), own: None };
        let open = Open::new(common, plans, &cpus, part, None)?;
        part.own = Some(crew::sum(&crew::paces(&common.config().handler, part, own)));
        Ok(Self { names, cpus, part: Cell::new(part), state: RefCell::new(State::Open(open)) })
    }

    /// The CPU of each worker.
    fn cpus(&self) -> impl Iterator<Item = usize> {
        self.cpus.iter().copied().cycle().take(self.workers())
    }

    /// How many workers it has.
    pub(super) fn workers(&self) -> usize {
        self.with(Open::workers).unwrap_or(0)
    }

    /// Runs `f` with the group, if it is open.
    pub(super) fn with<T>(&self, f: impl FnOnce(&Open) -> T) -> Option<T> {
        match &*self.state.borrow() {
            State::Open(open) => Some(f(open)),
            State::Closed { .. } => None,
        }
    }

    /// The same, to change it.
    pub(super) fn with_mut<T>(&self, f: impl FnOnce(&mut Open) -> T) -> Option<T> {
        match &mut *self.state.borrow_mut() {
            State::Open(open) => Some(f(open)),
            State::Closed { .. } => None,
        }
    }

    /// Takes note of workers that ended by themselves, if the group is open.
    pub(super) fn bury(&self) -> Option<Buried> {
        self.with_mut(Open::bury)
    }

    /// What workers have done and not shown yet.
    pub(super) fn unshown(&self) -> Vec<Unshown> {
        let unshown = |open: &Open| open.devices.iter().flat_map(Device::unshown).collect();
        self.with(unshown).unwrap_or_default()
    }

    /// What the programs have decided so far, by the index of the interface.
    pub(super) fn decisions(&self) -> Vec<(u32, Option<Decisions>)> {
        let decided = |device: &Device| (device.info().index, device.decisions());
        self.with(|open| open.devices.iter().map(decided).collect()).unwrap_or_default()
    }

    /// The group as it is now, and what its programs had decided before.
    pub(super) fn observe(&self, decided: &[(u32, Option<Decisions>)]) -> Vec<DeviceView> {
        let decided_by = |device: &Device| {
            let known = decided.iter().find(|(index, _)| *index == device.info().index);
            // None, if it was opened only just now.
            known.map_or_else(|| device.decisions(), |(_, decisions)| *decisions)
        };
        match &*self.state.borrow() {
            State::Open(open) => open.observe(decided_by),
            State::Closed { infos, why, .. } => infos
                .iter()
                .map(|info| DeviceView {
                    info: Arc::clone(info),
                    decisions: None,
                    redirect_errors: Err(format!("the interface is away: {why}")),
                    queues: Vec::new(),
                    away: Some(why.clone()),
                    tables: Vec::new(),
                    rules: Vec::new(),
                    kernel: None,
                })
                .collect(),
        }
    }

    /// The interfaces that are away, and why.
    pub(super) fn away(&self) -> Vec<(Arc<DeviceInfo>, String)> {
        match &*self.state.borrow() {
            State::Open(_) => Vec::new(),
            State::Closed { infos, why, .. } => {
                infos.iter().map(|info| (Arc::clone(info), why.clone())).collect()
            }
        }
    }

    /// What each rule has matched on each interface; nothing while those are away.
    pub(super) fn rule_counts(&self) -> Vec<Vec<RuleCount>> {
        self.with(|open| open.devices.iter().filter_map(Device::rule_counts).collect()).unwrap_or_default()
    }

    /// What the kernel knows of each interface; nothing while they are away.
    pub(super) fn costly(&self) -> Vec<Costly> {
        match &*self.state.borrow() {
            State::Open(open) => open.devices.iter().map(Device::costly).collect(),
            State::Closed { infos, .. } => infos.iter().map(|_| Costly::of_nobody()).collect(),
        }
    }

    /// Compares the group with its interfaces, and closes or opens it accordingly. What it closed is returned.
    pub(super) async fn reconcile(&self, common: &Common) -> Option<Leaving> {
        let change = self.with_mut(|open| open.change(&common.config()));
        match change {
            Some(None) => None,
            Some(Some(Change { why, keep })) => {
                log::warn!("{}: {why}; its queues are closed", self.names_now().join(" and "));
                self.close(&why, keep).await
            }
            None => self.open_again(common).await,
        }
    }

    /// Closes the group, if it is open; to be opened again, it keeps its programs where they are.
    pub(super) async fn close(&self, reason: &str, keep: bool) -> Option<Leaving> {
        let infos = self.with(Open::infos)?;
        let closed = State::Closed { infos, why: reason.to_owned(), kept: Vec::new() };
        let State::Open(open) = self.state.replace(closed) else { return None };
        let (ending, programs) = open.close(keep);
        // At once: who stops meanwhile detaches them.
        if let State::Closed { kept, .. } = &mut *self.state.borrow_mut() {
            *kept = programs;
        }
        let leaving = ending.end().await;
        self.count_sent(&leaving);
        Some(leaving)
    }

    /// Takes what its workers sent off what is left to send.
    fn count_sent(&self, leaving: &Leaving) {
        let sent: u64 = leaving.queues().map(|queue| generated(&queue.snapshot.traffic)).sum();
        let mut part = self.part.get();
        if let Some(Pace { count: Some(left), .. }) = &mut part.own {
            *left = left.saturating_sub(sent);
        }
        self.part.set(part);
    }

    /// Whether it has sent all that it is to send by itself, as far as it is counted.
    pub(super) fn has_sent_all(&self) -> bool {
        self.part.get().own.is_some_and(|own| own.count == Some(0))
    }

    /// Detaches the programs: no further frame is steered.
    pub(super) fn detach(&self) {
        match &mut *self.state.borrow_mut() {
            State::Open(open) => open.devices.iter().for_each(Device::detach),
            State::Closed { kept, .. } => kept.clear(),
        }
    }

    /// What its interfaces are called by now: one that was renamed is still the same; in the place of one that is gone,
    /// another one of its name will do.
    fn names_now(&self) -> Vec<String> {
        let infos = match &*self.state.borrow() {
            State::Open(open) => open.infos(),
            State::Closed { infos, .. } => infos.clone(),
        };
        let now = |(info, name): (&Arc<DeviceInfo>, &String)| match nic::link(info.index) {
            Ok(Some(link)) => link.name,
            Ok(None) | Err(_) => name.clone(),
        };
        infos.iter().zip(&self.names).map(now).collect()
    }

    /// Opens the group, if that can be by now. What of it was begun and had to be closed is returned.
    async fn open_again(&self, common: &Common) -> Option<Leaving> {
        let mut kept = match &mut *self.state.borrow_mut() {
            State::Open(_) => return None,
            State::Closed { kept, .. } => mem::take(kept),
        };
        let mut leaving = None;
        let names = self.names_now();
        let opened = plan::make(&common.config(), &names)
            .and_then(|plans| Open::new(common, plans, &self.cpus, self.part.get(), Some(&mut kept)));
        let started = match opened {
            Err(error) => Err(error),
            Ok(mut open) => match open.start(common) {
                Ok(()) => Ok(open),
                Err(error) => {
                    let (ending, programs) = open.close(true);
                    kept.extend(programs);
                    let left = ending.end().await;
                    self.count_sent(&left);
                    leaving = Some(left);
                    Err(error)
                }
            },
        };
        let mut state = self.state.borrow_mut();
        match (started, &mut *state) {
            (Ok(open), _) => {
                log::info!("{}: served again", names.join(" and "));
                *state = State::Open(open);
            }
            (Err(error), State::Closed { why, kept: still, .. }) => {
                *still = kept;
                let now = format!("{error:#}");
                if *why != now {
                    log::warn!("not opened again: {now}; trying each second");
                    *why = now;
                }
            }
            (Err(_), State::Open(_)) => unreachable!("it was closed"),
        }
        leaving
    }
}

/// Packets that began at a queue which was closed, without those that the kernel never took.
fn generated(traffic: &Traffic) -> u64 {
    // All are of one size, so each has as many frames.
    let frames = (traffic.tx_packets + traffic.tx_fragments).div_ceil(traffic.tx_packets.max(1));
    let unsent = traffic.tx_invalid + traffic.tx_full + traffic.tx_unsent.div_ceil(frames.max(1));
    traffic.generated.saturating_sub(unsent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_sent_is_to_be_sent_still() {
        let traffic = Traffic {
            generated: 102,
            tx_packets: 90,
            tx_invalid: 2,
            tx_full: 10,
            tx_unsent: 30,
            ..Traffic::default()
        };
        assert_eq!(generated(&traffic), 60);
        assert_eq!(generated(&Traffic { tx_fragments: 4 * 90, ..traffic }), 84, "of five frames each");
        assert_eq!(generated(&Traffic::default()), 0);
    }
}
