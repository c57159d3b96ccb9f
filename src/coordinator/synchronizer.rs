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
use crate::model::digest::ArtifactId;
use crate::model::id::RegionName;
use crate::model::replication::ReplicationStatus;
use crate::model::time::UnixMillis;
use crate::net::auth::random_key;
use crate::rules::replication::{Finding, artifact_status, copy_status};
use crate::store::blobs::{BlobError, Blobs, Kind};
use crate::store::db::events::NewEvent;
use crate::store::db::replicas::{self, Candidate, Found};
use crate::store::db::{DbError, Topic, Tx, artifacts, coordinators, patches};
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
    let regions = shared.config.regions.keys().map(|region| Watch::of(&shared, region).run());
    tokio::join!(futures_util::future::join_all(regions), reach_main(&shared));
}

/// Makes a round over one region's store now, whoever makes the usual ones; what it lists. What
/// is lost is told to the region as ever.
///
/// # Errors
/// A sentence, when the store or the database fails.
pub(super) async fn look_now(shared: &Shared, region: &RegionName) -> Result<Listing, String> {
    let watch = Watch::of(shared, region);
    let store = Blobs::open(&watch.url).map_err(|error| error.to_string())?;
    watch.round(&store).await.map_err(|error| error.to_string())
}

/// Looks now and then whether the main store answers: workers and regions need it.
async fn reach_main(shared: &Shared) {
    let mut stop = shared.stop.clone();
    loop {
        let reached = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            reached = shared.blobs.reach() => reached,
        };
        if let Err(error) = &reached {
            tracing::warn!(%error, "main store not reached");
        }
        shared.note_store(None, &reached);
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(shared.config.synchronizer.every()) => {}
        }
    }
}

/// Counts every artifact's status anew: the configured regions may have changed.
async fn recount(shared: &Shared) -> Result<(), DbError> {
    let all = shared.db.read(|tx| artifacts::all(tx, ARTIFACTS_MAX)).await?;
    for some in all.chunks(FOUND_PER_WRITE) {
        let (some, required, now) = (some.to_vec(), required(shared), shared.steady_now());
        let count = move |tx: &mut Tx| {
            some.iter().try_for_each(|artifact| settle(tx, *artifact, &required, None, now))
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
    fn of(shared: &Shared, region: &RegionName) -> Self {
        Self {
            shared: shared.clone(),
            region: region.clone(),
            url: shared.config.regions.get(region).map_or_else(String::new, |r| r.blobs.clone()),
            trusted: shared.keys.trusted_build.clone().into(),
            store: None,
        }
    }

    async fn run(mut self) {
        let mut stop = self.shared.stop.clone();
        let mut claims = self.shared.db.watch(Topic::Replicas);
        let every = self.shared.config.synchronizer.every();
        let mut round_at = Instant::now();
        loop {
            claims.borrow_and_update();
            let due = Instant::now() >= round_at;
            let whole = due && self.takes_round(every).await;
            let outcome = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                outcome = self.pass(whole) => outcome,
            };
            if due {
                round_at = Instant::now() + every;
            }
            // A pass that found nothing to look at says nothing of the store.
            if whole || outcome.is_err() {
                self.shared.note_store(Some(&self.region), &outcome);
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

    /// Whether this coordinator makes the round that is due. One of several does; a round
    /// that nobody ends is begun again by whoever asks next.
    async fn takes_round(&self, every: Duration) -> bool {
        let (db, region) = (&self.shared.db, self.region.clone());
        if !db.is_shared() {
            return true;
        }
        let now = self.shared.steady_now();
        let take =
            move |tx: &mut Tx| coordinators::take_round(tx, region.as_str(), now, now - every / 2);
        db.write(take).await.unwrap_or(true)
    }

    async fn pass(&mut self, whole: bool) -> Result<(), SynchronizeError> {
        let store = match &self.store {
            Some(store) => store.clone(),
            None => self.store.insert(Blobs::open(&self.url)?).clone(),
        };
        if whole { self.round(&store).await.map(drop) } else { self.unsettled(&store).await }
    }

    /// Looks at copies that wait for it.
    async fn unsettled(&self, store: &Blobs) -> Result<(), SynchronizeError> {
        let (region, lost_before) = (self.region.clone(), self.shared.steady_now() - LOST_AGAIN);
        let read = move |tx: &Tx| replicas::unsettled(tx, &region, lost_before, UNSETTLED_MAX);
        let candidates = self.shared.db.read(read).await?;
        self.look_at_all(store, candidates).await
    }

    /// Compares every copy with a listing, and reads some of them back.
    async fn round(&self, store: &Blobs) -> Result<Listing, SynchronizeError> {
        // Claims are read before the listing: what was called complete then must be listed.
        let region = self.region.clone();
        let read = move |tx: &Tx| replicas::required(tx, &region, ARTIFACTS_MAX);
        let candidates = self.shared.db.read(read).await?;
        let at = self.shared.steady_now();
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
        self.look_at_all(store, suspects).await?;
        let (region, now) = (self.region.clone(), self.shared.steady_now());
        let note = move |tx: &mut Tx| coordinators::note_round(tx, &region, now);
        self.shared.db.write(note).await?;
        Ok(listing)
    }

    async fn look_at_all(
        &self,
        store: &Blobs,
        candidates: Vec<Candidate>,
    ) -> Result<(), SynchronizeError> {
        let looks = candidates.into_iter().map(|candidate| async move {
            let at = self.shared.steady_now();
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
            let now = self.shared.steady_now();
            let write = move |tx: &mut Tx| {
                some.iter().try_for_each(|found| {
                    if replicas::found(tx, &region, found)? {
                        let cause = Some((&region, &found.reason));
                        settle(tx, found.artifact, &required, cause, now)?;
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

/// What a store lists.
pub(super) struct Listing {
    pub(super) manifests: HashSet<ArtifactId>,
    signatures: HashSet<ArtifactId>,
    /// With their lengths, bytes.
    pub(super) packs: HashMap<ArtifactId, u64>,
}

impl Listing {
    pub(super) async fn of(store: &Blobs) -> Result<Self, BlobError> {
        // Packs last: whatever has a manifest by now has its pack by then.
        Ok(Self {
            manifests: store.list(Kind::Manifest).await?.into_iter().collect(),
            signatures: store.list(Kind::Signature).await?.into_iter().collect(),
            packs: store.list_sizes(Kind::Pack).await?.into_iter().collect(),
        })
    }

    /// Whether all of an artifact is there, by name and length.
    pub(super) fn holds(&self, artifact: &ArtifactId, wire_size: u64) -> bool {
        self.manifests.contains(artifact)
            && self.signatures.contains(artifact)
            && self.packs.get(artifact) == Some(&wire_size)
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
    now: UnixMillis,
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
    if patches::between(tx, &artifact)?.is_some() {
        // No build and no rollout waits for a patch: where it is not, it is not offered.
        return Ok(());
    }
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
    let mut event = NewEvent::new(now, kind, "deployctl", message).app(&row.app).build(row.job);
    if let Some((region, _)) = cause {
        event = event.region(region);
    }
    tx.event(&event)
}

#[cfg(test)]
mod tests;
