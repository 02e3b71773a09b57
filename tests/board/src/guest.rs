//! The inside of a guest: its init boots as far as the drivers need, runs the checks of its board, and switches
//! off. All that `cargo xtask board` hears of it are the lines that begin with `board: `.

mod agent;
mod boot;
mod cable;
mod driver;
mod eavesdropper;
mod kernel_log;
mod mvneta;
mod mvpp2;
mod pci;
mod programs;
mod verdict;

use std::{
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode},
};

use rustix::system::{RebootCommand, reboot};

use boot::Board;
use verdict::Verdicts;

/// What init is: boots, checks, switches off. It does not return but by mistake.
pub fn init() -> ExitCode {
    let mut verdicts = Verdicts::default();
    let board = verdicts.check("the guest boots and loads the board's drivers", boot::boot);
    match board {
        Some(board) if board.shell => {
            let mut shell = Command::new("/usr/bin/busybox");
            // Its exit would be init's, at which the kernel panics, and QEMU ends.
            let error = shell.arg("sh").exec();
            eprintln!("cannot start a shell: {error}");
        }
        Some(Board { rig, .. }) => match rig.as_str() {
            "mvneta" => mvneta::check(&mut verdicts),
            "mvpp2" => mvpp2::check(&mut verdicts),
            "igb" => pci::check_igb(&mut verdicts),
            "virtio" => pci::check_virtio(&mut verdicts),
            "e2e" => programs::check(&mut verdicts),
            _ => verdicts.fail("the rig is known", &format!("there are no checks for {rig}")),
        },
        None => {}
    }
    verdicts.end();
    rustix::fs::sync();
    let error = reboot(RebootCommand::PowerOff);
    eprintln!("cannot switch off: {error:?}");
    ExitCode::FAILURE
}

/// What `setpriv --pdeathsig SIGNAL -- PROGRAM ARGS...` is in a guest: the program. All of them end with it.
pub fn setpriv(args: impl Iterator<Item = String>) -> ExitCode {
    let mut words = args.skip_while(|word| word != "--").skip(1);
    let Some(program) = words.next() else { return ExitCode::from(2) };
    let error = Command::new(&program).args(words).exec();
    eprintln!("cannot start {program}: {error}");
    ExitCode::FAILURE
}
