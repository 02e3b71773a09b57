//! The control plane: the order of start, what goes on meanwhile, the order of shutdown.
//!
//! One thread runs all of it, on a tokio runtime of its own. Workers are plain pinned threads. The two meet in
//! three places: a bell that wakes or stops a worker, the block that it publishes, a handle to join.

mod bell;
mod bound;
mod carrier;
mod crew;
mod device;
mod flight;
mod group;
mod leaks;
mod leaving;
mod look;
pub mod namespace;
mod open;
mod pages;
mod plan;
mod preflight;
mod program_log;
mod queue;
mod reload;
mod respond;
mod signals;
mod socket;
mod standstill;
mod steering;
mod watchdog;
mod worker;

use std::{
    cell::{Cell, RefCell},
    panic,
    rc::Rc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result};
use datapath::PacketHandler;
use tokio::{
    net::{TcpListener, UnixListener},
    task::{JoinHandle, LocalSet},
    time::{MissedTickBehavior, interval_at},
};

use crate::{
    capture::{Closing, Writer},
    config::{Handler, RunConfig},
    metrics::{self, Hosts, Requests},
    observe::{Observation, Reloads, Totals},
    outlet::Outlet,
    report::Reporter,
};
use crew::Hire;
pub use crew::Place;
use device::Device;
use flight::Flight;
use frame_pool::RETRY_INTERVAL;
use group::{Common, Group};
use leaks::Leaks;
use leaving::Leaving;
use look::LastAsked;
use open::{Buried, Open};
use signals::Signals;
use socket::ControlSocket;

/// How often interfaces are compared with how they were opened.
///
/// A poll, and not rtnetlink's notifications: no message tells of a changed number of queues with every driver, so
/// there would be a poll beside them; and a second is soon enough for what an administrator did by hand.
const RECONCILE: Duration = Duration::from_secs(1);
/// How long the end waits for a capture that is slow to be written.
const WRITE_OUT: Duration = Duration::from_secs(2);

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every frame was found again.
    Conserved,
    /// The places do not add up, or a worker did not live to say.
    Violated,
    /// An interface was away at the end: it went while it was served, and did not come back.
    Lost,
    /// The report could not be written.
    Unsaid,
    /// A second signal came while the first one was being heeded: nothing was drained, and nothing counted.
    Interrupted,
}

/// Runs until told to stop: attaches, moves frames, reports to `out`, detaches.
///
/// The order matters. What can be refused is refused before anything is touched; the listener is bound before
/// the network namespace changes; a queue's socket comes into the program's map last, when the kernel has frames
/// for it, so that no frame is steered to nowhere.
///
/// # Errors
///
/// What cannot be opened, and why not.
pub fn run(config: RunConfig, out: Outlet) -> Result<Outcome> {
    let hire = crew::built_in(&config.handler);
    start(config, out, hire)
}

/// The same with a handler of one's own on every queue; that of the configuration is not looked at.
///
/// `handler` makes one for each queue, and anew whenever its interface is opened again.
///
/// # Errors
///
/// As [`run`]; and a `handler` that panics at the start. If it panics later, it is asked again each second.
pub fn run_with<H>(
    mut config: RunConfig,
    out: Outlet,
    handler: impl Fn(Place<'_>) -> H + 'static,
) -> Result<Outcome>
where
    H: PacketHandler + Send + 'static,
{
    config.handler = Handler::Drop;
    // Nobody knows who waits for what it does.
    config.gather.get_or_insert(Duration::ZERO);
    start(config, out, Box::new(move |place, parts| crew::solo(parts, handler(place), |_| false)))
}

/// What is refused is shown where the file says it, if there is one.
fn start(config: RunConfig, out: Outlet, hire: Hire) -> Result<Outcome> {
    let source = config.source.clone();
    open_and_serve(config, out, hire).map_err(|error| match source {
        Some(source) => source.point_at(error),
        None => error,
    })
}

fn open_and_serve(config: RunConfig, out: Outlet, hire: Hire) -> Result<Outcome> {
    preflight::check(&config)?;
    let listener = metrics::bind(config.listen).with_context(|| {
        format!("cannot listen on {}; choose another address with --listen", config.listen)
    })?;
    let endpoint = format!("http://{}", listener.local_addr().unwrap_or(config.listen));
    // Removed when this ends, however that is.
    let (_socket, controller) = config.control.as_deref().map(ControlSocket::bind).transpose()?.unzip();
    if let Some(netns) = &config.netns {
        namespace::enter(netns)?;
    }

    let epoch = Instant::now();
    let capture = config.capture.clone().map(|capture| Writer::start(capture, epoch)).transpose()?;
    let common = Common::new(config, hire, capture, epoch);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();
    let outcome = runtime.block_on(local.run_until(async {
        // From here on a signal ends us in order: what was opened by then is closed.
        let mut signals = Signals::listen().context("cannot listen for signals")?;
        let groups = open_all(&common)?;
        let listener = TcpListener::from_std(listener).context("cannot use the HTTP listener")?;
        let agent = Rc::new(Agent::new(common, groups));
        // Before the first frame is allocated: at the end all of them are home, and the two are compared.
        let start = agent.observe(&agent.decided());
        for group in &agent.groups {
            group.with_mut(|open| open.start(&agent.common)).transpose()?;
            if agent.common.config().log_program {
                let logs = |open: &Open| open.devices.iter().filter_map(Device::take_log).collect();
                for log in group.with::<Vec<_>>(logs).unwrap_or_default() {
                    tokio::task::spawn_local(program_log::forward(log));
                }
            }
        }
        let (pages, hosts) = (Rc::clone(&agent), Hosts::new(&agent.common.config().allow_hosts));
        let page = async move |path: &str| pages.page(path).await;
        tokio::task::spawn_local(metrics::serve(listener, hosts, agent.requests.clone(), page));
        if let Some(controller) = controller {
            let controller = UnixListener::from_std(controller).context("cannot use the control socket")?;
            tokio::task::spawn_local(socket::serve(controller, Rc::clone(&agent)));
        }
        if let Some(hangup) = signals.hangup.take_if(|_| agent.common.config().source.is_some()) {
            let agent = Rc::clone(&agent);
            tokio::task::spawn_local(async move { agent.reload_at(hangup).await });
        }
        log::info!("listening on {endpoint}");
        let reporter = Reporter::new(out, agent.common.config().json, start);
        // A task like the others: what is waited for here is polled again whenever one of them has something to do.
        let serving = async move { agent.serve(signals, &endpoint, reporter).await };
        tokio::task::spawn_local(serving)
            .await
            .unwrap_or_else(|error| panic::resume_unwind(error.into_panic()))
    }));
    drop(local);
    // A file that is read for ever, for a reload, holds up nothing.
    runtime.shutdown_background();
    outcome
}

/// Opens every interface, or none: what was opened before an error is closed by dropping it.
fn open_all(common: &Common) -> Result<Vec<Group>> {
    let cpus = plan::cpus(&common.config())?;
    let names: Vec<Vec<String>> = match &common.config().handler {
        Handler::Forward { to } => {
            vec![common.config().ifaces.iter().chain([to]).cloned().collect()]
        }
        _ => common.config().ifaces.iter().map(|name| vec![name.clone()]).collect(),
    };
    // What is wrong with any of them is found before anything is touched.
    let mut queues = 0;
    for names in &names {
        queues += plan::make(&common.config(), names)?[0].queues.len();
    }
    let mut groups: Vec<Group> = Vec::new();
    for names in names {
        groups.push(Group::open(common, names, &cpus, &groups, queues)?);
    }
    Ok(groups)
}

/// Everything that runs.
struct Agent {
    common: Common,
    /// When everything was open.
    started: Instant,
    started_at: SystemTime,
    requests: Requests,
    flight: Flight,
    asked: RefCell<Option<LastAsked>>,
    reloads: Cell<Reloads>,
    /// Held while the file is read and its rules are put in force.
    reloading: tokio::sync::Mutex<()>,
    groups: Vec<Group>,
    /// Groups that were closed, and that somebody still holds frames of.
    leaving: RefCell<Vec<Leaving>>,
    /// What went through those that are gone altogether.
    past: RefCell<Totals>,
    /// The capture, once no more workers are added to it.
    closing: RefCell<Option<Closing>>,
    worker_failed: Cell<bool>,
    /// Whether nothing is opened any more.
    stopping: Cell<bool>,
}

impl Agent {
    fn new(common: Common, groups: Vec<Group>) -> Self {
        Self {
            common,
            started: Instant::now(),
            started_at: SystemTime::now(),
            requests: Requests::default(),
            flight: Flight::default(),
            groups,
            leaving: RefCell::default(),
            past: RefCell::default(),
            closing: RefCell::default(),
            asked: RefCell::default(),
            reloads: Cell::new(Reloads::none()),
            reloading: tokio::sync::Mutex::default(),
            worker_failed: Cell::new(false),
            stopping: Cell::new(false),
        }
    }

    /// Reports and watches until a signal, the end of `--duration`, or until no worker is left; then shuts down.
    async fn serve(
        self: Rc<Self>,
        mut signals: Signals,
        endpoint: &str,
        mut reporter: Reporter,
    ) -> Result<Outcome> {
        let config = self.common.config();
        reporter.banner(endpoint);

        let every = |period| {
            let mut every = interval_at(tokio::time::Instant::now() + period, period);
            every.set_missed_tick_behavior(MissedTickBehavior::Skip);
            every
        };
        let mut every_second = every(Duration::from_secs(1));
        let mut reconcile = every(RECONCILE);
        let mut reconciling = None;
        let mut watch = every(watchdog::PERIOD);
        let end = config.duration.map(|duration| tokio::time::Instant::from_std(self.started + duration));

        let mut conserved = true;
        let mut leaks = Leaks::default();
        loop {
            tokio::select! {
                biased;
                () = signals.next() => break,
                () = tokio::time::sleep_until(end.unwrap_or_else(far_future)), if end.is_some() => break,
                () = self.common.alarm.notified() => watch.reset_immediately(),
                _ = watch.tick() => {
                    if self.watch() {
                        break;
                    }
                }
                // What it closes waits for workers. One that hangs must keep nobody from hearing a signal, and us from
                // looking after the others.
                _ = reconcile.tick(), if reconciling.is_none() => {
                    let agent = Rc::clone(&self);
                    reconciling = Some(tokio::task::spawn_local(async move { agent.reconcile().await }));
                }
                () = finish(&mut reconciling), if reconciling.is_some() => {}
                // What is being closed is counted nowhere before it is.
                _ = every_second.tick(), if reconciling.is_none() => {
                    let now = self.observe_now().await;
                    conserved &= now.conserved();
                    leaks.tell(&now);
                    reporter.interval(now);
                }
            }
        }

        // At the end every frame comes home: how many were recycled until then is asked before.
        let before = self.observe_now().await;

        let last = tokio::select! {
            biased;
            last = self.shut_down(reconciling) => last,
            () = signals.next() => {
                // The kernel detaches the program and frees the sockets when this process is gone.
                log::warn!("second signal: ending at once, without draining");
                return Ok(Outcome::Interrupted);
            }
        };
        let written = reporter.summary(&before, &last);
        Ok(if !conserved || !last.conserved() || self.worker_failed.get() {
            Outcome::Violated
        } else if before.devices.iter().any(|device| device.away.is_some()) {
            Outcome::Lost
        } else if !written {
            Outcome::Unsaid
        } else {
            Outcome::Conserved
        })
    }

    /// Looks after the workers; whether none is left.
    fn watch(&self) -> bool {
        let mut left = false;
        for group in &self.groups {
            if let Some(Buried { failed, all }) = group.bury() {
                self.worker_failed.set(self.worker_failed.get() || failed);
                left |= !all;
            } else {
                // An interface that is away may come back, and has then what is left to send.
                left |= !group.has_sent_all();
            }
            group.with(|open| open.devices.iter().for_each(|device| watchdog::check(device, Instant::now())));
        }
        if !left {
            log::info!("no worker is left; stopping");
        }
        !left
    }

    /// Compares the interfaces with how they were opened, and looks for late frames of those that were closed.
    async fn reconcile(&self) {
        for group in &self.groups {
            if self.stopping.get() {
                return;
            }
            let closed = group.reconcile(&self.common).await;
            self.take_leave(closed);
        }
        self.look_for_late_frames(self.common.epoch.elapsed());
    }

    /// Notes a group that was closed, if one was.
    fn take_leave(&self, closed: Option<Leaving>) {
        if closed.as_ref().is_some_and(|leaving| leaving.failed) {
            self.worker_failed.set(true);
        }
        self.leaving.borrow_mut().extend(closed);
    }

    fn look_for_late_frames(&self, now: Duration) {
        let mut past = self.past.borrow_mut();
        self.leaving.borrow_mut().retain_mut(|leaving| {
            let all_home = leaving.retry(now, self.common.config().leak_after);
            if all_home {
                leaving.queues().for_each(|queue| past.add(queue));
            }
            !all_home
        });
    }

    /// The order of shutdown: every group is closed; then the capture is written out; then late frames are
    /// collected.
    async fn shut_down(&self, mut reconciling: Option<JoinHandle<()>>) -> Observation {
        self.stopping.set(true);
        let mut end = self.observe(&self.decided());
        // At once: the second would go on sending to the first meanwhile.
        self.detach();
        finish(&mut reconciling).await;
        // A program that was kept of a group that could not be opened, too.
        self.detach();
        for group in &self.groups {
            let closed = group.close("stopped", false).await;
            self.take_leave(closed);
        }
        let at = self.started.elapsed();
        self.write_out().await;
        // Frames that came late are home now: looked for at once, and not in a second.
        let now = self.common.epoch.elapsed() + RETRY_INTERVAL;
        for leaving in &mut *self.leaving.borrow_mut() {
            leaving.retry(now, self.common.config().leak_after);
        }
        for device in &mut end.devices {
            device.queues.clear();
        }
        Observation { at, leaving: self.leaving_queues(), capture: self.captured(), ..end }
    }

    fn detach(&self) {
        self.groups.iter().for_each(Group::detach);
    }

    /// Waits for the capture to be written, for a while.
    async fn write_out(&self) {
        let Some(writer) = self.common.capture.take() else { return };
        let closing = writer.close();
        let deadline = Instant::now() + WRITE_OUT;
        while !closing.is_done() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if !closing.is_done() {
            log::warn!("the capture is not written to its end: whoever reads it is slow");
        }
        *self.closing.borrow_mut() = Some(closing);
    }
}

/// Waits for a task, if there is one; its panic is ours.
async fn finish(task: &mut Option<JoinHandle<()>>) {
    if let Some(running) = task
        && let Err(error) = running.await
    {
        panic::resume_unwind(error.into_panic());
    }
    *task = None;
}

fn far_future() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(86400 * 365)
}
