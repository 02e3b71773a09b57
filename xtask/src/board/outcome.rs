//! [`Outcome`]: what became of the rigs that were asked for.

use std::fmt;

use anyhow::{Result, ensure};

/// That a rig cannot be had here, which is no failure of umemd's.
#[derive(Debug)]
pub(super) struct Unavailable(pub(super) String);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the board rig cannot be had: {}", self.0)
    }
}

impl std::error::Error for Unavailable {}

/// Rigs that did not pass, by name. One that failed, or cannot be had, keeps no other from its turn.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    failed: Vec<String>,
    /// With the reasons.
    unavailable: Vec<(String, String)>,
}

impl Outcome {
    /// Adds what became of a rig, and says so if it failed.
    pub(super) fn add(&mut self, rig: String, result: Result<()>) {
        match result {
            Ok(()) => {}
            Err(error) if error.is::<Unavailable>() => {
                self.unavailable.push((rig, format!("{error:#}")));
            }
            Err(error) => {
                eprintln!("xtask: {rig}: {error:#}");
                self.failed.push(rig);
            }
        }
    }

    /// An error if a rig failed; or if one cannot be had, unless that is no failure. Says why of each that cannot.
    pub(super) fn verdict(self, skips: bool) -> Result<()> {
        self.missed(skips).for_each(|line| eprintln!("{line}"));
        let failed = self.failed;
        let unavailable: Vec<_> = self.unavailable.into_iter().map(|(rig, _)| rig).collect();
        ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
        ensure!(skips || unavailable.is_empty(), "cannot be had: {}", unavailable.join(", "));
        Ok(())
    }

    /// A line for each that cannot be had: only what is no failure is skipped.
    fn missed(&self, skips: bool) -> impl Iterator<Item = String> {
        let by = if skips { "skipped: board" } else { "xtask:" };
        self.unavailable.iter().map(move |(rig, why)| format!("{by} {rig}: {why}"))
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    fn outcome(results: impl IntoIterator<Item = (&'static str, Result<()>)>) -> Outcome {
        let mut outcome = Outcome::default();
        for (rig, result) in results {
            outcome.add(rig.to_owned(), result);
        }
        outcome
    }

    fn unavailable() -> Result<()> {
        Err(Unavailable("no network".into()).into())
    }

    #[test]
    fn what_failed_stays_failed_whatever_cannot_be_had_afterwards() {
        for skips in [true, false] {
            let outcome =
                outcome([("a", Err(anyhow!("a check failed"))), ("b", unavailable()), ("c", Ok(()))]);
            assert_eq!(outcome.verdict(skips).unwrap_err().to_string(), "failed: a");
        }
    }

    #[test]
    fn what_cannot_be_had_is_a_failure_unless_it_may_be_skipped() {
        let some = || outcome([("a", unavailable()), ("b", Ok(())), ("c", unavailable())]);
        let said = |skips| some().missed(skips).next().unwrap();
        assert_eq!(said(true), "skipped: board a: the board rig cannot be had: no network");
        assert_eq!(said(false), "xtask: a: the board rig cannot be had: no network");
        assert!(some().verdict(true).is_ok());
        assert_eq!(some().verdict(false).unwrap_err().to_string(), "cannot be had: a, c");
        assert!(outcome([("a", Ok(()))]).verdict(false).is_ok());
    }
}
