//! Follows what the rules decided for one rollout, in one transaction: its row,
//! its goal, its events, what the env runs. Shared by requests and by the tick.

use crate::coordinator::facts::Drawn;
use crate::coordinator::state::Coordinator;
use crate::coordinator::walk::{Before, Undone};
use crate::coordinator::{curves, facts, holds, view};
use crate::model::digest::ArtifactId;
use crate::model::hold::Hold;
use crate::model::id::{AppName, EnvName};
use crate::model::rollout::{RolloutKind, RolloutState};
use crate::rules::rollout::{Action, Facts};
use crate::store::db::events::NewEvent;
use crate::store::db::releases::{self, ReleaseRow};
use crate::store::db::{DbError, Tx, apps, envs, goals};
use crate::wire::seal::{GOAL, Sealed, sign};

/// How many releases back the one that wrote the goal may be: those between never began.
const WRITERS_MAX: u32 = 50;

/// Who acts when nobody asked.
pub(super) const SELF: &str = "deployctl";

/// Writes `row` back with everything that `actions` ask for.
pub(super) fn save(
    tx: &mut Tx,
    shared: &Coordinator,
    row: &mut ReleaseRow,
    actions: Vec<Action>,
    (actor, facts): (&str, &Facts),
) -> Result<(), DbError> {
    let now = shared.steady_now();
    for action in actions {
        follow(tx, shared, row, action, actor)?;
    }
    let over = row.rollout.state.is_final();
    row.ended_at = if over { row.ended_at.or(Some(now)) } else { None };
    if over && row.rollout.version.is_some() {
        // A region that never took the goal is part of how it ended: its hosts will follow.
        let counts = view::counts(&row.rollout, facts).into_iter();
        row.tallies = counts.filter(|(_, tally)| tally.hosts > 0).collect();
    }
    releases::update(tx, row)?;
    row.stamp += 1;
    let gone = over && row.rollout.version.is_none();
    if gone && row.rollout.state != RolloutState::Superseded {
        take_back(tx, shared, row)?;
    }
    Ok(())
}

/// A rollout that ended before it began may have taken the place of one that was
/// half way: nobody looks after those hosts any more, so they go back.
fn take_back(tx: &mut Tx, shared: &Coordinator, gone: &ReleaseRow) -> Result<(), DbError> {
    let (app, env) = (&gone.rollout.app, &gone.rollout.env);
    let Some(release) = envs::find(tx, app, env)?.goal_release else { return Ok(()) };
    let Some(mut left) = releases::find(tx, app, env, release)? else { return Ok(()) };
    if left.rollout.state != RolloutState::Superseded || !left.rollout.can_revert() {
        return Ok(());
    }
    let facts = facts::load(tx, shared, &left.rollout)?;
    let why = format!("superseded by {}, which never began", gone.rollout.release);
    let then = RolloutState::Superseded;
    let actions = left.rollout.revert(shared.steady_now(), facts.fresh, then, &why);
    save(tx, shared, &mut left, actions, (SELF, &facts))
}

fn follow(
    tx: &mut Tx,
    shared: &Coordinator,
    row: &ReleaseRow,
    action: Action,
    actor: &str,
) -> Result<(), DbError> {
    let rollout = &row.rollout;
    let place = (&rollout.app, &rollout.env);
    match action {
        Action::Publish => publish(tx, shared, row),
        Action::Settle(stable) => {
            let good =
                rollout.state == RolloutState::Succeeded || rollout.kind == RolloutKind::Rollback;
            if let (Some(bits), true) = (row.bits(), good) {
                releases::mark(tx, place, &bits, false)?;
            }
            envs::settle(tx, place.0, place.1, &stable)
        }
        Action::MarkBad => match row.bits() {
            // The same bits under other settings: they are what the env runs.
            Some(bits) if rollout.stable.base.is_some_and(|base| base.bits() == bits) => Ok(()),
            Some(bits) => {
                releases::mark(tx, place, &bits, true)?;
                // Nobody stays pinned to what does not work.
                let place = (place.0, place.1, &[][..]);
                holds::make_way(tx, shared, place, (Some(bits), false), SELF)
            }
            None => Ok(()),
        },
        Action::Tell { kind, message } => {
            let message = format!("{} in {}: {message}", rollout.release, rollout.env);
            let event = NewEvent::new(shared.steady_now(), kind, actor, message)
                .app(&rollout.app)
                .env(&rollout.env)
                .build(row.build)
                .release(rollout.release);
            tx.event(&event)
        }
    }
}

/// Signs the rollout's document and sends it on its way.
fn publish(tx: &mut Tx, shared: &Coordinator, row: &ReleaseRow) -> Result<(), DbError> {
    let now = shared.steady_now();
    let Some(mut goal) = row.rollout.document(now) else { return Ok(()) };
    let kept = crate::store::db::holds::placed(tx, (&goal.app, &goal.env), now)?;
    goal.keep(kept.iter().filter_map(Hold::pin).collect());
    let payload = serde_json::to_string(&goal).expect("a goal is plain JSON");
    let signature = sign(&shared.keys.goal, GOAL, payload.as_bytes());
    let key = goals::key(&goal.app, &goal.env);
    goals::send(tx, &key, goal.version, &Sealed { payload, signature })?;
    envs::decided(tx, (&goal.app, &goal.env), goal.next.release, goal.version)
}

/// Sends the goal that stands once more, as the next step of its generation: what is
/// pinned has changed, or it goes under another `epoch`. Nothing when no rollout of this
/// database wrote it; returns whether it was sent.
pub(super) fn restate(
    tx: &mut Tx,
    shared: &Coordinator,
    (app, env): (&AppName, &EnvName),
    epoch: Option<u64>,
) -> Result<bool, DbError> {
    let standing = envs::find(tx, app, env)?.generation;
    let wrote = |row: &ReleaseRow| {
        row.rollout.version.is_some_and(|version| version.generation == standing)
    };
    let rows = releases::list(tx, app, env, None, WRITERS_MAX)?;
    let Some(mut row) = rows.into_iter().find(wrote) else { return Ok(false) };
    row.rollout.bump();
    if let Some(epoch) = epoch {
        row.rollout.fence(epoch);
    }
    publish(tx, shared, &row)?;
    releases::update(tx, &row)?;
    Ok(true)
}

/// Starts a pending rollout whose artifact is ready; `drawn` is its fleet, if that was looked at
/// in this transaction, or else what was walked `before` it.
///
/// # Errors
/// [`Undone::Walk`] when the fleet is to be walked first; or when the database fails.
pub(super) fn begin(
    tx: &mut Tx,
    shared: &Coordinator,
    row: &mut ReleaseRow,
    artifact: ArtifactId,
    (actor, drawn, before): (&str, Option<Drawn>, &Before),
) -> Result<(), Undone> {
    let app = apps::find(tx, &row.rollout.app)?.ok_or(DbError::Missing("a rollout's app"))?;
    let fresh = envs::fresh(tx)?;
    let fleet = match drawn.filter(|drawn| drawn.version == fresh) {
        Some(drawn) => drawn.fleet,
        None => facts::fleet(tx, shared, (&app.spec, &row.rollout), fresh, before)?.fleet,
    };
    row.artifact = Some(artifact);
    curves::start(tx, &row.rollout, shared.steady_now())?;
    let actions = row.rollout.begin(shared.steady_now(), artifact, fresh, &fleet);
    let facts = facts::load(tx, shared, &row.rollout)?;
    Ok(save(tx, shared, row, actions, (actor, &facts))?)
}

/// Lets the rules look at one rollout; returns whether anything changed.
pub(super) fn step(
    tx: &mut Tx,
    shared: &Coordinator,
    row: &mut ReleaseRow,
) -> Result<bool, DbError> {
    let facts = facts::to_step(tx, shared, &row.rollout)?;
    let before = row.rollout.clone();
    let actions = row.rollout.step(shared.steady_now(), &facts);
    if actions.is_empty() && before == row.rollout {
        return Ok(false);
    }
    save(tx, shared, row, actions, (SELF, &facts))?;
    Ok(true)
}
