//! `deployctl admin reconcile`: what is known against what the stores hold, now.

use clap::Args;
use reqwest::Method;

use crate::cli::api::Api;
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::table::{Cell, Table, count};
use crate::wire::v1::reconcile::{ReconcileRequest, Reconciled, ReconciledStore};

/// Compare every store with what is known, now
///
/// The coordinator does this each minute by itself. What a region lost it fetches again; what the
/// main store lost must be built again. Exit code 8 when a store lacks something, 5 when one
/// could not be looked at.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl admin reconcile\n  deployctl admin reconcile -o json"
)]
pub(super) struct ReconcileArgs {}

pub(super) async fn run(ctx: &Context, _: ReconcileArgs) -> Result<ExitCode, Failure> {
    let api = Api::new(ctx)?;
    let done: Reconciled = api.change(Method::POST, "/v1/reconcile", &ReconcileRequest {}).await?;
    let code = code(&done);
    let document = serde_json::to_value(&done).unwrap_or_default();
    ctx.out.outcome(document, code, &table(&done));
    for store in &done.stores {
        tell(ctx, store);
    }
    Ok(code)
}

fn code(done: &Reconciled) -> ExitCode {
    if done.stores.iter().any(|store| !store.error.is_empty()) {
        ExitCode::Unreachable
    } else if done.stores.iter().any(|store| store.lacks + store.lost > 0) {
        ExitCode::NotDeployable
    } else {
        ExitCode::Ok
    }
}

fn name(store: &ReconciledStore) -> &str {
    store.region.as_ref().map_or("main", |region| region.as_str())
}

fn table(done: &Reconciled) -> Table {
    let columns = ["STORE", "HOLDS", "LACKS", "LOST", "EXTRA", "EXTRA SIZE"];
    let mut table = Table::new(&columns, columns.len(), "there is no store");
    for store in &done.stores {
        table.push([
            name(store).into(),
            store.holds.to_string().into(),
            store.lacks.to_string().into(),
            store.lost.to_string().into(),
            store.extra.to_string().into(),
            Cell::bytes(store.extra_bytes),
        ]);
    }
    table
}

fn tell(ctx: &Context, store: &ReconciledStore) {
    let (name, lost) = (name(store), count(store.lost, "artifact"));
    if !store.error.is_empty() {
        ctx.out.warning(&format!("{name}: {}", store.error));
    } else if store.lost > 0 && store.region.is_none() {
        ctx.out.warning(&format!("{name} lost {lost}: they must be built again"));
    } else if store.lost > 0 {
        ctx.out.story(&format!("{name} lost {lost}, and fetches them again"));
    }
}
