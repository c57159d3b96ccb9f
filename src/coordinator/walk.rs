//! The walk over all hosts of an env, which lasts where there are hundreds of thousands: done on
//! a snapshot before the transaction that needs it, so that no other write waits for it.
//!
//! The transaction says what it would have walked by and ends without a trace; then it is tried
//! again with what was seen. Whatever a person or a rollout decided in between (a hold, another
//! generation, other settings) makes the walk unfit. What hosts did in between does not: their
//! rows are what regions said up to a report ago, and a walk that is no older tells the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::coordinator::admission::Stop;
use crate::coordinator::state::{Coordinator, Shared};
use crate::model::canary::Canary;
use crate::model::goal::{GoalVersion, Pin, bucket};
use crate::model::hold::Hold;
use crate::model::id::{AppName, EnvName, HostId, RegionName};
use crate::model::selector::Selector;
use crate::rules::rollout::Rollout;
use crate::store::db::{DbError, Tx, holds, hosts};

/// Hosts of an env that are walked over within the transaction: that takes milliseconds.
pub(super) const WITHIN_MAX: u32 = 2_000;
/// How old a walk may be when it is used: what two reports of a region lie apart.
pub(super) const OLD_MAX: Duration = Duration::from_secs(5);
/// Walks before a transaction. Where each was unfit in the end (everybody deploys) the next is
/// within it: it must come to an end.
const WALKS_MAX: u32 = 3;

/// What a walk depends on: it is used only where all of this is still the same.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Basis {
    app: AppName,
    env: EnvName,
    hosts: Selector,
    canary: Option<Canary>,
    /// Whom people hold or pin: these are not asked, and a canary of them would prove nothing.
    kept: Vec<Pin>,
    /// By whose generation hosts are drawn.
    version: GoalVersion,
}

impl Basis {
    pub(super) fn of(
        tx: &Tx,
        shared: &Coordinator,
        rollout: &Rollout,
        version: GoalVersion,
    ) -> Result<Self, DbError> {
        let Rollout { app, env, hosts, canary, .. } = rollout;
        let kept = holds::placed(tx, (app, env), shared.steady_now())?;
        let kept = kept.iter().filter_map(Hold::pin).collect();
        let (app, env, hosts, canary) = (app.clone(), env.clone(), hosts.clone(), canary.clone());
        Ok(Self { app, env, hosts, canary, kept, version })
    }

    /// Tells `take` each host that it is by, its bucket, and whether it can be reached.
    pub(super) fn each(
        &self,
        tx: &Tx,
        mut take: impl FnMut(&RegionName, &HostId, (u32, bool)),
    ) -> Result<(), DbError> {
        let salt = self.version.generation.to_string();
        hosts::each(tx, &self.env, &self.hosts, |region, host, reachable| {
            if !self.kept.iter().any(|pin| pin.keeps(host, region)) {
                take(region, host, (bucket(&salt, &self.app, host), reachable));
            }
        })
    }

    fn walk(self, tx: &Tx) -> Result<Walk, DbError> {
        let began = Instant::now();
        let (mut buckets, mut named) = (BTreeMap::<RegionName, Vec<u32>>::new(), 0);
        self.each(tx, |region, host, (bucket, reachable)| {
            if !reachable {
                return;
            }
            if self.canary.as_ref().is_some_and(|canary| canary.has(region, host)) {
                named += 1;
            } else if let Some(buckets) = buckets.get_mut(region) {
                buckets.push(bucket);
            } else {
                buckets.insert(region.clone(), vec![bucket]);
            }
        })?;
        Ok(Walk { basis: self, began, buckets, named })
    }
}

/// What was seen.
#[derive(Debug)]
pub(super) struct Walk {
    basis: Basis,
    began: Instant,
    /// Buckets of the reachable hosts of each region, but for those of the canary.
    pub(super) buckets: BTreeMap<RegionName, Vec<u32>>,
    /// How many of the canary can be reached.
    pub(super) named: usize,
}

/// What was walked before a transaction.
#[derive(Debug, Clone, Default)]
pub(super) struct Before {
    walk: Option<Arc<Walk>>,
    walks: u32,
}

impl Before {
    /// The walk by `basis`, and if need be now.
    ///
    /// # Errors
    /// [`Undone::Walk`] when it is to be done before the transaction.
    pub(super) fn or_walk(&self, tx: &Tx, basis: Basis) -> Result<Arc<Walk>, Undone> {
        let fits = |walk: &&Arc<Walk>| walk.began.elapsed() < OLD_MAX && walk.basis == basis;
        if let Some(walk) = self.walk.as_ref().filter(fits) {
            return Ok(walk.clone());
        }
        if self.walks < WALKS_MAX && hosts::are_more(tx, &basis.env, WITHIN_MAX)? {
            return Err(Undone::Walk(Box::new(basis)));
        }
        Ok(Arc::new(basis.walk(tx)?))
    }
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub(super) enum Undone {
    #[error(transparent)]
    Db(#[from] DbError),
    /// This walk comes first.
    #[error("the fleet is to be looked at first")]
    Walk(Box<Basis>),
}

/// An error that may ask for a walk.
pub(super) trait MayWalk: Sized {
    /// The walk that it asks for, or what else it is.
    fn walk(self) -> Result<Box<Basis>, Self>;
}

impl MayWalk for Undone {
    fn walk(self) -> Result<Box<Basis>, Self> {
        match self {
            Self::Walk(basis) => Ok(basis),
            other @ Self::Db(_) => Err(other),
        }
    }
}

impl MayWalk for Stop {
    fn walk(self) -> Result<Box<Basis>, Self> {
        match self {
            Self::Walk(basis) => Ok(basis),
            other => Err(other),
        }
    }
}

/// Does `work` as one write, and before it what it asks to be walked.
///
/// # Errors
/// What `work` says, but never that it asks for a walk; or when the database fails.
pub(super) async fn write<T, E>(
    shared: &Shared,
    work: impl Fn(&mut Tx, &Before) -> Result<T, E> + Send + Sync + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: MayWalk + From<DbError> + Send + 'static,
{
    let (work, mut before) = (Arc::new(work), Before::default());
    loop {
        let (work, with) = (work.clone(), before.clone());
        let done = shared.db.write(move |tx: &mut Tx| work(tx, &with)).await;
        let basis = match done.map_err(MayWalk::walk) {
            Ok(done) => return Ok(done),
            Err(Err(other)) => return Err(other),
            Err(Ok(basis)) => basis,
        };
        let walk = shared.db.read(move |tx: &Tx| basis.walk(tx)).await?;
        before = Before { walk: Some(Arc::new(walk)), walks: before.walks + 1 };
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::store::db::conformance::both;

    /// More hosts than are walked over within a transaction, one in ten away.
    pub(in crate::coordinator) fn put_hosts(tx: &mut Tx) -> Result<(), DbError> {
        for n in 0..=WITHIN_MAX {
            let region = if n % 2 == 0 { "eu" } else { "us" };
            let host = serde_json::json!({
                "info": {"host": format!("h-{n}"), "env": "prod", "peer_port": 1, "agent_version": "0"},
                "region": region, "address": "10.0.0.1",
                "reachable": n % 10 > 0, "apps": [], "seen_at": "2026-11-21T00:00:00.000Z",
            });
            let host: crate::wire::v1::fleet::HostRow = serde_json::from_value(host).unwrap();
            hosts::put(tx, &host.region, &host)?;
        }
        Ok(())
    }

    fn basis(generation: u64) -> Basis {
        let canary =
            serde_json::json!({"asked": "h-1,h-10", "hosts": {"us": ["h-1"], "eu": ["h-10"]}});
        let pin = serde_json::json!({"host": "h-3"});
        Basis {
            app: "web".parse().unwrap(),
            env: "prod".parse().unwrap(),
            hosts: Selector::default(),
            canary: serde_json::from_value(canary).unwrap(),
            kept: vec![serde_json::from_value(pin).unwrap()],
            version: GoalVersion { epoch: 1, generation, step: 1 },
        }
    }

    #[tokio::test]
    async fn a_large_fleet_is_walked_before_and_the_walk_is_used_for_what_it_was_by() {
        let (_folder, databases) = both().await;
        for db in databases {
            db.write(put_hosts).await.unwrap();
            let look = |before: Before, basis: Basis| {
                db.write(move |tx: &mut Tx| Ok::<_, DbError>(before.or_walk(tx, basis)))
            };
            let asked = look(Before::default(), basis(7)).await.unwrap();
            let Err(Undone::Walk(asked)) = asked else { panic!("{asked:?}") };
            assert_eq!(*asked, basis(7));
            let walk = Arc::new(db.read(move |tx| asked.walk(tx)).await.unwrap());
            let hosts: Vec<usize> = walk.buckets.values().map(Vec::len).collect();
            // 1001 and 1000, but for 201 that are away, one of the canary, and the pinned one.
            assert_eq!((hosts, walk.named), (vec![800, 998], 1));

            let before = |walks| Before { walk: Some(walk.clone()), walks };
            let used = look(before(1), basis(7)).await.unwrap().unwrap();
            assert!(Arc::ptr_eq(&used, &walk));
            // Another generation draws anew, before or in the end within.
            let again = look(before(1), basis(8)).await.unwrap();
            assert!(matches!(again, Err(Undone::Walk(_))), "{again:?}");
            let within = look(before(WALKS_MAX), basis(8)).await.unwrap().unwrap();
            assert_ne!(within.buckets, walk.buckets);
            let freed = Basis { kept: vec![], ..basis(7) };
            let freed = look(before(WALKS_MAX), freed).await.unwrap().unwrap();
            assert_eq!(freed.buckets.values().map(Vec::len).sum::<usize>(), 1799);
        }
    }
}
