//! Who is connected to this machine, through an interface.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use procfs::ProcError;
use procfs::net::{TcpNetEntry, TcpState};
use procfs::process::Process;

use super::{InterfaceFacts, Tags};

/// An established TCP connection to a local listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Connection {
    /// This machine's end.
    pub local: SocketAddr,
    /// The other one.
    pub remote: SocketAddr,
    /// The tags around it.
    pub tags: Tags,
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let service = if self.local.port() == 22 { "ssh" } else { "tcp" };
        write!(f, "{service} {} <- {}", self.local, self.remote)?;
        if self.tags != Tags::NONE {
            write!(f, ", {}", self.tags)?;
        }
        Ok(())
    }
}

/// The established TCP connections to local listeners at the interface's addresses, in this thread's network
/// namespace (`/proc/thread-self/net/tcp` and `tcp6`, proc_pid_net(5)).
///
/// # Errors
///
/// When `/proc` cannot be read.
pub fn connections_on(facts: &InterfaceFacts) -> io::Result<Vec<Connection>> {
    // Not /proc/net, which is the main thread's: only this thread may have entered the namespace.
    let this_thread = Path::new("/proc").join(std::fs::read_link("/proc/thread-self")?);
    let this_thread = Process::new_with_root(this_thread).map_err(io_error)?;
    let mut sockets = this_thread.tcp().map_err(io_error)?;
    match this_thread.tcp6() {
        Ok(v6) => sockets.extend(v6),
        // A kernel without IPv6 has no such table.
        Err(ProcError::NotFound(_)) => {}
        Err(error) => return Err(io_error(error)),
    }
    Ok(select(&sockets, facts))
}

fn io_error(error: ProcError) -> io::Error {
    match error {
        ProcError::Io(source, _) => source,
        other => io::Error::other(other),
    }
}

/// Those of these sockets that are connections as [`connections_on`] means them.
fn select(sockets: &[TcpNetEntry], facts: &InterfaceFacts) -> Vec<Connection> {
    let listeners: HashSet<SocketAddr> = sockets
        .iter()
        .filter(|socket| socket.state == TcpState::Listen)
        .map(|socket| canonical(socket.local_address))
        .collect();
    let listens = |local: SocketAddr| {
        let at = |ip: IpAddr| listeners.contains(&SocketAddr::new(ip, local.port()));
        at(local.ip())
            || (local.is_ipv4() && at(Ipv4Addr::UNSPECIFIED.into()))
            // Takes IPv4 as well, unless it said IPV6_V6ONLY, which the table does not show.
            || at(Ipv6Addr::UNSPECIFIED.into())
    };
    sockets
        .iter()
        .filter(|socket| socket.state == TcpState::Established)
        .map(|socket| (canonical(socket.local_address), canonical(socket.remote_address)))
        .filter(|(local, _)| listens(*local))
        .flat_map(|(local, remote)| {
            // The same address may be reached in several VLANs.
            let here = facts.local_addresses.iter().filter(move |address| address.prefix.ip == local.ip());
            here.map(move |address| Connection { local, remote, tags: address.tags })
        })
        .collect()
}

/// An IPv4 connection of an IPv6 socket (`::ffff:10.0.0.1`) is one of IPv4 on the wire.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::steer::compile;
    use crate::steer::guard::{LocalAddress, LockOutError, Prefix, refuse_lock_out};

    /// A listener, a connection to it, and its other end.
    fn connect(address: &str) -> (TcpListener, TcpStream, TcpStream) {
        let listener = TcpListener::bind(address).unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (server, _) = listener.accept().unwrap();
        (listener, client, server)
    }

    #[test]
    fn real_connections_are_found_at_the_side_of_the_listener() {
        let facts = |ip: &str| InterfaceFacts {
            local_addresses: vec![LocalAddress {
                prefix: Prefix::of_one(ip.parse().unwrap()),
                dynamic: false,
                on_link: false,
                tags: Tags::NONE,
            }],
            routes: Vec::new(),
        };
        for address in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0"] {
            let Ok(_) = TcpListener::bind(address) else {
                eprintln!("skipped: cannot listen at {address}");
                continue;
            };
            let (listener, client, server) = connect(address);
            let ours = Connection {
                local: canonical(server.local_addr().unwrap()),
                remote: canonical(server.peer_addr().unwrap()),
                tags: Tags::NONE,
            };
            let theirs =
                Connection { local: client.local_addr().unwrap(), remote: ours.local, tags: Tags::NONE };
            let found = connections_on(&facts("127.0.0.1")).unwrap();
            assert!(found.contains(&ours), "{address}: {ours} among {found:?}");
            assert!(!found.contains(&theirs), "{address}: {theirs} has no listener");
            assert!(!connections_on(&facts("192.0.2.1")).unwrap().contains(&ours));

            let rules = compile(&[format!("tcp dst port {}", ours.local.port())]).unwrap();
            assert!(matches!(
                refuse_lock_out(&rules, None, &facts("127.0.0.1")),
                Err(LockOutError::LockedOut(_))
            ));
            drop(listener);
            assert!(!connections_on(&facts("127.0.0.1")).unwrap().contains(&ours), "nobody listens any more");
        }
    }
}
