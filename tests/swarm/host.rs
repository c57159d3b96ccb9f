//! Hosts as the swarm's tests see them: real fetchers, each with a folder of its own.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use deployctl::agent::fetch::{Caps, FetchConfig, Fetcher};
use deployctl::agent::link::Link;
use deployctl::agent::source::{FetchFailure, Fetched, Progress, Want};
use deployctl::agent::trust::Trust;
use deployctl::model::manifest::Node;
use deployctl::wire::seal;
use deployctl::wire::v1::fleet::HostInfo;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::region::{Made, Region, build_key};

/// Longest that anything here may take, on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A host with a real fetcher, and its folder.
pub(crate) struct Host {
    pub(crate) root: TempDir,
    name: String,
    pub(crate) fetcher: Option<Fetcher>,
    pub(crate) trust: watch::Sender<Trust>,
    /// Taken up at the next restart.
    pub(crate) caps: Caps,
    /// The same: see [`FetchConfig::alone`].
    pub(crate) alone: Duration,
}

impl Host {
    pub(crate) async fn start(region: &str, name: &str) -> Self {
        let keys = vec![seal::public_key(&build_key())];
        let trust = Trust { goal_keys: keys.clone(), build_keys: keys };
        let mut host = Self {
            root: tempfile::tempdir().unwrap(),
            name: name.into(),
            fetcher: None,
            trust: watch::Sender::new(trust),
            caps: Caps::default(),
            alone: Duration::from_secs(60),
        };
        host.restart(region, Duration::from_secs(20)).await;
        host
    }

    pub(crate) async fn restart(&mut self, region: &str, patience: Duration) {
        self.fetcher = None;
        let info = HostInfo {
            host: self.name.parse().unwrap(),
            env: "prod".parse().unwrap(),
            labels: Default::default(),
            rack: String::new(),
            zone: String::new(),
            peer_port: 0,
            agent_version: "0".into(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let link = Link::new(region, "dct_x").unwrap();
        let root = self.root.path().to_owned();
        let config = FetchConfig::new(root, link, info, self.trust.subscribe(), listener);
        self.fetcher = Some(
            Fetcher::start(FetchConfig { patience, caps: self.caps, alone: self.alone, ..config })
                .unwrap(),
        );
    }

    pub(crate) async fn fetch(&self, made: &Made) -> Result<Fetched, FetchFailure> {
        self.fetch_with(made, &watch::Sender::new(Progress::default())).await
    }

    pub(crate) async fn fetch_with(
        &self,
        made: &Made,
        progress: &watch::Sender<Progress>,
    ) -> Result<Fetched, FetchFailure> {
        let want = Want { app: made.manifest.app.clone(), artifact: made.id(), within: None };
        let fetch = self.fetcher.as_ref().unwrap().fetch(want, progress);
        tokio::time::timeout(DEADLINE, fetch).await.expect("a fetch ends")
    }

    pub(crate) fn release(&self, made: &Made) -> std::path::PathBuf {
        let app = made.manifest.app.as_str();
        self.root.path().join("apps").join(app).join("releases").join(made.id().to_string())
    }
}

/// Every file, mode and link of a release is what the manifest says.
pub(crate) fn assert_release(release: &Path, made: &Made) {
    for entry in &made.manifest.entries {
        let path = release.join(&entry.path);
        match &entry.node {
            Node::File { exec, .. } => {
                assert!(std::fs::read(&path).unwrap() == made.files[&entry.path], "{path:?}");
                let mode = path.metadata().unwrap().permissions().mode() & 0o7777;
                assert_eq!(mode, if *exec { 0o755 } else { 0o644 });
            }
            Node::Link { target } => {
                assert_eq!(std::fs::read_link(&path).unwrap(), Path::new(target));
            }
            Node::Dir => assert!(path.is_dir()),
        }
    }
}

pub(crate) async fn hosts(region: &Region, count: usize) -> Vec<Host> {
    let mut hosts = vec![];
    for i in 0..count {
        hosts.push(Host::start(&region.url, &format!("h{i}")).await);
    }
    hosts
}
