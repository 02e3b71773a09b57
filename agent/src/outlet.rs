//! [`Outlet`]: standard output or standard error, written by a thread of its own.
//!
//! A terminal stopped by Ctrl-S, a paused `less` or a full pipe holds up whoever writes, for as long as it likes.
//! The control plane has one thread, and the watchdog, the signals and the HTTP pages are on it: it hands its
//! texts over here, and never waits.

use std::{
    io::{self, Write},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Sender},
    },
    thread,
    time::{Duration, Instant},
};

/// Texts that may wait for a slow reader before further ones are refused.
const MOST_WAITING: usize = 64;

/// A stream that is written to without waiting. Clones write to the same one.
#[derive(Clone, Debug)]
pub struct Outlet {
    texts: Sender<Vec<u8>>,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Handed over and not yet written.
    waiting: AtomicUsize,
    /// Why nothing more is written.
    error: OnceLock<io::Error>,
}

impl Outlet {
    /// Starts the thread that writes to `out`.
    ///
    /// # Errors
    ///
    /// When there is no thread to be had.
    pub fn new(name: &str, mut out: impl Write + Send + 'static) -> io::Result<Self> {
        let (texts, receiver) = mpsc::channel::<Vec<u8>>();
        let state = Arc::new(State::default());
        thread::Builder::new().name(name.to_owned()).spawn({
            let state = Arc::clone(&state);
            move || {
                for text in receiver {
                    if state.error.get().is_none()
                        && let Err(error) = out.write_all(&text).and_then(|()| out.flush())
                    {
                        let _ = state.error.set(error);
                    }
                    state.waiting.fetch_sub(1, Ordering::Release);
                }
            }
        })?;
        Ok(Self { texts, state })
    }

    /// Writes a text, unless too many wait already; whether it was taken.
    pub fn offer(&self, text: impl Into<Vec<u8>>) -> bool {
        let taken = self.state.waiting.load(Ordering::Relaxed) < MOST_WAITING;
        if taken {
            self.insist(text);
        }
        taken
    }

    /// Writes a text, however many wait.
    pub fn insist(&self, text: impl Into<Vec<u8>>) {
        self.state.waiting.fetch_add(1, Ordering::Relaxed);
        // The thread lives as long as a sender does.
        let _ = self.texts.send(text.into());
    }

    /// Why nothing more is written; `None` while all is well.
    #[must_use]
    pub fn error(&self) -> Option<&io::Error> {
        self.state.error.get()
    }

    /// Waits until everything is written, for so long at most; whether it is.
    pub fn drain(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while self.state.waiting.load(Ordering::Acquire) > 0 {
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
        self.error().is_none()
    }
}

/// For a logger: a line that nobody takes is lost.
impl Write for Outlet {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.offer(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_a_reader_that_does_not_read() {
        let (mut reader, writer) = io::pipe().unwrap();
        let outlet = Outlet::new("test", writer).unwrap();
        // More than a pipe holds: its thread is stuck in the first of them.
        let long = "x".repeat(1 << 20);
        assert!(outlet.offer(long.as_str()));
        let taken = (0..2 * MOST_WAITING).filter(|n| outlet.offer(format!("{n}\n"))).count();
        assert!((MOST_WAITING - 1..=MOST_WAITING).contains(&taken), "{taken}");
        outlet.insist("last\n");
        assert!(!outlet.drain(Duration::from_millis(10)));

        let reading = thread::spawn(move || {
            let mut text = String::new();
            io::Read::read_to_string(&mut reader, &mut text).map(|_| text)
        });
        assert!(outlet.drain(Duration::from_secs(60)));
        drop(outlet);
        let text = reading.join().unwrap().unwrap();
        assert!(text.starts_with(&long) && text.ends_with("\nlast\n"));
    }

    #[test]
    fn an_error_is_remembered_and_ends_it() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let outlet = Outlet::new("test", writer).unwrap();
        outlet.insist("nobody");
        outlet.insist("hears");
        assert!(!outlet.drain(Duration::from_secs(60)));
        assert_eq!(outlet.error().map(io::Error::kind), Some(io::ErrorKind::BrokenPipe));
    }
}
