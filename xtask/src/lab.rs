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
mod lines;
pub(crate) mod net;
mod report;
pub(crate) mod scrape;
pub(crate) mod sender;
pub(crate) mod watch;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::cli::Lab;
use crate::lab::agent::Agent;
use crate::lab::net::Namespaces;
use crate::lab::sender::RunningSender;
use crate::lab::watch::{Signals, Wake, Watch};
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

/// Builds the lab, runs umemd in it, and takes it down. The exit code is umemd's.
pub(crate) fn run(options: &Lab) -> Result<ExitCode> {
    ensure!(shell::is_root(), "the lab needs root; `cargo xtask run` asks its --runner for it");
    let signals = Signals::catch()?;
    let namespaces = Namespaces::create()?;

    let args = umemd_args(options, &namespaces.near);
    let mut watch = Watch::new(signals, Agent::start(&options.umemd, &args)?);
    let Some(address) = wait_until_ready(&mut watch, &args)? else {
        return finish(&mut watch);
    };

    watch.sender = Some(RunningSender::start(&namespaces.far, DESTINATION, &options.traffic)?);
    let broken = flow(&mut watch, options.show.duration);

    // In this order: what is still on its way when umemd detaches is sent but never received.
    if let Some(sender) = &mut watch.sender {
        sender.stop();
    }
    let sent = watch.sent();
    let received = if watch.agent.has_ended() { None } else { scrape::settled(&address, sent) };
    let code = finish(&mut watch)?;
    if let Some(error) = broken {
        return Err(error);
    }
    if !options.show.json {
        let received = received.map(|received| format!(", received {received}")).unwrap_or_default();
        watch.agent.print(&format!("sent {sent}{received}"));
    }
    Ok(code)
}

/// Lets frames flow until it is time, we are told to end, or umemd or the sender ended; the latter is an error.
fn flow(watch: &mut Watch, duration: Option<Duration>) -> Option<anyhow::Error> {
    let end = duration.map(|duration| Instant::now() + duration);
    loop {
        let glance = Instant::now() + Duration::from_millis(200);
        match watch.wake(end.map_or(glance, |end| end.min(glance))) {
            Wake::End | Wake::Ended => return None,
            Wake::Listening(_) => {}
            Wake::Timeout if end.is_some_and(|end| Instant::now() >= end) => return None,
            Wake::Timeout => {
                let failure = watch.sender.as_mut().and_then(RunningSender::failure);
                if failure.is_some() {
                    return failure;
                }
            }
        }
    }
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
fn wait_until_ready(watch: &mut Watch, args: &[OsString]) -> Result<Option<String>> {
    let start = Instant::now();
    let mut address: Option<String> = None;
    while start.elapsed() < START {
        match watch.wake(Instant::now() + Duration::from_millis(20)) {
            Wake::End | Wake::Ended => return Ok(None),
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
    watch.agent.kill();
    let at = address.unwrap_or_else(|| listen_flag(args));
    bail!("umemd did not become ready within {} s: http://{at}/readyz does not say 200", START.as_secs())
}

/// Where umemd is told to listen.
pub(crate) fn listen_flag(args: &[OsString]) -> String {
    let args: Vec<_> = args.iter().filter_map(|arg| arg.to_str()).collect();
    let given = args
        .iter()
        .zip(args.iter().skip(1))
        .find_map(|(flag, value)| (*flag == "--listen").then_some(*value));
    let joined = || args.iter().find_map(|arg| arg.strip_prefix("--listen="));
    given.or_else(joined).unwrap_or("127.0.0.1:19478").to_owned()
}

/// Ends umemd: SIGTERM, and SIGKILL if a second signal comes or it takes too long.
fn finish(watch: &mut Watch) -> Result<ExitCode> {
    watch.agent.terminate();
    let deadline = Instant::now() + STOP;
    loop {
        match watch.wake(deadline) {
            Wake::Ended => {
                let sent = watch.sent();
                return watch.agent.exit_code(sent);
            }
            Wake::Listening(_) => {}
            Wake::End => {
                watch.agent.kill();
                bail!("killed by a second signal");
            }
            Wake::Timeout => {
                watch.agent.kill();
                bail!("umemd did not end within {} s of SIGTERM: killed", STOP.as_secs());
            }
        }
    }
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
