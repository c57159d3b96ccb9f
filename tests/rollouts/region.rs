//! A region that speaks the wire: it mirrors the feed, its hosts obey, it reports.

use std::collections::{BTreeMap, BTreeSet};

use deployctl::model::comparison::Comparison;
use deployctl::model::digest::ArtifactId;
use deployctl::model::fleet::{AppStatus, Failure, FailureClass, Phase, Sources, Tally};
use deployctl::model::goal::{Goal, GoalVersion, HostView, Target};
use deployctl::model::id::{AppName, HostId, RegionName};
use deployctl::model::selector::Labels;
use deployctl::model::time::UnixMillis;
use deployctl::net::client::{CallError, Client};
use deployctl::rules::tally::{Seen, tally};
use deployctl::wire::seal::{GOAL, PublicKey, verify};
use deployctl::wire::v1::fleet::{HostInfo, HostRow};
use deployctl::wire::v1::goal_store::ReportedStores;
use deployctl::wire::v1::region::{
    Compared, EnvTally, Feed, FeedRequest, RegionReport, RegionReportReply, Wanted,
};

use crate::house::PATIENCE;

pub(crate) struct FakeRegion {
    client: Client,
    pub(crate) name: RegionName,
    pub(crate) revision: u64,
    pub(crate) goals: BTreeMap<AppName, Goal>,
    pub(crate) wanted: BTreeSet<ArtifactId>,
    trusted: Vec<PublicKey>,
    pub(crate) hosts: Vec<FakeHost>,
    /// Artifacts that fail on every host.
    pub(crate) broken: BTreeSet<ArtifactId>,
    /// What the region says in place of the truth.
    pub(crate) lie: Option<EnvTally>,
    /// How it says that its hosts fare.
    pub(crate) fares: Option<Comparison>,
    /// What the coordinator wants compared.
    pub(crate) asked: Vec<Compared>,
}

pub(crate) struct FakeHost {
    pub(crate) id: HostId,
    pub(crate) reachable: bool,
    /// Whether it takes no notice of goals.
    pub(crate) idle: bool,
    pub(crate) running: Option<Target>,
    status: Option<AppStatus>,
    tried: u32,
}

impl FakeRegion {
    pub(crate) fn new(client: Client, name: &str, hosts: usize) -> Self {
        let host = |n: usize| FakeHost {
            id: format!("{name}-{n}").parse().unwrap(),
            reachable: true,
            idle: false,
            running: None,
            status: None,
            tried: 0,
        };
        Self {
            client,
            name: name.parse().unwrap(),
            revision: 0,
            goals: BTreeMap::new(),
            wanted: BTreeSet::new(),
            trusted: vec![],
            hosts: (0..hosts).map(host).collect(),
            broken: BTreeSet::new(),
            lie: None,
            fares: None,
            asked: vec![],
        }
    }

    /// Speaks with another coordinator from now on.
    pub(crate) fn moves(&mut self, to: FakeRegion) {
        self.client = to.client;
    }

    /// Sends anything at all with the region's token.
    pub(crate) async fn post<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        body: &impl serde::Serialize,
    ) -> Result<T, CallError> {
        self.client.post(path, body, PATIENCE).await
    }

    /// One round: feed, hosts, report.
    pub(crate) async fn live(&mut self) {
        self.follow().await;
        self.report().await;
    }

    pub(crate) async fn feed(&self, since: u64, wait_ms: u64) -> Feed {
        let request = FeedRequest { region: self.name.clone(), since, wait_ms };
        self.client.post("/v1/region/feed", &request, PATIENCE).await.unwrap()
    }

    pub(crate) async fn follow(&mut self) {
        let feed = self.feed(self.revision, 0).await;
        assert!(feed.full || feed.revision >= self.revision);
        self.revision = feed.revision;
        if let Some(trust) = feed.trust {
            self.trusted = trust.goal_keys;
        }
        for Wanted { artifact, gone, .. } in feed.artifacts {
            if gone {
                self.wanted.remove(&artifact)
            } else {
                self.wanted.insert(artifact)
            };
        }
        for sealed in feed.goals {
            verify(&self.trusted, GOAL, sealed.payload.as_bytes(), &sealed.signature).unwrap();
            let goal: Goal = serde_json::from_str(&sealed.payload).unwrap();
            if let Some(old) = self.goals.get(&goal.app) {
                assert!(goal.version >= old.version, "a goal went back");
            }
            self.goals.insert(goal.app.clone(), goal);
        }
        let goals: Vec<Goal> = self.goals.values().cloned().collect();
        for goal in goals {
            self.obey(&goal);
        }
    }

    fn obey(&mut self, goal: &Goal) {
        let labels = Labels::new();
        for host in self.hosts.iter_mut().filter(|host| host.reachable && !host.idle) {
            let running = host.running.map(|target| target.bits());
            let view = HostView { host: &host.id, region: &self.name, labels: &labels, running };
            let desired = goal.desired(&view);
            let same_goal = host
                .status
                .as_ref()
                .is_some_and(|status| status.version.generation == goal.version.generation);
            let failed = same_goal
                && host.tried == goal.retry
                && host.status.as_ref().is_some_and(|status| status.failure.is_some());
            let (mut phase, mut failure) = (Phase::Healthy, None);
            match desired {
                Some(target)
                    if self.broken.contains(&target.artifact)
                        || target.config.is_some_and(|config| self.broken.contains(&config)) =>
                {
                    phase = Phase::Reverted;
                    failure = Some(Failure {
                        class: FailureClass::Release,
                        reason: "exited with code 3".into(),
                        log: vec!["boom".into()],
                    });
                }
                Some(_) if failed => continue,
                Some(target) => host.running = Some(target),
                None if running.is_none() => phase = Phase::Idle,
                None => {}
            }
            host.tried = goal.retry;
            host.status = Some(AppStatus {
                app: goal.app.clone(),
                env: goal.env.clone(),
                version: goal.version,
                running: host.running,
                desired,
                phase,
                held: vec![],
                pieces: (0, 0),
                sources: Sources::default(),
                failure,
                restarts: 0,
                events: None,
            });
        }
    }

    pub(crate) async fn report(&mut self) {
        let labels = Labels::new();
        let count = |goal: &Goal| {
            let seen = self.hosts.iter().map(|host| Seen {
                host: &host.id,
                labels: &labels,
                reachable: host.reachable,
                status: host.status.as_ref(),
            });
            let tally = Tally { comparison: self.fares, ..tally(goal, &self.name, seen) };
            EnvTally { app: goal.app.clone(), env: goal.env.clone(), tally }
        };
        let mut tallies: Vec<EnvTally> = self.goals.values().map(count).collect();
        if let Some(lie) = &self.lie {
            tallies = vec![lie.clone()];
        }
        let report = RegionReport {
            region: self.name.clone(),
            revision: self.revision,
            tallies,
            hosts: self.hosts.iter().map(|host| self.row(host)).collect(),
            host_count: self.hosts.len() as u64,
            unreachable: self.hosts.iter().filter(|host| !host.reachable).count() as u64,
            replicas: vec![],
            forgot: vec![],
            process: String::new(),
            goal_stores: ReportedStores::default(),
        };
        let reply: RegionReportReply =
            self.client.post("/v1/region/report", &report, PATIENCE).await.unwrap();
        self.asked = reply.compare;
    }

    fn row(&self, host: &FakeHost) -> HostRow {
        HostRow {
            info: HostInfo {
                host: host.id.clone(),
                env: "prod".parse().unwrap(),
                labels: Labels::new(),
                rack: String::new(),
                zone: String::new(),
                peer_port: 1,
                agent_version: "0".into(),
            },
            region: self.name.clone(),
            address: "127.0.0.1".into(),
            reachable: host.reachable,
            seen_at: UnixMillis(1),
            apps: host.status.iter().cloned().collect(),
        }
    }

    /// Artifacts that hosts run, each once.
    pub(crate) fn running(&self) -> BTreeSet<Option<ArtifactId>> {
        self.hosts.iter().map(|host| host.running.map(|target| target.artifact)).collect()
    }

    pub(crate) fn version(&self) -> GoalVersion {
        self.goals.values().next().map(|goal| goal.version).unwrap_or_default()
    }
}
