//! Reports to the region: at once on a change, and when it asks for one.
//!
//! Changes that come close together travel together; progress alone is told once a
//! second. Where nothing changes the poll for goals is the sign of life, and says by a
//! number what this host would report: a region that was told something else, or that
//! lost it, asks. So a host at rest holds one connection. The same document lies at `<root>/report.json` for `deployctl-agent status`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::agent::link::{Link, backoff};
use crate::agent::metrics;
use crate::host::fs;
use crate::model::fleet::AppStatus;
use crate::model::id::AppName;
use crate::model::rng::Rng;
use crate::wire::v1::fleet::{HostInfo, Report, ReportReply};

/// Shortest time between two reports.
const COALESCE: Duration = Duration::from_millis(200);
/// Shortest time before progress alone is reported.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// And the part of the pace: in a region with many hosts progress must not be a flood.
const PROGRESS_PART: u32 = 3;
/// Pace until the region says its own, milliseconds.
const REPORT_MS: u64 = 10_000;
/// Bounds of the pace, milliseconds: neither a flood nor a silence.
const REPORT_MS_BOUNDS: (u64, u64) = (200, 600_000);
/// How long the region may take to answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Most apps of one report [wire: `Report::apps`].
const APPS_MAX: usize = 256;

/// Collects what the apps say of themselves.
pub struct Reporter {
    apps: Mutex<BTreeMap<AppName, AppStatus>>,
    changed: Notify,
    progressed: Notify,
    report_ms: AtomicU64,
}

impl Default for Reporter {
    fn default() -> Self {
        Self {
            apps: Mutex::default(),
            changed: Notify::new(),
            progressed: Notify::new(),
            report_ms: AtomicU64::new(REPORT_MS),
        }
    }
}

impl Reporter {
    /// Takes an app's status; wakes the sender when it differs from the last.
    pub fn set(&self, status: AppStatus) {
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        let before = apps.insert(status.app.clone(), status.clone());
        let Some(before) = before else { return self.changed.notify_one() };
        if before == status {
            return;
        }
        if before.without_progress() == status.without_progress() {
            self.progressed.notify_one();
        } else {
            self.changed.notify_one();
        }
    }

    /// Takes the region's pace, milliseconds.
    pub fn set_pace(&self, report_ms: u64) {
        let pace = report_ms.clamp(REPORT_MS_BOUNDS.0, REPORT_MS_BOUNDS.1);
        self.report_ms.store(pace, Ordering::Relaxed);
    }

    /// How long a poll may last so that the host is heard of at the region's pace,
    /// milliseconds; a fifth around it, so that hosts that began together drift apart.
    pub fn poll_ms(&self, rng: &mut Rng) -> u64 {
        let pace = self.report_ms.load(Ordering::Relaxed);
        pace * 4 / 5 + rng.below(pace * 2 / 5 + 1)
    }

    /// The longest wait between calls to a region that fail: two paces. So a region that was
    /// away hears of all its hosts soon, and as a pace is a millisecond for each host, of some
    /// 1,000 hosts a second whatever its size.
    #[must_use]
    pub fn wait_max(&self) -> Duration {
        Duration::from_millis(self.report_ms.load(Ordering::Relaxed) * 2)
    }

    /// The region does not have what this host says: report it again.
    pub fn again(&self) {
        self.changed.notify_one();
    }

    /// A number that stands for [`Reporter::apps`], progress apart: never 0, equal for
    /// equal ones.
    #[must_use]
    pub fn said(&self) -> u64 {
        said(&self.apps())
    }

    /// Every app's status, by name.
    #[must_use]
    pub fn apps(&self) -> Vec<AppStatus> {
        let apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        apps.values().take(APPS_MAX).cloned().collect()
    }

    /// Waits until the next report is due.
    async fn due(&self, last: Instant) {
        let pace = Duration::from_millis(self.report_ms.load(Ordering::Relaxed));
        let progress = async {
            self.progressed.notified().await;
            tokio::time::sleep_until(last + PROGRESS_EVERY.max(pace / PROGRESS_PART)).await;
        };
        tokio::select! {
            () = self.changed.notified() => tokio::time::sleep_until(last + COALESCE).await,
            () = progress => {}
        }
    }
}

fn said(apps: &[AppStatus]) -> u64 {
    let still: Vec<AppStatus> = apps.iter().map(AppStatus::without_progress).collect();
    let text = serde_json::to_vec(&still).expect("a status is plain JSON");
    let digest = blake3::hash(&text);
    let (first, _) = digest.as_bytes().split_at(8);
    u64::from_le_bytes(first.try_into().expect("8 bytes")).max(1)
}

/// Where reports go.
pub struct Sender {
    /// The region.
    pub link: Link,
    /// Who reports.
    pub info: HostInfo,
    /// The agent's root.
    pub root: PathBuf,
}

impl Sender {
    /// Reports for ever.
    pub async fn run(self, reporter: &Reporter) {
        let mut backoff = backoff();
        loop {
            let sent_at = Instant::now();
            let apps = reporter.apps();
            let report = Report { info: self.info.clone(), said: said(&apps), apps };
            if let Err(e) = fs::write_json_volatile(&self.root.join("report.json"), &report) {
                tracing::warn!(error = %e, "the report could not be written to disk");
            }
            match self.send(&report).await {
                Ok(reply) => {
                    backoff.succeeded();
                    metrics::reported();
                    reporter.set_pace(reply.report_ms);
                    reporter.due(sent_at).await;
                }
                Err(e) => {
                    let wait = backoff.failed_within(reporter.wait_max());
                    tracing::warn!(error = %e, wait_ms = wait.as_millis() as u64, "report failed");
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    async fn send(&self, report: &Report) -> Result<ReportReply, crate::net::client::CallError> {
        let client = self.link.client();
        let sent = client.post("/v1/agent/report", report, CALL_TIMEOUT).await;
        sent.inspect_err(|_| self.link.failed(&client))
    }
}
