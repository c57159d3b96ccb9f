//! A server as it is elsewhere: behind passwords, over TLS, and started anew while jobs run.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde_json::json;

use crate::own::Own;
use crate::several::{Cluster, PATIENCE, work};

fn coordinator(data: &Path, url: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_deployctl-coordinator"));
    command.args(["--listen", "127.0.0.1:0", "--database", url, "--data"]).arg(data);
    command.env_remove("PGPASSWORD").env("DEPLOYCTL_LOG", "error");
    command
}

/// Starts one that must come up; also where it is.
fn ready(mut command: Command) -> (Child, String) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let server = line.trim().strip_prefix("ready ").expect("it says where it is").to_owned();
    (child, server)
}

fn stop(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The one line that a start which must fail says.
fn refusal(url: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let done = coordinator(folder.path(), url).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr).trim_end().to_owned();
    assert_eq!(done.status.code(), Some(1), "{url}: {said}");
    assert_eq!(said.lines().count(), 1, "{url}: {said}");
    said
}

fn with_ann() -> Own {
    let own = Own::start();
    own.query("postgres", "CREATE ROLE ann LOGIN PASSWORD 'right-secret'");
    own.query("postgres", "CREATE DATABASE deployctl OWNER ann");
    own
}

#[test]
fn a_wrong_password_is_told_and_never_shown() {
    let own = with_ann();
    let at = format!("127.0.0.1:{}/deployctl", own.port);
    for url in [format!("postgres://ann:hunter2@{at}"), format!("postgres://ann@{at}")] {
        let said = refusal(&url);
        assert!(said.contains("the password of ann is wrong or missing"), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
    let folder = tempfile::tempdir().unwrap();
    let mut by_variable = coordinator(folder.path(), &format!("postgres://ann@{at}"));
    by_variable.env("PGPASSWORD", "right-secret");
    stop(ready(by_variable).0);
}

#[test]
fn tls_needs_a_server_that_speaks_it_and_an_authority_that_is_trusted() {
    let mut own = with_ann();
    let at = format!("postgres://ann:right-secret@127.0.0.1:{}/deployctl", own.port);
    let said = refusal(&format!("{at}?sslmode=require"));
    assert!(said.contains("TLS") && said.contains("sslmode=disable"), "{said}");

    let authority = own.certify();
    let authority = authority.display();
    own.down();
    let files = ["ssl=on", "ssl_cert_file=tls.pem", "ssl_key_file=tls.key"];
    own.up(&files);
    let said = refusal(&format!("{at}?sslmode=require"));
    assert!(said.contains("certificate") && said.contains("sslrootcert=FILE"), "{said}");
    assert!(!said.contains("right-secret"), "{said}");

    let folder = tempfile::tempdir().unwrap();
    let url = format!("{at}?sslmode=require&sslrootcert={authority}");
    let (child, _) = ready(coordinator(folder.path(), &url));
    let encrypted = "SELECT count(*) > 1 AND bool_and(ssl) FROM pg_stat_ssl
        JOIN pg_stat_activity USING (pid) WHERE usename = 'ann'";
    assert_eq!(own.query("postgres", encrypted), "t");
    stop(child);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_started_anew_loses_no_job_and_no_coordinator() {
    const JOBS: usize = 60;
    let mut own = with_ann();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.toml");
    std::fs::write(&config, "[queue]\nbeat_ms = 500\nmonitor_ms = 200\n").unwrap();
    let url = format!("postgres://ann:right-secret@127.0.0.1:{}/deployctl", own.port);
    let mut command = coordinator(folder.path(), &url);
    let (mut child, server) = ready({
        command.arg("--config").arg(&config);
        command
    });
    let read =
        |name: &str| std::fs::read_to_string(folder.path().join("tokens").join(name)).unwrap();
    let cluster = |token| Arc::new(Cluster::new(vec![server.clone()], token));
    let (admin, workers) = (cluster(read("admin.token")), cluster(read("worker.token")));
    admin.call("/v1/apps", &json!({"name": "web", "repo": "file:///srv/web"})).await.unwrap();
    let claimed = Arc::new(Mutex::new(Vec::new()));
    let over = Arc::new(AtomicBool::new(false));
    let work = |n| tokio::spawn(work(workers.clone(), n, claimed.clone(), over.clone()));
    let working: Vec<_> = (0..4).map(work).collect();
    for n in 0..JOBS {
        if n % 20 == 10 {
            own.down();
            own.up(&[]);
        }
        let body = json!({"commit": format!("{n:040x}"), "subject": "change"});
        admin.call("/v1/apps/web/builds", &body).await.unwrap();
    }
    let open = "SELECT count(*) FROM jobs WHERE status <> 'FAILED'";
    let deadline = Instant::now() + PATIENCE;
    while own.query("deployctl", open) != "0" {
        assert!(Instant::now() < deadline, "jobs never ended");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    over.store(true, Ordering::Relaxed);
    for worker in working {
        worker.await.unwrap();
    }
    assert!(child.try_wait().unwrap().is_none(), "the coordinator went on");
    let once = "SELECT count(*) FROM (SELECT job FROM attempts WHERE outcome = 'build_failed'
        GROUP BY job HAVING count(*) = 1) AS once";
    assert_eq!(own.query("deployctl", once), JOBS.to_string());
    let claimed = claimed.lock().unwrap();
    let distinct: std::collections::BTreeSet<_> = claimed.iter().collect();
    assert_eq!(distinct.len(), claimed.len(), "an attempt was given out twice");
    stop(child);
}
