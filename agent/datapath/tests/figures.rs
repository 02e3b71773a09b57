//! What the benchmark `turns` says of instructions that were counted.

#[path = "../benches/turns/figures.rs"]
mod figures;

use figures::{Figure, judge};

const RECORDED: &str =
    "compiler: rustc 1.95.0 for x86_64-unknown-linux-gnu\ndrop 64 1024 50\ndrop 64 4096 50\n";
const ITS: (&str, &str) = ("1.95.0", "x86_64-unknown-linux-gnu");
/// On other processors, and of other compilers, instructions are others.
const OTHERS: [(&str, &str); 3] =
    [("1.96.0", "x86_64-unknown-linux-gnu"), ("1.95.0", "aarch64-unknown-linux-gnu"), ("", "")];

fn drops(small: f64, large: f64) -> [Figure; 2] {
    [(1024, small), (4096, large)].map(|(frames, got)| Figure {
        subject: "drop",
        batch: 64,
        frames,
        most: 60.0,
        got,
    })
}

#[test]
fn what_is_recorded_holds_for_its_compiler_only() {
    for (cost, is_good) in [(50.0, true), (50.9, true), (48.9, false), (51.1, false)] {
        let judgement = judge(&drops(cost, cost), RECORDED, ITS);
        assert_eq!(judgement.is_good, is_good, "{judgement:?}");
        for other in OTHERS {
            let judgement = judge(&drops(cost, cost), RECORDED, other);
            assert!(judgement.is_good, "{judgement:?}");
            assert!(judgement.lines[0].ends_with("not compared"), "{judgement:?}");
        }
    }
    let not_recorded = judge(&drops(50.0, 50.0), RECORDED.trim_end_matches("drop 64 4096 50\n"), ITS);
    assert!(!not_recorded.is_good, "{not_recorded:?}");
}

#[test]
fn what_is_asked_holds_everywhere() {
    for compiler in OTHERS.into_iter().chain([ITS]) {
        for (figures, what) in [(drops(60.5, 60.5), "MORE THAN IS ASKED"), (drops(50.0, 51.1), "NOT FLAT")] {
            let judgement = judge(&figures, RECORDED, compiler);
            assert!(!judgement.is_good, "{compiler:?}: {judgement:?}");
            assert!(judgement.lines.iter().any(|line| line.contains(what)), "{compiler:?}: {judgement:?}");
        }
    }
}
