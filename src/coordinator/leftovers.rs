//! Objects in the main store that no row names: of a worker that was killed after it published,
//! of a build that was refused, of a patch that nobody was told of.
//!
//! Their age is judged by the store's own clock: against the newest object that it lists, so
//! that nobody's clock is believed and a store in which nothing happens loses nothing. Their
//! names are given up as those of any artifact are, before anything is deleted. Only a person has them
//! deleted: a database that was restored knows less than its store.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use futures_util::TryStreamExt;

use crate::coordinator::collector::check_may_delete;
use crate::coordinator::state::Shared;
use crate::coordinator::{features, owner};
use crate::model::digest::ArtifactId;
use crate::store::blobs::{Kind, Stored};
use crate::store::db::Tx;
use crate::store::db::collected;
use crate::store::db::events::NewEvent;
use crate::wire::problem::{Code, Problem};

/// Objects whose rows are looked for at a time; of the listing no more is in memory.
const PAGE: usize = 1_000;
/// Most artifacts without a row that are remembered, some 10 MB; of more nobody believes it.
const LEFT_MAX: usize = 100_000;
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
    let mut found = Found::default();
    for kind in [Kind::Manifest, Kind::Signature, Kind::Pack] {
        let mut pages = shared.blobs.ages(kind).try_chunks(PAGE);
        while let Some(page) = pages.try_next().await.map_err(|error| {
            Problem::new(Code::Unavailable, "the main store can't be listed").because(error.1)
        })? {
            // Listed before the rows are read: what comes in between is known by then.
            let names: Vec<ArtifactId> = page.iter().map(|one| one.artifact).collect();
            let unnamed = shared.db.read(move |tx| collected::unnamed(tx, &names)).await?;
            found.add(&page, &unnamed.into_iter().collect());
            if found.unnamed.len() > LEFT_MAX {
                return Err(implausible(found.unnamed.len(), found.named));
            }
        }
    }
    let named = found.named;
    let left = found.older_than(age);
    // An artifact has up to three objects.
    if left.len() > PLAUSIBLE.max(named / 10) {
        return Err(implausible(left.len(), named));
    }
    Ok(left)
}

fn implausible(left: usize, named: usize) -> Problem {
    let title = "too much is left over in the main store, and none of it is touched";
    Problem::new(Code::Blocked, title).because(format!(
        "{left} artifacts that no row names, {named} objects of those that one does: is it \
         another installation's store, too, or is the database older than it?"
    ))
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
        // Right before: whoever made the store its own since needs what is there.
        owner::check(shared).await?;
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

/// What a listing shows, page after page.
#[derive(Debug, Default)]
struct Found {
    /// The newest object: the store's own clock.
    newest: Option<SystemTime>,
    /// Objects of artifacts that a row names.
    named: usize,
    /// Bytes of all others, and when they were last written.
    unnamed: BTreeMap<ArtifactId, (u64, SystemTime)>,
}

impl Found {
    /// Adds a page, of which no row names the artifacts `unnamed`.
    fn add(&mut self, page: &[Stored], unnamed: &BTreeSet<ArtifactId>) {
        for one in page {
            self.newest = self.newest.max(Some(one.written));
            if unnamed.contains(&one.artifact) {
                let left = self.unnamed.entry(one.artifact).or_insert((0, one.written));
                *left = (left.0 + one.bytes, left.1.max(one.written));
            } else {
                self.named += 1;
            }
        }
    }

    /// Artifacts of which nothing was written within `age` of the newest object; with their
    /// bytes.
    fn older_than(self, age: Duration) -> BTreeMap<ArtifactId, u64> {
        let newest = self.newest.unwrap_or(SystemTime::UNIX_EPOCH);
        let young = |written| newest.duration_since(written).is_ok_and(|since| since < age);
        let old = self.unnamed.into_iter().filter(|(_, (_, written))| !young(*written));
        old.map(|(artifact, (bytes, _))| (artifact, bytes)).collect()
    }
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
        let unnamed = (2..=4).map(id).collect();
        let stored = [
            one(1, 1, 9),
            one(2, 1, 5),
            one(2, 2, 6),
            // A pack that was written again: somebody publishes it.
            one(3, 1, 7),
            one(3, 50, 7),
            one(4, 49, 1),
        ];
        let left = |pages: &[&[Stored]], age| {
            let mut found = Found::default();
            pages.iter().for_each(|page| found.add(page, &unnamed));
            (found.named, found.older_than(age))
        };
        let day = HOUR * 24;
        assert_eq!(left(&[&stored], day), (1, [(id(2), 11)].into()));
        // However the listing is cut, and wherever the newest is.
        let (one, two) = stored.split_at(2);
        assert_eq!(left(&[one, two], day), (1, [(id(2), 11)].into()));
        assert_eq!(left(&[two, one], day), (1, [(id(2), 11)].into()));
        // The newest object is the store's clock: alone nothing is old.
        assert!(left(&[&stored[..3]], day).1.is_empty());
        assert!(left(&[], Duration::ZERO).1.is_empty());
    }
}
