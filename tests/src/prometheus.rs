//! [`Prometheus`]: the real one, which scrapes an agent and evaluates our rules.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use crate::{
    command::run,
    full::{Scratch, dist},
};

/// A server with our example for a configuration, but for its pace: it scrapes and evaluates once a second, and scrapes
/// itself, too. Killed, then waited for, when dropped.
#[derive(Debug)]
pub struct Prometheus {
    child: Child,
    address: SocketAddr,
    /// What it stores goes after it.
    _folder: Scratch,
}

impl Prometheus {
    /// Starts one that scrapes this agent; it may not listen yet.
    ///
    /// # Panics
    ///
    /// If it cannot be started, or the example is not what it was.
    #[track_caller]
    pub fn scraping(agent: SocketAddr) -> Self {
        let folder = Scratch::new();
        let address = free_address();
        let mut config = fs::read_to_string(dist("prometheus/scrape.yml")).expect("the example is there");
        let own = format!("  - job_name: prometheus\n    static_configs: [{{targets: [\"{address}\"]}}]\n");
        for (from, to) in [
            ("127.0.0.1:19478", agent.to_string()),
            ("scrape_interval: 15s", "scrape_interval: 1s".to_owned()),
            ("scrape_configs:\n", format!("scrape_configs:\n{own}")),
        ] {
            assert_eq!(config.matches(from).count(), 1, "the example has {from} once: {config}");
            config = config.replace(from, &to);
        }
        // Rules are evaluated once a minute otherwise: a test is over by then.
        config.insert_str(0, "global: {scrape_interval: 1s, evaluation_interval: 1s}\n");
        let file = folder.path().join("scrape.yml");
        fs::write(&file, config).expect("the folder is ours");
        fs::copy(dist("prometheus/rules.yml"), folder.path().join("rules.yml")).expect("the rules are there");
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start prometheus: {error}"));
        Self { child, address, _folder: folder }
    }

    /// What an expression comes to at this moment: its samples, or a number and when.
    ///
    /// # Errors
    ///
    /// What promtool says of an expression that is none, or of a server that does not answer.
    pub fn query(&self, expression: &str) -> Result<Vec<Value>, String> {
        let url = format!("http://{}", self.address);
        let answer =
            run(Command::new("promtool").args(["query", "instant", "--format=json", &url, expression]), "")?;
        serde_json::from_str(&answer).map_err(|error| format!("{expression}: {error}: {answer}"))
    }

    /// The value of the first sample; `None` if there is none, or nobody who answers.
    pub fn value(&self, expression: &str) -> Option<f64> {
        self.query(expression).ok()?.first()?["value"][1].as_str()?.parse().ok()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address that was free a moment ago.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("there is a free port")
}
