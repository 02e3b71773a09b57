//! One interface: its program, its queues, and how they are opened.

use std::{
    cell::{Cell, RefCell},
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use procfs::Current as _;
use umemd_common::Decision;

use super::queue::Queue;
use crate::{
    config::RunConfig,
    ebpf::{LoadOptions, Program, ProgramLog},
    nic::{self, Link, NicError, XdpAttachment},
    observe::{DeviceInfo, DeviceView, QueueView},
    steer::guard,
    sys::ethtool,
    xsk::SocketHandle,
};

/// A worker that made no turn for this long makes `/healthz` say so.
const UNHEALTHY: Duration = Duration::from_secs(5);
/// `XDP_PACKET_HEADROOM` (linux/bpf.h): what the kernel keeps free in front of a received frame.
const HEADROOM: u32 = 256;
/// An Ethernet header with one VLAN tag: what a frame has beyond the MTU.
const L2_OVERHEAD: u32 = 18;

/// One interface while it is served.
pub(super) struct Device {
    info: Arc<DeviceInfo>,
    index: u32,
    program: RefCell<Program>,
    /// Whether the kernel no longer shows our program on it.
    lost: Cell<bool>,
    /// The queues served.
    pub(super) queues: Vec<Queue>,
}

/// Opens every interface, or none: what was opened before an error is closed by dropping it.
pub(super) fn open_all(config: &RunConfig) -> Result<Vec<Device>> {
    let ask = |what| move |source| NicError::Kernel { what, source };
    let links = nic::links().map_err(NicError::links)?;
    let addresses = nic::addresses().map_err(ask("its addresses"))?;
    let routes = nic::routes().map_err(ask("its routes"))?;

    let mut plans = Vec::new();
    for name in &config.ifaces {
        let link = nic::find(&links, name, config.netns.as_deref())?;
        if !link.up {
            return Err(NicError::Down { name: name.clone() }.into());
        }
        if !config.force {
            guard::refuse_lock_out(&config.rules, &nic::facts(link, &links, &addresses, &routes))
                .with_context(|| format!("will not attach to {name}"))?;
        }
        let queues = nic::choose_queues(link, config.queues.as_deref())?;
        plans.push((link, queues));
    }
    let queues: usize = plans.iter().map(|(_, queues)| queues.len()).sum();
    refuse_too_much_memory(config, queues)?;

    let mut cpus = cpus(config)?.into_iter().cycle();
    plans.into_iter().map(|(link, queues)| Device::open(config, link, &queues, &mut cpus)).collect()
}

impl Device {
    /// Load, attach, sockets; the threads come later.
    fn open(
        config: &RunConfig,
        link: &Link,
        queues: &[u32],
        cpus: &mut impl Iterator<Item = usize>,
    ) -> Result<Self> {
        let name = &link.name;
        let capacity = config.layout.chunk_size() - HEADROOM;
        if link.mtu + L2_OVERHEAD > capacity {
            log::warn!(
                "{name} has MTU {}, and a frame of {} bytes holds packets of {capacity}: longer ones are dropped \
                 and counted as xsk_rx_dropped{}",
                link.mtu,
                config.layout.chunk_size(),
                if config.layout.chunk_size() < 4096 { "; --frame-size 4096 holds more" } else { "" },
            );
        }

        let mut program = Program::load(LoadOptions { log: config.log_program, frags: false })?;
        program.set_rules(&config.rules)?;
        program.attach(link, config.mode)?;
        let attached = attachment(link.index, &program).map_err(NicError::links)?;
        let Some(attached) = attached else {
            bail!("attached to {name}, but the kernel does not show our program there");
        };
        if attached.mode != config.mode.to_string() {
            bail!("asked for {} mode on {name} and got {}", config.mode, attached.mode);
        }

        let queues: Vec<Queue> = queues
            .iter()
            .map(|number| Queue::open(config, name, *number, cpus.next().unwrap_or(0)))
            .collect::<Result<_>>()?;
        let zero_copy = queues.iter().all(|queue| {
            queue.with_socket(SocketHandle::zero_copy).is_some_and(|mode| mode.unwrap_or(false))
        });
        let info = DeviceInfo {
            index: link.index,
            name: name.clone(),
            driver: ethtool::driver(name).unwrap_or_default(),
            mode: attached.mode,
            zero_copy,
            program_id: program.id(),
        };
        Ok(Self {
            info: Arc::new(info),
            index: link.index,
            program: RefCell::new(program),
            lost: Cell::new(false),
            queues,
        })
    }

    /// What does not change.
    pub(super) fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// Starts the threads, and steers frames to their sockets.
    pub(super) fn start_workers(&self, epoch: Instant) -> Result<()> {
        for queue in &self.queues {
            queue.start(&self.info.name, epoch)?;
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
        use rustix::fd::AsFd as _;
        queue
            .with_socket(|socket| self.program.borrow_mut().set_socket(queue.number, socket.as_fd()))
            .transpose()?;
        Ok(())
    }

    /// Gives the frames of `queue` to the stack.
    pub(super) fn clear_socket(&self, queue: &Queue) -> Result<()> {
        Ok(self.program.borrow_mut().clear_socket(queue.number)?)
    }

    /// Detaches the program; its counters at that moment.
    pub(super) fn detach(&self) -> [u64; Decision::COUNT] {
        self.program.borrow_mut().detach();
        self.decisions()
    }

    /// The device as it is now.
    pub(super) fn observe(&self) -> DeviceView {
        // The decisions first: what was steered by then and is seen nowhere later did not get through.
        let decisions = self.decisions();
        self.view(decisions, self.queues.iter().map(Queue::observe).collect())
    }

    /// Waits for the workers' ends.
    pub(super) async fn collect(&self, decisions: [u64; Decision::COUNT]) -> DeviceView {
        let mut queues = Vec::new();
        for queue in &self.queues {
            queues.push(queue.collect().await);
        }
        self.view(decisions, queues)
    }

    /// Whether a worker's thread ended although nobody asked it to.
    pub(super) fn lost_a_worker(&self) -> bool {
        self.queues.iter().any(Queue::lost_worker)
    }

    /// Queues whose worker makes no turns.
    pub(super) fn stalled_queues(&self) -> Vec<u32> {
        let stalled = |queue: &&Queue| queue.watch.get().since.elapsed() > UNHEALTHY;
        self.queues.iter().filter(stalled).map(|queue| queue.number).collect()
    }

    /// Queues whose traffic goes to the stack, or nowhere.
    pub(super) fn unsteered_queues(&self) -> Vec<u32> {
        let unsteered = |queue: &&Queue| self.lost.get() || !queue.watch.get().steered;
        self.queues.iter().filter(unsteered).map(|queue| queue.number).collect()
    }

    /// Looks whether our program is still on the interface: both may go while we run.
    pub(super) fn check_attachment(&self) {
        // A kernel that does not answer has not said that it is gone.
        if !self.lost.get() && matches!(attachment(self.index, &self.program.borrow()), Ok(None)) {
            log::error!(
                "{}: the interface is gone, or our XDP program was taken off it; nothing is received any more",
                self.info.name
            );
            self.lost.set(true);
        }
    }

    /// Whether [`check_attachment`](Self::check_attachment) did not find it.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.get()
    }

    fn decisions(&self) -> [u64; Decision::COUNT] {
        self.program.borrow().decisions().unwrap_or_else(|error| {
            log::error!("{}: {error}", self.info.name);
            [0; Decision::COUNT]
        })
    }

    fn view(&self, decisions: [u64; Decision::COUNT], queues: Vec<QueueView>) -> DeviceView {
        DeviceView { info: Arc::clone(&self.info), decisions, queues, kernel: None }
    }
}

/// The kernel's view of our program on an interface.
fn attachment(index: u32, program: &Program) -> io::Result<Option<XdpAttachment>> {
    let links = nic::links()?;
    let attached = links.into_iter().find(|link| link.index == index).and_then(|link| link.xdp);
    Ok(attached.filter(|xdp| xdp.program_id == program.id()))
}

/// The CPUs for the workers, in the order of the queues: those asked for, or all that this process may use, from
/// the last one down, since interrupts tend to arrive on the first.
fn cpus(config: &RunConfig) -> Result<Vec<usize>> {
    let allowed = rustix::thread::sched_getaffinity(None).context("cannot ask which CPUs may be used")?;
    let all: Vec<usize> =
        (0..rustix::thread::CpuSet::MAX_CPU).rev().filter(|cpu| allowed.is_set(*cpu)).collect();
    let Some(asked) = &config.cpus else { return Ok(all) };
    if let Some(cpu) = asked.iter().find(|cpu| !all.contains(cpu)) {
        bail!(
            "--cpus {cpu}: this process may not use that CPU; it may use {:?}",
            all.into_iter().rev().collect::<Vec<_>>()
        );
    }
    Ok(asked.clone())
}

/// Refuses UMEMs that the machine cannot hold, before the kernel pins them page by page.
fn refuse_too_much_memory(config: &RunConfig, queues: usize) -> Result<()> {
    let wanted =
        u64::from(config.layout.chunk_size()) * u64::from(config.layout.chunk_count()) * queues as u64;
    // A machine that does not tell is not refused.
    let available = procfs::Meminfo::current().ok().and_then(|meminfo| meminfo.mem_available);
    match available {
        Some(available) if wanted > available => bail!(
            "{queues} queues with {} frames of {} bytes take {} MiB, and {} MiB are available; ask for fewer \
             --frames or --queues",
            config.layout.chunk_count(),
            config.layout.chunk_size(),
            wanted >> 20,
            available >> 20,
        ),
        _ => Ok(()),
    }
}
