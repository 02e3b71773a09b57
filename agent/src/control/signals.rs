//! [`Signals`]: those that end the agent, or make it read its file again.

use std::{future, io};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT and SIGTERM; and SIGHUP, which ends us too if there is no file to read again.
pub(super) struct Signals {
    pub(super) hangup: Option<Signal>,
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            hangup: Some(signal(SignalKind::hangup())?),
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for one that ends us.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            () = received(&mut self.hangup) => {}
        }
    }
}

/// Never, if nobody listens for the signal here.
async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => future::pending().await,
    }
}
