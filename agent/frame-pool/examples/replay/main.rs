//! Replays golden traces of the kernel's page_pool on a `FramePool` and compares every output and the
//! whole state after every operation.
//!
//! `cargo run -p frame-pool --example replay -- [DIR|FILE..]`. For each file that differs it prints the
//! first difference; then `N passed, N failed`. The exit code is 1 if any failed, 2 if there was none.

mod allocator;
mod fields;
mod subject;
mod trace;

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

fn main() -> io::Result<ExitCode> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/traces");
    let mut paths: Vec<PathBuf> = env::args_os().skip(1).map(PathBuf::from).collect();
    if paths.is_empty() {
        paths.push(default);
    }
    let files = trace_files(&paths)?;
    let mut failed = 0;
    for file in &files {
        if let Err(failure) = trace::replay(file) {
            failed += 1;
            println!("{failure}");
        }
    }
    if files.is_empty() {
        eprintln!("no trace was found: name files, or folders with files that end in .jsonl");
    }
    println!("{} passed, {failed} failed", files.len() - failed);
    Ok(match (files.len(), failed) {
        (0, _) => ExitCode::from(2),
        (_, 0) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// The files named, and the `.jsonl` files of the directories named, in order of name.
fn trace_files(paths: &[PathBuf]) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let start = files.len();
        for entry in fs::read_dir(path)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "jsonl") {
                files.push(path);
            }
        }
        files[start..].sort();
    }
    Ok(files)
}
