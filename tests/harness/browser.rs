//! Headless Chromium, driven through key presses and JavaScript expressions.
//!
//! Controlled by the DevTools protocol over two pipes (`--remote-debugging-pipe`: descriptor 3 in, 4 out, NUL-terminated
//! JSON), so it needs no port, no driver program and no route into its namespace.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Netns, PATIENCE, eventually};

/// A browser with one page, in a namespace. Closed on drop.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    commands: Option<ChildStdin>,
    answers: Receiver<Value>,
    session: Option<String>,
    last: u64,
    complaints: Vec<String>,
    _profile: TempDir,
}

const FLAGS: [&str; 10] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
];

impl Browser {
    /// Starts it in `netns` with an empty page.
    pub fn start(netns: &Netns) -> Self {
        let profile = tempfile::Builder::new().prefix("vt-browser-").tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "exec chromium \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1", "chromium"]);
        command.args(FLAGS).arg(format!("--user-data-dir={}", profile.path().display())).arg("about:blank");
        let child = command.env("HOME", profile.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = netns.run(|| child.spawn().unwrap());
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let (sender, answers) = channel();
        thread::spawn(move || {
            let mut text = Vec::new();
            while output.read_until(0, &mut text).is_ok_and(|len| len > 0) {
                let message = serde_json::from_slice(&text[..text.len() - 1]).unwrap();
                if sender.send(message).is_err() {
                    break;
                }
                text.clear();
            }
        });
        let commands = child.stdin.take();
        let (session, complaints) = (None, Vec::new());
        let mut browser = Self { child, commands, answers, session, last: 0, complaints, _profile: profile };
        let page = browser.tell("Target.createTarget", json!({ "url": "about:blank" }));
        let attached =
            browser.tell("Target.attachToTarget", json!({ "targetId": page["targetId"], "flatten": true }));
        browser.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page", "Runtime", "Log"] {
            browser.tell(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    /// Sends a command and returns its result.
    ///
    /// # Panics
    /// The command fails, or is not answered within [`PATIENCE`].
    fn tell(&mut self, method: &str, parameters: Value) -> Value {
        self.last += 1;
        let mut command = json!({ "id": self.last, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            command["sessionId"] = json!(session);
        }
        let pipe = self.commands.as_mut().unwrap();
        pipe.write_all(format!("{command}\0").as_bytes()).expect("chromium runs");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut message =
                self.answers.recv_timeout(left).unwrap_or_else(|error| panic!("{method}: {error}"));
            if message["id"] == self.last {
                assert!(message["error"].is_null(), "{method}: {}", message["error"]);
                return message["result"].take();
            }
            self.listen(&message);
        }
    }

    /// Records exceptions and console errors of the page.
    fn listen(&mut self, event: &Value) {
        let parameters = &event["params"];
        match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => {
                self.complaints.push(parameters["exceptionDetails"].to_string())
            }
            Some("Runtime.consoleAPICalled")
                if parameters["type"] == "error" || parameters["type"] == "warning" =>
            {
                self.complaints.push(parameters["args"].to_string());
            }
            Some("Log.entryAdded") => self.complaints.push(parameters["entry"].to_string()),
            _ => {}
        }
    }

    /// Exceptions and console errors and warnings since the last call.
    pub fn complaints(&mut self) -> Vec<String> {
        self.look("0");
        std::mem::take(&mut self.complaints)
    }

    /// Navigates to a page.
    pub fn visit(&mut self, url: &str) {
        let answer = self.tell("Page.navigate", json!({ "url": url }));
        assert!(answer["errorText"].is_null(), "{url}: {answer}");
    }

    /// Sets the viewport, in CSS pixels. `phone` emulates a mobile device.
    pub fn resize(&mut self, width: u32, height: u32, phone: bool) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone });
        self.tell("Emulation.setDeviceMetricsOverride", size);
    }

    /// Sets the preferred colour scheme: `light` or `dark`.
    pub fn prefer(&mut self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.tell("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// Evaluates a JavaScript expression.
    ///
    /// # Panics
    /// It throws.
    pub fn look(&mut self, expression: &str) -> Value {
        let command = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let mut answer = self.tell("Runtime.evaluate", command);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {}", answer["exceptionDetails"]);
        answer["result"]["value"].take()
    }

    /// Waits until an expression is true.
    pub fn sees(&mut self, expression: &str) {
        eventually(&format!("the page shows {expression}"), || {
            thread::sleep(Duration::from_millis(20));
            (self.look(expression) == true).then_some(())
        });
    }

    /// Presses a key: a letter, or a name such as `Enter`.
    pub fn press(&mut self, key: &str) {
        let code = match key {
            "Enter" => 13,
            "Escape" => 27,
            "Tab" => 9,
            "ArrowRight" => 39,
            "ArrowDown" => 40,
            _ => 0,
        };
        let text = match key {
            "Enter" => "\r",
            letter if letter.chars().count() == 1 => letter,
            _ => "",
        };
        let mut event = json!({ "type": "keyDown", "key": key, "text": text });
        if code != 0 {
            event["windowsVirtualKeyCode"] = json!(code);
        }
        self.tell("Input.dispatchKeyEvent", event.clone());
        event["type"] = json!("keyUp");
        event["text"] = json!("");
        self.tell("Input.dispatchKeyEvent", event);
    }

    /// Types a text, key by key.
    pub fn type_in(&mut self, text: &str) {
        for letter in text.chars() {
            self.press(&letter.to_string());
        }
    }

    /// Saves a screenshot as a PNG file.
    pub fn picture(&mut self, path: &Path) {
        let answer = self.tell("Page.captureScreenshot", json!({ "format": "png" }));
        let png = BASE64_STANDARD.decode(answer["data"].as_str().unwrap()).unwrap();
        std::fs::write(path, png).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Chromium exits, with all its processes, when its command pipe is closed.
        self.commands = None;
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait().is_ok_and(|ended| ended.is_none()) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
