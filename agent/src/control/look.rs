//! How the agent looks at all that it runs: at any moment, with what the workers have not shown yet, and with what the
//! kernel says.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{
    Agent,
    device::Costly,
    group::{Decisions, Group},
    leaving::Leaving,
    watchdog,
};
use crate::{
    capture::{Closing, Writer, Written},
    observe::{self, Asked, Collector, DeviceInfo, Observation, QueueView},
};

/// How old the kernel's answers may be for a scrape. To ask is a third of what a scrape costs, and who scrapes reckons
/// in minutes.
pub(super) const FOR_SCRAPES: Duration = Duration::from_millis(900);
/// The same for who shows what happened in the last second: the live page, and `umemd top`.
pub(super) const FOR_VIEWS: Duration = Duration::from_millis(100);

/// What the kernel said last.
pub(super) struct LastAsked {
    at: Instant,
    /// Of which interfaces, and which of them were away: one that was opened again has counters of its own.
    of: Vec<(Arc<DeviceInfo>, bool)>,
    /// Of the interfaces.
    asked: Asked,
    /// Of what is ours on each of them.
    ours: Vec<Costly>,
}

impl LastAsked {
    fn is_of(&self, of: &[(Arc<DeviceInfo>, bool)]) -> bool {
        let same = |((a, a_away), (b, b_away)): (&(Arc<DeviceInfo>, bool), &(_, _))| {
            Arc::ptr_eq(a, b) && a_away == b_away
        };
        self.of.len() == of.len() && self.of.iter().zip(of).all(same)
    }
}

impl Agent {
    pub(super) fn captured(&self) -> Option<Written> {
        let writing = self.common.capture.borrow().as_ref().map(Writer::written);
        writing.or_else(|| self.closing.borrow().as_ref().map(Closing::written))
    }

    pub(super) fn leaving_queues(&self) -> Vec<QueueView> {
        self.leaving.borrow().iter().flat_map(Leaving::queues).cloned().collect()
    }

    /// The agent as it is now. What was decided by the moment before, and is seen nowhere in what the workers show,
    /// did not get through.
    pub(super) fn observe(&self, decided: &[(u32, Option<Decisions>)]) -> Observation {
        Observation {
            at: self.started.elapsed(),
            started: self.started_at,
            epoch: SystemTime::now() - self.common.epoch.elapsed(),
            leak_after: self.common.config().leak_after,
            rules: Arc::clone(&self.common.config().rules),
            handler: self.common.config().handler.name(),
            reloads: self.reloads.get(),
            devices: self.groups.iter().flat_map(|group| group.observe(decided)).collect(),
            leaving: self.leaving_queues(),
            past: self.past.borrow().clone(),
            capture: self.captured(),
            orphans: Vec::new(),
            boottime: 0,
            collectors: Vec::new(),
            process: None,
            requests: Vec::new(),
        }
    }

    /// The same, with all turns that have ended by now.
    pub(super) async fn observe_now(&self) -> Observation {
        let asked = Instant::now();
        let decided = self.decided();
        let steer = asked.elapsed();
        self.catch_up().await;
        let asked = Instant::now();
        let mut now = self.observe(&decided);
        let mut served = now.devices.iter().flat_map(|device| &device.queues);
        let xsk = served.all(|queue| queue.failed || queue.xsk.is_some());
        now.collectors = vec![
            Collector { name: "steer", success: decided.iter().all(|(_, told)| told.is_some()), took: steer },
            Collector { name: "xsk", success: xsk, took: asked.elapsed() },
        ];
        now
    }

    /// What the programs have decided so far, by the index of the interface.
    pub(super) fn decided(&self) -> Vec<(u32, Option<Decisions>)> {
        self.groups.iter().flat_map(Group::decisions).collect()
    }

    /// Waits for workers to show what they have done: they do not at the end of every turn.
    pub(super) async fn catch_up(&self) {
        let mut unshown: Vec<_> = self.groups.iter().flat_map(Group::unshown).collect();
        // One that has only just begun to hang, or gets no processor, is not waited for.
        let patience = Instant::now() + watchdog::PERIOD;
        loop {
            unshown.retain(|unshown| !unshown.has_come_or_ring());
            if unshown.is_empty() || Instant::now() > patience {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The same, and what the kernel says: of the interfaces themselves, of what the rules matched and of CPU times. It
    /// is not asked again while its last answer is not older than `age`.
    pub(super) async fn observe_all(&self, age: Duration) -> Observation {
        let mut observation = self.observe_now().await;
        let mut asked = self.asked.borrow_mut();
        let of: Vec<_> = observation
            .devices
            .iter()
            .map(|device| (Arc::clone(&device.info), device.away.is_some()))
            .collect();
        let fresh = asked.as_ref().is_some_and(|last| last.at.elapsed() <= age && last.is_of(&of));
        if !fresh {
            let devices = observation.devices.iter().map(|device| device.info.as_ref());
            let start = Instant::now();
            let ours: Vec<_> = self.groups.iter().flat_map(Group::costly).collect();
            let rules = Collector {
                name: "rules",
                success: ours.iter().all(|ours| ours.rules.is_some()),
                took: start.elapsed(),
            };
            let mut said = observe::ask(devices);
            said.collectors.push(rules);
            *asked = Some(LastAsked { at: start, of, asked: said, ours });
        }
        if let Some(LastAsked { asked, ours, .. }) = &*asked {
            for (device, ours) in observation.devices.iter_mut().zip(ours) {
                device.rules = ours.rules.clone().unwrap_or_default();
                for (queue, cpu_s) in device.queues.iter_mut().zip(&ours.cpu_s) {
                    queue.cpu_s = *cpu_s;
                }
                device.kernel = asked.views.get(&device.info.index).cloned();
            }
            observation.orphans.clone_from(&asked.orphans);
            observation.boottime = asked.boottime;
            observation.collectors.extend_from_slice(&asked.collectors);
            observation.process = asked.process;
        }
        observation.requests = self.requests.counts();
        observation
    }
}
