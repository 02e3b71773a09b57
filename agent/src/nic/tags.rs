//! Who keeps VLAN tags from the XDP program, and what leaves them in the frames.

use std::{fmt, io};

use super::{Link, drivers, link, quirks::Kind};
use crate::sys::ethtool::{self, Features};

/// Features that put a tag beside the frame: what ethtool(8) calls it, what the kernel does, and of which tags.
type Offload = (&'static str, &'static str, &'static str);
/// Of a NIC that receives.
const RECEIVING: [Offload; 2] =
    [("rxvlan", "rx-vlan-hw-parse", "802.1Q"), ("rx-vlan-stag-hw-parse", "rx-vlan-stag-hw-parse", "802.1ad")];
/// Of a veth that sends: a tag that is beside the frame stays there, and the other end does not put it back.
const SENDING: [Offload; 2] = [
    ("txvlan", "tx-vlan-hw-insert", "802.1Q"),
    ("tx-vlan-stag-hw-insert", "tx-vlan-stag-hw-insert", "802.1ad"),
];

/// That the program may not see VLAN tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeptAway {
    /// By whom, and what follows.
    pub(crate) text: String,
    /// What leaves them in, if a command does.
    pub(crate) mend: Option<String>,
    /// Whether it is so, or nobody knows.
    pub(crate) known: bool,
}

/// In one line, as `umemd run` says it.
impl fmt::Display for KeptAway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        self.mend.iter().try_for_each(|command| write!(f, "; leave them in: {command}"))
    }
}

/// What to say to somebody whose rules look for VLAN tags on this interface, if the program may not see them.
///
/// # Errors
///
/// If the kernel does not tell what the interface does.
pub(crate) fn kept_away(interface: &Link, driver: &str) -> io::Result<Option<KeptAway>> {
    if drivers::has(driver, |kind| kind == Kind::TagsComeBeside) {
        // Asked again, as it may have gone to another namespace.
        let now = |index| link(index).ok().flatten();
        let peer = now(interface.index).and_then(|end| now(end.peer?));
        let peer = peer.and_then(|peer| Some((ethtool::features(&peer.name).ok()?, peer.name)));
        Ok(by_peer(&interface.name, peer.as_ref().map(|(features, name)| (&**name, features))))
    } else if drivers::has(driver, |kind| kind == Kind::TagsEndAtPorts) {
        Ok(Some(on_top(&interface.name)))
    } else {
        Ok(by_nic(&interface.name, &ethtool::features(&interface.name)?))
    }
}

/// By a NIC with these features.
fn by_nic(name: &str, features: &Features) -> Option<KeptAway> {
    let (tags, _) = words(&RECEIVING, |feature| features.on.contains(feature))?;
    // What is fixed stays on.
    let changeable = |feature: &str| features.on.contains(feature) && !features.fixed.contains(feature);
    let text = format!(
        "{name} takes VLAN tags ({tags}) away before the XDP program sees them: rules that look for them will not match"
    );
    let mend = words(&RECEIVING, changeable).map(|(_, off)| format!("ethtool -K {name} {off}"));
    Some(KeptAway { text, mend, known: true })
}

/// By the stack, before a device on top has the frame: net/core/dev.c, `__netif_receive_skb_core` of the port.
fn on_top(name: &str) -> KeptAway {
    let text = format!(
        "{name} has its frames from its ports, and the outer VLAN tag is taken away there, whatever their offloads: \
         rules that look for it will not match; run umemd on the ports"
    );
    KeptAway { text, mend: None, known: true }
}

/// By the other end of a veth: its name and features, if it is in this network namespace, and otherwise nobody knows.
fn by_peer(name: &str, peer: Option<(&str, &Features)>) -> Option<KeptAway> {
    let (tags, off) = words(&SENDING, |feature| peer.is_none_or(|(_, peer)| peer.on.contains(feature)))?;
    let (whom, peer_name) = match peer {
        Some((name, _)) => ("", name),
        None => (", which umemd cannot ask,", "NAME"),
    };
    let text = format!(
        "{name} is a veth, whose other end{whom} may leave VLAN tags ({tags}) beside the frame, where the XDP program \
         does not see them: rules that look for them will not match"
    );
    Some(KeptAway { text, mend: Some(format!("ethtool -K {peer_name} {off}")), known: peer.is_some() })
}

/// Of which tags those offloads are that are on, and the words that switch them off.
fn words(offloads: &[Offload], on: impl Fn(&str) -> bool) -> Option<(String, String)> {
    let on = offloads.iter().filter(|(_, feature, _)| on(feature));
    let (tags, off): (Vec<_>, Vec<_>) = on.map(|(word, _, tags)| (*tags, format!("{word} off"))).unzip();
    (!off.is_empty()).then(|| (tags.join(" and "), off.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(names: &[&str]) -> Features {
        Features { on: names.iter().map(|name| (*name).to_owned()).collect(), ..Features::default() }
    }

    #[track_caller]
    fn says(said: Option<KeptAway>, tags: &str, mend: &str) {
        let said = said.map(|kept| kept.to_string()).unwrap_or_default();
        assert!(said.contains(&format!("VLAN tags ({tags})")) && said.ends_with(mend), "{said}");
    }

    #[test]
    fn a_nic_takes_each_kind_of_tag_away_by_a_feature_of_its_own() {
        let said = |on: &[&str]| by_nic("eth0", &features(on));
        says(said(&["highdma", "rx-vlan-hw-parse"]), "802.1Q", "ethtool -K eth0 rxvlan off");
        let stag = "ethtool -K eth0 rx-vlan-stag-hw-parse off";
        says(said(&["rx-vlan-stag-hw-parse"]), "802.1ad", stag);
        says(
            said(&["rx-vlan-hw-parse", "rx-vlan-stag-hw-parse"]),
            "802.1Q and 802.1ad",
            "ethtool -K eth0 rxvlan off rx-vlan-stag-hw-parse off",
        );
        assert_eq!(said(&["rx-vlan-filter", "tx-vlan-hw-insert", "tx-vlan-stag-hw-insert"]), None);
        let mut fixed = features(&["rx-vlan-hw-parse"]);
        fixed.fixed.clone_from(&fixed.on);
        says(by_nic("eth0", &fixed), "802.1Q", "will not match");
    }

    #[test]
    fn of_a_veth_the_other_end_decides() {
        let said = |on: &[&str]| by_peer("near0", Some(("far0", &features(on))));
        says(said(&["tx-vlan-hw-insert"]), "802.1Q", "ethtool -K far0 txvlan off");
        let stag = "ethtool -K far0 tx-vlan-stag-hw-insert off";
        says(said(&["tx-vlan-stag-hw-insert"]), "802.1ad", stag);
        assert_eq!(said(&["rx-vlan-hw-parse", "rx-vlan-stag-hw-parse"]), None);
        // Where it cannot be asked it may be so.
        let mend = "leave them in: ethtool -K NAME txvlan off tx-vlan-stag-hw-insert off";
        let unknown = by_peer("near0", None);
        assert!(unknown.as_ref().is_some_and(|kept| !kept.known && kept.text.contains("cannot ask")));
        says(unknown, "802.1Q and 802.1ad", mend);
    }
}
