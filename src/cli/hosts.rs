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
        "LABELS",
    ];
    Table::new(&columns, 9, empty)
}

/// The column `REASON`: what is behind it goes before it where there is no room.
const REASON_AT: usize = 8;

/// Shows people the labels, where hosts say any: what went wrong with one needs its room first.
pub fn show_labels(table: &mut Table, rows: &[HostRow]) {
    let failed = |row: &HostRow| row.apps.iter().any(|status| status.failure.is_some());
    if rows.iter().any(|row| !labels(row).is_empty()) {
        table.show("LABELS", REASON_AT + usize::from(rows.iter().any(failed)));
    }
}

/// What a host says of itself and of its place, as `--hosts` takes it.
fn labels(row: &HostRow) -> String {
    let place = [("rack", &row.info.rack), ("zone", &row.info.zone)];
    let place = place
        .into_iter()
        .filter(|(key, value)| !value.is_empty() && !row.info.labels.contains_key(*key));
    let own = row.info.labels.iter().map(|(key, value)| (key.as_str(), value));
    own.chain(place).map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
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
        Cell::maybe(Some(labels(row)).filter(|labels| !labels.is_empty())),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::table::Mode;

    fn table(failed: bool) -> String {
        let target = serde_json::json!({"release": "r12", "artifact": "07".repeat(32)});
        let failure = serde_json::json!({"class": "release", "reason": "exited 101", "log": []});
        let status = serde_json::json!({"app": "hello", "env": "prod",
            "version": {"epoch": 1, "generation": 7, "step": 2}, "running": target,
            "desired": target, "phase": "reverted", "held": [], "pieces": [0, 0],
            "sources": {"peer": 0, "store": 0, "local": 0}, "restarts": 0,
            "failure": failed.then_some(failure)});
        let row = |status: serde_json::Value| -> HostRow {
            serde_json::from_value(serde_json::json!({"info": {"host": "web-1", "env": "prod",
                "labels": {"role": "web"}, "rack": "14", "zone": "a", "peer_port": 1,
                "agent_version": "1"}, "region": "eu", "address": "", "reachable": true,
                "seen_at": clock::now(), "apps": [status]}))
            .unwrap()
        };
        let rows = [row(status)];
        let mut table = new_table("");
        show_labels(&mut table, &rows);
        for row in &rows {
            table.push(cells(row, row.apps.first()));
        }
        table.render(Mode::Aligned { wide: false, width: 80, color: false, unicode: true })
    }

    #[test]
    fn a_reason_comes_before_labels_where_there_is_room_for_one() {
        let failed = table(true);
        assert!(failed.contains("exited 101") && !failed.contains("LABELS"), "{failed}");
        let well = table(false);
        assert!(well.contains("role=web") && !well.contains("REASON"), "{well}");
    }
}
