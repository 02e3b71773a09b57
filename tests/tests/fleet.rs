//! What runs beside an agent: Prometheus with our rules and dashboard, a browser on the live page. All of them are
//! the real ones, so these tests are for `cargo xtask test full`.

use std::{
    fs,
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Duration,
};

use e2e::{
    command::run,
    full::{self, Scratch, dist},
    lab::{Lab, PORT, STEER},
    wait::wait_until,
    wire::Wire,
};
use serde_json::Value;

/// What a browser takes to start on a busy machine, or Prometheus to scrape twice.
const PATIENCE: Duration = Duration::from_secs(60);

/// Killed, then waited for, when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

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

/// An address that was free a moment ago.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn query(prometheus: &str, expression: &str) -> Result<Value, String> {
    let url = format!("http://{prometheus}");
    let answer =
        run(Command::new("promtool").args(["query", "instant", "--format=json", &url, expression]), "")?;
    serde_json::from_str(&answer).map_err(|error| format!("{error}: {answer}"))
}

#[test]
#[ignore = "requires root and Prometheus; cargo xtask test full"]
fn prometheus_scrapes_the_agent_and_knows_every_expression() {
    if !full::permits("prometheus", "prometheus") {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    let agent = lab.agent(&["--steer", STEER]).start();
    let wire = Wire::connect(&lab.far, lab.pair().near.port(PORT));
    wire.send(0..64, |_| 18);
    agent.metrics_when("the frames", |metrics| metrics.total("umemd_rx_packets_total") == 64);

    let scratch = Scratch::new();
    let example = fs::read_to_string(dist("prometheus/scrape.yml")).unwrap();
    let config = example
        .replace("127.0.0.1:19478", &agent.address().to_string())
        .replace("scrape_interval: 15s", "scrape_interval: 1s");
    assert!(config.contains(&agent.address().to_string()) && config.contains("interval: 1s"), "{config}");
    fs::write(scratch.path().join("scrape.yml"), config).unwrap();
    fs::copy(dist("prometheus/rules.yml"), scratch.path().join("rules.yml")).unwrap();
    let address = free_address();
    let prometheus = Command::new("prometheus")
        .arg(format!("--config.file={}", scratch.path().join("scrape.yml").display()))
        .arg(format!("--storage.tsdb.path={}", scratch.path().join("data").display()))
        .arg(format!("--web.listen-address={address}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _prometheus = Running(prometheus);

    let value = |expression: &str| {
        let answer = query(&address, expression).ok()?;
        answer[0]["value"][1].as_str().map(str::to_owned)
    };
    wait_until("Prometheus has scraped", PATIENCE, || value("up{job=\"umemd\"}").as_deref() == Some("1"));
    assert_eq!(value("sum(umemd_pool_frames)").as_deref(), Some("4096"));
    assert_eq!(value("sum(umemd_rx_packets_total)").as_deref(), Some("64"));
    assert_eq!(value("count(ALERTS) or vector(0)").as_deref(), Some("0"), "nothing is wrong");

    let dashboard: Value =
        serde_json::from_str(&fs::read_to_string(dist("grafana/umemd.json")).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    for target in panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap()) {
        let expression = target["expr"].as_str().unwrap();
        let expression =
            expression.replace("$instance", ".*").replace("$device", ".*").replace("$__rate_interval", "1m");
        assert!(!expression.contains('$'), "{expression}");
        query(&address, &expression).unwrap();
    }
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
