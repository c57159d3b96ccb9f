//! What every process tells Prometheus, and that the examples ask for nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::fleet::{eventually, text};
use crate::fleet_with_app;

/// The body of `GET /metrics`, as promtool finds it sound.
fn scrape(address: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{reply}");
    let body = body.to_owned();
    promtool(&["check", "metrics"], &body);
    body
}

fn promtool(args: &[&str], input: &str) {
    let mut promtool = Command::new("promtool")
        .args(args)
        .current_dir(examples())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed (apt-get install prometheus, or run scripts/test)");
    promtool.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let done = promtool.wait_with_output().unwrap();
    let said = text(&done.stdout) + &text(&done.stderr);
    assert!(done.status.success(), "promtool {args:?}: {said}\n{input}");
}

fn examples() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/monitoring")
}

fn value(metrics: &str, series: &str) -> Option<f64> {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line?.parse().ok()
}

/// The names of this project's metrics in a text.
fn names(text: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !word(c));
    let known = ["deployctl_", "process_"];
    words.filter(|w| known.iter().any(|known| w.starts_with(known))).map(str::to_owned).collect()
}

#[test]
fn every_process_tells_what_the_dashboard_and_the_alerts_ask_for() {
    let (mut fleet, repository) = fleet_with_app(1);
    let at = repository.folder.clone();
    fleet.expect(&at, &["deploy", "--yes", "--build", "--plan", "all-at-once"], 0);
    let parts = ["coordinator", "region-eu", "worker-1", "eu-1"].map(|name| fleet.metrics(name));
    let [coordinator, region, worker, agent] = parts.clone();
    eventually("the counts arrive", || {
        let told = scrape(&coordinator);
        value(&told, "deployctl_region_hosts{region=\"us\",state=\"reachable\"}") == Some(1.0)
            && value(&told, "deployctl_build_jobs{state=\"succeeded\"}") == Some(1.0)
            && value(&told, "deployctl_rollouts{state=\"succeeded\"}") == Some(1.0)
            && value(&told, "deployctl_workers") == Some(1.0)
            && value(&told, "deployctl_goals_waiting") == Some(0.0)
    });
    let told = scrape(&region);
    assert_eq!(value(&told, "deployctl_region_agents{state=\"reachable\"}"), Some(1.0), "{told}");
    assert_eq!(value(&told, "deployctl_region_goals"), Some(1.0));
    let brought = value(&told, "deployctl_region_replicated_bytes_total{source=\"main\"}");
    assert!(brought.is_some_and(|bytes| bytes > 0.0), "{told}");
    assert!(value(&told, "deployctl_region_feed_timestamp_seconds") > Some(1e9));
    let told = scrape(&worker);
    assert_eq!(value(&told, "deployctl_worker_builds_total{outcome=\"succeeded\"}"), Some(1.0));
    eventually("the agent's app is healthy", || {
        let told = scrape(&agent);
        value(&told, "deployctl_agent_apps{phase=\"healthy\"}") == Some(1.0)
    });

    let told: String = parts.iter().map(|part| scrape(part)).collect();
    assert!(value(&told, "process_resident_memory_bytes") > Some(1e6));
    for secret in ["eu-1", "dct_", &at.display().to_string()] {
        assert!(!told.contains(secret), "{secret} is no label");
    }
    // Only where an etcd is configured; the test of etcd reaches them.
    let optional = ["deployctl_global_goals_up", "deployctl_region_etcd_up"];
    let told = names(&told);
    for file in ["alerts.yml", "dashboard.json"] {
        let asked = names(&fs::read_to_string(examples().join(file)).unwrap());
        let missing: Vec<_> = asked
            .iter()
            .filter(|n| !told.contains(*n) && !optional.contains(&n.as_str()))
            .collect();
        assert!(missing.is_empty(), "{file} asks for {missing:?}");
        assert!(asked.len() > 8, "{file} asks for {asked:?}");
    }
}

#[test]
fn the_examples_load() {
    promtool(&["check", "config", "prometheus.yml"], "");
    promtool(&["test", "rules", "alerts.test.yml"], "");
    let dashboard = fs::read_to_string(examples().join("dashboard.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    let mut rules = String::from("groups:\n- name: dashboard\n  rules:\n");
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let expr = target["expr"].as_str().unwrap();
            rules += &format!("  - record: x\n    expr: |-\n      {expr}\n");
        }
    }
    // The expressions as rules: promtool reads them as Prometheus would.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dashboard.yml");
    fs::write(&file, rules).unwrap();
    promtool(&["check", "rules", "--lint=none", file.to_str().unwrap()], "");
}
