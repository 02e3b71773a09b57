//! A headless Chromium, driven by its DevTools protocol over a pipe: what a page shows, on a screen of a given width.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{full::Scratch, wait::wait_for};

/// Chromium takes its pipe at descriptors 3 and 4, and nobody but a shell puts them there without `unsafe`.
const PIPE: &str = "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>/dev/null";
/// What a browser takes to start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// One page in a browser of its own; killed, then waited for, when dropped.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    /// Number of the command sent last.
    number: u64,
    session: Option<Value>,
    _profile: Scratch,
}

impl Browser {
    /// Opens `url`, and does not wait until it is loaded.
    ///
    /// # Panics
    ///
    /// If Chromium cannot be started, or does not do it.
    #[track_caller]
    pub fn open(url: &str) -> Self {
        let profile = Scratch::new();
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "sh", "-c", PIPE, "sh", "chromium"])
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let to = child.stdin.take().expect("stdin is a pipe");
        let from = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let mut browser = Self { child, to, from, number: 0, session: None, _profile: profile };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}))["targetId"].take();
        let attach = json!({"targetId": target, "flatten": true});
        browser.session = Some(browser.call("Target.attachToTarget", attach)["sessionId"].take());
        browser.screen(1100, 1400);
        browser.call("Page.navigate", json!({"url": url}));
        browser
    }

    /// Makes the screen so large, in CSS pixels; as a phone's if it is narrow.
    pub fn screen(&mut self, width: u32, height: u32) {
        let mobile = width < 500;
        let screen = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile});
        self.call("Emulation.setDeviceMetricsOverride", screen);
    }

    /// The value of a JavaScript expression in the page.
    ///
    /// # Panics
    ///
    /// If it throws.
    #[track_caller]
    pub fn value(&mut self, expression: &str) -> Value {
        self.try_value(expression).unwrap_or_else(|thrown| panic!("{expression}: {thrown}"))
    }

    /// Asks for the value of an expression until `predicate` says yes, and returns it.
    ///
    /// # Panics
    ///
    /// If that does not happen; with the value seen last.
    #[track_caller]
    pub fn value_when(&mut self, what: &str, expression: &str, predicate: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        wait_for(what, PATIENCE, || {
            // A page that is not there yet throws.
            let value = self.try_value(expression);
            assert!(
                started.elapsed() < PATIENCE - Duration::from_secs(1),
                "waited in vain for {what}: {expression} is {value:?}"
            );
            value.ok().filter(|value| predicate(value))
        })
    }

    fn try_value(&mut self, expression: &str) -> Result<Value, String> {
        let asked = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let mut answer = self.call("Runtime.evaluate", asked);
        match answer.get("exceptionDetails") {
            Some(thrown) => Err(thrown.to_string()),
            None => Ok(answer["result"]["value"].take()),
        }
    }

    /// Writes a picture of the whole page, as PNG, if `UMEMD_SCREENSHOTS` names a folder.
    ///
    /// # Panics
    ///
    /// If it cannot be written.
    pub fn picture(&mut self, name: &str) {
        let Some(folder) = std::env::var_os("UMEMD_SCREENSHOTS") else { return };
        let asked = json!({"format": "png", "captureBeyondViewport": true});
        let picture = self.call("Page.captureScreenshot", asked);
        let file = File::create(Path::new(&folder).join(name)).expect("a folder that can be written to");
        let mut decoder = Command::new("base64").arg("--decode").stdin(Stdio::piped()).stdout(file).spawn();
        let decoder = decoder.as_mut().expect("base64 is of coreutils");
        let mut to = decoder.stdin.take().expect("stdin is a pipe");
        to.write_all(picture["data"].as_str().expect("base64").as_bytes()).expect("it reads");
        drop(to);
        assert!(decoder.wait().expect("it is our child").success());
    }

    /// Sends a command, and returns what it resulted in.
    #[track_caller]
    fn call(&mut self, method: &str, params: Value) -> Value {
        self.number += 1;
        let mut command = json!({"id": self.number, "method": method, "params": params});
        if let Some(session) = &self.session {
            command["sessionId"] = session.clone();
        }
        self.to.write_all(format!("{command}\0").as_bytes()).expect("Chromium reads");
        loop {
            let mut message = Vec::new();
            self.from.read_until(0, &mut message).expect("Chromium can be read");
            assert_eq!(message.pop(), Some(0), "Chromium ended before it answered {method}");
            let mut message: Value = serde_json::from_slice(&message).expect("JSON");
            // The others are of what happens in the page.
            if message["id"] == self.number {
                assert!(message.get("error").is_none(), "{method}: {message}");
                return message["result"].take();
            }
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It closes its other processes; SIGKILL would leave them to init.
        let _ = self.to.write_all(b"{\"id\":0,\"method\":\"Browser.close\"}\0");
        let mut rest = Vec::new();
        while self.from.read_until(0, &mut rest).is_ok_and(|read| read > 0) {
            rest.clear();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
