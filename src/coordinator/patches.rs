//! `POST /v1/worker/patches`: what became of a patch between two builds.
//!
//! A patch is replicated like any other artifact, but nothing waits for it: no
//! build's replication status and no rollout ever looks at it.

use axum::extract::State;

use crate::coordinator::router::{Route, post};
use crate::coordinator::state::Shared;
use crate::coordinator::{artifact, collector};
use crate::net::server::Json;
use crate::rules::authorize::Class;
use crate::rules::patch;
use crate::store::db::artifacts::ArtifactRow;
use crate::store::db::collected::{self, Taken};
use crate::store::db::events::NewEvent;
use crate::store::db::{Tx, artifacts, patches};
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::patch::{Between, PatchOutcome, PatchReport};

/// Longest reason that is kept, bytes.
const REASON_BYTES_MAX: usize = 200;

pub(super) fn routes() -> Vec<Route> {
    vec![
        post("/v1/worker/patches", Class::Worker, put)
            .says("Tell what became of a patch between two artifacts; the same again is no error")
            .takes("PatchReport"),
    ]
}

async fn put(
    State(shared): State<Shared>,
    Json(mut report): Json<PatchReport>,
) -> Result<Json<()>, Problem> {
    let between = report.between;
    if let PatchOutcome::None { reason } = &mut report.outcome {
        let line = crate::rules::log::plain("", reason.lines().next().unwrap_or_default()).0;
        *reason = line[..line.floor_char_boundary(REASON_BYTES_MAX)].to_owned();
    }
    let look = move |tx: &Tx| Ok::<_, Problem>((pair(tx, between)?, patches::find(tx, between)?));
    let ((from, to), known) = shared.db.read(look).await?;
    let known = known.map(|row| row.outcome);
    if matches!(known, Some(PatchOutcome::Made { .. })) || known.as_ref() == Some(&report.outcome) {
        return Ok(Json(()));
    }
    let made = match &report.outcome {
        PatchOutcome::Made { patch, .. } => Some(check(&shared, *patch, between, &to).await?),
        PatchOutcome::Making | PatchOutcome::None { .. } => None,
    };
    let (now, outcome) = (shared.steady_now(), report.outcome);
    let regions: Vec<_> = shared.config.regions.keys().cloned().collect();
    let write = move |tx: &mut Tx| {
        if let Some(made) = &made {
            if collected::find(tx, &made.artifact)? == Some(Taken::Given) {
                return Err(artifact::refuse(collector::USED_UP));
            }
            artifacts::insert(tx, made, &regions, now)?;
        }
        if patches::put(tx, between, &outcome, now)?
            && let Some(made) = &made
        {
            let (from, to, app) = (from.job, to.job, &made.app);
            let message = format!(
                "a patch of {} KiB brings hosts from {from} to {to} of {app}",
                made.wire_size.div_ceil(1024)
            );
            tx.event(&NewEvent::new(now, "patch.made", "deployctl", message).app(app).build(to))?;
        }
        Ok::<_, Problem>(())
    };
    shared.db.write(write).await.map(Json)
}

/// The two artifacts, which must be builds of one app.
fn pair(tx: &Tx, between: Between) -> Result<(ArtifactRow, ArtifactRow), Problem> {
    let find = |artifact| {
        let unknown = || Problem::new(Code::NotFound, format!("there is no artifact {artifact}"));
        artifacts::find(tx, artifact)?.ok_or_else(unknown)
    };
    let (from, to) = (find(between.from)?, find(between.to)?);
    if from.app != to.app || between.from == between.to {
        return Err(Problem::new(Code::Usage, "a patch is between two artifacts of one app"));
    }
    Ok((from, to))
}

/// Looks for the patch in the main store, and whether its manifest says the same.
async fn check(
    shared: &Shared,
    patch: crate::model::digest::ArtifactId,
    between: Between,
    to: &ArtifactRow,
) -> Result<ArtifactRow, Problem> {
    let seen = artifact::look(shared, patch).await?;
    patch::check(&seen.manifest, &to.app, (between.from, between.to)).map_err(artifact::refuse)?;
    Ok(seen.row(patch, to.job))
}
