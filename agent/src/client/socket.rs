//! Over the control socket: one line there, one line back.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
    sockopt::{Timeout, set_socket_timeout},
};
use serde::de::DeserializeOwned;

use super::{ClientError, is_silence};
use crate::protocol::{self, Request};

/// More than any agent says.
const LONGEST: u64 = 64 << 20;

/// Asks the agent that listens at `path`.
///
/// # Errors
///
/// If it does not answer, or refuses.
pub fn ask<T: DeserializeOwned>(path: &Path, request: &Request) -> Result<T, ClientError> {
    let at = || path.display().to_string();
    let patience = patience(request);
    let answer = exchange(path, &request.line(), patience).map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => ClientError::Permission { at: at() },
        _ if is_silence(&source) => ClientError::Silent { at: at(), patience, next: next(request) },
        _ => ClientError::Unreachable { at: at(), flag: "--control", source },
    })?;
    let answer = protocol::parse_answer(&answer).map_err(|what| ClientError::Strange { at: at(), what })?;
    Ok(answer?)
}

/// For connecting, and for each read or write.
fn patience(request: &Request) -> Duration {
    match request {
        Request::Status | Request::RuleList => Duration::from_secs(3),
        // Rules are compiled and tried, and a file that is to be read again may lie on a slow disk.
        Request::RuleAdd { .. }
        | Request::RuleDel { .. }
        | Request::RuleReplace { .. }
        | Request::RuleDefault { .. }
        | Request::Reload { .. } => Duration::from_secs(30),
    }
}

/// What to do about an agent that does not answer.
fn next(request: &Request) -> &'static str {
    match request {
        Request::Status | Request::RuleList => "is it stopped, or the machine too busy?",
        _ => "whether it was done is not known: umemd rule list shows what is in force",
    }
}

fn exchange(path: &Path, line: &str, patience: Duration) -> io::Result<Vec<u8>> {
    let mut stream = connect_within(path, patience)?;
    // Who is refused before all was sent still gets the answer.
    let sent = stream.write_all(line.as_bytes());
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer)?;
    if answer.is_empty() {
        sent?;
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "it closed the connection without an answer",
        ));
    }
    Ok(answer)
}

/// An agent that is stopped takes no connection, and when enough of them wait, connecting does too: for as long as
/// sending may (unix(7)).
fn connect_within(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(patience))?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::fd::OwnedFd,
        path::PathBuf,
        sync::atomic::{AtomicU32, Ordering},
        time::Instant,
    };

    use rustix::net::{bind, listen};

    use super::*;

    const SOON: Duration = Duration::from_millis(50);

    /// A socket that is listened on and of which no connection is taken, as of an agent that is stopped.
    struct Stopped {
        path: PathBuf,
        _listener: OwnedFd,
    }

    impl Stopped {
        fn new() -> Self {
            static NUMBER: AtomicU32 = AtomicU32::new(0);
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("umemd-client-{}-{number}", std::process::id()));
            let socket =
                socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
            bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
            listen(&socket, 1).unwrap();
            Self { path, _listener: socket }
        }
    }

    impl Drop for Stopped {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.path);
        }
    }

    #[test]
    fn who_does_not_answer_is_not_waited_for_without_end() {
        let stopped = Stopped::new();
        let start = Instant::now();
        let silence = exchange(&stopped.path, &Request::Status.line(), SOON).unwrap_err();
        assert!(is_silence(&silence), "{silence:?}");
        assert!(start.elapsed() >= SOON, "{:?}", start.elapsed());
    }

    #[test]
    fn a_queue_of_connections_that_is_full_is_not_waited_for_either() {
        let stopped = Stopped::new();
        let mut waiting = Vec::new();
        let full = loop {
            match connect_within(&stopped.path, SOON) {
                Ok(stream) => waiting.push(stream),
                Err(error) => break error,
            }
            assert!(waiting.len() < 10, "more wait than may");
        };
        assert!(is_silence(&full), "{full:?}");
    }

    #[test]
    fn only_what_may_take_long_is_waited_for_long() {
        for request in [Request::Status, Request::RuleList] {
            assert_eq!(patience(&request), Duration::from_secs(3), "{request:?}");
        }
        assert_eq!(patience(&Request::Reload { force: false }), Duration::from_secs(30));
    }

    #[test]
    fn silence_is_told_with_what_to_do_next() {
        let stopped = Stopped::new();
        let error = ask::<crate::status::Status>(&stopped.path, &Request::Status).unwrap_err().to_string();
        let path = stopped.path.display();
        assert_eq!(
            error,
            format!("the umemd at {path} did not answer within 3 s; is it stopped, or the machine too busy?")
        );
    }
}
