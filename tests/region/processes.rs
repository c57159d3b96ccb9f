//! One region with two processes over the same stores.

use std::time::Duration;

use deployctl::net::client::Client;
use deployctl::rules::rendezvous;
use deployctl::wire::v1::fleet::{PollReply, PollRequest, Report, ReportReply};
use deployctl::wire::v1::region::RegionReport;
use deployctl::wire::v1::swarm::{JoinReply, JoinRequest};

use crate::fixture::{Coordinator, Published, Region, host, joining};

const CALL: Duration = Duration::from_secs(20);

/// The one that the artifact belongs to, and the other one.
fn sorted(made: &Published, two: [Region; 2]) -> (Region, Region) {
    let urls = two.each_ref().map(|region| region.url.clone());
    let first = rendezvous::first(&made.id.0, urls.iter().map(String::as_str)).unwrap();
    let [one, two] = two;
    if one.url == first { (one, two) } else { (two, one) }
}

async fn ask<T>(what: &str, mut call: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..600 {
        if let Some(answer) = call().await {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("gave up waiting: {what}");
}

/// What a process says who lives.
async fn live(agent: &Client, name: &str) -> Option<Vec<String>> {
    let request = PollRequest { info: host(name), since: 0, wait_ms: 0, said: 0 };
    let reply: PollReply = agent.post("/v1/agent/poll", &request, CALL).await.ok()?;
    Some(reply.processes)
}

async fn join(agent: &Client, made: &Published, name: &str) -> Option<JoinReply> {
    let request = JoinRequest { host: name.parse().unwrap(), ..joining() };
    agent.post(&format!("/v1/agent/swarm/{}/join", made.id), &request, CALL).await.ok()
}

/// Waits until a process tells of two hosts of which so many are unreachable, while those
/// that are `alive` call.
async fn counted(
    coordinator: &Coordinator,
    by: &Region,
    unreachable: u64,
    alive: &[(&Client, &str)],
) {
    coordinator.told.lock().unwrap().reports.clear();
    let told = async || {
        for (agent, name) in alive {
            live(agent, name).await;
        }
        let told = coordinator.told.lock().unwrap();
        let mut own = told.reports.iter().filter(|report| report.process == by.url);
        own.any(|report| (report.host_count, report.unreachable) == (2, unreachable)).then_some(())
    };
    ask("the counts", told).await;
    let told = coordinator.told.lock().unwrap();
    assert!(told.reports.iter().all(|report| report.host_count <= 2), "a host was counted twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_are_one_region() {
    let coordinator = Coordinator::new();
    let serving = coordinator.serve(0).await;
    let two = Region::two_processes(&serving);
    let made = coordinator.publish(&two[0].main(), 8, 1);
    let token = coordinator.agent_token("eu", None);
    coordinator.want(made.id);
    let (mut owner, mut other) = sorted(&made, two);
    other.start();
    owner.start();
    coordinator.completed(made.id).await;
    let pulls = |region: &Region| region.log().matches("artifact replicated").count();

    let (at_owner, at_other) = (owner.agent(&token), other.agent(&token));
    let mut all = vec![owner.url.clone(), other.url.clone()];
    all.sort();
    for (agent, name) in [(&at_owner, "h1"), (&at_other, "h2")] {
        let both = async || live(agent, name).await.filter(|live| *live == all);
        ask("both live", both).await;
        let report = Report { info: host(name), apps: vec![], said: 1 };
        let _: ReportReply = agent.post("/v1/agent/report", &report, CALL).await.unwrap();
    }
    assert_eq!(pulls(&owner) + pulls(&other), 1, "{}\n{}", owner.log(), other.log());

    // One swarm, whichever process a host calls.
    let first = join(&at_owner, &made, "h1").await.unwrap();
    let second = join(&at_other, &made, "h2").await.unwrap();
    assert_eq!((first.epoch, second.beat.members), (second.epoch, 2));
    let neighbours = second.beat.neighbours.unwrap().peers;
    assert_eq!((neighbours[0].host.as_str(), &*neighbours[0].address), ("h1", "127.0.0.1:4000"));
    let lease = first.beat.lease.expect("the first member of a swarm gets a lease");
    let offsets = made.manifest.wire_offsets();
    let range = offsets[lease.first as usize] as usize
        ..offsets[(lease.first + lease.count) as usize] as usize;
    let path = format!("/v1/agent/artifacts/{}/pack", made.id);
    let read = at_other
        .request(reqwest::Method::GET, &path)
        .header("range", format!("bytes={}-{}", range.start, range.end - 1))
        .header("deployctl-lease", lease.id);
    let reply = read.send().await.unwrap();
    assert_eq!(reply.status(), 206);
    assert_eq!(reply.content_length(), Some(range.len() as u64));
    assert!(reply.bytes().await.unwrap()[..] == made.pack[range]);

    // Both know both hosts; neither counts one twice.
    let apart = [(&at_owner, "h1"), (&at_other, "h2")];
    counted(&coordinator, &owner, 0, &apart).await;
    counted(&coordinator, &other, 0, &apart).await;

    owner.kill();
    let alone = async || live(&at_other, "h2").await.filter(|live| *live == [other.url.clone()]);
    ask("one lives", alone).await;
    let again = ask("the swarm goes on", async || join(&at_other, &made, "h2").await).await;
    assert_ne!(again.epoch, first.epoch);
    // The host that called the dead one is silent; then it turns to the other one.
    counted(&coordinator, &other, 1, &apart[1..]).await;
    let together = [(&at_other, "h1"), (&at_other, "h2")];
    counted(&coordinator, &other, 0, &together).await;
    owner.start();
    counted(&coordinator, &owner, 0, &together).await;
    assert_eq!(pulls(&owner) + pulls(&other), 1, "what the store has is not pulled again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_goes_on_in_another_process() {
    let coordinator = Coordinator::new();
    let serving = coordinator.serve(0).await;
    let two = Region::two_processes(&serving);
    let made = coordinator.publish(&two[0].main(), 8, 2);
    std::fs::write(made.path("packs"), &made.pack[..4 << 20]).unwrap();
    coordinator.want(made.id);
    let (mut owner, mut other) = sorted(&made, two);
    owner.start();
    other.start();
    let half = |report: &RegionReport| {
        let mine = report.replicas.iter().find(|replica| replica.artifact == made.id)?;
        let stuck = mine.bytes == 4 << 20 && !mine.error.is_empty();
        (report.process == owner.url && stuck).then_some(())
    };
    coordinator.reported("half a copy", half).await;
    owner.kill();
    std::fs::write(made.path("packs"), &made.pack).unwrap();
    coordinator.completed(made.id).await;
    assert!(other.log().contains("artifact replicated"), "{}", other.log());
}
