//! What this release can do that an older one on the same database would undo.
//!
//! While coordinators are replaced one after the other, two releases write the same rows. What
//! the older one does not know it leaves out when it writes. So what it would spoil is not
//! begun before it is gone, and from then on one of before the feature does not start.

use crate::coordinator::peers;
use crate::coordinator::state::Coordinator;
use crate::model::time::UnixMillis;
use crate::store::db::{Tx, coordinators};
use crate::wire::problem::{Code, Problem};

/// One such thing.
pub(super) struct Feature {
    /// How coordinators call it among each other; never changed.
    word: &'static str,
    /// The schema that came with it: whoever does not know that one does not know the feature.
    schema: i64,
    /// What can't be done yet.
    what: &'static str,
    /// What an older release does.
    harm: &'static str,
}

/// A release has a config beside its code.
pub(super) const CONFIGS: Feature = Feature {
    word: "configs",
    schema: 14,
    what: "no config can be deployed while an older coordinator works",
    harm: "it would drop the config from the goals that it writes",
};

/// A rollout that fails may leave hosts as they are.
pub(super) const STAYS: Feature = Feature {
    word: "no-auto-revert",
    schema: 20,
    what: "--no-auto-rollback can't be kept while an older coordinator works",
    harm: "it would revert all the same",
};

/// Artifacts that nobody needs are taken away.
pub(super) const COLLECTS: Feature = Feature {
    word: "collects",
    schema: 21,
    what: "nothing can be collected while an older coordinator works",
    harm: "it would take a build for done whose objects are being deleted",
};

/// Programs judge a rollout's bakes.
pub(super) const GATES: Feature = Feature {
    word: "gates",
    schema: 22,
    what: "no deploy that gates judge can begin while an older coordinator works",
    harm: "it would go on without asking them",
};

/// A rollout may go by a plan that a person wrote.
pub(super) const PLAN_FILES: Feature = Feature {
    word: "plan-files",
    schema: 23,
    what: "no plan of your own can be deployed by while an older coordinator works",
    harm: "it would go by the plan standard",
};

/// A rollout may begin with hosts that a person named.
pub(super) const CANARIES: Feature = Feature {
    word: "named-canaries",
    schema: 26,
    what: "--hosts can't be kept while an older coordinator works",
    harm: "it would take the named hosts back and let others in",
};

/// Add yours here.
const ALL: &[Feature] = &[CONFIGS, STAYS, COLLECTS, GATES, PLAN_FILES, CANARIES];

/// What this release can do, as it says to others.
pub(super) fn own() -> String {
    ALL.iter().map(|feature| feature.word).collect::<Vec<_>>().join(" ")
}

/// Begins to use `feature` on this database: from now on every coordinator must have it.
///
/// # Errors
/// `blocked` when one that works does not have it, naming that one.
pub(super) fn begin(tx: &mut Tx, shared: &Coordinator, feature: &Feature) -> Result<(), Problem> {
    check(tx, feature, peers::live_since(shared))?;
    Ok(coordinators::raise_floor(tx, feature.schema)?)
}

fn check(tx: &Tx, feature: &Feature, since: UnixMillis) -> Result<(), Problem> {
    let told = coordinators::features(tx, since)?;
    let lacks = |words: &str| words.split(' ').all(|word| word != feature.word);
    let Some((older, _)) = told.iter().find(|(_, words)| lacks(words)) else { return Ok(()) };
    let release = env!("CARGO_PKG_VERSION");
    Err(Problem::new(Code::Blocked, feature.what)
        .because(format!(
            "the coordinator at {}, of release {}, does not know {}: {}; replace it with release \
             {release}, or stop it",
            older.url, older.version, feature.word, feature.harm
        ))
        .hint("deployctl admin db check --config FILE"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::db::DbError;
    use crate::store::db::conformance::both;
    use crate::store::db::coordinators::CoordinatorRow;

    fn row(id: &str, seen_at: i64) -> CoordinatorRow {
        CoordinatorRow {
            id: id.into(),
            version: "0.0.9".into(),
            url: format!("http://{id}:7878"),
            started_at: UnixMillis(1),
            seen_at: UnixMillis(seen_at),
        }
    }

    /// As a release says it that does not know of features.
    fn older(tx: &mut Tx, id: &str, seen_at: i64) -> Result<(), DbError> {
        let sql = "INSERT INTO coordinators (id, version, url, started_at, seen_at)
                   VALUES (?1, '0.0.9', ?2, 1, ?3)";
        let values = crate::store::db::values![id, format!("http://{id}:7878"), seen_at];
        tx.exec(sql, values).map(drop)
    }

    #[tokio::test]
    async fn one_that_lacks_it_and_works_is_named() {
        let (_folder, databases) = both().await;
        for db in databases {
            let asked = db.write(|tx| {
                coordinators::seen(tx, &row("new", 100), &own())?;
                coordinators::seen(tx, &row("other", 100), "configurations more")?;
                older(tx, "old", 90)?;
                Ok::<_, DbError>([80, 90, 91, 101].map(|since| {
                    check(tx, &CONFIGS, UnixMillis(since)).map_err(|problem| problem.to_string())
                }))
            });
            let [both, same, later, none] = asked.await.unwrap();
            assert!(
                both.clone().unwrap_err().contains("http://old:7878, of release 0.0.9"),
                "{both:?}"
            );
            assert_eq!(both, same);
            assert!(later.clone().unwrap_err().contains("http://other:7878"), "{later:?}");
            assert_eq!(none, Ok(()));
        }
    }

    #[tokio::test]
    async fn what_is_said_again_is_what_is_known() {
        let (_folder, databases) = both().await;
        for db in databases {
            let asked = db.write(|tx| {
                coordinators::seen(tx, &row("c", 1), "")?;
                coordinators::seen(tx, &row("c", 2), &own())?;
                coordinators::features(tx, UnixMillis(0))
            });
            assert_eq!(asked.await.unwrap(), [(row("c", 2), own())]);
        }
    }
}
