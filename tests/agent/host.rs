//! One agent on one host, as real processes, with a fake region in front of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use deployctl::agent::state::{AppFolder, Known};
use deployctl::host::service;
use deployctl::model::digest::{ArtifactId, Digest};
use deployctl::model::fleet::{AppStatus, Sources};
use deployctl::model::goal::{Goal, GoalKind, GoalVersion, Target};
use deployctl::model::id::{AppName, ReleaseNo};
use deployctl::model::recipe::RunSpec;
use deployctl::model::selector::Selector;
use deployctl::model::time::UnixMillis;
use deployctl::net::server::{Json, Path, serve};
use deployctl::wire::problem::{Code, Problem};
use deployctl::wire::seal::{GOAL, Sealed, public_key, sign};
use deployctl::wire::v1::fleet::{PollReply, PollRequest, Report, ReportReply};
use ed25519_dalek::SigningKey;
use tokio::sync::watch;

use crate::ready::ready;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `check` holds.
pub(crate) fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(Instant::now() < deadline, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What the region says, and what it was told.
#[derive(Default)]
pub(crate) struct Told {
    revision: u64,
    goals: Vec<Sealed>,
    pub(crate) reports: Vec<Report>,
    pub(crate) polls: u64,
    /// Configurations that it gives, by digest.
    pub(crate) configs: BTreeMap<Digest, String>,
}

/// A region that holds one list of goals.
pub(crate) struct Region {
    pub(crate) url: String,
    told: Arc<Mutex<Told>>,
    stop: watch::Sender<bool>,
}

async fn poll(
    State(told): State<Arc<Mutex<Told>>>,
    Json(request): Json<PollRequest>,
) -> Json<PollReply> {
    let deadline = Instant::now() + Duration::from_secs(2);
    told.lock().unwrap().polls += 1;
    loop {
        let (revision, goals) = {
            let told = told.lock().unwrap();
            (told.revision, told.goals.clone())
        };
        let newer = revision > request.since;
        let report =
            told.lock().unwrap().reports.last().map(|report| report.said) != Some(request.said);
        if newer || report || Instant::now() > deadline {
            let region = "eu".parse().unwrap();
            return Json(PollReply {
                revision,
                region,
                goals: newer.then_some(goals),
                report_ms: 500,
                report,
                processes: vec![],
            });
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn report(
    State(told): State<Arc<Mutex<Told>>>,
    Json(report): Json<Report>,
) -> Json<ReportReply> {
    told.lock().unwrap().reports.push(report);
    Json(ReportReply { report_ms: 500 })
}

async fn config(
    State(told): State<Arc<Mutex<Told>>>,
    Path(config): Path<Digest>,
) -> Result<String, Problem> {
    let kept = told.lock().unwrap().configs.get(&config).cloned();
    kept.ok_or_else(|| Problem::new(Code::NotFound, "no such config"))
}

impl Region {
    /// Starts it on a free port of the loopback interface.
    pub(crate) fn start() -> Self {
        let told: Arc<Mutex<Told>> = Arc::default();
        let (stop, stopped) = watch::channel(false);
        let (send_url, url) = std::sync::mpsc::channel();
        let state = told.clone();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                send_url.send(format!("http://{}", listener.local_addr().unwrap())).unwrap();
                let router = Router::new()
                    .route("/v1/agent/poll", post(poll))
                    .route("/v1/agent/report", post(report))
                    .route("/v1/agent/trust", get(trust))
                    .route("/v1/agent/configs/{config}", get(config))
                    .with_state(state);
                serve(listener, router, stopped).await;
            });
        });
        Self { url: url.recv().unwrap(), told, stop }
    }

    /// What it was told so far.
    pub(crate) fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap()
    }

    /// Says one more document.
    pub(crate) fn say(&self, sealed: Sealed) {
        let mut told = self.told();
        told.goals.push(sealed);
        told.revision += 1;
    }

    /// Signs and says one more goal.
    pub(crate) fn say_goal(&self, goal: &Goal) {
        self.say(seal(goal, &key()));
    }

    /// `target` with the configuration `text`, which the region gives from now on.
    pub(crate) fn configured(&self, release: u64, target: Target, text: &str) -> Target {
        let config = Digest::of(text.as_bytes());
        self.told().configs.insert(config, text.into());
        Target { release: ReleaseNo(release), config: Some(config), ..target }
    }

    /// Waits for a status of the app that `check` likes.
    pub(crate) fn hears<T>(&self, what: &str, mut check: impl FnMut(&AppStatus) -> Option<T>) -> T {
        let mut last = String::new();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.told().reports.last().and_then(|report| report.apps.first()).cloned();
            if let Some(value) = status.as_ref().and_then(&mut check) {
                return value;
            }
            if let Some(status) = status {
                last = format!("{status:?}");
            }
            assert!(Instant::now() < deadline, "never heard: {what}; last: {last}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

async fn trust() -> Json<serde_json::Value> {
    let key = public_key(&key()).0;
    Json(serde_json::json!({"goal_keys": [key], "build_keys": [key]}))
}

impl Drop for Region {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

/// The key that agents believe.
pub(crate) fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

/// A goal under a key's seal.
pub(crate) fn seal(goal: &Goal, key: &SigningKey) -> Sealed {
    let payload = serde_json::to_string(goal).unwrap();
    let signature = sign(key, GOAL, payload.as_bytes());
    Sealed { payload, signature }
}

/// The app that every test deploys.
pub(crate) fn app() -> AppName {
    "api".parse().unwrap()
}

/// A goal that wants `next` on every host at once.
pub(crate) fn goal(generation: u64, next: Target, base: Option<Target>) -> Goal {
    Goal {
        v: 1,
        app: app(),
        env: "prod".parse().unwrap(),
        version: GoalVersion { epoch: 1, generation, step: 1 },
        kind: GoalKind::Deploy,
        rollout: next.release,
        base,
        next,
        tolerate: vec![],
        tolerate_configured: vec![],
        region_base: BTreeMap::new(),
        pins: vec![],
        admit: BTreeMap::from([("*".into(), 10_000)]),
        salt: generation.to_string(),
        canary: Selector::default(),
        hosts: Selector::default(),
        stage: true,
        spread_ms: 0,
        pace_ms: 0,
        retry: 0,
        issued_at: UnixMillis(0),
    }
}

/// How a service is run in tests: quickly.
pub(crate) fn service_of(start: &str) -> RunSpec {
    RunSpec { start: Some(start.into()), min_healthy_s: 0, deadline_s: 3, ..RunSpec::default() }
}

/// One host: a root folder and, from time to time, an agent.
pub(crate) struct Host {
    _home: tempfile::TempDir,
    pub(crate) root: PathBuf,
    token: PathBuf,
    agent: Option<Child>,
}

impl Host {
    /// A host without an agent.
    pub(crate) fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let (root, token) = (home.path().join("root"), home.path().join("token"));
        std::fs::write(&token, "dct_x\n").unwrap();
        Self { _home: home, root, token, agent: None }
    }

    /// The app's folder.
    pub(crate) fn folder(&self) -> AppFolder {
        AppFolder::open(&self.root, &app()).unwrap()
    }

    /// Puts release `number`, complete, on the host's disk.
    pub(crate) fn place(&self, number: u64, run: RunSpec) -> Target {
        let artifact = Digest::of(&number.to_be_bytes());
        let folder = self.folder();
        let release = folder.release(artifact);
        std::fs::create_dir_all(&release).unwrap();
        for file in ["a", "b"] {
            std::fs::write(release.join(file), format!("{number}")).unwrap();
        }
        let since = UnixMillis(i64::try_from(number).unwrap());
        let sources = Sources::default();
        folder.save_known(&Known { artifact, run: Some(run), pieces: 1, sources, since }).unwrap();
        Target { release: ReleaseNo(number), artifact, config: None }
    }

    /// Starts the agent and waits until it is ready.
    pub(crate) fn start(&mut self, url: &str) {
        let (child, _) = ready(
            Command::new(env!("CARGO_BIN_EXE_deployctl-agent"))
                .args(["--region", url, "--host", "h1", "--env", "prod"])
                .args(["--listen", "127.0.0.1:0", "--var", "GREETING=hello"])
                .arg("--root")
                .arg(&self.root)
                .arg("--token-file")
                .arg(&self.token)
                .stderr(Stdio::null()),
        );
        self.agent = Some(child);
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        let mut child = self.agent.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// What `current` points to.
    pub(crate) fn current(&self) -> Option<ArtifactId> {
        self.folder().current().map(|bits| bits.artifact)
    }

    /// The number of the app's process while it runs.
    pub(crate) fn pid(&self) -> Option<i32> {
        let folder = self.folder();
        service::supervisor(folder.path())?;
        let status = service::status(folder.path())?;
        status.process.filter(service::Process::is_alive).map(|process| process.pid)
    }

    /// Runs one of the agent's commands on this host; its exit code and output.
    pub(crate) fn command(&self, args: &[&str]) -> (i32, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_deployctl-agent"));
        let output = command.args(args).arg("--root").arg(&self.root).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8_lossy(&text).into_owned())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.agent.is_some() {
            self.kill();
        }
        let path = self.folder().path().to_owned();
        stop_app(&path);
    }
}

fn stop_app(path: &std::path::Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _ = runtime.block_on(service::stop(path));
}
