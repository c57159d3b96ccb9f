//! Runs of programs that judge bakes: who runs which, and what they said.
//!
//! One row for each app, env and program, of the newest bake. A run is claimed by counting
//! it, so two coordinators never make the same one, and what a run says is taken down only
//! while it is the newest.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{DbError, Tx, json, values};
use crate::model::gate::{Bake, Record, Said};
use crate::model::id::{AppName, EnvName, GateName};
use crate::model::time::UnixMillis;

/// A run that was claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The app.
    pub app: AppName,
    /// The env.
    pub env: EnvName,
    /// The program.
    pub gate: GateName,
    /// The fencing token.
    pub run: u64,
}

/// When a program may be run.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Now.
    pub now: UnixMillis,
    /// How long after the beginning of a run the next one may begin.
    pub every: Duration,
    /// By then a run that begins now has ended, or is taken for lost.
    pub until: UnixMillis,
}

/// The newest run of a program, and what was said in its bake.
#[derive(Debug, Clone)]
pub struct Newest {
    run: u64,
    claimed_until: UnixMillis,
    began_at: UnixMillis,
    record: Record,
}

/// The newest run of each program of an app and env, by name.
///
/// # Errors
/// When the database fails.
pub fn newest(
    tx: &Tx,
    app: &AppName,
    env: &EnvName,
) -> Result<BTreeMap<GateName, Newest>, DbError> {
    let sql = "SELECT gate, run, claimed_until, began_at, record FROM gate_runs
               WHERE app = ?1 AND env = ?2";
    let rows = tx.rows(sql, values![app, env], |row| {
        let (claimed_until, began_at) = (row.time(2)?, row.time(3)?);
        let newest = Newest { run: row.num(1)?, claimed_until, began_at, record: row.json(4)? };
        Ok((row.parse(0)?, newest))
    })?;
    Ok(rows.into_iter().collect())
}

/// What programs said last of an app and env, by name.
///
/// # Errors
/// When the database fails.
pub fn of(tx: &Tx, app: &AppName, env: &EnvName) -> Result<BTreeMap<GateName, Record>, DbError> {
    let all = newest(tx, app, env)?.into_iter();
    Ok(all.map(|(gate, newest)| (gate, newest.record)).collect())
}

/// Since when a run for `bake` is due, given its program's newest one; `None`: somebody
/// runs it, or it was run just now. One that still runs for a bake that is over does not
/// hold a new one up.
#[must_use]
pub fn due_since(newest: Option<&Newest>, bake: Bake, pace: Pace) -> Option<UnixMillis> {
    let Some(newest) = newest.filter(|newest| newest.record.of == bake) else {
        return Some(bake.since);
    };
    let due = newest.began_at + pace.every;
    (newest.claimed_until <= pace.now && due <= pace.now).then_some(due)
}

/// Claims a run for `bake`, which must be the one under way, if it is due.
///
/// # Errors
/// When the database fails.
pub fn claim(
    tx: &mut Tx,
    place: (&AppName, &EnvName, &GateName),
    bake: Bake,
    pace: Pace,
) -> Result<Option<Claim>, DbError> {
    let (app, env, gate) = place;
    let known = newest(tx, app, env)?.remove(gate);
    if due_since(known.as_ref(), bake, pace).is_none() {
        return Ok(None);
    }
    let run = known.as_ref().map_or(0, |row| row.run) + 1;
    let record = known.map(|row| row.record).filter(|record| record.of == bake);
    let record = record.unwrap_or(Record { of: bake, ..Record::default() });
    tx.exec(
        "INSERT INTO gate_runs (app, env, gate, run, claimed_until, began_at, record)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (app, env, gate) DO UPDATE SET run = excluded.run,
             claimed_until = excluded.claimed_until, began_at = excluded.began_at,
             record = excluded.record",
        values![app, env, gate, run, pace.until, pace.now, json(&record)],
    )?;
    Ok(Some(Claim { app: app.clone(), env: env.clone(), gate: gate.clone(), run }))
}

/// Takes down what a run said; returns the record as it was and as it is, unless the run
/// is not the newest any more.
///
/// # Errors
/// When the database fails.
pub fn ended(tx: &mut Tx, claim: &Claim, said: Said) -> Result<Option<(Record, Record)>, DbError> {
    let Claim { app, env, gate, run } = claim;
    let own = newest(tx, app, env)?.remove(gate).filter(|newest| newest.run == *run);
    let Some(Newest { record: before, .. }) = own else { return Ok(None) };
    let mut after = before.clone();
    after.add(said);
    tx.exec(
        "UPDATE gate_runs SET claimed_until = 0, record = ?1
         WHERE app = ?2 AND env = ?3 AND gate = ?4 AND run = ?5",
        values![json(&after), app, env, gate, *run],
    )?;
    Ok(Some((before, after)))
}

/// Gives a run back that was not made to its end: it is due at once.
///
/// # Errors
/// When the database fails.
pub fn give_back(tx: &mut Tx, claim: &Claim) -> Result<(), DbError> {
    let Claim { app, env, gate, run } = claim;
    tx.exec(
        "UPDATE gate_runs SET claimed_until = 0, began_at = 0
         WHERE app = ?1 AND env = ?2 AND gate = ?3 AND run = ?4",
        values![app, env, gate, *run],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::judged::GateWord;
    use crate::store::db::conformance::both;

    fn bake(step: u32) -> Bake {
        Bake { generation: 3, step, since: UnixMillis(1000) }
    }

    fn pace(now: i64) -> Pace {
        let (now, until) = (UnixMillis(now), UnixMillis(now + 40));
        Pace { now, every: Duration::from_millis(30), until }
    }

    fn said(verdict: GateWord, at: i64) -> Said {
        Said { verdict, said: "so".into(), output: String::new(), at: UnixMillis(at) }
    }

    #[tokio::test]
    async fn one_run_at_a_time_and_only_the_newest_is_heard() {
        let (_folder, databases) = both().await;
        for db in databases {
            let live = db.write(|tx| {
                let (app, env, gate) =
                    ("api".parse().unwrap(), "prod".parse().unwrap(), "errors".parse().unwrap());
                let place = (&app, &env, &gate);
                let first = claim(tx, place, bake(0), pace(1000))?.unwrap();
                assert_eq!(claim(tx, place, bake(0), pace(1039))?, None, "somebody runs it");
                // Its coordinator was killed.
                let second = claim(tx, place, bake(0), pace(1040))?.unwrap();
                assert_eq!(ended(tx, &first, said(GateWord::Fail, 1041))?, None);
                let doubt = said(GateWord::Inconclusive, 1042);
                let (before, after) = ended(tx, &second, doubt)?.unwrap();
                assert_eq!((before.last, after.doubts, after.runs), (None, 1, 1));
                assert_eq!(claim(tx, place, bake(0), pace(1069))?, None, "it was run just now");
                let third = claim(tx, place, bake(0), pace(1070))?.unwrap();
                give_back(tx, &third)?;
                let fourth = claim(tx, place, bake(0), pace(1071))?.unwrap();
                // The next step bakes already: a new run begins, and the old one says nothing.
                let fifth = claim(tx, place, bake(1), pace(1072))?.unwrap();
                assert_eq!(ended(tx, &fourth, said(GateWord::Fail, 1073))?, None);
                let (_, after) = ended(tx, &fifth, said(GateWord::Pass, 1074))?.unwrap();
                assert_eq!((after.of, after.doubts, after.runs), (bake(1), 0, 1));
                assert_eq!(of(tx, &app, &env)?[&gate], after);
                let known = newest(tx, &app, &env)?.remove(&gate);
                let due = |bake, now| due_since(known.as_ref(), bake, pace(now)).map(|at| at.0);
                assert_eq!((due(bake(1), 1101), due(bake(1), 1200)), (None, Some(1102)));
                assert_eq!(due(bake(2), 1200), Some(1000), "since it began to bake");
                Ok::<_, DbError>(())
            });
            live.await.unwrap();
        }
    }
}
