//! The queues of an interface: which are served, which can ever see a packet, who polls them, and their rings.

use std::{collections::BTreeSet, io};

use super::{
    super::{Answer, Finding},
    answer,
};
use crate::{
    nic::{NicError, drivers, netdev::RxQueue, probe::Facts, quirks::Kind},
    sys::ethtool::{Channels, Rings},
};

/// Those that `umemd run` serves if nobody says which. How many were `allocated` is said if that is all that is known.
pub(super) fn served(name: &str, chosen: Result<Vec<u32>, &NicError>, allocated: Option<u32>) -> Finding {
    const ASKED: &str = "queues";
    match (chosen.as_deref(), allocated) {
        // The first one is always active.
        (Ok([_]), _) => Finding::new(name, ASKED, Answer::Ok, "umemd serves queue 0"),
        (Ok(queues), None) => {
            let text = format!("umemd serves {} queues, 0 to {}", queues.len(), last(queues));
            Finding::new(name, ASKED, Answer::Ok, text)
        }
        (Ok(queues), Some(allocated)) => {
            let text = format!(
                "the kernel does not tell how many are active, as Linux 6.8 does of an interface that is up: \
                 {allocated} were allocated, and umemd serves {}, 0 to {}",
                queues.len(),
                last(queues)
            );
            Finding::new(name, ASKED, Answer::Unknown, text)
        }
        (Err(error), _) => Finding::new(name, ASKED, Answer::Unknown, error.to_string()),
    }
}

/// The number of the last one; they are in order.
fn last(queues: &[u32]) -> u32 {
    queues.last().copied().unwrap_or(0)
}

/// Those of the queues served that nothing can be sent on: `umemd run` refuses handlers that send there.
pub(super) fn mute(name: &str, served: &[u32], mute: &[u32]) -> Option<Finding> {
    if mute.is_empty() {
        return None;
    }
    let text = format!(
        "nothing can be sent on {} {}, as there are fewer queues to send than to receive: umemd run refuses handlers \
         that send there",
        if mute.len() == 1 { "queue" } else { "queues" },
        list(mute, ", ")
    );
    let finding = Finding::new(name, "mute queues", Answer::Warning, text);
    let others: Vec<u32> = served.iter().copied().filter(|queue| !mute.contains(queue)).collect();
    Some(match others.is_empty() {
        true => finding,
        false => finding.mended_by(format!("umemd run --iface {name} --queues {} ...", list(&others, ","))),
    })
}

/// Numbers of queues, as one says them or types them.
pub(super) fn list(queues: &[u32], between: &str) -> String {
    queues.iter().map(u32::to_string).collect::<Vec<_>>().join(between)
}

/// Queues that the NIC's table for spreading flows does not name: they never see a packet, unless a rule of the
/// NIC's own sends one there.
pub(super) fn silent_queues(
    name: &str,
    table: io::Result<Vec<u32>>,
    queues: Option<Vec<u32>>,
) -> Option<Finding> {
    const ASKED: &str = "silent queues";
    // A driver without a table has its own ways; the quirks know some.
    let table: BTreeSet<u32> = match answer(name, ASKED, table) {
        Ok(table) => table?.into_iter().collect(),
        Err(unknown) => return Some(unknown),
    };
    // That they are not told is said of them already.
    let queues = queues?;
    let silent: Vec<String> =
        queues.iter().filter(|queue| !table.contains(queue)).map(ToString::to_string).collect();
    if table.is_empty() || silent.is_empty() {
        return None;
    }
    let (word, verb, them) =
        if silent.len() == 1 { ("queue", "receives", "it") } else { ("queues", "receive", "them") };
    let text = format!("{word} {} {verb} no flow: the NIC's RSS table leaves {them} out", silent.join(", "));
    let mend = format!("ethtool -X {name} equal {}", queues.len());
    Some(Finding::new(name, ASKED, Answer::Warning, text).mended_by(mend))
}

/// The first Linux whose AF_XDP sockets ask the queue that they are bound to who polls it (net/xdp/xsk.c: xsk_bind,
/// 5ef44b3cb43b). Before it their driver told them, in a way that nobody else can see.
const ASK_THE_QUEUE: (u32, u32) = (6, 13);
/// And those in copy mode (b95ed5517354).
const ASK_IN_COPY_MODE: (u32, u32) = (6, 15);

/// Whether sockets can know who polls their queue, without which AF_XDP's busy polling does nothing.
pub(super) fn napi(name: &str, facts: &Facts, queues: io::Result<Option<Vec<RxQueue>>>) -> Option<Finding> {
    const ASKED: &str = "NAPI";
    let finding = |answer, text: String| Some(Finding::new(name, ASKED, answer, text));
    let queues = match answer(name, ASKED, queues) {
        Ok(queues) => queues?,
        Err(unknown) => return Some(unknown),
    };
    if queues.as_ref().is_some_and(Vec::is_empty) {
        return None;
    }
    if facts.linux < ASK_THE_QUEUE {
        return match drivers::source_of(&facts.driver, |kind| kind == Kind::NoNapi) {
            Some(source) => {
                let text = "the driver does not tell who polls its queues: busy polling does nothing";
                finding(Answer::Note, format!("{text} ({source})"))
            }
            None => {
                let text = "whether AF_XDP sockets are told who polls the queues, and so whether busy polling can \
                            work, cannot be seen before Linux 6.13";
                finding(Answer::Unknown, text.to_owned())
            }
        };
    }
    let Some(queues) = queues else {
        let text = "this kernel does not tell who polls the queues, and so not whether busy polling can work";
        return finding(Answer::Unknown, text.to_owned());
    };
    let text = match queues.iter().all(|queue| queue.napi.is_some()) {
        false => "the driver does not tell who polls its queues: busy polling does nothing",
        true if facts.linux < ASK_IN_COPY_MODE => {
            "the driver tells who polls each queue: busy polling can work in zero-copy mode, and in copy mode since \
             Linux 6.15"
        }
        true => "the driver tells who polls each queue: busy polling can work",
    };
    finding(Answer::Note, text.to_owned())
}

pub(super) fn ring(name: &str, rings: io::Result<Rings>) -> Option<Finding> {
    const ASKED: &str = "ring";
    let Rings { rx, tx } = match answer(name, ASKED, rings) {
        Ok(rings) => rings?,
        Err(unknown) => return Some(unknown),
    };
    let mut text = format!("{} receive descriptors per queue, of at most {}", rx.now, rx.most);
    if tx.most > 0 {
        text += &format!("; {} to send, of at most {}", tx.now, tx.most);
    }
    (rx.most > 0).then(|| Finding::new(name, ASKED, Answer::Note, text))
}

/// How many queues there are and may be: those that receive, and those that send.
pub(super) fn channels(name: &str, now: io::Result<Channels>, most: io::Result<Channels>) -> Option<Finding> {
    const ASKED: &str = "channels";
    let both = now.and_then(|now| Ok((now, most?)));
    let (now, most) = match answer(name, ASKED, both) {
        Ok(both) => both?,
        Err(unknown) => return Some(unknown),
    };
    let text = format!(
        "{} receive, of at most {}; {} send, of at most {}",
        now.rx + now.combined,
        most.rx.max(most.combined),
        now.tx + now.combined,
        most.tx.max(most.combined),
    );
    (now.rx + now.combined > 0).then(|| Finding::new(name, ASKED, Answer::Note, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::ethtool::Ring;

    #[test]
    fn how_many_queues_are_active_is_unknown_where_nobody_tells() {
        let said = |queues: &[u32], allocated| {
            let finding = served("eth0", Ok(queues.to_vec()), allocated);
            (finding.answer, finding.text)
        };
        assert_eq!(said(&[0, 1, 2], None), (Answer::Ok, "umemd serves 3 queues, 0 to 2".into()));
        let (answer, text) = said(&[0, 1, 2], Some(256));
        assert_eq!(answer, Answer::Unknown);
        assert!(text.ends_with("256 were allocated, and umemd serves 3, 0 to 2"), "{text}");
        let one = (Answer::Ok, "umemd serves queue 0".to_owned());
        assert_eq!([said(&[0], None), said(&[0], Some(1))], [one.clone(), one], "one is always active");
        let error = NicError::links(io::ErrorKind::Other.into());
        assert_eq!(served("eth0", Err(&error), None).answer, Answer::Unknown);
    }

    #[test]
    fn queues_that_nothing_can_be_sent_on_are_named_and_the_others_advised() {
        assert_eq!(mute("eth0", &[0, 1], &[]), None);
        let said = |served: &[u32], silent: &[u32]| {
            let finding = mute("eth0", served, silent).unwrap();
            assert_eq!(finding.answer, Answer::Warning);
            (finding.text, finding.mend.concat())
        };
        let (text, mend) = said(&[0, 1, 2, 3], &[2, 3]);
        assert!(text.starts_with("nothing can be sent on queues 2, 3, as"), "{text}");
        assert_eq!(mend, "umemd run --iface eth0 --queues 0,1 ...");
        let (text, mend) = said(&[0], &[0]);
        assert!(text.starts_with("nothing can be sent on queue 0, as") && mend.is_empty(), "{text} {mend}");
    }

    #[test]
    fn queues_that_the_nics_table_leaves_out_are_named() {
        let said = |table: &[u32], queues: &[u32]| {
            let finding = silent_queues("eth0", Ok(table.to_vec()), Some(queues.to_vec()))?;
            assert_eq!(finding.answer, Answer::Warning);
            Some((finding.text, finding.mend.concat()))
        };
        let (text, mend) = said(&[0, 1, 0, 1], &[0, 1, 2, 3]).unwrap();
        assert!(
            text.starts_with("queues 2, 3 receive no flow") && text.ends_with("leaves them out"),
            "{text}"
        );
        assert_eq!(mend, "ethtool -X eth0 equal 4");
        let (text, _) = said(&[0, 0], &[0, 1]).unwrap();
        assert!(text.starts_with("queue 1 receives no flow"), "{text}");
        assert_eq!((said(&[1, 0], &[0, 1]), said(&[], &[0])), (None, None));
    }

    #[test]
    fn who_polls_which_ring_is_told_where_sockets_ask_as_well() {
        let queue = |napi| RxQueue { number: 0, napi, has_xsk: false };
        let facts = |driver: &str, linux| Facts { driver: driver.into(), linux, ..Facts::default() };
        let polls = |linux, queues: &[RxQueue]| {
            let finding = napi("eth0", &facts("ice", linux), Ok(Some(queues.to_vec())))?;
            assert_eq!(finding.answer, Answer::Note);
            Some(finding.text)
        };
        let each = [queue(Some(7))];
        assert!(polls((6, 15), &each).unwrap().ends_with("busy polling can work"));
        assert!(polls((6, 13), &each).unwrap().contains("can work in zero-copy mode"));
        assert!(polls((6, 13), &[queue(Some(7)), queue(None)]).unwrap().contains("does nothing"));
        assert_eq!(polls((6, 15), &[]), None);
        let untold = napi("eth0", &facts("ice", (6, 15)), Ok(None)).expect("it is unknown then");
        assert_eq!(untold.answer, Answer::Unknown);
        // An older kernel's sockets were told by the driver, which the table knows of some.
        for told in [None, Some(vec![queue(None)]), Some(each.to_vec())] {
            let said = |driver| napi("eth0", &facts(driver, (6, 12)), Ok(told.clone())).expect("it matters");
            let veth = said("veth");
            assert!(
                veth.answer == Answer::Unknown && veth.text.contains("before Linux 6.13"),
                "{}",
                veth.text
            );
            let board = said("mvneta");
            assert!(board.answer == Answer::Note && board.text.contains("does nothing"), "{}", board.text);
            assert!(board.text.ends_with("(mvneta.c: mvneta_create_page_pool, NAPI 0)"), "{}", board.text);
        }
    }

    #[test]
    fn rings_and_channels_are_told_of_both_directions() {
        let descriptors = |rx, tx| {
            let [rx, tx] = [rx, tx].map(|(now, most)| Ring { now, most });
            ring("eth0", Ok(Rings { rx, tx })).map(|finding| finding.text)
        };
        let one_way = "512 receive descriptors per queue, of at most 1024";
        assert_eq!(descriptors((512, 1024), (0, 0)).unwrap(), one_way);
        let both = format!("{one_way}; 256 to send, of at most 2048");
        assert_eq!(descriptors((512, 1024), (256, 2048)), Some(both));
        assert_eq!(descriptors((0, 0), (0, 0)), None);

        let of = |now, most| channels("eth0", Ok(now), Ok(most)).map(|finding| finding.text);
        let combined = |combined| Channels { combined, ..Channels::default() };
        assert_eq!(of(combined(4), combined(8)).unwrap(), "4 receive, of at most 8; 4 send, of at most 8");
        let apart = |rx, tx| Channels { rx, tx, combined: 0 };
        assert_eq!(of(apart(2, 1), apart(4, 4)).unwrap(), "2 receive, of at most 4; 1 send, of at most 4");
        assert_eq!(of(combined(0), combined(0)), None, "nobody has a tun open");
    }
}
