//! `board-device neta|pp2 SOCKET...`: serves a NIC of that kind to a QEMU on each socket, until all have gone.
//!
//! The sockets are made here; that they exist says that they can be connected to. QEMU's devices take them in the
//! order given, so that the first is in the first slot of the guest's bus.

#![forbid(unsafe_code)]

use std::{env, error::Error, io, os::unix::net::UnixListener, process::ExitCode};

use board::{
    cable::{Cables, Kind},
    neta::Neta,
    nic::Nic,
    pp2::Pp2,
    rack::Rack,
};

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let Some((kind, sockets)) = args.split_first().filter(|(_, sockets)| !sockets.is_empty()) else {
        eprintln!("usage: board-device neta|pp2 SOCKET...");
        return ExitCode::from(2);
    };
    match serve(kind, sockets) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("board-device: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(kind: &str, sockets: &[String]) -> Result<(), Box<dyn Error>> {
    let (make, cables): (fn() -> Box<dyn Nic>, _) = match kind {
        "neta" => (
            || Box::new(Neta::new()),
            // The EspressoBIN's switch is between the second pair.
            Cables::new([((0, 0), (1, 0), Kind::Plain), ((2, 0), (3, 0), Kind::Switch)]),
        ),
        "pp2" => (
            || Box::new(Pp2::new()),
            Cables::new([((0, 0), (1, 0), Kind::Plain), ((0, 1), (1, 1), Kind::Plain)]),
        ),
        other => return Err(format!("no model of {other}; there is: neta, pp2").into()),
    };
    let listeners = sockets.iter().map(UnixListener::bind).collect::<io::Result<Vec<_>>>()?;
    Ok(Rack::new(listeners.into_iter().map(|listener| (make(), listener)), cables).run()?)
}
