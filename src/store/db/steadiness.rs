//! What is known of the clock, across restarts.

use super::coordinators::LOOKED;
use super::{DbError, Tx, meta, values};
use crate::model::time::UnixMillis;
use crate::rules::steadiness::{Bounds, Steadiness};

/// Key in the table `meta`.
const KEY: &str = "clock";

/// What is known when the clock shows `now`: what was written down last, or the last round of
/// anything by a coordinator of before, which writes down nothing else. A round of this release
/// is none that counts: it may be the first thing that is done after a jump.
///
/// # Errors
/// When the database fails.
pub fn find(tx: &Tx, now: UnixMillis) -> Result<Option<Steadiness>, DbError> {
    let known: Option<Steadiness> = meta::get(tx, KEY)?;
    let sql = "SELECT max(CAST(value AS BIGINT)) FROM meta WHERE key LIKE 'round/%'
                   AND value NOT LIKE ?1 AND CAST(value AS BIGINT) <= ?2";
    let round = tx.row(sql, values![format!("{LOOKED}%"), now], |row| row.opt_time(0))?.flatten();
    Ok(match (known, round) {
        (Some(known), Some(round)) => Some(Steadiness { seen: known.seen.max(round), ..known }),
        (known, round) => known.or(round.map(Steadiness::at)),
    })
}

/// Looks at the clock, which shows `now`, and writes down what is known then.
///
/// # Errors
/// When the database fails.
pub fn look(tx: &mut Tx, now: UnixMillis, bounds: Bounds) -> Result<Steadiness, DbError> {
    let known = find(tx, now)?.unwrap_or(Steadiness::at(now)).look(now, bounds);
    meta::put(tx, KEY, &known)?;
    Ok(known)
}

/// A person says that the clock is right, at `now`.
///
/// # Errors
/// When the database fails.
pub fn trust(tx: &mut Tx, now: UnixMillis) -> Result<(), DbError> {
    meta::put(tx, KEY, &Steadiness::at(now))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::db::conformance::both;
    use crate::store::db::coordinators::{COLLECTOR, OWNER, take_round};

    /// Rounds as coordinators of before write them.
    fn older_rounds(tx: &mut Tx, at: [i64; 2]) -> Result<(), DbError> {
        for (what, at) in [OWNER, COLLECTOR].into_iter().zip(at) {
            let round = values![format!("round/{what}"), at.to_string()];
            tx.exec("DELETE FROM meta WHERE key = ?1", &round[..1])?;
            tx.exec("INSERT INTO meta (key, value) VALUES (?1, ?2)", round)?;
        }
        Ok(())
    }

    #[tokio::test]
    async fn rounds_of_an_older_release_tell_that_somebody_looked_and_own_ones_do_not() {
        let (_folder, databases) = both().await;
        for db in databases {
            let asked = db.write(|tx| {
                let bounds = Bounds::of(Duration::from_secs(4));
                look(tx, UnixMillis(1_000), bounds)?;
                // Taken after a jump, before anybody looked.
                assert!(take_round(tx, OWNER, UnixMillis(9_000), UnixMillis(0))?);
                assert!(!take_round(tx, OWNER, UnixMillis(9_001), UnixMillis(8_999))?);
                assert!(look(tx, UnixMillis(9_000), bounds)?.jump.is_some());
                trust(tx, UnixMillis(9_000))?;
                // An older release works for a while, its clock wrong at times.
                older_rounds(tx, [13_000, 9_999_000])?;
                assert_eq!(find(tx, UnixMillis(14_000))?.unwrap().seen, UnixMillis(13_000));
                assert_eq!(look(tx, UnixMillis(14_000), bounds)?.jump, None);
                // It takes the rounds of this one, and this one its.
                assert!(take_round(tx, OWNER, UnixMillis(14_000), UnixMillis(13_000))?);
                assert!(take_round(tx, COLLECTOR, UnixMillis(14_000), UnixMillis(0))?, "ahead");
                assert_eq!(find(tx, UnixMillis(99_999))?.unwrap().seen, UnixMillis(14_000));
                Ok::<_, DbError>(())
            });
            asked.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_database_of_before_remembers_its_last_round() {
        let (_folder, databases) = both().await;
        for db in databases {
            let asked = db.write(|tx| {
                let find = |tx: &Tx| find(tx, UnixMillis(50_000));
                assert_eq!(find(tx)?, None);
                older_rounds(tx, [5_000, 4_000])?;
                assert_eq!(find(tx)?, Some(Steadiness::at(UnixMillis(5_000))));
                let bounds = Bounds::of(Duration::from_secs(4));
                assert_eq!(look(tx, UnixMillis(6_000), bounds)?.jump, None);
                let known = look(tx, UnixMillis(9_000), bounds)?;
                assert!(known.jump.is_some());
                assert_eq!(find(tx)?, Some(known));
                trust(tx, UnixMillis(9_001))?;
                assert_eq!(find(tx)?, Some(Steadiness::at(UnixMillis(9_001))));
                Ok::<_, DbError>(())
            });
            asked.await.unwrap();
        }
    }
}
