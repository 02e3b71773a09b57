//! Connections to our listeners: a bounded number at once, so that nobody who connects keeps others out.

use std::{
    cell::Cell,
    collections::VecDeque,
    future::Future,
    io,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::task::{AbortHandle, yield_now};

/// Who has been answered keeps the place for this long before a newer one may take it: to take the answer, and to ask
/// again.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);
/// Who is being answered keeps it for this long: longer than any answer is worked on, and not for ever.
const WORK_TIME: Duration = Duration::from_secs(15);
/// How often it is looked whether there is room again.
const LOOK: Duration = Duration::from_millis(5);

/// What is known of a connection, which whoever serves it says; and whether others wait for its place.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard(Rc<State>);

#[derive(Debug, Default)]
struct State {
    stage: Cell<Stage>,
    is_wanted: Cell<bool>,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Stage {
    /// No request has come to its end yet.
    #[default]
    Silent,
    /// A request is being worked on, since then.
    Asked(Instant),
    /// An answer was handed over then: it is being taken, or was, and perhaps there is another request to come.
    Answered(Instant),
    /// That request began to come then.
    Begun(Instant),
}

impl Heard {
    /// Something of a request is there. Of the first one nobody needs to know: it is due from the beginning.
    pub(crate) fn begun(&self) {
        if let Stage::Answered(_) = self.0.stage.get() {
            self.0.stage.set(Stage::Begun(Instant::now()));
        }
    }

    /// All of a request is there.
    pub(crate) fn asked(&self) {
        self.0.stage.set(Stage::Asked(Instant::now()));
    }

    /// Its answer is there to be taken.
    pub(crate) fn answered(&self) {
        self.0.stage.set(Stage::Answered(Instant::now()));
    }

    /// Whether its next answer has to be its last one.
    pub(crate) fn is_last(&self) -> bool {
        self.0.is_wanted.get()
    }

    /// Ends when nothing was asked: for `first` from the beginning or from when a later request began to come, or for
    /// `next` after an answer.
    pub(crate) async fn silence(&self, first: Duration, next: Duration) {
        let begun = Instant::now();
        // Looked at when it is over and not set at each request: that would be a timer to move each time. And as often as
        // one that begins meanwhile may be over.
        loop {
            let left = match self.0.stage.get() {
                Stage::Silent => first.saturating_sub(begun.elapsed()),
                // It is we who take our time.
                Stage::Asked(_) => next,
                Stage::Answered(at) => next.saturating_sub(at.elapsed()),
                Stage::Begun(at) => first.saturating_sub(at.elapsed()),
            };
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(first)).await;
        }
    }
}

#[derive(Debug)]
struct Open {
    heard: Heard,
    task: AbortHandle,
}

impl Open {
    fn is_silent(&self) -> bool {
        matches!(self.heard.0.stage.get(), Stage::Silent)
    }

    /// It has had its time: to take an answer and ask again, or to be answered.
    fn has_had_its_time(&self, patience: Duration) -> bool {
        match self.heard.0.stage.get() {
            Stage::Silent => false,
            Stage::Asked(since) => since.elapsed() > WORK_TIME,
            Stage::Answered(since) | Stage::Begun(since) => since.elapsed() > patience,
        }
    }
}

/// Serves for ever what `accept` brings, at most `limit` at once; of too many, see [`place_to_give`], one is closed. If
/// none may be, the next one waits, and all are told that their next answer is the last. `what` is what is accepted, for
/// messages.
///
/// Runs inside a `LocalSet`: what is asked for belongs to the control thread.
pub(crate) async fn serve_each<S, F>(
    what: &str,
    limit: usize,
    patience: Duration,
    mut accept: impl AsyncFnMut() -> io::Result<S>,
    serve: impl Fn(S, Heard) -> F,
) where
    F: Future<Output = ()> + 'static,
{
    let mut open = VecDeque::new();
    loop {
        match accept().await {
            Ok(stream) => {
                make_room(&mut open, limit, patience).await;
                let heard = Heard::default();
                let task = tokio::task::spawn_local(serve(stream, heard.clone())).abort_handle();
                open.push_back(Open { heard, task });
                // So that a request that came with the connection is seen before the next connection is.
                yield_now().await;
            }
            Err(error) => {
                // Out of descriptors, say. Without a pause this would spin until one is free.
                log::warn!("cannot accept {what}: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Forgets the connections that ended, and closes one of too many.
async fn make_room(open: &mut VecDeque<Open>, limit: usize, patience: Duration) {
    let want = |open: &VecDeque<Open>, is| open.iter().for_each(|one| one.heard.0.is_wanted.set(is));
    let mut waits = false;
    loop {
        open.retain(|connection| !connection.task.is_finished());
        if open.len() < limit {
            break;
        }
        if let Some(place) = place_to_give(open, limit, patience) {
            open.remove(place).into_iter().for_each(|connection| connection.task.abort());
            break;
        }
        want(open, true);
        waits = true;
        tokio::time::sleep(LOOK).await;
    }
    if waits {
        // Nobody waits any more: who has kept his place may keep it.
        want(open, false);
    }
}

/// Whose place another one gets: that of the oldest which has never asked, else of the oldest which has had its time.
///
/// Those who asked come later, so that many who only connect take no place from a scraper that waits for its next turn.
/// But half of the places at most are kept from newcomers like that: over a slow way a request comes a while after its
/// connection, and there have to be places in which to wait for it.
fn place_to_give(open: &VecDeque<Open>, limit: usize, patience: Duration) -> Option<usize> {
    let silent = open.iter().position(Open::is_silent);
    let had_its_time = || open.iter().position(|connection| connection.has_had_its_time(patience));
    if 2 * open.iter().filter(|connection| connection.is_silent()).count() >= limit {
        silent
    } else {
        had_its_time().or(silent)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tokio::{sync::mpsc, task::LocalSet};

    use super::*;

    const LIMIT: usize = 4;
    const LONG: Duration = Duration::from_secs(60);

    /// A connection: whether it asks at once, and how long its answer takes.
    struct Client {
        number: u32,
        asks: bool,
        takes: Duration,
    }

    /// The numbers of those that were answered, of clients that come in this order, all at once; within a while.
    fn answered(clients: impl IntoIterator<Item = Client>, patience: Duration) -> Vec<u32> {
        let time = Duration::from_secs(3);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let answered = Rc::new(RefCell::new(Vec::new()));
        let done = Rc::clone(&answered);
        LocalSet::new().block_on(&runtime, async {
            let (sender, mut clients_to_come) = mpsc::unbounded_channel();
            clients.into_iter().for_each(|client| sender.send(client).unwrap());
            let accept = async || Ok(clients_to_come.recv().await.expect("the sender lives"));
            let serve = |client: Client, heard: Heard| {
                let done = Rc::clone(&done);
                async move {
                    if client.asks {
                        heard.asked();
                        heard.answered();
                    }
                    tokio::time::sleep(client.takes).await;
                    done.borrow_mut().push(client.number);
                }
            };
            let _ = tokio::time::timeout(time, serve_each("a client", LIMIT, patience, accept, serve)).await;
        });
        answered.take()
    }

    #[test]
    fn who_has_asked_may_be_silent_for_longer() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let silence = |heard: Heard| {
            let start = Instant::now();
            let (first, next) = (Duration::from_millis(50), Duration::from_secs(1));
            runtime.block_on(async { heard.silence(first, next).await });
            start.elapsed()
        };
        assert!(silence(Heard::default()) < Duration::from_millis(900));
        let asked = Heard::default();
        asked.asked();
        asked.answered();
        assert!(silence(asked.clone()) > Duration::from_millis(900));
        // Unless it has begun to ask again. A byte more of the same request is no other one.
        asked.answered();
        asked.begun();
        let begun = asked.0.stage.get();
        assert!(silence(asked.clone()) < Duration::from_millis(900));
        asked.begun();
        assert_eq!(asked.0.stage.get(), begun, "since the first byte");
    }

    #[test]
    fn whoever_has_asked_is_answered_however_many_come() {
        let clients = (0..100).map(|number| Client { number, asks: true, takes: Duration::from_millis(10) });
        assert_eq!(answered(clients, LONG), (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn whoever_asks_nothing_makes_room_for_those_who_do() {
        let silent = (0..3 * LIMIT as u32).map(|number| Client { number, asks: false, takes: Duration::MAX });
        let asking = (100..120).map(|number| Client { number, asks: true, takes: Duration::ZERO });
        assert_eq!(answered(silent.chain(asking), LONG), (100..120).collect::<Vec<_>>());
    }

    #[test]
    fn whoever_takes_no_answer_keeps_the_place_for_a_while_only() {
        let slow = (0..LIMIT as u32).map(|number| Client { number, asks: true, takes: Duration::MAX });
        let asking = (100..120).map(|number| Client { number, asks: true, takes: Duration::ZERO });
        assert_eq!(answered(slow.chain(asking), Duration::from_millis(100)), (100..120).collect::<Vec<_>>());
    }

    /// Connections in these stages, the oldest first, none of which ends; a place given with a patience of a second.
    fn given(stages: &[Stage]) -> Option<usize> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let connection = |stage: &Stage| {
                let heard = Heard::default();
                heard.0.stage.set(*stage);
                Open { heard, task: tokio::task::spawn_local(std::future::pending::<()>()).abort_handle() }
            };
            place_to_give(&stages.iter().map(connection).collect(), LIMIT, Duration::from_secs(1))
        })
    }

    fn ago(seconds: u64) -> Instant {
        Instant::now().checked_sub(Duration::from_secs(seconds)).expect("the machine runs for longer")
    }

    #[test]
    fn who_never_asked_goes_before_who_waits_to_ask_again() {
        use Stage::{Answered, Silent};
        assert_eq!(given(&[Answered(ago(20)), Silent, Silent, Silent]), Some(1));
        assert_eq!(given(&[Answered(ago(20)), Answered(ago(20)), Silent, Silent]), Some(2));
        assert_eq!(given(&[Answered(ago(0)), Answered(ago(0)), Answered(ago(0)), Silent]), Some(3));
    }

    #[test]
    fn those_who_wait_to_ask_again_leave_half_of_the_places_to_newcomers() {
        use Stage::{Answered, Silent};
        assert_eq!(given(&[Silent, Answered(ago(0)), Answered(ago(20)), Answered(ago(20))]), Some(2));
    }

    #[test]
    fn who_is_being_answered_is_not_idle() {
        use Stage::{Answered, Asked};
        assert_eq!(given(&[Asked(ago(5)), Asked(ago(5)), Answered(ago(2)), Asked(ago(5))]), Some(2));
        assert_eq!(given(&[Asked(ago(5)); LIMIT]), None);
        assert_eq!(given(&[Asked(ago(5)), Asked(ago(60)), Asked(ago(5)), Asked(ago(5))]), Some(1));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let asked = Heard::default();
        asked.asked();
        let silence = asked.silence(Duration::from_millis(10), Duration::from_millis(10));
        let ended =
            runtime.block_on(async { tokio::time::timeout(Duration::from_millis(100), silence).await });
        assert!(ended.is_err(), "it is we who are silent");
    }

    #[test]
    fn who_keeps_the_place_is_told_no_longer_that_others_want_it() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let leaves = Rc::new(tokio::sync::Notify::new());
            let connection = |leaves: Rc<tokio::sync::Notify>| {
                let heard = Heard::default();
                heard.asked();
                let task = tokio::task::spawn_local(async move { leaves.notified().await });
                Open { heard, task: task.abort_handle() }
            };
            let stays = Rc::default();
            let mut open: VecDeque<Open> = [Rc::clone(&stays), Rc::clone(&leaves)].map(connection).into();
            let kept = open[0].heard.clone();
            let room = make_room(&mut open, 2, LONG);
            let looked = async {
                while !kept.is_last() {
                    yield_now().await;
                }
                leaves.notify_one();
            };
            let both = async { tokio::join!(room, looked) };
            tokio::time::timeout(LONG, both).await.expect("it is told that others want the place");
            assert_eq!((kept.is_last(), open.len()), (false, 1));
        });
    }

    #[test]
    fn there_are_never_more_than_the_limit() {
        let most = Rc::new(Cell::new(0));
        let now = Rc::new(Cell::new(0_usize));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let serve = |(), heard: Heard| {
                struct Guard(Rc<Cell<usize>>);
                impl Drop for Guard {
                    fn drop(&mut self) {
                        self.0.set(self.0.get() - 1);
                    }
                }
                let (most, now) = (Rc::clone(&most), Rc::clone(&now));
                async move {
                    now.set(now.get() + 1);
                    let _guard = Guard(Rc::clone(&now));
                    most.set(most.get().max(now.get()));
                    heard.asked();
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            };
            let accept = async || Ok(());
            let _ =
                tokio::time::timeout(Duration::from_millis(300), serve_each("", LIMIT, LONG, accept, serve))
                    .await;
        });
        assert_eq!(most.get(), LIMIT);
    }
}
