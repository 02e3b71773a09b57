//! Splits `cargo xtask run`'s arguments into ours and umemd's.
//!
//! umemd's flags are not repeated here, so that they cannot differ from what it takes: whatever is not a
//! flag of ours goes to umemd, in order. Ours are asked of clap.

use std::ffi::{OsStr, OsString};

use clap::CommandFactory as _;

use crate::cli::Cli;

/// What the lab sends. Where there is none, `umemd run` has flags of these names.
const LABS: [&str; 2] = ["rate", "size"];

/// Ours, program name and subcommand first, and umemd's. Other subcommands keep all of theirs.
pub(crate) fn split(args: Vec<OsString>) -> (Vec<OsString>, Vec<OsString>) {
    if args.get(1).is_none_or(|subcommand| subcommand != "run") {
        return (args, Vec::new());
    }
    let mut cli = Cli::command();
    cli.build();
    let Some(run) = cli.find_subcommand("run") else {
        return (args, Vec::new());
    };
    let mut flags = args.iter().take_while(|arg| *arg != "--").filter_map(|arg| name(arg));
    let in_lab = !flags.any(|(name, _)| name == "iface");
    let mut args = args.into_iter();
    let mut ours: Vec<OsString> = args.by_ref().take(2).collect();
    let mut theirs = Vec::new();
    while let Some(arg) = args.next() {
        if arg == "--" {
            theirs.extend(args);
            break;
        }
        let is_ours = in_lab || name(&arg).is_none_or(|(name, _)| !LABS.contains(&name));
        match takes_value(run, &arg).filter(|_| is_ours) {
            None => theirs.push(arg),
            Some(false) => ours.push(arg),
            Some(true) => {
                ours.push(arg);
                ours.extend(args.next());
            }
        }
    }
    (ours, theirs)
}

/// Whether the next argument is the value of this one; `None` if it is no flag of ours.
fn takes_value(run: &clap::Command, arg: &OsStr) -> Option<bool> {
    if arg == "-h" {
        return Some(false);
    }
    let (name, value) = name(arg)?;
    let flag = run.get_arguments().find(|flag| flag.get_long() == Some(name))?;
    Some(flag.get_action().takes_values() && value.is_none())
}

/// Name of a long flag, and its value if that is in the same word.
fn name(arg: &OsStr) -> Option<(&str, Option<&str>)> {
    let name = arg.to_str()?.strip_prefix("--")?;
    Some(name.split_once('=').map_or((name, None), |(name, value)| (name, Some(value))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split_line(line: &[&str]) -> (Vec<String>, Vec<String>) {
        let strings = |list: Vec<OsString>| list.into_iter().map(|arg| arg.into_string().unwrap()).collect();
        let (ours, theirs) = split(line.iter().map(OsString::from).collect());
        (strings(ours), strings(theirs))
    }

    #[test]
    fn what_is_not_ours_is_umemds_wherever_it_stands() {
        let line = [
            "xtask",
            "run",
            "--steer",
            "udp dst port 7",
            "--duration",
            "10s",
            "--force",
            "--json",
            "--rate=5",
        ];
        let (ours, theirs) = split_line(&line);
        assert_eq!(ours, ["xtask", "run", "--duration", "10s", "--json", "--rate=5"]);
        assert_eq!(theirs, ["--steer", "udp dst port 7", "--force"]);
    }

    #[test]
    fn what_the_lab_would_send_is_umemds_where_there_is_none() {
        let line = ["xtask", "run", "--rate", "5", "--iface=eth0", "--handler", "generate", "--size=1400"];
        let (ours, theirs) = split_line(&line);
        assert_eq!(ours, ["xtask", "run", "--iface=eth0"]);
        assert_eq!(theirs, ["--rate", "5", "--handler", "generate", "--size=1400"]);
        let (ours, _) = split_line(&["xtask", "run", "--rate", "5", "--", "--iface", "x"]);
        assert_eq!(ours, ["xtask", "run", "--rate", "5"]);
    }

    #[test]
    fn what_follows_two_dashes_is_umemds() {
        let (ours, theirs) = split_line(&["xtask", "run", "--iface", "eth0", "--", "--json", "--", "x"]);
        assert_eq!(ours, ["xtask", "run", "--iface", "eth0"]);
        assert_eq!(theirs, ["--json", "--", "x"]);
    }

    #[test]
    fn help_is_ours() {
        assert_eq!(split_line(&["xtask", "run", "--help"]).0, ["xtask", "run", "--help"]);
        assert_eq!(split_line(&["xtask", "run", "-h"]).0, ["xtask", "run", "-h"]);
    }

    #[test]
    fn other_subcommands_keep_their_arguments() {
        let (ours, theirs) = split_line(&["xtask", "test", "e2e", "--", "--steer"]);
        assert_eq!(ours, ["xtask", "test", "e2e", "--", "--steer"]);
        assert!(theirs.is_empty());
    }
}
