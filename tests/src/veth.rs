//! [`VethPair`]: a cable between two namespaces, with addresses on both ends.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Command,
};

use serde_json::Value;

use crate::{
    command::{ip, ip_batch, run},
    netns::NetNs,
};

/// What a pair is made with.
#[derive(Clone, Copy, Debug)]
pub struct VethConfig {
    /// Which pair of its lab: part of all names and addresses.
    pub number: u8,
    /// Queues of each end, both ways.
    pub queues: u32,
    /// Largest packet without the Ethernet header, bytes.
    pub mtu: u32,
}

/// A veth pair; it goes with the namespaces that it ends in.
#[derive(Clone, Debug)]
pub struct VethPair {
    /// The end that the agent attaches to.
    pub near: VethEnd,
    /// The end that traffic comes from.
    pub far: VethEnd,
}

/// One end.
#[derive(Clone, Debug)]
pub struct VethEnd {
    /// Name of the interface: `near0`, `far0`.
    pub name: String,
    /// Its address, of a network of 30 bits.
    pub ip: Ipv4Addr,
    /// Its hardware address.
    pub mac: String,
    netns: String,
}

impl VethEnd {
    fn new(netns: &NetNs, role: &str, pair: u8, side: u8) -> Self {
        Self {
            name: format!("{role}{pair}"),
            ip: Ipv4Addr::new(10, 78, pair, side),
            mac: format!("02:00:00:00:{pair:02x}:{side:02x}"),
            netns: netns.name().to_owned(),
        }
    }

    /// Its address with a port.
    pub fn port(&self, port: u16) -> SocketAddr {
        (self.ip, port).into()
    }

    /// The kernel's id of the XDP program on it, whoever attached it.
    ///
    /// # Panics
    ///
    /// If there is no such interface.
    pub fn xdp_program(&self) -> Option<u64> {
        let link = self.show();
        let id = link["xdp"]["prog"]["id"].as_u64();
        assert_eq!(id.is_some(), link["xdp"].is_object(), "a program without an id: {link}");
        id
    }

    /// Its index in its namespace.
    ///
    /// # Panics
    ///
    /// If there is no such interface.
    pub fn index(&self) -> u32 {
        let index = self.show()["ifindex"].as_u64().expect("interfaces have an index");
        index.try_into().expect("an index has 32 bits")
    }

    /// Changes it: `ip link set dev NAME` with these words more.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    #[track_caller]
    pub fn set(&self, words: &[&str]) {
        let link = ["-netns", &self.netns, "link", "set", "dev", &self.name];
        ip(&[&link, words].concat());
    }

    /// Runs ethtool on it: the first word is the option, the interface comes behind it.
    ///
    /// # Panics
    ///
    /// If the driver refuses.
    #[track_caller]
    pub fn ethtool(&self, option: &str, words: &[&str]) {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.netns, "ethtool", option, &self.name]).args(words);
        run(&mut command, "").unwrap_or_else(|error| panic!("{error}"));
    }

    /// A line for `ip`: `other` is a neighbour.
    fn neighbour(&self, other: &Self) -> String {
        format!("neighbour replace {} lladdr {} dev {} nud permanent", other.ip, other.mac, self.name)
    }

    /// Whether there is such an interface now.
    pub fn exists(&self) -> bool {
        run(Command::new("ip").args(["-netns", &self.netns, "link", "show", "dev", &self.name]), "").is_ok()
    }

    fn show(&self) -> Value {
        let text = ip(&["-netns", &self.netns, "-json", "link", "show", "dev", &self.name]);
        let list: Value = serde_json::from_str(&text).expect("`ip -json` prints JSON");
        list[0].clone()
    }
}

impl VethPair {
    /// Lays the cable: both ends up, each with the other's hardware address for good. Nobody has to ask for it
    /// then, which would be traffic that no test sent, and which the agent might be told to take.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    pub fn new(near: &NetNs, far: &NetNs, config: VethConfig) -> Self {
        let VethConfig { number, queues, mtu } = config;
        let pair =
            Self { near: VethEnd::new(near, "near", number, 1), far: VethEnd::new(far, "far", number, 2) };
        let link = |end: &VethEnd| {
            let VethEnd { name, mac, .. } = end;
            format!("name {name} address {mac} mtu {mtu} numrxqueues {queues} numtxqueues {queues}")
        };
        let addresses = |own: &VethEnd, other: &VethEnd| {
            let (dev, ip) = (&own.name, own.ip);
            [format!("address add {ip}/30 dev {dev}"), format!("link set {dev} up"), own.neighbour(other)]
        };
        let far_end = format!("{} netns {}", link(&pair.far), far.name());
        let mut lines = vec![format!("link add {} type veth peer {far_end}", link(&pair.near))];
        lines.extend(addresses(&pair.near, &pair.far));
        ip_batch(near.name(), &lines);
        ip_batch(far.name(), &addresses(&pair.far, &pair.near));
        pair
    }

    /// Makes each end a neighbour of the other's, for as long as it is up.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    pub fn introduce(&self) {
        for (own, other) in [(&self.near, &self.far), (&self.far, &self.near)] {
            ip_batch(&own.netns, &[own.neighbour(other)]);
        }
    }

    /// Takes the cable away, both ends of it.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    #[track_caller]
    pub fn remove(&self) {
        ip(&["-netns", &self.near.netns, "link", "delete", "dev", &self.near.name]);
    }
}
