//! Replays the golden traces in `tests/traces`: what the kernel's page_pool did, the pool must do.
#![cfg(not(frame_pool_loom))]

#[path = "../examples/replay/allocator.rs"]
mod allocator;
#[path = "../examples/replay/subject.rs"]
mod subject;
#[path = "../examples/replay/trace.rs"]
mod trace;

use std::{fs, path::Path};

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

/// The replayer itself can fail: each kind of field, changed in one line, is noticed in that line.
#[test]
fn a_falsified_trace_fails_with_file_line_expected_and_got() {
    let name = "a13_destroy_inflight.jsonl";
    let original =
        fs::read_to_string(files().into_iter().find(|file| file.ends_with(name)).unwrap()).unwrap();
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
        let at = original.find(from).unwrap_or_else(|| panic!("{from} is not in the trace"));
        let line = original[..at].matches('\n').count() + 1;
        let falsified = original.replacen(from, to, 1);
        let failure = trace::replay_from(falsified.as_bytes(), Path::new(name)).expect_err(from).to_string();
        // Of a list the message has all.
        let value = |field: &str| field.split_once(':').unwrap().1.trim_end_matches(',').to_owned();
        let (place, what) = failure.split_at(name.len() + 1 + line.to_string().len());
        assert_eq!(place, format!("{name}:{line}"), "{failure}");
        let (expected, got) = what.split_once(", got ").unwrap();
        assert!(expected.contains(&format!("expected {}", value(to))), "{failure}");
        assert!(got.starts_with(&value(from)), "{failure}");
    }
}
