//! The XDP program: loaded, attached to one interface, and its maps.
//!
//! One [`Program`] per interface, since a slot of its socket map is a queue. Nothing is pinned: program and
//! maps live as long as this process holds them, and so does the attachment, which is a `bpf_link`. Whatever
//! ends the process, the kernel detaches.

mod error;
mod redirect;
mod rules;
mod sums;

pub use error::{AttachError, LoadError, MapError};
pub(crate) use error::{PERFMON, loading_takes_perfmon};
pub use redirect::RedirectErrors;
pub use rules::RuleCount;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::{collections::HashMap, fmt, io, mem};

use aya::maps::{MapData, PerCpuArray, XskMap};
use aya::programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use aya_log::EbpfLogger;
use umemd_common::Decision;
use umemd_common::maps::{Count, DECISIONS, PROGRAM, PROGRAM_FRAGS, SUBTRACTS, SWITCH_TAG, XSKS};

use self::rules::RuleMaps;
use crate::nic::Link;
use crate::steer::RuleSet;
use crate::sys::link::{self, XdpLink};

/// What `build.rs` compiled.
static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/xdp-prog.o"));

/// Where an XDP program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver, before the stack has allocated anything (`XDP_FLAGS_DRV_MODE`).
    Native,
    /// In the stack, on socket buffers: generic XDP (`XDP_FLAGS_SKB_MODE`).
    Skb,
}

impl Mode {
    fn flags(self) -> u32 {
        match self {
            Self::Native => link::XDP_FLAGS_DRV_MODE,
            Self::Skb => link::XDP_FLAGS_SKB_MODE,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Skb => "skb",
        })
    }
}

/// How to load the program.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadOptions {
    /// Whether it logs every frame, to be read by [`Program::take_log`]; this takes `CAP_PERFMON`. Off, the
    /// verifier removes the code.
    pub log: bool,
    /// Bytes of the tag that a switch chip puts behind the MAC addresses: 0, 4 (DSA) or 8 (EDSA).
    pub switch_tag: u8,
    /// Whether packets may have several buffers (`BPF_F_XDP_HAS_FRAGS`, Linux 5.18). Without it a driver
    /// refuses the program where the MTU exceeds a buffer.
    pub frags: bool,
}

/// The log of the program; see [`Program::take_log`].
pub type ProgramLog = EbpfLogger<&'static dyn log::Log>;

/// A program that is attached and does nothing; dropped, it is detached.
#[derive(Debug)]
pub struct Retired {
    program: Program,
    /// What its rules had matched, by serial.
    counts: HashMap<u64, Count>,
}

impl Retired {
    /// The kernel's id of the program.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.program.id
    }

    /// Whether it takes packets in several buffers.
    #[must_use]
    pub fn frags(&self) -> bool {
        self.program.name == PROGRAM_FRAGS
    }

    /// Detaches it; what its rules had matched.
    pub fn detach(self) -> HashMap<u64, Count> {
        self.counts
    }
}

/// The XDP program of one interface.
pub struct Program {
    // Dropped first: nothing runs any more when the maps go.
    link: Option<XdpLink>,
    ebpf: Ebpf,
    /// Which of the object's programs was loaded.
    name: &'static str,
    id: u32,
    tag: u64,
    xsks: XskMap<MapData>,
    rules: RuleMaps,
    decisions: PerCpuArray<MapData, u64>,
    redirect: redirect::Counters,
}

impl Program {
    /// Loads the program and its maps into the kernel, attached to nothing and without a rule.
    ///
    /// # Errors
    ///
    /// [`LoadError`] names the capabilities that are missing, or carries what the verifier said.
    pub fn load(options: LoadOptions) -> Result<Self, LoadError> {
        Self::load_object(OBJECT, if options.frags { PROGRAM_FRAGS } else { PROGRAM }, options)
    }

    /// The same with a program from another object that has the maps: a benchmark's.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    ///
    /// # Panics
    ///
    /// If it has not that program or those maps.
    pub fn load_object(
        object: &[u8],
        program: &'static str,
        options: LoadOptions,
    ) -> Result<Self, LoadError> {
        let level: u8 = if options.log { aya_log::Level::Debug as u8 } else { 0 };
        let subtracts = u8::from(error::may_subtract());
        let mut ebpf = EbpfLoader::new()
            .override_global(aya_log::LEVEL, &level, true)
            .override_global(SUBTRACTS, &subtracts, true)
            .override_global(SWITCH_TAG, &options.switch_tag, true)
            .load(object)
            .map_err(|error| LoadError::from_aya("create the maps of the XDP program", options, error))?;
        let xdp = xdp(&mut ebpf, program);
        let info = xdp
            .load()
            .and_then(|()| xdp.info())
            .map_err(|error| LoadError::from_aya("load the XDP program", options, error.into()))?;
        let redirect = redirect::Counters::attach(&mut ebpf);
        Ok(Self {
            link: None,
            name: program,
            id: info.id(),
            tag: info.tag(),
            xsks: take(&mut ebpf, XSKS)?,
            rules: RuleMaps::take(&mut ebpf)?,
            decisions: take(&mut ebpf, DECISIONS)?,
            redirect,
            ebpf,
        })
    }

    /// Attaches to an interface of this thread's network namespace, by a `bpf_link`.
    ///
    /// A program that is there already stays there. mvneta and mvpp2 bounce their link here.
    ///
    /// # Errors
    ///
    /// [`AttachError`] names whose program is in the way, or the mode that the driver does not have.
    pub fn attach(&mut self, interface: &Link, mode: Mode) -> Result<(), AttachError> {
        // Before 5.9 aya would attach by netlink, and that attachment outlives us.
        if KernelVersion::current().is_ok_and(|running| running < KernelVersion::new(5, 9, 0)) {
            return Err(AttachError::NoBpfLink { interface: interface.name.clone() });
        }
        let fd = self.fd().map_err(|error| AttachError::new(interface, mode, error))?;
        let link = XdpLink::attach(fd.as_fd(), interface.index, mode.flags());
        self.link = Some(link.map_err(|error| AttachError::new(interface, mode, error))?);
        Ok(())
    }

    /// Attaches to where `other` is attached, in its stead and without a moment between (`BPF_LINK_UPDATE`): no frame
    /// goes by, and no link bounces. Rules in force here go on from the counts of `other`'s of the same names.
    ///
    /// # Errors
    ///
    /// As [`attach`](Self::attach); `other` stays where it is then.
    pub fn replace(&mut self, other: &mut Retired, interface: &Link, mode: Mode) -> Result<(), AttachError> {
        let link = other.program.link.as_ref();
        let gone = || io::Error::from_raw_os_error(libc::ENOLINK);
        let updated = self.fd().and_then(|fd| link.ok_or_else(gone)?.update(fd.as_fd()));
        updated.map_err(|error| AttachError::new(interface, mode, error))?;
        self.link = other.program.link.take();
        self.carry_counts(mem::take(&mut other.counts));
        Ok(())
    }

    fn fd(&mut self) -> io::Result<&ProgramFd> {
        xdp(&mut self.ebpf, self.name).fd().map_err(io::Error::other)
    }

    /// Rules in force go on from these counts, by their [serial](crate::steer::Rule::serial).
    pub fn carry_counts(&mut self, counts: HashMap<u64, Count>) {
        self.rules.carry(counts);
    }

    /// Leaves every frame to the stack from here on, and stays attached, until another one
    /// [replaces](Self::replace) it.
    ///
    /// Where the kernel refuses that, which nothing is known to make it do, its rules stay in force, and steer to no
    /// socket as soon as those are closed.
    #[must_use]
    pub fn retire(mut self) -> Retired {
        let counts = self.rules.retire().unwrap_or_else(|error| {
            log::error!("{error}; its rules stay in force meanwhile");
            HashMap::new()
        });
        Retired { program: self, counts }
    }

    /// Detaches, if attached: frames go to the stack from here on. mvneta and mvpp2 bounce their link here.
    pub fn detach(&mut self) {
        // Closing the only descriptor of a link detaches it.
        self.link = None;
    }

    /// The kernel's id of the program, as in `IFLA_XDP` and `bpftool prog`.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The kernel's hash of its instructions.
    #[must_use]
    pub fn tag(&self) -> u64 {
        self.tag
    }

    /// Puts these rules in force, all at once: no frame sees a part of them.
    ///
    /// Counters go on for rules that were in force before, by their [serial](crate::steer::Rule::serial), and begin at
    /// 0 for the others.
    ///
    /// # Errors
    ///
    /// What there is no room for, or the kernel refuses; the rules in force before stay in force then.
    pub fn set_rules(&mut self, rules: &RuleSet) -> Result<(), MapError> {
        self.rules.set(rules)
    }

    /// Writes these rules beside those in force, for [`switch_rules`](Self::switch_rules): what is refused is refused
    /// here, and nothing is in force by it.
    ///
    /// # Errors
    ///
    /// As [`set_rules`](Self::set_rules).
    pub fn write_rules_aside(&mut self, rules: &RuleSet) -> Result<(), MapError> {
        self.rules.write_aside(rules)
    }

    /// Puts what was written aside in force; one write.
    ///
    /// # Errors
    ///
    /// What the kernel refuses; nothing is known that would. The rules before stay in force then.
    pub fn switch_rules(&mut self) -> Result<(), MapError> {
        self.rules.switch()
    }

    /// Takes a change back that is not [finished](Self::finish_rules): the rules before are in force, with their
    /// counts.
    pub fn undo_rules(&mut self) {
        self.rules.undo();
    }

    /// Ends a change, and waits for the last frame under the rules before.
    pub fn finish_rules(&mut self) {
        self.rules.finish();
    }

    /// How full the tables are: each one's name, what the rules in force take of it, and what there is room for.
    #[must_use]
    pub fn tables(&self) -> [(&'static str, u32, u32); 3] {
        self.rules.tables()
    }

    /// What each rule has matched, in the order of the rules, summed over CPUs.
    ///
    /// # Errors
    ///
    /// What the kernel refuses; nothing is known that would.
    pub fn rule_counts(&self) -> Result<Vec<RuleCount>, MapError> {
        self.rules.counts()
    }

    /// Gives the frames of a queue to the AF_XDP socket bound to it.
    ///
    /// The kernel takes the socket out again when it is closed.
    ///
    /// # Errors
    ///
    /// A queue beyond the map, or a socket without an RX ring.
    pub fn set_socket(&mut self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), MapError> {
        self.xsks
            .set(queue, socket.as_raw_fd(), 0)
            .map_err(|source| MapError::Map { what: format!("socket of queue {queue}"), source })
    }

    /// Gives the frames of a queue back to the stack.
    ///
    /// # Errors
    ///
    /// A queue beyond the map. That there was no socket is none.
    pub fn clear_socket(&mut self, queue: u32) -> Result<(), MapError> {
        self.xsks
            .unset(queue)
            .map_err(|source| MapError::Map { what: format!("socket of queue {queue}"), source })
    }

    /// Frames by decision since the program was loaded, in the order of [`Decision::ALL`], summed over CPUs.
    ///
    /// # Errors
    ///
    /// What the kernel refuses; nothing is known that would.
    pub fn decisions(&self) -> Result<[u64; Decision::COUNT], MapError> {
        let counted = sums::read(&self.decisions, 0, Decision::COUNT as u32)
            .map_err(|source| MapError::Map { what: "counters of decisions".to_owned(), source })?;
        Ok(std::array::from_fn(|decision| counted.get(decision).map_or(0, |[count]| *count)))
    }

    /// Frames that were steered and got to no socket, by errno, since the program was loaded; or why nobody knows.
    pub fn redirect_errors(&self) -> RedirectErrors {
        self.redirect.read()
    }

    /// A map that only a benchmark's object has.
    pub fn take_map(&mut self, name: &str) -> Option<aya::maps::Map> {
        self.ebpf.take_map(name)
    }

    /// What the program logs, once: `None` if it was taken before.
    ///
    /// Poll it for reading and call `flush` each time: with tokio, in an `AsyncFd`.
    pub fn take_log(&mut self) -> Option<ProgramLog> {
        EbpfLogger::init(&mut self.ebpf).ok()
    }

    /// Runs the program over one frame without an interface (`BPF_PROG_TEST_RUN`); returns its XDP action.
    ///
    /// The frame counts as received by queue 0 of `lo`, and is counted like any other. Nothing is moved.
    ///
    /// # Errors
    ///
    /// The kernel takes frames from 14 bytes on.
    pub fn test_run(&mut self, frame: &[u8]) -> Result<u32, aya::programs::ProgramError> {
        let options = TestRunOptions { data_in: Some(frame), ..TestRunOptions::default() };
        Ok(xdp(&mut self.ebpf, self.name).test_run(options)?.return_value)
    }

    /// Runs the program `repeat` times over one frame. What it writes into the frame is there the next time.
    ///
    /// # Errors
    ///
    /// As [`test_run`](Self::test_run).
    pub fn test_runs(&mut self, frame: &[u8], repeat: u32) -> Result<(), aya::programs::ProgramError> {
        let options = TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::default() };
        xdp(&mut self.ebpf, self.name).test_run(options).map(drop)
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").field("id", &self.id).field("link", &self.link).finish_non_exhaustive()
    }
}

/// The program in our own object; that it is there, and is XDP, is decided when that is compiled.
fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut Xdp {
    let program = ebpf.program_mut(name).expect("the object has the program");
    program.try_into().expect("the program is for XDP")
}

fn take<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, LoadError>
where
    M: TryFrom<aya::maps::Map, Error = aya::maps::MapError>,
{
    let map = ebpf.take_map(name).expect("the object has the map");
    M::try_from(map)
        .map_err(|error| LoadError::Kernel { what: "read the maps of the XDP program", source: error.into() })
}
