//! A coordinator in this process, over a folder, with two regions configured.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use deployctl::config::daemon::{Flags, load};
use deployctl::coordinator::run::run;
use deployctl::model::digest::{ArtifactId, Digest};
use deployctl::model::rollout::{RolloutKind, RolloutState};
use deployctl::model::time::UnixMillis;
use deployctl::net::client::{CallError, Client};
use deployctl::wire::problem::Problem;
use deployctl::wire::v1::app::AppSpec;
use deployctl::wire::v1::fleet::Regions;
use deployctl::wire::v1::rollout::{CancelRequest, PromoteRequest, Rollout, RolloutRequest};
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::region::FakeRegion;

/// How long anything in these tests may take; never reached when all is well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct House {
    pub(crate) folder: tempfile::TempDir,
    stop: watch::Sender<bool>,
    done: JoinHandle<()>,
    pub(crate) url: String,
    pub(crate) admin: Client,
}

impl House {
    pub(crate) async fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let blobs = |name: &str| format!("file://{}/{name}", folder.path().display());
        let config = format!(
            "listen = \"127.0.0.1:0\"\n[regions.eu]\nblobs = {:?}\n[regions.us]\nblobs = {:?}\n\
             [synchronizer]\nevery_ms = 3600000\n\
             # The builds of these tests are rows of long ago: collected, they are no test.\n\
             [collector]\nenabled = false\n",
            blobs("eu"),
            blobs("us")
        );
        std::fs::write(folder.path().join("coordinator.toml"), config).unwrap();
        let (stop, done, url) = start(folder.path()).await;
        let admin = client(folder.path(), &url, "admin");
        stores_checked(&admin, None).await;
        let house = Self { folder, stop, done, url, admin };
        let app: AppSpec = serde_json::from_value(
            json!({ "name": "api", "repo": "file:///srv/api", "envs": ["prod", "staging"] }),
        )
        .unwrap();
        let _: Value = house.admin.post("/v1/apps", &app, PATIENCE).await.unwrap();
        house
    }

    /// Stops the coordinator and starts it again on the same folder.
    pub(crate) async fn restart(self) -> Self {
        let before: Regions = self.admin.get("/v1/regions", PATIENCE).await.unwrap();
        let checked_at = before.regions.iter().filter_map(|region| region.store_checked_at).max();
        self.stop.send_replace(true);
        self.done.await.unwrap();
        let (stop, done, url) = start(self.folder.path()).await;
        let admin = client(self.folder.path(), &url, "admin");
        stores_checked(&admin, checked_at).await;
        Self { folder: self.folder, stop, done, url, admin }
    }

    /// A client with the token that the first start wrote under `name`.
    pub(crate) fn client(&self, name: &str) -> Client {
        client(self.folder.path(), &self.url, name)
    }

    /// The coordinator's database, beside the coordinator.
    pub(crate) fn db(&self) -> rusqlite::Connection {
        let path = self.folder.path().join("data/coordinator.db");
        let db = rusqlite::Connection::open(path).unwrap();
        db.busy_timeout(PATIENCE).unwrap();
        db
    }

    pub(crate) fn region(&self, name: &str, hosts: usize) -> FakeRegion {
        let token = self.client(&format!("region-{name}"));
        FakeRegion::new(token, name, hosts)
    }

    /// A build as a worker would have left it; returns its artifact.
    pub(crate) fn build(&self, n: u64, state: &str, replication: &str) -> ArtifactId {
        let db = self.db();
        let artifact = artifact(n);
        db.execute(
            "INSERT INTO jobs (id, app, commit_id, recipe_digest, status, attempt, max_attempts,
                 not_before, artifact, queued_at, actor, subject, repo, trunk, recipe,
                 failure_class, failure_reason)
             VALUES (?1, 'api', ?2, 'x', ?3, 1, 3, 0, ?4, 0, 'ann', 'a change', '', 'main', '{}',
                 ?5, ?6)",
            rusqlite::params![
                n as i64,
                commit(n),
                state,
                (state == "SUCCEEDED").then(|| artifact.to_string()),
                (state == "FAILED").then_some("build_failed"),
                (state == "FAILED").then_some("exit code 2"),
            ],
        )
        .unwrap();
        if n > 1 {
            self.relate(n, n - 1, "ancestor");
        }
        if state == "SUCCEEDED" {
            db.execute(
                "INSERT INTO artifacts (artifact, app, commit_id, job, size, wire_size, pieces,
                     entries, manifest_bytes, replication_status, created_at)
                 VALUES (?1, 'api', ?2, ?3, 100, 100, 1, 1, 100, ?4, 0)",
                rusqlite::params![artifact.to_string(), commit(n), n as i64, replication],
            )
            .unwrap();
        }
        artifact
    }

    /// As a worker that built `n` would have reported what the commit of `other` is to it.
    pub(crate) fn relate(&self, n: u64, other: u64, relation: &str) {
        let facts = rusqlite::params![n as i64, commit(n), commit(other), relation];
        let sql = "INSERT OR REPLACE INTO ancestry VALUES ('api', ?1, ?2, ?3, ?4)";
        self.db().execute(sql, facts).unwrap();
    }

    /// Nobody compared the commit of `n` with any other.
    pub(crate) fn estrange(&self, n: u64) {
        let sql = "DELETE FROM ancestry WHERE commit_id = ?1 OR other = ?1";
        self.db().execute(sql, [commit(n)]).unwrap();
    }

    pub(crate) fn replicated(&self, n: u64) {
        let db = self.db();
        db.execute(
            "UPDATE artifacts SET replication_status = 'complete' WHERE artifact = ?1",
            [artifact(n).to_string()],
        )
        .unwrap();
    }

    pub(crate) async fn ask(&self, request: &RolloutRequest) -> Result<Rollout, Problem> {
        self.ask_in("prod", request).await
    }

    pub(crate) async fn ask_in(
        &self,
        env: &str,
        request: &RolloutRequest,
    ) -> Result<Rollout, Problem> {
        let path = format!("/v1/apps/api/envs/{env}/rollouts");
        refused(self.admin.post(&path, request, PATIENCE).await)
    }

    pub(crate) async fn show(&self, release: &str) -> Rollout {
        let path = format!("/v1/apps/api/envs/prod/rollouts/{release}");
        self.admin.get(&path, PATIENCE).await.unwrap()
    }

    pub(crate) async fn cancel(&self, release: &str, keep: bool) -> Result<Rollout, Problem> {
        let path = format!("/v1/apps/api/envs/prod/rollouts/{release}/cancel");
        let request = CancelRequest { keep, message: String::new() };
        refused(self.admin.post(&path, &request, PATIENCE).await)
    }

    pub(crate) async fn promote(&self, release: &str, full: bool) -> Result<Rollout, Problem> {
        let path = format!("/v1/apps/api/envs/prod/rollouts/{release}/promote");
        let request = PromoteRequest { full, expect_step: None };
        refused(self.admin.post(&path, &request, PATIENCE).await)
    }

    pub(crate) async fn act(&self, release: &str, verb: &str) -> Result<Rollout, Problem> {
        let path = format!("/v1/apps/api/envs/prod/rollouts/{release}/{verb}");
        refused(self.admin.post(&path, &json!({}), PATIENCE).await)
    }

    /// A client of its own, of the role.
    pub(crate) async fn holder(&self, name: &str, role: &str) -> Client {
        let body = json!({ "name": name, "role": role });
        let made: Value = self.admin.post("/v1/tokens", &body, PATIENCE).await.unwrap();
        Client::new(&self.url, Some(made["token"].as_str().unwrap().to_owned()))
    }

    pub(crate) async fn retry(&self, release: &str) -> Result<Rollout, Problem> {
        let path = format!("/v1/apps/api/envs/prod/rollouts/{release}/retry");
        refused(self.admin.post(&path, &json!({}), PATIENCE).await)
    }

    /// Lets the regions live until the rollout is as `wanted`.
    pub(crate) async fn until(
        &self,
        release: &str,
        regions: &mut [&mut FakeRegion],
        wanted: impl Fn(&Rollout) -> bool,
    ) -> Rollout {
        let deadline = Instant::now() + PATIENCE;
        loop {
            for region in regions.iter_mut() {
                region.live().await;
            }
            let rollout = self.show(release).await;
            if wanted(&rollout) {
                return rollout;
            }
            assert!(Instant::now() < deadline, "still {rollout:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn until_state(
        &self,
        release: &str,
        regions: &mut [&mut FakeRegion],
        state: RolloutState,
    ) -> Rollout {
        self.until(release, regions, |rollout| {
            assert!(
                !rollout.release.state.is_final() || rollout.release.state == state,
                "ended {rollout:#?}"
            );
            rollout.release.state == state
        })
        .await
    }
}

/// A deploy without bakes.
pub(crate) fn deploy(target: &str) -> RolloutRequest {
    RolloutRequest { bake_s: Some(0), ..RolloutRequest::new(RolloutKind::Deploy, target) }
}

pub(crate) fn rollback(target: &str) -> RolloutRequest {
    RolloutRequest { kind: RolloutKind::Rollback, ..deploy(target) }
}

pub(crate) fn artifact(n: u64) -> ArtifactId {
    Digest::of(format!("artifact {n}").as_bytes())
}

pub(crate) fn commit(n: u64) -> String {
    Digest::of(format!("commit {n}").as_bytes()).to_string()[..40].to_owned()
}

pub(crate) fn refused<T>(answer: Result<T, CallError>) -> Result<T, Problem> {
    answer.map_err(|error| match error {
        CallError::Refused(problem) => *problem,
        other => panic!("no answer: {other}"),
    })
}

async fn start(folder: &Path) -> (watch::Sender<bool>, JoinHandle<()>, String) {
    let flags = Flags {
        config: Some(folder.join("coordinator.toml")),
        data: Some(folder.join("data")),
        ..Flags::default()
    };
    let config = load(&flags).unwrap();
    let (stop, stopped) = watch::channel(false);
    let (ready, url) = oneshot::channel();
    let done = tokio::spawn(async move {
        let ready = |url: &str| drop(ready.send(url.to_owned()));
        run(config, stopped, ready).await.unwrap();
    });
    (stop, done, url.await.unwrap())
}

/// Waits for the synchronizer's only round in these tests: it would find that no store
/// holds what a test calls complete.
async fn stores_checked(admin: &Client, since: Option<UnixMillis>) {
    let patient = Instant::now() + PATIENCE;
    loop {
        let all: Regions = admin.get("/v1/regions", PATIENCE).await.unwrap();
        if all.regions.iter().all(|region| region.store_checked_at > since) {
            return;
        }
        assert!(Instant::now() < patient, "stores never checked: {all:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn client(folder: &Path, url: &str, name: &str) -> Client {
    let path: PathBuf = folder.join(format!("data/tokens/{name}.token"));
    Client::new(url, Some(std::fs::read_to_string(path).unwrap()))
}
