//! The control socket as a file: whose it is, and that it goes when we go.

mod serve;

use std::{
    fs::{self, DirBuilder, File, Permissions, TryLockError},
    io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};
pub(super) use serve::{Respond, serve};
use thiserror::Error;

/// Connections that wait to be taken; more than are held.
const BACKLOG: i32 = 64;
/// For another agent that is starting beside us.
const PATIENCE: Duration = Duration::from_secs(1);

/// A socket at a path, in the caller's file system; when it is dropped, both the socket and the folder that was made
/// for it are removed.
#[derive(Debug)]
pub(super) struct ControlSocket {
    path: PathBuf,
    /// Device and inode, by which we know that what lies there is ours.
    identity: (u64, u64),
    /// The folder, if it was made for this.
    folder: Option<Folder>,
}

/// Why there is no socket.
#[derive(Debug, Error)]
pub(super) enum SocketError {
    /// Another agent listens there.
    #[error(
        "{} is the control socket of another umemd{}; choose another one with --control PATH, or --control none",
        path.display(), pid.map(|pid| format!(", pid {pid}")).unwrap_or_default()
    )]
    Taken {
        /// Where.
        path: PathBuf,
        /// Its process, if it is one that can be seen from here.
        pid: Option<i32>,
    },
    /// Something lies there that is no socket.
    #[error("{} is there and is no socket; choose another path with --control PATH", path.display())]
    Occupied {
        /// Where.
        path: PathBuf,
    },
    /// The kernel refuses.
    #[error("cannot make the control socket {}; choose another one with --control PATH, or --control none", path.display())]
    Kernel {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl ControlSocket {
    /// Listens at `path`, and nobody but this user may connect. A socket that nobody listens on any more is replaced:
    /// its agent was killed.
    pub(super) fn bind(path: &Path) -> Result<(Self, UnixListener), SocketError> {
        let kernel = |source| SocketError::Kernel { path: path.to_owned(), source };
        // What the address of a socket is relative to is where the process is, and that may change.
        let path = std::path::absolute(path).map_err(kernel)?;
        let folder = Folder::make(path.parent().unwrap_or(Path::new("/"))).map_err(kernel)?;
        // Of two agents that start at once, one replaces what the other has just made, but for this.
        let _lock = folder.lock().map_err(kernel)?;
        refuse_the_living(&path)?;
        let listener = bind_private(&path).map_err(kernel)?;
        let identity = identity(&path).map_err(kernel)?;
        let folder = folder.made.then_some(folder);
        Ok((Self { path, identity, folder }, listener))
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // Somebody may have put another one there.
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
        // Then the folder, if it was ours.
        drop(self.folder.take());
    }
}

/// Nothing is at `path` afterwards, or somebody who lives.
fn refuse_the_living(path: &Path) -> Result<(), SocketError> {
    let kernel = |source| SocketError::Kernel { path: path.to_owned(), source };
    let there = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        there => there.map_err(kernel)?,
    };
    if !there.file_type().is_socket() {
        return Err(SocketError::Occupied { path: path.to_owned() });
    }
    match listening_process(path) {
        Ok(pid) => Err(SocketError::Taken { path: path.to_owned(), pid }),
        Err(rustix::io::Errno::CONNREFUSED) => fs::remove_file(path).map_err(kernel),
        Err(error) => Err(kernel(error.into())),
    }
}

/// Who listens at `path`; does not wait for an answer.
fn listening_process(path: &Path) -> rustix::io::Result<Option<i32>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match connect(&socket, &SocketAddrUnix::new(path)?) {
        // It listens, and has no time for us.
        Err(rustix::io::Errno::AGAIN) => return Ok(None),
        result => result?,
    }
    // Of whoever called listen(), see unix(7). One of another PID namespace has none here.
    let peer = rustix::net::sockopt::socket_peercred(&socket)?;
    Ok(Some(peer.pid.as_raw_nonzero().get()))
}

/// A listener on a socket of mode 0600 from the first moment on.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket: OwnedFd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // The file gets the mode of the socket, less the umask (net/unix/af_unix.c: unix_bind_bsd).
    let socket = File::from(socket);
    socket.set_permissions(Permissions::from_mode(0o600))?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, BACKLOG)?;
    Ok(UnixListener::from(OwnedFd::from(socket)))
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|there| (there.dev(), there.ino()))
}

/// The folder of a socket; if it was made here, it is removed when this is dropped, unless somebody put something
/// into it.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    made: bool,
}

impl Folder {
    fn make(path: &Path) -> io::Result<Self> {
        let made = match DirBuilder::new().mode(0o755).create(path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(error),
        };
        Ok(Self { path: path.to_owned(), made })
    }

    /// Until the file is dropped, nobody else who asks does the same here.
    fn lock(&self) -> io::Result<File> {
        let folder = File::open(&self.path)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match folder.try_lock() {
                Ok(()) => return Ok(folder),
                Err(TryLockError::Error(error)) => return Err(error),
                Err(TryLockError::WouldBlock) if Instant::now() > deadline => {
                    let message = format!("somebody keeps {} locked", self.path.display());
                    return Err(io::Error::new(io::ErrorKind::WouldBlock, message));
                }
                Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(10)),
            }
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.made {
            let _ = fs::remove_dir(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    /// A folder of its own for each test.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("umemd-test-{}-{name}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_socket_is_private_and_goes_with_its_folder() {
        let scratch = Scratch::new("private");
        let path = scratch.0.join("umemd/umemd.sock");
        let (socket, _listener) = ControlSocket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        drop(socket);
        assert!(!path.parent().unwrap().exists(), "the folder was ours");
    }

    #[test]
    fn a_folder_that_was_there_stays_and_so_does_one_with_something_in_it() {
        let scratch = Scratch::new("folder");
        drop(ControlSocket::bind(&scratch.0.join("a.sock")).unwrap());
        assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 0);
        let path = scratch.0.join("made/a.sock");
        let (socket, _listener) = ControlSocket::bind(&path).unwrap();
        fs::write(path.with_file_name("note"), "").unwrap();
        drop(socket);
        assert!(path.with_file_name("note").exists() && !path.exists());
    }

    #[test]
    fn the_dead_are_replaced_and_the_living_are_named() {
        let scratch = Scratch::new("stale");
        let path = scratch.0.join("a.sock");
        let (socket, listener) = ControlSocket::bind(&path).unwrap();
        let error = ControlSocket::bind(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("another umemd, pid {}", std::process::id())), "{error}");
        assert!(error.contains("--control PATH") && path.exists(), "{error}");

        // Killed: the file stays, and nobody listens.
        std::mem::forget(socket);
        drop(listener);
        assert!(path.exists());
        let (socket, _listener) = ControlSocket::bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();

        // Somebody else's by now.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "a note").unwrap();
        drop(socket);
        assert_eq!(fs::read_to_string(&path).unwrap(), "a note");
        assert!(matches!(ControlSocket::bind(&path), Err(SocketError::Occupied { .. })));
    }

    #[test]
    fn one_that_is_too_busy_to_answer_is_alive() {
        let scratch = Scratch::new("busy");
        let path = scratch.0.join("a.sock");
        let (_socket, _listener) = ControlSocket::bind(&path).unwrap();
        let mut waiting = Vec::new();
        let full = (0..=2 * BACKLOG).any(|_| {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let client = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
            let connected = connect(&client, &SocketAddrUnix::new(&path).unwrap());
            waiting.push(client);
            connected == Err(rustix::io::Errno::AGAIN)
        });
        assert!(full, "{} connections", waiting.len());
        assert!(matches!(ControlSocket::bind(&path), Err(SocketError::Taken { pid: None, .. })));
    }

    #[test]
    fn of_many_that_start_at_once_one_gets_it() {
        let scratch = Scratch::new("race");
        let path = scratch.0.join("a.sock");
        for _ in 0..20 {
            // One that was killed lies there.
            drop(UnixListener::bind(&path).unwrap());
            let results: Vec<_> = thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| ControlSocket::bind(&path))).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
            UnixStream::connect(&path).unwrap();
            drop(results);
            assert!(!path.exists());
        }
    }
}
