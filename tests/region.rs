//! One region as a real process, against a pretended coordinator.

#![expect(clippy::unwrap_used, reason = "a test may stop at any surprise")]

#[path = "region/fixture.rs"]
mod fixture;
#[path = "region/processes.rs"]
mod processes;
#[path = "coordinator/ready.rs"]
mod ready;
#[path = "region/siblings.rs"]
mod siblings;

use std::time::Duration;

use deployctl::model::digest::Digest;
use deployctl::model::fleet::{AppStatus, Phase, Sources};
use deployctl::model::goal::{Goal, GoalVersion, Target};
use deployctl::model::id::ReleaseNo;
use deployctl::net::client::{CallError, Client};
use deployctl::wire::problem::Code;
use deployctl::wire::seal::verify_manifest;
use deployctl::wire::v1::fleet::{HostInfo, PollReply, PollRequest, Report, ReportReply};
use deployctl::wire::v1::region::{Trust, Wanted};
use deployctl::wire::v1::swarm::JoinReply;
use fixture::{Coordinator, Region, eventually, flip, host, joining, path_in};

const CALL: Duration = Duration::from_secs(20);

async fn poll(agent: &Client, info: HostInfo, since: u64) -> Result<PollReply, CallError> {
    agent.post("/v1/agent/poll", &PollRequest { info, since, wait_ms: 10_000, said: 0 }, CALL).await
}

/// Polls until there is a goal, and returns its generation and the revision.
async fn goal(agent: &Client, since: u64) -> (u64, u64) {
    for _ in 0..100 {
        match poll(agent, host("h1"), since).await {
            Ok(PollReply { goals: Some(goals), revision, .. }) if !goals.is_empty() => {
                let goal: Goal = serde_json::from_str(&goals[0].payload).unwrap();
                return (goal.version.generation, revision);
            }
            // Not known yet, or its token is not.
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    panic!("no goal came");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_region_goes_on_without_pulling_verified_pieces_again() {
    let coordinator = Coordinator::new();
    let serving = coordinator.serve(0).await;
    let mut region = Region::new(&serving);
    let made = coordinator.publish(&region.main(), 24, 1);
    // The main store has only the first half, so the pull stops there.
    std::fs::write(made.path("packs"), &made.pack[..12 << 20]).unwrap();
    coordinator.want(made.id);
    region.start();
    coordinator
        .reported("half a copy", |report| {
            let mine = report.replicas.iter().find(|replica| replica.artifact == made.id)?;
            (mine.bytes == 12 << 20 && !mine.error.is_empty()).then_some(())
        })
        .await;
    region.kill();
    std::fs::write(made.path("packs"), &made.pack).unwrap();
    region.start();
    coordinator.completed(made.id).await;
    let halves = format!("pulled_bytes={} reused_bytes={}", 12 << 20, 12 << 20);
    assert!(region.log().contains(&halves), "{}", region.log());
    let store = region.store();
    assert_eq!(std::fs::read(path_in(&store, "packs", made.id)).unwrap(), made.pack);
    assert_eq!(
        std::fs::read(path_in(&store, "manifests", made.id)).unwrap(),
        made.manifest.encode()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_artifact_has_an_empty_pack() {
    let coordinator = Coordinator::new();
    let serving = coordinator.serve(0).await;
    let mut region = Region::new(&serving);
    let made = coordinator.publish(&region.main(), 0, 9);
    coordinator.want(made.id);
    region.start();
    coordinator.completed(made.id).await;
    let pack = path_in(&region.store(), "packs", made.id);
    assert_eq!(std::fs::metadata(pack).unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupted_piece_is_never_published() {
    let coordinator = Coordinator::new();
    let serving = coordinator.serve(0).await;
    let mut region = Region::new(&serving);
    let made = coordinator.publish(&region.main(), 6, 2);
    flip(&made.path("packs"), (3 << 20) + 7);
    coordinator.want(made.id);
    region.start();
    let error = coordinator
        .reported("a typed error", |report| {
            let mine = report.replicas.iter().find(|replica| replica.artifact == made.id)?;
            (!mine.error.is_empty() && !mine.complete).then(|| mine.error.clone())
        })
        .await;
    assert_eq!(error, "main store: 1 damaged or missing pieces, the first is 12");
    for kind in ["manifests", "signatures", "packs"] {
        assert!(!path_in(&region.store(), kind, made.id).exists(), "{kind}");
    }
    flip(&made.path("packs"), (3 << 20) + 7);
    coordinator.completed(made.id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_nobody_trusted_signed_is_not_replicated() {
    let coordinator = Coordinator::new();
    let serving = coordinator.serve(0).await;
    let mut region = Region::new(&serving);
    let made = coordinator.publish(&region.main(), 1, 3);
    std::fs::write(made.path("signatures"), "00".repeat(64)).unwrap();
    coordinator.want(made.id);
    region.start();
    let error = coordinator
        .reported("a typed error", |report| {
            let mine = report.replicas.iter().find(|replica| replica.artifact == made.id)?;
            (!mine.error.is_empty()).then(|| mine.error.clone())
        })
        .await;
    assert!(error.starts_with("no trusted key signed this"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_copy_is_healed_with_only_the_damaged_piece() {
    let coordinator = Coordinator::new();
    let serving = coordinator.serve(0).await;
    let mut region = Region::new(&serving);
    let made = coordinator.publish(&region.main(), 5, 4);
    coordinator.want(made.id);
    region.start();
    coordinator.completed(made.id).await;
    let pack = path_in(&region.store(), "packs", made.id);
    flip(&pack, 2 << 20);
    coordinator.told.lock().unwrap().heal.push(made.id);
    let healed = format!("pulled_bytes={} reused_bytes={}", 256 << 10, (5 << 20) - (256 << 10));
    eventually("healing", || region.log().contains(&healed).then_some(())).await;
    assert_eq!(std::fs::read(&pack).unwrap(), made.pack);

    let manifest = path_in(&region.store(), "manifests", made.id);
    std::fs::remove_file(&manifest).unwrap();
    eventually("healing anew", || {
        coordinator.told.lock().unwrap().heal = vec![made.id];
        manifest.exists().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_dropped_is_deleted_unless_a_goal_names_it() {
    let coordinator = Coordinator::new();
    let serving = coordinator.serve(0).await;
    let mut region = Region::new(&serving);
    let named = coordinator.publish(&region.main(), 1, 5);
    let free = coordinator.publish(&region.main(), 1, 6);
    coordinator.want(named.id);
    coordinator.want(free.id);
    coordinator.deploy(1, named.id);
    region.start();
    coordinator.completed(named.id).await;
    coordinator.completed(free.id).await;
    let gone = |artifact| Wanted { artifact, gone: true, patch: None };
    coordinator.tell(|told| told.artifacts = vec![gone(named.id), gone(free.id)]);
    let pack = path_in(&region.store(), "packs", free.id);
    eventually("deletion", || (!pack.exists()).then_some(())).await;
    assert!(!path_in(&region.store(), "manifests", free.id).exists());
    assert!(path_in(&region.store(), "manifests", named.id).exists());
    // Once the goal moves on, it goes too.
    let other = coordinator.publish(&region.main(), 1, 7);
    coordinator.want(other.id);
    coordinator.deploy(2, other.id);
    let manifest = path_in(&region.store(), "manifests", named.id);
    eventually("deletion", || (!manifest.exists()).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_replicates_itself_is_only_looked_at() {
    let coordinator = Coordinator::new();
    let serving = coordinator.serve(0).await;
    let mut region = Region::new(&serving);
    coordinator.tell(|told| {
        told.by_store = true;
        told.siblings = vec![("eu".parse().unwrap(), None)];
    });
    let made = coordinator.publish(&region.main(), 3, 1);
    coordinator.want(made.id);
    region.start();
    coordinator
        .reported("what it waits for", |report| {
            let mine = report.replicas.iter().find(|replica| replica.artifact == made.id)?;
            mine.error.contains("not replicated it yet").then_some(())
        })
        .await;
    let kinds = ["packs", "signatures", "manifests"];
    assert!(kinds.iter().all(|kind| !path_in(&region.store(), kind, made.id).exists()));
    for kind in kinds {
        let to = path_in(&region.store(), kind, made.id);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(made.path(kind), to).unwrap();
    }
    coordinator.completed(made.id).await;
    // What the coordinator drops is the store's to delete.
    coordinator.tell(|told| {
        told.artifacts = vec![Wanted { artifact: made.id, gone: true, patch: None }];
    });
    eventually("the end of it here", || region.log().contains("dropped artifact").then_some(()))
        .await;
    assert!(kinds.iter().all(|kind| path_in(&region.store(), kind, made.id).exists()));
}

#[tokio::test(flavor = "multi_thread")]
async fn goals_are_served_with_the_coordinator_down_and_after_a_restart() {
    let coordinator = Coordinator::new();
    let serving = coordinator.serve(0).await;
    let port = serving.port;
    let mut region = Region::new(&serving);
    let token = coordinator.agent_token("eu", None);
    coordinator.deploy(7, Digest::of(b"a"));
    region.start();
    let (generation, revision) = goal(&region.agent(&token), 0).await;
    assert_eq!(generation, 7);
    serving.end().await;
    region.kill();
    region.start();
    let agent = region.agent(&token);
    assert_eq!(goal(&agent, 0).await, (7, revision));
    let trust: Trust = agent.get("/v1/agent/trust", CALL).await.unwrap();
    assert_eq!(trust.goal_keys.len(), 1);

    // The coordinator is back with an older goal, then with a newer one.
    coordinator.deploy(6, Digest::of(b"old"));
    let _serving = coordinator.serve(port).await;
    coordinator.deploy(8, Digest::of(b"new"));
    assert_eq!(goal(&agent, revision).await.0, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_agents_of_the_region_are_answered_and_for_their_host_only() {
    let coordinator = Coordinator::new();
    let serving = coordinator.serve(0).await;
    let mut region = Region::new(&serving);
    let stranger = deployctl::net::auth::Token::mint().reveal();
    let other_region = coordinator.agent_token("us", None);
    let bound = coordinator.agent_token("eu", Some("h1"));
    coordinator.deploy(1, Digest::of(b"a"));
    region.start();
    goal(&region.agent(&bound), 0).await;
    let code = async |token: &str, name: &str| {
        poll(&region.agent(token), host(name), 0).await.map(drop).map_err(|e| e.code())
    };
    assert_eq!(code(&stranger, "h1").await, Err(Code::Unauthenticated));
    assert_eq!(code(&other_region, "h1").await, Err(Code::Forbidden));
    assert_eq!(code(&bound, "h2").await, Err(Code::Forbidden));
    assert_eq!(code(&bound, "h1").await, Ok(()));
    let nobody = Client::new(&region.url, None);
    let refused = nobody.get::<Trust>("/v1/agent/trust", CALL).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let healthy = nobody.request(reqwest::Method::GET, "/healthz").send().await.unwrap();
    assert!(healthy.status().is_success());
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_become_counts_and_silence_becomes_unreachable() {
    let coordinator = Coordinator::new();
    let serving = coordinator.serve(0).await;
    let mut region = Region::new(&serving);
    let token = coordinator.agent_token("eu", None);
    let next = Target { release: ReleaseNo(3), artifact: Digest::of(b"a"), config: None };
    coordinator.deploy(3, next.artifact);
    region.start();
    let agent = region.agent(&token);
    goal(&agent, 0).await;
    let status = AppStatus {
        app: "api".parse().unwrap(),
        env: "prod".parse().unwrap(),
        version: GoalVersion { epoch: 1, generation: 3, step: 0 },
        running: Some(next),
        desired: Some(next),
        phase: Phase::Healthy,
        held: vec![next.artifact],
        pieces: (1, 1),
        sources: Sources::default(),
        failure: None,
        restarts: 0,
        events: None,
    };
    let report = Report { info: host("h1"), apps: vec![status], said: 5 };
    let reply: ReportReply = agent.post("/v1/agent/report", &report, CALL).await.unwrap();
    assert_eq!(reply.report_ms, 300);
    let counts = |healthy: u32, unreachable: u32| {
        move |report: &deployctl::wire::v1::region::RegionReport| {
            let tally = &report.tallies.first()?.tally;
            let is = (tally.hosts, tally.healthy, tally.unreachable) == (1, healthy, unreachable);
            is.then_some(())
        }
    };
    coordinator.reported("a healthy host", counts(1, 0)).await;
    coordinator.reported("a silent host", counts(0, 1)).await;
    let row = coordinator.reported("its row", |report| report.hosts.first().cloned()).await;
    assert_eq!(row.address, "127.0.0.1:4000");

    let long = Report { info: host("h1"), apps: vec![report.apps[0].clone(); 257], said: 0 };
    let refused = agent.post::<ReportReply>("/v1/agent/report", &long, CALL).await.unwrap_err();
    assert_eq!(refused.code(), Code::TooLarge);
}

#[tokio::test(flavor = "multi_thread")]
async fn packs_are_read_in_bounded_ranges_and_only_under_a_lease() {
    let coordinator = Coordinator::new();
    let serving = coordinator.serve(0).await;
    let mut region = Region::new(&serving);
    let token = coordinator.agent_token("eu", None);
    let made = coordinator.publish(&region.main(), 6, 8);
    coordinator.want(made.id);
    coordinator.deploy(1, made.id);
    region.start();
    coordinator.completed(made.id).await;
    let agent = region.agent(&token);
    let path = |what: &str| format!("/v1/agent/artifacts/{}/{what}", made.id);
    let get = |what: &str| agent.request(reqwest::Method::GET, &path(what));

    let reply = get("manifest").send().await.unwrap();
    let signature = reply.headers()["deployctl-signature"].to_str().unwrap().to_owned();
    assert_eq!(reply.bytes().await.unwrap(), made.manifest.encode());
    let trust: Trust = agent.get("/v1/agent/trust", CALL).await.unwrap();
    verify_manifest(&trust.build_keys, &made.id, &signature).unwrap();

    let join_path = format!("/v1/agent/swarm/{}/join", made.id);
    let joined: JoinReply = agent.post(&join_path, &joining(), CALL).await.unwrap();
    let lease = joined.beat.lease.expect("the first member of a swarm gets a lease");
    let offsets = made.manifest.wire_offsets();
    let first = lease.first as usize;
    let (from, to) = (offsets[first], offsets[first + lease.count as usize]);
    let read = |range: String, lease: Option<u64>| {
        let request = get("pack").header("range", range);
        match lease {
            Some(lease) => request.header("deployctl-lease", lease),
            None => request,
        }
    };
    let range = format!("bytes={from}-{}", to - 1);
    assert_eq!(read(range.clone(), None).send().await.unwrap().status(), 403);
    assert_eq!(read(range.clone(), Some(lease.id ^ 1)).send().await.unwrap().status(), 403);
    let past = format!("bytes={0}-{0}", made.pack.len());
    assert_eq!(read(past, Some(lease.id)).send().await.unwrap().status(), 416);
    let reply = read(range, Some(lease.id)).send().await.unwrap();
    assert_eq!(reply.status(), 206);
    let content = format!("bytes {from}-{}/{}", to - 1, made.pack.len());
    assert_eq!(reply.headers()["content-range"], content.as_str());
    assert_eq!(reply.bytes().await.unwrap(), &made.pack[from as usize..to as usize]);
    let custodian = |range: String| {
        get("pack").header("range", range).header("deployctl-custodian", "1").send()
    };
    let reply = custodian(format!("bytes={from}-{}", to - 1)).await.unwrap();
    assert_eq!(reply.status(), 206);
    assert_eq!(reply.bytes().await.unwrap(), &made.pack[from as usize..to as usize]);
    let all = format!("bytes=0-{}", made.pack.len() - 1);
    let several = made.manifest.pieces.len() > 1;
    assert_eq!(custodian(all).await.unwrap().status() == 403, several);
}
