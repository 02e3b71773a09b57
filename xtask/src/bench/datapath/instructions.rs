//! Instructions per packet in user space, by callgrind: repeatable, whatever else the machine does.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::contestant::Outcome;
use crate::shell;

/// Two runs of different length: what both spend on starting and ending is in neither's difference.
const TIMES: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(6)];

/// Runs a contestant under callgrind, flooded; `None` without valgrind.
pub(super) fn per_packet(
    mut run: impl FnMut(&[OsString], Duration) -> Result<Outcome>,
) -> Result<Option<f64>> {
    let Some(valgrind) = shell::which("valgrind") else {
        eprintln!("xtask: instructions are not counted: there is no valgrind");
        return Ok(None);
    };
    let file = std::env::temp_dir().join(format!("umemd-callgrind-{}", std::process::id()));
    let out = format!("--callgrind-out-file={}", file.display());
    // Beside a sender that is not nice, on the same CPU, it runs only now and then, and finds its rings full.
    let nice = ["nice", "-n", "10"].map(OsString::from);
    let valgrind = [valgrind.into(), "--tool=callgrind".into(), "--quiet".into(), out.into()];
    let wrapper: Vec<OsString> = nice.into_iter().chain(valgrind).collect();
    let mut measure = |time| -> Result<(f64, f64)> {
        let received = run(&wrapper, time)?.packets;
        let counted = total(&file)?;
        fs::remove_file(&file)?;
        Ok((counted as f64, received as f64))
    };
    let (short, few) = measure(TIMES[0])?;
    let (long, many) = measure(TIMES[1])?;
    ensure!(many > few, "there were not more packets in {:?} than in {:?}", TIMES[1], TIMES[0]);
    Ok(Some(((long - short) / (many - few)).round()))
}

/// The instructions of all threads, as callgrind's file sums them up.
fn total(file: &Path) -> Result<u64> {
    let text = fs::read_to_string(file).with_context(|| format!("callgrind left no {}", file.display()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("totals:").or(line.strip_prefix("summary:")));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.with_context(|| format!("{} has no total", file.display()))
}
