//! Asks a running agent: over its control socket, or for its status over HTTP.

mod http;
mod socket;

use std::{fmt, io, path::PathBuf, time::Duration};

pub use socket::ask;
use thiserror::Error;

use crate::{
    protocol::{Refusal, Request},
    status::Status,
};

/// Where an agent is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Its control socket.
    Socket(PathBuf),
    /// Its HTTP listener: `http://HOST:PORT`.
    Url(String),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => path.display().fmt(f),
            Self::Url(url) => f.write_str(url),
        }
    }
}

/// Why there is no answer, or none that was hoped for.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The URL is none that an agent has.
    #[error("--url {0} is not of the form http://HOST:PORT")]
    Url(String),
    /// Nobody listens.
    #[error("no umemd answers at {at}; is one running, with this {flag}?")]
    Unreachable {
        /// Where it was looked for.
        at: String,
        /// The flag that says where an agent is asked.
        flag: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// It listens, and says nothing.
    #[error("the umemd at {at} did not answer within {} s; {next}", patience.as_secs())]
    Silent {
        /// Where it was asked.
        at: String,
        /// For how long it was waited for.
        patience: Duration,
        /// What to do.
        next: &'static str,
    },
    /// The socket is somebody else's.
    #[error("not permitted to ask the umemd at {at}; ask as the user that it runs as, for example with sudo")]
    Permission {
        /// Where it was looked for.
        at: String,
    },
    /// Somebody answers, and not as an agent does.
    #[error("what answers at {at} is no umemd, or one of another version: {what}")]
    Strange {
        /// What was asked for.
        at: String,
        /// What came.
        what: String,
    },
    /// The agent does not do it.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// The status of an agent.
///
/// # Errors
///
/// If it does not answer.
pub fn status(target: &Target) -> Result<Status, ClientError> {
    match target {
        Target::Socket(path) => socket::ask(path, &Request::Status),
        Target::Url(url) => http::status(url),
    }
}

/// Whether nothing came in time: Linux says so of a socket with a timeout by EAGAIN, and the standard library of a
/// connection by this.
fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
