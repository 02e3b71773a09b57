//! The parser against a table, against frames that etherparse builds, and against frames cut anywhere.

mod frames;

use etherparse::{PacketBuilder, VlanId};
use proptest::prelude::*;
use umemd_common::packet::{ETH_P_IP, ETH_P_IPV6, IPPROTO_TCP, IPPROTO_UDP, field};
use umemd_common::{Decision, Key, View, decide, parse};

fn key_of(frame: &[u8]) -> Key {
    parse(frame)
}

#[test]
fn every_frame_of_the_table_is_seen_and_judged_as_it_says() {
    let rules = [frames::rule()];
    for frames::Case { name, frame, key, decision } in frames::table() {
        assert_eq!(key_of(&frame), key, "{name}");
        assert_eq!(decide(&key, &rules), decision, "{name}");
    }
}

#[test]
fn the_table_has_every_decision_that_the_host_can_make() {
    let table = frames::table();
    for decision in Decision::ALL {
        // Without a map of sockets there is no queue that could lack one.
        let expected = decision != Decision::NoSocket;
        assert_eq!(table.iter().any(|case| case.decision == decision), expected, "{}", decision.name());
    }
}

/// The fields of a key with the bit that says whether each is there.
fn fields(key: &Key) -> [(u32, u16); 5] {
    [
        (field::ETHER_PROTO, key.ether_proto),
        (field::IP_PROTO, key.ip_proto.into()),
        (field::FRAGMENT_PROTO, key.fragment_proto.into()),
        (field::SRC_PORT, key.src_port),
        (field::DST_PORT, key.dst_port),
    ]
}

/// A cut frame shows a part of what the whole one does, and says that it was cut if a field is missing.
fn check_all_cuts(name: &str, frame: &[u8]) {
    let whole = key_of(frame);
    for len in 0..frame.len() {
        let cut = key_of(&frame[..len]);
        for ((bit, cut_value), (_, whole_value)) in fields(&cut).into_iter().zip(fields(&whole)) {
            if cut.fields & bit != 0 {
                assert!(whole.fields & bit != 0, "{name}, cut at {len}: field {bit} out of nothing");
                assert_eq!(cut_value, whole_value, "{name}, cut at {len}");
            } else {
                assert_eq!(cut_value, 0, "{name}, cut at {len}: a value that is not there");
            }
        }
        let missing = whole.fields & !cut.fields & !(field::TRUNCATED | field::MALFORMED);
        assert_eq!(
            cut.fields & field::TRUNCATED != 0,
            missing != 0 || whole.fields & field::TRUNCATED != 0,
            "{name}, cut at {len}"
        );
    }
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
        let ip = match (self.vlan, self.v6) {
            (false, false) => ethernet.ipv4(v4.0, v4.1, 64),
            (false, true) => ethernet.ipv6(v6.0, v6.1, 64),
            (true, false) => ethernet.single_vlan(VlanId::ZERO).ipv4(v4.0, v4.1, 64),
            (true, true) => ethernet.single_vlan(VlanId::ZERO).ipv6(v6.0, v6.1, 64),
        };
        let mut frame = Vec::new();
        if self.tcp {
            ip.tcp(self.src, self.dst, 1, 1024).write(&mut frame, &self.payload).unwrap();
        } else {
            ip.udp(self.src, self.dst).write(&mut frame, &self.payload).unwrap();
        }
        frame
    }

    fn key(&self) -> Key {
        if self.vlan {
            return Key { fields: field::ETHER_PROTO, ether_proto: 0x8100, ..Key::default() };
        }
        Key {
            fields: field::ETHER_PROTO | field::IP_PROTO | field::SRC_PORT | field::DST_PORT,
            ether_proto: if self.v6 { ETH_P_IPV6 } else { ETH_P_IP },
            src_port: self.src,
            dst_port: self.dst,
            ip_proto: if self.tcp { IPPROTO_TCP } else { IPPROTO_UDP },
            fragment_proto: 0,
        }
    }
}

proptest! {
    #[test]
    fn frames_of_etherparse_are_read_as_they_were_built(built in built()) {
        let frame = built.frame();
        prop_assert_eq!(key_of(&frame), built.key());
        check_all_cuts("built", &frame);
    }

    #[test]
    fn any_bytes_are_read_without_panic(
        ether_proto in prop::sample::select(vec![ETH_P_IP, ETH_P_IPV6, 0x0806, 0x8100, 0]),
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
