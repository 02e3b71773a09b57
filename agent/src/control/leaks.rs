//! Tells the log who keeps frames for too long, the kernel among them, and that somebody gave back what was not his.

use std::{collections::HashMap, mem, sync::Arc, time::Duration};

use datapath::Snapshot;
use frame_pool::WARN_INTERVAL;

use crate::observe::{Observation, QueueView, Swallowed};

/// Says it once a minute, as the kernel does of its own pools.
#[derive(Debug, Default)]
pub(super) struct Leaks {
    told: Option<Duration>,
    /// Returns of each queue's frames that were refused, when that was last told.
    rejected: HashMap<(Arc<str>, u32), u64>,
}

impl Leaks {
    /// Warns of everyone who has kept frames for longer than `--leak-after`, and of refused returns that are news, unless
    /// something was said just now.
    pub(super) fn tell(&mut self, now: &Observation) {
        if self.told.is_some_and(|told| now.at.saturating_sub(told) < WARN_INTERVAL) {
            return;
        }
        let rejected: HashMap<_, _> = now
            .queues()
            .map(|queue| ((Arc::clone(&queue.device), queue.queue), rejections(&queue.snapshot)))
            .collect();
        let before = mem::replace(&mut self.rejected, rejected);
        let is_news = |queue: &&QueueView| {
            let told = before.get(&(Arc::clone(&queue.device), queue.queue)).copied().unwrap_or(0);
            rejections(&queue.snapshot) > told
        };
        for line in lines(now).chain(now.queues().filter(is_news).map(rejected_of)) {
            self.told = Some(now.at);
            log::warn!("{line}");
        }
    }
}

/// Returns that were refused, those of `umemd_pool_rejected`.
fn rejections(snapshot: &Snapshot) -> u64 {
    let extras = &snapshot.pool.extras;
    extras.foreign_put + extras.double_put + extras.bad_addr + snapshot.refused.total()
}

fn rejected_of(queue: &QueueView) -> String {
    format!(
        "{} queue {}: returns of frames refused so far, as those were not out, or elsewhere: {}; frames that are not \
         used any more: {}; a bug of umemd, of the driver or of the kernel, see umemd_pool_rejected; please report it",
        queue.device,
        queue.queue,
        rejections(&queue.snapshot),
        queue.snapshot.places.quarantined
    )
}

fn lines(now: &Observation) -> impl Iterator<Item = String> {
    now.queues().flat_map(|queue| swallowed(queue, now).chain(leaked(queue, now)))
}

fn swallowed(queue: &QueueView, now: &Observation) -> impl Iterator<Item = String> {
    let Swallowed { kernel, tx } = queue.swallowed;
    [(kernel, "receive into"), (tx, "send")].into_iter().filter(|(frames, _)| *frames > 0).map(|(frames, what)| {
        format!(
            "{} queue {}: the kernel has kept {frames} of the frames that it got to {what} for longer than {:?}, since \
             a time when nothing else was on its way: it lost them",
            queue.device, queue.queue, now.leak_after
        )
    })
}

fn leaked(queue: &QueueView, now: &Observation) -> impl Iterator<Item = String> {
    queue.holds.leaks().map(|holder| {
        format!(
            "{} queue {}: the {} keeps {} {} for longer than {:?}, the oldest for {} s",
            queue.device,
            queue.queue,
            holder.name,
            holder.leaked,
            if holder.leaked == 1 { "frame" } else { "frames" },
            now.leak_after,
            holder.oldest.unwrap_or_default().as_secs(),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::{fixture, fixture_with_kernel};

    #[test]
    fn it_says_who_keeps_what_for_how_long() {
        let told: Vec<_> = lines(&fixture_with_kernel()).collect();
        assert_eq!(
            told,
            ["eth0 queue 0: the capture keeps 1 frame for longer than 60s, the oldest for 75 s"]
        );
        assert_eq!(lines(&fixture()).count(), 0);

        let mut now = fixture();
        now.devices[0].queues[1].swallowed = Swallowed { kernel: 0, tx: 3 };
        let told: Vec<_> = lines(&now).collect();
        let [told] = &told[..] else { panic!("{told:?}") };
        let said = "eth0 queue 1: the kernel has kept 3 of the frames that it got to send for longer than 60s, since";
        assert!(told.starts_with(said), "{told}");
    }

    #[test]
    fn what_was_refused_is_told_when_it_is_news() {
        let (mut leaks, mut now) = (Leaks::default(), fixture());
        let mut told_at = Vec::new();
        // Of two queues; the second one is opened again, and is none for a while.
        let counts = [[0, 0], [0, 2], [0, 2], [0, 3], [0, 1], [1, 1], [1, 2]];
        for (minute, refused) in counts.into_iter().enumerate() {
            now.at = Duration::from_secs(61 * minute as u64);
            for (queue, refused) in now.devices[0].queues.iter_mut().zip(refused) {
                queue.snapshot.refused.not_lent = refused;
            }
            let before = leaks.told;
            leaks.tell(&now);
            told_at.extend((leaks.told != before).then_some(minute));
        }
        assert_eq!(told_at, [1, 3, 5, 6]);
        let told = rejected_of(&now.devices[0].queues[1]);
        assert!(
            told.starts_with(
                "eth0 queue 1: returns of frames refused so far, as those were not out, or elsewhere: 2;"
            ),
            "{told}"
        );
    }

    #[test]
    fn once_a_minute_will_do() {
        let (mut leaks, mut now) = (Leaks::default(), fixture_with_kernel());
        let mut told_at = Vec::new();
        for second in 1..=130 {
            now.at = Duration::from_secs(second);
            let before = leaks.told;
            leaks.tell(&now);
            told_at.extend((leaks.told != before).then_some(second));
        }
        assert_eq!(told_at, [1, 61, 121]);
    }
}
