//! The control plane: the order of start, what goes on meanwhile, the order of shutdown.
//!
//! One thread runs all of it, on a tokio runtime of its own. Workers are plain pinned threads. The two meet in
//! three places: a flag to stop a worker, the block that it publishes, a handle to join.

mod device;
pub mod namespace;
mod preflight;
mod program_log;
mod queue;
mod watchdog;
mod worker;

use std::{
    cell::RefCell,
    io,
    rc::Rc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result};
use hyper::StatusCode;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    task::LocalSet,
    time::{MissedTickBehavior, interval_at},
};

use crate::{
    config::RunConfig,
    metrics::{self, Answer, Hosts, Requests},
    observe::{self, Asked, Observation},
    outlet::Outlet,
    report::Reporter,
    status::Status,
};
use device::Device;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every frame was found again.
    Conserved,
    /// The places do not add up, or a worker did not live to say.
    Violated,
    /// An interface went away while it was served, or our program was taken off it.
    Lost,
    /// The report could not be written.
    Unsaid,
}

/// Runs until told to stop: attaches, moves frames, reports, detaches.
///
/// The order matters. What can be refused is refused before anything is touched; the listener is bound before
/// the network namespace changes; a queue's socket comes into the program's map last, when the kernel has frames
/// for it, so that no frame is steered to nowhere.
pub fn run(config: RunConfig, out: Outlet) -> Result<Outcome> {
    preflight::check(&config)?;
    let listener = metrics::bind(config.listen).with_context(|| {
        format!("cannot listen on {}; choose another address with --listen", config.listen)
    })?;
    let endpoint = format!("http://{}", listener.local_addr().unwrap_or(config.listen));
    if let Some(netns) = &config.netns {
        namespace::enter(netns)?;
    }

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();
    runtime.block_on(local.run_until(async {
        // From here on a signal ends us in order: what was opened by then is closed.
        let signals = Signals::listen().context("cannot listen for signals")?;
        let devices = device::open_all(&config)?;
        let listener = TcpListener::from_std(listener).context("cannot use the HTTP listener")?;
        let agent = Rc::new(Agent {
            devices,
            started: Instant::now(),
            started_at: SystemTime::now(),
            requests: Requests::default(),
            asked: RefCell::new(None),
        });
        // Before the first frame is allocated: at the end all of them are home, and the two are compared.
        let start = agent.observe();
        for device in &agent.devices {
            device.start_workers(agent.started)?;
            if config.log_program
                && let Some(log) = device.take_log()
            {
                tokio::task::spawn_local(program_log::forward(log));
            }
        }
        let (pages, hosts) = (Rc::clone(&agent), Hosts::new(&config.allow_hosts));
        tokio::task::spawn_local(metrics::serve(listener, hosts, agent.requests.clone(), move |path| {
            pages.page(path)
        }));
        log::info!("listening on {endpoint}");
        let reporter = Reporter::new(out, config.json, start);
        agent.serve(&config, signals, &endpoint, reporter).await
    }))
}

/// For this long the kernel is not asked again: whoever asks more often gets the same answer about interfaces.
/// What our own queues say is always new.
const FRESH: Duration = Duration::from_millis(250);

/// Everything that runs.
struct Agent {
    devices: Vec<Device>,
    started: Instant,
    started_at: SystemTime,
    requests: Requests,
    /// What the kernel said last of the interfaces, and when.
    asked: RefCell<Option<(Instant, Asked)>>,
}

impl Agent {
    /// Reports and watches until a signal, the end of `--duration`, or the death of a worker; then shuts down.
    async fn serve(
        &self,
        config: &RunConfig,
        mut signals: Signals,
        endpoint: &str,
        mut reporter: Reporter,
    ) -> Result<Outcome> {
        let infos: Vec<_> = self.devices.iter().map(Device::info).collect();
        reporter.banner(&infos, endpoint);

        let second = Duration::from_secs(1);
        let mut every_second = interval_at(tokio::time::Instant::now() + second, second);
        every_second.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut watch = tokio::time::interval(watchdog::PERIOD);
        watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let end = config.duration.map(|duration| tokio::time::Instant::from_std(self.started + duration));

        let (mut worker_died, mut conserved) = (false, true);
        loop {
            tokio::select! {
                biased;
                () = signals.next() => break,
                () = tokio::time::sleep_until(end.unwrap_or_else(far_future)), if end.is_some() => break,
                _ = watch.tick() => {
                    for device in &self.devices {
                        watchdog::check(device, Instant::now());
                        worker_died |= device.lost_a_worker();
                    }
                    if worker_died {
                        log::error!("a worker thread ended by itself; stopping");
                        break;
                    }
                }
                _ = every_second.tick() => {
                    let now = self.observe();
                    conserved &= now.conserved();
                    reporter.interval(now);
                    self.devices.iter().for_each(Device::check_attachment);
                    if self.devices.iter().all(Device::is_lost) {
                        log::error!("there is no interface left to serve; stopping");
                        break;
                    }
                }
            }
        }

        // At the end every frame comes home: how many were recycled until then is asked before.
        let before = self.observe();
        let last = tokio::select! {
            biased;
            last = self.shut_down() => last,
            () = signals.next() => {
                // The kernel detaches the program and frees the sockets when this process is gone.
                log::warn!("second signal: ending at once, without draining");
                std::process::exit(130);
            }
        };
        let written = reporter.summary(&before, &last);
        Ok(if !conserved || !last.conserved() || worker_died {
            Outcome::Violated
        } else if self.devices.iter().any(Device::is_lost) {
            Outcome::Lost
        } else if !written {
            Outcome::Unsaid
        } else {
            Outcome::Conserved
        })
    }

    /// The order of shutdown:
    ///
    /// 1. detach the program: no further frame is steered;
    /// 2. let go of the sockets, which are the workers' alone from here on;
    /// 3. tell every worker to stop; each empties its RX ring, waits for its completions, closes its socket, and
    ///    takes every frame home;
    /// 4. wait for them.
    async fn shut_down(&self) -> Observation {
        let decisions: Vec<_> = self.devices.iter().map(Device::detach).collect();
        for queue in self.devices.iter().flat_map(|device| &device.queues) {
            queue.release_socket();
            queue.stop();
        }
        let at = self.started.elapsed();
        let mut devices = Vec::new();
        for (device, decisions) in self.devices.iter().zip(decisions) {
            devices.push(device.collect(decisions).await);
        }
        Observation {
            at,
            started: self.started_at,
            devices,
            collectors: Vec::new(),
            process: None,
            requests: Vec::new(),
        }
    }

    fn observe(&self) -> Observation {
        Observation {
            at: self.started.elapsed(),
            started: self.started_at,
            devices: self.devices.iter().map(Device::observe).collect(),
            collectors: Vec::new(),
            process: None,
            requests: Vec::new(),
        }
    }

    /// The same, and what the kernel says of the interfaces themselves.
    fn observe_all(&self) -> Observation {
        let mut observation = self.observe();
        let mut asked = self.asked.borrow_mut();
        let fresh = asked.as_ref().filter(|(at, _)| at.elapsed() < FRESH).is_some();
        if !fresh {
            let infos = observation.devices.iter().map(|device| device.info.as_ref());
            *asked = Some((Instant::now(), observe::ask(infos)));
        }
        if let Some((_, asked)) = &*asked {
            for device in &mut observation.devices {
                device.kernel = asked.views.get(&device.info.index).cloned();
            }
            observation.collectors = asked.collectors.clone();
            observation.process = asked.process;
        }
        observation.requests = self.requests.counts();
        observation
    }

    /// The HTTP pages.
    fn page(&self, path: &str) -> Option<Answer> {
        let page = match path {
            "/" => Answer {
                status: StatusCode::OK,
                content_type: "text/html; charset=utf-8",
                body: metrics::PAGE.to_owned(),
            },
            "/metrics" => match metrics::render(self.observe_all()) {
                Ok(body) => Answer { status: StatusCode::OK, content_type: metrics::CONTENT_TYPE, body },
                Err(error) => Answer::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            },
            "/status" => Answer {
                status: StatusCode::OK,
                content_type: "application/json",
                body: Status::of(&self.observe_all()).json(),
            },
            "/healthz" => health(&self.devices, Device::stalled_queues, "makes no turns"),
            "/readyz" => health(&self.devices, Device::unsteered_queues, "does not get its traffic"),
            _ => return None,
        };
        Some(page)
    }
}

/// `ok`, or 503 and every queue that is not.
fn health(devices: &[Device], sick: impl Fn(&Device) -> Vec<u32>, what: &str) -> Answer {
    let mut body = String::new();
    for device in devices {
        for queue in sick(device) {
            body.push_str(&format!("{} queue {queue} {what}\n", device.info().name));
        }
    }
    if body.is_empty() {
        Answer::text(StatusCode::OK, "ok\n")
    } else {
        Answer::text(StatusCode::SERVICE_UNAVAILABLE, body)
    }
}

fn far_future() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(86400 * 365)
}

/// SIGINT and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
