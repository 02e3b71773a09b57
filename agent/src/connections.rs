//! Connections to our listeners: a bounded number at once, so that nobody who connects keeps others out.

use std::{collections::VecDeque, future::Future, io, time::Duration};

use tokio::task::AbortHandle;

/// Serves for ever what `accept` brings, at most `limit` at once: of too many the oldest is closed, which is the one
/// that dawdles. `what` is what is accepted, for messages.
///
/// Runs inside a `LocalSet`: what is asked for belongs to the control thread.
pub(crate) async fn serve_each<S, F>(
    what: &str,
    limit: usize,
    mut accept: impl AsyncFnMut() -> io::Result<S>,
    serve: impl Fn(S) -> F,
) where
    F: Future<Output = ()> + 'static,
{
    let mut open = VecDeque::new();
    loop {
        match accept().await {
            Ok(stream) => {
                make_room(&mut open, limit);
                open.push_back(tokio::task::spawn_local(serve(stream)).abort_handle());
            }
            Err(error) => {
                // Out of descriptors, say. Without a pause this would spin until one is free.
                log::warn!("cannot accept {what}: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Forgets the connections that ended, and ends the oldest of too many.
fn make_room(open: &mut VecDeque<AbortHandle>, limit: usize) {
    open.retain(|connection| !connection.is_finished());
    if open.len() >= limit
        && let Some(oldest) = open.pop_front()
    {
        oldest.abort();
    }
}
