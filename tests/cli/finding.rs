//! Which coordinator, which token, which app: who wins, and what is never sent.

use deployctl::model::rollout::RolloutState;
use serde_json::json;

use crate::samples::status;
use crate::support::{Coordinator, Person};

const TOKEN: &str = "dct_of_the_file";

/// A coordinator's data folder of a person, as its first start leaves it.
fn local(person: &Person, coordinator: &Coordinator) {
    let folder = person.folder.path().join(".local/share/deployctl");
    std::fs::create_dir_all(&folder).unwrap();
    let token = folder.join("admin.token");
    std::fs::write(&token, format!("{TOKEN}\n")).unwrap();
    let client = json!({"server": coordinator.url, "token_file": token});
    std::fs::write(folder.join("client.json"), client.to_string()).unwrap();
}

fn seen_by(coordinator: &Coordinator) -> String {
    coordinator.requests().last().map(|request| request.token.clone()).unwrap_or_default()
}

fn ready() -> Coordinator {
    let coordinator = Coordinator::start();
    coordinator.gives("GET /v1/status", &status(Some(RolloutState::Succeeded), None));
    coordinator
}

#[test]
fn the_coordinator_of_this_machine_is_found_by_itself() {
    let (coordinator, person) = (ready(), Person::nowhere());
    local(&person, &coordinator);
    person.ends(&["status"], 0);
    assert_eq!(seen_by(&coordinator), format!("Bearer {TOKEN}"));
}

#[test]
fn nothing_said_is_code_5_and_names_three_ways() {
    let done = Person::nowhere().ends(&["status"], 5);
    for way in ["deployctl coordinator", "--server URL", "DEPLOYCTL_SERVER", "config.toml"] {
        assert!(done.stderr.contains(way), "{way}: {}", done.stderr);
    }
}

#[test]
fn flags_win_over_variables_over_project_over_user_over_machine() {
    let mut person = Person::nowhere();
    let [machine, user, project, variable, flag] = [(); 5].map(|()| ready());
    local(&person, &machine);
    person.ends(&["status"], 0);
    let config = person.folder.path().join(".config/deployctl");
    std::fs::create_dir_all(&config).unwrap();
    std::fs::write(config.join("token"), TOKEN).unwrap();
    let text = format!("server = {:?}\ntoken_file = {:?}\n", user.url, config.join("token"));
    std::fs::write(config.join("config.toml"), text).unwrap();
    person.ends(&["status"], 0);
    let text = format!("app = \"web\"\nserver = {:?}\n", project.url);
    std::fs::write(person.work().join("deployctl.toml"), text).unwrap();
    let untied = person.ends(&["status"], 4);
    assert!(untied.stderr.contains("no token for"), "{}", untied.stderr);
    person.set("DEPLOYCTL_TOKEN", "dct_given");
    person.ends(&["status"], 0);
    person.set("DEPLOYCTL_SERVER", &variable.url);
    person.ends(&["status"], 0);
    person.ends(&["status", "--server", &flag.url], 0);
    for (coordinator, token) in [
        (&machine, TOKEN),
        (&user, TOKEN),
        (&project, "dct_given"),
        (&variable, "dct_given"),
        (&flag, "dct_given"),
    ] {
        assert_eq!(coordinator.requests().len(), 1, "{}", coordinator.url);
        assert_eq!(seen_by(coordinator), format!("Bearer {token}"));
    }
}

#[test]
fn a_repository_that_names_a_server_gets_no_token_of_the_user() {
    let (mine, theirs, person) = (ready(), ready(), Person::nowhere());
    local(&person, &mine);
    let text = format!("server = {:?}\n", theirs.url);
    std::fs::write(person.work().join("deployctl.toml"), text).unwrap();
    person.ends(&["status"], 4);
    assert!(theirs.requests().is_empty());
}

#[test]
fn a_token_file_that_is_not_there_or_odd_is_code_4() {
    let (coordinator, mut person) = (ready(), Person::nowhere());
    person.set("DEPLOYCTL_SERVER", &coordinator.url);
    let odd = person.work().join("odd");
    std::fs::write(&odd, "two words").unwrap();
    for file in ["/nonexistent", &odd.display().to_string()] {
        let done = person.ends(&["status", "--token-file", file], 4);
        assert!(done.stderr.contains("no token in"), "{}", done.stderr);
    }
    person.set("DEPLOYCTL_SERVER", "localhost:7878");
    person.ends(&["status"], 2);
}

#[test]
fn no_app_is_code_2_and_names_three_ways() {
    let (coordinator, mut person) = (ready(), Person::nowhere());
    person.set("DEPLOYCTL_SERVER", &coordinator.url).set("DEPLOYCTL_TOKEN", "dct_x");
    let done = person.ends(&["history"], 2);
    for way in ["--app NAME", "DEPLOYCTL_APP", "deployctl init"] {
        assert!(done.stderr.contains(way), "{way}: {}", done.stderr);
    }
}

#[test]
fn a_project_file_is_found_upwards_and_a_wrong_key_is_named() {
    let (coordinator, mut person) = (ready(), Person::nowhere());
    person.set("DEPLOYCTL_SERVER", &coordinator.url).set("DEPLOYCTL_TOKEN", "dct_x");
    let file = person.work().join("deployctl.toml");
    std::fs::write(&file, "app = \"web\"\nenv = \"staging\"\n").unwrap();
    std::fs::create_dir(person.work().join("deep")).unwrap();
    coordinator.gives("GET /v1/apps/web/envs/staging/releases", &json!({"releases": []}));
    person.ends(&["history", "-C", "deep"], 0);
    person.ends(&["history", "-C", "nowhere"], 2);
    std::fs::write(&file, "aap = \"web\"\n").unwrap();
    let done = person.ends(&["history"], 2);
    assert!(done.stderr.contains("did you mean \"app\"?"), "{}", done.stderr);
}
