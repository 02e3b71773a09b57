//! [`Crew`]: what one thread moves on: a worker of one queue, or a pair of two.

use std::time::Duration;

use datapath::{
    Capture, Drain, FinalReport, Observer, PacketHandler, Pair, Published, Turn, Worker, WorkerConfig,
    handlers::{Drop, Forward, Generate, Pace, Reflect},
};
use frame_pool::FramePool;
use rustix::{fd::BorrowedFd, net::xdp::XdpStatistics};

use crate::{
    config::{self, Handler, Mac},
    xsk::XskPort,
};

/// A worker with whatever handler and observer, as its thread sees it: one indirect call per turn.
pub(super) trait Crew: Send {
    /// See [`Worker::poll_once`].
    fn poll_once(&mut self, now: Duration) -> Turn;
    /// See [`Worker::take_in_once`].
    fn take_in_once(&mut self, now: Duration) -> Turn;
    /// See [`Worker::drain_once`].
    fn drain_once(&mut self, now: Duration) -> Drain;
    /// See [`Worker::is_sending`].
    fn is_sending(&self) -> bool;
    /// Whether there is nothing more to do, ever.
    fn is_done(&mut self) -> bool;
    /// The ports, in the order of the sides.
    fn ports(&self) -> (&XskPort, Option<&XskPort>);
    /// The statistics of each side's socket, if the kernel tells.
    fn statistics(&self) -> Vec<Option<XdpStatistics>>;
    /// Where the snapshots of each side are read.
    fn published(&self) -> Vec<Published>;
    /// See [`Worker::finish`]; one report per side.
    fn finish(self: Box<Self>, now: Duration) -> Vec<FinalReport>;
}

/// What the worker of one queue is made of, but for its handler.
pub(super) struct Parts {
    pub(super) pool: FramePool,
    pub(super) port: XskPort,
    pub(super) capture: Option<Capture>,
    pub(super) config: WorkerConfig,
    /// What the queue is to send by itself.
    pub(super) pace: Pace,
}

/// What a group is of all that the agent serves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// Queues of the groups before it, and of those after, when the agent started.
    pub(super) before: usize,
    pub(super) after: usize,
    /// What it sends by itself, of what is left to send, if it was open before: as much a second, however many queues
    /// it has by now.
    pub(super) own: Option<Pace>,
}

impl Part {
    /// How many queues there are in all, if the group has so many.
    pub(super) fn of(self, queues: usize) -> usize {
        self.before + queues + self.after
    }
}

/// A queue, as who makes handlers for all of them may want to know it.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Name of the interface.
    pub interface: &'a str,
    /// Its hardware address; none if it is not an Ethernet one.
    pub mac: Option<[u8; 6]>,
    /// The queue.
    pub queue: u32,
    /// Which of all queues served this is, from 0; with those of other interfaces as many as when the agent started.
    pub index: usize,
    /// How many queues are served in all, counted the same way.
    pub of: usize,
}

/// Makes the workers.
pub(super) type Hire = Box<dyn Fn(Place<'_>, Parts) -> Box<dyn Crew>>;

/// Workers with the handler of the configuration.
pub(super) fn built_in(handler: &Handler) -> Hire {
    match handler {
        Handler::Drop => Box::new(|_, parts| solo(parts, Drop, never)),
        Handler::Reflect => Box::new(|_, parts| solo(parts, Reflect, never)),
        Handler::Forward { .. } => Box::new(|_, _| unreachable!("pairs are made by `pair`")),
        Handler::Generate(generate) => {
            let generate = generate.clone();
            Box::new(move |place, parts| {
                let done = |handler: &Generate| handler.left() == Some(0);
                let template = generate.template(Mac(place.mac.unwrap_or_default()));
                let handler = Generate::new(&template, parts.pace);
                solo(parts, handler.expect("a size below that of the headers was refused"), done)
            })
        }
    }
}

fn never<H>(_: &H) -> bool {
    false
}

/// What each of a group's queues is to send by itself, if the handler does that.
pub(super) fn paces(handler: &Handler, part: Part, queues: usize) -> Vec<Pace> {
    match handler {
        Handler::Generate(config::Generate { rate, count, .. }) => shares(*rate, *count, part, queues),
        Handler::Drop | Handler::Reflect | Handler::Forward { .. } => {
            vec![Pace { rate: None, count: None }; queues]
        }
    }
}

/// Each queue's share of what all are to send, or of its group's own part.
fn shares(rate: Option<u64>, count: Option<u64>, part: Part, queues: usize) -> Vec<Pace> {
    let of_all = |queue| share(rate, count, (part.before + queue) as u64, part.of(queues) as u64);
    let of_own = |own: Pace, queue| share(own.rate, own.count, queue as u64, queues as u64);
    (0..queues).map(|queue| part.own.map_or_else(|| of_all(queue), |own| of_own(own, queue))).collect()
}

/// What a group sends whose queues send so.
pub(super) fn sum(paces: &[Pace]) -> Pace {
    Pace { rate: paces.iter().map(|pace| pace.rate).sum(), count: paces.iter().map(|pace| pace.count).sum() }
}

/// What the queue at `index` of so many sends. Fewer packets a second than there are queues are sent by as many of
/// them: another one would never be through with its share.
fn share(rate: Option<u64>, count: Option<u64>, index: u64, of: u64) -> Pace {
    let of = rate.map_or(of, |rate| rate.clamp(1, of));
    if index >= of {
        return Pace { rate: Some(0), count: count.map(|_| 0) };
    }
    let share = |all: u64| all / of + u64::from(index < all % of);
    Pace { rate: rate.map(share), count: count.map(share) }
}

/// The worker of one queue.
pub(super) fn solo<H>(parts: Parts, handler: H, is_done: fn(&H) -> bool) -> Box<dyn Crew>
where
    H: PacketHandler + Send + 'static,
{
    let Parts { pool, port, capture, config, .. } = parts;
    match capture {
        None => Box::new(Solo { worker: Worker::new(pool, port, handler, config), is_done }),
        Some(capture) => {
            Box::new(Solo { worker: Worker::observed(pool, port, handler, capture, config), is_done })
        }
    }
}

/// The worker that joins two queues.
pub(super) fn pair(
    sides: [(FramePool, XskPort); 2],
    capture: Option<Capture>,
    config: WorkerConfig,
) -> Box<dyn Crew> {
    match capture {
        None => Box::new(Pair::new(sides, Forward, (), config)),
        Some(capture) => Box::new(Pair::new(sides, Forward, capture, config)),
    }
}

struct Solo<H, O: Observer> {
    worker: Worker<XskPort, H, O>,
    is_done: fn(&H) -> bool,
}

impl<H, O> Crew for Solo<H, O>
where
    H: PacketHandler + Send,
    O: Observer + Send,
    O::Sent: Send,
{
    fn poll_once(&mut self, now: Duration) -> Turn {
        self.worker.poll_once(now)
    }

    fn take_in_once(&mut self, now: Duration) -> Turn {
        self.worker.take_in_once(now)
    }

    fn drain_once(&mut self, now: Duration) -> Drain {
        self.worker.drain_once(now)
    }

    fn is_sending(&self) -> bool {
        self.worker.is_sending()
    }

    fn is_done(&mut self) -> bool {
        // What the kernel has not taken of what it wrote may wait for a link.
        (self.is_done)(self.worker.handler()) && !self.worker.has_unsent()
    }

    fn ports(&self) -> (&XskPort, Option<&XskPort>) {
        (self.worker.port(), None)
    }

    fn statistics(&self) -> Vec<Option<XdpStatistics>> {
        vec![self.worker.port().statistics()]
    }

    fn published(&self) -> Vec<Published> {
        vec![self.worker.published()]
    }

    fn finish(self: Box<Self>, now: Duration) -> Vec<FinalReport> {
        vec![self.worker.finish(now)]
    }
}

impl<H, O> Crew for Pair<XskPort, H, O>
where
    H: PacketHandler + Send,
    O: Observer + Send,
    O::Sent: Send,
{
    fn poll_once(&mut self, now: Duration) -> Turn {
        Pair::poll_once(self, now)
    }

    fn take_in_once(&mut self, now: Duration) -> Turn {
        // It sends nothing by itself.
        Pair::poll_once(self, now)
    }

    fn drain_once(&mut self, now: Duration) -> Drain {
        Pair::drain_once(self, now)
    }

    fn is_sending(&self) -> bool {
        Pair::is_sending(self)
    }

    fn is_done(&mut self) -> bool {
        false
    }

    fn ports(&self) -> (&XskPort, Option<&XskPort>) {
        let [a, b] = Pair::ports(self);
        (a, Some(b))
    }

    fn statistics(&self) -> Vec<Option<XdpStatistics>> {
        Pair::ports(self).map(XskPort::statistics).into()
    }

    fn published(&self) -> Vec<Published> {
        Pair::published(self).into()
    }

    fn finish(self: Box<Self>, now: Duration) -> Vec<FinalReport> {
        Pair::finish(*self, now).into()
    }
}

/// The sockets of a crew: one or two.
pub(super) fn sockets(crew: &dyn Crew) -> impl Iterator<Item = BorrowedFd<'_>> {
    let (first, second) = crew.ports();
    [Some(first), second].into_iter().flatten().filter_map(XskPort::socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_a_share_in_the_count_has_one_in_the_rate() {
        for of in 1..5 {
            for rate in [None, Some(1), Some(2), Some(3), Some(4), Some(1001)] {
                let shares = || (0..of).map(|index| share(rate, Some(9), index, of));
                assert_eq!(shares().filter_map(|pace| pace.count).sum::<u64>(), 9);
                if let Some(rate) = rate {
                    assert_eq!(shares().filter_map(|pace| pace.rate).sum::<u64>(), rate);
                }
                let ends = |pace: Pace| pace.count == Some(0) || pace.rate != Some(0);
                assert!(shares().all(ends), "{rate:?} of {of}: {:?}", shares().collect::<Vec<_>>());
                let endless = |index| share(rate, None, index, of).count.is_none();
                assert!((0..of).all(endless), "a worker that is through has no turns to show");
            }
        }
    }

    #[test]
    fn what_groups_send_adds_up_however_often_they_are_opened() {
        let count = |paces: &[Pace]| paces.iter().map(|pace| pace.count.unwrap()).sum::<u64>();
        let queues = [1, 3, 2];
        for rate in [None, Some(1), Some(4), Some(1000)] {
            let mut all = Vec::new();
            for group in 0..queues.len() {
                let [before, after] = [&queues[..group], &queues[group + 1..]].map(|of| of.iter().sum());
                let part = Part { before, after, own: None };
                let first = shares(rate, Some(1001), part, queues[group]);
                // With fewer queues, or more, it sends what was left.
                let own = Pace { count: Some(count(&first) / 3), ..sum(&first) };
                for now in 1..5 {
                    let again = shares(rate, Some(1001), Part { own: Some(own), ..part }, now);
                    assert_eq!(sum(&again), own, "{rate:?}, {now} queues of group {group}");
                    assert!(again.iter().all(|pace| pace.rate != Some(0) || pace.count == Some(0)));
                }
                all.extend(first);
            }
            assert_eq!(count(&all), 1001, "{rate:?}");
            assert_eq!(rate.map(|_| all.iter().map(|pace| pace.rate.unwrap()).sum()), rate);
        }
    }
}
