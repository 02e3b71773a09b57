//! The live page, served by what is no agent: it says what a test tells it to, or nothing.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use serde_json::Value;

/// Serves the page at `/` and a status at `/status`, until the test ends.
#[derive(Debug)]
pub struct Puppet {
    address: SocketAddr,
    status: Arc<Mutex<Option<Value>>>,
}

impl Puppet {
    /// Begins with this status.
    ///
    /// # Panics
    ///
    /// If it cannot listen.
    pub fn start(status: Value) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let status = Arc::new(Mutex::new(Some(status)));
        let shared = status.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                // A browser may hold connections on which it asks nothing.
                thread::spawn(move || answer(stream, &shared));
            }
        });
        Self { address, status }
    }

    /// Where the page is.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// From now on this is the status; `None`: requests are taken and never answered, as by a board without power.
    pub fn say(&self, status: Option<Value>) {
        *lock(&self.status) = status;
    }
}

fn answer(stream: TcpStream, status: &Mutex<Option<Value>>) -> io::Result<()> {
    let mut request = String::new();
    let mut lines = BufReader::new(stream.try_clone()?);
    lines.read_line(&mut request)?;
    while lines.read_line(&mut String::new())? > 2 {}
    let (kind, body) = match request.split(' ').nth(1) {
        Some("/") => ("text/html", page()),
        Some("/status") => match &*lock(status) {
            Some(status) => ("application/json", status.to_string()),
            None => {
                // For as long as the test runs.
                std::mem::forget(stream);
                return Ok(());
            }
        },
        _ => ("text/plain", String::new()),
    };
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n");
    (&stream).write_all((head + &body).as_bytes())
}

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/src/metrics/page.html");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn lock(status: &Mutex<Option<Value>>) -> MutexGuard<'_, Option<Value>> {
    status.lock().unwrap_or_else(PoisonError::into_inner)
}
