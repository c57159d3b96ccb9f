//! A coordinator that can't have its database says why in one line.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use crate::ready::ready;
use crate::server::{fresh_database, server};

fn start(data: &Path, url: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_deployctl-coordinator"))
        .args(["--listen", "127.0.0.1:0", "--database", url, "--data"])
        .arg(data)
        .env_remove("PGPASSWORD")
        .output()
        .unwrap()
}

/// What a start that must fail says.
fn refusal(url: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let done = start(folder.path(), url);
    assert_eq!(done.status.code(), Some(1), "{url}");
    String::from_utf8_lossy(&done.stderr).into_owned()
}

#[test]
fn a_database_that_can_not_be_had_is_told_in_one_line() {
    let there = fresh_database();
    let folder = server().folder.display();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for (url, what) in [
        ("mysql://u@h/d".to_owned(), "postgres://USER@HOST/DATABASE"),
        ("postgres://u:hunter2@h/d?sslmode=allow".into(), "verify-full"),
        (format!("postgres://u:hunter2@127.0.0.1:{port}/d"), "refused"),
        (format!("postgres://postgres@/nowhere?host={folder}"), "createdb"),
        (format!("postgres://nobody@/t0?host={folder}"), "nobody"),
        (format!("postgres://postgres@/template0?host={folder}"), "template0"),
    ] {
        let said = refusal(&url);
        assert!(said.contains(what), "{url}: {said}");
        assert!(!said.contains("hunter2"), "{url}: {said}");
        assert_eq!(said.trim_end().lines().count(), 1, "{url}: {said}");
    }
    drop(there);
}

#[test]
fn a_second_coordinator_needs_the_keys_of_the_first() {
    let url = fresh_database();
    let first = tempfile::tempdir().unwrap();
    let (mut running, _) = ready(
        Command::new(env!("CARGO_BIN_EXE_deployctl-coordinator"))
            .args(["--listen", "127.0.0.1:0", "--database", &url, "--data"])
            .arg(first.path())
            .stderr(Stdio::null()),
    );

    let second = tempfile::tempdir().unwrap();
    let lost = String::from_utf8_lossy(&start(second.path(), &url).stderr).into_owned();
    assert!(lost.contains("token.key is missing"), "{lost}");
    let keys = second.path().join("keys");
    for name in ["token.key", "keys/goal.ed25519", "keys/build.ed25519"] {
        std::fs::create_dir_all(&keys).unwrap();
        std::fs::write(second.path().join(name), "ab".repeat(32)).unwrap();
    }
    let foreign = String::from_utf8_lossy(&start(second.path(), &url).stderr).into_owned();
    assert!(foreign.contains("not the ones"), "{foreign}");
    running.kill().unwrap();
    running.wait().unwrap();
}

/// Holds what writers take turns by until it is dropped.
struct Turn(Child);

impl Turn {
    fn take(url: &str) -> Self {
        let mut psql = Command::new(server().binaries.join("psql"))
            .args(["-X", "-At", "-d", url])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lock = "SELECT pg_advisory_lock(7234311987469575028);\n\\echo taken\n";
        psql.stdin.as_mut().unwrap().write_all(lock.as_bytes()).unwrap();
        let mut said = BufReader::new(psql.stdout.take().unwrap()).lines().map(Result::unwrap);
        assert!(said.any(|line| line == "taken"));
        Self(psql)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a coordinator, and waits until it said `times` that it waits.
fn waiting(data: &Path, url: &str, times: usize) -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_deployctl-coordinator"))
        .args(["--listen", "127.0.0.1:0", "--database", url, "--data"])
        .arg(data)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let waits = |line: &String| line.contains("asks the database again");
    let said = lines.by_ref().filter(waits).nth(times - 1).expect("it waits");
    assert!(said.contains("the turn to write did not come"), "{said}");
    // It goes on writing its log.
    std::thread::spawn(move || lines.count());
    child
}

#[test]
fn a_start_waits_for_its_turn_and_says_so_each_time() {
    let (url, folder) = (fresh_database(), tempfile::tempdir().unwrap());
    let turn = Turn::take(&url);
    let mut child = waiting(folder.path(), &url, 2);
    drop(turn);
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("ready "), "{line}");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_start_that_waits_ends_when_it_is_told_to() {
    let (url, folder) = (fresh_database(), tempfile::tempdir().unwrap());
    let _turn = Turn::take(&url);
    let mut child = waiting(folder.path(), &url, 1);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
