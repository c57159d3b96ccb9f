//! Looks into every region's store and writes down what is really there.
//!
//! At least each `every_ms` all copies are compared with a listing, and the ones
//! sampled longest ago are read back; a copy that its region calls complete is
//! looked at at once. Only a look makes a copy complete, and only when all
//! configured regions' copies are is the artifact deployable. Several
//! coordinators may do this at once: a look is an observation, and one that began
//! earlier never overwrites a later one.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;

use crate::coordinator::inspection::{Inspection, Look, inspect};
use crate::coordinator::state::Shared;
use crate::host::clock;
use crate::model::digest::ArtifactId;
use crate::model::id::RegionName;
use crate::model::replication::ReplicationStatus;
use crate::model::time::UnixMillis;
use crate::net::auth::random_key;
use crate::rules::replication::{Finding, artifact_status, copy_status};
use crate::store::blobs::{BlobError, Blobs, Kind};
use crate::store::db::events::NewEvent;
use crate::store::db::replicas::{self, Candidate, Found};
use crate::store::db::{DbError, Topic, Tx, artifacts};
use crate::wire::seal::PublicKey;

/// How soon a claim is noticed that came to another coordinator.
const POLL: Duration = Duration::from_secs(1);
/// How soon a lost copy is looked at again: its region is healing it.
const LOST_AGAIN: Duration = Duration::from_secs(2);
/// Copies looked at between two rounds, per region and pass.
const UNSETTLED_MAX: u32 = 64;
/// Most artifacts of one installation that are checked.
const ARTIFACTS_MAX: u32 = 100_000;
/// Copies read back in a round, per region: at 60 s and 1 to 8 MiB a piece, a few MB/s.
const READ_BACK_MAX: usize = 200;
/// Pieces sampled of a copy that is not known to be complete, and of one that is.
const SAMPLES: (usize, usize) = (4, 1);
/// Looks under way at once, per region.
const LOOKS: usize = 4;
/// Findings of one write: the writer thread is shared with the job queue.
const FOUND_PER_WRITE: usize = 200;

#[derive(Debug, thiserror::Error)]
enum SynchronizeError {
    #[error(transparent)]
    Db(#[from] DbError),
    #[error(transparent)]
    Store(#[from] BlobError),
}

/// Synchronizes until the coordinator stops.
pub(super) async fn run(shared: Shared) {
    if let Err(error) = recount(&shared).await {
        tracing::error!(%error, "replication status not counted anew");
    }
    let regions = shared.config.regions.iter().map(|(region, config)| {
        let watch = Watch {
            shared: shared.clone(),
            region: region.clone(),
            url: config.blobs.clone(),
            trusted: shared.keys.trusted_build.clone().into(),
            store: None,
        };
        watch.run()
    });
    futures_util::future::join_all(regions).await;
}

/// Counts every artifact's status anew: the configured regions may have changed.
async fn recount(shared: &Shared) -> Result<(), DbError> {
    let all = shared.db.read(|tx| artifacts::all(tx, ARTIFACTS_MAX)).await?;
    for some in all.chunks(FOUND_PER_WRITE) {
        let (some, required) = (some.to_vec(), required(shared));
        let count = move |tx: &mut Tx| {
            some.iter().try_for_each(|artifact| settle(tx, *artifact, &required, None))
        };
        shared.db.write(count).await?;
    }
    Ok(())
}

fn required(shared: &Shared) -> Vec<RegionName> {
    shared.config.regions.keys().cloned().collect()
}

/// One region's store under watch.
struct Watch {
    shared: Shared,
    region: RegionName,
    url: String,
    trusted: Arc<[PublicKey]>,
    store: Option<Blobs>,
}

impl Watch {
    async fn run(mut self) {
        let mut stop = self.shared.stop.clone();
        let mut claims = self.shared.db.watch(Topic::Replicas);
        let every = self.shared.config.synchronizer.every();
        let mut round_at = Instant::now();
        loop {
            claims.borrow_and_update();
            let whole = Instant::now() >= round_at;
            let outcome = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                outcome = self.pass(whole) => outcome,
            };
            if whole {
                round_at = Instant::now() + every;
            }
            if let Err(error) = outcome {
                tracing::warn!(region = %self.region, %error, "region's store not checked");
            }
            let wait = POLL.min(round_at.saturating_duration_since(Instant::now()));
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                _ = claims.changed() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn pass(&mut self, whole: bool) -> Result<(), SynchronizeError> {
        let store = match &self.store {
            Some(store) => store.clone(),
            None => self.store.insert(Blobs::open(&self.url)?).clone(),
        };
        if whole { self.round(&store).await } else { self.unsettled(&store).await }
    }

    /// Looks at copies that wait for it.
    async fn unsettled(&self, store: &Blobs) -> Result<(), SynchronizeError> {
        let (region, lost_before) = (self.region.clone(), clock::now() - LOST_AGAIN);
        let read = move |tx: &Tx| replicas::unsettled(tx, &region, lost_before, UNSETTLED_MAX);
        let candidates = self.shared.db.read(read).await?;
        self.look_at_all(store, candidates).await
    }

    /// Compares every copy with a listing, and reads some of them back.
    async fn round(&self, store: &Blobs) -> Result<(), SynchronizeError> {
        // Claims are read before the listing: what was called complete then must be listed.
        let region = self.region.clone();
        let read = move |tx: &Tx| replicas::required(tx, &region, ARTIFACTS_MAX);
        let candidates = self.shared.db.read(read).await?;
        let at = clock::now();
        let listing = Listing::of(store).await?;
        let (mut found, mut suspects) = (vec![], vec![]);
        for candidate in candidates {
            let look = listing.look(&candidate);
            let sound = look.finding == Finding::Whole;
            let known = candidate.status == ReplicationStatus::Complete;
            // A listing may confirm what was read back before, never more.
            if sound && (!known || suspects.len() < READ_BACK_MAX) {
                suspects.push(candidate);
            } else {
                found.push(judge(&candidate, look, false, at));
            }
        }
        self.write(found).await?;
        self.look_at_all(store, suspects).await
    }

    async fn look_at_all(
        &self,
        store: &Blobs,
        candidates: Vec<Candidate>,
    ) -> Result<(), SynchronizeError> {
        let looks = candidates.into_iter().map(|candidate| async move {
            let at = clock::now();
            let known = candidate.status == ReplicationStatus::Complete;
            let ask = Inspection {
                artifact: candidate.artifact,
                samples: if known { SAMPLES.1 } else { SAMPLES.0 },
                suspect: candidate.bad_piece,
                trusted: self.trusted.clone(),
                seed: seed(),
            };
            inspect(store, ask).await.map(|look| judge(&candidate, look, true, at))
        });
        let mut looks = futures_util::stream::iter(looks).buffer_unordered(LOOKS);
        let mut outcome = Ok(());
        while let Some(look) = looks.next().await {
            match look {
                // Each at once: somebody waits for this deploy.
                Ok(found) => self.write(vec![found]).await?,
                Err(error) => outcome = Err(error.into()),
            }
        }
        outcome
    }

    async fn write(&self, found: Vec<Found>) -> Result<(), DbError> {
        for some in found.chunks(FOUND_PER_WRITE) {
            let some = some.to_vec();
            let (region, required) = (self.region.clone(), required(&self.shared));
            let write = move |tx: &mut Tx| {
                some.iter().try_for_each(|found| {
                    if replicas::found(tx, &region, found)? {
                        settle(tx, found.artifact, &required, Some((&region, &found.reason)))?;
                    }
                    Ok::<_, DbError>(())
                })
            };
            self.shared.db.write(write).await?;
        }
        Ok(())
    }
}

fn seed() -> u64 {
    let key = random_key();
    u64::from_le_bytes([key[0], key[1], key[2], key[3], key[4], key[5], key[6], key[7]])
}

fn judge(candidate: &Candidate, look: Look, sampled: bool, at: UnixMillis) -> Found {
    let status = copy_status(candidate.status, candidate.claim, look.finding);
    let missing = status == ReplicationStatus::Lost && look.reason.is_empty();
    let reason = if missing { "the manifest is missing".into() } else { look.reason };
    let whole = status == ReplicationStatus::Complete;
    let bad_piece = if whole { None } else { look.bad_piece.or(candidate.bad_piece) };
    Found { artifact: candidate.artifact, status, reason, sampled, bad_piece, at }
}

/// What a region's store lists.
struct Listing {
    manifests: HashSet<ArtifactId>,
    signatures: HashSet<ArtifactId>,
    packs: HashMap<ArtifactId, u64>,
}

impl Listing {
    async fn of(store: &Blobs) -> Result<Self, BlobError> {
        // Packs last: whatever has a manifest by now has its pack by then.
        Ok(Self {
            manifests: store.list(Kind::Manifest).await?.into_iter().collect(),
            signatures: store.list(Kind::Signature).await?.into_iter().collect(),
            packs: store.list_sizes(Kind::Pack).await?.into_iter().collect(),
        })
    }

    /// A look by name and length only; whole means worth reading back.
    fn look(&self, candidate: &Candidate) -> Look {
        let artifact = &candidate.artifact;
        let pack = self.packs.get(artifact);
        let (finding, reason) = match (self.manifests.contains(artifact), pack) {
            (false, None) => (Finding::Absent, ""),
            (false, Some(_)) => (Finding::Unpublished, ""),
            (true, None) => (Finding::Damaged, "the pack is missing"),
            (true, Some(bytes)) if *bytes != candidate.wire_size => {
                (Finding::Damaged, "the pack has the wrong length")
            }
            (true, Some(_)) if !self.signatures.contains(artifact) => {
                (Finding::Damaged, "the signature is missing")
            }
            (true, Some(_)) => (Finding::Whole, ""),
        };
        Look { finding, reason: reason.into(), bad_piece: None }
    }
}

/// Folds the copies of an artifact into its status, and tells whom it concerns.
fn settle(
    tx: &mut Tx,
    artifact: ArtifactId,
    required: &[RegionName],
    cause: Option<(&RegionName, &String)>,
) -> Result<(), DbError> {
    let Some(row) = artifacts::find(tx, artifact)? else { return Ok(()) };
    let copies = replicas::of_artifact(tx, &artifact)?;
    let copy_in = |region: &RegionName| {
        let copy = copies.iter().find(|copy| copy.region == *region);
        copy.map_or(ReplicationStatus::Pending, |copy| copy.status)
    };
    let status = artifact_status(required.iter().map(copy_in));
    if status == row.replication {
        return Ok(());
    }
    artifacts::set_replication(tx, artifact, status)?;
    tx.touch(Topic::Rollouts);
    let (kind, message) = match (row.replication, status) {
        (_, ReplicationStatus::Complete) => {
            ("build.replicated", format!("{} is in every region, checked", row.job))
        }
        (ReplicationStatus::Complete, _) => {
            let (place, why) = cause.map_or((String::new(), ""), |(region, why)| {
                (format!(" in {region}"), why.as_str())
            });
            ("build.replication_lost", format!("{} is not complete{place}: {why}", row.job))
        }
        _ => return Ok(()),
    };
    let mut event =
        NewEvent::new(clock::now(), kind, "deployctl", message).app(&row.app).build(row.job);
    if let Some((region, _)) = cause {
        event = event.region(region);
    }
    tx.event(&event)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use ed25519_dalek::SigningKey;
    use tokio::sync::watch;

    use super::*;
    use crate::config::daemon::{Flags, load};
    use crate::coordinator::state::{Coordinator, Keys};
    use crate::model::digest::{Digest, Hasher};
    use crate::model::manifest::{
        Codec, Entry, Manifest, Node, Piece, Provenance, Shape, piece_bytes,
    };
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
            let (shared, _) = Coordinator::new(db, config, blobs, keys, stopped).await.unwrap();
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
        let mut blob = Hasher::default();
        blob.update(&pack);
        let piece = |bytes: &[u8]| {
            let digest = Digest::of(bytes);
            Piece { raw: digest, wire: digest, wire_bytes: bytes.len() as u32, codec: Codec::None }
        };
        let manifest = Manifest {
            v: 1,
            app: "api".parse().unwrap(),
            shape: Shape::File,
            entries: vec![Entry { path: "api".into(), node: Node::File { size, exec: true } }],
            size,
            blob: blob.finish(),
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
            (&|| flip(Kind::Pack, (2 << 20) + 5), "piece 2 of 3 is damaged"),
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
}
