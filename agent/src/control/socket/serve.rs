//! Answers on the control socket: one line in, one line out.
//!
//! Nobody who connects can harm the agent: a request is bounded in bytes and time, its answer in time, and of too many
//! connections one that dawdles is closed. All of it is on the control thread, which no worker ever waits for.

use std::{io, rc::Rc, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    time::timeout,
};

use crate::{
    connections::{self, Heard, PATIENCE},
    protocol::{self, LONGEST_REQUEST, Refusal, Request},
};

/// For a request's first byte to its last.
const REQUEST_TIME: Duration = Duration::from_secs(5);
/// For all of an answer to be taken: who asked is a program on this machine, and what it does not read at once fits the
/// socket's buffer, or nearly.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// Connections at once.
const CONNECTIONS: usize = 8;

/// Who answers; with a line of [`protocol::answer`].
pub(in crate::control) trait Respond: 'static {
    /// Does what is asked.
    async fn respond(&self, request: Request) -> String;
}

/// Serves for ever. Runs inside a `LocalSet`: what is asked for belongs to the control thread.
pub(in crate::control) async fn serve<R: Respond>(listener: UnixListener, responder: Rc<R>) {
    let accept = async || listener.accept().await.map(|(stream, _)| stream);
    let serve = |stream, heard| {
        let responder = Rc::clone(&responder);
        // Whoever dawdles or goes away is its own problem.
        async move { drop(converse(stream, heard, &*responder).await) }
    };
    connections::serve_each("a connection to the control socket", CONNECTIONS, PATIENCE, accept, serve).await;
}

async fn converse(mut stream: UnixStream, heard: Heard, responder: &impl Respond) -> io::Result<()> {
    let line = timeout(REQUEST_TIME, read_line(&mut stream)).await??;
    heard.asked();
    let answer = match line {
        Line::None => return Ok(()),
        Line::TooLong => {
            refuse(format_args!("a request has at most {LONGEST_REQUEST} bytes, and ends with a newline"))
        }
        Line::Whole(line) => match Request::parse(&line) {
            Ok(request) => responder.respond(request).await,
            Err(refusal) => protocol::answer::<()>(Err(refusal)),
        },
    };
    heard.answered();
    timeout(ANSWER_TIME, stream.write_all(answer.as_bytes())).await?
}

fn refuse(message: std::fmt::Arguments<'_>) -> String {
    protocol::answer::<()>(Err(Refusal::usage(message)))
}

enum Line {
    /// The other side went away.
    None,
    Whole(Vec<u8>),
    TooLong,
}

async fn read_line(stream: &mut UnixStream) -> io::Result<Line> {
    let mut line = Vec::new();
    let mut limited = BufReader::new(stream).take(LONGEST_REQUEST as u64);
    limited.read_until(b'\n', &mut line).await?;
    Ok(match line.last() {
        None => Line::None,
        // A line may end with what is sent.
        Some(last) if *last == b'\n' || line.len() < LONGEST_REQUEST => Line::Whole(line),
        Some(_) => Line::TooLong,
    })
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::Shutdown,
        os::unix::net::UnixStream,
        path::PathBuf,
        sync::mpsc,
        thread,
        time::Instant,
    };

    use proptest::prelude::*;

    use super::{super::ControlSocket, *};

    struct Seven;

    impl Respond for Seven {
        async fn respond(&self, _: Request) -> String {
            protocol::answer(Ok("seven".repeat(1 << 20)))
        }
    }

    /// Where a server listens, on a thread that lives as long as the tests; its file does not.
    struct Server(PathBuf);

    impl Drop for Server {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    /// Each name is a server of its own.
    fn start(name: &str) -> Server {
        let path = std::env::temp_dir().join(format!("umemd-test-{}-{name}.sock", std::process::id()));
        let (sender, bound) = mpsc::channel();
        thread::spawn({
            let path = path.clone();
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                tokio::task::LocalSet::new().block_on(&runtime, async {
                    let (_socket, listener) = ControlSocket::bind(&path).unwrap();
                    let listener = tokio::net::UnixListener::from_std(listener).unwrap();
                    // It is open, and nobody else needs its name.
                    sender.send(()).unwrap();
                    serve(listener, Rc::new(Seven)).await;
                });
            }
        });
        bound.recv().unwrap();
        Server(path)
    }

    /// Sends these bytes, and nothing more, and reads to the end.
    fn send(server: &Server, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(&server.0).unwrap();
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    }

    fn assert_serves(server: &Server) {
        let answer = send(server, Request::Status.line().as_bytes());
        assert!(answer.starts_with("{\"version\":1,\"ok\":\"sevenseven") && answer.ends_with("\"}\n"));
    }

    #[test]
    fn a_line_is_answered_with_a_line_with_and_without_a_newline() {
        let server = start("line");
        assert_serves(&server);
        assert_eq!(send(&server, Request::Status.line().trim_end().as_bytes()).matches('\n').count(), 1);
        // One connection is one request.
        assert_eq!(send(&server, Request::Status.line().repeat(3).as_bytes()).matches('\n').count(), 1);
        assert_eq!(send(&server, b""), "");
    }

    #[test]
    fn a_request_without_end_is_refused() {
        let server = start("long");
        let answer = send(&server, &vec![b'x'; LONGEST_REQUEST + 100]);
        // Perhaps it was cut off before it could read why.
        assert!(answer.is_empty() || answer.contains("at most 4194304 bytes"), "{answer}");
        assert_serves(&server);
    }

    #[test]
    fn a_request_that_does_not_come_is_not_waited_for() {
        let server = start("never");
        let start = Instant::now();
        let mut stream = UnixStream::connect(&server.0).unwrap();
        stream.write_all(b"{\"version\":1,").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "");
        assert!(
            start.elapsed() >= REQUEST_TIME && start.elapsed() < 2 * REQUEST_TIME,
            "{:?}",
            start.elapsed()
        );
    }

    #[test]
    fn those_who_ask_nothing_or_take_nothing_keep_nobody_out() {
        let server = start("slow");
        let slow: Vec<UnixStream> = (0..4 * CONNECTIONS)
            .map(|n| {
                let mut stream = UnixStream::connect(&server.0).unwrap();
                if n % 2 == 0 {
                    stream.write_all(Request::Status.line().as_bytes()).unwrap();
                }
                stream
            })
            .collect();
        for _ in 0..20 {
            let start = Instant::now();
            assert_serves(&server);
            assert!(
                start.elapsed() < REQUEST_TIME,
                "the slow ones are not waited for: {:?}",
                start.elapsed()
            );
        }
        drop(slow);
        assert_serves(&server);
    }

    #[test]
    fn garbage_is_answered_with_an_error() {
        let server = start("garbage");
        let garbage = proptest::collection::vec(any::<u8>(), 1..512);
        proptest!(ProptestConfig::with_cases(64), |(bytes in garbage)| {
            let answer = send(&server, &bytes);
            prop_assert!(answer.starts_with("{\"version\":1,\"error\":{\"kind\":\"usage\","), "{answer}");
            assert_serves(&server);
        });
    }
}
