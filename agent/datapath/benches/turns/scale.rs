//! Two workers on two queues in memory, and one.
//!
//! In time on a processor, not on the wall: what others run on the machine meanwhile then counts for
//! nothing, and what the two take from each other, a cache line above all, still shows. If one waited for the other, it
//! would sleep, which takes no time on a processor; so sleeps are counted.

use std::fs;
use std::process::ExitCode;
use std::sync::Barrier;
use std::thread;

use crate::subject::{Case, Subject};

const PAIRS: usize = 21;
const TURNS: u64 = 20_000;
/// What the factor must be.
const LEAST: f64 = 1.9;
/// How often it is measured until it is that much: two processors may be one core for a while, which somebody else uses.
const ATTEMPTS: usize = 5;

/// A page that has to be made may put a thread to sleep, but not in every turn.
const MOST_SLEEPS: u64 = TURNS / 1000;

/// Compares the factors with what they must be.
pub(crate) fn check(subjects: impl Iterator<Item = Subject>) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for subject in subjects {
        if on_cpu().is_none() {
            println!("{} two workers: this kernel does not tell a thread's time", subject.name());
            continue;
        }
        let told = |factor: &f64| println!("{} two workers {factor:.2} times one", subject.name());
        let mut factors = (0..ATTEMPTS).map_while(|_| factor(subject)).inspect(told);
        if !factors.any(|factor| factor >= LEAST) {
            println!("{} TWO WORKERS ARE LESS THAN {LEAST} TIMES ONE", subject.name());
            code = ExitCode::FAILURE;
        }
    }
    code
}

/// How many times the packets of one worker two workers handle in the same time: the median of pairs of runs.
/// `None` where the kernel does not tell a thread's time (`CONFIG_SCHED_INFO`).
pub(crate) fn factor(subject: Subject) -> Option<f64> {
    let case = Case { subject, batch: 64, frames: 4096 };
    let mut factors = Vec::with_capacity(PAIRS);
    for _ in 0..PAIRS {
        factors.push(2.0 * time(case, 1)? / time(case, 2)?);
    }
    factors.sort_by(f64::total_cmp);
    Some(factors[PAIRS / 2])
}

/// How long each of so many workers takes for its turns, on the average.
fn time(case: Case, workers: usize) -> Option<f64> {
    let barrier = Barrier::new(workers);
    thread::scope(|scope| {
        let run = || {
            barrier.wait();
            let (before, slept) = (on_cpu()?, sleeps()?);
            case.run(TURNS);
            let (after, slept) = (on_cpu()?, sleeps()? - slept);
            assert!(slept <= MOST_SLEEPS, "a worker slept {slept} times: it waits for another one");
            Some(after - before)
        };
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(run)).collect();
        let times = threads.into_iter().map(|thread| thread.join().expect("no worker panics"));
        Some(times.sum::<Option<f64>>()? / workers as f64)
    })
}

/// How often this thread went to sleep, and was not sent off by others (`voluntary_ctxt_switches`).
fn sleeps() -> Option<u64> {
    let status = fs::read_to_string("/proc/thread-self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?.trim().parse().ok()
}

/// This thread's time on a processor, in nanoseconds.
fn on_cpu() -> Option<f64> {
    fs::read_to_string("/proc/thread-self/schedstat").ok()?.split_whitespace().next()?.parse().ok()
}
