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
    use std::{hint::black_box, sync::mpsc, thread};

    use super::*;

    #[test]
    fn a_threads_time_is_its_own_and_ends_with_it() {
        let mine = rustix::thread::gettid();
        let (tell, told) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let other = thread::spawn(move || {
            (0..3_000_000_u64).for_each(|n| _ = black_box(n));
            tell.send(rustix::thread::gettid()).unwrap();
            let _ = ended.recv();
        });
        let its = told.recv().unwrap();
        let worked = cpu_time(its).unwrap();
        let waited = cpu_time(mine).unwrap();
        assert!(worked > Duration::from_micros(500), "{worked:?}");
        thread::sleep(Duration::from_millis(30));
        assert!(cpu_time(its).unwrap() - worked < Duration::from_millis(20), "it sleeps");
        (0..3_000_000_u64).for_each(|n| _ = black_box(n));
        assert!(cpu_time(mine).unwrap() > waited, "this one works");
        drop(end);
        other.join().unwrap();
        assert_eq!((cpu_time(its), cpu_time(Pid::INIT)), (None, None), "ended, and of another process");
    }
}
