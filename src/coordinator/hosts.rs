//! Hosts that are gone for good: a person says so, and their region follows.

use axum::Extension;
use axum::extract::State;

use crate::coordinator::router::{Route, post};
use crate::coordinator::state::Shared;
use crate::model::id::{HostId, RegionName};
use crate::net::auth::Identity;
use crate::net::server::{Json, Path};
use crate::rules::authorize::Class;
use crate::store::db::events::NewEvent;
use crate::store::db::{DbError, Tx, forgotten};
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::fleet::{Forgotten, HostRow};
use crate::wire::v1::region::RegionReport;

pub(super) fn routes() -> Vec<Route> {
    vec![
        post("/v1/hosts/{host}/forget", Class::Deploy, forget)
            .says("Forget a host that is gone for good; it counts nowhere any more")
            .gives("Forgotten"),
    ]
}

async fn forget(
    State(shared): State<Shared>,
    Extension(who): Extension<Identity>,
    Path(host): Path<HostId>,
) -> Result<Json<Forgotten>, Problem> {
    let now = shared.steady_now();
    let forget = move |tx: &mut Tx| {
        let places = forgotten::places(tx, &host)?;
        if let Some((region, _)) = places.iter().find(|(_, reachable)| *reachable) {
            return Err(Problem::new(Code::Conflict, format!("{host} is alive"))
                .because(format!("{region} hears of it; stop its agent first"))
                .hint(format!("deployctl why {host}")));
        }
        let mut regions = Vec::new();
        for (region, _) in places {
            forgotten::put(tx, &region, &host, now)?;
            let message = format!("{} forgot {host} of {region}: gone for good", who.name);
            let event = NewEvent::new(now, "host.forgotten", &who.name, message);
            tx.event(&event.region(&region))?;
            regions.push(region);
        }
        Ok(Forgotten { host, regions })
    };
    Ok(Json(shared.db.write(forget).await?))
}

/// Settles what a report says of forgotten hosts; the rows that count.
pub(super) fn sift<'a>(tx: &mut Tx, report: &'a RegionReport) -> Result<Vec<&'a HostRow>, DbError> {
    let region: &RegionName = &report.region;
    let rows = report.hosts.iter().collect();
    for host in &report.forgot {
        forgotten::settled(tx, region, host)?;
    }
    let owed = forgotten::owed(tx, region)?;
    if owed.is_empty() {
        return Ok(rows);
    }
    for row in report.hosts.iter().filter(|row| row.reachable && owed.contains(&row.info.host)) {
        forgotten::settled(tx, region, &row.info.host)?;
    }
    let counts = |row: &&HostRow| row.reachable || !owed.contains(&row.info.host);
    Ok(rows.into_iter().filter(counts).collect())
}
