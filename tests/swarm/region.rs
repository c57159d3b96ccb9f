//! A region as the swarm sees it: tracker, manifest, pack, and counters.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_LENGTH;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use deployctl::model::digest::{ArtifactId, Digest, PieceDigest};
use deployctl::model::manifest::{
    Codec, Entry, Manifest, Node, Piece, Provenance, Shape, ZSTD_LEVEL, piece_bytes,
};
use deployctl::model::pieces::PieceSet;
use deployctl::model::rng::Rng;
use deployctl::net::auth::Identity;
use deployctl::net::client::Client;
use deployctl::net::server::{Json, Params, Path, serve};
use deployctl::region::tracker::{Replicas, Settings, Tracker, routes};
use deployctl::wire::problem::{Code, Problem};
use deployctl::wire::seal;
use deployctl::wire::v1::patch::{Between, PatchOffer, Patches, PatchesQuery};
use deployctl::wire::v1::swarm::{
    BeatReply, BeatRequest, CUSTODIAN_HEADER, JoinReply, JoinRequest, LEASE_HEADER,
    SIGNATURE_HEADER,
};
use deployctl::wire::v1::token::Role;
use ed25519_dalek::SigningKey;
use tokio::sync::watch;

/// The key that signs manifests in these tests.
pub(crate) fn build_key() -> SigningKey {
    SigningKey::from_bytes(&[3; 32])
}

/// An artifact with everything a store holds of it.
#[derive(Clone)]
pub(crate) struct Made {
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) bytes: Vec<u8>,
    pub(crate) signature: String,
    pub(crate) pack: Vec<u8>,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
}

impl Made {
    pub(crate) fn id(&self) -> ArtifactId {
        Digest::of(&self.bytes)
    }
}

/// Bytes that compress or do not.
pub(crate) fn noise(seed: u64, length: usize, compressible: bool) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let byte = |b: u8| if compressible { b % 8 } else { b };
    (0..length.div_ceil(8))
        .flat_map(|_| rng.next_u64().to_le_bytes())
        .map(byte)
        .take(length)
        .collect()
}

/// Packs `files` (all executable when named `bin/…`) and some links and folders.
pub(crate) fn make(app: &str, files: BTreeMap<String, Vec<u8>>, links: &[(&str, &str)]) -> Made {
    let mut entries: Vec<Entry> = files
        .iter()
        .map(|(path, bytes)| Entry {
            path: path.clone(),
            node: Node::File { size: bytes.len() as u64, exec: path.starts_with("bin/") },
        })
        .collect();
    let link = |(path, target): &(&str, &str)| Entry {
        path: (*path).into(),
        node: if target.is_empty() { Node::Dir } else { Node::Link { target: (*target).into() } },
    };
    entries.extend(links.iter().map(link));
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    let blob: Vec<u8> = files.values().flatten().copied().collect();
    let piece_bytes = piece_bytes(blob.len() as u64);
    let (mut pieces, mut pack) = (vec![], vec![]);
    for raw in blob.chunks(piece_bytes as usize) {
        let packed = zstd::bulk::compress(raw, ZSTD_LEVEL).unwrap();
        let (wire, codec) =
            if packed.len() < raw.len() { (&packed[..], Codec::Zstd) } else { (raw, Codec::None) };
        let wire_bytes = wire.len() as u32;
        pieces.push(Piece {
            raw: PieceDigest::of(raw),
            wire: PieceDigest::of(wire),
            wire_bytes,
            codec,
        });
        pack.extend_from_slice(wire);
    }
    let manifest = Manifest {
        v: 1,
        app: app.parse().unwrap(),
        shape: Shape::Folder,
        entries,
        size: blob.len() as u64,
        piece_bytes,
        pieces,
        run: None,
        provenance: Provenance {
            repo: "file:///r".into(),
            commit: "a".repeat(40).parse().unwrap(),
            tree: "b".repeat(40),
            command: "make".into(),
        },
    };
    manifest.check().unwrap();
    let bytes = manifest.encode();
    let signature = seal::sign_manifest(&build_key(), &bytes);
    Made { manifest: Arc::new(manifest), bytes, signature, pack, files }
}

/// A folder of `pieces` MiB in a few files, with a link, an empty folder and an empty file.
pub(crate) fn folder(app: &str, seed: u64, mib: usize) -> Made {
    let bulk = (mib << 20) - 777_777;
    let files = BTreeMap::from([
        ("bin/server".to_owned(), noise(seed, bulk / 2, false)),
        ("data/empty".to_owned(), vec![]),
        ("data/table".to_owned(), noise(seed + 1, bulk - bulk / 2, true)),
        ("readme".to_owned(), noise(seed + 2, 777_777, false)),
    ]);
    make(app, files, &[("bin/run", "server"), ("var", "")])
}

/// What the region's store does, and what was read from it.
#[derive(Default)]
pub(crate) struct Store {
    pub(crate) made: Mutex<BTreeMap<ArtifactId, Made>>,
    /// Bytes that were sent from packs.
    pub(crate) egress: AtomicU64,
    /// What was asked for of packs, and admitted.
    pub(crate) asked: Mutex<Vec<std::ops::Range<u64>>>,
    /// Pieces reported damaged.
    pub(crate) damaged: Mutex<Vec<u32>>,
    /// Patches on offer.
    pub(crate) patches: Mutex<Vec<(Between, ArtifactId)>>,
    /// Manifests are sent as this instead.
    pub(crate) other_manifest: Mutex<Option<Vec<u8>>>,
    /// Packs are answered with 503.
    pub(crate) down: AtomicBool,
    /// Packs are sent at 320 KB/s.
    pub(crate) slow: AtomicBool,
}

struct Shelf(Arc<Store>);

impl Replicas for Shelf {
    fn manifest(&self, artifact: ArtifactId) -> Option<Arc<Manifest>> {
        Some(self.0.made.lock().unwrap().get(&artifact)?.manifest.clone())
    }
    fn damaged(&self, artifact: ArtifactId, piece: u32) {
        self.0.damaged.lock().unwrap().push(piece);
        // A region heals its copy from the main store.
        if let Some(made) = self.0.made.lock().unwrap().get_mut(&artifact) {
            *made = folder(
                made.manifest.app.as_str(),
                1,
                made.files.values().map(Vec::len).sum::<usize>() >> 20,
            );
        }
    }
}

/// A running region.
pub(crate) struct Region {
    pub(crate) url: String,
    pub(crate) store: Arc<Store>,
    pub(crate) tracker: Arc<Tracker>,
    _stop: watch::Sender<bool>,
}

/// Settings that make a test quick.
pub(crate) fn quick() -> Settings {
    Settings {
        lease_ttl: Duration::from_secs(2),
        silent: Duration::from_secs(2),
        beat: (Duration::from_millis(100), Duration::from_millis(500)),
        settle: Duration::from_millis(500),
        starved: Duration::from_secs(3),
        retry_busy: Duration::from_millis(50),
        beat_complete: Duration::from_millis(500),
        ..Settings::default()
    }
}

impl Region {
    pub(crate) async fn start(made: &[&Made]) -> Self {
        let store = Arc::new(Store::default());
        for made in made {
            store.made.lock().unwrap().insert(made.id(), (*made).clone());
        }
        Self::serve(store, "127.0.0.1:0").await
    }

    /// A region over `store` at `address`: a restart keeps both.
    pub(crate) async fn serve(store: Arc<Store>, address: &str) -> Self {
        Self::serve_with(store, address, true).await
    }

    /// The same, perhaps without a tracker that answers.
    pub(crate) async fn serve_with(store: Arc<Store>, address: &str, tracks: bool) -> Self {
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let tracker = Arc::new(Tracker::new([9; 32], Box::new(Shelf(store.clone())), quick()));
        let router = Router::new()
            .route("/v1/agent/artifacts/{id}/manifest", get(manifest))
            .route("/v1/agent/artifacts/{id}/pack", get(pack))
            .route("/v1/agent/artifacts/{id}/patches", get(patches))
            .with_state((store.clone(), tracker.clone()))
            .merge(if tracks { routes(tracker.clone()) } else { Router::new() })
            .layer(from_fn(identify));
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(serve(listener, router, stopped.clone()));
        let ticking = tracker.clone();
        tokio::spawn(async move {
            while !*stopped.borrow() {
                ticking.tick();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        Self { url, store, tracker, _stop: stop }
    }

    /// A member that says it has everything and serves it on `peer_port`, and beats.
    pub(crate) async fn holder(
        &self,
        made: &Made,
        name: &str,
        peer_port: u16,
    ) -> tokio::task::JoinHandle<()> {
        let client = Client::new(&self.url, None);
        let path = |verb: &str| format!("/v1/agent/swarm/{}/{verb}", made.id());
        let have = PieceSet::full(made.manifest.pieces.len() as u32);
        let host: deployctl::model::id::HostId = name.parse().unwrap();
        let join = JoinRequest {
            host: host.clone(),
            peer_port,
            rack: String::new(),
            zone: String::new(),
            epoch: None,
            have: have.clone(),
            wants: false,
        };
        let limit = Duration::from_secs(5);
        let joined: JoinReply = client.post(&path("join"), &join, limit).await.unwrap();
        let epoch = joined.epoch;
        let beat = BeatRequest {
            host,
            epoch,
            have,
            neighbours: 0,
            holding: vec![],
            unserved: PieceSet::new(),
            returned: vec![],
            starved_ms: 0,
            wants: false,
        };
        let path = path("beat");
        tokio::spawn(async move {
            loop {
                let _: BeatReply = client.post(&path, &beat, limit).await.unwrap();
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        })
    }

    pub(crate) fn egress(&self) -> u64 {
        self.store.egress.load(Ordering::SeqCst)
    }
}

/// Stands for the region's own middleware: tokens are not this test's matter.
async fn identify(mut request: Request, next: Next) -> Response {
    assert!(request.extensions().get::<SocketAddr>().is_some());
    request.extensions_mut().insert(Identity {
        token: "t".into(),
        name: "agents".into(),
        role: Role::Agent,
        region: None,
        host: None,
    });
    next.run(request).await
}

type Parts = State<(Arc<Store>, Arc<Tracker>)>;

async fn manifest(
    State((store, _)): Parts,
    Path(artifact): Path<ArtifactId>,
) -> Result<Response, Problem> {
    let made = store.made.lock().unwrap().get(&artifact).cloned();
    let made = made.ok_or_else(|| Problem::new(Code::NotFound, "no such artifact"))?;
    let bytes = store.other_manifest.lock().unwrap().clone().unwrap_or(made.bytes);
    Ok(([(SIGNATURE_HEADER, made.signature)], bytes).into_response())
}

async fn patches(
    State((store, _)): Parts,
    Path(to): Path<ArtifactId>,
    Params(query): Params<PatchesQuery>,
) -> Json<Patches> {
    let made = store.made.lock().unwrap();
    let offered = store.patches.lock().unwrap();
    let fits =
        |between: &Between| between.to == to && query.from.contains(&between.from.to_string());
    let offers = offered.iter().filter(|(between, _)| fits(between)).map(|(between, patch)| {
        let wire_bytes = made[patch].manifest.wire_size();
        PatchOffer { from: between.from, patch: *patch, wire_bytes }
    });
    Json(Patches { patches: offers.collect() })
}

async fn pack(
    State((store, tracker)): Parts,
    Path(artifact): Path<ArtifactId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    if store.down.load(Ordering::SeqCst) {
        return Err(Problem::new(Code::Unavailable, "the store is down"));
    }
    let text = headers["range"].to_str().unwrap().strip_prefix("bytes=").unwrap().to_owned();
    let (first, last) = text.split_once('-').unwrap();
    let range = first.parse::<u64>().unwrap()..last.parse::<u64>().unwrap() + 1;
    let lease = headers.get(LEASE_HEADER).map(|lease| lease.to_str().unwrap().parse().unwrap());
    match lease {
        Some(lease) => tracker.admit_read(lease, None, artifact, range.clone())?,
        None => {
            assert_eq!(headers[CUSTODIAN_HEADER], "1");
            tracker.admit_custodian(artifact, range.clone())?;
        }
    }
    let turn = tracker.turn(artifact, lease).await?;
    let made = store.made.lock().unwrap().get(&artifact).cloned().unwrap();
    store.egress.fetch_add(range.end - range.start, Ordering::SeqCst);
    store.asked.lock().unwrap().push(range.clone());
    let bytes = made.pack[range.start as usize..range.end as usize].to_vec();
    if store.slow.load(Ordering::SeqCst) {
        let rest = (bytes::Bytes::from(bytes), turn);
        let drip = futures_util::stream::unfold(rest, |(mut rest, turn)| async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let part = rest.split_to(rest.len().min(32 << 10));
            (!part.is_empty()).then_some((Ok::<_, std::io::Error>(part), (rest, turn)))
        });
        let body = axum::body::Body::from_stream(drip);
        let length = [(CONTENT_LENGTH, (range.end - range.start).to_string())];
        return Ok((StatusCode::PARTIAL_CONTENT, length, body).into_response());
    }
    Ok((StatusCode::PARTIAL_CONTENT, bytes).into_response())
}
