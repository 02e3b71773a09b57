//! The metric tree: one row per metric. What is not here is not exported, and the README's table is made of it.
//!
//! Names follow the kernel (page_pool's counters, `struct xdp_statistics`) under the prefix `umemd_`; the writer
//! adds `_total` to counters, as OpenMetrics wants it.
//!
//! What ends in `_info` is a gauge of value 1, as Prometheus' own `_info` series are. OpenMetrics has a type for that, whose
//! labels are not to change while the process lives; rules, programs, sockets and pools come and go. And its families are
//! named without `_info`, so that who looks for help on a series by its name would find none.
//!
//! What one might look for and find otherwise:
//!
//! - `umemd_umem_*` and `umemd_socket_info` have labels `device` and `queue`, and none `umem`: a queue has a UMEM of its own,
//!   or that of the one it is joined with. Of busy polling, which there is none of, the latter says nothing; and
//!   `backing` says nothing of transparent huge pages, which come and go.
//! - `umemd_pool_frames` calls the free list `slab`, and has the states `kernel` (between two of the kernel's rings),
//!   `quarantined` and `detached` more. `missing` is none: the places add up, or `umemd_pool_conserved` is 0. Who has
//!   what does not come back is in `umemd_leaked_frames` and `umemd_pool_swallowed_frames`.
//! - `umemd_frame_hold_seconds` has every frame that somebody held, and no samples of the others: a handler is done with
//!   most within a turn, and to look at the clock for each would cost more than the number is worth. Its buckets begin at
//!   16 us, not at 1: times are read once a turn.
//! - `umemd_ring_depth` is left out: frames by place say it, of one moment.
//! - `umemd_ring_wakeups` has what the kernel answered, too.
//! - `umemd_xdp_verdicts` has the three verdicts that our program ever gives.
//! - `umemd_xdp_redirect_errors` is layer `redirect` of `umemd_drops`, which follows a packet to its end.
//! - `umemd_capture_dropped` is in two, by where it happens: `missed` at the worker, `lost` at the disk. Captures have no
//!   label, as there is one at a time.
//! - `umemd_tap_*` is left out with the TAP: what is not steered goes to the stack without one.
//! - `umemd_scrape_collector_*` are of those that ask the kernel: to read the pool's numbers cannot fail.

mod agent;
mod kernel;
mod pool;
mod rules;
mod socket;
mod worker;

pub(super) use self::rules::MOST as MOST_RULES;
use super::series::{Sample, Series};
use crate::{
    observe::{DeviceView, Observation, QueueView},
    page_pool::Pool,
};

/// Whether a metric only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows, and starts from 0.
    Counter,
    /// Can fall.
    Gauge,
    /// Times, in buckets.
    Histogram,
}

/// One metric.
#[derive(Debug)]
pub(super) struct Metric {
    /// Without `_total`.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// Names of the labels that the function in `read` adds, in that order.
    labels: &'static [&'static str],
    /// One sentence that says where the number comes from.
    pub(super) help: &'static str,
    read: Read,
}

/// How a metric is read: once per whatever it is about. What is known before, such as the device's name, is put
/// before the labels that the function adds.
#[derive(Debug)]
enum Read {
    /// Once.
    Agent(fn(&Observation, &mut Series<'_>)),
    /// For each device; begins with label `device`.
    Device(fn(&DeviceView, &mut Series<'_>)),
    /// For each queue; begins with labels `device` and `queue`.
    Queue(fn(&QueueView, &mut Series<'_>)),
    /// For each of the kernel's page_pools; begins with labels `device` and `pool`. Those of interfaces that are gone
    /// are the loopback's, as the kernel has it.
    Pool(fn(&Pool, &mut Series<'_>)),
}

/// Rows of one kind: `Kind "name" "help" |view| value;`, or with labels `Kind "name" [labels] "help" |view, out| ..;`.
macro_rules! metrics {
    ($read:ident $($kind:ident $name:literal $([$($label:literal),+])? $help:literal $read_it:expr;)*) => {
        &[$($crate::metrics::tree::Metric {
            name: $name,
            kind: $crate::metrics::tree::Kind::$kind,
            labels: &[$($($label),+)?],
            help: $help,
            read: $crate::metrics::tree::Read::$read(
                $crate::metrics::tree::metrics!(@closure ($($($label)+)?) $read_it)
            ),
        }),*]
    };
    (@closure () $value:expr) => {
        |view, out| {
            // Through a function pointer, so that the closure's argument has a type.
            fn call<T: ?Sized, V>(f: fn(&T) -> V, view: &T) -> V {
                f(view)
            }
            out.add(call($value, view));
        }
    };
    (@closure ($($label:literal)+) $read_it:expr) => { $read_it };
}
use metrics;

/// Every metric, in the order of the page.
pub(super) fn all() -> impl Iterator<Item = &'static Metric> {
    [
        agent::IDENTITY,
        pool::TREE,
        pool::LEAKS,
        socket::TREE,
        worker::TREE,
        worker::STEERING,
        rules::RULES,
        rules::TABLES,
        kernel::DROPS,
        kernel::POOLS,
    ]
    .into_iter()
    .chain([kernel::POOL_INFO, rules::RELOADS, agent::SELF])
    .flatten()
}

impl Metric {
    /// Names of its labels.
    pub(super) fn labels(&self) -> impl Iterator<Item = &'static str> {
        let before: &[&str] = match self.read {
            Read::Agent(_) => &[],
            Read::Device(_) => &["device"],
            Read::Queue(_) => &["device", "queue"],
            Read::Pool(_) => &["device", "pool"],
        };
        before.iter().chain(self.labels).copied()
    }

    /// The name as it is scraped.
    #[cfg(test)]
    pub(super) fn sample_name(&self) -> String {
        match self.kind {
            Kind::Counter => format!("{}_total", self.name),
            Kind::Gauge => self.name.to_owned(),
            Kind::Histogram => format!("{}_bucket", self.name),
        }
    }

    /// Hands on each of its samples.
    pub(super) fn read(&self, subjects: &Subjects<'_>, take: &mut dyn FnMut(&Sample<'_>)) {
        match self.read {
            Read::Agent(read) => read(subjects.agent, &mut Series::new(&[], take)),
            Read::Device(read) => each(&subjects.devices, read, take),
            Read::Queue(read) => each(&subjects.queues, read, take),
            Read::Pool(read) => each(&subjects.pools, read, take),
        }
    }
}

fn each<T>(subjects: &[Subject<'_, T>], read: fn(&T, &mut Series<'_>), take: &mut dyn FnMut(&Sample<'_>)) {
    for (prefix, subject) in subjects {
        read(subject, &mut Series::new(prefix, take));
    }
}

/// What a metric is read of, with the values of the labels that its samples begin with.
type Subject<'a, T> = (Vec<String>, &'a T);

/// All that metrics are read of, each with the labels that its samples begin with: made once for all metrics.
#[derive(Debug)]
pub(super) struct Subjects<'a> {
    agent: &'a Observation,
    devices: Vec<Subject<'a, DeviceView>>,
    queues: Vec<Subject<'a, QueueView>>,
    pools: Vec<Subject<'a, Pool>>,
}

impl<'a> Subjects<'a> {
    pub(super) fn of(agent: &'a Observation) -> Self {
        let mut subjects = Self { agent, devices: Vec::new(), queues: Vec::new(), pools: Vec::new() };
        for device in &agent.devices {
            let name = &device.info.name;
            subjects.devices.push((vec![name.clone()], device));
            for queue in &device.queues {
                subjects.queues.push((vec![name.clone(), queue.queue.to_string()], queue));
            }
            for pool in device.kernel.iter().flat_map(|kernel| &kernel.page_pool.pools) {
                subjects.pools.push((vec![name.clone(), pool.label()], pool));
            }
        }
        for pool in &agent.orphans {
            subjects.pools.push((vec!["lo".to_owned(), pool.label()], pool));
        }
        subjects
    }
}
