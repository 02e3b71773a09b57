//! What is on the screen, without a screen.

use std::{collections::VecDeque, time::Instant};

use crate::{
    client::ClientError,
    counts::Counts,
    status::{DeviceStatus, QueueStatus, Status, recycle_ratio},
};

/// Seconds that the sparklines remember; more than a terminal is wide.
const KEEP: usize = 240;

/// The status seen last, the one before, and what was chosen to be shown.
#[derive(Debug)]
pub struct Model {
    url: String,
    now: Status,
    before: Option<Status>,
    /// Since when it does not answer, and why not.
    error: Option<(Instant, String)>,
    /// 0: everything; from 1 on: a queue.
    chosen: usize,
    paused: bool,
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
    /// Pools of the kernel that cannot end.
    pub(super) stalled: usize,
    pub(super) steered: bool,
}

impl Model {
    /// Starts with a first status.
    pub fn new(url: &str, first: Status) -> Self {
        Self {
            url: url.to_owned(),
            now: first,
            before: None,
            error: None,
            chosen: 0,
            paused: false,
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
                let anew = status.at_s < self.now.at_s;
                let before = std::mem::replace(&mut self.now, status);
                self.before = (!anew).then_some(before);
                self.chosen = self.chosen.min(self.queues());
                let received = self.per_second(|status| Some(view(status, 0).traffic.get("rx_packets")));
                let lost = self.per_second(|status| Some(lost(status)));
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

    /// What `count` grew by in a second; 0 until there are two statuses that have it.
    pub(super) fn per_second(&self, count: impl Fn(&Status) -> Option<u64>) -> u64 {
        let counts = self.before.as_ref().and_then(|before| {
            Some((self.now.at_s - before.at_s, count(&self.now)?.saturating_sub(count(before)?)))
        });
        match counts {
            Some((seconds, grown)) if seconds > 0.0 => (grown as f64 / seconds).round() as u64,
            _ => 0,
        }
    }

    /// The same for what is shown.
    pub(super) fn rate(&self, count: impl Fn(&View) -> Option<u64>) -> u64 {
        self.per_second(|status| count(&view(status, self.chosen)))
    }

    /// How much of what was allocated in the last second had been recycled.
    pub(super) fn recycled(&self, side: impl Fn(&View) -> Option<Counts>) -> Option<f64> {
        let before = self.before.as_ref()?;
        let now = side(&view(&self.now, self.chosen))?;
        recycle_ratio(&now.minus(&side(&view(before, self.chosen))?))
    }

    pub(super) fn received(&self) -> impl DoubleEndedIterator<Item = u64> {
        self.received.iter().copied()
    }

    pub(super) fn lost(&self) -> impl DoubleEndedIterator<Item = u64> {
        self.lost.iter().copied()
    }

    fn queues(&self) -> usize {
        self.now.devices.iter().map(|device| device.queues.len()).sum()
    }
}

fn remember(history: &mut VecDeque<u64>, value: u64) {
    if history.len() == KEEP {
        history.pop_front();
    }
    history.push_back(value);
}

/// Packets lost between the program and the worker's end; what lies before is the NIC's, and may be another's.
pub(super) fn lost(status: &Status) -> u64 {
    let rows = status.devices.iter().flat_map(|device| &device.drops);
    rows.filter(|row| row.lost && ["redirect", "socket", "handler"].contains(&row.layer.as_str()))
        .map(|row| row.count)
        .sum()
}

fn view(status: &Status, chosen: usize) -> View {
    let all = || status.devices.iter().flat_map(|d| d.queues.iter().map(move |queue| (d, queue)));
    let chosen = chosen.checked_sub(1).and_then(|index| all().nth(index));
    let mut view = View { steered: true, one_queue: chosen.is_some(), ..View::default() };
    for (_, queue) in all().filter(|(_, queue)| chosen.is_none_or(|(_, only)| std::ptr::eq(*queue, only))) {
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
    view.stalled += pools.pools.iter().filter(|pool| pool.stalled).count();
    view.kernel_silent = view.kernel_silent.take().or_else(|| pools.reason.clone());
    if let Some(counters) = pools.sum() {
        view.kernel_of.0 += 1;
        let sum = view.kernel.get_or_insert_default();
        counters.iter().for_each(|(name, count)| sum.add(name, count));
    }
}
