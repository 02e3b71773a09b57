//! What runs beside an agent: Prometheus with our rules and dashboard, a browser on the live page. All of them are
//! the real ones, so these tests are for `cargo xtask test full`.

use std::{fs, process::Command, time::Duration};

use e2e::{
    command::run,
    full::{self, Scratch, dist},
    lab::{Lab, OTHER_PORT, PORT, STEER},
    prometheus::Prometheus,
    wait::wait_until,
    wire::Wire,
};
use serde_json::Value;

/// What a browser takes to start on a busy machine, or Prometheus to scrape twice.
const PATIENCE: Duration = Duration::from_secs(60);

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
    const PARSE: &str = "import sys\n\
        from prometheus_client.openmetrics.parser import text_string_to_metric_families\n\
        print(len(list(text_string_to_metric_families(sys.stdin.read()))))\n";
    const PACKAGE: &str = "/usr/lib/python3/dist-packages/prometheus_client/openmetrics/parser.py";
    if !full::permits(PACKAGE, "python3-prometheus-client") {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    let agent = lab.agent(&["--steer", STEER]).start();
    let page = agent.get("/metrics").body;
    let families = run(Command::new("/usr/bin/python3").args(["-c", PARSE]), &page).unwrap();
    let helps = page.lines().filter(|line| line.starts_with("# HELP ")).count();
    assert_eq!(families.trim(), helps.to_string());
}

/// Panels that have data wherever an agent runs. Of the others two are about the kernel's page_pools, of which a
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
    wait_until("Prometheus has scraped", PATIENCE, || value("up{job=\"umemd\"}") == Some(1.0));
    assert_eq!(value("sum(umemd_pool_frames)"), Some(4096.0));
    assert_eq!(value("sum(umemd_rx_packets_total)"), Some(64.0));

    // A rate takes a counter that grows from one scrape to another.
    wait_until("what a rule records is there", PATIENCE, || {
        wire.send(0..64, |_| 18);
        others.send(0..3, |_| 18);
        value("device_queue:umemd_pool_recycle:ratio_rate5m").is_some()
    });
    // From here on every alert has been evaluated, with data, before anybody says that none is there.
    let rounds = "sum(prometheus_rule_evaluations_total{rule_group=~\".*;umemd.alerts\"})";
    let alerts =
        fs::read_to_string(dist("prometheus/rules.yml")).unwrap().matches("- alert: ").count() as f64;
    let before = value(rounds).unwrap_or(0.0);
    wait_until("the alerts have been evaluated", PATIENCE, || {
        value(rounds).is_some_and(|now| now >= before + alerts)
    });
    assert_eq!(value("sum(prometheus_rule_evaluation_failures_total)"), Some(0.0));
    assert_eq!(prometheus.query("ALERTS"), Ok(Vec::new()), "nothing is wrong");

    let dashboard: Value =
        serde_json::from_str(&fs::read_to_string(dist("grafana/umemd.json")).unwrap()).unwrap();
    let ask = |expression: &Value| {
        let expression = expression.as_str().unwrap();
        let expression =
            expression.replace("$instance", ".*").replace("$device", ".*").replace("$__rate_interval", "1m");
        assert!(!expression.contains('$'), "{expression}");
        prometheus.query(&expression).unwrap_or_else(|error| panic!("{error}"))
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
    wait_until("an alert speaks of the interface that is gone", PATIENCE, || value(away).is_some());
    assert_eq!(prometheus.query("umemd_worker_steered"), Ok(Vec::new()), "none of its queues is there");
}

#[test]
#[ignore = "requires root and Chromium; cargo xtask test full"]
fn the_live_page_shows_what_the_status_says() {
    if !full::permits("chromium", "chromium") {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    let agent = lab.agent(&["--steer", STEER]).start();
    let wire = Wire::connect(&lab.far, lab.pair().near.port(PORT));
    wire.send(0..64, |_| 18);
    agent.metrics_when("the frames", |metrics| metrics.total("umemd_rx_packets_total") == 64);

    let profile = Scratch::new();
    let page = run(
        Command::new("chromium")
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"])
            // Its clock runs ahead while it waits for nothing: three polls.
            .arg("--virtual-time-budget=3000")
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(format!("http://{}/", agent.address())),
        "",
    )
    .unwrap();
    let status: Value = serde_json::from_str(&agent.get("/status").body).unwrap();
    let frames = status["devices"][0]["queues"][0]["frames"].as_object().unwrap();
    assert_eq!(frames.len(), 11);
    for (place, frames) in frames {
        let mark = format!("data-value=\"{place}\">");
        let shown = page.split_once(&mark).unwrap_or_else(|| panic!("no {place}: {page}")).1;
        let shown: String = shown.chars().take_while(|c| *c != '<').filter(char::is_ascii_digit).collect();
        assert_eq!(shown, frames.to_string(), "{place}");
    }
    for words in ["the law holds", "near0 (veth): native mode, copy", "<path"] {
        assert!(page.contains(words), "{words}: {page}");
    }
}
