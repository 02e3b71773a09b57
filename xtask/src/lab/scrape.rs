//! Asks umemd over HTTP, as its users do.

use std::fmt;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

/// Frames received over all queues, in OpenMetrics.
const RECEIVED: &str = "umemd_rx_packets_total";

/// Longer than frames stay on a veth pair, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether `/readyz` says 200.
pub(crate) fn is_ready(address: &str) -> bool {
    get(address, "/readyz").is_some()
}

/// Waits until all that was sent is received, or no more comes, and says how much it was.
pub(crate) fn settled(address: &str, sent: u64) -> Option<u64> {
    let deadline = Instant::now() + PATIENCE;
    let mut before = None;
    loop {
        let received = get(address, "/metrics").and_then(|page| total(&page, RECEIVED));
        let still = received.is_some() && received == before;
        if received.is_none_or(|received| received >= sent) || still || Instant::now() >= deadline {
            return received;
        }
        before = received;
        // Longer than umemd takes to publish a turn.
        thread::sleep(Duration::from_millis(200));
    }
}

/// The body of a 200.
pub(crate) fn get(address: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    stream.write_all(request(path, address, "close").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    (head.split_whitespace().nth(1) == Some("200")).then(|| body.to_owned())
}

/// A request, to be sent by one write, as clients do: `write!` would make it one for each piece, and wake who reads
/// it each time.
fn request(path: &str, host: impl fmt::Display, connection: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: {connection}\r\n\r\n")
}

/// A connection that is kept from one scrape to the next, as Prometheus keeps it (`config/http_config.go` of its common
/// library: keep-alive, unless that is switched off, and for five minutes without a request).
#[derive(Debug)]
pub(crate) struct Kept(BufReader<TcpStream>);

impl Kept {
    /// Connects.
    pub(crate) fn to(address: &str) -> Option<Self> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        Some(Self(BufReader::new(stream)))
    }

    /// The body of a 200.
    pub(crate) fn get(&mut self, path: &str) -> Option<String> {
        let address = self.0.get_ref().peer_addr().ok()?;
        self.0.get_mut().write_all(request(path, address, "keep-alive").as_bytes()).ok()?;
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let start = head.len();
            self.0.read_line(&mut head).ok().filter(|read| *read > 0)?;
            if let Some((name, value)) = head[start..].split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().ok()?;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).ok()?;
        (head.split_whitespace().nth(1) == Some("200")).then(|| String::from_utf8(body).ok())?
    }
}

/// The sum of a metric's samples; `None` if it has none.
pub(crate) fn total(page: &str, name: &str) -> Option<u64> {
    let samples = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = if rest.starts_with('{') { rest.rsplit_once('}')?.1 } else { rest };
        value.split_whitespace().next()?.parse::<u64>().ok()
    });
    samples.reduce(|sum, value| sum + value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_over_queues() {
        let page = "# TYPE umemd_rx_packets counter\n\
                    umemd_rx_packets_total{device=\"near0\",queue=\"0\"} 7\n\
                    umemd_rx_packets_total{device=\"near0\",queue=\"1\"} 5\n\
                    umemd_rx_packets_totally 100\n# EOF\n";
        assert_eq!(total(page, RECEIVED), Some(12));
        assert_eq!(total("# EOF\n", RECEIVED), None);
    }
}
