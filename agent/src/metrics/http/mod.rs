//! The HTTP listener: a few fixed pages, to be read only (GET, and HEAD without the body).
//!
//! Nobody who connects can harm the agent: a request fits 8 KiB, the first one comes within five seconds and each
//! other one within two and a half minutes, and then within five seconds of its first byte; and who takes nothing of its
//! answer for ten seconds is not waited for. Of too many connections one that dawdles is closed, so that those who are
//! slow on purpose keep nobody else out; and who asks again and again, on one connection as Prometheus and browsers do,
//! gives way after an answer. Pages are
//! made on this one thread, at once but for the wait for workers, and take no lock of ours that a worker takes (of the
//! kernel's one: see [`observe`](crate::observe)); those that cost something one after the other, and once for all who ask
//! meanwhile.

mod hearing;
mod host;
mod requests;

use std::{convert::Infallible, io, rc::Rc, time::Duration};

use hearing::Hearing;
pub use host::Hosts;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode, Version,
    body::{Bytes, Incoming},
    header::{
        ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderValue,
        X_CONTENT_TYPE_OPTIONS,
    },
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
#[cfg(test)]
pub(crate) use requests::PAGES;
pub use requests::Requests;
use rustix::net::sockopt::set_tcp_user_timeout;
use tokio::net::TcpListener;

use crate::connections::{self, Heard, PATIENCE};

/// For the first request to come, and for the rest of any other one to come behind its first byte.
const REQUEST_TIME: Duration = Duration::from_secs(5);
/// For the other end to take some of an answer: `TCP_USER_TIMEOUT`, after which the kernel gives up a connection whose
/// other end acknowledges nothing of what was sent, or has no room for what is to be sent. Each byte that it takes begins
/// that time anew: who takes his time and leaves room for others is not hurried.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// For an answer to be taken, and the next request to come: longer than Prometheus waits between scrapes, so that it need
/// not connect for each. Two minutes are the longest that make sense there, as a sample is forgotten after five. It keeps
/// its side for five minutes (prometheus/common: `IdleConnTimeout`), so it is we who close; were that at two minutes
/// sharp, a request could cross the end.
const KEPT_TIME: Duration = Duration::from_secs(150);
/// Bytes of a request; the least that hyper can be told.
const REQUEST_BYTES: usize = 8192;
/// Headers of a request.
const REQUEST_HEADERS: usize = 64;
/// Connections at once.
const CONNECTIONS: usize = 32;

/// What a page says.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// The page.
    pub body: Bytes,
}

impl Answer {
    /// A page of plain text.
    pub fn text(status: StatusCode, body: impl Into<String>) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: body.into().into() }
    }
}

/// Serves for ever on `listener`; `page` answers for a path, or says `None` if there is no such page.
///
/// Runs inside a `LocalSet`: pages read state that belongs to the control thread.
pub async fn serve(
    listener: TcpListener,
    hosts: Hosts,
    requests: Requests,
    page: impl AsyncFn(&str) -> Option<Answer> + 'static,
) {
    let page = Rc::new(page);
    let accept = async || {
        let (stream, _) = listener.accept().await?;
        // The kernel knows whether an answer is taken; hyper has no limit for that.
        set_tcp_user_timeout(&stream, ANSWER_TIME.as_millis() as u32)?;
        Ok(stream)
    };
    let serve = |stream, heard: Heard| {
        let (page, hosts, requests) = (Rc::clone(&page), hosts.clone(), requests.clone());
        let asked = heard.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            asked.asked();
            let (page, hosts, requests) = (Rc::clone(&page), hosts.clone(), requests.clone());
            let asked = asked.clone();
            async move {
                let mut response = respond(&request, &hosts, &*page).await;
                asked.answered();
                requests.count(request.uri().path(), response.status());
                if asked.is_last() {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(response)
            }
        });
        let connection = http1::Builder::new()
            // It would end connections that are kept, too.
            .header_read_timeout(None)
            .max_buf_size(REQUEST_BYTES)
            .max_headers(REQUEST_HEADERS)
            // Who says that he asks nothing more still wants his answer.
            .half_close(true)
            .serve_connection(TokioIo::new(Hearing::new(stream, heard.clone())), service);
        // A client that breaks the protocol, dawdles or goes away is its own problem.
        async move {
            tokio::select! {
                _ = connection => {}
                () = heard.silence(REQUEST_TIME, KEPT_TIME) => {}
            }
        }
    };
    connections::serve_each("an HTTP connection", CONNECTIONS, PATIENCE, accept, serve).await;
}

async fn respond(
    request: &Request<Incoming>,
    hosts: &Hosts,
    page: &impl AsyncFn(&str) -> Option<Answer>,
) -> Response<Full<Bytes>> {
    let host = request.headers().get(HOST).map(HeaderValue::to_str);
    // Of a HEAD hyper sends no body, which is all that is different.
    let reads = [Method::GET, Method::HEAD].contains(request.method());
    let answer = match host {
        // Browsers name a host; what speaks HTTP/1.0 without is none.
        None if request.version() == Version::HTTP_11 => {
            Answer::text(StatusCode::BAD_REQUEST, "HTTP/1.1 wants a Host\n")
        }
        Some(name) if !name.as_ref().is_ok_and(|name| hosts.allow(name)) => Answer::text(
            StatusCode::MISDIRECTED_REQUEST,
            "umemd is not called that: ask for its address, or start it with --allow-host NAME\n",
        ),
        _ if !reads => Answer::text(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only\n"),
        _ => page(request.uri().path()).await.unwrap_or_else(|| {
            Answer::text(
                StatusCode::NOT_FOUND,
                "no such page; there are /, /metrics, /status, /healthz and /readyz\n",
            )
        }),
    };
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // The live page brings its own style and script, and asks nobody but us.
    let policy = "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                  frame-ancestors 'none'; base-uri 'none'";
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    if !reads {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

/// Binds the listener in the caller's network namespace, before anything else is touched.
///
/// # Errors
///
/// If the address cannot be listened on.
pub fn bind(address: std::net::SocketAddr) -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
mod tests;
