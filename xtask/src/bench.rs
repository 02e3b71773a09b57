//! `cargo xtask bench`: what umemd costs, beside what one would use instead.

pub(crate) mod datapath;
pub(crate) mod pool;
mod ratio;
pub(crate) mod scrape;
mod steer;

use anyhow::Result;

use crate::cli::{Bench, BenchWhich};
use crate::setup;

/// Sets up, and runs the benchmark asked for.
pub(crate) fn run(options: &Bench) -> Result<()> {
    setup::tests(options.install)?;
    match &options.which {
        BenchWhich::Datapath(options) => datapath::run(options),
        BenchWhich::Pool(options) => pool::run(options),
        BenchWhich::Scrape(options) => scrape::run(options),
        BenchWhich::Steer(options) => steer::run(options),
    }
}
