//! Nothing is deleted for its age by a clock that jumped ahead.

use std::time::{Duration, Instant};

use deployctl::host::clock;
use deployctl::wire::problem::Code;
use serde_json::{Value, json};

use crate::collecting::{AT_ONCE, built, collect, objects, until_gone};
use crate::process::{Coordinator, PATIENCE, refusal};
use crate::replication::Region;

/// How far the clock of these tests is ahead.
const AHEAD: Duration = Duration::from_secs(30 * 86_400);

/// Puts everything that is written down so far back as the clock jumped.
fn put_back(db: &rusqlite::Connection) {
    let back = i64::try_from(AHEAD.as_millis()).unwrap();
    let seen = (clock::now() - AHEAD).to_string();
    let looked = json!({ "seen": seen }).to_string();
    let done = db.execute("UPDATE meta SET value = ?1 WHERE key = 'clock'", [looked]).unwrap();
    assert_eq!(done, 1, "it was looked at the clock");
    db.execute("UPDATE artifacts SET created_at = created_at - ?1", [back]).unwrap();
    // Its log is older than any is kept.
    db.execute("UPDATE jobs SET ended_at = ended_at - 2 * ?1", [back]).unwrap();
    db.execute("INSERT INTO job_log (job, at, attempt, bytes, text) VALUES (1, 0, 1, 1, 'x')", [])
        .unwrap();
}

fn logs(coordinator: &Coordinator) -> i64 {
    let db = rusqlite::Connection::open(coordinator.data().join("coordinator.db")).unwrap();
    db.busy_timeout(PATIENCE).unwrap();
    db.query_row("SELECT count(*) FROM job_log", [], |row| row.get(0)).unwrap()
}

async fn doubted(coordinator: &Coordinator) -> String {
    let regions: Value = coordinator.admin().get("/v1/regions", PATIENCE).await.unwrap();
    regions["clock_doubted"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn after_a_jump_of_the_clock_nothing_goes_until_a_person_trusts_it() {
    let mut coordinator = Coordinator::over(None, AT_ONCE).await;
    let region = Region::start(&coordinator);
    let (_, artifact) = built(&coordinator, 1).await;
    drop(region);
    assert_eq!(doubted(&coordinator).await, "");
    coordinator.restart_after(|folder| {
        put_back(&rusqlite::Connection::open(folder.join("data/coordinator.db")).unwrap());
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(objects(&coordinator.data().join("blobs"), artifact).len(), 3);
    assert!(doubted(&coordinator).await.contains("it stood at"));
    let line = "deployctl admin gc --trust-clock --confirm=main -m WHY";
    for asked in [json!({}), json!({"at_once": true, "message": "a test"})] {
        let problem = refusal(collect(&coordinator, asked).await);
        assert_eq!((problem.code, &*problem.hints), (Code::Blocked, &[line.to_owned()][..]));
    }
    let look = collect(&coordinator, json!({"dry_run": true})).await.unwrap();
    assert!(look.artifacts == 1 && look.clock_doubted.contains("it stood at"), "{look:?}");
    // Another restart forgets nothing.
    coordinator.restart_after(|_| {});
    assert!(doubted(&coordinator).await.contains("it stood at"));
    assert_eq!(logs(&coordinator), 1);

    let silent = json!({"trust_clock": true});
    assert_eq!(refusal(collect(&coordinator, silent).await).code, Code::Usage);
    let trust = json!({"trust_clock": true, "message": "it was switched off"});
    collect(&coordinator, trust).await.unwrap();
    assert!(coordinator.event_kinds().await.contains(&"artifacts.clock_trusted".into()));
    assert_eq!(doubted(&coordinator).await, "");
    let _region = Region::start(&coordinator);
    until_gone(&coordinator, artifact).await;
    // The log goes with what it made, and not before.
    let deadline = Instant::now() + PATIENCE;
    while logs(&coordinator) > 0 {
        assert!(Instant::now() < deadline, "the log stays");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
