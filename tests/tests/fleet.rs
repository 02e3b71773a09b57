//! Prometheus beside an agent, with our rules and our dashboard, and its parser. The real ones, so these tests are for
//! `cargo xtask test full`.

use std::{collections::BTreeSet, fs, process::Command};

use e2e::{
    command::run,
    full::{self, dist},
    lab::{Lab, OTHER_PORT, PORT, STEER},
    prometheus::Prometheus,
    wait::wait_until,
    wire::Wire,
};
use serde_json::{Value, json};

#[test]
#[ignore = "requires root and promtool; cargo xtask test full"]
fn the_rules_pass_their_tests() {
    if !full::permits("promtool", "prometheus") {
        return;
    }
    for (what, file) in [("check", "prometheus/rules.yml"), ("test", "prometheus/rules_test.yml")] {
        run(Command::new("promtool").args([what, "rules"]).arg(dist(file)), "").unwrap();
    }
    run(Command::new("promtool").args(["check", "config"]).arg(dist("prometheus/scrape.yml")), "").unwrap();
}

#[test]
#[ignore = "requires root and Prometheus' parser; cargo xtask test full"]
fn the_reference_parser_reads_every_metric() {
    const PARSE: &str = "import json, sys\n\
        from prometheus_client.openmetrics.parser import text_string_to_metric_families\n\
        families = list(text_string_to_metric_families(sys.stdin.read()))\n\
        rules = [s.labels['match'] for f in families for s in f.samples if s.name == 'umemd_steer_rule_info']\n\
        empty = [f.name for f in families if not f.samples]\n\
        print(json.dumps({'families': len(families), 'rules': rules, 'empty': empty}))\n";
    const PACKAGE: &str = "/usr/lib/python3/dist-packages/prometheus_client/openmetrics/parser.py";
    if !full::permits(PACKAGE, "python3-prometheus-client") {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    let agent = lab.agent(&["--steer", STEER]).start();
    let parse = |page: &str| {
        let said = run(Command::new("/usr/bin/python3").args(["-c", PARSE]), page).unwrap();
        let parsed: Value = serde_json::from_str(&said).unwrap();
        let helps = page.lines().filter(|line| line.starts_with("# HELP ")).count();
        assert_eq!(parsed["families"], helps);
        parsed
    };
    assert_eq!(parse(&agent.get("/metrics").body)["rules"], json!([STEER]));
    // What this kernel does not tell, and a rule that is not easily written down.
    let full = parse(include_str!("../../agent/src/metrics/fixture.txt"));
    assert_eq!(full["rules"], json!(["udp port 53\nor \"arp\" \\ rarp", "arp"]));
    assert_eq!(full["empty"], json!([]));
}

/// Panels that have data wherever an agent runs. Of the others four are about the kernel's page_pools, of which a
/// kernel may tell nothing, and one is about losses.
const PANELS: [&str; 14] = [
    "Law",
    "Received",
    "Sent",
    "Recycled",
    "Queues that are steered",
    "Frames by place",
    "Received and sent",
    "Recycled by umemd",
    "What the XDP program decided",
    "Seconds since a worker's last turn",
    "What each rule took",
    "Frames that somebody keeps",
    "How long frames are kept",
    "The longest that a frame has been kept",
];

/// What the dashboard's variable of this name stands for while all of its values are chosen, as Grafana has it: what it
/// says itself, or else the values that its query finds, and no others.
fn all_of(dashboard: &Value, name: &str, ask: impl Fn(&str) -> Vec<Value>) -> String {
    let mut variables = dashboard["templating"]["list"].as_array().expect("a list").iter();
    let variable = variables.find(|variable| variable["name"] == name).expect("a variable");
    if let Some(all) = variable["allValue"].as_str() {
        return all.to_owned();
    }
    let query = variable["query"].as_str().and_then(|query| query.strip_prefix("label_values("));
    let (series, label) =
        query.and_then(|query| query.strip_suffix(')')?.rsplit_once(", ")).expect("a metric and a label");
    let value = |sample: &Value| sample["metric"][label].as_str().expect("its label").to_owned();
    let values: BTreeSet<String> = ask(series).iter().map(value).collect();
    format!("({})", values.into_iter().collect::<Vec<_>>().join("|"))
}

#[test]
#[ignore = "requires root and Prometheus; cargo xtask test full"]
fn prometheus_scrapes_the_agent_and_knows_every_expression() {
    if !full::permits("prometheus", "prometheus") {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    // What the rule does not take is lost, and what the handler drops is not.
    let agent = lab.agent(&["--steer", STEER, "--default", "drop"]).start();
    let near = &lab.pair().near;
    let wire = Wire::connect(&lab.far, near.port(PORT));
    let others = Wire::connect(&lab.far, near.port(OTHER_PORT));
    wire.send(0..64, |_| 18);
    agent.metrics_when("the frames", |metrics| metrics.total("umemd_rx_packets_total") == 64);

    let prometheus = Prometheus::scraping(agent.address());
    let value = |expression: &str| prometheus.value(expression);
    wait_until("Prometheus has scraped", full::PATIENCE, || value("up{job=\"umemd\"}") == Some(1.0));
    assert_eq!(value("sum(umemd_pool_frames)"), Some(4096.0));
    assert_eq!(value("sum(umemd_rx_packets_total)"), Some(64.0));

    // A rate takes a counter that grows from one scrape to another.
    wait_until("what a rule records is there", full::PATIENCE, || {
        wire.send(0..64, |_| 18);
        others.send(0..3, |_| 18);
        value("device_queue:umemd_pool_recycle:ratio_rate5m").is_some()
    });
    // From here on every alert has been evaluated, with data, before anybody says that none is there.
    let rounds = "sum(prometheus_rule_evaluations_total{rule_group=~\".*;umemd.alerts\"})";
    let alerts =
        fs::read_to_string(dist("prometheus/rules.yml")).unwrap().matches("- alert: ").count() as f64;
    let before = value(rounds).unwrap_or(0.0);
    wait_until("the alerts have been evaluated", full::PATIENCE, || {
        value(rounds).is_some_and(|now| now >= before + alerts)
    });
    assert_eq!(value("sum(prometheus_rule_evaluation_failures_total)"), Some(0.0));
    assert_eq!(prometheus.query("ALERTS"), Ok(Vec::new()), "nothing is wrong");

    let dashboard: Value =
        serde_json::from_str(&fs::read_to_string(dist("grafana/umemd.json")).unwrap()).unwrap();
    let query = |expression: &str| prometheus.query(expression).unwrap_or_else(|error| panic!("{error}"));
    let instance = all_of(&dashboard, "instance", query);
    let device = all_of(&dashboard, "device", |series| query(&series.replace("$instance", &instance)));
    let ask = |expression: &Value| {
        let expression = expression.as_str().unwrap().replace("$instance", &instance);
        let expression = expression.replace("$device", &device).replace("$__rate_interval", "1m");
        assert!(!expression.contains('$'), "{expression}");
        query(&expression)
    };
    let mut with_data = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let answers: Vec<_> =
            panel["targets"].as_array().unwrap().iter().map(|target| ask(&target["expr"])).collect();
        let title = panel["title"].as_str().unwrap();
        if !answers[0].is_empty() {
            with_data.push(title);
        }
        if title == "Lost" {
            let causes: Vec<_> = answers[0].iter().map(|sample| &sample["metric"]["cause"]).collect();
            let has = |cause: &str| causes.iter().any(|known| *known == cause);
            assert!(has("unmatched_dropped") && !has("handler_dropped"), "{causes:?}");
            let dropped = "sum(rate(umemd_drops_total{cause=\"handler_dropped\",lost=\"false\"}[1m])) > 0";
            assert!(value(dropped).is_some(), "but it grows, too");
        }
    }
    let empty: Vec<_> = PANELS.iter().filter(|title| !with_data.contains(title)).collect();
    assert!(empty.is_empty(), "no data in {empty:?}");

    lab.pair().remove();
    let away = "ALERTS{alertname=\"UmemdInterfaceAway\",device=\"near0\"}";
    wait_until("an alert speaks of the interface that is gone", full::PATIENCE, || value(away).is_some());
    assert_eq!(prometheus.query("umemd_worker_steered"), Ok(Vec::new()), "none of its queues is there");
}
