//! `deployctl doctor`: what it finds, and that nothing can hang it.

use serde_json::{Value, json};

use crate::support::{Coordinator, Done, Person, Reply};

/// A time that lies so many seconds back.
fn ago(seconds: u64) -> String {
    let now = deployctl::host::clock::now();
    (now - std::time::Duration::from_secs(seconds)).to_string()
}

fn version() -> Value {
    json!({"version": env!("CARGO_PKG_VERSION"), "api": "v1", "now": ago(0), "name": "ann",
        "role": "deployer"})
}

/// A coordinator with which all is well.
fn healthy() -> Coordinator {
    let coordinator = Coordinator::start();
    let region = json!({"region": "eu", "blobs": "", "seen_at": ago(1), "hosts": 4,
        "unreachable": 0, "artifacts": 1, "owed": 0, "goals_revision": 1});
    let worker = json!({"worker": "w1", "machine": "m", "slots": 2, "running": 1,
        "seen_at": ago(1)});
    coordinator.gives("GET /v1/version", &version());
    coordinator.gives("GET /v1/regions", &json!({"regions": [region]}));
    coordinator.gives("GET /v1/goal-stores", &json!({"global": null, "regions": []}));
    coordinator.gives("GET /v1/workers", &json!({"workers": [worker]}));
    coordinator.gives("GET /v1/builds", &json!({"builds": []}));
    coordinator
}

/// The verdict and the words of a check.
fn check(done: &Done, name: &str) -> (String, String) {
    let json = done.json();
    let checks = json["checks"].as_array().unwrap();
    let found = checks.iter().find(|check| check["check"] == name);
    let found = found.unwrap_or_else(|| panic!("no {name}: {json}"));
    (found["verdict"].as_str().unwrap().into(), found["says"].as_str().unwrap().into())
}

#[test]
fn a_healthy_place_has_only_good_checks_of_the_service() {
    let coordinator = healthy();
    let person = Person::of(&coordinator);
    let done = person.ends(&["doctor", "-o", "json"], 0);
    for name in [
        "config",
        "server",
        "token",
        "clock",
        "stores",
        "collector",
        "goals",
        "regions",
        "workers",
        "queue",
    ] {
        assert_eq!(check(&done, name).0, "ok", "{done:?}");
    }
    assert!(check(&done, "token").1.contains("ann, role deployer"));
    assert!(check(&done, "workers").1.contains("1 worker, 1 of 2 slots busy"));
    let plain = person.ends(&["doctor"], 0);
    assert!(plain.stdout.contains("server\tok\t"), "{}", plain.stdout);
}

#[test]
fn each_fault_of_the_service_fails_its_own_check_with_code_1() {
    let coordinator = healthy();
    let mut late = version();
    late["now"] = ago(94).into();
    coordinator.gives("GET /v1/version", &late);
    let silent = json!({"regions": [{"region": "eu", "blobs": "", "seen_at": ago(900), "hosts": 4,
        "unreachable": 0, "artifacts": 1, "owed": 0, "goals_revision": 1,
        "store_trouble": "s3://b: there is no such bucket"}],
        "main_store_not_owned": "the main store is another's", "main_store_anothers": true});
    coordinator.gives("GET /v1/regions", &silent);
    coordinator.gives("GET /v1/workers", &json!({"workers": []}));
    // Nobody else deletes what is needed: worth a look. Somebody else does: broken.
    let done = Person::of(&coordinator).ends(&["doctor", "-o", "json"], 1);
    let collector = ("failed".into(), "the main store is another's".into());
    assert_eq!(check(&done, "collector"), collector);
    // What the database's role may not ask is granted, and not the store adopted.
    let hinted = |done: &Done| {
        let checks = done.json()["checks"].clone();
        let all = checks.as_array().unwrap().iter();
        let mut of = all.filter(|check| check["check"] == "collector");
        of.next().unwrap()["hint"].as_str().unwrap().to_owned()
    };
    assert_eq!(hinted(&done), "deployctl admin gc --adopt-store --dry-run");
    let mut unsaid = silent.clone();
    unsaid["main_store_grant"] = "GRANT EXECUTE ON FUNCTION f() TO \"r\"".into();
    coordinator.gives("GET /v1/regions", &unsaid);
    let done = Person::of(&coordinator).ends(&["doctor", "-o", "json"], 1);
    assert_eq!(hinted(&done), "GRANT EXECUTE ON FUNCTION f() TO \"r\"");
    let mut nobodys = silent.clone();
    nobodys["main_store_anothers"] = false.into();
    coordinator.gives("GET /v1/regions", &nobodys);
    let done = Person::of(&coordinator).ends(&["doctor", "-o", "json"], 1);
    assert!(check(&done, "clock").1.contains("1m ahead of"), "{done:?}");
    let stores = ("failed".into(), "eu: s3://b: there is no such bucket".into());
    assert_eq!(check(&done, "stores"), stores);
    let collector = ("warning".into(), "the main store is another's".into());
    assert_eq!(check(&done, "collector"), collector);
    assert_eq!(check(&done, "regions"), ("failed".into(), "1 of 1 region silent: eu".into()));
    assert_eq!(check(&done, "workers").0, "failed");
    assert_eq!(done.json()["exit_code"], 1);
}

#[test]
fn a_token_that_is_not_known_is_told_from_a_server_that_is_away() {
    let coordinator = Coordinator::start();
    coordinator.refuses("GET /v1/version", 401, "unauthenticated");
    let done = Person::of(&coordinator).ends(&["doctor", "-o", "json"], 1);
    assert_eq!((check(&done, "server").0, check(&done, "token").0), ("ok".into(), "failed".into()));
    assert_eq!(check(&done, "regions").0, "skipped");
    let nowhere = Person::nowhere().ends(&["doctor", "-o", "json"], 1);
    assert_eq!(check(&nowhere, "server").0, "failed");
}

#[test]
fn a_server_that_hangs_fails_in_bounded_time() {
    let coordinator = Coordinator::start();
    coordinator.on("GET /v1/version", [Reply::Silence]);
    let person = Person::of(&coordinator);
    // The bound is the flag's; without one this test would never end.
    let done = person.ends(&["doctor", "--request-timeout", "200ms", "-o", "json"], 1);
    assert_eq!(
        (check(&done, "server").0, check(&done, "queue").0),
        ("failed".into(), "skipped".into())
    );
}

#[test]
fn a_coordinator_without_its_database_is_not_well() {
    let coordinator = healthy();
    for path in ["/v1/regions", "/v1/goal-stores", "/v1/workers", "/v1/builds"] {
        coordinator.refuses(&format!("GET {path}"), 503, "unavailable");
    }
    let done = Person::of(&coordinator).ends(&["doctor", "-o", "json"], 1);
    let (verdict, says) = check(&done, "database");
    assert_eq!(verdict, "failed");
    assert!(says.contains("can't read it: it is unavailable"), "{says}");
    assert_eq!(check(&done, "regions").0, "skipped");
}

#[test]
fn the_shell_and_the_repository_are_looked_at() {
    let coordinator = healthy();
    let mut person = Person::of(&coordinator);
    person.set("SHELL", "/bin/bash");
    let done = person.ends(&["doctor", "-o", "json"], 0);
    assert_eq!(check(&done, "git").0, "warning", "an empty .git is no repository: {done:?}");
    let system = std::path::Path::new("/usr/share/bash-completion/completions/deployctl").exists();
    assert_eq!(check(&done, "completion").0, if system { "ok" } else { "warning" });
    std::fs::write(person.folder.path().join(".bashrc"), "source <(COMPLETE=bash deployctl)\n")
        .unwrap();
    let done = person.ends(&["doctor", "-o", "json"], 0);
    assert_eq!(check(&done, "completion").0, "ok");
}

#[test]
fn a_clone_without_a_remote_is_not_told_to_push() {
    let coordinator = healthy();
    let person = Person::of(&coordinator);
    let root = person.work();
    let git = |args: &[&str]| {
        let who = ["-c", "user.name=ann", "-c", "user.email=ann@example.org"];
        let mut git = std::process::Command::new("git");
        let git = git.args(who).args(args).current_dir(&root);
        assert!(git.output().unwrap().status.success(), "git {args:?}");
    };
    git(&["init", "-q", "-b", "main"]);
    git(&["commit", "-q", "--allow-empty", "-m", "First"]);
    let hint = |done: &Done| {
        let checks = done.json()["checks"].as_array().unwrap().clone();
        let git = checks.into_iter().find(|check| check["check"] == "git").unwrap();
        git["hint"].as_str().unwrap_or_default().to_owned()
    };
    // Of an app that nobody knows, the URL is not known.
    let done = person.ends(&["doctor", "-o", "json"], 0);
    assert_eq!(hint(&done), "git remote add origin URL");
    coordinator.gives("GET /v1/apps/web", &crate::samples::app("ssh://git.example/web.git"));
    let done = person.ends(&["doctor", "-o", "json"], 0);
    assert_eq!(check(&done, "git").0, "warning");
    assert_eq!(hint(&done), "git remote add origin ssh://git.example/web.git");
    let here = format!("file://{}", root.display());
    coordinator.gives("GET /v1/apps/web", &crate::samples::app(&here));
    let done = person.ends(&["doctor", "-o", "json"], 0);
    assert_eq!(check(&done, "git").0, "ok", "{done:?}");
}
