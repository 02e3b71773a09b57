//! Over HTTP, which an agent on another machine answers to as well.

use std::{
    io::{self, Read as _, Write as _},
    net::{TcpStream, ToSocketAddrs as _},
    time::Duration,
};

use super::{ClientError, is_silence};
use crate::status::Status;

/// For connecting, and for each read or write.
const PATIENCE: Duration = Duration::from_secs(3);
/// What to do about an agent that does not answer; a firewall drops what nobody answers to.
const SILENT: &str = "is the machine up, umemd running there, and the port let through?";
/// More than any agent says of itself.
const LONGEST: u64 = 16 << 20;

/// The status of the agent at `url`: `http://HOST:PORT`.
pub(super) fn status(url: &str) -> Result<Status, ClientError> {
    let address = url
        .strip_prefix("http://")
        .map(|rest| rest.trim_end_matches('/'))
        .filter(|rest| rest.contains(':') && !rest.contains(['/', ' ', '\r', '\n']))
        .ok_or_else(|| ClientError::Url(url.to_owned()))?;
    let at = || url.to_owned();
    let answer = get(address, "/status", PATIENCE).map_err(|source| match is_silence(&source) {
        true => ClientError::Silent { at: at(), patience: PATIENCE, next: SILENT },
        false => ClientError::Unreachable { at: at(), flag: "--listen", source },
    })?;
    parse(&answer).map_err(|what| ClientError::Strange { at: at(), what })
}

fn get(address: &str, path: &str, patience: Duration) -> io::Result<Vec<u8>> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for candidate in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&candidate, patience) {
            Ok(mut stream) => {
                stream.set_read_timeout(Some(patience))?;
                stream.set_write_timeout(Some(patience))?;
                let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
                stream.write_all(request.as_bytes())?;
                let mut answer = Vec::new();
                stream.take(LONGEST).read_to_end(&mut answer)?;
                return Ok(answer);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The status in an answer of HTTP/1.1 that ends with the connection.
fn parse(answer: &[u8]) -> Result<Status, String> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").ok_or("no HTTP")?;
    let line = head.lines().next().unwrap_or_default();
    let code = line.split(' ').nth(1).filter(|_| line.starts_with("HTTP/1.")).ok_or("no HTTP")?;
    if code != "200" {
        return Err(format!("{line}: {}", body.trim()));
    }
    serde_json::from_str(body).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use proptest::prelude::*;

    use super::*;
    use crate::observe::fixture;

    /// Answers one request with this, on a port of its own.
    fn answering(answer: String) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).unwrap();
            assert!(request[..read].starts_with(b"GET /status HTTP/1.1\r\nHost: 127.0.0.1:"));
            stream.write_all(answer.as_bytes()).unwrap();
        });
        url
    }

    #[test]
    fn a_status_comes_as_it_was_sent() {
        let sent = Status::of(&fixture());
        let url =
            answering(format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{}", sent.json()));
        assert_eq!(status(&url).unwrap(), sent);
    }

    #[test]
    fn what_is_no_status_is_said() {
        let error =
            status(&answering("HTTP/1.1 421 Misdirected\r\n\r\nnot called that\n".into())).unwrap_err();
        assert!(error.to_string().ends_with("421 Misdirected: not called that"), "{error}");
        let error = status(&answering("SSH-2.0-OpenSSH\r\n".into())).unwrap_err();
        assert!(error.to_string().ends_with("no HTTP"), "{error}");
        for url in ["127.0.0.1:19478", "https://127.0.0.1:19478", "http://x:1/y", "http://x"] {
            assert!(matches!(status(url), Err(ClientError::Url(_))), "{url}");
        }
        // A port that was free a moment ago.
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(matches!(status(&format!("http://{free}")), Err(ClientError::Unreachable { .. })));
    }

    #[test]
    fn who_does_not_answer_is_not_waited_for_without_end() {
        // Linux takes the connection, and nobody takes it from there.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let silence = get(&address, "/status", Duration::from_millis(50)).unwrap_err();
        assert!(is_silence(&silence), "{silence:?}");
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(answer: Vec<u8>, body: String) {
            let _ = parse(&answer);
            let _ = parse(format!("HTTP/1.1 200 OK\r\n\r\n{body}").as_bytes());
        }
    }
}
