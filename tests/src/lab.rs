//! [`Lab`]: two namespaces and the cables between them. The README has the drawing.

use std::net::{SocketAddr, TcpListener, TcpStream};

use crate::{
    agent::AgentCommand,
    command::ip_batch,
    netns::NetNs,
    privilege,
    veth::{VethConfig, VethEnd, VethPair},
    wire::Wire,
};

/// The UDP port whose traffic the agent is told to take.
pub const PORT: u16 = 7007;
/// A UDP port whose traffic is the stack's.
pub const OTHER_PORT: u16 = 7008;
/// The rule for [`PORT`].
pub const STEER: &str = "udp dst port 7007";
/// How an XDP program may be attached to a veth: in its driver, and in front of the stack. What is tried of a handler or
/// a mode is tried in both.
pub const MODES: [&str; 2] = ["native", "skb"];

/// How a lab differs from the usual one: one pair with one queue and an MTU of 1500.
#[derive(Clone, Copy, Debug)]
pub struct LabConfig {
    /// Pairs.
    pub pairs: u8,
    /// Queues of each end.
    pub queues: u32,
    /// Largest packet without the Ethernet header, bytes.
    pub mtu: u32,
    /// A third namespace, where the second pair ends: what is between the two is the agent's to forward. Each
    /// end takes the other for its neighbour.
    pub beyond: bool,
}

impl Default for LabConfig {
    fn default() -> Self {
        Self { pairs: 1, queues: 1, mtu: 1500, beyond: false }
    }
}

/// Two namespaces joined by veth pairs; gone when dropped.
#[derive(Debug)]
pub struct Lab {
    /// Where the agent attaches.
    pub near: NetNs,
    /// Where traffic comes from.
    pub far: NetNs,
    /// Where the second pair ends, if the lab has one.
    pub beyond: Option<NetNs>,
    config: LabConfig,
    pairs: Vec<VethPair>,
}

impl Lab {
    /// The usual lab; `None`, after saying why, where tests cannot run.
    pub fn new() -> Option<Self> {
        Self::with(LabConfig::default())
    }

    /// Another one.
    pub fn with(config: LabConfig) -> Option<Self> {
        if !privilege::permits_tests() {
            return None;
        }
        let (near, far) = (NetNs::new("near"), NetNs::new("far"));
        let beyond = config.beyond.then(|| NetNs::new("beyond"));
        let mut lab = Self { near, far, beyond, config, pairs: Vec::new() };
        lab.pairs = (0..config.pairs).map(|number| lab.lay(number)).collect();
        lab.join();
        Some(lab)
    }

    /// Brings a pair into the state that it had at first: after it was removed, or down, which takes neighbours and
    /// routes away.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    #[track_caller]
    pub fn again(&self, number: u8) {
        let pair = &self.pairs[usize::from(number)];
        if !pair.near.exists() {
            self.lay(number);
        }
        pair.introduce();
        self.join();
    }

    fn join(&self) {
        if let (Some(beyond), [here, there]) = (&self.beyond, &self.pairs[..]) {
            join(&self.far, &here.far, &there.far);
            join(beyond, &there.far, &here.far);
        }
    }

    /// Lays the cable of a pair; again, if it was removed.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    #[track_caller]
    pub fn lay(&self, number: u8) -> VethPair {
        let LabConfig { queues, mtu, .. } = self.config;
        let far = self.beyond.as_ref().filter(|_| number == 1).unwrap_or(&self.far);
        VethPair::new(&self.near, far, VethConfig { number, queues, mtu })
    }

    /// The first pair.
    pub fn pair(&self) -> &VethPair {
        &self.pairs[0]
    }

    /// All pairs.
    pub fn pairs(&self) -> &[VethPair] {
        &self.pairs
    }

    /// A TCP connection from the far end to a listener at this address of the near one.
    ///
    /// The client, and the listener with the server's end.
    pub fn connection(&self, address: SocketAddr) -> (TcpStream, (TcpListener, TcpStream)) {
        let listener = self.near.run(|| TcpListener::bind(address)).expect("a free port");
        let client = self.far.run(|| TcpStream::connect(address)).expect("a handshake");
        let (server, _) = listener.accept().expect("a connection");
        (client, (listener, server))
    }

    /// A socket at the far end of each of two pairs, in front of the agent and [beyond](Self::beyond) it, connected to
    /// each other.
    ///
    /// # Panics
    ///
    /// If there is nothing beyond, or the kernel refuses.
    #[track_caller]
    pub fn ends(&self) -> (Wire, Wire) {
        let [here, there] = self.pairs() else { panic!("there are not two pairs") };
        let beyond = self.beyond.as_ref().expect("a third namespace");
        let (a, b) = (here.far.port(PORT), there.far.port(PORT));
        (Wire::between(&self.far, a, b), Wire::between(beyond, b, a))
    }

    /// `umemd run` on the near end of every pair, with these arguments more.
    pub fn agent(&self, args: &[&str]) -> AgentCommand {
        let ifaces = self.pairs.iter().flat_map(|pair| ["--iface", pair.near.name.as_str()]);
        self.agent_on(args).args(ifaces)
    }

    /// `umemd run` in the near namespace, with these arguments more, which say on what.
    pub fn agent_on(&self, args: &[&str]) -> AgentCommand {
        AgentCommand::new().args(["--netns", self.near.name()]).args(args.iter().copied())
    }
}

/// Makes `there` a neighbour of `here`, which is in `netns`.
fn join(netns: &NetNs, here: &VethEnd, there: &VethEnd) {
    ip_batch(
        netns.name(),
        &[
            format!("route replace {}/32 dev {}", there.ip, here.name),
            format!("neighbour replace {} lladdr {} dev {} nud permanent", there.ip, there.mac, here.name),
        ],
    );
}
