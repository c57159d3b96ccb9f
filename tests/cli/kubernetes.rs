//! The manifests of `examples/kubernetes`, held against the programs that they start.

use std::process::Command;

use deployctl::config::daemon::{Flags, load};
use serde_json::Value;

/// Every document of the manifests, as Python's YAML reads them.
fn documents() -> Vec<Value> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/kubernetes");
    let script = "import glob, json, sys, yaml\n\
        print(json.dumps([d for f in sorted(glob.glob(sys.argv[1] + '/*.yaml')) for d in yaml.safe_load_all(open(f))]))";
    let read = Command::new("python3").args(["-c", script, folder]).output().unwrap();
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    serde_json::from_slice(&read.stdout).unwrap()
}

fn strings(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect()
}

fn help(program: &str) -> String {
    let role = program.strip_prefix("deployctl-").unwrap();
    let done = Command::new(env!("CARGO_BIN_EXE_deployctl")).args([role, "--help"]).output();
    String::from_utf8(done.unwrap().stdout).unwrap()
}

#[test]
fn every_container_starts_a_program_with_flags_that_it_takes() {
    let mut started = vec![];
    for document in documents() {
        assert!(document["apiVersion"].is_string() && document["metadata"]["name"].is_string());
        let Some(containers) = document["spec"]["template"]["spec"]["containers"].as_array() else {
            continue;
        };
        for container in containers {
            let program = strings(&container["command"])[0].to_owned();
            let help = help(&program);
            for argument in strings(&container["args"]) {
                let flag = argument.split('=').next().unwrap();
                let known = help.split(|c: char| !c.is_alphanumeric() && c != '-');
                let mut known = known.filter(|word| word.starts_with("--"));
                assert!(
                    flag.starts_with('/') || known.any(|word| word == flag),
                    "{program} {flag}"
                );
            }
            started.push(program);
        }
    }
    assert_eq!(started, ["deployctl-coordinator", "deployctl-region", "deployctl-worker"]);
}

#[test]
fn each_pod_of_a_region_is_one_of_the_processes_that_all_know() {
    let all = documents();
    let region = all.iter().find(|document| document["kind"] == "StatefulSet").unwrap();
    let name = region["metadata"]["name"].as_str().unwrap();
    let container = &region["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["env"][0]["name"], "POD");
    let arguments = strings(&container["args"]);
    let said = |flag: &str| arguments.iter().find_map(|word| word.strip_prefix(flag)).unwrap();
    let pods = (0..region["spec"]["replicas"].as_u64().unwrap()).map(|n| format!("{name}-{n}"));
    let pods: Vec<String> = pods.collect();
    let urls = pods.iter().map(|pod| said("--url=").replace("$(POD)", pod));
    assert_eq!(said("--processes="), urls.collect::<Vec<_>>().join(","));
    for pod in &pods {
        let service = all.iter().find(|d| d["kind"] == "Service" && d["metadata"]["name"] == **pod);
        let selector = &service.unwrap()["spec"]["selector"];
        assert_eq!(selector["statefulset.kubernetes.io/pod-name"], **pod);
    }
}

#[test]
fn the_coordinators_file_is_one_that_it_reads() {
    let all = documents();
    let text = all.iter().find_map(|document| document["data"]["coordinator.toml"].as_str());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("coordinator.toml");
    std::fs::write(&file, text.unwrap()).unwrap();
    let flags = Flags { config: Some(file), ..Flags::default() };
    let config = load(&flags).unwrap();
    assert_eq!(config.names, ["deploy.example.com", "coordinator"]);
    assert!(config.regions.contains_key(&"eu".parse().unwrap()));
}

#[test]
fn what_scales_workers_is_a_number_of_the_queue() {
    let all = documents();
    let scaled = all.iter().find(|document| document["kind"] == "ScaledObject").unwrap();
    let trigger = &scaled["spec"]["triggers"][0]["metadata"];
    assert!(trigger["url"].as_str().unwrap().ends_with("/v1/queue/scale"));
    let numbers: Value = serde_json::from_str(include_str!("../../docs/cli.schema.json")).unwrap();
    let known = numbers.to_string().contains(&format!("{}:", trigger["valueLocation"]));
    assert!(known, "{trigger}");
}
