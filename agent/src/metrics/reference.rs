//! The README's table of metrics, made of the tree.

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
