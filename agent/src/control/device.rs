//! One interface while it is served: its program, and its queues.

use std::{
    cell::RefCell,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use rustix::fd::AsFd as _;

use super::{
    group::Decisions,
    plan::Plan,
    queue::{Queue, Unshown},
    standstill::Look,
};
use crate::{
    config::RunConfig,
    ebpf::{LoadOptions, Program, ProgramLog, Retired, RuleCount},
    nic::{self, NicError, XdpAttachment, drivers, netdev, quirks::Kind},
    observe::{DeviceInfo, DeviceView, QueueView},
    steer::RuleSet,
    xsk::SocketHandle,
};

/// A worker that made no turn for this long makes `/healthz` say so.
const UNHEALTHY: Duration = Duration::from_secs(5);

/// One interface while it is served.
pub(super) struct Device {
    /// How it was opened.
    pub(super) plan: Plan,
    info: Arc<DeviceInfo>,
    program: RefCell<Program>,
    /// The queues served.
    pub(super) queues: Vec<Queue>,
}

/// See [`Program`], which has a method for each.
#[derive(Clone, Copy, Debug)]
pub(super) enum RuleStep<'a> {
    WriteAside(&'a RuleSet),
    Switch,
    Undo,
    Finish,
}

/// What the kernel knows of an interface of ours, where to ask costs more than to look at our own memory.
pub(super) struct Costly {
    /// What each rule has matched; `None` if the kernel does not tell.
    pub(super) rules: Option<Vec<RuleCount>>,
    /// CPU time of each queue's thread, seconds.
    pub(super) cpu_s: Vec<Option<f64>>,
}

impl Costly {
    /// Of an interface that is away.
    pub(super) fn of_nobody() -> Self {
        Self { rules: Some(Vec::new()), cpu_s: Vec::new() }
    }
}

/// The program of an interface that has no sockets yet: gve wants it before those.
pub(super) struct Attached {
    program: Program,
    mode: &'static str,
}

/// A program that stays attached to an interface while its queues are closed, and passes everything: mvneta and
/// mvpp2 bounce their link when one is detached or attached, and not when one takes the place of another.
pub(super) struct Kept {
    index: u32,
    program: Retired,
}

/// Loads the program and attaches it; in the place of one that was kept, if that is still there.
pub(super) fn attach(config: &RunConfig, plan: &Plan, kept: &mut Vec<Kept>) -> Result<Attached> {
    let mut program = Program::load(LoadOptions {
        log: config.log_program,
        frags: plan.multi_buffer,
        switch_tag: plan.switch_tag.bytes(),
    })?;
    program.set_rules(&config.rules)?;
    let index = plan.link.index;
    // Who does not answer has not said that it is gone.
    kept.retain(|kept| kept.index != index || !matches!(attachment(index, kept.program.id()), Ok(None)));
    let place = kept.iter().position(|kept| kept.index == index);
    let was_kept = place.is_some();
    match place {
        None => program.attach(&plan.link, config.mode)?,
        Some(place) if swaps(&kept[place].program, plan) => {
            // Refused, the old one stays where it is.
            program.replace(&mut kept[place].program, &plan.link, config.mode)?;
            kept.swap_remove(place);
        }
        Some(place) => {
            let counts = kept.swap_remove(place).program.detach();
            program.attach(&plan.link, config.mode)?;
            program.carry_counts(counts);
        }
    }
    match mode_of(&program, config, plan) {
        Ok(mode) => Ok(Attached { program, mode }),
        Err(error) => {
            if was_kept {
                kept.push(retire(program, plan));
            }
            Err(error)
        }
    }
}

/// Where the program runs, as the kernel has it: where it was asked to.
fn mode_of(program: &Program, config: &RunConfig, plan: &Plan) -> Result<&'static str> {
    let name = &plan.link.name;
    let attached = attachment(plan.link.index, program.id()).map_err(NicError::links)?;
    let Some(attached) = attached else {
        bail!("attached to {name}, but the kernel does not show our program there");
    };
    if attached.mode != config.mode.to_string() {
        bail!("asked for {} mode on {name} and got {}", config.mode, attached.mode);
    }
    Ok(attached.mode)
}

/// Whether the program for `plan` may take the place of an old one.
fn swaps(old: &Retired, plan: &Plan) -> bool {
    old.frags() == plan.multi_buffer
        || !drivers::has(&plan.facts.driver, |kind| kind == Kind::VariantsDoNotSwap)
}

/// The kernel's view of our program on an interface.
fn attachment(index: u32, program_id: u32) -> io::Result<Option<XdpAttachment>> {
    let attached = nic::link(index)?.and_then(|link| link.xdp);
    Ok(attached.filter(|xdp| xdp.program_id == program_id))
}

impl Attached {
    /// Keeps the program where it is, passing everything, for the next [`attach`].
    pub(super) fn keep(self, plan: &Plan) -> Kept {
        retire(self.program, plan)
    }
}

fn retire(program: Program, plan: &Plan) -> Kept {
    Kept { index: plan.link.index, program: program.retire() }
}

impl Device {
    pub(super) fn new(plan: Plan, attached: Attached, queues: Vec<Queue>) -> Self {
        let zero_copy = queues.iter().all(|queue| {
            queue.with_socket(SocketHandle::zero_copy).is_some_and(|mode| mode.unwrap_or(false))
        });
        let Attached { program, mode } = attached;
        let info = DeviceInfo {
            index: plan.link.index,
            name: plan.link.name.clone(),
            driver: plan.facts.driver.clone(),
            mode,
            zero_copy,
            // Who does not tell is one of those who cannot be asked.
            features: netdev::features(plan.link.index).ok().flatten(),
            program: program.name(),
            program_id: program.id(),
            program_tag: format!("{:016x}", program.tag()),
        };
        Self { plan, info: Arc::new(info), program: RefCell::new(program), queues }
    }

    /// What does not change.
    pub(super) fn info(&self) -> &Arc<DeviceInfo> {
        &self.info
    }

    /// Steers frames to the sockets of all queues.
    pub(super) fn steer(&self) -> Result<()> {
        for queue in &self.queues {
            self.set_socket(queue)?;
            let mut watch = queue.watch.get();
            watch.steered = true;
            watch.since = Instant::now();
            queue.watch.set(watch);
        }
        Ok(())
    }

    /// The program's log, if it was loaded with one.
    pub(super) fn take_log(&self) -> Option<ProgramLog> {
        self.program.borrow_mut().take_log()
    }

    /// Steers the frames of `queue` to its socket.
    pub(super) fn set_socket(&self, queue: &Queue) -> Result<()> {
        queue
            .with_socket(|socket| self.program.borrow_mut().set_socket(queue.number(), socket.as_fd()))
            .transpose()?;
        Ok(())
    }

    /// Gives the frames of `queue` to the stack.
    pub(super) fn clear_socket(&self, queue: &Queue) -> Result<()> {
        Ok(self.program.borrow_mut().clear_socket(queue.number())?)
    }

    /// The steps in which rules change on several interfaces at once.
    pub(super) fn change_rules(&self, step: RuleStep<'_>) -> Result<()> {
        let mut program = self.program.borrow_mut();
        match step {
            RuleStep::WriteAside(rules) => program.write_rules_aside(rules)?,
            RuleStep::Switch => program.switch_rules()?,
            RuleStep::Undo => program.undo_rules(),
            RuleStep::Finish => program.finish_rules(),
        }
        Ok(())
    }

    /// What each rule has matched; `None` if the kernel does not tell.
    pub(super) fn rule_counts(&self) -> Option<Vec<RuleCount>> {
        let counts = self.program.borrow().rule_counts();
        counts.inspect_err(|error| log::error!("{}: {error}", self.info.name)).ok()
    }

    /// What is not asked for at every scrape.
    pub(super) fn costly(&self) -> Costly {
        Costly { rules: self.rule_counts(), cpu_s: self.queues.iter().map(Queue::cpu_s).collect() }
    }

    /// Steers no further frame: the program is detached; or, to be kept for [`attach`], it passes everything, if it
    /// is attached.
    pub(super) fn close(self, keep: bool) -> (Vec<Queue>, Option<Kept>) {
        let attached = keep && self.is_attached();
        let Self { plan, program, queues, .. } = self;
        (queues, attached.then(|| retire(program.into_inner(), &plan)))
    }

    /// Detaches the program.
    pub(super) fn detach(&self) {
        self.program.borrow_mut().detach();
    }

    /// Whether the kernel shows our program on the interface; one that does not answer has not said that it is
    /// gone.
    pub(super) fn is_attached(&self) -> bool {
        !matches!(attachment(self.plan.link.index, self.program.borrow().id()), Ok(None))
    }

    /// What its workers have done and not shown yet.
    pub(super) fn unshown(&self) -> impl Iterator<Item = Unshown> {
        self.queues.iter().filter_map(Queue::unshown)
    }

    /// What the program has decided so far.
    pub(super) fn decisions(&self) -> Option<Decisions> {
        let decisions = self.program.borrow().decisions();
        decisions.inspect_err(|error| log::error!("{}: {error}", self.info.name)).ok()
    }

    /// The device as it is now, and what its program had decided before.
    pub(super) fn observe(&self, decisions: Option<Decisions>) -> DeviceView {
        let redirect_errors = self.program.borrow().redirect_errors();
        let queues = self.queues.iter().map(Queue::observe).collect();
        DeviceView {
            info: Arc::clone(&self.info),
            decisions,
            redirect_errors,
            queues,
            away: None,
            tables: self.program.borrow().tables().to_vec(),
            rules: Vec::new(),
            kernel: None,
        }
    }

    /// Whether frames can move at a queue: its link is there, and its worker makes turns.
    pub(super) fn can_move(&self, index: usize) -> bool {
        let (queue, link) = (&self.queues[index], &self.plan.link);
        link.up && link.carrier && !queue.has_ended() && queue.watch.get().steered
    }

    /// Notes on a view of a queue which of its frames the kernel keeps, although they can move: `sent` grows as long as
    /// those do that were sent, wherever.
    pub(super) fn find_swallowed(&self, index: usize, view: &mut QueueView, can_move: bool, sent: u64) {
        let queue = &self.queues[index];
        let mut standstill = queue.standstill.get();
        view.swallowed = standstill.look(Look {
            places: view.snapshot.places,
            traffic: view.snapshot.traffic,
            sent,
            can_move,
            zero_copy: self.info.zero_copy,
            patience: queue.leak_after(),
            now: Instant::now(),
        });
        queue.standstill.set(standstill);
    }

    /// Queues whose worker makes no turns.
    pub(super) fn stalled_queues(&self) -> impl Iterator<Item = u32> {
        let stalled = |queue: &&Queue| !queue.has_ended() && queue.watch.get().since.elapsed() > UNHEALTHY;
        self.queues.iter().filter(stalled).map(Queue::number)
    }

    /// Queues whose handler panicked.
    pub(super) fn failed_queues(&self) -> impl Iterator<Item = u32> {
        self.queues.iter().filter(|queue| queue.has_failed()).map(Queue::number)
    }

    /// Queues whose traffic goes to the stack.
    pub(super) fn unsteered_queues(&self) -> impl Iterator<Item = u32> {
        self.queues.iter().filter(|queue| !queue.watch.get().steered).map(Queue::number)
    }
}
