//! The HTTP listener: a few fixed pages, GET only.

use std::{convert::Infallible, io, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

/// What a page says.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// The page.
    pub body: String,
}

impl Answer {
    /// A page of plain text.
    pub fn text(status: StatusCode, body: impl Into<String>) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: body.into() }
    }
}

/// Serves for ever on `listener`; `page` answers for a path, or says `None` if there is no such page.
///
/// Runs inside a `LocalSet`: pages read state that belongs to the control thread.
pub async fn serve(listener: TcpListener, page: impl Fn(&str) -> Option<Answer> + Clone + 'static) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let page = page.clone();
                let service = service_fn(move |request| {
                    let response = respond(&request, &page);
                    async move { Ok::<_, Infallible>(response) }
                });
                tokio::task::spawn_local(async move {
                    // A client that breaks the protocol or goes away is its own problem.
                    let _ = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(Duration::from_secs(5))
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
            Err(error) => {
                // Out of descriptors, say. Without a pause this would spin until one is free.
                log::warn!("cannot accept an HTTP connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn respond(request: &Request<Incoming>, page: &impl Fn(&str) -> Option<Answer>) -> Response<Full<Bytes>> {
    let get = [Method::GET, Method::HEAD].contains(request.method());
    let answer = if get {
        page(request.uri().path()).unwrap_or_else(|| {
            Answer::text(StatusCode::NOT_FOUND, "no such page; there are /metrics, /healthz and /readyz\n")
        })
    } else {
        Answer::text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n")
    };
    let mut response = Response::new(Full::new(Bytes::from(answer.body)));
    *response.status_mut() = answer.status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    if !get {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

/// Binds the listener in the caller's network namespace, before anything else is touched.
pub fn bind(address: std::net::SocketAddr) -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
