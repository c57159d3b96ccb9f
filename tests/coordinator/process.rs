//! One real coordinator on a free port, and fake workers that speak its API.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use deployctl::model::digest::{ArtifactId, Digest, PieceDigest, from_hex};
use deployctl::model::id::JobNo;
use deployctl::model::job::{BuildFailure, Outcome};
use deployctl::model::manifest::{
    Codec, Entry, MANIFEST_VERSION, Manifest, Node, PIECE_BYTES, Piece, Provenance, Shape,
};
use deployctl::net::client::{CallError, Client};
use deployctl::store::blobs::{Blobs, Key, Kind};
use deployctl::wire::problem::Problem;
use deployctl::wire::seal::sign_manifest;
use deployctl::wire::v1::build::Build;
use deployctl::wire::v1::worker::{Beat, BeatReply, Claim, Finish, HandBack, Learnt, LogChunk};
use ed25519_dalek::SigningKey;
use serde_json::{Value, json};

use crate::ready::ready;

/// Long enough for a loaded machine; a test that waits for it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Coordinator {
    child: Child,
    folder: tempfile::TempDir,
    pub(crate) server: String,
}

impl Coordinator {
    /// A coordinator whose `[queue]` table holds `queue`, with the app `web`.
    pub(crate) async fn new(queue: &str) -> Self {
        Self::over(crate::configured::configured(), queue).await
    }

    /// The same on this database; `None`: a file.
    pub(crate) async fn over(database: Option<String>, queue: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let eu = folder.path().join("eu");
        let database = database.map(|url| format!("database = '{url}'\n")).unwrap_or_default();
        let config = format!(
            "{database}[queue]\n{queue}\n[regions.eu]\nblobs = 'file://{}'\n",
            eu.display()
        );
        std::fs::write(folder.path().join("config.toml"), config).unwrap();
        let (child, server) = start(folder.path());
        let coordinator = Self { child, folder, server };
        let app = json!({"name": "web", "repo": "file:///srv/web"});
        coordinator.admin().post::<Value>("/v1/apps", &app, PATIENCE).await.unwrap();
        coordinator
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The folder of region eu's blob store.
    pub(crate) fn eu(&self) -> PathBuf {
        self.folder.path().join("eu")
    }

    pub(crate) fn token(&self, name: &str) -> String {
        std::fs::read_to_string(self.data().join(format!("tokens/{name}.token"))).unwrap()
    }

    pub(crate) fn client(&self, name: &str) -> Client {
        Client::new(&self.server, Some(self.token(name)))
    }

    pub(crate) fn admin(&self) -> Client {
        self.client("admin")
    }

    pub(crate) fn worker(&self, name: &str) -> Worker {
        Worker { name: name.into(), client: self.client("worker") }
    }

    /// kill -9, then a new process on the same data, on another port.
    pub(crate) fn crash_and_restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        (self.child, self.server) = start(self.folder.path());
    }

    /// SIGTERM, then `meanwhile` with the folder of its `config.toml`, then a new process.
    pub(crate) fn restart_after(&mut self, meanwhile: impl FnOnce(&Path)) {
        self.stop();
        meanwhile(self.folder.path());
        (self.child, self.server) = start(self.folder.path());
    }

    /// SIGTERM; the exit must come and be clean.
    pub(crate) fn stop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }

    pub(crate) async fn queue(&self, commit: u8) -> Build {
        let body = json!({"commit": commit_id(commit), "subject": format!("change {commit}")});
        self.admin().post("/v1/apps/web/builds", &body, PATIENCE).await.unwrap()
    }

    pub(crate) async fn build(&self, no: JobNo) -> Build {
        self.admin().get(&format!("/v1/builds/{no}"), PATIENCE).await.unwrap()
    }

    pub(crate) async fn act(&self, no: JobNo, verb: &str) -> Result<Build, CallError> {
        self.admin().post(&format!("/v1/builds/{no}/{verb}"), &json!({}), PATIENCE).await
    }

    /// Polls the build until `holds`.
    pub(crate) async fn until(&self, no: JobNo, holds: impl Fn(&Build) -> bool) -> Build {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let build = self.build(no).await;
            if holds(&build) {
                return build;
            }
            assert!(Instant::now() < deadline, "never came: {build:#?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The kinds of every event, in order.
    pub(crate) async fn event_kinds(&self) -> Vec<String> {
        let events: Value = self.admin().get("/v1/events?since=0", PATIENCE).await.unwrap();
        let events = events["events"].as_array().unwrap().clone();
        events.iter().map(|event| event["kind"].as_str().unwrap().to_owned()).collect()
    }

    /// Publishes a one-file artifact of `web` at `commit`, as a worker does.
    pub(crate) async fn publish(&self, commit: u8, content: &[u8]) -> ArtifactId {
        self.publish_as(manifest("web", commit, content), content, true).await
    }

    pub(crate) async fn publish_as(
        &self,
        manifest: Manifest,
        pack: &[u8],
        trusted: bool,
    ) -> ArtifactId {
        let seed = std::fs::read_to_string(self.data().join("keys/build.ed25519")).unwrap();
        let seed: [u8; 32] = from_hex(&seed).unwrap().try_into().unwrap();
        let key = SigningKey::from_bytes(if trusted { &seed } else { &[1; 32] });
        let blobs =
            Blobs::open(&format!("file://{}", self.data().join("blobs").display())).unwrap();
        let bytes = manifest.encode();
        let artifact = Digest::of(&bytes);
        blobs.put(Key::new(Kind::Pack, artifact), pack.to_vec()).await.unwrap();
        let signature = sign_manifest(&key, &bytes);
        blobs.put(Key::new(Kind::Signature, artifact), signature).await.unwrap();
        blobs.put(Key::new(Kind::Manifest, artifact), bytes).await.unwrap();
        artifact
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(folder: &Path) -> (Child, String) {
    ready(
        Command::new(env!("CARGO_BIN_EXE_deployctl-coordinator"))
            .args(["--listen", "127.0.0.1:0", "--config"])
            .arg(folder.join("config.toml"))
            .arg("--data")
            .arg(folder.join("data"))
            .env("DEPLOYCTL_LOG", "warn"),
    )
}

pub(crate) fn commit_id(n: u8) -> String {
    format!("{n:02x}").repeat(20)
}

pub(crate) fn manifest(app: &str, commit: u8, content: &[u8]) -> Manifest {
    let digest = PieceDigest::of(content);
    let piece = Piece {
        raw: digest,
        wire: digest,
        wire_bytes: u32::try_from(content.len()).unwrap(),
        codec: Codec::None,
    };
    let node = Node::File { size: content.len() as u64, exec: true };
    Manifest {
        v: MANIFEST_VERSION,
        app: app.parse().unwrap(),
        shape: Shape::File,
        entries: vec![Entry { path: "app".into(), node }],
        size: content.len() as u64,
        piece_bytes: u32::try_from(PIECE_BYTES.0).unwrap(),
        pieces: vec![piece],
        run: None,
        provenance: Provenance {
            repo: "file:///srv/web".into(),
            commit: commit_id(commit).parse().unwrap(),
            tree: "0".repeat(40),
            command: "make".into(),
        },
    }
}

/// A worker that builds nothing.
pub(crate) struct Worker {
    name: String,
    client: Client,
}

impl Worker {
    pub(crate) async fn claim(&self, wait_ms: u64) -> Option<Claim> {
        let request = json!({"worker": self.name, "machine": format!("m-{}", self.name), "slots": 1, "busy": 0, "wait_ms": wait_ms});
        self.client.post("/v1/worker/claim", &request, PATIENCE).await.unwrap()
    }

    pub(crate) async fn beat(&self, claim: &Claim) -> Result<BeatReply, CallError> {
        let body = Beat { worker: self.name.parse().unwrap(), attempt: claim.attempt };
        self.call(claim, "beat", &body).await
    }

    pub(crate) async fn release(&self, claim: &Claim) -> Result<Value, CallError> {
        let body = HandBack { worker: self.name.parse().unwrap(), attempt: claim.attempt };
        self.call(claim, "release", &body).await
    }

    pub(crate) async fn log(
        &self,
        claim: &Claim,
        offset: u64,
        text: &str,
    ) -> Result<Value, CallError> {
        let body = LogChunk { attempt: claim.attempt, offset, text: text.into() };
        self.call(claim, "log", &body).await
    }

    pub(crate) async fn finish(&self, claim: &Claim, outcome: Outcome) -> Result<Value, CallError> {
        let worker = self.name.parse().unwrap();
        self.call(
            claim,
            "finish",
            &Finish { worker, attempt: claim.attempt, outcome, learnt: Learnt::default() },
        )
        .await
    }

    pub(crate) async fn succeed(
        &self,
        claim: &Claim,
        artifact: ArtifactId,
    ) -> Result<Value, CallError> {
        self.finish(claim, Outcome::Succeeded { artifact }).await
    }

    pub(crate) async fn fail(
        &self,
        claim: &Claim,
        class: BuildFailure,
    ) -> Result<Value, CallError> {
        self.finish(claim, Outcome::Failed { class, reason: "on purpose".into() }).await
    }

    async fn call<T: serde::de::DeserializeOwned>(
        &self,
        claim: &Claim,
        verb: &str,
        body: &impl serde::Serialize,
    ) -> Result<T, CallError> {
        let path = format!("/v1/worker/jobs/{}/{verb}", claim.build);
        self.client.post(&path, body, PATIENCE).await
    }
}

/// The problem that a call was refused with.
pub(crate) fn refusal<T>(result: Result<T, CallError>) -> Problem {
    match result {
        Err(CallError::Refused(problem)) => *problem,
        Err(error) => panic!("not a refusal: {error}"),
        Ok(_) => panic!("not refused"),
    }
}
