//! [`Group`]: interfaces that are opened and closed together: one, or two that frames cross between.
//!
//! A UMEM cannot be bound again once its interface went (libxdp keeps its first socket as long as the UMEM), and
//! what the sockets were made for may change under them. So there is one answer to an interface that was removed,
//! that has other queues now, or packets that its frames do not hold: all of the group is closed, and opened again
//! with new UMEMs and pools as soon as that can be. What was closed waits for who still holds its frames. Where the
//! interface is still there, the program stays attached meanwhile and passes everything, so that no link bounces.

use std::{
    cell::RefCell,
    mem,
    rc::Rc,
    sync::Arc,
    time::{Instant, SystemTime},
};

use anyhow::{Context as _, Result};
use datapath::{CaptureReader, WorkerConfig, capture};
use frame_pool::{FramePool, PoolConfig, Recycler, UmemProvider};
use umemd_common::Decision;

use super::{
    bell::Bell,
    bound::{Bound, bind},
    crew::{self, Crew, Hire, Parts, Place},
    device::{self, Attached, Device, Kept},
    leaving::{Leaving, Past},
    plan::{self, Plan},
    queue::{Fixed, Queue, Unshown},
    worker::{self, End, Post, Running, Why},
};
use crate::{
    capture::{Source, Writer},
    config::RunConfig,
    ebpf::RuleCount,
    nic::{self, NicError, interrupts},
    observe::{DeviceInfo, DeviceView},
    xsk::{self, RingSizes, SocketHandle, UmemFrames, XskPort},
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
    /// The same moment by the wall clock.
    pub(super) epoch_at: SystemTime,
}

impl Common {
    pub(super) fn new(
        config: RunConfig,
        hire: Hire,
        capture: Option<Writer>,
        (epoch, epoch_at): (Instant, SystemTime),
    ) -> Self {
        Self { config: RefCell::new(Rc::new(config)), hire, capture: RefCell::new(capture), epoch, epoch_at }
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
    names: Vec<String>,
    /// The CPUs of its workers, in their order; repeated if there are more workers.
    cpus: Vec<usize>,
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

fn who(device: &Device, queue: &Queue) -> String {
    format!("{} queue {}", device.info().name, queue.number())
}

impl Group {
    /// Opens the group; the first worker gets the CPU at `offset` of `cpus`.
    pub(super) fn open(common: &Common, names: Vec<String>, cpus: &[usize], offset: usize) -> Result<Self> {
        let plans = plan::make(&common.config(), &names)?;
        let mut cpus = cpus.to_vec();
        if common.config().cpus.is_none() {
            let interrupted: Vec<usize> = names.iter().flat_map(|name| interrupts::cpus(name)).collect();
            cpus = interrupts::last(cpus, &interrupted);
        }
        let first = offset % cpus.len().max(1);
        cpus.rotate_left(first);
        let open = Open::new(common, plans, &cpus, None)?;
        Ok(Self { names, cpus, state: RefCell::new(State::Open(open)) })
    }

    /// How many workers it has.
    pub(super) fn workers(&self) -> usize {
        self.with(|open| open.workers.len()).unwrap_or(0)
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
    pub(super) async fn bury(&self) -> Option<Buried> {
        if !self.with(Open::has_gone_workers)? {
            return self.with(Open::buried);
        }
        // Not borrowed while it waits.
        let mut gone = self.with_mut(Open::take_gone)?;
        let mut ends = Vec::new();
        for (index, running) in gone.drain(..) {
            ends.push((index, running.end().await));
        }
        self.with_mut(|open| open.bury(ends))
    }

    /// What workers have done and not shown yet.
    pub(super) fn unshown(&self) -> Vec<Unshown> {
        let unshown = |open: &Open| open.devices.iter().flat_map(Device::unshown).collect();
        self.with(unshown).unwrap_or_default()
    }

    /// What the programs have decided so far, by the index of the interface.
    pub(super) fn decisions(&self) -> Vec<(u32, Decisions)> {
        let decided = |device: &Device| (device.info().index, device.decisions());
        self.with(|open| open.devices.iter().map(decided).collect()).unwrap_or_default()
    }

    /// The group as it is now, and what its programs had decided before.
    pub(super) fn observe(&self, decided: &[(u32, Decisions)]) -> Vec<DeviceView> {
        let decided_by = |device: &Device| {
            let known = decided.iter().find(|(index, _)| *index == device.info().index);
            // None, if it was opened only just now.
            known.map_or_else(|| device.decisions(), |(_, decisions)| *decisions)
        };
        match &*self.state.borrow() {
            State::Open(open) => {
                open.devices.iter().map(|device| device.observe(decided_by(device))).collect()
            }
            State::Closed { infos, why, .. } => infos
                .iter()
                .map(|info| DeviceView {
                    info: Arc::clone(info),
                    decisions: Default::default(),
                    redirect_errors: Err(format!("the interface is away: {why}")),
                    queues: Vec::new(),
                    away: Some(why.clone()),
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
        match &*self.state.borrow() {
            State::Open(open) => open.devices.iter().map(Device::rule_counts).collect(),
            State::Closed { infos, .. } => infos.iter().map(|_| Vec::new()).collect(),
        }
    }

    /// Compares the group with its interfaces, and closes or opens it accordingly. What it closed is returned.
    pub(super) async fn reconcile(&self, common: &Common) -> Option<Leaving> {
        let change = self.with_mut(|open| open.change(&common.config()));
        match change {
            Some(None) => None,
            Some(Some(Change { why, keep })) => {
                log::warn!("{}: {why}; its queues are closed", self.names.join(" and "));
                self.close(&why, keep).await
            }
            None => {
                self.open_again(common);
                None
            }
        }
    }

    /// Closes the group, if it is open; to be opened again, it keeps its programs where they are.
    pub(super) async fn close(&self, reason: &str, keep: bool) -> Option<Leaving> {
        let infos = self.with(Open::infos)?;
        let closed = State::Closed { infos, why: reason.to_owned(), kept: Vec::new() };
        let State::Open(open) = self.state.replace(closed) else { return None };
        let (leaving, programs) = open.close(keep).await;
        if let State::Closed { kept, .. } = &mut *self.state.borrow_mut() {
            *kept = programs;
        }
        Some(leaving)
    }

    /// Detaches the programs: no further frame is steered.
    pub(super) fn detach(&self) {
        match &mut *self.state.borrow_mut() {
            State::Open(open) => open.devices.iter().for_each(Device::detach),
            State::Closed { kept, .. } => kept.clear(),
        }
    }

    fn open_again(&self, common: &Common) {
        let mut kept = match &mut *self.state.borrow_mut() {
            State::Open(_) => return,
            State::Closed { kept, .. } => mem::take(kept),
        };
        let opened = plan::make(&common.config(), &self.names)
            .and_then(|plans| Open::new(common, plans, &self.cpus, Some(&mut kept)))
            .and_then(|mut open| open.start(common).map(|()| open));
        let mut state = self.state.borrow_mut();
        if let State::Closed { kept: still, .. } = &mut *state {
            *still = kept;
        }
        match opened {
            Ok(open) => {
                log::info!("{}: served again", self.names.join(" and "));
                *state = State::Open(open);
            }
            Err(error) => {
                let now = format!("{error:#}");
                if let State::Closed { why, .. } = &mut *state
                    && *why != now
                {
                    log::warn!("not opened again: {now}; trying each second");
                    *why = now;
                }
            }
        }
    }
}

impl Open {
    /// Program, UMEMs, sockets, workers; the threads come later.
    ///
    /// It is not the first time if something was `kept` of the last one.
    fn new(common: &Common, plans: Vec<Plan>, cpus: &[usize], kept: Option<&mut Vec<Kept>>) -> Result<Self> {
        let config = common.config();
        let config = &*config;
        let queues: usize = plans.iter().map(|plan| plan.queues.len()).sum();
        plan::refuse_too_much_memory(config, queues)?;
        plans.iter().for_each(|plan| plan.warn(config));
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
            .and_then(|()| Self::man(common, &plans, cpus, first));
        let (workers, queues) = match manned {
            Ok(manned) => manned,
            Err(error) => {
                // Those that were in use before stay, so that no link bounces for a start that failed.
                let attached = attached.into_iter().zip(&plans).filter(|_| !first);
                kept.extend(attached.filter_map(|(attached, plan)| attached.keep(plan)));
                return Err(error);
            }
        };
        let devices = plans.into_iter().zip(attached).zip(queues);
        let devices = devices.map(|((plan, attached), queues)| Device::new(plan, attached, queues)).collect();
        Ok(Self { devices, workers })
    }

    /// UMEMs, sockets and workers, in the order of the queues; and the queues of each interface.
    fn man(
        common: &Common,
        plans: &[Plan],
        cpus: &[usize],
        first: bool,
    ) -> Result<(Vec<Employed>, Vec<Vec<Queue>>)> {
        let config = common.config();
        let config = &*config;
        let mut workers = Vec::new();
        let mut queues: Vec<Vec<Queue>> = plans.iter().map(|_| Vec::new()).collect();
        for index in 0..plans[0].queues.len() {
            let cpu = cpus.get(index % cpus.len().max(1)).copied().unwrap_or(0);
            let numbers: Vec<u32> = plans.iter().map(|plan| plan.queues[index]).collect();
            let opened = if first {
                xsk::patiently(|| bind(config, plans, &numbers))
            } else {
                bind(config, plans, &numbers)
            }?;
            let Bound { sockets, huge_pages, rings } = opened;
            let (ports, handles): (Vec<XskPort>, Vec<SocketHandle>) = sockets.into_iter().unzip();
            let (crew, pools) = Self::hire(common, plans, index, ports, rings);
            let bell = Arc::new(Bell::new().context("cannot make an eventfd to wake a worker by")?);
            let sides = handles.into_iter().zip(crew.published()).zip(pools).enumerate();
            for (side, ((socket, published), pool)) in sides {
                let fixed = Fixed {
                    number: numbers[side],
                    cpu,
                    frame_size: config.layout.chunk_size(),
                    huge_pages,
                    multi_buffer: plans[side].multi_buffer,
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
        ports: Vec<XskPort>,
        rings: RingSizes,
    ) -> (Box<dyn Crew>, Vec<Recycler>) {
        let frames = Arc::clone(ports[0].frames());
        // A return ring with room for every frame never turns one away (kernel.md 3.8).
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
        let capture = common.capture.borrow().as_ref().map(|writer| {
            // As many as the pool lets others hold.
            let (capture, reader) = capture::capture(frames.layout().chunk_count() as usize / 4);
            writer.add(source(reader, &frames, plans, index));
            capture
        });
        let mut sides = pools.into_iter().zip(ports);
        let crew = match (sides.next(), sides.next()) {
            (Some(a), Some(b)) => crew::pair([a, b], capture, config),
            (Some((pool, port)), None) => {
                let plan = &plans[0];
                let place = Place {
                    interface: &plan.link.name,
                    mac: plan.link.mac,
                    queue: plan.queues[index],
                    index,
                    of: plan.queues.len(),
                };
                (common.hire)(place, Parts { pool, port, capture, config })
            }
            (None, _) => unreachable!("a queue was bound"),
        };
        (crew, recyclers)
    }

    /// Starts the threads, and steers frames to their sockets.
    pub(super) fn start(&mut self, common: &Common) -> Result<()> {
        for (index, employed) in self.workers.iter_mut().enumerate() {
            let Employed::Waiting(mut crew, cpu) = mem::replace(employed, Employed::Gone(Vec::new())) else {
                continue;
            };
            // The first turn lends the kernel its frames. What is steered before that finds none and is dropped.
            crew.poll_once(common.epoch.elapsed());
            let (device, queue) = (&self.devices[0], &self.devices[0].queues[index]);
            let post = Post {
                // Linux cuts a thread's name after 15 bytes; an interface's has up to 15.
                name: format!("{}/{}", device.info().name, queue.number()),
                cpu,
                spin: common.config().spin,
                epoch: common.epoch,
            };
            let running = worker::spawn(post, crew, Arc::clone(&queue.bell))
                .with_context(|| format!("cannot start the thread of {}", who(device, queue)))?;
            *employed = Employed::Running(running);
        }
        self.devices.iter().try_for_each(Device::steer)
    }

    fn infos(&self) -> Vec<Arc<DeviceInfo>> {
        self.devices.iter().map(|device| Arc::clone(device.info())).collect()
    }

    /// Why the group has to be closed, if it has to.
    fn change(&mut self, config: &RunConfig) -> Option<Change> {
        let kept = |why| Some(Change { why, keep: true });
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
            let plan = match Plan::new(config, link) {
                Ok(plan) => plan,
                Err(error) => {
                    // What a driver would refuse now it may not bear either: mvpp2 runs on without its pools.
                    let keep = !matches!(error.downcast_ref(), Some(NicError::Quirk { .. }));
                    return Some(Change { why: format!("{error:#}"), keep });
                }
            };
            if let Some(why) = device.plan.difference(&plan) {
                return kept(why);
            }
            device.plan.link = plan.link;
            if longer {
                device.plan.warn(config);
            }
        }
        None
    }

    fn has_gone_workers(&self) -> bool {
        self.workers
            .iter()
            .any(|employed| matches!(employed, Employed::Running(running) if running.is_gone()))
    }

    fn take_gone(&mut self) -> Vec<(usize, Running)> {
        let mut gone = Vec::new();
        for (index, employed) in self.workers.iter_mut().enumerate() {
            if matches!(employed, Employed::Running(running) if running.is_gone())
                && let Employed::Running(running) = mem::replace(employed, Employed::Gone(Vec::new()))
            {
                gone.push((index, running));
            }
        }
        gone
    }

    fn buried(&self) -> Buried {
        let all = self.workers.iter().all(|employed| matches!(employed, Employed::Gone(_)));
        Buried { failed: false, all }
    }

    fn bury(&mut self, ends: Vec<(usize, Option<End>)>) -> Buried {
        let mut any_failed = false;
        for (index, end) in ends {
            let failed = end.as_ref().is_none_or(|end| end.why == Why::Panicked);
            any_failed |= failed;
            let mut sides = end.map(|end| end.sides).unwrap_or_default().into_iter();
            let mut pools = Vec::new();
            for device in &self.devices {
                let queue = &device.queues[index];
                if let Some((report, statistics)) = sides.next() {
                    queue.ended(&report, statistics);
                    pools.push(report.pool);
                }
                if failed {
                    // A socket that is closed leaves the program's map by itself; one that nobody closed does not.
                    let _ = device.clear_socket(queue);
                    queue.fail();
                    log::error!(
                        "{}: its handler panicked with {} frames in its hands, which are lost; its traffic goes to \
                         the stack, other queues go on",
                        who(device, queue),
                        queue.snapshot().places.user,
                    );
                }
            }
            self.workers[index] = Employed::Gone(pools);
        }
        Buried { failed: any_failed, ..self.buried() }
    }

    /// Closes everything:
    ///
    /// 1. detach the programs, or let them pass everything and keep them: no further frame is steered;
    /// 2. let go of the sockets, which are the workers' alone from here on;
    /// 3. tell every worker to stop; each empties its RX ring, waits for its completions, closes its socket, and
    ///    takes every frame home;
    /// 4. wait for them.
    async fn close(self, keep: bool) -> (Leaving, Vec<Kept>) {
        let Self { devices, workers } = self;
        let (devices, kept): (Vec<Vec<Queue>>, Vec<Option<Kept>>) =
            devices.into_iter().map(|device| device.close(keep)).unzip();
        devices.iter().flatten().for_each(Queue::release_socket);
        devices.iter().flatten().for_each(|queue| queue.bell.ring_to_stop());
        let mut leaving = Leaving { workers: Vec::new() };
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
            let mut past = Past { queues: Vec::new(), pools: Vec::new() };
            match end {
                None => {
                    log::error!("the worker of queue {index} did not live to account for its frames");
                    past.queues.extend(queues.map(Queue::unaccounted));
                }
                Some(end) => {
                    for (queue, (report, statistics)) in queues.zip(end.sides) {
                        queue.ended(&report, statistics);
                        past.queues.push(queue.observe());
                        past.pools.push(report.pool);
                    }
                }
            }
            leaving.workers.push(past);
        }
        (leaving, kept.into_iter().flatten().collect())
    }
}

/// Why a group has to be closed.
struct Change {
    why: String,
    /// Whether its programs may stay where they are meanwhile.
    keep: bool,
}

/// What [`Open::bury`] found.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Buried {
    /// A worker panicked.
    pub(super) failed: bool,
    /// No worker is left.
    pub(super) all: bool,
}

fn source(reader: CaptureReader, frames: &Arc<UmemFrames>, plans: &[Plan], index: usize) -> Source {
    Source {
        reader,
        frames: Arc::clone(frames) as _,
        interfaces: plans.iter().map(|plan| plan.link.name.clone()).collect(),
        queue: plans[0].queues[index],
    }
}
