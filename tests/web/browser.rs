//! A real browser, headless, driven over WebDriver: JSON over HTTP, nothing more.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long anything may take; never reached when all is well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// The key under which WebDriver names an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// How the browser is set up.
#[derive(Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) width: u32,
    pub(crate) dark: bool,
    pub(crate) script: bool,
}

pub(crate) const DESK: Setup = Setup { width: 1280, dark: false, script: true };

pub(crate) struct Browser {
    driver: Child,
    session: String,
    http: reqwest::Client,
    _profile: tempfile::TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends its browser when its session is ended; killed, and on a busy
        // machine also asked to end, it leaves the browser running.
        let _ = self.end_session();
        let pid = rustix::process::Pid::from_child(&self.driver);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.driver.wait();
    }
}

impl Browser {
    pub(crate) async fn open(setup: Setup) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let (driver, url) = start();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let script = if setup.script { 1 } else { 2 };
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:loggingPrefs": { "browser": "ALL" },
            "goog:chromeOptions": {
                "args": [
                    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                    "--window-size=1280,900", "--hide-scrollbars",
                    format!("--user-data-dir={}", profile.path().display()),
                ],
                "prefs": { "profile.managed_default_content_settings.javascript": script },
            },
        } } });
        let reply: Value = http
            .post(format!("{url}/session"))
            .json(&wanted)
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        let id = reply["value"]["sessionId"].as_str();
        let id = id.unwrap_or_else(|| panic!("no session: {reply}"));
        let session = format!("{url}/session/{id}");
        let browser = Self { driver, session, http, _profile: profile };
        let screen = json!({ "width": setup.width, "height": 900, "deviceScaleFactor": 1,
            "mobile": setup.width < 500 });
        browser.devtools("Emulation.setDeviceMetricsOverride", screen).await;
        let scheme = if setup.dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        browser.devtools("Emulation.setEmulatedMedia", media).await;
        browser
    }

    /// Ends the session, by hand: whatever drops a browser may not be able to wait.
    fn end_session(&self) -> std::io::Result<()> {
        let (address, path) =
            self.session.trim_start_matches("http://").split_once('/').unwrap_or_default();
        let mut wire = TcpStream::connect(address)?;
        wire.set_read_timeout(Some(Duration::from_secs(30)))?;
        write!(wire, "DELETE /{path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
        // It answers once the browser is gone, and keeps the connection.
        wire.read(&mut [0; 512]).map(drop)
    }

    async fn devtools(&self, command: &str, params: Value) -> Value {
        self.post("goog/cdp/execute", json!({ "cmd": command, "params": params })).await
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        self.try_post(path, body).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    async fn try_post(&self, path: &str, body: Value) -> Result<Value, Value> {
        let sent = self.http.post(format!("{}/{path}", self.session)).json(&body).send().await;
        let mut reply: Value = sent.unwrap().json().await.unwrap();
        let value = reply["value"].take();
        if value.get("error").is_some() { Err(value) } else { Ok(value) }
    }

    async fn get(&self, path: &str) -> Value {
        let sent = self.http.get(format!("{}/{path}", self.session)).send().await.unwrap();
        let mut reply: Value = sent.json().await.unwrap();
        reply["value"].take()
    }

    pub(crate) async fn go(&self, url: &str) {
        self.post("url", json!({ "url": url })).await;
    }

    pub(crate) async fn url(&self) -> String {
        self.get("url").await.as_str().unwrap().to_owned()
    }

    pub(crate) async fn source(&self) -> String {
        self.get("source").await.as_str().unwrap().to_owned()
    }

    /// What the browser itself complained about: blocked by policy, not found.
    pub(crate) async fn complaints(&self) -> Vec<String> {
        let log = self.post("se/log", json!({ "type": "browser" })).await;
        let lines = log.as_array().unwrap().iter();
        lines.map(|line| line["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// The one element that `css` selects, waited for.
    async fn find(&self, css: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let query = json!({ "using": "css selector", "value": css });
            if let Ok(found) = self.try_post("element", query).await {
                return found[ELEMENT].as_str().unwrap().to_owned();
            }
            if Instant::now() > deadline {
                panic!("no {css} at {}: {}", self.url().await, self.source().await);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) async fn click(&self, css: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let id = self.find(css).await;
            match self.try_post(&format!("element/{id}/click"), json!({})).await {
                Ok(_) => return,
                // The page put another in its place in between.
                Err(error) => assert!(Instant::now() < deadline, "{css}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) async fn text(&self, css: &str) -> String {
        let id = self.find(css).await;
        self.get(&format!("element/{id}/text")).await.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the text of what `css` selects holds `words`.
    pub(crate) async fn until_text(&self, css: &str, words: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = self.text(css).await;
            if text.contains(words) {
                return;
            }
            assert!(Instant::now() < deadline, "{css} says {text:?}, never {words:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) async fn is_enabled(&self, css: &str) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let id = self.find(css).await;
            let told = self.get(&format!("element/{id}/enabled")).await;
            if let Some(enabled) = told.as_bool() {
                return enabled;
            }
            // The page was loaded anew between the two questions.
            assert!(Instant::now() < deadline, "{css}: {told}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Presses keys: `\u{E004}` is Tab, `\u{E007}` Enter.
    pub(crate) async fn press(&self, keys: &str) {
        let strokes = keys.chars().flat_map(|key| {
            [json!({ "type": "keyDown", "value": key }), json!({ "type": "keyUp", "value": key })]
        });
        let strokes: Vec<Value> = strokes.collect();
        let keyboard = json!({ "type": "key", "id": "keyboard", "actions": strokes });
        self.post("actions", json!({ "actions": [keyboard] })).await;
    }

    /// Runs a script's body in the page and gives what it returns.
    pub(crate) async fn run(&self, script: &str) -> Value {
        self.post("execute/sync", json!({ "script": script, "args": [] })).await
    }

    /// As [`Browser::run`]; the script calls `done(value)`.
    pub(crate) async fn run_async(&self, script: &str) -> Value {
        let script = format!("const done = arguments[0]; {script}");
        self.post("execute/async", json!({ "script": script, "args": [] })).await
    }
}

/// Starts the driver. It takes a free port for IPv4 and then the same for IPv6, and ends
/// when somebody else has that one: then it is asked again.
fn start() -> (Child, String) {
    for _ in 0..5 {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver is installed: scripts/test does it");
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port = lines.find_map(|line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            Some(port.trim_end_matches('.').trim().to_owned())
        });
        match port {
            Some(port) => return (driver, format!("http://127.0.0.1:{port}")),
            None => driver.wait().map(drop).unwrap(),
        }
    }
    panic!("chromedriver did not start");
}
