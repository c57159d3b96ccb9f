//! Three coordinators on one database, killed while a hundred jobs and more go through any
//! of them: each is claimed once per attempt, ends once, and none is lost.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use deployctl::net::client::{CallError, Client};
use deployctl::wire::problem::Code;
use deployctl::wire::v1::worker::Claim;
use serde_json::{Value, json};

use crate::ready::ready;
use crate::server::{fresh_database, server};

/// Long enough for a loaded machine; a test that waits for it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);
/// What one call may take: a coordinator that was killed in it must not hold it up.
const CALL: Duration = Duration::from_secs(10);
const JOBS: usize = 150;
const WORKERS: usize = 8;

fn start(folder: &Path, data: &str) -> (Child, String) {
    ready(
        Command::new(env!("CARGO_BIN_EXE_deployctl-coordinator"))
            .args(["--listen", "127.0.0.1:0", "--config"])
            .arg(folder.join("config.toml"))
            .arg("--data")
            .arg(folder.join(data))
            .env("DEPLOYCTL_LOG", "warn")
            .stderr(Stdio::null()),
    )
}

/// Where the coordinators are now; calls go to the next one each time.
pub(crate) struct Cluster {
    servers: Mutex<Vec<String>>,
    turn: AtomicUsize,
    token: String,
}

impl Cluster {
    pub(crate) fn new(servers: Vec<String>, token: String) -> Self {
        Self { servers: Mutex::new(servers), turn: AtomicUsize::new(0), token }
    }

    fn client(&self) -> Client {
        let servers = self.servers.lock().unwrap();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        Client::new(&servers[turn % servers.len()], Some(self.token.clone()))
    }

    /// Sends until some coordinator answers; a refusal is an answer.
    pub(crate) async fn call(&self, path: &str, body: &Value) -> Result<Value, CallError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.client().post::<Value>(path, body, CALL).await;
            match answer {
                Err(CallError::Refused(problem)) if problem.code != Code::Unavailable => {
                    return Err(CallError::Refused(problem));
                }
                Err(error) if Instant::now() > deadline => panic!("{path}: {error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                Ok(answer) => return Ok(answer),
            }
        }
    }
}

/// Claims and ends jobs through any coordinator until told to stop.
pub(crate) async fn work(
    cluster: Arc<Cluster>,
    n: usize,
    claimed: Arc<Mutex<Vec<(u64, u32)>>>,
    stop: Arc<AtomicBool>,
) {
    let worker = format!("w-{n}");
    while !stop.load(Ordering::Relaxed) {
        let request =
            json!({"worker": worker, "machine": "m", "slots": 1, "busy": 0, "wait_ms": 500});
        let answer =
            cluster.client().post::<Option<Claim>>("/v1/worker/claim", &request, CALL).await;
        let Ok(Some(claim)) = answer else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        claimed.lock().unwrap().push((claim.build.0, claim.attempt));
        let body = json!({"worker": worker, "attempt": claim.attempt,
            "outcome": {"outcome": "failed", "class": "build_failed", "reason": "on purpose"}});
        let _fenced = cluster.call(&format!("/v1/worker/jobs/{}/finish", claim.build), &body).await;
    }
}

/// What `psql` answers to one statement, in the form that scripts read.
fn query(url: &str, statement: &str) -> String {
    let psql = server().binaries.join("psql");
    let done = Command::new(psql).args(["-X", "-At", "-d", url, "-c", statement]).output();
    let done = done.unwrap();
    assert!(done.status.success(), "{statement}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_go_through_any_coordinator_each_once_while_coordinators_are_killed() {
    let url = fresh_database();
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let config = format!(
        "database = '{url}'\n[queue]\nbeat_ms = 500\nmonitor_ms = 200\n[regions.eu]\nblobs = 'file://{}'\n",
        at.join("eu").display()
    );
    std::fs::write(at.join("config.toml"), config).unwrap();
    let mut running = vec![start(at, "one")];
    for data in ["two", "three"] {
        let copied = Command::new("cp").arg("-r").arg(at.join("one")).arg(at.join(data)).status();
        assert!(copied.unwrap().success());
        running.push(start(at, data));
    }
    let read = |name: &str| std::fs::read_to_string(at.join("one/tokens").join(name)).unwrap();
    let servers: Vec<String> = running.iter().map(|(_, server)| server.clone()).collect();
    let cluster = |token| Arc::new(Cluster::new(servers.clone(), token));
    let (admin, workers) = (cluster(read("admin.token")), cluster(read("worker.token")));
    admin.call("/v1/apps", &json!({"name": "web", "repo": "file:///srv/web"})).await.unwrap();

    let claimed = Arc::new(Mutex::new(Vec::new()));
    let stop = Arc::new(AtomicBool::new(false));
    let working: Vec<_> = (0..WORKERS)
        .map(|n| tokio::spawn(work(workers.clone(), n, claimed.clone(), stop.clone())))
        .collect();
    for n in 0..JOBS {
        let body = json!({"commit": format!("{n:040x}"), "subject": "change"});
        admin.call("/v1/apps/web/builds", &body).await.unwrap();
        // One and then another, each without a word; the first comes back.
        if n == JOBS / 3 || n == 2 * JOBS / 3 {
            let i = usize::from(n > JOBS / 2);
            running[i].0.kill().unwrap();
            running[i].0.wait().unwrap();
            if i == 0 {
                running[0] = start(at, "one");
                let now = running[0].1.clone();
                admin.servers.lock().unwrap()[0].clone_from(&now);
                workers.servers.lock().unwrap()[0] = now;
            }
        }
    }
    let open = "SELECT count(*) FROM jobs WHERE status <> 'FAILED'";
    let deadline = Instant::now() + PATIENCE;
    while query(&url, open) != "0" {
        assert!(Instant::now() < deadline, "jobs never ended: {}", query(&url, open));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stop.store(true, Ordering::Relaxed);
    for worker in working {
        worker.await.unwrap();
    }
    each_ended_once(&url, &claimed.lock().unwrap());
    for (mut child, _) in running {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Every job was given out once per attempt and ended once.
fn each_ended_once(url: &str, claimed: &[(u64, u32)]) {
    let distinct: BTreeSet<_> = claimed.iter().collect();
    assert_eq!(distinct.len(), claimed.len(), "an attempt was given out twice");
    let sql = |statement: &str| query(url, statement);
    assert_eq!(sql("SELECT count(*) FROM jobs"), JOBS.to_string());
    // A job whose claim died with its coordinator has lost attempts before the one that ended it.
    let ended = "SELECT count(*) FROM (SELECT job FROM attempts WHERE outcome = 'build_failed' \
                 GROUP BY job HAVING count(*) = 1) AS once";
    assert_eq!(
        sql(ended),
        JOBS.to_string(),
        "{}",
        sql("SELECT outcome, count(*) FROM attempts GROUP BY 1")
    );
    assert_eq!(
        sql(
            "SELECT count(*) FROM attempts JOIN jobs ON id = job WHERE attempts.attempt > jobs.attempt"
        ),
        "0"
    );
    assert_eq!(sql("SELECT count(*) FROM coordinators"), "4", "three, and one that came back");
}

/// A coordinator on `url`, and an admin's client.
fn one(url: &str, folder: &Path) -> (Child, Client) {
    std::fs::write(folder.join("config.toml"), format!("database = '{url}'\n")).unwrap();
    let (child, server) = start(folder, "one");
    let token = std::fs::read_to_string(folder.join("one/tokens/admin.token")).unwrap();
    (child, Client::new(&server, Some(token)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_waits_until_no_coordinator_would_drop_it() {
    let (url, folder) = (fresh_database(), tempfile::tempdir().unwrap());
    let (mut child, admin) = one(&url, folder.path());
    let post = async |path: &str, body: Value| admin.post::<Value>(path, &body, CALL).await;
    post("/v1/apps", json!({"name": "web", "repo": "file:///srv/web"})).await.unwrap();
    let build = json!({"commit": format!("{:040x}", 1), "subject": "change"});
    post("/v1/apps/web/builds", build).await.unwrap();
    let deploy = |config: Value| {
        let body = json!({"kind": "deploy", "target": "b1", "when_ready_s": 600, "config": config});
        post("/v1/apps/web/envs/prod/rollouts", body)
    };
    // Of a release that does not say what it can do.
    let now = "CAST(1000 * extract(epoch FROM now()) AS BIGINT)";
    let said = format!(
        "INSERT INTO coordinators (id, version, url, started_at, seen_at)
         VALUES ('old', '0.0.9', 'http://old:7878', 1, {now} + 3600000)"
    );
    query(&url, &said);
    let Err(CallError::Refused(problem)) = deploy(json!({"text": "a = 1"})).await else {
        panic!("a config was deployed")
    };
    assert_eq!(problem.code, Code::Blocked, "{problem}");
    assert!(problem.to_string().contains("http://old:7878, of release 0.0.9"), "{problem}");
    deploy(Value::Null).await.unwrap();
    query(&url, &format!("UPDATE coordinators SET seen_at = {now} - 60000 WHERE id = 'old'"));
    deploy(json!({"text": "a = 1"})).await.unwrap();
    assert_eq!(query(&url, "SELECT value FROM meta WHERE key = 'schema_floor'"), "14");
    child.kill().unwrap();
    child.wait().unwrap();
}
