//! The init of a board's guest; and, under the name `setpriv`, as much of that as the agent's helper needs.

#![forbid(unsafe_code)]

use std::{env, path::Path, process::ExitCode};

fn main() -> ExitCode {
    let mut args = env::args();
    let name = args.next().unwrap_or_default();
    if Path::new(&name).file_name().is_some_and(|name| name == "setpriv") {
        return board::guest::setpriv(args);
    }
    board::guest::init()
}
