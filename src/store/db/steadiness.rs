//! What is known of the clock, across restarts.

use super::{DbError, Tx, meta};
use crate::model::time::UnixMillis;
use crate::rules::steadiness::{Bounds, Steadiness};

/// Key in the table `meta`.
const KEY: &str = "clock";

/// What was written down last; of a database of before the last round of anything.
///
/// # Errors
/// When the database fails.
pub fn find(tx: &Tx) -> Result<Option<Steadiness>, DbError> {
    if let Some(known) = meta::get(tx, KEY)? {
        return Ok(Some(known));
    }
    let sql = "SELECT max(CAST(value AS BIGINT)) FROM meta WHERE key LIKE 'round/%'";
    let round = tx.row(sql, &[], |row| row.opt_time(0))?.flatten();
    Ok(round.map(Steadiness::at))
}

/// Looks at the clock, which shows `now`, and writes down what is known then.
///
/// # Errors
/// When the database fails.
pub fn look(tx: &mut Tx, now: UnixMillis, bounds: Bounds) -> Result<Steadiness, DbError> {
    let known = find(tx)?.unwrap_or(Steadiness::at(now)).look(now, bounds);
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

    #[tokio::test]
    async fn a_database_of_before_remembers_its_last_round() {
        let (_folder, databases) = both().await;
        for db in databases {
            let asked = db.write(|tx| {
                assert_eq!(find(tx)?, None);
                for (what, at) in [(OWNER, 5_000), (COLLECTOR, 4_000)] {
                    take_round(tx, what, UnixMillis(at), UnixMillis(0))?;
                }
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
