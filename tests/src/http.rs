//! As much of HTTP/1.1 as it takes to ask for one page.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

use crate::wait::PATIENCE;

/// What a server answered.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The page.
    pub body: String,
}

impl Response {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Sends one request without a body, and reads until the server closes.
///
/// # Errors
///
/// If the server cannot be reached, or does not answer in HTTP.
pub fn request(method: &str, address: SocketAddr, path: &str) -> io::Result<Response> {
    request_of(&address.to_string(), method, address, path)
}

/// The same, calling the server by this name.
///
/// # Errors
///
/// As [`request`].
pub fn request_of(host: &str, method: &str, address: SocketAddr, path: &str) -> io::Result<Response> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    parse(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("no HTTP: {text:?}")))
}

fn parse(text: &str) -> Option<Response> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let (status, headers) = head.split_once("\r\n").unwrap_or((head, ""));
    let status = status.strip_prefix("HTTP/1.1 ")?.split(' ').next()?.parse().ok()?;
    let headers = headers
        .split("\r\n")
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Some(Response { status, headers, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_a_status_headers_and_a_body() {
        let response =
            parse("HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\n\r\nno\n").unwrap();
        assert_eq!(response.status, 503);
        assert_eq!(response.header("content-type"), Some("text/plain"));
        assert_eq!(response.body, "no\n");
        assert!(parse("SSH-2.0-OpenSSH\r\n\r\n").is_none());
    }
}
