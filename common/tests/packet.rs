//! The parser against a table, against frames that etherparse builds, and against frames cut anywhere.

mod frames;

use etherparse::{PacketBuilder, VlanId};
use proptest::prelude::*;
use umemd_common::key::{End, field};
use umemd_common::packet::{ETH_P_IP, ETH_P_IPV6, IPPROTO_TCP, IPPROTO_UDP, Parsed, Untagged};
use umemd_common::search::{Depth, Hit, Set, Shape, Tables, Unit};
use umemd_common::{Decision, Key, View, decision::Action, judge, parse};

/// Tables of one rule, in a table of one slot.
struct OneRule {
    set: Set,
    shape: Shape,
    unit: Unit,
}

impl OneRule {
    fn new() -> Self {
        let rule = frames::rule();
        let [a, b, c, ..] = rule.value.words;
        let mut set = Set::default();
        set.depths[0] = Depth { first: 0, count: 1 };
        Self {
            set,
            shape: Shape { mask: rule.mask, slots: 1, ..Shape::default() },
            unit: [Hit::new(0, 0, Action::Redirect, false).word(), a, b, c],
        }
    }
}

impl Tables for OneRule {
    fn set(&self) -> Option<&Set> {
        Some(&self.set)
    }

    fn shape(&self, place: u32) -> Option<&Shape> {
        (place == 0).then_some(&self.shape)
    }

    fn unit(&self, place: u32) -> Option<&Unit> {
        (place == 0).then_some(&self.unit)
    }

    fn queues(&self, _: u32) -> u64 {
        0
    }
}

fn key_of(frame: &[u8]) -> Key {
    parse::<0, _>(frame).key
}

#[test]
fn every_frame_of_the_table_is_seen_and_judged_as_it_says() {
    let rule = OneRule::new();
    for frames::Case { name, frame, seen, decision } in frames::table() {
        assert_eq!(frames::Seen::from(key_of(&frame)), seen, "{name}");
        assert_eq!(judge(&rule, frame.as_slice(), 0).decision, decision, "{name}");
    }
}

#[test]
fn the_default_is_to_pass_or_to_drop() {
    let mut rule = OneRule::new();
    rule.set.drop = 1;
    for frames::Case { name, frame, decision, .. } in frames::table() {
        let expected = match decision {
            Decision::Unmatched => Decision::UnmatchedDropped,
            Decision::Truncated => Decision::TruncatedDropped,
            Decision::Malformed => Decision::MalformedDropped,
            other => other,
        };
        assert_eq!(judge(&rule, frame.as_slice(), 0).decision, expected, "{name}");
    }
}

/// The view is read as the bytes are, behind no tag, one, and two.
fn check_alike(view: &Untagged<'_>, plain: &[u8], what: &str) {
    assert_eq!(parse::<0, _>(view), parse::<0, _>(plain), "{what}, behind no tag");
    assert_eq!(parse::<1, _>(view), parse::<1, _>(plain), "{what}, behind one tag");
    assert_eq!(parse::<2, _>(view), parse::<2, _>(plain), "{what}, behind two tags");
}

#[test]
fn a_frame_from_a_switch_is_read_as_it_came_to_the_switch() {
    let tags: [&[u8]; 5] = [
        &[],
        &[0x81, 0, 0xbf, 0xff],
        &[0x81, 0, 0, 5],
        &[0x81, 0, 0xf0, 7, 0x81, 0, 0, 5],
        &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 5],
    ];
    for frames::Case { name, frame, .. } in frames::table() {
        for (tags, tag) in tags.into_iter().flat_map(|tags| [(tags, 4), (tags, 8)]) {
            let plain = [&frame[..12], tags, &frame[12..]].concat();
            let switched = frames::from_switch(&plain, tag);
            for len in 0..=switched.len() {
                let view = Untagged { frame: &switched[..len], tag };
                let plain_len = match len {
                    0..12 => len,
                    // Within the tag, the frame ends behind its addresses.
                    _ if len < 12 + tag => 12,
                    _ => len + plain.len() - switched.len(),
                };
                let what = format!("{name}, {tags:02x?}, {tag} bytes of the switch, cut at {len}");
                check_alike(&view, &plain[..plain_len], &what);
            }
        }
    }
}

/// The fields of a key with the bit that says whether each is there.
fn fields(key: &Key) -> Vec<(u32, u128)> {
    let mac = |end| {
        let [a, b, c, d, e, f] = key.mac(end);
        u128::from(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]))
    };
    let v4 = |end| u128::from(u32::from_le_bytes(key.ipv4(end)));
    let mut fields = vec![
        (field::MAC_DST, mac(End::Dst)),
        (field::MAC_SRC, mac(End::Src)),
        (field::ETHER_PROTO, key.ether_proto().into()),
        (field::IP_PROTO, key.ip_proto().into()),
        (field::FRAGMENT_PROTO, key.fragment_proto().into()),
        (field::SRC_PORT, key.port(End::Src).into()),
        (field::DST_PORT, key.port(End::Dst).into()),
    ];
    for tag in 0..2 {
        fields.push((field::TAG_TYPE << tag, key.tag_type(tag).into()));
        fields.push((field::TAG_ID << tag, key.tag_id(tag).into()));
    }
    // The two families of addresses lie in the same place.
    if key.fields() & (field::SRC4 | field::DST4) != 0 {
        fields.extend([(field::SRC4, v4(End::Src)), (field::DST4, v4(End::Dst))]);
    } else {
        for word in 0..4 {
            for (bit, end) in [(field::SRC6, End::Src), (field::DST6, End::Dst)] {
                let words = u128::from_le_bytes(key.ipv6(end)) >> (32 * word);
                fields.push((bit << word, words & 0xffff_ffff));
            }
        }
    }
    fields
}

/// A cut frame shows a part of what the whole one does, and says what is missing, and that it is cut.
fn check_cuts<const TAGS: usize>(name: &str, frame: &[u8]) {
    let whole = parse::<TAGS, _>(frame);
    let status = field::TRUNCATED | field::MALFORMED;
    for len in 0..frame.len() {
        let Parsed { key: cut, missing } = parse::<TAGS, _>(&frame[..len]);
        let lacks = whole.key.fields() & !cut.fields() & !status;
        assert_eq!(cut.fields() & missing, 0, "{name}, cut at {len}: there and missing");
        assert_eq!(lacks & !missing, 0, "{name}, cut at {len}: gone without a word");
        assert_eq!(cut.fields() & field::TRUNCATED != 0, missing != 0, "{name}, cut at {len}");
        let whole_fields = fields(&whole.key);
        for (bit, value) in fields(&cut) {
            if cut.fields() & bit == 0 {
                assert_eq!(value, 0, "{name}, cut at {len}: field {bit:#x} has a value, and is not there");
            } else {
                let there = whole_fields.contains(&(bit, value)) && whole.key.fields() & bit != 0;
                assert!(there, "{name}, cut at {len}: field {bit:#x} is another one");
            }
        }
    }
}

fn check_all_cuts(name: &str, frame: &[u8]) {
    check_cuts::<0>(name, frame);
    check_cuts::<1>(name, frame);
    check_cuts::<2>(name, frame);
}

#[test]
fn every_frame_of_the_table_can_be_cut_anywhere() {
    for case in frames::table() {
        check_all_cuts(case.name, &case.frame);
    }
}

/// What is put into a frame that etherparse builds.
#[derive(Clone, Debug)]
struct Built {
    v6: bool,
    tcp: bool,
    vlan: bool,
    src: u16,
    dst: u16,
    payload: Vec<u8>,
}

prop_compose! {
    fn built()(
        v6: bool, tcp: bool, vlan in prop::bool::weighted(0.2), src: u16, dst: u16,
        payload in prop::collection::vec(any::<u8>(), 0..64)
    ) -> Built {
        Built { v6, tcp, vlan, src, dst, payload }
    }
}

impl Built {
    fn frame(&self) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let v4 = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let v6 = ([0xfd; 16], [0xfe; 16]);
        let vlan = VlanId::try_new(5).unwrap();
        let ip = match (self.vlan, self.v6) {
            (false, false) => ethernet.ipv4(v4.0, v4.1, 64),
            (false, true) => ethernet.ipv6(v6.0, v6.1, 64),
            (true, false) => ethernet.single_vlan(vlan).ipv4(v4.0, v4.1, 64),
            (true, true) => ethernet.single_vlan(vlan).ipv6(v6.0, v6.1, 64),
        };
        let mut frame = Vec::new();
        if self.tcp {
            ip.tcp(self.src, self.dst, 1, 1024).write(&mut frame, &self.payload).unwrap();
        } else {
            ip.udp(self.src, self.dst).write(&mut frame, &self.payload).unwrap();
        }
        frame
    }

    /// What is there in front of any tag, or behind one.
    fn check(&self, key: &Key) {
        let proto = if self.tcp { IPPROTO_TCP } else { IPPROTO_UDP };
        assert_eq!(key.ether_proto(), if self.v6 { ETH_P_IPV6 } else { ETH_P_IP });
        assert_eq!((key.ip_proto(), key.port(End::Src), key.port(End::Dst)), (proto, self.src, self.dst));
        if self.v6 {
            assert_eq!((key.ipv6(End::Src), key.ipv6(End::Dst)), ([0xfd; 16], [0xfe; 16]));
        } else {
            assert_eq!((key.ipv4(End::Src), key.ipv4(End::Dst)), ([10, 0, 0, 1], [10, 0, 0, 2]));
        }
        assert_eq!((key.mac(End::Src), key.mac(End::Dst)), ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]));
        assert_eq!(key.fields() & (field::TRUNCATED | field::MALFORMED), 0);
    }
}

proptest! {
    #[test]
    fn frames_of_etherparse_are_read_as_they_were_built(built in built()) {
        let frame = built.frame();
        if built.vlan {
            let key = parse::<1, _>(frame.as_slice()).key;
            built.check(&key);
            prop_assert_eq!((key.tag_type(0), key.tag_id(0)), (0x8100, 5));
            prop_assert_eq!(key_of(&frame).ether_proto(), 0x8100);
        } else {
            built.check(&key_of(&frame));
        }
        check_all_cuts("built", &frame);
    }

    /// Trapped or forwarded, from whichever port.
    #[test]
    fn of_a_switchs_tag_one_bit_and_the_id_are_looked_at(built in built(), header: [u8; 4], edsa: bool) {
        let frame = built.frame();
        let (macs, rest) = frame.split_at(12);
        let front: &[u8] = if edsa { &[0xda, 0xda, 0, 0] } else { &[] };
        let [flags, _, high, low] = header;
        let plain = if flags & 0x20 == 0 {
            frame.clone()
        } else {
            [macs, &[0x81, 0, high, low], rest].concat()
        };
        let switched = [macs, front, &header, rest].concat();
        check_alike(&Untagged { frame: &switched, tag: front.len() + 4 }, &plain, "built");
    }

    #[test]
    fn any_bytes_are_read_without_panic(
        ether_proto in prop::sample::select(vec![ETH_P_IP, ETH_P_IPV6, 0x0806, 0x8035, 0x8100, 0x88a8, 0]),
        payload in prop::collection::vec(any::<u8>(), 0..120)
    ) {
        check_all_cuts("any", &frames::ethernet(ether_proto, &payload));
    }

    #[test]
    fn a_load_is_what_slicing_gives(bytes in prop::collection::vec(any::<u8>(), 0..40), offset in 0_usize..50) {
        let sliced = bytes.get(offset..offset + 4).map(|four| <[u8; 4]>::try_from(four).unwrap());
        prop_assert_eq!(bytes.as_slice().load::<4>(offset), sliced);
    }
}
