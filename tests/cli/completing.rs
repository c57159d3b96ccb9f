//! TAB: names from the coordinator, and silence when there are none to be had.

use serde_json::json;

use crate::support::{Coordinator, Person, Reply, program};

/// A person for whom a loaded machine is no reason for silence.
fn patient(coordinator: &Coordinator) -> Person {
    let mut person = Person::of(coordinator);
    person.set("DEPLOYCTL_COMPLETION_MS", "10000");
    person
}

fn complete(person: &Person, words: &[&str]) -> crate::support::Done {
    let mut all = vec!["--", "deployctl"];
    all.extend(words);
    let index = (words.len()).to_string();
    let mut command = person.command(&all);
    command.env("COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", index);
    command.env("_CLAP_COMPLETE_COMP_TYPE", "9").env("_CLAP_COMPLETE_SPACE", "true");
    crate::support::Done::from(command.output().unwrap())
}

#[test]
fn commands_and_flags_need_no_coordinator() {
    let person = Person::nowhere();
    let done = complete(&person, &["dep"]);
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
    assert!(done.stdout.lines().any(|word| word == "deploy"), "{done:?}");
    assert!(complete(&person, &["deploy", "--wh"]).stdout.contains("--when-ready"));
    assert!(complete(&person, &["deploy", "--plan", "all"]).stdout.contains("all-at-once"));
}

#[test]
fn a_plan_is_a_name_or_a_file() {
    let person = Person::nowhere();
    let folder = person.work().join("plans");
    std::fs::create_dir(&folder).unwrap();
    for name in ["slow.toml", "notes.txt"] {
        std::fs::write(folder.join(name), "").unwrap();
    }
    let words = |typed: &str| -> Vec<String> {
        let done = complete(&person, &["deploy", "--plan", typed]);
        done.stdout.lines().map(str::to_owned).collect()
    };
    assert_eq!(words(""), ["fast", "standard", "careful", "all-at-once", "plans/"]);
    assert_eq!(words("plans/"), ["plans/slow.toml"]);
    assert_eq!(words("x"), [""; 0]);
}

#[test]
fn hosts_that_go_first_are_offered_one_after_the_other() {
    let coordinator = Coordinator::start();
    coordinator.gives("GET /v1/complete", &json!({"names": [["web-1", "eu"], ["web-2", "us"]]}));
    let person = patient(&coordinator);
    let words = |typed: &str| -> Vec<String> {
        let done = complete(&person, &["-a", "shop", "deploy", "--hosts", typed]);
        done.stdout.lines().map(str::to_owned).collect()
    };
    assert_eq!(words("we"), ["web-1", "web-2"]);
    assert_eq!(words("web-1,"), ["web-1,web-2"]);
    assert_eq!(words("db"), [""; 0]);
}

#[test]
fn names_come_from_the_coordinator_and_follow_the_flags_before() {
    let coordinator = Coordinator::start();
    let names = json!({"names": [["r411", "First"], ["r412", "Second"], ["x", "of another"]]});
    coordinator.gives("GET /v1/complete", &names);
    let person = patient(&coordinator);
    let done = complete(&person, &["-a", "shop", "watch", "r4"]);
    let words: Vec<&str> = done.stdout.lines().collect();
    assert_eq!(words, ["r411", "r412"], "{done:?}");
    let asked = &coordinator.requests()[0].line;
    for part in ["kind=release", "prefix=r4", "app=shop"] {
        assert!(asked.contains(part), "{asked}");
    }
}

#[test]
fn a_coordinator_that_says_nothing_is_left_alone() {
    let coordinator = Coordinator::start();
    let person = Person::of(&coordinator);
    for reply in [Reply::Silence, Reply::Hangup, Reply::Json(500, json!("x"))] {
        coordinator.on("GET /v1/complete", [reply]);
        let done = complete(&person, &["status", "w"]);
        assert_eq!((done.code, done.stdout.as_str(), done.stderr.as_str()), (0, "", ""));
    }
    let nowhere = complete(&Person::nowhere(), &["status", "w"]);
    assert_eq!((nowhere.code, nowhere.stdout.as_str(), nowhere.stderr.as_str()), (0, "", ""));
}

#[test]
fn the_lines_for_a_shell_need_no_network() {
    let coordinator = Coordinator::start();
    let person = Person::of(&coordinator);
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            person.ends(&["completion", shell], 0).stdout.contains(&format!("COMPLETE={shell}"))
        );
        let mut command = person.command(&[]);
        let done = crate::support::Done::from(command.env("COMPLETE", shell).output().unwrap());
        assert!(done.code == 0 && done.stdout.contains("deployctl"), "{done:?}");
    }
    assert!(coordinator.requests().is_empty());
}

/// Waits until the cache of `person` holds a whole list of `kind`.
fn remembers(person: &Person, kind: &str) {
    let folder = person.folder.path().join(".cache/deployctl");
    crate::support::eventually("names are remembered", || {
        let files = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let texts = files.filter_map(|file| std::fs::read_to_string(file.path()).ok());
        texts.into_iter().any(|text| text.contains(&format!("\"{kind}")))
    });
}

#[test]
fn names_are_remembered_and_offered_when_the_coordinator_is_away() {
    let coordinator = Coordinator::start();
    let names = json!({"names": [["r411", "succeeded First"], ["r412", "paused Second"]]});
    coordinator.gives("GET /v1/complete", &names);
    let person = Person::of(&coordinator);
    person.ends(&["plumbing", "complete", "release"], 0);
    coordinator.on("GET /v1/complete", [Reply::Silence]);
    let offered = |words: &[&str]| complete(&person, words).stdout;
    assert_eq!(offered(&["watch", "r"]), "r411\nr412");
    assert_eq!(offered(&["rollback", ""]).lines().next(), Some("r411"), "only known-good ones");
    assert_eq!(offered(&["resume", "r"]), "r412", "only what is paused");
    assert_eq!(coordinator.requests().len(), 1, "a list that is fresh is not asked for");
}

#[test]
fn the_first_tab_asks_and_the_next_one_knows() {
    let coordinator = Coordinator::start();
    coordinator.gives("GET /v1/complete", &json!({"names": [["eu", ""], ["us", ""]]}));
    let person = patient(&coordinator);
    assert_eq!(complete(&person, &["hosts", "--region", "e"]).stdout, "eu");
    remembers(&person, "region");
    coordinator.on("GET /v1/complete", [Reply::Silence]);
    assert_eq!(complete(&person, &["hosts", "--region", ""]).stdout, "eu\nus");
}

#[test]
fn commits_are_offered_with_their_subjects() {
    let coordinator = Coordinator::start();
    let names = json!({"names": [["b7", "3f2a91c04d Fix retry jitter"]]});
    coordinator.gives("GET /v1/complete", &names);
    let person = patient(&coordinator);
    let mut command = person.command(&["--", "deployctl", "deploy", ""]);
    command.env("COMPLETE", "fish");
    let done = crate::support::Done::from(command.output().unwrap());
    let lines: Vec<&str> = done.stdout.lines().collect();
    assert_eq!(lines[0], "HEAD\tthe commit that is checked out", "{done:?}");
    assert_eq!(lines[1], "3f2a91c04d\tb7 Fix retry jitter", "{done:?}");
}

/// What a real shell offers for `line`; the completion comes from `deployctl completion`.
fn in_shell(person: &Person, shell: &str, line: &str) -> String {
    let bin = program().parent().unwrap().display();
    let words: Vec<&str> = line.split(' ').collect();
    let script = match shell {
        "bash" => format!(
            "source <(deployctl completion bash); COMP_WORDS=({line}''); COMP_CWORD={}; \
             COMP_TYPE=9; COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}; \
             f=$(complete -p deployctl | sed 's/.*-F \\([^ ]*\\).*/\\1/'); \
             $f deployctl '' ''; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            words.len() - 1
        ),
        "fish" => format!("deployctl completion fish | source; complete -C '{line}'"),
        _ => format!(
            "zmodload zsh/zpty; zpty z zsh -f -i; \
             zpty -w z 'PS1=; TERM=dumb; autoload -U compinit; compinit -u -D; source <(deployctl completion zsh); \
             zstyle \":completion:*\" list-prompt \"\"; LISTMAX=1000; echo REA''DY'; \
             zpty -r -m z out '*READY*'; zpty -w -n z '{line}'$'\\t\\t'; \
             for i in {{1..100}}; do zpty -r -t z part && print -r -- \"$part\"; sleep 0.05; \
             [[ $i -gt 20 && -z $part ]] && break; part=; done; zpty -d z"
        ),
    };
    let mut command = std::process::Command::new("timeout");
    let args: &[&str] = match shell {
        "bash" => &["30", "bash", "--norc", "--noprofile", "-c"],
        "fish" => &["30", "fish", "--no-config", "-c"],
        _ => &["30", "zsh", "-f", "-c"],
    };
    let plain = person.command(&[]);
    command.args(args).arg(&script).current_dir(person.work()).env_clear();
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("PATH", format!("{bin}:{}", std::env::var("PATH").unwrap()));
    let done = crate::support::Done::from(command.output().unwrap());
    assert_eq!(done.stderr, "", "{shell}: {done:?}");
    done.stdout
}

#[test]
fn real_shells_offer_commands_flags_and_names_with_the_coordinator_gone() {
    let coordinator = Coordinator::start();
    let person = Person::of(&coordinator);
    let names = json!({"names": [["r411", "succeeded First"], ["r412", "succeeded Second"]]});
    coordinator.gives("GET /v1/complete", &names);
    person.ends(&["plumbing", "complete", "release"], 0);
    coordinator.on("GET /v1/complete", [Reply::Silence]);
    for shell in ["bash", "zsh", "fish"] {
        let offered = in_shell(&person, shell, "deployctl rollback r4");
        assert!(offered.contains("r411") && offered.contains("r412"), "{shell}: {offered}");
        let offered = in_shell(&person, shell, "deployctl dep");
        assert!(offered.contains("deploy"), "{shell}: {offered}");
        // Nothing is known of apps, and the coordinator says nothing: silence.
        let offered = in_shell(&person, shell, "deployctl apps show zz");
        assert!(!offered.contains("error"), "{shell}: {offered}");
    }
}
