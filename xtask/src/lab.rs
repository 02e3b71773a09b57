//! The lab: two network namespaces joined by a veth pair, umemd on one end, UDP from sockets in the other.
//!
//! ```text
//!   caller's namespace        umemd-near-PID                      umemd-far-PID
//!   xtask ── umemd ──AF_XDP── near0 10.77.0.1 <────── veth ────── far0 10.77.0.2 ── xtask lab-send
//!              └─ HTTP
//! ```
//!
//! Both children die with xtask, whatever ends it, and the namespaces are gone with the lab; those of a lab
//! that was killed go with the next one.

mod agent;
mod net;
mod report;
mod scrape;
pub(crate) mod sender;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cli::Lab;
use crate::lab::agent::{Agent, Wake};
use crate::lab::net::Namespaces;
use crate::lab::sender::RunningSender;
use crate::shell;

/// Where umemd attaches.
const NEAR: &str = "near0";

/// What the sender sends to; [`STEER`] takes it.
const DESTINATION: &str = "10.77.0.1:7";

/// The rule, unless the caller gives one.
const STEER: &str = "udp dst port 7";

/// A umemd that is not ready by then never will be.
const START: Duration = Duration::from_secs(30);

/// A umemd that has not said by then where it listens does not say it: UMEMD_LOG may silence it.
const QUIET: Duration = Duration::from_secs(3);

/// A umemd that has not ended by then hangs: its own deadlines are shorter.
const STOP: Duration = Duration::from_secs(30);

/// What the lab hears of.
#[derive(Debug)]
pub(crate) enum Event {
    /// SIGINT, SIGTERM or SIGHUP came.
    Signal,
    /// Nobody reads our stdout any more.
    NobodyListens,
    /// umemd serves HTTP there.
    Listening(String),
}

/// Builds the lab, runs umemd in it, and takes it down. The exit code is umemd's.
pub(crate) fn run(options: &Lab) -> Result<ExitCode> {
    ensure!(shell::is_root(), "the lab needs root; `cargo xtask run` asks its --runner for it");
    let (events, inbox) = mpsc::channel();
    listen_to_signals(events.clone())?;
    let namespaces = Namespaces::create()?;

    let args = umemd_args(options, &namespaces.near);
    let mut agent = Agent::start(&options.umemd, &args, options.show.json, events, inbox)?;
    let Some(address) = wait_until_ready(&mut agent, &args)? else {
        return finish(&mut agent);
    };

    let mut sender = RunningSender::start(&namespaces.far, DESTINATION, &options.traffic, agent.sent())?;
    let end = options.show.duration.map(|duration| Instant::now() + duration);
    let broken = loop {
        match agent.wake(end.unwrap_or_else(far_away).min(Instant::now() + Duration::from_millis(200))) {
            Wake::Signal | Wake::Ended => break None,
            Wake::Listening(_) => {}
            Wake::Timeout if end.is_some_and(|end| Instant::now() >= end) => break None,
            Wake::Timeout => {
                if let Some(error) = sender.failure() {
                    break Some(error);
                }
            }
        }
    };

    // In this order: what is still on its way when umemd detaches is sent but never received.
    let sent = sender.stop();
    let received = if agent.has_ended() { None } else { scrape::settled(&address, sent) };
    let code = finish(&mut agent)?;
    if let Some(error) = broken {
        return Err(error);
    }
    if !options.show.json {
        match received {
            Some(received) => println!("sent {sent}, received {received}"),
            None => println!("sent {sent}"),
        }
    }
    Ok(code)
}

/// The arguments with which another xtask, as root, runs the same lab.
pub(crate) fn command_line(options: &Lab) -> Vec<OsString> {
    let mut args: Vec<OsString> = vec!["lab".into(), "--umemd".into(), options.umemd.clone().into()];
    if let Some(duration) = options.show.duration {
        args.extend(["--duration".into(), format!("{}ms", duration.as_millis()).into()]);
    }
    args.extend(options.show.json.then(|| "--json".into()));
    args.extend(sender::flags(&options.traffic));
    args.push("--".into());
    args.extend(options.umemd_args.iter().cloned());
    args
}

/// `umemd run`'s arguments: ours where the caller gives none.
fn umemd_args(options: &Lab, near: &str) -> Vec<OsString> {
    let mut args: Vec<OsString> = ["run", "--netns", near, "--iface", NEAR].map(OsString::from).into();
    for (flag, value) in [("--steer", STEER), ("--handler", "drop")] {
        let given = |arg: &OsString| arg.to_str().is_some_and(|arg| arg.split('=').next() == Some(flag));
        if !options.umemd_args.iter().any(given) {
            args.extend([flag.into(), value.into()]);
        }
    }
    args.extend(options.show.json.then(|| "--json".into()));
    args.extend(options.umemd_args.iter().cloned());
    args
}

/// Waits until umemd says that it is ready, and returns its address; `None` if it is to end instead.
fn wait_until_ready(agent: &mut Agent, args: &[OsString]) -> Result<Option<String>> {
    let start = Instant::now();
    let mut address: Option<String> = None;
    while start.elapsed() < START {
        match agent.wake(Instant::now() + Duration::from_millis(20)) {
            Wake::Signal | Wake::Ended => return Ok(None),
            Wake::Listening(at) => address = Some(at),
            Wake::Timeout if address.is_none() && start.elapsed() > QUIET => {
                address = Some(listen_flag(args))
            }
            Wake::Timeout => {}
        }
        if let Some(at) = address.as_deref().filter(|at| scrape::is_ready(at)) {
            return Ok(Some(at.to_owned()));
        }
    }
    agent.kill();
    let at = address.unwrap_or_else(|| listen_flag(args));
    bail!("umemd did not become ready within {} s: http://{at}/readyz does not say 200", START.as_secs())
}

/// Where umemd is told to listen.
fn listen_flag(args: &[OsString]) -> String {
    let args: Vec<_> = args.iter().filter_map(|arg| arg.to_str()).collect();
    let given = args
        .iter()
        .zip(args.iter().skip(1))
        .find_map(|(flag, value)| (*flag == "--listen").then_some(*value));
    let joined = || args.iter().find_map(|arg| arg.strip_prefix("--listen="));
    given.or_else(joined).unwrap_or("127.0.0.1:19478").to_owned()
}

/// Ends umemd: SIGTERM, and SIGKILL if a second signal comes or it takes too long.
fn finish(agent: &mut Agent) -> Result<ExitCode> {
    agent.terminate();
    let deadline = Instant::now() + STOP;
    loop {
        match agent.wake(deadline) {
            Wake::Ended => return agent.exit_code(),
            Wake::Listening(_) => {}
            Wake::Signal => {
                agent.kill();
                bail!("killed by a second signal");
            }
            Wake::Timeout => {
                agent.kill();
                bail!("umemd did not end within {} s of SIGTERM: killed", STOP.as_secs());
            }
        }
    }
}

fn listen_to_signals(events: Sender<Event>) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot handle signals")?;
    thread::spawn(move || signals.forever().all(|_| events.send(Event::Signal).is_ok()));
    Ok(())
}

/// No end: an hour is looked at again.
fn far_away() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn lab(args: &[&str]) -> Lab {
        let line = ["xtask", "lab", "--umemd", "/t/umemd"].iter().chain(args);
        match Cli::try_parse_from(line).unwrap().command {
            Command::Lab(lab) => lab,
            other => panic!("{other:?}"),
        }
    }

    fn text(args: Vec<OsString>) -> String {
        args.into_iter().map(|arg| arg.into_string().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn umemd_gets_a_rule_and_a_handler_unless_it_has_them() {
        assert_eq!(
            text(umemd_args(&lab(&[]), "near")),
            "run --netns near --iface near0 --steer udp dst port 7 --handler drop"
        );
        assert_eq!(
            text(umemd_args(&lab(&["--json", "--", "--steer", "all", "--handler=reflect"]), "near")),
            "run --netns near --iface near0 --json --steer all --handler=reflect"
        );
    }

    #[test]
    fn a_silent_umemd_is_asked_where_it_was_told_to_listen() {
        let listen = |args: &[&str]| listen_flag(&args.iter().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(listen(&["run", "--json"]), "127.0.0.1:19478");
        assert_eq!(listen(&["run", "--listen", "[::1]:7", "--json"]), "[::1]:7");
        assert_eq!(listen(&["run", "--listen=127.0.0.1:7"]), "127.0.0.1:7");
    }

    #[test]
    fn the_lab_of_the_runner_is_the_same() {
        let options = lab(&["--duration", "2s", "--json", "--rate", "0", "--", "--steer", "all"]);
        let again = command_line(&options);
        let line = std::iter::once("xtask".into()).chain(again.clone());
        let Command::Lab(parsed) = Cli::try_parse_from(line).unwrap().command else { panic!() };
        assert_eq!(command_line(&parsed), again);
        assert_eq!(parsed.show.duration, Some(Duration::from_secs(2)));
        assert_eq!(parsed.traffic.rate, 0);
        assert_eq!(parsed.umemd_args, ["--steer", "all"]);
    }
}
