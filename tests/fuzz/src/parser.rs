//! The parser on any bytes.

use std::sync::OnceLock;

use oracle::Expr;
use umemd::steer::{self, Image};
use umemd_common::key::field;
use umemd_common::packet::{MACS, Untagged};
use umemd_common::{judge, parse};

/// The first byte says how long a switch's tag is, the second one where the frame is cut, the rest is the frame.
///
/// # Panics
///
/// Where the parser and the oracle disagree.
pub fn check(data: &[u8]) {
    let [tag, cut, frame @ ..] = data else { return };
    let tag = [0, 4, 8][usize::from(*tag) % 3];
    for frame in [frame, &frame[..usize::from(*cut).min(frame.len())]] {
        let tagged = Untagged { frame, tag };
        let plain = untagged(frame, tag);
        check_depth::<0>(&tagged, &plain);
        check_depth::<1>(&tagged, &plain);
        check_depth::<2>(&tagged, &plain);
        for (image, expr) in primitives() {
            let expected = expr.matches(&plain, &mut 0);
            assert_eq!(
                judge(image, &tagged, 0).rule().is_some(),
                expected,
                "`{}`: {plain:02x?}",
                expr.words()
            );
        }
    }
}

/// The frame as it was before the switch: of an 802.1Q tag Marvell's has the priority and the id, and a bit for that.
fn untagged(frame: &[u8], tag: usize) -> Vec<u8> {
    let (macs, rest) = frame.split_at(frame.len().min(MACS));
    let Some((tag, rest)) = rest.split_at_checked(tag) else { return macs.to_vec() };
    match tag {
        [.., flags, _, high, low] if flags & 0x20 != 0 => [macs, &[0x81, 0, *high, *low], rest].concat(),
        _ => [macs, rest].concat(),
    }
}

fn check_depth<const TAGS: usize>(tagged: &Untagged<'_>, plain: &[u8]) {
    let read = parse::<TAGS, _>(tagged);
    assert_eq!(read, parse::<TAGS, _>(plain), "a switch's tag was seen: {plain:02x?}");
    let fields = read.key.fields();
    assert_eq!(fields & read.missing, 0, "there and missing: {plain:02x?}");
    assert_eq!(fields & field::TRUNCATED != 0, read.missing != 0, "cut and not said to be: {plain:02x?}");
}

/// Each primitive of the language: as tables, and as the oracle knows it; in front of tags, and behind them.
fn primitives() -> &'static [(Image, Expr)] {
    static PRIMITIVES: OnceLock<Vec<(Image, Expr)>> = OnceLock::new();
    PRIMITIVES.get_or_init(|| {
        let behind = |tags: Vec<Expr>| {
            plain().into_iter().map(move |expr| {
                tags.iter().rev().fold(expr, |expr, tag| Expr::And(Box::new(tag.clone()), Box::new(expr)))
            })
        };
        let (vlan, vlan5) = (Expr::Vlan(None), Expr::Vlan(Some(5)));
        behind(vec![])
            .chain(behind(vec![vlan.clone()]))
            .chain(behind(vec![vlan, vlan5]))
            .map(|expr| {
                let rules = steer::compile(&[expr.words()]).expect("a rule that a frame can match");
                (crate::image(&rules), expr)
            })
            .collect()
    })
}

fn plain() -> Vec<Expr> {
    let mut exprs: Vec<Expr> =
        ["ip", "ip6", "arp", "rarp", "tcp", "udp", "sctp", "icmp", "icmp6"].map(Expr::Word).into();
    exprs.extend([0, 17, 44].map(Expr::IpProto));
    exprs.extend([0, 17, 44].map(Expr::Ip6Proto));
    exprs.push(Expr::EtherProto(0x88cc));
    for direction in ["src ", "dst ", "", "dst and src "] {
        for transport in [None, Some("udp")] {
            exprs.push(Expr::Port { transport, direction, from: 7, to: 7 });
        }
        exprs.push(Expr::Port { transport: None, direction, from: 8, to: 15 });
        exprs.push(Expr::Net4 { network: "", direction, address: [10, 0, 0, 1], len: 32 });
        exprs.push(Expr::Net4 { network: "arp ", direction, address: [10, 0, 0, 0], len: 8 });
        let fd00 = |last| [&[0xfd; 1][..], &[0; 14], &[last]].concat().try_into().expect("16 bytes");
        exprs.push(Expr::Net6 { direction, address: fd00(7), len: 128 });
        exprs.push(Expr::Net6 { direction, address: fd00(0), len: 33 });
        exprs.push(Expr::Mac { direction, last: 1 });
    }
    exprs
}
