//! What every goal store must do, on each engine, and what etcd must survive.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

#[path = "goals/etcd.rs"]
mod etcd;
#[path = "flow/ports.rs"]
mod ports;

use std::time::Duration;

use deployctl::model::goal::GoalVersion;
use deployctl::store::db::Db;
use deployctl::store::goals::{GoalError, Goals, Put};
use deployctl::wire::seal::Sealed;
use etcd::Etcd;
use serde_json::json;

/// Long enough for a loaded machine; a test that waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(60);

fn version(generation: u64, step: u32) -> GoalVersion {
    GoalVersion { epoch: 1, generation, step }
}

fn sealed(text: &str) -> Sealed {
    Sealed { payload: text.into(), signature: "00".into() }
}

async fn stored(goals: &Goals, key: &str, version: GoalVersion, text: &str) -> u64 {
    match goals.put(key, version, &sealed(text)).await.unwrap() {
        Put::Stored(revision) => revision,
        Put::Stale(stands) => panic!("{key} {version:?} was refused: {stands:?} stands"),
    }
}

async fn keys(goals: &Goals, since: u64) -> Vec<String> {
    goals.after(since).await.unwrap().into_iter().map(|row| row.key).collect()
}

/// Waits for the next hint.
async fn hint(changes: &mut tokio::sync::watch::Receiver<u64>) {
    tokio::time::timeout(PATIENCE, changes.changed()).await.expect("no hint came").unwrap();
}

/// What every engine must do.
async fn conforms(goals: &Goals) {
    let mut changes = goals.watch();
    assert_eq!(goals.newest().await.unwrap(), GoalVersion::default());
    let first = stored(goals, "a/prod", version(1, 1), "1").await;
    hint(&mut changes).await;
    let again = goals.put("a/prod", version(1, 1), &sealed("1")).await.unwrap();
    assert_eq!(again, Put::Stored(first), "a repeated put is no news");
    let other = goals.put("a/prod", version(1, 1), &sealed("x")).await.unwrap();
    assert_eq!(other, Put::Stale(version(1, 1)));
    stored(goals, "b/prod", version(2, 1), "2").await;
    let last = stored(goals, "a/prod", version(2, 2), "3").await;
    assert!(last > first);
    let late = goals.put("a/prod", version(1, 9), &sealed("4")).await.unwrap();
    assert_eq!(late, Put::Stale(version(2, 2)));
    assert_eq!(keys(goals, first).await, ["b/prod", "a/prod"]);
    let rows = goals.after(first).await.unwrap();
    assert_eq!((&rows[1].sealed, rows[1].version), (&sealed("3"), version(2, 2)));
    assert!(goals.after(last).await.unwrap().is_empty());
    assert_eq!(keys(goals, last + 1_000).await.len(), 2, "a revision that was never reached");
    assert_eq!(goals.newest().await.unwrap(), version(2, 2));

    // Of writers that meet, the newest stands in the end, whoever came first.
    let writers = (1..=8_u32).map(|step| {
        let goals = goals.clone();
        tokio::spawn(async move { goals.put("c/prod", version(3, step), &sealed("c")).await })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap().unwrap();
    }
    let rows = goals.after(last).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.version).collect::<Vec<_>>(), [version(3, 8)]);
}

#[tokio::test]
async fn the_embedded_store_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let db = Db::open(&folder.path().join("db.sqlite")).unwrap();
    conforms(&Goals::embedded(db)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_conforms_with_one_member_and_with_three() {
    for size in [1, 3] {
        let etcd = Etcd::start(size).await;
        conforms(&Goals::etcd(&etcd.url("/one")).unwrap()).await;
        // Another prefix is another store, also one that begins alike.
        for prefix in ["", "/on", "/one/x"] {
            assert!(keys(&Goals::etcd(&etcd.url(prefix)).unwrap(), 0).await.is_empty());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_keys_than_a_page_come_as_of_one_revision() {
    let etcd = Etcd::start(1).await;
    let goals = Goals::etcd(&etcd.url("/many")).unwrap();
    let mut first = 0;
    for n in 0..450_u64 {
        let revision = stored(&goals, &format!("app-{n:03}/prod"), version(n + 1, 0), "x").await;
        first = if n == 0 { revision } else { first };
    }
    assert_eq!(goals.after(0).await.unwrap().len(), 450);
    let rows = goals.after(first).await.unwrap();
    assert_eq!((rows.len(), rows[448].version.generation), (449, 450));
    assert!(rows.is_sorted_by_key(|row| row.revision));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_under_a_watch_loses_nothing() {
    let mut etcd = Etcd::start(1).await;
    let goals = Goals::etcd(&etcd.url("")).unwrap();
    let mut changes = goals.watch();
    let seen = stored(&goals, "a/prod", version(1, 0), "1").await;
    hint(&mut changes).await;
    etcd.kill(0);
    etcd.start_member(0);
    // While the watch is down: puts by somebody else, and their history is thrown away.
    let others = Goals::etcd(&etcd.url("")).unwrap();
    stored(&others, "a/prod", version(2, 0), "2").await;
    stored(&others, "b/prod", version(3, 0), "3").await;
    let last = stored(&others, "a/prod", version(4, 0), "4").await;
    etcd.post("/v3/kv/compaction", json!({ "revision": last.to_string(), "physical": true })).await;
    while *changes.borrow_and_update() < last {
        hint(&mut changes).await;
    }
    assert_eq!(keys(&goals, seen).await, ["b/prod", "a/prod"]);
    stored(&others, "c/prod", version(5, 0), "5").await;
    while *changes.borrow_and_update() <= last {
        hint(&mut changes).await;
    }
    assert_eq!(keys(&goals, last).await, ["c/prod"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn puts_go_on_when_the_leader_of_three_is_killed() {
    let mut etcd = Etcd::start(3).await;
    let goals = Goals::etcd(&etcd.url("")).unwrap();
    let (acknowledged, mut progress) = tokio::sync::watch::channel(0_u64);
    let writer = tokio::spawn({
        let goals = goals.clone();
        async move {
            for n in 1..=300_u64 {
                let key = format!("app-{}/prod", n % 7);
                let put = goals.put(&key, version(n, 0), &sealed(&n.to_string())).await.unwrap();
                assert!(matches!(put, Put::Stored(_)), "{n}: {put:?}");
                acknowledged.send_replace(n);
            }
        }
    });
    let mut at_least = async |n: u64| {
        let reached = progress.wait_for(|done| *done >= n);
        tokio::time::timeout(PATIENCE, reached).await.expect("puts go on").unwrap();
    };
    for round in [60, 150] {
        at_least(round).await;
        let leader = etcd.leader().await;
        etcd.kill(leader);
        at_least(round + 60).await;
        etcd.start_member(leader);
    }
    at_least(300).await;
    writer.await.unwrap();
    // Every acknowledged put stands, or a later one of the same key.
    let rows = goals.after(0).await.unwrap();
    let newest: Vec<u64> = rows.iter().map(|row| row.version.generation).collect();
    assert_eq!(newest, [294, 295, 296, 297, 298, 299, 300]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_signs_in_again_when_the_token_is_gone_and_a_stranger_is_told() {
    let mut etcd = Etcd::start(1).await;
    let password = etcd.path("password");
    std::fs::write(&password, "s3cret\n").unwrap();
    etcd.post("/v3/auth/user/add", json!({ "name": "root", "password": "r00t" })).await;
    etcd.post("/v3/auth/role/add", json!({ "name": "root" })).await;
    etcd.post("/v3/auth/user/grant", json!({ "user": "root", "role": "root" })).await;
    etcd.post("/v3/auth/user/add", json!({ "name": "goals", "password": "s3cret" })).await;
    etcd.post("/v3/auth/role/add", json!({ "name": "goals" })).await;
    // own/ up to own0, in base64.
    let perm = json!({ "permType": "READWRITE", "key": "b3duLw==", "range_end": "b3duMA==" });
    etcd.post("/v3/auth/role/grant", json!({ "name": "goals", "perm": perm })).await;
    etcd.post("/v3/auth/user/grant", json!({ "user": "goals", "role": "goals" })).await;
    etcd.post("/v3/auth/enable", json!({})).await;

    let members = etcd.url("").replace("etcd://", "");
    let open = |user: &str, prefix: &str| {
        let file = password.display();
        Goals::etcd(&format!("etcd://{user}@{members}/{prefix}?password_file={file}")).unwrap()
    };
    let goals = open("goals", "own");
    conforms(&goals).await;
    // Tokens of etcd's simple kind do not outlive the process that gave them.
    etcd.kill(0);
    etcd.start_member(0);
    stored(&goals, "d/prod", version(9, 0), "d").await;

    let refused = |error: GoalError| match error {
        GoalError::Refused { why, .. } => why,
        other => panic!("{other}"),
    };
    let why = refused(open("goals", "theirs").after(0).await.unwrap_err());
    assert!(why.contains("permission denied; grant the user readwrite"), "{why}");
    let why = refused(open("nobody", "own").after(0).await.unwrap_err());
    assert!(why.contains("user \"nobody\"") && why.contains("authentication failed"), "{why}");
    let why = refused(Goals::etcd(&etcd.url("/own")).unwrap().after(0).await.unwrap_err());
    assert!(why.contains("user name is empty"), "{why}");
    std::fs::write(&password, "changed").unwrap();
    stored(&goals, "d/prod", version(10, 0), "d").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_certificates_are_shown_and_a_private_authority_is_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let ca = rcgen::CertifiedIssuer::self_signed(params, ca_key).unwrap();
    std::fs::write(at("ca.pem"), ca.pem()).unwrap();
    let names = [("server", vec!["127.0.0.1".to_owned(), "localhost".into()]), ("client", vec![])];
    for (name, hosts) in names {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(hosts).unwrap();
        // etcd's gateway refuses certificates with a common name.
        params.distinguished_name = rcgen::DistinguishedName::new();
        let cert = params.signed_by(&key, &ca).unwrap();
        std::fs::write(at(&format!("{name}.pem")), cert.pem()).unwrap();
        std::fs::write(at(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }
    let identity = [std::fs::read(at("client.key")), std::fs::read(at("client.pem"))];
    let identity = identity.map(Result::unwrap).concat();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(ca.pem().as_bytes()).unwrap()])
        .identity(reqwest::Identity::from_pem(&identity).unwrap())
        .build()
        .unwrap();
    let extra = ["--client-cert-auth", "--trusted-ca-file", &at("ca.pem")];
    let own = ["--cert-file", &at("server.pem"), "--key-file", &at("server.key")];
    let extra = extra.into_iter().chain(own).map(str::to_owned).collect();
    let etcd = Etcd::start_tls(extra, http).await;

    let files = format!("?ca={}&cert={}&key={}", at("ca.pem"), at("client.pem"), at("client.key"));
    conforms(&Goals::etcd(&etcd.url(&files)).unwrap()).await;
    let missing = Goals::etcd(&etcd.url("?ca=/nowhere.pem")).err().unwrap();
    assert!(missing.to_string().contains("/nowhere.pem: No such file"), "{missing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_holds_no_goal_is_passed_over_and_replaced() {
    let etcd = Etcd::start(1).await;
    let goals = Goals::etcd(&etcd.url("")).unwrap();
    // deployctl/goals/a/prod
    let key = "ZGVwbG95Y3RsL2dvYWxzL2EvcHJvZA==";
    etcd.post("/v3/kv/put", json!({ "key": key, "value": "e30=" })).await;
    assert!(keys(&goals, 0).await.is_empty());
    stored(&goals, "a/prod", version(1, 0), "1").await;
    assert_eq!(keys(&goals, 0).await, ["a/prod"]);
    // What somebody deletes is simply not there; whoever decided it puts it again.
    etcd.post("/v3/kv/deleterange", json!({ "key": key })).await;
    assert!(keys(&goals, 0).await.is_empty());
    stored(&goals, "a/prod", version(1, 0), "1").await;
}

#[tokio::test]
async fn an_etcd_that_is_away_is_said_to_be() {
    let error = Goals::etcd("etcd://127.0.0.1:1").unwrap().after(0).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, GoalError::Unreachable { .. }), "{text}");
    assert!(text.contains("etcd at http://127.0.0.1:1 can't be reached"), "{text}");
    assert!(text.contains("refused"), "{text}");
}
