//! Over the control socket: one line there, one line back.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use serde::de::DeserializeOwned;

use super::ClientError;
use crate::protocol::{self, Request};

/// For each read or write. A file that is to be read again may lie on a slow disk.
const PATIENCE: Duration = Duration::from_secs(30);
/// More than any agent says.
const LONGEST: u64 = 64 << 20;

/// Asks the agent that listens at `path`.
///
/// # Errors
///
/// If it does not answer, or refuses.
pub fn ask<T: DeserializeOwned>(path: &Path, request: &Request) -> Result<T, ClientError> {
    let at = || path.display().to_string();
    let answer = exchange(path, &request.line()).map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => ClientError::Permission { at: at() },
        _ => ClientError::Unreachable { at: at(), flag: "--control", source },
    })?;
    let answer = protocol::parse_answer(&answer).map_err(|what| ClientError::Strange { at: at(), what })?;
    Ok(answer?)
}

fn exchange(path: &Path, line: &str) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
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
