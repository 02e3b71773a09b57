//! What the dashboard and the rules of `dist` ask Prometheus for: only what the tree has, metrics and labels. A query
//! that asks for more finds nothing, and says nothing of it.

use std::{collections::BTreeSet, fs, path::Path};

use super::tree::{self, Kind};
use crate::{
    drops::example,
    nic::drivers::{DRIVERS, ZeroCopy},
    page_pool::STALLED_AFTER_S,
    status::{DropStatus, Status},
};

/// Labels that Prometheus itself gives to every series.
const OF_PROMETHEUS: [&str; 2] = ["instance", "job"];

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("dist").join(path)).unwrap()
}

/// The rules, and the tests of them.
fn rules() -> [String; 2] {
    [read("prometheus/rules.yml"), read("prometheus/rules_test.yml")]
}

fn dashboard() -> serde_json::Value {
    serde_json::from_str(&read("grafana/umemd.json")).unwrap()
}

/// Panels of the dashboard.
fn panels() -> Vec<serde_json::Value> {
    dashboard()["panels"].as_array().unwrap().clone()
}

fn is_of_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

/// Words of a text that could be metrics, or recorded from them, each with what follows it.
fn metrics(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut before = ' ';
    let starts = text.char_indices().filter_map(move |(at, c)| {
        let follows = is_of_word(std::mem::replace(&mut before, c));
        (is_of_word(c) && !follows).then_some(at)
    });
    starts.filter_map(|at| {
        let (word, rest) =
            text[at..].split_at(text[at..].find(|c| !is_of_word(c)).unwrap_or(text.len() - at));
        let recorded = word.split_once(':').is_some_and(|(_, rest)| rest.starts_with("umemd_"));
        (recorded || word.starts_with("umemd_")).then_some((word, rest))
    })
}

/// The labels of a metric, or of what a rule records: the first part of its name says which it keeps. `None` if there
/// is none of that name.
fn labels(metric: &str) -> Option<BTreeSet<String>> {
    let mut labels = BTreeSet::from(OF_PROMETHEUS.map(str::to_owned));
    if let Some((level, _)) = metric.split_once(':') {
        rules()[0].contains(&format!("record: {metric}\n")).then_some(())?;
        labels.extend(level.split('_').map(str::to_owned));
    } else {
        let known = tree::all().find(|known| known.sample_name() == metric)?;
        labels.extend(known.labels().map(str::to_owned));
        labels.extend((known.kind == Kind::Histogram).then(|| "le".to_owned()));
    }
    Some(labels)
}

/// Names in `{name="value",...}`, if the text begins with that.
fn selected(text: &str) -> Vec<&str> {
    let Some(mut rest) = text.strip_prefix('{') else { return Vec::new() };
    let mut names = Vec::new();
    while let Some((name, more)) = rest.split_once(['=', '!']) {
        names.push(name.trim_matches([',', ' ']));
        // Values may have anything in them but quotes.
        let mut quoted = more.splitn(3, '"').skip(1);
        assert!(quoted.next().is_some(), "{text}");
        rest = quoted.next().unwrap_or_default();
        if rest.starts_with('}') {
            break;
        }
    }
    names
}

/// Names in `by (...)` and `on(...)`.
fn grouped(text: &str) -> Vec<&str> {
    let lists =
        ["by (", "on("].iter().flat_map(|word| text.match_indices(word).map(|(at, word)| at + word.len()));
    let names = lists.flat_map(|at| text[at..].split(')').next().unwrap_or_default().split(','));
    names.map(str::trim).collect()
}

/// Checks an expression: that what it selects by is there, and what it groups by, wherever it does.
#[track_caller]
fn check(whose: &str, expression: &str) {
    let used: Vec<_> = metrics(expression).collect();
    assert!(!used.is_empty(), "{whose} asks for none of our metrics: {expression}");
    for (metric, rest) in used {
        let known = labels(metric).unwrap_or_else(|| panic!("{whose}: there is no metric {metric}"));
        for name in selected(rest).into_iter().chain(grouped(expression)) {
            assert!(known.contains(name), "{whose}: {metric} has no label {name}, only {known:?}");
        }
    }
}

/// The texts between `begin` and `end`.
fn between<'a>(text: &'a str, begin: &'a str, end: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(begin).skip(1).map(move |rest| rest.split(end).next().unwrap_or_default())
}

#[test]
fn the_dashboard_asks_for_what_there_is() {
    for panel in panels() {
        let title = panel["title"].as_str().unwrap();
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            check(title, expression);
            let legend = target["legendFormat"].as_str().unwrap_or_default();
            for name in between(legend, "{{", "}}") {
                let kept = grouped(expression);
                let all = metrics(expression).filter_map(|(metric, _)| labels(metric));
                let known =
                    all.flatten().any(|label| label == name) && (kept.is_empty() || kept.contains(&name));
                assert!(known, "{title}: its legend has {name}: {expression}");
            }
        }
    }
    let dashboard = dashboard();
    let variables = dashboard["templating"]["list"].as_array().unwrap().iter();
    for query in variables.filter(|variable| variable["type"] == "query").map(|variable| &variable["query"]) {
        let query = query.as_str().unwrap();
        check("a variable", query);
        let name = query.trim_end_matches(')').rsplit(", ").next().unwrap();
        let (metric, _) = metrics(query).next().unwrap();
        assert!(labels(metric).unwrap().contains(name), "{query}");
    }
}

/// Pools of interfaces that are gone are at `lo`, which is none of the devices that the variable finds.
#[test]
fn all_devices_of_the_dashboard_are_also_those_that_are_gone() {
    let detached =
        "umemd_kernel_page_pool_detach_timestamp_seconds{instance=~\"$instance\",device=~\"$device\"}";
    let mut targets = panels().into_iter().flat_map(|panel| panel["targets"].as_array().unwrap().clone());
    assert!(targets.any(|target| target["expr"].as_str().unwrap().contains(detached)));
    let dashboard = dashboard();
    let mut variables = dashboard["templating"]["list"].as_array().unwrap().iter();
    let device = variables.find(|variable| variable["name"] == "device").unwrap();
    assert_eq!((&device["includeAll"], &device["allValue"]), (&true.into(), &".*".into()));
}

/// Losses are those rows of the drop table that say of themselves that they are, and not a list of some that are not.
#[test]
fn what_the_dashboard_calls_lost_is_what_the_drop_table_does() {
    let lost = panels().into_iter().find(|panel| panel["title"] == "Lost").unwrap();
    let expression = lost["targets"][0]["expr"].as_str().unwrap();
    assert!(expression.contains("lost=\"true\"") && !expression.contains("cause!"), "{expression}");

    // And their sum is what the other surfaces say.
    let sum = lost["targets"][1]["expr"].as_str().unwrap();
    assert!(sum.starts_with("sum(rate(umemd_drops_total{"), "{sum}");
    let selects = |row: &DropStatus| {
        let lost = !sum.contains("lost=\"true\"") || row.lost;
        lost && !sum.contains(&format!("layer!=\"{}\"", row.layer))
    };
    let (then, now, told) = example::read();
    let count =
        |status: &Status| status.devices[0].drops.iter().filter(|r| selects(r)).map(|r| r.count).sum::<u64>();
    assert_eq!(count(&now) - count(&then), told.lost, "{sum}");
}

#[test]
fn rules_ask_for_what_there_is() {
    let [rules, tests] = rules();
    for rule in between(&rules, "      - ", "\n      - ") {
        let name = rule.split_whitespace().nth(1).unwrap();
        let expression = rule.split_once("expr:").unwrap().1;
        let expression = expression.split("\n        for:").next().unwrap();
        let expression = expression.split("\n        labels:").next().unwrap().split("\n\n").next().unwrap();
        // Prometheus' own: whether there was an answer. The job is that of scrape.yml.
        if expression.trim() == "up{job=\"umemd\"} == 0" {
            continue;
        }
        check(name, expression);
        for label in between(rule, "$labels.", " }}") {
            let all = metrics(expression).filter_map(|(metric, _)| labels(metric));
            assert!(all.flatten().any(|known| known == label), "{name} speaks of label {label}");
        }
    }
    for (metric, rest) in metrics(&tests) {
        let known = labels(metric).unwrap_or_else(|| panic!("rules_test.yml: there is no metric {metric}"));
        for name in selected(rest) {
            assert!(known.contains(name), "rules_test.yml: {metric} has no label {name}");
        }
    }
    // What annotations speak of is there, too.
    for (metric, _) in metrics(&rules) {
        assert!(labels(metric).is_some(), "rules.yml: there is no metric {metric}");
    }
}

#[test]
fn each_alert_is_tested_when_it_fires_and_when_it_does_not() {
    let [rules, tests] = rules();
    let alerts: Vec<&str> = between(&rules, "- alert: ", "\n").collect();
    assert!(alerts.len() > 8, "{alerts:?}");
    for alert in alerts {
        let fires = [format!("alertname: {alert}\n        exp_alerts:\n"), format!("alertname=\"{alert}\"")];
        assert!(fires.iter().any(|text| tests.contains(text)), "{alert} never fires in rules_test.yml");
        assert!(tests.contains(&format!("alertname: {alert}, exp_alerts: []")), "{alert} is never silent");
    }
}

/// No alert asks for zero-copy of a driver that umemd itself does not ask for it.
#[test]
fn copy_mode_is_no_news_of_drivers_that_are_better_with_it() {
    let avoided = DRIVERS.iter().filter(|driver| driver.zero_copy == ZeroCopy::Avoid);
    let names: Vec<_> = avoided.map(|driver| driver.name).collect();
    let selector = format!("driver!~\"{}\"", names.join("|"));
    assert!(rules()[0].contains(&selector), "rules.yml: UmemdCopyMode has no {selector}");
}

/// What the alert calls stalled is what everybody else does.
#[test]
fn a_pool_is_stalled_for_the_alert_when_it_is_elsewhere() {
    // One whose last pages are out is about to end; of which nobody knows how many are, is not.
    let expression = format!(
        "detach_timestamp_seconds >= {STALLED_AFTER_S}\n          unless on(instance, device, pool) \
         umemd_kernel_page_pool_inflight_pages == 0\n"
    );
    assert!(rules()[0].contains(&expression), "rules.yml: UmemdKernelPoolStalled has no {expression}");
}

#[test]
fn selectors_and_groups_are_understood() {
    let expression = "sum by (le, a) (rate(umemd_x_total{b=~\"$b\", c!=\"}\"}[5m])) / on(d) rule:umemd_y:z";
    let found: Vec<_> = metrics(expression).map(|(metric, rest)| (metric, selected(rest))).collect();
    assert_eq!(found, [("umemd_x_total", vec!["b", "c"]), ("rule:umemd_y:z", vec![])]);
    assert_eq!(grouped(expression), ["le", "a", "d"]);
    assert!(labels("umemd_drops_total").unwrap().contains("cause") && labels("umemd_drop_total").is_none());
}
