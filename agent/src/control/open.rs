//! [`Open`]: a group that is served: programs, sockets, pools, workers; how they begin, fail and end.

use std::{
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use anyhow::{Context as _, Result, anyhow};
use datapath::{CaptureReader, WorkerConfig, capture, handlers::Pace};
use frame_pool::{FramePool, PoolConfig, Recycler, UmemProvider};

use super::{
    bell::Bell,
    bound::{Bound, bind},
    carrier,
    crew::{self, Crew, Part, Parts, Place},
    device::{self, Attached, Device, Kept},
    group::{Common, Decisions},
    leaving::{Leaving, Past},
    plan::{self, Plan},
    queue::{Fixed, Queue},
    worker::{self, End, Post, Running, Why},
};
use crate::{
    capture::Source,
    config::RunConfig,
    nic::{self, Link, NicError},
    observe::{DeviceInfo, DeviceView},
    xsk::{RingSizes, SocketHandle, UmemFrames, XskPort},
};

/// A group that is served.
pub(super) struct Open {
    pub(super) devices: Vec<Device>,
    /// One per queue of the first device, and in that order. Until it starts, the crew waits here.
    workers: Vec<Employed>,
}

enum Employed {
    Waiting(Box<dyn Crew>, usize),
    Running(Running),
    /// It ended by itself, and left its pools.
    Gone(Vec<FramePool>),
}

impl Employed {
    /// Whether its handler panicked, and its thread is there still.
    fn has_panicked(&self) -> bool {
        matches!(self, Self::Running(running) if running.has_panicked())
    }

    /// Takes out the thread, if it ended by itself since.
    fn take_gone(&mut self) -> Option<Running> {
        match mem::replace(self, Self::Gone(Vec::new())) {
            Self::Running(running) if running.is_gone() => Some(running),
            other => {
                *self = other;
                None
            }
        }
    }
}

impl Open {
    /// Program, UMEMs, sockets, workers; the threads come later.
    ///
    /// It is not the first time if something was `kept` of the last one.
    pub(super) fn new(
        common: &Common,
        plans: Vec<Plan>,
        cpus: &[usize],
        part: Part,
        kept: Option<&mut Vec<Kept>>,
    ) -> Result<Self> {
        let config = common.config();
        let config = &*config;
        let queues: usize = plans.iter().map(|plan| plan.queues.len()).sum();
        plan::refuse_too_much_memory(config, queues)?;
        plans.iter().for_each(|plan| plan.warn(config));
        warn_of_narrow_way(plans.iter().map(|plan| &plan.link));
        let first = kept.is_none();
        let mut none = Vec::new();
        let kept = kept.unwrap_or(&mut none);
        let mut attached: Vec<Attached> = Vec::new();
        let manned = plans
            .iter()
            .try_for_each(|plan| {
                attached.push(device::attach(config, plan, kept)?);
                Ok(())
            })
            .and_then(|()| Self::man(common, &plans, cpus, part, first));
        let (workers, queues) = match manned {
            Ok(manned) => manned,
            Err(error) => {
                // Those that were in use before stay, so that no link bounces for a start that failed.
                let attached = attached.into_iter().zip(&plans).filter(|_| !first);
                kept.extend(attached.map(|(attached, plan)| attached.keep(plan)));
                return Err(error);
            }
        };
        // After the sockets were opened: that takes a while, too. Later this thread has others to serve.
        if first {
            carrier::wait_for_bounces(&plans);
        }
        let devices = plans.into_iter().zip(attached).zip(queues);
        let devices = devices.map(|((plan, attached), queues)| Device::new(plan, attached, queues)).collect();
        Ok(Self { devices, workers })
    }

    /// UMEMs, sockets and workers, in the order of the queues; and the queues of each interface.
    fn man(
        common: &Common,
        plans: &[Plan],
        cpus: &[usize],
        part: Part,
        first: bool,
    ) -> Result<(Vec<Employed>, Vec<Vec<Queue>>)> {
        let config = common.config();
        let config = &*config;
        let mut workers = Vec::new();
        let mut queues: Vec<Vec<Queue>> = plans.iter().map(|_| Vec::new()).collect();
        let paces = crew::paces(&config.handler, part, plans[0].queues.len());
        for (index, pace) in paces.into_iter().enumerate() {
            let cpu = cpus.get(index % cpus.len().max(1)).copied().unwrap_or(0);
            let numbers: Vec<u32> = plans.iter().map(|plan| plan.queues[index]).collect();
            let bound = bind(config, plans, &numbers, first)?;
            let Bound { sockets, huge_pages, nodes, multi_buffer, rings } = bound;
            let (ports, handles): (Vec<XskPort>, Vec<SocketHandle>) = sockets.into_iter().unzip();
            let (crew, pools) = Self::hire(common, plans, index, part, pace, ports, rings)?;
            let bell = Arc::new(Bell::new().context("cannot make an eventfd to wake a worker by")?);
            let sides = handles.into_iter().zip(crew.published()).zip(pools).enumerate();
            for (side, ((socket, published), pool)) in sides {
                let fixed = Fixed {
                    number: numbers[side],
                    cpu,
                    frame_size: config.layout.chunk_size(),
                    huge_pages,
                    nodes,
                    multi_buffer,
                    wait: config.wait(rings.fill_target),
                    rings,
                    epoch: common.epoch,
                    leak_after: config.leak_after,
                };
                let device = plans[side].link.name.as_str().into();
                let bell = Arc::clone(&bell);
                queues[side].push(Queue::new(device, fixed, socket, published, bell, pool));
            }
            workers.push(Employed::Waiting(crew, cpu));
        }
        Ok((workers, queues))
    }

    /// Pools, handler, capture: what a worker is made of beside its ports; and the way to each side's pool.
    fn hire(
        common: &Common,
        plans: &[Plan],
        index: usize,
        part: Part,
        pace: Pace,
        ports: Vec<XskPort>,
        rings: RingSizes,
    ) -> Result<(Box<dyn Crew>, Vec<Recycler>)> {
        let frames = Arc::clone(ports[0].frames());
        // A return ring with room for every frame never turns one away.
        let pool_config = PoolConfig { ring_size: frames.layout().chunk_count(), ..PoolConfig::default() };
        let provider = UmemProvider::with_memory(frames.layout(), Some(Arc::clone(&frames) as _));
        let epoch = common.epoch;
        let pools: Vec<FramePool> = ports
            .iter()
            .map(|_| {
                let mut pool = FramePool::new(pool_config, Arc::clone(&provider) as _);
                pool.time_holds(move || epoch.elapsed());
                pool
            })
            .collect();
        let recyclers = pools.iter().map(FramePool::recycler).collect();
        let config = WorkerConfig { fill_target: rings.fill_target, ..WorkerConfig::default() };
        // As many as the pool lets others hold.
        let capture = || capture::capture(frames.layout().chunk_count() as usize / 4);
        let (capture, reader) = common.capture.borrow().is_some().then(capture).unzip();
        let mut sides = pools.into_iter().zip(ports);
        let crew = match (sides.next(), sides.next()) {
            (Some(a), Some(b)) => crew::pair([a, b], capture, config),
            (Some((pool, port)), None) => {
                let plan = &plans[0];
                let place = Place {
                    interface: &plan.link.name,
                    mac: plan.link.mac,
                    queue: plan.queues[index],
                    index: part.before + index,
                    of: part.of(plan.queues.len()),
                };
                let hire = || (common.hire)(place, Parts { pool, port, capture, config, pace });
                // Who makes handlers may be the user's own.
                catch_unwind(AssertUnwindSafe(hire)).map_err(|_| {
                    anyhow!(
                        "cannot serve {} queue {}: making its handler panicked",
                        place.interface,
                        place.queue
                    )
                })?
            }
            (None, _) => unreachable!("a queue was bound"),
        };
        // It writes of a source at once.
        if let (Some(writer), Some(reader)) = (common.capture.borrow().as_ref(), reader) {
            writer.add(source(reader, &frames, plans, index));
        }
        Ok((crew, recyclers))
    }

    /// How many workers it has.
    pub(super) fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Starts the threads, and steers frames to their sockets.
    pub(super) fn start(&mut self, common: &Common) -> Result<()> {
        for (index, employed) in self.workers.iter_mut().enumerate() {
            let Employed::Waiting(mut crew, cpu) = mem::replace(employed, Employed::Gone(Vec::new())) else {
                continue;
            };
            // The first turn lends the kernel its frames. What is steered before that finds none and is dropped. The
            // handler is asked for nothing here: if it panics, its own thread is the one to end.
            crew.take_in_once(common.epoch.elapsed());
            let (device, queue) = (&self.devices[0], &self.devices[0].queues[index]);
            let post = Post {
                // Linux cuts a thread's name after 15 bytes; an interface's has up to 15.
                name: format!("{}/{}", device.info().name, queue.number()),
                cpu,
                wait: queue.wait(),
                epoch: common.epoch,
                alarm: Arc::clone(&common.alarm),
            };
            let running = worker::spawn(post, crew, Arc::clone(&queue.bell))
                .with_context(|| format!("cannot start the thread of {queue}"))?;
            queue.thread.set(Some(running.thread_id()));
            *employed = Employed::Running(running);
        }
        self.devices.iter().try_for_each(Device::steer)
    }

    pub(super) fn infos(&self) -> Vec<Arc<DeviceInfo>> {
        self.devices.iter().map(|device| Arc::clone(device.info())).collect()
    }

    /// Why the group has to be closed, if it has to.
    pub(super) fn change(&mut self, config: &RunConfig) -> Option<Change> {
        let kept = |why| Some(Change { why, keep: true });
        let mut other_mtu = false;
        for device in &mut self.devices {
            let link = match nic::link(device.plan.link.index) {
                Ok(Some(link)) => link,
                Ok(None) => return kept(format!("{} was removed", device.info().name)),
                // The kernel is busy with something else. It will tell next time.
                Err(_) => continue,
            };
            if !device.is_attached() {
                return kept(format!("our XDP program was taken off {}", device.info().name));
            }
            let longer = link.mtu > device.plan.link.mtu;
            other_mtu |= link.mtu != device.plan.link.mtu;
            let mut plan = match Plan::new(config, link) {
                Ok(plan) => plan,
                Err(error) => {
                    // What a driver would refuse now it may not bear either: mvpp2 runs on without its pools.
                    let keep = !matches!(error.downcast_ref(), Some(NicError::Quirk { .. }));
                    return Some(Change { why: format!("{error:#}"), keep });
                }
            };
            if !plan.queues_told {
                plan.queues.clone_from(&device.plan.queues);
            }
            if let Some(why) = device.plan.difference(&plan) {
                return kept(why);
            }
            device.plan.link = plan.link;
            device.plan.facts = plan.facts;
            if longer {
                device.plan.warn(config);
            }
        }
        if other_mtu {
            warn_of_narrow_way(self.devices.iter().map(|device| &device.plan.link));
        }
        None
    }

    /// The interfaces as they are now, and what their programs had decided before.
    pub(super) fn observe(&self, decided: impl Fn(&Device) -> Option<Decisions>) -> Vec<DeviceView> {
        let mut views: Vec<DeviceView> =
            self.devices.iter().map(|device| device.observe(decided(device))).collect();
        for index in 0..self.workers.len() {
            // What came in on the one side is sent, and may stay, on the other one.
            let can_move = self.devices.iter().all(|device| device.can_move(index));
            let sent = |view: &DeviceView| {
                let traffic = view.queues[index].snapshot.traffic;
                traffic.completions + traffic.kicks()
            };
            let sent = views.iter().map(sent).sum();
            for (device, view) in self.devices.iter().zip(&mut views) {
                device.find_swallowed(index, &mut view.queues[index], can_move, sent);
            }
        }
        views
    }

    /// Takes note of workers that ended by themselves, and of those that are about to because their handler panicked.
    pub(super) fn bury(&mut self) -> Buried {
        let mut any_failed = false;
        for index in 0..self.workers.len() {
            if self.workers[index].has_panicked() {
                self.give_up(index);
                any_failed = true;
            }
            let Some(gone) = self.workers[index].take_gone() else { continue };
            let end = gone.end_of_gone();
            let failed = end.as_ref().is_none_or(|end| end.why == Why::Panicked);
            any_failed |= failed;
            if failed {
                // It may have panicked only while it ended.
                self.give_up(index);
            }
            let queues = self.devices.iter().map(|device| &device.queues[index]);
            self.workers[index] = Employed::Gone(part_with(end, queues));
        }
        let all = self.workers.iter().all(|employed| matches!(employed, Employed::Gone(_)));
        Buried { failed: any_failed, all }
    }

    /// The traffic of a worker that panicked is the stack's from here on.
    fn give_up(&self, index: usize) {
        for device in &self.devices {
            let queue = &device.queues[index];
            if !queue.has_failed() {
                // A socket that is closed leaves the program's map by itself; one that nobody closed does not.
                let _ = device.clear_socket(queue);
                queue.fail();
                log::error!(
                    "{queue}: its handler panicked; its traffic goes to the stack, other queues go on"
                );
            }
        }
    }

    /// Closes everything:
    ///
    /// 1. detach the programs, or let them pass everything and keep them: no further frame is steered;
    /// 2. let go of the sockets, which are the workers' alone from here on;
    /// 3. tell every worker to stop; each empties its RX ring, waits for its completions, closes its socket, and
    ///    takes every frame home;
    /// 4. [wait for them](Ending::end).
    pub(super) fn close(self, keep: bool) -> (Ending, Vec<Kept>) {
        let Self { devices, workers } = self;
        let (queues, kept): (Vec<Vec<Queue>>, Vec<Option<Kept>>) =
            devices.into_iter().map(|device| device.close(keep)).unzip();
        queues.iter().flatten().for_each(Queue::release_socket);
        queues.iter().flatten().for_each(|queue| queue.bell.ring_to_stop());
        (Ending { queues, workers }, kept.into_iter().flatten().collect())
    }
}

/// A group that was told to end.
pub(super) struct Ending {
    /// Of each device.
    queues: Vec<Vec<Queue>>,
    workers: Vec<Employed>,
}

impl Ending {
    /// Waits for its workers, as long as they take.
    pub(super) async fn end(self) -> Leaving {
        let Self { queues: devices, workers } = self;
        let mut leaving = Leaving { workers: Vec::new(), failed: false };
        for (index, employed) in workers.into_iter().enumerate() {
            let queues = devices.iter().map(|queues| &queues[index]);
            let end = match employed {
                // It never had anything.
                Employed::Waiting(..) => continue,
                Employed::Gone(pools) => {
                    leaving.workers.push(Past { queues: queues.map(Queue::observe).collect(), pools });
                    continue;
                }
                Employed::Running(running) => running.end().await,
            };
            // Also while it ends a handler is given what has come by then.
            let failed = end.as_ref().is_none_or(|end| end.why == Why::Panicked);
            leaving.failed |= failed;
            for queue in queues.clone().filter(|queue| failed && !queue.has_failed()) {
                queue.fail();
                log::error!("{queue}: its handler panicked");
            }
            let pools = part_with(end, queues.clone());
            leaving.workers.push(Past { queues: queues.map(Queue::observe).collect(), pools });
        }
        leaving
    }
}

/// Notes of each of a worker's queues how it ended. Their pools, if it lived to hand them over.
fn part_with<'a>(end: Option<End>, queues: impl Iterator<Item = &'a Queue>) -> Vec<FramePool> {
    let Some(End { why, sides }) = end else {
        queues.for_each(Queue::abandon);
        return Vec::new();
    };
    let mut pools = Vec::new();
    for (queue, (report, statistics)) in queues.zip(sides) {
        queue.ended(&report, statistics);
        pools.push(report.pool);
        let lost = queue.snapshot().places.user;
        if why == Why::Panicked && lost > 0 {
            log::error!("{queue}: frames lost with its handler: {lost}");
        }
    }
    pools
}

/// Why a group has to be closed.
pub(super) struct Change {
    pub(super) why: String,
    /// Whether its programs may stay where they are meanwhile.
    pub(super) keep: bool,
}

/// What [`Open::bury`] found.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Buried {
    /// A worker panicked.
    pub(super) failed: bool,
    /// No worker is left.
    pub(super) all: bool,
}

fn warn_of_narrow_way<'a>(mut links: impl Iterator<Item = &'a Link>) {
    if let (Some(a), Some(b)) = (links.next(), links.next())
        && let Some(warning) = plan::narrow_way(a, b)
    {
        log::warn!("{warning}");
    }
}

fn source(reader: CaptureReader, frames: &Arc<UmemFrames>, plans: &[Plan], index: usize) -> Source {
    Source {
        reader,
        frames: Arc::clone(frames) as _,
        interfaces: plans.iter().map(|plan| plan.link.name.clone()).collect(),
        queue: plans[0].queues[index],
    }
}
