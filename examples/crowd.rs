//! Many hosts of one region in one process, as the region sees them: each polls for
//! goals and reports as an agent does, and runs what it should at once. The load of
//! `bench/agents`.
//!
//! ```text
//! crowd REGION-URL TOKEN-FILE HOSTS [ENV]
//! ```
//!
//! Prints `all H hosts at revision R at UNIX-MS` when every host has a revision, and
//! `back HOST APP: …` when a host is told a goal that is older than what it has.

use std::collections::HashMap;
use std::error::Error;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use deployctl::agent::link::{Link, backoff};
use deployctl::agent::report::Reporter;
use deployctl::host::clock;
use deployctl::model::fleet::{AppStatus, Phase, Sources};
use deployctl::model::goal::{Goal, HostView};
use deployctl::model::id::{EnvName, RegionName};
use deployctl::model::rng::Rng;
use deployctl::net::auth::read_token;
use deployctl::net::client::CallError;
use deployctl::wire::v1::fleet::{HostInfo, PollReply, PollRequest, Report, ReportReply};

/// What the region may take beyond the wait it was asked for.
const ROOM: Duration = Duration::from_secs(30);
/// Hosts begin within this time, as after a restart of all.
const START_MS: u64 = 10_000;
/// Hosts of one rack.
const RACK: u64 = 40;

/// How many hosts have which goals, by what the region calls them.
#[derive(Default)]
struct Arrivals(Mutex<HashMap<u64, u64>>);

impl Arrivals {
    fn arrived(&self, revision: u64, all: u64) {
        let mut hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let hosts = hosts.entry(revision).or_default();
        *hosts += 1;
        if *hosts == all {
            println!("all {all} hosts at revision {revision} at {}", clock::now().0);
        }
    }
}

struct Host {
    info: HostInfo,
    link: Link,
    reporter: Reporter,
    arrivals: Arc<Arrivals>,
    all: u64,
}

impl Host {
    async fn run(self, mut rng: Rng) {
        tokio::time::sleep(Duration::from_millis(rng.below(START_MS))).await;
        let mut backoff = backoff();
        let mut since = 0;
        loop {
            match self.turn(since, &mut rng).await {
                Ok(revision) => {
                    backoff.succeeded();
                    if revision != since {
                        self.arrivals.arrived(revision, self.all);
                    }
                    since = revision;
                }
                Err(_) => tokio::time::sleep(backoff.failed()).await,
            }
        }
    }

    /// One poll, and a report if there is something to say.
    async fn turn(&self, since: u64, rng: &mut Rng) -> Result<u64, CallError> {
        let wait_ms = self.reporter.poll_ms(rng);
        let said = self.reporter.said();
        let request = PollRequest { info: self.info.clone(), since, wait_ms, said };
        let limit = Duration::from_millis(wait_ms) + ROOM;
        let reply: PollReply = self.link.client().post("/v1/agent/poll", &request, limit).await?;
        self.reporter.set_pace(reply.report_ms);
        for sealed in reply.goals.iter().flatten() {
            if let Ok(goal) = serde_json::from_str(&sealed.payload) {
                self.follow(&goal, &reply.region);
            }
        }
        if reply.report || self.reporter.said() != said {
            let (apps, said) = (self.reporter.apps(), self.reporter.said());
            let report = Report { info: self.info.clone(), apps, said };
            let _: ReportReply = self.link.client().post("/v1/agent/report", &report, ROOM).await?;
        }
        Ok(reply.revision)
    }

    fn follow(&self, goal: &Goal, region: &RegionName) {
        let (host, labels) = (&self.info.host, &self.info.labels);
        let before = self.reporter.apps().into_iter().find(|status| status.app == goal.app);
        if let Some(before) = &before
            && goal.version < before.version
        {
            let (then, now) = (before.version, goal.version);
            return println!("back {host} {}: from {then:?} to {now:?}", goal.app);
        }
        let running = before.and_then(|status| status.running);
        let running = running.map(|target| target.bits());
        let desired = goal.desired(&HostView { host, region, labels, running });
        self.reporter.set(AppStatus {
            app: goal.app.clone(),
            env: goal.env.clone(),
            version: goal.version,
            running: desired,
            desired,
            phase: if desired.is_some() { Phase::Healthy } else { Phase::Staged },
            held: vec![goal.next.artifact],
            pieces: (1, 1),
            sources: Sources::default(),
            failure: None,
            restarts: 0,
            events: None,
        });
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, token_file, hosts, rest @ ..] = &arguments[..] else {
        return Err("usage: crowd REGION-URL TOKEN-FILE HOSTS [ENV]".into());
    };
    let all: u64 = hosts.parse()?;
    let env: EnvName = rest.first().map_or("prod", String::as_str).parse()?;
    let link = Link::new(url, &read_token(Path::new(token_file))?)?;
    let arrivals = Arc::new(Arrivals::default());
    for number in 0..all {
        let info = HostInfo {
            host: format!("crowd-{number:06}").parse()?,
            env: env.clone(),
            labels: Default::default(),
            rack: format!("rack-{}", number / RACK),
            zone: String::new(),
            peer_port: 1,
            agent_version: env!("CARGO_PKG_VERSION").into(),
        };
        let (link, arrivals) = (link.clone(), arrivals.clone());
        let host = Host { info, link, reporter: Reporter::default(), arrivals, all };
        tokio::spawn(host.run(Rng::new(number + 1)));
    }
    tokio::signal::ctrl_c().await?;
    Ok(())
}
