//! The demo and the README's tour: what a stranger types first must work.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn deployctl(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_deployctl"));
    command.args(args).stdin(Stdio::null()).env_remove("DEPLOYCTL_SERVER");
    command
}

fn told(done: &Output) -> String {
    String::from_utf8_lossy(&done.stderr).into_owned() + &String::from_utf8_lossy(&done.stdout)
}

/// Whether any process works in `folder` or names it.
fn is_anybody_in(folder: &str) -> bool {
    Command::new("pgrep").args(["-f", folder]).stdout(Stdio::null()).status().unwrap().success()
}

#[test]
fn the_demo_shows_the_whole_job_and_leaves_nothing_behind() {
    let done = deployctl(&["demo", "-o", "json"]).output().unwrap();
    assert!(done.status.success(), "{}", told(&done));
    let facts: Value = serde_json::from_slice(&done.stdout).expect("exactly one document");

    let codes: Vec<i64> = facts["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["exit_code"].as_i64().unwrap())
        .collect();
    assert_eq!(codes, [0, 0, 0, 0, 10, 0, 0], "the bad release, and only it, reverts");
    let hosts = facts["hosts"].as_array().unwrap();
    assert_eq!(hosts.len(), 8);
    assert!(hosts.iter().all(|host| host["apps"][0]["phase"] == "healthy"), "{hosts:#?}");
    let (peer, store) = (&facts["bytes"]["peer"], &facts["bytes"]["store"]);
    assert!(peer.as_u64() > store.as_u64(), "peers first: {peer} from peers, {store} from stores");

    let folder = facts["folder"].as_str().unwrap();
    assert!(!Path::new(folder).exists(), "{folder} is left");
    assert!(!is_anybody_in(folder), "a process of {folder} is left");
}

/// The commands of the README's tour, one a line.
fn tour() -> Vec<Vec<String>> {
    let readme = include_str!("../README.md");
    let block = readme.split("```sh tour\n").nth(1).expect("the README has a tour");
    let lines = block.split("```").next().unwrap().lines();
    lines.map(words).collect()
}

/// Splits a line at spaces outside double quotes.
fn words(line: &str) -> Vec<String> {
    let parts = line.split('"').enumerate();
    parts
        .flat_map(|(i, part)| match i % 2 {
            0 => part.split_whitespace().map(str::to_owned).collect(),
            _ => vec![part.to_owned()],
        })
        .collect()
}

#[test]
fn every_command_of_the_readmes_tour_runs() {
    let done = deployctl(&["demo", "--keep"]).output().unwrap();
    let story = told(&done);
    assert!(done.status.success(), "{story}");
    let after = |mark: &str| {
        let rest = story.split(mark).nth(1).unwrap_or_else(|| panic!("{mark:?} not in {story}"));
        rest.split_whitespace().next().unwrap().to_owned()
    };
    let repository = after("\n  cd ");
    let (server, token) = (after("DEPLOYCTL_SERVER="), after("DEPLOYCTL_TOKEN_FILE="));
    let folder = Path::new(&repository).parent().unwrap().display().to_string();

    let commands = tour();
    assert!(commands.len() > 5);
    let mut wrong = Vec::new();
    for command in commands {
        assert_eq!(command[0], "deployctl");
        let args: Vec<&str> = command[1..].iter().map(String::as_str).collect();
        let done = deployctl(&args)
            .current_dir(&repository)
            .env("DEPLOYCTL_SERVER", &server)
            .env("DEPLOYCTL_TOKEN_FILE", &token)
            .output()
            .unwrap();
        if !done.status.success() {
            wrong.push(format!("{command:?} ended with {}\n{}", done.status, told(&done)));
        }
    }
    Command::new("pkill").args(["-f", &folder]).status().unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while is_anybody_in(&folder) {
        assert!(std::time::Instant::now() < deadline, "the printed `pkill` leaves processes");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
