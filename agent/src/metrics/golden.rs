//! `fixture.txt`: the page of an agent that has all that a page may have, which few machines do: pools of the kernel, times
//! in their buckets, and a rule whose words have to be escaped. Prometheus' own parser reads it in the end-to-end tests.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::Arc,
};

use super::openmetrics::render;
use crate::observe::fixture_busy;

/// Words with each character that a label's value does not have as it is.
const WORDS: &str = "udp port 53\nor \"arp\" \\ rarp";

/// What another build, machine or moment says otherwise, up to where it does.
const ELSEWHERE: [&str; 4] = [
    "umemd_build_info{",
    "umemd_capabilities_effective{",
    "umemd_kernel_page_pool_detach_timestamp_seconds{",
    "umemd_log_messages_total{",
];

/// The line as it would be anywhere.
fn anywhere(line: &str) -> String {
    match ELSEWHERE.iter().find(|name| line.starts_with(**name)) {
        Some(name) if name.starts_with("umemd_build_info") => {
            let labels =
                ["version", "revision", "rustc", "target", "kernel"].map(|name| format!("{name}=\"0\""));
            format!("{name}{}}} 1", labels.join(","))
        }
        Some(_) => line.rsplit_once(' ').map_or_else(String::new, |(series, _)| format!("{series} 0")),
        None => line.to_owned(),
    }
}

#[test]
fn the_page_with_all_that_there_can_be_is_known() {
    let mut observation = fixture_busy();
    assert!(observation.conserved());
    let rules = Arc::make_mut(&mut observation.rules);
    rules.reword_first(WORDS);
    let page: String = render(observation).unwrap().lines().map(|line| anywhere(line) + "\n").collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/metrics/fixture.txt");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let known = fs::read_to_string(&path).unwrap_or_default();
    assert!(page == known, "fixture.txt is not what it was; `UPDATE=1 cargo test -p umemd golden` writes it");
}

/// Else one could stand for another, and the page would be the same.
#[test]
fn no_two_numbers_of_the_page_are_the_same() {
    /// Yes or no.
    const FLAGS: [&str; 7] = [
        "umemd_device_up",
        "umemd_pool_conserved",
        "umemd_worker_failed",
        "umemd_worker_steered",
        "umemd_config_last_reload_successful",
        "umemd_scrape_collector_success",
        "umemd_capabilities_effective",
    ];
    let page = render(fixture_busy()).unwrap();
    let mut seen: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut same = Vec::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let name = series.split('{').next().unwrap();
        // The last bucket has all that were counted; the words of an info are its labels.
        let others = name.ends_with("_info") || name == "umemd_frame_hold_seconds_count";
        if others || FLAGS.contains(&name) || ELSEWHERE.iter().any(|name| line.starts_with(name)) {
            continue;
        }
        let with = seen.entry(value).or_default();
        // Rows of drops are numbers that others tell, too; of two rows they are different.
        let told_twice =
            |other: &&&str| name.starts_with("umemd_drops_") == other.starts_with("umemd_drops_");
        same.extend(with.iter().filter(told_twice).map(|other| format!("{other} and {series}: {value}")));
        with.insert(series);
    }
    assert_eq!(same, [""; 0]);
}
