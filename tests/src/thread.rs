//! [`StoppedThread`]: one thread of another process, held still; and what the kernel says of one that runs.

use std::{fs, marker::PhantomData, thread, time::Duration};

use nix::{
    sys::{
        ptrace,
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};
use rustix::{process::setpriority_process, thread::gettid};

use crate::wait::{PATIENCE, wait_for, wait_until};

/// A thread that ptrace(2) holds; it goes on when this is dropped.
///
/// A signal would stop the whole process. `PTRACE_SEIZE` and `PTRACE_INTERRUPT` stop one thread, as a debugger
/// or a page fault on a dead disk would.
#[derive(Debug)]
pub struct StoppedThread {
    pid: u32,
    tid: Pid,
    /// To the kernel the tracer is a thread, not a process: this must stay with the one that stopped.
    _tracer: PhantomData<*const ()>,
}

impl StoppedThread {
    /// Stops the thread called `name` of process `pid`.
    ///
    /// # Panics
    ///
    /// If there is no such thread, or it cannot be traced.
    #[track_caller]
    pub fn stop(pid: u32, name: &str) -> Self {
        let tid = wait_for(&format!("process {pid} has a thread {name}"), PATIENCE, || find(pid, name));
        ptrace::seize(tid, ptrace::Options::empty()).unwrap_or_else(|e| panic!("cannot seize {name}: {e}"));
        let stopped = Self { pid, tid, _tracer: PhantomData };
        ptrace::interrupt(tid).unwrap_or_else(|e| panic!("cannot interrupt {name}: {e}"));
        waitpid(tid, Some(WaitPidFlag::__WALL)).unwrap_or_else(|e| panic!("{name} does not stop: {e}"));
        stopped
    }

    /// Lets it go on.
    pub fn resume(self) {
        drop(self);
    }

    /// Waits until it is gone, because its process was.
    ///
    /// # Panics
    ///
    /// If it stays.
    #[track_caller]
    pub fn wait_for_its_end(self) {
        wait_until("the stopped thread is gone with its process", PATIENCE, || {
            state(self.pid, self.tid).is_none_or(|state| ['Z', 'X'].contains(&state))
        });
    }
}

impl Drop for StoppedThread {
    fn drop(&mut self) {
        if ptrace::detach(self.tid, None).is_err() {
            // It was killed while we held it. Its process cannot be waited for before we have taken notice.
            let reaped = waitpid(self.tid, Some(WaitPidFlag::__WALL));
            if reaped.is_err() && !thread::panicking() {
                eprintln!("thread {} of process {} went away: {reaped:?}", self.tid, self.pid);
            }
        }
    }
}

/// How often the thread called `name` of process `pid` went to sleep by itself so far.
///
/// # Panics
///
/// If there is no such thread.
#[track_caller]
pub fn sleeps(pid: u32, name: &str) -> u64 {
    status(pid, name, "voluntary_ctxt_switches:").parse().expect("a count")
}

/// What the thread called `name` of process `pid` had of a CPU so far, to the nanosecond as the scheduler counts it.
///
/// # Panics
///
/// If there is no such thread, or the kernel was built without `CONFIG_SCHED_INFO`.
#[track_caller]
pub fn cpu_time(pid: u32, name: &str) -> Duration {
    let text = read(pid, name, "schedstat");
    Duration::from_nanos(text.split_whitespace().next().expect("three numbers").parse().expect("nanoseconds"))
}

/// The nice value of those that go before others.
pub const FIRST: i32 = -20;

/// Gives the thread called `name` of process `pid` a nice value of its own, as to the kernel each has.
///
/// # Panics
///
/// If there is no such thread, or we may not.
#[track_caller]
pub fn renice(pid: u32, name: &str, nice: i32) {
    let tid = wait_for(&format!("process {pid} has a thread {name}"), PATIENCE, || find(pid, name));
    setpriority_process(rustix::process::Pid::from_raw(tid.as_raw()), nice).expect("root may");
}

/// The same of the calling thread. Those that it starts have what it has then.
///
/// # Panics
///
/// If we may not.
#[track_caller]
pub fn renice_this(nice: i32) {
    setpriority_process(Some(gettid()), nice).expect("root may");
}

/// The CPUs that the thread called `name` of process `pid` may run on, as the kernel lists them.
///
/// # Panics
///
/// If there is no such thread.
#[track_caller]
pub fn cpus(pid: u32, name: &str) -> String {
    status(pid, name, "Cpus_allowed_list:")
}

#[track_caller]
fn status(pid: u32, name: &str, key: &str) -> String {
    let status = read(pid, name, "status");
    let value = status.lines().find_map(|line| line.strip_prefix(key));
    value.unwrap_or_else(|| panic!("no {key} in {status}")).trim().to_owned()
}

#[track_caller]
fn read(pid: u32, name: &str, file: &str) -> String {
    let tid = wait_for(&format!("process {pid} has a thread {name}"), PATIENCE, || find(pid, name));
    let path = format!("/proc/{pid}/task/{tid}/{file}");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn find(pid: u32, name: &str) -> Option<Pid> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    tasks.flatten().find_map(|task| {
        let comm = fs::read_to_string(task.path().join("comm")).ok()?;
        let tid = task.file_name().to_str()?.parse().ok()?;
        (comm.trim_end() == name).then_some(Pid::from_raw(tid))
    })
}

/// The letter that ps(1) shows; `None` if the thread is no more.
fn state(pid: u32, tid: Pid) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")).ok()?;
    // The name stands in front of it, in brackets, and may have brackets of its own.
    stat.rsplit_once(") ")?.1.chars().next()
}
