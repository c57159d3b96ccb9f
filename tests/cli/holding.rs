//! `deployctl hold`, `pin` and `unpin`, and where the other commands speak of them.

use serde_json::{Value, json};

use crate::support::{Coordinator, Person};

fn made(host: Option<&str>, release: Option<&str>) -> Value {
    let at = release.map(|release| json!({"release": release, "artifact": "0".repeat(64)}));
    json!({"hold": "h3", "app": "web", "env": "prod", "host": host, "region": null, "at": at,
        "reason": "INC-1", "actor": "ann", "from": "2026-11-21T00:00:00.000Z",
        "until": "2096-11-22T00:00:00.000Z", "ended_at": null, "ended_by": null})
}

#[test]
fn an_app_or_a_host_is_held_and_released_by_number() {
    let coordinator = Coordinator::start();
    coordinator.gives("POST /v1/holds", &made(None, None));
    let person = Person::of(&coordinator);
    let done = person.ends(&["hold", "start", "--for", "4h", "-m", "INC-1"], 0);
    assert!(done.stdout.starts_with("h3\tweb\tprod\t*\t\theld\t"), "{}", done.stdout);
    person.ends(&["hold", "start", "-A", "--host", "web-7", "--for", "2h", "-m", "x"], 0);
    let sent = coordinator.requests_of("POST /v1/holds");
    assert_eq!(
        sent[0].body,
        json!({"app": "web", "env": null, "reason": "INC-1", "lasts_s": 14_400})
    );
    assert_eq!(
        sent[1].body,
        json!({"app": null, "env": null, "host": "web-7", "reason": "x", "lasts_s": 7200})
    );
    coordinator.gives("POST /v1/holds/h3/end", &made(None, None));
    person.ends(&["hold", "end", "h3"], 0);
    person.ends(&["hold", "end", "web-7"], 2);
    person.ends(&["hold", "start", "--for", "4h"], 2);
}

#[test]
fn a_host_or_a_region_is_pinned_and_unpinned_by_name() {
    let coordinator = Coordinator::start();
    coordinator.gives("POST /v1/holds", &made(Some("web-7"), Some("r411")));
    let person = Person::of(&coordinator);
    let done = person.ends(&["pin", "web-7", "r411", "--for", "2h", "-m", "INC-1"], 0);
    assert!(done.stdout.contains("\tweb-7\tr411\tpinned\t"), "{}", done.stdout);
    person.ends(&["pin", "--region", "eu", "@", "-e", "prod", "--for", "1d", "-m", "x"], 0);
    let sent = coordinator.requests_of("POST /v1/holds");
    assert_eq!(
        sent[0].body,
        json!({"app": "web", "env": null, "host": "web-7", "release": "r411", "reason": "INC-1",
            "lasts_s": 7200})
    );
    assert_eq!(
        sent[1].body,
        json!({"app": "web", "env": "prod", "region": "eu", "release": "@", "reason": "x",
            "lasts_s": 86_400})
    );
    for wrong in [
        &["pin", "r411", "--for", "2h", "-m", "x"][..],
        &["pin", "web-7", "r411", "--region", "eu", "--for", "2h", "-m", "x"],
        &["pin", "web-7", "r411", "-m", "x"],
        &["unpin"],
    ] {
        person.ends(wrong, 2);
    }
    coordinator.gives("GET /v1/holds", &json!({"holds": [made(Some("web-7"), Some("r411"))]}));
    coordinator.gives("POST /v1/holds/h3/end", &made(Some("web-7"), Some("r411")));
    let done = person.ends(&["unpin", "web-7"], 0);
    assert!(done.stdout.starts_with("h3\t"), "{}", done.stdout);
    assert_eq!(coordinator.requests_of("POST /v1/holds/h3/end").len(), 1);
    person.ends(&["unpin", "web-8"], 3);
    person.ends(&["hold", "list", "--exit-code"], 20);
    coordinator.gives("GET /v1/holds", &json!({"holds": []}));
    assert_eq!(person.ends(&["hold", "list", "--exit-code"], 0).stdout, "");
}
