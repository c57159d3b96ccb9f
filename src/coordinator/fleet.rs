//! What regions report, and what people see of it: hosts and regions.

use std::collections::BTreeMap;

use axum::Extension;
use axum::extract::State;
use serde::Deserialize;

use crate::coordinator::feed::check_region;
use crate::coordinator::router::{Route, get, post};
use crate::coordinator::state::Shared;
use crate::coordinator::{apps, curves, facts, hosts as gone, reached};
use crate::model::id::{AppName, EnvName, RegionName};
use crate::model::time::UnixMillis;
use crate::net::auth::Identity;
use crate::net::server::{Json, Params};
use crate::rules::authorize::Class;
use crate::store::db::regions::RegionRow;
use crate::store::db::{
    DbError, Topic, Tx, coordinators, envs, feed, forgotten, hosts, regions, releases, replicas,
    tallies,
};
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::fleet::{HostRow, Hosts, Region, Regions};
use crate::wire::v1::region::{Compared, RegionReport, RegionReportReply};

/// Most hosts of one report.
const HOSTS_MAX: usize = 2_000;
/// Most counts of one report: apps times envs.
const TALLIES_MAX: usize = 20_000;
/// Most replicas of one report.
const REPLICAS_MAX: usize = 10_000;
/// Longest address of a region's process, bytes.
const PROCESS_BYTES_MAX: usize = 256;
/// By how much a region's word can move the generations.
const GENERATIONS_AHEAD_MAX: u64 = 1_000_000;
/// Most apps and envs whose hosts a region is asked to compare.
const COMPARED_MAX: usize = 1_000;
/// Default and largest page of hosts.
const LIMIT: (u32, u32) = (1_000, 20_000);
/// Longest prefix of a host's id, bytes.
const PREFIX_BYTES_MAX: usize = 128;

/// Deploys that admit hosts or are paused; see [`releases::under_way`].
type UnderWay = BTreeMap<(AppName, EnvName), bool>;

pub(super) fn routes() -> Vec<Route> {
    vec![
        post("/v1/region/report", Class::Region, report)
            .says("Report counts, changed hosts and copies of artifacts")
            .takes("RegionReport")
            .gives("RegionReportReply"),
        get("/v1/hosts", Class::Read, list_hosts)
            .says("List hosts by region and id")
            .gives("Hosts"),
        get("/v1/regions", Class::Read, list_regions).says("List regions").gives("Regions"),
    ]
}

async fn report(
    State(shared): State<Shared>,
    Extension(who): Extension<Identity>,
    Json(report): Json<RegionReport>,
) -> Result<Json<RegionReportReply>, Problem> {
    check_region(&who, &report.region)?;
    check_bounds(&report)?;
    let now = shared.steady_now();
    let take = move |tx: &mut Tx| {
        let region = &report.region;
        let teller = regions::teller(tx, &report, now)?;
        let under_way = releases::under_way(tx)?;
        // Processes of a region all know its hosts: only one of them is believed.
        let is_believed = teller == report.process;
        let mut news = is_believed && take_hosts(tx, &report, &under_way, now)?;
        for replica in &report.replicas {
            news |= replicas::claim(tx, region, replica, now)?;
        }
        if news {
            tx.touch(Topic::Rollouts);
        }
        Ok::<_, DbError>(RegionReportReply {
            heal: replicas::lost(tx, region)?,
            forget: forgotten::owed(tx, region)?,
            teller: (!teller.is_empty()).then_some(teller),
            compare: compared(under_way),
        })
    };
    Ok(Json(shared.db.write(take).await?))
}

/// What a region compares hosts of, with a new release and without it.
fn compared(under_way: UnderWay) -> Vec<Compared> {
    let all = under_way.into_keys().take(COMPARED_MAX);
    all.map(|(app, env)| Compared { app, env }).collect()
}

/// Takes what a region says of its hosts; says whether anything is new. A bake ends on counts
/// that were told lately: those that a rollout is judged on are noted also when they are as
/// before.
fn take_hosts(
    tx: &mut Tx,
    report: &RegionReport,
    under_way: &UnderWay,
    now: UnixMillis,
) -> Result<bool, DbError> {
    let region = &report.region;
    regions::put(tx, report, now)?;
    let mut news = !report.hosts.is_empty();
    for counts in &report.tallies {
        if tallies::put(tx, region, counts, now)? {
            curves::sample(tx, (&counts.app, &counts.env), now)?;
            news = true;
        } else if under_way.get(&(counts.app.clone(), counts.env.clone())) == Some(&true) {
            tallies::repeat(tx, region, (&counts.app, &counts.env), now)?;
        }
    }
    follow_by_hand(tx, report)?;
    for row in gone::sift(tx, report)? {
        let row = HostRow { region: region.clone(), ..row.clone() };
        hosts::put(tx, region, &row)?;
    }
    Ok(news)
}

/// A goal that was put into a region by hand is ahead of what this coordinator knows:
/// its next one must be newer still, or no region would take it.
fn follow_by_hand(tx: &mut Tx, report: &RegionReport) -> Result<(), DbError> {
    let Some(seen) = report.tallies.iter().map(|counts| counts.tally.version).max() else {
        return Ok(());
    };
    let fresh = envs::fresh(tx)?;
    let ahead = seen.epoch == fresh.epoch
        && (fresh.generation..fresh.generation.saturating_add(GENERATIONS_AHEAD_MAX))
            .contains(&seen.generation);
    if ahead { envs::raise(tx, seen) } else { Ok(()) }
}

fn check_bounds(report: &RegionReport) -> Result<(), Problem> {
    let counts = [
        ("hosts", report.hosts.len(), HOSTS_MAX),
        ("tallies", report.tallies.len(), TALLIES_MAX),
        ("replicas", report.replicas.len(), REPLICAS_MAX),
        ("forgot", report.forgot.len(), HOSTS_MAX),
        ("bytes of the process's name", report.process.len(), PROCESS_BYTES_MAX),
    ];
    match counts.into_iter().find(|(_, count, most)| count > most) {
        Some((what, count, most)) => Err(Problem::new(Code::TooLarge, "the report is too large")
            .because(format!("{count} {what}, at most {most}"))),
        None => Ok(()),
    }
}

#[derive(Deserialize)]
struct Query {
    app: Option<AppName>,
    env: Option<EnvName>,
    region: Option<RegionName>,
    host: Option<String>,
    limit: Option<u32>,
}

async fn list_hosts(
    State(shared): State<Shared>,
    Params(query): Params<Query>,
) -> Result<Json<Hosts>, Problem> {
    let Query { app, env, region, host, limit } = query;
    if host.as_ref().is_some_and(|host| host.len() > PREFIX_BYTES_MAX) {
        return Err(Problem::new(Code::Usage, "host: at most 128 bytes"));
    }
    let limit = limit.unwrap_or(LIMIT.0).clamp(1, LIMIT.1);
    let filter = hosts::Filter { app, env, region, host };
    let within = shared.clone();
    let list = move |tx: &Tx| {
        if let Some(app) = &filter.app {
            apps::known(tx, app, None)?;
        }
        if let Some(region) = &filter.region {
            let known = facts::region_names(tx, &within)?;
            reached::check_known(&known, std::iter::once(region))?;
        }
        let (hosts, total) = hosts::list(tx, &filter, limit)?;
        Ok::<_, Problem>(Hosts { hosts, total })
    };
    shared.db.read(list).await.map(Json)
}

async fn list_regions(State(shared): State<Shared>) -> Result<Json<Regions>, Problem> {
    let within = shared.clone();
    let list = move |tx: &Tx| {
        let heard: BTreeMap<RegionName, RegionRow> =
            regions::list(tx)?.into_iter().map(|row| (row.region.clone(), row)).collect();
        let wanted = feed::artifacts(tx)?.len() as u64;
        let mut all = Vec::new();
        for name in facts::region_names(tx, &within)? {
            let row = heard.get(&name);
            let artifacts = replicas::complete(tx, &name)?;
            all.push(Region {
                blobs: within.config.regions.get(&name).map_or("", |r| &r.blobs).to_owned(),
                seen_at: row.map(|row| row.seen_at),
                hosts: row.map_or(0, |row| row.hosts),
                unreachable: row.map_or(0, |row| row.unreachable),
                artifacts,
                owed: wanted.saturating_sub(artifacts),
                goals_revision: row.map_or(0, |row| row.revision),
                store_trouble: within.store_trouble(Some(&name)),
                store_checked_at: coordinators::last_round(tx, &name)?,
                region: name,
            });
        }
        Ok::<_, DbError>(Regions {
            regions: all,
            main_store_trouble: within.store_trouble(None),
            main_store_not_owned: within.store_owner.trouble(),
            main_store_grant: within.store_owner.grant(),
            main_store_anothers: within.store_owner.is_anothers(),
            clock_doubted: within.clock_doubt.why(),
        })
    };
    Ok(Json(shared.db.read(list).await?))
}
