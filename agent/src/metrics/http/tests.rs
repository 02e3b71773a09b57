//! Against a real listener, as whoever connects sees it.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{Arc, OnceLock, mpsc},
    thread,
    time::Instant,
};

use proptest::prelude::*;
use rustix::net::sockopt::set_socket_recv_buffer_size;

use super::*;

/// Bytes of the long page: more than the kernel buffers for a connection, however it is tuned.
const LONG: usize = 64 << 20;

/// A server of one page, on a thread that lives as long as the tests.
fn server() -> SocketAddr {
    static SERVER: OnceLock<SocketAddr> = OnceLock::new();
    *SERVER.get_or_init(start)
}

fn start() -> SocketAddr {
    let (sender, address) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            // Made once: dozens ask for it at a time.
            let long = Bytes::from("x".repeat(LONG));
            let page = async move |path: &str| match path {
                "/metrics" => Some(Answer::text(StatusCode::OK, "frames 7\n")),
                "/late" => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    Some(Answer::text(StatusCode::OK, "frames 7\n"))
                }
                "/long" => Some(Answer { body: long.clone(), ..Answer::text(StatusCode::OK, "") }),
                _ => None,
            };
            serve(TcpListener::from_std(listener).unwrap(), Hosts::new(&[]), Requests::default(), page).await;
        });
    });
    address.recv().unwrap()
}

/// Sends these bytes and reads to the end; an answer that breaks off is as far as it came.
fn send(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn get(address: SocketAddr, path: &str) -> String {
    send(address, format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())
}

fn assert_serves(address: SocketAddr) {
    let answer = get(address, "/metrics");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nframes 7\n"), "{answer}");
}

#[test]
fn a_page_comes_with_headers_that_keep_browsers_to_it() {
    let answer = get(server(), "/metrics").to_ascii_lowercase();
    for header in
        ["content-security-policy: default-src 'none'", "x-content-type-options: nosniff", "no-store"]
    {
        assert!(answer.contains(header), "{header}: {answer}");
    }
    assert!(!answer.contains("access-control-allow-origin"), "{answer}");
}

#[test]
fn only_what_names_us_is_answered() {
    let ask =
        |head: &str| send(server(), format!("GET /metrics {head}\r\nConnection: close\r\n\r\n").as_bytes());
    assert!(ask("HTTP/1.1\r\nHost: localhost:80").starts_with("HTTP/1.1 200"));
    assert!(ask("HTTP/1.0").contains(" 200 OK"), "a health check of old needs no name");
    assert!(ask("HTTP/1.1").starts_with("HTTP/1.1 400"));
    let rebound = ask("HTTP/1.1\r\nHost: evil.example");
    assert!(rebound.starts_with("HTTP/1.1 421") && rebound.contains("--allow-host"), "{rebound}");
    assert!(!rebound.contains("frames"), "{rebound}");
}

#[test]
fn who_has_nothing_more_to_ask_gets_his_answer_also_if_it_takes_a_while() {
    let mut stream = TcpStream::connect(server()).unwrap();
    stream.write_all(b"GET /late HTTP/1.0\r\n\r\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("frames 7\n"), "{answer}");
}

#[test]
fn only_get_and_head_are_answered() {
    let ask = |method: &str| {
        let request = format!(
            "{method} /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        );
        send(server(), request.as_bytes()).to_ascii_lowercase()
    };
    let head = ask("HEAD");
    assert!(head.starts_with("http/1.1 200") && head.contains("content-length: 9\r\n"), "{head}");
    assert!(head.ends_with("\r\n\r\n"), "{head}");
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let answer = ask(method);
        assert!(answer.starts_with("http/1.1 405") && answer.contains("allow: get, head"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nget and head only\n"), "{answer}");
    }
}

/// Each is shown to be too much by one with less, to which there is an answer.
#[test]
fn requests_without_end_are_refused() {
    let ask = |query: &str, headers: &str| {
        let host = "Host: 127.0.0.1\r\nConnection: close\r\n";
        send(server(), format!("GET /metrics?{query} HTTP/1.1\r\n{host}{headers}\r\n").as_bytes())
    };
    let much = |bytes: usize| "y".repeat(bytes);
    let lengths = [REQUEST_BYTES - 1000, REQUEST_BYTES + 1000, 100_000];
    for (what, answers) in [
        ("a header", lengths.map(|bytes| ask("", &format!("X: {}\r\n", much(bytes))))),
        ("a path", lengths.map(|bytes| ask(&much(bytes), ""))),
        ("headers", [REQUEST_HEADERS - 2, REQUEST_HEADERS, 200].map(|n| ask("", &"X: y\r\n".repeat(n - 1)))),
    ] {
        let [enough, more, far_more] = answers;
        assert!(enough.starts_with("HTTP/1.1 200") && enough.ends_with("frames 7\n"), "{what}: {enough}");
        for refused in [more, far_more] {
            assert!(refused.starts_with("HTTP/1.1 431"), "{what}: {refused}");
        }
    }
    assert_serves(server());
}

/// Asks on this connection, and waits for the answer's last byte.
fn ask_on(stream: &mut TcpStream) -> std::io::Result<String> {
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")?;
    let (mut answer, mut byte) = (String::new(), [0]);
    while !answer.ends_with("frames 7\n") {
        stream.read_exact(&mut byte)?;
        answer.push(byte[0].into());
    }
    Ok(answer)
}

#[test]
fn a_connection_is_kept_from_one_scrape_to_the_next() {
    let mut stream = TcpStream::connect(server()).unwrap();
    for pause in [0, 0, 15] {
        thread::sleep(Duration::from_secs(pause));
        assert!(ask_on(&mut stream).unwrap().starts_with("HTTP/1.1 200 OK\r\n"));
    }
}

#[test]
fn who_asks_nothing_is_not_waited_for() {
    let mut stream = TcpStream::connect(server()).unwrap();
    stream.set_read_timeout(Some(REQUEST_TIME * 2)).unwrap();
    assert_eq!(stream.read(&mut [0; 64]).unwrap(), 0, "the end");
}

#[test]
fn who_takes_no_answer_is_not_waited_for() {
    let mut stream = TcpStream::connect(server()).unwrap();
    set_socket_recv_buffer_size(&stream, 1 << 16).unwrap();
    stream.write_all(b"GET /long HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").unwrap();
    thread::sleep(ANSWER_TIME + Duration::from_secs(2));
    let mut answer = Vec::new();
    // What lay in the sockets' buffers is all that comes.
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.len() < LONG, "{} bytes", answer.len());
}

/// Threads that ask again and again.
struct Askers {
    /// They go on while it lives: also a test that fails lets go of it.
    going: Arc<()>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Askers {
    /// So many of them, each with what `ask` makes for it; all have asked once when this returns.
    fn start<F: FnMut() + Send + 'static>(number: usize, ask: impl Fn() -> F) -> Self {
        let going = Arc::new(());
        let (sender, asked) = mpsc::channel();
        let spawn = |_| {
            let (going, sender, mut ask) = (Arc::downgrade(&going), sender.clone(), ask());
            thread::spawn(move || {
                ask();
                sender.send(()).unwrap();
                while going.strong_count() > 0 {
                    ask();
                }
            })
        };
        let threads = (0..number).map(spawn).collect();
        (0..number).for_each(|_| asked.recv().unwrap());
        Self { going, threads }
    }

    fn end(self) {
        drop(self.going);
        self.threads.into_iter().for_each(|asker| asker.join().unwrap());
    }
}

/// A server of its own: all its places are taken.
#[test]
fn who_asks_again_and_again_keeps_nobody_out() {
    let address = start();
    let askers = Askers::start(CONNECTIONS, || {
        let mut kept = None;
        move || {
            let stream = kept.get_or_insert_with(|| TcpStream::connect(address).unwrap());
            if ask_on(stream).is_err() {
                kept = None;
            }
            thread::sleep(Duration::from_millis(5));
        }
    });
    let mut times: Vec<_> = (0..20)
        .map(|_| {
            let start = Instant::now();
            assert_serves(address);
            start.elapsed()
        })
        .collect();
    askers.end();
    times.sort();
    // Who asks again gives way at an answer; were he waited for, it would take `PATIENCE` each time. A machine that does
    // something else beside may be late, but not as late every time.
    assert!(times[10] < PATIENCE, "each waits for its place: {times:?}");
    assert!(times[19] < 3 * PATIENCE, "one waits for its place: {times:?}");
}

#[test]
fn a_request_that_does_not_come_is_not_waited_for() {
    let start = Instant::now();
    let answer = send(server(), b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n");
    assert!(!answer.contains("frames"), "{answer}");
    assert!(start.elapsed() < REQUEST_TIME * 2, "{:?}", start.elapsed());
}

/// Sends a request a byte at a time, and without an end, until the connection is closed; how long that takes.
fn dribble(mut stream: TcpStream) -> Duration {
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let start = Instant::now();
    let head = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ";
    for byte in head.iter().chain(std::iter::repeat(&b'y')) {
        let is_closed =
            stream.write_all(&[*byte]).is_err() || stream.read(&mut [0]).is_ok_and(|read| read == 0);
        if is_closed || start.elapsed() > 4 * REQUEST_TIME {
            break;
        }
    }
    start.elapsed()
}

#[test]
fn a_first_request_that_dribbles_is_not_waited_for() {
    let time = dribble(TcpStream::connect(server()).unwrap());
    assert!(time < REQUEST_TIME * 2, "{time:?}");
}

#[test]
fn a_later_request_that_dribbles_is_waited_for_no_longer_than_a_first_one() {
    let mut stream = TcpStream::connect(server()).unwrap();
    ask_on(&mut stream).unwrap();
    // It is not from the answer on that it is due.
    thread::sleep(REQUEST_TIME + Duration::from_secs(2));
    let time = dribble(stream);
    assert!(time > REQUEST_TIME / 2 && time < REQUEST_TIME * 2, "{time:?}");
}

/// A server of its own: it is made to close others' connections.
#[test]
fn slow_readers_and_a_flood_keep_nobody_out() {
    let address = start();
    // More of them than there may be at once: some that never ask, some that never read.
    let slow: Vec<TcpStream> = (0..3 * CONNECTIONS)
        .map(|n| {
            let mut stream = TcpStream::connect(address).unwrap();
            if n % 2 == 0 {
                stream.write_all(b"GET /long HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").unwrap();
            }
            stream
        })
        .collect();
    for _ in 0..20 {
        let start = Instant::now();
        assert_serves(address);
        assert!(start.elapsed() < REQUEST_TIME, "the slow ones are not waited for: {:?}", start.elapsed());
    }
    let flood = Askers::start(4, || move || drop(get(address, "/metrics")));
    for _ in 0..20 {
        assert_serves(address);
    }
    flood.end();
    drop(slow);
    assert_serves(address);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn garbage_is_answered_with_nothing_of_value(mut bytes in proptest::collection::vec(any::<u8>(), 1..512)) {
        // An end, so that the server need not wait for more.
        bytes.extend(b"\r\n\r\n");
        let stream = TcpStream::connect(server()).unwrap();
        let _ = (&stream).write_all(&bytes);
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _ = (&stream).read_to_end(&mut answer);
        prop_assert!(!String::from_utf8_lossy(&answer).contains("frames"));
        assert_serves(server());
    }
}
