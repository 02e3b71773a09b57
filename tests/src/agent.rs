//! [`Agent`]: a running `umemd`; killed, then waited for, when it is dropped.

use std::{
    env,
    ffi::OsString,
    fs,
    io::{self, BufRead as _, BufReader, PipeReader, PipeWriter, Read, Write as _},
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, Once, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    exit::Exit,
    full::Scratch,
    http::{self, Response},
    metrics::Metrics,
    wait::{PATIENCE, wait_until},
};

/// What the agent logs once its listener serves, in front of the address.
const LISTENING: &str = "listening on http://";
/// What the control sockets of tests begin with; the owner's pid and a number follow.
const SOCKET: &str = "umemd-e2e-";
/// What the watchdog takes to give up a worker, and twice as much.
const SOON: Duration = Duration::from_secs(5);

/// A command line of `umemd run --json`, not yet started.
#[derive(Clone, Debug)]
pub struct AgentCommand {
    prefix: Vec<OsString>,
    /// An example of the agent's, to be run in its stead.
    example: Option<&'static str>,
    listen: String,
    control: PathBuf,
    args: Vec<OsString>,
    unread: bool,
}

impl Default for AgentCommand {
    fn default() -> Self {
        Self {
            prefix: Vec::new(),
            example: None,
            listen: "127.0.0.1:0".into(),
            control: control_socket(),
            args: Vec::new(),
            unread: false,
        }
    }
}

impl AgentCommand {
    /// Without `--iface` and `--steer`, listening on a port that the kernel chooses.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<T: Into<OsString>>(mut self, args: impl IntoIterator<Item = T>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Listens there instead.
    #[must_use]
    pub fn listen(mut self, address: &str) -> Self {
        self.listen = address.into();
        self
    }

    /// Has its control socket there instead.
    #[must_use]
    pub fn control(mut self, path: impl Into<PathBuf>) -> Self {
        self.control = path.into();
        self
    }

    /// Its stdout is a pipe that is full and that nobody reads, as that of a paused pager is.
    #[must_use]
    pub fn unread(mut self) -> Self {
        self.unread = true;
        self
    }

    /// Starts an example of the agent's instead, which takes the flags of `umemd run`.
    #[must_use]
    pub fn example(mut self, name: &'static str) -> Self {
        self.example = Some(name);
        self
    }

    /// Starts it by another program, which has to turn itself into it.
    #[must_use]
    pub fn under<T: Into<OsString>>(mut self, prefix: impl IntoIterator<Item = T>) -> Self {
        self.prefix = prefix.into_iter().map(Into::into).collect();
        self
    }

    /// Starts it, and waits until it is ready.
    ///
    /// # Panics
    ///
    /// If it ends instead; with what it wrote to stderr.
    #[track_caller]
    pub fn start(self) -> Agent {
        let mut agent = self.spawn();
        wait_until("umemd is listening", patience(), || {
            assert!(!agent.has_ended(), "umemd ended instead of starting");
            agent.address = agent.find_address();
            agent.address.is_some()
        });
        wait_until("/readyz says ok", PATIENCE, || agent.get("/readyz").status == 200);
        agent
    }

    /// Starts it, and waits for nothing: it may end by itself.
    pub fn start_unready(self) -> Agent {
        self.spawn()
    }

    /// Runs it to its end, which should come soon.
    ///
    /// # Panics
    ///
    /// If it does not end.
    #[track_caller]
    pub fn run(self) -> Exit {
        self.spawn().wait()
    }

    /// The command, without `--json`, with a pipe for what it writes to stdout.
    pub fn command_to_pipe(self) -> Command {
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        command
    }

    fn command(self) -> Command {
        // If the test is killed, so is the agent. setpriv becomes the program it starts: the pid is the agent's.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).args(self.prefix);
        match self.example {
            Some(name) => command.arg(example(name)),
            None => command.arg(binary()).arg("run"),
        };
        command.args(["--listen", &self.listen]).arg("--control").arg(self.control);
        command.args(self.args).env_remove("UMEMD_LOG");
        command
    }

    fn spawn(self) -> Agent {
        let is_unread = self.unread;
        let control = self.control.clone();
        let mut command = self.args(["--json"]).command();
        let line = format!("{command:?}").replace('"', "");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let unread = is_unread.then(full_pipe).map(|(reader, writer)| {
            command.stdout(writer);
            reader
        });
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {line}: {error}"));
        let (stdout, stderr) = (Lines::default(), Lines::default());
        let mut readers = vec![stderr.read(child.stderr.take().expect("stderr is a pipe"))];
        readers.extend(child.stdout.take().map(|pipe| stdout.read(pipe)));
        Agent { line, child, stdout, stderr, readers, _unread: unread, address: None, control }
    }
}

/// A running agent.
///
/// If the test panics while it runs, what it wrote to stderr is shown, and what it counted.
#[derive(Debug)]
pub struct Agent {
    line: String,
    child: Child,
    stdout: Lines,
    stderr: Lines,
    readers: Vec<JoinHandle<()>>,
    /// Held open: without a reader, a write would fail instead of waiting.
    _unread: Option<PipeReader>,
    address: Option<SocketAddr>,
    control: PathBuf,
}

impl Agent {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address.expect("an agent that was started listens")
    }

    /// Where its control socket is.
    pub fn control(&self) -> &Path {
        &self.control
    }

    /// Runs `umemd` with these arguments and its control socket, to its end.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    #[track_caller]
    pub fn tell(&self, args: &[&str]) -> Told {
        umemd(&[args, &["--control", self.control.to_str().expect("of our making")]].concat())
    }

    /// Asks for a page.
    ///
    /// # Panics
    ///
    /// If it does not answer.
    #[track_caller]
    pub fn get(&self, path: &str) -> Response {
        self.request("GET", path)
    }

    /// Sends a request without a body.
    ///
    /// # Panics
    ///
    /// If it does not answer.
    #[track_caller]
    pub fn request(&self, method: &str, path: &str) -> Response {
        http::request(method, self.address(), path).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// Scrapes `/metrics`, and checks the law on the way: it holds whenever one looks.
    ///
    /// # Panics
    ///
    /// If it does not answer, or the law is broken.
    #[track_caller]
    pub fn metrics(&self) -> Metrics {
        let metrics = self.metrics_anyhow();
        metrics.assert_conserved();
        metrics
    }

    /// The same where there may be no queue at all.
    ///
    /// # Panics
    ///
    /// If it does not answer.
    #[track_caller]
    pub fn metrics_anyhow(&self) -> Metrics {
        let response = self.get("/metrics");
        assert_eq!(response.status, 200, "/metrics: {}", response.body);
        Metrics::parse(&response.body)
    }

    /// Scrapes until `predicate` is true of the metrics, and returns those.
    ///
    /// # Panics
    ///
    /// If that does not become true soon.
    #[track_caller]
    pub fn metrics_when(&self, what: &str, predicate: impl Fn(&Metrics) -> bool) -> Metrics {
        let metrics = self.metrics_anyhow_when(what, predicate);
        metrics.assert_conserved();
        metrics
    }

    /// The same where the law may be broken, or there may be no queue at all.
    ///
    /// # Panics
    ///
    /// If that does not become true soon.
    #[track_caller]
    pub fn metrics_anyhow_when(&self, what: &str, predicate: impl Fn(&Metrics) -> bool) -> Metrics {
        let deadline = Instant::now() + SOON;
        loop {
            let metrics = self.metrics_anyhow();
            if predicate(&metrics) {
                return metrics;
            }
            assert!(Instant::now() < deadline, "waited {SOON:?} in vain for {what} in /metrics:\n{metrics}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// The kernel's ids of the links by which it holds its XDP programs (proc_pid_fdinfo(5)), in their order.
    ///
    /// # Panics
    ///
    /// If it is gone.
    pub fn xdp_links(&self) -> Vec<u64> {
        let folder = format!("/proc/{}/fdinfo", self.pid());
        let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder}: {error}"));
        // One that was closed meanwhile is none.
        let texts = files.flatten().filter_map(|file| fs::read_to_string(file.path()).ok());
        let field = |text: &str, name: &str| {
            text.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
        };
        let mut ids: Vec<u64> = texts
            // There is another link, to a tracepoint.
            .filter(|text| field(text, "link_type:").as_deref() == Some("xdp"))
            .filter_map(|text| field(&text, "link_id:")?.parse().ok())
            .collect();
        ids.sort_unstable();
        ids
    }

    /// The objects printed so far.
    pub fn objects(&self) -> Vec<Value> {
        self.stdout.lock().iter().map(|line| object(line)).collect()
    }

    /// What it wrote to stderr so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends SIGINT, as Ctrl-C does.
    pub fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    /// Sends SIGHUP, as a terminal that is closed does, or an administrator.
    pub fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// Sends SIGSTOP: it does nothing at all, until [`resume`](Self::resume).
    pub fn stop(&self) {
        self.signal(Signal::STOP);
    }

    /// Sends SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Sends SIGKILL.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// If it does not come.
    #[track_caller]
    pub fn wait(mut self) -> Exit {
        wait_until("umemd has ended", patience(), || self.has_ended());
        let status = self.child.wait().expect("it has ended");
        for reader in self.readers.drain(..) {
            reader.join().expect("readers do not panic");
        }
        let (summaries, intervals): (Vec<_>, Vec<_>) =
            self.objects().into_iter().partition(|object| object["type"] == "summary");
        assert!(summaries.len() <= 1, "more than one summary: {summaries:?}");
        Exit {
            line: self.line.clone(),
            code: status.code(),
            summary: summaries.into_iter().next(),
            intervals,
            stderr: self.stderr(),
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a pid is positive");
        kill_process(pid, signal).unwrap_or_else(|error| panic!("cannot signal umemd: {error}"));
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_some()
    }

    fn find_address(&self) -> Option<SocketAddr> {
        self.stderr.lock().iter().find_map(|line| line.split_once(LISTENING)?.1.trim().parse().ok())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let scrape = || http::request("GET", self.address?, "/metrics").ok();
        let metrics = thread::panicking().then(scrape).flatten();
        if !self.has_ended() {
            let _ = self.child.kill();
            let _ = self.child.wait();
            // One that was killed leaves its socket.
            let _ = fs::remove_file(&self.control);
        }
        if thread::panicking() {
            eprintln!("{}\nwrote to stderr:\n{}", self.line, self.stderr());
            if let Some(page) = metrics {
                eprintln!("and counted:\n{}", Metrics::parse(&page.body));
            }
        }
    }
}

/// How a command of `umemd` ended that asks, and does not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Told {
    /// What it printed, if it ended well.
    ///
    /// # Panics
    ///
    /// If not.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "expected a good end: {self:?}");
        self.stdout
    }

    /// The same as JSON.
    ///
    /// # Panics
    ///
    /// If it did not end well, or this is none.
    #[track_caller]
    pub fn json(self) -> Value {
        object(&self.ok())
    }

    /// What it wrote to stderr, having ended with this code.
    ///
    /// # Panics
    ///
    /// If it ended otherwise.
    #[track_caller]
    pub fn refused(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "expected exit code {code}: {self:?}");
        self.stderr
    }
}

/// Runs `umemd` with these arguments to its end.
///
/// # Panics
///
/// If it cannot be started.
#[track_caller]
pub fn umemd(args: &[&str]) -> Told {
    told(Command::new(binary()).args(args))
}

/// The same by a user without any privilege, in the network namespace of the calling thread.
///
/// # Panics
///
/// If it cannot be started.
#[track_caller]
pub fn umemd_of_nobody(args: &[&str]) -> Told {
    const NOBODY: u32 = 65534;
    // Nobody may enter the folder of a root who builds below his home.
    let folder = Scratch::new();
    let copy = folder.path().join("umemd");
    fs::copy(binary(), &copy).unwrap_or_else(|error| panic!("cannot copy umemd: {error}"));
    // With the user go capabilities and groups (setuid(2), `Command::uid`).
    told(Command::new(copy).args(args).uid(NOBODY).gid(NOBODY))
}

#[track_caller]
fn told(command: &mut Command) -> Told {
    let output = command.env_remove("UMEMD_LOG").stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("cannot start umemd: {error}"));
    Told {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Time for a start, with or without an end: on an emulated CPU the kernel takes many times as long to verify the XDP
/// program, and whoever runs us there says so.
fn patience() -> Duration {
    let seconds = env::var("UMEMD_START_SECONDS").ok().and_then(|text| text.parse().ok());
    seconds.map_or(PATIENCE, Duration::from_secs)
}

/// A path where no other agent has its control socket.
fn control_socket() -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    static STALE: Once = Once::new();
    STALE.call_once(remove_stale);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    env::temp_dir().join(format!("{SOCKET}{}-{number}.sock", std::process::id()))
}

/// Removes the sockets of agents that were killed, by tests that are no more.
fn remove_stale() {
    for entry in fs::read_dir(env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(SOCKET).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The lines that came out of a pipe so far.
#[derive(Clone, Debug, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    /// Reads to the end, in a thread.
    fn read(&self, pipe: impl Read + Send + 'static) -> JoinHandle<()> {
        let lines = self.clone();
        thread::spawn(move || {
            BufReader::new(pipe).lines().map_while(Result::ok).for_each(|line| lines.lock().push(line));
        })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn text(&self) -> String {
        self.lock().join("\n")
    }
}

/// A pipe into which nothing more goes.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = io::pipe().expect("a pipe");
    rustix::io::ioctl_fionbio(&writer, true).expect("a pipe can be told not to wait");
    let error = loop {
        if let Err(error) = writer.write_all(&[b'\n'; 4096]) {
            break error;
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    rustix::io::ioctl_fionbio(&writer, false).expect("a pipe can be told to wait");
    (reader, writer)
}

fn object(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("--json printed no JSON ({error}): {line:?}"))
}

/// The `umemd` to test: `UMEMD_BIN`, or what cargo built beside this test program, of its profile if there is one.
///
/// # Panics
///
/// If there is none.
pub fn binary() -> PathBuf {
    if let Some(path) = env::var_os("UMEMD_BIN") {
        return path.into();
    }
    let test = env::current_exe().expect("a running program has a file");
    // TARGET/PROFILE/deps/TEST
    let profile = test.parent().and_then(Path::parent).expect("cargo puts tests into deps");
    let candidates = [profile.into(), profile.with_file_name("release"), profile.with_file_name("debug")];
    let mut binaries = candidates.iter().map(|dir: &PathBuf| dir.join("umemd"));
    binaries.find(|binary| binary.is_file()).unwrap_or_else(|| {
        panic!(
            "there is no umemd to test in {}; `cargo xtask test` builds one and names it in UMEMD_BIN",
            profile.display()
        )
    })
}

/// An example of the agent's: cargo builds those with the tests, beside them.
///
/// # Panics
///
/// If it was not built.
#[must_use]
pub fn example(name: &str) -> PathBuf {
    let test = env::current_exe().expect("a running program has a file");
    let profile = test.parent().and_then(Path::parent).expect("cargo puts tests into deps");
    let example = profile.join("examples").join(name);
    assert!(example.is_file(), "there is no {}; `cargo xtask test` builds it", example.display());
    example
}
