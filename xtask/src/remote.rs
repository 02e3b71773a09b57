//! `cargo xtask run --board USER@HOST`: umemd on another machine, as if it were this one.
//!
//! All that is asked of the board is a shell, behind ssh. The program for its processor is copied there, runs with
//! what it prints coming here, its HTTP port is forwarded, and it is removed when it has ended. It ends when our end
//! of its stdin does, by Ctrl-C or by a kill; and of a cable that is pulled, which closes nothing, both ends learn by
//! silence: ssh here, and there the script that runs umemd, which a [`BEAT`] of ours keeps from ending it.

use std::env::consts;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::cli::{Install, Run};
use crate::lab::{self, watch::Signals};
use crate::{compile, cross, setup, shell};

/// A umemd that has not ended by then hangs: its own deadlines are shorter.
const STOP: Duration = Duration::from_secs(30);

/// How often each end lets the other one know that it is there.
const BEAT: Duration = Duration::from_secs(5);

/// For how many of them ssh believes that a silent board is there: a link is down for seconds where a program is
/// attached to it, which may be the one that ssh goes by.
const SSH_PATIENCE: u32 = 4;

/// For how many of them the board believes that we are. It is the last to know: ssh may have ended before.
const BOARD_PATIENCE: u32 = 6;

/// Ends the connection and removes its folder when stdin ends: when we do, whatever ends us.
const GUARD: &str = "trap '' HUP INT TERM; dir=$1; shift
cat >/dev/null
\"$@\"
rm -rf \"$dir\"";

/// Copies stdin to a new folder on the board, and prints the folder. If nobody is left to read that, it is removed.
const COPY: &str = "trap '' HUP PIPE; umask 077
dir=$(mktemp -d \"${TMPDIR:-/tmp}/umemd.XXXXXX\") || exit
cat > \"$dir/umemd\" && chmod 700 \"$dir/umemd\" && \"$dir/umemd\" --version >/dev/null && echo \"$dir\" ||
{ echo \"cannot run what was copied to $dir: is it full, or mounted noexec? TMPDIR names another\" >&2; rm -rf \"$dir\"; exit 1; }";

/// Runs what [`COPY`] left until it ends, or stdin does, or no line came of that for too long; then removes it. A
/// shell's background jobs read /dev/null, unless stdin has another number. Nobody is left to hear of a hang-up but
/// umemd, which is told to end in order: once, as a second time would have it end at once. `read` with a timeout is not
/// every shell's, so a file tells the one who counts that a line came.
const RUN: &str = "trap '' HUP; exec 3<&0
\"$dir/umemd\" \"$@\" </dev/null 3<&- & umemd=$!
{ while read -r beat; do true >\"$dir/beat\"; done <&3
mkdir \"$dir/told\" && kill -TERM $umemd; } >/dev/null 2>&1 & reader=$!
{ silent=0
while [ $silent -lt $patience ]; do
sleep $every
if rm \"$dir/beat\"; then silent=0; else silent=$((silent + 1)); fi
done
mkdir \"$dir/told\" && kill -TERM $umemd; } </dev/null >/dev/null 2>&1 3<&- & counter=$!
wait $umemd; code=$?
kill $reader $counter 2>/dev/null
wait $reader $counter 2>/dev/null
rm -rf \"$dir\"
exit $code";

/// Builds for the board, copies, runs, cleans up. The exit code is umemd's.
pub(crate) fn run(options: &Run, board: &str, args: &[OsString]) -> Result<ExitCode> {
    let port = Forward::of(&lab::listen_flag(args))?;
    let args = args.iter().map(|arg| quoted(arg)).collect::<Result<Vec<_>>>()?.join(" ");
    let ssh = Ssh::connect(board, &options.ssh)?;
    let machine = ssh.ask("uname -m", Stdio::null())?;
    let umemd = match &options.umemd {
        Some(umemd) => umemd.clone(),
        None => build_for(&machine, options.install)?,
    };
    let signals = Signals::catch()?;
    let size = fs::metadata(&umemd).with_context(|| format!("cannot read {}", umemd.display()))?.len();
    let copying = format!("copy umemd for {machine} ({} KiB) to {board}", size >> 10);
    // Before anything is there that somebody would have to remove.
    match port {
        Some(Forward { here, there }) => {
            ssh.forward(here, there)?;
            eprintln!("xtask: http://{here} here is http://{there} on {board}, if its sshd forwards ports");
        }
        None => eprintln!("xtask: --listen with port 0 is not forwarded: it is not known before umemd runs"),
    }
    let folder = shell::step(&copying, || ssh.ask(COPY, File::open(&umemd)?.into()))?;
    let mut session = ssh.session(&folder, &args)?;
    let mut last = Instant::now();
    loop {
        if let Some(status) = session.try_wait()? {
            return exit_code(status, board);
        }
        if last.elapsed() >= BEAT {
            last = Instant::now();
            beat(&mut session);
        }
        if signals.have_come(Duration::from_millis(100)) {
            return stop(&signals, &mut session, board);
        }
    }
}

/// Lets the board know that we are there. That ssh has ended is seen elsewhere.
fn beat(session: &mut Child) {
    if let Some(stdin) = &mut session.stdin {
        let _ = stdin.write_all(b"\n");
    }
}

/// Ends umemd, and waits for that; a second signal does not wait.
fn stop(signals: &Signals, session: &mut Child, board: &str) -> Result<ExitCode> {
    session.stdin.take();
    let start = Instant::now();
    while start.elapsed() < STOP {
        if let Some(status) = session.try_wait()? {
            return exit_code(status, board);
        }
        if signals.have_come(Duration::from_millis(20)) {
            bail!("not waiting for umemd on {board}, which was told to end");
        }
    }
    bail!("umemd on {board} did not end within {} s of being told to", STOP.as_secs())
}

fn exit_code(status: ExitStatus, board: &str) -> Result<ExitCode> {
    match status.code().and_then(|code| u8::try_from(code).ok()) {
        // ssh's own.
        Some(255) | None => bail!(
            "the connection to {board} ended; umemd there ends by itself within {} s, and is removed",
            (BEAT * (BOARD_PATIENCE + 1)).as_secs()
        ),
        Some(code) => Ok(ExitCode::from(code)),
    }
}

/// How umemd is built for a board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Build {
    /// By the compiler for boards.
    Cross,
    /// As for this machine, whose processor the board has.
    Own,
}

impl Build {
    /// For a processor as `uname -m` calls it.
    fn of(machine: &str) -> Result<Self> {
        match machine {
            cross::ARCH => Ok(Self::Cross),
            own if own == consts::ARCH => Ok(Self::Own),
            other => {
                bail!("no umemd is built for {other} here: {} and {} are known", cross::ARCH, consts::ARCH)
            }
        }
    }
}

/// The umemd for a processor.
fn build_for(machine: &str, install: Install) -> Result<PathBuf> {
    match Build::of(machine)? {
        Build::Cross => cross::umemd(install),
        Build::Own => setup::run(install).and_then(|()| compile::release()),
    }
}

/// A port of the board's that is to be this machine's, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Forward {
    here: SocketAddr,
    there: SocketAddr,
}

impl Forward {
    /// That of `--listen`; none if umemd is to choose it. An error if it is in use here, before anything is built.
    fn of(listen: &str) -> Result<Option<Self>> {
        let mut there: SocketAddr =
            listen.parse().with_context(|| format!("--listen {listen} is no address with a port"))?;
        if there.port() == 0 {
            return Ok(None);
        }
        if there.ip().is_unspecified() {
            there.set_ip([127, 0, 0, 1].into());
        }
        let here = SocketAddr::from(([127, 0, 0, 1], there.port()));
        TcpListener::bind(here)
            .with_context(|| format!("{here} is taken on this machine; choose another with --listen"))?;
        Ok(Some(Self { here, there }))
    }
}

/// One connection that all commands share, so that nobody has to say the password twice.
struct Ssh {
    board: String,
    /// ssh and its options, with the connection's socket.
    words: Vec<OsString>,
    /// A shell that does [`GUARD`].
    guard: Child,
}

impl Ssh {
    /// Connects; whatever ssh wants to ask, it asks on the terminal.
    fn connect(board: &str, command: &str) -> Result<Self> {
        ensure!(!board.starts_with('-'), "--board takes USER@HOST, and not {board}");
        let mut words: Vec<OsString> = command.split_whitespace().map(OsString::from).collect();
        ensure!(!words.is_empty(), "--ssh is empty; leave it away, or try --ssh \"ssh -p 2222\"");
        // Short: a socket's path has 108 bytes, and ssh appends to it.
        let folder = std::env::temp_dir().join(format!("umemd-ssh-{}", std::process::id()));
        fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        let socket = format!("ControlPath={}", folder.join("socket").display());
        let interval = format!("ServerAliveInterval={}", BEAT.as_secs());
        let count = format!("ServerAliveCountMax={SSH_PATIENCE}");
        // In the background once it is there, where no Ctrl-C of the terminal's reaches it: the guard ends it. Who said
        // something else with --ssh said it first, which is what ssh goes by.
        for option in [
            "ControlMaster=auto",
            "ControlPersist=yes",
            &socket,
            "ExitOnForwardFailure=yes",
            &interval,
            &count,
        ] {
            words.extend(["-o".into(), option.into()]);
        }
        let guard = guard(&folder, &Self::line(&words, &["-O", "exit"], board))?;
        let ssh = Self { board: board.to_owned(), words, guard };
        let status = ssh.command(&[]).arg("true").stdin(Stdio::null()).status();
        let status = status.context("cannot start ssh (package openssh-client)")?;
        ensure!(status.success(), "cannot reach {board} by ssh ({status})");
        Ok(ssh)
    }

    /// ssh to the board, with options for it more.
    fn command(&self, options: &[&str]) -> Command {
        Self::line(&self.words, options, &self.board)
    }

    fn line(words: &[OsString], options: &[&str], board: &str) -> Command {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(options).arg("--").arg(board);
        command
    }

    /// Runs a line of shell on the board, and returns the line that it prints: the last one, as the board's own start-up
    /// files may print others before.
    fn ask(&self, line: &str, stdin: Stdio) -> Result<String> {
        let output = self.command(&[]).arg(in_sh(line)).stdin(stdin).stderr(Stdio::inherit()).output()?;
        ensure!(output.status.success(), "`{line}` failed on {} ({})", self.board, output.status);
        let printed = String::from_utf8_lossy(&output.stdout);
        Ok(printed.trim().lines().last().unwrap_or_default().to_owned())
    }

    /// Makes an address here lead to one there.
    fn forward(&self, here: SocketAddr, there: SocketAddr) -> Result<()> {
        let addresses = format!("{here}:{there}");
        shell::run_quietly(&mut self.command(&["-O", "forward", "-L", &addresses]))
            .with_context(|| {
                format!("cannot listen on {here} for {}; choose another port with --listen", self.board)
            })
            .map(drop)
    }

    /// umemd from its folder: it runs for as long as the child's stdin is open.
    fn session(&self, folder: &str, args: &str) -> Result<Child> {
        let mut session = self.command(&[]);
        session.arg(in_sh(&script(folder.as_ref(), args, BEAT)?));
        // A group of its own: the terminal's Ctrl-C reaches us, and we pass it on.
        session.process_group(0).stdin(Stdio::piped());
        session.spawn().context("cannot start ssh")
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        self.guard.stdin.take();
        let _ = self.guard.wait();
    }
}

/// Has a folder removed, after this command was run, when we end.
fn guard(folder: &Path, last: &Command) -> Result<Child> {
    let mut guard = Command::new("sh");
    guard.args(["-c", GUARD, "umemd-ssh"]).arg(folder).arg(last.get_program()).args(last.get_args());
    // No Ctrl-C of the terminal's; and no pipe of ours is held open by it.
    guard.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    guard.spawn().context("cannot start sh")
}

/// What runs umemd from a folder of the board's, with these words as arguments, and expects a beat so often.
fn script(folder: &OsStr, args: &str, every: Duration) -> Result<String> {
    let dir = quoted(folder)?;
    let every = every.as_secs_f64();
    Ok(format!("dir={dir}; every={every}; patience={BOARD_PATIENCE}; set -- {args}\n{RUN}"))
}

/// A script as one word for the board's login shell, which need not be a POSIX one, but takes what is in single quotes as
/// it is.
fn in_sh(script: &str) -> String {
    format!("exec sh -c '{}'", script.replace('\'', r"'\''"))
}

/// A word that a shell takes as it is.
fn quoted(word: &OsStr) -> Result<String> {
    let text = word.to_str().with_context(|| format!("{} is not UTF-8", Path::new(word).display()))?;
    Ok(format!("'{}'", text.replace('\'', r"'\''")))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _};

    use super::*;

    /// What a shell makes of a line.
    fn sh(line: &str) -> String {
        let output = Command::new("sh").arg("-c").arg(line).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn a_board_is_built_for_by_its_processor() {
        assert_eq!(Build::of("aarch64").unwrap(), Build::Cross);
        assert_eq!(Build::of(consts::ARCH).unwrap() == Build::Own, consts::ARCH != cross::ARCH);
        assert!(Build::of("riscv64").unwrap_err().to_string().starts_with("no umemd is built for riscv64"));
    }

    #[test]
    fn words_come_through_two_shells_as_they_are() {
        for word in ["udp dst port 7", "it's", "$HOME `x` \"y\" \\ *", "", "a\nb"] {
            let script = format!("printf %s {}", quoted(word.as_ref()).unwrap());
            assert_eq!(sh(&in_sh(&script)), word);
        }
    }

    #[test]
    fn the_port_of_the_listener_is_forwarded() {
        let forward = |listen: &str| {
            Forward::of(listen).unwrap().map(|forward| (forward.here.to_string(), forward.there.to_string()))
        };
        let pair = |here: &str, there: &str| Some((here.to_owned(), there.to_owned()));
        assert_eq!(forward("127.0.0.1:21478"), pair("127.0.0.1:21478", "127.0.0.1:21478"));
        // Other ports each time: a child that another test forks keeps the listener until it calls exec.
        assert_eq!(forward("0.0.0.0:21479"), pair("127.0.0.1:21479", "127.0.0.1:21479"));
        assert_eq!(forward("[::1]:21480"), pair("127.0.0.1:21480", "[::1]:21480"));
        assert_eq!(forward("127.0.0.1:0"), None);
        assert!(Forward::of("localhost").is_err());
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let error = Forward::of(&taken.local_addr().unwrap().to_string()).unwrap_err().to_string();
        assert!(error.contains("choose another with --listen"), "{error}");
    }

    /// As on a board, but for ssh: the script in a shell, with a program of ours in umemd's place.
    fn run_there(program: &str, args: &str, every: Duration) -> (Child, PathBuf) {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("xtask-remote-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("umemd"), format!("#!/bin/sh\n{program}\n")).unwrap();
        fs::set_permissions(dir.join("umemd"), fs::Permissions::from_mode(0o700)).unwrap();
        let script = script(dir.as_os_str(), args, every).unwrap();
        let mut sh = Command::new("sh");
        sh.arg("-c").arg(in_sh(&script)).stdin(Stdio::piped()).stdout(Stdio::piped());
        (sh.spawn().unwrap(), dir)
    }

    /// In umemd's place. It says when it can be told to end: before that, the signal would end it by itself.
    const WAITS: &str = "trap 'echo told; exit 0' TERM; echo runs; while :; do sleep 0.05; done";

    #[test]
    fn the_guard_acts_when_our_end_of_its_stdin_is_gone() {
        let folder = std::env::temp_dir().join(format!("xtask-guard-{}", std::process::id()));
        let told = folder.with_extension("told");
        fs::create_dir(&folder).unwrap();
        let mut touch = Command::new("touch");
        let mut guard = guard(&folder, touch.arg(&told)).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        assert!(guard.try_wait().unwrap().is_none() && folder.exists() && !told.exists());
        guard.stdin.take();
        assert!(guard.wait().unwrap().success());
        assert!(!folder.exists() && told.exists());
        fs::remove_file(told).unwrap();
    }

    #[test]
    fn what_ends_by_itself_gives_its_code_and_is_removed() {
        let (mut child, dir) = run_there("echo \"$2\"; exit 3", "run 'two words'", BEAT);
        // Open until the end.
        let stdin = child.stdin.take();
        let output = child.wait_with_output().unwrap();
        drop(stdin);
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(3), &b"two words\n"[..]));
        assert!(!dir.exists());
    }

    #[test]
    fn what_runs_on_is_told_to_end_when_stdin_does() {
        let (mut child, dir) = run_there(WAITS, "", BEAT);
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let (mut first, mut rest) = (String::new(), String::new());
        stdout.read_line(&mut first).unwrap();
        assert_eq!(first, "runs\n");
        drop(child.stdin.take());
        stdout.read_to_string(&mut rest).unwrap();
        assert_eq!((child.wait().unwrap().code(), &rest[..]), (Some(0), "told\n"));
        assert!(!dir.exists());
    }

    #[test]
    fn what_runs_on_is_told_to_end_when_nobody_is_heard_of_any_more() {
        let every = Duration::from_millis(200);
        let (mut child, dir) = run_there(WAITS, "", every);
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let (mut first, mut rest) = (String::new(), String::new());
        stdout.read_line(&mut first).unwrap();
        // For longer than the board's patience.
        for _ in 0..4 * BOARD_PATIENCE {
            beat(&mut child);
            std::thread::sleep(every / 2);
        }
        assert!(child.try_wait().unwrap().is_none(), "it was not told to end while we were there");
        // Silence, as of a cable that was pulled: stdin stays open.
        stdout.read_to_string(&mut rest).unwrap();
        assert_eq!((child.wait().unwrap().code(), &rest[..]), (Some(0), "told\n"));
        assert!(!dir.exists());
    }
}
