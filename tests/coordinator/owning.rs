//! Only the installation that the main store names collects from it: no second one, no copy of
//! its database, and no backup before a person says so.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use deployctl::model::digest::ArtifactId;
use deployctl::wire::problem::{Code, Problem};
use deployctl::wire::v1::collect::Collection;
use serde_json::{Value, json};

use crate::collecting::{AT_ONCE, LATER, all, built, collect, objects};
use crate::process::{Coordinator, PATIENCE, refusal};
use crate::replication::Region;
use crate::server::{fresh_database, server};

fn owner(coordinator: &Coordinator) -> PathBuf {
    coordinator.data().join("blobs/owner")
}

fn note(coordinator: &Coordinator) -> Value {
    serde_json::from_slice(&std::fs::read(owner(coordinator)).unwrap_or_default())
        .unwrap_or_default()
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Makes the store another's. A coordinator that looked right before may write its word over it
/// once.
async fn give(coordinator: &Coordinator, other: &Value) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let staged = coordinator.data().join("staged");
        std::fs::write(&staged, other.to_string()).unwrap();
        std::fs::rename(staged, owner(coordinator)).unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        if note(coordinator) == *other {
            return;
        }
        assert!(Instant::now() < deadline, "the coordinator goes on to write");
    }
}

async fn refused(coordinator: &Coordinator) -> Problem {
    let problem = refusal(collect(coordinator, all()).await);
    assert_eq!(problem.code, Code::Blocked, "{problem:?}");
    let line = "deployctl admin gc --adopt-store --confirm=main -m WHY";
    assert_eq!(problem.hints, [line], "{problem:?}");
    problem
}

async fn adopt(coordinator: &Coordinator) -> Collection {
    let asked = json!({"adopt_store": true, "message": "a test"});
    collect(coordinator, asked).await.unwrap()
}

/// What `coordinator` built, of which nothing is needed.
async fn unneeded(coordinator: &Coordinator) -> ArtifactId {
    let _region = Region::start(coordinator);
    built(coordinator, 1).await.1
}

fn is_whole(coordinator: &Coordinator, artifact: ArtifactId) -> bool {
    objects(&coordinator.data().join("blobs"), artifact).len() == 3
}

/// From the main store; no region runs.
async fn until_deleted(coordinator: &Coordinator, artifact: ArtifactId) {
    until("it is deleted", || objects(&coordinator.data().join("blobs"), artifact).is_empty())
        .await;
}

/// Copies the file of a database over another, in its place.
fn put(from: &Path, to: &Path) {
    let db = rusqlite::Connection::open(from).unwrap();
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(db);
    for log in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{log}", to.display()));
    }
    std::fs::write(to, std::fs::read(from).unwrap()).unwrap();
}

#[tokio::test]
async fn another_installations_store_is_left_alone_until_it_is_adopted() {
    let coordinator = Coordinator::new(LATER).await;
    let artifact = unneeded(&coordinator).await;
    until("it claims what is its own", || note(&coordinator)["word"].is_string()).await;
    // It is marked while the store is its own, and due when it is not any more.
    assert_eq!(collect(&coordinator, all()).await.unwrap().artifacts, 1);
    let other = json!({"installation": "77", "word": "x", "database": "/srv/other"});
    give(&coordinator, &other).await;
    let problem = refused(&coordinator).await;
    for said in ["another installation's", "installation 77", "/srv/other"] {
        assert!(problem.to_string().contains(said), "{said}: {problem:?}");
    }
    let at_once = json!({"at_once": true, "message": "a test"});
    assert_eq!(refusal(collect(&coordinator, at_once.clone()).await).code, Code::Blocked);
    let look = collect(&coordinator, json!({"dry_run": true})).await.unwrap();
    assert!(look.not_owner.contains("installation 77"), "{look:?}");
    let regions: Value = coordinator.admin().get("/v1/regions", PATIENCE).await.unwrap();
    assert!(regions["main_store_not_owned"].as_str().unwrap().contains("77"), "{regions}");
    assert_eq!(note(&coordinator), other, "and nothing was written");
    assert!(is_whole(&coordinator, artifact));

    let silent = json!({"adopt_store": true});
    assert_eq!(refusal(collect(&coordinator, silent).await).code, Code::Usage);
    let look = json!({"adopt_store": true, "dry_run": true});
    assert!(collect(&coordinator, look).await.unwrap().whose.contains("installation 77"));
    assert!(adopt(&coordinator).await.whose.contains("installation 77"));
    assert!(coordinator.event_kinds().await.contains(&"artifacts.store_adopted".into()));
    collect(&coordinator, at_once).await.unwrap();
    until_deleted(&coordinator, artifact).await;
}

#[tokio::test]
async fn what_is_due_is_not_deleted_once_the_store_is_anothers() {
    let coordinator = Coordinator::new(LATER).await;
    let artifact = unneeded(&coordinator).await;
    assert_eq!(collect(&coordinator, all()).await.unwrap().artifacts, 1);
    let mut coordinator = coordinator;
    coordinator.restart_after(|folder| {
        let other = json!({"installation": "77", "word": "x"}).to_string();
        std::fs::write(folder.join("data/blobs/owner"), other).unwrap();
        let db = rusqlite::Connection::open(folder.join("data/coordinator.db"));
        if crate::configured::configured().is_none() {
            db.unwrap().execute("UPDATE collected SET due_at = 0", []).unwrap();
        }
    });
    refused(&coordinator).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(is_whole(&coordinator, artifact));
}

#[tokio::test]
async fn a_copied_file_and_an_older_state_of_the_same_file_collect_nothing() {
    if crate::configured::configured().is_some() {
        return;
    }
    let mut coordinator = Coordinator::new(AT_ONCE).await;
    let artifact = unneeded(&coordinator).await;
    let old = coordinator.data().join("old.db");
    let database = coordinator.data().join("coordinator.db");
    coordinator.restart_after(|_| put(&database, &old));
    // Nothing changed but that it was restarted.
    let before = note(&coordinator)["word"].clone();
    until("it writes another word", || note(&coordinator)["word"] != before).await;

    // The state of before, where it was, as a disk that was set back or cloned.
    coordinator.restart_after(|_| put(&old, &database));
    let problem = refused(&coordinator).await;
    assert!(problem.to_string().contains("another copy of this database"), "{problem:?}");
    adopt(&coordinator).await;
    let newest = coordinator.data().join("newest.db");

    // The newest state in another file.
    coordinator.restart_after(|_| {
        put(&database, &newest);
        std::fs::rename(&newest, &database).unwrap();
    });
    let problem = refused(&coordinator).await;
    assert!(problem.to_string().contains("not where it was"), "{problem:?}");
    assert!(is_whole(&coordinator, artifact));
    adopt(&coordinator).await;
    assert_eq!(collect(&coordinator, all()).await.unwrap().artifacts, 1);
    until_deleted(&coordinator, artifact).await;
}

#[tokio::test]
async fn of_two_that_live_from_one_database_neither_collects() {
    // Rarely enough that it does not write at the same moment as the twin does.
    let coordinator =
        Coordinator::new(&AT_ONCE.replace("every_ms = 100\ndelay", "every_ms = 2000\ndelay")).await;
    let artifact = unneeded(&coordinator).await;
    let look = collect(&coordinator, json!({"dry_run": true})).await.unwrap();
    assert_eq!(look.not_owner, "");
    let mut twin = note(&coordinator);
    twin["word"] = "the twin's".into();
    let staged = coordinator.data().join("twin");
    std::fs::write(&staged, twin.to_string()).unwrap();
    std::fs::rename(staged, owner(&coordinator)).unwrap();
    // The one that held the store takes it from both.
    until("the twin loses it, too", || {
        let word = note(&coordinator)["word"].clone();
        word.is_string() && word != "the twin's"
    })
    .await;
    refused(&coordinator).await;
    assert!(is_whole(&coordinator, artifact));
}

#[tokio::test]
async fn a_store_without_an_owner_is_claimed_only_where_all_in_it_is_known() {
    let mut coordinator = Coordinator::new(AT_ONCE).await;
    let artifact = unneeded(&coordinator).await;
    let stranger = coordinator.publish(9, &[9; 5000]).await;
    coordinator.restart_after(|folder| {
        std::fs::remove_file(folder.join("data/blobs/owner")).unwrap();
    });
    let problem = refused(&coordinator).await;
    assert!(problem.to_string().contains("1 artifacts that this database does not know"));
    // Who is about to adopt it is told so before.
    let look = json!({"adopt_store": true, "dry_run": true});
    let look = collect(&coordinator, look).await.unwrap();
    assert_eq!((look.unknown, look.unknown_more), (1, false));
    for object in objects(&coordinator.data().join("blobs"), stranger) {
        std::fs::remove_file(object).unwrap();
    }
    until("it claims what is its own", || owner(&coordinator).exists()).await;
    if crate::configured::configured().is_some() {
        return;
    }
    // One that was upgraded, as any copy of it, asks a person first.
    coordinator.restart_after(|folder| {
        std::fs::remove_file(folder.join("data/blobs/owner")).unwrap();
        let db = rusqlite::Connection::open(folder.join("data/coordinator.db")).unwrap();
        db.execute("DELETE FROM meta WHERE key = 'store_owner'", []).unwrap();
    });
    let problem = refused(&coordinator).await;
    assert!(problem.to_string().contains("older than owners are"), "{problem:?}");
    assert!(!owner(&coordinator).exists() && is_whole(&coordinator, artifact));
    assert_eq!(adopt(&coordinator).await.whose, "it named no owner");
    assert_eq!(collect(&coordinator, all()).await.unwrap().artifacts, 1);
}

#[tokio::test]
async fn a_restored_backup_is_another_installation() {
    if crate::configured::configured().is_some() {
        return;
    }
    let mut coordinator = Coordinator::new(AT_ONCE).await;
    let artifact = unneeded(&coordinator).await;
    coordinator.restart_after(|folder| {
        let (data, backup) = (folder.join("data"), folder.join("backup"));
        for verb in ["backup", "restore"] {
            let mut admin = Command::new(env!("CARGO_BIN_EXE_deployctl"));
            admin.args(["admin", verb]).arg(&backup).arg("--data").arg(&data);
            let done = admin.env("DEPLOYCTL_NO_INPUT", "1").output().unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        }
    });
    let problem = refused(&coordinator).await;
    assert!(problem.to_string().contains("another installation's"), "{problem:?}");
    assert!(is_whole(&coordinator, artifact));
    assert!(adopt(&coordinator).await.whose.contains("coordinator.db"));
    assert_eq!(collect(&coordinator, all()).await.unwrap().artifacts, 1);
}

#[tokio::test]
async fn switched_off_nothing_is_deleted_that_was_marked_before() {
    let mut coordinator = Coordinator::new(LATER).await;
    let artifact = unneeded(&coordinator).await;
    assert_eq!(collect(&coordinator, all()).await.unwrap().artifacts, 1);
    coordinator.restart_after(|folder| {
        let config = folder.join("config.toml");
        let text = std::fs::read_to_string(&config).unwrap();
        let off = text.replace("enabled = true", "enabled = false\ndelay_minutes = 0");
        std::fs::write(config, off).unwrap();
        if crate::configured::configured().is_none() {
            let db = rusqlite::Connection::open(folder.join("data/coordinator.db")).unwrap();
            db.execute("UPDATE collected SET due_at = 0", []).unwrap();
        }
    });
    let look = collect(&coordinator, json!({})).await.unwrap();
    assert!(look.switched_off && look.waiting.artifacts == 1, "{look:?}");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(is_whole(&coordinator, artifact));
    // Asked for by name it goes.
    let at_once = json!({"at_once": true, "message": "a test"});
    collect(&coordinator, at_once).await.unwrap();
    until_deleted(&coordinator, artifact).await;
}

#[test]
fn a_region_in_the_main_store_is_refused_by_both_that_know_it() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let (main, regional) =
        (format!("file://{}", at("blobs")), format!("file://{}/", at("blobs/eu")));
    let config = format!("blobs = '{main}'\n[regions.eu]\nblobs = '{regional}'\n");
    std::fs::write(at("config.toml"), config).unwrap();
    std::fs::write(at("token"), format!("dct_{}.{}", "a".repeat(16), "b".repeat(64))).unwrap();
    let mut coordinator = Command::new(env!("CARGO_BIN_EXE_deployctl-coordinator"));
    coordinator.args(["--config", &at("config.toml"), "--data", &at("data")]);
    let mut region = Command::new(env!("CARGO_BIN_EXE_deployctl-region"));
    region.args(["--name", "eu", "--coordinator", "http://127.0.0.1:1", "--data", &at("region")]);
    region.args(["--token-file", &at("token"), "--main-blobs", &main, "--blobs", &regional]);
    for mut process in [coordinator, region] {
        let done = process.args(["--listen", "127.0.0.1:0"]).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(1), "{said}");
        assert!(said.contains("region eu") && said.contains("shares its objects"), "{said}");
        assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    }
}

/// Moves a stopped coordinator's file to a server.
fn move_over(folder: &Path, url: &str) {
    let mut admin = Command::new(env!("CARGO_BIN_EXE_deployctl"));
    admin.args(["admin", "db", "copy", "--to", url, "--config"]).arg(folder.join("config.toml"));
    admin.arg("--data").arg(folder.join("data")).env("DEPLOYCTL_NO_INPUT", "1");
    let done = admin.output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success() && said.contains("--adopt-store"), "{said}");
}

#[tokio::test]
async fn after_a_move_to_a_server_nobody_collects_until_one_adopts() {
    let mut coordinator = Coordinator::over(None, AT_ONCE).await;
    let artifact = unneeded(&coordinator).await;
    until("it claims what is its own", || note(&coordinator)["word"].is_string()).await;
    let (database, url) = (coordinator.data().join("coordinator.db"), fresh_database());
    let clone = coordinator.data().join("clone.db");
    coordinator.restart_after(|folder| {
        put(&database, &clone);
        move_over(folder, &url);
    });
    // Started once more by mistake on the file.
    let problem = refused(&coordinator).await;
    for said in ["another installation's", "moved to postgres", "may delete what this install"] {
        assert!(problem.to_string().contains(said), "{said}: {problem:?}");
    }
    let regions: Value = coordinator.admin().get("/v1/regions", PATIENCE).await.unwrap();
    assert_eq!(regions["main_store_anothers"], true, "{regions}");
    // A clone of the file, made before, that knows all that was ever written.
    coordinator.restart_after(|_| put(&clone, &database));
    let problem = refused(&coordinator).await;
    assert!(problem.to_string().contains("another copy of this database"), "{problem:?}");
    // On the server.
    coordinator.restart_after(|folder| {
        let config = folder.join("config.toml");
        let text = std::fs::read_to_string(&config).unwrap();
        std::fs::write(config, format!("database = '{url}'\n{text}")).unwrap();
    });
    let problem = refused(&coordinator).await;
    assert!(problem.to_string().contains("another installation's"), "{problem:?}");
    assert!(is_whole(&coordinator, artifact));
    adopt(&coordinator).await;
    assert_eq!(collect(&coordinator, all()).await.unwrap().artifacts, 1);
    until_deleted(&coordinator, artifact).await;
    let regions: Value = coordinator.admin().get("/v1/regions", PATIENCE).await.unwrap();
    assert_eq!(regions["main_store_anothers"], Value::Null, "{regions}");
}

fn psql(url: &str, sql: &str) {
    let mut psql = Command::new(server().binaries.join("psql"));
    let done = psql.args(["-q", "-v", "ON_ERROR_STOP=1", "-c", sql, url]).output().unwrap();
    assert!(done.status.success(), "{sql}: {}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test]
async fn a_role_that_may_not_ask_which_server_it_is_collects_nothing_and_says_what_to_grant() {
    let url = fresh_database();
    let name = url.split(['/', '?']).nth(3).unwrap().to_owned();
    psql(&url, "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC");
    psql(&url, &format!("CREATE ROLE \"plain-{name}\" LOGIN"));
    psql(&url, &format!("ALTER DATABASE {name} OWNER TO \"plain-{name}\""));
    psql(&url, &format!("ALTER SCHEMA public OWNER TO \"plain-{name}\""));
    let plain = url.replace("postgres@", &format!("plain-{name}@"));
    let coordinator = Coordinator::over(Some(plain), AT_ONCE).await;
    let artifact = unneeded(&coordinator).await;
    let grant = format!("GRANT EXECUTE ON FUNCTION pg_control_system() TO \"plain-{name}\"");
    let adoption = json!({"adopt_store": true, "message": "a test"});
    for asked in [all(), adoption] {
        let problem = refusal(collect(&coordinator, asked).await);
        assert_eq!((problem.code, &*problem.hints), (Code::Blocked, &[grant.clone()][..]));
        assert!(problem.title.contains("does not say which one it is"), "{problem:?}");
    }
    assert!(!coordinator.event_kinds().await.contains(&"artifacts.store_adopted".into()));
    assert!(!owner(&coordinator).exists() && is_whole(&coordinator, artifact));
    let regions: Value = coordinator.admin().get("/v1/regions", PATIENCE).await.unwrap();
    let why = regions["main_store_not_owned"].as_str().unwrap();
    assert!(why.contains("pg_control_system()"), "{regions}");
    assert_eq!(regions["main_store_grant"], *grant, "{regions}");
    // The line that it names helps: with it a person's word lasts.
    psql(&url, &grant);
    assert!(refused(&coordinator).await.to_string().contains("not where it was"));
    adopt(&coordinator).await;
    assert_eq!(collect(&coordinator, all()).await.unwrap().artifacts, 1);
    until_deleted(&coordinator, artifact).await;
}
