//! Hosts as rows of a table.

use super::output::Tone;
use super::table::{Cell, Table};
use crate::host::clock;
use crate::model::fleet::AppStatus;
use crate::model::goal::Target;
use crate::wire::v1::fleet::HostRow;
use crate::wire::words::{phase_tone, phase_word};

/// An empty table of hosts.
#[must_use]
pub fn new_table(empty: &str) -> Table {
    let columns = [
        "HOST",
        "REGION",
        "APP",
        "ENV",
        "RUNS",
        "SHOULD RUN",
        "PHASE",
        "SEEN",
        "REASON",
        "PEER",
        "STORE",
        "LOCAL",
        "ADDRESS",
        "AGENT",
    ];
    Table::new(&columns, 9, empty)
}

/// The row of one app on one host; `None`: a host that runs nothing.
#[must_use]
pub fn cells(row: &HostRow, status: Option<&AppStatus>) -> Vec<Cell> {
    let none = || Cell::maybe(None::<&str>);
    let phase = match status {
        _ if !row.reachable => Cell::state("unreachable", Tone::Look),
        Some(status) => Cell::state(phase_word(status.phase), phase_tone(status.phase)),
        None => Cell::state("idle", Tone::Dim),
    };
    let runs = |target: Option<Target>| Cell::maybe(target.map(|t| t.release));
    vec![
        row.info.host.as_str().into(),
        row.region.as_str().into(),
        status.map_or_else(none, |status| status.app.as_str().into()),
        row.info.env.as_str().into(),
        status.map_or_else(none, |status| runs(status.running)),
        status.map_or_else(none, |status| runs(status.desired)),
        phase,
        Cell::time(Some(row.seen_at), clock::now()),
        Cell::maybe(status.and_then(|status| Some(&status.failure.as_ref()?.reason))),
        status.map_or_else(none, |status| Cell::bytes(status.sources.peer)),
        status.map_or_else(none, |status| Cell::bytes(status.sources.store)),
        status.map_or_else(none, |status| Cell::bytes(status.sources.local)),
        row.address.as_str().into(),
        row.info.agent_version.as_str().into(),
    ]
}
