//! `POST /v1/region/feed`: what a region must know, and everything that changed since.
//!
//! One revision orders goals, wanted artifacts and the region's tokens. A region
//! that asks from a revision that was never given gets everything.

use std::collections::BTreeSet;

use axum::Extension;
use axum::extract::State;

use crate::config::daemon::ReplicatedBy;
use crate::coordinator::router::{Route, post};
use crate::coordinator::state::{Coordinator, Shared, wait_of};
use crate::model::digest::to_hex;
use crate::model::id::RegionName;
use crate::net::auth::{Identity, region_key, sibling_ticket};
use crate::net::server::Json;
use crate::rules::authorize::Class;
use crate::store::db::{DbError, Topic, Tx, feed, goals, patches, tokens};
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::region::{Feed, FeedRequest, Sibling, Trust, Verifiers, Wanted};

pub(super) fn routes() -> Vec<Route> {
    vec![
        post("/v1/region/feed", Class::Region, poll)
            .says("Wait for goals, wanted artifacts and tokens that are newer than `since`")
            .takes("FeedRequest")
            .gives("Feed"),
    ]
}

async fn poll(
    State(shared): State<Shared>,
    Extension(who): Extension<Identity>,
    Json(request): Json<FeedRequest>,
) -> Result<Json<Feed>, Problem> {
    check_region(&who, &request.region)?;
    let mut since = request.since;
    let region = &request.region;
    let look = async || {
        let (within, region) = (shared.clone(), region.clone());
        shared.db.read(move |tx| read(tx, &within, &region, since)).await.map_err(Problem::from)
    };
    let found = shared.wait_for(Topic::Feed, wait_of(request.wait_ms), async || {
        let feed = look().await?;
        Ok((!is_empty(&feed)).then_some(feed))
    });
    if let Some(feed) = found.await? {
        return Ok(Json(feed));
    }
    // Nothing for this region; it need not look at others' changes again.
    let feed = look().await?;
    if is_empty(&feed) {
        since = feed.revision;
    }
    Ok(Json(if is_empty(&feed) { Feed { revision: since, ..feed } } else { feed }))
}

/// A region speaks for itself only.
pub(super) fn check_region(who: &Identity, region: &RegionName) -> Result<(), Problem> {
    if who.region.as_ref() == Some(region) {
        return Ok(());
    }
    let own = who.region.as_ref().map_or("no region", RegionName::as_str);
    Err(Problem::new(Code::Forbidden, format!("this token does not speak for {region}"))
        .because(format!("it speaks for {own}"))
        .hint(format!("use the token in <data>/tokens/region-{region}.token")))
}

fn is_empty(feed: &Feed) -> bool {
    !feed.full && feed.goals.is_empty() && feed.artifacts.is_empty() && feed.verifiers.is_none()
}

fn read(tx: &Tx, shared: &Coordinator, region: &RegionName, since: u64) -> Result<Feed, DbError> {
    let newest = feed::revision(tx)?;
    if since == 0 || since > newest {
        let wanted = |(artifact, patch)| Wanted { artifact, gone: false, patch };
        let gone = feed::gone(tx)?.into_iter();
        let gone = gone.map(|artifact| Wanted { artifact, gone: true, patch: None });
        return Ok(Feed {
            revision: newest,
            full: true,
            goals: goals::after(tx, 0)?.into_iter().map(|goal| goal.sealed).collect(),
            artifacts: feed::artifacts(tx)?.into_iter().map(wanted).chain(gone).collect(),
            verifiers: Some(verifiers(tx, shared, region)?),
            trust: Some(trust(shared)),
            siblings: Some(siblings(shared, region)),
        });
    }
    let changes = feed::after(tx, since)?;
    let revision = changes.last().map_or(since, |change| change.revision);
    let mut answer = Feed {
        revision,
        full: false,
        goals: vec![],
        artifacts: vec![],
        verifiers: None,
        trust: None,
        siblings: None,
    };
    let mut keys = BTreeSet::new();
    for change in &changes {
        match change.kind.as_str() {
            "goal" => {
                keys.insert(change.key.as_str());
            }
            "artifact" => {
                if let Ok(artifact) = change.key.parse() {
                    let gone = !feed::is_wanted(tx, &change.key)?;
                    let patch = patches::between(tx, &artifact)?;
                    answer.artifacts.push(Wanted { artifact, gone, patch });
                }
            }
            _ if change.key == region.as_str() => {
                answer.verifiers = Some(verifiers(tx, shared, region)?);
            }
            _ => {}
        }
    }
    for key in keys {
        answer.goals.extend(goals::find(tx, key)?.map(|goal| goal.sealed));
    }
    if !is_empty(&answer) {
        answer.trust = Some(trust(shared));
        answer.siblings = Some(siblings(shared, region));
    }
    Ok(answer)
}

fn verifiers(tx: &Tx, shared: &Coordinator, region: &RegionName) -> Result<Verifiers, DbError> {
    let key = to_hex(&region_key(&shared.keys.token, region));
    Ok(Verifiers { key, tokens: tokens::of_region(tx, region)? })
}

fn trust(shared: &Coordinator) -> Trust {
    Trust {
        goal_keys: shared.keys.trusted_goal.clone(),
        build_keys: shared.keys.trusted_build.clone(),
    }
}

/// Every configured region, each with the ticket that `own` shows it.
fn siblings(shared: &Coordinator, own: &RegionName) -> Vec<Sibling> {
    let sibling = |(name, config): (&RegionName, &crate::config::daemon::Region)| {
        let reachable = config.url.is_some() && name != own;
        let ticket = || sibling_ticket(&region_key(&shared.keys.token, name), own);
        Sibling {
            region: name.clone(),
            url: config.url.clone(),
            ticket: reachable.then(ticket),
            replicated_by_store: config.replicated_by == ReplicatedBy::Store,
        }
    };
    shared.config.regions.iter().map(sibling).collect()
}
