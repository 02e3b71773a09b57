//! The carrier of a link, which many drivers take away for a moment when a program comes: they close the port and open
//! it again.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::plan::Plan;
use crate::nic::{self, drivers, quirks::Kind};

/// How long a link may take to come back.
const BOUNCE: Duration = Duration::from_secs(5);

/// How often it is looked at.
const INTERVAL: Duration = Duration::from_millis(20);

/// Waits until each carrier that was there before the program was attached is back, so that nobody is told that an
/// interface is ready which receives nothing yet.
pub(super) fn wait_for_bounces(plans: &[Plan]) {
    let deadline = Instant::now() + BOUNCE;
    let bounces = |plan: &&Plan| {
        plan.link.carrier
            && drivers::has(&plan.facts.driver, |kind| matches!(kind, Kind::Bounces | Kind::BouncesSiblings))
    };
    for plan in plans.iter().filter(bounces) {
        // Who is gone, or does not answer, is not waited for: others notice that.
        let is_back = || !matches!(nic::link(plan.link.index), Ok(Some(link)) if !link.carrier);
        if !comes_true(deadline, is_back) {
            log::warn!(
                "{}'s link has not come back within {} s of attaching the program; frames come when it does",
                plan.link.name,
                BOUNCE.as_secs()
            );
        }
    }
}

/// Asks until it is so, at least once; false if it is not by then.
fn comes_true(deadline: Instant, mut ask: impl FnMut() -> bool) -> bool {
    loop {
        if ask() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_carrier_that_comes_back_is_waited_for_and_one_that_stays_away_is_not() {
        let mut asked = 0;
        let comes = comes_true(Instant::now() + BOUNCE, || {
            asked += 1;
            asked == 3
        });
        assert!(comes && asked == 3);
        let mut asked = 0;
        let comes = comes_true(Instant::now(), || {
            asked += 1;
            false
        });
        assert!(!comes && asked == 1);
    }
}
