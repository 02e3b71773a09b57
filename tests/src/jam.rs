//! [`Jam`]: what arrives at an interface does not get any further, and stays who sent it's.

use std::process::Command;

use crate::{
    command::{ip_batch, run},
    netns::NetNs,
    veth::VethEnd,
};

/// The interface whose queue lets one bit a second through.
const NARROW: &str = "narrow0";
/// What passes at once: a packet as long as the MTU has to.
const BURST: &str = "1600";

/// Leads all IPv4 that arrives at an end into the queue of another interface, where it is stuck: frames that are sent
/// by AF_XDP in copy mode are not completed before whoever has their packets frees them.
#[derive(Debug)]
pub struct Jam<'a> {
    netns: &'a NetNs,
    end: &'a VethEnd,
}

impl<'a> Jam<'a> {
    /// At an end in this namespace.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    #[track_caller]
    pub fn at(netns: &'a NetNs, end: &'a VethEnd) -> Self {
        let pair = format!("link add {NARROW} up type veth peer name narrow1");
        ip_batch(netns.name(), &[pair, "link set dev narrow1 up".to_owned()]);
        let jam = Self { netns, end };
        jam.tc(&[
            "qdisc", "add", "dev", NARROW, "root", "tbf", "rate", "8bit", "burst", BURST, "limit", "1mb",
        ]);
        jam.tc(&["qdisc", "add", "dev", &end.name, "ingress"]);
        let all = ["protocol", "ip", "u32", "match", "u32", "0", "0"];
        let lead = ["action", "mirred", "egress", "redirect", "dev", NARROW];
        let filter = ["filter", "add", "dev", &end.name, "parent", "ffff:"];
        jam.tc(&[&filter[..], &all, &lead].concat());
        jam
    }

    /// From now on packets pass; those that are stuck stay.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    #[track_caller]
    pub fn pass_by(&self) {
        self.tc(&["qdisc", "del", "dev", &self.end.name, "ingress"]);
    }

    /// Frees what is stuck.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    #[track_caller]
    pub fn clear(self) {
        self.tc(&["qdisc", "del", "dev", NARROW, "root"]);
    }

    #[track_caller]
    fn tc(&self, words: &[&str]) {
        let mut command = Command::new("tc");
        command.args(["-netns", self.netns.name()]).args(words);
        run(&mut command, "").unwrap_or_else(|error| panic!("{error}"));
    }
}
