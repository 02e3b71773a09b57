//! `fixture.txt`: the page of an agent that has all that a page may have, which few machines do: pools of the kernel, times
//! in their buckets, and a rule whose words have to be escaped. Prometheus' own parser reads it in the end-to-end tests.

use std::{fs, path::Path, sync::Arc};

use super::openmetrics::render;
use crate::observe::fixture_with_kernel;

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
    let mut observation = fixture_with_kernel();
    observation.leaving.push(observation.devices[0].queues[1].clone());
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
