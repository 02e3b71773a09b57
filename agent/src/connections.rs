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

/// Whoever has asked is served for this long before a newer one may take the place.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);
/// How often it is looked whether there is room again.
const LOOK: Duration = Duration::from_millis(5);

/// What is known of a connection: since when all of its last request is there, which whoever serves it says; and whether
/// others wait for its place.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard(Rc<State>);

#[derive(Debug, Default)]
struct State {
    since: Cell<Option<Instant>>,
    is_wanted: Cell<bool>,
}

impl Heard {
    /// Since now.
    pub(crate) fn set(&self) {
        self.0.since.set(Some(Instant::now()));
    }

    /// Whether its next answer has to be its last one.
    pub(crate) fn is_last(&self) -> bool {
        self.0.is_wanted.get()
    }

    /// Ends when nothing was asked: for so long from the beginning, or for so long after a request.
    pub(crate) async fn silence(&self, first: Duration, next: Duration) {
        let begun = Instant::now();
        // Looked at when it is over and not set at each request: that would be a timer to move each time.
        loop {
            let left = match self.0.since.get() {
                None => first.saturating_sub(begun.elapsed()),
                Some(since) => next.saturating_sub(since.elapsed()),
            };
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }
}

#[derive(Debug)]
struct Open {
    heard: Heard,
    task: AbortHandle,
}

impl Open {
    /// It dawdles: with its request, or with taking the answer.
    fn may_be_closed(&self, patience: Duration) -> bool {
        self.heard.0.since.get().is_none_or(|since| since.elapsed() > patience)
    }
}

/// Serves for ever what `accept` brings, at most `limit` at once: of too many the oldest is closed that dawdles; if
/// none does, the next one waits, and all are told that their next answer is the last. Whoever has asked dawdles after
/// `patience`. `what` is what is accepted, for messages.
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
    loop {
        open.retain(|connection| !connection.task.is_finished());
        if open.len() < limit {
            return;
        }
        if let Some(place) = open.iter().position(|connection| connection.may_be_closed(patience)) {
            open.remove(place).into_iter().for_each(|connection| connection.task.abort());
            return;
        }
        open.iter().for_each(|connection| connection.heard.0.is_wanted.set(true));
        tokio::time::sleep(LOOK).await;
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
                        heard.set();
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
            let (first, next) = (Duration::from_millis(50), Duration::from_millis(300));
            runtime.block_on(async { heard.silence(first, next).await });
            start.elapsed()
        };
        assert!(silence(Heard::default()) < Duration::from_millis(250));
        let asked = Heard::default();
        asked.set();
        assert!(silence(asked) > Duration::from_millis(250));
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
                    heard.set();
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
