//! What an agent counts.

use std::sync::LazyLock;

use prometheus::{IntCounterVec, IntGaugeVec};

use crate::agent::report::Reporter;
use crate::host::clock;
use crate::model::fleet::{FailureClass, Phase, Sources};
use crate::net::metrics::{counters, gauges};

/// Every phase, with its label.
const PHASES: [(Phase, &str); 8] = [
    (Phase::Idle, "idle"),
    (Phase::Fetching, "fetching"),
    (Phase::Staged, "staged"),
    (Phase::Activating, "activating"),
    (Phase::Probing, "probing"),
    (Phase::Healthy, "healthy"),
    (Phase::Failed, "failed"),
    (Phase::Reverted, "reverted"),
];

static APPS: LazyLock<IntGaugeVec> =
    LazyLock::new(|| gauges("agent_apps", "Apps of this host, by phase.", &["phase"]));
static FAILING: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauges("agent_apps_failing", "Apps with a failure under their goal, by whose.", &["class"])
});
static RESTARTS: LazyLock<IntGaugeVec> =
    LazyLock::new(|| gauges("agent_app_restarts", "Restarts since activation, of all apps.", &[]));
static SENT: LazyLock<IntCounterVec> =
    LazyLock::new(|| counters("agent_sent_bytes_total", "Bytes of pieces sent to peers.", &[]));
static SOURCES: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "Bytes of what runs, or is being fetched, by where they came from.";
    gauges("agent_release_bytes", help, &["source"])
});
static REPORTED: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "When the region took a report last, Unix time; 0: not since the start.";
    gauges("agent_last_report_timestamp_seconds", help, &[])
});

/// A piece went to a peer.
pub(super) fn sent(bytes: u64) {
    SENT.with_label_values::<&str>(&[]).inc_by(bytes);
}

/// The region took a report.
pub(super) fn reported() {
    REPORTED.with_label_values::<&str>(&[]).set(clock::now().0 / 1000);
}

/// Reads what the apps say.
pub(super) fn refresh(reporter: &Reporter) {
    let apps = reporter.apps();
    let count = |holds: &dyn Fn(&crate::model::fleet::AppStatus) -> bool| {
        apps.iter().filter(|app| holds(app)).count() as i64
    };
    for (phase, label) in PHASES {
        APPS.with_label_values(&[label]).set(count(&|app| app.phase == phase));
    }
    let classes = [
        (FailureClass::Release, "release"),
        (FailureClass::Host, "host"),
        (FailureClass::Transport, "transport"),
    ];
    for (class, label) in classes {
        let fails = |app: &crate::model::fleet::AppStatus| {
            app.failure.as_ref().is_some_and(|failure| failure.class == class)
        };
        FAILING.with_label_values(&[label]).set(count(&fails));
    }
    let none: &[&str] = &[];
    RESTARTS.with_label_values(none).set(apps.iter().map(|app| i64::from(app.restarts)).sum());
    let mut all = Sources::default();
    apps.iter().for_each(|app| all += app.sources);
    for (label, bytes) in [("peer", all.peer), ("store", all.store), ("local", all.local)] {
        SOURCES.with_label_values(&[label]).set(bytes as i64);
    }
    SENT.with_label_values(none);
    REPORTED.with_label_values(none);
}
