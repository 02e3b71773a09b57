//! `--capture`: read back by tcpdump, as its users will.

use std::{
    fs,
    io::{self, Read as _},
    os::fd::{AsFd as _, BorrowedFd},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use e2e::{
    command::run,
    lab::{Lab, LabConfig, MODES, OTHER_PORT, PORT, STEER},
    metrics::Metrics,
    thread::StoppedThread,
    wait::{PATIENCE, wait_until},
    wire::{WINDOW, Wire, any_size},
};

/// A folder of a test's own, gone when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(lab: &Lab) -> Self {
        let folder = std::env::temp_dir().join(format!("{}-capture", lab.near.name()));
        fs::create_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        Self(folder)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The lines that tcpdump prints for the packets of a file that match `filter`, one each.
#[track_caller]
fn tcpdump(file: impl AsRef<Path>, filter: &str) -> Vec<String> {
    let mut command = Command::new("tcpdump");
    command.args(["-nn", "-q", "-tttt", "-r"]).arg(file.as_ref()).arg(filter);
    let text = run(&mut command, "").unwrap_or_else(|error| panic!("{error}"));
    text.lines().map(str::to_owned).collect()
}

/// How many packets are in a pcapng file that is made of whole blocks.
fn packets_of(bytes: &[u8]) -> u64 {
    fates_of(bytes).len() as u64
}

/// What is told of a packet beside its bytes, which tcpdump does not show.
#[derive(Debug, PartialEq, Eq)]
struct Fate {
    interface: u32,
    queue: u32,
    /// As an XDP program would have said it (`enum xdp_action`).
    verdict: u64,
}

const XDP_DROP: u64 = 1;
const XDP_TX: u64 = 3;
const XDP_REDIRECT: u64 = 4;

/// What is told of each packet of a pcapng file that is made of whole blocks.
fn fates_of(bytes: &[u8]) -> Vec<Fate> {
    let (mut at, mut fates) = (0, Vec::new());
    while at < bytes.len() {
        let length = word(bytes, at + 4) as usize;
        assert_eq!(word(bytes, at + length - 4) as usize, length, "the block at byte {at} is whole");
        let block = &bytes[at..at + length];
        if word(block, 0) == 6 {
            fates.push(fate_of(block));
        }
        at += length;
    }
    fates
}

/// Where the last whole block ends.
fn whole(bytes: &[u8]) -> usize {
    let mut at = 0;
    while at + 8 <= bytes.len() && at + word(bytes, at + 4) as usize <= bytes.len() {
        at += word(bytes, at + 4) as usize;
    }
    at
}

/// Of an enhanced packet block: its options come behind the bytes that were kept.
fn fate_of(block: &[u8]) -> Fate {
    let (mut queue, mut verdict) = (None, None);
    let mut at = 28 + (word(block, 20) as usize).next_multiple_of(4);
    loop {
        let [code, length] = [at, at + 2].map(|at| u16::from_ne_bytes([block[at], block[at + 1]]));
        let value = &block[at + 4..at + 4 + usize::from(length)];
        match code {
            0 => break,
            6 => queue = Some(u32::from_ne_bytes(value.try_into().expect("four bytes"))),
            7 => {
                assert_eq!(value[0], 2, "a verdict of XDP");
                verdict = Some(u64::from_ne_bytes(value[1..].try_into().expect("eight bytes")));
            }
            other => panic!("nobody knows option {other}"),
        }
        at += 4 + value.len().next_multiple_of(4);
    }
    Fate { interface: word(block, 8), queue: queue.expect("a queue"), verdict: verdict.expect("a verdict") }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn packets_are_captured_as_they_are_sent() {
    const COUNT: u64 = 500;
    for mode in MODES {
        let Some(lab) = Lab::new() else { return };
        let folder = Folder::new(&lab);
        let file = folder.file("all.pcapng");
        let args = ["--steer", STEER, "--handler", "reflect", "--mode", mode, "--capture", &file];
        let agent = lab.agent(&args).start();

        Wire::connect(&lab.far, lab.pair().near.port(PORT)).reflect(COUNT, any_size);

        agent.terminate();
        let exit = agent.wait();
        let summary = exit.summary();
        assert_eq!(summary["tx_packets"], COUNT, "{summary}");
        let capture = &summary["capture"];
        assert_eq!((&capture["packets"], &capture["missed"]), (&COUNT.into(), &0.into()), "{summary}");
        // Reflected: what came to the port goes out of it.
        let sent = tcpdump(&file, "udp src port 7007");
        assert_eq!(sent.len() as u64, COUNT, "{mode}");
        assert_eq!(tcpdump(&file, "udp dst port 7007").len(), 0, "{mode}");
        for (number, line) in (0..COUNT).zip(&sent) {
            assert!(line.ends_with(&format!("length {}", any_size(number))), "packet {number}: {line}");
        }
        let reflected = Fate { interface: 0, queue: 0, verdict: XDP_TX };
        assert!(
            fates_of(&fs::read(&file).expect("the file")).iter().all(|fate| *fate == reflected),
            "{mode}"
        );
        let day = run(Command::new("date").args(["+%Y-%m-%d", "-r", &file]), "").expect("date");
        assert!(sent[0].starts_with(day.trim()), "{day}: {}", sent[0]);
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn what_is_dropped_is_captured_too_and_what_is_not_steered_is_not() {
    for mode in MODES {
        let Some(lab) = Lab::new() else { return };
        let folder = Folder::new(&lab);
        let file = folder.file("dropped.pcapng");
        let agent =
            lab.agent(&["--steer", STEER, "--mode", mode, "--capture", &file, "--snaplen", "60"]).start();
        let near = &lab.pair().near;
        let stack = Wire::listen(&lab.near, near.port(OTHER_PORT));
        Wire::connect(&lab.far, near.port(OTHER_PORT)).send(0..8, any_size);
        stack.expect(0..8, any_size, PATIENCE);
        Wire::connect(&lab.far, near.port(PORT)).send(0..WINDOW, |_| 500);
        agent.metrics_when("all are written", |m| m.total("umemd_capture_packets_total") == WINDOW);

        // The file is whole while it is written.
        assert_eq!(packets_of(&fs::read(&file).expect("the file")), WINDOW, "{mode}");
        agent.terminate();
        let exit = agent.wait();
        assert_eq!(exit.summary()["capture"]["packets"], WINDOW, "{mode}: {exit}");
        assert_eq!(tcpdump(&file, "").len() as u64, WINDOW, "{mode}");
        let bytes = fs::read(&file).expect("the file");
        let dropped = Fate { interface: 0, queue: 0, verdict: XDP_DROP };
        assert!(fates_of(&bytes).iter().all(|fate| *fate == dropped), "{mode}");
        let bytes = bytes.len() as u64;
        assert!(bytes < WINDOW * 140, "{mode}: 60 bytes of each were kept: {bytes}");
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn forwarded_packets_have_the_interface_that_they_came_in_by() {
    for mode in MODES {
        let Some(lab) = Lab::with(LabConfig { pairs: 2, beyond: true, ..LabConfig::default() }) else {
            return;
        };
        let folder = Folder::new(&lab);
        let file = folder.file("forward.pcapng");
        let forward = ["--iface", "near0", "--handler", "forward", "--to", "near1", "--steer", STEER];
        let agent = lab.agent_on(&[&forward[..], &["--mode", mode, "--capture", &file]].concat()).start();
        let (here, there) = (lab.pairs()[0].far.port(PORT), lab.pairs()[1].far.port(PORT));
        let here = Wire::between(&lab.far, here, there);
        let there = Wire::between(
            lab.beyond.as_ref().expect("a third namespace"),
            there,
            lab.pairs()[0].far.port(PORT),
        );
        here.send_to(&there, WINDOW, any_size);
        there.send_to(&here, 2 * WINDOW, any_size);

        agent.terminate();
        let exit = agent.wait();
        assert_eq!(exit.summary()["capture"]["packets"], 3 * WINDOW, "{mode}: {exit}");
        let (sent, answered) =
            (format!("src {}", lab.pairs()[0].far.ip), format!("dst {}", lab.pairs()[0].far.ip));
        assert_eq!(tcpdump(&file, &sent).len() as u64, WINDOW, "{mode}");
        assert_eq!(tcpdump(&file, &answered).len() as u64, 2 * WINDOW, "{mode}");
        let bytes = fs::read(&file).expect("the file");
        for (interface, count) in [(0, WINDOW), (1, 2 * WINDOW)] {
            let forwarded = Fate { interface, queue: 0, verdict: XDP_REDIRECT };
            let fates = fates_of(&bytes).into_iter().filter(|fate| *fate == forwarded);
            assert_eq!(fates.count() as u64, count, "{mode}: from interface {interface}");
        }
        for name in ["near0", "near1"] {
            assert!(
                bytes.windows(name.len()).any(|window| window == name.as_bytes()),
                "{mode}: {name} is named"
            );
        }
    }
}

/// Native only: generic XDP on a veth of several queues sees every packet on the first one.
#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn each_packet_has_the_queue_that_it_came_in_by() {
    const QUEUES: [&str; 2] = ["0", "1"];
    let Some(lab) = Lab::with(LabConfig { queues: 2, ..LabConfig::default() }) else { return };
    let folder = Folder::new(&lab);
    let file = folder.file("queues.pcapng");
    let args = ["--steer", STEER, "--frames", "1024", "--capture", &file];
    let agent = lab.agent(&args).start();
    let received = |m: &Metrics, queue| m.sum("umemd_rx_packets_total", &[("queue", queue)]);

    // Which queue a flow goes to is the kernel's choice: until both have had some.
    let mut flows = 1..=200;
    let metrics = loop {
        let flow = flows.next().expect("a flow for either queue");
        Wire::connect(&lab.far, lab.pair().near.port(PORT)).send(0..WINDOW, any_size);
        // What is written is counted a little later than what was received was shown.
        let metrics = agent.metrics_when("all are written", |m| {
            ["umemd_capture_packets_total", "umemd_rx_packets_total"].map(|name| m.total(name))
                == [flow * WINDOW; 2]
        });
        if QUEUES.iter().all(|queue| received(&metrics, queue) > 0) {
            break metrics;
        }
    };

    agent.terminate();
    agent.wait().summary();
    let fates = fates_of(&fs::read(&file).expect("the file"));
    for (number, queue) in (0..).zip(QUEUES) {
        let count = fates.iter().filter(|fate| fate.queue == number).count() as u64;
        assert_eq!(count, received(&metrics, queue), "of queue {queue}");
    }
    assert!(fates.iter().all(|fate| fate.verdict == XDP_DROP));
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn packets_in_several_frames_are_one_in_a_capture() {
    const COUNT: u64 = 100;
    for mode in MODES {
        let Some(lab) = Lab::with(LabConfig { mtu: 9000, ..LabConfig::default() }) else { return };
        let folder = Folder::new(&lab);
        let file = folder.file("jumbo.pcapng");
        let args = ["--steer", STEER, "--handler", "reflect", "--mode", mode, "--capture", &file];
        let agent = lab.agent(&args).start();
        let size = |number: u64| (number * 997 % 8973) as usize;
        Wire::connect(&lab.far, lab.pair().near.port(PORT)).reflect(COUNT, size);
        agent.terminate();
        let exit = agent.wait();
        assert_eq!(exit.summary()["capture"]["packets"], COUNT, "{mode}: {exit}");
        for (number, line) in (0..COUNT).zip(tcpdump(&file, "udp src port 7007")) {
            assert!(line.ends_with(&format!("length {}", size(number))), "{mode}, packet {number}: {line}");
        }
    }
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
        let folder = Folder::new(&lab);
        for (rotate, name) in
            [(["--rotate-size", "1"], "size.pcapng"), (["--rotate-time", "100ms"], "time.pcapng")]
        {
            let file = folder.file(name);
            let args = ["--handler", "generate", "--dst-mac", &lab.pair().far.mac, "--rate", "10000"];
            let count = COUNT.to_string();
            let more = ["--size", "1000", "--count", &count, "--mode", mode, "--capture", &file];
            let exit = lab.agent(&[&args[..], &more, &rotate].concat()).run();
            assert_eq!(exit.summary()["capture"]["packets"], COUNT, "{exit}");

            let stem = name.trim_end_matches(".pcapng");
            let mut files: Vec<PathBuf> =
                fs::read_dir(&folder.0).expect("a folder").flatten().map(|f| f.path()).collect();
            files.retain(|file| file.display().to_string().contains(&format!("{stem}_0000")));
            files.sort();
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
        let folder = Folder::new(&lab);
        let file = folder.file("again.pcapng");
        let names = || {
            let mut names: Vec<PathBuf> =
                fs::read_dir(&folder.0).expect("a folder").flatten().map(|file| file.path()).collect();
            names.sort();
            names
        };
        let dst_mac = &lab.pair().far.mac;
        let run = || {
            let args = ["--handler", "generate", "--dst-mac", dst_mac, "--rate", "10000"];
            let more = [
                "--size",
                "1000",
                "--count",
                &COUNT.to_string(),
                "--mode",
                mode,
                "--capture",
                &file,
                "--rotate-size",
                "1",
            ];
            let exit = lab.agent(&[&args[..], &more].concat()).run();
            assert_eq!(exit.summary()["capture"]["packets"], COUNT, "{exit}");
        };
        run();
        let first = names();
        let before: Vec<Vec<u8>> = first.iter().map(|file| fs::read(file).expect("it is there")).collect();
        run();
        let both = names();
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
        let folder = Folder::new(&lab);
        let away = folder.0.with_extension("away");
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
        let files = |folder: &Path| -> Vec<PathBuf> {
            fs::read_dir(folder).expect("a folder").flatten().map(|file| file.path()).collect()
        };
        send();
        fs::rename(&folder.0, &away).expect("it can be renamed");
        let before = files(&away).len();
        (0..3).for_each(|_| _ = send());
        assert_eq!(files(&away).len(), before, "{mode}");
        fs::rename(&away, &folder.0).expect("it can be renamed");
        wait_until("another file follows", PATIENCE, || {
            send();
            files(&folder.0).len() > before
        });
        let sent = send();

        agent.terminate();
        let exit = agent.wait();
        assert_eq!(exit.summary()["capture"]["lost"], 0, "{exit}");
        let packets = |file: PathBuf| packets_of(&fs::read(file).expect("it is there"));
        assert_eq!(files(&folder.0).into_iter().map(packets).sum::<u64>(), sent, "{mode}");
        assert_eq!(exit.stderr.matches("cannot create").count(), 1, "said once: {exit}");
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn a_full_disk_is_survived() {
    for mode in MODES {
        let Some(lab) = Lab::new() else { return };
        let folder = Folder::new(&lab);
        let file = folder.file("full.pcapng");
        // A disk of 64 KiB that only the agent sees, and which has something else on it too.
        let filler = folder.file("filler");
        let (disk, fill) = (folder.0.display(), format!("head -c 16384 /dev/zero > {filler}"));
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
fn a_slow_writer_holds_up_no_frame() {
    const COUNT: u64 = 3000;
    for mode in MODES {
        let Some(lab) = Lab::new() else { return };
        let folder = Folder::new(&lab);
        let file = folder.file("slow.pcapng");
        let args =
            ["--steer", STEER, "--handler", "reflect", "--frames", "512", "--mode", mode, "--capture", &file];
        let agent = lab.agent(&args).start();
        let wire = Wire::connect(&lab.far, lab.pair().near.port(PORT));

        // The writer stands still: as many frames as others may hold are held, and the rest go by.
        let writer = StoppedThread::stop(agent.pid(), "capture");
        wire.reflect(COUNT, any_size);
        let metrics = agent.metrics();
        assert_eq!(metrics.total("umemd_capture_shown_total"), 128, "{mode}: a quarter of the frames");
        assert_eq!(metrics.total("umemd_capture_missed_total"), COUNT - 128, "{mode}");
        writer.resume();

        agent.metrics_when("what was held is written", |m| m.total("umemd_capture_packets_total") == 128);
        agent.terminate();
        let exit = agent.wait();
        assert_eq!(exit.summary()["tx_packets"], COUNT, "{exit}");
        assert_eq!(exit.summary()["capture"]["missed"], COUNT - 128, "{exit}");
    }
}

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn who_keeps_frames_for_too_long_is_named() {
    const CAPTURE: [(&str, &str); 1] = [("holder", "capture")];
    for mode in MODES {
        let Some(lab) = Lab::new() else { return };
        let folder = Folder::new(&lab);
        let file = folder.file("kept.pcapng");
        let args = ["--steer", STEER, "--mode", mode, "--capture", &file, "--leak-after", "500ms"];
        let agent = lab.agent(&args).start();
        let wire = Wire::connect(&lab.far, lab.pair().near.port(PORT));

        let writer = StoppedThread::stop(agent.pid(), "capture");
        wire.send(0..WINDOW, any_size);
        let metrics = agent.metrics_when("all are kept", |m| m.sum("umemd_held_frames", &CAPTURE) == WINDOW);
        assert_eq!(metrics.sum("umemd_held_frames", &[("holder", "handler")]), 0);
        assert_eq!(metrics.total("umemd_frame_hold_seconds_count"), 0, "{mode}: none came back");
        agent.metrics_when("they count as leaked", |m| m.sum("umemd_leaked_frames", &CAPTURE) == WINDOW);
        let status: serde_json::Value = serde_json::from_str(&agent.get("/status").body).unwrap();
        let holder = &status["devices"][0]["queues"][0]["holders"][1];
        assert_eq!((&holder["holder"], &holder["leaked"]), (&"capture".into(), &WINDOW.into()), "{status}");
        assert!(holder["oldest_s"].as_f64().is_some_and(|age| age >= 0.5), "{status}");
        let told = format!("the capture keeps {WINDOW} frames for longer than 500ms");
        wait_until("the log says so", PATIENCE, || agent.stderr().contains(&told));
        writer.resume();

        let metrics = agent.metrics_when("they came back", |m| m.total("umemd_held_frames") == 0);
        assert_eq!(
            (metrics.total("umemd_leaked_frames"), metrics.total("umemd_oldest_hold_seconds")),
            (0, 0)
        );
        assert_eq!(metrics.total("umemd_frame_hold_seconds_count"), WINDOW);
        let soon = metrics.sum("umemd_frame_hold_seconds_bucket", &[("le", "0.262144")]);
        assert_eq!(soon, 0, "{mode}: each of them was kept for longer");
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
    let folder = Folder::new(&lab);
    let disk = folder.0.display();
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

#[test]
#[ignore = "requires root; cargo xtask test e2e"]
fn frames_that_are_held_outlive_the_interface() {
    for mode in MODES {
        let Some(lab) = Lab::new() else { return };
        let folder = Folder::new(&lab);
        let file = folder.file("held.pcapng");
        let args = ["--steer", STEER, "--mode", mode, "--capture", &file];
        let agent = lab.agent(&args).start();

        let writer = StoppedThread::stop(agent.pid(), "capture");
        Wire::connect(&lab.far, lab.pair().near.port(PORT)).send(0..WINDOW, any_size);
        agent.metrics_when("all are held", |m| m.frames("user") == WINDOW);
        lab.pair().remove();
        wait_until("/readyz tells", PATIENCE, || agent.get("/readyz").status == 503);
        lab.lay(0);
        wait_until("/readyz says ok", PATIENCE, || agent.get("/readyz").status == 200);
        let held = |object: &serde_json::Value| {
            (&object["frames"]["user"], &object["frames"]["total"]) == (&WINDOW.into(), &(2 * 4096).into())
        };
        wait_until("both UMEMs are there, and the old one waits", PATIENCE, || {
            agent.objects().last().is_some_and(held)
        });
        let metrics = agent.metrics();
        assert_eq!(metrics.sum("umemd_leaving_frames", &[("queue", "0"), ("holder", "capture")]), WINDOW);
        assert_eq!(metrics.total("umemd_held_frames"), 0, "of the new queue");
        writer.resume();

        let home = |object: &serde_json::Value| object["frames"]["total"] == 4096;
        wait_until("the old UMEM is gone", PATIENCE, || agent.objects().last().is_some_and(home));
        agent.terminate();
        let exit = agent.wait();
        assert_eq!(exit.summary()["rx_packets"], WINDOW, "{exit}");
        assert_eq!(exit.summary()["capture"]["packets"], WINDOW, "{exit}");
        assert!(exit.intervals.iter().all(|interval| interval["conserved"] == true), "{exit}");
    }
}
