//! A repository, a blob store, a coordinator, and worker processes in one folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use deployctl::model::digest::ArtifactId;
use deployctl::model::job::{BuildFailure, Outcome};
use deployctl::wire::v1::worker::Claim;
use serde_json::json;

use crate::coordinator::{Coordinator, Job};
use crate::ready::ready;

/// Long enough for a loaded machine; a test that waits for it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Farm {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) coordinator: Coordinator,
    server: String,
    pub(crate) repo: String,
    jobs: std::cell::Cell<u32>,
    /// Lease of the jobs, milliseconds.
    pub(crate) lease_ms: u64,
}

impl Farm {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let coordinator = Coordinator::default();
        let server = coordinator.start().await;
        let place = folder.path();
        fs::write(place.join("token"), "dct_0123456789abcdef_secret-of-the-worker\n").unwrap();
        fs::write(place.join("key"), format!("{}\n", "07".repeat(32))).unwrap();
        let repo = format!("file://{}/origin.git", place.display());
        let farm = Self {
            folder,
            coordinator,
            server,
            repo,
            jobs: std::cell::Cell::new(0),
            lease_ms: 20_000,
        };
        farm.sh("git init -q -b main clone && git init -q --bare -b main origin.git");
        farm.sh(
            "cd clone && git commit -q --allow-empty -m root && git push -q ../origin.git main",
        );
        farm
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn sh(&self, script: &str) -> String {
        let mut sh = Command::new("sh");
        sh.args(["-ec", script]).current_dir(self.folder.path());
        sh.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        for who in ["AUTHOR", "COMMITTER"] {
            sh.env(format!("GIT_{who}_NAME"), "t").env(format!("GIT_{who}_EMAIL"), "t@t");
        }
        let said = sh.output().unwrap();
        assert!(said.status.success(), "{script}: {}", String::from_utf8_lossy(&said.stderr));
        String::from_utf8(said.stdout).unwrap().trim().to_owned()
    }

    /// Commits a recipe with this build command on the trunk, and pushes it.
    pub(crate) fn commit(&self, command: &str, more: &str) -> String {
        let recipe = format!("app = \"api\"\n[build]\ncommand = '''{command}'''\n{more}\n");
        fs::write(self.path("clone/deployctl.toml"), recipe).unwrap();
        self.sh("cd clone && git add -A && git commit -q --allow-empty -m c && git push -q ../origin.git HEAD");
        self.head()
    }

    pub(crate) fn head(&self) -> String {
        self.sh("git -C clone rev-parse HEAD")
    }

    /// Queues a build of `commit`; its name.
    pub(crate) fn queue(&self, commit: &str) -> String {
        self.queue_from(&self.repo, commit)
    }

    pub(crate) fn queue_from(&self, repo: &str, commit: &str) -> String {
        self.jobs.set(self.jobs.get() + 1);
        let build = format!("b{}", self.jobs.get());
        let claim: Claim = serde_json::from_value(json!({
            "build": build, "attempt": 1, "app": "api", "repo": repo, "trunk": "main",
            "commit": commit, "allow_unmerged": false, "recipe": {},
            "beat_ms": self.lease_ms / 5, "lease_ms": self.lease_ms,
        }))
        .unwrap();
        self.coordinator.heard(|heard| heard.queue.push_back(claim));
        build
    }

    /// Waits until the job ended.
    pub(crate) async fn ended(&self, build: &str) -> (Outcome, Job) {
        eventually(build, || self.coordinator.job(build).outcome.is_some()).await;
        let job = self.coordinator.job(build);
        (job.outcome.clone().unwrap(), job)
    }

    /// Builds `commit`, which must fail.
    pub(crate) async fn fails(&self, commit: &str, class: BuildFailure, says: &str) -> Job {
        let build = self.queue(commit);
        let (outcome, job) = self.ended(&build).await;
        match outcome {
            Outcome::Failed { class: was, reason } if was == class && reason.contains(says) => job,
            other => panic!("wanted {class:?} {says:?}: {other:?}\n{}", job.log),
        }
    }

    /// Builds `commit`, which must succeed.
    pub(crate) async fn succeeds(&self, commit: &str) -> (ArtifactId, Job) {
        let build = self.queue(commit);
        match self.ended(&build).await {
            (Outcome::Succeeded { artifact }, job) => (artifact, job),
            (other, job) => panic!("{other:?}\n{}", job.log),
        }
    }

    /// A worker process in the work folder `name`.
    pub(crate) fn worker(&self, name: &str, more: &[&str]) -> Worker {
        let place = |name: &str| self.path(name).display().to_string();
        let stderr = fs::File::options().create(true).append(true).open(self.path("worker.log"));
        let (child, id) = ready(
            Command::new(env!("CARGO_BIN_EXE_deployctl-worker"))
                .args(["--coordinator", &self.server, "--token-file", &place("token")])
                .args(["--blobs", &format!("file://{}", place("blobs")), "--key", &place("key")])
                .args(["--work", &place(name), "--grace-s", "1"])
                .args(more)
                .stdin(Stdio::null())
                .stderr(stderr.unwrap()),
        );
        assert!(id.starts_with("w-"), "{id:?}");
        Worker { child, mark: format!("DEPLOYCTL_SCRATCH={}", place(name)) }
    }
}

pub(crate) struct Worker {
    pub(crate) child: Child,
    mark: String,
}

impl Worker {
    /// How many processes of its builds live.
    pub(crate) fn build_processes(&self) -> usize {
        let environ = |entry: fs::DirEntry| fs::read(entry.path().join("environ")).ok();
        let marked = |environ: &Vec<u8>| {
            environ.windows(self.mark.len()).any(|part| part == self.mark.as_bytes())
        };
        fs::read_dir("/proc").unwrap().flatten().filter_map(environ).filter(marked).count()
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Polls until `check` holds.
pub(crate) async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !check() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}
