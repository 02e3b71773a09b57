//! The CPU time of any thread of this process: a call, where a file of `/proc` takes three and a walk to it.

#![expect(
    unsafe_code,
    reason = "rustix names no clock of another thread, and pthread_getcpuclockid(3) wants its handle"
)]

use std::time::Duration;

use rustix::process::Pid;

/// `CPUCLOCK_PERTHREAD_MASK | CPUCLOCK_SCHED` (include/linux/posix-timers.h): of one thread, in nanoseconds that it had
/// a CPU.
const OF_A_THREAD: libc::clockid_t = 4 | 2;

/// How long the thread has run, in user space and in the kernel; `None` if it is none of this process, or has ended
/// (kernel/time/posix-cpu-timers.c: `pid_for_clock`).
pub fn cpu_time(thread: Pid) -> Option<Duration> {
    let clock = !thread.as_raw_nonzero().get() << 3 | OF_A_THREAD;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes a `timespec` to where one is, and fails if there is no such clock.
    let answer = unsafe { libc::clock_gettime(clock, &mut time) };
    (answer == 0).then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread, time::Instant};

    use rustix::time::{ClockId, clock_gettime};

    use super::*;

    /// Takes a CPU until it had it for so long.
    fn work(time: Duration) -> Duration {
        loop {
            let had = clock_gettime(ClockId::ThreadCPUTime);
            let had = Duration::new(had.tv_sec as u64, had.tv_nsec as u32);
            if had >= time {
                return had;
            }
        }
    }

    #[test]
    fn a_threads_time_is_its_own_and_ends_with_it() {
        let (tell, told) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let other = thread::spawn(move || {
            tell.send((rustix::thread::gettid(), work(Duration::from_millis(5)))).unwrap();
            let _ = ended.recv();
        });
        let (its, worked) = told.recv().unwrap();
        let seen = cpu_time(its).unwrap();
        assert!(seen >= worked, "{seen:?} of {worked:?}");
        let mine = work(seen + Duration::from_millis(50));
        assert!(cpu_time(its).unwrap() < mine, "it waits while this one works");
        assert!(cpu_time(rustix::thread::gettid()).unwrap() >= mine);
        drop(end);
        other.join().unwrap();
        // The kernel forgets it a little after it was waited for.
        let deadline = Instant::now() + Duration::from_secs(30);
        while cpu_time(its).is_some() {
            assert!(Instant::now() < deadline, "it ended, and is still known");
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(cpu_time(Pid::INIT), None, "of another process");
    }
}
