//! QEMU: the machine, and a run of it with its console.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::outcome::Unavailable;
use super::packages;
use crate::shell;

/// A machine of QEMU's `virt` kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    /// As QEMU calls it.
    pub(crate) cpu: &'static str,
    /// How many.
    pub(crate) cpus: u32,
    /// MiB of RAM.
    pub(crate) memory: u32,
}

impl Machine {
    /// QEMU with this machine and nothing plugged in; with a path it only writes its device tree there.
    ///
    /// GICv2, because its GICv2m frame turns a write into an interrupt: that is how the models raise theirs.
    /// RAM in a memfd that can be shared, because the models read and write it.
    pub(crate) fn command(&self, tools: &Path, dump: Option<&Path>) -> Command {
        let mut qemu = packages::program(tools, "usr/bin/qemu-system-aarch64");
        qemu.arg("-L").arg(tools.join("usr/share/qemu"));
        let dump = dump.map(|path| format!(",dumpdtb={}", path.display())).unwrap_or_default();
        qemu.args(["-M", &format!("virt,gic-version=2,memory-backend=ram{dump}")]);
        qemu.args(["-cpu", self.cpu, "-smp", &self.cpus.to_string(), "-m", &self.memory.to_string()]);
        qemu.args(["-object", &format!("memory-backend-memfd,id=ram,size={}M,share=on", self.memory)]);
        qemu.args(["-nic", "none", "-nographic", "-no-reboot"]);
        qemu
    }
}

/// The first version with `vfio-user-pci`.
const SINCE: (u32, u32) = (10, 1);

/// Refuses a QEMU that is too old.
pub(super) fn check_version(tools: &Path) -> Result<()> {
    let text = shell::run_quietly(packages::program(tools, "usr/bin/qemu-system-aarch64").arg("--version"))?;
    let new_enough = version(&text).is_some_and(|version| version >= SINCE);
    ensure!(new_enough, Unavailable(format!("vfio-user-pci takes QEMU {}.{}: {text}", SINCE.0, SINCE.1)));
    Ok(())
}

/// The first two numbers of what `--version` prints.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split("version ").nth(1)?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// A child that ends with us, and is waited for.
pub(crate) struct Process {
    name: &'static str,
    pub(crate) child: Child,
}

impl Process {
    /// Starts it.
    pub(crate) fn start(name: &'static str, command: &Command, stdio: impl Fn(&mut Command)) -> Result<Self> {
        let mut guarded = guarded(command);
        stdio(&mut guarded);
        let child = guarded.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name, child })
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self, timeout: Duration) -> Result<()> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return if status.success() { Ok(()) } else { bail!("{} ended with {status}", self.name) };
            }
            if start.elapsed() > timeout {
                bail!("{} did not end within {} s", self.name, timeout.as_secs());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The same, but whatever ends us ends it too.
fn guarded(command: &Command) -> Command {
    let mut guarded = Command::new("setpriv");
    guarded.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => guarded.env(key, value),
            None => guarded.env_remove(key),
        };
    }
    guarded
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines that come out of a guest's console.
pub(crate) struct Console {
    lines: Receiver<String>,
}

impl Console {
    /// Reads a process's stdout, in a thread that ends with it.
    pub(crate) fn of(process: &mut Process) -> Result<Self> {
        let stdout = process.child.stdout.take().context("stdout is no pipe")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            let mut stdout = BufReader::new(stdout);
            let mut line = Vec::new();
            // A guest may print anything.
            while stdout.read_until(b'\n', &mut line).is_ok_and(|len| len > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                line.clear();
                if sender.send(text).is_err() {
                    break;
                }
            }
        });
        Ok(Self { lines })
    }

    /// The next line; `None` at the end.
    pub(crate) fn next(&self, deadline: Instant) -> Result<Option<String>> {
        match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => bail!("the guest did not end in time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Stdio;

    use rustix::process::{Pid, Signal, kill_process};

    use super::super::work;
    use super::*;

    /// As the rig starts its processes.
    fn sleep() -> Command {
        work::pinned(Command::new("sleep").arg("600")).unwrap()
    }

    /// What a process runs; nothing if it has ended.
    fn words(pid: u32) -> String {
        fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ")
    }

    #[track_caller]
    fn wait_until(what: &str, predicate: impl Fn() -> bool) {
        let start = Instant::now();
        while !predicate() {
            assert!(start.elapsed() < Duration::from_secs(30), "waited in vain until {what}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn nobody_runs_on_when_a_rig_is_dropped() {
        let process = Process::start("sleep", &sleep(), |_| ()).unwrap();
        let pid = process.child.id();
        wait_until("it sleeps", || words(pid) == "sleep 600 ");
        drop(process);
        assert_eq!(words(pid), "");
    }

    #[test]
    fn nobody_runs_on_when_whoever_started_it_is_gone() {
        let sleep = guarded(&sleep());
        for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
            // In our place. Where we are to ignore SIGINT, as a job in the background is, it is not.
            let mut parent = Command::new("env");
            parent.args(["--default-signal=INT", "sh", "-c", "\"$@\" & echo $!; wait", "sh"]);
            parent.arg(sleep.get_program()).args(sleep.get_args()).stdout(Stdio::piped());
            let mut parent = parent.spawn().unwrap();
            let mut pid = String::new();
            BufReader::new(parent.stdout.take().unwrap()).read_line(&mut pid).unwrap();
            let pid: u32 = pid.trim().parse().unwrap();
            wait_until("it sleeps", || words(pid) == "sleep 600 ");
            kill_process(Pid::from_child(&parent), signal).unwrap();
            assert!(!parent.wait().unwrap().success());
            wait_until("it is gone", || words(pid).is_empty());
        }
    }

    #[test]
    fn versions_are_compared_by_number() {
        assert_eq!(version("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds)\nCopyright"), Some((10, 0)));
        assert!(version("QEMU emulator version 9.2.0").unwrap() < SINCE);
        assert!(version("QEMU emulator version 11.1.3 (Debian)").unwrap() > SINCE);
        assert_eq!(version("no such program"), None);
    }
}
