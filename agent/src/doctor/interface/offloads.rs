//! What a NIC does to frames before an XDP program has them.

use std::io;

use super::{
    super::{Answer, Finding},
    answer,
};
use crate::{
    nic::tags::KeptAway,
    sys::ethtool::{Features, Offloads},
};

pub(super) fn lro(name: &str, offloads: io::Result<Offloads>) -> Option<Finding> {
    const ASKED: &str = "LRO";
    let on = match answer(name, ASKED, offloads) {
        Ok(offloads) => offloads?.lro,
        Err(unknown) => return Some(unknown),
    };
    let text = "LRO is on: many drivers refuse a program then";
    on.then(|| {
        Finding::new(name, ASKED, Answer::Warning, text).mended_by(format!("ethtool -K {name} lro off"))
    })
}

/// GRO by the NIC: mlx5_core refuses a program beside it, and virtio_net one that it cannot switch off.
pub(super) fn gro(name: &str, features: io::Result<Features>) -> Option<Finding> {
    const ASKED: &str = "hardware GRO";
    const FEATURE: &str = "rx-gro-hw";
    let Features { on, fixed } = match answer(name, ASKED, features) {
        Ok(features) => features?,
        Err(unknown) => return Some(unknown),
    };
    if !on.contains(FEATURE) {
        return None;
    }
    let text =
        "the NIC puts packets together: some drivers refuse a program then, others stop that themselves";
    let finding = Finding::new(name, ASKED, Answer::Warning, text);
    Some(match fixed.contains(FEATURE) {
        true => finding,
        false => finding.mended_by(format!("ethtool -K {name} {FEATURE} off")),
    })
}

/// Headers of TCP in buffers of their own, beside a program for packets in one buffer: net/core/dev.c,
/// `dev_xdp_install`.
pub(super) fn data_split(name: &str, split: io::Result<Option<bool>>) -> Option<Finding> {
    const ASKED: &str = "tcp-data-split";
    let split = match answer(name, ASKED, split) {
        Ok(split) => split??,
        Err(unknown) => return Some(unknown),
    };
    let text = "headers and data of TCP come in buffers of their own: where somebody asked for that, Linux refuses a \
                program for packets in one buffer (6.14); turn it off, or pass --multi-buffer on";
    split.then(|| {
        Finding::new(name, ASKED, Answer::Warning, text)
            .mended_by(format!("ethtool -G {name} tcp-data-split off"))
    })
}

/// VLAN tags that rules will not find.
pub(super) fn tags(name: &str, kept: io::Result<Option<KeptAway>>) -> Option<Finding> {
    const ASKED: &str = "VLAN tags";
    let KeptAway { text, mend, known } = match answer(name, ASKED, kept) {
        Ok(kept) => kept??,
        Err(unknown) => return Some(unknown),
    };
    let answer = if known { Answer::Note } else { Answer::Unknown };
    Some(Finding { mend, ..Finding::new(name, ASKED, answer, text) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lro_is_told_if_it_is_on() {
        let on = lro("eth0", Ok(Offloads { lro: true, hash: false })).unwrap();
        assert_eq!((on.answer, on.mend.as_deref()), (Answer::Warning, Some("ethtool -K eth0 lro off")));
        assert_eq!(lro("eth0", Ok(Offloads::default())), None);
    }

    #[test]
    fn gro_by_the_nic_is_told_if_it_is_on_and_mended_if_it_can_be() {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let said = |on, fixed| gro("eth0", Ok(Features { on: set(on), fixed: set(fixed) }));
        assert_eq!(said(&["rx-gro", "rx-gro-list"], &[]), None);
        let [on, fixed] = [&[][..], &["rx-gro-hw"]].map(|fixed| said(&["rx-gro-hw"], fixed).unwrap());
        assert_eq!((on.answer, on.mend.as_deref()), (Answer::Warning, Some("ethtool -K eth0 rx-gro-hw off")));
        assert_eq!((fixed.answer, fixed.mend), (Answer::Warning, None));
    }

    #[test]
    fn headers_apart_from_their_data_are_told() {
        let said = |split| data_split("eth0", Ok(split));
        assert_eq!((said(None), said(Some(false))), (None, None));
        let mend = "ethtool -G eth0 tcp-data-split off";
        assert_eq!(said(Some(true)).unwrap().mend.as_deref(), Some(mend));
    }

    #[test]
    fn tags_that_may_be_kept_away_are_unknown_where_nobody_can_ask() {
        let said = |known| {
            let kept = KeptAway { text: "why".into(), mend: Some("how".into()), known };
            let finding = tags("eth0", Ok(Some(kept))).unwrap();
            assert_eq!(finding.mend.as_deref(), Some("how"));
            finding.answer
        };
        assert_eq!([true, false].map(said), [Answer::Note, Answer::Unknown]);
        assert_eq!(tags("eth0", Ok(None)), None);
    }
}
