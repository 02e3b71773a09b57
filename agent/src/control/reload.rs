//! `umemd reload` and SIGHUP: the file of `--config` is read again. Rules change while frames move; everything else
//! takes a restart, and a file that asks for it is refused as a whole.

use std::time::{Duration, SystemTime};

use tokio::{signal::unix::Signal, time::timeout};

use super::Agent;
use crate::{
    config::RunConfig,
    observe::Reloads,
    protocol::{Changed, Refusal},
};

/// For a file on a slow disk.
const PATIENCE: Duration = Duration::from_secs(10);

impl Agent {
    /// Reads the file again, and puts its rules in force; one after the other, so that what was read last is in force.
    pub(super) async fn reload(&self, force: bool) -> Result<Changed, Refusal> {
        let _turn = self.reloading.lock().await;
        let result = self.read_again(force).await;
        let mut reloads = self.reloads.get();
        match &result {
            Ok(changed) => {
                reloads =
                    Reloads { applied: reloads.applied + 1, at: SystemTime::now(), good: true, ..reloads };
                log::info!("reloaded, rules in force: {}", changed.rules);
            }
            Err(refusal) => {
                reloads = Reloads { rejected: reloads.rejected + 1, good: false, ..reloads };
                log::error!("not reloaded, and nothing is changed: {refusal}");
            }
        }
        self.reloads.set(reloads);
        result
    }

    async fn read_again(&self, force: bool) -> Result<Changed, Refusal> {
        let Some(source) = self.common.config().source.clone() else {
            return Err(Refusal::refused(
                "there is no file to read again: umemd was started without --config",
            ));
        };
        // On a thread of its own: a file may lie where reading takes long.
        let reading = tokio::task::spawn_blocking(move || source.read());
        let new = timeout(PATIENCE, reading)
            .await
            .map_err(|_| {
                Refusal::refused(format_args!(
                    "the file was not read within {PATIENCE:?}, the rules before stay; see what it lies on, then \
                     reload again"
                ))
            })?
            .map_err(Refusal::refused)?
            .map_err(Refusal::usage)?;
        let different = self.common.config().different(&new);
        if !different.is_empty() {
            return Err(Refusal::refused(format_args!(
                "{} changed, which takes a restart of umemd; rules and default can change without",
                different.join(", ")
            )));
        }
        // Whoever forced the rules of the start did not know those of today.
        let RunConfig { rules, forced: _, source, .. } = new;
        self.change_to(rules.as_ref().clone(), force).map_err(|error| {
            let error = match source {
                Some(source) => source.point_at(error),
                None => error,
            };
            Refusal::refused(format_args!("{error:#}"))
        })?;
        Ok(self.changed(Vec::new()))
    }

    /// Reloads whenever the signal comes.
    pub(super) async fn reload_at(&self, mut hangup: Signal) {
        while hangup.recv().await.is_some() {
            // How it went is in the log.
            let _ = self.reload(false).await;
        }
    }
}
