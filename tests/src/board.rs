//! [`Board`]: a machine that is reached by ssh, as a small board is: a namespace with dropbear in it.

use std::{
    ffi::OsString,
    fs,
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    command::{ip, run},
    full::Scratch,
    lab::Lab,
    wait::{PATIENCE, wait_until},
};

/// Where dropbear listens.
const SSH: u16 = 2222;

/// Dropbear in the near namespace of a lab; ended when dropped.
#[derive(Debug)]
pub struct Board<'a> {
    lab: &'a Lab,
    scratch: Scratch,
    dropbear: Child,
}

impl<'a> Board<'a> {
    /// Starts it, with a key of its own and one that it lets in. Its root has a home and a /tmp of its own.
    ///
    /// # Panics
    ///
    /// If that fails.
    #[track_caller]
    pub fn new(lab: &'a Lab) -> Self {
        let scratch = Scratch::new();
        let path = |name: &str| scratch.path().join(name).display().to_string();
        for folder in ["home", "home/.ssh", "tmp"] {
            fs::create_dir(path(folder)).expect("a scratch folder can be written");
            let private = fs::Permissions::from_mode(0o700);
            fs::set_permissions(path(folder), private).expect("a scratch folder is ours");
        }
        let call = |program: &str, args: &[&str]| {
            run(Command::new(program).args(args), "").unwrap_or_else(|error| panic!("{error}"))
        };
        call("dropbearkey", &["-t", "ed25519", "-f", &path("home/host")]);
        call("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &path("key")]);
        fs::copy(path("key.pub"), path("home/.ssh/authorized_keys"))
            .expect("a scratch folder can be written");

        // `ip netns exec` gives it a mount namespace, too.
        let script = "home=~root; mount --bind \"$1\" \"$home\" && mount --bind \"$2\" /tmp && \
                      exec dropbear -F -s -m -p \"$3\" -r \"$home/host\" -P \"$home/pid\"";
        let mut command = Command::new("setpriv");
        command.args([
            "--pdeathsig",
            "KILL",
            "--",
            "ip",
            "netns",
            "exec",
            lab.near.name(),
            "sh",
            "-c",
            script,
        ]);
        command.args(["sh", &path("home"), &path("tmp"), &lab.pair().near.port(SSH).to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let dropbear = command.spawn().unwrap_or_else(|error| panic!("cannot start dropbear: {error}"));
        let board = Self { lab, scratch, dropbear };
        let address = lab.pair().near.port(SSH);
        wait_until("dropbear listens", PATIENCE, || lab.far.run(|| TcpStream::connect(address).is_ok()));
        board
    }

    /// `cargo xtask run` on it, from the far namespace, with these arguments more.
    pub fn xtask(&self, umemd: PathBuf, args: &[&str]) -> Command {
        let ssh = format!(
            "ssh -F none -p {SSH} -i {} -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
             -o LogLevel=ERROR",
            self.scratch.path().join("key").display()
        );
        let xtask = std::env::var_os("XTASK_BIN").unwrap_or_else(|| OsString::from("target/debug/xtask"));
        let near = &self.lab.pair().near;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "ip", "netns", "exec", self.lab.far.name()]);
        command.arg(xtask).args(["run", "--board", &format!("root@{}", near.ip), "--ssh", &ssh]);
        command.arg("--umemd").arg(umemd).args(["--iface", &near.name]).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// What lies in its /tmp.
    ///
    /// # Panics
    ///
    /// If it cannot be listed.
    pub fn leftovers(&self) -> Vec<String> {
        let entries = fs::read_dir(self.scratch.path().join("tmp")).expect("a scratch folder can be listed");
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }
}

impl Board<'_> {
    /// Loses all that either end sends from now on, as a cable does that is pulled behind a switch: nothing is closed,
    /// and both links stay up.
    pub fn cut(&self) {
        let pair = self.lab.pair();
        for (netns, here, there) in
            [(&self.lab.near, &pair.near, &pair.far), (&self.lab.far, &pair.far, &pair.near)]
        {
            let nobody = ["neighbour", "replace", &there.ip.to_string(), "lladdr", "02:00:00:00:00:99"];
            ip(&[&["-netns", netns.name()], &nobody[..], &["dev", &here.name, "nud", "permanent"]].concat());
        }
    }

    /// Processes that dropbear made, one for each connection. One whose cable was cut waits for long.
    fn connections(&self) -> Vec<Pid> {
        let is_child = |stat: &str| {
            let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1));
            parent == Some(&*self.dropbear.id().to_string())
        };
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let children = processes.filter(|process| {
            fs::read_to_string(process.path().join("stat")).is_ok_and(|stat| is_child(&stat))
        });
        let pid = |process: fs::DirEntry| Pid::from_raw(process.file_name().to_str()?.parse().ok()?);
        children.filter_map(pid).collect()
    }
}

impl Drop for Board<'_> {
    fn drop(&mut self) {
        for connection in self.connections() {
            let _ = kill_process(connection, Signal::KILL);
        }
        let _ = self.dropbear.kill();
        let _ = self.dropbear.wait();
    }
}
