//! What the demo ends with: what each host runs, and where each byte came from.

use std::time::Duration;

use serde::Serialize;

use crate::cli::demo::fleet::Fleet;
use crate::cli::demo::script::Step;
use crate::cli::output::Tone;
use crate::cli::table::{Cell, Table};
use crate::model::fleet::{Phase, Sources};
use crate::net::client::{CallError, Client};
use crate::wire::v1::fleet::{HostRow, Hosts};
use crate::wire::v1::rollout::Releases;

/// How long the coordinator may take to answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// The demo's one document.
#[derive(Debug, Serialize)]
pub(crate) struct Facts {
    /// The coordinator's address.
    pub(crate) server: String,
    /// The folder of everything; gone unless kept.
    pub(crate) folder: String,
    /// Wall time of all steps after the first build, seconds.
    pub(crate) seconds_after_build: f64,
    /// What was typed and how it ended.
    pub(crate) steps: Vec<Step>,
    /// What each host runs.
    pub(crate) hosts: Vec<HostRow>,
    /// The history, newest first.
    pub(crate) releases: Releases,
    /// Bytes of what runs now, by where they came from, over all hosts.
    pub(crate) bytes: Sources,
}

impl Facts {
    /// Asks the coordinator of `fleet` about `app`.
    pub(crate) async fn gather(
        fleet: &Fleet,
        app: &str,
        steps: Vec<Step>,
    ) -> Result<Self, CallError> {
        let token = std::fs::read_to_string(fleet.token("admin")).unwrap_or_default();
        let client = Client::new(&fleet.server, Some(token.trim().to_owned()));
        let hosts: Hosts =
            client.get(&format!("/v1/hosts?app={app}&env=prod"), CALL_TIMEOUT).await?;
        let releases =
            client.get(&format!("/v1/apps/{app}/envs/prod/releases"), CALL_TIMEOUT).await?;
        let mut bytes = Sources::default();
        for status in hosts.hosts.iter().flat_map(|host| &host.apps) {
            bytes += status.sources;
        }
        let first_build =
            steps.iter().position(|step| step.command.contains(" build")).map_or(0, |at| at + 1);
        let seconds: f64 = steps[first_build..].iter().map(|step| step.seconds).sum();
        Ok(Self {
            server: fleet.server.clone(),
            folder: fleet.folder.display().to_string(),
            seconds_after_build: (seconds * 10.0).round() / 10.0,
            steps,
            hosts: hosts.hosts,
            releases,
            bytes,
        })
    }

    /// Two lines for a person.
    pub(crate) fn closing_words(&self) -> String {
        let all = self.bytes.peer + self.bytes.store + self.bytes.local;
        let share = |part: u64| (part * 100).checked_div(all).unwrap_or(0);
        format!(
            "what runs now came {} % from peers and {} % from the regional stores when it was first deployed; {} % was there; \
             the rollback moved nothing\nall steps after the build: {} s",
            share(self.bytes.peer),
            share(self.bytes.store),
            share(self.bytes.local),
            self.seconds_after_build
        )
    }

    /// One row per host.
    pub(crate) fn table(&self) -> Table {
        let columns = [
            "HOST",
            "REGION",
            "RUNS",
            "COMMIT",
            "STATE",
            "FROM PEERS",
            "FROM STORE",
            "FROM OWN DISK",
        ];
        let mut table = Table::new(&columns, columns.len(), "no hosts");
        for host in &self.hosts {
            for status in &host.apps {
                let runs = status.running.map(|target| target.release);
                let release = self.releases.releases.iter().find(|r| Some(r.release) == runs);
                let healthy =
                    if status.phase == Phase::Healthy { Tone::Good } else { Tone::Moving };
                table.push([
                    Cell::from(host.info.host.to_string()),
                    Cell::from(host.region.to_string()),
                    Cell::maybe(runs),
                    Cell::maybe(release.map(|r| r.commit.short().to_owned())),
                    Cell::state(&format!("{:?}", status.phase).to_lowercase(), healthy),
                    Cell::bytes(status.sources.peer),
                    Cell::bytes(status.sources.store),
                    Cell::bytes(status.sources.local),
                ]);
            }
        }
        table
    }
}
