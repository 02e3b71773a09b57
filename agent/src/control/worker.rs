//! The thread of one crew.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use datapath::{FinalReport, Kick, Turn};
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    fd::AsFd as _,
    io::Errno,
    net::xdp::XdpStatistics,
    process::Pid,
    thread::{CpuSet, gettid},
};
use tokio::sync::{Notify, oneshot};

use super::{
    bell::Bell,
    crew::{self, Crew},
};
use crate::config::Wait;

/// How long a worker sleeps at most while frames are being sent: nothing wakes it when a completion arrives.
const SENDING: Duration = Duration::from_millis(1);
/// How long a stopping worker waits for frames that the kernel still sends.
const DRAIN: Duration = Duration::from_secs(1);

/// Why a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// It was asked to.
    Asked,
    /// There was nothing more to do.
    Done,
    /// Its handler panicked.
    Panicked,
}

/// What a worker leaves behind.
#[derive(Debug)]
pub(super) struct End {
    pub(super) why: Why,
    /// Where the frames are, and the statistics of the socket at the moment before it was closed; one of each
    /// per side.
    pub(super) sides: Vec<(FinalReport, Option<XdpStatistics>)>,
}

/// A running worker, as the control plane sees it.
#[derive(Debug)]
pub(super) struct Running {
    thread: JoinHandle<()>,
    id: Pid,
    has_panicked: Arc<AtomicBool>,
    end: oneshot::Receiver<End>,
}

impl Running {
    /// The kernel's number of the thread.
    pub(super) fn thread_id(&self) -> Pid {
        self.id
    }

    /// Whether its handler panicked: it takes in nothing any more, and may still wait for what was sent.
    pub(super) fn has_panicked(&self) -> bool {
        self.has_panicked.load(Ordering::Relaxed)
    }

    /// Whether the thread is gone.
    pub(super) fn is_gone(&self) -> bool {
        self.thread.is_finished()
    }

    /// What it left behind; `None` if it panicked even when it ended.
    pub(super) async fn end(self) -> Option<End> {
        self.end.await.ok()
    }

    /// The same of one that [is gone](Self::is_gone), which nobody has to wait for.
    pub(super) fn end_of_gone(mut self) -> Option<End> {
        self.end.try_recv().ok()
    }
}

/// How a thread is to run.
#[derive(Clone, Debug)]
pub(super) struct Post {
    /// Its name.
    pub(super) name: String,
    /// Where it is pinned.
    pub(super) cpu: usize,
    /// What it does while there is nothing to do.
    pub(super) wait: Wait,
    /// Time zero of its turns.
    pub(super) epoch: Instant,
    /// Heard by the control plane: a worker panicked.
    pub(super) alarm: Arc<Notify>,
}

/// Starts the thread, in the network namespace of the caller. It sleeps until frames arrive or `bell` rings.
pub(super) fn spawn(post: Post, crew: Box<dyn Crew>, bell: Arc<Bell>) -> io::Result<Running> {
    let (sender, end) = oneshot::channel();
    let (ids, id) = mpsc::channel();
    let has_panicked = Arc::<AtomicBool>::default();
    let panicked = Arc::clone(&has_panicked);
    let thread = thread::Builder::new().name(post.name.clone()).spawn(move || {
        // Before it is pinned: the control plane waits for this, and whoever has that CPU may never let it run there.
        let _ = ids.send(gettid());
        pin(&post);
        // The control plane may have given up on us; then nobody wants to know.
        let _ = sender.send(run(crew, &bell, &post, &panicked));
    })?;
    let id = id.recv().map_err(io::Error::other)?;
    Ok(Running { thread, id, has_panicked, end })
}

fn pin(post: &Post) {
    let mut only = CpuSet::new();
    only.set(post.cpu);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &only) {
        log::warn!("{} is not pinned to CPU {}: {error}", post.name, post.cpu);
    }
}

fn run(mut crew: Box<dyn Crew>, bell: &Bell, post: &Post, panicked: &AtomicBool) -> End {
    let now = || post.epoch.elapsed();
    // A handler that panics was in the middle of a turn. If its packet had just come off the ring, Rust drops the frame,
    // so that this one is lost: it stays where the pool last saw it, with the user, and the law says so. All else of
    // the worker is where it was, and the kernel's frames can be taken home.
    let worked = catch_unwind(AssertUnwindSafe(|| work(&mut *crew, bell, post)));
    let why = worked.unwrap_or(Why::Panicked);
    if why == Why::Panicked {
        // At once: the program steers on to a socket that nobody reads.
        panicked.store(true, Ordering::Relaxed);
        post.alarm.notify_one();
    }
    // Nothing is taken in any more, and no handler asked. What was sent is waited for.
    let deadline = Instant::now() + DRAIN;
    while crew.drain_once(now()).left > 0 && Instant::now() < deadline {
        thread::sleep(SENDING);
    }
    let statistics = crew.statistics();
    End { why, sides: crew.finish(now()).into_iter().zip(statistics).collect() }
}

/// Turns until asked to stop, or done; then takes in what has come by then.
fn work(crew: &mut dyn Crew, bell: &Bell, post: &Post) -> Why {
    let now = || post.epoch.elapsed();
    let mut stream = Stream::default();
    let why = loop {
        let at = now();
        let turn = crew.poll_once(at);
        if bell.says_stop() {
            break Why::Asked;
        }
        if crew.is_done() {
            break Why::Done;
        }
        let nap = match post.wait {
            Wait::Spin => spin(&turn),
            Wait::Poll { gather } => {
                let gather = stream.goes_on(&turn, at, gather).then_some(gather);
                nap(&turn, gather, || crew.is_sending(), now)
            }
        };
        match nap {
            Nap::None => {}
            Nap::Gather(time) => sleep(None, bell, Some(time)),
            Nap::AtMost(longest) => sleep(Some(crew), bell, Some(longest)),
            Nap::UntilWoken => sleep(Some(crew), bell, None),
        }
    };

    // The program is detached: what is on the RX ring now is all that there will be. It is still handled.
    let deadline = Instant::now() + DRAIN;
    while why == Why::Asked && !crew.take_in_once(now()).is_idle() && Instant::now() < deadline {}
    why
}

/// How long a worker may sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nap {
    None,
    /// So long, whatever arrives, but for the bell.
    Gather(Duration),
    AtMost(Duration),
    /// By a frame, or by the bell.
    UntilWoken,
}

/// How long one may sleep that never waits for frames.
fn spin(turn: &Turn) -> Nap {
    // An interface that is down refuses to send each time that it is asked, and nothing arrives on it.
    if turn.kick == Kick::Down {
        return Nap::Gather(SENDING);
    }
    std::hint::spin_loop();
    Nap::None
}

/// Whether frames come in quick succession: to let more gather behind one that comes alone would be a second wake-up
/// for the same frame.
#[derive(Debug, Default)]
struct Stream {
    /// When the last ones came.
    last: Option<Duration>,
}

impl Stream {
    /// Notes a turn. True if it received frames, and others came so shortly before that more will come while they
    /// gather.
    fn goes_on(&mut self, turn: &Turn, at: Duration, gather: Duration) -> bool {
        if turn.received == 0 || gather.is_zero() {
            return false;
        }
        // Linux sleeps up to twice as long as it is asked to (PR_SET_TIMERSLACK).
        let goes_on = self.last.is_some_and(|last| at.saturating_sub(last) <= 3 * gather);
        self.last = Some(at);
        goes_on
    }
}

/// How long the worker may sleep now, or is to let frames gather.
fn nap(
    turn: &Turn,
    gather: Option<Duration>,
    is_sending: impl Fn() -> bool,
    now: impl Fn() -> Duration,
) -> Nap {
    if !turn.may_sleep() {
        return Nap::None;
    }
    let next = turn.next.map(|next| next.saturating_sub(now()));
    // While the interface is down nothing leaves, however often one looks, and nothing completes.
    let is_down = turn.kick == Kick::Down;
    let next = next.map(|next| if is_down { next.max(SENDING) } else { next });
    let completion = (!is_down && is_sending()).then_some(SENDING);
    let longest = [next, completion].into_iter().flatten().min();
    match (gather, longest) {
        (_, Some(Duration::ZERO)) => Nap::None,
        (Some(gather), longest) => Nap::Gather(longest.map_or(gather, |longest| longest.min(gather))),
        (None, Some(longest)) => Nap::AtMost(longest),
        (None, None) => Nap::UntilWoken,
    }
}

/// Sleeps until a frame arrives for `crew`, if any, the bell rings, or the time is up, if there is one. In copy mode
/// the kernel also sends what is on the TX ring (`xsk_poll`).
fn sleep(crew: Option<&dyn Crew>, bell: &Bell, longest: Option<Duration>) {
    let mut fds = [(); 3].map(|()| PollFd::from_borrowed_fd(bell.as_fd(), PollFlags::IN));
    let mut count = 1;
    for (slot, socket) in fds[1..].iter_mut().zip(crew.into_iter().flat_map(crew::sockets)) {
        *slot = PollFd::from_borrowed_fd(socket, PollFlags::IN);
        count += 1;
    }
    let fds = &mut fds[..count];
    let timeout = longest
        .map(|longest| Timespec { tv_sec: longest.as_secs() as _, tv_nsec: longest.subsec_nanos().into() });
    let polled = matches!(rustix::event::poll(fds, timeout.as_ref()), Ok(_) | Err(Errno::INTR));
    if !fds[0].revents().is_empty() {
        bell.silence();
    }
    // An interface that is gone wakes at once each time. What comes next is being told to stop.
    let gone = fds[1..].iter().any(|fd| fd.revents().intersects(PollFlags::ERR | PollFlags::HUP));
    if !polled || gone {
        // poll() fails for want of memory only. Without this sleep both would spin.
        thread::sleep(SENDING);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        task::{Context, Waker},
    };

    use datapath::{Drain, Published};

    use super::*;
    use crate::xsk::XskPort;

    /// A crew whose handler panics in its first turn, while so many frames are being sent.
    struct Panics {
        left: u32,
        alarm: Arc<Notify>,
    }

    impl Crew for Panics {
        fn poll_once(&mut self, _: Duration) -> Turn {
            panic!("by intent")
        }

        fn take_in_once(&mut self, _: Duration) -> Turn {
            unreachable!("nothing is taken in after a panic")
        }

        fn drain_once(&mut self, _: Duration) -> Drain {
            let heard = pin!(self.alarm.notified()).poll(&mut Context::from_waker(Waker::noop()));
            assert!(heard.is_ready() || self.left < 3, "told before anything is waited for");
            self.left -= 1;
            Drain { left: self.left, turn: Turn::default() }
        }

        fn is_sending(&self) -> bool {
            self.left > 0
        }

        fn is_done(&mut self) -> bool {
            false
        }

        fn ports(&self) -> (&XskPort, Option<&XskPort>) {
            unreachable!("it does not live to sleep")
        }

        fn statistics(&self) -> Vec<Option<XdpStatistics>> {
            Vec::new()
        }

        fn published(&self) -> Vec<Published> {
            Vec::new()
        }

        fn finish(self: Box<Self>, _: Duration) -> Vec<FinalReport> {
            assert_eq!(self.left, 0, "what was sent is waited for");
            Vec::new()
        }
    }

    #[test]
    fn a_handler_that_panics_is_told_of_before_what_was_sent_is_waited_for() {
        let alarm = Arc::<Notify>::default();
        let post = Post {
            name: "near0/0".into(),
            cpu: 0,
            wait: Wait::Spin,
            epoch: Instant::now(),
            alarm: Arc::clone(&alarm),
        };
        let (bell, panicked) = (Bell::new().unwrap(), AtomicBool::new(false));
        let end = run(Box::new(Panics { left: 3, alarm }), &bell, &post, &panicked);
        assert_eq!((end.why, panicked.into_inner()), (Why::Panicked, true));
    }

    #[test]
    fn a_worker_sleeps_no_longer_than_what_it_has_left_to_do_allows() {
        let idle = Turn::default();
        let ms = Duration::from_millis;
        let nap = |turn: Turn, is_sending| nap(&turn, None, || is_sending, || ms(100));
        assert_eq!(nap(idle, false), Nap::UntilWoken);
        assert_eq!(nap(idle, true), Nap::AtMost(SENDING));
        assert_eq!(nap(Turn { kick: Kick::Down, ..idle }, true), Nap::UntilWoken, "nothing completes");
        assert_eq!(nap(Turn { next: Some(ms(103)), ..idle }, false), Nap::AtMost(ms(3)));
        assert_eq!(nap(Turn { next: Some(ms(103)), ..idle }, true), Nap::AtMost(SENDING));
        assert_eq!(nap(Turn { next: Some(ms(99)), ..idle }, false), Nap::None);
        let down = Turn { kick: Kick::Down, ..idle };
        assert_eq!(nap(Turn { next: Some(ms(100)), ..down }, true), Nap::AtMost(SENDING), "due, and in vain");
        assert_eq!(nap(Turn { next: Some(ms(103)), ..down }, true), Nap::AtMost(ms(3)));
        assert_eq!(nap(Turn { kick: Kick::Failed, ..idle }, true), Nap::AtMost(SENDING), "and tries again");
        assert_eq!(nap(Turn { more: true, ..idle }, false), Nap::None);
        assert_eq!(nap(Turn { kick: Kick::Again, ..idle }, true), Nap::None);
    }

    #[test]
    fn one_that_spins_rests_while_its_interface_is_down() {
        let some = Turn { received: 3, ..Turn::default() };
        for kick in [Kick::NotNeeded, Kick::Done, Kick::Again, Kick::Busy, Kick::Failed] {
            assert_eq!(spin(&Turn { kick, ..some }), Nap::None);
        }
        assert_eq!(spin(&Turn { kick: Kick::Down, ..some }), Nap::Gather(SENDING));
    }

    #[test]
    fn frames_gather_behind_those_that_came_and_hold_up_nothing_else() {
        let us = Duration::from_micros;
        let nap = |turn: Turn, is_sending| nap(&turn, Some(us(50)), || is_sending, || us(100));
        let some = Turn { received: 3, ..Turn::default() };
        assert_eq!(nap(some, false), Nap::Gather(us(50)));
        assert_eq!(nap(some, true), Nap::Gather(us(50)), "sooner than one looks for completions");
        assert_eq!(nap(Turn { more: true, ..some }, false), Nap::None, "or the kernel has few frames");
        assert_eq!(nap(Turn { next: Some(us(120)), ..some }, false), Nap::Gather(us(20)));
        assert_eq!(nap(Turn { next: Some(us(100)), ..some }, false), Nap::None);
    }

    #[test]
    fn a_frame_that_comes_alone_is_not_waited_behind() {
        let us = Duration::from_micros;
        let (some, nothing) = (Turn { received: 1, ..Turn::default() }, Turn::default());
        let mut stream = Stream::default();
        let mut after = |turn, at| stream.goes_on(turn, us(at), us(50));
        assert!(!after(&some, 1000), "the first one");
        assert!(after(&some, 1150));
        assert!(!after(&nothing, 1200), "nothing came: the next frame is waited for");
        assert!(after(&some, 1300));
        assert!(!after(&some, 1451), "alone again");
        assert!(!Stream::default().goes_on(&some, us(0), Duration::ZERO));
    }
}
