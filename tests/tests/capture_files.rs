//! `--capture`: where it goes. Files that follow each other, pipes, and disks that are full.

use std::{
    fs,
    io::{self, Read as _},
    os::fd::{AsFd as _, BorrowedFd},
    path::PathBuf,
    process::{Command, Stdio},
};

use e2e::{
    lab::{Lab, MODES, PORT, STEER},
    pcapng::{packets_of, tcpdump, whole},
    scratch::{Folder, files},
    wait::{PATIENCE, wait_until},
    wire::{WINDOW, Wire, any_size},
};

/// An agent that sends `count` packets and captures them all, in files that follow each other as `rotate` says.
#[track_caller]
fn capture_generated(lab: &Lab, mode: &str, count: u64, file: &str, rotate: [&str; 2]) {
    let number = count.to_string();
    let generate = ["--handler", "generate", "--dst-mac", &lab.pair().far.mac, "--rate", "10000"];
    let more = ["--size", "1000", "--count", &number, "--mode", mode, "--capture", file];
    let exit = lab.agent(&[&generate[..], &more, &rotate].concat()).run();
    assert_eq!(exit.summary()["capture"]["packets"], count, "{exit}");
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_capture_can_be_piped_to_tcpdump() {
    for mode in MODES {
        let Some(lab) = Lab::new() else { return };
        let near = &lab.pair().near;
        let args = ["--steer", STEER, "--iface", &near.name, "--mode", mode, "--capture", "-"];
        let mut agent = lab.agent_on(&args).command_to_pipe().spawn().expect("umemd can be started");
        let mut tcpdump = Command::new("tcpdump")
            .args(["-nn", "-c", &WINDOW.to_string(), "-r", "-"])
            .stdin(agent.stdout.take().expect("a pipe"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("tcpdump can be started");
        wait_until("the program is attached", PATIENCE, || near.xdp_program().is_some());

        // Until tcpdump has as many as it wants: what comes before the socket is there goes to the stack.
        let _stack = Wire::listen(&lab.near, near.port(PORT));
        let wire = Wire::connect(&lab.far, near.port(PORT));
        wait_until("tcpdump is content", PATIENCE, || {
            wire.send(0..WINDOW, any_size);
            tcpdump.try_wait().expect("it is our child").is_some()
        });
        let output = tcpdump.wait_with_output().expect("it has ended");
        assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count() as u64, WINDOW, "{mode}");

        // Nobody reads any more, and the agent goes on.
        wire.send(0..WINDOW, any_size);
        assert!(agent.try_wait().expect("it is our child").is_none(), "{mode}");
        let pid = rustix::process::Pid::from_child(&agent);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        let status = agent.wait().expect("it is our child");
        assert_eq!(status.code(), Some(0), "{mode}");
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn whoever_reads_a_pipe_slowly_gets_whole_blocks_and_holds_up_no_end() {
    // A pipe has 64 KiB, and so does not hold what is sent.
    const ENOUGH: usize = 1 << 20;
    let Some(lab) = Lab::new() else { return };
    let near = &lab.pair().near;
    for does_not_wait in [false, true] {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let do_not_wait =
            |pipe: BorrowedFd<'_>, value| rustix::io::ioctl_fionbio(pipe, value).expect("a pipe");
        do_not_wait(writer.as_fd(), does_not_wait);
        let args = ["--steer", STEER, "--iface", &near.name, "--capture", "-"];
        let mut command = lab.agent_on(&args).command_to_pipe();
        let mut agent = command.stdout(writer).spawn().expect("umemd can be started");
        drop(command); // and with it our end of what it writes to
        wait_until("the program is attached", PATIENCE, || near.xdp_program().is_some());

        let _stack = Wire::listen(&lab.near, near.port(PORT));
        let wire = Wire::connect(&lab.far, near.port(PORT));
        // What comes before the socket is there goes to the stack: then there is nothing to read.
        do_not_wait(reader.as_fd(), true);
        let (mut bytes, mut some) = (Vec::new(), [0; 9999]);
        wait_until("enough was read", PATIENCE, || {
            wire.send(0..WINDOW, |_| 1000);
            match reader.read(&mut some) {
                Ok(0) => panic!("the agent ended"),
                Ok(len) => bytes.extend(&some[..len]),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            bytes.len() >= ENOUGH
        });
        do_not_wait(reader.as_fd(), false);

        // Nobody reads while it ends.
        let pid = rustix::process::Pid::from_child(&agent);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        let status = agent.wait().expect("it is our child");
        assert_eq!(status.code(), Some(0), "does not wait: {does_not_wait}");
        reader.read_to_end(&mut bytes).expect("it can be read");
        let cut = whole(&bytes);
        assert!(bytes.len() - cut < 2000, "of one block at most a part: {cut} of {} bytes", bytes.len());
        assert!(packets_of(&bytes[..cut]) > ENOUGH as u64 / 2000, "does not wait: {does_not_wait}");
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn files_follow_each_other_by_size_and_by_time() {
    const COUNT: u64 = 4000;
    for mode in MODES {
        let Some(lab) = Lab::new() else { return };
        let folder = Folder::of(&lab);
        for (rotate, name) in
            [(["--rotate-size", "1"], "size.pcapng"), (["--rotate-time", "100ms"], "time.pcapng")]
        {
            let file = folder.file(name);
            capture_generated(&lab, mode, COUNT, &file, rotate);

            let stem = name.trim_end_matches(".pcapng");
            let mut files = files(folder.path());
            files.retain(|file| file.display().to_string().contains(&format!("{stem}_0000")));
            assert!(files.len() > 2, "{mode} {rotate:?}: {files:?}");
            // Each can be read by itself, and together they have everything.
            let packets: usize = files.iter().map(|file| tcpdump(file, "").len()).sum();
            assert_eq!(packets as u64, COUNT, "{mode} {rotate:?}: {files:?}");
        }
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn files_of_an_earlier_run_stay() {
    const COUNT: u64 = 2000;
    for mode in MODES {
        let Some(lab) = Lab::new() else { return };
        let folder = Folder::of(&lab);
        let file = folder.file("again.pcapng");
        let run = || capture_generated(&lab, mode, COUNT, &file, ["--rotate-size", "1"]);
        run();
        let first = files(folder.path());
        let before: Vec<Vec<u8>> = first.iter().map(|file| fs::read(file).expect("it is there")).collect();
        run();
        let both = files(folder.path());
        assert!(first.len() >= 2 && both.len() >= 2 * first.len(), "{mode}: {both:?}");
        assert_eq!(both[..first.len()], first, "{mode}: the second run's come behind");
        for (file, before) in first.iter().zip(&before) {
            assert!(fs::read(file).expect("it is there") == *before, "{mode}: {}", file.display());
        }
        let packets =
            |files: &[PathBuf]| files.iter().map(|file| tcpdump(file, "").len() as u64).sum::<u64>();
        assert_eq!(packets(&both[first.len()..]), COUNT, "{mode}");
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_file_goes_on_where_the_next_one_cannot_be_created() {
    for mode in MODES {
        let Some(lab) = Lab::new() else { return };
        let folder = Folder::of(&lab);
        let away = folder.path().with_extension("away");
        let file = folder.file("on.pcapng");
        let args = ["--steer", STEER, "--mode", mode, "--capture", &file, "--rotate-time", "1ms"];
        let agent = lab.agent(&args).start();
        let wire = Wire::connect(&lab.far, lab.pair().near.port(PORT));
        let mut sent = 0;
        let mut send = || {
            wire.send(0..WINDOW, any_size);
            sent += WINDOW;
            agent.metrics_when("all are written", |m| m.total("umemd_capture_packets_total") == sent);
            sent
        };
        send();
        fs::rename(folder.path(), &away).expect("it can be renamed");
        let before = files(&away).len();
        (0..3).for_each(|_| _ = send());
        assert_eq!(files(&away).len(), before, "{mode}");
        fs::rename(&away, folder.path()).expect("it can be renamed");
        wait_until("another file follows", PATIENCE, || {
            send();
            files(folder.path()).len() > before
        });
        let sent = send();

        agent.terminate();
        let exit = agent.wait();
        assert_eq!(exit.summary()["capture"]["lost"], 0, "{exit}");
        let packets = |file: PathBuf| packets_of(&fs::read(file).expect("it is there"));
        assert_eq!(files(folder.path()).into_iter().map(packets).sum::<u64>(), sent, "{mode}");
        assert_eq!(exit.stderr.matches("cannot create").count(), 1, "said once: {exit}");
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_full_disk_is_survived() {
    for mode in MODES {
        let Some(lab) = Lab::new() else { return };
        let folder = Folder::of(&lab);
        let file = folder.file("full.pcapng");
        // A disk of 64 KiB that only the agent sees, and which has something else on it too.
        let filler = folder.file("filler");
        let (disk, fill) = (folder.path().display(), format!("head -c 16384 /dev/zero > {filler}"));
        let mount = format!("mount -t tmpfs -o size=64k none {disk} && {fill} && exec \"$@\"");
        let args = ["--steer", STEER, "--handler", "reflect", "--mode", mode, "--capture", &file];
        let agent = lab.agent(&args).under(["unshare", "--mount", "sh", "-c", &mount, "sh"]).start();
        let wire = Wire::connect(&lab.far, lab.pair().near.port(PORT));

        // The first ones by themselves: all at once may be more than the disk, and then none is written.
        const FIRST: u64 = 8;
        wire.reflect(FIRST, |_| 1000);
        agent.metrics_when("the first are written", |m| m.total("umemd_capture_packets_total") == FIRST);
        wire.reflect(4 * WINDOW, |_| 1000);

        const COUNT: u64 = FIRST + 4 * WINDOW;
        let metrics = agent.metrics_when("every packet is written or lost", |m| {
            m.total("umemd_capture_packets_total") + m.total("umemd_capture_lost_total") == COUNT
        });
        assert!(metrics.total("umemd_capture_lost_total") > 0, "{metrics}");
        let written = metrics.total("umemd_capture_packets_total");
        // What is on the disk is whole.
        let seen = format!("/proc/{}/root{file}", agent.pid());
        assert_eq!(packets_of(&fs::read(&seen).expect("the file")), written, "{mode}");

        // With room again it goes on.
        fs::remove_file(format!("/proc/{}/root{filler}", agent.pid())).expect("the filler");
        wire.reflect(FIRST, |_| 1000);
        let metrics = agent.metrics_when("they are written too", |m| {
            m.total("umemd_capture_packets_total") == written + FIRST
        });
        assert_eq!(packets_of(&fs::read(&seen).expect("the file")), written + FIRST, "{metrics}");
        agent.terminate();
        let exit = agent.wait();
        assert_eq!(exit.summary()["tx_packets"], COUNT + FIRST, "{exit}");
        assert_eq!(exit.stderr.matches("No space left on device").count(), 1, "said once: {exit}");
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn captures_that_cannot_begin_are_refused() {
    let Some(lab) = Lab::new() else { return };
    for (file, why) in [("/nowhere/x.pcapng", "No such file"), ("/dev/full", "No space left")] {
        let exit = lab.agent(&["--steer", STEER, "--capture", file]).run();
        assert_eq!(exit.code, Some(1), "{exit}");
        assert!(exit.stderr.contains(&format!("cannot capture to {file}")), "{exit}");
        assert!(exit.stderr.contains(why), "{exit}");
        assert_eq!(lab.pair().near.xdp_program(), None, "{exit}");
    }

    // Of those that follow each other none is left behind, however often it is tried.
    let folder = Folder::of(&lab);
    let disk = folder.path().display();
    let mount = format!(
        "mount -t tmpfs -o size=4k none {disk} && head -c 4096 /dev/zero > {disk}/filler && \
         {{ \"$@\"; code=$?; echo on the disk: $(ls {disk}) >&2; exit $code; }}"
    );
    let args = ["--steer", STEER, "--capture", &folder.file("x.pcapng"), "--rotate-size", "1"];
    let exit = lab.agent(&args).under(["unshare", "--mount", "sh", "-c", &mount, "sh"]).run();
    assert_eq!(exit.code, Some(1), "{exit}");
    assert!(exit.stderr.contains("No space left"), "{exit}");
    assert!(exit.stderr.trim_end().ends_with("on the disk: filler"), "{exit}");
}
