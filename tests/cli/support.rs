//! A coordinator that answers what it is told to, and a hermetic `deployctl`.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

/// What a path answers.
#[derive(Clone)]
pub(crate) enum Reply {
    /// A status and a document.
    Json(u16, Value),
    /// The connection is closed after the request was read.
    Hangup,
    /// Nothing, for as long as the client stays.
    Silence,
}

/// A request that arrived.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) line: String,
    pub(crate) key: String,
    pub(crate) token: String,
    pub(crate) body: Value,
}

#[derive(Default)]
struct State {
    replies: BTreeMap<String, VecDeque<Reply>>,
    requests: Vec<Request>,
}

/// A coordinator on a port of its own; gone with the process.
#[derive(Clone)]
pub(crate) struct Coordinator {
    pub(crate) url: String,
    state: Arc<Mutex<State>>,
}

impl Coordinator {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::<Mutex<State>>::default();
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                std::thread::spawn(move || answer(stream, &state));
            }
        });
        Self { url, state }
    }

    /// `method_and_path` (without query) answers these one after the other; the last for ever.
    pub(crate) fn on(
        &self,
        method_and_path: &str,
        replies: impl IntoIterator<Item = Reply>,
    ) -> &Self {
        let replies = replies.into_iter().collect();
        self.state.lock().unwrap().replies.insert(method_and_path.to_owned(), replies);
        self
    }

    /// As [`Coordinator::on`], with one good document.
    pub(crate) fn gives(&self, method_and_path: &str, document: &impl serde::Serialize) -> &Self {
        self.on(method_and_path, [Reply::Json(200, serde_json::to_value(document).unwrap())])
    }

    /// As [`Coordinator::on`], with one problem.
    pub(crate) fn refuses(&self, method_and_path: &str, status: u16, code: &str) -> &Self {
        let problem = serde_json::json!({"code": code, "title": format!("it is {code}"),
            "detail": "the cause", "hints": ["deployctl apps"], "request_id": "req-7"});
        self.on(method_and_path, [Reply::Json(status, problem)])
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.state.lock().unwrap().requests.clone()
    }

    /// As if nothing had been asked yet.
    pub(crate) fn forget(&self) {
        self.state.lock().unwrap().requests.clear();
    }

    /// Requests whose first line begins with `method_and_path`.
    pub(crate) fn requests_of(&self, method_and_path: &str) -> Vec<Request> {
        let of = |request: &Request| request.line.starts_with(method_and_path);
        self.requests().into_iter().filter(of).collect()
    }
}

fn answer(stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream);
    while let Some(request) = read(&mut reader) {
        let path = request.line.split(['?', ' ']).take(2).collect::<Vec<_>>().join(" ");
        let reply = {
            let mut state = state.lock().unwrap();
            state.requests.push(request);
            match state.replies.get_mut(&path) {
                Some(replies) if replies.len() > 1 => replies.pop_front().unwrap(),
                Some(replies) => replies[0].clone(),
                None => {
                    let title = format!("nobody told the test's coordinator about {path}");
                    Reply::Json(404, serde_json::json!({"code": "not_found", "title": title}))
                }
            }
        };
        let (status, document) = match reply {
            Reply::Json(status, document) => (status, document),
            Reply::Hangup => return,
            Reply::Silence => {
                let _ = reader.read(&mut [0]);
                return;
            }
        };
        let body = document.to_string();
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
        if reader.get_mut().write_all((head + &body).as_bytes()).is_err() {
            return;
        }
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let take = |name: &str| headers.get(name).cloned().unwrap_or_default();
    let mut body = vec![0; take("content-length").parse().unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    Some(Request {
        line: line.trim_end().trim_end_matches(" HTTP/1.1").to_owned(),
        key: take("idempotency-key"),
        token: take("authorization"),
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    })
}

/// A folder of a person's own: home, working folder, token.
pub(crate) struct Person {
    pub(crate) folder: tempfile::TempDir,
    env: BTreeMap<String, String>,
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Done {
    /// The one document on stdout.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

impl Person {
    /// A person whom nothing tells where the coordinator is.
    pub(crate) fn nowhere() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("work")).unwrap();
        // The search for a project file ends here, wherever the test runs.
        std::fs::create_dir(folder.path().join(".git")).unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        let home = folder.path().display().to_string();
        let env = [("PATH", path.as_str()), ("HOME", &home), ("LC_ALL", "C.UTF-8")];
        let env = env.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        Self { folder, env }
    }

    /// A person who works with `coordinator` on the app `web`.
    pub(crate) fn of(coordinator: &Coordinator) -> Self {
        let mut person = Self::nowhere();
        person.set("DEPLOYCTL_SERVER", &coordinator.url).set("DEPLOYCTL_TOKEN", "dct_test");
        person.set("DEPLOYCTL_APP", "web");
        person
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) -> &mut Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn work(&self) -> std::path::PathBuf {
        self.folder.path().join("work")
    }

    /// `deployctl`, with nothing of the machine's environment.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(args).current_dir(self.work()).env_clear().envs(&self.env);
        command.stdin(std::process::Stdio::null());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Done {
        self.command(args).output().unwrap().into()
    }

    /// Runs and checks the exit code.
    pub(crate) fn ends(&self, args: &[&str], code: i32) -> Done {
        let done = self.run(args);
        assert_eq!(done.code, code, "deployctl {args:?}: {done:#?}");
        done
    }
}

pub(crate) fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_deployctl"))
}

/// Waits until `check` holds; a test that waits for ever helps nobody.
pub(crate) fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !check() {
        assert!(Instant::now() < end, "not in 30 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
