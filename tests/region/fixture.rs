//! A pretended coordinator, a region as a real process, and artifacts to replicate.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::routing::post;
use deployctl::model::digest::{ArtifactId, PieceDigest, to_hex};
use deployctl::model::goal::{Goal, GoalKind, GoalVersion, Target};
use deployctl::model::id::{HostId, RegionName, ReleaseNo};
use deployctl::model::manifest::{
    Codec, Entry, Manifest, Node, Piece, Provenance, Shape, piece_bytes,
};
use deployctl::model::pieces::PieceSet;
use deployctl::model::rng::Rng;
use deployctl::model::selector::Selector;
use deployctl::model::time::UnixMillis;
use deployctl::net::auth::{Key, Token, random_key, region_key, sibling_ticket};
use deployctl::net::client::Client;
use deployctl::net::server::{Json, serve};
use deployctl::wire::seal::{self, Sealed, public_key, sign_manifest};
use deployctl::wire::v1::fleet::HostInfo;
use deployctl::wire::v1::region::{
    Feed, FeedRequest, RegionReport, RegionReportReply, Sibling, Trust, Verifiers, Wanted,
};
use deployctl::wire::v1::swarm::JoinRequest;
use deployctl::wire::v1::token::{Role, Verifier};
use ed25519_dalek::SigningKey;
use tokio::sync::watch;

use crate::ready::ready;

/// How long anything may take on a loaded machine before a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `check` yields something.
pub(crate) async fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(Instant::now() < deadline, "gave up waiting: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What the pretended coordinator tells and was told.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) revision: u64,
    pub(crate) goals: Vec<Sealed>,
    pub(crate) artifacts: Vec<Wanted>,
    pub(crate) tokens: Vec<Verifier>,
    /// Every region, and where it serves others.
    pub(crate) siblings: Vec<(RegionName, Option<String>)>,
    /// Whether stores replicate themselves.
    pub(crate) by_store: bool,
    pub(crate) heal: Vec<ArtifactId>,
    pub(crate) reports: Vec<RegionReport>,
}

/// A coordinator as a region sees it.
pub(crate) struct Coordinator {
    pub(crate) told: Mutex<Told>,
    changed: watch::Sender<u64>,
    key: Key,
    goal_key: SigningKey,
    build_key: SigningKey,
}

impl Coordinator {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            told: Mutex::default(),
            changed: watch::Sender::new(0),
            key: random_key(),
            goal_key: SigningKey::from_bytes(&[1; 32]),
            build_key: SigningKey::from_bytes(&[2; 32]),
        })
    }

    /// Changes what the next feed brings.
    pub(crate) fn tell(&self, change: impl FnOnce(&mut Told)) {
        let mut told = self.told.lock().unwrap();
        change(&mut told);
        told.revision += 1;
        self.changed.send_replace(told.revision);
    }

    /// Serves on `port` (0: any) until the sender turns true; returns the address.
    pub(crate) async fn serve(self: &Arc<Self>, port: u16) -> Serving {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let router = axum::Router::new()
            .route("/v1/region/feed", post(feed))
            .route("/v1/region/report", post(report))
            .with_state(self.clone());
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(serve(listener, router, stopped));
        Serving { port, stop, task }
    }

    /// A token of the region's, in the next feed.
    pub(crate) fn agent_token(&self, region: &str, host: Option<&str>) -> String {
        self.mint(&region.parse().unwrap(), &"eu".parse().unwrap(), host)
    }

    /// A token of an agent in `region`.
    pub(crate) fn agent_token_of(&self, region: &RegionName) -> String {
        self.mint(region, region, None)
    }

    fn mint(&self, region: &RegionName, checked_by: &RegionName, host: Option<&str>) -> String {
        let token = Token::mint();
        let verifier = Verifier {
            id: token.id.clone(),
            name: "agent".into(),
            role: Role::Agent,
            region: Some(region.clone()),
            host: host.map(|host| host.parse().unwrap()),
            mac: token.mac(&region_key(&self.key, checked_by)),
        };
        self.tell(|told| told.tokens.push(verifier));
        token.reveal()
    }

    /// A sibling as `own` hears of it.
    fn sibling(&self, name: &RegionName, url: &Option<String>, own: &RegionName) -> Sibling {
        let ticket = self.ticket(name, own);
        Sibling {
            region: name.clone(),
            url: url.clone(),
            ticket: Some(ticket),
            replicated_by_store: false,
        }
    }

    /// What region `own` shows region `to`.
    pub(crate) fn ticket(&self, to: &RegionName, own: &RegionName) -> String {
        sibling_ticket(&region_key(&self.key, to), own)
    }

    pub(crate) fn want(&self, artifact: ArtifactId) {
        self.tell(|told| told.artifacts.push(Wanted { artifact, gone: false, patch: None }));
    }

    /// Signs and tells a goal that admits everybody.
    pub(crate) fn deploy(&self, generation: u64, artifact: ArtifactId) {
        let goal = Goal {
            v: 1,
            app: "api".parse().unwrap(),
            env: "prod".parse().unwrap(),
            version: GoalVersion { epoch: 1, generation, step: 0 },
            kind: GoalKind::Deploy,
            rollout: ReleaseNo(generation),
            base: None,
            next: Target { release: ReleaseNo(generation), artifact, config: None },
            tolerate: vec![],
            tolerate_configured: vec![],
            region_base: BTreeMap::new(),
            pins: vec![],
            admit: BTreeMap::from([("*".into(), 10_000)]),
            salt: generation.to_string(),
            canary: Selector::default(),
            hosts: "role=web".parse().unwrap(),
            stage: true,
            spread_ms: 0,
            pace_ms: 0,
            retry: 0,
            issued_at: UnixMillis(0),
        };
        let payload = serde_json::to_string(&goal).unwrap();
        let signature = seal::sign(&self.goal_key, seal::GOAL, payload.as_bytes());
        self.tell(|told| told.goals.push(Sealed { payload, signature }));
    }

    /// Waits for a report that `find` likes.
    pub(crate) async fn reported<T>(
        &self,
        what: &str,
        find: impl Fn(&RegionReport) -> Option<T>,
    ) -> T {
        let newest = || self.told.lock().unwrap().reports.iter().rev().find_map(&find);
        eventually(what, newest).await
    }

    /// Waits until the region says that its copy of `artifact` is `complete`.
    pub(crate) async fn completed(&self, artifact: ArtifactId) {
        self.completed_in("eu", artifact).await;
    }

    pub(crate) async fn completed_in(&self, region: &str, artifact: ArtifactId) {
        self.reported("a complete copy", |report| {
            if report.region.as_str() != region {
                return None;
            }
            let mine = report.replicas.iter().find(|replica| replica.artifact == artifact)?;
            mine.complete.then_some(())
        })
        .await;
    }

    /// Writes an artifact of `mib` MiB that does not compress into `store`.
    pub(crate) fn publish(&self, store: &Path, mib: u64, seed: u64) -> Published {
        let (manifest, pack) = artifact(mib << 20, seed);
        let (bytes, id) = (manifest.encode(), manifest.id());
        let published = Published { id, manifest, pack, store: store.to_owned() };
        let signature = sign_manifest(&self.build_key, &bytes);
        put(&published.path("packs"), &published.pack);
        put(&published.path("signatures"), signature.as_bytes());
        put(&published.path("manifests"), &bytes);
        published
    }
}

fn put(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn artifact(size: u64, seed: u64) -> (Manifest, Vec<u8>) {
    let mut rng = Rng::new(seed);
    let mut pack = Vec::with_capacity(size as usize);
    while (pack.len() as u64) < size {
        pack.extend_from_slice(&rng.next_u64().to_le_bytes());
    }
    let pieces = pack.chunks(piece_bytes(size) as usize).map(|bytes| {
        let digest = PieceDigest::of(bytes);
        Piece { raw: digest, wire: digest, wire_bytes: bytes.len() as u32, codec: Codec::None }
    });
    let manifest = Manifest {
        v: 1,
        app: "api".parse().unwrap(),
        shape: Shape::File,
        entries: vec![Entry { path: "api".into(), node: Node::File { size, exec: true } }],
        size,
        piece_bytes: piece_bytes(size),
        pieces: pieces.collect(),
        run: None,
        provenance: Provenance {
            repo: "file:///r".into(),
            commit: "a".repeat(40).parse().unwrap(),
            tree: "b".repeat(40),
            command: "make".into(),
        },
    };
    (manifest, pack)
}

/// Host h1 enters a swarm with nothing.
pub(crate) fn joining() -> JoinRequest {
    JoinRequest {
        host: "h1".parse().unwrap(),
        peer_port: 4000,
        rack: String::new(),
        zone: String::new(),
        epoch: None,
        have: PieceSet::default(),
        wants: true,
    }
}

/// An artifact in a folder store.
pub(crate) struct Published {
    pub(crate) id: ArtifactId,
    pub(crate) manifest: Manifest,
    pub(crate) pack: Vec<u8>,
    store: PathBuf,
}

impl Published {
    pub(crate) fn path(&self, kind: &str) -> PathBuf {
        path_in(&self.store, kind, self.id)
    }
}

/// Where a folder store keeps an object.
pub(crate) fn path_in(store: &Path, kind: &str, artifact: ArtifactId) -> PathBuf {
    let hex = artifact.to_string();
    store.join(kind).join(&hex[..2]).join(hex)
}

/// Turns one byte of a file over.
pub(crate) fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

pub(crate) struct Serving {
    pub(crate) port: u16,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Serving {
    pub(crate) async fn end(self) {
        self.stop.send_replace(true);
        self.task.abort();
        let _ = self.task.await;
    }
}

async fn feed(
    State(coordinator): State<Arc<Coordinator>>,
    Json(request): Json<FeedRequest>,
) -> Json<Feed> {
    let mut changed = coordinator.changed.subscribe();
    let wait = Duration::from_millis(request.wait_ms);
    let newer = changed.wait_for(|revision| *revision != request.since);
    let _ = tokio::time::timeout(wait, newer).await;
    let told = coordinator.told.lock().unwrap();
    let key = to_hex(&region_key(&coordinator.key, &request.region));
    Json(Feed {
        revision: told.revision,
        full: true,
        goals: told.goals.clone(),
        artifacts: told.artifacts.clone(),
        verifiers: Some(Verifiers { key, tokens: told.tokens.clone() }),
        trust: Some(Trust {
            goal_keys: vec![public_key(&coordinator.goal_key)],
            build_keys: vec![public_key(&coordinator.build_key)],
        }),
        siblings: Some(
            told.siblings
                .iter()
                .map(|(name, url)| Sibling {
                    replicated_by_store: told.by_store,
                    ..coordinator.sibling(name, url, &request.region)
                })
                .collect(),
        ),
    })
}

async fn report(
    State(coordinator): State<Arc<Coordinator>>,
    Json(report): Json<RegionReport>,
) -> Json<RegionReportReply> {
    let mut told = coordinator.told.lock().unwrap();
    told.reports.push(report);
    let heal = std::mem::take(&mut told.heal);
    Json(RegionReportReply { heal, forget: vec![], teller: None, compare: vec![] })
}

/// Folders of one region and its main store, and the process while it runs.
pub(crate) struct Region {
    pub(crate) name: RegionName,
    listen: String,
    folder: Arc<tempfile::TempDir>,
    /// What is this process's alone.
    data: String,
    /// All processes of the region, if there are several.
    processes: Vec<String>,
    port: u16,
    process: Option<Child>,
    pub(crate) url: String,
}

impl Region {
    /// Region `eu`, on any free port.
    pub(crate) fn new(coordinator: &Serving) -> Self {
        Self::named("eu", "127.0.0.1:0", coordinator)
    }

    /// The `n`th region, at an address that is known before it starts: its own one of
    /// the loopback network, by the test's process.
    pub(crate) fn numbered(n: u8, coordinator: &Serving) -> Self {
        let pid = std::process::id();
        // Tests of one process do not share numbers either.
        static TAKEN: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(1);
        let taken = TAKEN.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let [_, _, high, low] = pid.to_be_bytes();
        let listen = format!("127.{}.{}.{}:7979", 1 + high % 250, low, taken);
        let mut region = Self::named(&format!("r{n}"), &listen, coordinator);
        region.url = format!("http://{listen}");
        region
    }

    fn named(name: &str, listen: &str, coordinator: &Serving) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        for name in ["main", "store"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        std::fs::write(folder.path().join("token"), Token::mint().reveal()).unwrap();
        let (name, listen) = (name.parse().unwrap(), listen.to_owned());
        let (port, url, data) = (coordinator.port, String::new(), "data".to_owned());
        Self { name, listen, folder, data, processes: vec![], port, process: None, url }
    }

    /// One region with two processes over the same stores, not started.
    pub(crate) fn two_processes(coordinator: &Serving) -> [Self; 2] {
        let mut one = Self::numbered(1, coordinator);
        let mut two = Self::numbered(2, coordinator);
        one.name = "eu".parse().unwrap();
        (two.name, two.folder, two.data) = (one.name.clone(), one.folder.clone(), "data2".into());
        one.processes = vec![one.url.clone(), two.url.clone()];
        two.processes.clone_from(&one.processes);
        [one, two]
    }

    pub(crate) fn main(&self) -> PathBuf {
        self.folder.path().join("main")
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    pub(crate) fn start(&mut self) {
        let at = |name: &str| self.folder.path().join(name).display().to_string();
        let log = self.folder.path().join(format!("{}.log", self.data));
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_deployctl-region"));
        if !self.processes.is_empty() {
            command.args(["--processes", &self.processes.join(","), "--url", &self.url]);
        }
        let (process, url) = ready(
            command
                .args(["--name", self.name.as_str(), "--listen", &self.listen])
                .args(["--coordinator", &format!("http://127.0.0.1:{}", self.port)])
                .args(["--token-file", &at("token"), "--data", &at(&self.data)])
                .args(["--main-blobs", &format!("file://{}", at("main"))])
                .args(["--blobs", &format!("file://{}", at("store")), "--report-ms", "300"])
                .stderr(log),
        );
        (self.process, self.url) = (Some(process), url);
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    pub(crate) fn log(&self) -> String {
        // There is none before the start.
        std::fs::read_to_string(self.folder.path().join(format!("{}.log", self.data)))
            .unwrap_or_default()
    }

    pub(crate) fn agent(&self, token: &str) -> Client {
        Client::new(&self.url, Some(token.to_owned()))
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.kill();
        }
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

/// A host that carries the label that goals select.
pub(crate) fn host(name: &str) -> HostInfo {
    HostInfo {
        host: name.parse::<HostId>().unwrap(),
        env: "prod".parse().unwrap(),
        labels: BTreeMap::from([("role".into(), "web".into())]),
        rack: String::new(),
        zone: String::new(),
        peer_port: 4000,
        agent_version: "test".into(),
    }
}
