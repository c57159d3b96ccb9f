//! Objects in the main store that no row names: of a worker that was killed after it published,
//! of a build that was refused, of a patch that nobody was told of.
//!
//! Their age is judged by the store's own clock: against the newest object that it lists, so
//! that nobody's clock is believed and a store in which nothing happens loses nothing. Their
//! names are given up as those of any artifact are, before anything is deleted. Only a person has them
//! deleted: a database that was restored knows less than its store.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use crate::coordinator::collector::check_may_delete;
use crate::coordinator::features;
use crate::coordinator::state::Shared;
use crate::model::digest::ArtifactId;
use crate::store::blobs::{BlobError, Blobs, Kind, Stored};
use crate::store::db::collected;
use crate::store::db::events::NewEvent;
use crate::store::db::{Tx, artifacts};
use crate::wire::problem::{Code, Problem};

/// Most artifacts that are compared; more than that are looked at in no round.
const ARTIFACTS_MAX: u32 = 1_000_000;
/// Most names given up in one round; the next takes the rest.
const TAKEN_MAX: usize = 1_000;
/// Names given up in one transaction.
const TAKEN_PER_WRITE: usize = 100;
/// So many may be left over of any store. Of more than there are artifacts nobody believes it:
/// the store may be another installation's as well, or the database lost its memory.
const PLAUSIBLE: usize = 20;

/// What is left over and was written `age` or longer before the newest object; nothing is
/// changed.
///
/// # Errors
/// `blocked` when that is not to be believed; else when the store or the database fails.
pub(super) async fn find(
    shared: &Shared,
    age: Duration,
) -> Result<BTreeMap<ArtifactId, u64>, Problem> {
    // Listed before the rows are read: what comes in between is known by then.
    let stored = list(&shared.blobs).await.map_err(|error| {
        Problem::new(Code::Unavailable, "the main store can't be listed").because(error)
    })?;
    let known = shared.db.read(|tx| artifacts::all(tx, ARTIFACTS_MAX)).await?;
    if known.len() >= ARTIFACTS_MAX as usize {
        return Err(Problem::new(Code::TooLarge, "there are too many artifacts to compare"));
    }
    let waiting = shared.db.read(collected::names_waiting).await?;
    let known: BTreeSet<ArtifactId> = known.into_iter().chain(waiting).collect();
    let left = left_over(&stored, &known, age);
    let there: BTreeSet<ArtifactId> = stored.iter().map(|one| one.artifact).collect();
    let there = there.intersection(&known).count();
    let objects = stored.iter().filter(|one| known.contains(&one.artifact)).count();
    if left.len() > PLAUSIBLE.max(objects / 10) {
        let title = "too much is left over in the main store, and none of it is touched";
        return Err(Problem::new(Code::Blocked, title).because(format!(
            "{} artifacts that no row names, {there} that one does: is it another installation's \
             store, too, or is the database older than it?",
            left.len()
        )));
    }
    Ok(left)
}

/// Gives up what [`find`] finds, at most a thousand artifacts; how many, and their bytes.
///
/// # Errors
/// As [`find`]; `blocked` while an older coordinator works; `unavailable` when the main store
/// refuses deletes.
pub(super) async fn give_up(shared: &Shared, age: Duration) -> Result<(u64, u64), Problem> {
    check_may_delete(shared).await?;
    let left = find(shared, age).await?;
    take(shared, left.into_iter().take(TAKEN_MAX).collect()).await
}

async fn take(shared: &Shared, left: Vec<(ArtifactId, u64)>) -> Result<(u64, u64), Problem> {
    let (mut count, mut bytes) = (0, 0);
    for some in left.chunks(TAKEN_PER_WRITE) {
        let (some, within) = (some.to_vec(), shared.clone());
        let write = move |tx: &mut Tx| {
            features::begin(tx, &within, &features::COLLECTS)?;
            let (now, mut went) = (within.steady_now(), (0, 0));
            for (artifact, bytes) in some {
                if collected::give_up(tx, &artifact, bytes, now)? {
                    went = (went.0 + 1, went.1 + bytes);
                }
            }
            if went.0 > 0 {
                let message = format!(
                    "{} artifacts in the main store that no build names were collected, {} MiB",
                    went.0,
                    went.1 >> 20
                );
                tx.event(&NewEvent::new(now, "artifacts.collected", "deployctl", message))?;
            }
            Ok::<_, Problem>(went)
        };
        let went = shared.db.write(write).await?;
        (count, bytes) = (count + went.0, bytes + went.1);
    }
    Ok((count, bytes))
}

async fn list(store: &Blobs) -> Result<Vec<Stored>, BlobError> {
    let mut all = vec![];
    for kind in [Kind::Manifest, Kind::Signature, Kind::Pack] {
        all.append(&mut store.list_ages(kind).await?);
    }
    Ok(all)
}

/// Artifacts of which something is stored, nothing is known, and nothing was written within
/// `age` of the newest object; with their bytes.
fn left_over(
    stored: &[Stored],
    known: &BTreeSet<ArtifactId>,
    age: Duration,
) -> BTreeMap<ArtifactId, u64> {
    let newest = stored.iter().map(|one| one.written).max().unwrap_or(SystemTime::UNIX_EPOCH);
    let young = |one: &&Stored| newest.duration_since(one.written).is_ok_and(|since| since < age);
    let young: BTreeSet<ArtifactId> = stored.iter().filter(young).map(|one| one.artifact).collect();
    let mut left = BTreeMap::new();
    for one in stored {
        if !known.contains(&one.artifact) && !young.contains(&one.artifact) {
            *left.entry(one.artifact).or_insert(0) += one.bytes;
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::digest::Digest;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn only_what_is_old_by_the_stores_own_clock_and_unknown_is_left_over() {
        let id = |n: u8| Digest::of(&[n]);
        let one = |n: u8, hours: u32, bytes: u64| Stored {
            artifact: id(n),
            bytes,
            written: SystemTime::UNIX_EPOCH + HOUR * hours,
        };
        let known = [id(1)].into();
        let stored = [
            one(1, 1, 9),
            one(2, 1, 5),
            one(2, 2, 6),
            // A pack that was written again: somebody publishes it.
            one(3, 1, 7),
            one(3, 50, 7),
            one(4, 49, 1),
        ];
        let left = left_over(&stored, &known, HOUR * 24);
        assert_eq!(left, [(id(2), 11)].into());
        // The newest object is the store's clock: alone nothing is old.
        assert!(left_over(&stored[..3], &known, HOUR * 24).is_empty());
        assert!(left_over(&[], &known, Duration::ZERO).is_empty());
    }
}
