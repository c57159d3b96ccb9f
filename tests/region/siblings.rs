//! Regions that read from each other: real processes, and a pretended parent that
//! does what a real one should not.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use deployctl::model::id::RegionName;
use deployctl::model::pieces::PieceSet;
use deployctl::net::client::Client;
use deployctl::net::server::Json;
use deployctl::rules::fanout::{Site, parents};
use deployctl::wire::v1::region::{PiecesReply, PiecesRequest, RegionReport};
use deployctl::wire::v1::swarm::{BeatReply, BeatRequest, JoinReply, Lease};

use crate::fixture::{Coordinator, Published, Region, Serving, joining, path_in};

const CALL: Duration = Duration::from_secs(10);

/// `count` regions that know each other, not started.
fn regions(count: u8, coordinator: &Coordinator, serving: &Serving) -> Vec<Region> {
    let all: Vec<Region> = (0..count).map(|n| Region::numbered(n, serving)).collect();
    let named = |region: &Region| (region.name.clone(), Some(region.url.clone()));
    coordinator.tell(|told| told.siblings = all.iter().map(named).collect());
    all
}

/// Whom a region asks for the artifact.
fn asked(made: &Published, own: &Region, all: &[Region]) -> Vec<RegionName> {
    let site = |region: &Region| Site { region: region.name.clone(), serves: true };
    parents(&made.id, &own.name, &all.iter().map(site).collect::<Vec<_>>())
}

/// Puts the artifact into a region's main store, which is its own.
fn give(made: &Published, region: &Region) {
    for kind in ["packs", "signatures", "manifests"] {
        let to = path_in(&region.main(), kind, made.id);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(made.path(kind), to).unwrap();
    }
}

fn pack_in(region: &Region, made: &Published) -> Vec<u8> {
    std::fs::read(path_in(&region.store(), "packs", made.id)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn seven_regions_read_the_main_store_three_times() {
    let coordinator = Coordinator::new();
    let serving = coordinator.serve(0).await;
    let mut all = regions(7, &coordinator, &serving);
    let source = tempfile::tempdir().unwrap();
    let made = coordinator.publish(source.path(), 12, 3);
    let roots: Vec<bool> = all.iter().map(|own| asked(&made, own, &all).is_empty()).collect();
    assert_eq!(roots.iter().filter(|root| **root).count(), 3);
    // Nobody else has anything in its main store: what it gets came from a region.
    all.iter().zip(&roots).filter(|(_, root)| **root).for_each(|(own, _)| give(&made, own));
    coordinator.want(made.id);
    all.iter_mut().for_each(Region::start);
    for (region, root) in all.iter().zip(&roots) {
        coordinator.completed_in(region.name.as_str(), made.id).await;
        assert!(pack_in(region, &made) == made.pack, "{}", region.name);
        let (whole, log) = (made.pack.len(), region.log());
        let from_siblings = if *root { 0 } else { whole };
        let said = format!("pulled_bytes={whole} reused_bytes=0 sibling_bytes={from_siblings}");
        assert!(log.contains(&said), "{log}");
    }
    let (first, other) = (&all[0], all[1].name.clone());
    let pieces = PiecesRequest { artifact: made.id, since: 0, wait_ms: 0 };
    let ask = async |ticket: String| {
        let client = Client::new(&first.url, Some(ticket));
        client.post::<PiecesReply>("/v1/region/pieces", &pieces, CALL).await
    };
    let known = ask(coordinator.ticket(&first.name, &other)).await.unwrap();
    assert_eq!(known.have.count() as usize, made.manifest.pieces.len());
    let stranger: RegionName = "r99".parse().unwrap();
    let wrong = [
        coordinator.ticket(&other, &other),
        coordinator.ticket(&first.name, &stranger),
        coordinator.ticket(&first.name, &first.name),
        coordinator.agent_token("eu", None),
    ];
    for ticket in wrong {
        assert!(ask(ticket).await.is_err());
    }
}

/// A parent that offers what the test says.
struct Pretended {
    manifest: Vec<u8>,
    signature: String,
    pack: Vec<u8>,
    offered: Mutex<PieceSet>,
}

impl Pretended {
    /// Serves at the address of `region` until the task is aborted.
    async fn serve(
        made: &Published,
        pack: Vec<u8>,
        offered: PieceSet,
        region: &Region,
    ) -> (Arc<Self>, tokio::task::JoinHandle<()>) {
        let manifest = std::fs::read(made.path("manifests")).unwrap();
        let signature = std::fs::read_to_string(made.path("signatures")).unwrap();
        let this = Arc::new(Self { manifest, signature, pack, offered: Mutex::new(offered) });
        let router = axum::Router::new()
            .route("/v1/region/pieces", post(offer))
            .route("/v1/region/artifacts/{id}/manifest", get(manifest_of))
            .route("/v1/region/artifacts/{id}/pack", get(range_of))
            .with_state(this.clone());
        let address = region.url.strip_prefix("http://").unwrap();
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        (this, task)
    }
}

async fn offer(
    State(parent): State<Arc<Pretended>>,
    Json(_): Json<PiecesRequest>,
) -> Json<PiecesReply> {
    Json(PiecesReply { known: true, have: parent.offered.lock().unwrap().clone() })
}

async fn manifest_of(
    State(parent): State<Arc<Pretended>>,
) -> ([(&'static str, String); 1], Vec<u8>) {
    ([("deployctl-signature", parent.signature.trim().to_owned())], parent.manifest.clone())
}

async fn range_of(
    State(parent): State<Arc<Pretended>>,
    headers: HeaderMap,
) -> (StatusCode, Vec<u8>) {
    let range = headers["range"].to_str().unwrap().strip_prefix("bytes=").unwrap();
    let (first, last) = range.split_once('-').unwrap();
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    (StatusCode::PARTIAL_CONTENT, parent.pack[first..=last].to_vec())
}

/// Four regions: a child, its first parent (to be pretended), and two roots that run.
struct Four {
    coordinator: Arc<Coordinator>,
    all: Vec<Region>,
    made: Published,
    child: usize,
    parent: usize,
    _source: tempfile::TempDir,
    _serving: Serving,
}

impl Four {
    async fn new(seed: u64) -> Self {
        let coordinator = Coordinator::new();
        let serving = coordinator.serve(0).await;
        let all = regions(4, &coordinator, &serving);
        let source = tempfile::tempdir().unwrap();
        let made = coordinator.publish(source.path(), 12, seed);
        let child = all.iter().position(|own| !asked(&made, own, &all).is_empty()).unwrap();
        let first = asked(&made, &all[child], &all).remove(0);
        let parent = all.iter().position(|own| own.name == first).unwrap();
        Self { coordinator, all, made, child, parent, _source: source, _serving: serving }
    }

    /// Starts the two other roots, and waits until they hold the artifact.
    async fn start_others(&mut self) {
        self.coordinator.want(self.made.id);
        for n in (0..4).filter(|n| ![self.child, self.parent].contains(n)) {
            give(&self.made, &self.all[n]);
            self.all[n].start();
            self.coordinator.completed_in(self.all[n].name.as_str(), self.made.id).await;
        }
    }

    /// Waits until the child is complete, which it can be by its siblings alone.
    async fn ends_well(&self) {
        let child = &self.all[self.child];
        self.coordinator.completed_in(child.name.as_str(), self.made.id).await;
        assert!(pack_in(child, &self.made) == self.made.pack);
        let all = format!("sibling_bytes={}", self.made.pack.len());
        assert!(child.log().contains(&all), "{}", child.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_that_dies_is_left_and_its_pieces_are_kept() {
    let mut four = Four::new(5).await;
    four.start_others().await;
    let half = PieceSet::full(four.made.manifest.pieces.len() as u32 / 2);
    let bytes: u64 =
        half.iter().map(|n| u64::from(four.made.manifest.pieces[n as usize].wire_bytes)).sum();
    let place = &four.all[four.parent];
    let (_, parent) = Pretended::serve(&four.made, four.made.pack.clone(), half, place).await;
    four.all[four.child].start();
    let child = four.all[four.child].name.clone();
    let (id, coordinator) = (four.made.id, four.coordinator.clone());
    coordinator
        .reported("half of it", |report| {
            let mine = report.replicas.iter().find(|replica| replica.artifact == id)?;
            (report.region == child && mine.bytes == bytes).then_some(())
        })
        .await;
    parent.abort();
    four.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_that_serves_a_wrong_byte_is_left() {
    let mut four = Four::new(6).await;
    four.start_others().await;
    let mut pack = four.made.pack.clone();
    pack[9 << 20] ^= 1;
    let all = PieceSet::full(four.made.manifest.pieces.len() as u32);
    let (_, _parent) = Pretended::serve(&four.made, pack, all, &four.all[four.parent]).await;
    four.all[four.child].start();
    four.ends_well().await;
    assert!(four.all[four.child].log().contains("serves a damaged piece"));
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_read_pieces_that_have_landed_before_the_region_is_complete() {
    let mut four = Four::new(7).await;
    four.coordinator.want(four.made.id);
    let pieces = four.made.manifest.pieces.len() as u32;
    let place = &four.all[four.parent];
    let (last, most) = (pieces - 1, PieceSet::full(pieces - 1));
    let (parent, _task) = Pretended::serve(&four.made, four.made.pack.clone(), most, place).await;
    let child = four.all[four.child].name.clone();
    let token = four.coordinator.agent_token_of(&child);
    four.all[four.child].start();
    let agent = four.all[four.child].agent(&token);
    let path = format!("/v1/agent/artifacts/{}", four.made.id);
    let get = |what: &str| agent.request(reqwest::Method::GET, &format!("{path}/{what}"));
    while get("manifest").send().await.unwrap().status() != 200 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let offsets = four.made.manifest.wire_offsets();
    let read = |piece: u32, lease: u64| {
        let (from, to) = (offsets[piece as usize], offsets[piece as usize + 1]);
        let range = format!("bytes={from}-{}", to - 1);
        let request = get("pack").header("range", range).header("deployctl-lease", lease);
        let expected = four.made.pack[from as usize..to as usize].to_vec();
        // Refused only while a pull that gave up begins again.
        async move {
            loop {
                let reply = request.try_clone().unwrap().send().await.unwrap();
                if reply.status() == 206 {
                    assert!(reply.bytes().await.unwrap() == expected);
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    };
    let mut member = Member::join(&agent, &four.made).await;
    let (mut have, mut of_last) = (PieceSet::default(), None);
    while have.count() < last || of_last.is_none() {
        let lease = member.lease(&have).await;
        for piece in lease.first..lease.first + lease.count {
            if piece == last {
                of_last = Some(lease.id);
                continue;
            }
            read(piece, lease.id).await;
            have.insert(piece);
        }
    }
    let whole = |report: &RegionReport| {
        report.region == child && report.replicas.iter().any(|replica| replica.complete)
    };
    assert!(!four.coordinator.told.lock().unwrap().reports.iter().any(whole), "nobody has it all");
    // What has not landed is waited for.
    let waiting = tokio::spawn(read(last, of_last.unwrap()));
    *parent.offered.lock().unwrap() = PieceSet::full(pieces);
    waiting.await.unwrap();
    four.ends_well().await;
}

/// A host in the swarm of one artifact.
struct Member<'a> {
    agent: &'a Client,
    swarm: String,
    joined: JoinReply,
}

impl<'a> Member<'a> {
    async fn join(agent: &'a Client, made: &Published) -> Self {
        let swarm = format!("/v1/agent/swarm/{}", made.id);
        let joined = agent.post(&format!("{swarm}/join"), &joining(), CALL).await.unwrap();
        Self { agent, swarm, joined }
    }

    async fn lease(&mut self, have: &PieceSet) -> Lease {
        if let Some(lease) = self.joined.beat.lease.take() {
            return lease;
        }
        loop {
            let beat = BeatRequest {
                epoch: self.joined.epoch,
                host: "h1".parse().unwrap(),
                have: have.clone(),
                neighbours: 0,
                holding: vec![],
                unserved: PieceSet::default(),
                returned: vec![],
                starved_ms: 0,
                wants: true,
            };
            let path = format!("{}/beat", self.swarm);
            let reply: BeatReply = self.agent.post(&path, &beat, CALL).await.unwrap();
            match reply.lease {
                Some(lease) => return lease,
                None => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}
