//! What to run, as plain data that was validated once.

mod source;
mod wait;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use frame_pool::{FrameLayout, LayoutError};
pub use source::Source;
pub(crate) use source::place;
use thiserror::Error;
pub use wait::{Wait, gather};

use crate::{
    ebpf::Mode,
    nic::SwitchTag,
    steer::{RuleSet, SetError},
    xsk::RingRequest,
};

/// What the kernel keeps free in front of a received frame.
pub const HEADROOM: u32 = datapath::port::XDP_PACKET_HEADROOM;
/// An Ethernet header with one VLAN tag: what a frame has beyond the MTU.
pub const L2_OVERHEAD: u32 = 18;

/// Everything that `umemd run` was asked to do.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// Names of the interfaces to attach to; each once, at least one.
    pub ifaces: Vec<String>,
    /// Network namespace of the interfaces: a name of `ip netns` or a path.
    pub netns: Option<String>,
    /// Queues to serve; `None`: all active ones.
    pub queues: Option<Vec<u32>>,
    /// The compiled rules, in the order given.
    pub rules: Arc<RuleSet>,
    /// What to do with the frames.
    pub handler: Handler,
    /// Where to write what was handled.
    pub capture: Option<Capture>,
    /// Where the XDP program runs.
    pub mode: Mode,
    /// How the sockets are bound; `None`: as the table of drivers says.
    pub bind: Option<BindMode>,
    /// Whether a packet may take several frames.
    pub multi_buffer: MultiBuffer,
    /// Shape of the UMEM of each queue.
    pub layout: FrameLayout,
    /// Bytes of each frame that are kept free, before what the kernel keeps.
    pub headroom: u32,
    /// Whether to ask for huge pages.
    pub huge_pages: bool,
    /// Entries of the rings, where asked for.
    pub rings: RingRequest,
    /// CPUs of the workers, in the order of the queues.
    pub cpus: Option<Vec<usize>>,
    /// Whether a worker that has nothing to do looks again at once, instead of sleeping.
    pub spin: bool,
    /// How long frames gather before a worker's next turn; `None`: see [`wait`](Self::wait).
    pub gather: Option<Duration>,
    /// Where the HTTP listener binds.
    pub listen: SocketAddr,
    /// Where the control socket is made; `None`: nowhere.
    pub control: Option<PathBuf>,
    /// Names by which the listener may be called, beside addresses and this machine's own name.
    pub allow_hosts: Vec<String>,
    /// When to stop without being told.
    pub duration: Option<Duration>,
    /// JSON instead of a table.
    pub json: bool,
    /// How long a frame may be kept before it is taken for leaked.
    pub leak_after: Duration,
    /// Rules that somebody forced: what these cut off, the lock-out guard lets the rules in force cut off, too.
    pub forced: Option<Arc<RuleSet>>,
    /// The tag of a switch chip; `None`: as sysfs says.
    pub switch_tag: Option<SwitchTag>,
    /// Let the XDP program log.
    pub log_program: bool,
    /// From where it can be read again; `None`: from nowhere.
    pub source: Option<Source>,
}

impl RunConfig {
    /// What `new` asks for that cannot change while frames move, by the names of the flags: all but the rules.
    #[must_use]
    pub fn different(&self, new: &Self) -> Vec<&'static str> {
        // Destructured without `..`, so that nothing new can be forgotten.
        let Self {
            ifaces,
            netns,
            queues,
            rules: _,
            handler,
            capture,
            mode,
            bind,
            multi_buffer,
            layout,
            headroom,
            huge_pages,
            rings,
            cpus,
            spin,
            gather,
            listen,
            control,
            allow_hosts,
            leak_after,
            duration,
            json,
            forced: _,
            switch_tag,
            log_program,
            source: _,
        } = self;
        let same = [
            ("iface", *ifaces == new.ifaces),
            ("netns", *netns == new.netns),
            ("queues", *queues == new.queues),
            ("handler", *handler == new.handler),
            ("capture", *capture == new.capture),
            ("mode", *mode == new.mode),
            ("copy or zerocopy", *bind == new.bind),
            ("multi-buffer", *multi_buffer == new.multi_buffer),
            ("frames or frame-size", *layout == new.layout),
            ("headroom", *headroom == new.headroom),
            ("huge-pages", *huge_pages == new.huge_pages),
            ("the size of a ring", *rings == new.rings),
            ("cpus", *cpus == new.cpus),
            ("spin", *spin == new.spin),
            ("rx-usecs", *gather == new.gather),
            ("listen", *listen == new.listen),
            ("control", *control == new.control),
            ("allow-host", *allow_hosts == new.allow_hosts),
            ("leak-after", *leak_after == new.leak_after),
            ("duration", *duration == new.duration),
            ("json", *json == new.json),
            ("switch-tag", *switch_tag == new.switch_tag),
            ("log-program", *log_program == new.log_program),
        ];
        same.into_iter().filter(|(_, same)| !same).map(|(name, _)| name).collect()
    }
}

/// What is done with the frames that were steered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handler {
    /// Counted and dropped.
    Drop,
    /// Sent back to where they came from.
    Reflect,
    /// Sent out of the other interface, in both directions.
    Forward {
        /// The other interface.
        to: String,
    },
    /// Dropped; and packets of its own are sent.
    Generate(Generate),
}

impl Handler {
    /// Whether packets are sent. One of the user's own is taken for one that does not.
    #[must_use]
    pub fn sends(&self) -> bool {
        !matches!(self, Self::Drop)
    }

    /// As `--handler` calls it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Reflect => "reflect",
            Self::Forward { .. } => "forward",
            Self::Generate(_) => "generate",
        }
    }
}

/// The packets that `--handler generate` sends: UDP, all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generate {
    /// Packets per second, of all queues together; `None`: as many as go.
    pub rate: Option<u64>,
    /// How many, of all queues together; `None`: without end.
    pub count: Option<u64>,
    /// Bytes of each, from the Ethernet header on, without the frame check sequence.
    pub size: usize,
    /// Source address; `None`: the interface's.
    pub src_mac: Option<Mac>,
    /// Destination address.
    pub dst_mac: Mac,
    /// Source; of the same IP version as the destination.
    pub src: SocketAddr,
    /// Destination.
    pub dst: SocketAddr,
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes: Option<Vec<u8>> = text
            .split(':')
            .map(|part| u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2))
            .collect();
        let mac = bytes.and_then(|bytes| bytes.try_into().ok()).map(Self);
        mac.ok_or_else(|| "expected an Ethernet address such as 02:00:5e:10:00:01".to_owned())
    }
}

/// Where packets are written as pcapng, and when a new file begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    /// The file; `None`: standard output.
    pub file: Option<PathBuf>,
    /// Bytes kept of each packet.
    pub snaplen: u32,
    /// Begin a new file after so many bytes.
    pub rotate_size: Option<u64>,
    /// Begin a new file after this time.
    pub rotate_time: Option<Duration>,
}

/// `XDP_USE_SG` and a program with `xdp.frags`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MultiBuffer {
    /// Where the MTU exceeds a frame.
    Auto,
    /// Always.
    On,
    /// Never: what is longer than a frame is dropped by the kernel.
    Off,
}

/// Whether sockets are bound with `XDP_USE_NEED_WAKEUP`: the kernel says when it wants a system call, and no other is
/// made.
pub const NEED_WAKEUP: bool = true;

/// `XDP_COPY` or `XDP_ZEROCOPY` (linux/if_xdp.h). One of them is always asked for by name: with neither
/// flag the kernel falls back from zero-copy to copy without a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindMode {
    /// The kernel copies each frame into the UMEM.
    Copy,
    /// The NIC writes into the UMEM.
    ZeroCopy,
}

/// What is wrong with what the user typed; exit code 2.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A configuration file that cannot be used, with the line and a caret under the word.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A file whose values cannot be used, perhaps with the flags beside it.
    #[error("with {}", path.display())]
    With {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<ConfigError>,
    },
    /// A rule that cannot be used; if it does not parse, with a caret under the word.
    #[error(transparent)]
    Rule(#[from] SetError),
    /// Sizes that no UMEM has.
    #[error("--frames {frames} --frame-size {frame_size} is no UMEM")]
    Layout {
        /// `--frames`.
        frames: u32,
        /// `--frame-size`.
        frame_size: u32,
        /// Why.
        source: LayoutError,
    },
    /// A frame size that the kernel or the page size refuses.
    #[error("--frame-size {0} is not possible: the kernel takes 2048 or 4096 (xdp_umem_reg)")]
    FrameSize(u32),
    /// A number of frames that no ring can be derived from.
    #[error("--frames {0} is not possible: a power of two from 64 to 262144 is")]
    Frames(u32),
    /// A ring size that the kernel refuses.
    #[error("{flag} {entries} is not possible: a power of two is")]
    Ring {
        /// Which flag.
        flag: &'static str,
        /// What it says.
        entries: u32,
    },
    /// Too much headroom.
    #[error(
        "--headroom {headroom} is not possible: of {frame_size} bytes the kernel keeps 256, and a packet needs 64"
    )]
    Headroom {
        /// `--headroom`.
        headroom: u32,
        /// `--frame-size`.
        frame_size: u32,
    },
    /// A flag that another one needs.
    #[error("{what} needs {flag}")]
    Missing {
        /// What needs it.
        what: &'static str,
        /// Which flag.
        flag: &'static str,
    },
    /// A wait that is none any more.
    #[error("--rx-usecs {usecs} is too long: a worker lets frames gather for at most {longest} microseconds")]
    Gather {
        /// `--rx-usecs`.
        usecs: u32,
        /// What is the most.
        longest: u32,
    },
    /// Two flags that exclude each other.
    #[error("{0}")]
    Contradiction(&'static str),
    /// A packet that does not hold its own headers.
    #[error("--size {size} is too short: the headers alone take {headers} bytes")]
    Size {
        /// `--size`.
        size: usize,
        /// Bytes of the headers.
        headers: usize,
    },
    /// Something given twice.
    #[error("{flag} {value} is given twice")]
    Twice {
        /// Which flag.
        flag: &'static str,
        /// What stands there twice.
        value: String,
    },
}

/// The UMEM of one queue, if it is one that the kernel takes and that ring sizes can be derived from.
pub fn layout(frames: u32, frame_size: u32) -> Result<FrameLayout, ConfigError> {
    if ![2048, 4096].contains(&frame_size) {
        return Err(ConfigError::FrameSize(frame_size));
    }
    if !frames.is_power_of_two() || !(64..=262_144).contains(&frames) {
        return Err(ConfigError::Frames(frames));
    }
    FrameLayout::new(frame_size, frames).map_err(|source| ConfigError::Layout { frames, frame_size, source })
}

/// Refuses sizes that no ring has.
pub fn rings(asked: RingRequest) -> Result<RingRequest, ConfigError> {
    let RingRequest { fill, rx, tx, completion } = asked;
    let all =
        [("--fill-ring", fill), ("--rx-ring", rx), ("--tx-ring", tx), ("--completion-ring", completion)];
    match all.into_iter().find(|(_, entries)| entries.is_some_and(|n| !n.is_power_of_two())) {
        Some((flag, entries)) => Err(ConfigError::Ring { flag, entries: entries.unwrap_or(0) }),
        None => Ok(asked),
    }
}

/// Refuses headroom that leaves no room for a packet.
pub fn headroom(headroom: u32, layout: FrameLayout) -> Result<u32, ConfigError> {
    let frame_size = layout.chunk_size();
    // XDP_PACKET_HEADROOM, and a frame of the shortest length on a wire.
    if headroom > frame_size - 256 - 64 {
        return Err(ConfigError::Headroom { headroom, frame_size });
    }
    Ok(headroom)
}

impl Generate {
    /// Bytes of Ethernet, IP and UDP headers.
    fn headers(&self) -> usize {
        14 + if self.dst.is_ipv4() { 20 } else { 40 } + 8
    }

    /// Refuses packets that cannot be.
    pub fn checked(self) -> Result<Self, ConfigError> {
        if self.src.is_ipv4() != self.dst.is_ipv4() {
            return Err(ConfigError::Contradiction("--src-addr and --dst-addr are not of one IP version"));
        }
        let (size, headers) = (self.size, self.headers());
        if size < headers {
            return Err(ConfigError::Size { size, headers });
        }
        Ok(self)
    }

    /// The packet, sent from `mac` unless the source was asked for.
    pub fn template(&self, mac: Mac) -> Vec<u8> {
        let ethernet = etherparse::PacketBuilder::ethernet2(self.src_mac.unwrap_or(mac).0, self.dst_mac.0);
        let ip = match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => ethernet.ipv4(src.octets(), dst.octets(), 64),
            (src, dst) => ethernet.ipv6(octets(src), octets(dst), 64),
        };
        let payload = vec![0; self.size - self.headers()];
        let mut packet = Vec::with_capacity(self.size);
        let udp = ip.udp(self.src.port(), self.dst.port());
        // INVARIANT: a Vec takes all, and a size that UDP has no room for was refused.
        let _ = udp.write(&mut packet, &payload);
        packet
    }
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// Refuses a list in which something stands twice: it would be opened twice.
pub fn refuse_duplicates<T: PartialEq + ToString>(
    flag: &'static str,
    values: &[T],
) -> Result<(), ConfigError> {
    for (i, value) in values.iter().enumerate() {
        if values[..i].contains(value) {
            return Err(ConfigError::Twice { flag, value: value.to_string() });
        }
    }
    Ok(())
}

/// All frames of `eth0`, and otherwise what is done unasked.
#[cfg(test)]
pub(crate) fn fixture() -> RunConfig {
    use clap::Parser as _;

    use crate::cli::{Cli, Command};

    let cli = Cli::parse_from(["umemd", "run", "--iface", "eth0", "--steer", "all"]);
    let Command::Run(args) = cli.command else { unreachable!("it was `umemd run`") };
    RunConfig::try_from(*args).expect("flags that go together")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_no_umem_has_are_refused() {
        assert!(layout(4096, 2048).is_ok());
        assert!(layout(64, 4096).is_ok());
        assert!(matches!(layout(4096, 3000), Err(ConfigError::FrameSize(3000))));
        for frames in [0, 1, 32, 4095, 1 << 19, u32::MAX] {
            assert!(matches!(layout(frames, 2048), Err(ConfigError::Frames(n)) if n == frames), "{frames}");
        }
    }

    #[test]
    fn rings_and_headroom_that_the_kernel_refuses_are_named() {
        let asked = RingRequest { tx: Some(512), ..RingRequest::default() };
        assert_eq!(rings(asked).unwrap(), asked);
        let error = rings(RingRequest { tx: Some(500), ..asked }).unwrap_err().to_string();
        assert_eq!(error, "--tx-ring 500 is not possible: a power of two is");
        let layout = layout(4096, 2048).unwrap();
        assert_eq!(headroom(1728, layout).unwrap(), 1728);
        assert!(matches!(headroom(1729, layout), Err(ConfigError::Headroom { headroom: 1729, .. })));
        assert!(headroom(u32::MAX, layout).is_err());
    }

    #[test]
    fn ethernet_addresses_have_six_bytes_of_two_digits() {
        assert_eq!("02:00:5e:10:00:Ff".parse(), Ok(Mac([2, 0, 0x5e, 0x10, 0, 0xff])));
        for bad in ["", "02:00:5e:10:00", "02:00:5e:10:00:01:02", "2:0:5e:10:0:1", "02-00-5e-10-00-01"] {
            assert!(bad.parse::<Mac>().is_err(), "{bad:?}");
        }
    }

    fn generate(src: &str, dst: &str, size: usize) -> Generate {
        Generate {
            rate: None,
            count: None,
            size,
            src_mac: None,
            dst_mac: Mac([2, 0, 0, 0, 0, 2]),
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
        }
    }

    #[test]
    fn a_packet_has_the_size_asked_for_and_right_checksums() {
        for (src, dst, headers) in
            [("198.18.0.1:7", "198.18.0.2:9", 42), ("[2001:2::1]:7", "[2001:2::2]:9", 62)]
        {
            for size in [headers, headers + 1, 1514, 9014] {
                let packet = generate(src, dst, size).checked().unwrap().template(Mac([2, 0, 0, 0, 0, 1]));
                assert_eq!(packet.len(), size);
                let sliced = etherparse::SlicedPacket::from_ethernet(&packet).unwrap();
                let Some(etherparse::TransportSlice::Udp(udp)) = sliced.transport else { panic!("no UDP") };
                assert_eq!((udp.source_port(), udp.destination_port()), (7, 9));
                assert_eq!(udp.payload().len(), size - headers);
                assert_ne!(udp.checksum(), 0);
            }
            let error = generate(src, dst, headers - 1).checked().unwrap_err();
            assert!(matches!(error, ConfigError::Size { headers: h, .. } if h == headers));
        }
        assert!(generate("198.18.0.1:7", "[2001:2::2]:9", 100).checked().is_err());
    }

    #[test]
    fn a_queue_given_twice_is_refused() {
        assert!(refuse_duplicates("--queues", &[0, 2, 1]).is_ok());
        let error = refuse_duplicates("--queues", &[0, 2, 0]).unwrap_err().to_string();
        assert_eq!(error, "--queues 0 is given twice");
    }
}
