//! Every short history: all sequences of a few operations on a pool of three frames.

use crate::{
    oracle::Sizes,
    world::{Answer, Op, World},
};

/// Runs every sequence of `depth` operations out of `alphabet`, and says how many there were.
fn every_history(sizes: Sizes, alphabet: &[Op], depth: u32) -> usize {
    let count = alphabet.len().pow(depth);
    for mut number in 0..count {
        let mut world = World::new(sizes);
        for _ in 0..depth {
            world.apply(alphabet[number % alphabet.len()]);
            number /= alphabet.len();
        }
        world.end();
    }
    count
}

const SMALL: Sizes = Sizes { frames: 3, ring: 1, cache: 2, refill: 2, nodes: false };

#[test]
fn of_frames() {
    let alphabet = [Op::Alloc, Op::Put { which: 0, direct: true }, Op::Put { which: 0, direct: false }];
    for ring in 1..=3 {
        assert_eq!(every_history(Sizes { ring, ..SMALL }, &alphabet, 9), 19_683);
    }
}

#[test]
fn of_references() {
    let alphabet = [
        Op::Alloc,
        Op::Share { which: 0, refs: 2 },
        Op::Split { which: 0, refs: 1 },
        Op::PutRef { which: 0, direct: false },
        Op::Pin(0),
        Op::Unpin(0),
    ];
    every_history(SMALL, &alphabet, 6);
}

#[test]
fn of_fragments() {
    let alphabet = [
        Op::AllocFrag(2048),
        Op::AllocFrag(4096),
        Op::PutRef { which: 0, direct: true },
        Op::PutRef { which: 1, direct: false },
        Op::Mark(0),
        Op::Destroy,
    ];
    every_history(SMALL, &alphabet, 6);
}

#[test]
fn of_the_end() {
    let alphabet =
        [Op::Alloc, Op::Put { which: 0, direct: true }, Op::Give(0), Op::DropHeld(0), Op::Destroy, Op::Retry];
    every_history(SMALL, &alphabet, 6);
}

#[test]
fn of_two_pools() {
    let alphabet = [
        Op::Alloc,
        Op::Put { which: 0, direct: false },
        Op::PutForeign { direct: true },
        Op::PutForeign { direct: false },
    ];
    every_history(SMALL, &alphabet, 5);
}

#[test]
fn of_a_provider_that_is_given_what_it_must_not_and_gives_it() {
    let alphabet = [
        Op::Alloc,
        Op::Put { which: 0, direct: false },
        Op::ProviderLies,
        Op::GiveToProvider(0),
        Op::UpdateNid(false),
        Op::Destroy,
    ];
    every_history(SMALL, &alphabet, 5);
}

#[test]
fn of_the_kernels_rings() {
    let alphabet = [
        Op::Alloc,
        Op::Lend { which: 0, tx: false },
        Op::Lend { which: 0, tx: true },
        Op::Settle { which: 0, offset: 256 },
        Op::SettleWrong(0),
        Op::Reclaim,
    ];
    every_history(SMALL, &alphabet, 6);
}

#[test]
fn of_the_short_ways() {
    let pass = |tx, answers| Op::PassRun { which: 0, n: 3, room: 1, tx, answers };
    // Once the cache says how many, once the slots.
    for (cache, room) in [(1, 2), (2, 1)] {
        let alphabet = [
            Op::Alloc,
            Op::Lend { which: 0, tx: false },
            Op::Lend { which: 0, tx: true },
            pass(false, [Answer::Onward, Answer::Left, Answer::Taken, Answer::Onward]),
            pass(true, [Answer::Exchanged, Answer::Onward, Answer::Onward, Answer::Taken]),
            Op::TurnOver { which: 0, n: 3, room },
        ];
        every_history(Sizes { cache, refill: 1, ..SMALL }, &alphabet, 6);
    }
}

#[test]
fn of_frames_that_go_no_short_way_home() {
    let turn_over = Op::TurnOver { which: 0, n: 3, room: 3 };
    let marked = [
        Op::Alloc,
        Op::MarkAlone(0),
        Op::Lend { which: 0, tx: true },
        turn_over,
        Op::Settle { which: 0, offset: 0 },
        Op::Put { which: 0, direct: true },
    ];
    every_history(SMALL, &marked, 6);
    let answers = [Answer::Onward, Answer::Taken, Answer::Onward, Answer::Onward];
    let of_others = [
        Op::Alloc,
        Op::Share { which: 0, refs: 2 },
        Op::Split { which: 0, refs: 1 },
        Op::LendRef(0),
        Op::LendGuest { tx: true },
        Op::PassRun { which: 0, n: 3, room: 3, tx: true, answers },
        turn_over,
    ];
    every_history(SMALL, &of_others, 6);
}
