//! A handler that panics at the 100th packet of the first interface, to see that nobody else has to suffer for it:
//! its queue's traffic goes to the stack, the other interfaces are served on, and the count at the end says which
//! frames are lost. And no handler can be made for any queue but the first. The end-to-end tests run it.

use std::process::ExitCode;

use clap::Parser;
use datapath::{PacketHandler, Verdict, handlers::Reflect};
use umemd::{
    cli::RunArgs,
    config::RunConfig,
    control::{self, Outcome},
    outlet::Outlet,
};

struct Panicking {
    /// Packets until then; `None`: it never panics.
    left: Option<u32>,
    twice: bool,
}

impl Drop for Panicking {
    fn drop(&mut self) {
        assert!(!self.twice || self.left != Some(0), "and when it is dropped");
    }
}

impl PacketHandler for Panicking {
    fn handle(&mut self, packet: &mut [u8]) -> Verdict {
        if let Some(left) = &mut self.left {
            *left -= 1;
            assert!(*left > 0, "this is the one");
        }
        Reflect.handle(packet)
    }
}

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// Panic again when the handler is dropped.
    #[arg(long)]
    twice: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    env_logger::Builder::from_env(env_logger::Env::new().filter_or("UMEMD_LOG", "info")).init();
    let Args { run, twice } = Args::parse();
    let config = RunConfig::try_from(run)?;
    let first = config.ifaces[0].clone();
    let outcome = control::run_with(config, Outlet::new("report", std::io::stdout())?, move |queue| {
        assert_eq!(queue.queue, 0, "there is one for queue 0 only");
        Panicking { left: (queue.interface == first).then_some(100), twice }
    })?;
    Ok(if outcome == Outcome::Conserved { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
