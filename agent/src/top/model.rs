//! What is on the screen, without a screen.

use std::{collections::VecDeque, time::Instant};

use crate::{
    client::ClientError,
    counts::Counts,
    page_pool::{DeviceJson, PoolJson},
    status::{DeviceStatus, DropStatus, QueueStatus, Status, recycle_ratio},
};

/// Seconds that the sparklines remember; more than a terminal is wide.
const KEEP: usize = 240;

/// The status seen last, the one before, and what was chosen to be shown.
#[derive(Debug)]
pub struct Model {
    url: String,
    now: Status,
    /// What was counted between the status before and that, and the seconds between.
    growth: Option<(Status, f64)>,
    /// Since when it does not answer, and why not.
    error: Option<(Instant, String)>,
    /// 0: everything; from 1 on: a queue.
    chosen: usize,
    paused: bool,
    lists: bool,
    running: bool,
    received: VecDeque<u64>,
    lost: VecDeque<u64>,
}

/// What is shown: one queue, or all of them added up.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct View {
    pub(super) title: String,
    pub(super) frames: Counts,
    pub(super) total: u64,
    pub(super) ours: Counts,
    pub(super) traffic: Counts,
    /// The kernel's counters of the device, or of all devices.
    pub(super) kernel: Option<Counts>,
    /// Of how many devices these are, and how many there are.
    pub(super) kernel_of: (usize, usize),
    /// Whether all but the kernel's is of one queue.
    pub(super) one_queue: bool,
    /// Why there are none.
    pub(super) kernel_silent: Option<String>,
    /// Whether ethtool alone told of the kernel's pools, and nobody knows which are detached.
    pub(super) kernel_unlisted: bool,
    /// Pools of the kernel that cannot end.
    pub(super) stalled: Vec<PoolJson>,
    pub(super) steered: bool,
}

/// One queue of the list.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct QueueRow {
    /// As `eth0/1`.
    pub(super) name: String,
    /// How its packets come: `copy` and `zero-copy` of a native program, else where that runs, which is always a copy.
    pub(super) mode: String,
    /// Packets a second.
    pub(super) received: f64,
    pub(super) sent: f64,
    /// How much of what was allocated in the last second had been recycled.
    pub(super) recycled: Option<f64>,
    /// Packets since it was opened.
    pub(super) lost: Option<u64>,
    /// What is wrong with it.
    pub(super) alarm: Option<&'static str>,
    pub(super) chosen: bool,
}

impl Model {
    /// Starts with a first status.
    pub fn new(url: &str, first: Status) -> Self {
        Self {
            url: url.to_owned(),
            now: first,
            growth: None,
            error: None,
            chosen: 0,
            paused: false,
            lists: false,
            running: true,
            received: VecDeque::new(),
            lost: VecDeque::new(),
        }
    }

    /// Takes the next status, or notes that there is none.
    pub fn see(&mut self, status: Result<Status, ClientError>) {
        if self.paused {
            return;
        }
        match status {
            Ok(status) => {
                self.error = None;
                // An agent that was started anew counts from 0 again.
                let anew = status.at_s < self.now.at_s || status.pid != self.now.pid;
                let seconds = status.at_s - self.now.at_s;
                self.growth = (!anew && seconds > 0.0).then(|| (growth(&status, &self.now), seconds));
                self.now = status;
                self.chosen = self.chosen.min(self.queues());
                let received = self.per_second(|grown| Some(view(grown, 0).traffic.get("rx_packets")));
                let lost = self.per_second(|grown| Some(grown.devices.iter().map(DeviceStatus::lost).sum()));
                remember(&mut self.received, received);
                remember(&mut self.lost, lost);
            }
            Err(error) => {
                let since = self.error.take().map_or_else(Instant::now, |(since, _)| since);
                self.error = Some((since, error.to_string()));
            }
        }
    }

    /// Ends.
    pub fn quit(&mut self) {
        self.running = false;
    }

    /// Shows the next queue; after the last one, everything.
    pub fn next(&mut self) {
        self.chosen = (self.chosen + 1) % (self.queues() + 1);
    }

    /// Shows the previous queue; before everything, the last one.
    pub fn previous(&mut self) {
        self.chosen = self.chosen.checked_sub(1).unwrap_or(self.queues());
    }

    /// Holds what is shown, or goes on.
    pub fn pause(&mut self) {
        self.paused = !self.paused;
    }

    /// Shows the queues as a table where there is no room for it beside the bars; or the bars again.
    pub fn turn(&mut self) {
        self.lists = !self.lists;
    }

    pub(super) fn lists(&self) -> bool {
        self.lists
    }

    /// Whether it was not ended.
    pub fn is_running(&self) -> bool {
        self.running
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused
    }

    pub(super) fn status(&self) -> &Status {
        &self.now
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Why the agent does not answer, if it does not.
    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_ref().map(|(_, why)| why.as_str())
    }

    /// Since when it does not, if it does not.
    pub(super) fn silent_since(&self) -> Option<Instant> {
        self.error.as_ref().map(|(since, _)| *since)
    }

    pub(super) fn view(&self) -> View {
        view(&self.now, self.chosen)
    }

    /// As much of what `count` reads in what was counted as came in a second; 0 until there are two statuses.
    fn per_second(&self, count: impl Fn(&Status) -> Option<u64>) -> u64 {
        let grown = self.growth.as_ref().and_then(|(grown, seconds)| Some(count(grown)? as f64 / seconds));
        grown.map_or(0, |grown| grown.round() as u64)
    }

    /// The same for what is shown.
    pub(super) fn rate(&self, count: impl Fn(&View) -> Option<u64>) -> u64 {
        self.per_second(|grown| count(&view(grown, self.chosen)))
    }

    /// How much of what was allocated in the last second had been recycled. More than all of it cannot be, and would be
    /// shown where frames come back that were taken before that second: each snapshot has as many puts as gets or fewer,
    /// but not what two of them differ by.
    pub(super) fn recycled(&self, side: impl Fn(&View) -> Option<Counts>) -> Option<f64> {
        let (grown, _) = self.growth.as_ref()?;
        recycle_ratio(&side(&view(grown, self.chosen))?).map(|ratio| ratio.min(1.0))
    }

    /// Every queue, in the order in which they can be chosen.
    pub(super) fn queue_rows(&self) -> Vec<QueueRow> {
        // What was counted has the same queues in the same order.
        let grown = self.growth.as_ref().map(|(grown, seconds)| (queues(grown), *seconds));
        let row = |(index, (device, queue)): (usize, (&DeviceStatus, &QueueStatus))| {
            let grown = grown.as_ref().and_then(|(all, seconds)| Some((all.get(index)?.1, *seconds)));
            let rate = |name| grown.map_or(0.0, |(grown, seconds)| grown.traffic.get(name) as f64 / seconds);
            QueueRow {
                name: format!("{}/{}", device.device, queue.queue),
                mode: match (device.mode.as_str(), device.copy) {
                    ("native", true) => "copy".to_owned(),
                    (mode, true) => mode.to_owned(),
                    (_, false) => "zero-copy".to_owned(),
                },
                received: rate("rx_packets"),
                sent: rate("tx_packets"),
                recycled: grown.and_then(|(grown, _)| recycle_ratio(&grown.counters)).map(|all| all.min(1.0)),
                lost: queue.lost,
                alarm: if queue.failed {
                    Some("PANICKED")
                } else if !queue.steered {
                    Some("UNSTEERED")
                } else {
                    queue.holders.iter().any(|holder| holder.leaked > 0).then_some("LEAK")
                },
                chosen: self.chosen == index + 1,
            }
        };
        queues(&self.now).into_iter().enumerate().map(row).collect()
    }

    pub(super) fn received(&self) -> impl DoubleEndedIterator<Item = u64> {
        self.received.iter().copied()
    }

    pub(super) fn lost(&self) -> impl DoubleEndedIterator<Item = u64> {
        self.lost.iter().copied()
    }

    /// What NICs lost in the last second.
    pub(super) fn lost_by_nic(&self) -> u64 {
        self.per_second(|grown| Some(grown.devices.iter().map(DeviceStatus::lost_by_nic).sum()))
    }

    pub(super) fn queues(&self) -> usize {
        self.now.devices.iter().map(|device| device.queues.len()).sum()
    }
}

fn remember(history: &mut VecDeque<u64>, value: u64) {
    if history.len() == KEEP {
        history.pop_front();
    }
    history.push_back(value);
}

/// A status that says what was counted since `then`. Each queue and each pool by itself: one that began anew, is new or is
/// gone says nothing about the others. The live page does the same.
fn growth(now: &Status, then: &Status) -> Status {
    let mut grown = now.clone();
    for device in &mut grown.devices {
        let was = then.devices.iter().find(|was| was.device == device.device);
        for queue in &mut device.queues {
            let was = was.and_then(|was| was.queues.iter().find(|was| was.queue == queue.queue));
            if let Some(was) = was {
                grow_queue(queue, was);
            }
        }
        if let Some(pools) = &mut device.page_pool {
            grow_pools(pools, was.and_then(|was| was.page_pool.as_ref()));
        }
        let was: &[DropStatus] = was.map_or(&[], |was| &was.drops);
        for row in &mut device.drops {
            let old = was.iter().find(|old| old.layer == row.layer && old.cause == row.cause);
            // A row sums over queues: of one that fell nobody knows what was lost. And the first row of a layer that
            // was not told of before may have been counted for days.
            let known = old.is_some() || was.iter().any(|old| old.layer == row.layer);
            row.count = if known { row.count.saturating_sub(old.map_or(0, |old| old.count)) } else { 0 };
        }
    }
    grown
}

/// If one of a queue's counts fell, all of them began anew: then they are what was counted.
fn grow_queue(queue: &mut QueueStatus, was: &QueueStatus) {
    if !queue.counters.fell(&was.counters) && !queue.traffic.fell(&was.traffic) {
        queue.counters = queue.counters.minus(&was.counters);
        queue.traffic = queue.traffic.minus(&was.traffic);
    }
}

/// The same for each of a device's pools. If nothing was told of the device before, neither they nor their counts need be
/// new.
fn grow_pools(pools: &mut DeviceJson, was: Option<&DeviceJson>) {
    let was = was.filter(|was| was.source == pools.source);
    for pool in &mut pools.pools {
        let old = was.and_then(|was| was.pools.iter().find(|old| old.pool == pool.pool));
        pool.counters = match (pool.counters, was, old.map(|old| old.counters)) {
            (Some(now), Some(_), None) => Some(now),
            (Some(now), Some(_), Some(Some(then))) => Some(now.since(&then).counters),
            _ => None,
        };
    }
}

/// Every queue, with its interface.
fn queues(status: &Status) -> Vec<(&DeviceStatus, &QueueStatus)> {
    status.devices.iter().flat_map(|device| device.queues.iter().map(move |queue| (device, queue))).collect()
}

fn view(status: &Status, chosen: usize) -> View {
    let all = queues(status);
    let chosen = chosen.checked_sub(1).and_then(|index| all.get(index).copied());
    let mut view = View { steered: true, one_queue: chosen.is_some(), ..View::default() };
    for (_, queue) in
        all.into_iter().filter(|(_, queue)| chosen.is_none_or(|(_, only)| std::ptr::eq(*queue, only)))
    {
        add(&mut view, queue);
    }
    for device in status.devices.iter().filter(|d| chosen.is_none_or(|(only, _)| std::ptr::eq(*d, only))) {
        add_kernel(&mut view, device);
    }
    view.title = match chosen {
        Some((device, queue)) => format!("{} queue {}", device.device, queue.queue),
        None => "all queues".to_owned(),
    };
    view
}

fn add(view: &mut View, queue: &QueueStatus) {
    let sum = |into: &mut Counts, from: &Counts| from.iter().for_each(|(name, count)| into.add(name, count));
    sum(&mut view.frames, &queue.frames);
    sum(&mut view.ours, &queue.counters);
    sum(&mut view.traffic, &queue.traffic);
    view.total += queue.total;
    view.steered &= queue.steered;
}

fn add_kernel(view: &mut View, device: &DeviceStatus) {
    view.kernel_of.1 += 1;
    let Some(pools) = &device.page_pool else {
        let away = || device.away.as_ref().map(|_| format!("{} is away", device.device));
        view.kernel_silent = view.kernel_silent.take().or_else(away);
        return;
    };
    view.stalled.extend(pools.pools.iter().filter(|pool| pool.stalled).cloned());
    view.kernel_silent = view.kernel_silent.take().or_else(|| pools.reason.clone());
    view.kernel_unlisted |= pools.unlisted.is_some();
    if let Some(counters) = pools.sum() {
        view.kernel_of.0 += 1;
        let sum = view.kernel.get_or_insert_default();
        counters.iter().for_each(|(name, count)| sum.add(name, count));
    }
}
