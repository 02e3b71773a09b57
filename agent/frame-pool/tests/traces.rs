//! Replays the golden traces in `tests/traces`: what the kernel's page_pool did, the pool must do.
#![cfg(not(frame_pool_loom))]

#[path = "../examples/replay/allocator.rs"]
mod allocator;
#[path = "../examples/replay/fields.rs"]
mod fields;
#[path = "../examples/replay/subject.rs"]
mod subject;
#[path = "../examples/replay/trace.rs"]
mod trace;

use std::{fs, path::Path};

use serde_json::{Map, Value, json};

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

/// What is not of the format is refused with the reason, and never taken for something else.
#[test]
fn a_malformed_trace_is_refused() {
    let replaced = |at: usize, from: &'static str, to: &'static str| {
        move |lines: &mut Vec<String>| {
            assert!(lines[at].contains(from), "{from} is not in line {}", at + 1);
            lines[at] = lines[at].replacen(from, to, 1);
        }
    };
    let bulk =
        |lines: &mut Vec<String>| lines.iter().position(|line| line.contains("\"op\":\"put_bulk\"")).unwrap();
    type Change = Box<dyn FnOnce(&mut Vec<String>)>;
    let refusals: [(Change, &str); 16] = [
        (Box::new(|lines| lines.clear()), "a06_put_bulk: the file is empty"),
        (Box::new(|lines| lines.truncate(1)), ":1: the file ends before the first operation"),
        (Box::new(|lines| drop(lines.remove(0))), ":1: field `misuse` is missing"),
        (Box::new(|lines| drop(lines.remove(1))), ":2: the first operation is not `create`"),
        (Box::new(|lines| lines.insert(2, lines[1].clone())), ":3: a trace has one pool"),
        (Box::new(|lines| lines.insert(2, String::new())), ":3: EOF while parsing"),
        (Box::new(|lines| lines[2].truncate(40)), ":3: EOF while parsing"),
        (Box::new(|lines| lines[2] = "[]".into()), ":3: invalid type: sequence, expected a map"),
        (Box::new(replaced(0, "\"order\":0", "\"order\":2")), ":1: a frame is one chunk"),
        (Box::new(replaced(0, "\"page_size\":4096", "\"page_size\":1000")), ":1: a chunk of 1000 bytes"),
        (Box::new(replaced(0, "\"cache_size\":128", "\"cache_size\":-1")), ":1: `cache_size` cannot be -1"),
        (Box::new(replaced(0, "\"kernel\":\"6.12", "\"kernel\":\"six")), "is not a kernel version"),
        (Box::new(replaced(2, "\"alloc\",", "\"allot\",")), ":3: operation `allot` is unknown"),
        (Box::new(replaced(2, "\"waive\":0", "\"warp\":0")), ":3: field `waive` is missing"),
        (Box::new(replaced(2, "\"hold\":", "\"held\":")), ":3: field `hold` is missing"),
        (
            Box::new(move |lines| {
                let at = bulk(lines);
                lines[at] = lines[at].replacen("\"h\":[\"", "\"h\":[1,\"", 1);
            }),
            "`h` is not a list of handles",
        ),
    ];
    for (change, reason) in refusals {
        let refusal = replay_changed("a06_put_bulk", change).expect_err(reason);
        assert!(refusal.starts_with("a06_put_bulk") && refusal.contains(reason), "{reason}: {refusal}");
    }
}

/// Replays a trace after `change` was made to its lines.
fn replay_changed(name: &str, change: impl FnOnce(&mut Vec<String>)) -> Result<(), String> {
    let file = files().into_iter().find(|file| file.file_stem().unwrap() == name).unwrap();
    let mut lines: Vec<_> = fs::read_to_string(file).unwrap().lines().map(str::to_owned).collect();
    change(&mut lines);
    let failure = |failure: trace::Failure| failure.to_string();
    trace::replay_from(lines.join("\n").as_bytes(), Path::new(name)).map_err(failure)
}

/// To give a right back twice is refused, and only a trace that says `misuse` may do it.
#[test]
fn misuse_is_refused() {
    for (name, put, last) in [
        ("a08_multiref", "\"op\":\"put\"", "\"refs\":0"),
        ("a08_multiref", "\"op\":\"unref\"", "\"refs\":0"),
        ("a06_put_bulk", "\"op\":\"put_bulk\"", ""),
        ("a09_foreign_ref", "\"op\":\"put_page\"", "\"foreign\":0"),
    ] {
        for misuse in [true, false] {
            let replayed = replay_changed(name, |lines| {
                let at = lines.iter().position(|line| line.contains(put) && line.contains(last)).expect(put);
                lines.insert(at + 1, lines[at].clone());
                lines[0] = lines[0].replace("\"misuse\":false", &format!("\"misuse\":{misuse}"));
            });
            assert_eq!(replayed.is_ok(), misuse, "{name}: {put} twice: {replayed:?}");
        }
    }
}

/// A foreign reference does not keep a page from being made several.
#[test]
fn a_pinned_page_can_be_shared() {
    let with = |state: &str, fields: Value| -> String {
        let mut line: Map<String, Value> = serde_json::from_str(state).unwrap();
        line.retain(|field, _| !["op", "h", "n", "direct", "page", "refs", "ret"].contains(&field.as_str()));
        line.extend(["released", "disconnected"].map(|field| (field.to_owned(), json!([]))));
        line.extend(fields.as_object().unwrap().clone());
        Value::Object(line).to_string()
    };
    let replayed = replay_changed("a08_multiref", |lines| {
        let at = lines.iter().position(|line| line.contains("\"op\":\"fragment\"")).unwrap();
        let fragment: Value = serde_json::from_str(&lines[at]).unwrap();
        let (handle, page) = (&fragment["h"], &fragment["page"]);
        let put = with(&lines[at], json!({"op": "put_page", "page": page, "foreign": 0}));
        let get = with(&lines[at - 1], json!({"op": "get_page", "h": handle, "page": page, "foreign": 1}));
        lines.insert(at + 1, put);
        lines.insert(at, get);
    });
    assert_eq!(replayed, Ok(()));
}
