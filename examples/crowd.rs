//! Many hosts of one region in one process, as the region sees them: each polls for
//! goals and reports as an agent does, and runs what it should at once. The load of
//! `bench/agents`.
//!
//! ```text
//! crowd REGION-URL TOKEN-FILE HOSTS [FIRST]
//! ```
//!
//! Hosts have the numbers from FIRST (0) on. Where the region has several processes each host
//! calls its own, as agents do. Prints `all H hosts at APP GOAL at UNIX-MS` when every host
//! has a goal, and `back HOST APP: …` when one is told a goal that is older than what it has.

use std::collections::HashMap;
use std::error::Error;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use deployctl::agent::link::backoff;
use deployctl::agent::report::Reporter;
use deployctl::host::clock;
use deployctl::model::fleet::{AppStatus, Phase, Sources};
use deployctl::model::goal::{Goal, GoalVersion, HostView};
use deployctl::model::id::{AppName, EnvName, RegionName};
use deployctl::model::rng::Rng;
use deployctl::net::auth::read_token;
use deployctl::net::client::{CallError, Client};
use deployctl::rules::rendezvous;
use deployctl::wire::v1::fleet::{HostInfo, PollReply, PollRequest, Report, ReportReply};

/// What the region may take beyond the wait it was asked for.
const ROOM: Duration = Duration::from_secs(30);
/// Hosts begin within this time, as after a restart of all.
const START_MS: u64 = 10_000;
/// Hosts of one rack.
const RACK: u64 = 40;

/// A connection beside the poll's is closed after it, as agents do.
const IDLE: Duration = Duration::from_secs(2);

/// How many hosts have which goals.
#[derive(Default)]
struct Arrivals(Mutex<HashMap<(AppName, GoalVersion), u64>>);

impl Arrivals {
    fn arrived(&self, goal: &Goal, all: u64) {
        let mut hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let hosts = hosts.entry((goal.app.clone(), goal.version)).or_default();
        *hosts += 1;
        if *hosts == all {
            let GoalVersion { epoch, generation, step } = goal.version;
            let goal = format!("{} {epoch}.{generation}.{step}", goal.app);
            println!("all {all} hosts at {goal} at {}", clock::now().0);
        }
    }
}

/// A client for each process of the region, shared by all hosts.
struct Clients {
    token: String,
    known: Mutex<HashMap<String, Client>>,
}

impl Clients {
    fn of(&self, url: &str) -> Client {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let client = || Client::sparing(url, Some(self.token.clone()), IDLE);
        known.entry(url.to_owned()).or_insert_with(client).clone()
    }
}

/// Which process a host calls.
struct Way {
    clients: Arc<Clients>,
    /// As the region told it.
    told: Vec<String>,
    /// The host's own order of it.
    order: Vec<String>,
    at: usize,
}

impl Way {
    fn client(&self) -> Client {
        self.clients.of(&self.order[self.at])
    }

    fn failed(&mut self) {
        self.at = (self.at + 1) % self.order.len();
    }

    fn told(&mut self, processes: &[String], host: &str) {
        if !processes.is_empty() && processes != self.told {
            let names = processes.iter().map(String::as_str);
            let order = rendezvous::order(host.as_bytes(), names);
            self.order = order.into_iter().map(str::to_owned).collect();
            (self.told, self.at) = (processes.to_vec(), 0);
        }
    }
}

struct Host {
    info: HostInfo,
    way: Way,
    reporter: Reporter,
    arrivals: Arc<Arrivals>,
    all: u64,
}

impl Host {
    async fn run(mut self, mut rng: Rng) {
        tokio::time::sleep(Duration::from_millis(rng.below(START_MS))).await;
        let mut backoff = backoff();
        let mut since = 0;
        loop {
            match self.turn(since, &mut rng).await {
                Ok(revision) => {
                    backoff.succeeded();
                    since = revision;
                }
                Err(_) => {
                    self.way.failed();
                    tokio::time::sleep(backoff.failed()).await;
                }
            }
        }
    }

    /// One poll, and a report if there is something to say.
    async fn turn(&mut self, since: u64, rng: &mut Rng) -> Result<u64, CallError> {
        let wait_ms = self.reporter.poll_ms(rng);
        let said = self.reporter.said();
        let request = PollRequest { info: self.info.clone(), since, wait_ms, said };
        let limit = Duration::from_millis(wait_ms) + ROOM;
        let reply: PollReply = self.way.client().post("/v1/agent/poll", &request, limit).await?;
        self.reporter.set_pace(reply.report_ms);
        self.way.told(&reply.processes, self.info.host.as_str());
        for sealed in reply.goals.iter().flatten() {
            if let Ok(goal) = serde_json::from_str(&sealed.payload) {
                self.follow(&goal, &reply.region);
            }
        }
        if reply.report || self.reporter.said() != said {
            let (apps, said) = (self.reporter.apps(), self.reporter.said());
            let report = Report { info: self.info.clone(), apps, said };
            let _: ReportReply = self.way.client().post("/v1/agent/report", &report, ROOM).await?;
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
        if before.as_ref().is_none_or(|before| before.version != goal.version) {
            self.arrivals.arrived(goal, self.all);
        }
        let running = before.and_then(|status| status.running).map(|target| target.bits());
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
        return Err("usage: crowd REGION-URL TOKEN-FILE HOSTS [FIRST]".into());
    };
    let all: u64 = hosts.parse()?;
    let first: u64 = rest.first().map_or(Ok(0), |first| first.parse())?;
    let env: EnvName = "prod".parse()?;
    let token = read_token(Path::new(token_file))?;
    let clients = Arc::new(Clients { token, known: Mutex::default() });
    let arrivals = Arc::new(Arrivals::default());
    for number in first..first + all {
        let info = HostInfo {
            host: format!("crowd-{number:06}").parse()?,
            env: env.clone(),
            labels: Default::default(),
            rack: format!("rack-{}", number / RACK),
            zone: String::new(),
            peer_port: 1,
            agent_version: env!("CARGO_PKG_VERSION").into(),
        };
        let (clients, arrivals) = (clients.clone(), arrivals.clone());
        let way = Way { clients, told: vec![], order: vec![url.clone()], at: 0 };
        let host = Host { info, way, reporter: Reporter::default(), arrivals, all };
        tokio::spawn(host.run(Rng::new(number + 1)));
    }
    tokio::signal::ctrl_c().await?;
    Ok(())
}
