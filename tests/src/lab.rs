//! [`Lab`]: two namespaces and the cables between them. The README has the drawing.

use crate::{
    agent::AgentCommand,
    netns::NetNs,
    privilege,
    veth::{VethConfig, VethPair},
};

/// The UDP port whose traffic the agent is told to take.
pub const PORT: u16 = 7007;
/// A UDP port whose traffic is the stack's.
pub const OTHER_PORT: u16 = 7008;
/// The rule for [`PORT`].
pub const STEER: &str = "udp dst port 7007";

/// How a lab differs from the usual one: one pair with one queue and an MTU of 1500.
#[derive(Clone, Copy, Debug)]
pub struct LabConfig {
    /// Pairs.
    pub pairs: u8,
    /// Queues of each end.
    pub queues: u32,
    /// Largest packet without the Ethernet header, bytes.
    pub mtu: u32,
}

impl Default for LabConfig {
    fn default() -> Self {
        Self { pairs: 1, queues: 1, mtu: 1500 }
    }
}

/// Two namespaces joined by veth pairs; gone when dropped.
#[derive(Debug)]
pub struct Lab {
    /// Where the agent attaches.
    pub near: NetNs,
    /// Where traffic comes from.
    pub far: NetNs,
    pairs: Vec<VethPair>,
}

impl Lab {
    /// The usual lab; `None`, after saying why, where tests cannot run.
    pub fn new() -> Option<Self> {
        Self::with(LabConfig::default())
    }

    /// Another one.
    pub fn with(config: LabConfig) -> Option<Self> {
        let LabConfig { pairs, queues, mtu } = config;
        if !privilege::permits_tests() {
            return None;
        }
        let (near, far) = (NetNs::new("near"), NetNs::new("far"));
        let pair = |number| VethPair::new(&near, &far, VethConfig { number, queues, mtu });
        let pairs = (0..pairs).map(pair).collect();
        Some(Self { near, far, pairs })
    }

    /// The first pair.
    pub fn pair(&self) -> &VethPair {
        &self.pairs[0]
    }

    /// All pairs.
    pub fn pairs(&self) -> &[VethPair] {
        &self.pairs
    }

    /// `umemd run` on the near end of every pair, with these arguments more.
    pub fn agent(&self, args: &[&str]) -> AgentCommand {
        let ifaces = self.pairs.iter().flat_map(|pair| ["--iface", pair.near.name.as_str()]);
        AgentCommand::new().args(["--netns", self.near.name()]).args(ifaces).args(args.iter().copied())
    }
}
