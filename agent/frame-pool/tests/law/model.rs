//! Thousands of operations at random on a pool and everything that holds its frames; what fails is shrunk.

use proptest::prelude::*;

use crate::{
    oracle::Sizes,
    world::{Answer, Op, World},
};

/// What is done with a frame that came back: mostly what lets the run go on.
fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        6 => Just(Answer::Onward),
        3 => Just(Answer::Taken),
        1 => Just(Answer::Left),
        1 => Just(Answer::Exchanged),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let few = 0..24u8;
    prop_oneof![
        6 => Just(Op::Alloc),
        3 => few.clone().prop_map(Op::AllocBulk),
        6 => any::<(u8, bool)>().prop_map(|(which, direct)| Op::Put { which, direct }),
        3 => (few.clone(), any::<bool>()).prop_map(|(n, direct)| Op::PutBulk { n, direct }),
        2 => (any::<u8>(), 0..5u8).prop_map(|(which, refs)| Op::Share { which, refs }),
        1 => any::<u8>().prop_map(Op::Unshare),
        2 => (any::<u8>(), 0..4u8).prop_map(|(which, refs)| Op::Split { which, refs }),
        1 => (any::<u8>(), 0..4u8).prop_map(|(which, refs)| Op::Charge { which, refs }),
        4 => any::<(u8, bool)>().prop_map(|(which, direct)| Op::PutRef { which, direct }),
        2 => (few.clone(), any::<bool>()).prop_map(|(n, direct)| Op::PutRefsBulk { n, direct }),
        1 => any::<u8>().prop_map(Op::Pin),
        1 => any::<u8>().prop_map(Op::Unpin),
        1 => any::<u8>().prop_map(Op::Mark),
        1 => any::<u8>().prop_map(Op::MarkAlone),
        4 => (0..4200u16).prop_map(Op::AllocFrag),
        2 => any::<u8>().prop_map(Op::Give),
        1 => any::<u8>().prop_map(Op::CloneHeld),
        2 => any::<u8>().prop_map(Op::DropHeld),
        1 => any::<u8>().prop_map(Op::UnholdHeld),
        1 => any::<u8>().prop_map(Op::GiveToken),
        1 => any::<u8>().prop_map(Op::Redeem),
        1 => any::<u8>().prop_map(Op::RedeemAgain),
        6 => any::<(u8, bool)>().prop_map(|(which, tx)| Op::Lend { which, tx }),
        1 => any::<u8>().prop_map(Op::LendRef),
        1 => any::<bool>().prop_map(|tx| Op::LendGuest { tx }),
        2 => any::<(u8, u16)>().prop_map(|(which, offset)| Op::Settle { which, offset }),
        1 => any::<u8>().prop_map(Op::SettleWrong),
        2 => (any::<u8>(), few.clone(), few.clone(), any::<bool>(), prop::array::uniform4(answer())).prop_map(
            |(which, n, room, tx, answers)| Op::PassRun { which, n, room, tx, answers }
        ),
        2 => (any::<u8>(), few.clone(), few).prop_map(|(which, n, room)| Op::TurnOver { which, n, room }),
        1 => Just(Op::Reclaim),
        1 => any::<bool>().prop_map(|direct| Op::PutForeign { direct }),
        1 => any::<u8>().prop_map(Op::ProviderGives),
        1 => Just(Op::ProviderLies),
        1 => any::<u8>().prop_map(Op::GiveToProvider),
        1 => any::<bool>().prop_map(Op::UpdateNid),
    ]
}

/// The end of a pool comes once, and late operations after it.
fn ops() -> impl Strategy<Value = Vec<Op>> {
    let late = prop_oneof![4 => op(), 1 => Just(Op::Retry), 1 => Just(Op::Destroy)];
    (prop::collection::vec(op(), 0..400), prop::option::of(prop::collection::vec(late, 0..60))).prop_map(
        |(mut ops, late)| {
            ops.extend(late.into_iter().flat_map(|late| [Op::Destroy].into_iter().chain(late)));
            ops
        },
    )
}

fn sizes() -> impl Strategy<Value = Sizes> {
    (1..80u32, 1..50u32, 1..20usize, 1..20usize, any::<bool>()).prop_map(
        |(frames, ring, cache, refill, nodes)| Sizes {
            frames,
            ring,
            cache,
            refill: refill.min(cache),
            nodes,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_frame_is_in_one_place_whatever_is_done(sizes in sizes(), ops in ops()) {
        let mut world = World::new(sizes);
        for op in ops {
            world.apply(op);
        }
        world.end();
    }
}
