//! `deployctl admin db` as an operator types it: what it refuses, and in how many words.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::ready::ready;
use crate::server::{fresh_database, server};

fn admin(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_deployctl"))
        .arg("admin")
        .args(args)
        .env_remove("PGPASSWORD")
        .env("DEPLOYCTL_NO_INPUT", "1")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn said(done: &Output) -> String {
    String::from_utf8_lossy(&done.stderr).into_owned()
}

/// A command that must end with `code`: its document.
fn json(args: &[&str], code: i32) -> Value {
    let done = admin(&[args, &["-o", "json"]].concat());
    assert_eq!(done.status.code(), Some(code), "{args:?}: {}", said(&done));
    serde_json::from_slice(&done.stdout).unwrap()
}

/// The data folder of a coordinator that ran on SQLite and was stopped.
fn stopped(data: &Path) -> String {
    let (mut running, _) = ready(
        Command::new(env!("CARGO_BIN_EXE_deployctl-coordinator"))
            .args(["--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .stderr(Stdio::null()),
    );
    let data = data.display().to_string();
    let busy = admin(&["db", "copy", "--data", &data, "--to", &fresh_database()]);
    assert_eq!(busy.status.code(), Some(6), "a coordinator runs: {}", said(&busy));
    assert!(said(&busy).contains("in use by another coordinator"), "{}", said(&busy));
    running.kill().unwrap();
    running.wait().unwrap();
    data
}

#[test]
fn a_copy_is_checked_and_made_once() {
    let folder = tempfile::tempdir().unwrap();
    let data = stopped(folder.path());
    let url = fresh_database();
    let before = json(&["db", "check", "--data", &data], 0);
    assert_eq!(before["problems"], serde_json::json!([]), "{before}");
    let copied = json(&["db", "copy", "--data", &data, "--to", &url], 0);
    let tokens = copied["tables"].as_array().unwrap().iter().find(|one| one["table"] == "tokens");
    assert!(tokens.unwrap()["rows"].as_u64().unwrap() > 1, "{copied}");
    let after = json(&["db", "check", "--database", &url], 0);
    assert_eq!(after["schema"], before["schema"]);
    assert!(after["engine"].as_str().unwrap().starts_with("PostgreSQL "), "{after}");
    let migrated = json(&["db", "migrate", "--database", &url], 0);
    assert_eq!(migrated["schema"], before["schema"]);

    let again = admin(&["db", "copy", "--data", &data, "--to", &url]);
    assert_eq!(again.status.code(), Some(6));
    assert!(said(&again).contains("has rows; name a fresh database"), "{}", said(&again));
    // A database that no release worked on yet.
    let empty = json(&["db", "check", "--database", &fresh_database()], 1);
    assert_eq!(empty["schema"], 0);
    assert!(!empty["problems"].as_array().unwrap().is_empty(), "{empty}");
}

#[test]
fn what_can_not_be_had_is_told_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let data = stopped(folder.path());
    let socket = server().folder.display();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let closed = format!("postgres://u:hunter2@127.0.0.1:{port}/d");
    let nowhere = format!("postgres://postgres@/nowhere?host={socket}");
    for (url, what, code) in [
        ("postgres://u:hunter2@h/d?sslmode=allow", "verify-full", 2),
        (&closed, "refused", 5),
        (&nowhere, "createdb", 5),
    ] {
        for args in [
            vec!["db", "copy", "--data", &data, "--to", url],
            vec!["db", "check", "--database", url],
            vec!["db", "migrate", "--database", url],
        ] {
            let done = admin(&args);
            let told = said(&done);
            assert_eq!(done.status.code(), Some(code), "{args:?}: {told}");
            assert!(told.contains(what) && !told.contains("hunter2"), "{args:?}: {told}");
            assert_eq!(told.trim_end().lines().count(), 1, "{args:?}: {told}");
        }
    }
    let nowhere = folder.path().join("nowhere").display().to_string();
    for args in [
        vec!["db", "copy", "--data", &nowhere, "--to", "postgres://u@h/d"],
        vec!["db", "check", "--data", &nowhere],
        vec!["db", "migrate", "--data", &nowhere],
        vec!["backup", "/nowhere/backup", "--data", &nowhere],
    ] {
        let done = admin(&args);
        assert_eq!(done.status.code(), Some(3), "{args:?}: {}", said(&done));
    }
    assert!(!Path::new(&nowhere).exists(), "nothing is made by looking");
}

#[test]
fn backup_and_restore_are_for_sqlite_and_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("coordinator.toml");
    let text =
        format!("data = '{}'\ndatabase = 'postgres://u:hunter2@h/d'\n", folder.path().display());
    std::fs::write(&config, text).unwrap();
    let (config, at) = (config.display().to_string(), folder.path().join("backup"));
    let at = at.display().to_string();
    for verb in ["backup", "restore"] {
        let done = admin(&[verb, &at, "--config", &config]);
        let told = said(&done);
        assert_eq!(done.status.code(), Some(2), "{told}");
        assert!(told.contains("pg_dump") && !told.contains("hunter2"), "{told}");
        assert_eq!(told.trim_end().lines().count(), 1, "{told}");
        assert!(!Path::new(&at).exists());
    }
}
