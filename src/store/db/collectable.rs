//! What the collector's rule must know of an app, read at one moment.

use std::collections::{BTreeMap, BTreeSet};

use super::{DbError, Tx, goals, holds, values};
use crate::model::digest::ArtifactId;
use crate::model::goal::{Goal, Target};
use crate::model::id::{AppName, EnvName, ReleaseNo};
use crate::model::replication::ReplicationStatus;
use crate::model::rollout::Stable;
use crate::model::time::UnixMillis;
use crate::rules::collection::{Ends, Facts, Held};
use crate::rules::rollout::Rollout;

/// Releases of an env that are looked through for distinct known-good artifacts.
const RELEASES_MAX: u32 = 1_000;
/// Artifacts of one app that are looked at, the oldest first; the rest waits for its turn.
const HELD_MAX: u32 = 20_000;

/// The facts of `app`. What was built or released before `since` is old.
///
/// # Errors
/// When the database fails.
pub fn facts(tx: &Tx, app: &AppName, since: UnixMillis, now: UnixMillis) -> Result<Facts, DbError> {
    let mut facts = Facts { held: held(tx, app, since)?, ..Facts::default() };
    if facts.held.is_empty() {
        return Ok(facts);
    }
    for (env, stable, goal) in envs(tx, app)? {
        facts.named.extend(targets(&stable));
        facts.named.extend(released(tx, app, &env, goal)?);
        if let Some(stored) = goals::find(tx, &goals::key(app, &env))? {
            facts.named.extend(named(&stored.sealed.payload));
        }
        facts.good.push(good(tx, app, &env)?);
    }
    for payload in goals::on_their_way(tx, app)? {
        facts.named.extend(named(&payload));
    }
    facts.named.extend(open(tx, app)?);
    let pins = holds::standing(tx, now)?.into_iter();
    let pins = pins.filter(|hold| hold.app.as_ref().is_none_or(|of| of == app));
    facts.named.extend(pins.filter_map(|hold| hold.at).map(|at| at.artifact));
    Ok(facts)
}

/// Whether an app has any artifact that was built before `since`.
///
/// # Errors
/// When the database fails.
pub fn any_old(tx: &Tx, app: &AppName, since: UnixMillis) -> Result<bool, DbError> {
    let sql = "SELECT 1 FROM artifacts WHERE app = ?1 AND created_at <= ?2 LIMIT 1";
    Ok(tx.row(sql, values![app, since], |row| row.int(0))?.is_some())
}

fn held(tx: &Tx, app: &AppName, since: UnixMillis) -> Result<Vec<Held>, DbError> {
    let used = "SELECT artifact, max(coalesce(ended_at, created_at)) FROM releases
                WHERE app = ?1 AND artifact IS NOT NULL
                    AND coalesce(ended_at, created_at) >= ?2 GROUP BY artifact";
    let used: BTreeMap<ArtifactId, UnixMillis> = tx
        .rows(used, values![app, since], |row| Ok((row.parse(0)?, row.time(1)?)))?
        .into_iter()
        .collect();
    let sql =
        "SELECT artifacts.artifact, created_at, replication_status, from_artifact, to_artifact
               FROM artifacts LEFT JOIN patches ON patches.patch = artifacts.artifact
               WHERE app = ?1 ORDER BY created_at LIMIT ?2";
    tx.rows(sql, values![app, HELD_MAX], |row| {
        let artifact = row.parse(0)?;
        let status = row.word(2, ReplicationStatus::from_word)?;
        let ends = row.opt_parse(3)?.zip(row.opt_parse(4)?);
        let built = row.time(1)?;
        Ok(Held {
            artifact,
            used_at: used.get(&artifact).map_or(built, |used| built.max(*used)),
            replicating: matches!(status, ReplicationStatus::Pending | ReplicationStatus::Partial),
            patch: ends.map(|(from, to)| Ends { from, to }),
        })
    })
}

fn envs(tx: &Tx, app: &AppName) -> Result<Vec<(EnvName, Stable, ReleaseNo)>, DbError> {
    let sql = "SELECT env, stable, goal_release FROM envs WHERE app = ?1";
    tx.rows(sql, values![app], |row| Ok((row.parse(0)?, row.json(1)?, ReleaseNo(row.num(2)?))))
}

fn targets(stable: &Stable) -> impl Iterator<Item = ArtifactId> + '_ {
    stable.base.iter().chain(stable.region_base.values()).map(|target: &Target| target.artifact)
}

fn released(
    tx: &Tx,
    app: &AppName,
    env: &EnvName,
    release: ReleaseNo,
) -> Result<Option<ArtifactId>, DbError> {
    let sql = "SELECT artifact FROM releases WHERE app = ?1 AND env = ?2 AND release = ?3";
    Ok(tx.row(sql, values![app, env, release], |row| row.opt_parse(0))?.flatten())
}

/// What a goal document names. One that does not parse was written by a newer release: then
/// the rows that it was made of tell.
fn named(payload: &str) -> Vec<ArtifactId> {
    let goal = serde_json::from_str::<Goal>(payload);
    goal.map_or_else(|_| vec![], |goal| goal.artifacts().collect())
}

/// Known-good artifacts of an env, each once, newest first.
fn good(tx: &Tx, app: &AppName, env: &EnvName) -> Result<Vec<ArtifactId>, DbError> {
    let sql = "SELECT artifact FROM releases WHERE app = ?1 AND env = ?2 AND state = 'succeeded'
                   AND bad = 0 AND artifact IS NOT NULL ORDER BY release DESC LIMIT ?3";
    let mut all: Vec<ArtifactId> =
        tx.rows(sql, values![app, env, RELEASES_MAX], |row| row.parse(0))?;
    let mut known = BTreeSet::new();
    all.retain(|artifact| known.insert(*artifact));
    Ok(all)
}

/// What open rollouts bring, go back to and tolerate; also of builds that they wait for.
fn open(tx: &Tx, app: &AppName) -> Result<BTreeSet<ArtifactId>, DbError> {
    let sql = "SELECT releases.artifact, jobs.artifact, rollout
               FROM releases LEFT JOIN jobs ON jobs.id = releases.build
               WHERE releases.app = ?1 AND state IN ('pending', 'running', 'paused', 'reverting')";
    let rows = tx.rows(sql, values![app], |row| {
        let rollout: Rollout = row.json(2)?;
        let mut named: Vec<ArtifactId> =
            row.opt_parse(0)?.into_iter().chain(row.opt_parse(1)?).collect();
        named.extend(rollout.next.map(|next| next.artifact));
        named.extend(targets(&rollout.stable));
        named.extend(rollout.tolerate.iter().map(|bits| bits.artifact));
        Ok(named)
    })?;
    Ok(rows.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::digest::Digest;
    use crate::store::db::conformance::both;

    fn id(n: u8) -> ArtifactId {
        Digest::of(&[n])
    }

    fn target(n: u8) -> String {
        format!("{{\"release\": \"r{n}\", \"artifact\": \"{}\"}}", id(n))
    }

    /// Artifacts 1 to 9, all built at 1.
    fn fill(tx: &mut Tx) -> Result<(), DbError> {
        tx.exec("INSERT INTO apps VALUES ('web', '{}', 0, 0)", &[])?;
        for n in 1..=9_u8 {
            tx.exec(
                "INSERT INTO jobs (id, app, commit_id, recipe_digest, status, attempt,
                     max_attempts, not_before, queued_at, actor, subject, repo, trunk, recipe,
                     artifact)
                 VALUES (?1, 'web', ?2, ?3, 'SUCCEEDED', 1, 3, 0, 0, '', '', '', '', '', ?4)",
                values![i64::from(n), "a".repeat(40), n.to_string(), id(n)],
            )?;
            tx.exec(
                "INSERT INTO artifacts (artifact, app, commit_id, job, size, wire_size, pieces,
                     entries, manifest_bytes, replication_status, created_at)
                 VALUES (?1, 'web', ?2, ?3, 9, 9, 1, 1, 1, 'complete', 1)",
                values![id(n), "a".repeat(40), i64::from(n)],
            )?;
        }
        Ok(())
    }

    fn release(tx: &mut Tx, n: u8, state: &str, bad: bool, at: i64) -> Result<(), DbError> {
        tx.exec(
            "INSERT INTO releases (app, env, release, kind, build, commit_id, subject, artifact,
                 state, bad, actor, message, rollout, created_at, stamp)
             VALUES ('web', 'prod', ?1, 'deploy', ?1, '', '', ?2, ?3, ?4, '', '', '{}', ?5, 1)",
            values![i64::from(n), id(n), state, bad, at],
        )
        .map(drop)
    }

    #[tokio::test]
    async fn everything_that_names_an_artifact_is_asked() {
        let (_folder, databases) = both().await;
        for db in databases {
            let asked = db.write(|tx| {
                fill(tx)?;
                for (n, state, bad) in
                    [(1, "succeeded", false), (2, "succeeded", true), (3, "reverted", false)]
                {
                    release(tx, n, state, bad, 5)?;
                }
                release(tx, 4, "succeeded", false, 900)?;
                let stable = format!(
                    "{{\"base\": {}, \"region_base\": {{\"eu\": {}}}}}",
                    target(5),
                    target(6)
                );
                tx.exec(
                    "INSERT INTO envs (app, env, stable, goal_release) VALUES ('web', 'prod', ?1, 3)",
                    values![stable],
                )?;
                tx.exec(
                    "INSERT INTO holds (target, reason, actor, from_at, until_at)
                     VALUES (?1, '', '', 0, 2000), (?2, '', '', 0, 10)",
                    values![target(7), target(8)],
                )?;
                facts(tx, &"web".parse().unwrap(), UnixMillis(500), UnixMillis(1000))
            });
            let facts = asked.await.unwrap();
            assert_eq!(facts.held.len(), 9);
            // The goal's release, what is stable, and the pin that is not over.
            assert_eq!(facts.named, [id(3), id(5), id(6), id(7)].into());
            assert_eq!(facts.good, [vec![id(4), id(1)]]);
            let used = |n| facts.held.iter().find(|held| held.artifact == id(n)).unwrap().used_at;
            assert_eq!((used(4), used(1)), (UnixMillis(900), UnixMillis(1)));
            let none = db.read(|tx| {
                let other = "api".parse().unwrap();
                any_old(tx, &other, UnixMillis(500))
            });
            assert!(!none.await.unwrap());
        }
    }
}
