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

/// GRO by the NIC. mlx5_core refuses a program beside it (en_main.c: mlx5e_xdp_allowed). virtio_net stops it by itself,
/// and refuses one where the host does not let it (virtio_net.c: virtnet_xdp_set).
pub(super) fn gro(name: &str, driver: &str, features: io::Result<Features>) -> Option<Finding> {
    const ASKED: &str = "hardware GRO";
    const FEATURE: &str = "rx-gro-hw";
    let Features { on, fixed } = match answer(name, ASKED, features) {
        Ok(features) => features?,
        Err(unknown) => return Some(unknown),
    };
    if !on.contains(FEATURE) {
        return None;
    }
    let fixed = fixed.contains(FEATURE);
    let (answer, what) = match driver {
        "mlx5_core" => (Answer::Warning, "mlx5_core takes no program beside that"),
        "virtio_net" if fixed => (
            Answer::Warning,
            "virtio_net takes no program then, as the host does not let it stop that; pass --mode skb",
        ),
        "virtio_net" => return None,
        _ => (Answer::Note, "some drivers refuse a program beside that, others stop it themselves"),
    };
    let finding = Finding::new(name, ASKED, answer, format!("the NIC puts packets together: {what}"));
    Some(if fixed { finding } else { finding.mended_by(format!("ethtool -K {name} {FEATURE} off")) })
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
    Some(Finding { mend: Vec::from_iter(mend), ..Finding::new(name, ASKED, answer, text) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lro_is_told_if_it_is_on() {
        let on = lro("eth0", Ok(Offloads { lro: true, hash: false })).unwrap();
        assert_eq!((on.answer, on.mend), (Answer::Warning, vec!["ethtool -K eth0 lro off".into()]));
        assert_eq!(lro("eth0", Ok(Offloads::default())), None);
    }

    #[test]
    fn gro_by_the_nic_is_told_if_it_is_on_and_mended_if_it_can_be() {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let said = |driver, on: &[&str], fixed: &[&str]| {
            let found = gro("eth0", driver, Ok(Features { on: set(on), fixed: set(fixed) }))?;
            Some((found.answer, found.mend))
        };
        let mend = || vec!["ethtool -K eth0 rx-gro-hw off".to_owned()];
        let (on, fixed) = (&["rx-gro-hw"][..], &["rx-gro-hw"][..]);
        assert_eq!(said("mlx5_core", &["rx-gro", "rx-gro-list"], &[]), None);
        assert_eq!(said("mlx5_core", on, &[]), Some((Answer::Warning, mend())));
        assert_eq!(said("virtio_net", on, fixed), Some((Answer::Warning, vec![])));
        assert_eq!(said("virtio_net", on, &[]), None, "it stops that by itself");
        assert_eq!(said("ice", on, &[]), Some((Answer::Note, mend())));
    }

    #[test]
    fn headers_apart_from_their_data_are_told() {
        let said = |split| data_split("eth0", Ok(split));
        assert_eq!((said(None), said(Some(false))), (None, None));
        let mend = "ethtool -G eth0 tcp-data-split off";
        assert_eq!(said(Some(true)).unwrap().mend, [mend]);
    }

    #[test]
    fn tags_that_may_be_kept_away_are_unknown_where_nobody_can_ask() {
        let said = |known| {
            let kept = KeptAway { text: "why".into(), mend: Some("how".into()), known };
            let finding = tags("eth0", Ok(Some(kept))).unwrap();
            assert_eq!(finding.mend, ["how"]);
            finding.answer
        };
        assert_eq!([true, false].map(said), [Answer::Note, Answer::Unknown]);
        assert_eq!(tags("eth0", Ok(None)), None);
    }
}
