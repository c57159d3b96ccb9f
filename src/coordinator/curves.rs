//! Completion curves: each report that changes counts of an open rollout is a point,
//! unless the last one is too near.

use std::time::Duration;

use axum::extract::State;

use crate::coordinator::rollouts;
use crate::coordinator::router::{Route, get};
use crate::coordinator::state::Shared;
use crate::model::id::{AppName, EnvName, ReleaseNo};
use crate::model::time::UnixMillis;
use crate::net::server::{Json, Path};
use crate::rules::authorize::Class;
use crate::rules::rollout::Rollout;
use crate::store::db::{DbError, Tx, curves, releases, tallies};
use crate::wire::problem::Problem;
use crate::wire::v1::rollout::{Curve, CurvePoint};

/// Points are at least so far apart: a region reports about as often.
const GAP_MIN: Duration = Duration::from_secs(1);
/// And at least this part of the time since the start: a rollout of a day has some
/// 500 points, one of a minute 50, and both draw alike.
const GAP_PART: u32 = 50;

pub(super) fn routes() -> Vec<Route> {
    vec![
        get("/v1/apps/{app}/envs/{env}/rollouts/{release}/curve", Class::Read, show)
            .says("Tell how many hosts had the bytes and ran them, as the rollout went")
            .gives("Curve"),
    ]
}

async fn show(
    State(shared): State<Shared>,
    Path(place): Path<(AppName, EnvName, ReleaseNo)>,
) -> Result<Json<Curve>, Problem> {
    let read = move |tx: &Tx| {
        rollouts::find(tx, &place)?;
        Ok::<_, Problem>(Curve { points: curves::of(tx, (&place.0, &place.1, place.2))? })
    };
    shared.db.read(read).await.map(Json)
}

/// Adds a point for the open rollout of an app and env, if it has begun.
pub(super) fn sample(
    tx: &mut Tx,
    (app, env): (&AppName, &EnvName),
    now: UnixMillis,
) -> Result<(), DbError> {
    let Some(open) = releases::open(tx, app, env)? else { return Ok(()) };
    // On the way back the counts are of what ran before.
    if open.rollout.went_back {
        return Ok(());
    }
    let place = (app, env, open.rollout.release);
    let Some(point) = count(tx, &open.rollout, now)? else { return Ok(()) };
    let ends = curves::ends(tx, place)?;
    if is_worth_keeping(ends, &point) { curves::add(tx, place, &point) } else { Ok(()) }
}

/// The rollout starts: nobody has anything that is known of.
pub(super) fn start(tx: &mut Tx, rollout: &Rollout, now: UnixMillis) -> Result<(), DbError> {
    let point = CurvePoint { at: now, hosts: 0, staged: 0, healthy: 0 };
    curves::add(tx, (&rollout.app, &rollout.env, rollout.release), &point)
}

/// Counts that were made under the rollout's own goal.
fn count(tx: &Tx, rollout: &Rollout, now: UnixMillis) -> Result<Option<CurvePoint>, DbError> {
    let Some(version) = rollout.version else { return Ok(None) };
    let mut point = CurvePoint { at: now, hosts: 0, staged: 0, healthy: 0 };
    for (region, tally) in tallies::of(tx, &rollout.app, &rollout.env)? {
        if rollout.covers(&region) && tally.version.generation == version.generation {
            point.hosts += tally.hosts;
            point.staged += tally.staged;
            point.healthy += tally.healthy;
        }
    }
    Ok(Some(point))
}

/// Whether `point` says something that the first and the last do not: the moment when
/// all hosts are there is never left out.
fn is_worth_keeping(ends: Option<(CurvePoint, CurvePoint)>, point: &CurvePoint) -> bool {
    let Some((first, last)) = ends else { return true };
    let counts = |point: &CurvePoint| (point.hosts, point.staged, point.healthy);
    if counts(&last) == counts(point) {
        return false;
    }
    let complete = |point: &CurvePoint, count: u32| point.hosts > 0 && count == point.hosts;
    let arrived = complete(point, point.staged) && !complete(&last, last.staged)
        || complete(point, point.healthy) && !complete(&last, last.healthy);
    let gap = GAP_MIN.max(point.at.since(first.at) / GAP_PART);
    arrived || point.at.since(last.at) >= gap
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(second: i64, staged: u32) -> CurvePoint {
        CurvePoint { at: UnixMillis(second * 1000), hosts: 100_000, staged, healthy: 0 }
    }

    #[test]
    fn points_thin_out_and_the_last_host_is_never_left_out() {
        let mut points = vec![point(0, 0)];
        let ends = |points: &[CurvePoint]| Some((points[0], points[points.len() - 1]));
        for second in 1..=86_400 {
            let next = point(second, second as u32);
            if is_worth_keeping(ends(&points), &next) {
                points.push(next);
            }
        }
        assert!((300..600).contains(&points.len()), "{} points of a day", points.len());
        assert_eq!(points[..20].len(), 20, "the first ones are near each other");
        assert_eq!(points[19].at, UnixMillis(19_000));
        let all = CurvePoint { at: UnixMillis(86_400_100), ..point(0, 100_000) };
        assert!(is_worth_keeping(ends(&points), &all), "the moment when all have it");
        points.push(all);
        let again = CurvePoint { at: UnixMillis(99_999_999), ..all };
        assert!(!is_worth_keeping(ends(&points), &again), "nothing new");
    }
}
