//! The README's table of metrics, made of the tree; and the names, for whoever must not use others.

use std::{fmt::Write as _, fs, path::Path};

use super::tree::{self, Kind};

const BEGIN: &str = "<!-- metrics: made by `UPDATE=1 cargo test -p umemd reference` -->\n";
const END: &str = "<!-- end of metrics -->";

fn table() -> String {
    let mut text = String::from("| metric | labels | what it says |\n| --- | --- | --- |\n");
    for metric in tree::all() {
        let kind = match metric.kind {
            Kind::Counter => "",
            Kind::Gauge => " (gauge)",
            Kind::Histogram => " (histogram)",
        };
        let labels = metric.labels().collect::<Vec<_>>().join(", ");
        let _ = writeln!(text, "| `{}`{kind} | {labels} | {} |", metric.sample_name(), metric.help);
    }
    text
}

#[test]
fn the_readme_has_every_metric() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = fs::read_to_string(&path).unwrap();
    let (before, rest) = readme.split_once(BEGIN).expect("the mark where the table begins");
    let (old, after) = rest.split_once(END).expect("the mark where the table ends");
    let new = table();
    if old == new {
        return;
    }
    assert!(
        std::env::var_os("UPDATE").is_some(),
        "the README's table of metrics is not that of the code; `UPDATE=1 cargo test -p umemd reference` writes it"
    );
    fs::write(path, format!("{before}{BEGIN}{new}{END}{after}")).unwrap();
}

/// Words of a text that could be metrics, or recorded from them.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':')).filter(|word| {
        word.starts_with("umemd_") || word.split_once(':').is_some_and(|(_, rest)| rest.starts_with("umemd_"))
    })
}

#[test]
fn dashboard_and_rules_use_only_metrics_that_exist() {
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist");
    let read = |path: &str| fs::read_to_string(dist.join(path)).unwrap();
    let rules = read("prometheus/rules.yml");
    let known = |word: &str| match word.contains(':') {
        true => rules.contains(&format!("record: {word}\n")),
        false => tree::all().any(|metric| metric.sample_name() == word),
    };
    for path in ["grafana/umemd.json", "prometheus/rules.yml", "prometheus/rules_test.yml"] {
        let text = read(path);
        assert!(words(&text).count() > 10, "{path} has metrics");
        for word in words(&text) {
            assert!(known(word), "{path}: there is no metric {word}");
        }
    }
    let dashboard: serde_json::Value = serde_json::from_str(&read("grafana/umemd.json")).unwrap();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(panel["targets"][0]["expr"].is_string(), "{panel}");
    }
}
