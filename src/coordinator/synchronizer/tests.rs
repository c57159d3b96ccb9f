//! Copies in two regions, lost, damaged and healed before the synchronizer's eyes.

use std::path::PathBuf;

use ed25519_dalek::SigningKey;
use tokio::sync::watch;

use super::*;
use crate::config::daemon::{Flags, load};
use crate::coordinator::state::{Coordinator, Keys};
use crate::coordinator::{attempts, claims};
use crate::host::clock;
use crate::model::digest::PieceDigest;
use crate::model::manifest::{Codec, Entry, Manifest, Node, Piece, Provenance, Shape, piece_bytes};
use crate::rules::replication::Claim;
use crate::store::blobs::Key;
use crate::store::db::{Db, values};
use crate::wire::seal::{public_key, sign_manifest};
use crate::wire::v1::region::ReplicaReport;

/// A coordinator of the regions eu and us, its synchronizer, and one artifact of 3 pieces.
struct World {
    folder: tempfile::TempDir,
    shared: Shared,
    _stop: watch::Sender<bool>,
    manifest: Manifest,
    pack: Vec<u8>,
}

const REGIONS: [&str; 2] = ["eu", "us"];

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| format!("file://{}", folder.path().join(name).display());
        let mut toml = String::from("[synchronizer]\nevery_ms = 50\n");
        for region in REGIONS {
            toml += &format!("[regions.{region}]\nblobs = {:?}\n", at(region));
        }
        let config = folder.path().join("config.toml");
        std::fs::write(&config, toml).unwrap();
        let data = Some(folder.path().to_owned());
        let flags = Flags { config: Some(config), data, ..Flags::default() };
        let (stop, stopped) = watch::channel(false);
        let key = SigningKey::from_bytes(&[2; 32]);
        let keys = Keys {
            token: [0; 32],
            goal: key.clone(),
            trusted_goal: vec![],
            trusted_build: vec![public_key(&key)],
        };
        let db = Db::open(&folder.path().join("db")).unwrap();
        let blobs = Blobs::open(&at("main")).unwrap();
        let config = load(&flags).unwrap();
        let ends = (claims::line().0, attempts::mouth().0);
        let shared = Coordinator::new(db, config, blobs, keys, stopped, ends).await.unwrap();
        let (manifest, pack) = artifact();
        let world = Self { folder, shared, _stop: stop, manifest, pack };
        world.insert().await;
        tokio::spawn(run(world.shared.clone()));
        world
    }

    fn id(&self) -> ArtifactId {
        self.manifest.id()
    }

    async fn insert(&self) {
        let (id, wire) = (self.id(), self.manifest.wire_size());
        let write = move |tx: &mut Tx| {
            tx.exec("INSERT INTO apps VALUES ('api', '{}', 0, 0)", &[])?;
            tx.exec(
                "INSERT INTO jobs (id, app, commit_id, recipe_digest, status, attempt,
                     max_attempts, not_before, queued_at, actor, subject, repo, trunk, recipe)
                 VALUES (1, 'api', ?1, '', 'SUCCEEDED', 1, 3, 0, 0, '', '', '', '', '')",
                values!["a".repeat(40)],
            )?;
            tx.exec(
                "INSERT INTO artifacts (artifact, app, commit_id, job, size, wire_size, pieces,
                     entries, manifest_bytes, created_at)
                 VALUES (?1, 'api', ?2, 1, ?3, ?3, 3, 1, 1, 0)",
                values![id, "a".repeat(40), wire],
            )?;
            Ok::<_, DbError>(())
        };
        self.shared.db.write(write).await.unwrap();
    }

    /// Puts the artifact in a region's store, its objects in the order of publishing.
    async fn publish(&self, region: &str) {
        let url = format!("file://{}", self.folder.path().join(region).display());
        let store = Blobs::open(&url).unwrap();
        let bytes = self.manifest.encode();
        let signature = sign_manifest(&self.shared.keys.goal, &bytes);
        let key = |kind| Key::new(kind, self.id());
        store.put(key(Kind::Pack), self.pack.clone()).await.unwrap();
        store.put(key(Kind::Signature), signature).await.unwrap();
        store.put(key(Kind::Manifest), bytes).await.unwrap();
    }

    fn path(&self, region: &str, kind: Kind) -> PathBuf {
        self.folder.path().join(region).join(Key::new(kind, self.id()).to_string())
    }

    async fn claim(&self, region: &str, complete: bool) {
        let (artifact, region) = (self.id(), region.parse::<RegionName>().unwrap());
        let report = ReplicaReport { artifact, bytes: 5, complete, error: String::new() };
        let write = move |tx: &mut Tx| replicas::claim(tx, &region, &report, clock::now());
        self.shared.db.write(write).await.unwrap();
    }

    /// The artifact's status, and of the copy in eu: status, reason, when it was looked at.
    async fn status(&self) -> (ReplicationStatus, ReplicationStatus, String, UnixMillis) {
        let id = self.id();
        let read = move |tx: &Tx| {
            let row = artifacts::find(tx, id)?.ok_or(DbError::Missing("artifact"))?;
            let copy = replicas::find(tx, &id, &"eu".parse().unwrap())?;
            let (status, reason, at) = copy.map_or_else(Default::default, |copy| {
                (copy.status, copy.reason, copy.checked_at.unwrap_or_default())
            });
            Ok::<_, DbError>((row.replication, status, reason, at))
        };
        self.shared.db.read(read).await.unwrap()
    }

    async fn until(&self, expected: ReplicationStatus) -> String {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let (status, copy, reason, _) = self.status().await;
            if status == expected {
                return reason;
            }
            assert!(Instant::now() < deadline, "{status:?}, eu {copy:?}: {reason}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until the copy in eu was looked at twice more.
    async fn looked_at(&self) {
        for _ in 0..2 {
            let before = self.status().await.3;
            while self.status().await.3 == before {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    async fn events(&self) -> Vec<String> {
        let sql = "SELECT kind FROM events ORDER BY seq LIMIT 100";
        self.shared.db.read(move |tx| tx.rows(sql, &[], |row| row.text(0))).await.unwrap()
    }

    async fn to_heal(&self) -> Vec<ArtifactId> {
        let read = |tx: &Tx| replicas::lost(tx, &"eu".parse().unwrap());
        self.shared.db.read(read).await.unwrap()
    }
}

fn artifact() -> (Manifest, Vec<u8>) {
    let pack: Vec<u8> = (0..(5u32 << 18)).flat_map(|n| (n ^ 77).to_le_bytes()).collect();
    let pack = pack[..(5 << 19)].to_vec();
    let size = pack.len() as u64;
    let piece = |bytes: &[u8]| {
        let digest = PieceDigest::of(bytes);
        Piece { raw: digest, wire: digest, wire_bytes: bytes.len() as u32, codec: Codec::None }
    };
    let manifest = Manifest {
        v: 1,
        app: "api".parse().unwrap(),
        shape: Shape::File,
        entries: vec![Entry { path: "api".into(), node: Node::File { size, exec: true } }],
        size,
        piece_bytes: piece_bytes(size),
        pieces: pack.chunks(piece_bytes(size) as usize).map(piece).collect(),
        run: None,
        provenance: Provenance::sample(),
    };
    manifest.check().unwrap();
    (manifest, pack)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_was_seen_in_every_configured_region_is_deployable() {
    let world = World::new().await;
    world.looked_at().await;
    assert_eq!(world.status().await.0, ReplicationStatus::Pending);
    world.publish("eu").await;
    world.until(ReplicationStatus::Partial).await;
    // The other region's word is not enough, and it turns out to be wrong.
    world.claim("us", true).await;
    world.until(ReplicationStatus::Lost).await;
    assert!(world.events().await.is_empty());
    let mut rollouts = world.shared.db.watch(Topic::Rollouts);
    world.publish("us").await;
    world.until(ReplicationStatus::Complete).await;
    assert!(rollouts.has_changed().unwrap());
    rollouts.borrow_and_update();
    assert_eq!(world.events().await, ["build.replicated"]);
    world.looked_at().await;
    assert_eq!(world.events().await.len(), 1, "nothing happens twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn loss_and_damage_are_found_ordered_healed_and_forgotten() {
    let world = World::new().await;
    for region in REGIONS {
        world.publish(region).await;
    }
    world.until(ReplicationStatus::Complete).await;
    let remove = |kind| std::fs::remove_file(world.path("eu", kind)).unwrap();
    let flip = |kind, at: usize| {
        let path = world.path("eu", kind);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[at] ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    let cut = || {
        let file = std::fs::File::options().write(true).open(world.path("eu", Kind::Pack));
        file.unwrap().set_len(7).unwrap();
    };
    let damages: [(&dyn Fn(), &str); 7] = [
        (&|| remove(Kind::Manifest), "the manifest is missing"),
        (&|| remove(Kind::Signature), "the signature is missing"),
        (&|| remove(Kind::Pack), "the pack is missing"),
        (&cut, "the pack has the wrong length"),
        (&|| flip(Kind::Manifest, 9), "the manifest is damaged"),
        (&|| flip(Kind::Signature, 9), "the signature is damaged"),
        (&|| flip(Kind::Pack, (512 << 10) + 5), "piece 2 of 10 is damaged"),
    ];
    for (damage, reason) in damages {
        damage();
        assert_eq!(world.until(ReplicationStatus::Lost).await, reason);
        assert_eq!(world.to_heal().await, [world.id()], "{reason}");
        world.publish("eu").await;
        assert_eq!(world.until(ReplicationStatus::Complete).await, "");
        assert!(world.to_heal().await.is_empty());
    }
    let events = world.events().await;
    assert_eq!(events.iter().filter(|kind| *kind == "build.replication_lost").count(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_look_never_overwrites_a_newer_one() {
    let world = World::new().await;
    let found = |status, at| Found {
        artifact: world.id(),
        status,
        reason: String::new(),
        sampled: true,
        bad_piece: None,
        at: UnixMillis(at),
    };
    let region: RegionName = "elsewhere".parse().unwrap();
    let (newer, older) =
        (found(ReplicationStatus::Lost, 20), found(ReplicationStatus::Complete, 10));
    let write = move |tx: &mut Tx| {
        let written =
            (replicas::found(tx, &region, &newer)?, replicas::found(tx, &region, &older)?);
        let copy = replicas::find(tx, &newer.artifact, &region)?;
        Ok::<_, DbError>((written, copy.map(|copy| (copy.status, copy.claim))))
    };
    let (written, copy) = world.shared.db.write(write).await.unwrap();
    assert_eq!(written, (true, false));
    assert_eq!(copy, Some((ReplicationStatus::Lost, Claim::default())));
}
