//! A pseudo-terminal of 80 columns and 24 lines with a program in it: what it draws, what it does with keys, and in
//! what state it leaves the terminal.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    process::{Child, Command},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use rustix::{
    fs::{Mode, OFlags, open},
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};

use crate::wait::{PATIENCE, wait_until};

/// A program in a terminal; killed, then waited for, when dropped.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    keyboard: File,
    /// The program's end. Held open, so that it can be looked at when the program has ended.
    end: OwnedFd,
    written: Arc<Mutex<Vec<u8>>>,
}

/// How a program ended that ran in a terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// All that it wrote, escape sequences included.
    pub written: String,
    /// Whether the terminal echoes and takes lines, as a shell wants it.
    pub cooked: bool,
}

impl Terminal {
    /// Starts `command` in a new one.
    ///
    /// # Panics
    ///
    /// If the machine has no pseudo-terminals, or no such program.
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("it is ours");
        let path = ptsname(&master, Vec::new()).expect("it has a name");
        // It is not to become the terminal that this test is stopped from.
        let end = open(&path, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).expect("its end");
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&end, size).expect("a terminal has a size");
        let take = || end.try_clone().expect("a descriptor");
        let child = command.stdin(take()).stdout(take()).stderr(take()).spawn();
        let child = child.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));

        let keyboard = File::from(master);
        let mut screen = keyboard.try_clone().expect("a descriptor");
        let written = Arc::new(Mutex::new(Vec::new()));
        let shared = written.clone();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            // Ends by EIO when nobody has the other end any more.
            while let Ok(read @ 1..) = screen.read(&mut bytes) {
                shared.lock().unwrap_or_else(PoisonError::into_inner).extend(&bytes[..read]);
            }
        });
        Self { child, keyboard, end, written }
    }

    /// Presses keys.
    ///
    /// # Panics
    ///
    /// If the terminal is gone.
    pub fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("the terminal is there");
    }

    /// Sends a signal.
    ///
    /// # Panics
    ///
    /// If the program has ended.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Waits until these words have been written since the start.
    ///
    /// # Panics
    ///
    /// If that does not come; with what was.
    #[track_caller]
    pub fn wait_for(&self, words: &str) {
        wait_until(&format!("{words:?} is drawn"), PATIENCE, || self.written().contains(words));
    }

    /// Waits for the program's end.
    ///
    /// # Panics
    ///
    /// If it does not come.
    #[track_caller]
    pub fn wait(&mut self) -> Left {
        wait_until("the program has ended", PATIENCE, || {
            self.child.try_wait().expect("it is our child").is_some()
        });
        let code = self.child.wait().expect("it has ended").code();
        let modes = tcgetattr(&self.end).expect("it is a terminal").local_modes;
        let cooked = modes.contains(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        // What it wrote last may still be on its way to us.
        (&File::from(self.end.try_clone().expect("a descriptor")))
            .write_all(b"\0the end")
            .expect("a terminal");
        wait_until("all is read", PATIENCE, || self.written().ends_with("\0the end"));
        Left { code, written: self.written(), cooked }
    }

    fn written(&self) -> String {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&written).into_owned()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the terminal got:\n{}", self.written().escape_debug());
        }
    }
}
