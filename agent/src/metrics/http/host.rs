//! Who may be named in `Host`.
//!
//! A page of somebody else's, open in a browser on this machine, can make that browser ask us: its script gives
//! its own name our address (DNS rebinding), and may then read the answer, as both have one origin. What it cannot
//! choose is the name that the browser sends. So an address will do, and this machine's own names; any other
//! name must have been allowed by `--allow-host`.

use std::net::{IpAddr, Ipv6Addr};

/// The names by which this agent may be called.
#[derive(Clone, Debug, Default)]
pub struct Hosts(Vec<String>);

impl Hosts {
    /// `localhost`, this machine's own name, and these.
    pub fn new(allowed: &[String]) -> Self {
        let own = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let names = ["localhost".to_owned(), own].into_iter().chain(allowed.iter().cloned());
        Self(names.filter(|name| !name.is_empty()).map(|name| name.to_ascii_lowercase()).collect())
    }

    /// Whether the value of a `Host` header names us.
    pub(super) fn allow(&self, host: &str) -> bool {
        let name = without_port(host).to_ascii_lowercase();
        let name = name.strip_suffix('.').unwrap_or(&name);
        let address = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
            Some(name) => name.parse::<Ipv6Addr>().is_ok(),
            None => name.parse::<IpAddr>().is_ok_and(|address| address.is_ipv4()),
        };
        address || self.0.iter().any(|known| known == name)
    }
}

/// `[::1]:80` is `[::1]`, `localhost:80` is `localhost`.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_and_own_names_will_do() {
        let hosts = Hosts(vec!["localhost".into(), "board1".into()]);
        for host in
            ["127.0.0.1", "127.0.0.1:19478", "[::1]:19478", "[fe80::1]", "LOCALHOST:1", "board1", "board1."]
        {
            assert!(hosts.allow(host), "{host}");
        }
        for host in [
            "",
            ":80",
            "evil.example",
            "evil.example:19478",
            "127.0.0.1.evil.example",
            "board1.evil.example",
            "::1",
            "[127.0.0.1]",
            "127.0.0.1:x",
            "localhost@evil.example",
        ] {
            assert!(!hosts.allow(host), "{host}");
        }
    }

    #[test]
    fn this_machine_knows_its_name() {
        let hosts = Hosts::new(&["Prometheus.example".into()]);
        assert!(hosts.allow("localhost") && hosts.allow("prometheus.example:9090"));
        assert!(hosts.allow(&rustix::system::uname().nodename().to_string_lossy()));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(host: String) {
            Hosts::new(&[]).allow(&host);
        }
    }
}
