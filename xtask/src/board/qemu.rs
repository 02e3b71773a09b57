//! QEMU: the machine, and a run of it with its console.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::packages;

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

/// A child that ends with us, and is waited for.
pub(crate) struct Process {
    name: &'static str,
    pub(crate) child: Child,
}

impl Process {
    /// Starts it.
    pub(crate) fn start(name: &'static str, command: &Command, stdio: impl Fn(&mut Command)) -> Result<Self> {
        // Whatever ends us ends it too.
        let mut guarded = Command::new("setpriv");
        guarded.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => guarded.env(key, value),
                None => guarded.env_remove(key),
            };
        }
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
