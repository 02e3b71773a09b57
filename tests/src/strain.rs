//! What others' asking costs the datapath: the worker's CPU time and sleeps per packet, and a packet's way there and
//! back, while they ask its agent and while they ask another.
//!
//! That nothing is lost says little: at a pace that a loaded machine keeps up with, a worker could do many times its
//! work before it lost anything. And a packet is dearer wherever others use the same caches, whoever answers them. So
//! the same flood goes to the agent and to a bystander by turns, each of the agent's is compared with the bystander's
//! before and after it, and of those comparisons the median is looked at: what else the machine does hits both kinds.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::{agent::Agent, thread as of_thread, wait::PATIENCE, wire::Wire};

/// Floods of the agent; the bystander has one more.
const FLOODS: usize = 9;
/// How long a phase lasts: short, so that what a phase is compared with was near it.
const PHASE: Duration = Duration::from_millis(350);
/// How far apart packets are sent: one at a time, so that none is cheaper for coming together with others, and few, so
/// that there are several questions to each.
const PACE: Duration = Duration::from_millis(4);
/// Bytes of each.
const SIZE: usize = 64;
/// How many times the CPU time that a packet takes while the bystander is asked it may take.
const MOST_COST: f64 = 1.4;
/// How many times as often as then the worker may sleep for it. Who asks rings a worker that sleeps on something unshown,
/// which is so after few packets at this pace.
const MOST_SLEEPS: f64 = 1.3;
/// How many times as long as then it may take, if that is not next to nothing.
const MOST_SLOWER: u32 = 3;
/// Next to nothing: less than a lock that a scrape holds would cost.
const LITTLE: Duration = Duration::from_micros(400);
/// What a packet takes on a machine that does something else beside, too.
const MOST_ROUND_TRIP: Duration = Duration::from_millis(20);

/// What packets of one phase cost.
#[derive(Clone, Debug, Default)]
struct Phase {
    packets: u64,
    /// The worker's nanoseconds per packet.
    cost: f64,
    /// The worker's sleeps per packet.
    sleeps: f64,
    round_trips: Vec<Duration>,
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Strain {
    /// Packets that were sent, each of which came back.
    pub packets: u64,
    /// The worker's CPU time per packet while its agent is asked, over that while the bystander is, before and after;
    /// the median.
    pub cost: f64,
    /// The same of its sleeps.
    pub sleeps: f64,
    /// How long packets took there and back while the bystander was asked, and while the agent was: three of four no
    /// longer. A lock that a scrape holds is not met by every packet.
    pub round_trip: [Duration; 2],
}

impl Strain {
    /// Sends packets through `wire` to an agent that reflects them with the thread `worker`, in phases. For each `flood`
    /// is called with whom to ask, the agent or `bystander`, by turns: it begins a flood, calls what it is given, and
    /// ends it. The bystander is as the agent is, but has no packets.
    ///
    /// # Panics
    ///
    /// If a packet does not come back.
    #[track_caller]
    pub fn of(
        agent: &Agent,
        bystander: &Agent,
        worker: &str,
        wire: &Wire,
        mut flood: impl FnMut(&Agent, &mut dyn FnMut()),
    ) -> Self {
        // What is to be seen is what the worker does and waits for, not who else wants its CPU.
        of_thread::renice(agent.pid(), worker, of_thread::FIRST);
        let mut next = 0;
        let mut phase_beside = |asked| {
            let mut phase = Phase::default();
            flood(asked, &mut || phase = Phase::of(agent, worker, wire, next));
            next += phase.packets;
            phase
        };
        let (mut apart, mut flooded) = (vec![phase_beside(bystander)], Vec::new());
        for _ in 0..FLOODS {
            flooded.push(phase_beside(agent));
            apart.push(phase_beside(bystander));
        }
        let ratios = |of: fn(&Phase) -> f64| {
            let around = apart.windows(2).map(|pair| (of(&pair[0]) + of(&pair[1])) / 2.0);
            median(flooded.iter().zip(around).map(|(flood, apart)| of(flood) / apart).collect())
        };
        let round_trip = |phases: &[Phase]| {
            let mut all: Vec<_> = phases.iter().flat_map(|phase| &phase.round_trips).copied().collect();
            all.sort_unstable();
            all[all.len() * 3 / 4]
        };
        Self {
            packets: apart.iter().chain(&flooded).map(|phase| phase.packets).sum(),
            cost: ratios(|phase| phase.cost),
            sleeps: ratios(|phase| phase.sleeps),
            round_trip: [round_trip(&apart), round_trip(&flooded)],
        }
    }

    /// Checks that the flood cost next to nothing.
    ///
    /// # Panics
    ///
    /// If it cost more; with what was measured.
    #[track_caller]
    pub fn assert_little(&self) {
        let [apart, flooded] = self.round_trip;
        assert!(self.cost < MOST_COST, "the worker works for who asks: {self:?}");
        assert!(self.sleeps < MOST_SLEEPS, "the worker is woken by who asks, or waits for him: {self:?}");
        assert!(
            flooded < LITTLE.max(MOST_SLOWER * apart) && flooded < MOST_ROUND_TRIP,
            "packets wait for who asks: {self:?}"
        );
    }
}

impl Phase {
    fn of(agent: &Agent, worker: &str, wire: &Wire, first: u64) -> Self {
        let thread = || (of_thread::cpu_time(agent.pid(), worker), of_thread::sleeps(agent.pid(), worker));
        let (before, start) = (thread(), Instant::now());
        // Here, and not before those who ask were started: they would go first, too.
        of_thread::renice_this(of_thread::FIRST);
        let mut round_trips = Vec::new();
        let mut number = first;
        while start.elapsed() < PHASE {
            let sent = Instant::now();
            wire.send(number..number + 1, |_| SIZE);
            wire.expect(number..number + 1, |_| SIZE, PATIENCE);
            round_trips.push(sent.elapsed());
            number += 1;
            thread::sleep(PACE.saturating_sub(sent.elapsed()));
        }
        of_thread::renice_this(0);
        let after = thread();
        let packets = number - first;
        Self {
            packets,
            cost: (after.0 - before.0).as_nanos() as f64 / packets as f64,
            sleeps: (after.1 - before.1) as f64 / packets as f64,
            round_trips,
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Calls `ask` again and again in so many threads, until `meanwhile` has returned.
pub fn asking(threads: usize, ask: impl Fn() + Sync, meanwhile: impl FnOnce()) {
    let enough = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !enough.load(Ordering::Relaxed) {
                    ask();
                }
            });
        }
        // Also if it panics: the scope waits for the others.
        let _enough = Enough(&enough);
        meanwhile();
    });
}

struct Enough<'a>(&'a AtomicBool);

impl Drop for Enough<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
