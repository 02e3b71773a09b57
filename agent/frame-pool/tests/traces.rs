//! Replays the golden traces in `tests/traces`: what the kernel's page_pool did, the pool must do.
#![cfg(not(frame_pool_loom))]

#[path = "../examples/replay/allocator.rs"]
mod allocator;
#[path = "../examples/replay/subject.rs"]
mod subject;
#[path = "../examples/replay/trace.rs"]
mod trace;

use std::{env, fs, path::Path, process};

fn files() -> Vec<std::path::PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/traces");
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "jsonl")).collect()
}

#[test]
fn the_pool_does_what_the_kernel_did() {
    let files = files();
    assert!(files.len() >= 16, "the traces are missing");
    let failures: Vec<_> = files
        .iter()
        .filter_map(|file| trace::replay(file).err())
        .map(|failure| failure.to_string())
        .collect();
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

/// The replayer itself can fail: each kind of field, changed in one line, is noticed there.
#[test]
fn a_changed_trace_is_noticed() {
    let file = files().into_iter().find(|file| file.ends_with("a13_destroy_inflight.jsonl")).unwrap();
    let original = fs::read_to_string(file).unwrap();
    let changed = env::temp_dir().join(format!("frame-pool-changed-{}.jsonl", process::id()));
    let changes = [
        ("\"ret\":\"h1\"", "\"ret\":\"h7\""),
        ("\"page\":62", "\"page\":61"),
        ("\"refs\":0", "\"refs\":1"),
        ("\"slow\":1", "\"slow\":2"),
        ("\"ring\":3,", "\"ring\":2,"),
        ("\"inflight\":64", "\"inflight\":63"),
        ("\"users\":1", "\"users\":2"),
        ("\"phase\":\"draining\"", "\"phase\":\"freed\""),
        ("\"released\":[5", "\"released\":[6"),
        ("\"cache_ids\":[0,1", "\"cache_ids\":[1,0"),
    ];
    for (from, to) in changes {
        assert!(original.contains(from), "{from} is not in the trace");
        fs::write(&changed, original.replacen(from, to, 1)).unwrap();
        let failure = trace::replay(&changed).expect_err(from);
        assert!(failure.to_string().contains("expected"), "{failure}");
    }
    fs::remove_file(changed).unwrap();
}
